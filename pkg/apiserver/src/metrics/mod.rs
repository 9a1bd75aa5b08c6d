//! Request metrics under upstream's names (`k8s.io/apiserver/pkg/endpoints/metrics`).
//!
//! What requests count as is looked up once a request: the handles of all metrics of one combination of labels are kept
//! together. Only what is served has labels of its own; whatever else clients ask for counts as one, so that made-up names
//! cannot fill the memory.

mod access;
mod labels;
mod open;
mod sizes;
mod storage;
mod stored;
mod watches;

pub(crate) use access::{AccessMetrics, Authenticated};
pub use open::Open;
pub(crate) use storage::{Measured, StorageMetrics};
pub(crate) use stored::{StorageSize, register_caches};
pub(crate) use watches::{WatchMetrics, WatchesMetrics};

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use auth::user::APISERVER_USER;
use component::http::{Request, Response};
use component::metrics::Metrics;
use http::StatusCode;
use indexmap::IndexMap;
use labels::{
    BodyLabels, DeprecatedLabels, DurationLabels, Key, KindLabels, Labels, SelfLabels, TerminationLabels,
    TotalLabels, counted_path,
};
use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, linear_buckets};

use crate::context::RequestContext;
use crate::server::Server;

/// Upper bounds of request durations in seconds: upstream's.
const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
/// The same of durations that objectives are set for: those begin later.
const OBJECTIVES: &[f64] = DURATIONS.split_at(2).1;
/// Upper bounds of the sizes of answers in bytes: upstream's.
const SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Upper bounds of the sizes of bodies in bytes: upstream's, 50 KB to 3.05 MB.
const BODIES: (f64, f64, u16) = (50_000.0, 100_000.0, 31);

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The server's request metrics.
#[derive(Debug)]
pub(crate) struct RequestMetrics {
    total: Family<TotalLabels, Counter>,
    duration: Histograms<DurationLabels>,
    objectives: Histograms<Labels>,
    sizes: Histograms<Labels>,
    bodies: Histograms<BodyLabels>,
    terminations: Family<TerminationLabels, Counter>,
    own: Family<SelfLabels, Counter>,
    inflight: Family<KindLabels, Gauge>,
    longrunning: Family<Labels, Gauge>,
    deprecated: Family<DeprecatedLabels, Gauge>,
    alike: RwLock<IndexMap<Key<String>, Arc<Alike>>>,
}

/// Requests that count as the same.
#[derive(Debug)]
pub(crate) struct Alike {
    key: Key<String>,
    running: Gauge,
    /// Since one of them came to a handler.
    counted: OnceLock<Counted>,
}

/// The metrics of requests that count as the same.
#[derive(Debug)]
struct Counted {
    duration: Histogram,
    /// Neither of watches nor of dry runs.
    objectives: Option<Histogram>,
    /// Of reads only.
    sizes: Option<Histogram>,
    /// Of writes only.
    bodies: Option<Histogram>,
    /// Of the server itself, once there was one.
    own: OnceLock<Counter>,
    /// Requests answered, by code.
    total: Mutex<Vec<(u16, Counter)>>,
}

