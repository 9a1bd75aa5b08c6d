//! Figures about pods: `/stats/summary`, `/metrics/resource`.
//!
//! Read from cgroups and the runtime when asked for; nothing is sampled in between, so an idle kubelet stays idle.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::Instant;

use component::http::{Response, text};
use http::{StatusCode, header};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::json as json_response;
use crate::cgroups::{Usage, pod_parent};
use crate::kubelet::Kubelet;
use crate::node::Disk;
use crate::pods::Overview;
use crate::podutil::PodExt;
use crate::resources::qos;
use crate::status::whole_seconds;

/// CPU counters at the last request, to tell a rate: by container or pod.
static LAST: LazyLock<Mutex<HashMap<String, (u64, Instant)>>> = LazyLock::new(Mutex::default);
/// Most counters remembered.
const MAX_COUNTERS: usize = 4096;

/// Nano-cores since the last time this was asked for; `None` at the first time.
fn rate(key: &str, nanos: u64) -> Option<u64> {
    let mut last = LAST.lock();
    if last.len() >= MAX_COUNTERS {
        last.clear();
    }
    let now = Instant::now();
    let (before, at) = last.insert(key.to_owned(), (nanos, now))?;
    let elapsed = now.duration_since(at).as_nanos().max(1);
    u64::try_from(u128::from(nanos.saturating_sub(before)) * 1_000_000_000 / elapsed).ok()
}

/// Figures of one container of a pod.
pub(super) struct ContainerFigures {
    pub(super) pod: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) stats: cri::api::ContainerStats,
}

/// Figures of every container the runtime runs.
pub(super) async fn containers(kubelet: &Kubelet) -> cri::Result<Vec<ContainerFigures>> {
    let all = kubelet.runtime.container_stats().await?;
    let figures = all.into_iter().filter_map(|stats| {
        let labels = &stats.attributes.as_ref()?.labels;
        let get = |key: &str| labels.get(key).cloned();
        Some(ContainerFigures {
            pod: get(crate::names::POD_NAME)?,
            namespace: get(crate::names::POD_NAMESPACE)?,
            name: get(crate::names::CONTAINER_NAME)?,
            uid: get(crate::names::POD_UID)?,
            stats,
        })
    });
    Ok(figures.collect())
}

fn cpu_json(key: &str, time: &Value, nanos: u64) -> Value {
    let mut out = json!({"time": time, "usageCoreNanoSeconds": nanos});
    if let Some(rate) = rate(key, nanos) {
        out["usageNanoCores"] = json!(rate);
    }
    out
}

fn usage_json(key: &str, time: &Value, usage: &Usage) -> (Value, Value) {
    let memory = json!({"time": time, "usageBytes": usage.memory, "workingSetBytes": usage.working_set,
        "rssBytes": usage.rss, "pageFaults": usage.page_faults, "majorPageFaults": usage.major_page_faults});
    (cpu_json(key, time, usage.cpu_nanos), memory)
}

fn disk_json(time: &Value, disk: Option<Disk>) -> Value {
    let Some(disk) = disk else { return json!({"time": time}) };
    json!({"time": time, "availableBytes": disk.available, "capacityBytes": disk.size, "usedBytes": disk.size - disk.available,
        "inodesFree": disk.inodes_free, "inodes": disk.inodes, "inodesUsed": disk.inodes - disk.inodes_free})
}

