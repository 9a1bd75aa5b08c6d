//! `pods/log`, `pods/exec`, `pods/attach`, `pods/portforward`: at the kubelet; `pods/proxy`: at the pod.
//! Source: `k8s.io/kubernetes/pkg/registry/core/pod/{strategy.go,rest}`.

use std::sync::Arc;

use admission::Operation;
use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{at, name, str_at};
use apimachinery::status::{FieldError, Reason, Status};
use apiserver::query::Query;
use apiserver::websocket;
use apiserver::{Call, RequestContext, ResourceStore, SubresourceHandler};
use async_trait::async_trait;
use auth::Authorizer;
use auth::authz::{Attributes, forbidden_status};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use component::http::{Body, boxed, empty};
use futures::StreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::forward::{forward, is_upgrade};
use super::metrics::StreamMetrics;
use super::nodes::proxied;
use super::translate::{self, Channels};
use super::{Connector, Location, Trust, is_global_unicast, kubelet, split_scheme_name_port, tunnel};
use crate::names::core;

/// Characters that stay in a query value, as Go's `url.QueryEscape` leaves them.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Most of a kubelet's error text that is told to the client.
const MAX_ERROR_BYTES: usize = 2 << 10;

/// Subprotocols in which logs can be had over WebSocket, and whether their messages are binary.
const LOG_PROTOCOLS: [(&str, bool); 2] = [("binary.k8s.io", true), ("base64.binary.k8s.io", false)];

/// What a handler of a pod's streams needs.
#[derive(Clone)]
pub(crate) struct Stream {
    /// Opens connections.
    pub(crate) connector: Arc<Connector>,
    /// Kinds of node addresses, the preferred first.
    pub(crate) address_types: Arc<[String]>,
    /// Asked again about WebSockets, which are opened by GET.
    pub(crate) authorizer: Arc<dyn Authorizer>,
    /// Counts what is translated.
    pub(crate) metrics: StreamMetrics,
}

