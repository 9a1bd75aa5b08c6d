//! Questions and answers as `dig` would print them.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_server::proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::{Answer, Lookup, Zone, cluster_addresses};

struct Fixed {
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Lookup for Fixed {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        let is = |s: &&Arc<Service>| {
            s.metadata.namespace.as_deref() == Some(namespace) && s.metadata.name.as_deref() == Some(name)
        };
        self.services.iter().find(is).cloned()
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        let is = |s: &&Arc<EndpointSlice>| {
            let label = s.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"));
            s.metadata.namespace.as_deref() == Some(namespace) && label.is_some_and(|l| l == service)
        };
        self.slices.iter().filter(is).cloned().collect()
    }

    fn service_of(&self, address: IpAddr) -> Option<Arc<Service>> {
        self.services.iter().find(|s| cluster_addresses(s).any(|ip| ip == address)).cloned()
    }

    fn slices_of(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        let text = address.to_string();
        let holds =
            |s: &&Arc<EndpointSlice>| s.endpoints.iter().flatten().any(|e| e.addresses.contains(&text));
        self.slices.iter().filter(holds).cloned().collect()
    }

    fn namespace_exists(&self, namespace: &str) -> bool {
        namespace == "ns"
    }
}

fn cluster() -> Fixed {
    let service = |name: &str, spec: Value| -> Arc<Service> {
        let value = json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec});
        Arc::new(serde_json::from_value(value).expect("a service"))
    };
    let slice = |name: &str, endpoints: Value| -> Arc<EndpointSlice> {
        let value = json!({
            "metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
        });
        Arc::new(serde_json::from_value(value).expect("a slice"))
    };
    Fixed {
        services: vec![
            service("web", json!({"clusterIP": "10.96.0.20", "ports": [{"name": "http", "port": 80}]})),
            service("db", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})),
            service("ext", json!({"type": "ExternalName", "externalName": "example.com"})),
            service("empty", json!({"clusterIP": "None"})),
        ],
        slices: vec![
            slice("web", json!([{"addresses": ["10.244.1.9"]}])),
            slice(
                "db",
                json!([
                    {"addresses": ["10.244.1.5"], "hostname": "db-0"},
                    {"addresses": ["10.244.1.6"], "conditions": {"ready": true}},
                    {"addresses": ["10.244.1.7"], "conditions": {"ready": false}},
                ]),
            ),
        ],
    }
}

fn ask(question: &str, kind: RecordType) -> String {
    let zone = Zone::new("cluster.local", 30, "10.96.0.10".parse().ok()).expect("a zone");
    let mut name = Name::from_ascii(question).expect("a name");
    name.set_fqdn(true);
    match zone.answer(&cluster(), &name, kind) {
        Answer::NotOurs => "not ours".into(),
        Answer::NameError => "NXDOMAIN".into(),
        Answer::Records { answers, additionals } => {
            let text = |records: &[hickory_server::proto::rr::Record]| {
                records.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join(", ")
            };
            if additionals.is_empty() {
                text(&answers)
            } else {
                format!("{} + {}", text(&answers), text(&additionals))
            }
        }
    }
}

#[test]
fn answers_follow_the_specification() {
    use RecordType::{A, AAAA, PTR, SRV, TXT};
    let cases = [
        ("web.ns.svc.cluster.local", A, "10.96.0.20"),
        ("WEB.ns.svc.Cluster.Local", A, "10.96.0.20"),
        ("web.ns.svc.cluster.local", AAAA, ""),
        ("web.other.svc.cluster.local", A, "NXDOMAIN"),
        ("_http._tcp.web.ns.svc.cluster.local", SRV, "0 100 80 web.ns.svc.cluster.local. + 10.96.0.20"),
        ("_https._tcp.web.ns.svc.cluster.local", SRV, "NXDOMAIN"),
        ("db.ns.svc.cluster.local", A, "10.244.1.5, 10.244.1.6"),
        ("db-0.db.ns.svc.cluster.local", A, "10.244.1.5"),
        ("10-244-1-6.db.ns.svc.cluster.local", A, "10.244.1.6"),
        ("10-244-1-7.db.ns.svc.cluster.local", A, "NXDOMAIN"),
        (
            "_http._tcp.db.ns.svc.cluster.local",
            SRV,
            "0 50 8080 db-0.db.ns.svc.cluster.local., 0 50 8080 10-244-1-6.db.ns.svc.cluster.local. + 10.244.1.5, 10.244.1.6",
        ),
        ("empty.ns.svc.cluster.local", A, "NXDOMAIN"),
        ("ext.ns.svc.cluster.local", A, "example.com."),
        ("10-1-2-3.ns.pod.cluster.local", A, "10.1.2.3"),
        ("10-1-2-3.gone.pod.cluster.local", A, "NXDOMAIN"),
        ("x.ns.pod.cluster.local", A, "NXDOMAIN"),
        ("ns.svc.cluster.local", A, ""),
        ("dns-version.cluster.local", TXT, "1.1.0"),
        ("ns.dns.cluster.local", A, "10.96.0.10"),
        ("nothing.cluster.local", A, "NXDOMAIN"),
        ("example.com", A, "not ours"),
        ("20.0.96.10.in-addr.arpa", PTR, "web.ns.svc.cluster.local."),
        ("5.1.244.10.in-addr.arpa", PTR, "db-0.db.ns.svc.cluster.local."),
        ("9.1.244.10.in-addr.arpa", PTR, "not ours"),
    ];
    for (question, kind, answer) in cases {
        assert_eq!(ask(question, kind), answer, "{question} {kind}");
    }
}
