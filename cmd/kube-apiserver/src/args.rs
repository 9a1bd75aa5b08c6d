//! Upstream's flags, read into a [`Config`]. Flags that are not here are refused, as are values that are not supported.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::ArgAction;
use component::flags::{GoDuration, StringMap, go_bool};
use component::gates;
use component::logs;
use component::tls::Offer;
use controlplane::{
    Config, FrontProxy, KubeletClient, Pem, ServingCertificate, StorageConfig, StorageMediaType,
};

/// A boolean flag as Go's flag package takes it.
type Flag = bool;

/// Upper bound of `--goaway-chance`: more would leave clients with nothing but handshakes.
const MAX_GOAWAY_CHANCE: f64 = 0.02;

/// `--endpoint-reconciler-type`. Upstream's deprecated `master-count` needs to be told how many servers there are; it is
/// refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum EndpointReconciler {
    /// Each living server holds a lease.
    Lease,
    /// Somebody else writes the endpoints.
    None,
}

/// Flags of kube-apiserver.
#[derive(Debug, clap::Parser)]
#[command(name = "kube-apiserver", version = component::KUBERNETES_VERSION)]
pub(crate) struct Args {
    /// List of etcd servers to connect with (scheme://ip:port), comma separated.
    #[arg(long, value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// CA of the etcd servers.
    #[arg(long)]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd.
    #[arg(long, requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd.
    #[arg(long, requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// Interval of compaction requests; 0 makes none.
    #[arg(long, default_value = "5m0s")]
    etcd_compaction_interval: GoDuration,
    /// Storage backend; only etcd3.
    #[arg(long, default_value = "etcd3", value_parser = ["etcd3"])]
    storage_backend: String,
    /// Media type of stored objects: application/json or application/vnd.kubernetes.protobuf. Either is read.
    #[arg(long, default_value = "application/json", value_parser = media_type)]
    storage_media_type: StorageMediaType,
    /// Directory of the embedded store, instead of etcd.
    #[arg(long, conflicts_with = "etcd_servers")]
    storage_dir: Option<PathBuf>,

    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// Port to listen on with TLS.
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// Address members of the cluster reach this server at.
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// How servers keep the endpoints of the `kubernetes` service: by leases, or not at all.
    #[arg(long, value_enum, default_value_t = EndpointReconciler::Lease)]
    endpoint_reconciler_type: EndpointReconciler,
    /// Host name used when generating external URLs.
    #[arg(long)]
    external_hostname: Option<String>,
    /// Serving certificate (chain).
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Key of the serving certificate.
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Lowest TLS version: VersionTLS12 or VersionTLS13.
    #[arg(long, default_value = "")]
    tls_min_version: String,
    /// Cipher suites of TLS 1.2 that may be used, by their Go names.
    #[arg(long, value_delimiter = ',')]
    tls_cipher_suites: Vec<String>,
    /// Streams at once on an HTTP/2 connection.
    #[arg(long, default_value_t = 1000)]
    http2_max_streams_per_connection: u32,

    /// CA of client certificates.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// File of static tokens.
    #[arg(long)]
    token_auth_file: Option<PathBuf>,
    /// Bootstrap tokens from secrets in kube-system.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    enable_bootstrap_token_auth: Flag,
    /// Requests without credentials are anonymous.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    anonymous_auth: Flag,
    /// Keys that verify service account tokens; may be given several times.
    #[arg(long)]
    service_account_key_file: Vec<PathBuf>,
    /// Key that signs service account tokens.
    #[arg(long)]
    service_account_signing_key_file: Option<PathBuf>,
    /// Issuer of service account tokens; may be given several times, the first one issues.
    #[arg(long)]
    service_account_issuer: Vec<String>,
    /// URI of the key set in the issuer discovery document.
    #[arg(long)]
    service_account_jwks_uri: Option<String>,
    /// Longest validity of a service account token.
    #[arg(long)]
    service_account_max_token_expiration: Option<GoDuration>,
    /// Tokens of pods live longer than asked for, to ease the move to bound tokens.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    service_account_extend_token_expiration: Flag,
    /// Check that service account tokens exist; cannot be turned off here.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    service_account_lookup: Flag,
    /// Audiences of the API; by default the issuer.
    #[arg(long, value_delimiter = ',')]
    api_audiences: Vec<String>,
    /// CA of front proxies.
    #[arg(long)]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies.
    #[arg(long, value_delimiter = ',')]
    requestheader_allowed_names: Vec<String>,
    /// Headers of user names.
    #[arg(long, value_delimiter = ',')]
    requestheader_username_headers: Vec<String>,
    /// Headers of uids.
    #[arg(long, value_delimiter = ',')]
    requestheader_uid_headers: Vec<String>,
    /// Headers of groups.
    #[arg(long, value_delimiter = ',')]
    requestheader_group_headers: Vec<String>,
    /// Prefixes of headers of extra facts.
    #[arg(long, value_delimiter = ',')]
    requestheader_extra_headers_prefix: Vec<String>,

