//! The kubelet's own API on port 10250: logs, exec, attach, port forwarding, figures.
//!
//! Every request is authenticated (client certificate or token) and authorized by the API server, unless configured
//! otherwise. Source: `pkg/kubelet/server/server.go`.

use std::net::SocketAddr;
use std::sync::Arc;

use component::health::Checks;
use component::http::{Request, Response, boxed, full, text};
use component::metrics::Metrics;
use component::serving::{self, Handler, Limits};
use component::{pki, tls};
use futures::future::BoxFuture;
use http::{Method, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream_from::receiver_stream;
use tokio_util::sync::CancellationToken;

use crate::kubelet::Kubelet;
use crate::logs;
use crate::metrics::METRICS;
use crate::pods::Overview;
use crate::podutil::PodExt;

mod auth;
mod collect;
mod query;
mod route;
mod stats;
mod stream;

use auth::Auth;
use query::Query;
use route::Route;

/// Blocks of a log on their way to a slow reader.
const LOG_QUEUE: usize = 8;
/// A main loop that has not come round for so long is not healthy.
const LOOP_LIMIT: std::time::Duration = std::time::Duration::from_secs(120);

/// Turning a channel into a body.
mod tokio_stream_from {
    use futures::stream::{self, Stream};
    use tokio::sync::mpsc::Receiver;

    pub(super) fn receiver_stream<T>(receiver: Receiver<T>) -> impl Stream<Item = T> {
        stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|item| (item, receiver)))
    }
}

/// The server's state.
pub(crate) struct Server {
    kubelet: Arc<Kubelet>,
    overview: Arc<Overview>,
    auth: Auth,
    checks: Checks,
    metrics: Metrics,
    probes: Metrics,
}

/// Starts the server, and the health endpoint on its own port.
pub(crate) async fn start(
    tasks: &mut JoinSet<()>,
    kubelet: Arc<Kubelet>,
    overview: Arc<Overview>,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let config = &kubelet.config;
    let checks = Checks::new();
    checks.add("log", || Ok(()));
    let watched = overview.clone();
    checks.add("syncloop", move || match watched.relist_age() {
        Some(age) if age > LOOP_LIMIT => Err(format!("sync loop took longer than expected: {age:?}")),
        _ => Ok(()),
    });
    if config.enable_server {
        secured(tasks, &kubelet, &overview, checks.clone(), &shutdown).await?;
    }
    if config.healthz_port != 0 {
        let listener = bind((config.healthz_address, config.healthz_port).into()).await?;
        let handler = Arc::new(Healthz(checks));
        tasks.spawn(serving::serve(listener, None, handler, Limits::default(), shutdown));
    }
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|e| format!("failed to listen on {address}: {e}"))
}

/// Starts the port that only who may is answered on.
async fn secured(
    tasks: &mut JoinSet<()>,
    kubelet: &Arc<Kubelet>,
    overview: &Arc<Overview>,
    checks: Checks,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let config = &kubelet.config;
    let listener = bind((config.address, config.port).into()).await?;
    let certificate = certificate(kubelet)?;
    let roots = match &config.client_ca_file {
        Some(path) => Some(tls::read(path).and_then(|pem| tls::roots(&pem)).map_err(|e| e.to_string())?),
        None => None,
    };
    let tls_config = tls::server_config_offering(certificate.clone(), roots, &config.tls_offer)
        .map_err(|e| e.to_string())?;
    tasks.spawn(certificate.follow(shutdown.clone()));
    let metrics = Metrics::new();
    metrics.register(|registry| {
        registry.register_collector(Box::new(collect::Present::new(kubelet, overview)));
        crate::metrics::register(registry);
        cri::metrics::register(registry);
    });
    checks.count_in(&metrics);
    let probes = Metrics::new();
    probes.register(crate::metrics::register_probes);
    let auth = Auth::new(config, kubelet.objects.client().clone());
    let server = Arc::new(Server {
        auth,
        checks,
        metrics,
        probes,
        overview: overview.clone(),
        kubelet: kubelet.clone(),
    });
    tasks.spawn(serving::serve(listener, Some(tls_config), server, Limits::default(), shutdown.clone()));
    Ok(())
}

