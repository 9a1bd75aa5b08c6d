//! The HTTP server of every component: hyper on a listener, TLS when configured, drained on shutdown.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::CONNECTION;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{self, Backlog};
use prometheus_client::metrics::counter::Counter;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::http::{Request, Response, boxed, text};
use crate::link::{self, Link};
use crate::streams::Streams;
use crate::tls;

/// Longest a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest a client may take to send a request's headers over HTTP/1.1.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// Largest header list accepted, in bytes; Go's default of 1 MiB. Larger ones are answered with 431.
pub const MAX_HEADER_BYTES: u32 = 1 << 20;
/// Most headers accepted over HTTP/1.1. Impersonation takes one a group, and users may be in hundreds.
pub const MAX_HEADERS: usize = 1000;
/// HTTP/2 pings an idle connection this often, and drops it without an answer.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Connections that may wait to be accepted, as in Go. Clients that come all at once, as after a restart, are let in one by
/// one; of those beyond this the system drops the first packet, and they try again a second later.
pub const BACKLOG: i32 = 4096;
/// Pause after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Who is at the other end of a connection. Handlers find it in the request's extensions as `Arc<ConnInfo>`.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// The client's address.
    pub peer: SocketAddr,
    /// The client's certificate chain, leaf first, verified against the configured roots. Empty without one.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The connection is encrypted.
    pub secure: bool,
}

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request; errors are responses too.
    fn handle(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response>;
}

impl<F> Handler for F
where
    F: Fn(Request) -> BoxFuture<'static, Response> + Send + Sync + 'static,
{
    fn handle(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response> {
        self(request)
    }
}

/// Limits of one server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; further ones wait in the listener's backlog.
    pub connections: usize,
    /// HTTP/2 streams at once on a connection (`--http2-max-streams-per-connection`).
    pub streams: u32,
    /// How long shutdown waits for requests under way.
    pub drain: Duration,
    /// When that time begins; without it, with the shutdown. For servers that know of requests of their own.
    pub drain_from: Option<CancellationToken>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 20_000, streams: 1000, drain: Duration::from_secs(10), drain_from: None }
    }
}

/// Handshakes of TLS that failed in this process.
pub static FAILED_HANDSHAKES: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Serves until shutdown, then drains for at most [`Limits::drain`].
///
/// HTTP/1.1 connections may be upgraded (`hyper::upgrade::on`); ALPN chooses HTTP/2 on encrypted ones.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    handler: Arc<dyn Handler>,
    limits: Limits,
    shutdown: CancellationToken,
) {
    // a listener may be told again how many may wait; whoever opened it let the library choose, which takes 128
    if let Err(error) = Backlog::new(BACKLOG).and_then(|backlog| socket::listen(&listener, backlog)) {
        tracing::debug!(%error, "cannot let more connections wait");
    }
    let acceptor = tls.map(tls::Acceptor::new);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let tasks = TaskTracker::new();
    // Cancelled when the drain time is over: what is still open then is dropped.
    let abort = CancellationToken::new();
    loop {
        let slot = tokio::select! {
            () = shutdown.cancelled() => break,
            slot = slots.clone().acquire_owned() => slot.expect("the semaphore is never closed"),
        };
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            },
        };
        // Without this, small responses wait for the client's delayed acknowledgements.
        let _ = stream.set_nodelay(true);
        let connection =
            Connection { handler: handler.clone(), streams: limits.streams, shutdown: shutdown.clone() };
        let (acceptor, abort) = (acceptor.clone(), abort.clone());
        tasks.spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = abort.cancelled() => {}
                () = connection.run(stream, peer, acceptor) => {}
            }
        });
    }
    drop(listener);
    tasks.close();
    let patience = async {
        if let Some(begin) = &limits.drain_from {
            begin.cancelled().await;
        }
        tokio::time::sleep(limits.drain).await;
    };
    tokio::select! {
        () = tasks.wait() => {}
        () = patience => {
            abort.cancel();
            tasks.wait().await;
        }
    }
}

