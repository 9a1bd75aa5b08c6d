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

/// `logging`: how the process logs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "fields of upstream's file format")]
pub struct Logging {
    pub format: Option<String>,
    pub verbosity: Option<u8>,
    /// Lines are written when they are made, so any frequency is kept.
    pub flush_frequency: Option<Value>,
    /// Levels of single files; none can be given here.
    pub vmodule: Option<Vec<Value>>,
    pub options: Option<LogOptions>,
}

/// `logging.options`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "fields of upstream's file format")]
pub struct LogOptions {
    pub text: Option<LogBuffer>,
    pub json: Option<LogBuffer>,
}

/// `logging.options.text` and `.json`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "fields of upstream's file format")]
pub struct LogBuffer {
    pub split_stream: Option<bool>,
    pub info_buffer_size: Option<String>,
}

impl Logging {
    fn check(&self) -> Result<(), Error> {
        let refuse = |field, value: &dyn std::fmt::Display, hint| {
            Err(Error::Unsupported { field, value: value.to_string(), hint })
        };
        if let Some(other) = self.format.as_deref().filter(|f| !matches!(*f, "" | "text" | "json")) {
            return refuse("logging.format", &other, "text and json are");
        }
        if self.vmodule.as_ref().is_some_and(|v| !v.is_empty()) {
            return refuse("logging.vmodule", &"a list", "one verbosity holds for all");
        }
        let options = self.options.clone().unwrap_or_default();
        for buffer in [options.text, options.json].into_iter().flatten() {
            if buffer.split_stream == Some(true) {
                return refuse("logging.options.splitStream", &true, "everything goes to standard error");
            }
            if let Some(size) = buffer.info_buffer_size.filter(|s| !matches!(s.as_str(), "" | "0")) {
                return refuse("logging.options.infoBufferSize", &size, "nothing is buffered");
            }
        }
        Ok(())
    }
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
            /// All of it as it was written.
            #[serde(skip)]
            pub tree: Value,
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
    file_check_frequency: GoDuration = "fileCheckFrequency",
    tls_cipher_suites: Vec<String> = "tlsCipherSuites",
    tls_min_version: String = "tlsMinVersion",
    registry_pull_qps: f64 = "registryPullQPS",
    registry_burst: u32 = "registryBurst",
    event_record_qps: f64 = "eventRecordQPS",
    event_burst: u32 = "eventBurst",
    kube_api_qps: f64 = "kubeAPIQPS",
    kube_api_burst: u32 = "kubeAPIBurst",
    oom_score_adj: i32 = "oomScoreAdj",
    max_open_files: u64 = "maxOpenFiles",
    protect_kernel_defaults: bool = "protectKernelDefaults",
    make_iptables_util_chains: bool = "makeIPTablesUtilChains",
    container_log_max_workers: usize = "containerLogMaxWorkers",
    logging: Logging = "logging",
    enable_system_log_handler: bool = "enableSystemLogHandler",
    node_status_max_images: i64 = "nodeStatusMaxImages",
    enable_server: bool = "enableServer",
    feature_gates: BTreeMap<String, bool> = "featureGates",
    change_detection: String = "configMapAndSecretChangeDetectionStrategy",
    fail_cgroup_v1: bool = "failCgroupV1",
    single_process_oom_kill: bool = "singleProcessOOMKill",
    merge_default_eviction_settings: bool = "mergeDefaultEvictionSettings",
    eviction_soft: BTreeMap<String, String> = "evictionSoft",
    eviction_soft_grace_period: BTreeMap<String, String> = "evictionSoftGracePeriod",
    eviction_minimum_reclaim: BTreeMap<String, String> = "evictionMinimumReclaim",
    eviction_max_pod_grace_period: i64 = "evictionMaxPodGracePeriod",
    volume_stats_agg_period: String = "volumeStatsAggPeriod",
    image_maximum_gc_age: GoDuration = "imageMaximumGCAge",
    crash_loop_back_off: CrashLoopBackOff = "crashLoopBackOff",
}

