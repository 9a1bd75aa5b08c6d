//! The file format `kubelet.config.k8s.io/v1beta1`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use component::flags::GoDuration;
use serde::Deserialize;
use serde_json::Value;

use super::Error;

/// `authentication`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "fields of upstream's file format")]
pub struct Authentication {
    pub x509: Option<X509>,
    pub webhook: Option<Webhook>,
    pub anonymous: Option<Anonymous>,
}

/// `authentication.x509`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "fields of upstream's file format")]
pub struct X509 {
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: Option<PathBuf>,
}

/// `authentication.webhook`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "fields of upstream's file format")]
pub struct Webhook {
    pub enabled: Option<bool>,
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: Option<GoDuration>,
}

/// `authentication.anonymous`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "fields of upstream's file format")]
pub struct Anonymous {
    pub enabled: Option<bool>,
}

/// `authorization`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "fields of upstream's file format")]
pub struct Authorization {
    pub mode: Option<String>,
    pub webhook: Option<Review>,
}

/// `authorization.webhook`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "fields of upstream's file format")]
pub struct Review {
    #[serde(rename = "cacheAuthorizedTTL")]
    pub cache_authorized_ttl: Option<GoDuration>,
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub cache_unauthorized_ttl: Option<GoDuration>,
}

/// `crashLoopBackOff`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "fields of upstream's file format")]
pub struct CrashLoopBackOff {
    pub max_container_restart_period: Option<GoDuration>,
}

macro_rules! configuration {
    ($($field:ident: $kind:ty = $name:literal,)*) => {
        /// The file, every field optional.
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(default)]
        #[allow(missing_docs, reason = "fields of upstream's file format")]
        pub struct KubeletConfiguration {
            $(#[serde(rename = $name)] pub $field: Option<$kind>,)*
            /// Everything else, looked at by [`KubeletConfiguration::refuse_unsupported`].
            #[serde(flatten)]
            pub others: BTreeMap<String, Value>,
        }

        const FIELDS: &[&str] = &[$($name),*];
    };
}

configuration! {
    static_pod_path: PathBuf = "staticPodPath",
    pod_cidr: String = "podCIDR",
    sync_frequency: GoDuration = "syncFrequency",
    address: String = "address",
    port: u16 = "port",
    tls_cert_file: PathBuf = "tlsCertFile",
    tls_private_key_file: PathBuf = "tlsPrivateKeyFile",
    authentication: Authentication = "authentication",
    authorization: Authorization = "authorization",
    healthz_port: u16 = "healthzPort",
    healthz_bind_address: String = "healthzBindAddress",
    cluster_domain: String = "clusterDomain",
    cluster_dns: Vec<String> = "clusterDNS",
    streaming_connection_idle_timeout: GoDuration = "streamingConnectionIdleTimeout",
    node_status_update_frequency: GoDuration = "nodeStatusUpdateFrequency",
    node_status_report_frequency: GoDuration = "nodeStatusReportFrequency",
    node_lease_duration_seconds: u64 = "nodeLeaseDurationSeconds",
    image_minimum_gc_age: GoDuration = "imageMinimumGCAge",
    image_gc_high_threshold_percent: f64 = "imageGCHighThresholdPercent",
    image_gc_low_threshold_percent: f64 = "imageGCLowThresholdPercent",
    cgroup_root: String = "cgroupRoot",
    cgroups_per_qos: bool = "cgroupsPerQOS",
    runtime_request_timeout: GoDuration = "runtimeRequestTimeout",
    max_pods: i64 = "maxPods",
    pods_per_core: i64 = "podsPerCore",
    pod_pids_limit: i64 = "podPidsLimit",
    resolv_conf: PathBuf = "resolvConf",
    cpu_cfs_quota: bool = "cpuCFSQuota",
    serialize_image_pulls: bool = "serializeImagePulls",
    max_parallel_image_pulls: usize = "maxParallelImagePulls",
    eviction_hard: BTreeMap<String, String> = "evictionHard",
    eviction_pressure_transition_period: GoDuration = "evictionPressureTransitionPeriod",
    fail_swap_on: bool = "failSwapOn",
    container_log_max_size: String = "containerLogMaxSize",
    container_log_max_files: usize = "containerLogMaxFiles",
    container_log_monitor_interval: GoDuration = "containerLogMonitorInterval",
    system_reserved: BTreeMap<String, String> = "systemReserved",
    kube_reserved: BTreeMap<String, String> = "kubeReserved",
    enforce_node_allocatable: Vec<String> = "enforceNodeAllocatable",
    allowed_unsafe_sysctls: Vec<String> = "allowedUnsafeSysctls",
    seccomp_default: bool = "seccompDefault",
    enable_debugging_handlers: bool = "enableDebuggingHandlers",
    enable_profiling_handler: bool = "enableProfilingHandler",
    provider_id: String = "providerID",
    register_node: bool = "registerNode",
    register_with_taints: Vec<k8s_openapi::api::core::v1::Taint> = "registerWithTaints",
    container_runtime_endpoint: String = "containerRuntimeEndpoint",
    crash_loop_back_off: CrashLoopBackOff = "crashLoopBackOff",
}

