//! Who owns which field: through status and scale, from manager to manager, after client-side apply, after a reset.

use integration::{Answer, Cluster};
use serde_json::{Value, json};

const BASE: &str = "/apis/apps/v1/namespaces/default/deployments";
const MERGE: &str = "application/merge-patch+json";

fn deployment(spec: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "one"}]}}}});
    if let (Some(fields), Some(more)) = (object["spec"].as_object_mut(), spec.as_object()) {
        fields.extend(more.clone());
    }
    object
}

fn scale(replicas: i64) -> Value {
    json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas}})
}

struct Writer<'c>(&'c Cluster);

impl Writer<'_> {
    /// Applies to the deployment or a subresource of it (`/scale`).
    async fn apply(
        &self,
        manager: &str,
        subresource: &str,
        body: &Value,
        more: &str,
    ) -> anyhow::Result<Answer> {
        let path = format!("{BASE}/web{subresource}?fieldManager={manager}{more}");
        let headers = [("content-type", "application/apply-patch+yaml")];
        self.0.call_with("PATCH", &path, &body.to_string(), &headers).await
    }

    async fn applied(
        &self,
        manager: &str,
        subresource: &str,
        body: &Value,
        more: &str,
    ) -> anyhow::Result<Value> {
        let answer = self.apply(manager, subresource, body, more).await?;
        anyhow::ensure!(answer.code < 300, "{manager} {subresource}: {}", answer.text());
        Ok(answer.json())
    }

    async fn merge(&self, manager: &str, subresource: &str, patch: &Value) -> anyhow::Result<Value> {
        let path = format!("{BASE}/web{subresource}?fieldManager={manager}");
        let answer = self.0.call_with("PATCH", &path, &patch.to_string(), &[("content-type", MERGE)]).await?;
        anyhow::ensure!(answer.code == 200, "{manager} {subresource}: {}", answer.text());
        Ok(answer.json())
    }

    async fn get(&self) -> anyhow::Result<Value> {
        self.0.ok("GET", &format!("{BASE}/web"), &Value::Null).await
    }

    /// The owners of a field as `MANAGER OPERATION[/SUBRESOURCE]`, sorted.
    async fn owners(&self, path: &[&str]) -> anyhow::Result<Vec<String>> {
        let object = self.get().await?;
        let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let owns = |entry: &&Value| {
            let mut at = &entry["fieldsV1"];
            path.iter().all(|key| {
                at = at.get(format!("f:{key}")).unwrap_or(&Value::Null);
                !at.is_null()
            })
        };
        let name = |entry: &Value| {
            let text = |key: &str| entry[key].as_str().unwrap_or("").to_owned();
            let subresource = entry["subresource"].as_str().map(|s| format!("/{s}")).unwrap_or_default();
            format!("{} {}{subresource}", text("manager"), text("operation"))
        };
        let mut owners: Vec<String> = entries.iter().filter(owns).map(name).collect();
        owners.sort();
        Ok(owners)
    }
}

const REPLICAS: [&str; 2] = ["spec", "replicas"];

