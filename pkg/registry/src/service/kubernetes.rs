//! The `kubernetes` service in `default`, and every living API server among its endpoints: each keeps a leased key in
//! the store, and the endpoints are the keys there are.
//! Source: `k8s.io/kubernetes/pkg/controlplane/{controller/kubernetesservice,reconcilers}`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{GroupVersionResource, at};
use apimachinery::status::Status;
use apiserver::{ResourceStore, WriteOptions};
use ipnet::IpNet;
use storage::{Op, RangeRequest, prefix_end};

use super::ServiceConfig;
use crate::names::{core, internal, is_conflict, is_not_found, v1};

/// Where servers keep their leased keys.
const LEASE_PREFIX: &str = "/registry/masterleases/";
/// Seconds after which a server that no longer renews its key is no endpoint any more.
const LEASE_SECONDS: i64 = 15;
/// Most servers that are looked at.
const MAX_SERVERS: usize = 1000;
const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
/// Port of the service.
const PORT: u16 = 443;
/// How often, and how long apart, a server that was second to take the address looks for the first one's service.
const RACE_TRIES: usize = 50;
const RACE_PAUSE: Duration = Duration::from_millis(100);

/// The service's address: the first of the range.
fn first_address(range: &IpNet) -> Option<IpAddr> {
    match range {
        IpNet::V4(range) => range.hosts().next().map(IpAddr::V4),
        // the anycast address of the subnet is none of them
        IpNet::V6(range) => range.hosts().nth(1).map(IpAddr::V6),
    }
}

/// Makes the service when it is missing.
pub(super) async fn service(store: &ResourceStore, config: &ServiceConfig) -> Result<(), Status> {
    let services = core("services");
    match store.get(&services, NAMESPACE, NAME).await {
        Ok(_) => return Ok(()),
        Err(status) if is_not_found(&status) => {}
        Err(status) => return Err(status),
    }
    let target = config.advertise.map_or(6443, |(_, port)| port);
    let address = config.ranges.first().and_then(first_address).map(|ip| ip.to_string());
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"component": "apiserver", "provider": NAME}},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": address.as_slice(), "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "https", "protocol": "TCP", "port": PORT, "targetPort": target}]},
    });
    match store.create(&internal(), &services, NAMESPACE, object, &WriteOptions::default()).await {
        Err(status) if !is_conflict(&status) => {
            // another server that started at this moment may have made it, and taken the address first
            for _ in 0..RACE_TRIES {
                if store.get(&services, NAMESPACE, NAME).await.is_ok() {
                    return Ok(());
                }
                tokio::time::sleep(RACE_PAUSE).await;
            }
            Err(status)
        }
        _ => Ok(()),
    }
}

/// This server's place among the endpoints.
pub(super) struct Endpoints<'a> {
    pub(super) store: &'a ResourceStore,
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

fn unavailable(error: storage::Error) -> Status {
    Status::service_unavailable(error.to_string())
}

/// `Endpoints` of these servers.
fn endpoints(addresses: &BTreeSet<IpAddr>, port: u16) -> Value {
    let list: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    let mut object = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
    });
    if !list.is_empty() {
        object["subsets"] =
            json!([{"addresses": list, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]);
    }
    object
}

/// `EndpointSlice` of these servers.
fn slice(addresses: &BTreeSet<IpAddr>, port: u16, family: &str) -> Value {
    let list: Vec<Value> = addresses
        .iter()
        .map(|ip| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME}},
        "endpoints": list, "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

