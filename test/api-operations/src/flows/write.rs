//! Create, patch, replace, delete.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{BACKGROUND, Subject};
use crate::client::Patch;
use crate::compare::{contains, content};

/// Number of an object that is never there.
const ABSENT: u32 = 99;

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or("")
}

/// Whether a manager's entry is in an object's managed fields.
fn managed(object: &Value, manager: &str, operation: &str) -> anyhow::Result<()> {
    let found = object["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|all| all.iter().any(|m| m["manager"] == manager && m["operation"] == operation));
    ensure!(found, "no managed fields of {manager} by {operation}: {}", object["metadata"]["managedFields"]);
    Ok(())
}

impl Subject<'_> {
    /// POST: the object, what the server adds to it, and the refusals.
    pub(super) async fn create(&self) -> anyhow::Result<Value> {
        let collection = self.collection(self.first());
        let object = self.object(0);
        let dry = self.client.post(&format!("{collection}?dryRun=All"), &object).await?.expect(201)?;
        ensure!(dry["metadata"]["uid"].is_string(), "dry run: no uid");
        self.client.get(&self.item(0)).await?.refused(404, "NotFound").context("after a dry run")?;

        let path = format!("{collection}?fieldManager=walk-create&fieldValidation=Strict");
        let created = self.client.post(&path, &object).await?.expect(201)?;
        contains(&created, &wanted(&object)).context("created")?;
        for field in ["uid", "resourceVersion", "creationTimestamp"] {
            ensure!(created["metadata"][field].is_string(), "created without {field}");
        }
        managed(&created, "walk-create", "Update")?;
        let generation = &created["metadata"]["generation"];
        let first = if self.sample.generation.is_some() { json!(1) } else { Value::Null };
        ensure!(*generation == first, "created with generation {generation} instead of {first}");
        if !self.sample.settles {
            contains(&self.read(0).await?, &created).context("read after create")?;
        }

        let again = self.client.post(&collection, &object).await?.refused(409, "AlreadyExists")?;
        contains(&again["details"], &json!({"name": self.sample.name(0)}))?;
        let message = again["message"].as_str().unwrap_or("");
        let said = format!("{} {:?} already exists", self.resource.qualified(), self.sample.name(0));
        ensure!(message == said, "{message:?} instead of {said:?}");

        let mut unknown = self.object(ABSENT);
        unknown["metadata"]["noSuchField"] = json!(1);
        let strict = self.client.post(&format!("{collection}?fieldValidation=Strict"), &unknown).await?;
        strict.refused_with(400, "BadRequest", "unknown field \"metadata.noSuchField\"")?;
        let mut other = self.object(ABSENT);
        other["kind"] = json!("Other");
        self.client.post(&collection, &other).await?.refused(400, "BadRequest")?;
        if self.resource.namespaced {
            let mut elsewhere = self.object(ABSENT);
            elsewhere["metadata"]["namespace"] = json!("elsewhere");
            self.client.post(&collection, &elsewhere).await?.refused(400, "BadRequest")?;
        }
        self.generated().await?;
        Ok(created)
    }

    /// Names made by the server.
    async fn generated(&self) -> anyhow::Result<()> {
        if !self.sample.free_names() {
            return Ok(());
        }
        let collection = self.collection(self.first());
        let mut object = self.object(ABSENT);
        let metadata = object["metadata"].as_object_mut().context("metadata")?;
        metadata.remove("name");
        self.client.post(&collection, &object).await?.refused(422, "Invalid").context("without a name")?;
        object["metadata"]["generateName"] = json!("walk-made-");
        let made = self.client.post(&format!("{collection}?dryRun=All"), &object).await?.expect(201)?;
        let name = made["metadata"]["name"].as_str().unwrap_or("");
        let end = name.strip_prefix("walk-made-").with_context(|| format!("generated name {name:?}"))?;
        ensure!(end.len() == 5, "generated name {name:?}");
        Ok(())
    }

    /// PATCH in all four forms.
    pub(super) async fn patch(&self) -> anyhow::Result<()> {
        let path = self.item(0);
        let before = self.read(0).await?;
        let dry = self
            .client
            .patch(&format!("{path}?dryRun=All"), Patch::Merge, &self.sample.change)
            .await?
            .expect(200)?;
        contains(&dry, &self.sample.change).context("dry run")?;
        if !self.sample.settles {
            contains(&self.read(0).await?, &before).context("read after a dry run")?;
        }

        let merge = format!("{path}?fieldManager=walk-merge");
        let patched = self.client.patch(&merge, Patch::Merge, &self.sample.change).await?.expect(200)?;
        contains(&patched, &self.sample.change).context("merge patch")?;
        ensure!(version(&patched) != version(&before), "merge patch: resourceVersion stays");
        managed(&patched, "walk-merge", "Update")?;
        self.generation(&before, &patched, true)?;
        let read = self.read(0).await?;
        contains(&read, &self.sample.change).context("read after a merge patch")?;
        let same = self.client.patch(&merge, Patch::Merge, &self.sample.change).await?.expect(200)?;
        if !self.sample.settles {
            ensure!(
                version(&same) == version(&patched),
                "a patch without effect changes the resourceVersion"
            );
        }

        let json = json!([
            {"op": "test", "path": "/metadata/name", "value": self.sample.name(0)},
            {"op": "add", "path": "/metadata/labels/json", "value": "yes"},
        ]);
        self.client.patch(&path, Patch::Json, &json).await?.expect(200).context("JSON patch")?;
        let strategic = json!({"metadata": {"annotations": {"strategic": "yes"}}});
        self.client.patch(&path, Patch::Strategic, &strategic).await?.expect(200).context("strategic")?;
        let read = self.read(0).await?;
        contains(
            &read["metadata"],
            &json!({"labels": {"json": "yes", "walk": "n0"}, "annotations": {"strategic": "yes"}}),
        )?;
        self.generation(&patched, &read, false)?;
        let failing = json!([{"op": "test", "path": "/metadata/name", "value": "other"}]);
        self.client
            .patch(&path, Patch::Json, &failing)
            .await?
            .refused(422, "Invalid")
            .context("failing test")?;

        self.apply(&path).await?;
        let absent = self.client.patch(&self.item(ABSENT), Patch::Merge, &strategic).await?;
        absent.refused(404, "NotFound")?;
        let headers = [("content-type", "application/json")];
        let plain = self.client.send("PATCH", &path, &headers, b"{}".to_vec()).await?;
        plain.refused(415, "UnsupportedMediaType")?;
        Ok(())
    }

    /// Server-side apply: ownership, conflict, force.
    async fn apply(&self, path: &str) -> anyhow::Result<()> {
        let configuration = |value: &str| {
            json!({
                "apiVersion": self.resource.group_version, "kind": self.resource.kind,
                "metadata": {"name": self.sample.name(0), "labels": {"applied": value}},
            })
        };
        let by = |manager: &str| format!("{path}?fieldManager={manager}");
        let first =
            self.client.patch(&by("walk-one"), Patch::Apply, &configuration("1")).await?.expect(200)?;
        managed(&first, "walk-one", "Apply")?;
        contains(&first["metadata"]["labels"], &json!({"applied": "1", "walk": "n0"})).context("apply")?;
        let conflict = self
            .client
            .patch(&by("walk-two"), Patch::Apply, &configuration("2"))
            .await?
            .refused(409, "Conflict")?;
        contains(
            &conflict["details"]["causes"],
            &json!([{"reason": "FieldManagerConflict", "field": ".metadata.labels.applied"}]),
        )?;
        let forced = format!("{}&force=true", by("walk-two"));
        self.client.patch(&forced, Patch::Apply, &configuration("2")).await?.expect(200)?;
        let read = self.read(0).await?;
        contains(&read["metadata"]["labels"], &json!({"applied": "2"})).context("forced apply")?;
        managed(&read, "walk-two", "Apply")?;
        self.client
            .patch(path, Patch::Apply, &configuration("3"))
            .await?
            .refused(422, "Invalid")
            .context("no manager")?;
        Ok(())
    }

    fn generation(&self, before: &Value, after: &Value, desired: bool) -> anyhow::Result<()> {
        let Some(counted) = self.sample.generation else { return Ok(()) };
        let step = u64::from(counted && desired);
        let count = |object: &Value| object["metadata"]["generation"].as_u64().unwrap_or(0);
        let (before, after) = (count(before), count(after));
        ensure!(after == before + step, "generation is {after} after {before}");
        Ok(())
    }

    /// PUT: what was changed is put back.
    pub(super) async fn replace(&self, created: &Value) -> anyhow::Result<()> {
        let path = self.item(0);
        let before = self.read(0).await?;
        let mut back = before.clone();
        for (field, _) in self.sample.change.as_object().into_iter().flatten() {
            if field != "metadata" {
                back[field] = created[field].clone();
            }
        }
        back["metadata"]["labels"]["replaced"] = json!("yes");
        let dry = self.client.put(&format!("{path}?dryRun=All"), &back).await?.expect(200)?;
        contains(&dry["metadata"]["labels"], &json!({"replaced": "yes"})).context("dry run")?;
        let kept = self.read(0).await?;
        ensure!(kept["metadata"]["labels"]["replaced"].is_null(), "a dry run replaced it");

        if self.sample.settles {
            // Controllers may have written since; the version is then not what is checked here.
            back["metadata"]["resourceVersion"] = kept["metadata"]["resourceVersion"].clone();
        }
        let replaced = self.client.put(&format!("{path}?fieldManager=walk-put"), &back).await?.expect(200)?;
        contains(&content(&replaced), &content(&back)).context("replaced")?;
        ensure!(version(&replaced) != version(&before), "replace: resourceVersion stays");
        managed(&replaced, "walk-put", "Update")?;
        self.generation(&before, &replaced, true)?;
        let read = self.read(0).await?;
        contains(&content(&read), &content(&back)).context("read after replace")?;
        contains(&read["metadata"]["labels"], &json!({"replaced": "yes", "walk": "n0"}))?;

        let stale = self.client.put(&path, &back).await?.refused(409, "Conflict")?;
        let message = stale["message"].as_str().unwrap_or("");
        ensure!(message.contains("the object has been modified"), "stale: {message:?}");
        let mut renamed = read.clone();
        renamed["metadata"]["name"] = json!(self.sample.name(ABSENT));
        self.client.put(&path, &renamed).await?.refused(400, "BadRequest").context("another name")?;
        let mut uid = read.clone();
        uid["metadata"]["uid"] = json!("11111111-2222-3333-4444-555555555555");
        self.client.put(&path, &uid).await?.refused(409, "Conflict").context("another uid")?;
        self.replace_absent().await
    }

    /// PUT of what is not there creates it, for the kinds that allow it.
    async fn replace_absent(&self) -> anyhow::Result<()> {
        let answer = self.client.put(&self.item(ABSENT), &self.object(ABSENT)).await?;
        if !self.sample.upsert {
            answer.refused(404, "NotFound")?;
            return Ok(());
        }
        answer.expect(201).context("created by PUT")?;
        self.remove(ABSENT).await?;
        Ok(())
    }

    /// DELETE of one.
    pub(super) async fn delete(&self) -> anyhow::Result<()> {
        let made = self.make(1, self.first(), &[]).await?;
        let path = self.item(1);
        self.client.delete(&format!("{path}?dryRun=All"), &Value::Null).await?.expect(200)?;
        let kept = self.read(1).await.context("after a dry run")?;
        ensure!(kept["metadata"]["deletionTimestamp"].is_null(), "a dry run deletes");
        for precondition in
            [json!({"uid": "11111111-2222-3333-4444-555555555555"}), json!({"resourceVersion": "1"})]
        {
            let options = json!({
                "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": precondition,
            });
            self.client.delete(&path, &options).await?.refused(409, "Conflict")?;
        }
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": {"uid": made["metadata"]["uid"]},
        });
        let answer = self.client.delete(&path, &options).await?.expect(200)?;
        if self.sample.returned || self.lingers() {
            contains(
                &answer,
                &json!({"kind": self.resource.kind, "metadata": {"uid": made["metadata"]["uid"]}}),
            )?;
        } else {
            let details = json!({"name": self.sample.name(1), "uid": made["metadata"]["uid"], "kind": self.resource.plural});
            contains(&answer, &json!({"kind": "Status", "status": "Success", "details": details}))?;
        }
        self.gone(1).await?;
        self.client.delete(&path, &Value::Null).await?.refused(404, "NotFound")?;
        self.read(0).await.context("another one is gone too")?;
        Ok(())
    }

    /// DELETE of several: by label, then all of a namespace.
    pub(super) async fn delete_collection(&self) -> anyhow::Result<()> {
        let collection = self.collection(self.first());
        for (number, set) in [(3, "goes"), (4, "goes"), (5, "stays")] {
            self.make(number, self.first(), &[("set", set)]).await?;
        }
        let selected = format!("{collection}?labelSelector=set%3Dgoes");
        self.client.delete(&format!("{selected}&dryRun=All"), &Value::Null).await?.expect(200)?;
        self.read(3).await.context("after a dry run")?;
        let deleted =
            self.client.delete(&format!("{selected}&{BACKGROUND}"), &Value::Null).await?.expect(200)?;
        ensure!(
            deleted["kind"] == format!("{}List", self.resource.kind),
            "answered with {}",
            deleted["kind"]
        );
        self.gone(3).await?;
        self.gone(4).await?;
        self.read(5).await.context("not selected")?;
        self.read(0).await.context("not selected")?;
        let Some(second) = self.second() else {
            self.remove(5).await?;
            return self.release(5).await;
        };
        self.client.delete(&format!("{collection}?{BACKGROUND}"), &Value::Null).await?.expect(200)?;
        self.gone(5).await?;
        self.gone(0).await?;
        let left = self.client.get(&self.collection(Some(second))).await?.expect(200)?;
        let left = left["items"].as_array().map_or(0, Vec::len);
        ensure!(left > 0, "objects of another namespace are gone");
        Ok(())
    }
}

/// What a created object has to show of what was sent: write-only fields are not shown.
fn wanted(object: &Value) -> Value {
    let mut wanted = object.clone();
    if let Some(fields) = wanted.as_object_mut() {
        fields.remove("stringData");
    }
    wanted
}
