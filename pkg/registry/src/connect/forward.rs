//! Handing a request through: headers, bodies, upgrades.
//! Source: `k8s.io/apimachinery/pkg/util/proxy/upgradeaware.go`, RFC 9110 section 7.6.1.

use std::net::IpAddr;

use apimachinery::status::Status;
use apiserver::Open;
use component::http::{Body, boxed, empty, full};
use component::serving::ConnInfo;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::rewrite::{self, Rewriter};
use super::{Connector, Location};

/// Headers that are about one connection only.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
];
/// Largest HTML page whose links are rewritten.
const MAX_HTML_BYTES: usize = 16 << 20;

/// Whether a request asks for another protocol.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade")))
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(UPGRADE);
}

/// The request as it goes out.
pub(super) fn outgoing(
    method: Method,
    mut headers: HeaderMap,
    location: &Location,
    peer: Option<IpAddr>,
    upgrade: bool,
) -> Result<Request<()>, Status> {
    let bad = |e: &dyn std::fmt::Display| Status::bad_request(format!("cannot proxy this request: {e}"));
    // who the client is has been decided here and is nobody else's business
    headers.remove(AUTHORIZATION);
    if upgrade {
        for name in HOP_BY_HOP.iter().filter(|n| **n != "connection") {
            headers.remove(*name);
        }
    } else {
        drop_hop_by_hop(&mut headers);
    }
    let original_host = headers.remove(HOST);
    headers.insert(HOST, HeaderValue::from_str(&location.authority()).map_err(|e| bad(&e))?);
    if let Some(host) = original_host {
        headers.entry("x-forwarded-host").or_insert(host);
    }
    if let Some(peer) = peer {
        let before = headers.get("x-forwarded-for").and_then(|v| v.to_str().ok()).map(|v| format!("{v}, "));
        let value = format!("{}{peer}", before.unwrap_or_default());
        headers.insert("x-forwarded-for", HeaderValue::from_str(&value).map_err(|e| bad(&e))?);
    }
    let path = if location.path.is_empty() { "/" } else { &location.path };
    let target =
        if location.query.is_empty() { path.to_owned() } else { format!("{path}?{}", location.query) };
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = target.parse::<Uri>().map_err(|e| bad(&e))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Hands a request through to a location and its answer back. With a rewriter, links in HTML pages and redirects are
/// made to lead through the proxy.
pub(super) async fn forward(
    connector: &Connector,
    mut request: Request<Body>,
    location: &Location,
    rewriter: Option<&Rewriter>,
) -> Result<Response<Body>, Status> {
    let peer = request.extensions().get::<std::sync::Arc<ConnInfo>>().map(|info| info.peer.ip());
    let upgrade = is_upgrade(request.headers());
    let mut headers = request.headers().clone();
    if rewriter.is_some() && !upgrade {
        // what is to be rewritten must be readable
        headers.remove(ACCEPT_ENCODING);
    }
    let out = outgoing(request.method().clone(), headers, location, peer, upgrade)?;
    if upgrade {
        return splice(connector, &mut request, out.map(|()| empty()), location).await;
    }
    let body = std::mem::replace(request.body_mut(), empty());
    let answer = connector.send(location, out.map(|()| body)).await;
    let answer = answer
        .map_err(|error| Status::service_unavailable(format!("error trying to reach service: {error}")))?;
    pass_back(answer, location, rewriter).await
}

pub(super) async fn pass_back(
    answer: Response<Incoming>,
    location: &Location,
    rewriter: Option<&Rewriter>,
) -> Result<Response<Body>, Status> {
    let (mut head, body) = answer.into_parts();
    drop_hop_by_hop(&mut head.headers);
    let Some(rewriter) = rewriter else { return Ok(Response::from_parts(head, boxed(body))) };
    if let Some(target) = head.headers.get(LOCATION).and_then(|v| v.to_str().ok())
        && let Ok(value) = HeaderValue::from_str(&rewriter.url(target, location))
    {
        head.headers.insert(LOCATION, value);
    }
    let html = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(rewrite::is_html);
    if !html || head.headers.contains_key("content-encoding") {
        return Ok(Response::from_parts(head, boxed(body)));
    }
    let page = Limited::new(body, MAX_HTML_BYTES).collect().await;
    let page =
        page.map_err(|e| Status::service_unavailable(format!("error reading the proxied page: {e}")))?;
    let page = rewriter.html(&page.to_bytes(), location);
    head.headers.insert(CONTENT_LENGTH, page.len().into());
    head.headers.remove(TRANSFER_ENCODING);
    Ok(Response::from_parts(head, full(page)))
}

/// Hands an upgrade through: when the other side switches protocols, both connections become one pipe.
async fn splice(
    connector: &Connector,
    request: &mut Request<Body>,
    out: Request<Body>,
    location: &Location,
) -> Result<Response<Body>, Status> {
    let open = Open::of(request.extensions());
    let ours = hyper::upgrade::on(request);
    let mut answer = connector
        .send(location, out)
        .await
        .map_err(|error| Status::internal(format!("error dialing backend: {error}")))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return pass_back(answer, location, None).await;
    }
    let theirs = hyper::upgrade::on(&mut answer);
    let (mut head, _) = answer.into_parts();
    head.extensions.clear();
    connector.spawn(async move {
        let _open = open;
        match tokio::try_join!(ours, theirs) {
            Ok((ours, theirs)) => {
                let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                if let Err(error) = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await {
                    tracing::debug!(%error, "upgraded connection ended");
                }
            }
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        }
    });
    Ok(Response::from_parts(head, empty()))
}

#[cfg(test)]
mod tests {
    use super::super::Trust;
    use super::*;

