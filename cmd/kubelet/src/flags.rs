//! Upstream's flags that stand for fields of the configuration file, as a table: a flag is its field, laid over the file.
//!
//! Values that a field refuses are refused whichever way they come. Flags win over the file, as upstream's do; feature
//! gates are laid over one by one.

use anyhow::{Context as _, bail};
use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value, json};

/// How a flag's text becomes a value of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Boolean,
    Number,
    /// `a,b`
    List,
    /// `a=b,c=d`
    Map,
    /// `a=true,b=false`
    Gates,
    /// `signal<quantity,...`
    Thresholds,
    /// `key=value:effect,...`
    Taints,
}

/// Flag, field with dots between levels, form.
const FLAGS: &[(&str, &str, Form)] = &[
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

/// Adds the flags to a command.
pub(crate) fn add(command: Command) -> Command {
    FLAGS.iter().fold(command, |command, (flag, field, form)| {
        let arg = Arg::new(*flag).long(*flag).help(format!("The field {field} of the configuration file"));
        command.arg(match form {
            Form::Boolean => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            Form::Number => arg.allow_negative_numbers(true),
            _ => arg,
        })
    })
}

/// Lays the flags that were given over a file.
pub(crate) fn overlay(matches: &ArgMatches, file: &mut Value) -> anyhow::Result<()> {
    for (flag, field, form) in FLAGS {
        let Some(text) = matches.get_one::<String>(flag) else { continue };
        let value =
            form.value(text).with_context(|| format!("invalid argument {text:?} for \"--{flag}\""))?;
        let mut at = &mut *file;
        for part in field.split('.') {
            if at[part].is_null() {
                at[part] = Value::Object(Map::new());
            }
            at = &mut at[part];
        }
        match (&mut *at, value) {
            (Value::Object(old), Value::Object(new)) if *form == Form::Gates => old.extend(new),
            (at, value) => *at = value,
        }
    }
    Ok(())
}

/// Lays one file over another: objects are merged, everything else is replaced.
pub(crate) fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn pairs<'a>(text: &'a str, separator: char) -> anyhow::Result<Vec<(&'a str, &'a str)>> {
    parts(text)
        .map(|part| part.split_once(separator).with_context(|| format!("{part:?} has no {separator:?}")))
        .collect()
}

impl Form {
    fn value(self, text: &str) -> anyhow::Result<Value> {
        let strings = |pairs: Vec<(&str, &str)>| -> Value {
            pairs.into_iter().map(|(k, v)| (k.trim().to_owned(), json!(v.trim()))).collect()
        };
        let boolean = |text: &str| component::flags::go_bool(text).context("not a boolean");
        Ok(match self {
            Self::Text => json!(text),
            Self::Boolean => json!(boolean(text)?),
            Self::Number => match text.parse::<i64>() {
                Ok(whole) => json!(whole),
                Err(_) => json!(text.parse::<f64>().ok().filter(|n| n.is_finite()).context("not a number")?),
            },
            Self::List => parts(text).collect(),
            Self::Map => strings(pairs(text, '=')?),
            Self::Thresholds => strings(pairs(text, '<')?),
            Self::Gates => pairs(text, '=')?
                .into_iter()
                .map(|(gate, on)| Ok((gate.trim().to_owned(), json!(boolean(on.trim())?))))
                .collect::<anyhow::Result<Map<String, Value>>>()?
                .into(),
            Self::Taints => parts(text).map(taint).collect::<anyhow::Result<_>>()?,
        })
    }
}

/// `key=value:effect` or `key:effect`.
fn taint(text: &str) -> anyhow::Result<Value> {
    let (name, effect) = text.rsplit_once(':').with_context(|| format!("invalid taint spec: {text}"))?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        bail!("invalid taint effect: {effect}, unsupported taint effect");
    }
    let (key, value) = name.split_once('=').unwrap_or((name, ""));
    Ok(json!({"key": key, "value": value, "effect": effect}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_over(flags: &[&str], mut file: Value) -> anyhow::Result<Value> {
        let command = add(Command::new("kubelet"));
        let arguments = std::iter::once("kubelet").chain(flags.iter().copied());
        overlay(&command.try_get_matches_from(arguments)?, &mut file)?;
        Ok(file)
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = json!({"maxPods": 5, "port": 1, "featureGates": {"A": true, "B": true}});
        let flags = [
            "--max-pods=7",
            "--anonymous-auth",
            "--authentication-token-webhook=false",
            "--cluster-dns=10.0.0.1,10.0.0.2",
            "--eviction-hard=memory.available<5%,nodefs.available<1Gi",
            "--eviction-minimum-reclaim=memory.available=1Gi",
            "--feature-gates=B=false,C=true",
            "--register-with-taints=a=b:NoSchedule,c:NoExecute",
            "--oom-score-adj=-5",
            "--kube-api-qps=2.5",
        ];
        let expected = json!({
            "maxPods": 7, "port": 1, "featureGates": {"A": true, "B": false, "C": true},
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "clusterDNS": ["10.0.0.1", "10.0.0.2"],
            "evictionHard": {"memory.available": "5%", "nodefs.available": "1Gi"},
            "evictionMinimumReclaim": {"memory.available": "1Gi"},
            "registerWithTaints": [
                {"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "c", "value": "", "effect": "NoExecute"}],
            "oomScoreAdj": -5, "kubeAPIQPS": 2.5,
        });
        assert_eq!(laid_over(&flags, file).expect("flags"), expected);
    }

    #[test]
    fn malformed_flags_are_refused() {
        for flag in [
            "--max-pods=many",
            "--fail-swap-on=maybe",
            "--eviction-hard=memory.available=1Gi",
            "--register-with-taints=a:Never",
            "--no-such-flag=1",
        ] {
            assert!(laid_over(&[flag], json!({})).is_err(), "{flag}");
        }
    }

    #[test]
    fn every_field_is_one_of_the_file() {
        for (flag, field, _) in FLAGS {
            let mut tree = kubelet::KubeletConfiguration::empty_tree();
            tree[field.split('.').next().unwrap_or_default()] = Value::Null;
            let (_, warnings) =
                kubelet::KubeletConfiguration::from_tree(&tree, "x".as_ref()).expect("a configuration");
            assert!(warnings.is_empty(), "{flag}: {warnings:?}");
        }
    }

    #[test]
    fn files_merge() {
        let mut base = json!({"a": {"b": 1, "c": [1]}, "d": 1});
        merge(&mut base, json!({"a": {"c": [2], "e": 3}, "d": 2}));
        assert_eq!(base, json!({"a": {"b": 1, "c": [2], "e": 3}, "d": 2}));
    }
}
