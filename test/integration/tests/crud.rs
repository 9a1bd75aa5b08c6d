//! Create, read, update, delete, and the rules around them.

use integration::Cluster;
use serde_json::{Value, json};

const CM: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let created = cluster.ok("POST", CM, &config_map("life")).await?;
    assert_eq!(created["metadata"]["namespace"], "default");
    assert!(!created["metadata"]["uid"].as_str().unwrap_or("").is_empty());
    let path = format!("{CM}/life");
    let read = cluster.ok("GET", &path, &Value::Null).await?;
    assert_eq!(read, created, "a read gives what the create answered");

    // a write that changes nothing keeps the version
    let same = cluster.ok("PUT", &path, &read).await?;
    assert_eq!(same["metadata"]["resourceVersion"], read["metadata"]["resourceVersion"]);
    let mut changed = read.clone();
    changed["data"]["b"] = json!("2");
    let after = cluster.ok("PUT", &path, &changed).await?;
    assert_ne!(after["metadata"]["resourceVersion"], read["metadata"]["resourceVersion"]);
    // the old version no longer fits
    let stale = cluster.call("PUT", &path, &changed.to_string()).await?;
    assert_eq!((stale.code, stale.json()["reason"].as_str()), (409, Some("Conflict")));
    assert!(stale.message().contains("the object has been modified"), "{}", stale.message());

    let again = cluster.call("POST", CM, &config_map("life").to_string()).await?;
    assert_eq!((again.code, again.message().as_str()), (409, "configmaps \"life\" already exists"));
    let gone = cluster.ok("DELETE", &path, &Value::Null).await?;
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"]["kind"], "configmaps");
    let missing = cluster.call("GET", &path, "").await?;
    assert_eq!((missing.code, missing.message().as_str()), (404, "configmaps \"life\" not found"));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_namespaces() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let generated = json!({"metadata": {"generateName": "gen-"}});
    let first = cluster.ok("POST", CM, &generated).await?;
    let second = cluster.ok("POST", CM, &generated).await?;
    assert!(first["metadata"]["name"].as_str().unwrap_or("").starts_with("gen-"));
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);

    let mut elsewhere = config_map("x");
    elsewhere["metadata"]["namespace"] = json!("other");
    let mut versioned = config_map("x");
    versioned["metadata"]["resourceVersion"] = json!("1");
    let cases = [
        (
            CM,
            elsewhere,
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (CM, json!({"metadata": {}}), 422, "name or generateName is required"),
        (CM, config_map("Upper"), 422, "a lowercase RFC 1123 subdomain must consist of"),
        (CM, versioned, 500, "resourceVersion should not be set on objects to be created"),
        ("/api/v1/namespaces/nope/configmaps", config_map("x"), 404, "namespaces \"nope\" not found"),
        (CM, json!({"kind": "Secret", "apiVersion": "v1"}), 400, "cannot be handled as a ConfigMap"),
        (
            CM,
            json!({"kind": "ConfigMap", "apiVersion": "v2"}),
            400,
            "no kind \"ConfigMap\" is registered for version \"v2\"",
        ),
    ];
    for (path, body, code, message) in cases {
        let answer = cluster.call("POST", path, &body.to_string()).await?;
        assert_eq!(answer.code, code, "{}", answer.text());
        assert!(answer.message().contains(message), "{}", answer.message());
    }
    let renamed = cluster.call("PUT", &format!("{CM}/y"), &config_map("x").to_string()).await?;
    assert_eq!(renamed.message(), "the name of the object (x) does not match the name on the URL (y)");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_runs_keep_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let answer = cluster.call("POST", &format!("{CM}?dryRun=All"), &config_map("dry").to_string()).await?;
    assert_eq!(answer.code, 201);
    assert_eq!(cluster.call("GET", &format!("{CM}/dry"), "").await?.code, 404);
    assert_eq!(cluster.call("POST", &format!("{CM}?dryRun=Some"), "{}").await?.code, 422);
    cluster.ok("POST", CM, &config_map("kept")).await?;
    cluster.ok("DELETE", &format!("{CM}/kept?dryRun=All"), &Value::Null).await?;
    cluster.ok("GET", &format!("{CM}/kept"), &Value::Null).await?;
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_nobody_knows() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let body = json!({"metadata": {"name": "f"}, "nope": 1}).to_string();
    let warned = cluster.call("POST", CM, &body).await?;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.header("warning"), "299 - \"unknown field \\\"nope\\\"\"");
    let strict = cluster.call("POST", &format!("{CM}?fieldValidation=Strict"), &body).await?;
    assert_eq!(strict.code, 400);
    assert!(
        strict.message().contains("strict decoding error: unknown field \"nope\""),
        "{}",
        strict.message()
    );
    let ignored = cluster.call("PUT", &format!("{CM}/f?fieldValidation=Ignore"), &body).await?;
    assert_eq!((ignored.code, ignored.header("warning")), (200, ""));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_waits_for_finalizers() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let created = cluster.ok("POST", CM, &held).await?;
    let path = format!("{CM}/held");
    // preconditions
    let other = json!({"preconditions": {"uid": "other"}}).to_string();
    let refused = cluster.call("DELETE", &path, &other).await?;
    assert_eq!(refused.code, 409);
    assert!(
        refused.message().contains("Precondition failed: UID in precondition: other"),
        "{}",
        refused.message()
    );

    let marked = cluster.ok("DELETE", &path, &Value::Null).await?;
    assert_eq!(marked["kind"], "ConfigMap");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(marked["metadata"]["uid"], created["metadata"]["uid"]);
    // no new finalizers while it goes, and a second create says why the name is taken
    let added =
        json!([{"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/more"}]).to_string();
    let patch = [("content-type", "application/json-patch+json")];
    let refused = cluster.call_with("PATCH", &path, &added, &patch).await?;
    assert_eq!(refused.code, 422, "{}", refused.text());
    let again = cluster.call("POST", CM, &config_map("held").to_string()).await?;
    assert_eq!(again.message(), "object is being deleted: configmaps \"held\" already exists");
    // the last finalizer removes the object
    let released = json!([{"op": "remove", "path": "/metadata/finalizers"}]).to_string();
    let last = cluster.call_with("PATCH", &path, &released, &patch).await?;
    assert_eq!(last.code, 200, "{}", last.text());
    assert_eq!(cluster.call("GET", &path, "").await?.code, 404);

    // propagation turns into finalizers for the garbage collector
    cluster.ok("POST", CM, &config_map("owner")).await?;
    let orphan = json!({"propagationPolicy": "Orphan"});
    let marked = cluster.ok("DELETE", &format!("{CM}/owner"), &orphan).await?;
    assert_eq!(marked["metadata"]["finalizers"], json!(["orphan"]));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_written_apart() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let base = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
                 "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"replicas": 7},
    });
    let created = cluster.ok("POST", base, &deployment).await?;
    assert_eq!(created["metadata"]["generation"], 1);
    assert!(created["status"]["replicas"].is_null(), "a new object has no status");
    let merge = [("content-type", "application/merge-patch+json")];
    let body =
        json!({"status": {"replicas": 2, "observedGeneration": 1}, "spec": {"replicas": 9}}).to_string();
    let patched = cluster.call_with("PATCH", &format!("{base}/web/status"), &body, &merge).await?.json();
    assert_eq!((&patched["status"]["replicas"], &patched["spec"]["replicas"]), (&json!(2), &json!(2)));
    assert_eq!(patched["metadata"]["generation"], 1);

    let scale = cluster.ok("GET", &format!("{base}/web/scale"), &Value::Null).await?;
    assert_eq!(scale["kind"], "Scale");
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("a=b")));
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = json!(5);
    cluster.ok("PUT", &format!("{base}/web/scale"), &wanted).await?;
    let after = cluster.ok("GET", &format!("{base}/web"), &Value::Null).await?;
    assert_eq!((&after["spec"]["replicas"], &after["metadata"]["generation"]), (&json!(5), &json!(2)));
    assert_eq!(after["status"]["replicas"], 2, "the status stays");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_are_deleted_by_selector() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    for i in 0..4 {
        let mut object = config_map(&format!("c{i}"));
        object["metadata"]["labels"] = json!({"half": (i % 2).to_string()});
        cluster.ok("POST", CM, &object).await?;
    }
    let deleted = cluster.ok("DELETE", &format!("{CM}?labelSelector=half%3D1"), &Value::Null).await?;
    assert_eq!(deleted["items"].as_array().map(Vec::len), Some(2));
    let left = cluster.ok("GET", &format!("{CM}?labelSelector=half"), &Value::Null).await?;
    assert_eq!(left["items"].as_array().map(Vec::len), Some(2));
    cluster.stop().await;
    Ok(())
}
