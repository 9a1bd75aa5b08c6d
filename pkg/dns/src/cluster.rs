//! The cluster as informers know it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use client::{Informer, InformerFactory};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::zone::{Lookup, cluster_addresses};

/// Index of Services by cluster address.
const BY_ADDRESS: &str = "address";
/// Index of EndpointSlices by `namespace/service`.
const BY_SERVICE: &str = "service";

/// Informers of what names are made of.
pub(crate) struct Cluster {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    namespaces: Informer<Namespace>,
    ready: AtomicBool,
}

impl Cluster {
    pub(crate) fn new(factory: &InformerFactory) -> Self {
        let services = factory.informer::<Service>();
        services.add_index(BY_ADDRESS, |s| cluster_addresses(s).map(|ip| ip.to_string()).collect());
        let slices = factory.informer::<EndpointSlice>();
        slices.add_index(BY_SERVICE, |slice| {
            let service = slice.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"));
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            service.map(|service| format!("{namespace}/{service}")).into_iter().collect()
        });
        slices.add_index(BY_ADDRESS, |slice| {
            slice.endpoints.iter().flatten().flat_map(|e| e.addresses.iter().cloned()).collect()
        });
        Self { services, slices, namespaces: factory.informer(), ready: AtomicBool::new(false) }
    }

    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

impl Lookup for Cluster {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.store().get(namespace, name)
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.store().by_index(BY_SERVICE, &format!("{namespace}/{service}"))
    }

    fn service_of(&self, address: IpAddr) -> Option<Arc<Service>> {
        self.services.store().by_index(BY_ADDRESS, &address.to_string()).into_iter().next()
    }

    fn slices_of(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices.store().by_index(BY_ADDRESS, &address.to_string())
    }

    fn namespace_exists(&self, namespace: &str) -> bool {
        self.namespaces.store().get("", namespace).is_some()
    }
}
