//! What a kubelet is told: upstream's `KubeletConfiguration` file and the values flags lay over it.
//!
//! A field of upstream either has its effect or is refused when it asks for what this kubelet does not do
//! ([`Error::Unsupported`]). Unknown fields are warned about, as upstream does for v1beta1.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use component::flags::GoDuration;
use serde::Deserialize;
use serde_json::Value;

mod eviction;
mod file;
pub use eviction::{Soft, Threshold, Thresholds};
pub use file::{Anonymous, Authentication, Authorization, KubeletConfiguration, Logging, Webhook, X509};

/// Group and version of the file.
const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// Kind of the file.
const KIND: &str = "KubeletConfiguration";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to load kubelet config file {path}: {reason}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A field asks for something this kubelet does not do.
    #[error("kubelet configuration: {field}: {value} is not supported: {hint}")]
    Unsupported {
        /// Field as in the file.
        field: &'static str,
        /// What it asks for.
        value: String,
        /// What is supported.
        hint: &'static str,
    },
    /// A field's value makes no sense.
    #[error("invalid configuration: {0}")]
    Invalid(String),
}

/// How requests to the kubelet's server are authorized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationMode {
    /// Whoever is authenticated may do everything.
    AlwaysAllow,
    /// The API server is asked (SubjectAccessReview).
    Webhook,
}

/// What flags say, beside the file. `None` leaves the file's value.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--hostname-override`
    pub hostname_override: Option<String>,
    /// `--node-ip`
    pub node_ips: Vec<IpAddr>,
    /// `--container-runtime-endpoint`
    pub runtime_endpoint: Option<String>,
    /// `--pod-infra-container-image`: kept from image garbage collection.
    pub pause_image: Option<String>,
    /// `--root-dir`
    pub root_dir: Option<PathBuf>,
    /// `--cert-dir`
    pub cert_dir: Option<PathBuf>,
    /// `--node-labels`
    pub node_labels: BTreeMap<String, String>,
    /// `--cloud-provider=external`
    pub external_cloud: bool,
}

/// A validated configuration.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each is the field of upstream's KubeletConfiguration of that name")]
pub struct Config {
    pub node_name: String,
    pub hostname: String,
    pub node_ips: Vec<IpAddr>,
    pub root_dir: PathBuf,
    pub runtime_endpoint: String,
    pub pause_image: Option<String>,
    pub node_labels: BTreeMap<String, String>,
    /// Where own certificates are kept.
    pub cert_dir: PathBuf,
    /// The node starts with a taint that a cloud controller manager takes away.
    pub external_cloud: bool,
    pub register_node: bool,
    pub register_with_taints: Vec<k8s_openapi::api::core::v1::Taint>,
    pub static_pod_path: Option<PathBuf>,
    pub address: IpAddr,
    pub port: u16,
    pub tls_cert_file: Option<PathBuf>,
    pub tls_private_key_file: Option<PathBuf>,
    pub client_ca_file: Option<PathBuf>,
    pub anonymous_auth: bool,
    pub webhook_auth: bool,
    pub webhook_cache_ttl: Duration,
    pub authorization: AuthorizationMode,
    pub authorized_ttl: Duration,
    pub unauthorized_ttl: Duration,
    pub healthz_address: IpAddr,
    pub healthz_port: u16,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    pub resolv_conf: PathBuf,
    pub cgroup_root: String,
    pub cgroups_per_qos: bool,
    pub enforce_node_allocatable: bool,
    pub cpu_cfs_quota: bool,
    pub max_pods: i64,
    pub pods_per_core: i64,
    pub pod_pids_limit: i64,
    pub serialize_image_pulls: bool,
    pub max_parallel_image_pulls: usize,
    pub image_gc_high_percent: f64,
    pub image_gc_low_percent: f64,
    pub image_minimum_gc_age: Duration,
    pub eviction: Thresholds,
    pub eviction_pressure_transition: Duration,
    pub log_max_size: u64,
    pub log_max_files: usize,
    pub log_monitor_interval: Duration,
    pub sync_frequency: Duration,
    pub node_status_update: Duration,
    pub node_status_report: Duration,
    pub lease_duration: Duration,
    pub runtime_request_timeout: Duration,
    pub streaming_idle_timeout: Duration,
    pub kube_reserved: BTreeMap<String, String>,
    pub system_reserved: BTreeMap<String, String>,
    pub allowed_unsafe_sysctls: Vec<String>,
    pub seccomp_default: bool,
    pub fail_swap_on: bool,
    pub debugging_handlers: bool,
    pub profiling: bool,
    pub provider_id: String,
    pub crash_loop_max: Duration,
    pub pod_cidr: Option<String>,
    /// `fileCheckFrequency`: how often static manifests are looked at.
    pub file_check: Duration,
    /// `tlsMinVersion`, `tlsCipherSuites`
    pub tls_offer: component::tls::Offer,
    /// `registryPullQPS`, `registryBurst`: pulls a second and at once; `None` is without limit.
    pub pull_rate: Option<(f64, u32)>,
    pub event_record_qps: f64,
    pub event_burst: u32,
    pub kube_api_qps: f64,
    pub kube_api_burst: u32,
    pub log_max_workers: usize,
    pub system_log_handler: bool,
    /// `nodeStatusMaxImages`; `None` lists them all.
    pub node_status_max_images: Option<usize>,
    pub enable_server: bool,
    /// `configMapAndSecretChangeDetectionStrategy: Get`: ask for ConfigMaps and Secrets each time.
    pub always_get_objects: bool,
    pub fail_cgroup_v1: bool,
    /// `singleProcessOOMKill`; `None` is upstream's default: on with cgroup v1, off with v2.
    pub single_process_oom_kill: Option<bool>,
    /// `imageMaximumGCAge`; `None` keeps unused images until the disk fills.
    pub image_maximum_gc_age: Option<Duration>,
    pub iptables_chains: bool,
    /// `volumeStatsAggPeriod`: how old figures of volumes may be; `None` measures none.
    pub volume_stats_period: Option<Duration>,
    /// What `/configz` shows.
    pub shown: Value,
    pub host: HostSettings,
}