impl Endpoints<'_> {
    fn key(&self) -> String {
        format!("{LEASE_PREFIX}{}", self.address)
    }

    /// Renews this server's key and brings the endpoints in line with the keys.
    pub(super) async fn renew(&self) -> Result<(), Status> {
        let storage = self.store.storage();
        let lease = storage.grant_lease(LEASE_SECONDS).await.map_err(unavailable)?;
        // what upstream's servers in the same cluster read: Endpoints with one address
        let value = json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {},
            "subsets": [{"addresses": [{"ip": self.address.to_string()}]}]});
        let put = Op::Put { key: self.key().into(), value: value.to_string().into(), lease: Some(lease) };
        storage.txn(Vec::new(), vec![put]).await.map_err(unavailable)?;
        self.reconcile().await
    }

    /// Takes this server out of the endpoints.
    pub(super) async fn leave(&self) -> Result<(), Status> {
        let delete = Op::Delete { key: self.key().into() };
        self.store.storage().txn(Vec::new(), vec![delete]).await.map_err(unavailable)?;
        self.reconcile().await
    }

    async fn servers(&self) -> Result<BTreeSet<IpAddr>, Status> {
        let request = RangeRequest {
            start: LEASE_PREFIX.to_owned(),
            end: prefix_end(LEASE_PREFIX),
            limit: MAX_SERVERS,
            revision: None,
        };
        let found = self.store.storage().range(request).await.map_err(unavailable)?;
        Ok(found.kvs.iter().filter_map(|kv| kv.key.strip_prefix(LEASE_PREFIX)?.parse().ok()).collect())
    }

    async fn reconcile(&self) -> Result<(), Status> {
        let servers = self.servers().await?;
        let family = if self.address.is_ipv4() { "IPv4" } else { "IPv6" };
        let servers: BTreeSet<IpAddr> =
            servers.into_iter().filter(|ip| ip.is_ipv4() == self.address.is_ipv4()).collect();
        self.put(&core("endpoints"), endpoints(&servers, self.port), &["subsets"]).await?;
        let gvr = v1("discovery.k8s.io", "endpointslices");
        self.put(&gvr, slice(&servers, self.port, family), &["endpoints", "ports"]).await
    }

    /// Creates an object, or replaces these fields of it where they differ.
    async fn put(&self, gvr: &GroupVersionResource, object: Value, fields: &[&str]) -> Result<(), Status> {
        let options = WriteOptions::default();
        match self.store.get(gvr, NAMESPACE, NAME).await {
            Ok(existing) if fields.iter().all(|f| at(&existing, &[f]) == at(&object, &[f])) => return Ok(()),
            Ok(_) => {}
            Err(status) if is_not_found(&status) => {
                let created = self.store.create(&internal(), gvr, NAMESPACE, object.clone(), &options).await;
                match created {
                    Err(status) if is_conflict(&status) => {}
                    other => return other.map(|_| ()),
                }
            }
            Err(status) => return Err(status),
        }
        let update = |mut current: Value| {
            if let (Some(current), Some(wanted)) = (current.as_object_mut(), object.as_object()) {
                for field in fields {
                    match wanted.get(field) {
                        Some(value) => current.insert((*field).to_owned().into(), value.clone()),
                        None => current.remove(field),
                    };
                }
            }
            Ok(current)
        };
        self.store.update(&internal(), gvr, NAMESPACE, NAME, "", &update, &options).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_is_the_services() {
        for (range, ip) in [("10.96.0.0/16", "10.96.0.1"), ("fd00:1::/112", "fd00:1::1")] {
            let first = first_address(&range.parse().expect("range")).expect("address").to_string();
            assert_eq!(first, ip);
        }
    }

    #[test]
    fn endpoints_are_the_servers() {
        let servers: BTreeSet<IpAddr> =
            ["172.30.0.3", "172.30.0.2"].iter().map(|ip| ip.parse().expect("ip")).collect();
        assert_eq!(
            endpoints(&servers, 6443)["subsets"][0]["addresses"],
            json!([{"ip": "172.30.0.2"}, {"ip": "172.30.0.3"}])
        );
        assert!(endpoints(&BTreeSet::new(), 6443).get("subsets").is_none());
        assert_eq!(slice(&servers, 6443, "IPv4")["endpoints"][1]["addresses"], json!(["172.30.0.3"]));
    }
}
