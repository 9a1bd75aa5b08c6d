//! What an API server is configured with. Names follow upstream's flags; `cmd/kube-apiserver` fills it from them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apiserver::StorageMediaType;

/// PEM, in a file or at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pem {
    /// Read at start.
    File(PathBuf),
    /// The text itself.
    Inline(String),
}

impl Pem {
    /// The bytes.
    pub fn read(&self) -> Result<Vec<u8>, component::tls::Error> {
        match self {
            Self::File(path) => component::tls::read(path),
            Self::Inline(text) => Ok(text.clone().into_bytes()),
        }
    }

    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Inline(_) => None,
        }
    }
}

/// Where objects are kept.
#[derive(Debug, Clone)]
pub enum StorageConfig {
    /// In memory, gone with the process: for tests.
    Memory,
    /// The embedded store in a directory (`--storage-dir`).
    Embedded(PathBuf),
    /// etcd (`--etcd-*`).
    Etcd {
        /// `--etcd-servers`.
        servers: Vec<String>,
        /// `--etcd-cafile`.
        ca: Option<Pem>,
        /// `--etcd-certfile` and `--etcd-keyfile`.
        client: Option<(Pem, Pem)>,
    },
}

/// The certificate the server shows.
#[derive(Debug, Clone)]
pub enum ServingCertificate {
    /// `--tls-cert-file` and `--tls-private-key-file`; files are followed when they change.
    Given(Pem, Pem),
    /// Made at start and kept nowhere, as upstream does without a certificate directory.
    SelfSigned,
}

/// The front proxy: `--requestheader-*`.
#[derive(Debug, Clone)]
pub struct FrontProxy {
    /// `--requestheader-client-ca-file`.
    pub client_ca: Pem,
    /// `--requestheader-allowed-names`.
    pub allowed_names: Vec<String>,
    /// `--requestheader-username-headers`.
    pub username_headers: Vec<String>,
    /// `--requestheader-uid-headers`.
    pub uid_headers: Vec<String>,
    /// `--requestheader-group-headers`.
    pub group_headers: Vec<String>,
    /// `--requestheader-extra-headers-prefix`.
    pub extra_header_prefixes: Vec<String>,
}

/// How kubelets are reached: `--kubelet-*`.
#[derive(Debug, Clone, Default)]
pub struct KubeletClient {
    /// `--kubelet-client-certificate` and `--kubelet-client-key`.
    pub client: Option<(Pem, Pem)>,
    /// `--kubelet-certificate-authority`; without it kubelets' certificates are not checked.
    pub ca: Option<Pem>,
    /// `--kubelet-preferred-address-types`.
    pub address_types: Vec<String>,
}

