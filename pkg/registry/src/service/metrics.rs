//! How many addresses and node ports are taken, and what came of asking for some, under upstream's names
//! (`k8s.io/kubernetes/pkg/registry/core/service/{ipallocator,portallocator}`).

use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::meta::{GroupResource, name};
use apiserver::ResourceStore;
use component::metrics::Metrics;
use ipnet::IpNet;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};

use super::Services;
use super::addresses::{GROUP, contains, size};

/// How something was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// By its number.
    Static,
    /// Any that is free.
    Dynamic,
}

impl Scope {
    fn label(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AddressLabels {
    cidr: String,
    scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PortLabels {
    scope: &'static str,
}

/// What the allocators count in. Dry runs do not count.
#[derive(Debug, Default)]
pub(super) struct AllocatorMetrics {
    addresses: Family<AddressLabels, Counter>,
    address_errors: Family<AddressLabels, Counter>,
    ports: Family<PortLabels, Counter>,
    port_errors: Family<PortLabels, Counter>,
    ports_taken: Gauge,
    ports_free: Gauge,
}

impl AllocatorMetrics {
    /// Registers them with the process's metrics, and the addresses that are taken of the ranges there are.
    pub(super) fn register(services: &Arc<Services>, store: &ResourceStore, metrics: &Metrics) {
        let ranges = AddressesTaken { services: Arc::clone(services), store: store.clone() };
        let counted = &services.metrics;
        metrics.register(|registry| {
            registry.register_collector(Box::new(ranges));
            registry.register(
                "kube_apiserver_clusterip_allocator_allocation",
                "Addresses that were given out",
                counted.addresses.clone(),
            );
            registry.register(
                "kube_apiserver_clusterip_allocator_allocation_errors",
                "Addresses that were not to be had",
                counted.address_errors.clone(),
            );
            registry.register(
                "kube_apiserver_nodeport_allocator_allocation",
                "Node ports that were given out",
                counted.ports.clone(),
            );
            registry.register(
                "kube_apiserver_nodeport_allocator_allocation_errors",
                "Node ports that were not to be had",
                counted.port_errors.clone(),
            );
            registry.register(
                "kube_apiserver_nodeport_allocator_allocated_ports",
                "Node ports that are taken",
                counted.ports_taken.clone(),
            );
            registry.register(
                "kube_apiserver_nodeport_allocator_available_ports",
                "Node ports that are free",
                counted.ports_free.clone(),
            );
        });
    }

    /// An address was asked for in a range.
    pub(super) fn address(&self, range: &IpNet, scope: Scope, given: bool) {
        let labels = AddressLabels { cidr: range.to_string(), scope: scope.label() };
        if given { &self.addresses } else { &self.address_errors }.get_or_create(&labels).inc();
    }

    /// A port was asked for.
    pub(super) fn port(&self, scope: Scope, given: bool) {
        let labels = PortLabels { scope: scope.label() };
        if given { &self.ports } else { &self.port_errors }.get_or_create(&labels).inc();
    }

    /// So many ports are taken of so many.
    pub(super) fn ports_taken(&self, taken: usize, of: usize) {
        self.ports_taken.set(taken as i64);
        self.ports_free.set(of.saturating_sub(taken) as i64);
    }
}

/// The addresses that are taken and free, counted when somebody asks for metrics.
struct AddressesTaken {
    services: Arc<Services>,
    store: ResourceStore,
}

impl std::fmt::Debug for AddressesTaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AddressesTaken")
    }
}

impl Collector for AddressesTaken {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let objects = self.store.object_reader().list(&GroupResource::new(GROUP, "ipaddresses"), None);
        let addresses: Vec<IpAddr> =
            objects.iter().filter_map(|object| name(&object.value()?).parse().ok()).collect();
        let ranges = self.services.ranges(&self.store);
        let taken = |range: &IpNet| addresses.iter().filter(|ip| contains(range, **ip)).count() as u128;
        let mut gauge = |name: &str, help: &str, value: &dyn Fn(&IpNet) -> u128| {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ranges.iter().try_for_each(|range| {
                let value = i64::try_from(value(range)).unwrap_or(i64::MAX);
                ConstGauge::new(value).encode(metric.encode_family(&[("cidr", range.to_string())])?)
            })
        };
        gauge("kube_apiserver_clusterip_allocator_allocated_ips", "Addresses that are taken", &taken)?;
        gauge("kube_apiserver_clusterip_allocator_available_ips", "Addresses that are free", &|range| {
            size(range).saturating_sub(taken(range))
        })
    }
}
