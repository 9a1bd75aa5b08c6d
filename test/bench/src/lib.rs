//! What the benchmarks of the API server store.

use serde_json::{Value, json};

/// A pod as a Deployment's would be: about 4 KB as sent, twice that as stored.
pub fn pod(i: usize) -> Value {
    let env: Vec<Value> =
        (0..24).map(|e| json!({"name": format!("VARIABLE_{e}"), "value": "v".repeat(40)})).collect();
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example/app:v1", "env": env,
               "ports": [{"containerPort": 8080, "name": "http"}],
               "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
               "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
               "volumeMounts": [{"name": "config", "mountPath": "/etc/app"}]})
    };
    json!({"apiVersion": "v1", "kind": "Pod",
           "metadata": {"name": format!("pod-{i}"),
                        "labels": {"app": format!("app-{}", i % 100), "tier": "web"},
                        "annotations": {"note": "n".repeat(200)}},
           "spec": {"automountServiceAccountToken": false, "nodeName": format!("node-{}", i % 50),
                    "containers": [container("app"), container("sidecar")],
                    "volumes": [{"name": "config", "configMap": {"name": "app"}}]}})
}
