//! A whole server in this process, with a store in memory: requests from their first line to their answer, and values
//! in the store that nobody checked.
//!
//! Nothing leaves the process: subresources by which the server dials a node or a pod are not asked for.

use apimachinery::Value;
use apiserver::InProcess;
use apiserver::query::Query;
use apiserver::requestinfo::RequestInfo;
use auth::UserInfo;
use bytes::Bytes;
use component::http::{Response, full};
use controlplane::dev::Dev;
use controlplane::{ControlPlane, StorageConfig};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use storage::Op;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::seeds;

/// Writes after which the server is begun anew, so that what is kept in memory stays small.
const MAX_WRITES: u32 = 500;
/// Headers of a request that are taken over.
const MAX_HEADERS: usize = 16;
/// What makes the server dial somebody.
const DIALLING: [&str; 5] = ["proxy", "log", "exec", "attach", "portforward"];
/// Places of values that [`stored`] makes up, with the path that reads them.
const PLACES: [(&str, &str); 4] = [
    ("/registry/configmaps/default/fuzz", "/api/v1/namespaces/default/configmaps"),
    ("/registry/pods/default/fuzz", "/api/v1/namespaces/default/pods"),
    ("/registry/deployments/default/fuzz", "/apis/apps/v1/namespaces/default/deployments"),
    ("/registry/events/default/fuzz", "/apis/events.k8s.io/v1/namespaces/default/events"),
];

/// A server and how much was written to it.
struct World {
    runtime: Runtime,
    plane: ControlPlane,
    shutdown: CancellationToken,
    writes: u32,
}

impl World {
    fn start() -> Self {
        component::install_crypto();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let dev = Dev::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), StorageConfig::Memory).expect("keys");
        let shutdown = CancellationToken::new();
        let plane =
            runtime.block_on(ControlPlane::start(dev.config, shutdown.clone())).expect("the server starts");
        let mut world = Self { runtime, plane, shutdown, writes: 0 };
        for creation in seeds::creations() {
            // some need what is not there; the others are enough to work on
            world.send(creation.into_request());
        }
        world.writes = 0;
        world
    }

    fn send(&mut self, request: Request<Vec<u8>>) -> (http::response::Parts, Bytes) {
        let (mut parts, body) = request.into_parts();
        let user = UserInfo::new("fuzzer", &["system:masters", "system:authenticated"]);
        parts.extensions.insert(InProcess(Arc::new(user)));
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let watches = RequestInfo::of(&parts.method, &parts.uri, &query).verb == "watch";
        let server = Arc::clone(self.plane.server());
        let request = Request::from_parts(parts, full(body));
        let answer = self.runtime.block_on(async move {
            let response: Response = server.respond(request).await;
            let (parts, body) = response.into_parts();
            // a watch that has begun does not end
            let bytes = if watches && parts.status.is_success() {
                Bytes::new()
            } else {
                body.collect().await.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes)
            };
            (parts, bytes)
        });
        self.writes += u32::from(!reads && answer.0.status.is_success());
        answer
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.runtime.block_on(self.plane.wait());
    }
}

/// Runs with the one server of this process.
fn with_world<T>(run: impl FnOnce(&mut World) -> T) -> T {
    static WORLD: Mutex<Option<World>> = Mutex::new(None);
    let mut world = WORLD.lock();
    if world.as_ref().is_some_and(|world| world.writes > MAX_WRITES) {
        *world = None;
    }
    run(world.get_or_insert_with(World::start))
}

/// A request as text: `METHOD TARGET`, a header a line, an empty line, the body. `None` for what no HTTP server passes on.
fn parse(data: &[u8]) -> Option<Request<Vec<u8>>> {
    let mut rest = data;
    let mut line = || {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (line, after) = end.map_or((rest, &[][..]), |end| (&rest[..end], &rest[end + 1..]));
        rest = after;
        line
    };
    let mut first = line().splitn(2, |byte| *byte == b' ');
    let method = Method::from_bytes(first.next()?).ok()?;
    let uri = Uri::try_from(first.next()?).ok()?;
    let mut request = Request::new(Vec::new());
    loop {
        let header = line();
        if header.is_empty() || request.headers().len() >= MAX_HEADERS {
            break;
        }
        let mut halves = header.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(halves.next()?).ok()?;
        let value = HeaderValue::from_bytes(halves.next()?.trim_ascii()).ok()?;
        request.headers_mut().append(name, value);
    }
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.body_mut() = rest.to_vec();
    Some(request)
}

