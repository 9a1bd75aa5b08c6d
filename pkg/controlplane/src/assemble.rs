//! The parts of a server, made from its configuration.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::descriptor::{Registry, ResourceDescriptor};
use apis::ServedVersions;
use auth::ObjectReader;
use auth::assemble::{Authentication, AuthenticationConfig, Authorization, FrontProxyConfig};
use auth::authn::front_proxy::FrontProxyHeaders;
use auth::service_account::{PublicKey, SigningKey, TokenGenerator};
use registry::{Connector, KubeletConfig, ServiceConfig, Services, TokenConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use storage::Storage;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Pem, ServingCertificate, StorageConfig};

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration contradicts itself or asks for what there is not.
    #[error("{0}")]
    Config(String),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] component::tls::Error),
    /// The store cannot be opened.
    #[error("cannot open the store: {0}")]
    Storage(#[from] storage::Error),
    /// The server was told to end before it had begun.
    #[error("ended before the store could be reached")]
    Ended,
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The watch caches do not become ready.
    #[error("the store could not be read: {0}")]
    Cache(String),
    /// An object every cluster starts with cannot be written.
    #[error("cannot create {resource} at start: {reason}")]
    Bootstrap {
        /// The resource.
        resource: String,
        /// Why not.
        reason: String,
    },
}

/// Pauses between attempts to reach the store at start.
const MIN_STORE_PAUSE: Duration = Duration::from_millis(250);
const MAX_STORE_PAUSE: Duration = Duration::from_secs(5);

/// An opened store and how to close it.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) storage: Arc<dyn Storage>,
    engine: Engine,
}

/// The engine by its kind: each closes in its own way.
#[derive(Clone)]
enum Engine {
    Embedded(Arc<storage::embedded::Embedded>),
    Etcd(Arc<storage_etcd::Etcd>),
}

impl Store {
    pub(crate) async fn open(config: &StorageConfig) -> Result<Self, Error> {
        let options = storage::embedded::Options { at_rest: component::memory::rest, ..Default::default() };
        match config {
            StorageConfig::Memory => Ok(Self::embedded(storage::embedded::Embedded::in_memory(options))),
            StorageConfig::Embedded(dir) => {
                let dir = dir.clone();
                let opened =
                    tokio::task::spawn_blocking(move || storage::embedded::Embedded::open(dir, options));
                let opened = opened.await.map_err(|e| storage::Error::Unavailable(e.to_string()))??;
                Ok(Self::embedded(opened))
            }
            StorageConfig::Etcd { servers, ca, client } => {
                let pem = |pem: &Pem| pem.read();
                let client = client.as_ref().map(|(cert, key)| Ok::<_, Error>((pem(cert)?, pem(key)?)));
                let config = storage_etcd::Config {
                    ca: ca.as_ref().map(pem).transpose()?,
                    client: client.transpose()?,
                    ..storage_etcd::Config::new(servers.clone())
                };
                let engine = storage_etcd::Etcd::connect(config).await?;
                Ok(Self { storage: Arc::clone(&engine) as Arc<dyn Storage>, engine: Engine::Etcd(engine) })
            }
        }
    }

    /// Opens a store; one on other machines is waited for while it cannot be reached.
    pub(crate) async fn await_open(config: &StorageConfig) -> Result<Self, Error> {
        let mut pause = MIN_STORE_PAUSE;
        loop {
            match Self::open(config).await {
                Err(Error::Storage(storage::Error::Unavailable(why) | storage::Error::Timeout(why)))
                    if matches!(config, StorageConfig::Etcd { .. }) =>
                {
                    tracing::warn!(why, "the store cannot be reached, trying again");
                }
                done => return done,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_STORE_PAUSE);
        }
    }

    fn embedded(engine: Arc<storage::embedded::Embedded>) -> Self {
        Self { storage: Arc::clone(&engine) as Arc<dyn Storage>, engine: Engine::Embedded(engine) }
    }

    pub(crate) async fn close(&self) {
        match &self.engine {
            Engine::Embedded(engine) => engine.close().await,
            Engine::Etcd(engine) => engine.close().await,
        }
    }
}

