//! Which nodes get or lose a daemon pod. No I/O; time is a parameter.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::nodematch::{selected, tolerated};
use crate::pods;
use crate::revisions::HASH_LABEL;

/// Taints every daemon pod tolerates: key and effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// And this one, with the host's network.
const TOLERATED_ON_HOST: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");
/// Nodes whose failed pods are remembered.
const MAX_REMEMBERED: usize = 4096;

/// The template's tolerations and those every daemon pod has.
pub(super) fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let on_host = spec.host_network.unwrap_or(false).then_some(TOLERATED_ON_HOST);
    for (key, effect) in TOLERATED.into_iter().chain(on_host) {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

/// How often pods failed on a node, so that replacing them slows down.
pub(super) struct FailedPods {
    base: Duration,
    max: Duration,
    nodes: Mutex<HashMap<(String, String), (Duration, Timestamp)>>,
}

impl FailedPods {
    pub(super) fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, nodes: Mutex::default() }
    }

    /// How long to wait before a failed pod of this set and node is replaced; zero when it may be now.
    fn wait(&self, set: &str, node: &str, now: Timestamp) -> Duration {
        let mut nodes = self.nodes.lock();
        if nodes.len() >= MAX_REMEMBERED {
            nodes.clear();
        }
        let key = (set.to_owned(), node.to_owned());
        let (pause, until) = match nodes.get(&key) {
            None => (self.base, now),
            Some((pause, until)) => (*pause, *until),
        };
        let left = until.duration_since(now);
        if left > SignedDuration::ZERO {
            return Duration::try_from(left).unwrap_or(self.max);
        }
        let next = SignedDuration::try_from(pause).unwrap_or(SignedDuration::from_secs(1));
        nodes.insert(key, ((pause * 2).min(self.max), now + next));
        Duration::ZERO
    }
}

/// What one run sees.
pub(super) struct Input<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) nodes: &'a [Arc<Node>],
    pub(super) pods: &'a [Arc<Pod>],
    /// Hash of the present template's revision.
    pub(super) hash: &'a str,
    pub(super) now: Timestamp,
}

/// What one run does.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Names of failed pods and their nodes, for events.
    pub(super) failed: Vec<(String, String)>,
    pub(super) again: Option<Duration>,
}

/// The node a daemon pod is for: where it is, or where its affinity pins it.
fn target(pod: &Pod) -> Option<&str> {
    let name = pods::node_name(pod);
    if !name.is_empty() {
        return Some(name);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    terms.iter().flat_map(|term| term.match_fields.iter().flatten()).find_map(|field| {
        (field.key == "metadata.name" && field.operator == "In")
            .then(|| field.values.as_ref()?.first().map(String::as_str))?
    })
}

fn is_current(pod: &Pod, hash: &str) -> bool {
    pod.labels().get(HASH_LABEL).map(String::as_str) == Some(hash)
}

fn min_ready(set: &DaemonSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

/// (a pod should run here, one that runs may stay).
fn fits(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let Some(spec) = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()) else {
        return (false, false);
    };
    if !selected(spec, node) {
        return (false, false);
    }
    let tolerations = tolerations(spec);
    (
        tolerated(&tolerations, node, &["NoSchedule", "NoExecute"]),
        tolerated(&tolerations, node, &["NoExecute"]),
    )
}

fn pods_by_node<'a>(input: &Input<'a>) -> BTreeMap<&'a str, Vec<&'a Arc<Pod>>> {
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in input.pods {
        if let Some(node) = target(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    // the oldest of several stays
    for pods in by_node.values_mut() {
        pods.sort_by_key(|pod| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.name_any()));
    }
    by_node
}

/// A number or percentage (rounded up) of the nodes wanted.
fn share(value: Option<&IntOrString>, default: i32, wanted: usize) -> usize {
    let number = match value {
        None => default,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
            i32::try_from((percent * wanted as i64 + 99).div_euclid(100)).unwrap_or(i32::MAX)
        }
    };
    usize::try_from(number).unwrap_or(0)
}

