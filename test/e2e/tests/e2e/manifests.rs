//! Objects that several topics use.

use e2e::{BUSYBOX, Kubectl, LONG, TESTSERVER};
use serde_json::{Value, json};

/// A pod of one container that runs a shell script.
pub(crate) fn shell_pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script]},
        ]},
    })
}

/// A pod that stays until it is deleted.
pub(crate) fn idle_pod(name: &str) -> Value {
    shell_pod(name, "trap 'exit 0' TERM; sleep 100000 & wait")
}

/// A pod with the test server on port 8080, ready while it is healthy.
pub(crate) fn server_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": server_spec(),
    })
}

/// A Deployment of test servers.
pub(crate) fn server_deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": server_spec()},
        },
    })
}

fn server_spec() -> Value {
    json!({"terminationGracePeriodSeconds": 1, "containers": [{
        "name": "web", "image": TESTSERVER, "args": ["8080"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthy", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1},
    }]})
}

/// Waits until a condition of objects is true.
pub(crate) fn wait_for(kubectl: &Kubectl, condition: &str, objects: &str) -> anyhow::Result<()> {
    let timeout = format!("--timeout={}s", LONG.as_secs());
    kubectl.run(&format!("wait --for=condition={condition} {objects} {timeout}")).map(drop)
}
