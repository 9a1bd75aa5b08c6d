//! Changing the resources of containers while they run (KEP-1287). Pure.
//!
//! What a container was given is remembered by the worker; what it should have is in its spec. CPU and memory change in
//! place unless the container's resize policy asks for a restart.

use cri::api::LinuxContainerResources;
use k8s_openapi::api::core::v1::Container;

/// What to do about a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// Nothing differs.
    None,
    /// Update the running container.
    InPlace,
    /// Restart it.
    Restart,
}

fn restarts(container: &Container, resource: &str) -> bool {
    let policies = container.resize_policy.iter().flatten();
    policies.into_iter().any(|p| p.resource_name == resource && p.restart_policy == "RestartContainer")
}

/// Compares what a running container was given with what it should have.
pub fn compare(
    container: &Container,
    given: &LinuxContainerResources,
    wanted: &LinuxContainerResources,
) -> Resize {
    let cpu = given.cpu_shares != wanted.cpu_shares || given.cpu_quota != wanted.cpu_quota;
    let memory = given.memory_limit_in_bytes != wanted.memory_limit_in_bytes;
    match (cpu, memory) {
        (false, false) => Resize::None,
        _ if cpu && restarts(container, "cpu") || memory && restarts(container, "memory") => Resize::Restart,
        _ => Resize::InPlace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies_decide() {
        let given = |shares, memory| LinuxContainerResources {
            cpu_shares: shares,
            memory_limit_in_bytes: memory,
            ..Default::default()
        };
        let container: Container = serde_json::from_value(json!({"name": "c", "resizePolicy": [
            {"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}))
        .expect("a container");
        for (wanted, expected) in [
            (given(100, 10), Resize::None),
            (given(200, 10), Resize::InPlace),
            (given(200, 20), Resize::Restart),
            (given(100, 20), Resize::Restart),
        ] {
            assert_eq!(compare(&container, &given(100, 10), &wanted), expected);
        }
        assert_eq!(compare(&Container::default(), &given(1, 1), &given(1, 2)), Resize::InPlace);
    }
}
