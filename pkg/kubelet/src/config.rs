//! What a kubelet is told: upstream's `KubeletConfiguration` file and the values flags lay over it.
//!
//! Fields of upstream that this kubelet does not have are refused when they ask for something ([`Error::Unsupported`]);
//! their neutral values are accepted. Unknown fields are warned about, as upstream does for v1beta1.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use component::flags::GoDuration;
use serde::Deserialize;
use serde_json::Value;

mod file;
pub use file::{Anonymous, Authentication, Authorization, KubeletConfiguration, Webhook, X509};

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

/// An eviction threshold: an amount, or a share of the capacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Bytes, or inodes.
    Amount(i64),
    /// Between 0 and 1.
    Share(f64),
}

impl Threshold {
    /// The threshold in units of the capacity.
    pub fn of(self, capacity: i64) -> i64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Share(share) => (capacity as f64 * share) as i64,
        }
    }

    /// `100Mi` or `10%`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(percent) => {
                let share: f64 = percent.trim().parse().ok()?;
                (0.0..=100.0).contains(&share).then_some(Self::Share(share / 100.0))
            }
            None => {
                let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned());
                crate::resources::value(&quantity).filter(|v| *v >= 0).map(Self::Amount)
            }
        }
    }
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
    /// `--node-labels`
    pub node_labels: BTreeMap<String, String>,
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
    pub eviction_hard: BTreeMap<String, Threshold>,
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
}

const DEFAULT_ENDPOINT: &str = "unix:///run/containerd/containerd.sock";
const DEFAULT_ROOT: &str = "/var/lib/kubelet";
/// Longest restart back-off unless configured.
const CRASH_LOOP_MAX: Duration = Duration::from_secs(300);

impl KubeletConfiguration {
    /// Reads a file's text. Answers the configuration and warnings about what it does not know.
    pub fn parse(text: &str, path: &std::path::Path) -> Result<(Self, Vec<String>), Error> {
        let fail = |reason: String| Error::File { path: path.to_owned(), reason };
        let tree: Value = apimachinery::yaml::parse(text.as_bytes()).map_err(|e| fail(e.to_string()))?;
        let kind = (tree["apiVersion"].as_str(), tree["kind"].as_str());
        if kind != (Some("kubelet.config.k8s.io/v1beta1"), Some("KubeletConfiguration")) {
            let (version, kind) = (kind.0.unwrap_or_default(), kind.1.unwrap_or_default());
            return Err(fail(format!(
                "no kind {kind:?} is registered for version {version:?}: want KubeletConfiguration of kubelet.config.k8s.io/v1beta1"
            )));
        }
        let mut warnings = Vec::new();
        for field in tree.as_object().into_iter().flatten().map(|(field, _)| field) {
            if !file::known(field) {
                warnings.push(format!("unknown field {field:?}"));
            }
        }
        Ok((Self::deserialize(&tree).map_err(|e| fail(e.to_string()))?, warnings))
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
        let log_size = file.container_log_max_size.as_deref().unwrap_or("10Mi");
        let log_max_size = Threshold::parse(log_size)
            .and_then(|t| if let Threshold::Amount(n) = t { u64::try_from(n).ok() } else { None })
            .ok_or_else(|| Error::Invalid(format!("containerLogMaxSize: {log_size:?} is not a quantity")))?;
        let config = Self {
            node_name: name.trim().to_lowercase(),
            hostname: name.trim().to_lowercase(),
            node_ips: flags.node_ips.clone(),
            root_dir: flags.root_dir.clone().unwrap_or_else(|| DEFAULT_ROOT.into()),
            runtime_endpoint: flags
                .runtime_endpoint
                .clone()
                .or_else(|| file.container_runtime_endpoint.clone().filter(|e| !e.is_empty()))
                .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            pause_image: flags.pause_image.clone(),
            node_labels: flags.node_labels.clone(),
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
            eviction_hard: eviction(file.eviction_hard.as_ref())?,
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
        };
        config.check()?;
        Ok(config)
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

/// Hard thresholds: upstream's defaults for Linux when none are given.
fn eviction(given: Option<&BTreeMap<String, String>>) -> Result<BTreeMap<String, Threshold>, Error> {
    const SIGNALS: [&str; 8] = [
        "memory.available",
        "nodefs.available",
        "nodefs.inodesFree",
        "imagefs.available",
        "imagefs.inodesFree",
        "pid.available",
        "containerfs.available",
        "containerfs.inodesFree",
    ];
    const DEFAULTS: [(&str, &str); 5] = [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ];
    let pairs: Vec<(&str, &str)> = match given {
        Some(given) if !given.is_empty() => given.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        _ => DEFAULTS.to_vec(),
    };
    pairs
        .into_iter()
        .map(|(signal, text)| {
            if !SIGNALS.contains(&signal) {
                return Err(Error::Invalid(format!("evictionHard: unsupported eviction signal {signal}")));
            }
            let threshold = Threshold::parse(text).ok_or_else(|| {
                Error::Invalid(format!("evictionHard: {signal}: {text:?} is not a quantity"))
            })?;
            Ok((signal.to_owned(), threshold))
        })
        .collect()
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
        assert_eq!(config.eviction_hard["memory.available"], Threshold::Amount(200 << 20));
        assert_eq!(config.eviction_hard["nodefs.available"], Threshold::Share(0.02));
        assert_eq!(warnings, ["unknown field \"noSuchThing\""]);
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
        ] {
            assert!(config(body).is_err(), "{body}");
        }
        assert!(config("cpuManagerPolicy: none\ncgroupDriver: cgroupfs\nreadOnlyPort: 0\n").is_ok());
        assert!(KubeletConfiguration::parse("kind: Pod\n", Path::new("/x")).is_err());
    }
}
