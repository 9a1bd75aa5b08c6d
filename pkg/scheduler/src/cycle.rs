//! One decision: from a pod and a snapshot to a node, or to why there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::Rng;

use crate::cache::Snapshot;
use crate::framework::{Filter, NodeFilter, Plugin, Score, Unfit, normalise};
use crate::node::NodeInfo;
use crate::nominated::Nominated;
use crate::pod::PodInfo;
use crate::profile::Framework;

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
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
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
    pub fn prepare(plugins: &'a [Arc<dyn Plugin>], pod: &'a PodInfo, snapshot: &'a Snapshot) -> Self {
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

    /// Why no node will do, if a plug-in says so.
    pub fn rejected(&self) -> Option<&(&'static str, Unfit)> {
        self.rejected.as_ref()
    }

    /// Whether a node passes all filters; otherwise who said no, and why.
    pub fn check(&self, node: &NodeInfo) -> Result<(), (&'static str, Unfit)> {
        self.prepared.iter().try_for_each(|(name, filter)| filter(node).map_err(|unfit| (*name, unfit)))
    }
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: String,
    /// How many nodes were asked.
    pub evaluated: usize,
    /// How many of them fit.
    pub feasible: usize,
}

/// One search: the pod, the prepared filters, and what was promised to others.
struct Search<'a> {
    framework: &'a Framework,
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
    nominated: &'a Nominated,
    filters: Filters<'a>,
}

impl Search<'_> {
    /// Whether a node fits, with everybody on it to whom room was promised, and without them: neither may be needed.
    fn check(&self, node: &NodeInfo) -> Result<(), (&'static str, Unfit)> {
        if let Some(full) = self.nominated.applied(node, self.pod) {
            let full = Arc::new(full);
            let changed = self.snapshot.with_node(full.clone());
            let filters = Filters::prepare(&self.framework.filters, self.pod, &changed);
            if let Some(rejected) = filters.rejected {
                return Err(rejected);
            }
            filters.check(&full)?;
        }
        if self.filters.only.as_ref().is_some_and(|only| !only.contains(&node.name)) {
            return Err(("NodeAffinity", Unfit::never("node(s) didn't satisfy plugin(s) [NodeAffinity]")));
        }
        self.filters.check(node)
    }
}

/// Chooses a node. `start` is the index of the node to ask first; it is moved on, so that in large clusters every node
/// gets its turn.
pub fn schedule(
    framework: &Framework,
    pod: &PodInfo,
    snapshot: &Snapshot,
    nominated: &Nominated,
    start: &mut usize,
    random: &mut impl Rng,
) -> Result<Choice, FitError> {
    let count = snapshot.nodes.len();
    let mut error = FitError { nodes: count, ..FitError::default() };
    let filters = Filters::prepare(&framework.filters, pod, snapshot);
    if let Some((plugin, unfit)) = &filters.rejected {
        error.plugins.insert(plugin);
        error.whole = Some(unfit.reasons.join(", "));
        return Err(error);
    }
    let search = Search { framework, pod, snapshot, nominated, filters };
    // A node that was promised to this pod is taken if it will do.
    if let Some(promised) = pod.nominated_node()
        && let Some(node) = snapshot.nodes.iter().find(|node| node.name == promised)
        && search.check(node).is_ok()
    {
        return Ok(Choice { node: promised.to_owned(), evaluated: 1, feasible: 1 });
    }
    let enough = enough(count, framework.percentage);
    let mut fitting: Vec<&NodeInfo> = Vec::new();
    let mut asked = 0;
    for offset in 0..count {
        let node = snapshot.nodes[(*start + offset) % count].as_ref();
        asked += 1;
        match search.check(node) {
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
    let node = match fitting.as_slice() {
        [] => return Err(error),
        [one] => one.name.clone(),
        many => best(framework, pod, many, snapshot, random),
    };
    Ok(Choice { node, evaluated: asked, feasible: fitting.len() })
}

/// The node with the highest score; among equals, any.
fn best(
    framework: &Framework,
    pod: &PodInfo,
    fitting: &[&NodeInfo],
    snapshot: &Snapshot,
    random: &mut impl Rng,
) -> String {
    let mut totals = vec![0i64; fitting.len()];
    for (plugin, weight) in &framework.scores {
        let Score::Each(score, how) = plugin.score(pod, fitting, snapshot) else { continue };
        let mut scores: Vec<i64> = fitting.iter().map(|node| score(node)).collect();
        normalise(&mut scores, how);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * weight;
        }
    }
    let high = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<&&NodeInfo> =
        fitting.iter().zip(&totals).filter(|(_, total)| **total == high).map(|(node, _)| node).collect();
    winners[random.random_range(0..winners.len())].name.clone()
}

#[cfg(test)]
mod tests;
