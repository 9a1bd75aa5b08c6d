//! A pod as plug-ins see it: everything parsed once, when the pod changed.

use std::sync::Arc;

use apimachinery::selectors::{LabelSelector, Operator, Requirement};
use k8s_openapi::api::core::v1::{
    Pod, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint, Volume, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as ApiSelector;

use placement::nodes::{NodeRequirement, NodeTerm};
use placement::volumes::claims_of;

use crate::resources::{Resources, non_zero_requests, requests};

pub use placement::nodes::Labels;

/// A pod with its scheduling constraints parsed.
#[derive(Debug, Clone)]
pub struct PodInfo {
    /// The object.
    pub pod: Arc<Pod>,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.nodeName`, empty before it is bound.
    pub node_name: String,
    /// `spec.priority`.
    pub priority: i32,
    /// What it asks for.
    pub requests: Resources,
    /// CPU and memory as scoring counts them.
    pub non_zero: (i64, i64),
    /// Ports on the node.
    pub host_ports: Vec<HostPort>,
    /// `spec.tolerations`.
    pub tolerations: Vec<Toleration>,
    /// `spec.nodeSelector` and required node affinity.
    pub node_requirement: NodeRequirement,
    /// Preferred node affinity, by weight.
    pub preferred_nodes: Vec<(i64, NodeTerm)>,
    /// Required pod affinity.
    pub affinity: Vec<AffinityTerm>,
    /// Required pod anti-affinity.
    pub anti_affinity: Vec<AffinityTerm>,
    /// Preferred pod affinity, by weight; anti-affinity with a negative one.
    pub preferred_pods: Vec<(i64, AffinityTerm)>,
    /// Topology spread constraints.
    pub spread: Vec<SpreadConstraint>,
    /// Images of its containers.
    pub images: Vec<String>,
    /// Claims it uses, each with whether it is made for an ephemeral volume of the pod.
    pub claims: Vec<(String, bool)>,
    /// Volumes that only one pod of a node may use, as some kinds of disks are.
    pub disks: Vec<Volume>,
}

/// A port on the node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Address, `0.0.0.0` for all.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// Which pods a term of pod affinity is about.
#[derive(Debug, Clone)]
pub struct AffinityTerm {
    /// Pods with these labels.
    pub selector: LabelSelector,
    /// In these namespaces.
    pub namespaces: Vec<String>,
    /// Or in namespaces with these labels.
    pub namespace_selector: Option<LabelSelector>,
    /// Counted together where this node label has one value.
    pub topology_key: String,
}

/// A topology spread constraint.
#[derive(Debug, Clone)]
pub struct SpreadConstraint {
    /// Node label whose values are the domains.
    pub topology_key: String,
    /// Largest difference in numbers of pods.
    pub max_skew: i64,
    /// Filter (`DoNotSchedule`) or score (`ScheduleAnyway`).
    pub hard: bool,
    /// Pods that are counted.
    pub selector: LabelSelector,
    /// Domains that should exist; fewer make the least number zero.
    pub min_domains: i64,
    /// Nodes the pod may not run on do not count (`nodeAffinityPolicy: Honor`).
    pub honour_affinity: bool,
    /// Nodes whose taints it does not tolerate do not count (`nodeTaintsPolicy: Honor`).
    pub honour_taints: bool,
}

/// A label selector of the API; one that cannot be parsed selects nothing.
pub fn selector(api: Option<&ApiSelector>) -> LabelSelector {
    let nothing = || LabelSelector::from_value(None).unwrap_or_else(|_| LabelSelector::new(Vec::new()));
    let Some(api) = api else { return nothing() };
    apimachinery::to_value(api)
        .ok()
        .and_then(|value| LabelSelector::from_value(Some(&value)).ok())
        .unwrap_or_else(nothing)
}

impl AffinityTerm {
    fn new(term: &PodAffinityTerm, pod: &Pod) -> Self {
        let own = pod.metadata.namespace.clone().unwrap_or_default();
        let listed = term.namespaces.clone().unwrap_or_default();
        let namespaces =
            if listed.is_empty() && term.namespace_selector.is_none() { vec![own] } else { listed };
        let labels = pod.metadata.labels.as_ref();
        let own_value = |key: &String| labels.and_then(|l| l.get_key_value(key));
        let mut requirements = selector(term.label_selector.as_ref()).requirements().to_vec();
        let nothing = term.label_selector.is_none();
        // matchLabelKeys: pods that share the value this pod has (KEP-3633).
        for (key, value) in term.match_label_keys.iter().flatten().filter_map(own_value) {
            requirements.extend(Requirement::new(key, Operator::In, &[value.as_str()]).ok());
        }
        for (key, value) in term.mismatch_label_keys.iter().flatten().filter_map(own_value) {
            requirements.extend(Requirement::new(key, Operator::NotIn, &[value.as_str()]).ok());
        }
        Self {
            selector: if nothing { selector(None) } else { LabelSelector::new(requirements) },
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(|s| selector(Some(s))),
            topology_key: term.topology_key.clone(),
        }
    }

    /// Whether the term is about a pod; `namespace_labels` are those of the pod's namespace.
    pub fn matches(&self, pod: &PodInfo, namespace_labels: Option<&Labels>) -> bool {
        let namespace = self.namespaces.contains(&pod.namespace)
            || self.namespace_selector.as_ref().is_some_and(|s| s.matches(&namespace_labels));
        namespace && self.selector.matches(&pod.labels())
    }
}

impl SpreadConstraint {
    /// Parses a constraint of a pod.
    pub fn new(constraint: &TopologySpreadConstraint, pod: &Pod) -> Self {
        let mut requirements = selector(constraint.label_selector.as_ref()).requirements().to_vec();
        for key in constraint.match_label_keys.iter().flatten() {
            if let Some(value) = pod.metadata.labels.as_ref().and_then(|l| l.get(key)) {
                requirements.extend(Requirement::new(key, Operator::In, &[value.as_str()]).ok());
            }
        }
        let selector = match &constraint.label_selector {
            None => selector(None),
            Some(_) => LabelSelector::new(requirements),
        };
        Self {
            topology_key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            selector,
            min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
            honour_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honour_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

fn is_disk(volume: &Volume) -> bool {
    volume.gce_persistent_disk.is_some()
        || volume.aws_elastic_block_store.is_some()
        || volume.iscsi.is_some()
        || volume.rbd.is_some()
}

impl PodInfo {
    /// Parses a pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        let empty = PodSpec::default();
        let (metadata, spec) = (&pod.metadata, pod.spec.as_ref().unwrap_or(&empty));
        let affinity = spec.affinity.as_ref();
        let preferred_nodes = affinity
            .and_then(|a| {
                a.node_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_ref()
            })
            .into_iter()
            .flatten()
            .filter(|p| p.weight != 0)
            .map(|p| (i64::from(p.weight), NodeTerm::new(&p.preference)))
            .collect();
        let with = affinity.and_then(|a| a.pod_affinity.as_ref());
        let against = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let terms = |list: Option<&Vec<PodAffinityTerm>>| -> Vec<AffinityTerm> {
            list.into_iter().flatten().map(|term| AffinityTerm::new(term, &pod)).collect()
        };
        let preferred_pods = {
            let like = with.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
            let dislike =
                against.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
            let weighted = |list: Option<&Vec<_>>, sign: i64| -> Vec<(i64, AffinityTerm)> {
                list.into_iter()
                    .flatten()
                    .map(|t: &WeightedPodAffinityTerm| {
                        (sign * i64::from(t.weight), AffinityTerm::new(&t.pod_affinity_term, &pod))
                    })
                    .collect()
            };
            let mut all = weighted(like, 1);
            all.extend(weighted(dislike, -1));
            all
        };
        let sidecars =
            spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let host_ports = spec
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|port| {
                Some(HostPort {
                    ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into()),
                    protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                    port: port.host_port.filter(|p| *p > 0)?,
                })
            })
            .collect();
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            node_name: spec.node_name.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            requests: requests(spec),
            non_zero: non_zero_requests(spec),
            host_ports,
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_requirement: NodeRequirement::of_pod(spec),
            preferred_nodes,
            affinity: terms(
                with.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            anti_affinity: terms(
                against.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred_pods,
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|constraint| SpreadConstraint::new(constraint, &pod))
                .collect(),
            images: spec.containers.iter().filter_map(|c| c.image.clone()).collect(),
            claims: claims_of(&pod),
            disks: spec.volumes.iter().flatten().filter(|v| is_disk(v)).cloned().collect(),
            pod,
        }
    }

    /// Labels of the pod.
    pub fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    /// Has wishes or demands about the pods beside it.
    pub fn is_affine(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred_pods.is_empty())
    }

    /// Being deleted.
    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Over: Succeeded or Failed.
    pub fn is_finished(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// Waits for gates to be lifted (KEP-3521).
    pub fn is_gated(&self) -> bool {
        self.pod
            .spec
            .as_ref()
            .is_some_and(|s| s.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()))
    }

    /// `spec.schedulerName`.
    pub fn scheduler_name(&self) -> &str {
        let asked = self.pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref());
        asked.unwrap_or(crate::DEFAULT_SCHEDULER)
    }

    /// `status.nominatedNodeName`.
    pub fn nominated_node(&self) -> Option<&str> {
        self.pod.status.as_ref()?.nominated_node_name.as_deref().filter(|name| !name.is_empty())
    }
}
