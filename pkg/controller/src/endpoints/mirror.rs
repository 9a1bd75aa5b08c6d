//! The endpointslice mirroring controller: slices for the Endpoints that people (or other programs) write for Services
//! without a selector.
//!
//! Behaviour after upstream's `pkg/controller/endpointslicemirroring`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::Store;
use client::events::{EventRecorder, EventType, reference};
use client::workqueue::{Limits, WorkQueue};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use kube::ResourceExt;

use super::managed::Managed;
use super::reconcile::{Frame, Ports, reconcile};
use super::service_selector;
use crate::context::{Context, Key, Next, Reconcile, SyncResult};
use crate::owner::controller_reference;
use crate::resources::ENDPOINTS;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label are left alone.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are locks of old leader elections are left alone.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses mirrored of one subset (`--mirroring-max-endpoints-per-subset`).
const MAX_PER_SUBSET: usize = 1000;

struct Controller {
    endpoints: Store<Endpoints>,
    services: Store<Service>,
    slices: Managed,
    recorder: EventRecorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let limits = Limits { base: std::time::Duration::from_secs(1), ..Limits::default() };
    let queue = WorkQueue::with_limits("endpoint_slice_mirroring", limits);
    let endpoints = context.informer::<Endpoints>();
    let services = context.informer::<Service>();
    let slices = Managed::follow(context, MANAGER, &queue, context.rest("endpointslicemirroring-controller"));
    let adds = queue.clone();
    endpoints.on_event(move |event| adds.add(Key::of(&**event.object())));
    let adds = queue.clone();
    services.on_event(move |event| adds.add(Key::of(&**event.object())));
    let controller = Controller {
        endpoints: endpoints.store(),
        services: services.store(),
        slices,
        recorder: context.recorder("endpoint-slice-mirroring-controller"),
    };
    context.work(
        "endpointslice-mirroring-controller",
        &queue,
        context.config.concurrency.mirroring,
        Arc::new(controller),
    );
}

/// Whether Endpoints are to be mirrored.
fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let skipped = endpoints.labels().get(SKIP).map(String::as_str) == Some("true");
    let has_selector = service.is_none_or(|service| service_selector(service).is_some());
    !skipped && !endpoints.annotations().contains_key(LEADER) && !has_selector
}

fn ports(subset: &EndpointSubset) -> Ports {
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    });
    ports.collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

/// Endpoints with their ports by address type.
type ByFamily = HashMap<&'static str, Vec<(Ports, Endpoint)>>;

/// The endpoints of each address type; and how many were left out for want of room.
fn mirrored(endpoints: &Endpoints) -> (ByFamily, usize) {
    let mut wanted = ByFamily::new();
    let mut skipped = 0;
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (number, (address, ready)) in ready.chain(not_ready).enumerate() {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                skipped += 1;
                continue;
            };
            if number >= MAX_PER_SUBSET {
                skipped += 1;
                continue;
            }
            let family = if ip.is_ipv6() { "IPv6" } else { "IPv4" };
            wanted.entry(family).or_default().push((ports.clone(), endpoint(address, ready)));
        }
    }
    (wanted, skipped)
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let held = self.slices.of(key);
        let endpoints = self.endpoints.get(&key.namespace, &key.name);
        let service = self.services.get(&key.namespace, &key.name);
        let Some(endpoints) = endpoints.filter(|endpoints| is_mirrored(endpoints, service.as_deref())) else {
            for slice in &held {
                self.slices.delete(slice).await?;
            }
            return Ok(Next::OnChange);
        };
        if self.slices.is_behind(&held) {
            return Ok(Next::OnChange);
        }
        let (mut wanted, skipped) = mirrored(&endpoints);
        if skipped > 0 {
            let note = format!("Skipped {skipped} invalid IP addresses when mirroring to EndpointSlices");
            self.recorder.event(&reference(&*endpoints), EventType::Warning, "InvalidIPAddress", "", note);
        }
        for family in ["IPv4", "IPv6"] {
            let mine: Vec<_> = held.iter().filter(|slice| slice.address_type == family).cloned().collect();
            let wanted = wanted.remove(family).unwrap_or_default();
            if wanted.is_empty() {
                for slice in &mine {
                    self.slices.delete(slice).await?;
                }
                continue;
            }
            let mut labels = endpoints.labels().clone();
            self.slices.label(&mut labels, endpoints.name_any());
            let changes = reconcile(&Frame { address_type: family, labels }, &mine, wanted);
            let owner = controller_reference(&ENDPOINTS, &endpoints.metadata);
            self.slices.write(&key.namespace, &owner, changes).await?;
        }
        Ok(Next::OnChange)
    }
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
    fn only_hand_written_endpoints_are_mirrored() {
        let endpoints = |meta: serde_json::Value| -> Endpoints {
            serde_json::from_value(json!({ "metadata": meta })).expect("endpoints")
        };
        let service = |spec: serde_json::Value| -> Service {
            serde_json::from_value(json!({ "spec": spec })).expect("a service")
        };
        let (plain, selecting) = (service(json!({})), service(json!({"selector": {"a": "b"}})));
        assert!(is_mirrored(&endpoints(json!({})), Some(&plain)));
        assert!(!is_mirrored(&endpoints(json!({})), Some(&selecting)));
        assert!(!is_mirrored(&endpoints(json!({})), None));
        assert!(!is_mirrored(&endpoints(json!({"labels": {SKIP: "true"}})), Some(&plain)));
        assert!(!is_mirrored(&endpoints(json!({"annotations": {LEADER: "x"}})), Some(&plain)));
    }

    #[test]
    fn addresses_are_split_by_family_and_readiness() {
        let endpoints: Endpoints = serde_json::from_value(json!({"subsets": [{"ports": [{"port": 80}],
            "addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}, {"ip": "x"}]}]}))
        .expect("endpoints");
        let (wanted, skipped) = mirrored(&endpoints);
        let ready: Vec<Option<bool>> = wanted["IPv4"]
            .iter()
            .map(|(_, endpoint)| endpoint.conditions.as_ref().and_then(|c| c.ready))
            .collect();
        assert_eq!((ready, wanted["IPv6"].len(), skipped), (vec![Some(true), Some(false)], 1, 1));
    }
}
