//! The server: parts put together, requests taken in, from the network and from inside the process.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use apimachinery::Value;
use apimachinery::descriptor::{Registry, ResourceDescriptor};
use apimachinery::meta::GroupResource;
use apimachinery::status::Status;
use async_trait::async_trait;
use auth::{Authenticator, Authorizer, UserInfo};
use component::health::Checks;
use component::http::{Request, Response};
use component::metrics::Metrics;
use component::serving::Handler;
use futures::future::BoxFuture;
use storage::Storage;
use storage::objects::ObjectStore;

use crate::codec::StorageMediaType;
use crate::context::RequestContext;
use crate::core::caches::Caches;
use crate::core::reader::CacheReader;
use crate::core::{Core, Extensions};
use crate::discovery::Discovery;
use crate::extension::{SubresourceHandler, WriteHook};
use crate::filters::{self, Ending, InFlight, NewRequests};
use crate::metrics::{AccessMetrics, Measured, RequestMetrics, StorageSize, WatchesMetrics};
use crate::openapi::OpenApi;
use crate::paths;
use crate::requestinfo::RequestInfo;
use crate::store::ResourceStore;

/// Limits of requests; the defaults are upstream's.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `--request-timeout`: the longest a request may take that is not a watch or a connection.
    pub request_timeout: Duration,
    /// `--min-request-timeout`: watches without a timeout of their own last this long to twice as long.
    pub min_request_timeout: Duration,
    /// `--max-requests-inflight`, 0 for no limit.
    pub reads_inflight: usize,
    /// `--max-mutating-requests-inflight`, 0 for no limit.
    pub writes_inflight: usize,
    /// `--delete-collection-workers`: objects of a collection that are deleted at once.
    pub delete_collection_workers: usize,
    /// `--goaway-chance`: the part of requests over HTTP/2 whose connection takes no others afterwards, so that clients
    /// spread over servers.
    pub goaway_chance: f64,
}

impl Limits {
    /// Whether a request's connection is ended, by chance.
    pub(crate) fn sends_away(&self) -> bool {
        self.goaway_chance > 0.0 && rand::random::<f64>() < self.goaway_chance
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_mins(1),
            min_request_timeout: Duration::from_mins(30),
            reads_inflight: 400,
            writes_inflight: 200,
            delete_collection_workers: 1,
            goaway_chance: 0.0,
        }
    }
}

/// The three health paths.
#[derive(Debug, Clone)]
pub struct Health {
    /// `/healthz`, deprecated but asked for.
    pub healthz: Checks,
    /// `/livez`: restart me.
    pub livez: Checks,
    /// `/readyz`: send me requests.
    pub readyz: Checks,
}

impl Default for Health {
    fn default() -> Self {
        Self { healthz: Checks::new(), livez: Checks::new(), readyz: Checks::new() }
    }
}

/// A handler of a path that is no resource (service account issuer discovery).
#[async_trait]
pub trait PathHandler: Send + Sync + 'static {
    /// Answers a request, already authorized.
    async fn handle(&self, context: RequestContext, request: Request) -> Result<Response, Status>;
}

/// The identity of a request from inside the process, in its extensions. The network cannot set extensions.
#[derive(Debug, Clone)]
pub struct InProcess(pub Arc<UserInfo>);

impl ResourceStore {
    /// A store of these resources. It serves reads at once; [`ServerBuilder`] adds what writes need.
    pub fn new(resources: Arc<Registry>, storage: Arc<dyn Storage>) -> Self {
        Self::storing(resources, storage, StorageMediaType::Json)
    }

    /// A store that keeps objects in a form. It reads every form.
    pub fn storing(resources: Arc<Registry>, storage: Arc<dyn Storage>, form: StorageMediaType) -> Self {
        let measured = Arc::new(Measured::new(storage, Arc::clone(&resources)));
        let storage: Arc<dyn Storage> = Arc::clone(&measured) as _;
        let objects = ObjectStore::new(Arc::clone(&storage));
        Self {
            core: Arc::new(Core {
                resources,
                objects: match form.encode() {
                    Some(encode) => objects.encoding(encode),
                    None => objects,
                },
                caches: Caches::new(storage),
                storage_metrics: measured.metrics().clone(),
                extensions: OnceLock::new(),
            }),
        }
    }

