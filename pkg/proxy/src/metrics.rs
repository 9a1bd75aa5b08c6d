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
            "SyncProxyRules latency in seconds",
            metrics.sync_seconds.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "The last time proxy rules were successfully synced",
            metrics.last_sync.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "The last time a sync of proxy rules was queued",
            metrics.last_queued.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_iptables_last",
            "Number of iptables rules written in the last sync",
            metrics.rules.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_iptables_restore_failures",
            "Cumulative proxy iptables restore failures",
            metrics.restore_failures.clone(),
        );
        metrics
    }
}
