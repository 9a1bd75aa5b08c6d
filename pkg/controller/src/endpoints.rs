//! Which pods stand behind a Service: the endpointslice controller and the endpoints controller.
//!
//! Behaviour after upstream's `pkg/controller/endpointslice`, `staging/.../endpointslice` and
//! `pkg/controller/endpoint`, and KEP-752, KEP-1672 (terminating endpoints), KEP-4444 (traffic distribution).

mod legacy;
mod managed;
mod mirror;
mod reconcile;
mod slices;

use std::collections::BTreeMap;

use client::workqueue::WorkQueue;
use client::{Event, Informer, Store};
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::context::Key;
use crate::pods;

pub(crate) use legacy::start as start_endpoints;
pub(crate) use mirror::start as start_mirroring;
pub(crate) use slices::start as start_slices;

/// Label of headless Services' endpoints.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// When the change that led to the present endpoints happened; measured by network programming latency.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn service_selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref()
}

fn matches(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
}

fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

/// Whether a pod can be an endpoint at all. Terminating ones are for those who ask.
fn may_be_endpoint(pod: &Pod, with_terminating: bool) -> bool {
    let has_address = pod.status.as_ref().is_some_and(|status| {
        status.pod_ip.as_ref().is_some_and(|ip| !ip.is_empty())
            || status.pod_ips.as_ref().is_some_and(|ips| !ips.is_empty())
    });
    !pods::is_finished(pod) && has_address && (with_terminating || !pods::is_terminating(pod))
}

fn pod_addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    match &status.pod_ips {
        Some(ips) if !ips.is_empty() => ips.iter().map(|entry| entry.ip.as_str()).collect(),
        _ => status.pod_ip.as_deref().into_iter().collect(),
    }
}

/// The number a Service port has on a pod: names are looked up among its containers' (and sidecars') ports.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|candidate| {
                    candidate.name.as_deref() == Some(name.as_str())
                        && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|candidate| candidate.container_port)
        }
    }
}

/// The pod's own name within the Service, for those that set `subdomain` to it.
fn host_name(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let host = spec.hostname.as_ref().filter(|host| !host.is_empty())?;
    (spec.subdomain.as_deref() == service.metadata.name.as_deref()).then(|| host.clone())
}

/// Whether a pod's change can change endpoints.
fn matters(old: &Pod, new: &Pod) -> bool {
    let facts = |pod: &Pod| {
        (
            pod_addresses(pod).into_iter().map(str::to_owned).collect::<Vec<_>>(),
            pods::is_ready(pod),
            pods::is_terminating(pod),
            pods::is_finished(pod),
            pods::node_name(pod).to_owned(),
            pod.spec.as_ref().and_then(|spec| spec.hostname.clone()),
            pod.spec.as_ref().and_then(|spec| spec.subdomain.clone()),
        )
    };
    old.labels() != new.labels() || facts(old) != facts(new)
}

/// Queues the Services whose endpoints a pod is or was.
fn follow_pods(informer: &Informer<Pod>, services: Store<Service>, queue: WorkQueue<Key>) {
    informer.on_event(move |event| {
        let pods: Vec<&Pod> = match &event {
            Event::Added(pod) | Event::Deleted(pod) => vec![pod],
            Event::Updated { old, new } if !matters(old, new) => return,
            Event::Updated { old, new } if old.labels() == new.labels() => vec![new],
            Event::Updated { old, new } => vec![old, new],
        };
        for service in services.list_in(pods[0].metadata.namespace.as_deref().unwrap_or("")) {
            let Some(selector) = service_selector(&service) else { continue };
            if pods.iter().any(|pod| matches(selector, pod)) {
                queue.add(Key::of(&*service));
            }
        }
    });
}