    fn location() -> Location {
        Location {
            secure: false,
            host: "10.0.0.1".into(),
            port: 80,
            path: "/a".into(),
            query: "b=c".into(),
            trust: Trust::Anything,
        }
    }

    #[test]
    fn headers_go_out_clean() {
        let mut headers = HeaderMap::new();
        for (key, value) in [
            ("authorization", "Bearer x"),
            ("connection", "X-Mine, Upgrade"),
            ("x-mine", "1"),
            ("upgrade", "SPDY/3.1"),
            ("te", "trailers"),
            ("host", "api:6443"),
            ("x-forwarded-for", "1.1.1.1"),
            ("accept", "*/*"),
        ] {
            headers.insert(key, value.parse().expect("value"));
        }
        let peer = Some("2.2.2.2".parse().expect("ip"));
        let plain = outgoing(Method::GET, headers.clone(), &location(), peer, false).expect("request");
        let names: Vec<&str> = plain.headers().keys().map(HeaderName::as_str).collect();
        for gone in ["authorization", "connection", "x-mine", "upgrade", "te"] {
            assert!(!names.contains(&gone), "{gone}");
        }
        assert_eq!(plain.headers()["host"], "10.0.0.1:80");
        assert_eq!(plain.headers()["x-forwarded-for"], "1.1.1.1, 2.2.2.2");
        assert_eq!(plain.headers()["x-forwarded-host"], "api:6443");
        assert_eq!(plain.uri(), "/a?b=c");
        let upgrade = outgoing(Method::GET, headers, &location(), None, true).expect("request");
        assert_eq!(upgrade.headers()["upgrade"], "SPDY/3.1");
        assert!(is_upgrade(upgrade.headers()) && !is_upgrade(plain.headers()));
    }

    /// A server on loopback: echoes what it is asked, and upgrades to a protocol that echoes bytes.
    async fn server(shutdown: tokio_util::sync::CancellationToken) -> Location {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("address").port();
        let handler = |mut request: Request<Body>| -> futures::future::BoxFuture<'static, Response<Body>> {
            Box::pin(async move {
                if is_upgrade(request.headers()) {
                    let upgrade = hyper::upgrade::on(&mut request);
                    tokio::spawn(async move {
                        let stream = TokioIo::new(upgrade.await.expect("upgraded"));
                        let (mut from, mut to) = tokio::io::split(stream);
                        let _ = tokio::io::copy(&mut from, &mut to).await;
                    });
                    let switching = Response::builder()
                        .status(101)
                        .header("connection", "Upgrade")
                        .header("upgrade", "echo");
                    return switching.body(empty()).expect("response");
                }
                let authorized = request.headers().contains_key(AUTHORIZATION);
                let text = format!("<a href=\"/x\">{} {authorized}</a>", request.uri());
                Response::builder().header(CONTENT_TYPE, "text/html").body(full(text)).expect("response")
            })
        };
        let handler = std::sync::Arc::new(handler);
        let limits = component::serving::Limits::default();
        tokio::spawn(component::serving::serve(listener, None, handler, limits, shutdown));
        Location { host: "127.0.0.1".into(), port, ..location() }
    }

    #[tokio::test]
    async fn requests_go_through_and_links_come_back() {
        let shutdown = tokio_util::sync::CancellationToken::new();
        let target = server(shutdown.clone()).await;
        let connector =
            Connector::new(&super::super::KubeletConfig::default(), shutdown.clone()).expect("connector");
        let rewriter = Rewriter { prefix: "/proxy".into(), host: "api".into() };
        let request = Request::builder()
            .uri("/ignored")
            .header(AUTHORIZATION, "Bearer x")
            .body(empty())
            .expect("request");
        let answer = forward(&connector, request, &target, Some(&rewriter)).await.expect("answer");
        let body = answer.into_body().collect().await.expect("body").to_bytes();
        assert_eq!(body, "<a href=\"/proxy/x\">/a?b=c false</a>");
        let gone = Location { port: 1, ..target };
        let request = Request::builder().body(empty()).expect("request");
        let refused = forward(&connector, request, &gone, None).await.expect_err("nobody there");
        assert_eq!(refused.code, 503);
        assert!(
            refused.message.ends_with("dial tcp 127.0.0.1:1: connect: connection refused"),
            "{}",
            refused.message
        );
        shutdown.cancel();
        connector.stop().await;
    }

    #[tokio::test]
    async fn upgrades_become_a_pipe() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let shutdown = tokio_util::sync::CancellationToken::new();
        let target = server(shutdown.clone()).await;
        let connector =
            Connector::new(&super::super::KubeletConfig::default(), shutdown.clone()).expect("connector");
        let connector = std::sync::Arc::new(connector);
        // a proxy in front, as the API server is one
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let through = connector.clone();
        let proxy = move |request: Request<Body>| -> futures::future::BoxFuture<'static, Response<Body>> {
            let (through, target) = (through.clone(), target.clone());
            Box::pin(async move { forward(&through, request, &target, None).await.expect("forwarded") })
        };
        let limits = component::serving::Limits::default();
        tokio::spawn(component::serving::serve(
            listener,
            None,
            std::sync::Arc::new(proxy),
            limits,
            shutdown.clone(),
        ));
        let mut client = tokio::net::TcpStream::connect(address).await.expect("connected");
        let head = "POST /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\nContent-Length: 0\r\n\r\n";
        client.write_all(head.as_bytes()).await.expect("sent");
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(client.read_u8().await.expect("head"));
        }
        assert!(seen.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&seen));
        client.write_all(b"hello").await.expect("sent");
        let mut echoed = [0; 5];
        client.read_exact(&mut echoed).await.expect("echo");
        assert_eq!(&echoed, b"hello");
        shutdown.cancel();
        connector.stop().await;
    }
}
