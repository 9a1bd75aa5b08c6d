//! One question, one answer: a pure function of what the cluster looks like.
//!
//! Source: Kubernetes DNS-Based Service Discovery 1.1.0; where it is silent (pod names, negative answers), CoreDNS'
//! `kubernetes` plug-in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Version of the specification, answered at `dns-version.DOMAIN`.
const SPECIFICATION: &str = "1.1.0";

/// What the zone asks about the cluster.
pub trait Lookup: Send + Sync {
    /// A Service.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The EndpointSlices of a Service.
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    /// The Service with this cluster address.
    fn service_of(&self, address: IpAddr) -> Option<Arc<Service>>;
    /// EndpointSlices that hold this address.
    fn slices_of(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>>;
    /// A namespace exists.
    fn namespace_exists(&self, namespace: &str) -> bool;
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The name is not in the zone: someone else knows.
    NotOurs,
    /// The name does not exist.
    NameError,
    /// The name exists; `answers` may be empty, if it has no records of that type.
    Records {
        /// What was asked for.
        answers: Vec<Record>,
        /// What will be asked for next: addresses of SRV targets.
        additionals: Vec<Record>,
    },
}

/// The cluster's zone and the reverse zones of its addresses.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Name,
    ttl: u32,
    service_address: Option<IpAddr>,
}

/// An endpoint as DNS sees it: hostname and address.
struct Target {
    host: String,
    ip: IpAddr,
}

impl Zone {
    /// The zone of a domain; `None` when that is not a DNS name.
    pub fn new(domain: &str, ttl: u32, service_address: Option<IpAddr>) -> Option<Self> {
        let mut domain = Name::from_ascii(domain).ok().filter(|name| !name.is_root())?.to_lowercase();
        domain.set_fqdn(true);
        Some(Self { domain, ttl, service_address })
    }

    /// The record that goes with negative answers and says how long they hold.
    pub fn soa(&self, serial: u32) -> Record {
        let name = |labels: &str| Name::from_ascii(labels).and_then(|n| n.append_domain(&self.domain));
        let (mname, rname) = (name("ns.dns"), name("hostmaster"));
        // Appending a dozen bytes to a domain that was parsed fails only when it is over 240 bytes long.
        let fallback = || self.domain.clone();
        let soa = SOA::new(
            mname.unwrap_or_else(|_| fallback()),
            rname.unwrap_or_else(|_| fallback()),
            serial,
            7200,
            1800,
            86400,
            self.ttl,
        );
        Record::from_rdata(self.domain.clone(), self.ttl, RData::SOA(soa))
    }

    /// Answers a question.
    pub fn answer(&self, cluster: &dyn Lookup, question: &Name, kind: RecordType) -> Answer {
        let name = question.to_lowercase();
        if let Some(address) = reverse(&name) {
            return self.pointer(cluster, question, address, kind);
        }
        if !self.domain.zone_of(&name) {
            return Answer::NotOurs;
        }
        let own = usize::from(name.num_labels() - self.domain.num_labels());
        let labels: Vec<String> =
            name.iter().take(own).map(|label| String::from_utf8_lossy(label).into_owned()).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let of = |rdata: RData| Record::from_rdata(question.clone(), self.ttl, rdata);
        match labels.as_slice() {
            [] if kind == RecordType::SOA => records(vec![self.soa(1)]),
            [] | ["dns" | "svc" | "pod"] => records(Vec::new()),
            ["dns-version"] => {
                only(kind, RecordType::TXT, of(RData::TXT(TXT::new(vec![SPECIFICATION.into()]))))
            }
            ["ns", "dns"] => match self.service_address {
                Some(ip) => records(address_record(question, self.ttl, ip, kind).into_iter().collect()),
                None => Answer::NameError,
            },
            [namespace, "svc" | "pod"] => exists_if(cluster.namespace_exists(namespace)),
            [service, namespace, "svc"] => self.service(cluster, question, kind, namespace, service),
            // `_port._protocol.service` or `hostname.service`.
            [port, protocol, service, namespace, "svc"]
                if port.starts_with('_') && protocol.starts_with('_') =>
            {
                self.service_port(cluster, question, kind, (namespace, service), (&port[1..], &protocol[1..]))
            }
            [protocol, service, namespace, "svc"] if matches!(*protocol, "_tcp" | "_udp" | "_sctp") => {
                exists_if(cluster.service(namespace, service).is_some())
            }
            [host, service, namespace, "svc"] => {
                self.endpoint(cluster, question, kind, (namespace, service), host)
            }
            [address, namespace, "pod"] => self.pod(cluster, question, kind, namespace, address),
            _ => Answer::NameError,
        }
    }

