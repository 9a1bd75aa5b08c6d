//! Making room: which pods of lower priority would have to go for a pod to fit.
//!
//! Source: upstream's `DefaultPreemption` plug-in: the node whose victims matter least wins.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::cache::Snapshot;
use crate::cycle::{Filters, FitError};
use crate::framework::Plugin;
use crate::node::NodeInfo;
use crate::pod::{PodInfo, selector};

/// At least this many candidate nodes are compared (`minCandidateNodesAbsolute`).
const MIN_CANDIDATES: usize = 100;

/// A node and the pods that would have to leave it.
#[derive(Debug, Clone)]
pub struct Preemption {
    /// Where the pod would go.
    pub node: String,
    /// Pods to evict, most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// Evictions that a disruption budget does not allow.
    violations: usize,
}

/// Disruptions still allowed, by budget.
struct Budget<'a> {
    namespace: &'a str,
    selector: apimachinery::selectors::LabelSelector,
    allowed: i32,
}

/// Decides; `error` is the outcome of the cycle that found no node.
pub fn preempt(
    plugins: &[Box<dyn Plugin>],
    pod: &PodInfo,
    snapshot: &Snapshot,
    error: &FitError,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<Preemption, String> {
    let policy = pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".into());
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut candidates = Vec::new();
    for node in &snapshot.nodes {
        let hopeless = error.unfit.get(&node.name).is_none_or(|unfit| unfit.unresolvable);
        if hopeless {
            *reasons.entry("Preemption is not helpful for scheduling").or_default() += 1;
            continue;
        }
        match victims(plugins, pod, snapshot, node, budgets) {
            Some((victims, violations)) => {
                candidates.push(Preemption { node: node.name.clone(), victims, violations });
                if candidates.len() >= MIN_CANDIDATES.max(snapshot.nodes.len() / 10) {
                    break;
                }
            }
            None => *reasons.entry("No preemption victims found for incoming pod").or_default() += 1,
        }
    }
    candidates.into_iter().min_by_key(cost).ok_or_else(|| {
        let reasons: Vec<String> = reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        format!("preemption: 0/{} nodes are available: {}.", snapshot.nodes.len(), reasons.join(", "))
    })
}

/// What is lost with a candidate, in the order in which it matters: budgets violated, highest priority, sum of priorities,
/// number of victims, and how long the most important victim has run.
fn cost(candidate: &Preemption) -> (usize, i64, i64, usize, i64) {
    let priorities = candidate.victims.iter().map(|v| i64::from(v.priority));
    let highest = priorities.clone().max().unwrap_or(i64::MIN);
    // Priorities may be negative; each pod must count for something.
    let sum = priorities.map(|p| p + i64::from(i32::MAX) + 1).sum();
    let most_important = candidate.victims.iter().filter(|v| i64::from(v.priority) == highest);
    let earliest = most_important.filter_map(|v| started(v)).min().unwrap_or(i64::MAX);
    (candidate.violations, highest, sum, candidate.victims.len(), -earliest)
}

fn started(pod: &PodInfo) -> Option<i64> {
    pod.pod.status.as_ref()?.start_time.as_ref().map(|time| time.0.as_second())
}

/// The fewest and least important pods whose removal lets the pod fit on a node.
fn victims(
    plugins: &[Box<dyn Plugin>],
    pod: &PodInfo,
    snapshot: &Snapshot,
    node: &Arc<NodeInfo>,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Option<(Vec<Arc<PodInfo>>, usize)> {
    let mut lower: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    let fits = |without: &[Arc<PodInfo>]| {
        let mut changed = NodeInfo::clone(node);
        for victim in without {
            changed.remove_pod(&victim.uid);
        }
        let changed = Arc::new(changed);
        let nodes =
            snapshot.nodes.iter().map(|n| if n.name == node.name { changed.clone() } else { n.clone() });
        let snapshot = Snapshot { nodes: nodes.collect(), namespaces: snapshot.namespaces.clone() };
        let filters = Filters::prepare(plugins, pod, &snapshot);
        filters.check(&changed).is_ok()
    };
    if !fits(&lower) {
        return None;
    }
    lower.sort_by_key(|p| (std::cmp::Reverse(p.priority), started(p).unwrap_or(i64::MAX)));
    let (violating, harmless) = split_by_budget(&lower, budgets);
    // Pods are put back one by one, those under a budget and the most important first, as long as the pod still fits.
    let mut victims = lower.clone();
    for candidate in violating.iter().chain(&harmless) {
        let without: Vec<_> = victims.iter().filter(|v| v.uid != candidate.uid).cloned().collect();
        if fits(&without) {
            victims = without;
        }
    }
    let violations = victims.iter().filter(|v| violating.iter().any(|p| p.uid == v.uid)).count();
    Some((victims, violations))
}

/// Pods whose eviction a disruption budget forbids, and the others, both in the order given.
fn split_by_budget(
    pods: &[Arc<PodInfo>],
    budgets: &[Arc<PodDisruptionBudget>],
) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut budgets: Vec<Budget<'_>> = budgets
        .iter()
        .filter_map(|budget| {
            let wanted = budget.spec.as_ref()?.selector.as_ref();
            Some(Budget {
                namespace: budget.metadata.namespace.as_deref()?,
                selector: selector(wanted),
                allowed: budget.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0),
            })
        })
        .collect();
    pods.iter().cloned().partition(|pod| {
        let mut violates = false;
        for budget in
            budgets.iter_mut().filter(|b| b.namespace == pod.namespace && b.selector.matches(&pod.labels()))
        {
            budget.allowed -= 1;
            violates |= budget.allowed < 0;
        }
        violates
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::schedule;
    use crate::plugins::all;
    use crate::testing::{NodeBuilder, PodBuilder, node, pod, snapshot};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use serde_json::json;

    fn outcome(
        waiting: PodBuilder,
        nodes: Vec<NodeBuilder>,
        running: Vec<PodBuilder>,
    ) -> Result<(String, Vec<String>), String> {
        let snapshot = snapshot(nodes, running);
        let (plugins, pod) = (all(), waiting.build());
        let mut random = SmallRng::seed_from_u64(1);
        let error = schedule(&plugins, &pod, &snapshot, 0, &mut 0, &mut random).expect_err("must not fit");
        preempt(&plugins, &pod, &snapshot, &error, &[])
            .map(|p| (p.node, p.victims.iter().map(|v| v.name.clone()).collect()))
    }

    #[test]
    fn the_least_important_pods_go() {
        let small = || node("n1").allocatable("2", "8Gi", "110");
        let pods = || {
            vec![
                pod("low").requests("1", "0").priority(1).on("n1"),
                pod("lower").requests("1", "0").priority(0).on("n1"),
            ]
        };
        let high = |cpu: &str| pod("high").requests(cpu, "0").priority(10);
        assert_eq!(outcome(high("1"), vec![small()], pods()), Ok(("n1".into(), vec!["lower".into()])));
        assert_eq!(
            outcome(high("2"), vec![small()], pods()),
            Ok(("n1".into(), vec!["low".into(), "lower".into()]))
        );
        let other = || node("n2").allocatable("1", "8Gi", "110");
        let mut running = pods();
        running.push(pod("important").requests("1", "0").priority(5).on("n2"));
        assert_eq!(
            outcome(high("1"), vec![small(), other()], running),
            Ok(("n1".into(), vec!["lower".into()]))
        );
    }

    #[test]
    fn what_cannot_be_helped_is_left_alone() {
        let tainted = node("n1").taint("a", "b", "NoSchedule");
        assert_eq!(
            outcome(pod("high").priority(10), vec![tainted], vec![pod("low").on("n1")]),
            Err("preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.".into())
        );
        let full = node("n1").allocatable("1", "8Gi", "110");
        assert_eq!(
            outcome(pod("a").requests("1", "0"), vec![full], vec![pod("b").requests("1", "0").on("n1")]),
            Err("preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.".into())
        );
        let never = pod("a").requests("1", "0").priority(10).spec("preemptionPolicy", json!("Never"));
        let full = node("n1").allocatable("1", "8Gi", "110");
        assert!(outcome(never, vec![full], vec![pod("b").requests("1", "0").on("n1")]).is_err());
    }
}
