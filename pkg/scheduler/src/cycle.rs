//! One decision: from a pod and a snapshot to a node, or to why there is none.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use crate::cache::Snapshot;
use crate::framework::{Filter, NodeFilter, Plugin, Score, Unfit, normalise};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// Clusters up to this size are searched completely.
const ALWAYS_SEARCHED: usize = 100;
/// The adaptive percentage is not lowered below this.
const MIN_PERCENTAGE: usize = 5;

/// A pod that fits nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FitError {
    /// Number of nodes there are.
    pub nodes: usize,
    /// Why each node that was asked does not fit.
    pub unfit: BTreeMap<String, Unfit>,
    /// Names of the plug-ins that said no.
    pub plugins: BTreeSet<&'static str>,
    /// A reason that concerns all nodes at once.
    pub whole: Option<String>,
    /// What preemption has to say, for the message.
    pub preemption: String,
}

impl FitError {
    /// The text of the event and condition, as upstream words it: reasons sorted, each with its number of nodes.
    pub fn message(&self) -> String {
        let mut text = format!("0/{} nodes are available", self.nodes);
        if let Some(reason) = &self.whole {
            text.push_str(&format!(": {reason}."));
        } else {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for reason in self.unfit.values().flat_map(|unfit| &unfit.reasons) {
                *counts.entry(reason).or_default() += 1;
            }
            let mut reasons: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
            reasons.sort();
            if !reasons.is_empty() {
                text.push_str(&format!(": {}.", reasons.join(", ")));
            }
        }
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        if !self.preemption.is_empty() {
            text.push(' ');
            text.push_str(&self.preemption);
        }
        text
    }
}

/// How many nodes that fit are enough to choose from.
fn enough(nodes: usize, percentage: u8) -> usize {
    if nodes < ALWAYS_SEARCHED || percentage >= 100 {
        return nodes;
    }
    let percentage = match percentage {
        0 => (50 - (nodes / 125).min(50)).max(MIN_PERCENTAGE),
        given => usize::from(given),
    };
    (nodes * percentage / 100).max(ALWAYS_SEARCHED)
}

/// Filters of a pod, prepared on a snapshot.
pub struct Filters<'a> {
    prepared: Vec<(&'static str, NodeFilter<'a>)>,
    only: Option<BTreeSet<String>>,
    rejected: Option<(&'static str, Unfit)>,
}

impl<'a> Filters<'a> {
    /// Asks every plug-in what must be asked of nodes.
    pub fn prepare(plugins: &'a [Box<dyn Plugin>], pod: &'a PodInfo, snapshot: &'a Snapshot) -> Self {
        let mut filters = Self { prepared: Vec::new(), only: None, rejected: None };
        for plugin in plugins {
            match plugin.filter(pod, snapshot) {
                Filter::Skip => {}
                Filter::Each(filter) => filters.prepared.push((plugin.name(), filter)),
                Filter::Only(names, filter) => {
                    filters.prepared.push((plugin.name(), filter));
                    filters.only = Some(match filters.only.take() {
                        Some(before) => before.intersection(&names).cloned().collect(),
                        None => names,
                    });
                }
                Filter::Reject(unfit) => {
                    filters.rejected.get_or_insert((plugin.name(), unfit));
                }
            }
        }
        filters
    }

    /// Whether a node passes all filters; otherwise who said no, and why.
    pub fn check(&self, node: &NodeInfo) -> Result<(), (&'static str, Unfit)> {
        self.prepared.iter().try_for_each(|(name, filter)| filter(node).map_err(|unfit| (*name, unfit)))
    }
}

/// Chooses a node. `start` is the index of the node to ask first; it is moved on, so that in large clusters every node
/// gets its turn.
pub fn schedule(
    plugins: &[Box<dyn Plugin>],
    pod: &PodInfo,
    snapshot: &Snapshot,
    percentage: u8,
    start: &mut usize,
    random: &mut impl Rng,
) -> Result<String, FitError> {
    let mut error = FitError { nodes: snapshot.nodes.len(), ..FitError::default() };
    let filters = Filters::prepare(plugins, pod, snapshot);
    if let Some((plugin, unfit)) = &filters.rejected {
        error.plugins.insert(plugin);
        error.whole = Some(unfit.reasons.join(", "));
        return Err(error);
    }
    let count = snapshot.nodes.len();
    let enough = enough(count, percentage);
    let mut fitting: Vec<&NodeInfo> = Vec::new();
    let mut asked = 0;
    for offset in 0..count {
        let node = snapshot.nodes[(*start + offset) % count].as_ref();
        asked += 1;
        if filters.only.as_ref().is_some_and(|only| !only.contains(&node.name)) {
            let unfit = Unfit::never("node(s) didn't satisfy plugin(s) [NodeAffinity]");
            error.plugins.insert("NodeAffinity");
            error.unfit.insert(node.name.clone(), unfit);
            continue;
        }
        match filters.check(node) {
            Ok(()) => fitting.push(node),
            Err((plugin, unfit)) => {
                error.plugins.insert(plugin);
                error.unfit.insert(node.name.clone(), unfit);
            }
        }
        if fitting.len() == enough {
            break;
        }
    }
    if count > 0 {
        *start = (*start + asked) % count;
    }
    match fitting.as_slice() {
        [] => Err(error),
        [one] => Ok(one.name.clone()),
        many => Ok(best(plugins, pod, many, snapshot, random)),
    }
}

/// The node with the highest score; among equals, any.
fn best(
    plugins: &[Box<dyn Plugin>],
    pod: &PodInfo,
    fitting: &[&NodeInfo],
    snapshot: &Snapshot,
    random: &mut impl Rng,
) -> String {
    let mut totals = vec![0i64; fitting.len()];
    for plugin in plugins {
        let Score::Each(score, how) = plugin.score(pod, fitting, snapshot) else { continue };
        let mut scores: Vec<i64> = fitting.iter().map(|node| score(node)).collect();
        normalise(&mut scores, how);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight();
        }
    }
    let high = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<&&NodeInfo> =
        fitting.iter().zip(&totals).filter(|(_, total)| **total == high).map(|(node, _)| node).collect();
    winners[random.random_range(0..winners.len())].name.clone()
}

#[cfg(test)]
mod tests;
