//! Whether a container that ended runs again.
//!
//! Sources: `pkg/kubelet/container/helpers.go`, KEP-753 (sidecars), KEP-5307 (container restart rules).

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::podutil::{Kind, PodExt, is_sidecar};
use crate::runtime::{ContainerRecord, State};

/// `restartPolicy` of a pod or container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Whatever the exit code.
    Always,
    /// Unless it exited with 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl Policy {
    fn parse(text: &str) -> Self {
        match text {
            "OnFailure" => Self::OnFailure,
            "Never" => Self::Never,
            _ => Self::Always,
        }
    }
}

/// The policy in force for a container: its own where it has one, else the pod's. An init container that is no sidecar
/// under `Always` restarts on failure only, else it could never be done.
pub fn policy(pod: &Pod, container: &Container, kind: Kind) -> Policy {
    if kind == Kind::Ephemeral {
        return Policy::Never;
    }
    let own = container.restart_policy.as_deref();
    let policy = Policy::parse(own.unwrap_or_else(|| pod.restart_policy()));
    if kind == Kind::Init && !is_sidecar(container) && policy == Policy::Always {
        return Policy::OnFailure;
    }
    policy
}

/// Whether a container that exited with this code runs again by its rules and policy.
pub fn restarts_after(pod: &Pod, container: &Container, kind: Kind, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
        let matches = match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if matches && rule.action == "Restart" {
            return true;
        }
    }
    match policy(pod, container, kind) {
        Policy::Always => true,
        Policy::OnFailure => exit_code != 0,
        Policy::Never => false,
    }
}

/// Whether the container should be started now that its newest record is this one.
pub fn should_start(pod: &Pod, container: &Container, kind: Kind, latest: Option<&ContainerRecord>) -> bool {
    if pod.is_deleting() {
        return false;
    }
    match latest {
        None => true,
        Some(record) => match record.state {
            State::Running => false,
            // Made but never started, or lost: the attempt did not count.
            State::Created | State::Unknown => true,
            State::Exited => restarts_after(pod, container, kind, record.exit_code),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies_and_rules() {
        let rule = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        let cases = [
            ("Always", json!({}), Kind::Regular, 0, true),
            ("OnFailure", json!({}), Kind::Regular, 0, false),
            ("OnFailure", json!({}), Kind::Regular, 1, true),
            ("Never", json!({}), Kind::Regular, 1, false),
            ("Always", json!({}), Kind::Init, 0, false),
            ("Always", json!({}), Kind::Init, 1, true),
            ("Never", json!({"restartPolicy": "Always"}), Kind::Init, 0, true),
            ("Always", json!({}), Kind::Ephemeral, 1, false),
            ("Never", json!({"restartPolicy": "Never", "restartPolicyRules": rule}), Kind::Regular, 42, true),
            ("Never", json!({"restartPolicy": "Never", "restartPolicyRules": rule}), Kind::Regular, 1, false),
            ("Always", json!({"restartPolicy": "Never"}), Kind::Regular, 1, false),
        ];
        for (pod_policy, mut container, kind, code, again) in cases {
            container["name"] = json!("c");
            let container: Container = serde_json::from_value(container).expect("a container");
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {}, "spec": {"containers": [], "restartPolicy": pod_policy}}),
            )
            .expect("a pod");
            assert_eq!(
                restarts_after(&pod, &container, kind, code),
                again,
                "{pod_policy} {container:?} {code}"
            );
        }
    }
}