/// What every answer must be: no accident of the server's, and a Status where it is a failure.
fn check(request: &str, is_resource: bool, parts: &http::response::Parts, bytes: &[u8]) {
    let content_type = parts.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let failed = parts.status.is_client_error() || parts.status.is_server_error();
    if !failed || !is_resource || bytes.is_empty() || content_type != Some("application/json") {
        return;
    }
    let status: Value = serde_json::from_slice(bytes).expect("an answer said to be JSON is JSON");
    assert_eq!(status["kind"], "Status", "{request}: {status}");
    assert_eq!(status["code"], parts.status.as_u16(), "{request}: {status}");
    assert_ne!(status["reason"], "InternalError", "{request}: {status}");
}

/// A request: method, target, headers, body.
pub fn request(data: &[u8]) {
    let _ = answer(data);
}

/// The answer to a [`request`], in short.
pub fn answer(data: &[u8]) -> String {
    let Some(request) = parse(data) else { return "no request".into() };
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let info = RequestInfo::of(request.method(), request.uri(), &query);
    if info.parts.iter().any(|part| DIALLING.contains(&part.as_str())) {
        return "not asked".into();
    }
    let shown = format!("{} {}", request.method(), request.uri());
    with_world(|world| {
        let (parts, bytes) = world.send(request);
        check(&shown, info.is_resource, &parts, &bytes);
        let text: String = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        format!("{} of {} bytes: {text}", parts.status.as_u16(), bytes.len())
    })
}

/// A value in the store; the first byte chooses where. Whatever it is, it is served or refused, and so is the list it is in.
pub fn stored(data: &[u8]) {
    let Some((place, value)) = data.split_first() else { return };
    let (key, list) = PLACES[usize::from(*place) % PLACES.len()];
    with_world(|world| {
        let storage = Arc::clone(world.plane.server().store().storage());
        let put = Op::Put { key: key.into(), value: value.to_vec().into(), lease: None };
        world.runtime.block_on(storage.txn(Vec::new(), vec![put])).expect("there is room");
        world.writes += 1;
        for (method, target, accept) in [
            (Method::GET, format!("{list}/fuzz"), "application/json"),
            (Method::GET, list.to_owned(), "application/json"),
            (Method::GET, list.to_owned(), "application/json;as=Table;g=meta.k8s.io;v=v1"),
            (Method::GET, list.to_owned(), "application/vnd.kubernetes.protobuf"),
            (Method::PATCH, format!("{list}/fuzz"), "application/json"),
            (Method::DELETE, format!("{list}/fuzz?gracePeriodSeconds=0"), "application/json"),
        ] {
            let mut request = Request::new(Vec::new());
            request.headers_mut().insert("accept", HeaderValue::from_static(accept));
            if method == Method::PATCH {
                let kind = HeaderValue::from_static("application/merge-patch+json");
                request.headers_mut().insert("content-type", kind);
                *request.body_mut() = br#"{"metadata":{"labels":{"a":"b"}}}"#.to_vec();
            }
            *request.method_mut() = method;
            *request.uri_mut() = Uri::try_from(target).expect("a path");
            let (parts, bytes) = world.send(request);
            if accept == "application/json" && !parts.status.is_success() {
                let status: Value = serde_json::from_slice(&bytes).expect("a Status");
                assert_eq!(status["kind"], "Status", "{status}");
                let text = status["message"].as_str().unwrap_or_default();
                assert!(!text.contains("caused apiserver to panic"), "{status}");
            }
        }
        let delete = Op::Delete { key: key.into() };
        world.runtime.block_on(storage.txn(Vec::new(), vec![delete])).expect("a deletion needs no room");
    });
}