/// Everything.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where objects are kept.
    pub storage: StorageConfig,
    /// `--storage-media-type`: in which form.
    pub storage_media_type: StorageMediaType,
    /// `--bind-address` and `--secure-port`; port 0 takes any.
    pub bind: SocketAddr,
    /// Listeners that are open already and serve beside [`Config::bind`]: the all-in-one opens one on the machine's
    /// loopback before it moves into the cluster's network.
    pub listeners: Vec<Arc<std::net::TcpListener>>,
    /// `--advertise-address`: what the `kubernetes` endpoints say; by default the bind address.
    pub advertise_address: Option<IpAddr>,
    /// `--endpoint-reconciler-type`: this server keeps itself among those endpoints.
    pub reconciles_endpoints: bool,
    /// `--external-hostname`, for certificates and service account discovery.
    pub external_host: Option<String>,
    /// `--tls-*`.
    pub certificate: ServingCertificate,
    /// `--tls-min-version`, `--tls-cipher-suites`.
    pub tls: component::tls::Offer,
    /// `--proxy-client-cert-file`, `--proxy-client-key-file`: checked at start, for servers behind APIServices.
    pub proxy_client: Option<(Pem, Pem)>,
    /// `--client-ca-file`.
    pub client_ca: Option<Pem>,
    /// `--token-auth-file`.
    pub token_file: Option<PathBuf>,
    /// `--enable-bootstrap-token-auth`.
    pub bootstrap_tokens: bool,
    /// `--anonymous-auth`.
    pub anonymous: bool,
    /// `--service-account-key-file`.
    pub service_account_keys: Vec<Pem>,
    /// `--service-account-signing-key-file`.
    pub service_account_signing_key: Option<Pem>,
    /// `--service-account-issuer`, the first one issues.
    pub service_account_issuers: Vec<String>,
    /// `--service-account-jwks-uri`.
    pub service_account_jwks_uri: Option<String>,
    /// `--service-account-max-token-expiration`.
    pub service_account_max_expiration: Option<Duration>,
    /// `--service-account-extend-token-expiration`.
    pub service_account_extend_expiration: bool,
    /// `--api-audiences`; by default the first issuer.
    pub api_audiences: Vec<String>,
    /// `--requestheader-*`.
    pub front_proxy: Option<FrontProxy>,
    /// `--authorization-mode`.
    pub authorization_modes: Vec<String>,
    /// `--enable-admission-plugins`.
    pub enable_admission: Vec<String>,
    /// `--disable-admission-plugins`.
    pub disable_admission: Vec<String>,
    /// `--admission-control-config-file`.
    pub admission_config: Option<PathBuf>,
    /// `--runtime-config`.
    pub runtime_config: BTreeMap<String, String>,
    /// `--service-cluster-ip-range`, one or two ranges.
    pub service_ranges: Vec<ipnet::IpNet>,
    /// `--service-node-port-range`.
    pub node_ports: RangeInclusive<u16>,
    /// `--allow-privileged`.
    pub allow_privileged: bool,
    /// `--kubelet-*`.
    pub kubelet: KubeletClient,
    /// `--request-timeout`.
    pub request_timeout: Duration,
    /// `--min-request-timeout`.
    pub min_request_timeout: Duration,
    /// `--max-requests-inflight`.
    pub reads_inflight: usize,
    /// `--max-mutating-requests-inflight`.
    pub writes_inflight: usize,
    /// `--delete-collection-workers`.
    pub delete_collection_workers: usize,
    /// `--event-ttl`.
    pub event_ttl: Duration,
    /// `--etcd-compaction-interval`; zero leaves compaction to others.
    pub compaction_interval: Duration,
    /// `--shutdown-delay-duration`: requests are still taken this long after `/readyz` says no.
    pub shutdown_delay: Duration,
    /// `--shutdown-send-retry-after`: while requests under way end, new ones are answered with 429 and sent elsewhere.
    pub shutdown_send_retry_after: bool,
    /// `--shutdown-watch-termination-grace-period`: watches end over this time, one after the other.
    pub shutdown_watch_grace: Duration,
    /// `--goaway-chance`: which part of the requests over HTTP/2 is told to come on another connection next time.
    pub goaway_chance: f64,
    /// `--http2-max-streams-per-connection`.
    pub http2_streams: u32,
}

/// Upstream's default service range.
const SERVICE_RANGE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);

impl Default for Config {
    fn default() -> Self {
        Self {
            storage: StorageConfig::Memory,
            storage_media_type: StorageMediaType::default(),
            bind: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 6443)),
            listeners: Vec::new(),
            advertise_address: None,
            reconciles_endpoints: true,
            external_host: None,
            certificate: ServingCertificate::SelfSigned,
            tls: component::tls::Offer::default(),
            proxy_client: None,
            client_ca: None,
            token_file: None,
            bootstrap_tokens: false,
            anonymous: true,
            service_account_keys: Vec::new(),
            service_account_signing_key: None,
            service_account_issuers: Vec::new(),
            service_account_jwks_uri: None,
            service_account_max_expiration: None,
            service_account_extend_expiration: true,
            api_audiences: Vec::new(),
            front_proxy: None,
            authorization_modes: vec!["Node".into(), "RBAC".into()],
            enable_admission: Vec::new(),
            disable_admission: Vec::new(),
            admission_config: None,
            runtime_config: BTreeMap::new(),
            service_ranges: vec![ipnet::IpNet::new_assert(SERVICE_RANGE.into(), 24)],
            node_ports: 30000..=32767,
            allow_privileged: false,
            kubelet: KubeletClient::default(),
            request_timeout: Duration::from_mins(1),
            min_request_timeout: Duration::from_mins(30),
            reads_inflight: 400,
            writes_inflight: 200,
            delete_collection_workers: 1,
            event_ttl: Duration::from_hours(1),
            compaction_interval: Duration::from_mins(5),
            shutdown_delay: Duration::ZERO,
            shutdown_send_retry_after: false,
            shutdown_watch_grace: Duration::ZERO,
            goaway_chance: 0.0,
            http2_streams: 1000,
        }
    }
}

impl Config {
    /// The address others reach the server at.
    pub fn advertised(&self) -> IpAddr {
        self.advertise_address.unwrap_or_else(|| match self.bind.ip() {
            ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            ip => ip,
        })
    }

    /// The address of the `kubernetes` Service: the first of the service range.
    pub fn service_ip(&self) -> Option<IpAddr> {
        self.service_ranges.first().and_then(|range| range.hosts().next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_service_address_is_the_servers() {
        let config =
            Config { service_ranges: vec!["10.96.0.0/16".parse().expect("range")], ..Config::default() };
        assert_eq!(config.service_ip(), Some("10.96.0.1".parse().expect("address")));
        assert_eq!(config.advertised(), IpAddr::from(Ipv4Addr::LOCALHOST));
    }
}