/// Fields that could ask for what this kubelet does not do, with the values that ask for what it does.
const FIXED: &[(&str, &[&str], &str)] = &[
    ("apiVersion", &[super::API_VERSION], "there is no other"),
    ("kind", &[super::KIND], "there is no other"),
    ("cgroupDriver", &["cgroupfs"], "only cgroupfs is"),
    ("cpuManagerPolicy", &["", "none"], "only none is"),
    ("cpuManagerPolicyOptions", &["{}"], "CPU sets are not managed"),
    ("cpuManagerReconcilePeriod", &["0s", "10s"], "CPU sets are not managed"),
    ("cpuCFSQuotaPeriod", &["0s", "100ms"], "quotas are given for 100ms"),
    ("memoryManagerPolicy", &["", "None"], "only None is"),
    ("memoryThrottlingFactor", &["0.9"], "it needs the feature gate MemoryQoS"),
    ("memoryReservationPolicy", &["", "None"], "it needs the feature gate MemoryQoS"),
    ("qosReserved", &["{}"], "it needs the feature gate QOSReserved"),
    ("topologyManagerPolicy", &["", "none"], "only none is"),
    ("topologyManagerPolicyOptions", &["{}"], "only the policy none is"),
    ("topologyManagerScope", &["", "container"], "only the policy none is"),
    ("readOnlyPort", &["0"], "the read-only port is always off"),
    ("rotateCertificates", &["false"], "give --kubeconfig a certificate and renew it from outside"),
    ("serverTLSBootstrap", &["false"], "give tlsCertFile, or none for a self-signed certificate"),
    ("tlsCurvePreferences", &["[]"], "the curves are the library's"),
    ("staticPodURL", &[""], "use staticPodPath"),
    ("staticPodURLHeader", &["{}"], "use staticPodPath"),
    ("httpCheckFrequency", &["0s", "20s"], "use staticPodPath"),
    ("podLogsDir", &["", "/var/log/pods", "/var/log/pods/"], "logs are in /var/log/pods"),
    ("reservedSystemCPUs", &[""], "CPU sets are not managed"),
    ("reservedMemory", &["[]"], "NUMA memory is not managed"),
    ("systemReservedCgroup", &[""], "reservations only lower what is allocatable"),
    ("kubeReservedCgroup", &[""], "reservations only lower what is allocatable"),
    ("shutdownGracePeriod", &["0s"], "the machine's shutdown is not watched"),
    ("shutdownGracePeriodCriticalPods", &["0s"], "the machine's shutdown is not watched"),
    ("shutdownGracePeriodByPodPriority", &["[]"], "the machine's shutdown is not watched"),
    ("tracing", &["{}"], "traces are not exported"),
    ("imageServiceEndpoint", &[""], "images come from the container runtime's endpoint"),
    ("kubeletCgroups", &[""], "the kubelet stays in the cgroup it was started in"),
    ("systemCgroups", &[""], "other processes stay in their cgroups"),
    (
        "volumePluginDir",
        &["", "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/"],
        "plugins of FlexVolume are not run",
    ),
    (
        "memorySwap",
        &["{}", "{\"swapBehavior\":\"\"}", "{\"swapBehavior\":\"NoSwap\"}"],
        "swap is not given to pods",
    ),
    ("kernelMemcgNotification", &["false"], "memory is looked at every 10 seconds"),
    // Bridges have been the network plugin's business since runtimes bring their own networks.
    ("hairpinMode", &["", "promiscuous-bridge", "hairpin-veth", "none"], "there is no such mode"),
    // Upstream's bits have had no effect since kube-proxy makes its chains itself.
    ("iptablesMasqueradeBit", &["14"], "kube-proxy owns its mark"),
    ("iptablesDropBit", &["15"], "nothing marks packets to drop them"),
    (
        "contentType",
        &["", "application/json", "application/vnd.kubernetes.protobuf"],
        "the API is spoken in JSON or protobuf",
    ),
    ("enableControllerAttachDetach", &["true"], "volumes are attached by the controller"),
    ("enableSystemLogQuery", &["false"], "the journal is not read"),
    ("enableContentionProfiling", &["false"], "there is no Go scheduler to profile"),
    ("localStorageCapacityIsolation", &["true"], "local storage is always counted"),
    ("showHiddenMetricsForVersion", &[""], "no metric is hidden"),
    ("enableDebugFlagsHandler", &["true", "false"], "use a boolean"),
    ("userNamespaces", &["{}", "{\"idsPerPod\":65536}"], "a pod gets 65536 ids"),
    (
        "imagePullCredentialsVerificationPolicy",
        &["", "NeverVerify", "NeverVerifyPreloadedImages"],
        "images on the node are not checked again",
    ),
    ("preloadedImagesVerificationAllowlist", &["[]"], "images on the node are not checked again"),
];

/// Whether the file format has this field.
pub(super) fn known(field: &str) -> bool {
    FIELDS.contains(&field) || FIXED.iter().any(|(name, ..)| *name == field)
}

impl KubeletConfiguration {
    /// Refuses what asks for something this kubelet does not do.
    pub(super) fn refuse_unsupported(&self) -> Result<(), Error> {
        for (field, fitting, hint) in FIXED {
            let Some(value) = self.others.get(*field) else { continue };
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Null => continue,
                other => other.to_string(),
            };
            if !fitting.contains(&text.as_str()) {
                return Err(Error::Unsupported { field, value: text, hint });
            }
        }
        if let Some(logging) = &self.logging {
            logging.check()?;
        }
        let gates = self.feature_gates.iter().flatten().map(|(gate, on)| (gate.as_str(), *on));
        component::gates::check(gates).map_err(|error| Error::Invalid(error.to_string()))
    }
}
