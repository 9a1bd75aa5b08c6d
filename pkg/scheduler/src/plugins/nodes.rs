//! Plug-ins that look at a pod and one node, without its pods' resources.

use std::collections::BTreeSet;

use crate::cache::Snapshot;
use crate::framework::{ClusterEvent, Filter, Normalise, Plugin, Score, Unfit};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, tolerates};

/// Taint that stands for `spec.unschedulable`.
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Cordoned nodes.
#[derive(Debug)]
pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Filter<'a> {
        if tolerates(&pod.tolerations, UNSCHEDULABLE_TAINT, "", "NoSchedule") {
            return Filter::Skip;
        }
        Filter::Each(Box::new(|node| {
            if node.unschedulable { Err(Unfit::never("node(s) were unschedulable")) } else { Ok(()) }
        }))
    }

    fn is_interested(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::NodeAdd | ClusterEvent::NodeTaints)
    }
}

/// `spec.nodeName`. Pods that have one are not scheduled; the filter serves those who ask about other pods.
#[derive(Debug)]
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Filter<'a> {
        if pod.node_name.is_empty() {
            return Filter::Skip;
        }
        Filter::Each(Box::new(|node| {
            if node.name == pod.node_name {
                Ok(())
            } else {
                Err(Unfit::never("node(s) didn't match the requested node name"))
            }
        }))
    }

    fn is_interested(&self, event: ClusterEvent) -> bool {
        event == ClusterEvent::NodeAdd
    }
}

/// Taints and tolerations.
#[derive(Debug)]
pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Filter<'a> {
        Filter::Each(Box::new(|node| {
            let untolerated = node.taints.iter().find(|taint| {
                matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
                    && !tolerates(
                        &pod.tolerations,
                        &taint.key,
                        taint.value.as_deref().unwrap_or(""),
                        &taint.effect,
                    )
            });
            match untolerated {
                None => Ok(()),
                Some(taint) => Err(Unfit::never(format!(
                    "node(s) had untolerated taint {{{}: {}}}",
                    taint.key,
                    taint.value.as_deref().unwrap_or("")
                ))),
            }
        }))
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a [&'a NodeInfo], _: &'a Snapshot) -> Score<'a> {
        const EFFECT: &str = "PreferNoSchedule";
        Score::Each(
            Box::new(|node| {
                let disliked = node.taints.iter().filter(|t| t.effect == EFFECT).filter(|taint| {
                    !tolerates(&pod.tolerations, &taint.key, taint.value.as_deref().unwrap_or(""), EFFECT)
                });
                disliked.count() as i64
            }),
            Normalise::Reversed,
        )
    }

    fn weight(&self) -> i64 {
        3
    }

    fn is_interested(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::NodeAdd | ClusterEvent::NodeTaints | ClusterEvent::PodItself)
    }
}

/// `spec.nodeSelector` and node affinity.
#[derive(Debug)]
pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Filter<'a> {
        if pod.node_requirement.is_everything() {
            return Filter::Skip;
        }
        let each = Box::new(|node: &NodeInfo| {
            if pod.node_requirement.matches(&node.labels, &node.name) {
                Ok(())
            } else {
                Err(Unfit::never("node(s) didn't match Pod's node affinity/selector"))
            }
        });
        match pod.node_requirement.only_names() {
            Some(names) => Filter::Only(names.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), each),
            None => Filter::Each(each),
        }
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a [&'a NodeInfo], _: &'a Snapshot) -> Score<'a> {
        if pod.preferred_nodes.is_empty() {
            return Score::Skip;
        }
        Score::Each(
            Box::new(|node| {
                let liked =
                    pod.preferred_nodes.iter().filter(|(_, term)| term.matches(&node.labels, &node.name));
                liked.map(|(weight, _)| weight).sum()
            }),
            Normalise::Highest,
        )
    }

    fn weight(&self) -> i64 {
        2
    }

    fn is_interested(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::NodeAdd | ClusterEvent::NodeLabels | ClusterEvent::PodItself)
    }
}

/// Host ports.
#[derive(Debug)]
pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Filter<'a> {
        if pod.host_ports.is_empty() {
            return Filter::Skip;
        }
        Filter::Each(Box::new(|node| {
            let taken = node
                .pods
                .iter()
                .flat_map(|p| &p.host_ports)
                .any(|used| pod.host_ports.iter().any(|wanted| wanted.conflicts(used)));
            if taken {
                Err(Unfit::now("node(s) didn't have free ports for the requested pod ports"))
            } else {
                Ok(())
            }
        }))
    }

    fn is_interested(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::NodeAdd | ClusterEvent::PodDelete)
    }
}
