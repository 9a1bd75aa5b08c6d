//! A pod's sandbox as the runtime wants it. Pure.
//!
//! Source: `pkg/kubelet/kuberuntime/kuberuntime_sandbox.go`.

use std::collections::HashMap;

use cri::api;
use k8s_openapi::api::core::v1::Pod;

use crate::names;
use crate::network::{NodeNames, kernel_hostname, resolver};
use crate::podutil::{PodExt, init_containers, is_sidecar};
use crate::resources::{self, NodeFacts};
use crate::security;

/// The sandbox of a pod, and a warning about its resolver settings.
///
/// # Errors
/// Why the pod's host name cannot be made.
pub fn config(
    pod: &Pod,
    attempt: u32,
    names: &NodeNames,
    cgroup_parent: &str,
    node: &NodeFacts,
) -> Result<(api::PodSandboxConfig, Option<String>), String> {
    let (dns, warning) = resolver(pod, names);
    // In the node's network the node's host name holds.
    let hostname =
        if pod.host_network() { String::new() } else { kernel_hostname(pod, &names.cluster_domain)? };
    let sysctls: HashMap<String, String> = pod
        .spec()
        .security_context
        .as_ref()
        .and_then(|s| s.sysctls.as_ref())
        .into_iter()
        .flatten()
        .map(|s| (s.name.clone(), s.value.clone()))
        .collect();
    let limits = resources::pod_limits(pod, node.enforce_cpu_quota);
    let config = api::PodSandboxConfig {
        metadata: Some(api::PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.ns().to_owned(),
            attempt,
        }),
        hostname,
        log_directory: names::log_directory(pod.ns(), pod.name(), pod.uid()),
        dns_config: Some(dns),
        port_mappings: port_mappings(pod),
        labels: names::sandbox_labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(api::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(security::sandbox(pod)),
            sysctls,
            overhead: None,
            resources: Some(api::LinuxContainerResources {
                cpu_shares: limits.shares,
                cpu_quota: limits.quota.unwrap_or(0),
                cpu_period: resources::CPU_PERIOD,
                memory_limit_in_bytes: limits.memory.unwrap_or(0),
                ..Default::default()
            }),
        }),
        windows: None,
    };
    Ok((config, warning))
}

/// Ports of the node that lead into the pod.
fn port_mappings(pod: &Pod) -> Vec<api::PortMapping> {
    if pod.host_network() {
        return Vec::new();
    }
    let sidecars = init_containers(pod).iter().filter(|c| is_sidecar(c));
    pod.spec()
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter(|p| p.host_port.is_some_and(|h| h > 0))
        .map(|p| api::PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => api::Protocol::Udp,
                Some("SCTP") => api::Protocol::Sctp,
                _ => api::Protocol::Tcp,
            }
            .into(),
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or(0),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_sandbox_carries_the_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec": {"securityContext": {"sysctls": [{"name": "net.x", "value": "1"}]},
                "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]}]}}))
        .expect("a pod");
        let (config, warning) =
            config(&pod, 2, &NodeNames::default(), "/kubepods/podu", &NodeFacts::default())
                .expect("a config");
        assert_eq!(warning, None);
        assert_eq!(config.metadata.map(|m| m.attempt), Some(2));
        assert_eq!(config.labels[names::POD_UID], "u");
        assert_eq!(config.labels["a"], "b");
        assert_eq!(config.annotations["c"], "d");
        assert_eq!(config.log_directory, "/var/log/pods/n_p_u");
        assert_eq!(config.port_mappings.len(), 1);
        assert_eq!(config.linux.map(|l| l.cgroup_parent).as_deref(), Some("/kubepods/podu"));
    }
}
