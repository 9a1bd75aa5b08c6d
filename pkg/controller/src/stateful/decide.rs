//! The next step of a StatefulSet. No I/O; time is a parameter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::identity;
use crate::pods;
use crate::revisions::HASH_LABEL;

/// Which template a new pod is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Revision {
    Current,
    Update,
}

/// One write. A deletion may carry an event: its reason, and what the pod is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    Create(i32, Revision),
    Delete(Arc<Pod>, Option<(&'static str, &'static str)>),
}

/// What one run does.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) status: Option<StatefulSetStatus>,
    pub(super) again: Option<Duration>,
}

/// What one run sees.
pub(super) struct Input<'a> {
    pub(super) set: &'a StatefulSet,
    pub(super) pods: &'a [Arc<Pod>],
    /// Name of the revision rolled out before.
    pub(super) current: &'a str,
    /// Name of the present template's revision.
    pub(super) update: &'a str,
    pub(super) collisions: i32,
    pub(super) now: Timestamp,
}

impl Input<'_> {
    fn wanted(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn first(&self) -> i32 {
        identity::start(self.set)
    }

    fn is_parallel(&self) -> bool {
        self.set.spec.as_ref().and_then(|spec| spec.pod_management_policy.as_deref()) == Some("Parallel")
    }

    fn min_ready(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    /// First number that gets the new template; those below keep the current one.
    fn partition(&self) -> i32 {
        let strategy = self.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        let partition = strategy.and_then(|s| s.rolling_update.as_ref()?.partition).unwrap_or(0);
        self.first() + partition
    }

    fn replaces_on_delete_only(&self) -> bool {
        let strategy = self.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete")
    }

    /// Pods that may be down at once in a rolling update.
    fn max_unavailable(&self) -> usize {
        let strategy = self.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        let number = match strategy.and_then(|s| s.rolling_update.as_ref()?.max_unavailable.as_ref()) {
            None => 1,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(text)) => {
                let percent: i64 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
                i32::try_from((percent * i64::from(self.wanted()) + 99).div_euclid(100)).unwrap_or(i32::MAX)
            }
        };
        usize::try_from(number).unwrap_or(1).max(1)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_healthy(pod) && pods::is_available(pod, self.min_ready(), self.now)
    }
}

fn is_healthy(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod) && !pods::is_terminating(pod)
}

fn revision_of(pod: &Pod) -> &str {
    pod.labels().get(HASH_LABEL).map_or("", String::as_str)
}

pub(super) fn decide(input: &Input<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut wanted: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    let mut condemned: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    let range = input.first()..input.first() + input.wanted();
    for pod in input.pods {
        if let Some(ordinal) = identity::ordinal(input.set, pod) {
            let list = if range.contains(&ordinal) { &mut wanted } else { &mut condemned };
            list.insert(ordinal, pod.clone());
        }
    }
    steps(input, range.clone(), &wanted, &condemned, &mut plan);
    plan.status = status(input, &wanted, &condemned, &plan);
    plan.again = input
        .pods
        .iter()
        .filter_map(|pod| pods::until_available(pod, input.min_ready(), input.now))
        .filter(jiff::SignedDuration::is_positive)
        .min()
        .and_then(|wait| Duration::try_from(wait).ok())
        .map(|wait| wait + Duration::from_millis(100));
    plan
}

fn steps(
    input: &Input<'_>,
    range: std::ops::Range<i32>,
    wanted: &BTreeMap<i32, Arc<Pod>>,
    condemned: &BTreeMap<i32, Arc<Pod>>,
    plan: &mut Plan,
) {
    let in_order = !input.is_parallel();
    let mut waits = false;
    for ordinal in range.clone() {
        match wanted.get(&ordinal) {
            None => {
                // below the partition a pod comes back as it was
                let which = if input.current != input.update && ordinal < input.partition() {
                    Revision::Current
                } else {
                    Revision::Update
                };
                plan.actions.push(Action::Create(ordinal, which));
                waits = true;
            }
            Some(pod) if pods::is_finished(pod) => {
                if !pods::is_terminating(pod) {
                    let why = if pods::phase(pod) == "Failed" {
                        ("RecreatingFailedPod", "failed")
                    } else {
                        ("RecreatingTerminatedPod", "terminated")
                    };
                    plan.actions.push(Action::Delete(pod.clone(), Some(why)));
                }
                waits = true;
            }
            Some(pod) => waits |= !input.is_available(pod),
        }
        if waits && in_order {
            return;
        }
    }
    // The highest goes first, and in order only when all that stay are well. Of those that go, one that is not well waits
    // for those below it that are not well either: what is broken is mended from the lowest up.
    let lowest_unhealthy = condemned.iter().find(|(_, pod)| !is_healthy(pod)).map(|(ordinal, _)| *ordinal);
    for (ordinal, pod) in condemned.iter().rev() {
        if pods::is_terminating(pod) {
            if in_order {
                return;
            }
            continue;
        }
        if in_order && !input.is_available(pod) && lowest_unhealthy != Some(*ordinal) {
            return;
        }
        plan.actions.push(Action::Delete(pod.clone(), None));
        if in_order {
            return;
        }
    }
    if input.replaces_on_delete_only()
        || plan.actions.iter().any(|action| matches!(action, Action::Create(..)))
    {
        return;
    }
    let unavailable = wanted.values().filter(|pod| !input.is_available(pod)).count();
    let mut room = input.max_unavailable().saturating_sub(unavailable);
    for (_, pod) in wanted.range(input.partition().max(range.start)..).rev() {
        if revision_of(pod) == input.update || pods::is_terminating(pod) {
            continue;
        }
        if input.is_available(pod) {
            if room == 0 {
                return;
            }
            room -= 1;
        }
        plan.actions.push(Action::Delete(pod.clone(), None));
    }
}

