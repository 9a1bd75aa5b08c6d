//! Port forwarding over WebSocket: a SPDY connection to the kubelet inside of binary messages.
//!
//! No frame is looked at: the client speaks SPDY with the runtime, in messages of whatever size.
//! Source: `k8s.io/apiserver/pkg/util/proxy/streamtunnel.go`, KEP-4006.

use apimachinery::status::Status;
use apiserver::{Open, websocket};
use bytes::{Bytes, BytesMut};
use component::http::{Body, empty};
use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::forward::{outgoing, pass_back};
use super::translate::{PROTOCOL_HEADER, SPDY, Socket, goodbye, socket};
use super::{Connector, Location};

/// What makes a subprotocol one of SPDY inside of messages.
const PREFIX: &str = "SPDY/3.1+";
const SUFFIX: &str = ".k8s.io";
/// Read from the kubelet at once, and so the longest message to a client.
const READ_BYTES: usize = 32 << 10;

/// The SPDY protocols a client offers to speak through WebSocket.
fn tunnelled(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    websocket::protocols(headers)
        .filter(|protocol| protocol.ends_with(SUFFIX))
        .filter_map(|protocol| protocol.strip_prefix(PREFIX))
}

/// Whether a request is for a tunnel.
pub(super) fn is_wanted<B>(request: &Request<B>) -> bool {
    websocket::is_wanted(request.headers()) && tunnelled(request.headers()).next().is_some()
}

/// The request for the kubelet.
fn spdy_request(request: &Request<Body>, location: &Location) -> Result<Request<()>, Status> {
    let mut headers = request.headers().clone();
    for name in [SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_EXTENSIONS] {
        headers.remove(name);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
    headers.remove(PROTOCOL_HEADER);
    for protocol in tunnelled(request.headers()) {
        headers.append(PROTOCOL_HEADER, HeaderValue::from_str(protocol).map_err(Status::internal)?);
    }
    outgoing(Method::POST, headers, location, None, true)
}

/// Connects to the kubelet, and when it switches to SPDY, switches the client to WebSocket. `finished` hears the code
/// the request counts as.
pub(super) async fn tunnel(
    connector: &Connector,
    mut request: Request<Body>,
    location: &Location,
    finished: impl FnOnce(u16),
) -> Result<Response<Body>, Status> {
    let out = spdy_request(&request, location)?.map(|()| empty());
    let sent = connector.send(location, out).await;
    let mut answer = sent.map_err(|error| Status::internal(format!("error dialing backend: {error}")))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        finished(answer.status().as_u16());
        return pass_back(answer, location, None).await;
    }
    let agreed = answer.headers().get(PROTOCOL_HEADER).and_then(|v| v.to_str().ok()).unwrap_or("").trim();
    let protocol = (!agreed.is_empty()).then(|| format!("{PREFIX}{agreed}"));
    let response = websocket::switching(request.headers(), protocol.as_deref())?;
    let ours = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    let theirs = hyper::upgrade::on(&mut answer);
    let open = Open::of(request.extensions());
    connector.spawn(async move {
        let _open = open;
        match tokio::try_join!(ours, theirs) {
            Ok((ours, theirs)) => carry(socket(ours).await, theirs).await,
            Err(error) => tracing::debug!(%error, "a tunnel's connection was not upgraded"),
        }
    });
    finished(101);
    Ok(response)
}

/// Carries bytes both ways until either side ends.
async fn carry(socket: Socket, kubelet: Upgraded) {
    let (mut sink, mut source) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(kubelet));
    let input = async {
        while let Some(Ok(message)) = source.next().await {
            let written = match message {
                Message::Binary(bytes) => writer.write_all(&bytes).await,
                Message::Ping(_) | Message::Pong(_) => continue,
                _ => break,
            };
            if written.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
    };
    let output = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            let read = reader.read_buf(&mut buffer).await;
            let bytes: Bytes = match read {
                Ok(0) | Err(_) => break,
                Ok(_) => buffer.split().freeze(),
            };
            if sink.send(Message::Binary(bytes)).await.is_err() {
                return;
            }
        }
        let _ = sink.send(goodbye()).await;
    };
    tokio::select! {
        () = input => {}
        () = output => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::BoxFuture;
    use tokio_util::sync::CancellationToken;

    use super::super::Trust;
    use super::super::translate::tests::{handshake, serve};
    use super::*;

    const OFFERED: &str = "SPDY/3.1+portforward.k8s.io";

    /// A kubelet that echoes what comes after it has switched to SPDY.
    async fn kubelet(shutdown: CancellationToken) -> Location {
        let handler = |mut request: Request<Body>| -> BoxFuture<'static, Response<Body>> {
            Box::pin(async move {
                let headers = request.headers();
                assert_eq!((request.method(), headers[UPGRADE].as_bytes()), (&Method::POST, SPDY.as_bytes()));
                assert!(headers.keys().all(|name| !name.as_str().starts_with("sec-websocket")));
                let response = Response::builder()
                    .status(101)
                    .header(CONNECTION, "Upgrade")
                    .header(UPGRADE, SPDY)
                    .header(PROTOCOL_HEADER, &headers[PROTOCOL_HEADER]);
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let (mut from, mut to) = tokio::io::split(TokioIo::new(upgrade.await.expect("upgraded")));
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
                response.body(empty()).expect("response")
            })
        };
        let port = serve(Arc::new(handler), shutdown).await;
        let path = "/portForward/ns/p".to_owned();
        Location {
            secure: false,
            host: "127.0.0.1".into(),
            port,
            path,
            query: String::new(),
            trust: Trust::Anything,
        }
    }

    #[tokio::test]
    async fn bytes_go_through_in_messages() {
        let shutdown = CancellationToken::new();
        let target = kubelet(shutdown.clone()).await;
        let config = super::super::KubeletConfig::default();
        let connector = Arc::new(Connector::new(&config, shutdown.clone()).expect("connector"));
        let handler = move |request: Request<Body>| -> BoxFuture<'static, Response<Body>> {
            assert!(is_wanted(&request));
            let (connector, target) = (Arc::clone(&connector), target.clone());
            Box::pin(async move {
                tunnel(&connector, request, &target, |code| assert_eq!(code, 101)).await.expect("switched")
            })
        };
        let port = serve(Arc::new(handler), shutdown.clone()).await;
        let mut socket = handshake(port, OFFERED).await;
        let sent = vec![7_u8; 100_000];
        socket.send(Message::Binary(sent.clone().into())).await.expect("sent");
        let mut got = Vec::new();
        while got.len() < sent.len() {
            match socket.next().await.expect("open").expect("a message") {
                Message::Binary(bytes) => got.extend_from_slice(&bytes),
                other => panic!("{other:?}"),
            }
        }
        assert!(got == sent);
        shutdown.cancel();
    }

    #[test]
    fn only_tunnelling_protocols_are_tunnelled() {
        for (offered, expected) in [
            (OFFERED, vec!["portforward.k8s.io"]),
            ("v4.channel.k8s.io, SPDY/3.1+portforward.k8s.io", vec!["portforward.k8s.io"]),
            ("SPDY/3.1+mine", vec![]),
            ("portforward.k8s.io", vec![]),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(SEC_WEBSOCKET_PROTOCOL, offered.parse().expect("value"));
            assert_eq!(tunnelled(&headers).collect::<Vec<_>>(), expected, "{offered}");
        }
    }
}
