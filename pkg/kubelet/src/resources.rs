//! Quantities as numbers, QoS classes, and resources as the kernel wants them.
//!
//! Sources: `pkg/kubelet/cm/helpers_linux.go` (shares and quota), `pkg/kubelet/qos/policy.go` (oom scores),
//! `pkg/apis/core/v1/helper/qos` (classes).

use std::collections::BTreeMap;

use cri::api::{HugepageLimit, LinuxContainerResources};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::podutil::{PodExt, init_containers, is_sidecar};

/// Resource amounts by name.
pub type ResourceList = BTreeMap<String, Quantity>;

/// Fewest CPU shares a cgroup may have.
pub const MIN_SHARES: i64 = 2;
/// Most CPU shares a cgroup may have.
pub const MAX_SHARES: i64 = 262_144;
const SHARES_PER_CPU: i64 = 1024;
/// The period CPU quotas are given for, in microseconds.
pub const CPU_PERIOD: i64 = 100_000;
/// Smallest quota the kernel takes, in microseconds.
const MIN_QUOTA: i64 = 1000;

/// OOM score of containers that must go last: those of critical pods.
pub const CRITICAL_OOM_SCORE: i64 = -997;
const BEST_EFFORT_OOM_SCORE: i64 = 1000;
/// Priority from which a pod is critical.
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// A quantity in thousandths, rounded up. `None` when it is not one; the API server lets no such thing through.
pub fn milli_value(quantity: &Quantity) -> Option<i64> {
    parse(quantity).map(apimachinery::quantity::Quantity::milli_value)
}

/// A quantity in whole units, rounded up.
pub fn value(quantity: &Quantity) -> Option<i64> {
    parse(quantity).map(apimachinery::quantity::Quantity::value)
}

fn parse(quantity: &Quantity) -> Option<apimachinery::quantity::Quantity> {
    quantity.0.parse().ok()
}

/// An amount of bytes as upstream prints node memory: in Ki when it divides.
pub fn bytes_quantity(bytes: i64) -> Quantity {
    Quantity(if bytes > 0 && bytes % 1024 == 0 { format!("{}Ki", bytes / 1024) } else { bytes.to_string() })
}

/// Thousandths of a CPU as a quantity.
pub fn milli_quantity(milli: i64) -> Quantity {
    Quantity(if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") })
}

/// A resource's request, falling back to its limit.
pub fn request(resources: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    let resources = resources?;
    let of = |list: &Option<ResourceList>| list.as_ref().and_then(|l| l.get(name)).cloned();
    of(&resources.requests).or_else(|| of(&resources.limits))
}

/// A resource's limit.
pub fn limit<'a>(resources: Option<&'a ResourceRequirements>, name: &str) -> Option<&'a Quantity> {
    resources?.limits.as_ref()?.get(name)
}

/// Quality-of-service class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// Every container's limits equal its requests.
    Guaranteed,
    /// Something is asked for.
    Burstable,
    /// Nothing is asked for.
    BestEffort,
}

impl Qos {
    /// As `status.qosClass` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// A pod's class: of its status once that is set (it never changes), else computed.
pub fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => Qos::Guaranteed,
        Some("Burstable") => Qos::Burstable,
        Some("BestEffort") => Qos::BestEffort,
        _ => compute_qos(pod),
    }
}

fn compute_qos(pod: &Pod) -> Qos {
    const COUNTED: [&str; 2] = ["cpu", "memory"];
    let spec = pod.spec();
    // Pod-level resources, when set, decide alone.
    if let Some(resources) = &spec.resources {
        return class_of(std::iter::once(Some(resources)), &COUNTED);
    }
    class_of(spec.containers.iter().chain(init_containers(pod)).map(|c| c.resources.as_ref()), &COUNTED)
}

