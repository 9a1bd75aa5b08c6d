//! Patches and server-side apply.

use integration::Cluster;
use serde_json::{Value, json};

const CM: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn fields_have_owners() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let apply = async |manager: &str, query: &str, data: Value| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": data});
        let path = format!("{CM}/s?fieldManager={manager}{query}");
        cluster
            .call_with("PATCH", &path, &body.to_string(), &[("content-type", "application/apply-patch+yaml")])
            .await
    };
    let created = apply("alice", "", json!({"a": "1", "b": "1"})).await?;
    assert_eq!(created.code, 201, "{}", created.text());
    assert_eq!(created.json()["metadata"]["managedFields"][0]["operation"], "Apply");
    let same = apply("alice", "", json!({"a": "1", "b": "1"})).await?;
    assert_eq!(same.json(), created.json(), "applying again changes nothing");
    let conflict = apply("bob", "", json!({"a": "2"})).await?;
    assert_eq!((conflict.code, conflict.json()["reason"].as_str()), (409, Some("Conflict")));
    let cause = &conflict.json()["details"]["causes"][0];
    assert_eq!(
        (cause["reason"].as_str(), cause["field"].as_str()),
        (Some("FieldManagerConflict"), Some(".data.a"))
    );
    assert_eq!(apply("bob", "&force=true", json!({"a": "2"})).await?.code, 200);
    // what a manager no longer applies goes, unless another owns it
    let after = apply("alice", "", json!({})).await?;
    assert_eq!((after.code, &after.json()["data"]), (200, &json!({"a": "2"})), "{}", after.text());
    assert_eq!(apply("", "", json!({})).await?.code, 422, "an applier has a name");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_every_kind() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let base = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"a": "b"}},
                 "template": {"metadata": {"labels": {"a": "b"}},
                              "spec": {"containers": [{"name": "c", "image": "one"}, {"name": "d", "image": "one"}]}}},
    });
    cluster.ok("POST", base, &deployment).await?;
    let path = format!("{base}/web");
    let patch = async |kind: &str, body: Value| {
        cluster.call_with("PATCH", &path, &body.to_string(), &[("content-type", kind)]).await
    };
    let containers = |answer: &integration::Answer| {
        answer.json()["spec"]["template"]["spec"]["containers"].as_array().map_or(0, Vec::len)
    };
    let list = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    let strategic = patch("application/strategic-merge-patch+json", list.clone()).await?;
    assert_eq!((strategic.code, containers(&strategic)), (200, 2), "merged by name");
    let merged = patch("application/merge-patch+json", list).await?;
    assert_eq!((merged.code, containers(&merged)), (200, 1), "replaced");
    let operations = json!([{"op": "test", "path": "/spec/replicas", "value": 1},
                            {"op": "replace", "path": "/spec/replicas", "value": 3}]);
    assert_eq!(patch("application/json-patch+json", operations.clone()).await?.json()["spec"]["replicas"], 3);
    assert_eq!(patch("application/json-patch+json", operations).await?.code, 422, "the test no longer holds");
    let wrong = patch("application/merge-patch+json", json!({"spec": {"replicas": "x"}})).await?;
    assert_eq!(wrong.code, 422, "{}", wrong.text());
    let stale = patch("application/merge-patch+json", json!({"metadata": {"resourceVersion": "1"}})).await?;
    assert_eq!(stale.code, 409);
    let missing = cluster
        .call_with(
            "PATCH",
            &format!("{base}/none"),
            "{}",
            &[("content-type", "application/merge-patch+json")],
        )
        .await?;
    assert_eq!(missing.code, 404);
    cluster.stop().await;
    Ok(())
}
