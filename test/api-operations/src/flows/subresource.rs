//! The subresources that several resources have: status and scale.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::Subject;
use crate::client::Patch;
use crate::compare::{contains, content};

impl Subject<'_> {
    pub(super) async fn subresources(&self) {
        let (_, item) = self.templates();
        if self.resource.has("status") {
            let template = format!("{item}/status");
            self.report.note("GET", &template, self.status_get().await);
            self.report.note("PATCH", &template, self.status_patch().await);
            self.report.note("PUT", &template, self.status_put().await);
        }
        if self.resource.has("scale") {
            let template = format!("{item}/scale");
            self.report.note("GET", &template, self.scale_get().await);
            self.report.note("PATCH", &template, self.scale_patch().await);
            self.report.note("PUT", &template, self.scale_put().await);
        }
    }

    fn under(&self, subresource: &str) -> String {
        format!("{}/{subresource}", self.item(0))
    }

    fn sample_status(&self) -> anyhow::Result<Value> {
        let status = self.sample.status.clone().context("the sample has no status")?;
        Ok(json!({"status": status}))
    }

    async fn status_get(&self) -> anyhow::Result<()> {
        let whole = self.read(0).await?;
        let found = self.client.get(&self.under("status")).await?.expect(200)?;
        if !self.sample.settles {
            ensure!(found == whole, "status is {found} of {whole}");
        }
        contains(
            &found,
            &json!({"kind": self.resource.kind, "metadata": {"uid": whole["metadata"]["uid"]}}),
        )?;
        let path = format!("{}/no-such-object/status", self.collection(self.first()));
        self.client.get(&path).await?.refused(404, "NotFound")?;
        self.client.post(&self.under("status"), &whole).await?.refused(405, "MethodNotAllowed")?;
        Ok(())
    }

    /// PATCH of the status changes it and nothing else.
    async fn status_patch(&self) -> anyhow::Result<()> {
        let before = self.read(0).await?;
        let mut patch = self.sample.change.clone();
        json_patch::merge(&mut patch, &self.sample_status()?);
        let path = format!("{}?fieldManager=walk-status", self.under("status"));
        let patched = self.client.patch(&path, Patch::Merge, &patch).await?.expect(200)?;
        contains(&patched, &self.sample_status()?).context("patched")?;
        let after = self.read(0).await?;
        contains(&after, &self.sample_status()?).context("read after the patch")?;
        ensure!(content(&after) == content(&before), "more than the status changed: {}", content(&after));
        ensure!(
            after["metadata"]["generation"] == before["metadata"]["generation"],
            "the generation changed"
        );
        let by_status = after["metadata"]["managedFields"].as_array().is_some_and(|all| {
            all.iter().any(|m| m["manager"] == "walk-status" && m["subresource"] == "status")
        });
        ensure!(by_status, "no managed fields of the status: {}", after["metadata"]["managedFields"]);
        Ok(())
    }

    /// PUT of the status changes it and nothing else; PUT of the object leaves it alone.
    async fn status_put(&self) -> anyhow::Result<()> {
        let original = self.read(0).await?;
        let mut without = original.clone();
        without.as_object_mut().context("object")?.remove("status");
        if self.sample.settles {
            without["metadata"].as_object_mut().context("metadata")?.remove("resourceVersion");
        }
        without["metadata"]["annotations"]["main"] = json!("yes");
        self.client.put(&self.item(0), &without).await.and_then(|a| a.expect(200))?;
        let kept = self.read(0).await?;
        contains(&kept, &self.sample_status()?).context("a replace of the object changed its status")?;

        let mut sent = kept.clone();
        json_patch::merge(&mut sent, &self.sample.change);
        let mut back = self.sample_status()?;
        match &self.sample.back {
            Some(patch) => back["status"] = patch.clone(),
            None => forget(&mut back["status"]),
        }
        json_patch::merge(&mut sent, &back);
        if self.sample.settles {
            sent["metadata"].as_object_mut().context("metadata")?.remove("resourceVersion");
        }
        let replaced = self.client.put(&self.under("status"), &sent).await?.expect(200)?;
        ensure!(content(&replaced) == content(&kept), "more than the status was replaced");
        let after = self.read(0).await?;
        ensure!(
            after["status"] != kept["status"] || self.sample.settles,
            "the status stays {}",
            after["status"]
        );
        ensure!(content(&after) == content(&kept), "more than the status changed");
        if !self.sample.settles {
            self.client.put(&self.under("status"), &sent).await?.refused(409, "Conflict")?;
        }
        self.client.patch(&self.under("status"), Patch::Merge, &self.sample_status()?).await?.expect(200)?;
        Ok(())
    }

    async fn scale_get(&self) -> anyhow::Result<()> {
        let whole = self.read(0).await?;
        let scale = self.client.get(&self.under("scale")).await?.expect(200)?;
        let metadata = json!({
            "name": whole["metadata"]["name"], "namespace": whole["metadata"]["namespace"],
            "uid": whole["metadata"]["uid"], "resourceVersion": whole["metadata"]["resourceVersion"],
            "creationTimestamp": whole["metadata"]["creationTimestamp"],
        });
        contains(
            &scale,
            &json!({
                "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
                "spec": {"replicas": whole["spec"]["replicas"]}, "status": {"selector": "app=walk"},
            }),
        )
    }

    async fn scale_patch(&self) -> anyhow::Result<()> {
        let before = self.read(0).await?;
        let path = format!("{}?fieldManager=walk-scale", self.under("scale"));
        let scaled =
            self.client.patch(&path, Patch::Merge, &json!({"spec": {"replicas": 7}})).await?.expect(200)?;
        contains(&scaled, &json!({"kind": "Scale", "spec": {"replicas": 7}}))?;
        self.scaled(&before, 7).await?;
        let negative = json!({"spec": {"replicas": -1}});
        self.client.patch(&path, Patch::Merge, &negative).await?.refused(422, "Invalid")?;
        Ok(())
    }

    async fn scale_put(&self) -> anyhow::Result<()> {
        let before = self.read(0).await?;
        let mut scale = self.client.get(&self.under("scale")).await?.expect(200)?;
        scale["spec"]["replicas"] = json!(4);
        self.client.put(&self.under("scale"), &scale).await?.expect(200)?;
        self.scaled(&before, 4).await?;
        self.client.put(&self.under("scale"), &scale).await?.refused(409, "Conflict")?;
        Ok(())
    }

    /// The object has these replicas, and nothing else changed but the generation.
    async fn scaled(&self, before: &Value, replicas: u64) -> anyhow::Result<()> {
        let after = self.read(0).await?;
        let mut wanted = content(before);
        wanted["spec"]["replicas"] = json!(replicas);
        ensure!(content(&after) == wanted, "scaled to {}", after["spec"]);
        let count = |object: &Value| object["metadata"]["generation"].as_u64().unwrap_or(0);
        ensure!(count(&after) == count(before) + 1, "generation is {}", count(&after));
        Ok(())
    }
}

/// Makes a merge patch of the whole's parts that takes them away.
fn forget(status: &mut Value) {
    if let Value::Object(fields) = status {
        fields.values_mut().for_each(|field| *field = Value::Null);
    }
}
