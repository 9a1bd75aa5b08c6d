//! Pods: binding, eviction, ephemeral containers, resize.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::NAMESPACE;
use crate::client::{Client, Patch};
use crate::compare::contains;
use crate::report::Report;

const TEMPLATE: &str = "/api/v1/namespaces/{namespace}/pods/{name}";

pub(super) fn path(name: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}")
}

pub(super) async fn make(client: &Client, name: &str, containers: &[&str]) -> anyhow::Result<Value> {
    let containers: Vec<_> = containers
        .iter()
        .map(|name| {
            json!({"name": name, "image": "example.com/walk:1", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}})
        })
        .collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"pod": name}},
        "spec": {"containers": containers},
    });
    client.post(&format!("/api/v1/namespaces/{NAMESPACE}/pods"), &pod).await?.expect(201)
}

pub(super) async fn walk(client: &Client, report: &Report) {
    report.note("POST", &format!("{TEMPLATE}/binding"), binding(client).await);
    let bindings = "/api/v1/namespaces/{namespace}/bindings";
    report.note("POST", bindings, bindings_create(client).await);
    report.note("POST", &format!("{TEMPLATE}/eviction"), eviction(client).await);
    let ephemeral = format!("{TEMPLATE}/ephemeralcontainers");
    match make(client, "ephemeral", &["main"]).await {
        Ok(_) => {
            report.note("GET", &ephemeral, whole(client, "ephemeral", "ephemeralcontainers").await);
            report.note("PATCH", &ephemeral, ephemeral_patch(client).await);
            report.note("PUT", &ephemeral, ephemeral_put(client).await);
        }
        Err(error) => report.note("GET", &ephemeral, Err(error)),
    }
    let resize = format!("{TEMPLATE}/resize");
    match make(client, "resized", &["main"]).await {
        Ok(_) => {
            report.note("GET", &resize, whole(client, "resized", "resize").await);
            report.note("PATCH", &resize, resize_patch(client).await);
            report.note("PUT", &resize, resize_put(client).await);
        }
        Err(error) => report.note("GET", &resize, Err(error)),
    }
}

async fn read(client: &Client, name: &str) -> anyhow::Result<Value> {
    client.get(&path(name)).await?.expect(200)
}

/// A subresource whose GET is the pod's.
async fn whole(client: &Client, name: &str, subresource: &str) -> anyhow::Result<()> {
    let found = client.get(&format!("{}/{subresource}", path(name))).await?.expect(200)?;
    let pod = read(client, name).await?;
    ensure!(found == pod, "{found} instead of {pod}");
    client.get(&format!("{}/{subresource}", path("no-such-pod"))).await?.refused(404, "NotFound")?;
    Ok(())
}

async fn binding(client: &Client) -> anyhow::Result<()> {
    make(client, "bound", &["main"]).await?;
    let binding = |node: &str| {
        json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "bound", "annotations": {"by": "walk"}},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        })
    };
    let path = format!("{}/binding", path("bound"));
    client
        .post(&path, &json!({"metadata": {"name": "bound"}, "target": {}}))
        .await?
        .refused(422, "Invalid")?;
    client.post(&format!("{path}?dryRun=All"), &binding("one")).await?.expect(201)?;
    ensure!(read(client, "bound").await?["spec"]["nodeName"].is_null(), "a dry run binds");
    let answer = client.post(&path, &binding("one")).await?.expect(201)?;
    contains(&answer, &json!({"kind": "Status", "status": "Success"}))?;
    let pod = read(client, "bound").await?;
    contains(&pod, &json!({"spec": {"nodeName": "one"}, "metadata": {"annotations": {"by": "walk"}}}))?;
    let condition = json!({"type": "PodScheduled", "status": "True"});
    contains(&pod["status"]["conditions"][0], &condition)?;
    client.post(&path, &binding("two")).await?.refused(409, "Conflict").context("bound twice")?;
    let name = super::NAMESPACE;
    let by_node =
        client.get(&format!("/api/v1/namespaces/{name}/pods?fieldSelector=spec.nodeName%3Done")).await?;
    let items = by_node.expect(200)?["items"].clone();
    let named = items.as_array().is_some_and(|i| i.iter().any(|pod| pod["metadata"]["name"] == "bound"));
    ensure!(named, "not selected by its node");
    Ok(())
}

/// The resource that came before the subresource.
async fn bindings_create(client: &Client) -> anyhow::Result<()> {
    make(client, "bound-before", &["main"]).await?;
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "bound-before"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "one"},
    });
    client.post(&format!("/api/v1/namespaces/{NAMESPACE}/bindings"), &binding).await?.expect(201)?;
    contains(&read(client, "bound-before").await?, &json!({"spec": {"nodeName": "one"}}))
}

