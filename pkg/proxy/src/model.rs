//! What the proxy needs of Services and EndpointSlices, checked and without options.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::Family;

/// Label of an EndpointSlice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label that hands a Service to another proxy, or marks it headless for the proxy's purposes.
const OTHER_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Label of a node with its zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// As iptables writes it.
    pub const fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Identity of a port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port, may be empty.
    pub port: String,
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// A port of a Service, in one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The Service's cluster address.
    pub cluster_ip: IpAddr,
    /// Port on it.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Node port, 0 without one.
    pub node_port: u16,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of the load balancer that traffic keeps as destination (`ipMode: VIP`).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`; empty is everyone.
    pub source_ranges: Vec<IpNet>,
    /// Seconds that a client sticks to its endpoint, `None` without affinity.
    pub affinity_seconds: Option<u32>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `spec.healthCheckNodePort`, 0 without one.
    pub health_check_node_port: u16,
}

impl ServicePort {
    /// Whether anything outside the cluster may reach it.
    pub fn is_external(&self) -> bool {
        self.node_port != 0 || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }
}

/// One address and port that serves a Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// Takes traffic: ready and not terminating.
    pub ready: bool,
    /// Could take traffic, terminating or not.
    pub serving: bool,
    /// Is shutting down.
    pub terminating: bool,
    /// On this node.
    pub local: bool,
    /// Zones that should use it; empty without hints.
    pub zone_hints: Vec<String>,
    /// Nodes that should use it; empty without hints.
    pub node_hints: Vec<String>,
}

/// Everything the rules are made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Ports by name.
    pub ports: BTreeMap<PortName, ServicePort>,
    /// Endpoints by port, sorted by address, each once.
    pub endpoints: BTreeMap<PortName, Vec<Endpoint>>,
    /// Zone of this node, empty when unknown.
    pub zone: String,
    /// Name of this node.
    pub node: String,
    /// Addresses of this node, as its object names them.
    pub node_addresses: Vec<IpAddr>,
    /// Ranges of this node's pods, as its object names them.
    pub node_pod_cidrs: Vec<IpNet>,
}

fn is_family(ip: IpAddr, family: Family) -> bool {
    match family {
        Family::V4 => ip.is_ipv4(),
        Family::V6 => ip.is_ipv6(),
    }
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>, family: Family) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> =
        texts.into_iter().filter_map(|t| t.parse().ok()).filter(|ip| is_family(*ip, family)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|p| *p != 0)
}

/// The ports of a Service in a family; none for headless ones, those without a cluster address and those of another
/// proxy.
pub fn service_ports(service: &Service, family: Family) -> Vec<(PortName, ServicePort)> {
    let (Some(spec), metadata) = (service.spec.as_ref(), &service.metadata) else { return Vec::new() };
    let labels = metadata.labels.as_ref();
    let skipped = labels.is_some_and(|l| l.contains_key(OTHER_PROXY_LABEL));
    if skipped || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let cluster_ips = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
    let Some(cluster_ip) = addresses(cluster_ips, family).first().copied() else { return Vec::new() };
    let affinity_seconds = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let configured =
            spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        configured.unwrap_or(AFFINITY_SECONDS).unsigned_abs()
    });
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    let load_balancer: Vec<String> = ingress
        .into_iter()
        .flatten()
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|i| i.ip.clone())
        .collect();
    let is_load_balancer = spec.type_.as_deref() == Some("LoadBalancer");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let template = ServicePort {
        cluster_ip,
        port: 0,
        protocol: Protocol::Tcp,
        node_port: 0,
        external_ips: addresses(spec.external_ips.iter().flatten(), family),
        load_balancer_ips: addresses(&load_balancer, family),
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .filter_map(|text| text.trim().parse::<IpNet>().ok())
            .filter(|net| is_family(net.addr(), family))
            .collect(),
        affinity_seconds,
        external_local,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        health_check_node_port: match spec.health_check_node_port {
            Some(number) if is_load_balancer && external_local => port(number).unwrap_or(0),
            _ => 0,
        },
    };
    let name = |port: &str| PortName {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        port: port.to_owned(),
    };
    spec.ports
        .iter()
        .flatten()
        .filter_map(|p| {
            let made = ServicePort {
                port: port(p.port)?,
                protocol: Protocol::parse(p.protocol.as_deref())?,
                node_port: p.node_port.and_then(port).unwrap_or(0),
                ..template.clone()
            };
            Some((name(p.name.as_deref().unwrap_or("")), made))
        })
        .collect()
}

/// Makes the snapshot of a family from all objects.
pub fn snapshot<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    family: Family,
    name: &str,
    node: Option<&Node>,
) -> Snapshot {
    let mut snapshot = node.map(node_facts).unwrap_or_default();
    snapshot.node = name.into();
    for service in services {
        snapshot.ports.extend(service_ports(service, family));
    }
    for slice in slices {
        add_slice(&mut snapshot, slice, family);
    }
    for endpoints in snapshot.endpoints.values_mut() {
        // The same address may be in two slices while one moves; what is ready wins, as upstream's cache has it.
        endpoints.sort_by_key(|e| (e.address, !e.ready, !e.serving));
        endpoints.dedup_by_key(|e| e.address);
    }
    snapshot
}

/// What a node's object says that rules depend on.
fn node_facts(node: &Node) -> Snapshot {
    let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    let ranges = node.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten());
    Snapshot {
        zone: node.metadata.labels.as_ref().and_then(|l| l.get(ZONE_LABEL).cloned()).unwrap_or_default(),
        node_addresses: addresses
            .filter(|a| a.type_ == "InternalIP")
            .filter_map(|a| a.address.parse().ok())
            .collect(),
        node_pod_cidrs: ranges.filter_map(|range| range.parse().ok()).collect(),
        ..Snapshot::default()
    }
}

fn add_slice(snapshot: &mut Snapshot, slice: &EndpointSlice, family: Family) {
    let wanted = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let service = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME_LABEL));
    let Some(service) = service.filter(|_| slice.address_type == wanted) else { return };
    for slice_port in slice.ports.iter().flatten() {
        let Some(number) = slice_port.port.and_then(port) else { continue };
        let name = PortName {
            namespace: slice.metadata.namespace.clone().unwrap_or_default(),
            name: service.clone(),
            port: slice_port.name.clone().unwrap_or_default(),
        };
        // Slices of headless services and of unknown ports make no rules.
        if !snapshot.ports.contains_key(&name) {
            continue;
        }
        let list = snapshot.endpoints.entry(name).or_default();
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
            let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
            let hints = endpoint.hints.as_ref();
            // All addresses of an endpoint are the same backend; only the first is used.
            let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            list.push(Endpoint {
                address: SocketAddr::new(ip, number),
                ready,
                serving,
                terminating,
                local: endpoint.node_name.as_ref() == Some(&snapshot.node),
                zone_hints: hints
                    .iter()
                    .flat_map(|h| h.for_zones.iter().flatten())
                    .map(|z| z.name.clone())
                    .collect(),
                node_hints: hints
                    .iter()
                    .flat_map(|h| h.for_nodes.iter().flatten())
                    .map(|n| n.name.clone())
                    .collect(),
            });
        }
    }
}
