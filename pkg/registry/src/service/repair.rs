//! Brings addresses and ports in line with the services that exist: after crashes between taking and writing, after
//! restores of old backups, after somebody deleted an `IPAddress`.
//! Source: `k8s.io/kubernetes/pkg/registry/core/service/{ipallocator,portallocator}/controller`.

use std::collections::HashMap;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{name, namespace, str_at};
use apimachinery::status::Status;
use apiserver::{DeleteRequest, ResourceStore, WriteOptions};
use ipnet::IpNet;
use jiff::Timestamp;

use super::addresses::{ALLOCATOR, Addresses, MANAGED_BY, Owner, is_parent, resource};
use super::families::{cluster_ips, has_addresses};
use super::ports::{Taken, ports_of};
use super::{DEFAULT_CIDR, Services, ServicesError};
use crate::names::{core, internal, is_conflict, is_not_found, v1};

/// Seconds an address may wait for its service to be written.
const ORPHAN_SECONDS: i64 = 60;
/// Repairs in which a port must be found unused before it is given back.
const LEAK_ROUNDS: u32 = 3;

/// What has to be remembered from one repair to the next.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Ports taken and unused, and for how many repairs.
    leaks: HashMap<u16, u32>,
}

/// What the addresses of a cluster lack.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Addresses of services that have no `IPAddress`: address, namespace, service.
    missing: Vec<(String, String, String)>,
    /// Names of `IPAddress`es without a service.
    orphans: Vec<String>,
}

fn plan(services: &[Value], addresses: &[Value], now: Timestamp) -> Plan {
    let known: HashMap<&str, &Value> = addresses.iter().map(|a| (name(a), a)).collect();
    let mut plan = Plan::default();
    let mut used: HashMap<String, Owner<'_>> = HashMap::new();
    for service in services.iter().filter(|s| has_addresses(s)) {
        let owner = Owner { namespace: namespace(service), name: name(service) };
        for ip in cluster_ips(service).into_iter().filter(|ip| ip != "None") {
            if !known.contains_key(ip.as_str()) {
                plan.missing.push((ip.clone(), owner.namespace.to_owned(), owner.name.to_owned()));
            }
            used.insert(ip, owner);
        }
    }
    for address in addresses.iter().filter(|a| str_at(a, &["metadata", "labels", MANAGED_BY]) == ALLOCATOR) {
        let created = str_at(address, &["metadata", "creationTimestamp"]).parse::<Timestamp>();
        let young = created.is_ok_and(|t| now.as_second() - t.as_second() < ORPHAN_SECONDS);
        let owned = used.get(name(address)).is_some_and(|owner| is_parent(address, *owner));
        if !owned && !young {
            plan.orphans.push(name(address).to_owned());
        }
    }
    plan
}

impl Repair {
    /// One repair.
    pub(super) async fn run(
        &mut self,
        services: &Services,
        store: &ResourceStore,
    ) -> Result<(), ServicesError> {
        let failed = |what| move |status| ServicesError::Store { what, status };
        // addresses before services: a service written in between must not make its address an orphan
        let addresses = store.list(&resource(), None).await.map_err(failed("IP addresses"))?;
        let all = store.list(&core("services"), None).await.map_err(failed("services"))?;
        let plan = plan(&all, &addresses, Timestamp::now());
        let ranges = services.ranges(store);
        let allocator = Addresses { store, ranges, dry_run: false, metrics: &services.metrics };
        for (ip, namespace, name) in &plan.missing {
            let Ok(address) = ip.parse() else { continue };
            let owner = Owner { namespace, name };
            if let Err(error) = allocator.allocate(address, owner).await {
                tracing::warn!(ip, namespace, service = name, %error, "a service's address cannot be recorded");
            }
        }
        for orphan in &plan.orphans {
            let deleted = store.delete(&internal(), &resource(), "", orphan, &DeleteRequest::default()).await;
            if let Err(error) = deleted
                && !is_not_found(&error)
            {
                tracing::warn!(ip = orphan, %error, "an unused address cannot be given back");
            }
        }
        let used: Taken = all.iter().flat_map(ports_of).collect();
        let give_back: Taken =
            self.leaks.iter().filter(|(_, rounds)| **rounds >= LEAK_ROUNDS).map(|(port, _)| *port).collect();
        let unused = services.ports(store).repair(&used, &give_back).await;
        let unused = unused.map_err(|error| ServicesError::Ports(error.to_string()))?;
        let rounds = |port: &u16| self.leaks.get(port).copied().unwrap_or(0) + 1;
        self.leaks = unused.iter().map(|port| (*port, rounds(port))).collect();
        Ok(())
    }
}

/// Makes the `ServiceCIDR` of the flags, ready for use.
pub(super) async fn default_cidr(store: &ResourceStore, ranges: &[IpNet]) -> Result<(), Status> {
    let gvr = v1("networking.k8s.io", "servicecidrs");
    let cidrs: Vec<String> = ranges.iter().map(|r| r.trunc().to_string()).collect();
    let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": DEFAULT_CIDR}, "spec": {"cidrs": cidrs}});
    match store.get(&gvr, "", DEFAULT_CIDR).await {
        Ok(existing) if existing["spec"]["cidrs"] != object["spec"]["cidrs"] => {
            // upstream keeps the object, too: addresses have been given out from it
            tracing::warn!(
                existing = %existing["spec"]["cidrs"], configured = ?cidrs,
                "the default ServiceCIDR differs from --service-cluster-ip-range"
            );
        }
        Ok(_) => {}
        Err(status) if is_not_found(&status) => {
            match store.create(&internal(), &gvr, "", object, &WriteOptions::default()).await {
                Err(status) if !is_conflict(&status) => return Err(status),
                _ => {}
            }
        }
        Err(status) => return Err(status),
    }
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let ready = move |mut cidr: Value| {
        let told = cidr["status"]["conditions"].as_array().is_some_and(|c| !c.is_empty());
        if !told {
            cidr["status"] = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "",
                "message": "Kubernetes default Service CIDR is ready", "lastTransitionTime": now}]});
        }
        Ok(cidr)
    };
    store
        .update(&internal(), &gvr, "", DEFAULT_CIDR, "status", &ready, &WriteOptions::default())
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_what_is_left_over() {
        let service = |name: &str, ips: &[&str]| json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"type": "ClusterIP", "clusterIPs": ips}});
        let address = |ip: &str, service: &str, created: &str| {
            json!({"metadata": {"name": ip, "creationTimestamp": created, "labels": {MANAGED_BY: ALLOCATOR}},
                   "spec": {"parentRef": {"resource": "services", "namespace": "ns", "name": service}}})
        };
        let old = "2026-01-01T00:00:00Z";
        let mut foreign = address("10.0.0.9", "x", old);
        foreign["metadata"]["labels"] = json!({});
        let services = [
            service("a", &["10.0.0.1"]),
            service("b", &["10.0.0.2"]),
            service("c", &["None"]),
            service("d", &["10.0.0.3"]),
        ];
        let addresses = [
            address("10.0.0.1", "a", old),
            address("10.0.0.3", "somebody", old),
            address("10.0.0.4", "gone", old),
            address("10.0.0.5", "coming", "2026-01-01T00:59:30Z"),
            foreign,
        ];
        let now = "2026-01-01T01:00:00Z".parse().expect("time");
        assert_eq!(
            plan(&services, &addresses, now),
            Plan {
                missing: vec![("10.0.0.2".into(), "ns".into(), "b".into())],
                orphans: vec!["10.0.0.3".into(), "10.0.0.4".into()],
            }
        );
    }
}