/// The built-in resources that `--runtime-config` serves.
pub(crate) fn registry(config: &Config) -> Result<Arc<Registry>, Error> {
    let entries = config.runtime_config.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let served = ServedVersions::from_runtime_config(entries).map_err(|e| Error::Config(e.to_string()))?;
    let mut resources = apis::resources(&served);
    let ttl = i64::try_from(config.event_ttl.as_secs()).unwrap_or(i64::MAX);
    for descriptor in &mut resources {
        if descriptor.storage.ttl_seconds.is_some_and(|given| given != ttl) {
            Arc::make_mut(descriptor).storage.ttl_seconds = Some(ttl);
        }
    }
    Ok(Arc::new(Registry::new(resources)))
}

/// Whether a resource is kept in the store; what can be listed but not watched is made up by handlers.
pub(crate) fn is_stored(descriptor: &ResourceDescriptor) -> bool {
    descriptor.versions.iter().any(|v| v.verbs.contains("watch"))
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = pem.read()?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    parsed.map_err(|e| Error::Config(format!("CA certificates: {e}")))
}

/// Keys of service account tokens: those that verify, and the one that signs.
pub(crate) struct ServiceAccountKeys {
    pub(crate) verify: Vec<PublicKey>,
    pub(crate) sign: Option<SigningKey>,
}

pub(crate) fn service_account_keys(config: &Config) -> Result<ServiceAccountKeys, Error> {
    let invalid = |e: auth::service_account::KeyError| Error::Config(format!("service account key: {e}"));
    let mut verify = Vec::new();
    for pem in &config.service_account_keys {
        verify.extend(PublicKey::all_from_pem(&pem.read()?).map_err(invalid)?);
    }
    let sign = match &config.service_account_signing_key {
        None => None,
        Some(pem) => Some(SigningKey::from_pem(&pem.read()?).map_err(invalid)?),
    };
    if let (Some(key), true) = (&sign, verify.is_empty()) {
        verify.push(key.public().clone());
    }
    if sign.is_some() && config.service_account_issuers.is_empty() {
        return Err(Error::Config("service-account-issuer is a required flag".into()));
    }
    Ok(ServiceAccountKeys { verify, sign })
}

pub(crate) fn authentication(
    config: &Config,
    keys: &ServiceAccountKeys,
    objects: &Arc<dyn ObjectReader>,
) -> Result<Authentication, Error> {
    let front_proxy = match &config.front_proxy {
        None => None,
        Some(proxy) => Some(FrontProxyConfig {
            ca: certificates(&proxy.client_ca)?,
            allowed_names: proxy.allowed_names.clone(),
            headers: FrontProxyHeaders {
                username: proxy.username_headers.clone(),
                uid: proxy.uid_headers.clone(),
                group: proxy.group_headers.clone(),
                extra_prefix: proxy.extra_header_prefixes.clone(),
            },
        }),
    };
    let static_tokens = match &config.token_file {
        None => None,
        Some(path) => Some(String::from_utf8_lossy(&component::tls::read(path)?).into_owned()),
    };
    let authentication = AuthenticationConfig {
        client_ca: config.client_ca.as_ref().map(certificates).transpose()?.unwrap_or_default(),
        front_proxy,
        static_tokens,
        bootstrap_tokens: config.bootstrap_tokens,
        issuers: config.service_account_issuers.clone(),
        service_account_keys: keys.verify.clone(),
        api_audiences: config.api_audiences.clone(),
        anonymous: config.anonymous,
    };
    Authentication::new(&authentication, objects).map_err(|e| Error::Config(e.to_string()))
}

pub(crate) fn authorization(
    config: &Config,
    objects: &Arc<dyn ObjectReader>,
) -> Result<Authorization, Error> {
    Authorization::new(&config.authorization_modes, objects).map_err(|e| Error::Config(e.to_string()))
}

/// Addresses and ports of services.
pub(crate) fn services(config: &Config, port: u16) -> Result<Arc<Services>, Error> {
    let services = ServiceConfig {
        ranges: config.service_ranges.clone(),
        node_ports: config.node_ports.clone(),
        advertise: Some((config.advertised(), port)),
        reconciles_endpoints: config.reconciles_endpoints,
    };
    Services::new(services).map(Arc::new).map_err(|e| Error::Config(e.to_string()))
}