async fn eviction(client: &Client) -> anyhow::Result<()> {
    make(client, "evicted", &["main"]).await?;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted"}});
    let path_ = format!("{}/eviction", path("evicted"));
    let dry = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted"}, "deleteOptions": {"dryRun": ["All"]}});
    client.post(&path_, &dry).await?.expect(201)?;
    read(client, "evicted").await.context("after a dry run")?;
    let answer = client.post(&path_, &eviction).await?.expect(201)?;
    contains(&answer, &json!({"kind": "Status", "status": "Success"}))?;
    client.get(&path("evicted")).await?.refused(404, "NotFound")?;
    client.post(&path_, &eviction).await?.refused(404, "NotFound")?;
    budget(client).await
}

/// A disruption budget that has no room left refuses, for pods that are ready.
async fn budget(client: &Client) -> anyhow::Result<()> {
    make(client, "kept", &["main"]).await?;
    let target = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "kept"}, "target": {"kind": "Node", "name": "one"}});
    client.post(&format!("{}/binding", path("kept")), &target).await?.expect(201)?;
    let running =
        json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    client.patch(&format!("{}/status", path("kept")), Patch::Strategic, &running).await?.expect(200)?;
    let budgets = format!("/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets");
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "kept"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"pod": "kept"}}},
    });
    client.post(&budgets, &budget).await?.expect(201)?;
    let counted = json!({"status": {
        "observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1,
    }});
    client.patch(&format!("{budgets}/kept/status"), Patch::Merge, &counted).await?.expect(200)?;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "kept"}});
    let refused = client.post(&format!("{}/eviction", path("kept")), &eviction).await?;
    let status = refused.refused(429, "TooManyRequests")?;
    contains(&status["details"]["causes"], &json!([{"reason": "DisruptionBudget"}]))?;
    ensure!(read(client, "kept").await?["metadata"]["deletionTimestamp"].is_null(), "evicted all the same");
    Ok(())
}

async fn ephemeral_patch(client: &Client) -> anyhow::Result<()> {
    let path_ = format!("{}/ephemeralcontainers", path("ephemeral"));
    let added = json!({"name": "debug", "image": "example.com/debug:1", "targetContainerName": "main"});
    let patch = json!({"spec": {"ephemeralContainers": [added]}});
    client
        .patch(&path("ephemeral"), Patch::Strategic, &patch)
        .await?
        .refused(422, "Invalid")
        .context("by the pod")?;
    client.patch(&path_, Patch::Strategic, &patch).await?.expect(200)?;
    let pod = read(client, "ephemeral").await?;
    contains(&pod["spec"]["ephemeralContainers"], &json!([added]))?;
    contains(
        &pod["spec"]["ephemeralContainers"][0],
        &json!({"terminationMessagePath": "/dev/termination-log"}),
    )?;
    Ok(())
}

async fn ephemeral_put(client: &Client) -> anyhow::Result<()> {
    let path_ = format!("{}/ephemeralcontainers", path("ephemeral"));
    let mut pod = read(client, "ephemeral").await?;
    let more = json!({"name": "more", "image": "example.com/debug:1"});
    pod["spec"]["ephemeralContainers"].as_array_mut().context("none")?.push(more);
    pod["spec"]["activeDeadlineSeconds"] = json!(77);
    client.put(&path_, &pod).await?.expect(200)?;
    let after = read(client, "ephemeral").await?;
    ensure!(after["spec"]["ephemeralContainers"].as_array().map(Vec::len) == Some(2), "{}", after["spec"]);
    ensure!(after["spec"]["activeDeadlineSeconds"].is_null(), "more than the ephemeral containers changed");
    let mut without = after.clone();
    without["spec"]["ephemeralContainers"] = json!([]);
    client.put(&path_, &without).await?.refused(422, "Invalid").context("removed")?;
    Ok(())
}

fn sized(cpu: &str) -> Value {
    json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "300m"}}}]}})
}

async fn resize_patch(client: &Client) -> anyhow::Result<()> {
    let before = read(client, "resized").await?;
    let patch = sized("150m");
    client
        .patch(&path("resized"), Patch::Strategic, &patch)
        .await?
        .refused(422, "Invalid")
        .context("by the pod")?;
    let path_ = format!("{}/resize", path("resized"));
    client.patch(&path_, Patch::Strategic, &patch).await?.expect(200)?;
    let after = read(client, "resized").await?;
    contains(&after["spec"]["containers"][0], &patch["spec"]["containers"][0])?;
    let count = |pod: &Value| pod["metadata"]["generation"].as_u64().unwrap_or(0);
    ensure!(count(&after) == count(&before) + 1, "generation is {}", count(&after));
    let class = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "300m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}}]}});
    client
        .patch(&path_, Patch::Strategic, &class)
        .await?
        .refused(422, "Invalid")
        .context("another QoS class")?;
    Ok(())
}

async fn resize_put(client: &Client) -> anyhow::Result<()> {
    let path_ = format!("{}/resize", path("resized"));
    let mut pod = read(client, "resized").await?;
    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("120m");
    client.put(&path_, &pod).await?.expect(200)?;
    let after = read(client, "resized").await?;
    ensure!(after["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "120m", "{}", after["spec"]);
    client.put(&path_, &pod).await?.refused(409, "Conflict")?;
    Ok(())
}
