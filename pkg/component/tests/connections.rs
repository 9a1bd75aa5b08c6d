//! Connections as clients see them: requests whose heads are too large are refused by their status code, what upstream
//! takes is taken; `Connection: close` closes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use component::http::{Body, BoxError, Request, Response, empty, text};
use component::pki::{Ca, Host};
use component::serving::{Handler, Limits, MAX_HEADERS, serve};
use component::tls::{ServerCertificate, roots, server_config};
use futures::future::BoxFuture;
use futures::{SinkExt as _, StreamExt as _};
use http::header::CONNECTION;
use http::{HeaderValue, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers "ok", after the request's body; under `/last` with `Connection: close`.
async fn answer(request: Request) -> Response {
    let last = request.uri().path() == "/last";
    let _ = request.into_body().collect().await;
    let mut response = text(StatusCode::OK, "ok");
    if last {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn server(tls: Option<Arc<rustls::ServerConfig>>) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let shutdown = CancellationToken::new();
    let handler = |request: Request| -> BoxFuture<'static, Response> { Box::pin(answer(request)) };
    let handler: Arc<dyn Handler> = Arc::new(handler);
    tokio::spawn(serve(listener, tls, handler, Limits::default(), shutdown.clone()));
    (address, shutdown)
}

/// The status code of an answer over HTTP/1.1, 0 when the connection is closed without one.
async fn code(address: SocketAddr, head: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // the server may answer and close before it has read everything
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = [0; 16];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer in time");
    let text = String::from_utf8_lossy(&answer[..read.unwrap_or(0)]).into_owned();
    text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn heads_over_http_1() {
    let (address, shutdown) = server(None).await;
    let headers = |count: usize, bytes: usize| {
        let line = format!("impersonate-group: {}\r\n", "g".repeat(bytes));
        format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", line.repeat(count))
    };
    let path = |bytes: usize| format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", "p".repeat(bytes));
    let cases = [
        ("few headers", headers(5, 10), 200),
        ("as many headers as a user in many groups needs", headers(900, 30), 200),
        ("too many headers", headers(MAX_HEADERS + 1, 1), 431),
        ("a large header", headers(1, 900_000), 200),
        ("headers that are too large", headers(3, 900_000), 431),
        ("a long path", path(60_000), 200),
        ("a path that is too long", path(70_000), 414),
        ("no HTTP", "no such thing\r\n\r\n".to_owned(), 400),
        ("a header without a colon", "GET / HTTP/1.1\r\nhost\r\n\r\n".to_owned(), 400),
        ("two lengths", "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(), 400),
        ("a length that is none", "POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n".to_owned(), 400),
    ];
    for (what, head, expected) in cases {
        assert_eq!(code(address, &head).await, expected, "{what}");
    }
    assert_eq!(code(address, &headers(1, 1)).await, 200, "the server goes on");
    shutdown.cancel();
}

/// A server that speaks HTTP/2, and a connection to it.
async fn http_2() -> (SendRequest<Body>, CancellationToken) {
    component::install_crypto();
    let ca = Ca::new("test").expect("an authority");
    let pem = ca.issue_server("localhost", None, &[Host::from("localhost")]).expect("a certificate");
    let certificate =
        ServerCertificate::fixed(pem.cert.as_bytes(), pem.key.as_bytes()).expect("a certificate");
    let (address, shutdown) = server(Some(server_config(certificate, None).expect("TLS"))).await;
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots(ca.pem().cert.as_bytes()).expect("roots"))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await.expect("a connection");
    let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(1 << 20)
        .handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    (sender, shutdown)
}

async fn in_time<T>(future: impl Future<Output = hyper::Result<T>>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time").expect("an answer")
}

#[tokio::test]
async fn heads_over_http_2() {
    let (mut sender, shutdown) = http_2().await;
    // name and value and 32 bytes a header count
    for (count, bytes, expected) in
        [(1, 10, 200), (900, 30, 200), (20, 40_000, 200), (40, 40_000, 431), (1, 10, 200)]
    {
        let mut request = http::Request::get("https://localhost/").body(empty()).expect("a request");
        for _ in 0..count {
            let value = "g".repeat(bytes).parse().expect("a value");
            request.headers_mut().append("impersonate-group", value);
        }
        let answer = in_time(sender.send_request(request)).await;
        assert_eq!(answer.status().as_u16(), expected, "{count} of {bytes} bytes");
    }
    shutdown.cancel();
}

#[tokio::test]
async fn http_2_closes_when_what_is_under_way_is_done() {
    let (mut sender, shutdown) = http_2().await;
    let (mut rest, slow) = futures::channel::mpsc::channel(1);
    let slow = StreamBody::new(slow.map(|bytes: Bytes| Ok::<_, BoxError>(Frame::data(bytes)))).boxed_unsync();
    let request = |path: &str, body: Body| {
        http::Request::post(format!("https://localhost{path}")).body(body).expect("a request")
    };
    rest.send(Bytes::from_static(b"some")).await.expect("the body is read");
    let under_way = tokio::spawn(sender.send_request(request("/slow", slow)));
    let first = in_time(sender.send_request(request("/", empty()))).await;
    assert_eq!(first.status(), 200);
    let last = in_time(sender.send_request(request("/last", empty()))).await;
    assert_eq!((last.status().as_u16(), last.headers().get(CONNECTION)), (200, None));
    // the client is told, and has to take another connection
    let refused = async { while sender.send_request(request("/", empty())).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, refused).await.expect("GOAWAY");
    assert!(!under_way.is_finished());
    drop(rest);
    assert_eq!(in_time(async { under_way.await.expect("no panic") }).await.status(), 200);
    shutdown.cancel();
}

#[tokio::test]
async fn a_crowd_may_wait_to_be_let_in() {
    // nobody is let in while the one slot is taken
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let shutdown = CancellationToken::new();
    let handler = |request: Request| -> BoxFuture<'static, Response> { Box::pin(answer(request)) };
    let limits = Limits { connections: 1, ..Limits::default() };
    tokio::spawn(serve(listener, None, Arc::new(handler), limits, shutdown.clone()));
    let mut waiting = Vec::new();
    for i in 0..300 {
        let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(address));
        waiting.push(connecting.await.unwrap_or_else(|_| panic!("{i} are waiting")).expect("a connection"));
    }
    shutdown.cancel();
}
