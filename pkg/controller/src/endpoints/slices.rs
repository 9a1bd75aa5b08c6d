//! The endpointslice controller.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::events::{EventRecorder, EventType, reference};
use client::workqueue::{Limits, WorkQueue};
use client::{Event, Store};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use kube::ResourceExt;

use super::managed::Managed;
use super::reconcile::{Changes, Frame, Ports, reconcile};
use super::{
    HEADLESS, TRIGGER_TIME, follow_pods, host_name, is_headless, matches, may_be_endpoint, pod_addresses,
    publishes_not_ready, service_selector, target_port,
};
use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::owner::controller_reference;
use crate::pods;
use crate::resources::SERVICES;

const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";

struct Controller {
    services: Store<Service>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    slices: Managed,
    recorder: EventRecorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    // upstream spaces retries of a Service by 1 s, doubling to 1000 s
    let limits = Limits { base: std::time::Duration::from_secs(1), ..Limits::default() };
    let queue = WorkQueue::with_limits("endpoint_slice", limits);
    let services = context.informer::<Service>();
    let pods = context.informer::<Pod>();
    let nodes = context.informer::<Node>();
    let slices = Managed::follow(context, MANAGER, &queue, context.rest("endpointslice-controller"));

    let adds = queue.clone();
    services.on_event(move |event| adds.add(Key::of(&**event.object())));
    follow_pods(&pods, services.store(), queue.clone());
    let (adds, by_node, all_services) = (queue.clone(), pods.store(), services.store());
    nodes.on_event(move |event| {
        // a node that comes or changes its zone changes the endpoints on it
        let node = match &event {
            Event::Updated { old, new } if zone(old) == zone(new) => return,
            Event::Deleted(_) => return,
            Event::Added(node) | Event::Updated { new: node, .. } => node,
        };
        let name = node.name_any();
        for pod in by_node.list().iter().filter(|pod| pods::node_name(pod) == name) {
            for service in all_services.list_in(pod.metadata.namespace.as_deref().unwrap_or("")) {
                if service_selector(&service).is_some_and(|selector| matches(selector, pod)) {
                    adds.add(Key::of(&*service));
                }
            }
        }
    });
    let controller = Controller {
        services: services.store(),
        pods: pods.store(),
        nodes: nodes.store(),
        slices,
        recorder: context.recorder("endpoint-slice-controller"),
    };
    let workers = context.config.concurrency.service_endpoint;
    context.work("endpointslice-controller", &queue, workers, Arc::new(controller));
}

fn zone(node: &Node) -> Option<&String> {
    node.labels().get(ZONE)
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(service) = self.services.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        let Some(selector) = service_selector(&service) else { return Ok(Next::OnChange) };
        if service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            return Ok(Next::OnChange);
        }
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| matches(selector, pod) && may_be_endpoint(pod, true));
        let held = self.slices.of(key);
        if self.slices.is_behind(&held) {
            return Ok(Next::OnChange);
        }
        let node = |name: &str| self.nodes.get("", name);
        let mut missing = None;
        for family in address_types(&service) {
            let mut labels = labels(&service);
            self.slices.label(&mut labels, service.name_any());
            let frame = Frame { address_type: family, labels };
            let mut wanted = Vec::with_capacity(pods.len());
            for pod in &pods {
                let host = pods::node_name(pod);
                let held_node = if host.is_empty() { None } else { node(host) };
                if held_node.is_none() && !host.is_empty() && !publishes_not_ready(&service) {
                    missing = Some(host.to_owned());
                    continue;
                }
                wanted.extend(endpoint(&service, pod, held_node.as_deref(), family));
            }
            let mine: Vec<_> = held.iter().filter(|slice| slice.address_type == family).cloned().collect();
            let changes = reconcile(&frame, &mine, wanted);
            if let Err(error) = self.act(&service, changes, &pods).await {
                if error.is_expected() {
                    return Err(error);
                }
                let note = format!("Error updating Endpoint Slices for Service {key}: {error}");
                let about = reference(&*service);
                self.recorder.event(&about, EventType::Warning, "FailedToUpdateEndpointSlices", "", note);
                return Err(error);
            }
        }
        // slices of a family the Service no longer has
        let families = address_types(&service);
        for slice in held.iter().filter(|slice| !families.contains(&slice.address_type.as_str())) {
            self.slices.delete(slice).await?;
        }
        match missing {
            // a node is known a moment later than its pods at times; try again like upstream
            Some(node) => Err(SyncError::other(format!("node {node:?} not found"))),
            None => Ok(Next::OnChange),
        }
    }

    async fn act(&self, service: &Service, mut changes: Changes, pods: &[Arc<Pod>]) -> Result<(), SyncError> {
        if let Some(at) = last_change(service, pods) {
            for slice in changes.create.iter_mut().chain(&mut changes.update) {
                slice.annotations_mut().insert(TRIGGER_TIME.into(), at.to_string());
            }
        }
        let owner = controller_reference(&SERVICES, &service.metadata);
        self.slices.write(&service.namespace().unwrap_or_default(), &owner, changes).await
    }
}