/// Fields that ask for what this kubelet does not do, with the values that ask for nothing.
const REFUSED: &[(&str, &[&str], &str)] = &[
    ("cgroupDriver", &["cgroupfs"], "only cgroupfs is"),
    ("cpuManagerPolicy", &["none"], "only none is"),
    ("memoryManagerPolicy", &["None"], "only None is"),
    ("topologyManagerPolicy", &["none"], "only none is"),
    ("readOnlyPort", &["0"], "the read-only port is always off"),
    ("rotateCertificates", &["false"], "give --kubeconfig a certificate and renew it from outside"),
    ("serverTLSBootstrap", &["false"], "give tlsCertFile, or none for a self-signed certificate"),
    ("staticPodURL", &[""], "use staticPodPath"),
    ("evictionSoft", &["{}"], "only evictionHard is"),
    ("evictionSoftGracePeriod", &["{}"], "only evictionHard is"),
    ("evictionMinimumReclaim", &["{}"], "only evictionHard is"),
    ("evictionMaxPodGracePeriod", &["0"], "only evictionHard is"),
    ("reservedSystemCPUs", &[""], "CPU sets are not managed"),
    ("reservedMemory", &["[]"], "NUMA memory is not managed"),
    ("systemReservedCgroup", &[""], "reservations only lower what is allocatable"),
    ("kubeReservedCgroup", &[""], "reservations only lower what is allocatable"),
    ("shutdownGracePeriod", &["0s"], "the machine's shutdown is not watched"),
    ("shutdownGracePeriodCriticalPods", &["0s"], "the machine's shutdown is not watched"),
    ("shutdownGracePeriodByPodPriority", &["[]"], "the machine's shutdown is not watched"),
    ("tracing", &["{}"], "traces are not exported"),
    ("imageMaximumGCAge", &["0s"], "images are collected by disk usage alone"),
    ("imageServiceEndpoint", &[""], "images come from the container runtime's endpoint"),
    ("kubeletCgroups", &[""], "the kubelet stays in the cgroup it was started in"),
    ("systemCgroups", &[""], "other processes stay in their cgroups"),
    ("volumePluginDir", &["*"], ""),
    ("memorySwap", &["{}"], "swap is not given to pods"),
];

/// Fields without effect here, with no promise that a user would miss.
const NEUTRAL: &[&str] = &[
    "apiVersion",
    "kind",
    "cgroupDriver",
    "fileCheckFrequency",
    "httpCheckFrequency",
    "tlsCipherSuites",
    "tlsMinVersion",
    "registryPullQPS",
    "registryBurst",
    "eventRecordQPS",
    "eventBurst",
    "oomScoreAdj",
    "volumeStatsAggPeriod",
    "hairpinMode",
    "maxOpenFiles",
    "contentType",
    "kubeAPIQPS",
    "kubeAPIBurst",
    "enableControllerAttachDetach",
    "protectKernelDefaults",
    "makeIPTablesUtilChains",
    "iptablesMasqueradeBit",
    "iptablesDropBit",
    "featureGates",
    "configMapAndSecretChangeDetectionStrategy",
    "containerLogMaxWorkers",
    "showHiddenMetricsForVersion",
    "logging",
    "enableSystemLogHandler",
    "enableSystemLogQuery",
    "memoryThrottlingFactor",
    "localStorageCapacityIsolation",
    "cpuCFSQuotaPeriod",
    "nodeStatusMaxImages",
    "cpuManagerReconcilePeriod",
    "enableContentionProfiling",
    "enableServer",
    "mergeDefaultEvictionSettings",
    "topologyManagerScope",
    "enableDebugFlagsHandler",
    "podLogsDir",
    "qosReserved",
    "singleProcessOOMKill",
    "staticPodURLHeader",
    "failCgroupV1",
    "imagePullCredentialsVerificationPolicy",
    "cpuManagerPolicyOptions",
    "topologyManagerPolicyOptions",
    "userNamespaces",
    "preloadedImagesVerificationAllowlist",
];

/// Whether the file format has this field.
pub(super) fn known(field: &str) -> bool {
    FIELDS.contains(&field) || NEUTRAL.contains(&field) || REFUSED.iter().any(|(name, ..)| *name == field)
}

impl KubeletConfiguration {
    /// Refuses what asks for something this kubelet does not do.
    pub(super) fn refuse_unsupported(&self) -> Result<(), Error> {
        for (field, neutral, hint) in REFUSED {
            let Some(value) = self.others.get(*field) else { continue };
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Null => continue,
                other => other.to_string(),
            };
            if !neutral.iter().any(|n| *n == "*" || *n == text) {
                return Err(Error::Unsupported { field, value: text, hint });
            }
        }
        Ok(())
    }
}
