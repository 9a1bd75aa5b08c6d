//! How fast the number of replicas may change: stabilization and policies. Pure; the history is a parameter.
//!
//! Source: "Configurable scaling behavior" (KEP-853).

use std::cmp::Ordering;
use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// Recommendations and changes kept of one autoscaler.
const MAX_HISTORY: usize = 4096;
/// Longest any window or period can be asked for.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);
/// Without `behavior`: down only to the highest recommendation of this long
/// (`--horizontal-pod-autoscaler-downscale-stabilization`).
const DOWN_STABILIZATION: i64 = 300;

/// What was recommended and done before.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    recommendations: VecDeque<(Timestamp, i32)>,
    /// Changes in number of replicas; negative when down.
    changes: VecDeque<(Timestamp, i32)>,
}

impl History {
    fn note(list: &mut VecDeque<(Timestamp, i32)>, now: Timestamp, value: i32) {
        while list.len() >= MAX_HISTORY
            || list.front().is_some_and(|(at, _)| now.duration_since(*at) > LONGEST)
        {
            list.pop_front();
        }
        list.push_back((now, value));
    }

    /// Notes what was done.
    pub(super) fn changed(&mut self, now: Timestamp, from: i32, to: i32) {
        Self::note(&mut self.changes, now, to - from);
    }

    /// Replicas added (`up`) or removed during a period.
    fn moved(&self, now: Timestamp, seconds: i32, up: bool) -> i32 {
        let recent =
            self.changes.iter().filter(|(at, _)| now.duration_since(*at).as_secs() < i64::from(seconds));
        recent.map(|(_, by)| *by).filter(|by| (*by > 0) == up).map(i32::abs).sum()
    }
}

/// A condition's reason and message.
type Said = (&'static str, &'static str);

/// A number of replicas within bounds, and what conditions say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounded {
    pub(super) replicas: i32,
    pub(super) able: Said,
    /// `None` when no bound was hit.
    pub(super) limited: Option<Said>,
}

const STEADY: Said = ("ReadyForNewScale", "recommended size matches current size");
const HELD_DOWN: Said = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const HELD_UP: Said = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);

/// What the policies of one direction allow: replicas after the change. `None` when that direction is disabled.
fn allowed(
    rules: Option<&HPAScalingRules>,
    up: bool,
    current: i32,
    history: &History,
    now: Timestamp,
) -> Option<i32> {
    let select = rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max");
    if select == "Disabled" {
        return None;
    }
    // Defaults: double or four more every 15 seconds up, all of it every 15 seconds down.
    let defaults: &[(&str, i32, i32)] =
        if up { &[("Pods", 4, 15), ("Percent", 100, 15)] } else { &[("Percent", 100, 15)] };
    let given = rules.and_then(|rules| rules.policies.as_ref()).filter(|list| !list.is_empty());
    let policies: Vec<(&str, i32, i32)> = match given {
        Some(list) => list.iter().map(|p| (p.type_.as_str(), p.value, p.period_seconds)).collect(),
        None => defaults.to_vec(),
    };
    let limits = policies.into_iter().map(|(kind, value, period)| {
        let moved = history.moved(now, period, up);
        let base = if up { current - moved } else { current + moved };
        match (kind, up) {
            ("Percent", true) => (f64::from(base) * (1.0 + f64::from(value) / 100.0)).ceil() as i32,
            ("Percent", false) => (f64::from(base) * (1.0 - f64::from(value) / 100.0)) as i32,
            (_, true) => base.saturating_add(value),
            (_, false) => base - value,
        }
    });
    // "Max" is the largest change: the highest number up, the lowest down.
    if (select == "Max") == up { limits.max() } else { limits.min() }
}

fn window(rules: Option<&HPAScalingRules>, default: i64) -> i64 {
    rules.and_then(|rules| rules.stabilization_window_seconds).map_or(default, i64::from)
}

