//! The endpoints controller: the older `Endpoints` object of each Service with a selector.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::events::{EventRecorder, EventType, reference};
use client::rest::Rest;
use client::workqueue::{Limits, WorkQueue};
use client::{Event, Store, is_already_exists, is_namespace_terminating, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use kube::ResourceExt;
use serde_json::json;

use super::{
    HEADLESS, TRIGGER_TIME, follow_pods, host_name, is_headless, matches, may_be_endpoint, pod_addresses,
    publishes_not_ready, service_selector, target_port,
};
use crate::context::{Context, Key, Next, Reconcile, SyncResult, said};
use crate::pods;
use crate::resources::ENDPOINTS;

/// Says that this controller, and no person, wrote the object.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses of one object at most; the rest is only in slices.
const MAX_ADDRESSES: usize = 1000;

struct Controller {
    services: Store<Service>,
    pods: Store<Pod>,
    endpoints: Store<Endpoints>,
    rest: Rest,
    recorder: EventRecorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let limits = Limits { base: std::time::Duration::from_secs(1), ..Limits::default() };
    let queue = WorkQueue::with_limits("endpoint", limits);
    let services = context.informer::<Service>();
    let pods = context.informer::<Pod>();
    let endpoints = context.informer::<Endpoints>();
    let adds = queue.clone();
    services.on_event(move |event| adds.add(Key::of(&**event.object())));
    follow_pods(&pods, services.store(), queue.clone());
    let adds = queue.clone();
    endpoints.on_event(move |event| {
        if let Event::Deleted(endpoints) = event {
            adds.add(Key::of(&*endpoints));
        }
    });
    let controller = Controller {
        services: services.store(),
        pods: pods.store(),
        endpoints: endpoints.store(),
        rest: context.rest("endpoint-controller"),
        recorder: context.recorder("endpoint-controller"),
    };
    context.work("endpoints-controller", &queue, context.config.concurrency.endpoint, Arc::new(controller));
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            if self.endpoints.get(&key.namespace, &key.name).is_some_and(|held| is_managed(&held)) {
                match self.rest.delete(&ENDPOINTS, &key.namespace, &key.name, &json!({})).await {
                    Err(error) if !is_not_found(&error) => return Err(error.into()),
                    _ => {}
                }
            }
            return Ok(Next::OnChange);
        };
        let Some(selector) = service_selector(&service) else { return Ok(Next::OnChange) };
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| matches(selector, pod) && may_be_endpoint(pod, publishes_not_ready(&service)));
        let held = self.endpoints.get(&key.namespace, &key.name);
        let Some(wanted) = decide(&service, &pods, held.as_deref()) else { return Ok(Next::OnChange) };
        let written = if held.is_some() {
            self.rest.update(&ENDPOINTS, "", &wanted).await
        } else {
            self.rest.create(&ENDPOINTS, &key.namespace, &wanted).await
        };
        match written {
            Ok(_) => Ok(Next::OnChange),
            Err(error) if is_namespace_terminating(&error) => Ok(Next::OnChange),
            Err(error) => {
                if !is_already_exists(&error) && !client::is_conflict(&error) {
                    let (reason, what) = if held.is_some() {
                        ("FailedToUpdateEndpoint", "update endpoint")
                    } else {
                        ("FailedToCreateEndpoint", "create endpoint for service")
                    };
                    let note = format!("Failed to {what} {key}: {}", said(&error));
                    self.recorder.event(&reference(&*service), EventType::Warning, reason, "", note);
                }
                Err(error.into())
            }
        }
    }
}

fn is_managed(endpoints: &Endpoints) -> bool {
    endpoints.labels().get(MANAGED_BY).map(String::as_str) == Some(MANAGER)
}

/// The object to write, `None` when the held one is right.
fn decide(service: &Service, pods: &[Arc<Pod>], held: Option<&Endpoints>) -> Option<Endpoints> {
    let (subsets, truncated) = truncate(pack(service, pods));
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    let subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    let over = held.is_some_and(|held| held.annotations().contains_key(OVER_CAPACITY));
    if let Some(held) = held {
        let held_subsets = held.subsets.clone().filter(|subsets| !subsets.is_empty());
        if held_subsets == subsets && *held.labels() == labels && over == truncated {
            return None;
        }
    }
    let mut wanted = held.cloned().unwrap_or_default();
    wanted.metadata.name.clone_from(&service.metadata.name);
    wanted.metadata.namespace.clone_from(&service.metadata.namespace);
    wanted.metadata.labels = Some(labels);
    wanted.subsets = subsets;
    let annotations = wanted.annotations_mut();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    let change = pods
        .iter()
        .filter_map(|pod| pods::condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0))
        .chain(service.metadata.creation_timestamp.as_ref().map(|time| time.0))
        .max();
    if let Some(at) = change {
        annotations.insert(TRIGGER_TIME.into(), at.to_string());
    }
    Some(wanted)
}

