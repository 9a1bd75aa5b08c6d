//! What the server asks of its store, and how long that takes: upstream's `etcd_*` metrics, of either engine.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use apimachinery::descriptor::Registry;
use apimachinery::meta::GroupResource;
use async_trait::async_trait;
use component::metrics::Metrics;
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use storage::{
    Compare, Error, Freshness, KeyValue, LeaseId, Op, RangeRequest, RangeResponse, Revision, Storage,
    TxnResponse, WatchStream,
};

use super::{DURATIONS, Histograms};
use crate::core::caches::layout;

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Get,
    Create,
    Update,
    Delete,
    List,
}

impl Operation {
    const NAMES: [&'static str; 5] = ["get", "create", "update", "delete", "list"];
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
    group: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    group: String,
    resource: String,
}

/// Metrics of a store.
#[derive(Debug, Clone)]
pub(crate) struct StorageMetrics {
    duration: Histograms<OperationLabels>,
    requests: Family<OperationLabels, Counter>,
    errors: Family<OperationLabels, Counter>,
    lists: Family<ResourceLabels, Counter>,
    /// Objects in lists. The store knows no selectors, so what is fetched is evaluated and returned.
    listed: Family<ResourceLabels, Counter>,
}

impl StorageMetrics {
    fn new() -> Self {
        Self {
            duration: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            requests: Family::default(),
            errors: Family::default(),
            lists: Family::default(),
            listed: Family::default(),
        }
    }

    /// Registers them with the process's metrics.
    pub(crate) fn register(&self, metrics: &Metrics) {
        metrics.register(|registry| {
            registry.register(
                "etcd_request_duration_seconds",
                "Seconds that the store took for an operation",
                self.duration.clone(),
            );
            registry.register("etcd_requests", "Operations asked of the store", self.requests.clone());
            registry.register(
                "etcd_request_errors",
                "Operations that the store failed in",
                self.errors.clone(),
            );
            registry.register("apiserver_storage_list", "Lists that the store answered", self.lists.clone());
            for (name, help) in [
                ("apiserver_storage_list_fetched_objects", "Objects in lists that the store answered"),
                (
                    "apiserver_storage_list_evaluated_objects",
                    "Objects in lists of the store that were looked at",
                ),
                ("apiserver_storage_list_returned_objects", "Objects in lists of the store that were wanted"),
            ] {
                registry.register(name, help, self.listed.clone());
            }
        });
    }
}

/// The metrics of one resource's operations, each looked up once.
#[derive(Debug)]
struct OfResource {
    resource: ResourceLabels,
    operations: [OnceLock<Measures>; Operation::NAMES.len()],
}

#[derive(Debug)]
struct Measures {
    duration: Histogram,
    requests: Counter,
    errors: Counter,
}

/// A store whose operations on resources are measured.
pub(crate) struct Measured {
    inner: Arc<dyn Storage>,
    resources: Arc<Registry>,
    metrics: StorageMetrics,
    /// By the first segments of keys: `pods`, `services/specs`.
    known: RwLock<HashMap<String, Arc<OfResource>>>,
}

impl Measured {
    /// Measures a store that holds these resources.
    pub(crate) fn new(inner: Arc<dyn Storage>, resources: Arc<Registry>) -> Self {
        Self { inner, resources, metrics: StorageMetrics::new(), known: RwLock::default() }
    }

    /// What is measured.
    pub(crate) fn metrics(&self) -> &StorageMetrics {
        &self.metrics
    }

    /// The resource a key (or the beginning of one) belongs to.
    fn of(&self, key: &str) -> Option<Arc<OfResource>> {
        let known = self.known.read();
        if let Some(found) = prefixes(key).find_map(|prefix| known.get(prefix)) {
            return Some(Arc::clone(found));
        }
        drop(known);
        let resources = self.resources.snapshot();
        let descriptor =
            resources.all.iter().find(|descriptor| key.starts_with(layout(descriptor).prefix()))?;
        let GroupResource { group, resource } = descriptor.group_resource();
        let of = Arc::new(OfResource {
            resource: ResourceLabels { group, resource },
            operations: std::array::from_fn(|_| OnceLock::new()),
        });
        let prefix = layout(descriptor).prefix().trim_end_matches('/').to_owned();
        Some(Arc::clone(self.known.write().entry(prefix).or_insert(of)))
    }

