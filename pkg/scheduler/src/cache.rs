//! The snapshot of the cluster: nodes with their pods, changed in place and shared by reference.
//!
//! A pod is *assumed* on its node from the moment it is decided until the API says the same, so that the next decision
//! counts it. Pods may be known before their node; they wait in a node entry that is not listed.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::node::NodeInfo;
use crate::pod::{Labels, PodInfo};
use crate::volumes::Volumes;
use crate::workloads::Workloads;

/// Nodes as a scheduling cycle sees them.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Nodes that exist, in no particular order. Each is replaced, never changed, while someone else holds it.
    pub nodes: Vec<Arc<NodeInfo>>,
    /// Labels of namespaces.
    pub namespaces: Arc<HashMap<String, Labels>>,
    /// Volumes and claims.
    pub volumes: Arc<Volumes>,
    /// Services and controllers.
    pub workloads: Arc<Workloads>,
}

impl Snapshot {
    /// The same with one node changed, to ask what would be.
    #[must_use]
    pub fn with_node(&self, changed: Arc<NodeInfo>) -> Self {
        let mut other = self.clone();
        if let Some(node) = other.nodes.iter_mut().find(|node| node.name == changed.name) {
            *node = changed;
        }
        other
    }
}

/// The cluster, kept up to date by events.
#[derive(Debug, Default)]
pub struct Cache {
    snapshot: Snapshot,
    /// Index of a listed node.
    index: HashMap<String, usize>,
    /// Pods of nodes that are not known (yet, or any more).
    homeless: HashMap<String, Vec<Arc<PodInfo>>>,
    /// Node of every pod counted.
    pods: HashMap<String, Arc<PodInfo>>,
    /// UIDs of assumed pods.
    assumed: HashMap<String, String>,
}

impl Cache {
    /// What a cycle looks at.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Adds a node or takes over its change.
    pub fn set_node(&mut self, node: &Node) {
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Some(index) = self.index.get(&name) {
            Arc::make_mut(&mut self.snapshot.nodes[*index]).set_node(node);
            return;
        }
        let mut info = NodeInfo::default();
        info.set_node(node);
        for pod in self.homeless.remove(&name).unwrap_or_default() {
            info.add_pod(pod);
        }
        self.index.insert(name, self.snapshot.nodes.len());
        self.snapshot.nodes.push(Arc::new(info));
    }

    /// Removes a node; its pods stay counted until they are deleted, should it come back.
    pub fn remove_node(&mut self, name: &str) {
        let Some(index) = self.index.remove(name) else { return };
        let info = self.snapshot.nodes.swap_remove(index);
        if let Some(moved) = self.snapshot.nodes.get(index) {
            self.index.insert(moved.name.clone(), index);
        }
        if !info.pods.is_empty() {
            self.homeless.insert(name.to_owned(), info.pods.clone());
        }
    }