/// What the process and the kernel are set to at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSettings {
    /// `oomScoreAdj` of this process.
    pub oom_score_adj: i32,
    /// `maxOpenFiles` of this process.
    pub max_open_files: u64,
    /// `protectKernelDefaults`: refuse to start on other kernel settings, instead of changing them.
    pub protect_kernel_defaults: bool,
}

const DEFAULT_ENDPOINT: &str = "unix:///run/containerd/containerd.sock";
const DEFAULT_ROOT: &str = "/var/lib/kubelet";
/// Longest restart back-off unless configured.
const CRASH_LOOP_MAX: Duration = Duration::from_secs(300);

/// A duration in Go's text form.
fn go(duration: Duration) -> String {
    GoDuration(duration).to_string()
}

/// `volumeStatsAggPeriod`: upstream's default for zero, nothing for a negative one.
fn volume_period(text: Option<&str>) -> Result<Option<Duration>, Error> {
    const DEFAULT: Duration = Duration::from_mins(1);
    let text = text.unwrap_or("0s");
    if text.starts_with('-') {
        return Ok(None);
    }
    let given: GoDuration =
        text.parse().map_err(|error| Error::Invalid(format!("volumeStatsAggPeriod: {error}")))?;
    Ok(Some(if given.0.is_zero() { DEFAULT } else { given.0 }))
}

impl KubeletConfiguration {
    /// Reads a file's text. Answers the configuration and warnings about what it does not know.
    pub fn parse(text: &str, path: &std::path::Path) -> Result<(Self, Vec<String>), Error> {
        Self::from_tree(&Self::tree(text, path)?, path)
    }

    /// The tree of a file's text, which must be of this kind.
    pub fn tree(text: &str, path: &std::path::Path) -> Result<Value, Error> {
        let fail = |reason: String| Error::File { path: path.to_owned(), reason };
        let tree: Value = apimachinery::yaml::parse(text.as_bytes()).map_err(|e| fail(e.to_string()))?.into();
        let kind = (tree["apiVersion"].as_str(), tree["kind"].as_str());
        if kind != (Some(API_VERSION), Some(KIND)) {
            let (version, kind) = (kind.0.unwrap_or_default(), kind.1.unwrap_or_default());
            return Err(fail(format!(
                "no kind {kind:?} is registered for version {version:?}: want {KIND} of {API_VERSION}"
            )));
        }
        Ok(tree)
    }

