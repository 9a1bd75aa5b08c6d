//! The resource quota controller: how much of each ResourceQuota is used.
//!
//! Behaviour after upstream's `pkg/controller/resourcequota`. Admission charges a quota when something is created; this
//! controller counts anew when something is deleted, when a quota changes, and now and then.

mod usage;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::quantity::Quantity;
use client::rest::{ResourceId, Rest};
use client::workqueue::WorkQueue;
use client::{Event, InformerFactory, Store, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::discovery::discover;
use crate::pods;
use crate::resources::QUOTAS;
use usage::{Amounts, Scopes, add};

/// How often every quota is counted anew.
const RESYNC: Duration = Duration::from_secs(5 * 60);
/// Core resources that quotas also know by their plain name.
const PLAIN_NAMES: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

struct Controller {
    quotas: Store<ResourceQuota>,
    pods: Store<Pod>,
    services: Store<Service>,
    claims: Store<PersistentVolumeClaim>,
    informers: InformerFactory,
    /// Resources by `plural.group`, as discovery last said.
    known: Mutex<HashMap<String, ResourceId>>,
    /// Resources whose deletions are followed already.
    followed: Mutex<HashMap<String, Store<client::informer::Metadata>>>,
    queue: WorkQueue<Key>,
    rest: Rest,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let quotas = context.informer::<ResourceQuota>();
    let pods = context.informer::<Pod>();
    let services = context.informer::<Service>();
    let claims = context.informer::<PersistentVolumeClaim>();
    let controller = Arc::new(Controller {
        quotas: quotas.store(),
        pods: pods.store(),
        services: services.store(),
        claims: claims.store(),
        informers: context.informers.clone(),
        known: Mutex::default(),
        followed: Mutex::default(),
        queue: WorkQueue::new("resourcequota_primary"),
        rest: context.rest("resourcequota-controller"),
    });
    let adds = controller.queue.clone();
    quotas.on_event(move |event| {
        // admission's own charges come back as updates of the status: only the spec asks for a count
        let counts = match &event {
            Event::Added(_) => true,
            Event::Updated { old, new } => old.spec != new.spec,
            Event::Deleted(_) => false,
        };
        if counts {
            adds.add(Key::of(&**event.object()));
        }
    });
    let handler = controller.clone();
    pods.on_event(move |event| match &event {
        Event::Deleted(pod) => handler.replenish(pod.metadata.namespace.as_deref()),
        Event::Updated { old, new } if !pods::is_finished(old) && pods::is_finished(new) => {
            handler.replenish(new.metadata.namespace.as_deref());
        }
        _ => {}
    });
    let handler = controller.clone();
    services.on_event(move |event| {
        let shrunk = match &event {
            Event::Deleted(_) => true,
            Event::Updated { old, new } => old.spec != new.spec,
            Event::Added(_) => false,
        };
        if shrunk {
            handler.replenish(event.object().metadata.namespace.as_deref());
        }
    });
    let handler = controller.clone();
    claims.on_event(move |event| {
        if !matches!(event, Event::Added(_)) {
            handler.replenish(event.object().metadata.namespace.as_deref());
        }
    });
    let (ready, ticker) = (context.ready(), controller.clone());
    context.spawn(async move {
        ready.await;
        let mut ticks = tokio::time::interval(RESYNC);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for quota in ticker.quotas.list() {
                ticker.queue.add(Key::of(&*quota));
            }
        }
    });
    let queue = controller.queue.clone();
    context.work("resourcequota-controller", &queue, context.config.concurrency.resource_quota, controller);
}

/// `plural.group` of an object count (`count/deployments.apps`, `secrets`), if a name is one.
fn counted(name: &str) -> Option<&str> {
    match name.strip_prefix("count/") {
        Some(resource) => Some(resource),
        None => PLAIN_NAMES.contains(&name).then_some(name),
    }
}

