//! Taints that nodes get from their conditions, and what tolerations say about them. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use placement::nodes::tolerates;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition, the status that taints, the taint's key.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

pub(super) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub(super) fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or(&[])
}

pub(super) fn is(taint: &Taint, key: &str, effect: &str) -> bool {
    taint.key == key && taint.effect == effect
}

fn make(key: &str, effect: &str, now: Timestamp) -> Taint {
    Taint { key: key.into(), effect: effect.into(), time_added: Some(Time(now)), value: None }
}

/// How a node's NoExecute taints may change now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evict {
    /// Taint a node that is not ready or not reachable.
    Allowed,
    /// Not yet: taints are given at a limited rate. Those there may change their kind.
    Wait,
    /// Take them away: when no node is ready the fault is not theirs.
    Never,
}

/// The taints a node should have: those of its conditions, and all that others put there.
pub(super) fn wanted(node: &Node, evict: Evict, now: Timestamp) -> Vec<Taint> {
    let status = |kind| condition(node, kind).map_or("", |condition| condition.status.as_str());
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let mut no_schedule: Vec<&str> =
        BY_CONDITION.iter().filter(|(kind, bad, _)| status(kind) == *bad).map(|(_, _, key)| *key).collect();
    if unschedulable {
        no_schedule.push(UNSCHEDULABLE);
    }
    let no_execute = match (status("Ready"), evict) {
        (_, Evict::Never) => None,
        ("False", _) => Some(NOT_READY),
        ("Unknown", _) => Some(UNREACHABLE),
        _ => None,
    };
    let held = taints(node);
    let had_any =
        held.iter().any(|taint| is(taint, NOT_READY, "NoExecute") || is(taint, UNREACHABLE, "NoExecute"));
    let no_execute = no_execute.filter(|_| evict == Evict::Allowed || had_any);
    let ours = |taint: &Taint| match taint.effect.as_str() {
        "NoSchedule" => {
            taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key)
        }
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    };
    let mut all: Vec<Taint> = held
        .iter()
        .filter(|taint| {
            !ours(taint)
                || (taint.effect == "NoSchedule" && no_schedule.contains(&taint.key.as_str()))
                || (taint.effect == "NoExecute" && no_execute == Some(taint.key.as_str()))
        })
        .cloned()
        .collect();
    for key in no_schedule {
        if !all.iter().any(|taint| is(taint, key, "NoSchedule")) {
            all.push(make(key, "NoSchedule", now));
        }
    }
    if let Some(key) = no_execute
        && !all.iter().any(|taint| is(taint, key, "NoExecute"))
    {
        all.push(make(key, "NoExecute", now));
    }
    all
}

/// When a pod that came at `since` must leave a node with these taints. `None`: it may stay.
pub(super) fn evict_at(
    taints: &[Taint],
    tolerations: &[Toleration],
    since: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    let mut earliest: Option<Timestamp> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let matching: Vec<&Toleration> =
            tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            return Some(now);
        }
        let start = taint.time_added.as_ref().map_or(now, |time| time.0).max(since);
        let limits = matching.iter().filter_map(|toleration| toleration.toleration_seconds);
        if let Some(seconds) = limits.min() {
            let due = start + SignedDuration::from_secs(seconds.clamp(0, i64::from(i32::MAX)));
            earliest = Some(earliest.map_or(due, |held| held.min(due)));
        }
    }
    earliest
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus};

    use super::*;
    use crate::testing::{at, meta};

    fn node(conditions: &[(&str, &str)], taints: Vec<Taint>) -> Node {
        let conditions = conditions
            .iter()
            .map(|(kind, status)| NodeCondition {
                type_: (*kind).into(),
                status: (*status).into(),
                ..NodeCondition::default()
            })
            .collect();
        Node {
            metadata: meta("n"),
            spec: Some(NodeSpec { taints: Some(taints), ..NodeSpec::default() }),
            status: Some(NodeStatus { conditions: Some(conditions), ..NodeStatus::default() }),
        }
    }

    fn names(taints: &[Taint]) -> Vec<String> {
        let mut names: Vec<String> = taints
            .iter()
            .map(|taint| format!("{}:{}", taint.key.rsplit('/').next().unwrap_or(""), taint.effect))
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn taints_follow_conditions() {
        let other = make("example.com/mine", "NoExecute", at(0));
        let held = |key, effect| vec![make(key, effect, at(0)), other.clone()];
        let cases: [(Node, Evict, &[&str]); 7] = [
            (node(&[("Ready", "True")], held(NOT_READY, "NoSchedule")), Evict::Allowed, &["mine:NoExecute"]),
            (
                node(&[("Ready", "False")], vec![]),
                Evict::Allowed,
                &["not-ready:NoExecute", "not-ready:NoSchedule"],
            ),
            (node(&[("Ready", "False")], vec![]), Evict::Wait, &["not-ready:NoSchedule"]),
            (
                node(&[("Ready", "Unknown")], held(NOT_READY, "NoExecute")),
                Evict::Wait,
                &["mine:NoExecute", "unreachable:NoExecute", "unreachable:NoSchedule"],
            ),
            (
                node(&[("Ready", "Unknown")], held(UNREACHABLE, "NoExecute")),
                Evict::Never,
                &["mine:NoExecute", "unreachable:NoSchedule"],
            ),
            (
                node(&[("Ready", "True"), ("DiskPressure", "True")], vec![]),
                Evict::Allowed,
                &["disk-pressure:NoSchedule"],
            ),
            (node(&[("Ready", "True")], held(NOT_READY, "NoExecute")), Evict::Allowed, &["mine:NoExecute"]),
        ];
        for (node, evict, expected) in cases {
            assert_eq!(names(&wanted(&node, evict, at(1))), expected);
        }
    }

    #[test]
    fn tolerations_say_when_to_leave() {
        let taint = |key: &str| make(key, "NoExecute", at(100));
        let tolerate = |key: &str, seconds: Option<i64>| Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Toleration::default()
        };
        let cases: Vec<(Vec<Taint>, Vec<Toleration>, Option<i64>)> = vec![
            (vec![], vec![], None),
            (vec![taint("a")], vec![], Some(150)),
            (vec![taint("a")], vec![tolerate("a", None)], None),
            (vec![taint("a")], vec![tolerate("a", Some(300))], Some(400)),
            (vec![taint("a")], vec![tolerate("", None)], None),
            (vec![taint("a"), taint("b")], vec![tolerate("a", Some(300))], Some(150)),
            (
                vec![taint("a"), taint("b")],
                vec![tolerate("a", Some(300)), tolerate("b", Some(60))],
                Some(160),
            ),
            (vec![make("a", "NoSchedule", at(0))], vec![], None),
        ];
        for (taints, tolerations, expected) in cases {
            assert_eq!(evict_at(&taints, &tolerations, at(0), at(150)), expected.map(at));
        }
        let late = evict_at(&[taint("a")], &[tolerate("a", Some(300))], at(140), at(150));
        assert_eq!(late, Some(at(440)), "the time counts from the pod's arrival");
    }
}
