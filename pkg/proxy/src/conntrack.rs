//! Tracked UDP flows that lead nowhere any more.
//!
//! UDP has no end of connection: a client that keeps using its port stays bound to an endpoint that is gone, or to the
//! refusal from before there was one. TCP takes care of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::model::{PortName, Protocol, ServicePort, Snapshot};

/// A set of flows to forget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stale {
    /// Flows to a Service address that were sent to an endpoint which is gone.
    Endpoint {
        /// Address the client used.
        service: IpAddr,
        /// Where it was sent.
        endpoint: IpAddr,
    },
    /// Flows to a node port that were sent to an endpoint which is gone.
    NodePortEndpoint {
        /// The node port.
        port: u16,
        /// Where they were sent.
        endpoint: IpAddr,
    },
    /// All flows to an address: it had no endpoints and has some now.
    Service(IpAddr),
    /// All flows to a node port, for the same reason.
    NodePort(u16),
}

impl Stale {
    /// Arguments of `conntrack -D` that select the flows.
    pub fn arguments(&self) -> Vec<String> {
        let ipv6 =
            |ip: &IpAddr| ip.is_ipv6().then(|| ["-f".to_owned(), "ipv6".to_owned()]).into_iter().flatten();
        let mut arguments = vec!["-D".to_owned(), "-p".into(), "udp".into()];
        match self {
            Self::Endpoint { service, endpoint } => {
                arguments.extend([
                    "--orig-dst".into(),
                    service.to_string(),
                    "--dst-nat".into(),
                    endpoint.to_string(),
                ]);
                arguments.extend(ipv6(service));
            }
            Self::NodePortEndpoint { port, endpoint } => {
                arguments.extend([
                    "--dport".into(),
                    port.to_string(),
                    "--dst-nat".into(),
                    endpoint.to_string(),
                ]);
                arguments.extend(ipv6(endpoint));
            }
            Self::Service(ip) => {
                arguments.extend(["--orig-dst".into(), ip.to_string()]);
                arguments.extend(ipv6(ip));
            }
            Self::NodePort(port) => arguments.extend(["--dport".into(), port.to_string()]),
        }
        arguments
    }
}

/// Flows that are stale after the change from `old` to `new`.
pub fn stale(old: &Snapshot, new: &Snapshot) -> BTreeSet<Stale> {
    let mut found = BTreeSet::new();
    let serving = |snapshot: &Snapshot, name: &PortName| -> BTreeSet<SocketAddr> {
        let endpoints = snapshot.endpoints.get(name).map_or(&[][..], Vec::as_slice);
        endpoints.iter().filter(|e| e.serving).map(|e| e.address).collect()
    };
    let udp = |ports: &BTreeMap<PortName, ServicePort>| -> Vec<(PortName, ServicePort)> {
        ports
            .iter()
            .filter(|(_, p)| p.protocol == Protocol::Udp)
            .map(|(n, p)| (n.clone(), p.clone()))
            .collect()
    };
    for (name, port) in udp(&old.ports) {
        for gone in serving(old, &name).difference(&serving(new, &name)) {
            let endpoint = gone.ip();
            found.extend(addresses(&port).map(|service| Stale::Endpoint { service, endpoint }));
            if port.node_port != 0 {
                found.insert(Stale::NodePortEndpoint { port: port.node_port, endpoint });
            }
        }
    }
    for (name, port) in udp(&new.ports) {
        if serving(old, &name).is_empty() && !serving(new, &name).is_empty() {
            found.extend(addresses(&port).map(Stale::Service));
            if port.node_port != 0 {
                found.insert(Stale::NodePort(port.node_port));
            }
        }
    }
    found
}

fn addresses(port: &ServicePort) -> impl Iterator<Item = IpAddr> {
    std::iter::once(port.cluster_ip).chain(port.external_ips.clone()).chain(port.load_balancer_ips.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{endpoint, service_port};

    #[test]
    fn only_udp_flows_to_what_changed_are_stale() {
        let name = PortName { namespace: "a".into(), name: "dns".into(), port: String::new() };
        let make = |protocol, endpoints: &[&str]| {
            let mut snapshot = Snapshot::default();
            snapshot.ports.insert(name.clone(), ServicePort { protocol, node_port: 30053, ..service_port() });
            let list = endpoints.iter().map(|a| endpoint(a, "r", &[])).collect();
            snapshot.endpoints.insert(name.clone(), list);
            snapshot
        };
        let texts = |old: &Snapshot, new: &Snapshot| -> Vec<String> {
            stale(old, new).iter().map(|s| s.arguments().join(" ")).collect()
        };
        let (one, two, none) = (
            make(Protocol::Udp, &["10.0.0.1:53"]),
            make(Protocol::Udp, &["10.0.0.2:53"]),
            make(Protocol::Udp, &[]),
        );
        assert_eq!(
            texts(&one, &two),
            [
                "-D -p udp --orig-dst 10.96.0.20 --dst-nat 10.0.0.1",
                "-D -p udp --dport 30053 --dst-nat 10.0.0.1",
            ]
        );
        assert_eq!(texts(&none, &one), ["-D -p udp --orig-dst 10.96.0.20", "-D -p udp --dport 30053"]);
        assert!(texts(&one, &one).is_empty());
        assert!(texts(&make(Protocol::Tcp, &["10.0.0.1:53"]), &make(Protocol::Tcp, &[])).is_empty());
    }
}
