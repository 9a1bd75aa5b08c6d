//! Pods spread evenly over zones, nodes or whatever a label names (KEP-895, KEP-3022, KEP-3094).

use std::borrow::Cow;
use std::collections::HashMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use placement::nodes::untolerated;

use crate::args::{Defaulting, SpreadArgs};
use crate::cache::Snapshot;
use crate::framework::{Change, Filter, IGNORED, Normalise, Plugin, Score, Unfit};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, SpreadConstraint};

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Topology spread constraints, of pods and, for those that have none, of the configuration.
#[derive(Debug)]
pub(super) struct PodTopologySpread {
    defaults: Vec<TopologySpreadConstraint>,
    /// The defaults are the built-in ones, which hold for nodes without all the labels, too.
    built_in: bool,
}

impl PodTopologySpread {
    /// With its arguments.
    pub(super) fn new(args: &SpreadArgs) -> Self {
        let preferred = |key: &str, max_skew| TopologySpreadConstraint {
            max_skew,
            topology_key: key.into(),
            when_unsatisfiable: "ScheduleAnyway".into(),
            ..TopologySpreadConstraint::default()
        };
        match args.defaulting_type {
            Defaulting::System => {
                Self { defaults: vec![preferred(HOST, 3), preferred(ZONE, 5)], built_in: true }
            }
            Defaulting::List => Self { defaults: args.default_constraints.clone(), built_in: false },
        }
    }

    /// The constraints of a pod that are demands, or those that are wishes.
    fn constraints<'a>(
        &self,
        pod: &'a PodInfo,
        snapshot: &Snapshot,
        hard: bool,
    ) -> Cow<'a, [SpreadConstraint]> {
        if !pod.spread.is_empty() {
            return pod.spread.iter().filter(|c| c.hard == hard).cloned().collect();
        }
        let wanted = |c: &&TopologySpreadConstraint| (c.when_unsatisfiable == "DoNotSchedule") == hard;
        if !self.defaults.iter().any(|c| wanted(&c)) {
            return Cow::Borrowed(&[]);
        }
        let Some(selector) = snapshot.workloads.selector_of(pod) else { return Cow::Borrowed(&[]) };
        let of = |c| SpreadConstraint { selector: selector.clone(), ..SpreadConstraint::new(c, &pod.pod) };
        self.defaults.iter().filter(wanted).map(of).collect()
    }
}

/// Pods of the constraint on a node: in the pod's namespace, matching, not being deleted.
fn count(constraint: &SpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> i64 {
    let counted = node.pods.iter().filter(|other| {
        other.namespace == pod.namespace
            && !other.is_terminating()
            && constraint.selector.matches(&other.labels())
    });
    counted.count() as i64
}

/// Whether a node's pods and domain count at all.
fn is_counted(constraint: &SpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    let affine = !constraint.honour_affinity || pod.node_requirement.matches(&node.labels, &node.name);
    let tolerated = !constraint.honour_taints
        || untolerated(&pod.tolerations, &node.taints, &["NoSchedule", "NoExecute"]).is_none();
    affine && tolerated
}

/// A node counts for a group of constraints only when it has every topology label of the group.
fn has_all_keys(constraints: &[SpreadConstraint], node: &NodeInfo) -> bool {
    constraints.iter().all(|c| node.labels.contains_key(&c.topology_key))
}

/// Matching pods by domain of one constraint, over the nodes of a group.
fn domains<'a>(
    constraint: &SpreadConstraint,
    pod: &PodInfo,
    nodes: impl Iterator<Item = &'a NodeInfo>,
) -> HashMap<&'a str, i64> {
    let mut domains = HashMap::new();
    for node in nodes.filter(|node| is_counted(constraint, pod, node)) {
        if let Some(domain) = node.labels.get(&constraint.topology_key) {
            *domains.entry(domain.as_str()).or_default() += count(constraint, pod, node);
        }
    }
    domains
}

