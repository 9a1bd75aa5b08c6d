//! Extension points: how a plug-in takes part in a decision.
//!
//! A plug-in first *prepares*: it looks at the pod and the whole snapshot once (PreFilter, PreScore) and gives back what it
//! will be asked per node. What it learned lives in that value, so a cycle has no shared mutable state, and preemption
//! can ask again on a changed snapshot.

use std::collections::BTreeSet;

use crate::cache::Snapshot;
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// Highest score a plug-in may give a node; the lowest is 0.
pub const MAX_NODE_SCORE: i64 = 100;

/// Why a node does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Reasons as events print them.
    pub reasons: Vec<String>,
    /// Removing pods would not help (`UnschedulableAndUnresolvable`).
    pub unresolvable: bool,
}

impl Unfit {
    /// Something that other pods cause.
    pub fn now(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], unresolvable: false }
    }

    /// Something that no eviction changes.
    pub fn never(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], unresolvable: true }
    }
}

/// What a filter asks of each node.
pub type NodeFilter<'a> = Box<dyn Fn(&NodeInfo) -> Result<(), Unfit> + 'a>;
/// What a scorer gives each node, before normalising.
pub type NodeScore<'a> = Box<dyn Fn(&NodeInfo) -> i64 + 'a>;

/// Outcome of preparing a filter.
pub enum Filter<'a> {
    /// Every node fits.
    Skip,
    /// Each node must pass.
    Each(NodeFilter<'a>),
    /// Only these nodes are worth asking, and they must pass.
    Only(BTreeSet<String>, NodeFilter<'a>),
    /// No node fits.
    Reject(Unfit),
}

/// How raw scores become 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalise {
    /// They are already.
    None,
    /// In proportion to the highest.
    Highest,
    /// In proportion to the highest, most is worst.
    Reversed,
    /// Between the lowest and the highest.
    Range,
    /// Between the lowest and the highest, most is worst.
    RangeReversed,
}

/// Outcome of preparing a scorer.
pub enum Score<'a> {
    /// Nothing to say about this pod.
    Skip,
    /// A raw score for each node.
    Each(NodeScore<'a>, Normalise),
}

/// A change in the cluster that may make a pod schedulable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClusterEvent {
    /// A node was added.
    NodeAdd,
    /// More may be had from a node.
    NodeAllocatable,
    /// Labels of a node changed.
    NodeLabels,
    /// Taints of a node changed.
    NodeTaints,
    /// A pod is on a node that was not, or its labels changed.
    PodAdd,
    /// A pod is gone from a node, or asks for less.
    PodDelete,
    /// The waiting pod itself changed.
    PodItself,
    /// A volume, claim or storage class changed.
    Storage,
    /// The time to try again whatever happened.
    Retry,
}

/// A plug-in.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// PreFilter: what must be asked of nodes for this pod.
    fn filter<'a>(&'a self, _pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Filter<'a> {
        Filter::Skip
    }

    /// PreScore: how nodes that fit compare for this pod.
    fn score<'a>(
        &'a self,
        _pod: &'a PodInfo,
        _fitting: &'a [&'a NodeInfo],
        _snapshot: &'a Snapshot,
    ) -> Score<'a> {
        Score::Skip
    }

    /// Weight of its scores.
    fn weight(&self) -> i64 {
        1
    }

    /// Whether an event may change this plug-in's mind about a pod it rejected.
    fn is_interested(&self, event: ClusterEvent) -> bool;
}

/// Turns raw scores into 0 to [`MAX_NODE_SCORE`].
pub fn normalise(scores: &mut [i64], how: Normalise) {
    let (Some(&low), Some(&high)) = (scores.iter().min(), scores.iter().max()) else { return };
    let of = |score: i64| match how {
        Normalise::None => score,
        Normalise::Highest if high == 0 => score,
        Normalise::Highest => MAX_NODE_SCORE * score / high,
        Normalise::Reversed if high == 0 => MAX_NODE_SCORE,
        Normalise::Reversed => MAX_NODE_SCORE - MAX_NODE_SCORE * score / high,
        Normalise::Range if high == low => 0,
        Normalise::Range => MAX_NODE_SCORE * (score - low) / (high - low),
        Normalise::RangeReversed if high == low => MAX_NODE_SCORE,
        Normalise::RangeReversed => MAX_NODE_SCORE * (high - score) / (high - low),
    };
    for score in scores.iter_mut() {
        *score = of(*score);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_normalise() {
        let cases: [(&[i64], Normalise, &[i64]); 6] = [
            (&[1, 2, 4], Normalise::Highest, &[25, 50, 100]),
            (&[0, 0], Normalise::Highest, &[0, 0]),
            (&[0, 2, 4], Normalise::Reversed, &[100, 50, 0]),
            (&[0, 0], Normalise::Reversed, &[100, 100]),
            (&[-5, 0, 5], Normalise::Range, &[0, 50, 100]),
            (&[10, 20], Normalise::RangeReversed, &[100, 0]),
        ];
        for (raw, how, expected) in cases {
            let mut scores = raw.to_vec();
            normalise(&mut scores, how);
            assert_eq!(scores, expected, "{how:?}");
        }
    }
}