    fn measures<'r>(&self, of: &'r OfResource, operation: Operation) -> &'r Measures {
        of.operations[operation as usize].get_or_init(|| {
            let ResourceLabels { group, resource } = of.resource.clone();
            let labels = OperationLabels { operation: Operation::NAMES[operation as usize], group, resource };
            Measures {
                duration: self.metrics.duration.get_or_create(&labels).clone(),
                requests: self.metrics.requests.get_or_create(&labels).clone(),
                errors: self.metrics.errors.get_or_create(&labels).clone(),
            }
        })
    }

    async fn measured<T>(
        &self,
        of: Option<&OfResource>,
        operation: Operation,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let outcome = work.await;
        if let Some(of) = of {
            let measures = self.measures(of, operation);
            measures.requests.inc();
            measures.duration.observe(began.elapsed().as_secs_f64());
            if outcome.is_err() {
                measures.errors.inc();
            }
        }
        outcome
    }
}

/// What a key may be known by, `/registry/pods` and `/registry/services/specs`: a root and one or two names.
fn prefixes(key: &str) -> impl Iterator<Item = &str> {
    let mut slashes = key.match_indices('/').map(|(at, _)| at).skip(2);
    std::iter::from_fn(move || slashes.next()).take(2).map(|at| &key[..at])
}

/// What a transaction does, and to which key.
fn of_txn<'o>(compares: &[Compare], ops: &'o [Op]) -> Option<(Operation, &'o str)> {
    match ops.first()? {
        Op::Delete { key } => Some((Operation::Delete, key)),
        Op::Put { key, .. } => {
            let is_new = compares.iter().any(|compare| compare.key == *key && compare.mod_revision.0 == 0);
            Some((if is_new { Operation::Create } else { Operation::Update }, key))
        }
    }
}

#[async_trait]
impl Storage for Measured {
    async fn current_revision(&self) -> Result<Revision, Error> {
        self.inner.current_revision().await
    }

    async fn freshness(&self, prefix: &str) -> Result<Freshness, Error> {
        self.inner.freshness(prefix).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let of = self.of(&request.start);
        let listed = self.measured(of.as_deref(), Operation::List, self.inner.range(request)).await;
        if let Some(of) = of {
            self.metrics.lists.get_or_create(&of.resource).inc();
            let objects = listed.as_ref().map_or(0, |listed| listed.kvs.len());
            self.metrics.listed.get_or_create(&of.resource).inc_by(objects as u64);
        }
        listed
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        self.measured(self.of(key).as_deref(), Operation::Get, self.inner.get(key)).await
    }

    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<TxnResponse, Error> {
        let Some((operation, key)) = of_txn(&compares, &ops) else {
            return self.inner.txn(compares, ops).await;
        };
        let of = self.of(key);
        self.measured(of.as_deref(), operation, self.inner.txn(compares, ops)).await
    }

    async fn watch(&self, prefix: &str, start: Revision) -> Result<WatchStream, Error> {
        self.inner.watch(prefix, start).await
    }

    async fn watch_with_prev(&self, prefix: &str, start: Revision) -> Result<WatchStream, Error> {
        self.inner.watch_with_prev(prefix, start).await
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.request_progress().await
    }

    async fn grant_lease(&self, ttl_seconds: i64) -> Result<LeaseId, Error> {
        self.inner.grant_lease(ttl_seconds).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }

    async fn size(&self) -> Result<u64, Error> {
        self.inner.size().await
    }

    async fn health(&self) -> Result<(), Error> {
        self.inner.health().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_their_first_names() {
        let names = |key| prefixes(key).collect::<Vec<_>>();
        assert_eq!(names("/registry/pods/ns/p"), ["/registry/pods", "/registry/pods/ns"]);
        assert_eq!(names("/registry/services/specs/"), ["/registry/services", "/registry/services/specs"]);
        assert_eq!(names("/registry/pods"), [""; 0]);
    }

    #[test]
    fn transactions_are_what_their_first_write_is() {
        let key: Arc<str> = "/registry/pods/ns/p".into();
        let put = || Op::Put { key: Arc::clone(&key), value: "v".into(), lease: None };
        let at = |revision| vec![Compare { key: Arc::clone(&key), mod_revision: Revision(revision) }];
        for (compares, ops, expected) in [
            (at(0), vec![put()], Some(Operation::Create)),
            (at(7), vec![put()], Some(Operation::Update)),
            (vec![], vec![put()], Some(Operation::Update)),
            (at(7), vec![Op::Delete { key: Arc::clone(&key) }], Some(Operation::Delete)),
            (at(7), vec![], None),
        ] {
            assert_eq!(of_txn(&compares, &ops).map(|(operation, _)| operation), expected, "{ops:?}");
        }
    }
}