#[tokio::test(flavor = "multi_thread")]
async fn fields_go_from_manager_to_manager() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let by = Writer(&cluster);
    by.applied("alice", "", &deployment(json!({"replicas": 1})), "").await?;
    assert_eq!(by.owners(&REPLICAS).await?, ["alice Apply"]);
    // the same value is shared
    by.applied("bob", "", &deployment(json!({"replicas": 1})), "").await?;
    assert_eq!(by.owners(&REPLICAS).await?, ["alice Apply", "bob Apply"]);
    // another is a conflict with all who have it, and force takes it from them
    let refused = by.apply("carol", "", &deployment(json!({"replicas": 2, "paused": true})), "").await?;
    let text = "Apply failed with 2 conflicts: conflicts with \"alice\":\n- .spec.replicas\nconflicts with \"bob\":\n- .spec.replicas";
    assert_eq!((refused.code, refused.message().as_str()), (409, text));
    let causes = refused.json()["details"]["causes"].clone();
    assert_eq!(
        causes,
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"alice\"", "field": ".spec.replicas"},
               {"reason": "FieldManagerConflict", "message": "conflict with \"bob\"", "field": ".spec.replicas"}])
    );
    by.applied("carol", "", &deployment(json!({"replicas": 2})), "&force=true").await?;
    assert_eq!(by.owners(&REPLICAS).await?, ["carol Apply"]);
    // an update takes a field it changes; the loser's next apply is a conflict that names how it was lost
    by.merge("dave", "", &json!({"spec": {"replicas": 3}})).await?;
    assert_eq!(by.owners(&REPLICAS).await?, ["dave Update"]);
    let refused = by.apply("carol", "", &deployment(json!({"replicas": 2})), "").await?;
    let text = "Apply failed with 1 conflict: conflict with \"dave\" using apps/v1: .spec.replicas";
    assert_eq!((refused.code, refused.message().as_str()), (409, text));
    // who applies what is there already owns it too, who stops applying leaves it to the other
    by.applied("carol", "", &deployment(json!({"replicas": 3})), "").await?;
    assert_eq!(by.owners(&REPLICAS).await?, ["carol Apply", "dave Update"]);
    let left = by.applied("carol", "", &deployment(json!({})), "").await?;
    assert_eq!(left["spec"]["replicas"], 3);
    assert_eq!(by.owners(&REPLICAS).await?, ["dave Update"]);
    // what nobody else owns goes when it is no longer applied
    let labels = |labels: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": labels}});
    by.applied("erin", "", &labels(json!({"x": "1", "y": "1"})), "").await?;
    let fewer = by.applied("erin", "", &labels(json!({"y": "1"})), "").await?;
    assert_eq!(fewer["metadata"]["labels"], json!({"y": "1"}));
    let none = by.applied("erin", "", &labels(json!({})), "").await?;
    assert!(none["metadata"].get("labels").is_none_or(|l| *l == json!({})), "{none}");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn list_items_have_owners_by_key() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let by = Writer(&cluster);
    by.applied("alice", "", &deployment(json!({})), "").await?;
    let sidecar = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "template": {"spec": {"containers": [{"name": "side", "image": "s", "env": [{"name": "A", "value": "1"}]}]}}}});
    let both = by.applied("mesh", "", &sidecar, "").await?;
    let names = |object: &Value| -> Vec<String> {
        let containers =
            object["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
        containers.iter().map(|c| c["name"].as_str().unwrap_or("").to_owned()).collect()
    };
    assert_eq!(names(&both), ["c", "side"]);
    let mut other = sidecar.clone();
    other["spec"]["template"]["spec"]["containers"][0]["image"] = json!("t");
    let refused = by.apply("alice", "", &other, "").await?;
    let field = &refused.json()["details"]["causes"][0]["field"];
    assert_eq!(field, ".spec.template.spec.containers[name=\"side\"].image");
    // the item goes with its owner's interest, the others stay
    let mut gone = sidecar;
    gone["spec"]["template"]["spec"]["containers"] = json!([]);
    let after = by.applied("mesh", "", &gone, "").await?;
    assert_eq!(names(&after), ["c"]);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_are_applied_to_apart() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let by = Writer(&cluster);
    let created = by.apply("none", "/status", &deployment(json!({})), "").await?;
    assert_eq!(created.code, 404, "no subresource makes an object: {}", created.text());
    let created = by.apply("none", "/scale", &scale(1), "").await?;
    assert_eq!(created.code, 404, "{}", created.text());
    by.applied("alice", "", &deployment(json!({"replicas": 1})), "").await?;

    // status: only the status is taken, and owned under the subresource
    let mut status = deployment(json!({"replicas": 9}));
    status["status"] = json!({"replicas": 1, "observedGeneration": 1});
    let after = by.applied("controller", "/status", &status, "").await?;
    assert_eq!((&after["status"]["replicas"], &after["spec"]["replicas"]), (&json!(1), &json!(1)));
    assert_eq!(by.owners(&["status", "replicas"]).await?, ["controller Apply/status"]);
    assert_eq!(by.owners(&REPLICAS).await?, ["alice Apply"]);
    let refused = by
        .apply(
            "other",
            "/status",
            &json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web"}, "status": {"replicas": 2}}),
            "",
        )
        .await?;
    let text = "Apply failed with 1 conflict: conflict with \"controller\" with subresource \"status\": .status.replicas";
    assert_eq!((refused.code, refused.message().as_str()), (409, text));
    // through the main resource the status is neither changed nor owned
    let mut main = deployment(json!({"replicas": 1}));
    main["status"] = json!({"replicas": 7});
    let after = by.applied("alice", "", &main, "").await?;
    assert_eq!(after["status"]["replicas"], 1);
    assert_eq!(by.owners(&["status", "replicas"]).await?, ["controller Apply/status"]);
    // what is no longer applied goes here too
    let less = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "status": {"replicas": 1}});
    let after = by.applied("controller", "/status", &less, "").await?;
    assert!(after["status"].get("observedGeneration").is_none(), "{after}");

    // scale: the replicas of the resource, with their owners
    let refused = by.apply("scaler", "/scale", &scale(3), "").await?;
    let text = "Apply failed with 1 conflict: conflict with \"alice\": .spec.replicas";
    assert_eq!((refused.code, refused.message().as_str()), (409, text));
    let scaled = by.applied("scaler", "/scale", &scale(3), "&force=true").await?;
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    assert_eq!(by.owners(&REPLICAS).await?, ["scaler Apply/scale"]);
    assert_eq!(by.get().await?["spec"]["replicas"], 3);
    let refused = by.apply("alice", "", &deployment(json!({"replicas": 1})), "").await?;
    let text =
        "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\": .spec.replicas";
    assert_eq!((refused.code, refused.message().as_str()), (409, text));
    // an update through scale takes them from the applier
    by.merge("kubectl", "/scale", &json!({"spec": {"replicas": 4}})).await?;
    assert_eq!(by.owners(&REPLICAS).await?, ["kubectl Update/scale"]);
    by.applied("alice", "", &deployment(json!({"replicas": 4})), "").await?;
    assert_eq!(by.owners(&REPLICAS).await?, ["alice Apply", "kubectl Update/scale"]);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn client_side_appliers_move_over() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let by = Writer(&cluster);
    // what `kubectl apply` without --server-side leaves: an update under its name, and the annotation
    let mut config = deployment(json!({"replicas": 1, "minReadySeconds": 5}));
    let last = config.to_string();
    config["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    cluster.ok("POST", &format!("{BASE}?fieldManager=kubectl-client-side-apply"), &config).await?;
    assert_eq!(by.owners(&REPLICAS).await?, ["kubectl-client-side-apply Update"]);
    // another manager's apply is in conflict with it, kubectl's is not; what it no longer says stays its old name's
    let refused = by.apply("other", "", &deployment(json!({"replicas": 2})), "").await?;
    assert_eq!(refused.code, 409, "{}", refused.text());
    let moved = by.applied("kubectl", "", &deployment(json!({"replicas": 2})), "").await?;
    assert_eq!(
        (&moved["spec"]["replicas"], &moved["spec"]["minReadySeconds"]),
        (&json!(2), &json!(5)),
        "{moved}"
    );
    assert_eq!(by.owners(&REPLICAS).await?, ["kubectl Apply"]);
    let old = by.owners(&["spec", "minReadySeconds"]).await?;
    assert_eq!(old, ["kubectl-client-side-apply Update"]);
    // the annotation is the server's to keep while it is there, so that old clients can still use it
    let annotation =
        moved["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str();
    let kept: Value = serde_json::from_str(annotation.unwrap_or("null"))?;
    assert_eq!(kept["spec"]["replicas"], 2, "{moved}");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn managed_fields_can_be_reset_but_not_applied() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let by = Writer(&cluster);
    by.applied("alice", "", &deployment(json!({"replicas": 1})), "").await?;
    let with_managed = |value: Value| {
        let mut object = deployment(json!({}));
        object["metadata"]["managedFields"] = value;
        object
    };
    let entry = json!([{"manager": "x", "operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": {}}]);
    let refused = by.apply("alice", "", &with_managed(entry), "").await?;
    assert_eq!((refused.code, refused.message().as_str()), (400, "metadata.managedFields must be nil"));
    // null changes nothing, an empty entry forgets all owners
    let kept = by.merge("bob", "", &json!({"metadata": {"managedFields": null}})).await?;
    assert_eq!(kept["metadata"]["managedFields"].as_array().map(Vec::len), Some(1), "{kept}");
    let reset = by.merge("bob", "", &json!({"metadata": {"managedFields": [{}]}})).await?;
    assert!(reset["metadata"].get("managedFields").is_none(), "{reset}");
    // whoever applies first then shares what is there with a nameless manager from before
    by.applied("carol", "", &deployment(json!({"replicas": 1})), "").await?;
    assert_eq!(by.owners(&REPLICAS).await?, ["before-first-apply Update", "carol Apply"]);
    let refused = by.apply("carol", "", &deployment(json!({"replicas": 2})), "").await?;
    let text =
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas";
    assert_eq!((refused.code, refused.message().as_str()), (409, text));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn appliers_are_checked() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let by = Writer(&cluster);
    let body = deployment(json!({}));
    let invalid = |what: &str| format!("PatchOptions.meta.k8s.io \"\" is invalid: {what}");
    let required = "fieldManager: Required value: is required for apply patch";
    let long = "x".repeat(129);
    let cases = [
        ("", "", invalid(required)),
        (
            "",
            "&dryRun=x",
            invalid(&format!("[{required}, dryRun: Unsupported value: [\"x\"]: supported values: \"All\"]")),
        ),
        (long.as_str(), "", invalid("fieldManager: Too long: may not be more than 128 bytes")),
        (
            "a%0Ab",
            "",
            invalid("fieldManager: Invalid value: \"a\\nb\": invalid character U+000A (at position 1)"),
        ),
    ];
    for (manager, more, message) in cases {
        let refused = by.apply(manager, "", &body, more).await?;
        assert_eq!((refused.code, refused.message()), (422, message), "{manager:?} {more}");
        let refused = by.apply(manager, "/scale", &scale(1), more).await?;
        assert_eq!(refused.code, 422, "scale {manager:?} {more}: {}", refused.text());
    }
    by.applied("alice", "", &body, "").await?;
    for subresource in ["", "/status", "/scale"] {
        let path = format!("{BASE}/web{subresource}?force=true");
        let refused = cluster.call_with("PATCH", &path, "{}", &[("content-type", MERGE)]).await?;
        let text = invalid("force: Forbidden: may not be specified for non-apply patch");
        assert_eq!((refused.code, refused.message()), (422, text), "{subresource}");
    }
    cluster.stop().await;
    Ok(())
}
