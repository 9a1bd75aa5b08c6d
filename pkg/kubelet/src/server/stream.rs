//! Exec, attach and port forwarding: the runtime streams, the kubelet passes the bytes on.
//!
//! No protocol is spoken here. Whatever the client asks to upgrade to (SPDY, WebSocket) is asked of the runtime's
//! streaming server, and its answer decides; after `101` both sides are one pipe.

use std::time::Duration;

use component::http::{Request, Response, boxed};
use cri::api;
use http::{StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Query, Server, fail};
use crate::podutil::PodExt;

/// Longest wait for the runtime's streaming server to answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// Headers that make an upgrade, passed on as they are.
const PASSED: [&str; 10] = [
    "connection",
    "upgrade",
    "x-stream-protocol-version",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "origin",
    "user-agent",
    "content-length",
];

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    /// The kubelet's own names are `input`, `output` and `error`; the API's are accepted as well.
    fn parse(query: &Query) -> Result<Self, String> {
        let either = |a: &str, b: &str| query.flag(a) || query.flag(b);
        let tty = query.flag("tty");
        let mut stderr = either("error", "stderr");
        // A terminal has no second output.
        if tty && stderr {
            stderr = false;
        }
        let streams =
            Self { stdin: either("input", "stdin"), stdout: either("output", "stdout"), stderr, tty };
        if !streams.stdin && !streams.stdout && !streams.stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr".to_owned());
        }
        Ok(streams)
    }
}

impl Server {
    pub(super) async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
        request: Request,
    ) -> Response {
        let streams = match Streams::parse(query) {
            Ok(streams) => streams,
            Err(why) => return fail(StatusCode::BAD_REQUEST, why),
        };
        let id = match self.running_container(namespace, pod, container) {
            Ok(id) => id,
            Err(refusal) => return refusal.into(),
        };
        let wanted = api::ExecRequest {
            container_id: id,
            cmd: query.all("command"),
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        self.forward(self.kubelet.runtime.exec(wanted).await, request).await
    }

    pub(super) async fn attach(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
        request: Request,
    ) -> Response {
        let streams = match Streams::parse(query) {
            Ok(streams) => streams,
            Err(why) => return fail(StatusCode::BAD_REQUEST, why),
        };
        let id = match self.running_container(namespace, pod, container) {
            Ok(id) => id,
            Err(refusal) => return refusal.into(),
        };
        // Whether there is a terminal was decided when the container was made.
        let tty = self
            .overview
            .find(namespace, pod)
            .and_then(|p| crate::podutil::find_container(&p, container))
            .is_some_and(|(_, c)| c.tty == Some(true));
        let wanted = api::AttachRequest {
            container_id: id,
            stdin: streams.stdin,
            tty,
            stdout: streams.stdout,
            stderr: streams.stderr && !tty,
        };
        self.forward(self.kubelet.runtime.attach(wanted).await, request).await
    }

    pub(super) async fn port_forward(
        &self,
        namespace: &str,
        pod: &str,
        query: &Query,
        request: Request,
    ) -> Response {
        let Some(pod) = self.overview.find(namespace, pod) else {
            return fail(StatusCode::NOT_FOUND, "pod does not exist");
        };
        let ports: Vec<i32> =
            query.all("port").iter().flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
        let labels = [(crate::names::POD_UID, pod.uid())];
        let sandboxes = match self.kubelet.runtime.list_sandboxes(&labels).await {
            Ok(sandboxes) => sandboxes,
            Err(error) => return fail(StatusCode::INTERNAL_SERVER_ERROR, error),
        };
        let Some(sandbox) = sandboxes.into_iter().find(|s| s.state() == api::PodSandboxState::SandboxReady)
        else {
            return fail(
                StatusCode::NOT_FOUND,
                format!("failed to find sandbox {:?} in ready state", pod.name()),
            );
        };
        self.forward(self.kubelet.runtime.port_forward(&sandbox.id, ports).await, request).await
    }

    async fn forward(&self, url: cri::Result<String>, request: Request) -> Response {
        let url = match url {
            Ok(url) => url,
            Err(error) => return fail(StatusCode::INTERNAL_SERVER_ERROR, error),
        };
        match tokio::time::timeout(CONNECT_LIMIT, splice(&url, request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(why)) => fail(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("error proxying to the container runtime: {why}"),
            ),
            Err(_) => {
                fail(StatusCode::GATEWAY_TIMEOUT, "the container runtime's streaming server does not answer")
            }
        }
    }
}

/// Sends the request to `url`, and ties both connections together when the answer is an upgrade.
async fn splice(url: &str, mut request: Request) -> Result<Response, String> {
    let uri: Uri = url.parse().map_err(|_| format!("malformed streaming URL {url:?}"))?;
    let host = uri.host().ok_or_else(|| format!("streaming URL {url:?} names no host"))?;
    let port = uri.port_u16().unwrap_or(80);
    if uri.scheme_str() != Some("http") {
        return Err(format!("streaming URL {url:?}: only http is supported"));
    }
    let stream =
        TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Lives as long as the stream: ends when either side hangs up.
    tokio::spawn(connection.with_upgrades());
    let mut onward = http::Request::builder()
        .method(request.method().clone())
        .uri(uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str))
        .header(header::HOST, format!("{host}:{port}"));
    for (name, value) in request.headers() {
        if PASSED.contains(&name.as_str()) {
            onward = onward.header(name, value);
        }
    }
    let onward = onward.body(component::http::empty()).map_err(|e| e.to_string())?;
    let mut answer = sender.send_request(onward).await.map_err(|e| e.to_string())?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer.map(boxed));
    }
    let (client_side, runtime_side) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
    tokio::spawn(async move {
        let (client_side, runtime_side) = match tokio::try_join!(client_side, runtime_side) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "a stream was not upgraded");
                return;
            }
        };
        let (mut a, mut b) = (TokioIo::new(client_side), TokioIo::new(runtime_side));
        // A side that hangs up ends the other; how it did is of no interest.
        let _ = tokio::io::copy_bidirectional(&mut a, &mut b).await;
    });
    let (parts, _) = answer.into_parts();
    Ok(http::Response::from_parts(parts, component::http::empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams() {
        let parse = |q: &str| Streams::parse(&Query::parse(q));
        assert_eq!(
            parse("input=1&output=1&error=1&tty=1"),
            Ok(Streams { stdin: true, stdout: true, stderr: false, tty: true })
        );
        assert_eq!(
            parse("stdout=true"),
            Ok(Streams { stdin: false, stdout: true, stderr: false, tty: false })
        );
        assert!(parse("command=x").is_err());
    }
}