    /// A file that says nothing, for flags to be laid over.
    pub fn empty_tree() -> Value {
        serde_json::json!({"apiVersion": API_VERSION, "kind": KIND})
    }

    /// A configuration of a tree, and warnings about what it does not know. `path` is for errors.
    pub fn from_tree(tree: &Value, path: &std::path::Path) -> Result<(Self, Vec<String>), Error> {
        let fail = |reason: String| Error::File { path: path.to_owned(), reason };
        let mut warnings = Vec::new();
        for field in tree.as_object().into_iter().flatten().map(|(field, _)| field) {
            if !file::known(field) {
                warnings.push(format!("unknown field {field:?}"));
            }
        }
        let mut file = Self::deserialize(tree).map_err(|e| fail(e.to_string()))?;
        file.tree = tree.clone();
        Ok((file, warnings))
    }
}

impl Config {
    /// Lays flags over a file, fills in defaults, and checks the result. `hostname` is the machine's.
    pub fn new(file: &KubeletConfiguration, flags: &Flags, hostname: &str) -> Result<Self, Error> {
        file.refuse_unsupported()?;
        let duration =
            |value: Option<GoDuration>, default: u64| value.map_or(Duration::from_secs(default), |d| d.0);
        let address = |text: &Option<String>, default: &str| -> Result<IpAddr, Error> {
            let text = text.as_deref().unwrap_or(default);
            text.parse().map_err(|_| Error::Invalid(format!("{text:?} is not an IP address")))
        };
        let authentication = file.authentication.clone().unwrap_or_default();
        let webhook = authentication.webhook.unwrap_or_default();
        let authorization = file.authorization.clone().unwrap_or_default();
        let mode = match authorization.mode.as_deref() {
            None | Some("Webhook") => AuthorizationMode::Webhook,
            Some("AlwaysAllow") => AuthorizationMode::AlwaysAllow,
            Some(other) => {
                return Err(Error::Invalid(format!(
                    "authorization.mode: {other:?}: want Webhook or AlwaysAllow"
                )));
            }
        };
        let review = authorization.webhook.unwrap_or_default();
        let name = flags.hostname_override.clone().unwrap_or_else(|| hostname.to_owned());
        let root_dir = flags.root_dir.clone().unwrap_or_else(|| DEFAULT_ROOT.into());
        let log_size = file.container_log_max_size.as_deref().unwrap_or("10Mi");
        let log_max_size = Threshold::parse(log_size)
            .and_then(|t| if let Threshold::Amount(n) = t { u64::try_from(n).ok() } else { None })
            .ok_or_else(|| Error::Invalid(format!("containerLogMaxSize: {log_size:?} is not a quantity")))?;
        let mut config = Self {
            node_name: name.trim().to_lowercase(),
            hostname: name.trim().to_lowercase(),
            node_ips: flags.node_ips.clone(),
            root_dir: root_dir.clone(),
            runtime_endpoint: flags
                .runtime_endpoint
                .clone()
                .or_else(|| file.container_runtime_endpoint.clone().filter(|e| !e.is_empty()))
                .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            pause_image: flags.pause_image.clone(),
            node_labels: flags.node_labels.clone(),
            cert_dir: flags.cert_dir.clone().unwrap_or_else(|| root_dir.join("pki")),
            external_cloud: flags.external_cloud,
            register_node: file.register_node.unwrap_or(true),
            register_with_taints: file.register_with_taints.clone().unwrap_or_default(),
            static_pod_path: file.static_pod_path.clone().filter(|p| !p.as_os_str().is_empty()),
            address: address(&file.address, "0.0.0.0")?,
            port: file.port.unwrap_or(10250),
            tls_cert_file: file.tls_cert_file.clone().filter(|p| !p.as_os_str().is_empty()),
            tls_private_key_file: file.tls_private_key_file.clone().filter(|p| !p.as_os_str().is_empty()),
            client_ca_file: authentication
                .x509
                .unwrap_or_default()
                .client_ca_file
                .filter(|p| !p.as_os_str().is_empty()),
            anonymous_auth: authentication.anonymous.unwrap_or_default().enabled.unwrap_or(false),
            webhook_auth: webhook.enabled.unwrap_or(true),
            webhook_cache_ttl: duration(webhook.cache_ttl, 120),
            authorization: mode,
            authorized_ttl: duration(review.cache_authorized_ttl, 300),
            unauthorized_ttl: duration(review.cache_unauthorized_ttl, 30),
            healthz_address: address(&file.healthz_bind_address, "127.0.0.1")?,
            healthz_port: file.healthz_port.unwrap_or(10248),
            cluster_dns: file.cluster_dns.clone().unwrap_or_default(),
            cluster_domain: file.cluster_domain.clone().unwrap_or_default(),
            resolv_conf: file.resolv_conf.clone().unwrap_or_else(|| "/etc/resolv.conf".into()),
            cgroup_root: file.cgroup_root.clone().filter(|r| !r.is_empty()).unwrap_or_else(|| "/".to_owned()),
            cgroups_per_qos: file.cgroups_per_qos.unwrap_or(true),
            enforce_node_allocatable: file
                .enforce_node_allocatable
                .as_ref()
                .is_none_or(|list| list.iter().any(|e| e == "pods")),
            cpu_cfs_quota: file.cpu_cfs_quota.unwrap_or(true),
            max_pods: file.max_pods.unwrap_or(110),
            pods_per_core: file.pods_per_core.unwrap_or(0),
            pod_pids_limit: file.pod_pids_limit.unwrap_or(-1),
            serialize_image_pulls: file.serialize_image_pulls.unwrap_or(true),
            max_parallel_image_pulls: file.max_parallel_image_pulls.unwrap_or(8).max(1),
            image_gc_high_percent: file.image_gc_high_threshold_percent.unwrap_or(85.0),
            image_gc_low_percent: file.image_gc_low_threshold_percent.unwrap_or(80.0),
            image_minimum_gc_age: duration(file.image_minimum_gc_age, 120),
            eviction: Thresholds::new(file)?,
            eviction_pressure_transition: duration(file.eviction_pressure_transition_period, 300),
            log_max_size,
            log_max_files: file.container_log_max_files.unwrap_or(5),
            log_monitor_interval: duration(file.container_log_monitor_interval, 10),
            sync_frequency: duration(file.sync_frequency, 60),
            node_status_update: duration(file.node_status_update_frequency, 10),
            node_status_report: duration(file.node_status_report_frequency, 300),
            lease_duration: Duration::from_secs(file.node_lease_duration_seconds.unwrap_or(40)),
            runtime_request_timeout: duration(file.runtime_request_timeout, 120),
            streaming_idle_timeout: duration(file.streaming_connection_idle_timeout, 4 * 3600),
            kube_reserved: file.kube_reserved.clone().unwrap_or_default(),
            system_reserved: file.system_reserved.clone().unwrap_or_default(),
            allowed_unsafe_sysctls: file.allowed_unsafe_sysctls.clone().unwrap_or_default(),
            seccomp_default: file.seccomp_default.unwrap_or(false),
            fail_swap_on: file.fail_swap_on.unwrap_or(true),
            debugging_handlers: file.enable_debugging_handlers.unwrap_or(true),
            profiling: file.enable_profiling_handler.unwrap_or(true),
            provider_id: file.provider_id.clone().unwrap_or_default(),
            crash_loop_max: file
                .crash_loop_back_off
                .as_ref()
                .and_then(|c| c.max_container_restart_period)
                .map_or(CRASH_LOOP_MAX, |d| d.0),
            pod_cidr: file.pod_cidr.clone().filter(|c| !c.is_empty()),
            file_check: duration(file.file_check_frequency.filter(|d| !d.0.is_zero()), 20),
            tls_offer: component::tls::Offer::parse(
                file.tls_min_version.as_deref().unwrap_or_default(),
                file.tls_cipher_suites.as_deref().unwrap_or_default(),
            )
            .map_err(|error| Error::Invalid(error.to_string()))?,
            pull_rate: Some((file.registry_pull_qps.unwrap_or(5.0), file.registry_burst.unwrap_or(10)))
                .filter(|(qps, _)| *qps > 0.0),
            event_record_qps: file.event_record_qps.unwrap_or(50.0),
            event_burst: file.event_burst.unwrap_or(100),
            kube_api_qps: file.kube_api_qps.unwrap_or(50.0),
            kube_api_burst: file.kube_api_burst.unwrap_or(100),
            log_max_workers: file.container_log_max_workers.unwrap_or(1),
            system_log_handler: file.enable_system_log_handler.unwrap_or(true),
            node_status_max_images: usize::try_from(file.node_status_max_images.unwrap_or(50)).ok(),
            enable_server: file.enable_server.unwrap_or(true),
            always_get_objects: match file.change_detection.as_deref() {
                None | Some("" | "Watch" | "Cache") => false,
                Some("Get") => true,
                Some(other) => {
                    return Err(Error::Invalid(format!(
                        "configMapAndSecretChangeDetectionStrategy: {other:?}: want Get, Cache or Watch"
                    )));
                }
            },
            single_process_oom_kill: file.single_process_oom_kill,
            fail_cgroup_v1: file.fail_cgroup_v1.unwrap_or(false),
            image_maximum_gc_age: file.image_maximum_gc_age.map(|d| d.0).filter(|d| !d.is_zero()),
            iptables_chains: file.make_iptables_util_chains.unwrap_or(true),
            volume_stats_period: volume_period(file.volume_stats_agg_period.as_deref())?,
            shown: file.tree.clone(),
            host: HostSettings {
                oom_score_adj: file.oom_score_adj.unwrap_or(-999),
                max_open_files: file.max_open_files.unwrap_or(1_000_000),
                protect_kernel_defaults: file.protect_kernel_defaults.unwrap_or(false),
            },
        };
        config.check()?;
        let effective = config.effective();
        component::fields::merge(&mut config.shown, effective);
        Ok(config)
    }