/// `/stats/summary`.
pub(super) async fn summary(kubelet: &Kubelet, overview: &Overview) -> Response {
    let all = match containers(kubelet).await {
        Ok(all) => all,
        Err(error) => return super::fail(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    let time = json!(whole_seconds(Timestamp::now()).to_string());
    let root_fs = Disk::of(&kubelet.config.root_dir);
    let node_usage = kubelet.cgroups.usage("/").unwrap_or_default();
    let (node_cpu, mut node_memory) = usage_json("/", &time, &node_usage);
    node_memory["availableBytes"] =
        json!((kubelet.facts.memory as u64).saturating_sub(node_usage.working_set));
    let pods: Vec<Value> = overview
        .pods
        .load()
        .values()
        .filter_map(|pod| {
            let path = pod_parent(&kubelet.config.cgroup_root, qos(pod), pod.uid());
            let usage = kubelet.cgroups.usage(&path)?;
            let (cpu, memory) = usage_json(pod.uid(), &time, &usage);
            let own = all.iter().filter(|c| c.uid == pod.uid()).map(|c| container_json(c, &time, root_fs));
            let start = kubelet.statuses.get(pod.uid()).and_then(|s| s.start_time).map(|t| t.0.to_string());
            Some(json!({
                "podRef": {"name": pod.name(), "namespace": pod.ns(), "uid": pod.uid()},
                "startTime": start, "containers": own.collect::<Vec<_>>(), "cpu": cpu, "memory": memory,
                "process_stats": {"process_count": usage.processes}, "volume": volumes_json(kubelet, pod, &time),
            }))
        })
        .collect();
    json_response(&json!({
        "node": {
            "nodeName": kubelet.config.node_name, "startTime": time, "cpu": node_cpu, "memory": node_memory,
            "fs": disk_json(&time, root_fs), "runtime": {"imageFs": disk_json(&time, root_fs)},
            "rlimit": {"time": time, "maxpid": pid_max(), "curproc": node_usage.processes},
        },
        "pods": pods,
    }))
}

fn volumes_json(kubelet: &Kubelet, pod: &Pod, time: &Value) -> Vec<Value> {
    let Some(age) = kubelet.config.volume_stats_period else { return Vec::new() };
    let figures = kubelet.volume_stats.of(pod, age);
    let one = |figures: &crate::volumestats::Figures| {
        let mut out = disk_json(time, Some(figures.disk));
        out["name"] = json!(figures.volume);
        out["usedBytes"] = json!(figures.used);
        if let Some(claim) = &figures.claim {
            out["pvcRef"] = json!({"name": claim, "namespace": pod.ns()});
        }
        out
    };
    figures.iter().map(one).collect()
}

fn pid_max() -> i64 {
    std::fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
}

fn container_json(figures: &ContainerFigures, time: &Value, disk: Option<Disk>) -> Value {
    let stats = &figures.stats;
    let number = |v: &Option<cri::api::UInt64Value>| v.as_ref().map_or(0, |v| v.value);
    let cpu = stats.cpu.unwrap_or_default();
    let memory = stats.memory.unwrap_or_default();
    let layer = stats.writable_layer.clone().unwrap_or_default();
    let mut rootfs = disk_json(time, disk);
    rootfs["usedBytes"] = json!(number(&layer.used_bytes));
    rootfs["inodesUsed"] = json!(number(&layer.inodes_used));
    json!({
        "name": figures.name, "startTime": time,
        "cpu": cpu_json(&format!("{}/{}", figures.uid, figures.name), time, number(&cpu.usage_core_nano_seconds)),
        "memory": {"time": time, "workingSetBytes": number(&memory.working_set_bytes), "usageBytes": number(&memory.usage_bytes),
            "rssBytes": number(&memory.rss_bytes)},
        "rootfs": rootfs,
    })
}

/// `/metrics/resource`, which metrics-server scrapes.
pub(super) async fn resource_metrics(kubelet: &Kubelet, overview: &Overview) -> Response {
    let all = match containers(kubelet).await {
        Ok(all) => all,
        Err(error) => return super::fail(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    let number = |v: Option<&cri::api::UInt64Value>| v.map_or(0, |v| v.value);
    let millis = Timestamp::now().as_millisecond();
    let (mut cpu, mut memory) = (String::new(), String::new());
    for c in &all {
        let labels = format!("{{container={:?},namespace={:?},pod={:?}}}", c.name, c.namespace, c.pod);
        let nanos = number(c.stats.cpu.as_ref().and_then(|c| c.usage_core_nano_seconds.as_ref()));
        let bytes = number(c.stats.memory.as_ref().and_then(|m| m.working_set_bytes.as_ref()));
        let _ = writeln!(cpu, "container_cpu_usage_seconds_total{labels} {} {millis}", nanos as f64 / 1e9);
        let _ = writeln!(memory, "container_memory_working_set_bytes{labels} {bytes} {millis}");
    }
    let (mut pod_cpu, mut pod_memory) = (String::new(), String::new());
    for pod in overview.pods.load().values() {
        let path = pod_parent(&kubelet.config.cgroup_root, qos(pod), pod.uid());
        let Some(usage) = kubelet.cgroups.usage(&path) else { continue };
        let labels = format!("{{namespace={:?},pod={:?}}}", pod.ns(), pod.name());
        let _ = writeln!(
            pod_cpu,
            "pod_cpu_usage_seconds_total{labels} {} {millis}",
            usage.cpu_nanos as f64 / 1e9
        );
        let _ = writeln!(pod_memory, "pod_memory_working_set_bytes{labels} {} {millis}", usage.working_set);
    }
    let node = kubelet.cgroups.usage("/").unwrap_or_default();
    let mut out = String::new();
    let families = [
        ("container_cpu_usage_seconds_total", "counter", "Seconds of CPU the container used", cpu),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Bytes of memory of the container that cannot be taken back",
            memory,
        ),
        (
            "node_cpu_usage_seconds_total",
            "counter",
            "Seconds of CPU the node used",
            format!("node_cpu_usage_seconds_total {} {millis}\n", node.cpu_nanos as f64 / 1e9),
        ),
        (
            "node_memory_working_set_bytes",
            "gauge",
            "Bytes of memory of the node that cannot be taken back",
            format!("node_memory_working_set_bytes {} {millis}\n", node.working_set),
        ),
        ("pod_cpu_usage_seconds_total", "counter", "Seconds of CPU the pod used", pod_cpu),
        (
            "pod_memory_working_set_bytes",
            "gauge",
            "Bytes of memory of the pod that cannot be taken back",
            pod_memory,
        ),
        (
            "resource_scrape_error",
            "gauge",
            "1 when the runtime did not tell its figures, else 0",
            "resource_scrape_error 0\n".to_owned(),
        ),
    ];
    for (name, kind, help, lines) in families {
        if !lines.is_empty() {
            let _ = write!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}\n{lines}");
        }
    }
    let mut response = text(StatusCode::OK, out);
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
