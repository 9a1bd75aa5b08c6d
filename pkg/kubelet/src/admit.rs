//! Whether this node takes a pod that was bound to it. Pure.
//!
//! Sources: `pkg/kubelet/lifecycle/predicate.go`, `pkg/kubelet/sysctl/allowlist.go`, `pkg/kubelet/eviction`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::decide::Ended;
use crate::podutil::PodExt;
use crate::resources::{Qos, ResourceList, milli_value, pod_sum, qos, request, value};
use crate::security;

/// What the node can take.
#[derive(Debug, Clone, Default)]
pub struct Room {
    /// What pods may use.
    pub allocatable: ResourceList,
    /// `allowedUnsafeSysctls`.
    pub allowed_sysctls: Vec<String>,
    /// Pressure conditions in force: `MemoryPressure`...
    pub pressure: Vec<&'static str>,
}

fn refused(reason: &str, message: impl Into<String>) -> Ended {
    Ended { reason: reason.to_owned(), message: message.into(), grace: None }
}

/// Why a pod is refused, if it is. `others` are the pods here that are not over.
pub fn refuse(pod: &Pod, others: &[Arc<Pod>], room: &Room) -> Option<Ended> {
    let critical = pod.spec().priority.unwrap_or(0) >= 2_000_000_000 || pod.is_static();
    if !room.pressure.is_empty() && !critical {
        let memory_only = room.pressure == ["MemoryPressure"];
        // Memory asked for is kept for who asked: only those who asked for nothing are turned away.
        if !(memory_only && qos(pod) != Qos::BestEffort) {
            let list = room.pressure.join(" ");
            return Some(refused("Evicted", format!("The node had condition: [{list}]. ")));
        }
    }
    if let Some(message) = security::forbidden_sysctl(pod, &room.allowed_sysctls) {
        return Some(refused("SysctlForbidden", message));
    }
    if let Some(os) = pod.spec().os.as_ref().filter(|os| os.name != "linux") {
        return Some(refused(
            "PodOSNotSupported",
            format!("Failed to admit pod as the OS field doesn't match node OS ({})", os.name),
        ));
    }
    if let Some(ended) = ports(pod, others) {
        return Some(ended);
    }
    if critical {
        return None;
    }
    resources(pod, others, room)
}

fn ports(pod: &Pod, others: &[Arc<Pod>]) -> Option<Ended> {
    let of = |pod: &Pod| -> Vec<(i32, String)> {
        pod.spec()
            .containers
            .iter()
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|p| {
                Some((
                    p.host_port.filter(|h| *h > 0)?,
                    format!(
                        "{}/{}",
                        p.protocol.as_deref().unwrap_or("TCP"),
                        p.host_ip.as_deref().filter(|ip| *ip != "0.0.0.0").unwrap_or_default()
                    ),
                ))
            })
            .collect()
    };
    let wanted = of(pod);
    if wanted.is_empty() {
        return None;
    }
    let clash = others.iter().any(|other| {
        of(other).iter().any(|(port, address)| {
            wanted.iter().any(|(p, a)| {
                p == port
                    && a.split('/').next() == address.split('/').next()
                    && (a == address || a.ends_with('/') || address.ends_with('/'))
            })
        })
    });
    if clash {
        return Some(refused(
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
                .to_owned(),
        ));
    }
    None
}

fn resources(pod: &Pod, others: &[Arc<Pod>], room: &Room) -> Option<Ended> {
    type Read = fn(&Quantity) -> Option<i64>;
    let capacity = |name: &str, read: Read| room.allocatable.get(name).and_then(read);
    if let Some(pods) = capacity("pods", value)
        && others.len() as i64 + 1 > pods
    {
        let used = others.len();
        return Some(refused(
            "OutOfpods",
            format!("Node didn't have enough resource: pods, requested: 1, used: {used}, capacity: {pods}"),
        ));
    }
    let kinds: [(&str, Read); 3] = [("cpu", milli_value), ("memory", value), ("ephemeral-storage", value)];
    for (name, read) in kinds {
        let of = |pod: &Pod| {
            let own = |c: &Container| {
                Some(request(c.resources.as_ref(), name).as_ref().and_then(read).unwrap_or(0))
            };
            let level = request(pod.spec().resources.as_ref(), name).as_ref().and_then(read);
            level.or_else(|| pod_sum(pod, own)).unwrap_or(0)
        };
        let wanted = of(pod);
        let (Some(capacity), true) = (capacity(name, read), wanted > 0) else { continue };
        let used: i64 = others.iter().map(|p| of(p)).sum();
        if used + wanted > capacity {
            return Some(refused(
                &format!("OutOf{name}"),
                format!(
                    "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
                ),
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
            .expect("a pod")
    }

    #[test]
    fn reasons() {
        let cpu =
            |amount: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]});
        let port =
            |p: i32| json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": p}]}]});
        let allocatable =
            ResourceList::from([("cpu".into(), Quantity("2".into())), ("pods".into(), Quantity("3".into()))]);
        let room = Room { allocatable, ..Room::default() };
        let pressed = Room { pressure: vec!["MemoryPressure"], ..room.clone() };
        let others = [pod(cpu("1500m")).into(), pod(port(80)).into()];
        let cases = [
            (cpu("500m"), &room, ""),
            (cpu("501m"), &room, "OutOfcpu"),
            (port(81), &room, ""),
            (port(80), &room, "NodePorts"),
            (json!({"containers": []}), &pressed, "Evicted"),
            (cpu("1m"), &pressed, ""),
            (
                json!({"containers": [], "securityContext": {"sysctls": [{"name": "kernel.x", "value": "1"}]}}),
                &room,
                "SysctlForbidden",
            ),
        ];
        for (spec, room, reason) in cases {
            let got = refuse(&pod(spec.clone()), &others, room).map(|e| e.reason).unwrap_or_default();
            assert_eq!(got, reason, "{spec}");
        }
    }
}