    /// The values in force, defaults included, as fields of the file.
    fn effective(&self) -> Value {
        let mut out = self.effective_access();
        component::fields::merge(&mut out, self.effective_upkeep());
        component::fields::merge(&mut out, self.effective_pods());
        out
    }

    /// Who may ask what where, and how often this kubelet asks others.
    fn effective_access(&self) -> Value {
        let mode = match self.authorization {
            AuthorizationMode::AlwaysAllow => "AlwaysAllow",
            AuthorizationMode::Webhook => "Webhook",
        };
        serde_json::json!({
            "address": self.address, "port": self.port, "enableServer": self.enable_server,
            "authentication": {
                "anonymous": {"enabled": self.anonymous_auth},
                "webhook": {"enabled": self.webhook_auth, "cacheTTL": go(self.webhook_cache_ttl)},
                "x509": {"clientCAFile": self.client_ca_file},
            },
            "authorization": {"mode": mode, "webhook": {
                "cacheAuthorizedTTL": go(self.authorized_ttl), "cacheUnauthorizedTTL": go(self.unauthorized_ttl)}},
            "healthzPort": self.healthz_port, "healthzBindAddress": self.healthz_address,
            "streamingConnectionIdleTimeout": go(self.streaming_idle_timeout),
            "enableDebuggingHandlers": self.debugging_handlers,
            "enableSystemLogHandler": self.system_log_handler,
            "registryPullQPS": self.pull_rate.map_or(0.0, |r| r.0),
            "registryBurst": self.pull_rate.map_or(0, |r| r.1),
            "eventRecordQPS": self.event_record_qps, "eventBurst": self.event_burst,
            "kubeAPIQPS": self.kube_api_qps, "kubeAPIBurst": self.kube_api_burst,
            "containerRuntimeEndpoint": self.runtime_endpoint,
            "runtimeRequestTimeout": go(self.runtime_request_timeout),
        })
    }

