//! Plug-ins that look at a pod and one node, without its pods' resources.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Taint;
use placement::nodes::{NodeRequirement, NodeTerm, tolerates, untolerated};

use crate::args::NodeAffinityArgs;
use crate::cache::Snapshot;
use crate::framework::{Change, Filter, Normalise, Plugin, Score, Unfit, accepts};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// Taint that stands for `spec.unschedulable`.
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Cordoned nodes.
#[derive(Debug)]
pub(super) struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Filter<'a> {
        let cordon =
            Taint { key: UNSCHEDULABLE_TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() };
        if pod.tolerations.iter().any(|toleration| tolerates(toleration, &cordon)) {
            return Filter::Skip;
        }
        Filter::Each(Box::new(|node| {
            if node.unschedulable { Err(Unfit::never("node(s) were unschedulable")) } else { Ok(()) }
        }))
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo, snapshot: &Snapshot) -> bool {
        matches!(change, Change::Node(node, what)
            if (what.added || what.taints) && accepts(self, pod, node, snapshot))
    }
}

/// `spec.nodeName`. Pods that have one are not scheduled; the filter serves those who ask about other pods.
#[derive(Debug)]
pub(super) struct NodeName;

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

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo, snapshot: &Snapshot) -> bool {
        matches!(change, Change::Node(node, what) if what.added && accepts(self, pod, node, snapshot))
    }
}

/// Taints and tolerations.
#[derive(Debug)]
pub(super) struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Filter<'a> {
        Filter::Each(Box::new(|node| {
            match untolerated(&pod.tolerations, &node.taints, &["NoSchedule", "NoExecute"]) {
                None => Ok(()),
                Some(_) => Err(Unfit::never("node(s) had untolerated taint(s)")),
            }
        }))
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a [&'a NodeInfo], _: &'a Snapshot) -> Score<'a> {
        const EFFECT: &str = "PreferNoSchedule";
        Score::Each(
            Box::new(|node| {
                let disliked =
                    node.taints.iter().filter(|taint| taint.effect == EFFECT).filter(|taint| {
                        !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint))
                    });
                disliked.count() as i64
            }),
            Normalise::Reversed,
        )
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo, snapshot: &Snapshot) -> bool {
        matches!(change, Change::Node(node, what)
            if (what.added || what.taints) && accepts(self, pod, node, snapshot))
    }
}

/// `spec.nodeSelector` and node affinity, and the affinity the configuration adds to that of all pods.
#[derive(Debug, Default)]
pub(super) struct NodeAffinity {
    added: Option<NodeRequirement>,
    preferred: Vec<(i64, NodeTerm)>,
}

impl NodeAffinity {
    /// With the configuration's affinity.
    pub(super) fn new(args: &NodeAffinityArgs) -> Self {
        let Some(affinity) = &args.added_affinity else { return Self::default() };
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref();
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        Self {
            added: required.map(NodeRequirement::of_selector),
            preferred: preferred.map(|p| (i64::from(p.weight), NodeTerm::new(&p.preference))).collect(),
        }
    }
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Filter<'a> {
        if pod.node_requirement.is_everything() && self.added.is_none() {
            return Filter::Skip;
        }
        let each = Box::new(|node: &NodeInfo| {
            if self.added.as_ref().is_some_and(|added| !added.matches(&node.labels, &node.name)) {
                return Err(Unfit::never("node(s) didn't match scheduler-enforced node affinity"));
            }
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
        if pod.preferred_nodes.is_empty() && self.preferred.is_empty() {
            return Score::Skip;
        }
        Score::Each(
            Box::new(|node| {
                let wishes = pod.preferred_nodes.iter().chain(&self.preferred);
                let liked = wishes.filter(|(_, term)| term.matches(&node.labels, &node.name));
                liked.map(|(weight, _)| weight).sum()
            }),
            Normalise::Highest,
        )
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo, snapshot: &Snapshot) -> bool {
        matches!(change, Change::Node(node, what)
            if (what.added || what.labels) && accepts(self, pod, node, snapshot))
    }
}

/// Host ports.
#[derive(Debug)]
pub(super) struct NodePorts;

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

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo, _: &Snapshot) -> bool {
        match change {
            Change::Node(_, what) => what.added,
            Change::PodDelete(gone) => {
                gone.host_ports.iter().any(|held| pod.host_ports.iter().any(|wanted| wanted.conflicts(held)))
            }
            _ => false,
        }
    }
}
