//! What every part of the kubelet shares: configuration, runtime, API, events, facts about the node.

use std::sync::Arc;

use arc_swap::ArcSwap;
use client::events::{EventRecorder, EventType};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::env::Facts;
use crate::images::Images;
use crate::network::{NodeNames, ResolvConf};
use crate::objects::Objects;
use crate::podutil::{CONFIG_MIRROR, Kind, PodExt, field_path};
use crate::resources::{NodeFacts, ResourceList};
use crate::statuses::Statuses;

/// What changes about the node while the kubelet runs.
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    /// Its addresses, the primary first.
    pub ips: Vec<String>,
    /// What pods may use.
    pub allocatable: ResourceList,
}

/// Shared by all tasks; built once.
pub struct Kubelet {
    /// The configuration.
    pub config: Config,
    /// The container runtime.
    pub runtime: cri::Runtime,
    /// Its name, as in `containerd://ID`.
    pub runtime_name: String,
    /// The client for the node's lease and status.
    pub heartbeats: kube::Client,
    /// Objects of the API.
    pub objects: Objects,
    /// Pod statuses on their way to the API.
    pub statuses: Arc<Statuses>,
    /// Images.
    pub images: Images,
    /// Cgroups above containers.
    pub cgroups: Cgroups,
    /// Facts that do not change.
    pub facts: NodeFacts,
    /// Events.
    pub events: EventRecorder,
    /// What volumes hold.
    pub volume_stats: crate::volumestats::VolumeStats,
    /// Facts that do.
    pub node: ArcSwap<NodeState>,
}

impl std::fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubelet").field("node", &self.config.node_name).finish_non_exhaustive()
    }
}

impl Kubelet {
    /// The node's addresses, the primary first.
    pub fn host_ips(&self) -> Vec<String> {
        self.node.load().ips.clone()
    }

    /// Facts of the downward API for a pod with these addresses.
    pub fn downward_facts(&self, pod_ips: &[String]) -> Facts {
        let node = self.node.load();
        Facts { pod_ips: pod_ips.to_vec(), host_ips: node.ips.clone(), allocatable: node.allocatable.clone() }
    }

    /// Names as pods shall resolve them. The node's resolver file is read each time: it changes under DHCP.
    pub fn names(&self) -> NodeNames {
        let text = std::fs::read_to_string(&self.config.resolv_conf).unwrap_or_default();
        NodeNames {
            cluster_dns: self.config.cluster_dns.clone(),
            cluster_domain: self.config.cluster_domain.clone(),
            resolv: ResolvConf::parse(&text),
        }
    }

    /// An event about a pod.
    pub fn pod_event(&self, pod: &Pod, kind: EventType, reason: &str, note: &str) {
        self.events.event(&reference(pod), kind, reason, "", note);
    }

    /// An event about a container of a pod.
    pub fn container_event(
        &self,
        pod: &Pod,
        list: Kind,
        name: &str,
        kind: EventType,
        reason: &str,
        note: &str,
    ) {
        let regarding = ObjectReference { field_path: Some(field_path(list, name)), ..reference(pod) };
        self.events.event(&regarding, kind, reason, "", note);
    }

    /// An event about the node.
    pub fn node_event(&self, kind: EventType, reason: &str, note: &str) {
        let regarding = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(self.config.node_name.clone()),
            // As every kubelet: the name stands for the uid, which is not known before registration.
            uid: Some(self.config.node_name.clone()),
            ..ObjectReference::default()
        };
        self.events.event(&regarding, kind, reason, "", note);
    }
}

fn reference(pod: &Pod) -> ObjectReference {
    let mut reference = client::events::reference(pod);
    // Events about a static pod go to its mirror, whose hash is the static pod's uid.
    if let Some(hash) = pod.annotation(CONFIG_MIRROR) {
        reference.uid = Some(hash.to_owned());
    }
    reference
}
