//! Making and deleting the pods of an owner, as jobs, daemon sets and replica sets all do it.
//!
//! Behaviour after `pkg/controller/controller_utils.go`: an event tells of each pod, what fails is no longer expected,
//! and creation goes in growing batches.

use client::events::{EventRecorder, EventType};
use client::rest::Rest;
use client::{is_namespace_terminating, is_not_found};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::context::{Key, SyncError};
use crate::expectations::Expectations;
use crate::resources::PODS;

/// Size of the first batch of creations; each batch that succeeds entirely is followed by one of twice its size.
const FIRST_BATCH: usize = 1;

/// Hands on the pods of one owner. What is to be done must be expected already, under the owner's key.
pub(crate) struct PodControl<'a> {
    pub(crate) rest: &'a Rest,
    pub(crate) recorder: &'a EventRecorder,
    pub(crate) expectations: &'a Expectations,
    pub(crate) key: &'a Key,
    /// The owner, for events.
    pub(crate) owner: ObjectReference,
}

impl PodControl<'_> {
    /// Creates a pod for each item, in batches of 1, 2, 4, ..., so that an error all of them share is met once and not for
    /// every pod. After an error the rest is neither created nor expected any more.
    pub(crate) async fn create<T>(&self, items: &[T], pod: impl Fn(&T) -> Value) -> Result<(), SyncError> {
        let (mut left, mut batch) = (items, FIRST_BATCH);
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let results = join_all(now.iter().map(|item| self.create_one(pod(item)))).await;
            left = later;
            if let Some(error) = results.into_iter().find_map(Result::err) {
                for _ in left {
                    self.expectations.created(self.key);
                }
                tracing::debug!(key = %self.key, left = left.len(), "creations skipped after a failure");
                return Err(error);
            }
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(&self, pod: Value) -> Result<(), SyncError> {
        match self.rest.create(&PODS, &self.key.namespace, &pod).await {
            Ok(created) => {
                let name = created.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("");
                self.event(EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                Ok(())
            }
            Err(error) => {
                self.expectations.created(self.key);
                if is_namespace_terminating(&error) {
                    // nothing can be created there any more, and that is no failure
                    return Ok(());
                }
                let error = SyncError::from(error);
                self.event(EventType::Warning, "FailedCreate", format!("Error creating: {error}"));
                Err(error)
            }
        }
    }

    /// Deletes pods, all at once; gives the first error.
    pub(crate) async fn delete(&self, pods: impl IntoIterator<Item = &Pod>) -> Result<(), SyncError> {
        let results = join_all(pods.into_iter().map(|pod| self.delete_one(pod))).await;
        results.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    async fn delete_one(&self, pod: &Pod) -> Result<(), SyncError> {
        let (name, uid) = (pod.name_any(), pod.metadata.uid.as_deref().unwrap_or(""));
        let options = json!({"preconditions": {"uid": uid}});
        match self.rest.delete(&PODS, &self.key.namespace, &name, &options).await {
            Ok(_) => {
                self.event(EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(error) => {
                self.expectations.deleted(self.key, uid);
                if is_not_found(&error) {
                    return Ok(());
                }
                let error = SyncError::from(error);
                self.event(EventType::Warning, "FailedDelete", format!("Error deleting: {error}"));
                Err(error)
            }
        }
    }

    fn event(&self, kind: EventType, reason: &str, note: String) {
        self.recorder.event(&self.owner, kind, reason, "", note);
    }
}
