//! From events of the API to cache, promises and queue.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use client::{Event, Informer, InformerFactory};
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as ApiSelector;
use kube::ResourceExt;
use serde::de::DeserializeOwned;

use crate::framework::{Change, NodeChange};
use crate::metrics::{Incoming, Kind};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, selector};
use crate::queue::Place;
use crate::runner::{Shared, State};
use crate::volumes::Volumes;

/// What is listened to: the informers may be shared with others, whose own are not waited for.
pub(crate) struct Sources<'a> {
    factory: &'a InformerFactory,
    synced: Vec<BoxFuture<'static, bool>>,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(factory: &'a InformerFactory) -> Self {
        Self { factory, synced: Vec::new() }
    }

    pub(crate) fn informer<K>(&mut self) -> Informer<K>
    where
        K: kube::Resource<DynamicType = ()> + DeserializeOwned + Any + Send + Sync,
    {
        let informer = self.factory.informer::<K>();
        let synced = informer.clone();
        self.synced.push(Box::pin(async move { synced.synced().await }));
        informer
    }

    /// Waits for the first list of each; `false` when one was stopped before.
    pub(crate) async fn synced(self) -> bool {
        futures::future::join_all(self.synced).await.into_iter().all(|synced| synced)
    }
}

/// Subscribes to everything that matters.
pub(crate) fn listen(shared: &Arc<Shared>, sources: &mut Sources<'_>) {
    let own = shared.clone();
    sources.informer::<Node>().on_event(move |event| own.on_node(&event));
    let own = shared.clone();
    sources.informer::<Pod>().on_event(move |event| own.on_pod(&event));
    let own = shared.clone();
    sources.informer::<Namespace>().on_event(move |event| {
        let namespace = event.object();
        let labels = match &event {
            Event::Deleted(_) => None,
            _ => Some(namespace.metadata.labels.clone().unwrap_or_default()),
        };
        own.state.lock().cache.set_namespace(&namespace.name_any(), labels);
    });
    listen_to_volumes(shared, sources);
    listen_to_workloads(shared, sources);
}

fn listen_to_volumes(shared: &Arc<Shared>, sources: &mut Sources<'_>) {
    macro_rules! follow {
        ($kind:ty, $set:ident) => {
            let own = shared.clone();
            sources.informer::<$kind>().on_event(move |event| {
                let object = event.object();
                let held = (!matches!(event, Event::Deleted(_))).then(|| object.clone());
                own.on_storage(|volumes| volumes.$set(&object.metadata, held));
            });
        };
    }
    follow!(PersistentVolumeClaim, set_claim);
    follow!(PersistentVolume, set_volume);
    follow!(StorageClass, set_class);
    follow!(CSINode, set_csi_node);
    follow!(CSIDriver, set_driver);
    follow!(CSIStorageCapacity, set_capacity);
}

fn listen_to_workloads(shared: &Arc<Shared>, sources: &mut Sources<'_>) {
    let own = shared.clone();
    sources.informer::<Service>().on_event(move |event| {
        let service = event.object();
        let labels = match &event {
            Event::Deleted(_) => None,
            _ => service.spec.as_ref().and_then(|spec| spec.selector.clone()),
        };
        let namespace = service.namespace().unwrap_or_default();
        own.state.lock().cache.workloads().set_service(&namespace, &service.name_any(), labels);
    });
    macro_rules! follow {
        ($kind:ty, $name:literal, $selector:expr) => {
            let own = shared.clone();
            sources.informer::<$kind>().on_event(move |event| {
                let object = event.object();
                let wanted: Option<ApiSelector> = match &event {
                    Event::Deleted(_) => None,
                    _ => $selector(object),
                };
                let selector = wanted.map(|wanted| selector(Some(&wanted)));
                let namespace = object.namespace().unwrap_or_default();
                own.state.lock().cache.workloads().set_controller(
                    $name,
                    &namespace,
                    &object.name_any(),
                    selector,
                );
            });
        };
    }
    follow!(ReplicaSet, "ReplicaSet", |o: &ReplicaSet| o.spec.as_ref().map(|s| s.selector.clone()));
    follow!(StatefulSet, "StatefulSet", |o: &StatefulSet| o.spec.as_ref().map(|s| s.selector.clone()));
    follow!(ReplicationController, "ReplicationController", |o: &ReplicationController| {
        let labels = o.spec.as_ref()?.selector.clone()?;
        Some(ApiSelector { match_labels: Some(labels), match_expressions: None })
    });
}

/// What changed about a node, as far as waiting pods care.
fn node_change(old: Option<&Node>, new: &Node) -> NodeChange {
    let Some(old) = old else { return NodeChange { added: true, ..NodeChange::default() } };
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    let taints = |n: &Node| n.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable));
    NodeChange {
        added: false,
        allocatable: allocatable(old) != allocatable(new),
        labels: old.metadata.labels != new.metadata.labels,
        taints: taints(old) != taints(new),
    }
}

impl Shared {
    /// Wakes the pods a change may help.
    fn wake_for(&self, state: &mut State, change: &Change<'_>) {
        let State { cache, queue, .. } = state;
        let snapshot = cache.snapshot();
        let woken = queue.on_change(Instant::now(), |waiting| {
            let Some(framework) = self.framework(&waiting.pod) else { return false };
            framework.filters.iter().any(|plugin| {
                waiting.rejected_by.contains(plugin.name()) && plugin.wakes(change, &waiting.pod, snapshot)
            })
        });
        if woken > 0 {
            let label = Incoming { queue: Place::BackOff.name(), event: change.name() };
            self.metrics.incoming.get_or_create(&label).inc_by(woken as u64);
        }
    }

