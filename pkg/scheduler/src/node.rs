//! A node as plug-ins see it: sums kept up to date pod by pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::pod::{Labels, PodInfo};
use crate::resources::Resources;

/// A node with its pods.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// Name of the node.
    pub name: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// What pods may use.
    pub allocatable: Resources,
    /// How many pods it may run.
    pub max_pods: i64,
    /// Images it has, with their sizes in bytes.
    pub images: BTreeMap<String, i64>,
    /// What its pods ask for.
    pub requested: Resources,
    /// CPU and memory of its pods as scoring counts them.
    pub non_zero: (i64, i64),
    /// Its pods, assumed ones too.
    pub pods: Vec<Arc<PodInfo>>,
    /// How many of them have wishes or demands about the pods beside them.
    pub affine: usize,
    /// How many of them demand that some pods are not beside them.
    pub anti_affine: usize,
}

impl NodeInfo {
    /// Takes over what the object says, keeping the pods.
    pub fn set_node(&mut self, node: &Node) {
        self.name = node.metadata.name.clone().unwrap_or_default();
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        let spec = node.spec.as_ref();
        self.taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        self.unschedulable = spec.and_then(|s| s.unschedulable).unwrap_or(false);
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref());
        self.allocatable = allocatable.map(Resources::from_list).unwrap_or_default();
        self.max_pods = allocatable.and_then(|a| a.get("pods")).and_then(|q| q.0.parse().ok()).unwrap_or(0);
        self.images = status
            .and_then(|s| s.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect();
    }

    /// Adds a pod.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.non_zero.0 += pod.non_zero.0;
        self.non_zero.1 += pod.non_zero.1;
        self.affine += usize::from(pod.is_affine());
        self.anti_affine += usize::from(!pod.anti_affinity.is_empty());
        self.pods.push(pod);
    }

    /// Removes a pod by its UID; `false` when it is not here.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(index) = self.pods.iter().position(|p| p.uid == uid) else { return false };
        let pod = self.pods.swap_remove(index);
        self.requested.subtract(&pod.requests);
        self.non_zero.0 -= pod.non_zero.0;
        self.non_zero.1 -= pod.non_zero.1;
        self.affine -= usize::from(pod.is_affine());
        self.anti_affine -= usize::from(!pod.anti_affinity.is_empty());
        true
    }
}