/// The serving certificate: the one configured, else a self-signed one that is kept.
fn certificate(kubelet: &Kubelet) -> Result<Arc<tls::ServerCertificate>, String> {
    let config = &kubelet.config;
    if let (Some(cert), Some(key)) = (&config.tls_cert_file, &config.tls_private_key_file) {
        return tls::ServerCertificate::from_files(cert, key).map_err(|e| e.to_string());
    }
    let dir = config.cert_dir.clone();
    let (cert, key) = (dir.join("kubelet.crt"), dir.join("kubelet.key"));
    if let Ok(certificate) = tls::ServerCertificate::from_files(&cert, &key) {
        return Ok(certificate);
    }
    let mut hosts = vec![pki::Host::from(config.node_name.as_str())];
    hosts.extend(config.node_ips.iter().map(|ip| pki::Host::from(*ip)));
    let pem = pki::self_signed(&config.node_name, &hosts).map_err(|e| e.to_string())?;
    write_secret(&dir, &cert, &key, &pem)
        .map_err(|e| format!("cannot keep the serving certificate in {}: {e}", dir.display()))?;
    tls::ServerCertificate::from_files(&cert, &key).map_err(|e| e.to_string())
}

fn write_secret(
    dir: &std::path::Path,
    cert: &std::path::Path,
    key: &std::path::Path,
    pem: &pki::KeyPem,
) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::create_dir_all(dir)?;
    std::fs::write(cert, &pem.cert)?;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(key)?;
    std::io::Write::write_all(&mut file, pem.key.as_bytes())
}

/// `/healthz` on its own port, for those who watch the machine.
struct Healthz(Checks);

impl Handler for Healthz {
    fn handle(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response> {
        Box::pin(async move {
            match request.uri().path().strip_prefix("/healthz") {
                Some("" | "/") => self.0.respond("healthz", None, request.uri().query()).await,
                Some(name) => self.0.respond("healthz", name.strip_prefix('/'), request.uri().query()).await,
                None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
            }
        })
    }
}

impl Handler for Server {
    fn handle(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response> {
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let counted = Counted::new(request.method(), &path);
            let response = self.guarded(&path, request).await;
            counted.done();
            response
        })
    }
}

/// A request on its way to the metrics.
struct Counted {
    labels: crate::metrics::Labels,
    started: std::time::Instant,
}

impl Counted {
    fn new(method: &Method, path: &str) -> Self {
        // The first part of the path: the rest names pods, of which there is no end.
        let kind =
            Route::parse(path).map_or("", |_| path.trim_matches('/').split('/').next().unwrap_or_default());
        let long = matches!(kind, "exec" | "attach" | "portForward" | "containerLogs");
        let labels = vec![
            ("method", method.as_str().to_owned()),
            ("path", kind.to_owned()),
            ("server_type", "readwrite".to_owned()),
            ("long_running", long.to_string()),
        ];
        METRICS.http_requests.get_or_create(&labels).inc();
        Self { labels, started: std::time::Instant::now() }
    }

    fn done(self) {
        let seconds = self.started.elapsed().as_secs_f64();
        METRICS.http_seconds.get_or_create(&self.labels).observe(seconds);
    }
}

impl Server {
    /// Answers those who may ask.
    async fn guarded(&self, path: &str, request: Request) -> Response {
        let user = match self.auth.authenticate(auth::Shown::by(&request)).await {
            Ok(user) => user,
            Err(refusal) => return refusal,
        };
        if let Err(refusal) =
            self.auth.authorize(&user, request.method(), path, &self.kubelet.config.node_name).await
        {
            return refusal;
        }
        match Route::parse(path) {
            None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
            Some(route) if route.is_debug() && !self.kubelet.config.debugging_handlers => {
                text(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n")
            }
            Some(route) => self.answer(route, request).await,
        }
    }
}

/// An error as the kubelet answers one: its text.
fn fail(status: StatusCode, why: impl std::fmt::Display) -> Response {
    text(status, format!("{why}\n"))
}

/// Why a request is not served.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl From<Refusal> for Response {
    fn from(Refusal(status, why): Refusal) -> Self {
        fail(status, why)
    }
}

