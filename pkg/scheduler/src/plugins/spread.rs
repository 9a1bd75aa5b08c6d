//! Pods spread evenly over zones, nodes or whatever a label names (KEP-895, KEP-3022, KEP-3094).

use std::collections::HashMap;

use crate::cache::Snapshot;
use crate::framework::{ClusterEvent, Filter, Normalise, Plugin, Score, Unfit};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, SpreadConstraint, tolerates};

/// Topology spread constraints.
#[derive(Debug)]
pub struct PodTopologySpread;

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
        || node
            .taints
            .iter()
            .filter(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute"))
            .all(|t| tolerates(&pod.tolerations, &t.key, t.value.as_deref().unwrap_or(""), &t.effect));
    affine && tolerated
}

/// A node counts for a group of constraints only when it has every topology label of the group.
fn has_all_keys(constraints: &[&SpreadConstraint], node: &NodeInfo) -> bool {
    constraints.iter().all(|c| node.labels.contains_key(&c.topology_key))
}

/// Matching pods by domain of one constraint.
fn domains<'a>(
    constraint: &'a SpreadConstraint,
    group: &[&SpreadConstraint],
    pod: &PodInfo,
    snapshot: &'a Snapshot,
) -> HashMap<&'a str, i64> {
    let mut domains = HashMap::new();
    for node in snapshot.nodes.iter().filter(|n| has_all_keys(group, n) && is_counted(constraint, pod, n)) {
        if let Some(domain) = node.labels.get(&constraint.topology_key) {
            *domains.entry(domain.as_str()).or_default() += count(constraint, pod, node);
        }
    }
    domains
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Filter<'a> {
        let hard: Vec<&SpreadConstraint> = pod.spread.iter().filter(|c| c.hard).collect();
        if hard.is_empty() {
            return Filter::Skip;
        }
        let counted: Vec<_> = hard.iter().map(|c| (*c, domains(c, &hard, pod, snapshot))).collect();
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
        let soft: Vec<&SpreadConstraint> = pod.spread.iter().filter(|c| !c.hard).collect();
        if soft.is_empty() {
            return Score::Skip;
        }
        let counted: Vec<_> = soft
            .iter()
            .map(|c| {
                let domains = domains(c, &soft, pod, snapshot);
                let mut seen: Vec<&str> = fitting
                    .iter()
                    .filter_map(|n| n.labels.get(&c.topology_key))
                    .map(String::as_str)
                    .collect();
                seen.sort_unstable();
                seen.dedup();
                // Constraints with many domains weigh more, or their small numbers would drown.
                let weight = (seen.len() as f64 + 2.0).ln();
                (*c, domains, weight)
            })
            .collect();
        Score::Each(
            Box::new(move |node| {
                let sum: f64 = counted
                    .iter()
                    .filter_map(|(c, domains, weight)| {
                        let domain = node.labels.get(&c.topology_key)?;
                        let here = domains.get(domain.as_str()).copied().unwrap_or(0);
                        Some(here as f64 * weight + (c.max_skew - 1) as f64)
                    })
                    .sum();
                sum.round() as i64
            }),
            Normalise::RangeReversed,
        )
    }

    fn weight(&self) -> i64 {
        2
    }

    fn is_interested(&self, event: ClusterEvent) -> bool {
        use ClusterEvent::{NodeAdd, NodeLabels, PodAdd, PodDelete, PodItself};
        matches!(event, NodeAdd | NodeLabels | PodAdd | PodDelete | PodItself)
    }
}
