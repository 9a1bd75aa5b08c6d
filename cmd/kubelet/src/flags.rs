//! Upstream's flags that stand for fields of the kubelet's configuration file.

use component::fields::{Field, Form};

/// Flag, field with dots between levels, form.
pub(crate) const FLAGS: &[Field] = &[
    ("address", "address", Form::Text),
    ("allowed-unsafe-sysctls", "allowedUnsafeSysctls", Form::List),
    ("anonymous-auth", "authentication.anonymous.enabled", Form::Boolean),
    ("authentication-token-webhook", "authentication.webhook.enabled", Form::Boolean),
    ("authentication-token-webhook-cache-ttl", "authentication.webhook.cacheTTL", Form::Text),
    ("authorization-mode", "authorization.mode", Form::Text),
    ("authorization-webhook-cache-authorized-ttl", "authorization.webhook.cacheAuthorizedTTL", Form::Text),
    (
        "authorization-webhook-cache-unauthorized-ttl",
        "authorization.webhook.cacheUnauthorizedTTL",
        Form::Text,
    ),
    ("cgroup-driver", "cgroupDriver", Form::Text),
    ("cgroup-root", "cgroupRoot", Form::Text),
    ("cgroups-per-qos", "cgroupsPerQOS", Form::Boolean),
    ("client-ca-file", "authentication.x509.clientCAFile", Form::Text),
    ("cluster-dns", "clusterDNS", Form::List),
    ("cluster-domain", "clusterDomain", Form::Text),
    ("container-log-max-files", "containerLogMaxFiles", Form::Number),
    ("container-log-max-size", "containerLogMaxSize", Form::Text),
    ("container-runtime-endpoint", "containerRuntimeEndpoint", Form::Text),
    ("contention-profiling", "enableContentionProfiling", Form::Boolean),
    ("cpu-cfs-quota", "cpuCFSQuota", Form::Boolean),
    ("cpu-cfs-quota-period", "cpuCFSQuotaPeriod", Form::Text),
    ("cpu-manager-policy", "cpuManagerPolicy", Form::Text),
    ("cpu-manager-policy-options", "cpuManagerPolicyOptions", Form::Map),
    ("cpu-manager-reconcile-period", "cpuManagerReconcilePeriod", Form::Text),
    ("enable-controller-attach-detach", "enableControllerAttachDetach", Form::Boolean),
    ("enable-debugging-handlers", "enableDebuggingHandlers", Form::Boolean),
    ("enable-server", "enableServer", Form::Boolean),
    ("enforce-node-allocatable", "enforceNodeAllocatable", Form::List),
    ("event-burst", "eventBurst", Form::Number),
    ("event-qps", "eventRecordQPS", Form::Number),
    ("eviction-hard", "evictionHard", Form::Thresholds),
    ("eviction-max-pod-grace-period", "evictionMaxPodGracePeriod", Form::Number),
    ("eviction-minimum-reclaim", "evictionMinimumReclaim", Form::Map),
    ("eviction-pressure-transition-period", "evictionPressureTransitionPeriod", Form::Text),
    ("eviction-soft", "evictionSoft", Form::Thresholds),
    ("eviction-soft-grace-period", "evictionSoftGracePeriod", Form::Map),
    ("fail-cgroupv1", "failCgroupV1", Form::Boolean),
    ("fail-swap-on", "failSwapOn", Form::Boolean),
    ("feature-gates", "featureGates", Form::Gates),
    ("file-check-frequency", "fileCheckFrequency", Form::Text),
    ("hairpin-mode", "hairpinMode", Form::Text),
    ("healthz-bind-address", "healthzBindAddress", Form::Text),
    ("healthz-port", "healthzPort", Form::Number),
    ("http-check-frequency", "httpCheckFrequency", Form::Text),
    ("image-gc-high-threshold", "imageGCHighThresholdPercent", Form::Number),
    ("image-gc-low-threshold", "imageGCLowThresholdPercent", Form::Number),
    ("image-service-endpoint", "imageServiceEndpoint", Form::Text),
    ("kernel-memcg-notification", "kernelMemcgNotification", Form::Boolean),
    ("kube-api-burst", "kubeAPIBurst", Form::Number),
    ("kube-api-content-type", "contentType", Form::Text),
    ("kube-api-qps", "kubeAPIQPS", Form::Number),
    ("kube-reserved", "kubeReserved", Form::Map),
    ("kube-reserved-cgroup", "kubeReservedCgroup", Form::Text),
    ("kubelet-cgroups", "kubeletCgroups", Form::Text),
    ("local-storage-capacity-isolation", "localStorageCapacityIsolation", Form::Boolean),
    ("make-iptables-util-chains", "makeIPTablesUtilChains", Form::Boolean),
    ("manifest-url", "staticPodURL", Form::Text),
    ("max-open-files", "maxOpenFiles", Form::Number),
    ("max-pods", "maxPods", Form::Number),
    ("memory-manager-policy", "memoryManagerPolicy", Form::Text),
    ("minimum-image-ttl-duration", "imageMinimumGCAge", Form::Text),
    ("node-status-max-images", "nodeStatusMaxImages", Form::Number),
    ("node-status-update-frequency", "nodeStatusUpdateFrequency", Form::Text),
    ("oom-score-adj", "oomScoreAdj", Form::Number),
    ("pod-cidr", "podCIDR", Form::Text),
    ("pod-manifest-path", "staticPodPath", Form::Text),
    ("pod-max-pids", "podPidsLimit", Form::Number),
    ("pods-per-core", "podsPerCore", Form::Number),
    ("port", "port", Form::Number),
    ("protect-kernel-defaults", "protectKernelDefaults", Form::Boolean),
    ("provider-id", "providerID", Form::Text),
    ("qos-reserved", "qosReserved", Form::Map),
    ("read-only-port", "readOnlyPort", Form::Number),
    ("register-node", "registerNode", Form::Boolean),
    ("register-with-taints", "registerWithTaints", Form::Taints),
    ("registry-burst", "registryBurst", Form::Number),
    ("registry-qps", "registryPullQPS", Form::Number),
    ("reserved-cpus", "reservedSystemCPUs", Form::Text),
    ("resolv-conf", "resolvConf", Form::Text),
    ("rotate-certificates", "rotateCertificates", Form::Boolean),
    ("rotate-server-certificates", "serverTLSBootstrap", Form::Boolean),
    ("runtime-request-timeout", "runtimeRequestTimeout", Form::Text),
    ("seccomp-default", "seccompDefault", Form::Boolean),
    ("serialize-image-pulls", "serializeImagePulls", Form::Boolean),
    ("streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", Form::Text),
    ("sync-frequency", "syncFrequency", Form::Text),
    ("system-cgroups", "systemCgroups", Form::Text),
    ("system-reserved", "systemReserved", Form::Map),
    ("system-reserved-cgroup", "systemReservedCgroup", Form::Text),
    ("tls-cert-file", "tlsCertFile", Form::Text),
    ("tls-cipher-suites", "tlsCipherSuites", Form::List),
    ("tls-min-version", "tlsMinVersion", Form::Text),
    ("tls-private-key-file", "tlsPrivateKeyFile", Form::Text),
    ("topology-manager-policy", "topologyManagerPolicy", Form::Text),
    ("topology-manager-policy-options", "topologyManagerPolicyOptions", Form::Map),
    ("topology-manager-scope", "topologyManagerScope", Form::Text),
    ("volume-plugin-dir", "volumePluginDir", Form::Text),
    ("volume-stats-agg-period", "volumeStatsAggPeriod", Form::Text),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_one_of_the_file() {
        for (flag, field, _) in FLAGS {
            let mut tree = kubelet::KubeletConfiguration::empty_tree();
            tree[field.split('.').next().unwrap_or_default()] = serde_json::Value::Null;
            let (_, warnings) =
                kubelet::KubeletConfiguration::from_tree(&tree, "x".as_ref()).expect("a configuration");
            assert!(warnings.is_empty(), "{flag}: {warnings:?}");
        }
    }
}
