//! The slices that one manager keeps for Services: which they are, whether what is known of them is current, and how
//! they are written.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::rest::Rest;
use client::workqueue::WorkQueue;
use client::{Event, Store, is_namespace_terminating, is_not_found};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use serde_json::json;

use super::reconcile::Changes;
use crate::context::{Context, Key, SyncError};
use crate::expectations::Written;
use crate::pods::generate_name;
use crate::resources::ENDPOINT_SLICES;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// The slices of one manager.
pub(super) struct Managed {
    manager: &'static str,
    slices: Store<EndpointSlice>,
    written: Arc<Written>,
    rest: Rest,
}

impl Managed {
    /// Follows the manager's slices: a change of one has its Service looked at. `manager` names the index as well.
    pub(super) fn follow(
        context: &Context,
        manager: &'static str,
        queue: &WorkQueue<Key>,
        rest: Rest,
    ) -> Self {
        let slices = context.informer::<EndpointSlice>();
        slices.add_index(manager, move |slice| {
            service_of(slice, manager).map(|key| key.to_string()).into_iter().collect()
        });
        let written = Arc::new(Written::default());
        let (adds, notes) = (queue.clone(), written.clone());
        slices.on_event(move |event| {
            if let Event::Deleted(slice) = &event {
                notes.forget(&Key::of(&**slice));
            }
            // one's own writes come back too; looking at them again costs a comparison and repairs what others changed
            let old = if let Event::Updated { old, .. } = &event { Some(old) } else { None };
            for slice in [Some(event.object()), old].into_iter().flatten() {
                if let Some(service) = service_of(slice, manager) {
                    adds.add(service);
                }
            }
        });
        Self { manager, slices: slices.store(), written, rest }
    }

    /// The slices of a Service that are not being deleted.
    pub(super) fn of(&self, service: &Key) -> Vec<Arc<EndpointSlice>> {
        let mut held = self.slices.by_index(self.manager, &service.to_string());
        held.retain(|slice| slice.metadata.deletion_timestamp.is_none());
        held
    }

    /// Whether a write of one's own to one of the slices is still on its way back; it wakes the Service again.
    pub(super) fn is_behind(&self, held: &[Arc<EndpointSlice>]) -> bool {
        held.iter().any(|slice| {
            self.written.is_stale(&Key::of(&**slice), slice.metadata.resource_version.as_deref())
        })
    }

    /// Adds what says whose the slices are.
    pub(super) fn label(&self, labels: &mut BTreeMap<String, String>, service: String) {
        labels.insert(SERVICE_NAME.into(), service);
        labels.insert(MANAGED_BY.into(), self.manager.into());
    }

    /// Writes changes of one Service's slices; new ones are the owner's. What goes with a namespace is left.
    pub(super) async fn write(
        &self,
        namespace: &str,
        owner: &OwnerReference,
        changes: Changes,
    ) -> Result<(), SyncError> {
        for mut slice in changes.create {
            slice.metadata.generate_name = Some(generate_name(&owner.name));
            slice.metadata.namespace = Some(namespace.to_owned());
            slice.metadata.owner_references = Some(vec![owner.clone()]);
            match self.rest.create(&ENDPOINT_SLICES, namespace, &slice).await {
                Err(error) if is_namespace_terminating(&error) => return Ok(()),
                done => done?,
            };
        }
        for slice in changes.update {
            let answer = self.rest.update(&ENDPOINT_SLICES, "", &slice).await?;
            self.written.note(&Key::of(&slice), &answer);
        }
        for slice in changes.delete {
            self.delete(&slice).await?;
        }
        Ok(())
    }

    /// Deletes a slice, which may be gone already.
    pub(super) async fn delete(&self, slice: &EndpointSlice) -> Result<(), SyncError> {
        let namespace = slice.namespace().unwrap_or_default();
        match self.rest.delete(&ENDPOINT_SLICES, &namespace, &slice.name_any(), &json!({})).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// The Service of a slice, if it is the manager's.
fn service_of(slice: &EndpointSlice, manager: &str) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.get(MANAGED_BY).map(String::as_str) != Some(manager) {
        return None;
    }
    Some(Key::new(slice.namespace().unwrap_or_default(), labels.get(SERVICE_NAME)?.clone()))
}
