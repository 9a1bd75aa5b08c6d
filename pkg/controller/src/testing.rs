//! Builders of objects for tests.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

/// A time so many seconds after the tests' beginning.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("in range")
}

pub(crate) fn time(second: i64) -> Time {
    Time(at(second))
}

/// Metadata in namespace `ns`, the name being the uid.
pub(crate) fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some("ns".into()),
        uid: Some(name.into()),
        resource_version: Some("1".into()),
        generation: Some(1),
        creation_timestamp: Some(time(0)),
        ..ObjectMeta::default()
    }
}

pub(crate) struct PodBuilder(Pod);

/// A running pod of namespace `ns`.
pub(crate) fn pod(name: &str) -> PodBuilder {
    PodBuilder(Pod {
        metadata: meta(name),
        spec: Some(PodSpec::default()),
        status: Some(PodStatus { phase: Some("Running".into()), ..PodStatus::default() }),
    })
}

impl PodBuilder {
    pub(crate) fn build(self) -> Pod {
        self.0
    }

    fn spec(&mut self) -> &mut PodSpec {
        self.0.spec.get_or_insert_default()
    }

    fn status(&mut self) -> &mut PodStatus {
        self.0.status.get_or_insert_default()
    }

    pub(crate) fn phase(mut self, phase: &str) -> Self {
        self.status().phase = Some(phase.into());
        self
    }

    pub(crate) fn node(mut self, name: &str) -> Self {
        self.spec().node_name = Some(name.into());
        self
    }

    pub(crate) fn ip(mut self, ip: &str) -> Self {
        self.status().pod_ip = Some(ip.into());
        self.status().pod_ips = Some(vec![k8s_openapi::api::core::v1::PodIP { ip: ip.into() }]);
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.labels.get_or_insert_default().insert(key.into(), value.into());
        self
    }

    pub(crate) fn annotation(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.annotations.get_or_insert_default().insert(key.into(), value.into());
        self
    }

    pub(crate) fn created(mut self, second: i64) -> Self {
        self.0.metadata.creation_timestamp = Some(time(second));
        self
    }

    pub(crate) fn deleted(mut self, second: i64) -> Self {
        self.0.metadata.deletion_timestamp = Some(time(second));
        self
    }

    pub(crate) fn restarts(mut self, count: i32) -> Self {
        let status = ContainerStatus { restart_count: count, ..ContainerStatus::default() };
        self.status().container_statuses = Some(vec![status]);
        self
    }

    pub(crate) fn ready(mut self, since: i64) -> Self {
        self.status().conditions = Some(vec![PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(time(since)),
            ..PodCondition::default()
        }]);
        self
    }

    pub(crate) fn owned(mut self, uid: &str) -> Self {
        self.0.metadata.owner_references = Some(vec![OwnerReference {
            uid: uid.into(),
            controller: Some(true),
            ..OwnerReference::default()
        }]);
        self
    }
}
