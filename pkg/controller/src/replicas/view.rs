//! One view of replica sets and replication controllers.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::events::reference;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{ObjectReference, PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{Selector, SelectorExt as _};
use serde_json::{Value, json};

use crate::context::Key;
use crate::owner;

enum Object {
    Set(Arc<ReplicaSet>),
    Controller(Arc<ReplicationController>),
}

/// A replica set or replication controller.
pub(super) struct Replicas {
    object: Object,
    selector: Option<Selector>,
    status: ReplicaSetStatus,
    empty: PodTemplateSpec,
}

impl Replicas {
    pub(super) fn of_set(set: Arc<ReplicaSet>) -> Self {
        let selector = set.spec.as_ref().and_then(|spec| owner::selector(Some(&spec.selector)));
        let status = set.status.clone().unwrap_or_default();
        Self { object: Object::Set(set), selector, status, empty: PodTemplateSpec::default() }
    }

    pub(super) fn of_controller(controller: Arc<ReplicationController>) -> Self {
        let selector = controller.spec.as_ref().and_then(|spec| spec.selector.clone());
        let selector = selector.map(|labels| labels.into_iter().collect());
        // the same fields under another kind's name
        let status = serde_json::to_value(&controller.status)
            .and_then(serde_json::from_value::<Option<ReplicaSetStatus>>)
            .ok()
            .flatten()
            .unwrap_or_default();
        Self { object: Object::Controller(controller), selector, status, empty: PodTemplateSpec::default() }
    }

    pub(super) fn meta(&self) -> &ObjectMeta {
        match &self.object {
            Object::Set(set) => &set.metadata,
            Object::Controller(controller) => &controller.metadata,
        }
    }

    pub(super) fn key(&self) -> Key {
        let meta = self.meta();
        Key::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }

    pub(super) fn wanted(&self) -> usize {
        let wanted = match &self.object {
            Object::Set(set) => set.spec.as_ref().and_then(|spec| spec.replicas),
            Object::Controller(controller) => controller.spec.as_ref().and_then(|spec| spec.replicas),
        };
        usize::try_from(wanted.unwrap_or(1)).unwrap_or(0)
    }

    pub(super) fn min_ready_seconds(&self) -> i32 {
        match &self.object {
            Object::Set(set) => set.spec.as_ref().and_then(|spec| spec.min_ready_seconds),
            Object::Controller(controller) => {
                controller.spec.as_ref().and_then(|spec| spec.min_ready_seconds)
            }
        }
        .unwrap_or(0)
    }

    pub(super) fn template(&self) -> &PodTemplateSpec {
        match &self.object {
            Object::Set(set) => set.spec.as_ref().and_then(|spec| spec.template.as_ref()),
            Object::Controller(controller) => {
                controller.spec.as_ref().and_then(|spec| spec.template.as_ref())
            }
        }
        .unwrap_or(&self.empty)
    }

    /// Labels of the template: pods that carry them all are counted as fully labelled.
    pub(super) fn template_labels(&self) -> Option<&BTreeMap<String, String>> {
        self.template().metadata.as_ref()?.labels.as_ref()
    }

    pub(super) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_some_and(|selector| !selector.selects_all() && selector.matches(labels))
    }

    pub(super) fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }

    pub(super) fn object_reference(&self) -> ObjectReference {
        match &self.object {
            Object::Set(set) => reference(&**set),
            Object::Controller(controller) => reference(&**controller),
        }
    }

    /// The object with another status, to be sent to its status subresource.
    pub(super) fn with_status(&self, status: &ReplicaSetStatus) -> Value {
        let object = match &self.object {
            Object::Set(set) => serde_json::to_value(&**set),
            Object::Controller(controller) => serde_json::to_value(&**controller),
        };
        let mut object = object.unwrap_or_else(|_| json!({}));
        object["status"] = json!(status);
        if matches!(self.object, Object::Controller(_))
            && let Some(status) = object["status"].as_object_mut()
        {
            status.remove("terminatingReplicas");
        }
        object
    }
}