    /// What is done again and again, and what is kept free.
    fn effective_upkeep(&self) -> Value {
        let hard = &self.eviction.hard;
        let hard: BTreeMap<&String, String> = hard.iter().map(|(k, v)| (k, v.to_string())).collect();
        serde_json::json!({
            "syncFrequency": go(self.sync_frequency), "fileCheckFrequency": go(self.file_check),
            "nodeStatusUpdateFrequency": go(self.node_status_update),
            "nodeStatusReportFrequency": go(self.node_status_report),
            "nodeLeaseDurationSeconds": self.lease_duration.as_secs(),
            "nodeStatusMaxImages": self.node_status_max_images.map_or(-1, |n| n as i64),
            "imageMinimumGCAge": go(self.image_minimum_gc_age),
            "imageMaximumGCAge": go(self.image_maximum_gc_age.unwrap_or_default()),
            "imageGCHighThresholdPercent": self.image_gc_high_percent,
            "imageGCLowThresholdPercent": self.image_gc_low_percent,
            "evictionHard": hard,
            "evictionPressureTransitionPeriod": go(self.eviction_pressure_transition),
            "evictionMaxPodGracePeriod": self.eviction.max_pod_grace,
            "containerLogMaxSize": self.log_max_size.to_string(),
            "containerLogMaxFiles": self.log_max_files, "containerLogMaxWorkers": self.log_max_workers,
            "containerLogMonitorInterval": go(self.log_monitor_interval),
            "volumeStatsAggPeriod": self.volume_stats_period.map_or_else(|| "-1s".to_owned(), go),
        })
    }

