//! The secured port: health for everybody, metrics for those the API server lets read them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use auth::authn::token::bearer_token;
use auth::authn::x509::X509Authenticator;
use client::config::{ClientOptions, client_from};
use client::rest::{ResourceId, Rest};
use component::health::Checks;
use component::http::{Request, Response, text};
use component::metrics::Metrics;
use component::serving::{ConnInfo, Handler, Limits, serve};
use component::{pki, tls};
use futures::future::BoxFuture;
use http::StatusCode;
use http::request::Parts;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const TOKEN_REVIEWS: ResourceId =
    ResourceId::cluster("authentication.k8s.io", "v1", "tokenreviews", "TokenReview");
const ACCESS_REVIEWS: ResourceId =
    ResourceId::cluster("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview");
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
    /// kubeconfig allowed to create tokenreviews; without it bearer tokens are refused
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// kubeconfig allowed to create subjectaccessreviews; without it only members of system:masters are let in
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Paths served without asking who is there
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
}

/// Answers requests.
struct Endpoints {
    checks: Checks,
    metrics: Metrics,
    certificates: Option<X509Authenticator>,
    tokens: Option<Rest>,
    access: Option<Rest>,
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
        let roots = args.client_ca_file.as_deref().map(tls::read).transpose()?;
        let certificates = match &roots {
            Some(pem) => {
                let roots: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
                    .collect::<Result<_, _>>()
                    .context("--client-ca-file holds no usable certificates")?;
                Some(X509Authenticator::new(&roots)?)
            }
            None => None,
        };
        let handler = Arc::new(Endpoints {
            checks: Checks::new(),
            metrics,
            certificates,
            tokens: reviewer(component, args.authentication_kubeconfig.as_ref()).await?,
            access: reviewer(component, args.authorization_kubeconfig.as_ref()).await?,
            open: args.authorization_always_allow_paths.clone(),
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
        let roots = roots.as_deref().map(tls::roots).transpose()?;
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

/// Who asks, as a SubjectAccessReview names them.
struct User {
    name: String,
    groups: Vec<String>,
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
            ("metrics", "") => self.metrics.respond(&request.headers),
            (kind @ ("healthz" | "livez" | "readyz"), check) => {
                let which = Some(check).filter(|check| !check.is_empty());
                self.checks.respond(kind, which, query.as_deref()).await
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
        let Some(user) = self.identify(request).await else {
            return Err(text(StatusCode::UNAUTHORIZED, "Unauthorized\n"));
        };
        if user.groups.iter().any(|group| group == MASTERS) {
            return Ok(());
        }
        let forbidden = || {
            let verb = request.method.as_str().to_lowercase();
            let name = &user.name;
            text(StatusCode::FORBIDDEN, format!("Forbidden (user={name}, verb={verb}, path={path})\n"))
        };
        let Some(access) = &self.access else { return Err(forbidden()) };
        let review = json!({"spec": {
            "user": user.name, "groups": user.groups,
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

    async fn identify(&self, request: &Parts) -> Option<User> {
        if let (Some(certificates), Some(info)) =
            (&self.certificates, request.extensions.get::<Arc<ConnInfo>>())
            && let Ok(Some(user)) = certificates.user(&info.certificates, jiff::Timestamp::now())
        {
            return Some(User { name: user.name, groups: user.groups });
        }
        let token = bearer_token(&request.headers)?;
        let answer = self
            .tokens
            .as_ref()?
            .create(&TOKEN_REVIEWS, "", &json!({"spec": {"token": token}}))
            .await
            .ok()?;
        if answer.pointer("/status/authenticated") != Some(&json!(true)) {
            return None;
        }
        let user = answer.pointer("/status/user")?;
        let groups = user.get("groups").and_then(Value::as_array).into_iter().flatten();
        Some(User {
            name: user.get("username")?.as_str()?.to_owned(),
            groups: groups.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }
}

impl Handler for Endpoints {
    fn handle(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response> {
        // nothing here reads bodies
        Box::pin(self.answer(request.into_parts().0))
    }
}
