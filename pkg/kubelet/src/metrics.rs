//! What the kubelet counts about its own work, under upstream's names (`pkg/kubelet/metrics`, `pkg/kubelet/prober`).
//!
//! Process-wide: a process runs one kubelet. What can be read off the present state is not here but collected when
//! asked for, by the server.

use std::sync::LazyLock;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// One label with a value out of a fixed set.
pub(crate) type One = [(&'static str, &'static str); 1];
/// Several labels.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// Upstream's buckets for how long pods take to start.
const START_BUCKETS: [f64; 25] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0,
    480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
/// The library's default buckets of upstream.
const DEFAULT_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

fn default_histogram() -> Histogram {
    Histogram::new(DEFAULT_BUCKETS)
}

pub(crate) struct Metrics {
    pub(crate) pod_start: Histogram,
    pub(crate) worker_start: Histogram,
    pub(crate) worker: Family<One, Histogram>,
    pub(crate) relist: Histogram,
    pub(crate) relist_interval: Histogram,
    pub(crate) started_pods: Counter,
    pub(crate) started_pods_errors: Counter,
    pub(crate) started_containers: Family<One, Counter>,
    pub(crate) started_containers_errors: Family<Labels, Counter>,
    pub(crate) evictions: Family<Labels, Counter>,
    pub(crate) http_requests: Family<Labels, Counter>,
    pub(crate) http_seconds: Family<Labels, Histogram>,
    pub(crate) probes: Family<Labels, Counter>,
    pub(crate) probe_seconds: Family<Labels, Histogram>,
}

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    pod_start: Histogram::new(START_BUCKETS),
    worker_start: default_histogram(),
    worker: Family::new_with_constructor(default_histogram),
    relist: default_histogram(),
    relist_interval: default_histogram(),
    started_pods: Counter::default(),
    started_pods_errors: Counter::default(),
    started_containers: Family::default(),
    started_containers_errors: Family::default(),
    evictions: Family::default(),
    http_requests: Family::default(),
    http_seconds: Family::new_with_constructor(default_histogram),
    probes: Family::default(),
    probe_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 4.0, 8))),
});

/// Adds everything but the probes' metrics, which are served apart.
pub(crate) fn register(registry: &mut Registry) {
    let m = &*METRICS;
    registry.register(
        "kubelet_pod_start_duration_seconds",
        "Seconds from first seeing a pod to its running",
        m.pod_start.clone(),
    );
    registry.register(
        "kubelet_pod_worker_start_duration_seconds",
        "Seconds from first seeing a pod to the first look at it",
        m.worker_start.clone(),
    );
    registry.register(
        "kubelet_pod_worker_duration_seconds",
        "Seconds that one pass over a pod took",
        m.worker.clone(),
    );
    registry.register(
        "kubelet_pleg_relist_duration_seconds",
        "Seconds that listing the runtime's pods took",
        m.relist.clone(),
    );
    registry.register(
        "kubelet_pleg_relist_interval_seconds",
        "Seconds between lists of the runtime's pods",
        m.relist_interval.clone(),
    );
    registry.register("kubelet_started_pods", "Sandboxes started", m.started_pods.clone());
    registry.register(
        "kubelet_started_pods_errors",
        "Sandboxes that could not be started",
        m.started_pods_errors.clone(),
    );
    registry.register("kubelet_started_containers", "Containers started", m.started_containers.clone());
    registry.register(
        "kubelet_started_containers_errors",
        "Containers that could not be started",
        m.started_containers_errors.clone(),
    );
    registry.register("kubelet_evictions", "Pods evicted, by signal", m.evictions.clone());
    registry.register("kubelet_http_requests", "Requests answered on the port", m.http_requests.clone());
    registry.register(
        "kubelet_http_requests_duration_seconds",
        "Seconds that answering a request took",
        m.http_seconds.clone(),
    );
}

/// Adds what `/metrics/probes` serves.
pub(crate) fn register_probes(registry: &mut Registry) {
    registry.register("prober_probe", "Probes of containers by result", METRICS.probes.clone());
    registry.register(
        "prober_probe_duration_seconds",
        "Seconds that probes of containers took",
        METRICS.probe_seconds.clone(),
    );
}
