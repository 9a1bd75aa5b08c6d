//! Around writes of services: addresses and ports are taken before the write and given back when it fails, or when a
//! successful write or delete no longer needs them.
//! Source: `k8s.io/kubernetes/pkg/registry/core/service/storage/{storage,alloc}.go`.

use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{at, name, namespace, str_at};
use apimachinery::status::{FieldError, Status};
use apiserver::extension::Nothing;
use apiserver::{ResourceStore, Write, WriteFinish, WriteHook};
use async_trait::async_trait;

use super::Services;
use super::addresses::{AddressError, Addresses, Owner, release};
use super::families::{
    cluster_ips, complete, families, has_addresses, is_headless, keep_allocated, kind, normalize, set,
};
use super::ports::{PortError, Ports, Taken, ports_of};

/// Takes and gives back what services need.
pub(crate) struct ServiceHook {
    services: Arc<Services>,
}

impl ServiceHook {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }
}

/// What a write has taken, and what it makes free.
struct Transaction {
    store: ResourceStore,
    ports: Ports,
    namespace: String,
    name: String,
    taken_ips: Vec<String>,
    taken_ports: Taken,
    freed_ips: Vec<String>,
    freed_ports: Taken,
}

impl Transaction {
    async fn give_back(&self, ips: &[String], ports: &Taken) {
        let owner = Owner { namespace: &self.namespace, name: &self.name };
        for ip in ips {
            release(&self.store, ip, owner).await;
        }
        if let Err(error) = self.ports.release(ports).await {
            tracing::warn!(service = %self.name, %error, "cannot give node ports back, the repair loop will");
        }
    }
}

#[async_trait]
impl WriteFinish for Transaction {
    async fn finish(self: Box<Self>, success: bool) {
        if success {
            self.give_back(&self.freed_ips, &self.freed_ports).await;
        } else {
            self.give_back(&self.taken_ips, &self.taken_ports).await;
        }
    }
}

fn invalid(service: &Value, error: FieldError) -> Status {
    Status::invalid("", "Service", name(service), &[error])
}

fn address_failure(service: &Value, ip: Option<IpAddr>, error: AddressError) -> Status {
    match (error, ip) {
        (AddressError::Store(status), _) => status,
        (error, Some(ip)) => {
            let why = format!("failed to allocate IP {ip}: {error}");
            invalid(service, FieldError::invalid("spec.clusterIPs", json!(cluster_ips(service)), why))
        }
        (error, None) => Status::internal(format!("failed to allocate a serviceIP: {error}")),
    }
}

fn port_failure(service: &Value, field: String, port: Option<u16>, error: PortError) -> Status {
    match (error, port) {
        (PortError::Store(error), _) => apiserver::store_failure(error),
        (error @ (PortError::Taken | PortError::NotInRange(_)), Some(port)) => {
            invalid(service, FieldError::invalid(field, port, error.to_string()))
        }
        (error, _) => Status::internal(format!("failed to allocate a nodePort: {error}")),
    }
}

fn needs_node_ports(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}

