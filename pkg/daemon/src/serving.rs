//! The secured port: health for everybody, metrics for those the API server lets read them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::ArgAction;
use client::config::{ClientOptions, client_from};
use client::rest::{ResourceId, Rest};
use component::health::Checks;
use component::http::{Request, Response, text};
use component::metrics::Metrics;
use component::serving::{Handler, Limits, serve};
use component::{pki, tls};
use futures::future::BoxFuture;
use http::StatusCode;
use http::request::Parts;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::identity::{Identification, Trust, User};

const ACCESS_REVIEWS: ResourceId =
    ResourceId::cluster("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview");
/// What asks for a Go profile is told: this is not a Go program.
const NO_PROFILES: &str = "profiles of the Go runtime do not exist here; use perf(1) on the process\n";
/// Members may do anything, without the API server being asked.
const MASTERS: &str = "system:masters";

/// Flags of the secured port; `--secure-port` is beside them, as its default differs.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "serving")]
pub struct Flags {
    /// The IP address on which to listen for the --secure-port port
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,
    /// File containing the x509 certificate for HTTPS; a self-signed one is made without it
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// File containing the x509 private key matching --tls-cert-file
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Authorities whose client certificates are accepted
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Authorities whose certificates front proxies present
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies; any name when empty
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers of user names, from front proxies
    #[arg(long, value_delimiter = ',', default_value = "x-remote-user")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers of user UIDs, from front proxies
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers of groups, from front proxies
    #[arg(long, value_delimiter = ',', default_value = "x-remote-group")]
    pub requestheader_group_headers: Vec<String>,
    /// Prefixes of headers of extra facts, from front proxies
    #[arg(long, value_delimiter = ',', default_value = "x-remote-extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// kubeconfig allowed to create tokenreviews; without it bearer tokens are refused
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Do not look the authorities up in the cluster when --client-ca-file is not given
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub authentication_skip_lookup: bool,
    /// Go on when the authorities cannot be looked up in the cluster: certificates are then refused
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub authentication_tolerate_lookup_failure: bool,
    /// kubeconfig allowed to create subjectaccessreviews; without it only members of system:masters are let in
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Paths served without asking who is there
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
    /// Answer below /debug/pprof/ (saying that there are no profiles of a Go runtime)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub profiling: bool,
}

/// Answers requests.
struct Endpoints {
    checks: Checks,
    metrics: Metrics,
    identification: Identification,
    access: Option<Rest>,
    profiling: bool,
    open: Vec<String>,
}

/// The listening server.
pub struct Server {
    bound: Option<(TcpListener, Arc<rustls::ServerConfig>)>,
    handler: Arc<Endpoints>,
}

impl Server {
    /// Listens, unless the port is 0. `metrics` is what `/metrics` shows.
    pub async fn bind(
        component: &'static str,
        args: &Flags,
        port: u16,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let reviews = reviewer(component, args.authentication_kubeconfig.as_ref()).await?;
        let trust = Trust::gather(args, reviews.as_ref()).await?;
        let checks = Checks::new();
        checks.count_in(&metrics);
        let handler = Arc::new(Endpoints {
            checks,
            metrics,
            identification: Identification::new(&trust, reviews)?,
            access: reviewer(component, args.authorization_kubeconfig.as_ref()).await?,
            open: args.authorization_always_allow_paths.clone(),
            profiling: args.profiling,
        });
        if port == 0 {
            return Ok(Self { bound: None, handler });
        }
        let certificate = match (&args.tls_cert_file, &args.tls_private_key_file) {
            (Some(cert), Some(key)) => tls::ServerCertificate::from_files(cert, key)?,
            _ => {
                let host = client::config::host_name();
                let pair = pki::self_signed(host, &[pki::Host::Dns(host.to_owned())])?;
                tls::ServerCertificate::fixed(pair.cert.as_bytes(), pair.key.as_bytes())?
            }
        };
        let roots = trust.all().as_deref().map(tls::roots).transpose()?;
        let config = tls::server_config(certificate, roots)?;
        let address = SocketAddr::new(args.bind_address, port);
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"))?;
        Ok(Self { bound: Some((listener, config)), handler })
    }

    /// Serves until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        if let Some((listener, config)) = self.bound {
            serve(listener, Some(config), self.handler, Limits::default(), shutdown).await;
        }
    }
}

async fn reviewer(component: &'static str, kubeconfig: Option<&PathBuf>) -> anyhow::Result<Option<Rest>> {
    let Some(kubeconfig) = kubeconfig else { return Ok(None) };
    let options = ClientOptions {
        kubeconfig: Some(kubeconfig.clone()),
        component: component.into(),
        ..ClientOptions::default()
    };
    Ok(Some(Rest::new(client_from(&options).await?, component)))
}

impl Endpoints {
    async fn answer(self: Arc<Self>, request: Parts) -> Response {
        let path = request.uri.path().to_owned();
        if !self.is_open(&path)
            && let Err(refusal) = self.admit(&request, &path).await
        {
            return refusal;
        }
        let query = request.uri.query().map(str::to_owned);
        match path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), "")) {
            ("metrics", "") => self.metrics.respond(),
            ("metrics", "slis") => self.metrics.respond_indicators(),
            (kind @ ("healthz" | "livez" | "readyz"), check) => {
                let which = Some(check).filter(|check| !check.is_empty());
                self.checks.respond(kind, which, query.as_deref()).await
            }
            ("debug", rest) if self.profiling && rest.split('/').next() == Some("pprof") => {
                text(StatusCode::NOT_IMPLEMENTED, NO_PROFILES)
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn is_open(&self, path: &str) -> bool {
        self.open.iter().any(|open| match open.strip_suffix("/*") {
            Some(prefix) => path.starts_with(prefix) && path[prefix.len()..].starts_with('/'),
            None => path == open,
        })
    }

    async fn admit(&self, request: &Parts, path: &str) -> Result<(), Response> {
        let Some(user) = self.identification.user(request).await else {
            return Err(text(StatusCode::UNAUTHORIZED, "Unauthorized\n"));
        };
        if user.groups.iter().any(|group| group == MASTERS) {
            return Ok(());
        }
        let User { name, uid, groups } = &user;
        let forbidden = || {
            let verb = request.method.as_str().to_lowercase();
            text(StatusCode::FORBIDDEN, format!("Forbidden (user={name}, verb={verb}, path={path})\n"))
        };
        let Some(access) = &self.access else { return Err(forbidden()) };
        let review = json!({"spec": {
            "user": name, "uid": uid, "groups": groups,
            "nonResourceAttributes": {"path": path, "verb": request.method.as_str().to_lowercase()},
        }});
        match access.create(&ACCESS_REVIEWS, "", &review).await {
            Ok(answer) if answer.pointer("/status/allowed") == Some(&json!(true)) => Ok(()),
            Ok(_) => Err(forbidden()),
            Err(error) => {
                tracing::warn!(%error, "cannot ask whether a request is allowed");
                Err(text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error\n"))
            }
        }
    }
}

impl Handler for Endpoints {
    fn handle(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response> {
        // nothing here reads bodies
        Box::pin(self.answer(request.into_parts().0))
    }
}