/// The status after this run, `None` when nothing changed.
fn status(
    input: &Input<'_>,
    wanted: &BTreeMap<i32, Arc<Pod>>,
    condemned: &BTreeMap<i32, Arc<Pod>>,
    plan: &Plan,
) -> Option<StatefulSetStatus> {
    let held = input.set.status.clone().unwrap_or_default();
    let all = || wanted.values().chain(condemned.values());
    let count = |matches: &dyn Fn(&Pod) -> bool| all().filter(|pod| matches(pod)).count() as i32;
    let stays = |pod: &Pod| !pods::is_terminating(pod);
    let deleted: Vec<&Arc<Pod>> = plan
        .actions
        .iter()
        .filter_map(|action| if let Action::Delete(pod, _) = action { Some(pod) } else { None })
        .collect();
    let not_deleted = |pod: &Pod| !deleted.iter().any(|gone| gone.metadata.uid == pod.metadata.uid);
    let created = |which| {
        plan.actions
            .iter()
            .filter(|action| matches!(action, Action::Create(_, revision) if *revision == which))
            .count() as i32
    };
    let of = |revision: &str| count(&|pod| stays(pod) && not_deleted(pod) && revision_of(pod) == revision);
    let total = count(&|_| true) + created(Revision::Current) + created(Revision::Update);
    let ready = count(&|pod| is_healthy(pod));
    let mut updated = of(input.update) + created(Revision::Update);
    let mut current = of(input.current) + created(Revision::Current);
    let mut current_revision = input.current.to_owned();
    if input.current == input.update {
        current = updated;
    } else if !input.replaces_on_delete_only()
        && updated == total
        && ready == total
        && total == input.wanted()
    {
        // the rollout is complete
        current = updated;
        input.update.clone_into(&mut current_revision);
    }
    if updated < 0 {
        updated = 0;
    }
    let some = |count: i32| Some(count).filter(|count| *count > 0);
    let new = StatefulSetStatus {
        observed_generation: input.set.metadata.generation,
        replicas: total,
        ready_replicas: some(ready),
        available_replicas: Some(count(&|pod| input.is_available(pod))),
        current_replicas: some(current),
        updated_replicas: some(updated),
        current_revision: Some(current_revision),
        update_revision: Some(input.update.to_owned()),
        collision_count: Some(input.collisions),
        conditions: held.conditions.clone(),
    };
    (new != held).then_some(new)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{PodBuilder, at, meta, pod};

    fn set(spec: Value) -> StatefulSet {
        let mut base = json!({"replicas": 3, "selector": {}, "template": {}});
        for (key, value) in spec.as_object().expect("an object") {
            base[key] = value.clone();
        }
        StatefulSet {
            metadata: meta("db"),
            spec: serde_json::from_value(base).expect("a spec"),
            status: None,
        }
    }

    fn ready(ordinal: i32, revision: &str) -> PodBuilder {
        pod(&format!("db-{ordinal}")).label(HASH_LABEL, revision).ready(0)
    }

    fn run(set: &StatefulSet, pods: Vec<PodBuilder>) -> (Vec<String>, StatefulSetStatus) {
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(|pod| Arc::new(pod.build())).collect();
        let input = Input { set, pods: &pods, current: "old", update: "new", collisions: 0, now: at(100) };
        let plan = decide(&input);
        let actions = plan
            .actions
            .iter()
            .map(|action| match action {
                Action::Create(ordinal, revision) => format!("+{ordinal} {revision:?}"),
                Action::Delete(pod, why) => format!("-{}{}", pod.name_any(), why.map_or("", |_| "!")),
            })
            .collect();
        (actions, plan.status.expect("a status"))
    }

    #[test]
    fn pods_come_in_order_unless_parallel() {
        let ordered = set(json!({}));
        assert_eq!(run(&ordered, vec![]).0, ["+0 Update"]);
        assert_eq!(run(&ordered, vec![ready(0, "new")]).0, ["+1 Update"]);
        assert!(
            run(&ordered, vec![pod("db-0").label(HASH_LABEL, "new")]).0.is_empty(),
            "waits for readiness"
        );
        let parallel = set(json!({"podManagementPolicy": "Parallel"}));
        assert_eq!(run(&parallel, vec![]).0, ["+0 Update", "+1 Update", "+2 Update"]);
        let numbered = set(json!({"replicas": 1, "ordinals": {"start": 5}}));
        assert_eq!(run(&numbered, vec![]).0, ["+5 Update"]);
        assert_eq!(run(&ordered, vec![ready(0, "new"), ready(2, "new")]).0, ["+1 Update"], "gaps are filled");
        assert_eq!(run(&ordered, vec![ready(0, "new").phase("Failed")]).0, ["-db-0!"]);
    }

    #[test]
    fn pods_go_from_the_highest() {
        let three = || vec![ready(0, "new"), ready(1, "new"), ready(2, "new")];
        assert_eq!(run(&set(json!({"replicas": 1})), three()).0, ["-db-2"]);
        let parallel = json!({"replicas": 1, "podManagementPolicy": "Parallel"});
        assert_eq!(run(&set(parallel), three()).0, ["-db-2", "-db-1"]);
        let mut leaving = three();
        leaving[2] = ready(2, "new").deleted(1);
        assert!(run(&set(json!({"replicas": 1})), leaving).0.is_empty());
    }

    #[test]
    fn unhealthy_pods_go_only_when_none_below_them_is_unhealthy() {
        let sick = |ordinal: i32| pod(&format!("db-{ordinal}")).label(HASH_LABEL, "new").phase("Running");
        let none = set(json!({"replicas": 0}));
        let gone = |pods| run(&none, pods).0;
        assert!(gone(vec![sick(0), sick(1), sick(2)]).is_empty());
        assert_eq!(gone(vec![ready(0, "new"), ready(1, "new"), sick(2)]), ["-db-2"]);
        assert_eq!(gone(vec![sick(0), ready(1, "new"), ready(2, "new")]), ["-db-2"]);
        assert_eq!(gone(vec![sick(0)]), ["-db-0"]);
        let parallel = set(json!({"replicas": 0, "podManagementPolicy": "Parallel"}));
        assert_eq!(run(&parallel, vec![sick(0), sick(1)]).0, ["-db-1", "-db-0"]);
    }

    #[test]
    fn updates_roll_down_to_the_partition() {
        let old = || vec![ready(0, "old"), ready(1, "old"), ready(2, "old")];
        assert_eq!(run(&set(json!({})), old()).0, ["-db-2"]);
        let mut half = old();
        half[2] = ready(2, "new");
        assert_eq!(run(&set(json!({})), half).0, ["-db-1"]);
        let partition = |n: i32| set(json!({"updateStrategy": {"rollingUpdate": {"partition": n}}}));
        assert!(run(&partition(3), old()).0.is_empty());
        assert_eq!(run(&partition(1), vec![ready(1, "new"), ready(2, "new")]).0, ["+0 Current"]);
        assert!(run(&set(json!({"updateStrategy": {"type": "OnDelete"}})), old()).0.is_empty());
        let two = set(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}));
        assert_eq!(run(&two, old()).0, ["-db-2", "-db-1"]);
    }

    #[test]
    fn a_finished_rollout_makes_the_update_current() {
        let all_new = vec![ready(0, "new"), ready(1, "new"), ready(2, "new")];
        let (_, status) = run(&set(json!({})), all_new);
        assert_eq!((status.current_revision.as_deref(), status.current_replicas), (Some("new"), Some(3)));
        let (_, rolling) = run(&set(json!({})), vec![ready(0, "old"), ready(1, "old"), ready(2, "new")]);
        assert_eq!(
            (rolling.current_replicas, rolling.updated_replicas, rolling.replicas),
            (Some(1), Some(1), 3)
        );
        assert_eq!(rolling.current_revision.as_deref(), Some("old"));
    }
}