/// Runs a connection; at shutdown it finishes the requests under way. Both kinds of connection can do that, but share
/// no trait for it.
macro_rules! until_shutdown {
    ($connection:expr, $shutdown:expr) => {{
        let mut connection = std::pin::pin!($connection);
        tokio::select! {
            result = connection.as_mut() => result,
            () = $shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }};
}

struct Connection {
    handler: Arc<dyn Handler>,
    streams: u32,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run(self, stream: tokio::net::TcpStream, peer: SocketAddr, acceptor: Option<tls::Acceptor>) {
        let Some(acceptor) = acceptor else {
            let info = ConnInfo { peer, certificates: Vec::new(), secure: false };
            return self.http1(stream, info).await;
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let session = stream.get_ref().1;
                let certificates = session
                    .peer_certificates()
                    .map(|chain| chain.iter().map(|c| c.clone().into_owned()).collect())
                    .unwrap_or_default();
                let info = ConnInfo { peer, certificates, secure: true };
                if session.alpn_protocol() == Some(b"h2") {
                    let (socket, session) = stream.into_inner();
                    self.http2(Link::new(socket, session), info).await;
                } else {
                    self.http1(stream, info).await;
                }
            }
            Ok(Err(error)) => {
                FAILED_HANDSHAKES.inc();
                tracing::debug!(%peer, %error, "TLS handshake error");
            }
            Err(_) => {
                FAILED_HANDSHAKES.inc();
                tracing::debug!(%peer, "TLS handshake timed out");
            }
        }
    }

    async fn http1<S>(self, stream: S, info: ConnInfo)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEADER_BYTES as usize);
        let service = Service { handler: self.handler, info: Arc::new(info), h2: None };
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        ended(until_shutdown!(connection, self.shutdown));
    }

    async fn http2(self, link: Link, info: ConnInfo) {
        let streams = Streams::default();
        let mut builder = hyper::server::conn::http2::Builder::new(streams.clone());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.streams)
            .max_header_list_size(MAX_HEADER_BYTES)
            .initial_stream_window_size(1 << 18)
            .initial_connection_window_size(1 << 20)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL);
        let shutdown = self.shutdown.child_token();
        let service = Service { handler: self.handler, info: Arc::new(info), h2: Some(shutdown.clone()) };
        let connection = builder.serve_connection(TokioIo::new(link.clone()), service);
        ended(link::drive(link, streams, async { until_shutdown!(connection, shutdown) }).await);
    }
}

/// Hands a connection's requests to the handler, with who sent them.
struct Service {
    handler: Arc<dyn Handler>,
    info: Arc<ConnInfo>,
    /// Of HTTP/2: ends the connection when the requests under way are answered. They all run in its task.
    h2: Option<CancellationToken>,
}

impl hyper::service::Service<hyper::Request<Incoming>> for Service {
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let mut request = request.map(boxed);
        request.extensions_mut().insert(self.info.clone());
        // reads are answered at once, or made piece by piece as they are sent; what is written has to be worked on first
        let works = !request.method().is_safe();
        let response = self.handler.clone().handle(request);
        let response = if works && self.h2.is_some() { in_a_task(response).boxed() } else { response };
        Answer { response, end: self.h2.clone() }
    }
}

/// A response to be, which may close its connection: HTTP/2 has no `Connection: close`, but GOAWAY (as Go's server).
struct Answer {
    response: BoxFuture<'static, Response>,
    end: Option<CancellationToken>,
}

impl Future for Answer {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(self.response.as_mut().poll(cx));
        if let Some(end) = &self.end
            && response.headers_mut().remove(CONNECTION).is_some_and(|value| value == "close")
        {
            end.cancel();
        }
        Poll::Ready(Ok(response))
    }
}

/// Lets others of the connection go on meanwhile. Ends with the request when that is given up.
async fn in_a_task(response: BoxFuture<'static, Response>) -> Response {
    match AbortOnDropHandle::new(tokio::spawn(response)).await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // the process ends
            Err(_) => text(http::StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down\n"),
        },
    }
}

fn ended(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}
