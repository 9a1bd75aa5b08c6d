//! Calls to the runtime, counted under upstream's names. Process-wide, as clients are made all over a process; a
//! component adds them to its registry once with [`register`].

use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// One label: `operation_type`.
type Operation = [(&'static str, &'static str); 1];

struct Metrics {
    calls: Family<Operation, Counter>,
    errors: Family<Operation, Counter>,
    seconds: Family<Operation, Histogram>,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    calls: Family::default(),
    errors: Family::default(),
    seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.005, 2.5, 14))),
});

/// What upstream calls a method in its labels.
fn operation(method: &'static str) -> &'static str {
    match method {
        "Version" => "version",
        "Status" => "status",
        "RuntimeConfig" => "runtime_config",
        "UpdateRuntimeConfig" => "update_runtime_config",
        "ListPodSandbox" => "list_podsandbox",
        "RunPodSandbox" => "run_podsandbox",
        "StopPodSandbox" => "stop_podsandbox",
        "RemovePodSandbox" => "remove_podsandbox",
        "PodSandboxStatus" => "podsandbox_status",
        "ListContainers" => "list_containers",
        "ContainerStatus" => "container_status",
        "CreateContainer" => "create_container",
        "StartContainer" => "start_container",
        "StopContainer" => "stop_container",
        "RemoveContainer" => "remove_container",
        "UpdateContainerResources" => "update_container",
        "ExecSync" => "exec_sync",
        "Exec" => "exec",
        "Attach" => "attach",
        "PortForward" => "port_forward",
        "ReopenContainerLog" => "reopen_container_log",
        "ListContainerStats" => "list_container_stats",
        "ListImages" => "list_images",
        "ImageStatus" => "image_status",
        "PullImage" => "pull_image",
        "RemoveImage" => "remove_image",
        "ImageFsInfo" => "image_fs_info",
        other => other,
    }
}

/// Counts a call that took so long.
pub(crate) fn observe(method: &'static str, took: Duration, failed: bool) {
    let labels = [("operation_type", operation(method))];
    METRICS.calls.get_or_create(&labels).inc();
    METRICS.seconds.get_or_create(&labels).observe(took.as_secs_f64());
    if failed {
        METRICS.errors.get_or_create(&labels).inc();
    }
}

/// Adds the metrics to a component's registry.
pub fn register(registry: &mut Registry) {
    let m = &*METRICS;
    registry.register("kubelet_runtime_operations", "Calls to the container runtime", m.calls.clone());
    registry.register(
        "kubelet_runtime_operations_errors",
        "Calls to the container runtime that failed",
        m.errors.clone(),
    );
    registry.register(
        "kubelet_runtime_operations_duration_seconds",
        "Seconds that calls to the container runtime took",
        m.seconds.clone(),
    );
}
