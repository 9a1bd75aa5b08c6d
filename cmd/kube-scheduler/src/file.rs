//! `--config`: a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1).
//!
//! What this scheduler can do is read into fields; everything else is refused with its name, except values that say
//! what happens anyway.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use component::flags::GoDuration;
use serde::Deserialize;
use serde_json::Value;

/// The group and version of the file.
const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";

/// The file, every field optional.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct File {
    api_version: String,
    kind: String,
    parallelism: Option<i64>,
    pub(crate) leader_election: LeaderElection,
    pub(crate) client_connection: ClientConnection,
    pub(crate) percentage_of_nodes_to_score: Option<i64>,
    pub(crate) pod_initial_backoff_seconds: Option<i64>,
    pub(crate) pod_max_backoff_seconds: Option<i64>,
    pub(crate) profiles: Vec<Profile>,
    enable_profiling: Option<bool>,
    enable_contention_profiling: Option<bool>,
    extenders: Vec<Value>,
    delay_cache_until_active: Option<bool>,
}

/// `leaderElection`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct LeaderElection {
    pub(crate) leader_elect: Option<bool>,
    pub(crate) lease_duration: Option<GoDuration>,
    pub(crate) renew_deadline: Option<GoDuration>,
    pub(crate) retry_period: Option<GoDuration>,
    resource_lock: Option<String>,
    resource_name: Option<String>,
    pub(crate) resource_namespace: Option<String>,
}

/// `clientConnection`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ClientConnection {
    pub(crate) kubeconfig: Option<PathBuf>,
    // How the client encodes is its own affair; both forms of content mean the same.
    #[serde(rename = "acceptContentTypes")]
    accept_content_types: Option<String>,
    content_type: Option<String>,
    pub(crate) qps: Option<f64>,
    pub(crate) burst: Option<u32>,
}

/// One of `profiles`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Profile {
    pub(crate) scheduler_name: Option<String>,
    pub(crate) percentage_of_nodes_to_score: Option<i64>,
    plugins: Option<Value>,
    plugin_config: Vec<Value>,
}

/// Whether a value says nothing: null, or empty all the way down.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(says_nothing),
        _ => false,
    }
}