impl RequestMetrics {
    /// Registered with the process's metrics.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let made = Self {
            total: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            objectives: Family::new_with_constructor(|| Histogram::new(OBJECTIVES.iter().copied())),
            sizes: Family::new_with_constructor(|| Histogram::new(SIZES)),
            bodies: Family::new_with_constructor(|| {
                let (start, step, count) = BODIES;
                Histogram::new(linear_buckets(start, step, count))
            }),
            terminations: Family::default(),
            own: Family::default(),
            inflight: Family::default(),
            longrunning: Family::default(),
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
                "apiserver_request_sli_duration_seconds",
                "Seconds from a request to its answer, but for the time it waited for its turn; neither watches nor dry runs",
                made.objectives.clone(),
            );
            registry.register(
                "apiserver_request_body_size_bytes",
                "Bytes of the bodies of writes",
                made.bodies.clone(),
            );
            registry.register(
                "apiserver_request_terminations",
                "Requests the server gave up, as they took too long or were too many",
                made.terminations.clone(),
            );
            registry.register("apiserver_selfrequest", "Requests of the server to itself", made.own.clone());
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
                "apiserver_requested_deprecated_apis",
                "Deprecated APIs that somebody has asked for",
                made.deprecated.clone(),
            );
        });
        made
    }

    /// The metrics of a request.
    pub(crate) fn of(
        &self,
        server: &Server,
        context: &RequestContext,
        request: &Request,
        long_running: bool,
    ) -> Arc<Alike> {
        let asked = Key::of(context, request, long_running);
        if let Some(known) = self.alike.read().get(&asked) {
            return Arc::clone(known);
        }
        let key = if is_served(server, context) { asked } else { asked.unknown() }.to_owned();
        Arc::clone(self.alike.write().entry(key.clone()).or_insert_with(|| Arc::new(self.made(key))))
    }

    fn made(&self, key: Key<String>) -> Alike {
        let running = if key.long_running {
            self.longrunning.get_or_create(&key.labels()).clone()
        } else {
            let request_kind = if key.is_read() { "readOnly" } else { "mutating" };
            self.inflight.get_or_create(&KindLabels { request_kind }).clone()
        };
        Alike { running, counted: OnceLock::new(), key }
    }

    fn counted<'a>(&self, alike: &'a Alike) -> &'a Counted {
        alike.counted.get_or_init(|| {
            let key = &alike.key;
            let has_objective = key.dry_run.is_empty() && key.verb != "WATCH";
            Counted {
                duration: self.duration.get_or_create(&key.duration_labels()).clone(),
                objectives: has_objective.then(|| self.objectives.get_or_create(&key.labels()).clone()),
                sizes: key.is_read().then(|| self.sizes.get_or_create(&key.labels()).clone()),
                bodies: key.body_labels().map(|labels| self.bodies.get_or_create(&labels).clone()),
                own: OnceLock::new(),
                total: Mutex::default(),
            }
        })
    }

    /// Notes the size of a body that was read.
    pub(crate) fn read_body(&self, alike: &Alike, bytes: usize) {
        if let Some(bodies) = &self.counted(alike).bodies {
            bodies.observe(bytes as f64);
        }
    }

    /// Counts a request that was answered, of which it `waited` for its turn; answers what is to be sent.
    pub(crate) fn finished(
        &self,
        alike: &Alike,
        user: &str,
        response: Response,
        took: Duration,
        waited: Duration,
    ) -> Response {
        self.observe(alike, user, response.status(), took, waited);
        match &self.counted(alike).sizes {
            Some(sizes) => sizes::observed(response, sizes),
            None => response,
        }
    }

    fn observe(&self, alike: &Alike, user: &str, code: StatusCode, took: Duration, waited: Duration) {
        let counted = self.counted(alike);
        counted.duration.observe(took.as_secs_f64());
        if let Some(objectives) = &counted.objectives {
            objectives.observe(took.saturating_sub(waited).as_secs_f64());
        }
        if user == APISERVER_USER {
            let own = || self.own.get_or_create(&alike.key.self_labels()).clone();
            counted.own.get_or_init(own).inc();
        }
        self.count(alike, code);
    }

    /// Counts a request that was given up.
    pub(crate) fn terminated(&self, alike: &Alike, code: StatusCode) {
        self.terminations.get_or_create(&alike.key.termination_labels(code.as_u16())).inc();
    }

    /// Counts a request by its code alone.
    pub(crate) fn count(&self, alike: &Alike, code: StatusCode) {
        let code = code.as_u16();
        let mut total = self.counted(alike).total.lock();
        if let Some((_, counter)) = total.iter().find(|(counted, _)| *counted == code) {
            counter.inc();
            return;
        }
        let counter = self.total.get_or_create(&alike.key.total_labels(code)).clone();
        counter.inc();
        total.push((code, counter));
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
    fn running(&self) -> Running {
        self.running.inc();
        Running(self.running.clone())
    }

    /// Whether they are watches or connections.
    pub(crate) fn long_running(&self) -> bool {
        self.key.long_running
    }
}

/// Whether requests of a kind are counted when they have been answered.
pub(crate) fn is_counted(context: &RequestContext) -> bool {
    context.info.is_resource || counted_path(&context.info).is_some()
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
struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}