fn json(value: &serde_json::Value) -> Response {
    let mut response = http::Response::new(full(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

impl Server {
    async fn answer(&self, route: Route, request: Request) -> Response {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        match route {
            Route::Health(which) => {
                self.checks.respond("healthz", which.as_deref(), request.uri().query()).await
            }
            Route::Metrics => self.metrics.respond(),
            Route::Indicators => self.metrics.respond_indicators(),
            Route::ResourceMetrics => stats::resource_metrics(&self.kubelet, &self.overview).await,
            Route::ProbeMetrics => self.probes.respond(),
            Route::ContainerMetrics => collect::cadvisor(&self.kubelet, &self.overview).await,
            Route::Configz => json(&serde_json::json!({"kubeletconfig": self.kubelet.config.shown})),
            Route::Summary => stats::summary(&self.kubelet, &self.overview).await,
            Route::Pods => json(&self.pods()),
            Route::RunningPods => json(&self.running_pods()),
            Route::Logs(_) if !self.kubelet.config.system_log_handler => {
                text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n")
            }
            Route::Logs(path) => node_logs(&path),
            Route::ContainerLogs { namespace, pod, container } => {
                self.container_logs(&namespace, &pod, &container, &query).await
            }
            Route::Run { namespace, pod, container } if request.method() == Method::POST => {
                self.run(&namespace, &pod, &container, &query).await
            }
            Route::Exec { namespace, pod, container } => {
                self.exec(&namespace, &pod, &container, &query, request).await
            }
            Route::Attach { namespace, pod, container } => {
                self.attach(&namespace, &pod, &container, &query, request).await
            }
            Route::PortForward { namespace, pod } => {
                self.port_forward(&namespace, &pod, &query, request).await
            }
            Route::Run { .. } => text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed"),
        }
    }

    /// Every pod with the status it has here.
    fn pods(&self) -> serde_json::Value {
        let pods = self.overview.pods.load();
        let items: Vec<serde_json::Value> = pods
            .values()
            .map(|pod| {
                let mut pod = (**pod).clone();
                if let Some(status) = self.kubelet.statuses.get(pod.uid()) {
                    pod.status = Some(status);
                }
                serde_json::to_value(&pod).unwrap_or_default()
            })
            .collect();
        serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    fn running_pods(&self) -> serde_json::Value {
        let sketch = self.overview.sketch.load();
        let items: Vec<serde_json::Value> = sketch
            .iter()
            .filter(|(_, s)| s.parts.iter().any(|(_, state)| *state == crate::runtime::State::Running))
            .map(|(uid, s)| serde_json::json!({
                "metadata": {"name": s.name, "namespace": s.namespace, "uid": uid}, "spec": {"containers": null}, "status": {}}))
            .collect();
        serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    async fn container_logs(&self, namespace: &str, pod: &str, container: &str, query: &Query) -> Response {
        let options = match query.log_options(jiff::Timestamp::now()) {
            Ok(options) => options,
            Err(why) => return fail(StatusCode::UNPROCESSABLE_ENTITY, why),
        };
        let id = match self.log_container(namespace, pod, container, query.flag("previous")) {
            Ok(id) => id,
            Err(refusal) => return refusal.into(),
        };
        let status = match self.kubelet.runtime.container_status(&id).await {
            Ok(status) => status,
            Err(error) => {
                return fail(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!(
                        "failed to try resolving symlinks: unable to retrieve container logs for {}://{id}: {error}",
                        self.kubelet.runtime_name
                    ),
                );
            }
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(LOG_QUEUE);
        let runtime = self.kubelet.runtime.clone();
        let running = move || {
            let (runtime, id) = (runtime.clone(), id.clone());
            async move {
                runtime
                    .container_status(&id)
                    .await
                    .is_ok_and(|s| s.state() == cri::api::ContainerState::ContainerRunning)
            }
        };
        // Ends by itself: when the log does, or when the response's body is dropped.
        tokio::spawn(logs::send(status.log_path.into(), options, sender, running));
        let frames = futures::StreamExt::map(receiver_stream(receiver), |chunk| chunk.map(Frame::data));
        let mut response = http::Response::new(boxed(StreamBody::new(frames)));
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        response
    }

    /// The id of the container whose log is asked for.
    fn log_container(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        previous: bool,
    ) -> Result<String, Refusal> {
        let Some(pod) = self.overview.find(namespace, name) else {
            return Err(Refusal(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist")));
        };
        let status = self.kubelet.statuses.get(pod.uid()).or_else(|| pod.status.clone()).unwrap_or_default();
        let lists = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ];
        let Some(status) = lists.into_iter().flatten().flatten().find(|s| s.name == container) else {
            return Err(Refusal(
                StatusCode::NOT_FOUND,
                format!("container {container:?} not found in pod {name:?}"),
            ));
        };
        let id = |id: Option<&String>| id.and_then(|id| id.split_once("://")).map(|(_, id)| id.to_owned());
        let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let bad = |why: String| Refusal(StatusCode::BAD_REQUEST, why);
        if previous {
            return id(last.and_then(|l| l.container_id.as_ref())).ok_or_else(|| {
                bad(format!("previous terminated container {container:?} in pod {name:?} not found"))
            });
        }
        let state = status.state.clone().unwrap_or_default();
        if let Some(waiting) = state.waiting {
            // In back-off the last attempt's log is the one to read.
            if let Some(id) = id(last.and_then(|l| l.container_id.as_ref())) {
                return Ok(id);
            }
            let reason = waiting.reason.unwrap_or_default();
            return Err(bad(match reason.as_str() {
                "ErrImagePull" | "ImagePullBackOff" => format!(
                    "container {container:?} in pod {name:?} is waiting to start: image can't be pulled"
                ),
                "" => {
                    format!("container {container:?} in pod {name:?} is waiting to start - no logs yet")
                }
                reason => format!("container {container:?} in pod {name:?} is waiting to start: {reason}"),
            }));
        }
        let ended = state.terminated.as_ref().and_then(|t| t.container_id.as_ref());
        id(ended.or(status.container_id.as_ref()))
            .ok_or_else(|| bad(format!("container {container:?} in pod {name:?} is not available")))
    }

    /// The id of a container that runs.
    fn running_container(&self, namespace: &str, name: &str, container: &str) -> Result<String, Refusal> {
        let missing = |what: &str| Refusal(StatusCode::NOT_FOUND, what.to_owned());
        let Some(pod) = self.overview.find(namespace, name) else {
            return Err(missing("pod does not exist"));
        };
        let status = self.kubelet.statuses.get(pod.uid()).or_else(|| pod.status.clone()).unwrap_or_default();
        let lists = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ];
        let found = lists.into_iter().flatten().flatten().find(|s| s.name == container);
        found
            .filter(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()))
            .and_then(|s| s.container_id.as_deref()?.split_once("://").map(|(_, id)| id.to_owned()))
            .ok_or_else(|| missing(&format!("container not found ({container:?})")))
    }

    /// Runs a command to its end and answers what it wrote.
    async fn run(&self, namespace: &str, pod: &str, container: &str, query: &Query) -> Response {
        let id = match self.running_container(namespace, pod, container) {
            Ok(id) => id,
            Err(refusal) => return refusal.into(),
        };
        let command: Vec<String> =
            query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
        match self.kubelet.runtime.exec_sync(&id, &command, std::time::Duration::ZERO).await {
            Ok(done) => {
                let mut out = done.stdout;
                out.extend_from_slice(&done.stderr);
                if done.exit_code == 0 {
                    return text(StatusCode::OK, out);
                }
                out.extend_from_slice(
                    format!("command terminated with exit code {}", done.exit_code).as_bytes(),
                );
                text(StatusCode::INTERNAL_SERVER_ERROR, out)
            }
            Err(error) => fail(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }
}

/// Files of the machine's log directory.
fn node_logs(path: &str) -> Response {
    const ROOT: &str = "/var/log";
    const MAX_FILE: u64 = 64 * 1024 * 1024;
    let root = std::path::Path::new(ROOT);
    let Ok(full_path) = root.join(path.trim_start_matches('/')).canonicalize() else {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    if !full_path.starts_with(root) {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let meta = std::fs::metadata(&full_path);
    if meta.as_ref().is_ok_and(std::fs::Metadata::is_dir) {
        let mut names: Vec<String> = std::fs::read_dir(&full_path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| {
                format!("{}{}", e.file_name().to_string_lossy(), if e.path().is_dir() { "/" } else { "" })
            })
            .collect();
        names.sort();
        let lines: Vec<String> = names.iter().map(|n| format!("<a href=\"{n}\">{n}</a>")).collect();
        return text(StatusCode::OK, format!("<pre>\n{}\n</pre>\n", lines.join("\n")));
    }
    if meta.is_ok_and(|m| m.len() > MAX_FILE) {
        return fail(StatusCode::PAYLOAD_TOO_LARGE, "log file is too large");
    }
    match std::fs::read(&full_path) {
        Ok(bytes) => text(StatusCode::OK, bytes),
        Err(error) => fail(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}