impl File {
    /// Reads a file's text and refuses what is not supported.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let file: Self = serde_saphyr::from_str(text).context("strict decoding error")?;
        ensure!(
            file.api_version == API_VERSION && file.kind == "KubeSchedulerConfiguration",
            "no kind {:?} is registered for version {:?}; use KubeSchedulerConfiguration of {API_VERSION}",
            file.kind,
            file.api_version
        );
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.profiles.len() <= 1, "profiles: one profile is supported, not {}", self.profiles.len());
        for profile in &self.profiles {
            if profile.plugins.as_ref().is_some_and(|plugins| !says_nothing(plugins)) {
                bail!("profiles[0].plugins: choosing plugins is not supported");
            }
            if !profile.plugin_config.is_empty() {
                bail!("profiles[0].pluginConfig: arguments of plugins are not supported");
            }
            if profile.scheduler_name.as_deref() == Some("") {
                bail!("profiles[0].schedulerName: Required value");
            }
        }
        ensure!(self.extenders.is_empty(), "extenders are not supported");
        // Upstream's default is let through, as it is in every file that was written out in full.
        ensure!(
            self.parallelism.is_none_or(|p| p == 16),
            "parallelism: decisions are made one after the other"
        );
        let unsupported = [
            ("enableProfiling", self.enable_profiling),
            ("enableContentionProfiling", self.enable_contention_profiling),
            ("delayCacheUntilActive", self.delay_cache_until_active),
        ];
        if let Some((name, _)) = unsupported.iter().find(|(_, value)| *value == Some(true)) {
            bail!("{name}: true is not supported");
        }
        for (name, given, only) in [
            ("leaderElection.resourceLock", &self.leader_election.resource_lock, "leases"),
            ("leaderElection.resourceName", &self.leader_election.resource_name, "kube-scheduler"),
        ] {
            if given.as_deref().is_some_and(|given| !given.is_empty() && given != only) {
                bail!("{name}: only {only:?} is supported");
            }
        }
        for types in [&self.client_connection.accept_content_types, &self.client_connection.content_type]
            .into_iter()
            .flatten()
        {
            let known = ["", "application/json", "application/vnd.kubernetes.protobuf"];
            if let Some(other) = types.split(',').find(|one| !known.contains(one)) {
                bail!("clientConnection: content type {other:?} is not supported");
            }
        }
        Ok(())
    }

    /// The scheduler's configuration.
    pub(crate) fn scheduler(&self) -> anyhow::Result<scheduler::Config> {
        let mut config = scheduler::Config::default();
        let profile = self.profiles.first();
        if let Some(name) = profile.and_then(|p| p.scheduler_name.as_ref()) {
            config.scheduler_name.clone_from(name);
        }
        // The profile's value wins.
        let percentage =
            profile.and_then(|p| p.percentage_of_nodes_to_score).or(self.percentage_of_nodes_to_score);
        if let Some(percentage) = percentage {
            ensure!(
                (0..=100).contains(&percentage),
                "percentageOfNodesToScore: Invalid value: {percentage}: not in valid range [0-100]"
            );
            config.percentage_of_nodes_to_score = percentage as u8;
        }
        if let Some(seconds) = self.pod_initial_backoff_seconds {
            ensure!(
                seconds > 0,
                "podInitialBackoffSeconds: Invalid value: {seconds}: must be greater than 0"
            );
            config.initial_backoff = Duration::from_secs(seconds as u64);
        }
        if let Some(seconds) = self.pod_max_backoff_seconds {
            config.max_backoff = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        }
        ensure!(
            config.max_backoff >= config.initial_backoff,
            "podMaxBackoffSeconds: Invalid value: {}: must be greater than or equal to PodInitialBackoffSeconds",
            config.max_backoff.as_secs()
        );
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> anyhow::Result<scheduler::Config> {
        File::parse(&format!("apiVersion: {API_VERSION}\nkind: KubeSchedulerConfiguration\n{rest}"))?
            .scheduler()
    }

    #[test]
    fn reads_what_is_supported() {
        let config = parse(
            "percentageOfNodesToScore: 30\npodInitialBackoffSeconds: 2\npodMaxBackoffSeconds: 20\n\
             profiles:\n- schedulerName: mine\n  percentageOfNodesToScore: 40\n\
             leaderElection:\n  leaderElect: false\n  leaseDuration: 30s\nclientConnection:\n  kubeconfig: /a\n  qps: 50\n",
        )
        .expect("good");
        assert_eq!((config.scheduler_name.as_str(), config.percentage_of_nodes_to_score), ("mine", 40));
        assert_eq!((config.initial_backoff.as_secs(), config.max_backoff.as_secs()), (2, 20));
        assert_eq!(parse("").expect("defaults").scheduler_name, scheduler::DEFAULT_SCHEDULER);
    }

    #[test]
    fn refuses_the_rest() {
        for rest in [
            "typo: 1\n",
            "extenders:\n- urlPrefix: http://x\n",
            "profiles:\n- schedulerName: a\n- schedulerName: b\n",
            "profiles:\n- plugins:\n    score:\n      disabled:\n      - name: '*'\n",
            "profiles:\n- pluginConfig:\n  - name: x\n",
            "percentageOfNodesToScore: 101\n",
            "podInitialBackoffSeconds: 0\n",
            "podMaxBackoffSeconds: 0\n",
            "leaderElection:\n  resourceLock: configmaps\n",
            "enableProfiling: true\n",
        ] {
            assert!(parse(rest).is_err(), "{rest}");
        }
        assert!(
            File::parse("apiVersion: kubescheduler.config.k8s.io/v1beta1\nkind: KubeSchedulerConfiguration")
                .is_err()
        );
    }
}