    /// What authorizers and admission plugins read.
    pub fn reader(&self) -> Arc<dyn admission::ObjectSource> {
        Arc::new(CacheReader { core: Arc::clone(&self.core) })
    }

    /// The same, for authenticators and authorizers.
    pub fn object_reader(&self) -> Arc<dyn auth::ObjectReader> {
        Arc::new(CacheReader { core: Arc::clone(&self.core) })
    }

    /// Starts the caches of the resources wanted, and waits until they have read the store.
    pub async fn warm(
        &self,
        wanted: impl Fn(&ResourceDescriptor) -> bool,
        timeout: Duration,
    ) -> Result<(), Status> {
        self.core.caches.warm(&self.resources(), wanted, timeout).await
    }

    /// Whether every running cache has read the store.
    pub fn ready(&self) -> bool {
        self.core.caches.ready()
    }

    /// Sizes of every running cache, by resource (`deployments.apps`).
    pub fn cache_stats(&self) -> Vec<(GroupResource, watchcache::Stats)> {
        self.core.caches.stats()
    }

    /// Forgets the cache of a resource that is no longer served, by its place in the store.
    pub async fn forget(&self, prefix: &str) {
        self.core.caches.remove(prefix).await;
    }

    /// Ends every watch within this time, one after the other, and then those begun later at once. Reads go on.
    pub fn end_watches(&self, over: Duration) {
        self.core.caches.end_watches(over);
    }

    /// Watches that are open.
    pub fn watches(&self) -> usize {
        self.core.caches.watches()
    }

    /// Ends every watch and stops following the store.
    pub async fn stop(&self) {
        self.core.caches.stop().await;
    }
}

/// Puts a [`Server`] together.
pub struct ServerBuilder {
    store: ResourceStore,
    authenticator: Arc<dyn Authenticator>,
    authorizer: Arc<dyn Authorizer>,
    extensions: Extensions,
    paths: HashMap<String, Arc<dyn PathHandler>>,
    limits: Limits,
    health: Health,
    metrics: Metrics,
    address: String,
}

impl ServerBuilder {
    /// A server of a store's resources.
    pub fn new(
        store: ResourceStore,
        authenticator: Arc<dyn Authenticator>,
        authorizer: Arc<dyn Authorizer>,
    ) -> Self {
        Self {
            store,
            authenticator,
            authorizer,
            extensions: Extensions::default(),
            paths: HashMap::new(),
            limits: Limits::default(),
            health: Health::default(),
            metrics: Metrics::new(),
            address: "localhost".to_owned(),
        }
    }

    /// The admission chain.
    #[must_use]
    pub fn admission(mut self, chain: admission::Chain) -> Self {
        self.extensions.admission = chain;
        self
    }

    /// A handler of a subresource, or (with an empty one) of a whole resource that is not stored.
    #[must_use]
    pub fn handler(
        mut self,
        group: &str,
        resource: &str,
        subresource: &str,
        handler: Arc<dyn SubresourceHandler>,
    ) -> Self {
        let key = (group.to_owned(), resource.to_owned(), subresource.to_owned());
        self.extensions.handlers.insert(key, handler);
        self
    }

    /// A hook around writes of a resource.
    #[must_use]
    pub fn hook(mut self, group: &str, resource: &str, hook: Arc<dyn WriteHook>) -> Self {
        self.extensions.hooks.insert((group.to_owned(), resource.to_owned()), hook);
        self
    }

    /// A handler of one path that is no resource.
    #[must_use]
    pub fn path(mut self, path: &str, handler: Arc<dyn PathHandler>) -> Self {
        self.paths.insert(path.to_owned(), handler);
        self
    }