/// Whether ports that are not asked for by number get one.
fn allocates_node_ports(service: &Value) -> bool {
    kind(service) == "NodePort"
        || kind(service) == "LoadBalancer"
            && at(service, &["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool) != Some(false)
}

fn needs_health_check_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && str_at(service, &["spec", "externalTrafficPolicy"]) == "Local"
}

fn number(value: Option<&Value>) -> Option<u16> {
    value.and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
}

/// Node ports that a client did not send along stay what they are, port by port.
fn keep_node_ports(service: &mut Value, old: &Value) {
    if !(needs_node_ports(service) && needs_node_ports(old)) {
        return;
    }
    let key = |port: &Value| (str_at(port, &["protocol"]).to_owned(), at(port, &["port"]).cloned());
    let old_ports = at(old, &["spec", "ports"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut used: Taken = ports_of(service);
    let ports = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        if number(port.get("nodePort")).is_some() {
            continue;
        }
        let before = old_ports.iter().find(|o| key(o) == key(port)).and_then(|o| number(o.get("nodePort")));
        if let Some(before) = before.filter(|p| !used.contains(p)) {
            used.insert(before);
            port["nodePort"] = json!(before);
        }
    }
    if needs_health_check_port(service)
        && needs_health_check_port(old)
        && number(at(service, &["spec", "healthCheckNodePort"])).is_none()
        && let Some(port) = number(at(old, &["spec", "healthCheckNodePort"]))
    {
        set(service, "healthCheckNodePort", json!(port));
    }
}

struct Allocation<'a> {
    addresses: Addresses<'a>,
    transaction: Transaction,
}

impl Allocation<'_> {
    /// Makes sure the service has an address of each of its families.
    async fn addresses(&mut self, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        let before = old.filter(|o| has_addresses(o)).map(cluster_ips).unwrap_or_default();
        if !has_addresses(service) || is_headless(service) {
            self.transaction.freed_ips = before.into_iter().filter(|ip| ip != "None").collect();
            return Ok(());
        }
        let mut ips = cluster_ips(service);
        let (ns, name) = (self.transaction.namespace.clone(), self.transaction.name.clone());
        let owner = Owner { namespace: &ns, name: &name };
        for (i, family) in families(service).into_iter().enumerate() {
            match ips.get(i) {
                Some(ip) if before.contains(ip) => {}
                Some(text) => {
                    // what is no address is validation's to say
                    let Ok(ip) = text.parse::<IpAddr>() else { continue };
                    let result = self.addresses.allocate(ip, owner).await;
                    result.map_err(|e| address_failure(service, Some(ip), e))?;
                    self.note(ip);
                }
                None => {
                    let result = self.addresses.allocate_next(family, owner).await;
                    let ip = result.map_err(|e| address_failure(service, None, e))?;
                    self.note(ip);
                    ips.push(ip.to_string());
                }
            }
        }
        self.transaction.freed_ips =
            before.into_iter().filter(|ip| ip != "None" && !ips.contains(ip)).collect();
        if let Some(first) = ips.first() {
            set(service, "clusterIP", json!(first));
            set(service, "clusterIPs", json!(ips));
        }
        Ok(())
    }

    fn note(&mut self, ip: IpAddr) {
        if !self.addresses.dry_run {
            self.transaction.taken_ips.push(ip.to_string());
        }
    }

    fn note_port(&mut self, port: u16) {
        if !self.addresses.dry_run {
            self.transaction.taken_ports.insert(port);
        }
    }

    /// Makes sure the service has the node ports it needs.
    async fn ports(&mut self, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        let before = old.map(ports_of).unwrap_or_default();
        let dry_run = self.addresses.dry_run;
        // ports of this service, old and new: one port may serve several protocols
        let mut own = before.clone();
        // what repeats a port is refused by validation, and not worth looking for ports
        if needs_node_ports(service) && !repeats_a_port(service) {
            let count = at(service, &["spec", "ports"]).and_then(Value::as_array).map_or(0, Vec::len);
            for i in 0..count {
                let field = format!("spec.ports[{i}].nodePort");
                let port = service["spec"]["ports"][i].clone();
                match number(port.get("nodePort")) {
                    Some(asked) if own.contains(&asked) => {}
                    Some(asked) => {
                        let result = self.transaction.ports.allocate(asked, dry_run).await;
                        result.map_err(|e| port_failure(service, field, Some(asked), e))?;
                        own.insert(asked);
                        self.note_port(asked);
                    }
                    None if allocates_node_ports(service) => {
                        let node_port = match same_port_other_protocol(service, i) {
                            Some(shared) => shared,
                            None => {
                                let result = self.transaction.ports.allocate_next(&own, dry_run).await;
                                let fresh = result.map_err(|e| port_failure(service, field, None, e))?;
                                own.insert(fresh);
                                self.note_port(fresh);
                                fresh
                            }
                        };
                        service["spec"]["ports"][i]["nodePort"] = json!(node_port);
                    }
                    None => {}
                }
            }
        }
        self.health_check_port(service, &mut own).await?;
        let after = ports_of(service);
        self.transaction.freed_ports = before.difference(&after).copied().collect();
        Ok(())
    }

    async fn health_check_port(&mut self, service: &mut Value, own: &mut Taken) -> Result<(), Status> {
        if !needs_health_check_port(service) {
            return Ok(());
        }
        let dry_run = self.addresses.dry_run;
        let field = "spec.healthCheckNodePort".to_owned();
        match number(at(service, &["spec", "healthCheckNodePort"])) {
            Some(asked) if own.contains(&asked) => Ok(()),
            Some(asked) => {
                let result = self.transaction.ports.allocate(asked, dry_run).await;
                result.map_err(|e| port_failure(service, field, Some(asked), e))?;
                self.note_port(asked);
                Ok(())
            }
            None => {
                let result = self.transaction.ports.allocate_next(own, dry_run).await;
                let fresh = result.map_err(|e| port_failure(service, field, None, e))?;
                self.note_port(fresh);
                set(service, "healthCheckNodePort", json!(fresh));
                Ok(())
            }
        }
    }
}

/// Whether two ports have one number and one protocol.
fn repeats_a_port(service: &Value) -> bool {
    let ports = at(service, &["spec", "ports"]).and_then(Value::as_array);
    let mut seen = std::collections::HashSet::new();
    ports
        .into_iter()
        .flatten()
        .any(|port| !seen.insert((number(port.get("port")), str_at(port, &["protocol"]))))
}

/// The node port of an earlier port of the same number and another protocol, as for DNS over TCP and UDP.
fn same_port_other_protocol(service: &Value, i: usize) -> Option<u16> {
    let ports = at(service, &["spec", "ports"])?.as_array()?;
    let this = ports.get(i)?;
    ports
        .iter()
        .find(|other| {
            other.get("port") == this.get("port")
                && str_at(other, &["protocol"]) != str_at(this, &["protocol"])
                && number(other.get("nodePort")).is_some()
                && !ports.iter().any(|third| {
                    third.get("nodePort") == other.get("nodePort")
                        && str_at(third, &["protocol"]) == str_at(this, &["protocol"])
                })
        })
        .and_then(|other| number(other.get("nodePort")))
}

