//! Builders of pods and nodes for tests.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::cache::{Cache, Snapshot};
use crate::pod::PodInfo;
use crate::profile::{Framework, Profile};

pub(crate) struct PodBuilder(Value);

pub(crate) fn pod(name: &str) -> PodBuilder {
    PodBuilder(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {}},
        "spec": {"containers": [{"name": "c", "image": "image"}]},
    }))
}

impl PodBuilder {
    pub(crate) fn requests(mut self, cpu: &str, memory: &str) -> Self {
        self.0["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu, "memory": memory}});
        self
    }

    pub(crate) fn on(mut self, node: &str) -> Self {
        self.0["spec"]["nodeName"] = json!(node);
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = json!(value);
        self
    }

    pub(crate) fn priority(mut self, priority: i32) -> Self {
        self.0["spec"]["priority"] = json!(priority);
        self
    }

    pub(crate) fn spec(mut self, field: &str, value: Value) -> Self {
        self.0["spec"][field] = value;
        self
    }

    pub(crate) fn status(mut self, field: &str, value: Value) -> Self {
        self.0["status"][field] = value;
        self
    }

    pub(crate) fn deleted(mut self) -> Self {
        self.0["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        self
    }

    pub(crate) fn host_port(mut self, port: i32) -> Self {
        self.0["spec"]["containers"][0]["ports"] = json!([{"containerPort": port, "hostPort": port}]);
        self
    }

    pub(crate) fn api(self) -> Pod {
        serde_json::from_value(self.0).expect("a pod")
    }

    pub(crate) fn build(self) -> PodInfo {
        PodInfo::new(Arc::new(self.api()))
    }
}

pub(crate) struct NodeBuilder(Value);

pub(crate) fn node(name: &str) -> NodeBuilder {
    NodeBuilder(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    }))
}

impl NodeBuilder {
    pub(crate) fn allocatable(mut self, cpu: &str, memory: &str, pods: &str) -> Self {
        self.0["status"]["allocatable"] = json!({"cpu": cpu, "memory": memory, "pods": pods});
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = json!(value);
        self
    }

    pub(crate) fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        self.0["spec"]["taints"] = json!([{"key": key, "value": value, "effect": effect}]);
        self
    }

    pub(crate) fn spec(mut self, field: &str, value: Value) -> Self {
        self.0["spec"][field] = value;
        self
    }

    pub(crate) fn image(mut self, name: &str, size: i64) -> Self {
        self.0["status"]["images"] = json!([{"names": [name], "sizeBytes": size}]);
        self
    }

    pub(crate) fn build(self) -> Node {
        serde_json::from_value(self.0).expect("a node")
    }
}

/// The default profile.
pub(crate) fn framework() -> Framework {
    Framework::new(&Profile::named(crate::DEFAULT_SCHEDULER)).expect("the default profile")
}

/// A snapshot of nodes and the pods on them.
pub(crate) fn snapshot(nodes: Vec<NodeBuilder>, pods: Vec<PodBuilder>) -> Snapshot {
    let mut cache = Cache::default();
    for node in nodes {
        cache.set_node(&node.build());
    }
    for pod in pods {
        cache.set_pod(Arc::new(pod.build()));
    }
    cache.snapshot().clone()
}
