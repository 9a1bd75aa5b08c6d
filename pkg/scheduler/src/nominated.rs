//! Pods that were promised room on a node: their victims are leaving, and what they leave is not for others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// Nominated pods by node.
#[derive(Debug, Clone, Default)]
pub struct Nominated {
    by_node: HashMap<String, BTreeMap<String, Arc<PodInfo>>>,
    nodes: HashMap<String, String>,
}

impl Nominated {
    /// Promises a node, replacing an earlier promise.
    pub fn put(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove(&pod.uid);
        self.nodes.insert(pod.uid.clone(), node.to_owned());
        self.by_node.entry(node.to_owned()).or_default().insert(pod.uid.clone(), pod);
    }

    /// Takes a promise back; whether there was one.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(node) = self.nodes.remove(uid) else { return false };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.remove(uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
        true
    }

    /// Pods promised a node.
    pub fn on(&self, node: &str) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.by_node.get(node).into_iter().flat_map(BTreeMap::values)
    }

    /// The node as it will be for a pod: with everybody on it to whom it was promised and who comes first. `None` when
    /// that is nobody.
    pub fn applied(&self, node: &NodeInfo, pod: &PodInfo) -> Option<NodeInfo> {
        let mut first =
            self.on(&node.name).filter(|p| p.priority >= pod.priority && p.uid != pod.uid).peekable();
        first.peek()?;
        let mut full = node.clone();
        first.for_each(|p| full.add_pod(p.clone()));
        Some(full)
    }

    /// Pods promised a node that come after a pod: room made for it is not theirs.
    pub fn outranked(&self, node: &str, pod: &PodInfo) -> Vec<Arc<PodInfo>> {
        self.on(node).filter(|p| p.priority < pod.priority).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod, snapshot};

    #[test]
    fn promises_bind_those_who_come_after() {
        let mut nominated = Nominated::default();
        let promised = Arc::new(pod("high").priority(10).requests("1", "0").build());
        nominated.put(promised.clone(), "n1");
        let nodes = snapshot(vec![node("n1")], vec![]).nodes;
        let of = |priority: i32| {
            nominated.applied(&nodes[0], &pod("x").priority(priority).build()).map(|n| n.requested.milli_cpu)
        };
        assert_eq!((of(5), of(10), of(11)), (Some(1000), Some(1000), None));
        assert!(nominated.applied(&nodes[0], &promised).is_none(), "not beside itself");
        assert_eq!(nominated.outranked("n1", &pod("x").priority(11).build()).len(), 1);
        nominated.put(promised, "n2");
        assert_eq!(nominated.on("n1").count(), 0);
        assert!(nominated.remove("uid-high") && !nominated.remove("uid-high"));
    }
}