    /// Says how many of what there are.
    fn measure(&self, state: &State) {
        for (place, length) in Place::ALL.into_iter().zip(state.queue.lengths()) {
            let label = crate::metrics::Queue { queue: place.name() };
            self.metrics.pending.get_or_create(&label).set(length as i64);
        }
        for (kind, size) in ["nodes", "pods", "assumed_pods"].into_iter().zip(state.cache.sizes()) {
            self.metrics.cache_size.get_or_create(&Kind { r#type: kind }).set(size as i64);
        }
    }

    fn on_node(&self, event: &Event<Node>) {
        let mut state = self.state.lock();
        let change = match event {
            Event::Added(node) => {
                state.cache.set_node(node);
                node_change(None, node)
            }
            Event::Updated { old, new } => {
                state.cache.set_node(new);
                node_change(Some(old), new)
            }
            Event::Deleted(node) => {
                state.cache.remove_node(&node.name_any());
                NodeChange::default()
            }
        };
        if !change.is_any() {
            return;
        }
        let node: Option<NodeInfo> = state.cache.node(&event.object().name_any()).map(|n| NodeInfo::clone(n));
        if let Some(node) = node {
            self.wake_for(&mut state, &Change::Node(&node, change));
        }
        self.measure(&state);
        drop(state);
        self.wake.notify_one();
    }

    fn on_storage(&self, change: impl FnOnce(&mut Volumes)) {
        let mut state = self.state.lock();
        change(state.cache.volumes());
        self.wake_for(&mut state, &Change::Storage);
        drop(state);
        self.storage_changed.notify_waiters();
        self.wake.notify_one();
    }

    fn on_pod(&self, event: &Event<Pod>) {
        let pod = event.object();
        let is_bound =
            pod.spec.as_ref().and_then(|s| s.node_name.as_ref()).is_some_and(|name| !name.is_empty());
        let info = Arc::new(PodInfo::new(pod.clone()));
        if !is_bound && self.framework(&info).is_none() {
            return;
        }
        let mut state = self.state.lock();
        if matches!(event, Event::Deleted(_)) || info.is_finished() || (!is_bound && info.is_terminating()) {
            self.forget(&mut state, &info);
        } else if is_bound {
            self.settle(&mut state, info);
        } else {
            self.promise(&mut state, event, &info);
            self.enqueue(&mut state, info);
        }
        self.measure(&state);
        drop(state);
        self.wake.notify_one();
    }

    /// A pod waits no longer.
    fn leave(&self, state: &mut State, info: &PodInfo) {
        if let Some(waiting) = state.queue.remove(&info.uid) {
            self.hold_back(&waiting, &BTreeSet::new());
        }
    }

    /// A pod is gone, or over.
    fn forget(&self, state: &mut State, info: &Arc<PodInfo>) {
        self.leave(state, info);
        let promised = state.nominated.remove(&info.uid);
        let counted = state.cache.remove_pod(&info.uid);
        if promised || counted {
            self.wake_for(state, &Change::PodDelete(info));
        }
        self.storage_changed.notify_waiters();
    }

    /// A pod is on a node.
    fn settle(&self, state: &mut State, info: Arc<PodInfo>) {
        self.leave(state, &info);
        state.nominated.remove(&info.uid);
        let held = state.cache.pod(&info.uid);
        let is_new =
            state.cache.is_assumed(&info.uid) || held.is_none_or(|held| held.labels() != info.labels());
        let shrunk = held.is_some_and(|held| held.requests != info.requests);
        state.cache.set_pod(info.clone());
        if is_new {
            self.wake_for(state, &Change::PodAdd(&info));
        }
        if shrunk {
            self.wake_for(state, &Change::PodDelete(&info));
        }
    }

    /// Follows the promises in pods' status. One that was made here and is not written yet stays.
    fn promise(&self, state: &mut State, event: &Event<Pod>, info: &Arc<PodInfo>) {
        let before = match event {
            Event::Updated { old, .. } => old
                .status
                .as_ref()
                .and_then(|s| s.nominated_node_name.as_ref())
                .is_some_and(|n| !n.is_empty()),
            _ => false,
        };
        match info.nominated_node() {
            Some(node) => state.nominated.put(info.clone(), node),
            None if before && state.nominated.remove(&info.uid) => {
                self.wake_for(state, &Change::PodDelete(info));
            }
            None => {}
        }
    }

    /// A pod wants to be on a node.
    fn enqueue(&self, state: &mut State, info: Arc<PodInfo>) {
        if state.cache.is_assumed(&info.uid) {
            return;
        }
        let gated = info.is_gated() && self.framework(&info).is_some_and(|framework| framework.holds_gated);
        if state.queue.get(&info.uid).is_none() {
            let place = if gated { Place::Gated } else { Place::Active };
            let label = Incoming { queue: place.name(), event: "PodAdd" };
            self.metrics.incoming.get_or_create(&label).inc();
        }
        state.queue.add(info, gated, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node;

    #[test]
    fn heartbeats_change_nothing_for_waiting_pods() {
        let plain = node("n1").build();
        assert!(node_change(None, &plain).added);
        assert!(!node_change(Some(&plain), &plain.clone()).is_any());
        let cases = [
            (node("n1").label("a", "b").build(), NodeChange { labels: true, ..NodeChange::default() }),
            (
                node("n1").taint("a", "b", "NoSchedule").build(),
                NodeChange { taints: true, ..NodeChange::default() },
            ),
            (
                node("n1").allocatable("9", "8Gi", "110").build(),
                NodeChange { allocatable: true, ..NodeChange::default() },
            ),
        ];
        for (new, expected) in cases {
            assert_eq!(node_change(Some(&plain), &new), expected);
        }
    }
}