/// (maxSurge, maxUnavailable) of a rolling update; `None` when pods are replaced only as they are deleted.
fn limits(set: &DaemonSet, wanted: usize) -> Option<(usize, usize)> {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return None;
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = share(rolling.and_then(|r| r.max_surge.as_ref()), 0, wanted);
    let unavailable = share(rolling.and_then(|r| r.max_unavailable.as_ref()), 1, wanted);
    Some(if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) })
}

/// Nodes first: every fitting one gets its pod; then old pods are replaced within the limits.
pub(super) fn decide(input: &Input<'_>, failures: &FailedPods) -> Plan {
    let mut plan = Plan::default();
    let by_node = pods_by_node(input);
    let set_uid = input.set.metadata.uid.as_deref().unwrap_or("");
    let mut wanted = 0;
    for node in input.nodes {
        let name = node.name_any();
        let (should_run, may_stay) = fits(input.set, node);
        wanted += usize::from(should_run);
        let held = by_node.get(name.as_str()).map_or(&[] as &[_], Vec::as_slice);
        if !may_stay {
            plan.delete
                .extend(held.iter().filter(|pod| !pods::is_terminating(pod)).map(|pod| (*pod).clone()));
            continue;
        }
        let mut kept: Vec<&Arc<Pod>> = Vec::new();
        for pod in held {
            if pods::is_terminating(pod) {
                kept.push(pod);
            } else if pods::is_finished(pod) {
                let wait = failures.wait(set_uid, &name, input.now);
                if wait.is_zero() {
                    plan.failed.push((pod.name_any(), name.clone()));
                    plan.delete.push((*pod).clone());
                } else {
                    plan.again = Some(plan.again.map_or(wait, |held| held.min(wait)));
                    kept.push(pod);
                }
            } else {
                kept.push(pod);
            }
        }
        if held.is_empty() && should_run {
            plan.create.push(name);
            continue;
        }
        // with surge an old and a new pod may stand side by side; otherwise all but the oldest go
        let mut seen = (false, false);
        for pod in kept.into_iter().filter(|pod| pods::is_active(pod)) {
            let first = if is_current(pod, input.hash) { &mut seen.1 } else { &mut seen.0 };
            if std::mem::replace(first, true) {
                plan.delete.push(pod.clone());
            }
        }
        let surge = limits(input.set, 1).is_some_and(|(surge, _)| surge > 0);
        if seen == (true, true) && !surge {
            let newer = held.iter().rev().find(|pod| pods::is_active(pod));
            plan.delete.extend(newer.map(|pod| (*pod).clone()));
        }
    }
    roll(input, &by_node, wanted, &mut plan);
    plan
}

/// Replaces pods of older revisions.
fn roll(input: &Input<'_>, by_node: &BTreeMap<&str, Vec<&Arc<Pod>>>, wanted: usize, plan: &mut Plan) {
    let Some((surge, unavailable)) = limits(input.set, wanted) else { return };
    let available = |pod: &Pod| pods::is_available(pod, min_ready(input.set), input.now);
    let running = |node: &str| {
        let pods: Vec<&Arc<Pod>> =
            by_node.get(node).into_iter().flatten().filter(|pod| pods::is_active(pod)).copied().collect();
        let (new, old): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| is_current(pod, input.hash));
        (old.into_iter().next(), new.into_iter().next())
    };
    let fitting = || input.nodes.iter().filter(|node| fits(input.set, node).0).map(|node| node.name_any());
    if surge == 0 {
        let missing = fitting()
            .filter(|node| {
                let (old, new) = running(node);
                !new.or(old).is_some_and(|pod| available(pod))
            })
            .count();
        let mut room = unavailable.saturating_sub(missing);
        for node in fitting() {
            let (Some(old), None) = running(&node) else { continue };
            if plan.delete.iter().any(|pod| Arc::ptr_eq(pod, old)) {
                continue;
            }
            // what does not serve anyway is replaced first and costs nothing
            if !available(old) {
                plan.delete.push(old.clone());
            } else if room > 0 {
                room -= 1;
                plan.delete.push(old.clone());
            }
        }
        return;
    }
    let both = fitting().filter(|node| matches!(running(node), (Some(_), Some(_)))).count();
    let mut room = surge.saturating_sub(both);
    for node in fitting() {
        match running(&node) {
            (Some(old), Some(new)) if available(new) => plan.delete.push(old.clone()),
            (Some(old), None) if !available(old) || room > 0 => {
                if available(old) {
                    room -= 1;
                }
                plan.create.push(node);
            }
            _ => {}
        }
    }
}