impl ServiceHook {
    async fn begin(
        &self,
        write: &Write<'_>,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Box<dyn WriteFinish>, Status> {
        if !write.subresource.is_empty() {
            return Ok(Box::new(Nothing));
        }
        normalize(service, old);
        if let Some(old) = old {
            keep_allocated(service, old);
            keep_node_ports(service, old);
        }
        let errors = complete(service, old, &self.services.families(write.store));
        if !errors.is_empty() {
            return Err(Status::invalid("", "Service", name(service), &errors));
        }
        let transaction = Transaction {
            store: write.store.clone(),
            ports: self.services.ports(write.store),
            namespace: namespace(service).to_owned(),
            name: name(service).to_owned(),
            taken_ips: Vec::new(),
            taken_ports: Taken::new(),
            freed_ips: Vec::new(),
            freed_ports: Taken::new(),
        };
        let addresses = Addresses {
            store: write.store,
            ranges: self.services.ranges(write.store),
            dry_run: write.dry_run,
            metrics: &self.services.metrics,
        };
        let mut allocation = Allocation { addresses, transaction };
        let mut result = allocation.addresses(service, old).await;
        if result.is_ok() {
            result = allocation.ports(service, old).await;
        }
        let transaction = Box::new(allocation.transaction);
        match result {
            Ok(()) => Ok(transaction),
            Err(status) => {
                transaction.finish(false).await;
                Err(status)
            }
        }
    }
}

#[async_trait]
impl WriteHook for ServiceHook {
    async fn begin_create(
        &self,
        write: &Write<'_>,
        object: &mut Value,
    ) -> Result<Box<dyn WriteFinish>, Status> {
        self.begin(write, object, None).await
    }

    async fn begin_update(
        &self,
        write: &Write<'_>,
        new: &mut Value,
        old: &Value,
    ) -> Result<Box<dyn WriteFinish>, Status> {
        self.begin(write, new, Some(old)).await
    }

    async fn after_delete(&self, write: &Write<'_>, object: &Value) {
        let transaction = Transaction {
            store: write.store.clone(),
            ports: self.services.ports(write.store),
            namespace: namespace(object).to_owned(),
            name: name(object).to_owned(),
            taken_ips: Vec::new(),
            taken_ports: Taken::new(),
            freed_ips: cluster_ips(object).into_iter().filter(|ip| ip != "None").collect(),
            freed_ports: ports_of(object),
        };
        Box::new(transaction).finish(true).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_ports_are_seen() {
        let cases = [
            (json!([{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}]), false),
            (json!([{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]), false),
            (json!([{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "TCP", "name": "b"}]), true),
            (json!([]), false),
            (Value::Null, false),
        ];
        for (ports, repeats) in cases {
            assert_eq!(repeats_a_port(&json!({"spec": {"ports": ports}})), repeats, "{ports}");
        }
    }

    #[test]
    fn who_needs_ports() {
        let cases = [
            (json!({"type": "ClusterIP"}), (false, false, false)),
            (json!({"type": "NodePort"}), (true, true, false)),
            (json!({"type": "LoadBalancer"}), (true, true, false)),
            (json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}), (true, false, false)),
            (json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}), (true, true, true)),
        ];
        for (spec, expected) in cases {
            let service = json!({"spec": spec});
            let got = (
                needs_node_ports(&service),
                allocates_node_ports(&service),
                needs_health_check_port(&service),
            );
            assert_eq!(got, expected, "{spec}");
        }
    }

    #[test]
    fn node_ports_stay() {
        let old = json!({"spec": {"type": "NodePort", "ports": [
            {"protocol": "TCP", "port": 80, "nodePort": 30080}, {"protocol": "TCP", "port": 81, "nodePort": 30081}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [
            {"protocol": "TCP", "port": 82, "nodePort": 30081}, {"protocol": "TCP", "port": 80}, {"protocol": "TCP", "port": 81}]}});
        keep_node_ports(&mut new, &old);
        let ports: Vec<Option<u16>> =
            (0..3).map(|i| number(new["spec"]["ports"][i].get("nodePort"))).collect();
        assert_eq!(ports, [Some(30081), Some(30080), None]);
    }

    #[test]
    fn protocols_share_a_port() {
        let service = json!({"spec": {"ports": [
            {"protocol": "UDP", "port": 53, "nodePort": 30053}, {"protocol": "TCP", "port": 53}, {"protocol": "TCP", "port": 54}]}});
        assert_eq!(same_port_other_protocol(&service, 1), Some(30053));
        assert_eq!(same_port_other_protocol(&service, 2), None);
    }
}
