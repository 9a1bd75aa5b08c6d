//! `--leader-elect*`, and what makes of them a [`LeaderElection`].

use anyhow::bail;
use clap::ArgAction;
use client::leaderelection::LeaderElection;
use component::flags::GoDuration;

/// Flags of leader election. Those not given are taken from a configuration file or upstream's defaults.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "leader-election")]
pub struct Flags {
    /// Gain leadership before executing the main loop [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub leader_elect: Option<bool>,
    /// How long non-leaders wait after the last renewal they saw [default: 15s]
    #[arg(long)]
    pub leader_elect_lease_duration: Option<GoDuration>,
    /// How long the leader tries to renew before it stops leading [default: 10s]
    #[arg(long)]
    pub leader_elect_renew_deadline: Option<GoDuration>,
    /// Time between attempts to acquire or renew [default: 2s]
    #[arg(long)]
    pub leader_elect_retry_period: Option<GoDuration>,
    /// The type of resource used for locking [default: leases]
    #[arg(long, value_parser = ["leases"])]
    pub leader_elect_resource_lock: Option<String>,
    /// Name of the lease [default: the component's]
    #[arg(long)]
    pub leader_elect_resource_name: Option<String>,
    /// Namespace of the lease [default: kube-system]
    #[arg(long)]
    pub leader_elect_resource_namespace: Option<String>,
}

impl Flags {
    /// The election for the lease `name`; `None` when it is switched off.
    pub fn election(&self, name: &'static str) -> anyhow::Result<Option<LeaderElection>> {
        if self.leader_elect == Some(false) {
            return Ok(None);
        }
        let identity = format!("{}_{}", client::config::host_name(), uuid::Uuid::new_v4());
        let mut election = LeaderElection::new(name, identity);
        if let Some(lease) = &self.leader_elect_resource_name {
            election.lease.clone_from(lease);
        }
        if let Some(namespace) = &self.leader_elect_resource_namespace {
            election.namespace.clone_from(namespace);
        }
        for (flag, field) in [
            (self.leader_elect_lease_duration, &mut election.lease_duration),
            (self.leader_elect_renew_deadline, &mut election.renew_deadline),
            (self.leader_elect_retry_period, &mut election.retry_period),
        ] {
            if let Some(given) = flag {
                *field = given.0;
            }
        }
        if election.lease_duration <= election.renew_deadline {
            bail!("leaseDuration must be greater than renewDeadline");
        }
        if election.renew_deadline <= election.retry_period.mul_f64(1.2) {
            bail!("renewDeadline must be greater than retryPeriod*JitterFactor");
        }
        Ok(Some(election))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_must_nest() {
        let flags = |lease: &str, renew: &str, retry: &str| Flags {
            leader_elect_lease_duration: lease.parse().ok(),
            leader_elect_renew_deadline: renew.parse().ok(),
            leader_elect_retry_period: retry.parse().ok(),
            ..Flags::default()
        };
        assert!(flags("15s", "10s", "2s").election("a").expect("good").is_some());
        assert!(flags("10s", "10s", "2s").election("a").is_err());
        assert!(flags("15s", "10s", "9s").election("a").is_err());
        let off = Flags { leader_elect: Some(false), ..Flags::default() };
        assert!(off.election("a").expect("good").is_none());
    }
}
