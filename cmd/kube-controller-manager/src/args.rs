//! Upstream's flags, read into a [`Config`]. Flags that are not here are refused, as are values that are not supported.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use auth::service_account::token::sign;
use auth::service_account::{Claims, SigningKey};
use clap::ArgAction;
use component::flags::GoDuration;
use controller::Config;
use controller::config::{Concurrency, NodeMonitor, SignToken};
use ipnet::IpNet;

/// Flags of kube-controller-manager.
#[derive(Debug, clap::Parser)]
#[command(name = "kube-controller-manager", version = component::KUBERNETES_VERSION, args_override_self = true)]
pub(crate) struct Args {
    /// Path to kubeconfig file with authorization and master location information
    #[arg(long)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig)
    #[arg(long)]
    pub(crate) master: Option<String>,
    /// QPS to use while talking with kubernetes apiserver
    #[arg(long, default_value_t = 20.0)]
    pub(crate) kube_api_qps: f64,
    /// Burst to use while talking with kubernetes apiserver
    #[arg(long, default_value_t = 30)]
    pub(crate) kube_api_burst: u32,
    /// Content type of requests sent to apiserver; bodies are written in JSON whichever is given
    #[arg(long, default_value = "application/vnd.kubernetes.protobuf",
          value_parser = ["application/vnd.kubernetes.protobuf", "application/json"])]
    kube_api_content_type: String,
    /// Name of the cluster, for resources of cloud providers: none is built in, so nothing carries it
    #[arg(long, default_value = "kubernetes")]
    cluster_name: String,
    /// Provider of cloud services; none is built in
    #[arg(long, default_value = "", value_parser = ["", "external"])]
    cloud_provider: String,
    /// Use an individual service account's identity for each controller
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    use_service_account_credentials: bool,
    /// Controllers to enable: '*' enables all on-by-default controllers, 'foo' enables foo, '-foo' disables it
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,

    /// The port on which to serve HTTPS; 0 serves none
    #[arg(long, default_value_t = 10257)]
    pub(crate) secure_port: u16,
    #[command(flatten)]
    pub(crate) serving: daemon::serving::Flags,

    /// Should CIDRs for pods be allocated and set on the nodes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    allocate_node_cidrs: bool,
    /// CIDR range for pods; one of each family at most
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// CIDR range for Services, kept out of the pods' range
    #[arg(long, value_delimiter = ',')]
    service_cluster_ip_range: Vec<IpNet>,
    /// Mask size for node CIDRs; of a single-stack cluster
    #[arg(long)]
    node_cidr_mask_size: Option<u8>,
    /// Mask size for IPv4 node CIDRs
    #[arg(long)]
    node_cidr_mask_size_ipv4: Option<u8>,
    /// Mask size for IPv6 node CIDRs
    #[arg(long)]
    node_cidr_mask_size_ipv6: Option<u8>,

    /// Certificate authority published in every namespace
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// Private key used to sign service account tokens
    #[arg(long)]
    service_account_private_key_file: Option<PathBuf>,
    #[command(flatten)]
    signing: crate::signing::Args,
    /// The max length of duration signed certificates will be given
    #[arg(long, default_value = "8760h0m0s")]
    cluster_signing_duration: GoDuration,

    /// The period for syncing node status
    #[arg(long, default_value = "5s")]
    node_monitor_period: GoDuration,
    /// Time a node may be unresponsive before it is marked unhealthy
    #[arg(long, default_value = "50s")]
    node_monitor_grace_period: GoDuration,
    /// Time a starting node may be unresponsive before it is marked unhealthy
    #[arg(long, default_value = "1m0s")]
    node_startup_grace_period: GoDuration,
    /// Nodes per second on which pods are deleted when a zone is healthy
    #[arg(long, default_value_t = 0.1)]
    node_eviction_rate: f64,
    /// Nodes per second on which pods are deleted when a zone is unhealthy
    #[arg(long, default_value_t = 0.01)]
    secondary_node_eviction_rate: f64,
    /// Zones up to this size get no secondary eviction rate
    #[arg(long, default_value_t = 50)]
    large_cluster_size_threshold: usize,
    /// Fraction of nodes which needs to be not ready for a zone to be treated as unhealthy
    #[arg(long, default_value_t = 0.55)]
    unhealthy_zone_threshold: f64,
    /// Number of terminated pods that can exist before they are deleted; 0 disables
    #[arg(long, default_value_t = 12_500)]
    terminated_pod_gc_threshold: usize,

    #[command(flatten)]
    concurrency: ConcurrencyArgs,
    #[command(flatten)]
    election: daemon::election::Flags,
    #[command(flatten)]
    pub(crate) logs: component::logs::Options,
}

