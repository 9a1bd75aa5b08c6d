//! Which endpoints traffic may go to.
//!
//! Source: KEP-1669 (terminating endpoints), KEP-2086 (internal traffic policy), KEP-2433 and KEP-3015 (topology hints).

use crate::model::{Endpoint, ServicePort, Snapshot};

/// The endpoints of a service port by traffic policy.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Choice<'a> {
    /// For traffic that may go anywhere in the cluster.
    pub cluster: Vec<&'a Endpoint>,
    /// For traffic that must stay on this node.
    pub local: Vec<&'a Endpoint>,
    /// Whether the port uses `cluster` at all, by its policies.
    pub uses_cluster: bool,
    /// Whether the port uses `local` at all.
    pub uses_local: bool,
    /// Some node has an endpoint, though perhaps not this one.
    pub any: bool,
}

/// Chooses for one service port.
pub fn choose<'a>(port: &ServicePort, endpoints: &'a [Endpoint], snapshot: &Snapshot) -> Choice<'a> {
    let uses_local = port.internal_local || (port.external_local && port.is_external());
    let uses_cluster = !port.internal_local || (port.is_external() && !port.external_local);
    let ready: Vec<&Endpoint> = endpoints.iter().filter(|e| e.ready).collect();
    let cluster = match with_hints(&ready, snapshot) {
        Some(hinted) => hinted,
        None if !ready.is_empty() => ready,
        // Nothing is ready: endpoints that shut down but still answer are better than refusing.
        None => endpoints.iter().filter(|e| e.serving && e.terminating).collect(),
    };
    let on_node = |e: &&Endpoint| e.local;
    let mut local: Vec<&Endpoint> = endpoints.iter().filter(on_node).filter(|e| e.ready).collect();
    if local.is_empty() {
        local = endpoints.iter().filter(on_node).filter(|e| e.serving && e.terminating).collect();
    }
    let any = !cluster.is_empty() || !local.is_empty();
    Choice {
        cluster: if uses_cluster { cluster } else { Vec::new() },
        local: if uses_local { local } else { Vec::new() },
        uses_cluster,
        uses_local,
        any,
    }
}

/// Endpoints by topology hints, if every ready endpoint has some and they leave any for this node: hints by node first,
/// then by zone.
fn with_hints<'a>(ready: &[&'a Endpoint], snapshot: &Snapshot) -> Option<Vec<&'a Endpoint>> {
    let by = |hints: fn(&Endpoint) -> &Vec<String>, wanted: &str| {
        if wanted.is_empty() || ready.iter().any(|e| hints(e).is_empty()) {
            return None;
        }
        let chosen: Vec<&Endpoint> =
            ready.iter().copied().filter(|e| hints(e).iter().any(|h| h == wanted)).collect();
        (!chosen.is_empty()).then_some(chosen)
    };
    by(|e| &e.node_hints, &snapshot.node).or_else(|| by(|e| &e.zone_hints, &snapshot.zone))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::Protocol;

    pub(crate) fn service_port() -> ServicePort {
        ServicePort {
            cluster_ip: "10.96.0.20".parse().expect("address"),
            port: 80,
            protocol: Protocol::Tcp,
            node_port: 0,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            affinity_seconds: None,
            external_local: false,
            internal_local: false,
            health_check_node_port: 0,
        }
    }

    /// `spec` is letters: r ready, s serving, t terminating, l local.
    pub(crate) fn endpoint(address: &str, spec: &str, zones: &[&str]) -> Endpoint {
        Endpoint {
            address: address.parse().expect("address"),
            ready: spec.contains('r'),
            serving: spec.contains('r') || spec.contains('s'),
            terminating: spec.contains('t'),
            local: spec.contains('l'),
            zone_hints: zones.iter().map(ToString::to_string).collect(),
            node_hints: Vec::new(),
        }
    }

    #[test]
    fn choices() {
        struct Case<'a> {
            what: &'a str,
            endpoints: &'a [(&'a str, &'a [&'a str])],
            cluster: &'a [usize],
            local: &'a [usize],
        }
        let cases = [
            Case {
                what: "ready ones",
                endpoints: &[("r", &[]), ("rl", &[]), ("s", &[])],
                cluster: &[0, 1],
                local: &[1],
            },
            Case {
                what: "terminating as a last resort",
                endpoints: &[("stl", &[]), ("t", &[])],
                cluster: &[0],
                local: &[0],
            },
            Case {
                what: "terminating not beside ready",
                endpoints: &[("r", &[]), ("stl", &[])],
                cluster: &[0],
                local: &[1],
            },
            Case {
                what: "zone hints",
                endpoints: &[("r", &["a"]), ("r", &["b"])],
                cluster: &[0],
                local: &[],
            },
            Case {
                what: "a missing hint voids all",
                endpoints: &[("r", &["a"]), ("r", &[])],
                cluster: &[0, 1],
                local: &[],
            },
            Case {
                what: "no endpoint for the zone",
                endpoints: &[("r", &["b"]), ("r", &["c"])],
                cluster: &[0, 1],
                local: &[],
            },
        ];
        let snapshot = Snapshot { zone: "a".into(), node: "n".into(), ..Snapshot::default() };
        for case in cases {
            let all: Vec<Endpoint> = (1u8..)
                .zip(case.endpoints)
                .map(|(i, (spec, zones))| endpoint(&format!("10.0.0.{i}:80"), spec, zones))
                .collect();
            let port = ServicePort { node_port: 30000, external_local: true, ..service_port() };
            let choice = choose(&port, &all, &snapshot);
            let expect = |indexes: &[usize]| indexes.iter().map(|i| &all[*i]).collect::<Vec<_>>();
            assert_eq!(choice.cluster, expect(case.cluster), "{}", case.what);
            assert_eq!(choice.local, expect(case.local), "{}", case.what);
        }
    }
}
