//! Metrics of the client library, under upstream's names.
//!
//! The families are process-wide, as the queues and clients they describe are made all over a process; a component
//! adds them to its registry once with [`register`].

use std::sync::LazyLock;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// One label, `name`: the queue's or lease's.
pub(crate) type Name = [(&'static str, &'static str); 1];

pub(crate) struct Metrics {
    pub(crate) depth: Family<Name, Gauge>,
    pub(crate) adds: Family<Name, Counter>,
    pub(crate) retries: Family<Name, Counter>,
    pub(crate) queue_seconds: Family<Name, Histogram>,
    pub(crate) work_seconds: Family<Name, Histogram>,
    pub(crate) leader: Family<Name, Gauge>,
}

/// Upstream's buckets: 10 ns to 10 s, then up to 1000 s, by factors of ten.
fn seconds() -> Histogram {
    Histogram::new([1e-8, 1e-7, 1e-6, 9.999_999e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0])
}

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    depth: Family::default(),
    adds: Family::default(),
    retries: Family::default(),
    queue_seconds: Family::new_with_constructor(seconds),
    work_seconds: Family::new_with_constructor(seconds),
    leader: Family::default(),
});

/// Adds the library's metrics to a component's registry.
pub fn register(registry: &mut Registry) {
    let m = &*METRICS;
    registry.register("workqueue_depth", "Current depth of workqueue", m.depth.clone());
    registry.register("workqueue_adds", "Adds handled by workqueue", m.adds.clone());
    registry.register("workqueue_retries", "Retries handled by workqueue", m.retries.clone());
    registry.register(
        "workqueue_queue_duration_seconds",
        "Seconds an item waits in workqueue before it is taken",
        m.queue_seconds.clone(),
    );
    registry.register(
        "workqueue_work_duration_seconds",
        "Seconds processing an item from workqueue takes",
        m.work_seconds.clone(),
    );
    registry.register(
        "leader_election_master_status",
        "1 when this process leads, 0 when it stands by",
        m.leader.clone(),
    );
}
