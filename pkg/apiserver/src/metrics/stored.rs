//! What is stored, read when somebody asks for metrics.

use std::time::Duration;

use apimachinery::meta::GroupResource;
use component::metrics::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use watchcache::Stats;

use crate::store::ResourceStore;

/// Who asks for metrics does not wait longer than this for the store.
const PATIENCE: Duration = Duration::from_secs(1);

/// A metric of caches: name, help, and how it is read.
type Size = (&'static str, &'static str, fn(&Stats) -> i64);

/// By the resource's name alone.
const BY_RESOURCE: [Size; 3] = [
    ("apiserver_storage_objects", "Objects in the store, by resource", |s| s.objects as i64),
    (
        "apiserver_storage_size_of_objects_bytes",
        "Bytes of JSON of the objects in the store, by resource",
        |s| s.bytes as i64,
    ),
    ("apiserver_registered_watchers", "Watchers of a resource", |s| s.watchers as i64),
];

/// By group and resource.
const GAUGES: [Size; 4] = [
    ("apiserver_resource_objects", "Objects in the store, by group and resource", |s| s.objects as i64),
    (
        "apiserver_resource_size_estimate_bytes",
        "Bytes of JSON of the objects in the store, by group and resource",
        |s| s.bytes as i64,
    ),
    ("apiserver_watch_cache_resource_version", "Revision that a watch cache has come to", |s| {
        // as upstream, so that scrapers can keep it in a float
        s.revision.0 % 1_000_000_000_000_000
    }),
    ("watch_cache_capacity", "Changes that a watch cache holds", |s| s.ring_events as i64),
];

/// A counter of caches: name, help, and how it is read.
type Done = (&'static str, &'static str, fn(&Stats) -> u64);

/// By group and resource.
const COUNTERS: [Done; 7] = [
    ("apiserver_cache_list_returned_objects", "Objects that lists answered", |s| s.listed),
    ("apiserver_init_events", "Objects sent to watches as they began", |s| s.initial_events),
    ("apiserver_storage_events_received", "Changes that the store told of", |s| s.events),
    ("apiserver_storage_decode_errors", "Stored values that cannot be decoded", |s| s.undecodable),
    ("apiserver_watch_cache_events_received", "Changes that a watch cache took in", |s| s.events),
    ("apiserver_watch_cache_events_dispatched", "Changes that a watch cache showed its watches", |s| {
        s.events
    }),
    ("apiserver_watch_cache_initializations", "Times that a watch cache began from a list", |s| s.starts),
];

/// By group, resource and index.
const LISTS: [Done; 2] = [
    ("apiserver_cache_list", "Lists answered by a watch cache", |s| s.lists),
    ("apiserver_cache_list_fetched_objects", "Objects that lists looked at", |s| s.looked_at),
];

fn labels(resource: &GroupResource) -> [(&'static str, &str); 2] {
    [("group", &resource.group), ("resource", &resource.resource)]
}

/// Sizes of the watch caches.
struct CacheSizes(ResourceStore);

impl std::fmt::Debug for CacheSizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CacheSizes")
    }
}

impl Collector for CacheSizes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats = self.0.cache_stats();
        for (name, help, value) in BY_RESOURCE {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (resource, stats) in &stats {
                let labels = [("resource", resource.to_string())];
                ConstGauge::new(value(stats)).encode(metric.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (resource, stats) in &stats {
                ConstGauge::new(value(stats)).encode(metric.encode_family(&labels(resource))?)?;
            }
        }
        for (name, help, value) in COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (resource, stats) in &stats {
                ConstCounter::new(value(stats)).encode(metric.encode_family(&labels(resource))?)?;
            }
        }
        for (name, help, value) in LISTS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (resource, stats) in &stats {
                let [group, resource] = labels(resource);
                // all that is looked at is counted as without an index, though some lists use one
                ConstCounter::new(value(stats)).encode(metric.encode_family(&[
                    group,
                    resource,
                    ("index", ""),
                ])?)?;
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StorageLabels {
    storage_cluster_id: &'static str,
}

/// How much room the store takes.
#[derive(Debug)]
pub(crate) struct StorageSize(Family<StorageLabels, Gauge>);

impl StorageSize {
    /// Registered with the process's metrics.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let sizes = Family::default();
        metrics.register(|registry| {
            registry.register("apiserver_storage_size_bytes", "Bytes the store takes on disk", sizes.clone());
        });
        Self(sizes)
    }

    /// Asks the store; what does not answer in time keeps the size it had.
    pub(crate) async fn refresh(&self, store: &ResourceStore) {
        // upstream's name of the one store that all resources are in
        let labels = StorageLabels { storage_cluster_id: "etcd-0" };
        match tokio::time::timeout(PATIENCE, store.storage().size()).await {
            Ok(Ok(bytes)) => _ = self.0.get_or_create(&labels).set(bytes.try_into().unwrap_or(i64::MAX)),
            Ok(Err(error)) => tracing::warn!(%error, "the store does not say how large it is"),
            Err(_) => tracing::warn!("the store takes too long to say how large it is"),
        }
    }
}
