//! Cluster DNS: names of Services, endpoints and pods, after the Kubernetes DNS-Based Service Discovery specification
//! (version 1.1.0), served by hickory-dns.
//!
//! [`zone`] answers one question from what it is told of the cluster; [`server`] asks it. Names outside the cluster's zone
//! are forwarded, if there is anywhere to forward them to, and refused otherwise.

pub mod forward;
pub mod zone;

mod cluster;
mod server;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use client::InformerFactory;
use component::health::Checks;
use component::http::{Request, Response};
use component::serving::{Limits, serve};
use futures::future::BoxFuture;
use hickory_server::Server;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::server::Resolver;

/// How long the first lists may take before it is reported and waited for again.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle time after which a TCP client is cut off.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Bytes buffered for a TCP client.
const TCP_BUFFER: usize = 64 << 10;

/// How cluster DNS runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Suffix of all names (`cluster.local`).
    pub domain: String,
    /// Addresses to answer on, UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Where `/health`, `/ready` and `/metrics` are; `None` serves none.
    pub health_address: Option<SocketAddr>,
    /// Resolvers for names outside the cluster, tried in order.
    pub upstreams: Vec<SocketAddr>,
    /// Seconds that clients may keep an answer.
    pub ttl_seconds: u32,
    /// The address of the DNS Service itself, for `ns.dns.DOMAIN`.
    pub service_address: Option<IpAddr>,
}

/// Why cluster DNS could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The domain is not a DNS name.
    #[error("invalid cluster domain {0:?}")]
    Domain(String),
}

/// Answers until shutdown. Questions that come before the cluster is known are answered SERVFAIL, so clients ask again.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let factory = InformerFactory::new(client);
    let cluster = Arc::new(Cluster::new(&factory));
    let zone = zone::Zone::new(&config.domain, config.ttl_seconds, config.service_address)
        .ok_or_else(|| Error::Domain(config.domain.clone()))?;
    let mut server =
        Server::new(Resolver::new(zone, cluster.clone(), forward::Forwarder::new(config.upstreams.clone())));
    for address in config.listen {
        let failed = |source| Error::Listen { address, source };
        server.register_socket(UdpSocket::bind(address).await.map_err(failed)?);
        server.register_listener(TcpListener::bind(address).await.map_err(failed)?, TCP_IDLE, TCP_BUFFER);
    }
    factory.start(shutdown.clone());
    let health = match config.health_address {
        Some(address) => {
            let listener =
                TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
            let handler = Arc::new(admin(cluster.clone()));
            Some(tokio::spawn(serve(listener, None, handler, Limits::default(), shutdown.clone())))
        }
        None => None,
    };
    while !shutdown.is_cancelled() {
        match factory.wait_for_sync(SYNC_TIMEOUT).await {
            Ok(()) => break,
            Err(error) => tracing::warn!(%error, "waiting for services and endpoints"),
        }
    }
    cluster.set_ready();
    tracing::info!("cluster DNS answers");
    shutdown.cancelled().await;
    if let Err(error) = server.shutdown_gracefully().await {
        tracing::debug!(%error, "DNS server ended");
    }
    if let Some(health) = health {
        drop(health.await);
    }
    factory.stopped().await;
    Ok(())
}

/// CoreDNS' paths: `/health` (alive), `/ready` (knows the cluster), `/metrics`.
fn admin(cluster: Arc<Cluster>) -> impl Fn(Request) -> BoxFuture<'static, Response> + Send + Sync + 'static {
    let ready = Checks::new();
    ready.add("kubernetes", move || if cluster.is_ready() { Ok(()) } else { Err("not synced".into()) });
    let metrics = component::metrics::Metrics::new();
    move |request| {
        let (ready, metrics) = (ready.clone(), metrics.clone());
        Box::pin(async move {
            match request.uri().path() {
                "/health" | "/healthz" => component::http::text(http::StatusCode::OK, "OK"),
                "/ready" | "/readyz" => ready.respond("readyz", None, request.uri().query()).await,
                "/metrics" => metrics.respond(),
                _ => component::http::text(http::StatusCode::NOT_FOUND, "404 page not found\n"),
            }
        })
    }
}