    fn service(
        &self,
        cluster: &dyn Lookup,
        name: &Name,
        kind: RecordType,
        namespace: &str,
        service: &str,
    ) -> Answer {
        let Some(found) = cluster.service(namespace, service) else { return Answer::NameError };
        let spec = found.spec.as_ref();
        if spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
            let external = spec.and_then(|s| s.external_name.as_deref()).and_then(fully_qualified);
            return match external {
                Some(target) if kind != RecordType::SOA => {
                    records(vec![Record::from_rdata(name.clone(), self.ttl, RData::CNAME(CNAME(target)))])
                }
                _ => records(Vec::new()),
            };
        }
        if is_headless(&found) {
            let targets = targets(&cluster.slices(namespace, service), None);
            if kind == RecordType::SRV {
                let ports = slice_ports(&cluster.slices(namespace, service));
                return self.headless_srv(name, namespace, service, &targets, &ports, None);
            }
            // A name without any endpoint does not exist, so that clients can tell it from one without addresses of
            // the type they asked for.
            if targets.is_empty() {
                return Answer::NameError;
            }
            return records(
                targets.iter().filter_map(|t| address_record(name, self.ttl, t.ip, kind)).collect(),
            );
        }
        if kind == RecordType::SRV {
            let ports: Vec<u16> = service_ports(&found).map(|(_, _, port)| port).collect();
            return self.service_srv(name, &found, namespace, service, &ports);
        }
        records(cluster_addresses(&found).filter_map(|ip| address_record(name, self.ttl, ip, kind)).collect())
    }

    fn service_port(
        &self,
        cluster: &dyn Lookup,
        name: &Name,
        kind: RecordType,
        (namespace, service): (&str, &str),
        (port, protocol): (&str, &str),
    ) -> Answer {
        let Some(found) = cluster.service(namespace, service) else { return Answer::NameError };
        if is_headless(&found) {
            let slices = cluster.slices(namespace, service);
            let ports: Vec<_> = slice_ports(&slices)
                .into_iter()
                .filter(|(n, p, _)| n.eq_ignore_ascii_case(port) && p.eq_ignore_ascii_case(protocol))
                .collect();
            let targets = targets(&slices, None);
            if ports.is_empty() || targets.is_empty() {
                return Answer::NameError;
            }
            if kind != RecordType::SRV {
                return records(
                    targets.iter().filter_map(|t| address_record(name, self.ttl, t.ip, kind)).collect(),
                );
            }
            return self.headless_srv(name, namespace, service, &targets, &ports, Some(port));
        }
        let ports: Vec<u16> = service_ports(&found)
            .filter(|(n, p, _)| n.eq_ignore_ascii_case(port) && p.eq_ignore_ascii_case(protocol))
            .map(|(_, _, port)| port)
            .collect();
        if ports.is_empty() {
            return Answer::NameError;
        }
        if kind != RecordType::SRV {
            return records(
                cluster_addresses(&found).filter_map(|ip| address_record(name, self.ttl, ip, kind)).collect(),
            );
        }
        self.service_srv(name, &found, namespace, service, &ports)
    }

    fn service_srv(
        &self,
        name: &Name,
        found: &Service,
        namespace: &str,
        service: &str,
        ports: &[u16],
    ) -> Answer {
        let Some(target) = self.name_of(&[service, namespace, "svc"]) else { return Answer::NameError };
        let answers = ports.iter().map(|port| self.srv(name, *port, ports.len(), &target)).collect();
        let additionals = cluster_addresses(found).map(|ip| any_address(&target, self.ttl, ip)).collect();
        Answer::Records { answers, additionals }
    }

    fn headless_srv(
        &self,
        name: &Name,
        namespace: &str,
        service: &str,
        targets: &[Target],
        ports: &[(String, String, u16)],
        named: Option<&str>,
    ) -> Answer {
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        let count = targets.len() * ports.len();
        for target in targets {
            let Some(host) = self.name_of(&[&target.host, service, namespace, "svc"]) else { continue };
            for (_, _, port) in ports {
                answers.push(self.srv(name, *port, count, &host));
            }
            additionals.push(any_address(&host, self.ttl, target.ip));
        }
        if answers.is_empty() && named.is_some() {
            Answer::NameError
        } else {
            Answer::Records { answers, additionals }
        }
    }

    fn srv(&self, name: &Name, port: u16, of: usize, target: &Name) -> Record {
        // Weights of equal records add up to about 100, as CoreDNS has it.
        let weight = u16::try_from(100 / of.max(1)).unwrap_or(1).max(1);
        Record::from_rdata(name.clone(), self.ttl, RData::SRV(SRV::new(0, weight, port, target.clone())))
    }

    fn endpoint(
        &self,
        cluster: &dyn Lookup,
        name: &Name,
        kind: RecordType,
        (namespace, service): (&str, &str),
        host: &str,
    ) -> Answer {
        let targets = targets(&cluster.slices(namespace, service), Some(host));
        if targets.is_empty() || cluster.service(namespace, service).is_none() {
            return Answer::NameError;
        }
        records(targets.iter().filter_map(|t| address_record(name, self.ttl, t.ip, kind)).collect())
    }

    /// `1-2-3-4.namespace.pod`: the address is in the name; only the namespace must exist.
    fn pod(
        &self,
        cluster: &dyn Lookup,
        name: &Name,
        kind: RecordType,
        namespace: &str,
        address: &str,
    ) -> Answer {
        let ip = dashed_address(address);
        match ip {
            Some(ip) if cluster.namespace_exists(namespace) => {
                records(address_record(name, self.ttl, ip, kind).into_iter().collect())
            }
            _ => Answer::NameError,
        }
    }

    fn pointer(&self, cluster: &dyn Lookup, name: &Name, address: IpAddr, kind: RecordType) -> Answer {
        let mut names: Vec<Name> = Vec::new();
        if let Some(service) = cluster.service_of(address) {
            let (namespace, service) = identity(&service.metadata);
            names.extend(self.name_of(&[&service, &namespace, "svc"]));
        }
        for slice in cluster.slices_of(address) {
            let Some(service) =
                slice.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"))
            else {
                continue;
            };
            let namespace = slice.metadata.namespace.clone().unwrap_or_default();
            // Only endpoints with a name of their own have one to point back to.
            let headless = cluster.service(&namespace, service).is_some_and(|s| is_headless(&s));
            for target in targets(std::slice::from_ref(&slice), None).into_iter().filter(|t| t.ip == address)
            {
                let named = dashed(target.ip) != target.host;
                if named || headless {
                    names.extend(self.name_of(&[&target.host, service, &namespace, "svc"]));
                }
            }
        }
        if names.is_empty() {
            return Answer::NotOurs;
        }
        names.sort();
        names.dedup();
        if kind != RecordType::PTR {
            return records(Vec::new());
        }
        records(
            names
                .into_iter()
                .map(|n| Record::from_rdata(name.clone(), self.ttl, RData::PTR(PTR(n))))
                .collect(),
        )
    }

    fn name_of(&self, labels: &[&str]) -> Option<Name> {
        let name = Name::from_labels(labels.iter().map(|l| l.as_bytes())).ok()?;
        name.append_domain(&self.domain).ok()
    }
}

