//! Counts of remote commands and tunnels, under upstream's names (`k8s.io/apiserver/pkg/util/proxy/metrics`).

use component::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    code: u16,
}

/// How many WebSocket requests were carried over to SPDY, by code.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamMetrics {
    translated: Family<Labels, Counter>,
    tunnelled: Family<Labels, Counter>,
}

impl StreamMetrics {
    /// Registered with the process's metrics.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let made = Self::default();
        metrics.register(|registry| {
            registry.register(
                "apiserver_stream_translator_requests",
                "Remote commands carried over from WebSocket to SPDY, by code",
                made.translated.clone(),
            );
            registry.register(
                "apiserver_stream_tunnel_requests",
                "Port forwards tunnelled through WebSocket, by code",
                made.tunnelled.clone(),
            );
        });
        made
    }

    /// A remote command has ended.
    pub(super) fn translated(&self, code: u16) {
        self.translated.get_or_create(&Labels { code }).inc();
    }

    /// A tunnel was opened, or refused.
    pub(super) fn tunnelled(&self, code: u16) {
        self.tunnelled.get_or_create(&Labels { code }).inc();
    }
}