/// Query parameters as Go prints them: sorted by key.
#[derive(Default)]
struct Params(Vec<(&'static str, String)>);

impl Params {
    fn add(&mut self, key: &'static str, value: impl Into<String>) {
        self.0.push((key, value.into()));
    }

    fn encode(mut self) -> String {
        self.0.sort_by_key(|(key, _)| *key);
        let pairs: Vec<String> =
            self.0.iter().map(|(k, v)| format!("{k}={}", utf8_percent_encode(v, QUERY))).collect();
        pairs.join("&")
    }
}

fn names_of(pod: &Value, list: &str) -> Vec<String> {
    at(pod, &["spec", list])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|c| str_at(c, &["name"]).to_owned())
        .collect()
}

/// The container that is meant: the one named, or the only one.
fn container(pod: &Value, asked: &str) -> Result<String, Status> {
    let (main, init) = (names_of(pod, "containers"), names_of(pod, "initContainers"));
    if asked.is_empty() {
        return match main.as_slice() {
            [one] => Ok(one.clone()),
            [] => {
                Err(Status::bad_request(format!("a container name must be specified for pod {}", name(pod))))
            }
            _ => {
                let mut why = format!(
                    "a container name must be specified for pod {}, choose one of: [{}]",
                    name(pod),
                    main.join(" ")
                );
                if !init.is_empty() {
                    why.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(Status::bad_request(why))
            }
        };
    }
    let ephemeral = names_of(pod, "ephemeralContainers");
    if [&main, &init, &ephemeral].iter().any(|list| list.iter().any(|n| n == asked)) {
        return Ok(asked.to_owned());
    }
    Err(Status::bad_request(format!("container {asked} is not valid for pod {}", name(pod))))
}

/// The options of a log request as the kubelet takes them.
fn log_params(query: &Query) -> Result<String, Vec<FieldError>> {
    let mut params = Params::default();
    let mut errors = Vec::new();
    for flag in ["follow", "previous", "timestamps"] {
        if query.flag(flag) {
            params.add(flag, "true");
        }
    }
    for (key, least) in [("sinceSeconds", 1), ("tailLines", 0), ("limitBytes", 1)] {
        match query.integer(key) {
            Ok(None) => {}
            Ok(Some(n)) if n >= least => params.add(key, n.to_string()),
            Ok(Some(n)) => {
                let why =
                    if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
                errors.push(FieldError::invalid(key, n, why));
            }
            Err(text) => errors.push(FieldError::invalid(key, text.as_str(), "must be an integer")),
        }
    }
    if let Some(time) = query.get("sinceTime").filter(|t| !t.is_empty()) {
        if query.get("sinceSeconds").is_some_and(|s| !s.is_empty()) {
            errors.push(FieldError::forbidden(
                "",
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ));
        }
        match time.parse::<jiff::Timestamp>() {
            Ok(_) => params.add("sinceTime", time),
            Err(_) => errors.push(FieldError::invalid("sinceTime", time, "must be an RFC 3339 time")),
        }
    }
    match query.get("stream").unwrap_or("All") {
        stream @ ("All" | "Stdout" | "Stderr") => {
            if stream != "All" && query.get("tailLines").is_some_and(|t| !t.is_empty()) {
                errors.push(FieldError::forbidden(
                    "",
                    "`tailLines` and specific `stream` are mutually exclusive for now",
                ));
            }
            params.add("stream", stream);
        }
        other => errors.push(FieldError::not_supported("stream", other, &["All", "Stderr", "Stdout"])),
    }
    if errors.is_empty() { Ok(params.encode()) } else { Err(errors) }
}

impl Stream {
    /// Whoever may only read pods must not run things in them: a stream opened by GET needs the verb `create`, too.
    async fn may_open(&self, context: &RequestContext, by_get: bool) -> Result<(), Status> {
        if !by_get {
            return Ok(());
        }
        let info = &context.info;
        let resource = format!("{}/{}", info.resource, info.subresource);
        let create = Attributes::resource(
            &context.user,
            "create",
            &info.group,
            &resource,
            &info.namespace,
            &info.name,
        );
        let answer = self.authorizer.authorize(&create).await;
        if answer.allowed() { Ok(()) } else { Err(forbidden_status(&create, &answer.reason)) }
    }

    /// The kubelet of a pod, `None` while it has no node.
    async fn kubelet(&self, store: &ResourceStore, pod: &Value) -> Result<Option<Location>, Status> {
        match str_at(pod, &["spec", "nodeName"]) {
            "" => Ok(None),
            node => kubelet::locate(store, &self.address_types, node).await.map(Some),
        }
    }
}

/// `pods/log`.
pub(crate) struct PodLog(pub(crate) Stream);

/// The status a kubelet's refusal turns into.
fn refusal(code: StatusCode, text: &str) -> Status {
    let text = text.trim();
    match code.as_u16() {
        400 => Status::bad_request(text),
        500 => Status::internal(text),
        code => Status::new(
            code,
            Reason::Unknown,
            format!("an error on the server ({text:?}) has prevented the request from succeeding"),
        ),
    }
}

#[async_trait]
impl SubresourceHandler for PodLog {
    async fn handle(&self, call: Call) -> Result<Response<Body>, Status> {
        let query = Arc::clone(&call.context.query);
        let options = log_params(&query)
            .map_err(|errors| Status::invalid("", "PodLogOptions", &call.context.info.name, &errors))?;
        let info = Arc::clone(&call.context.info);
        let pod = call.store.get(&core("pods"), &info.namespace, &info.name).await?;
        let container = container(&pod, query.get("container").unwrap_or(""))?;
        let Some(mut location) = self.0.kubelet(&call.store, &pod).await? else {
            // nothing has run, so nothing was said
            let mut nothing = Response::new(empty());
            *nothing.status_mut() = StatusCode::NO_CONTENT;
            return Ok(nothing);
        };
        location.path = format!("/containerLogs/{}/{}/{container}", info.namespace, info.name);
        location.query = options;
        if query.flag("insecureSkipTLSVerifyBackend") {
            location.trust = Trust::KubeletUnchecked;
        }
        let request = Request::builder()
            .uri(format!("{}?{}", location.path, location.query))
            .header(http::header::HOST, location.authority())
            .body(empty())
            .map_err(Status::internal)?;
        let answer = self.0.connector.send(&location, request).await;
        let answer = answer.map_err(|e| Status::internal(format!("Get {:?}: {e}", location.url())))?;
        let code = answer.status();
        if code.is_success() {
            return stream_log(call.request, boxed(answer.into_body()));
        }
        let text = Limited::new(answer.into_body(), MAX_ERROR_BYTES).collect().await;
        let text = text.map(|t| String::from_utf8_lossy(&t.to_bytes()).into_owned()).unwrap_or_default();
        Err(refusal(code, &text))
    }

    fn long_running(&self) -> bool {
        true
    }
}

/// A log as text, or as WebSocket messages where the client asks for them.
fn stream_log(request: Request<Body>, log: Body) -> Result<Response<Body>, Status> {
    if !websocket::is_wanted(request.headers()) {
        return Ok(text_plain(log));
    }
    let asked: Vec<String> = websocket::protocols(request.headers()).map(str::to_owned).collect();
    let chosen = LOG_PROTOCOLS.into_iter().find(|(name, _)| asked.iter().any(|a| a == name));
    if chosen.is_none() && !asked.is_empty() {
        return Err(Status::bad_request(format!("unsupported protocols: {}", asked.join(", "))));
    }
    let binary = chosen.is_none_or(|(_, binary)| binary);
    let encode = move |bytes: Bytes| if binary { bytes } else { STANDARD.encode(bytes).into() };
    let lines =
        log.into_data_stream().filter_map(move |piece| futures::future::ready(piece.ok().map(encode)));
    // an empty message first tells the client that the connection stands
    let messages = futures::stream::once(futures::future::ready(Bytes::new())).chain(lines);
    websocket::serve(request.into_parts().0, binary, chosen.map(|(name, _)| name), messages)
}

fn text_plain(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The three streams into a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exec,
    Attach,
    PortForward,
}

/// `pods/exec`, `pods/attach`, `pods/portforward`.
pub(crate) struct PodStream {
    stream: Stream,
    kind: Kind,
}

impl PodStream {
    pub(crate) fn exec(stream: Stream) -> Self {
        Self { stream, kind: Kind::Exec }
    }

    pub(crate) fn attach(stream: Stream) -> Self {
        Self { stream, kind: Kind::Attach }
    }

    pub(crate) fn port_forward(stream: Stream) -> Self {
        Self { stream, kind: Kind::PortForward }
    }
}

/// The options of a stream, as admission sees them and as the kubelet takes them.
fn stream_options(kind: Kind, query: &Query) -> Result<(Value, String), Status> {
    let mut params = Params::default();
    if kind == Kind::PortForward {
        let mut ports = Vec::new();
        for text in query.all("ports").flat_map(|p| p.split(',')).filter(|p| !p.is_empty()) {
            let port: u16 =
                text.parse().map_err(|_| Status::bad_request(format!("invalid port {text:?}")))?;
            ports.push(port);
        }
        if !ports.is_empty() {
            let joined: Vec<String> = ports.iter().map(u16::to_string).collect();
            params.add("port", joined.join(","));
        }
        return Ok((
            json!({"kind": "PodPortForwardOptions", "apiVersion": "v1", "ports": ports}),
            params.encode(),
        ));
    }
    let kind_name = if kind == Kind::Exec { "PodExecOptions" } else { "PodAttachOptions" };
    let mut options = json!({"kind": kind_name, "apiVersion": "v1"});
    for (key, param) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(key) {
            options[key] = json!(true);
            params.add(param, "1");
        }
    }
    if let Some(container) = query.get("container").filter(|c| !c.is_empty()) {
        options["container"] = json!(container);
    }
    if kind == Kind::Exec {
        let command: Vec<&str> = query.all("command").collect();
        for word in &command {
            params.add("command", *word);
        }
        options["command"] = json!(command);
    }
    Ok((options, params.encode()))
}

impl PodStream {
    /// WebSocket clients are translated to what kubelets speak; everything else is handed through as it is.
    async fn connect(
        &self,
        request: Request<Body>,
        location: Location,
        query: &Query,
    ) -> Result<Response<Body>, Status> {
        let (connector, metrics) = (&self.stream.connector, self.stream.metrics.clone());
        if self.kind == Kind::PortForward {
            if tunnel::is_wanted(&request) {
                return tunnel::tunnel(connector, request, &location, |code| metrics.tunnelled(code)).await;
            }
        } else if translate::is_wanted(&request) {
            let channels = Channels {
                stdin: query.flag("stdin"),
                stdout: query.flag("stdout"),
                stderr: query.flag("stderr"),
                tty: query.flag("tty"),
            };
            let finished = move |code| metrics.translated(code);
            return translate::translate(connector, request, location, channels, finished);
        }
        forward(connector, request, &location, None).await
    }
}

#[async_trait]
impl SubresourceHandler for PodStream {
    async fn handle(&self, call: Call) -> Result<Response<Body>, Status> {
        let query = Arc::clone(&call.context.query);
        let opens_by_get = call.request.method() == Method::GET && is_upgrade(call.request.headers());
        self.stream.may_open(&call.context, opens_by_get).await?;
        let (mut options, params) = stream_options(self.kind, &query)?;
        call.admit(Operation::Connect, &mut options, false).await?;
        let info = Arc::clone(&call.context.info);
        let pod = call.store.get(&core("pods"), &info.namespace, &info.name).await?;
        let path = match self.kind {
            Kind::PortForward => format!("/portForward/{}/{}", info.namespace, info.name),
            kind => {
                let container = container(&pod, query.get("container").unwrap_or(""))?;
                let verb = if kind == Kind::Exec { "exec" } else { "attach" };
                format!("/{verb}/{}/{}/{container}", info.namespace, info.name)
            }
        };
        let Some(mut location) = self.stream.kubelet(&call.store, &pod).await? else {
            return Err(Status::bad_request(format!("pod {} does not have a host assigned", info.name)));
        };
        if !is_upgrade(call.request.headers()) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        location.path = path;
        location.query = params;
        self.connect(call.request, location, &query).await
    }

    fn long_running(&self) -> bool {
        true
    }
}

/// `pods/proxy`.
pub(crate) struct PodProxy(pub(crate) Stream);

/// The address of `[scheme:]name[:port]`: the pod's, at the port asked for or the first it declares.
fn pod_location(pod: &Value, scheme: &str, port: &str) -> Result<Location, Status> {
    let declared = at(pod, &["spec", "containers"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find_map(|c| at(c, &["ports"])?.as_array()?.first()?.get("containerPort")?.as_u64());
    let secure = scheme == "https";
    let fallback = if secure { 443 } else { 80 };
    let port = match port {
        "" => declared.and_then(|p| u16::try_from(p).ok()).unwrap_or(fallback),
        text => text.parse().map_err(|_| Status::bad_request(format!("invalid port {text:?}")))?,
    };
    let host = at(pod, &["status", "podIPs"])
        .and_then(Value::as_array)
        .and_then(|ips| ips.first())
        .map_or("", |ip| str_at(ip, &["ip"]));
    if !is_global_unicast(host) {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(Location {
        secure,
        host: host.to_owned(),
        port,
        path: String::new(),
        query: String::new(),
        trust: Trust::Anything,
    })
}

#[async_trait]
impl SubresourceHandler for PodProxy {
    async fn handle(&self, call: Call) -> Result<Response<Body>, Status> {
        let info = Arc::clone(&call.context.info);
        let invalid = || Status::bad_request(format!("invalid pod request {:?}", info.name));
        let (scheme, name, port) = split_scheme_name_port(&info.name).ok_or_else(invalid)?;
        let mut options = json!({"kind": "PodProxyOptions", "apiVersion": "v1"});
        call.admit(Operation::Connect, &mut options, false).await?;
        let pod = call.store.get(&core("pods"), &info.namespace, name).await?;
        let location = pod_location(&pod, scheme, port)?;
        proxied(&self.0.connector, call.request, location, true).await
    }

    fn long_running(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_chosen() {
        let pod = |main: &[&str], init: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
            json!({"metadata": {"name": "p"}, "spec": {"containers": list(main), "initContainers": list(init), "ephemeralContainers": [{"name": "debug"}]}})
        };
        let cases = [
            (pod(&["a"], &[]), "", Ok("a")),
            (pod(&["a", "b"], &[]), "b", Ok("b")),
            (pod(&["a"], &["i"]), "i", Ok("i")),
            (pod(&["a"], &[]), "debug", Ok("debug")),
            (pod(&["a"], &[]), "x", Err("container x is not valid for pod p")),
            (
                pod(&["a", "b"], &[]),
                "",
                Err("a container name must be specified for pod p, choose one of: [a b]"),
            ),
            (
                pod(&["a", "b"], &["i"]),
                "",
                Err(
                    "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]",
                ),
            ),
        ];
        for (pod, asked, expected) in cases {
            let got = container(&pod, asked).map_err(|s| s.message);
            assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned));
        }
    }

    #[test]
    fn log_options() {
        let params = |query: &str| log_params(&Query::parse(query)).map_err(|e| e.len());
        let cases = [
            ("", Ok("stream=All")),
            ("follow=true&tailLines=5&previous=false", Ok("follow=true&stream=All&tailLines=5")),
            ("sinceTime=2026-01-01T00%3A00%3A00Z", Ok("sinceTime=2026-01-01T00%3A00%3A00Z&stream=All")),
            ("tailLines=-1", Err(1)),
            ("sinceSeconds=0", Err(1)),
            ("limitBytes=x", Err(1)),
            ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", Err(1)),
            ("stream=Other", Err(1)),
            ("stream=Stdout&tailLines=1", Err(1)),
        ];
        for (query, expected) in cases {
            assert_eq!(params(query), expected.map(str::to_owned), "{query}");
        }
    }

    #[test]
    fn stream_options_are_translated() {
        let query =
            Query::parse("command=sh&command=-c&command=a%20b%26c&stdin=true&stdout=1&tty=true&container=c");
        let (options, params) = stream_options(Kind::Exec, &query).expect("options");
        assert_eq!(params, "command=sh&command=-c&command=a%20b%26c&input=1&output=1&tty=1");
        assert_eq!(options["command"], json!(["sh", "-c", "a b&c"]));
        assert_eq!(options["container"], "c");
        let (_, params) =
            stream_options(Kind::PortForward, &Query::parse("ports=80&ports=81,82")).expect("options");
        assert_eq!(params, "port=80%2C81%2C82");
        assert!(stream_options(Kind::PortForward, &Query::parse("ports=x")).is_err());
    }

    #[test]
    fn pods_are_located() {
        let pod = json!({"spec": {"containers": [{}, {"ports": [{"containerPort": 8080}]}]}, "status": {"podIPs": [{"ip": "10.244.0.5"}]}});
        for (scheme, port, expected) in
            [("", "", (false, 8080)), ("https", "8443", (true, 8443)), ("", "80", (false, 80))]
        {
            let location = pod_location(&pod, scheme, port).expect("located");
            assert_eq!((location.secure, location.port), expected);
        }
        let local = json!({"spec": {}, "status": {"podIPs": [{"ip": "127.0.0.1"}]}});
        assert_eq!(pod_location(&local, "", "").expect_err("refused").message, "address not allowed");
    }
}
