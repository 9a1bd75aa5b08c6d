//! Metrics of the proxy, under upstream's names (`pkg/proxy/metrics`).

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Handles of the metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) sync_seconds: Histogram,
    pub(crate) last_sync: Gauge<f64, AtomicU64>,
    pub(crate) last_queued: Gauge<f64, AtomicU64>,
    pub(crate) rules: Gauge,
    pub(crate) restore_failures: Counter,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            sync_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            last_sync: Gauge::default(),
            last_queued: Gauge::default(),
            rules: Gauge::default(),
            restore_failures: Counter::default(),
        };
        registry.register(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Seconds that making and writing the rules took",
            metrics.sync_seconds.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When rules were last written, in Unix seconds",
            metrics.last_sync.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "When a change was last seen, in Unix seconds",
            metrics.last_queued.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_iptables_last",
            "Rules of the last write",
            metrics.rules.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_iptables_restore_failures",
            "Writes that iptables-restore refused",
            metrics.restore_failures.clone(),
        );
        metrics
    }
}