    /// Client certificate for servers behind APIServices and webhooks. It must fit its key; nothing asks for it yet.
    #[arg(long, requires = "proxy_client_key_file")]
    proxy_client_cert_file: Option<PathBuf>,
    /// Key of the client certificate for servers behind APIServices and webhooks.
    #[arg(long, requires = "proxy_client_cert_file")]
    proxy_client_key_file: Option<PathBuf>,
    /// Requests for servers behind APIServices go to their endpoints; there are no such servers yet, so only false.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    enable_aggregator_routing: Flag,

    /// Authorizers in order: Node, RBAC, AlwaysAllow, AlwaysDeny.
    #[arg(long, value_delimiter = ',', default_value = "AlwaysAllow")]
    authorization_mode: Vec<String>,
    /// Admission plugins to enable beyond the default ones.
    #[arg(long, value_delimiter = ',')]
    enable_admission_plugins: Vec<String>,
    /// Admission plugins to disable.
    #[arg(long, value_delimiter = ',')]
    disable_admission_plugins: Vec<String>,
    /// File with the configuration of admission plugins.
    #[arg(long)]
    admission_control_config_file: Option<PathBuf>,
    /// API versions to turn on or off.
    #[arg(long, default_value = "")]
    runtime_config: StringMap,
    /// Feature gates.
    #[arg(long, default_value = "")]
    feature_gates: StringMap,

    /// Ranges of service addresses, at most two.
    #[arg(long, value_delimiter = ',', default_value = "10.0.0.0/24")]
    service_cluster_ip_range: Vec<ipnet::IpNet>,
    /// Range of node ports, FIRST-LAST.
    #[arg(long, default_value = "30000-32767", value_parser = ports)]
    service_node_port_range: RangeInclusive<u16>,
    /// Privileged containers are allowed.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    allow_privileged: Flag,
    /// Client certificate for kubelets.
    #[arg(long, requires = "kubelet_client_key")]
    kubelet_client_certificate: Option<PathBuf>,
    /// Key of the client certificate for kubelets.
    #[arg(long, requires = "kubelet_client_certificate")]
    kubelet_client_key: Option<PathBuf>,
    /// CA of kubelets.
    #[arg(long)]
    kubelet_certificate_authority: Option<PathBuf>,
    /// Kinds of node addresses in order of preference.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP"
    )]
    kubelet_preferred_address_types: Vec<String>,

    /// Longest a request may take.
    #[arg(long, default_value = "1m0s")]
    request_timeout: GoDuration,
    /// Seconds a watch lasts at least.
    #[arg(long, default_value_t = 1800)]
    min_request_timeout: u64,
    /// Reads in flight.
    #[arg(long, default_value_t = 400)]
    max_requests_inflight: usize,
    /// Writes in flight.
    #[arg(long, default_value_t = 200)]
    max_mutating_requests_inflight: usize,
    /// Objects of a collection that are deleted at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    delete_collection_workers: u16,
    /// Profiling endpoints under /debug/pprof/. They are those of Go's runtime; this server has none, so only false,
    /// which is the default here.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    profiling: Flag,
    /// How long events are kept.
    #[arg(long, default_value = "1h0m0s")]
    event_ttl: GoDuration,
    /// Requests are still served this long after /readyz says no.
    #[arg(long, default_value = "0s")]
    shutdown_delay_duration: GoDuration,
    /// While the last requests are answered, the listener stays open and new ones are answered with 429.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    shutdown_send_retry_after: Flag,
    /// Watches end over this time, one after the other, when the server does.
    #[arg(long, default_value = "0s")]
    shutdown_watch_termination_grace_period: GoDuration,
    /// Which part of the requests over HTTP/2 ends with GOAWAY, so that clients spread over servers; at most 0.02.
    #[arg(long, default_value_t = 0.0)]
    goaway_chance: f64,

    #[command(flatten)]
    pub(crate) logs: logs::Options,
}

