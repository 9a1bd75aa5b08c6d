//! Request metrics under upstream's names (`k8s.io/apiserver/pkg/endpoints/metrics`).
//!
//! What requests count as is looked up once a request: the handles of all metrics of one combination of labels are kept
//! together. Only what is served has labels of its own; whatever else clients ask for counts as one, so that made-up names
//! cannot fill the memory.

mod sizes;
mod stored;

pub(crate) use stored::{StorageSize, register_caches};

use std::sync::Arc;
use std::time::Duration;

use component::http::Response;
use component::metrics::Metrics;
use http::StatusCode;
use indexmap::{Equivalent, IndexMap};
use parking_lot::{Mutex, RwLock};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::context::RequestContext;
use crate::server::Server;

/// Upper bounds of request durations in seconds: upstream's.
const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
/// Upper bounds of the sizes of answers in bytes: upstream's.
const SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// The component that all requests are counted for.
const COMPONENT: &str = "apiserver";

/// What requests count as; texts are owned or borrowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Key<T> {
    verb: &'static str,
    scope: &'static str,
    dry_run: &'static str,
    long_running: bool,
    group: T,
    version: T,
    resource: T,
    subresource: T,
}

impl Equivalent<Key<String>> for Key<&str> {
    fn equivalent(&self, other: &Key<String>) -> bool {
        *self
            == Key {
                verb: other.verb,
                scope: other.scope,
                dry_run: other.dry_run,
                long_running: other.long_running,
                group: &other.group,
                version: &other.version,
                resource: &other.resource,
                subresource: &other.subresource,
            }
    }
}

impl<'c> Key<&'c str> {
    fn of(context: &'c RequestContext, long_running: bool) -> Self {
        let info = &*context.info;
        Self {
            verb: verb(info.verb, info.is_resource, long_running),
            scope: info.scope(),
            dry_run: if context.query.get("dryRun") == Some("All") { "All" } else { "" },
            long_running,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
        }
    }

    /// What a request for nothing that is served counts as.
    fn unknown(&self) -> Self {
        Self { group: "", version: "", resource: "", subresource: "", ..self.clone() }
    }

    fn to_owned(&self) -> Key<String> {
        Key {
            verb: self.verb,
            scope: self.scope,
            dry_run: self.dry_run,
            long_running: self.long_running,
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            resource: self.resource.to_owned(),
            subresource: self.subresource.to_owned(),
        }
    }
}

