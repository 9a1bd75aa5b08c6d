//! What is stored, read when somebody asks for metrics.

use std::time::Duration;

use apimachinery::meta::GroupResource;
use component::metrics::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
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
        let (name, help) = ("apiserver_resource_objects", "Objects in the store, by group and resource");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (GroupResource { group, resource }, stats) in &stats {
            let labels = [("group", group.as_str()), ("resource", resource.as_str())];
            ConstGauge::new(stats.objects as i64).encode(metric.encode_family(&labels)?)?;
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