fn records(answers: Vec<Record>) -> Answer {
    Answer::Records { answers, additionals: Vec::new() }
}

fn only(asked: RecordType, has: RecordType, record: Record) -> Answer {
    records(if asked == has { vec![record] } else { Vec::new() })
}

fn exists_if(exists: bool) -> Answer {
    if exists { records(Vec::new()) } else { Answer::NameError }
}

fn fully_qualified(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn identity(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> (String, String) {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some("None"))
}

/// Cluster addresses of a Service, of both families.
pub(crate) fn cluster_addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let spec = service.spec.as_ref();
    let all = spec.and_then(|s| s.cluster_ips.clone()).filter(|ips| !ips.is_empty());
    let all = all.unwrap_or_else(|| spec.and_then(|s| s.cluster_ip.clone()).into_iter().collect());
    all.into_iter().filter_map(|ip| ip.parse().ok())
}

/// Ports of a Service as (name, protocol, number).
fn service_ports(service: &Service) -> impl Iterator<Item = (&str, &str, u16)> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    ports.iter().filter_map(|p| {
        let number = u16::try_from(p.port).ok()?;
        Some((p.name.as_deref().unwrap_or(""), p.protocol.as_deref().unwrap_or("TCP"), number))
    })
}

/// Named ports of slices as (name, protocol, number), each once.
fn slice_ports(slices: &[Arc<EndpointSlice>]) -> Vec<(String, String, u16)> {
    let mut ports: Vec<_> = slices
        .iter()
        .flat_map(|slice| slice.ports.iter().flatten())
        .filter_map(|p| {
            let number = u16::try_from(p.port?).ok()?;
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
            Some((p.name.clone().unwrap_or_default(), protocol, number))
        })
        .collect();
    ports.sort();
    ports.dedup();
    ports
}

