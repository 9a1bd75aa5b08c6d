//! `podFailurePolicy` and `successPolicy` (KEP-3329, KEP-3998): what a failed pod means, and when enough has succeeded.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes;

/// What a failed pod does to its Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It counts towards the back-off limit.
    Count,
    /// It is replaced and not counted.
    Ignore,
    /// Its index fails at once.
    FailIndex,
    /// The Job fails at once, with this message.
    FailJob(String),
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
    })
}

fn matching_container<'a>(rule: &PodFailurePolicyRule, pod: &'a Pod) -> Option<(&'a str, i32)> {
    let wanted = rule.on_exit_codes.as_ref()?;
    statuses(pod).find_map(|status| {
        if wanted.container_name.as_ref().is_some_and(|name| *name != status.name) {
            return None;
        }
        let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
        let listed = wanted.values.contains(&code);
        let matches = code != 0 && if wanted.operator == "In" { listed } else { !listed };
        matches.then_some((status.name.as_str(), code))
    })
}

fn matching_condition<'a>(rule: &PodFailurePolicyRule, pod: &'a Pod) -> Option<(&'a str, &'a str)> {
    let held = pod.status.as_ref()?.conditions.as_deref().unwrap_or(&[]);
    rule.on_pod_conditions.iter().flatten().find_map(|pattern| {
        let status = pattern.status.as_deref().unwrap_or("True");
        held.iter()
            .find(|condition| condition.type_ == pattern.type_ && condition.status == status)
            .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
    })
}

/// The first rule that matches decides.
pub(super) fn judge(job: &Job, pod: &Pod) -> Failure {
    let rules =
        job.spec.iter().filter_map(|spec| spec.pod_failure_policy.as_ref()).flat_map(|policy| &policy.rules);
    for (number, rule) in rules.enumerate() {
        let name = pod.metadata.name.as_deref().unwrap_or("");
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        let action = &rule.action;
        let message = if let Some((container, code)) = matching_container(rule, pod) {
            format!(
                "Container {container} for pod {namespace}/{name} failed with exit code {code} matching {action} rule at index {number}"
            )
        } else if let Some((kind, _)) = matching_condition(rule, pod) {
            format!("Pod {namespace}/{name} has condition {kind} matching {action} rule at index {number}")
        } else {
            continue;
        };
        return match action.as_str() {
            "FailJob" => Failure::FailJob(message),
            "FailIndex" => Failure::FailIndex,
            "Ignore" => Failure::Ignore,
            _ => Failure::Count,
        };
    }
    Failure::Count
}

/// The message of the first success rule that the succeeded indexes fulfil.
pub(super) fn succeeded(job: &Job, done: &BTreeSet<i32>) -> Option<String> {
    let spec = job.spec.as_ref()?;
    let completions = spec.completions?;
    let rules = &spec.success_policy.as_ref()?.rules;
    rules.iter().enumerate().find_map(|(number, rule)| {
        let relevant: BTreeSet<i32> = match &rule.succeeded_indexes {
            Some(text) => indexes::parse(text, completions),
            None => (0..completions).collect(),
        };
        let reached = relevant.intersection(done).count();
        let needed = rule.succeeded_count.map_or(relevant.len(), |count| usize::try_from(count).unwrap_or(0));
        (reached >= needed).then(|| format!("Matched rules at index {number}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(spec: serde_json::Value) -> Job {
        serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": spec})).expect("a job")
    }

    fn failed(code: i32) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "status": {
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code}}}],
            "conditions": [{"type": "DisruptionTarget", "status": "True"}]}}))
        .expect("a pod")
    }

    #[test]
    fn the_first_matching_failure_rule_decides() {
        let job = job(json!({"template": {}, "podFailurePolicy": {"rules": [
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [7], "containerName": "c"}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}}));
        let message = "Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 0";
        assert_eq!(judge(&job, &failed(42)), Failure::FailJob(message.into()));
        assert_eq!(judge(&job, &failed(7)), Failure::FailIndex);
        assert_eq!(judge(&job, &failed(1)), Failure::Ignore);
        assert_eq!(judge(&self::job(json!({"template": {}})), &failed(1)), Failure::Count);
    }

    #[test]
    fn success_rules_count_indexes() {
        let job = job(json!({"template": {}, "completions": 5, "successPolicy": {"rules": [
            {"succeededIndexes": "0,2-3", "succeededCount": 2}, {"succeededIndexes": "4"}]}}));
        assert_eq!(succeeded(&job, &BTreeSet::from([0, 1])), None);
        assert_eq!(succeeded(&job, &BTreeSet::from([0, 3])).as_deref(), Some("Matched rules at index 0"));
        assert_eq!(succeeded(&job, &BTreeSet::from([4])).as_deref(), Some("Matched rules at index 1"));
    }
}