    /// How pods run, and what the machine is set to.
    fn effective_pods(&self) -> Value {
        serde_json::json!({
            "clusterDomain": self.cluster_domain, "clusterDNS": self.cluster_dns, "resolvConf": self.resolv_conf,
            "maxPods": self.max_pods, "podsPerCore": self.pods_per_core, "podPidsLimit": self.pod_pids_limit,
            "cgroupRoot": self.cgroup_root, "cgroupsPerQOS": self.cgroups_per_qos, "cgroupDriver": "cgroupfs",
            "cpuManagerPolicy": "none", "memoryManagerPolicy": "None", "topologyManagerPolicy": "none",
            "cpuCFSQuota": self.cpu_cfs_quota, "cpuCFSQuotaPeriod": "100ms",
            "staticPodPath": self.static_pod_path, "serializeImagePulls": self.serialize_image_pulls,
            "failSwapOn": self.fail_swap_on, "seccompDefault": self.seccomp_default,
            "registerNode": self.register_node, "makeIPTablesUtilChains": self.iptables_chains,
            "oomScoreAdj": self.host.oom_score_adj, "maxOpenFiles": self.host.max_open_files,
            "protectKernelDefaults": self.host.protect_kernel_defaults,
        })
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |text: String| Err(Error::Invalid(text));
        if self.node_name.is_empty() {
            return invalid("the node's name is empty: set --hostname-override".to_owned());
        }
        if self.image_gc_low_percent > self.image_gc_high_percent {
            return invalid(format!(
                "imageGCLowThresholdPercent {} must be less than imageGCHighThresholdPercent {}",
                self.image_gc_low_percent, self.image_gc_high_percent
            ));
        }
        if self.event_record_qps < 0.0 || self.kube_api_qps < 0.0 {
            return invalid("eventRecordQPS and kubeAPIQPS must not be negative".to_owned());
        }
        if !(-1000..=1000).contains(&self.host.oom_score_adj) {
            return invalid(format!("oomScoreAdj {} must be within [-1000, 1000]", self.host.oom_score_adj));
        }
        if self.log_max_workers < 1 {
            return invalid("containerLogMaxWorkers must be greater than or equal to 1".to_owned());
        }
        if self.image_maximum_gc_age.is_some_and(|age| age <= self.image_minimum_gc_age) {
            return invalid("imageMaximumGCAge must be greater than imageMinimumGCAge".to_owned());
        }
        if self.log_max_files < 2 {
            return invalid("containerLogMaxFiles must be greater than 1".to_owned());
        }
        if self.tls_cert_file.is_some() != self.tls_private_key_file.is_some() {
            return invalid("tlsCertFile and tlsPrivateKeyFile go together".to_owned());
        }
        if !self.root_dir.is_absolute() {
            return invalid(format!("--root-dir {} must be absolute", self.root_dir.display()));
        }
        for dns in &self.cluster_dns {
            if dns.parse::<IpAddr>().is_err() {
                return invalid(format!("clusterDNS: {dns:?} is not an IP address"));
            }
        }
        Ok(())
    }

