//! What the controller manager can be told; defaults are upstream's (`kube-controller-manager --help`, v1.36).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use client::leaderelection::LeaderElection;
use ipnet::IpNet;

/// Makes the client a controller acts with, from the name of its service account in `kube-system`.
pub type ClientFor = Arc<dyn Fn(&str) -> kube::Client + Send + Sync>;

/// Signs the claims of a token (a JSON object) into its compact form.
pub type SignToken = Arc<dyn Fn(&serde_json::Value) -> Result<String, String> + Send + Sync>;

/// Workers of each controller (`--concurrent-*-syncs`).
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each is the number of workers of the controller it is named after")]
pub struct Concurrency {
    pub cron_job: usize,
    pub daemon_set: usize,
    pub deployment: usize,
    pub endpoint: usize,
    pub ephemeral_volume: usize,
    pub garbage_collector: usize,
    pub horizontal_pod_autoscaler: usize,
    pub job: usize,
    pub mirroring: usize,
    pub namespace: usize,
    pub replica_set: usize,
    pub replication_controller: usize,
    pub resource_quota: usize,
    pub service_account_token: usize,
    pub service_endpoint: usize,
    pub stateful_set: usize,
    pub ttl_after_finished: usize,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            cron_job: 5,
            daemon_set: 2,
            deployment: 5,
            endpoint: 5,
            ephemeral_volume: 5,
            garbage_collector: 20,
            horizontal_pod_autoscaler: 5,
            job: 5,
            mirroring: 5,
            namespace: 10,
            replica_set: 5,
            replication_controller: 5,
            resource_quota: 5,
            service_account_token: 5,
            service_endpoint: 5,
            stateful_set: 5,
            ttl_after_finished: 5,
        }
    }
}

/// Node monitoring (`node-lifecycle-controller`).
#[derive(Debug, Clone)]
pub struct NodeMonitor {
    /// `--node-monitor-period`: how often nodes are looked at.
    pub period: Duration,
    /// `--node-monitor-grace-period`: silence after which a node is unknown.
    pub grace_period: Duration,
    /// `--node-startup-grace-period`: the same for a node that never reported.
    pub startup_grace_period: Duration,
    /// `--node-eviction-rate`: nodes a second that get NoExecute taints in a healthy zone.
    pub eviction_rate: f64,
    /// `--secondary-node-eviction-rate`: the same in an unhealthy zone.
    pub secondary_eviction_rate: f64,
    /// `--large-cluster-size-threshold`: zones up to this size get no secondary rate at all.
    pub large_cluster_size: usize,
    /// `--unhealthy-zone-threshold`: fraction of nodes not ready that makes a zone unhealthy.
    pub unhealthy_zone: f64,
}

impl Default for NodeMonitor {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(5),
            grace_period: Duration::from_secs(50),
            startup_grace_period: Duration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            large_cluster_size: 50,
            unhealthy_zone: 0.55,
        }
    }
}

/// A CA that signs certificate requests.
#[derive(Clone)]
pub struct SigningCa {
    /// `--cluster-signing-cert-file`, its contents.
    pub certificate_pem: String,
    /// `--cluster-signing-key-file`, its contents.
    pub key_pem: String,
    /// `--cluster-signing-duration`.
    pub duration: Duration,
}

impl fmt::Debug for SigningCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningCa").field("duration", &self.duration).finish_non_exhaustive()
    }
}

/// Configuration of all controllers.
#[derive(Clone)]
pub struct Config {
    /// `--controllers`: names, `*` for those on by default, `-name` to switch one off.
    pub controllers: Vec<String>,
    /// Workers of each controller.
    pub concurrency: Concurrency,
    /// `--allocate-node-cidrs`.
    pub allocate_node_cidrs: bool,
    /// `--cluster-cidr`: pod ranges, at most one of each family.
    pub cluster_cidrs: Vec<IpNet>,
    /// `--node-cidr-mask-size` or `--node-cidr-mask-size-ipv4`.
    pub node_cidr_mask_v4: u8,
    /// `--node-cidr-mask-size-ipv6`.
    pub node_cidr_mask_v6: u8,
    /// `--service-cluster-ip-range`: kept out of the pod ranges.
    pub service_cidrs: Vec<IpNet>,
    /// `--root-ca-file`, its contents: published to every namespace.
    pub root_ca_pem: Option<String>,
    /// Signs with the key of `--service-account-private-key-file`: tokens for token Secrets. None are made without it.
    pub sign_token: Option<SignToken>,
    /// `--cluster-signing-{cert,key}-file`: the authority of every signer that has none of its own.
    pub signing: Option<SigningCa>,
    /// `--cluster-signing-SIGNER-{cert,key}-file`: authorities of single signers, by their names.
    pub signing_for: BTreeMap<String, SigningCa>,
    /// Node monitoring.
    pub node_monitor: NodeMonitor,
    /// `--terminated-pod-gc-threshold`: terminated pods kept; no limit when 0.
    pub terminated_pod_gc_threshold: usize,
    /// `--leader-elect*`; `None` runs at once.
    pub leader_election: Option<LeaderElection>,
    /// `--use-service-account-credentials`: a client for each controller's account. All use one client when `None`.
    pub client_for: Option<ClientFor>,
    /// Informers to share with other parts of the process; their own when `None`.
    pub informers: Option<client::InformerFactory>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            controllers: vec!["*".into()],
            concurrency: Concurrency::default(),
            allocate_node_cidrs: false,
            cluster_cidrs: Vec::new(),
            node_cidr_mask_v4: 24,
            node_cidr_mask_v6: 64,
            service_cidrs: Vec::new(),
            root_ca_pem: None,
            sign_token: None,
            signing: None,
            signing_for: BTreeMap::new(),
            node_monitor: NodeMonitor::default(),
            terminated_pod_gc_threshold: 12_500,
            leader_election: None,
            client_for: None,
            informers: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("controllers", &self.controllers)
            .field("cluster_cidrs", &self.cluster_cidrs)
            .finish_non_exhaustive()
    }
}

/// Whether a controller runs, given `--controllers`.
pub(crate) fn enabled(list: &[String], name: &str, by_default: bool) -> bool {
    let mut star = false;
    for entry in list {
        if entry == name {
            return true;
        }
        if entry.strip_prefix('-') == Some(name) {
            return false;
        }
        star |= entry == "*";
    }
    star && by_default
}

#[cfg(test)]
mod tests {
    use super::enabled;

    #[test]
    fn the_controllers_list_reads_as_upstreams() {
        let cases: [(&[&str], bool, bool); 6] = [
            (&["*"], true, true),
            (&["*"], false, false),
            (&["*", "-x"], true, false),
            (&["x"], false, true),
            (&["y"], true, false),
            (&["*", "x"], false, true),
        ];
        for (list, by_default, expected) in cases {
            let list: Vec<String> = list.iter().map(|entry| (*entry).to_owned()).collect();
            assert_eq!(enabled(&list, "x", by_default), expected, "{list:?}");
        }
    }
}