/// Endpoints that are in DNS: ready ones (the controller says so too for Services that publish unready addresses).
fn targets(slices: &[Arc<EndpointSlice>], host: Option<&str>) -> Vec<Target> {
    let mut all: Vec<Target> = Vec::new();
    for endpoint in slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()) {
        if !is_published(endpoint) {
            continue;
        }
        for ip in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
            let name = endpoint.hostname.clone().unwrap_or_else(|| dashed(ip));
            if host.is_none_or(|wanted| wanted.eq_ignore_ascii_case(&name)) {
                all.push(Target { host: name, ip });
            }
        }
    }
    all.sort_by(|a, b| (a.ip, &a.host).cmp(&(b.ip, &b.host)));
    all.dedup_by(|a, b| a.ip == b.ip && a.host == b.host);
    all
}

fn is_published(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

fn dashed_address(text: &str) -> Option<IpAddr> {
    let v4 = text.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    v4.or_else(|| text.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6))
}

/// The record of an address, if it is of the type asked for.
fn address_record(name: &Name, ttl: u32, ip: IpAddr, kind: RecordType) -> Option<Record> {
    let wanted = match ip {
        IpAddr::V4(_) => RecordType::A,
        IpAddr::V6(_) => RecordType::AAAA,
    };
    (kind == wanted || kind == RecordType::ANY).then(|| any_address(name, ttl, ip))
}

fn any_address(name: &Name, ttl: u32, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(name.clone(), ttl, data)
}

/// The address of a complete reverse name (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse(name: &Name) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = name.iter().collect();
    match labels.as_slice() {
        [bytes @ .., b"in-addr", b"arpa"] if bytes.len() == 4 => {
            let text: Vec<&str> = bytes.iter().rev().filter_map(|b| std::str::from_utf8(b).ok()).collect();
            text.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        }
        [nibbles @ .., b"ip6", b"arpa"] if nibbles.len() == 32 => {
            let mut value: u128 = 0;
            for nibble in nibbles.iter().rev() {
                let digit = std::str::from_utf8(nibble).ok().filter(|n| n.len() == 1)?;
                value = value << 4 | u128::from(u8::from_str_radix(digit, 16).ok()?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(value)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
