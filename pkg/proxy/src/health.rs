//! `/healthz` and `/livez` of the proxy, `/metrics`, and the health check ports of load-balanced Services.
//!
//! Source: KEP-3836 (healthz says 503 while the node is being deleted, livez does not) and
//! "External source IP preservation" for the health check node ports.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use component::http::{Request, Response, full};
use component::serving::{Handler, Limits, serve};
use futures::future::BoxFuture;
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Error;
use crate::model::Snapshot;

/// What the health endpoints tell.
#[derive(Debug)]
pub(crate) struct Health {
    state: Mutex<State>,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// When the oldest change that is not in the kernel was seen.
    pending_since: Option<Instant>,
    synced_once: bool,
    node_deleted: bool,
}

impl Health {
    /// `timeout` is how long a change may wait before the proxy counts as unhealthy.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { state: Mutex::default(), timeout }
    }

    pub(crate) fn queued(&self) {
        self.state.lock().pending_since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn synced(&self) {
        let mut state = self.state.lock();
        state.pending_since = None;
        state.synced_once = true;
    }

    pub(crate) fn node_deleted(&self, deleted: bool) {
        self.state.lock().node_deleted = deleted;
    }

    pub(crate) fn alive(&self) -> bool {
        let state = self.state.lock();
        state.synced_once && state.pending_since.is_none_or(|since| since.elapsed() < self.timeout)
    }

    fn eligible(&self) -> bool {
        self.alive() && !self.state.lock().node_deleted
    }

    fn respond(&self, healthy: bool) -> Response {
        let now = jiff::Timestamp::now();
        let body = format!(
            "{{\"lastUpdated\": \"{now}\",\"currentTime\": \"{now}\", \"nodeEligible\": {}}}",
            self.eligible()
        );
        json(if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
    }
}

fn json(status: StatusCode, body: String) -> Response {
    let mut response = http::Response::new(full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// Serves `/healthz` and `/livez`, or `/metrics` and `/proxyMode`.
pub(crate) struct Admin {
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Option<component::metrics::Metrics>,
}

impl Handler for Admin {
    fn handle(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response> {
        let response = match (request.uri().path(), &self.metrics) {
            ("/livez", None) => self.health.respond(self.health.alive()),
            ("/healthz", None) => self.health.respond(self.health.eligible()),
            ("/healthz", Some(_)) => component::http::text(StatusCode::OK, "ok"),
            ("/metrics", Some(metrics)) => metrics.respond(),
            ("/metrics/slis", Some(metrics)) => metrics.respond_indicators(),
            ("/proxyMode", Some(_)) => component::http::text(StatusCode::OK, "iptables"),
            _ => component::http::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        Box::pin(std::future::ready(response))
    }
}

/// Listens, naming the address in the error.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// The health check node ports of Services with the local external policy: a load balancer asks here whether this node
/// has endpoints.
pub(crate) struct ServicePorts {
    health: Arc<Health>,
    servers: BTreeMap<u16, Server>,
    tasks: TaskTracker,
}

struct Server {
    counts: Arc<Mutex<Count>>,
    stop: CancellationToken,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Count {
    namespace: String,
    name: String,
    local: usize,
}

impl ServicePorts {
    pub(crate) fn new(health: Arc<Health>) -> Self {
        Self { health, servers: BTreeMap::new(), tasks: TaskTracker::new() }
    }

    /// Opens, updates and closes ports after the snapshot.
    pub(crate) async fn update(&mut self, snapshot: &Snapshot) {
        let wanted = counts(snapshot);
        self.servers.retain(|port, server| {
            let keep = wanted.contains_key(port);
            if !keep {
                server.stop.cancel();
            }
            keep
        });
        for (port, count) in wanted {
            if let Some(server) = self.servers.get(&port) {
                *server.counts.lock() = count;
                continue;
            }
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            match listen(address).await {
                Ok(listener) => {
                    let server =
                        Server { counts: Arc::new(Mutex::new(count)), stop: CancellationToken::new() };
                    let handler = Arc::new(ServiceHealth {
                        counts: server.counts.clone(),
                        health: self.health.clone(),
                    });
                    self.tasks.spawn(serve(listener, None, handler, Limits::default(), server.stop.clone()));
                    self.servers.insert(port, server);
                }
                // Tried again with the next sync.
                Err(error) => tracing::warn!(%error, "health check node port not opened"),
            }
        }
    }

    pub(crate) async fn close(self) {
        for server in self.servers.values() {
            server.stop.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Ready endpoints on this node by health check node port.
fn counts(snapshot: &Snapshot) -> BTreeMap<u16, Count> {
    let mut counts: BTreeMap<u16, Count> = BTreeMap::new();
    for (name, port) in snapshot.ports.iter().filter(|(_, port)| port.health_check_node_port != 0) {
        let endpoints = snapshot.endpoints.get(name).map_or(&[][..], Vec::as_slice);
        let local = endpoints.iter().filter(|e| e.local && e.ready).count();
        let count = counts.entry(port.health_check_node_port).or_default();
        count.namespace.clone_from(&name.namespace);
        count.name.clone_from(&name.name);
        // Every port of a Service has the same pods behind it.
        count.local = count.local.max(local);
    }
    counts
}

struct ServiceHealth {
    counts: Arc<Mutex<Count>>,
    health: Arc<Health>,
}

impl Handler for ServiceHealth {
    fn handle(self: Arc<Self>, _: Request) -> BoxFuture<'static, Response> {
        let count = self.counts.lock().clone();
        let healthy = self.health.alive();
        let status =
            if count.local > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": {:?},\n\t\t\"name\": {:?}\n\t}},\n\t\"localEndpoints\": {},\n\t\
             \"serviceProxyHealthy\": {healthy}\n}}",
            count.namespace, count.name, count.local
        );
        let mut response = json(status, body);
        let weight = HeaderValue::from(count.local);
        response.headers_mut().insert("x-load-balancing-endpoint-weight", weight);
        Box::pin(std::future::ready(response))
    }
}
