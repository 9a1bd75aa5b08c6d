//! Request metrics under upstream's names (`k8s.io/apiserver/pkg/endpoints/metrics`).

use std::time::Duration;

use component::metrics::Metrics;
use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;

use crate::context::RequestContext;
use crate::store::ResourceStore;

/// Upper bounds of request durations in seconds: upstream's.
const BUCKETS: [f64; 20] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    30.0,
];

/// What a request counts as.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Labels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    component: &'static str,
    dry_run: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    dry_run: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    component: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    request_kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    group: String,
    version: String,
    resource: String,
}

impl Labels {
    /// Labels of a request; what is no resource is counted without its path, so that paths cannot fill the memory.
    pub(crate) fn of(context: &RequestContext, long_running: bool) -> Self {
        let info = &*context.info;
        let verb = match info.verb {
            "deletecollection" => "DELETECOLLECTION".to_owned(),
            "create" if info.is_resource => "POST".to_owned(),
            "update" if info.is_resource => "PUT".to_owned(),
            "get" if long_running && info.is_resource => "CONNECT".to_owned(),
            verb => verb.to_ascii_uppercase(),
        };
        Self {
            verb,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            scope: info.scope().to_owned(),
            component: "apiserver",
            dry_run: context.query.get("dryRun").filter(|v| *v == "All").unwrap_or("").to_owned(),
        }
    }
}

/// The server's request metrics.
#[derive(Debug, Clone)]
pub(crate) struct RequestMetrics {
    total: Family<RequestLabels, Counter>,
    duration: Family<Labels, Histogram, fn() -> Histogram>,
    inflight: Family<KindLabels, Gauge>,
    longrunning: Family<Labels, Gauge>,
    watch_events: Family<WatchLabels, Counter>,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl RequestMetrics {
    /// Registered with the process's metrics.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let made = Self {
            total: Family::default(),
            duration: Family::new_with_constructor(histogram as fn() -> Histogram),
            inflight: Family::default(),
            longrunning: Family::default(),
            watch_events: Family::default(),
        };
        metrics.register(|registry| {
            registry.register(
                "apiserver_request",
                "Requests answered, by verb, resource and code",
                made.total.clone(),
            );
            registry.register(
                "apiserver_request_duration_seconds",
                "Seconds from a request to its answer",
                made.duration.clone(),
            );
            registry.register(
                "apiserver_current_inflight_requests",
                "Requests being answered, reads and writes apart",
                made.inflight.clone(),
            );
            registry.register(
                "apiserver_longrunning_requests",
                "Watches and connections that are open",
                made.longrunning.clone(),
            );
            registry.register(
                "apiserver_watch_events",
                "Changes sent to watchers",
                made.watch_events.clone(),
            );
        });
        made
    }

    /// Counts a request as running until the guard is dropped.
    pub(crate) fn running(&self, labels: &Labels, long_running: bool) -> Running {
        let gauge = if long_running {
            self.longrunning.get_or_create(labels).clone()
        } else {
            let kind = if matches!(labels.verb.as_str(), "GET" | "LIST" | "WATCH" | "HEAD") {
                "readOnly"
            } else {
                "mutating"
            };
            self.inflight.get_or_create(&KindLabels { request_kind: kind }).clone()
        };
        gauge.inc();
        Running(gauge)
    }

    /// Counts a finished request.
    pub(crate) fn finished(&self, labels: &Labels, code: StatusCode, took: Duration) {
        let labels = if code == StatusCode::NOT_FOUND && labels.resource.is_empty() {
            &Labels { verb: labels.verb.clone(), component: "apiserver", ..Labels::empty() }
        } else {
            labels
        };
        let Labels { verb, group, version, resource, subresource, scope, component, dry_run } =
            labels.clone();
        let code = code.as_u16();
        let total =
            RequestLabels { verb, dry_run, group, version, resource, subresource, scope, component, code };
        self.total.get_or_create(&total).inc();
        self.duration.get_or_create(labels).observe(took.as_secs_f64());
    }

    /// The counter of a watch's events.
    pub(crate) fn watch_events(&self, context: &RequestContext) -> Counter {
        let info = &context.info;
        let labels = WatchLabels {
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
        };
        self.watch_events.get_or_create(&labels).clone()
    }
}

impl Labels {
    fn empty() -> Self {
        Self {
            verb: String::new(),
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            subresource: String::new(),
            scope: String::new(),
            component: "",
            dry_run: String::new(),
        }
    }
}

/// A metric of caches: name, help, and how it is read.
type Size = (&'static str, &'static str, fn(&watchcache::Stats) -> i64);

/// Sizes of the watch caches, read when somebody asks for metrics.
struct CacheSizes(ResourceStore);

impl std::fmt::Debug for CacheSizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CacheSizes")
    }
}

impl Collector for CacheSizes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats = self.0.cache_stats();
        let of: [Size; 3] = [
            ("apiserver_storage_objects", "Objects in the store, by resource", |s| s.objects as i64),
            (
                "apiserver_storage_size_of_objects_bytes",
                "Bytes of JSON of the objects in the store, by resource",
                |s| s.bytes as i64,
            ),
            ("apiserver_registered_watchers", "Watchers of a resource", |s| s.watchers as i64),
        ];
        for (name, help, value) in of {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (resource, stats) in &stats {
                let labels = [("resource", resource.as_str())];
                ConstGauge::new(value(stats)).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Registers the sizes of a store's caches.
pub(crate) fn register_caches(metrics: &Metrics, store: &ResourceStore) {
    let sizes = CacheSizes(store.clone());
    metrics.register(|registry| registry.register_collector(Box::new(sizes)));
}

/// A running request.
pub(crate) struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}