    /// Limits of requests.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The health checks.
    #[must_use]
    pub fn health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// The process's metrics.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// `HOST:PORT` clients are told to use.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// The server. Writes through the store work from now on.
    pub fn build(mut self) -> Arc<Server> {
        let resources = Arc::clone(&self.store.core.resources);
        self.metrics.register(|registry| self.extensions.admission.count_in(registry));
        // a second server over one store keeps the first one's extensions
        let _ = self.store.core.extensions.set(self.extensions);
        crate::metrics::register_caches(&self.metrics, &self.store);
        self.store.core.storage_metrics.register(&self.metrics);
        for checks in [&self.health.healthz, &self.health.livez, &self.health.readyz] {
            checks.count_in(&self.metrics);
        }
        Arc::new(Server {
            inflight: InFlight::new(self.limits.writes_inflight, self.limits.reads_inflight),
            ending: Ending::default(),
            discovery: Discovery::new(Arc::clone(&resources), self.address),
            openapi: OpenApi::new(resources, self.paths.keys().cloned().collect()),
            metrics: RequestMetrics::new(&self.metrics),
            access: AccessMetrics::new(&self.metrics),
            watches: WatchesMetrics::new(&self.metrics),
            storage_size: StorageSize::new(&self.metrics),
            process_metrics: self.metrics,
            version: paths::version(),
            store: self.store,
            authenticator: self.authenticator,
            authorizer: self.authorizer,
            paths: self.paths,
            limits: self.limits,
            health: self.health,
        })
    }
}

/// The server.
pub struct Server {
    pub(crate) store: ResourceStore,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) inflight: InFlight,
    pub(crate) ending: Ending,
    pub(crate) discovery: Discovery,
    pub(crate) openapi: OpenApi,
    pub(crate) health: Health,
    pub(crate) metrics: RequestMetrics,
    pub(crate) access: AccessMetrics,
    pub(crate) watches: WatchesMetrics,
    pub(crate) storage_size: StorageSize,
    pub(crate) process_metrics: Metrics,
    pub(crate) version: Value,
    pub(crate) limits: Limits,
    paths: HashMap<String, Arc<dyn PathHandler>>,
}

impl Server {
    /// Reads and writes of objects.
    pub fn store(&self) -> &ResourceStore {
        &self.store
    }

    /// What becomes of requests that come from now on. Those from inside the process are always taken.
    pub fn set_new_requests(&self, new: NewRequests) {
        self.ending.set(new);
    }

    /// Waits until the requests that were taken are answered, apart from watches and connections.
    pub async fn drained(&self) {
        self.ending.drained().await;
    }

    /// The handler of a path.
    pub(crate) fn path_handler(&self, path: &str) -> Option<Arc<dyn PathHandler>> {
        self.paths.get(path).cloned()
    }

    /// Paths with handlers of their own.
    pub(crate) fn path_handlers(&self) -> Vec<String> {
        self.paths.keys().cloned().collect()
    }

    /// Watches and connections have no deadline and are not counted in flight.
    pub(crate) fn is_long_running(&self, info: &RequestInfo) -> bool {
        info.is_resource
            && (info.verb == "watch"
                || (!info.subresource.is_empty()
                    && self
                        .store
                        .core
                        .handler(&info.group, &info.resource, &info.subresource)
                        .is_some_and(|h| h.long_running())))
    }

    /// About how many bytes the answer to a read may have.
    pub(crate) fn expected_bytes(&self, context: &RequestContext) -> usize {
        let info = &*context.info;
        if info.verb != "list" {
            return 0;
        }
        let resources = self.store.resources();
        let Some(descriptor) = resources.resource(&info.group, &info.resource) else { return 0 };
        if self.store.core.handler(&info.group, &info.resource, "").is_some() {
            return 0;
        }
        let stats = self.store.core.caches.of(&resources, descriptor).cache.stats();
        match context.query.integer("limit") {
            Ok(Some(limit)) if limit > 0 && stats.objects > 0 => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(stats.objects);
                stats.bytes / stats.objects * limit
            }
            _ => stats.bytes,
        }
    }

    /// Answers a request.
    pub async fn respond(self: Arc<Self>, request: Request) -> Response {
        filters::run(self, request).await
    }
}

impl Handler for Server {
    fn handle(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response> {
        Box::pin(self.respond(request))
    }
}
