//! Resources: what must fit, and where it fits best.

use crate::args::{BalancedArgs, FitArgs};
use crate::cache::Snapshot;
use crate::framework::{Change, Filter, MAX_NODE_SCORE, Normalise, Plugin, Score, Unfit, accepts};
use crate::node::NodeInfo;
use crate::plugins::scoring::{Scorer, usage};
use crate::pod::PodInfo;

/// What a pod asks for must be free; how nodes compare is up to the strategy.
#[derive(Debug)]
pub(super) struct NodeResourcesFit {
    ignored: Vec<String>,
    ignored_groups: Vec<String>,
    scorer: Scorer,
}

impl NodeResourcesFit {
    /// With its arguments.
    pub(super) fn new(args: &FitArgs) -> Self {
        Self {
            ignored: args.ignored_resources.clone(),
            ignored_groups: args.ignored_resource_groups.clone(),
            scorer: Scorer::new(&args.scoring_strategy),
        }
    }

    /// Extended resources that somebody else sees to.
    fn ignores(&self, name: &str) -> bool {
        let group = name.split_once('/').map(|(group, _)| group);
        self.ignored.iter().any(|ignored| ignored == name)
            || group.is_some_and(|group| self.ignored_groups.iter().any(|ignored| ignored == group))
    }
}

/// Everything of a node that is too little for a pod.
fn insufficient(pod: &PodInfo, node: &NodeInfo, ignores: impl Fn(&str) -> bool) -> Vec<Unfit> {
    let mut found = Vec::new();
    if node.pods.len() as i64 + 1 > node.max_pods {
        found.push(Unfit::now("Too many pods"));
    }
    if pod.requests.is_zero() {
        return found;
    }
    let (asked, used, all) = (&pod.requests, &node.requested, &node.allocatable);
    let mut check = |name: &str, asked: i64, used: i64, all: i64| {
        if asked > 0 && asked > all - used {
            let reason = format!("Insufficient {name}");
            // Not even an empty node would do.
            found.push(if asked > all { Unfit::never(reason) } else { Unfit::now(reason) });
        }
    };
    check("cpu", asked.milli_cpu, used.milli_cpu, all.milli_cpu);
    check("memory", asked.memory, used.memory, all.memory);
    check("ephemeral-storage", asked.ephemeral_storage, used.ephemeral_storage, all.ephemeral_storage);
    for (name, amount) in asked.scalar.iter().filter(|(name, _)| !ignores(name)) {
        let of = |list: &crate::resources::Resources| list.scalar.get(name).copied().unwrap_or(0);
        check(name, *amount, of(used), of(all));
    }
    found
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Filter<'a> {
        Filter::Each(Box::new(|node| {
            let found = insufficient(pod, node, |name| self.ignores(name));
            if found.is_empty() {
                return Ok(());
            }
            Err(Unfit {
                unresolvable: found.iter().any(|unfit| unfit.unresolvable),
                reasons: found.into_iter().flat_map(|unfit| unfit.reasons).collect(),
            })
        }))
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a [&'a NodeInfo], _: &'a Snapshot) -> Score<'a> {
        Score::Each(Box::new(|node| self.scorer.score(pod, node)), Normalise::None)
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo, snapshot: &Snapshot) -> bool {
        match change {
            Change::Node(node, what) => {
                (what.added || what.allocatable) && accepts(self, pod, node, snapshot)
            }
            Change::PodDelete(_) => true,
            _ => false,
        }
    }
}

/// Nodes whose resources would be used to about the same fraction score higher.
#[derive(Debug)]
pub(super) struct BalancedAllocation {
    resources: Vec<String>,
}

impl BalancedAllocation {
    /// With its arguments.
    pub(super) fn new(args: &BalancedArgs) -> Self {
        Self { resources: args.resources.iter().map(|resource| resource.name.clone()).collect() }
    }
}

/// The standard deviation.
fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a [&'a NodeInfo], _: &'a Snapshot) -> Score<'a> {
        // A pod that asks for nothing changes no balance (best effort pods are skipped upstream too).
        if pod.requests.is_zero() {
            return Score::Skip;
        }
        Score::Each(
            Box::new(|node| {
                let fractions: Vec<f64> = self
                    .resources
                    .iter()
                    .filter_map(|name| usage(name, pod, node, false))
                    .map(|usage| (usage.used as f64 / usage.all as f64).min(1.0))
                    .collect();
                let uneven = if fractions.len() < 2 { 0.0 } else { deviation(&fractions) };
                ((1.0 - uneven) * MAX_NODE_SCORE as f64) as i64
            }),
            Normalise::None,
        )
    }

    fn wakes(&self, _: &Change<'_>, _: &PodInfo, _: &Snapshot) -> bool {
        false
    }
}