/// Whether a pod counts for a constraint of another.
fn concerns(constraint: &SpreadConstraint, pod: &PodInfo, other: &PodInfo) -> bool {
    other.namespace == pod.namespace && constraint.selector.matches(&other.labels())
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Filter<'a> {
        let hard = self.constraints(pod, snapshot, true);
        if hard.is_empty() {
            return Filter::Skip;
        }
        let nodes = || snapshot.nodes.iter().map(AsRef::as_ref).filter(|node| has_all_keys(&hard, node));
        let counted: Vec<_> = hard.iter().map(|c| (c.clone(), domains(c, pod, nodes()))).collect();
        Filter::Each(Box::new(move |node| {
            for (constraint, domains) in &counted {
                let Some(domain) = node.labels.get(&constraint.topology_key) else {
                    return Err(Unfit::never(
                        "node(s) didn't match pod topology spread constraints (missing required label)",
                    ));
                };
                let few = (domains.len() as i64) < constraint.min_domains;
                let least = if few { 0 } else { domains.values().copied().min().unwrap_or(0) };
                let own = i64::from(constraint.selector.matches(&pod.labels()));
                let here = domains.get(domain.as_str()).copied().unwrap_or(0);
                if here + own - least > constraint.max_skew {
                    return Err(Unfit::now("node(s) didn't match pod topology spread constraints"));
                }
            }
            Ok(())
        }))
    }

    fn score<'a>(
        &'a self,
        pod: &'a PodInfo,
        fitting: &'a [&'a NodeInfo],
        snapshot: &'a Snapshot,
    ) -> Score<'a> {
        let soft = self.constraints(pod, snapshot, false);
        if soft.is_empty() {
            return Score::Skip;
        }
        let strict = !pod.spread.is_empty() || !self.built_in;
        let takes_part = |node: &NodeInfo, soft: &[SpreadConstraint]| !strict || has_all_keys(soft, node);
        let scored = || fitting.iter().filter(|node| takes_part(node, &soft));
        let counted: Vec<_> = soft
            .iter()
            .map(|c| {
                let mut seen: Vec<&str> =
                    scored().filter_map(|n| n.labels.get(&c.topology_key)).map(String::as_str).collect();
                seen.sort_unstable();
                seen.dedup();
                // Constraints with many domains weigh more, or their small numbers would drown.
                let size = if c.topology_key == HOST { scored().count() } else { seen.len() };
                let weight = (size as f64 + 2.0).ln();
                let nodes = snapshot.nodes.iter().map(AsRef::as_ref).filter(|node| takes_part(node, &soft));
                // Hosts are counted one by one, below.
                let domains = if c.topology_key == HOST { HashMap::new() } else { domains(c, pod, nodes) };
                (c.clone(), domains, weight)
            })
            .collect();
        let soft = soft.into_owned();
        Score::Each(
            Box::new(move |node| {
                if strict && !has_all_keys(&soft, node) {
                    return IGNORED;
                }
                let sum: f64 = counted
                    .iter()
                    .filter_map(|(c, domains, weight)| {
                        let domain = node.labels.get(&c.topology_key)?;
                        let here = if c.topology_key == HOST {
                            count(c, pod, node)
                        } else {
                            domains.get(domain.as_str()).copied().unwrap_or(0)
                        };
                        Some(here as f64 * weight + (c.max_skew - 1) as f64)
                    })
                    .sum();
                sum.round() as i64
            }),
            Normalise::Evenness,
        )
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo, snapshot: &Snapshot) -> bool {
        let hard = self.constraints(pod, snapshot, true);
        match change {
            Change::Node(node, what) => {
                (what.added || what.labels || what.taints) && has_all_keys(&hard, node)
            }
            Change::PodAdd(other) | Change::PodDelete(other) => hard.iter().any(|c| concerns(c, pod, other)),
            Change::Storage => false,
        }
    }
}
