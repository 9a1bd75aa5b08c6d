//! Making room: which pods of lower priority would have to go for a pod to fit.
//!
//! Source: upstream's `DefaultPreemption` plug-in: the node whose victims matter least wins.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::cache::Snapshot;
use crate::cycle::{Filters, FitError};
use crate::node::NodeInfo;
use crate::nominated::Nominated;
use crate::pod::{PodInfo, selector};
use crate::profile::Framework;

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

/// Why nobody is evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declined {
    /// For the pod's message.
    pub text: String,
    /// No node could be made free: an earlier promise is void.
    pub hopeless: bool,
}

/// What decides about victims.
struct Room<'a> {
    framework: &'a Framework,
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
    nominated: &'a Nominated,
    budgets: &'a [Arc<PodDisruptionBudget>],
}

/// Whether victims of an earlier preemption are still leaving the node the pod was promised: evicting more is of no use.
fn is_under_way(pod: &PodInfo, snapshot: &Snapshot, error: &FitError) -> bool {
    let Some(promised) = pod.nominated_node() else { return false };
    if error.unfit.get(promised).is_some_and(|unfit| unfit.unresolvable) {
        return false;
    }
    let node = snapshot.nodes.iter().find(|node| node.name == promised);
    node.is_some_and(|node| node.pods.iter().any(|p| p.is_terminating() && p.priority < pod.priority))
}

/// Decides; `error` is the outcome of the cycle that found no node.
pub fn preempt(
    framework: &Framework,
    pod: &PodInfo,
    snapshot: &Snapshot,
    nominated: &Nominated,
    error: &FitError,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<Preemption, Declined> {
    let declined = |text: String, hopeless| Declined { text: format!("preemption: {text}"), hopeless };
    let policy = pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Err(declined("not eligible due to preemptionPolicy=Never.".into(), false));
    }
    if is_under_way(pod, snapshot, error) {
        return Err(declined("not eligible due to a terminating pod on the nominated node.".into(), false));
    }
    let room = Room { framework, pod, snapshot, nominated, budgets };
    let enough = framework.args.candidates(snapshot.nodes.len());
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut candidates = Vec::new();
    for node in &snapshot.nodes {
        let hopeless = error.unfit.get(&node.name).is_none_or(|unfit| unfit.unresolvable);
        if hopeless {
            *reasons.entry("Preemption is not helpful for scheduling").or_default() += 1;
            continue;
        }
        match room.victims(node) {
            Some((victims, violations)) => {
                candidates.push(Preemption { node: node.name.clone(), victims, violations });
                if candidates.len() >= enough {
                    break;
                }
            }
            None => *reasons.entry("No preemption victims found for incoming pod").or_default() += 1,
        }
    }
    candidates.into_iter().min_by_key(cost).ok_or_else(|| {
        let mut reasons: Vec<String> = reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        reasons.sort();
        declined(format!("0/{} nodes are available: {}.", snapshot.nodes.len(), reasons.join(", ")), true)
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

impl Room<'_> {
    /// Whether the pod fits on a node without some of its pods, whether or not those to whom it was promised come.
    fn fits(&self, node: &NodeInfo, without: &[Arc<PodInfo>]) -> bool {
        let mut changed = node.clone();
        for victim in without {
            changed.remove_pod(&victim.uid);
        }
        let passes = |node: NodeInfo| {
            let node = Arc::new(node);
            let snapshot = self.snapshot.with_node(node.clone());
            let filters = Filters::prepare(&self.framework.filters, self.pod, &snapshot);
            filters.rejected().is_none() && filters.check(&node).is_ok()
        };
        self.nominated.applied(&changed, self.pod).is_none_or(&passes) && passes(changed)
    }

    /// The fewest and least important pods whose removal lets the pod fit on a node.
    fn victims(&self, node: &NodeInfo) -> Option<(Vec<Arc<PodInfo>>, usize)> {
        let mut lower: Vec<Arc<PodInfo>> =
            node.pods.iter().filter(|p| p.priority < self.pod.priority).cloned().collect();
        if lower.is_empty() || !self.fits(node, &lower) {
            return None;
        }
        lower.sort_by_key(|p| (std::cmp::Reverse(p.priority), started(p).unwrap_or(i64::MAX)));
        let (violating, harmless) = split_by_budget(&lower, self.budgets);
        // Pods are put back one by one, those under a budget and the most important first, as long as the pod still fits.
        let mut victims = lower;
        for candidate in violating.iter().chain(&harmless) {
            let without: Vec<_> = victims.iter().filter(|v| v.uid != candidate.uid).cloned().collect();
            if self.fits(node, &without) {
                victims = without;
            }
        }
        let violations = victims.iter().filter(|v| violating.iter().any(|p| p.uid == v.uid)).count();
        Some((victims, violations))
    }
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
    use crate::testing::{NodeBuilder, PodBuilder, framework, node, pod, snapshot};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use serde_json::json;

    fn outcome(
        waiting: PodBuilder,
        nodes: Vec<NodeBuilder>,
        running: Vec<PodBuilder>,
    ) -> Result<(String, Vec<String>), String> {
        let snapshot = snapshot(nodes, running);
        let (framework, pod) = (framework(), waiting.build());
        let mut random = SmallRng::seed_from_u64(1);
        let nobody = Nominated::default();
        let error =
            schedule(&framework, &pod, &snapshot, &nobody, &mut 0, &mut random).expect_err("must not fit");
        preempt(&framework, &pod, &snapshot, &nobody, &error, &[])
            .map(|p| (p.node, p.victims.iter().map(|v| v.name.clone()).collect()))
            .map_err(|declined| declined.text)
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
        let again = pod("a").requests("1", "0").priority(10).status("nominatedNodeName", json!("n1"));
        let full = node("n1").allocatable("1", "8Gi", "110");
        let leaving = pod("b").requests("1", "0").deleted().on("n1");
        assert_eq!(
            outcome(again, vec![full], vec![leaving]),
            Err("preemption: not eligible due to a terminating pod on the nominated node.".into())
        );
        let never = pod("a").requests("1", "0").priority(10).spec("preemptionPolicy", json!("Never"));
        let full = node("n1").allocatable("1", "8Gi", "110");
        assert!(outcome(never, vec![full], vec![pod("b").requests("1", "0").on("n1")]).is_err());
    }
}