macro_rules! concurrency {
    ($($flag:ident => $field:ident = $default:literal),* $(,)?) => {
        /// Objects each controller may sync at once.
        #[derive(Debug, clap::Args)]
        struct ConcurrencyArgs {
            $(
                /// The number of objects of this kind that are allowed to sync concurrently
                #[arg(long, default_value_t = $default)]
                $flag: usize,
            )*
        }

        impl ConcurrencyArgs {
            fn concurrency(&self) -> Concurrency {
                Concurrency { $($field: self.$flag),* }
            }
        }
    };
}

concurrency! {
    concurrent_cron_job_syncs => cron_job = 5,
    concurrent_daemonset_syncs => daemon_set = 2,
    concurrent_deployment_syncs => deployment = 5,
    concurrent_endpoint_syncs => endpoint = 5,
    concurrent_ephemeralvolume_syncs => ephemeral_volume = 5,
    concurrent_gc_syncs => garbage_collector = 20,
    concurrent_horizontal_pod_autoscaler_syncs => horizontal_pod_autoscaler = 5,
    concurrent_job_syncs => job = 5,
    mirroring_concurrent_service_endpoint_syncs => mirroring = 5,
    concurrent_namespace_syncs => namespace = 10,
    concurrent_replicaset_syncs => replica_set = 5,
    concurrent_rc_syncs => replication_controller = 5,
    concurrent_resource_quota_syncs => resource_quota = 5,
    concurrent_serviceaccount_token_syncs => service_account_token = 5,
    concurrent_service_endpoint_syncs => service_endpoint = 5,
    concurrent_statefulset_syncs => stateful_set = 5,
    concurrent_ttl_after_finished_syncs => ttl_after_finished = 5,
}

pub(crate) fn text(path: Option<&Path>) -> anyhow::Result<Option<String>> {
    path.map(|path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display())))
        .transpose()
}

impl Args {
    /// The controllers' configuration. Reads files.
    pub(crate) async fn config(&self) -> anyhow::Result<Config> {
        let (mask_v4, mask_v6) = self.masks()?;
        let (signing, signing_for) = self.signing.authorities(self.cluster_signing_duration.0)?;
        let client_for =
            if self.use_service_account_credentials { Some(self.identities().await?) } else { None };
        Ok(Config {
            controllers: self.controllers.clone(),
            concurrency: self.concurrency.concurrency(),
            allocate_node_cidrs: self.allocate_node_cidrs,
            cluster_cidrs: self.cluster_cidr.clone(),
            node_cidr_mask_v4: mask_v4,
            node_cidr_mask_v6: mask_v6,
            service_cidrs: self.service_cluster_ip_range.clone(),
            root_ca_pem: text(self.root_ca_file.as_deref())?,
            sign_token: self.sign_token()?,
            signing,
            signing_for,
            node_monitor: NodeMonitor {
                period: self.node_monitor_period.0.max(Duration::from_millis(100)),
                grace_period: self.node_monitor_grace_period.0,
                startup_grace_period: self.node_startup_grace_period.0,
                eviction_rate: self.node_eviction_rate,
                secondary_eviction_rate: self.secondary_node_eviction_rate,
                large_cluster_size: self.large_cluster_size_threshold,
                unhealthy_zone: self.unhealthy_zone_threshold,
            },
            terminated_pod_gc_threshold: self.terminated_pod_gc_threshold,
            leader_election: self.election.election("kube-controller-manager")?,
            client_for,
            informers: None,
        })
    }

    fn sign_token(&self) -> anyhow::Result<Option<SignToken>> {
        let Some(pem) = text(self.service_account_private_key_file.as_deref())? else { return Ok(None) };
        let key = SigningKey::from_pem(pem.as_bytes()).context("--service-account-private-key-file")?;
        Ok(Some(Arc::new(move |claims: &serde_json::Value| {
            let claims: Claims = serde_json::from_value(claims.clone()).map_err(|error| error.to_string())?;
            sign(&claims, &key).map_err(|error| error.to_string())
        })))
    }

