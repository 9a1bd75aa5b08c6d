//! One connection to a member.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::Uri;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::error::Error;
use crate::wire::{self, Wire};

/// Longest wait for a connection, as upstream's client waits.
const CONNECT: Duration = Duration::from_secs(20);
/// A member is asked for a sign of life this often, and given this long; upstream's `keepaliveTime` and `keepaliveTimeout`.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_PATIENCE: Duration = Duration::from_secs(10);
/// What a stream may have sent that has not been read.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// A connection: the half that requests go to, and what runs it, until it ends.
pub(crate) struct Connection {
    pub(crate) requests: SendRequest<Bytes>,
    pub(crate) running: BoxFuture<'static, Error>,
}

/// Connects to a member.
pub(crate) async fn dial(
    address: &Uri,
    tls: Option<&Arc<rustls::ClientConfig>>,
) -> Result<Connection, Error> {
    let unavailable = |what: String| Error::Unavailable(format!("etcd at {address}: {what}"));
    let dialled = async {
        let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = address.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let socket = TcpStream::connect((host, port)).await.map_err(|e| unavailable(e.to_string()))?;
        socket.set_nodelay(true).map_err(|e| unavailable(e.to_string()))?;
        let Some(tls) = tls else { return shake_hands(socket).await };
        let name =
            ServerName::try_from(host.to_owned()).map_err(|e| Error::Invalid(format!("{address}: {e}")))?;
        let socket = tokio_rustls::TlsConnector::from(Arc::clone(tls)).connect(name, socket).await;
        shake_hands(socket.map_err(|e| unavailable(e.to_string()))?).await
    };
    tokio::time::timeout(CONNECT, dialled).await.map_err(|_| unavailable("it does not answer".into()))?
}

async fn shake_hands<S>(socket: S) -> Result<Connection, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let wire = Wire::new(socket);
    let (requests, mut connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_push(false)
        .handshake(wire.clone())
        .await?;
    let alive = keep_alive(connection.ping_pong());
    let running = wire::drive(wire, async move {
        tokio::select! {
            biased;
            ended = connection => match ended {
                Ok(()) => Error::Unavailable("etcd has closed the connection".into()),
                Err(error) => error.into(),
            },
            error = alive => error,
        }
    });
    let running = async {
        running.await.unwrap_or_else(|e| Error::Unavailable(format!("the connection to etcd: {e}")))
    };
    Ok(Connection { requests, running: Box::pin(running) })
}

/// Ends when the other side does not show that it is there.
async fn keep_alive(pings: Option<PingPong>) -> Error {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(KEEP_ALIVE).await;
        match tokio::time::timeout(KEEP_ALIVE_PATIENCE, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return Error::Unavailable("etcd shows no sign of life".into()),
        }
    }
}