    /// Takes over a namespace's labels.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => {
                drop(Arc::make_mut(&mut self.snapshot.namespaces).insert(name.to_owned(), labels));
            }
            None => drop(Arc::make_mut(&mut self.snapshot.namespaces).remove(name)),
        }
    }

    /// Volumes and claims, to be changed.
    pub fn volumes(&mut self) -> &mut Volumes {
        Arc::make_mut(&mut self.snapshot.volumes)
    }

    /// Services and controllers, to be changed.
    pub fn workloads(&mut self) -> &mut Workloads {
        Arc::make_mut(&mut self.snapshot.workloads)
    }

    /// A node that exists.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.index.get(name).map(|index| &self.snapshot.nodes[*index])
    }

    /// A pod that is counted on a node.
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid)
    }

    /// Numbers of nodes, pods and assumed pods.
    pub fn sizes(&self) -> [usize; 3] {
        [self.snapshot.nodes.len(), self.pods.len(), self.assumed.len()]
    }

    /// Adds or replaces a pod that is on a node.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) {
        self.assumed.remove(&pod.uid);
        self.place(pod);
    }

    /// Counts a pod on a node it is about to be bound to.
    pub fn assume(&mut self, pod: &PodInfo, node: &str) {
        let on_node = PodInfo { node_name: node.to_owned(), ..PodInfo::clone(pod) };
        self.assumed.insert(pod.uid.clone(), node.to_owned());
        self.place(Arc::new(on_node));
    }

    /// Takes an assumed pod back: binding failed.
    pub fn forget(&mut self, uid: &str) {
        if self.assumed.remove(uid).is_some() {
            self.remove_pod(uid);
        }
    }

    /// Whether a pod is assumed and not yet seen on its node.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains_key(uid)
    }

    fn place(&mut self, pod: Arc<PodInfo>) {
        self.remove_pod(&pod.uid);
        self.pods.insert(pod.uid.clone(), pod.clone());
        match self.index.get(&pod.node_name) {
            Some(index) => Arc::make_mut(&mut self.snapshot.nodes[*index]).add_pod(pod),
            None => self.homeless.entry(pod.node_name.clone()).or_default().push(pod),
        }
    }

    /// Removes a pod; `false` when it was not counted.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(pod) = self.pods.remove(uid) else { return false };
        self.assumed.remove(uid);
        match self.index.get(&pod.node_name) {
            Some(index) => drop(Arc::make_mut(&mut self.snapshot.nodes[*index]).remove_pod(uid)),
            None => {
                if let Some(pods) = self.homeless.get_mut(&pod.node_name) {
                    pods.retain(|p| p.uid != uid);
                    if pods.is_empty() {
                        self.homeless.remove(&pod.node_name);
                    }
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    fn cpu(cache: &Cache, name: &str) -> Option<i64> {
        cache.snapshot().nodes.iter().find(|n| n.name == name).map(|n| n.requested.milli_cpu)
    }

    #[test]
    fn pods_are_counted_once_whatever_the_order() {
        let mut cache = Cache::default();
        let waiting = pod("a").requests("500m", "0").build();
        cache.set_pod(Arc::new(pod("early").requests("1", "0").on("n1").build()));
        cache.set_node(&node("n1").build());
        assert_eq!(cpu(&cache, "n1"), Some(1000), "pods known before their node count");
        cache.assume(&waiting, "n1");
        assert!(cache.is_assumed(&waiting.uid));
        assert_eq!(cpu(&cache, "n1"), Some(1500));
        cache.set_pod(Arc::new(pod("a").requests("500m", "0").on("n1").build()));
        assert_eq!(cpu(&cache, "n1"), Some(1500), "seen and assumed are one");
        assert!(!cache.is_assumed(&waiting.uid));
        cache.forget(&waiting.uid);
        assert_eq!(cpu(&cache, "n1"), Some(1500), "what was seen is not forgotten");
        cache.remove_node("n1");
        assert_eq!(cpu(&cache, "n1"), None);
        cache.remove_pod(&waiting.uid);
        cache.set_node(&node("n1").build());
        assert_eq!(cpu(&cache, "n1"), Some(1000));
    }

    #[test]
    fn a_failed_binding_is_taken_back() {
        let mut cache = Cache::default();
        cache.set_node(&node("n1").build());
        let waiting = pod("a").requests("500m", "0").build();
        cache.assume(&waiting, "n1");
        cache.forget(&waiting.uid);
        assert_eq!(cpu(&cache, "n1"), Some(0));
    }

    #[test]
    fn removing_one_node_keeps_the_others_reachable() {
        let mut cache = Cache::default();
        for name in ["n1", "n2", "n3"] {
            cache.set_node(&node(name).build());
        }
        cache.remove_node("n1");
        cache.set_pod(Arc::new(pod("a").requests("1", "0").on("n3").build()));
        assert_eq!(cpu(&cache, "n3"), Some(1000));
    }
}
