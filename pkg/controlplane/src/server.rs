//! A running server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apiserver::{Health, Limits, NewRequests, ResourceStore, Server, ServerBuilder};
use auth::UserInfo;
use component::metrics::Metrics;
use component::serving;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::assemble::{self, Error, Store};
use crate::bootstrap::Bootstrap;
use crate::config::Config;
use crate::issuer::{self, Document};
use crate::maintenance;

/// Longest the caches may take to read the store at start.
const WARM_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest that connections may take to close once no request is under way on them but what has no deadline.
const DRAIN: Duration = Duration::from_secs(10);

/// A listener for the runtime from one that was opened before there was a runtime.
fn reopen(listener: &std::net::TcpListener) -> std::io::Result<TcpListener> {
    let listener = listener.try_clone()?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// A running API server. Ends when its shutdown token is cancelled.
pub struct ControlPlane {
    server: Arc<Server>,
    address: SocketAddr,
    tasks: TaskTracker,
}

impl ControlPlane {
    /// Starts a server, and returns when it is ready: caches have read the store, bootstrap objects exist, and
    /// `/readyz` says so on the network.
    pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Self, Error> {
        let listener = TcpListener::bind(config.bind)
            .await
            .map_err(|source| Error::Listen { address: config.bind, source })?;
        let address =
            listener.local_addr().map_err(|source| Error::Listen { address: config.bind, source })?;
        let (tls, certificate) = assemble::tls(&config)?;
        let store = tokio::select! {
            opened = Store::await_open(&config.storage) => opened?,
            () = shutdown.cancelled() => return Err(Error::Ended),
        };
        let registry = assemble::registry(&config)?;
        let resources =
            ResourceStore::storing(registry, Arc::clone(&store.storage), config.storage_media_type);
        let state = Arc::new(State::default());
        let services = assemble::services(&config, address.port())?;
        // listeners close when requests should no longer come, connections when those that came are answered
        let (stop_serving, answered) = (CancellationToken::new(), CancellationToken::new());
        let connector = assemble::connector(&config, answered.clone())?;
        let parts = Parts { services: Arc::clone(&services), connector: Arc::clone(&connector) };
        let server = build(&config, &resources, &store, &state, address, parts)?;
        let tasks = TaskTracker::new();
        let limits = serving::Limits {
            streams: config.http2_streams,
            drain: DRAIN,
            drain_from: Some(answered.clone()),
            ..serving::Limits::default()
        };
        let mut serving = Vec::with_capacity(config.listeners.len() + 1);
        for listener in &config.listeners {
            let listener =
                reopen(listener).map_err(|source| Error::Listen { address: config.bind, source })?;
            let handler = Arc::clone(&server) as Arc<dyn serving::Handler>;
            let (tls, stop) = (Some(Arc::clone(&tls)), stop_serving.clone());
            serving.push(tasks.spawn(serving::serve(listener, tls, handler, limits.clone(), stop)));
        }
        let handler = Arc::clone(&server) as Arc<dyn serving::Handler>;
        serving.push(tasks.spawn(serving::serve(listener, Some(tls), handler, limits, stop_serving.clone())));
        tasks.spawn(certificate.follow(shutdown.clone()));
        let started = async {
            resources
                .warm(assemble::is_stored, WARM_TIMEOUT)
                .await
                .map_err(|status| Error::Cache(status.message))?;
            state.warm.store(true, Ordering::Release);
            Bootstrap::new(resources.clone()).run(&config).await?;
            let failed = |e: registry::ServicesError| Error::Bootstrap {
                resource: "services".into(),
                reason: e.to_string(),
            };
            services.start(&resources).await.map_err(failed)
        };
        if let Err(error) = started.await {
            stop_serving.cancel();
            answered.cancel();
            resources.stop().await;
            store.close().await;
            return Err(error);
        }
        let looking_after = {
            let (services, resources, shutdown) = (services, resources.clone(), shutdown.clone());
            tasks.spawn(async move { services.run(resources, shutdown).await })
        };
        tasks.spawn(maintenance::compact(
            Arc::clone(&store.storage),
            config.compaction_interval,
            shutdown.clone(),
        ));
        state.bootstrapped.store(true, Ordering::Release);
        tracing::info!(%address, "serving");
        let end = End {
            server: Arc::clone(&server),
            resources,
            store,
            connector,
            state,
            looking_after,
            serving,
            stop_serving,
            answered,
            delay: config.shutdown_delay,
            request_timeout: config.request_timeout,
            send_retry_after: config.shutdown_send_retry_after,
            watch_grace: config.shutdown_watch_grace,
        };
        tasks.spawn(async move {
            shutdown.cancelled().await;
            end.run().await;
        });
        tasks.close();
        Ok(Self { server, address, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server itself.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// A client inside the process that acts as a user.
    pub fn in_process_client(&self, user: UserInfo) -> kube::Client {
        crate::inprocess::client(&self.server, user)
    }

    /// Waits until the server has ended, after its shutdown token was cancelled.
    pub async fn wait(&self) {
        self.tasks.wait().await;
    }
}

/// Whether the last watch has ended is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What is left to do when a server is told to end.
struct End {
    server: Arc<Server>,
    resources: ResourceStore,
    store: Store,
    connector: Arc<registry::Connector>,
    state: Arc<State>,
    looking_after: JoinHandle<()>,
    serving: Vec<JoinHandle<()>>,
    stop_serving: CancellationToken,
    answered: CancellationToken,
    delay: Duration,
    request_timeout: Duration,
    send_retry_after: bool,
    watch_grace: Duration,
}

impl End {
    /// In upstream's order: `/readyz` fails and the server leaves the endpoints; after the delay no new requests are
    /// taken, and the listener closes; what is under way ends, watches and connections by our doing; then the store.
    async fn run(self) {
        self.state.stopping.store(true, Ordering::Release);
        tracing::info!("ending: not ready any more");
        tokio::time::sleep(self.delay).await;
        // it takes this server out of the endpoints, for which it needs the store
        let _ = self.looking_after.await;
        if self.send_retry_after {
            self.server.set_new_requests(NewRequests::SentAway);
        } else {
            self.server.set_new_requests(NewRequests::Refused);
            self.stop_serving.cancel();
        }
        tracing::info!("ending: no new requests");
        self.resources.end_watches(self.watch_grace);
        let watches_ended = tokio::time::timeout(self.watch_grace, async {
            while self.resources.watches() > 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
        // every request has its deadline, which is this at most
        let requests_ended = tokio::time::timeout(self.request_timeout, self.server.drained());
        let (requests_ended, _) = tokio::join!(requests_ended, watches_ended);
        if requests_ended.is_err() {
            tracing::warn!("ending: requests are still under way after the longest time a request may take");
        }
        self.stop_serving.cancel();
        self.answered.cancel();
        self.connector.stop().await;
        for serving in self.serving {
            let _ = serving.await;
        }
        tracing::info!("ending: all connections are closed");
        self.resources.stop().await;
        self.store.close().await;
    }
}

/// How far the server has come, for its health checks.
#[derive(Default)]
struct State {
    warm: AtomicBool,
    bootstrapped: AtomicBool,
    stopping: AtomicBool,
}

fn health(store: &Store, resources: &ResourceStore, state: &Arc<State>) -> Health {
    let health = Health::default();
    for checks in [&health.healthz, &health.livez, &health.readyz] {
        checks.add("log", || Ok(()));
        let storage = Arc::clone(&store.storage);
        checks.add_async(
            "etcd",
            Arc::new(move || {
                let storage = Arc::clone(&storage);
                Box::pin(async move { storage.current_revision().await.map(drop).map_err(|e| e.to_string()) })
            }),
        );
        for hook in [
            "poststarthook/rbac/bootstrap-roles",
            "poststarthook/scheduling/bootstrap-system-priority-classes",
        ] {
            let state = Arc::clone(state);
            checks.add(hook, move || flag(&state.bootstrapped, "not finished"));
        }
    }
    let warm = Arc::clone(state);
    let caches = resources.clone();
    health.readyz.add("informer-sync", move || {
        flag(&warm.warm, "caches are not read yet")?;
        if caches.ready() { Ok(()) } else { Err("a cache is not ready".into()) }
    });
    let stopping = Arc::clone(state);
    health.readyz.add("shutdown", move || {
        if stopping.stopping.load(Ordering::Acquire) {
            Err("process is shutting down".into())
        } else {
            Ok(())
        }
    });
    health
}

fn flag(flag: &AtomicBool, otherwise: &str) -> Result<(), String> {
    if flag.load(Ordering::Acquire) { Ok(()) } else { Err(otherwise.to_owned()) }
}

/// What the server shares with its background work.
struct Parts {
    services: Arc<registry::Services>,
    connector: Arc<registry::Connector>,
}

fn build(
    config: &Config,
    resources: &ResourceStore,
    store: &Store,
    state: &Arc<State>,
    address: SocketAddr,
    parts: Parts,
) -> Result<Arc<Server>, Error> {
    let objects = resources.object_reader();
    let keys = assemble::service_account_keys(config)?;
    let authentication = assemble::authentication(config, &keys, &objects)?;
    let authorization = assemble::authorization(config, &objects)?;
    let dependencies = admission::plugins::Dependencies {
        source: resources.reader(),
        authorizer: Arc::clone(&authorization.authorizer) as Arc<dyn auth::Authorizer>,
        configs: assemble::admission_configs(config)?,
    };
    let chain = admission::plugins::chain(&config.enable_admission, &config.disable_admission, &dependencies)
        .map_err(|e| Error::Config(e.to_string()))?;
    let advertised = SocketAddr::new(config.advertised(), address.port());
    let metrics = Metrics::new();
    parts.services.count_in(&metrics, resources);
    let mut builder = ServerBuilder::new(
        resources.clone(),
        Arc::clone(&authentication.requests),
        Arc::clone(&authorization.authorizer) as Arc<dyn auth::Authorizer>,
    )
    .admission(chain)
    .health(health(store, resources, state))
    .metrics(metrics.clone())
    .address(advertised.to_string())
    .limits(Limits {
        request_timeout: config.request_timeout,
        min_request_timeout: config.min_request_timeout,
        reads_inflight: config.reads_inflight,
        writes_inflight: config.writes_inflight,
        delete_collection_workers: config.delete_collection_workers,
        goaway_chance: config.goaway_chance,
    });
    if let (Some(issuer), false) = (config.service_account_issuers.first(), keys.verify.is_empty()) {
        let jwks_uri = config
            .service_account_jwks_uri
            .clone()
            .unwrap_or_else(|| format!("https://{advertised}{}", issuer::JWKS));
        let configuration = auth::service_account::discovery::configuration(issuer, &jwks_uri, &keys.verify);
        let jwks = auth::service_account::discovery::jwks(&keys.verify);
        builder = builder
            .path(issuer::CONFIGURATION, Arc::new(Document::configuration(&configuration)))
            .path(issuer::JWKS, Arc::new(Document::jwks(&jwks)));
    }
    let tokens = assemble::tokens(config, keys, &authentication.api_audiences);
    let builder = registry::install(
        builder,
        registry::Config {
            authentication,
            authorization,
            tokens,
            connector: parts.connector,
            address_types: assemble::address_types(config),
            metrics,
            services: parts.services,
        },
    );
    Ok(builder.build())
}