impl Controller {
    fn replenish(&self, namespace: Option<&str>) {
        for quota in self.quotas.list_in(namespace.unwrap_or("")) {
            self.queue.add(Key::of(&*quota));
        }
    }

    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(quota) = self.quotas.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
        let mut used = Amounts::new();
        let scopes = Scopes::of(&quota);
        for name in hard.keys() {
            let resource =
                counted(name).filter(|name| !matches!(*name, "pods" | "services" | "persistentvolumeclaims"));
            if let Some(resource) = resource
                && scopes.is_empty()
            {
                let count = self.count(resource, &key.namespace).await?;
                used.insert(name.clone(), usage::whole(count));
            }
        }
        let mut totals = Amounts::new();
        for pod in self.pods.list_in(&key.namespace) {
            if scopes.holds_pod(&pod) {
                add(&mut totals, &usage::of_pod(&pod));
            }
        }
        if scopes.is_empty() {
            for service in self.services.list_in(&key.namespace) {
                add(&mut totals, &usage::of_service(&service));
            }
            for claim in self.claims.list_in(&key.namespace) {
                add(&mut totals, &usage::of_claim(&claim));
            }
        }
        for name in hard.keys() {
            if !used.contains_key(name) {
                let total = totals.get(name).copied().unwrap_or_else(|| usage::whole(0));
                used.insert(name.clone(), total);
            }
        }
        let Some(status) = decide(&quota, hard, &used) else { return Ok(Next::OnChange) };
        let changed = ResourceQuota { status: Some(status), ..(*quota).clone() };
        match self.rest.update(&QUOTAS, "status", &changed).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(Next::OnChange),
        }
    }

    /// Number of objects of a resource in a namespace.
    async fn count(&self, resource: &str, namespace: &str) -> Result<usize, SyncError> {
        if resource == QUOTAS.plural.as_ref() {
            // The quota that is counted for is among them; another informer may not have heard of it yet.
            return Ok(self.quotas.list_in(namespace).len());
        }
        let held = self.followed.lock().get(resource).cloned();
        if let Some(store) = held {
            return Ok(store.list_in(namespace).len());
        }
        let mut found = self.known.lock().get(resource).cloned();
        if found.is_none() {
            let all = discover(&self.rest).await?.resources.into_iter().map(|found| {
                let resource = found.resource;
                let name = if resource.group.is_empty() {
                    resource.plural.to_string()
                } else {
                    format!("{}.{}", resource.plural, resource.group)
                };
                (name, resource)
            });
            let mut known = self.known.lock();
            known.extend(all);
            found = known.get(resource).cloned();
        }
        let Some(found) = found else { return Ok(0) };
        let informer = self.informers.metadata(&found);
        if !informer.synced().await {
            return Err(SyncError::other(format!("{resource} cannot be watched")));
        }
        let is_new = self.followed.lock().insert(resource.to_owned(), informer.store()).is_none();
        if is_new {
            let (adds, quotas) = (self.queue.clone(), self.quotas.clone());
            informer.on_event(move |event| {
                if let Event::Deleted(object) = event {
                    for quota in quotas.list_in(&object.namespace) {
                        adds.add(Key::of(&*quota));
                    }
                }
            });
        }
        Ok(informer.store().list_in(namespace).len())
    }
}

/// The quota's new status, `None` when it is right. Amounts are compared by value.
fn decide(
    quota: &ResourceQuota,
    hard: BTreeMap<String, Text>,
    used: &Amounts,
) -> Option<ResourceQuotaStatus> {
    let held = quota.status.clone().unwrap_or_default();
    let held_used: Amounts = held
        .used
        .iter()
        .flatten()
        .filter_map(|(name, text)| Some((name.clone(), text.0.parse::<Quantity>().ok()?)))
        .collect();
    if held.hard.as_ref() == Some(&hard) && held_used == *used && held.used.is_some() {
        return None;
    }
    let used = used.iter().map(|(name, quantity)| (name.clone(), Text(quantity.to_string()))).collect();
    Some(ResourceQuotaStatus { hard: Some(hard), used: Some(used) })
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_is_written_when_it_differs_in_value() {
        let quota = |used: &str| -> ResourceQuota {
            serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": {"hard": {"cpu": "2"}},
                "status": {"hard": {"cpu": "2"}, "used": {"cpu": used}}}))
            .expect("a quota")
        };
        let hard = quota("1").spec.and_then(|spec| spec.hard).expect("hard");
        let used = Amounts::from([("cpu".to_owned(), "1000m".parse().expect("a quantity"))]);
        assert_eq!(decide(&quota("1"), hard.clone(), &used), None);
        let status = decide(&quota("2"), hard, &used).expect("changed");
        assert_eq!(status.used.expect("used")["cpu"].0, "1");
    }

    #[test]
    fn object_counts_have_two_forms() {
        let cases = [
            ("count/deployments.apps", Some("deployments.apps")),
            ("secrets", Some("secrets")),
            ("count/pods", Some("pods")),
            ("cpu", None),
        ];
        for (name, expected) in cases {
            assert_eq!(counted(name), expected);
        }
    }
}