/// Applies stabilization, policies and the spec's bounds to a recommendation.
pub(super) fn bound(
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    (min, max): (i32, i32),
    current: i32,
    recommended: i32,
    history: &mut History,
    now: Timestamp,
) -> Bounded {
    History::note(&mut history.recommendations, now, recommended);
    let (up, down) =
        (behavior.and_then(|b| b.scale_up.as_ref()), behavior.and_then(|b| b.scale_down.as_ref()));
    let within = |seconds: i64| {
        let recent = history
            .recommendations
            .iter()
            .filter(move |(at, _)| now.duration_since(*at).as_secs() < seconds.max(1));
        recent.map(|(_, replicas)| *replicas)
    };
    let lowest = within(window(up, 0)).min().unwrap_or(recommended).min(recommended);
    let highest = within(window(down, DOWN_STABILIZATION)).max().unwrap_or(recommended).max(recommended);
    let or_held = |steady: i32, held: Said| (steady, if steady == recommended { STEADY } else { held });
    let (steady, able) = match recommended.cmp(&current) {
        Ordering::Greater => or_held(lowest.max(current), HELD_UP),
        Ordering::Less => or_held(highest.min(current), HELD_DOWN),
        Ordering::Equal => (recommended, STEADY),
    };
    let (least, most) = (min, max);
    let mut limited = None;
    let mut replicas = steady;
    if steady > current {
        let limit = match (behavior, allowed(up, true, current, history, now)) {
            // The rule from before there was `behavior`.
            (None, _) => current.saturating_mul(2).max(4),
            (_, limit) => limit.map_or(current, |limit| limit.max(current)),
        };
        if limit.min(most) < steady {
            limited = Some(if limit < most {
                ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
            } else {
                ("TooManyReplicas", "the desired replica count is more than the maximum replica count")
            });
            replicas = limit.min(most);
        }
    } else if steady < current && behavior.is_some() {
        let limit = allowed(down, false, current, history, now).map_or(current, |limit| limit.min(current));
        if limit.max(least) > steady {
            limited = Some(if limit > least {
                (
                    "ScaleDownLimit",
                    "the desired replica count is decreasing faster than the maximum scale rate",
                )
            } else {
                ("TooFewReplicas", "the desired replica count is less than the minimum replica count")
            });
            replicas = limit.max(least);
        }
    }
    if replicas < least {
        limited =
            Some(("TooFewReplicas", "the desired replica count is less than the minimum replica count"));
        replicas = least;
    } else if replicas > most {
        limited =
            Some(("TooManyReplicas", "the desired replica count is more than the maximum replica count"));
        replicas = most;
    }
    Bounded { replicas, able, limited }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;
    use serde_json::json;

    fn behavior(value: serde_json::Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(value).expect("a behavior")
    }

    #[test]
    fn without_behavior_up_is_limited_and_down_waits() {
        let mut history = History::default();
        let up = bound(None, (1, 100), 3, 50, &mut history, at(0));
        assert_eq!((up.replicas, up.limited.map(|l| l.0)), (6, Some("ScaleUpLimit")));
        let down = bound(None, (1, 100), 6, 2, &mut history, at(60));
        assert_eq!(
            (down.replicas, down.able.0),
            (6, "ScaleDownStabilized"),
            "50 was recommended a minute ago"
        );
        let later = bound(None, (1, 100), 6, 2, &mut history, at(301));
        assert_eq!((later.replicas, later.able.0), (2, "ReadyForNewScale"));
        assert_eq!(bound(None, (3, 100), 6, 0, &mut History::default(), at(0)).replicas, 3);
        assert_eq!(bound(None, (1, 5), 4, 9, &mut History::default(), at(0)).replicas, 5);
    }

    #[test]
    fn policies_limit_each_direction_over_their_period() {
        let slow = behavior(json!({
            "scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}]},
        }));
        let mut history = History::default();
        let first = bound(Some(&slow), (1, 100), 4, 20, &mut history, at(0));
        assert_eq!(first.replicas, 6);
        history.changed(at(0), 4, 6);
        assert_eq!(bound(Some(&slow), (1, 100), 6, 20, &mut history, at(30)).replicas, 6, "two in a minute");
        assert_eq!(bound(Some(&slow), (1, 100), 6, 20, &mut history, at(61)).replicas, 8);
        let down = bound(Some(&slow), (1, 100), 8, 1, &mut History::default(), at(0));
        assert_eq!((down.replicas, down.limited.map(|l| l.0)), (4, Some("ScaleDownLimit")));
        let never =
            behavior(json!({"scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}}));
        assert_eq!(bound(Some(&never), (1, 100), 8, 1, &mut History::default(), at(0)).replicas, 8);
    }
}