/// Ports, and addresses with their readiness.
type Group = (Option<Vec<EndpointPort>>, Vec<(bool, EndpointAddress)>);

/// Groups the pods' addresses by the ports they serve; addresses and groups in order, so that equal endpoints compare
/// equal.
fn pack(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let ports: Vec<_> = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).collect();
    let headless_without_ports = ports.is_empty() && is_headless(service);
    let family = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref()?.first().cloned());
    // (ready, address) by ports; a pod that lacks a named port is in the groups of the others
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pod in pods {
        let wants_v6 = family.as_deref() == Some("IPv6");
        let Some(ip) = pod_addresses(pod).into_iter().find(|ip| ip.contains(':') == wants_v6) else {
            continue;
        };
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: host_name(service, pod),
            node_name: Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty()),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".into()),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
        };
        let ready = publishes_not_ready(service) || pods::is_ready(pod);
        let mut served: Vec<EndpointPort> = ports
            .iter()
            .filter_map(|port| {
                Some(EndpointPort {
                    name: port.name.clone().filter(|name| !name.is_empty()),
                    port: target_port(pod, port)?,
                    protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        if served.is_empty() && !headless_without_ports {
            continue;
        }
        served.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
        let group = groups.entry(json!(served).to_string()).or_default();
        group.0 = Some(served).filter(|served| !served.is_empty());
        group.1.push((ready, address));
    }
    groups
        .into_values()
        .map(|(ports, mut addresses)| {
            let uid =
                |address: &EndpointAddress| address.target_ref.as_ref().and_then(|target| target.uid.clone());
            addresses.sort_by(|(_, a), (_, b)| (&a.ip, uid(a)).cmp(&(&b.ip, uid(b))));
            let (ready, not): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|(ready, _)| *ready);
            let addresses = |list: Vec<(bool, EndpointAddress)>| {
                Some(list.into_iter().map(|(_, address)| address).collect::<Vec<_>>())
                    .filter(|list| !list.is_empty())
            };
            EndpointSubset { addresses: addresses(ready), not_ready_addresses: addresses(not), ports }
        })
        .collect()
}

/// Cuts to [`MAX_ADDRESSES`], ready ones first.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let mut room = MAX_ADDRESSES;
    let mut truncated = false;
    let mut cut = |list: &mut Option<Vec<EndpointAddress>>| {
        if let Some(addresses) = list {
            truncated |= addresses.len() > room;
            addresses.truncate(room);
            room -= addresses.len();
        }
        *list = list.take().filter(|addresses| !addresses.is_empty());
    };
    for subset in &mut subsets {
        cut(&mut subset.addresses);
    }
    for subset in &mut subsets {
        cut(&mut subset.not_ready_addresses);
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    (subsets, truncated)
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{meta, pod};

    fn service(spec: serde_json::Value) -> Service {
        Service { metadata: meta("svc"), spec: serde_json::from_value(spec).expect("a spec"), status: None }
    }

    #[test]
    fn pods_are_grouped_by_readiness_and_left_alone_when_right() {
        let service = service(json!({"ports": [{"name": "web", "port": 80, "targetPort": 8080}]}));
        let pods = [
            Arc::new(pod("b").ip("10.0.0.2").ready(0).build()),
            Arc::new(pod("a").ip("10.0.0.1").ready(0).build()),
            Arc::new(pod("c").ip("10.0.0.3").build()),
        ];
        let made = decide(&service, &pods, None).expect("to be created");
        let subset = &made.subsets.as_ref().expect("subsets")[0];
        let ips = |list: &Option<Vec<EndpointAddress>>| {
            list.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>()
        };
        assert_eq!(ips(&subset.addresses), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(ips(&subset.not_ready_addresses), ["10.0.0.3"]);
        assert!(is_managed(&made));
        assert_eq!(decide(&service, &pods, Some(&made)), None);
        assert_eq!(decide(&service, &[], Some(&made)).expect("changed").subsets, None);
    }

    #[test]
    fn large_services_are_truncated_and_say_so() {
        let service = service(json!({"ports": [{"port": 80}]}));
        let pods: Vec<_> = (0..1001)
            .map(|n| {
                Arc::new(pod(&format!("p{n}")).ip(&format!("10.0.{}.{}", n / 250, n % 250)).ready(0).build())
            })
            .collect();
        let made = decide(&service, &pods, None).expect("to be created");
        assert_eq!(made.annotations()[OVER_CAPACITY], "truncated");
        assert_eq!(made.subsets.expect("subsets")[0].addresses.as_ref().map(Vec::len), Some(1000));
    }
}
