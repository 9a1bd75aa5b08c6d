//! What came of judging pods, under upstream's name (`k8s.io/pod-security-admission/metrics`).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::is_pod;
use super::policy::{LATEST_MINOR, LevelVersion};
use crate::{AdmissionRequest, Operation};

/// What a judgement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Enforce,
    Audit,
    Warn,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    decision: &'static str,
    policy_level: &'static str,
    policy_version: String,
    mode: &'static str,
    request_operation: &'static str,
    resource: &'static str,
    subresource: String,
}

/// Judgements counted.
#[derive(Debug, Default)]
pub(super) struct Evaluations(Family<Labels, Counter>);

impl Evaluations {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("pod_security_evaluations", "Pods and templates judged", self.0.clone());
    }

    /// A pod (or a template of pods) was judged: all that were when a level is enforced, else those that violate it.
    pub(super) fn count(
        &self,
        request: &AdmissionRequest<'_>,
        mode: Mode,
        level: LevelVersion,
        allowed: bool,
    ) {
        if allowed && mode != Mode::Enforce {
            return;
        }
        let labels = Labels {
            decision: if allowed { "allow" } else { "deny" },
            policy_level: level.level.as_str(),
            policy_version: match level.version {
                None => "latest".to_owned(),
                Some(minor) if minor > LATEST_MINOR => "future".to_owned(),
                Some(minor) => format!("v1.{minor}"),
            },
            mode: match mode {
                Mode::Enforce => "enforce",
                Mode::Audit => "audit",
                Mode::Warn => "warn",
            },
            request_operation: if request.operation == Operation::Create { "create" } else { "update" },
            resource: if is_pod(request) { "pod" } else { "controller" },
            subresource: request.subresource.clone(),
        };
        self.0.get_or_create(&labels).inc();
    }
}