fn media_type(name: &str) -> Result<StorageMediaType, String> {
    StorageMediaType::parse(name)
        .ok_or_else(|| "must be application/json or application/vnd.kubernetes.protobuf".to_owned())
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let invalid = || format!("{text:?} is not a range of ports");
    if let Some((first, count)) = text.split_once('+') {
        let first: u16 = first.parse().map_err(|_| invalid())?;
        let count: u16 = count.parse().map_err(|_| invalid())?;
        return first.checked_add(count).map(|last| first..=last).ok_or_else(invalid);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err(invalid()),
    }
}

/// Gates may be named in the state they have anyway.
fn check_gates(given: &StringMap) -> anyhow::Result<()> {
    for (gate, state) in &given.0 {
        let Some(state) = go_bool(state) else {
            bail!(
                "invalid value of {gate}={state}, err: strconv.ParseBool: parsing {state:?}: invalid syntax"
            );
        };
        gates::check([(gate.as_str(), state)])?;
    }
    Ok(())
}

fn pair(cert: Option<PathBuf>, key: Option<PathBuf>) -> Option<(Pem, Pem)> {
    Some((Pem::File(cert?), Pem::File(key?)))
}

impl Args {
    /// The configuration, or what is wrong with the flags.
    pub(crate) fn into_config(self) -> anyhow::Result<Config> {
        check_gates(&self.feature_gates).context("--feature-gates")?;
        let offer = Offer::parse(&self.tls_min_version, &self.tls_cipher_suites).context("--tls-*")?;
        if self.profiling {
            bail!("--profiling is not supported: this server has no /debug/pprof/ endpoints");
        }
        if self.enable_aggregator_routing {
            bail!(
                "--enable-aggregator-routing is not supported: no requests go to servers behind APIServices yet"
            );
        }
        if !(0.0..=MAX_GOAWAY_CHANCE).contains(&self.goaway_chance) {
            bail!("--goaway-chance can not be less than 0 or greater than 0.02");
        }
        if !self.service_account_lookup {
            bail!("--service-account-lookup=false is not supported");
        }
        if self.service_cluster_ip_range.len() > 2 {
            bail!("--service-cluster-ip-range must not hold more than two ranges");
        }
        let storage = match (self.storage_dir, self.etcd_servers.is_empty()) {
            (Some(dir), true) => StorageConfig::Embedded(dir),
            (None, false) => StorageConfig::Etcd {
                servers: self.etcd_servers,
                ca: self.etcd_cafile.map(Pem::File),
                client: pair(self.etcd_certfile, self.etcd_keyfile),
            },
            _ => bail!("one of --etcd-servers and --storage-dir must be specified"),
        };
        let front_proxy = match self.requestheader_client_ca_file {
            Some(ca) => Some(FrontProxy {
                client_ca: Pem::File(ca),
                allowed_names: self.requestheader_allowed_names,
                username_headers: self.requestheader_username_headers,
                uid_headers: self.requestheader_uid_headers,
                group_headers: self.requestheader_group_headers,
                extra_header_prefixes: self.requestheader_extra_headers_prefix,
            }),
            None if !self.requestheader_username_headers.is_empty() => {
                bail!(
                    "--requestheader-client-ca-file is required if --requestheader-username-headers is given"
                )
            }
            None => None,
        };
        let certificate = match pair(self.tls_cert_file, self.tls_private_key_file) {
            Some((cert, key)) => ServingCertificate::Given(cert, key),
            None => ServingCertificate::SelfSigned,
        };
        Ok(Config {
            storage,
            storage_media_type: self.storage_media_type,
            bind: SocketAddr::new(self.bind_address, self.secure_port),
            listeners: Vec::new(),
            advertise_address: self.advertise_address,
            reconciles_endpoints: self.endpoint_reconciler_type == EndpointReconciler::Lease,
            external_host: self.external_hostname,
            certificate,
            tls: offer,
            proxy_client: pair(self.proxy_client_cert_file, self.proxy_client_key_file),
            client_ca: self.client_ca_file.map(Pem::File),
            token_file: self.token_auth_file,
            bootstrap_tokens: self.enable_bootstrap_token_auth,
            anonymous: self.anonymous_auth,
            service_account_keys: self.service_account_key_file.into_iter().map(Pem::File).collect(),
            service_account_signing_key: self.service_account_signing_key_file.map(Pem::File),
            service_account_issuers: self.service_account_issuer,
            service_account_jwks_uri: self.service_account_jwks_uri,
            service_account_max_expiration: self.service_account_max_token_expiration.map(|d| d.0),
            service_account_extend_expiration: self.service_account_extend_token_expiration,
            api_audiences: self.api_audiences,
            front_proxy,
            authorization_modes: self.authorization_mode,
            enable_admission: self.enable_admission_plugins,
            disable_admission: self.disable_admission_plugins,
            admission_config: self.admission_control_config_file,
            runtime_config: self.runtime_config.0.into_iter().collect::<BTreeMap<_, _>>(),
            service_ranges: self.service_cluster_ip_range,
            node_ports: self.service_node_port_range,
            allow_privileged: self.allow_privileged,
            kubelet: KubeletClient {
                client: pair(self.kubelet_client_certificate, self.kubelet_client_key),
                ca: self.kubelet_certificate_authority.map(Pem::File),
                address_types: self.kubelet_preferred_address_types,
            },
            request_timeout: self.request_timeout.0,
            min_request_timeout: std::time::Duration::from_secs(self.min_request_timeout),
            reads_inflight: self.max_requests_inflight,
            writes_inflight: self.max_mutating_requests_inflight,
            delete_collection_workers: self.delete_collection_workers.into(),
            event_ttl: self.event_ttl.0,
            compaction_interval: self.etcd_compaction_interval.0,
            shutdown_delay: self.shutdown_delay_duration.0,
            shutdown_send_retry_after: self.shutdown_send_retry_after,
            shutdown_watch_grace: self.shutdown_watch_termination_grace_period.0,
            goaway_chance: self.goaway_chance,
            http2_streams: self.http2_max_streams_per_connection,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let all = std::iter::once("kube-apiserver").chain(flags.iter().copied());
        Args::try_parse_from(all).map_err(|e| e.to_string())?.into_config().map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn flags_of_upstream_are_taken() {
        let config = config(&[
            "--storage-dir=/x",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged",
            "--anonymous-auth=false",
            "--authorization-mode=Node,RBAC",
            "--service-node-port-range=30000-30100",
            "--request-timeout=30s",
            "--delete-collection-workers=4",
            "--enable-aggregator-routing=false",
            "--shutdown-delay-duration=5s",
            "--shutdown-send-retry-after",
            "--shutdown-watch-termination-grace-period=7s",
            "--goaway-chance=.01",
            "--feature-gates=WatchList=true,EventedPLEG=false",
            "--tls-min-version=VersionTLS13",
            "--profiling=false",
            "--proxy-client-cert-file=/p.crt",
            "--proxy-client-key-file=/p.key",
        ])
        .expect("flags");
        assert!(config.allow_privileged && !config.anonymous);
        assert_eq!(config.authorization_modes, ["Node", "RBAC"]);
        assert_eq!(config.node_ports, 30000..=30100);
        assert_eq!(config.delete_collection_workers, 4);
        assert!(config.proxy_client.is_some() && config.shutdown_send_retry_after);
        assert_eq!((config.shutdown_watch_grace.as_secs(), config.goaway_chance), (7, 0.01));
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for flags in [
            &["--no-such-flag"][..],
            &[],
            &["--storage-dir=/x", "--feature-gates=Nope=true"],
            &["--storage-dir=/x", "--feature-gates=WatchList=false"],
            &["--storage-dir=/x", "--storage-media-type=application/cbor"],
            &["--storage-dir=/x", "--service-account-lookup=false"],
            &["--storage-dir=/x", "--feature-gates=WatchList=perhaps"],
            &["--storage-dir=/x", "--profiling"],
            &["--storage-dir=/x", "--enable-aggregator-routing"],
            &["--storage-dir=/x", "--tls-min-version=VersionTLS9"],
            &["--storage-dir=/x", "--delete-collection-workers=0"],
            &["--storage-dir=/x", "--proxy-client-cert-file=/p.crt"],
            &["--storage-dir=/x", "--service-node-port-range=9-1"],
        ] {
            assert!(config(flags).is_err(), "{flags:?}");
        }
    }
}