/// Connections to kubelets, pods and services.
pub(crate) fn connector(config: &Config, shutdown: CancellationToken) -> Result<Arc<Connector>, Error> {
    let client = match &config.kubelet.client {
        None => None,
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(&key.read()?)
                .map_err(|e| Error::Config(format!("kubelet client key: {e}")))?;
            Some((certificates(chain)?, key))
        }
    };
    let ca = match &config.kubelet.ca {
        None => None,
        Some(pem) => Some(component::tls::roots(&pem.read()?)?),
    };
    let kubelet = KubeletConfig { client, ca, ..KubeletConfig::default() };
    Connector::new(&kubelet, shutdown).map(Arc::new).map_err(|e| Error::Config(e.to_string()))
}

/// What admission plugins are configured with.
pub(crate) fn admission_configs(config: &Config) -> Result<admission::PluginConfigs, Error> {
    let Some(path) = &config.admission_config else { return Ok(admission::PluginConfigs::default()) };
    let failed = |why: String| Error::Config(format!("{}: {why}", path.display()));
    let text = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
    let folder = path.parent().unwrap_or(std::path::Path::new("."));
    admission::PluginConfigs::parse(&text, folder, &|path| std::fs::read(path))
        .map_err(|e| failed(e.to_string()))
}

/// Kinds of node addresses in the order they are tried.
pub(crate) fn address_types(config: &Config) -> Vec<String> {
    if config.kubelet.address_types.is_empty() {
        KubeletConfig::default().address_types
    } else {
        config.kubelet.address_types.clone()
    }
}

/// How service account tokens are issued, `None` without a signing key.
pub(crate) fn tokens(config: &Config, keys: ServiceAccountKeys, audiences: &[String]) -> Option<TokenConfig> {
    let issuer = config.service_account_issuers.first()?;
    let generator = TokenGenerator::new(issuer.clone(), keys.sign?);
    Some(TokenConfig {
        generator: Arc::new(generator),
        audiences: audiences.to_vec(),
        max_seconds: config.service_account_max_expiration.and_then(|max| i64::try_from(max.as_secs()).ok()),
        extend: config.service_account_extend_expiration,
    })
}

/// TLS of the listener. Client certificates are asked for and checked against every CA that names clients.
pub(crate) fn tls(
    config: &Config,
) -> Result<(Arc<rustls::ServerConfig>, Arc<component::tls::ServerCertificate>), Error> {
    let certificate = match &config.certificate {
        ServingCertificate::Given(cert, key) => match (cert.path(), key.path()) {
            (Some(cert), Some(key)) => component::tls::ServerCertificate::from_files(cert, key)?,
            _ => component::tls::ServerCertificate::fixed(&cert.read()?, &key.read()?)?,
        },
        ServingCertificate::SelfSigned => {
            let pem = component::pki::self_signed("kube-apiserver", &hosts(config))?;
            component::tls::ServerCertificate::fixed(pem.cert.as_bytes(), pem.key.as_bytes())?
        }
    };
    let mut roots = Vec::new();
    if let Some(ca) = &config.client_ca {
        roots.extend(ca.read()?);
    }
    if let Some(proxy) = &config.front_proxy {
        roots.push(b'\n');
        roots.extend(proxy.client_ca.read()?);
    }
    let roots = if roots.is_empty() { None } else { Some(component::tls::roots(&roots)?) };
    if let Some((cert, key)) = &config.proxy_client {
        // nothing asks for it yet, but a pair that does not fit is found out at the start
        component::tls::ServerCertificate::fixed(&cert.read()?, &key.read()?)?;
    }
    let tls = component::tls::server_config_offering(Arc::clone(&certificate), roots, &config.tls)?;
    Ok((tls, certificate))
}

/// Names and addresses the server is known by.
pub(crate) fn hosts(config: &Config) -> Vec<component::pki::Host> {
    let mut hosts: Vec<component::pki::Host> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
    ]
    .into_iter()
    .map(component::pki::Host::from)
    .collect();
    let more = [Some(config.advertised()), config.service_ip()];
    hosts.extend(more.into_iter().flatten().map(component::pki::Host::from));
    hosts.extend(config.external_host.as_deref().map(component::pki::Host::from));
    let mut distinct = Vec::new();
    for host in hosts {
        if !distinct.contains(&host) {
            distinct.push(host);
        }
    }
    distinct
}