/// A verb as upstream's metrics name it.
fn verb(verb: &str, is_resource: bool, long_running: bool) -> &'static str {
    match verb {
        "create" if is_resource => "POST",
        "update" if is_resource => "PUT",
        "get" if is_resource && long_running => "CONNECT",
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "patch" => "PATCH",
        "post" => "POST",
        "put" => "PUT",
        "head" => "HEAD",
        "options" => "OPTIONS",
        "connect" => "CONNECT",
        _ => "other",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    #[prometheus(flatten)]
    labels: Labels,
    dry_run: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TotalLabels {
    #[prometheus(flatten)]
    labels: DurationLabels,
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeprecatedLabels {
    group: String,
    version: String,
    resource: String,
    subresource: String,
    removed_release: String,
}

impl Key<String> {
    fn labels(&self) -> Labels {
        let Self { verb, scope, group, version, resource, subresource, .. } = self.clone();
        Labels { verb, group, version, resource, subresource, scope, component: COMPONENT }
    }

    fn duration_labels(&self) -> DurationLabels {
        DurationLabels { labels: self.labels(), dry_run: self.dry_run }
    }

    fn total_labels(&self, code: u16) -> TotalLabels {
        TotalLabels { labels: self.duration_labels(), code }
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The server's request metrics.
#[derive(Debug)]
pub(crate) struct RequestMetrics {
    total: Family<TotalLabels, Counter>,
    duration: Histograms<DurationLabels>,
    sizes: Histograms<Labels>,
    inflight: Family<KindLabels, Gauge>,
    longrunning: Family<Labels, Gauge>,
    watch_events: Family<WatchLabels, Counter>,
    deprecated: Family<DeprecatedLabels, Gauge>,
    alike: RwLock<IndexMap<Key<String>, Arc<Alike>>>,
}

/// The metrics of requests that count as the same.
#[derive(Debug)]
pub(crate) struct Alike {
    key: Key<String>,
    duration: Histogram,
    /// Of reads only.
    sizes: Option<Histogram>,
    running: Gauge,
    /// Requests answered, by code.
    total: Mutex<Vec<(u16, Counter)>>,
}

impl RequestMetrics {
    /// Registered with the process's metrics.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let made = Self {
            total: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            sizes: Family::new_with_constructor(|| Histogram::new(SIZES)),
            inflight: Family::default(),
            longrunning: Family::default(),
            watch_events: Family::default(),
            deprecated: Family::default(),
            alike: RwLock::default(),
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
                "apiserver_response_sizes",
                "Bytes of the answers to reads, compressed where they were",
                made.sizes.clone(),
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
            registry.register(
                "apiserver_requested_deprecated_apis",
                "Deprecated APIs that somebody has asked for",
                made.deprecated.clone(),
            );
        });
        made
    }

    /// The metrics of a request.
    pub(crate) fn of(&self, server: &Server, context: &RequestContext, long_running: bool) -> Arc<Alike> {
        let asked = Key::of(context, long_running);
        if let Some(known) = self.alike.read().get(&asked) {
            return Arc::clone(known);
        }
        let key = if is_served(server, context) { asked } else { asked.unknown() }.to_owned();
        Arc::clone(self.alike.write().entry(key.clone()).or_insert_with(|| Arc::new(self.made(key))))
    }

    fn made(&self, key: Key<String>) -> Alike {
        let is_read = matches!(key.verb, "GET" | "LIST");
        let running = if key.long_running {
            self.longrunning.get_or_create(&key.labels()).clone()
        } else {
            let read_only = is_read || matches!(key.verb, "WATCH" | "HEAD");
            let request_kind = if read_only { "readOnly" } else { "mutating" };
            self.inflight.get_or_create(&KindLabels { request_kind }).clone()
        };
        Alike {
            duration: self.duration.get_or_create(&key.duration_labels()).clone(),
            sizes: is_read.then(|| self.sizes.get_or_create(&key.labels()).clone()),
            running,
            total: Mutex::default(),
            key,
        }
    }

    /// Counts a finished request; answers what is to be sent.
    pub(crate) fn finished(&self, alike: &Alike, response: Response, took: Duration) -> Response {
        alike.duration.observe(took.as_secs_f64());
        self.count(alike, response.status());
        match &alike.sizes {
            Some(sizes) => sizes::observed(response, sizes),
            None => response,
        }
    }

    fn count(&self, alike: &Alike, code: StatusCode) {
        let code = code.as_u16();
        let mut total = alike.total.lock();
        if let Some((_, counter)) = total.iter().find(|(counted, _)| *counted == code) {
            counter.inc();
            return;
        }
        let counter = self.total.get_or_create(&alike.key.total_labels(code)).clone();
        counter.inc();
        total.push((code, counter));
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

    /// Notes that a deprecated version was asked for. `removed` is the release (`1.37`) without it, empty when none is set.
    pub(crate) fn deprecated(&self, context: &RequestContext, removed: &str) {
        let info = &context.info;
        let labels = DeprecatedLabels {
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            removed_release: removed.to_owned(),
        };
        self.deprecated.get_or_create(&labels).set(1);
    }
}

impl Alike {
    /// Counts a request as running until the guard is dropped.
    pub(crate) fn running(&self) -> Running {
        self.running.inc();
        Running(self.running.clone())
    }
}

/// Whether there is what a request is about, as far as its labels tell.
fn is_served(server: &Server, context: &RequestContext) -> bool {
    let info = &*context.info;
    if !info.is_resource {
        return true;
    }
    let resources = server.store().resources();
    let Some(descriptor) = resources.resource(&info.group, &info.resource) else { return false };
    let Some(served) = descriptor.version(&info.version) else { return false };
    info.subresource.is_empty() || served.subresource(&info.subresource).is_some()
}

/// A running request.
pub(crate) struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}