    fn masks(&self) -> anyhow::Result<(u8, u8)> {
        let families: Vec<bool> = self.cluster_cidr.iter().map(|range| range.addr().is_ipv4()).collect();
        if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
            bail!(
                "length of clusterCIDRs is:{} more than max allowed of 2, one of each family",
                families.len()
            );
        }
        if self.allocate_node_cidrs && self.cluster_cidr.is_empty() {
            bail!("--allocate-node-cidrs needs --cluster-cidr");
        }
        if families.len() == 2 && self.node_cidr_mask_size.is_some() {
            bail!("usage of --node-cidr-mask-size is not allowed with dual-stack clusters");
        }
        let only_v4 = families != [false];
        let v4 = self.node_cidr_mask_size_ipv4.or(self.node_cidr_mask_size.filter(|_| only_v4)).unwrap_or(24);
        let v6 =
            self.node_cidr_mask_size_ipv6.or(self.node_cidr_mask_size.filter(|_| !only_v4)).unwrap_or(64);
        for range in &self.cluster_cidr {
            let mask = if range.addr().is_ipv4() { v4 } else { v6 };
            if self.allocate_node_cidrs && (mask < range.prefix_len() || mask > range.max_prefix_len()) {
                bail!("the node mask size {mask} does not fit the cluster CIDR {range}");
            }
        }
        Ok((v4, v6))
    }

    /// Clients that act as `system:serviceaccount:kube-system:NAME`, one an account, made on first use.
    async fn identities(&self) -> anyhow::Result<controller::config::ClientFor> {
        let options = client::config::ClientOptions {
            kubeconfig: self.kubeconfig.clone(),
            master: self.master.clone(),
            component: "kube-controller-manager".into(),
            ..client::config::ClientOptions::default()
        };
        let base = client::config::config_from(&options).await?;
        let shared = client::config::client_from(&options).await?;
        let made: Mutex<HashMap<String, kube::Client>> = Mutex::default();
        Ok(Arc::new(move |account: &str| {
            let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
            made.entry(account.to_owned())
                .or_insert_with(|| {
                    client::accounts::client_for(&base, shared.clone(), "kube-system", account).unwrap_or_else(|error| {
                        tracing::error!(account, %error, "no client for the account, using the shared one");
                        shared.clone()
                    })
                })
                .clone()
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn parse(flags: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("kube-controller-manager").chain(flags.iter().copied()))
    }

    #[test]
    fn kubeadms_flags_are_read() {
        let args = parse(&[
            "--allocate-node-cidrs=true",
            "--cluster-cidr=10.244.0.0/16",
            "--controllers=*,-endpoints-controller",
            "--leader-elect=true",
            "--leader-elect=false", // the last one counts, as with Go's flags
            "--service-cluster-ip-range=10.96.0.0/12",
            "--use-service-account-credentials=true",
            "--bind-address=127.0.0.1",
            "--cluster-name=kubernetes",
            "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt",
            "--cluster-signing-key-file=/etc/kubernetes/pki/ca.key",
            "--concurrent-deployment-syncs=7",
        ])
        .expect("valid flags");
        assert_eq!(args.masks().expect("valid"), (24, 64));
        assert_eq!(args.controllers, ["*", "-endpoints-controller"]);
        assert_eq!(args.concurrency.concurrency().deployment, 7);
        assert!(args.election.election("kube-controller-manager").expect("valid").is_none());
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for flags in [
            &["--cloud-provider=aws"] as &[&str],
            &["--leader-elect-resource-lock=endpoints"],
            &["--cluster-cidr=nonsense"],
        ] {
            assert!(parse(flags).is_err(), "{flags:?}");
        }
        for flags in [
            &["--allocate-node-cidrs"] as &[&str],
            &["--cluster-cidr=10.0.0.0/8,10.1.0.0/16"],
            &["--allocate-node-cidrs", "--cluster-cidr=10.0.0.0/25", "--node-cidr-mask-size=24"],
        ] {
            assert!(parse(flags).expect("reads").masks().is_err(), "{flags:?}");
        }
    }
}
