//! Metrics of the scheduler, under upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Labels of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Attempt {
    pub(crate) profile: String,
    pub(crate) result: &'static str,
}

/// Label of a part of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Queue {
    pub(crate) queue: &'static str,
}

/// Labels of a move into a part of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Incoming {
    pub(crate) queue: &'static str,
    pub(crate) event: &'static str,
}

/// Label of a pod that was scheduled: how many attempts it took, those beyond 15 together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Attempts {
    pub(crate) attempts: String,
}

/// Labels of pods a plug-in holds back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct HeldBack {
    pub(crate) plugin: &'static str,
    pub(crate) profile: String,
}

/// Label of what the cache holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    pub(crate) r#type: &'static str,
}

/// Handles of the metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) attempts: Family<Attempt, Counter>,
    pub(crate) seconds: Family<Attempt, Histogram, fn() -> Histogram>,
    pub(crate) algorithm_seconds: Histogram,
    pub(crate) sli_seconds: Family<Attempts, Histogram, fn() -> Histogram>,
    pub(crate) pod_attempts: Histogram,
    pub(crate) pending: Family<Queue, Gauge>,
    pub(crate) incoming: Family<Incoming, Counter>,
    pub(crate) held_back: Family<HeldBack, Gauge>,
    pub(crate) preemptions: Counter,
    pub(crate) victims: Histogram,
    pub(crate) cache_size: Family<Kind, Gauge>,
}

fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn sli_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.0, 20))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            attempts: Family::default(),
            seconds: Family::new_with_constructor(histogram as fn() -> Histogram),
            algorithm_seconds: histogram(),
            sli_seconds: Family::new_with_constructor(sli_histogram as fn() -> Histogram),
            pod_attempts: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            pending: Family::default(),
            incoming: Family::default(),
            held_back: Family::default(),
            preemptions: Counter::default(),
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            cache_size: Family::default(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("scheduler_schedule_attempts", "Attempts, by outcome", self.attempts.clone());
        registry.register(
            "scheduler_scheduling_attempt_duration_seconds",
            "Length of an attempt with its binding",
            self.seconds.clone(),
        );
        registry.register(
            "scheduler_scheduling_algorithm_duration_seconds",
            "Length of a decision",
            self.algorithm_seconds.clone(),
        );
        registry.register(
            "scheduler_pod_scheduling_sli_duration_seconds",
            "From a pod's arrival in the queue to its binding",
            self.sli_seconds.clone(),
        );
        registry.register(
            "scheduler_pod_scheduling_attempts",
            "Attempts until a pod was bound",
            self.pod_attempts.clone(),
        );
        registry.register("scheduler_pending_pods", "Waiting pods, by place", self.pending.clone());
        registry.register(
            "scheduler_queue_incoming_pods",
            "Moves into a place of the queue, by cause",
            self.incoming.clone(),
        );
        registry.register("scheduler_unschedulable_pods", "Pods a plugin holds back", self.held_back.clone());
        registry.register(
            "scheduler_preemption_attempts",
            "Searches for pods to evict",
            self.preemptions.clone(),
        );
        registry.register("scheduler_preemption_victims", "Pods evicted at once", self.victims.clone());
        registry.register("scheduler_cache_size", "What is known, by kind", self.cache_size.clone());
    }
}