/// Labels of a Service's slices that are the Service's own.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = service.labels().clone();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

/// The latest of the Service's creation and its pods' readiness changes.
fn last_change(service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
    let readiness = pods.iter().filter_map(|pod| {
        pods::condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0)
    });
    readiness.chain(service.metadata.creation_timestamp.as_ref().map(|time| time.0)).max()
}

/// Address types of a Service's slices, one a family.
fn address_types(service: &Service) -> Vec<&'static str> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref());
    let types: Vec<&'static str> =
        families.into_iter().flatten().map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    if types.is_empty() { vec!["IPv4"] } else { types }
}

/// The Service's ports as this pod serves them.
fn ports(service: &Service, pod: &Pod) -> Ports {
    let ports: Vec<&ServicePort> = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).collect();
    let mut found: Ports = ports
        .into_iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    node: Option<&Node>,
    address_type: &str,
) -> Option<(Ports, Endpoint)> {
    let wants_v6 = address_type == "IPv6";
    let addresses: Vec<String> = pod_addresses(pod)
        .into_iter()
        .filter(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == wants_v6))
        .map(str::to_owned)
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let (serving, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
    let ready = publishes_not_ready(service) || (serving && !terminating);
    let endpoint = Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: host_name(service, pod),
        node_name: Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty()),
        zone: node.and_then(zone).cloned(),
        hints: hints(service, pod, node, ready),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    };
    Some((ports(service, pod), endpoint))
}

/// `trafficDistribution`: each endpoint is for its own zone (or node).
fn hints(service: &Service, pod: &Pod, node: Option<&Node>, ready: bool) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    if !ready {
        return None;
    }
    let for_zones = node.and_then(zone).map(|zone| vec![ForZone { name: zone.clone() }]);
    match distribution {
        "PreferClose" | "PreferSameZone" => {
            for_zones.map(|zones| EndpointHints { for_zones: Some(zones), for_nodes: None })
        }
        "PreferSameNode" => {
            let name = pods::node_name(pod);
            let for_nodes = (!name.is_empty()).then(|| vec![ForNode { name: name.to_owned() }]);
            (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_zones, for_nodes })
        }
        _ => None,
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
    use crate::testing::{PodBuilder, meta, pod};

    fn service(spec: serde_json::Value) -> Service {
        Service { metadata: meta("svc"), spec: serde_json::from_value(spec).expect("a spec"), status: None }
    }

    #[test]
    fn conditions_follow_readiness_and_termination() {
        let plain = service(json!({"ports": [{"port": 80}]}));
        let tolerant = service(json!({"ports": [{"port": 80}], "publishNotReadyAddresses": true}));
        let base = || pod("p").ip("10.0.0.1").node("n");
        let cases: [(&Service, PodBuilder, [bool; 3]); 5] = [
            (&plain, base().ready(0), [true, true, false]),
            (&plain, base(), [false, false, false]),
            (&plain, base().ready(0).deleted(1), [false, true, true]),
            (&tolerant, base(), [true, false, false]),
            (&tolerant, base().deleted(1), [true, false, true]),
        ];
        for (service, pod, expected) in cases {
            let (_, endpoint) = endpoint(service, &pod.build(), None, "IPv4").expect("an endpoint");
            let conditions = endpoint.conditions.expect("conditions");
            assert_eq!([conditions.ready, conditions.serving, conditions.terminating], expected.map(Some));
        }
        assert!(endpoint(&plain, &base().build(), None, "IPv6").is_none());
    }

    #[test]
    fn ports_are_resolved_on_the_pod() {
        let mut pod = pod("p").ip("10.0.0.1").build();
        pod.spec = serde_json::from_value(json!({"containers": [
            {"name": "c", "ports": [{"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}
        ]}))
        .expect("a spec");
        let service = service(json!({"ports": [
            {"name": "a", "port": 80, "targetPort": "web"},
            {"name": "b", "port": 81, "targetPort": 9000},
            {"name": "c", "port": 82, "targetPort": "dns"},
            {"name": "d", "port": 53, "targetPort": "dns", "protocol": "UDP"},
        ]}));
        let found: Vec<_> =
            ports(&service, &pod).into_iter().map(|p| (p.name.unwrap_or_default(), p.port)).collect();
        assert_eq!(found, [("a".into(), Some(8080)), ("b".into(), Some(9000)), ("d".into(), Some(53))]);
    }

    #[test]
    fn headless_services_are_labelled_and_named_pods_get_hostnames() {
        let service = service(json!({"clusterIP": "None"}));
        assert!(labels(&service).contains_key(HEADLESS));
        let mut named = pod("p").ip("10.0.0.1").build();
        named.spec = serde_json::from_value(json!({"containers": [], "hostname": "p-0", "subdomain": "svc"}))
            .expect("a spec");
        let (ports, endpoint) = endpoint(&service, &named, None, "IPv4").expect("an endpoint");
        assert_eq!((ports.len(), endpoint.hostname.as_deref()), (0, Some("p-0")));
    }
}