    /// Directory of a pod's files.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    fn config(body: &str) -> Result<(Config, Vec<String>), Error> {
        let (file, warnings) = KubeletConfiguration::parse(&format!("{HEAD}{body}"), Path::new("/x"))?;
        let flags = Flags { hostname_override: Some("Node1 ".into()), ..Flags::default() };
        Ok((Config::new(&file, &flags, "h")?, warnings))
    }

    #[test]
    fn a_file_of_upstream_is_read() {
        let (config, warnings) = config(
            "authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /ca}}\n\
             authorization: {mode: Webhook}\ncgroupDriver: cgroupfs\nclusterDNS: [10.96.0.10]\n\
             clusterDomain: cluster.local\nfailSwapOn: false\nresolvConf: /r\nserializeImagePulls: false\n\
             evictionHard: {memory.available: 200Mi, nodefs.available: 2%}\nimageGCHighThresholdPercent: 99\n\
             imageGCLowThresholdPercent: 98\nsyncFrequency: 1m30s\noomScoreAdj: 0\nnoSuchThing: 1\n",
        )
        .expect("a configuration");
        assert_eq!(config.node_name, "node1");
        assert_eq!(config.client_ca_file.as_deref(), Some(Path::new("/ca")));
        assert_eq!(config.sync_frequency, Duration::from_secs(90));
        assert_eq!(config.eviction.hard["memory.available"], Threshold::Amount(200 << 20));
        assert_eq!(config.eviction.hard["nodefs.available"], Threshold::Share(0.02));
        assert_eq!(warnings, ["unknown field \"noSuchThing\""]);
    }

    #[test]
    fn configz_shows_what_is_in_force() {
        let (config, _) = config("maxPods: 7\nevictionSoft: {}\n").expect("a configuration");
        let shown = &config.shown;
        assert_eq!((&shown["maxPods"], &shown["kubeAPIQPS"]), (&7.into(), &50.0.into()));
        assert_eq!(shown["evictionHard"]["imagefs.available"], "15%");
        assert_eq!(
            (&shown["kind"], &shown["syncFrequency"]),
            (&"KubeletConfiguration".into(), &"1m0s".into())
        );
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for body in [
            "cgroupDriver: systemd\n",
            "cpuManagerPolicy: static\n",
            "readOnlyPort: 10255\n",
            "evictionHard: {x: 1}\n",
            "containerLogMaxFiles: 1\n",
            "clusterDNS: [dns]\n",
            "evictionSoft: {memory.available: 1Gi}\n",
            "featureGates: {NoSuchGate: true}\n",
            "featureGates: {EventedPLEG: true}\n",
            "tlsMinVersion: VersionTLS10\n",
            "tlsCipherSuites: [TLS_NONE]\n",
            "logging: {vmodule: [{filePattern: x, verbosity: 9}]}\n",
            "hairpinMode: maybe\n",
            "volumePluginDir: /plugins\n",
            "enableControllerAttachDetach: false\n",
            "imageMaximumGCAge: 1m\n",
            "oomScoreAdj: 5000\n",
        ] {
            assert!(config(body).is_err(), "{body}");
        }
        assert!(config("cpuManagerPolicy: none\ncgroupDriver: cgroupfs\nreadOnlyPort: 0\nfeatureGates: {NodeSwap: true}\n\
             memorySwap: {swapBehavior: NoSwap}\nlogging: {format: json, verbosity: 2, flushFrequency: 5s}\n").is_ok());
        assert!(KubeletConfiguration::parse("kind: Pod\n", Path::new("/x")).is_err());
    }
}
