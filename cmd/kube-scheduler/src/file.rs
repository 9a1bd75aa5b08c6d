//! `--config`: a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1).
//!
//! What this scheduler can do is read into fields; everything else is refused with its name, except values that say
//! what happens anyway. Profiles are checked where they are used, by [`scheduler::profile::Framework`].

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use component::flags::GoDuration;
use scheduler::profile::{Framework, PluginConfig, PluginSets};
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
    /// Whether `/debug/pprof/` answers (saying that there are no profiles of a Go runtime).
    pub(crate) enable_profiling: Option<bool>,
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
    pub(crate) resource_name: Option<String>,
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
    plugins: Option<PluginSets>,
    plugin_config: Vec<PluginConfig>,
}

/// A percentage of nodes as the configuration may say it.
fn percentage(field: &str, given: i64) -> anyhow::Result<u8> {
    match u8::try_from(given) {
        Ok(percentage) if percentage <= 100 => Ok(percentage),
        _ => bail!("{field}percentageOfNodesToScore: Invalid value: {given}: not in valid range [0-100]"),
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
        for (index, profile) in self.profiles.iter().enumerate() {
            let empty = profile.scheduler_name.as_deref().is_some_and(str::is_empty);
            // Only one may leave its name to the default.
            if empty || (profile.scheduler_name.is_none() && self.profiles.len() > 1) {
                bail!("profiles[{index}].schedulerName: Required value");
            }
        }
        ensure!(self.extenders.is_empty(), "extenders are not supported");
        // Upstream's defaults are let through, as they are in every file that was written out in full: they ask for
        // threads and for what a Go runtime measures, neither of which changes a decision.
        ensure!(
            self.parallelism.is_none_or(|p| p == 16),
            "parallelism: decisions are made one after the other"
        );
        ensure!(
            self.enable_contention_profiling != Some(true) || self.enable_profiling != Some(false),
            "enableContentionProfiling: needs enableProfiling"
        );
        ensure!(self.delay_cache_until_active != Some(true), "delayCacheUntilActive: true is not supported");
        let lock = self.leader_election.resource_lock.as_deref().unwrap_or_default();
        ensure!(["", "leases"].contains(&lock), "leaderElection.resourceLock: only \"leases\" is supported");
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
        let everywhere = percentage("", self.percentage_of_nodes_to_score.unwrap_or(0))?;
        let mut profiles = Vec::new();
        for (index, profile) in self.profiles.iter().enumerate() {
            let name = profile.scheduler_name.as_deref().unwrap_or(scheduler::DEFAULT_SCHEDULER);
            // The profile's value wins.
            let own = profile.percentage_of_nodes_to_score;
            profiles.push(scheduler::Profile {
                percentage_of_nodes_to_score: own
                    .map_or(Ok(everywhere), |own| percentage(&format!("profiles[{index}]."), own))?,
                plugins: profile.plugins.clone().unwrap_or_default(),
                plugin_config: profile.plugin_config.clone(),
                ..scheduler::Profile::named(name)
            });
        }
        if profiles.is_empty() {
            let default = scheduler::Profile::named(scheduler::DEFAULT_SCHEDULER);
            profiles.push(scheduler::Profile { percentage_of_nodes_to_score: everywhere, ..default });
        }
        Framework::all(&profiles).context("profiles")?;
        config.profiles = profiles;
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
        let profile = &config.profiles[0];
        assert_eq!((profile.scheduler_name.as_str(), profile.percentage_of_nodes_to_score), ("mine", 40));
        assert_eq!((config.initial_backoff.as_secs(), config.max_backoff.as_secs()), (2, 20));
        let defaults = parse("enableProfiling: true\nenableContentionProfiling: true\n").expect("defaults");
        assert_eq!(defaults.profiles, scheduler::Config::default().profiles);
    }

    #[test]
    fn profiles_choose_plugins_and_their_arguments() {
        let config = parse(
            "percentageOfNodesToScore: 30\nprofiles:\n- schedulerName: default-scheduler\n- schedulerName: packing\n  \
             plugins:\n    score:\n      disabled:\n      - name: '*'\n      enabled:\n      - name: NodeResourcesFit\n        \
             weight: 5\n  pluginConfig:\n  - name: NodeResourcesFit\n    args:\n      scoringStrategy:\n        type: \
             MostAllocated\n",
        )
        .expect("good");
        let frameworks = Framework::all(&config.profiles).expect("usable");
        assert_eq!(frameworks[0].scores.len(), 7);
        let scores: Vec<(&str, i64)> =
            frameworks[1].scores.iter().map(|(p, weight)| (p.name(), *weight)).collect();
        assert_eq!((scores, frameworks[1].percentage), (vec![("NodeResourcesFit", 5)], 30));
    }

    #[test]
    fn refuses_the_rest() {
        for rest in [
            "typo: 1\n",
            "extenders:\n- urlPrefix: http://x\n",
            "profiles:\n- schedulerName: a\n- schedulerName: a\n",
            "profiles:\n- schedulerName: a\n- {}\n",
            "profiles:\n- plugins:\n    score:\n      enabled:\n      - name: Nonsense\n",
            "profiles:\n- plugins:\n    scores: {}\n",
            "profiles:\n- pluginConfig:\n  - name: x\n    args: {}\n",
            "profiles:\n- percentageOfNodesToScore: 101\n",
            "percentageOfNodesToScore: 101\n",
            "podInitialBackoffSeconds: 0\n",
            "podMaxBackoffSeconds: 0\n",
            "leaderElection:\n  resourceLock: configmaps\n",
            "parallelism: 3\n",
            "delayCacheUntilActive: true\n",
        ] {
            assert!(parse(rest).is_err(), "{rest}");
        }
        assert!(
            File::parse("apiVersion: kubescheduler.config.k8s.io/v1beta1\nkind: KubeSchedulerConfiguration")
                .is_err()
        );
    }
}