fn class_of<'a>(all: impl Iterator<Item = Option<&'a ResourceRequirements>>, counted: &[&str]) -> Qos {
    let positive = |q: Option<&Quantity>| q.and_then(milli_value).filter(|v| *v > 0);
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        for name in counted {
            let asked = positive(request(resources, name).as_ref());
            let most = positive(limit(resources, name));
            any |= asked.is_some() || most.is_some();
            guaranteed &= most.is_some() && asked == most;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// CPU shares for a request in thousandths of a CPU.
pub fn milli_cpu_to_shares(milli: i64) -> i64 {
    if milli <= 0 {
        return MIN_SHARES;
    }
    (milli.saturating_mul(SHARES_PER_CPU) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CPU quota in microseconds a [`CPU_PERIOD`], 0 for none.
pub fn milli_cpu_to_quota(milli: i64) -> i64 {
    if milli <= 0 { 0 } else { (milli.saturating_mul(CPU_PERIOD) / 1000).max(MIN_QUOTA) }
}

/// `cpu.weight` of cgroup v2 for shares, as runc converts them.
pub fn shares_to_weight(shares: i64) -> i64 {
    1 + ((shares.clamp(MIN_SHARES, MAX_SHARES) - MIN_SHARES) * 9999) / (MAX_SHARES - MIN_SHARES)
}

/// Sums of a pod's requests and limits for its cgroup: shares, and quota and memory when every container is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PodLimits {
    /// CPU shares.
    pub shares: i64,
    /// CPU quota a period in microseconds, `None` without.
    pub quota: Option<i64>,
    /// Memory limit in bytes, `None` without.
    pub memory: Option<i64>,
}

/// A pod's request of `cpu` or `memory`: the larger of what runs at once (containers and sidecars) and what the
/// hungriest init container needs on top of the sidecars before it.
pub fn pod_sum(pod: &Pod, of: impl Fn(&Container) -> Option<i64>) -> Option<i64> {
    let mut all_known = true;
    let mut get = |c: &Container| {
        of(c).unwrap_or_else(|| {
            all_known = false;
            0
        })
    };
    let mut running: i64 = pod.spec().containers.iter().map(&mut get).sum();
    let (mut sidecars, mut peak) = (0i64, 0i64);
    for container in init_containers(pod) {
        let amount = get(container);
        if is_sidecar(container) {
            sidecars += amount;
            running += amount;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + amount);
        }
    }
    all_known.then(|| running.max(peak))
}

/// What a pod's own cgroup is set to.
pub fn pod_limits(pod: &Pod, enforce_quota: bool) -> PodLimits {
    let level = pod.spec().resources.as_ref();
    let cpu = |c: &Container| {
        Some(request(c.resources.as_ref(), "cpu").as_ref().and_then(milli_value).unwrap_or(0))
    };
    let requested =
        request(level, "cpu").as_ref().and_then(milli_value).or_else(|| pod_sum(pod, cpu)).unwrap_or(0);
    let cpu_limit = limit(level, "cpu").and_then(milli_value).or_else(|| {
        pod_sum(pod, |c| limit(c.resources.as_ref(), "cpu").and_then(milli_value).filter(|v| *v > 0))
    });
    let memory_limit = limit(level, "memory").and_then(value).or_else(|| {
        pod_sum(pod, |c| limit(c.resources.as_ref(), "memory").and_then(value).filter(|v| *v > 0))
    });
    let overhead = |name: &str, f: fn(&Quantity) -> Option<i64>| {
        pod.spec().overhead.as_ref().and_then(|o| o.get(name)).and_then(f).unwrap_or(0)
    };
    PodLimits {
        shares: milli_cpu_to_shares(requested + overhead("cpu", milli_value)),
        quota: cpu_limit
            .filter(|_| enforce_quota)
            .map(|m| milli_cpu_to_quota(m + overhead("cpu", milli_value))),
        memory: memory_limit.map(|m| m + overhead("memory", value)),
    }
}

/// OOM score of a container: the more of the node's memory it asked for, the safer.
pub fn oom_score(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    if pod.spec().priority.unwrap_or(0) >= SYSTEM_CRITICAL_PRIORITY || pod.is_static() || pod.is_mirror() {
        return CRITICAL_OOM_SCORE;
    }
    match qos(pod) {
        Qos::Guaranteed => CRITICAL_OOM_SCORE,
        Qos::BestEffort => BEST_EFFORT_OOM_SCORE,
        Qos::Burstable => {
            let asked = request(container.resources.as_ref(), "memory").as_ref().and_then(value).unwrap_or(0);
            let score = 1000
                - i64::try_from(i128::from(asked) * 1000 / i128::from(node_memory.max(1))).unwrap_or(1000);
            // Never as safe as a guaranteed container, never as exposed as one that asked for nothing.
            if score < 1000 + CRITICAL_OOM_SCORE {
                1000 + CRITICAL_OOM_SCORE
            } else if score == BEST_EFFORT_OOM_SCORE {
                score - 1
            } else {
                score
            }
        }
    }
}

/// A container's resources for the runtime.
pub fn container_resources(pod: &Pod, container: &Container, node: &NodeFacts) -> LinuxContainerResources {
    let resources = container.resources.as_ref();
    let cpu_request = request(resources, "cpu").as_ref().and_then(milli_value).unwrap_or(0);
    let cpu_limit = limit(resources, "cpu").and_then(milli_value).unwrap_or(0);
    let memory_limit = limit(resources, "memory").and_then(value).unwrap_or(0);
    let mut linux = LinuxContainerResources {
        cpu_shares: milli_cpu_to_shares(cpu_request),
        oom_score_adj: oom_score(pod, container, node.memory),
        memory_limit_in_bytes: memory_limit,
        hugepage_limits: hugepages(resources),
        ..Default::default()
    };
    if node.enforce_cpu_quota {
        linux.cpu_quota = milli_cpu_to_quota(cpu_limit);
        linux.cpu_period = CPU_PERIOD;
    }
    if node.kill_whole_containers {
        // One process out of memory takes the whole container with it.
        linux.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    linux
}

fn hugepages(resources: Option<&ResourceRequirements>) -> Vec<HugepageLimit> {
    let limits = resources.and_then(|r| r.limits.as_ref());
    limits
        .into_iter()
        .flatten()
        .filter_map(|(name, quantity)| {
            let bytes = value(&Quantity(name.strip_prefix("hugepages-")?.to_owned()))?;
            // The kernel's names: 2MB, 1GB.
            let page_size =
                if bytes >= 1 << 30 { format!("{}GB", bytes >> 30) } else { format!("{}MB", bytes >> 20) };
            Some(HugepageLimit { page_size, limit: value(quantity)? as u64 })
        })
        .collect()
}

/// Facts about the node that resource decisions need.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeFacts {
    /// Logical CPUs.
    pub cpus: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Out of memory, a container is killed as a whole: on the unified hierarchy, unless `singleProcessOOMKill`.
    pub kill_whole_containers: bool,
    /// CPU limits are enforced (`cpuCFSQuota`).
    pub enforce_cpu_quota: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn quantities() {
        for (text, milli, whole) in [
            ("100m", 100, 1),
            ("1", 1000, 1),
            ("1.5", 1500, 2),
            ("0.0001", 1, 1),
            ("64Mi", 67_108_864_000, 67_108_864),
            ("1e3", 1_000_000, 1000),
            ("2k", 2_000_000, 2000),
        ] {
            let q = Quantity(text.into());
            assert_eq!((milli_value(&q), value(&q)), (Some(milli), Some(whole)), "{text}");
        }
        for text in ["x", "1x", "--1"] {
            assert_eq!(value(&Quantity(text.into())), None, "{text}");
        }
    }

    #[test]
    fn classes() {
        let c = |r: serde_json::Value| json!({"containers": [{"name": "a", "resources": r}]});
        let cases = [
            (c(json!({})), Qos::BestEffort),
            (c(json!({"requests": {"cpu": "1"}})), Qos::Burstable),
            (c(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), Qos::Guaranteed),
            (
                c(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}})),
                Qos::Guaranteed,
            ),
            (
                c(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})),
                Qos::Burstable,
            ),
            (
                json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {"name": "b"}]}),
                Qos::Burstable,
            ),
        ];
        for (spec, class) in cases {
            assert_eq!(qos(&pod(spec.clone())), class, "{spec}");
        }
    }

    #[test]
    fn kernel_numbers() {
        assert_eq!([0, 1, 100, 1000, 2500].map(milli_cpu_to_shares), [2, 2, 102, 1024, 2560]);
        assert_eq!([0, 5, 100, 2000].map(milli_cpu_to_quota), [0, 1000, 10_000, 200_000]);
        assert_eq!([2, 1024, 262_144].map(shares_to_weight), [1, 39, 10_000]);
    }

    #[test]
    fn pod_sums_count_sidecars_and_the_hungriest_init() {
        let p = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "1"}}}]}));
        assert_eq!(pod_limits(&p, true), PodLimits { shares: 1075, quota: None, memory: None });
    }

    #[test]
    fn oom_scores() {
        let burstable = |memory: &str| {
            pod(json!({"containers": [{"name": "a", "resources": {"requests": {"memory": memory}}}]}))
        };
        for (memory, score) in [("1", 999), ("4G", 600), ("10G", 3)] {
            let p = burstable(memory);
            assert_eq!(oom_score(&p, &p.spec().containers[0], 10_000_000_000), score, "{memory}");
        }
    }
}
