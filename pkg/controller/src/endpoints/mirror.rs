//! The endpointslice mirroring controller: slices for the Endpoints that people (or other programs) write for Services
//! without a selector.
//!
//! Behaviour after upstream's `pkg/controller/endpointslicemirroring`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use client::events::{EventRecorder, EventType, reference};
use client::rest::Rest;
use client::workqueue::{Limits, WorkQueue};
use client::{Event, Store, is_namespace_terminating, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::ResourceExt;
use serde_json::json;

use super::reconcile::{Frame, Ports, reconcile};
use super::service_selector;
use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::expectations::Written;
use crate::owner::controller_reference;
use crate::pods::generate_name;
use crate::resources::{ENDPOINT_SLICES, ENDPOINTS};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label are left alone.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are locks of old leader elections are left alone.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses mirrored of one subset (`--mirroring-max-endpoints-per-subset`).
const MAX_PER_SUBSET: usize = 1000;
const BY_SERVICE: &str = "mirrored-service";

struct Controller {
    endpoints: Store<Endpoints>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    written: Arc<Written>,
    rest: Rest,
    recorder: EventRecorder,
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.get(MANAGED_BY).map(String::as_str) != Some(MANAGER) {
        return None;
    }
    Some(Key::new(slice.namespace().unwrap_or_default(), labels.get(SERVICE_NAME)?.clone()))
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let limits = Limits { base: std::time::Duration::from_secs(1), ..Limits::default() };
    let queue = WorkQueue::with_limits("endpoint_slice_mirroring", limits);
    let endpoints = context.informer::<Endpoints>();
    let services = context.informer::<Service>();
    let slices = context.informer::<EndpointSlice>();
    slices.add_index(BY_SERVICE, |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
    let adds = queue.clone();
    endpoints.on_event(move |event| adds.add(Key::of(&**event.object())));
    let adds = queue.clone();
    services.on_event(move |event| adds.add(Key::of(&**event.object())));
    let written = Arc::new(Written::default());
    let (adds, notes) = (queue.clone(), written.clone());
    slices.on_event(move |event| {
        if let Event::Deleted(slice) = &event {
            notes.forget(&Key::of(&**slice));
        }
        if let Some(service) = service_of(event.object()) {
            adds.add(service);
        }
    });
    let controller = Controller {
        endpoints: endpoints.store(),
        services: services.store(),
        slices: slices.store(),
        written,
        rest: context.rest("endpointslicemirroring-controller"),
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

/// The labels of a mirror: those of the Endpoints, and whose it is.
fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.into(), endpoints.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let held: Vec<Arc<EndpointSlice>> = self
            .slices
            .by_index(BY_SERVICE, &key.to_string())
            .into_iter()
            .filter(|slice| slice.metadata.deletion_timestamp.is_none())
            .collect();
        let endpoints = self.endpoints.get(&key.namespace, &key.name);
        let service = self.services.get(&key.namespace, &key.name);
        let Some(endpoints) = endpoints.filter(|endpoints| is_mirrored(endpoints, service.as_deref())) else {
            for slice in &held {
                self.delete(slice).await?;
            }
            return Ok(Next::OnChange);
        };
        let behind = |slice: &Arc<EndpointSlice>| {
            self.written.is_stale(&Key::of(&**slice), slice.metadata.resource_version.as_deref())
        };
        if held.iter().any(behind) {
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
                    self.delete(slice).await?;
                }
                continue;
            }
            let frame = Frame { address_type: family, labels: labels(&endpoints) };
            let changes = reconcile(&frame, &mine, wanted);
            for mut slice in changes.create {
                slice.metadata.generate_name = Some(generate_name(&endpoints.name_any()));
                slice.metadata.namespace = Some(key.namespace.clone());
                slice.metadata.owner_references =
                    Some(vec![controller_reference(&ENDPOINTS, &endpoints.metadata)]);
                match self.rest.create(&ENDPOINT_SLICES, &key.namespace, &slice).await {
                    Err(error) if is_namespace_terminating(&error) => return Ok(Next::OnChange),
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
        }
        Ok(Next::OnChange)
    }

    async fn delete(&self, slice: &EndpointSlice) -> Result<(), SyncError> {
        let namespace = slice.namespace().unwrap_or_default();
        match self.rest.delete(&ENDPOINT_SLICES, &namespace, &slice.name_any(), &json!({})).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
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
