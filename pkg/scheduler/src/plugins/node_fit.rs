//! Resources: what must fit, and where it fits best.

use crate::cache::Snapshot;
use crate::framework::{ClusterEvent, Filter, MAX_NODE_SCORE, Normalise, Plugin, Score, Unfit};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// What a pod asks for must be free; emptier nodes score higher (`LeastAllocated` of CPU and memory).
#[derive(Debug)]
pub struct NodeResourcesFit;

/// Everything of a node that is too little for a pod.
fn insufficient(pod: &PodInfo, node: &NodeInfo) -> Vec<Unfit> {
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
    for (name, amount) in &asked.scalar {
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
            let found = insufficient(pod, node);
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
        Score::Each(
            Box::new(|node| {
                let free = |used: i64, all: i64| {
                    if all <= 0 || used > all { 0 } else { (all - used) * MAX_NODE_SCORE / all }
                };
                let cpu = free(node.non_zero.0 + pod.non_zero.0, node.allocatable.milli_cpu);
                let memory = free(node.non_zero.1 + pod.non_zero.1, node.allocatable.memory);
                i64::midpoint(cpu, memory)
            }),
            Normalise::None,
        )
    }

    fn is_interested(&self, event: ClusterEvent) -> bool {
        use ClusterEvent::{NodeAdd, NodeAllocatable, PodDelete, PodItself};
        matches!(event, NodeAdd | NodeAllocatable | PodDelete | PodItself)
    }
}

/// Nodes whose CPU and memory would be used to about the same fraction score higher.
#[derive(Debug)]
pub struct BalancedAllocation;

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
                let fraction =
                    |used: i64, all: i64| if all <= 0 { 1.0 } else { (used as f64 / all as f64).min(1.0) };
                let cpu =
                    fraction(node.requested.milli_cpu + pod.requests.milli_cpu, node.allocatable.milli_cpu);
                let memory = fraction(node.requested.memory + pod.requests.memory, node.allocatable.memory);
                // The standard deviation of two values is half their distance.
                ((1.0 - (cpu - memory).abs() / 2.0) * MAX_NODE_SCORE as f64) as i64
            }),
            Normalise::None,
        )
    }

    fn is_interested(&self, _: ClusterEvent) -> bool {
        false
    }
}
