//! What a kubelet may do, with the Node authorizer and NodeRestriction as clusters run them.

use component::http::full;
use controlplane::StorageConfig;
use integration::{Answer, Cluster};
use serde_json::{Value, json};

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn cluster() -> anyhow::Result<Cluster> {
    let cluster = Cluster::configured(StorageConfig::Memory, |config| {
        config.enable_admission = vec!["NodeRestriction".into()];
    })
    .await?;
    for account in ["default", "other"] {
        let body = json!({"metadata": {"name": account}});
        cluster.ok("POST", "/api/v1/namespaces/default/serviceaccounts", &body).await?;
    }
    Ok(cluster)
}

/// Asks as the kubelet of `n1`.
async fn kubelet(cluster: &Cluster, method: &str, path: &str, body: &Value) -> anyhow::Result<Answer> {
    let user = auth::UserInfo::new("system:node:n1", &["system:nodes", "system:authenticated"]);
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let kind = match method {
        "PATCH" => "application/strategic-merge-patch+json",
        _ => "application/json",
    };
    cluster.call_as(user, method, path, full(text), &[("content-type", kind)]).await
}

fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelets_do_their_work() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let node = json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1", "kubernetes.io/os": "linux"}},
        "spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}});
    let created = kubelet(&cluster, "POST", NODES, &node).await?;
    assert_eq!(created.code, 201, "{}", created.text());
    let node_uid = created.json()["metadata"]["uid"].clone();
    let mine = cluster.ok("POST", PODS, &pod("mine", "n1")).await?;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3607,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "mine", "uid": mine["metadata"]["uid"]}}});
    let mut mirror = pod("mirror", "n1");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "hash"});
    mirror["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node_uid, "controller": true}]);
    let lease =
        json!({"metadata": {"name": "n1", "namespace": "kube-node-lease"}, "spec": {"holderIdentity": "n1"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let event = json!({"metadata": {"name": "e", "namespace": "default"}, "reason": "Started", "type": "Normal",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "mine"}});
    let condition = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let none = Value::Null;
    let account = "/api/v1/namespaces/default/serviceaccounts";
    let cases = [
        (
            "PATCH",
            format!("{NODES}/n1"),
            json!({"metadata": {"labels": {"kubernetes.io/arch": "amd64"}}}),
            200,
        ),
        ("PATCH", format!("{NODES}/n1/status"), condition.clone(), 200),
        ("GET", format!("{NODES}/n1"), none.clone(), 200),
        ("POST", leases.to_owned(), lease.clone(), 201),
        ("PATCH", format!("{leases}/n1"), json!({"spec": {"leaseDurationSeconds": 40}}), 200),
        ("POST", PODS.to_owned(), mirror, 201),
        ("PATCH", format!("{PODS}/mine/status"), condition.clone(), 200),
        ("POST", format!("{account}/default/token"), review.clone(), 201),
        ("POST", "/api/v1/namespaces/default/events".to_owned(), event, 201),
        ("POST", format!("{PODS}/mine/eviction"), json!({"metadata": {"name": "mine"}}), 201),
        ("DELETE", format!("{PODS}/mirror?gracePeriodSeconds=0"), none, 200),
    ];
    for (method, path, body, code) in cases {
        let answer = kubelet(&cluster, method, &path, &body).await?;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text());
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelets_do_not_touch_what_is_others() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    for name in ["n1", "n2"] {
        cluster.ok("POST", NODES, &json!({"metadata": {"name": name}})).await?;
    }
    let mine = cluster.ok("POST", PODS, &pod("mine", "n1")).await?;
    cluster.ok("POST", PODS, &pod("theirs", "n2")).await?;
    cluster.ok("POST", "/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "s"}})).await?;
    let condition = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let unbound = json!({"spec": {"expirationSeconds": 3607}});
    let bound = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "mine", "uid": mine["metadata"]["uid"]}}});
    let account = "/api/v1/namespaces/default/serviceaccounts";
    let none = Value::Null;
    let cases = [
        ("PATCH", format!("{NODES}/n2/status"), condition.clone(), "is not allowed to modify node"),
        (
            "PATCH",
            format!("{NODES}/n1"),
            json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
            "not allowed to modify taints",
        ),
        (
            "PATCH",
            format!("{NODES}/n1"),
            json!({"metadata": {"labels": {"node-restriction.kubernetes.io/a": "b"}}}),
            "is not allowed to modify labels",
        ),
        ("DELETE", format!("{NODES}/n1"), none.clone(), "cannot delete resource"),
        (
            "PATCH",
            format!("{PODS}/theirs/status"),
            condition,
            "can only update pod status for pods with spec.nodeName set to itself",
        ),
        (
            "DELETE",
            format!("{PODS}/theirs"),
            none.clone(),
            "can only delete pods with spec.nodeName set to itself",
        ),
        ("POST", PODS.to_owned(), pod("plain", "n1"), "can only create mirror pods"),
        ("POST", format!("{account}/default/token"), unbound, "not bound to a pod"),
        ("POST", format!("{account}/other/token"), bound, "no relationship found between node"),
        (
            "GET",
            "/api/v1/namespaces/default/secrets/s".to_owned(),
            none,
            "no relationship found between node",
        ),
    ];
    for (method, path, body, why) in cases {
        let answer = kubelet(&cluster, method, &path, &body).await?;
        assert_eq!(answer.code, 403, "{method} {path}: {}", answer.text());
        assert!(answer.message().contains(why), "{method} {path}: {}", answer.message());
    }
    cluster.stop().await;
    Ok(())
}
