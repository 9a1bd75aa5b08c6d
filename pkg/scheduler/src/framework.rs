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
    /// Most is worst, and twice the highest would be as far below as the lowest is above: `MAX * (high + low - s) / high`.
    Evenness,
}

/// Raw score of a node that is not scored: it gets 0 and counts for nobody.
pub const IGNORED: i64 = i64::MIN;

/// Outcome of preparing a scorer.
pub enum Score<'a> {
    /// Nothing to say about this pod.
    Skip,
    /// A raw score for each node.
    Each(NodeScore<'a>, Normalise),
}

/// Where a plug-in takes part (KEP-624).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "upstream's names")]
pub enum Point {
    PreEnqueue,
    QueueSort,
    PreFilter,
    Filter,
    PostFilter,
    PreScore,
    Score,
    Reserve,
    Permit,
    PreBind,
    Bind,
    PostBind,
}

impl Point {
    /// As messages name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PreEnqueue => "PreEnqueue",
            Self::QueueSort => "QueueSort",
            Self::PreFilter => "PreFilter",
            Self::Filter => "Filter",
            Self::PostFilter => "PostFilter",
            Self::PreScore => "PreScore",
            Self::Score => "Score",
            Self::Reserve => "Reserve",
            Self::Permit => "Permit",
            Self::PreBind => "PreBind",
            Self::Bind => "Bind",
            Self::PostBind => "PostBind",
        }
    }
}

/// What changed about a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// It is new.
    pub added: bool,
    /// How much may be had from it.
    pub allocatable: bool,
    /// Its labels.
    pub labels: bool,
    /// Its taints, or whether it takes pods at all.
    pub taints: bool,
}

impl NodeChange {
    /// Whether anything changed that matters to anybody.
    pub fn is_any(self) -> bool {
        self != Self::default()
    }
}

/// A change in the cluster that may make a waiting pod schedulable.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// A node, as it is now.
    Node(&'a NodeInfo, NodeChange),
    /// A pod is on a node that was not, or its labels changed.
    PodAdd(&'a PodInfo),
    /// A pod is gone from a node, or no longer wants to get on one.
    PodDelete(&'a PodInfo),
    /// A volume, claim, storage class or driver changed.
    Storage,
}

impl Change<'_> {
    /// As the metric `scheduler_queue_incoming_pods_total` names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Node(_, NodeChange { added: true, .. }) => "NodeAdd",
            Self::Node(..) => "NodeUpdate",
            Self::PodAdd(_) => "AssignedPodAdd",
            Self::PodDelete(_) => "AssignedPodDelete",
            Self::Storage => "StorageChange",
        }
    }
}

/// A plug-in that filters or scores.
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

    /// Queueing hint: whether a change may alter this plug-in's mind about a pod it rejected.
    fn wakes(&self, change: &Change<'_>, pod: &PodInfo, snapshot: &Snapshot) -> bool;
}

/// Whether a plug-in whose filter looks at nothing but the node accepts it now.
pub fn accepts(plugin: &dyn Plugin, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> bool {
    match plugin.filter(pod, snapshot) {
        Filter::Skip => true,
        Filter::Each(filter) => filter(node).is_ok(),
        Filter::Only(names, filter) => names.contains(&node.name) && filter(node).is_ok(),
        Filter::Reject(_) => false,
    }
}

/// Turns raw scores into 0 to [`MAX_NODE_SCORE`].
pub fn normalise(scores: &mut [i64], how: Normalise) {
    let counted = || scores.iter().copied().filter(|score| *score != IGNORED);
    let (Some(low), Some(high)) = (counted().min(), counted().max()) else {
        scores.fill(0);
        return;
    };
    let of = |score: i64| match how {
        Normalise::None => score,
        Normalise::Highest if high == 0 => score,
        Normalise::Highest => MAX_NODE_SCORE * score / high,
        Normalise::Reversed if high == 0 => MAX_NODE_SCORE,
        Normalise::Reversed => MAX_NODE_SCORE - MAX_NODE_SCORE * score / high,
        Normalise::Range if high == low => 0,
        Normalise::Range => MAX_NODE_SCORE * (score - low) / (high - low),
        Normalise::Evenness if high == 0 => MAX_NODE_SCORE,
        Normalise::Evenness => MAX_NODE_SCORE * (high + low - score) / high,
    };
    for score in scores.iter_mut() {
        *score = if *score == IGNORED { 0 } else { of(*score) };
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
            (&[10, IGNORED, 20], Normalise::Evenness, &[100, 0, 50]),
        ];
        for (raw, how, expected) in cases {
            let mut scores = raw.to_vec();
            normalise(&mut scores, how);
            assert_eq!(scores, expected, "{how:?}");
        }
    }
}