/// The new status, `None` when nothing changed.
pub(super) fn status(input: &Input<'_>, collisions: Option<i32>) -> Option<DaemonSetStatus> {
    let by_node = pods_by_node(input);
    let mut new = DaemonSetStatus {
        collision_count: collisions.or(input.set.status.as_ref().and_then(|status| status.collision_count)),
        conditions: input.set.status.as_ref().and_then(|status| status.conditions.clone()),
        observed_generation: input.set.metadata.generation,
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    for node in input.nodes {
        let (should_run, _) = fits(input.set, node);
        let held = by_node.get(node.name_any().as_str()).map_or(&[] as &[_], Vec::as_slice);
        if !should_run {
            new.number_misscheduled += i32::from(!held.is_empty());
            continue;
        }
        new.desired_number_scheduled += 1;
        let Some(pod) =
            held.iter().filter(|pod| !pods::is_terminating(pod)).max_by_key(|pod| pods::is_ready(pod))
        else {
            new.current_number_scheduled += i32::from(!held.is_empty());
            continue;
        };
        new.current_number_scheduled += 1;
        new.number_ready += i32::from(pods::is_ready(pod));
        available += i32::from(pods::is_available(pod, min_ready(input.set), input.now));
        updated +=
            i32::from(held.iter().any(|pod| is_current(pod, input.hash) && !pods::is_terminating(pod)));
    }
    let some = |count: i32| Some(count).filter(|count| *count > 0);
    new.updated_number_scheduled = some(updated);
    new.number_available = some(available);
    new.number_unavailable = some(new.desired_number_scheduled - available);
    let held = input.set.status.clone().unwrap_or_default();
    let normal = |mut status: DaemonSetStatus| {
        for count in [
            &mut status.updated_number_scheduled,
            &mut status.number_available,
            &mut status.number_unavailable,
        ] {
            count.get_or_insert(0);
        }
        status
    };
    (normal(new.clone()) != normal(held)).then_some(new)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{PodBuilder, at, pod};

    fn set(strategy: Value) -> DaemonSet {
        serde_json::from_value(
            json!({"metadata": {"name": "d", "uid": "d"}, "spec": {"selector": {}, "updateStrategy": strategy,
            "template": {"spec": {"containers": [], "nodeSelector": {"role": "worker"}}}}}),
        )
        .expect("a set")
    }

    fn node(name: &str, role: &str, taint: &str) -> Arc<Node> {
        let taints = if taint.is_empty() { json!([]) } else { json!([{"key": "t", "effect": taint}]) };
        let node = json!({"metadata": {"name": name, "labels": {"role": role}}, "spec": {"taints": taints}});
        Arc::new(serde_json::from_value(node).expect("a node"))
    }

    fn daemon(name: &str, node: &str, hash: &str) -> PodBuilder {
        pod(name).node(node).label(HASH_LABEL, hash)
    }

    fn run(set: &DaemonSet, nodes: &[Arc<Node>], pods: Vec<PodBuilder>) -> (Vec<String>, Vec<String>) {
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(|pod| Arc::new(pod.build())).collect();
        let failures = FailedPods::new(Duration::from_secs(1), Duration::from_secs(10));
        let input = Input { set, nodes, pods: &pods, hash: "new", now: at(100) };
        let plan = decide(&input, &failures);
        (plan.create, plan.delete.iter().map(|pod| pod.name_any()).collect())
    }

    #[test]
    fn pods_follow_nodes() {
        let nodes = [
            node("fits", "worker", ""),
            node("other", "db", ""),
            node("closed", "worker", "NoSchedule"),
            node("evicting", "worker", "NoExecute"),
        ];
        let rolling = set(json!({"type": "RollingUpdate"}));
        assert_eq!(run(&rolling, &nodes, vec![]), (vec!["fits".into()], vec![]));
        let everywhere = vec![
            daemon("p1", "fits", "new").ready(0),
            daemon("p2", "other", "new"),
            daemon("p3", "closed", "new"),
            daemon("p4", "evicting", "new"),
            daemon("twin", "fits", "new").created(50),
        ];
        assert_eq!(run(&rolling, &nodes, everywhere).1, ["twin", "p2", "p4"]);
        assert_eq!(
            run(&rolling, &nodes[..1], vec![daemon("dead", "fits", "new").phase("Failed")]).1,
            ["dead"]
        );
    }

    #[test]
    fn old_pods_are_replaced_within_the_limits() {
        let nodes: Vec<Arc<Node>> = ["a", "b", "c"].map(|name| node(name, "worker", "")).to_vec();
        let old = |ready: bool| {
            ["a", "b", "c"].map(|name| {
                let builder = daemon(&format!("old-{name}"), name, "old");
                if ready { builder.ready(0) } else { builder }
            })
        };
        let unavailable =
            |n: Value| set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": n}}));
        assert_eq!(run(&unavailable(json!(1)), &nodes, old(true).into()).1, ["old-a"]);
        assert_eq!(run(&unavailable(json!("50%")), &nodes, old(true).into()).1, ["old-a", "old-b"]);
        assert_eq!(run(&unavailable(json!(1)), &nodes, old(false).into()).1.len(), 3, "nothing to lose");
        let [a, b, _] = old(true);
        let waiting = vec![a, b, daemon("new-c", "c", "new")];
        assert!(run(&unavailable(json!(1)), &nodes, waiting).1.is_empty(), "one is unavailable already");
        let surge =
            set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}));
        assert_eq!(run(&surge, &nodes, old(true).into()), (vec!["a".into()], vec![]));
        let mut pods: Vec<PodBuilder> = old(true).into();
        pods.push(daemon("new-a", "a", "new").ready(0).created(50));
        assert_eq!(run(&surge, &nodes, pods), (vec![], vec!["old-a".into()]));
        assert_eq!(run(&set(json!({"type": "OnDelete"})), &nodes, old(true).into()), (vec![], vec![]));
    }

    #[test]
    fn status_counts_nodes() {
        let nodes = [node("a", "worker", ""), node("b", "worker", ""), node("c", "db", "")];
        let pods: Vec<Arc<Pod>> =
            [daemon("a", "a", "new").ready(0), daemon("b", "b", "old"), daemon("c", "c", "new")]
                .map(|p| Arc::new(p.build()))
                .into();
        let set = set(json!({}));
        let status = status(&Input { set: &set, nodes: &nodes, pods: &pods, hash: "new", now: at(9) }, None)
            .expect("changed");
        assert_eq!(
            (status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled),
            (2, 2, 1)
        );
        assert_eq!(
            (status.number_ready, status.number_available, status.number_unavailable),
            (1, Some(1), Some(1))
        );
        assert_eq!(status.updated_number_scheduled, Some(1));
    }

    #[test]
    fn replacing_failed_pods_slows_down() {
        let failures = FailedPods::new(Duration::from_secs(1), Duration::from_secs(10));
        let waits = [0, 0, 1, 1, 3].map(|second| failures.wait("d", "n", at(second)).as_secs());
        assert_eq!(waits, [0, 1, 0, 2, 0]);
    }
}
