//! `--config`: a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), which is also what the flags fill in.
//!
//! Fields that are not here are refused by name; values that are not supported are refused by [`File::proxy`].

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use component::flags::GoDuration;
use ipnet::IpNet;
use proxy::Family;
use serde::Deserialize;

/// The group and version of the file.
const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";

/// The file, every field optional.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct File {
    api_version: String,
    kind: String,
    pub(crate) client_connection: ClientConnection,
    pub(crate) hostname_override: String,
    pub(crate) bind_address: String,
    pub(crate) healthz_bind_address: String,
    pub(crate) metrics_bind_address: String,
    bind_address_hard_fail: bool,
    enable_profiling: bool,
    pub(crate) mode: String,
    pub(crate) iptables: Iptables,
    pub(crate) conntrack: Conntrack,
    pub(crate) detect_local_mode: String,
    #[serde(rename = "clusterCIDR")]
    pub(crate) cluster_cidr: String,
    pub(crate) node_port_addresses: Option<Vec<String>>,
    pub(crate) oom_score_adj: Option<i32>,
    /// Informers hear of changes at once and never ask again for what they know.
    config_sync_period: Option<GoDuration>,
    port_range: String,
}

/// `clientConnection`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ClientConnection {
    pub(crate) kubeconfig: Option<PathBuf>,
    accept_content_types: String,
    content_type: String,
    pub(crate) qps: Option<f64>,
    pub(crate) burst: Option<u32>,
}

/// `iptables`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Iptables {
    pub(crate) masquerade_bit: Option<u8>,
    pub(crate) masquerade_all: Option<bool>,
    pub(crate) localhost_node_ports: Option<bool>,
    pub(crate) sync_period: Option<GoDuration>,
    pub(crate) min_sync_period: Option<GoDuration>,
}

/// `conntrack`: settings of the kernel's connection tracking.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Conntrack {
    pub(crate) max_per_core: Option<u64>,
    pub(crate) min: Option<u64>,
    pub(crate) tcp_established_timeout: Option<GoDuration>,
    pub(crate) tcp_close_wait_timeout: Option<GoDuration>,
    pub(crate) tcp_be_liberal: bool,
    pub(crate) udp_timeout: Option<GoDuration>,
    pub(crate) udp_stream_timeout: Option<GoDuration>,
}

/// An address to listen on: `HOST:PORT`, or a host that gets the default port; `None` for port 0.
fn address(text: &str, default: SocketAddr) -> anyhow::Result<Option<SocketAddr>> {
    let address = match (text, text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        ("", ..) => default,
        (_, Ok(address), _) => address,
        (_, _, Ok(ip)) => SocketAddr::new(ip, default.port()),
        _ => bail!("{text:?}: must be IP:port"),
    };
    Ok(Some(address).filter(|address| address.port() != 0))
}

fn ranges<'a>(field: &str, texts: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Vec<IpNet>> {
    let parse =
        |text: &str| text.parse().with_context(|| format!("{field}: {text:?} must be a valid CIDR block"));
    texts.into_iter().filter(|text| !text.is_empty()).map(parse).collect()
}

impl File {
    /// Reads a file's text.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let file: Self = serde_saphyr::from_str(text).context("strict decoding error")?;
        ensure!(
            file.api_version == API_VERSION && file.kind == "KubeProxyConfiguration",
            "no kind {:?} is registered for version {:?}; use KubeProxyConfiguration of {API_VERSION}",
            file.kind,
            file.api_version
        );
        Ok(file)
    }

    fn refuse_unsupported(&self) -> anyhow::Result<()> {
        ensure!(
            matches!(self.mode.as_str(), "" | "iptables"),
            "mode: {:?} is not supported; use iptables",
            self.mode
        );
        ensure!(
            matches!(self.detect_local_mode.as_str(), "" | "ClusterCIDR"),
            "detectLocalMode: {:?} is not supported; use ClusterCIDR",
            self.detect_local_mode
        );
        ensure!(!self.bind_address_hard_fail, "bindAddressHardFail: true is not supported");
        ensure!(!self.enable_profiling, "enableProfiling: true is not supported");
        ensure!(self.port_range.is_empty(), "portRange: only the userspace proxy had it");
        let default = Duration::from_secs(15 * 60);
        ensure!(
            self.config_sync_period.is_none_or(|period| period.0.is_zero() || period.0 == default),
            "configSyncPeriod: nothing is synchronised periodically"
        );
        for types in [&self.client_connection.accept_content_types, &self.client_connection.content_type] {
            let known = ["", "application/json", "application/vnd.kubernetes.protobuf"];
            if let Some(other) = types.split(',').find(|one| !known.contains(one)) {
                bail!("clientConnection: content type {other:?} is not supported");
            }
        }
        Ok(())
    }

    /// The proxy's configuration.
    pub(crate) fn proxy(&self, host_name: &str) -> anyhow::Result<proxy::Config> {
        self.refuse_unsupported()?;
        let default = proxy::Config::default();
        let unset = SocketAddr::from(([0, 0, 0, 0], 0));
        let cluster_cidrs = ranges("clusterCIDR", self.cluster_cidr.split(','))?;
        let masquerade_bit = self.iptables.masquerade_bit.unwrap_or(default.masquerade_bit);
        ensure!(
            masquerade_bit < 32,
            "iptables.masqueradeBit: Invalid value: {masquerade_bit}: must be within the range [0, 31]"
        );
        // Zero is "not set" in upstream's files.
        let set = |given: Option<GoDuration>, default| {
            given.map(|d| d.0).filter(|d| !d.is_zero()).unwrap_or(default)
        };
        let sync_period = set(self.iptables.sync_period, default.sync_period);
        let min_sync_period = set(self.iptables.min_sync_period, default.min_sync_period);
        ensure!(
            sync_period >= min_sync_period,
            "iptables.syncPeriod: must be greater than or equal to minSyncPeriod"
        );
        let mut families = vec![Family::V4];
        let bound_v6 = match self.bind_address.as_str() {
            "" => false,
            text => text
                .parse::<IpAddr>()
                .with_context(|| format!("bindAddress: {text:?} must be a valid IP"))?
                .is_ipv6(),
        };
        if bound_v6 || cluster_cidrs.iter().any(|range| range.addr().is_ipv6()) {
            families.push(Family::V6);
        }
        let node_ports = self.node_port_addresses.iter().flatten().map(String::as_str);
        if self.node_port_addresses.iter().flatten().any(|range| range == "primary") {
            bail!("nodePortAddresses: \"primary\" is not supported; name ranges");
        }
        Ok(proxy::Config {
            node_name: match self.hostname_override.trim() {
                "" => host_name.to_lowercase(),
                name => name.to_lowercase(),
            },
            cluster_cidrs,
            masquerade_all: self.iptables.masquerade_all.unwrap_or(default.masquerade_all),
            masquerade_bit,
            localhost_node_ports: self.iptables.localhost_node_ports.unwrap_or(default.localhost_node_ports),
            node_port_addresses: ranges("nodePortAddresses", node_ports)?,
            min_sync_period,
            sync_period,
            healthz_address: address(&self.healthz_bind_address, default.healthz_address.unwrap_or(unset))
                .context("healthzBindAddress")?,
            metrics_address: address(&self.metrics_bind_address, default.metrics_address.unwrap_or(unset))
                .context("metricsBindAddress")?,
            families,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> anyhow::Result<proxy::Config> {
        File::parse(&format!("apiVersion: {API_VERSION}\nkind: KubeProxyConfiguration\n{rest}"))?
            .proxy("Host")
    }

    #[test]
    fn reads_what_kubeadm_writes() {
        let config = parse(
            "bindAddress: 0.0.0.0\nbindAddressHardFail: false\nclientConnection:\n  acceptContentTypes: \"\"\n  burst: 0\n  \
             contentType: \"\"\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n  qps: 0\nclusterCIDR: 10.244.0.0/16\n\
             configSyncPeriod: 0s\nconntrack:\n  maxPerCore: null\n  min: null\n  tcpBeLiberal: false\n  \
             tcpCloseWaitTimeout: null\n  tcpEstablishedTimeout: null\n  udpStreamTimeout: 0s\n  udpTimeout: 0s\n\
             detectLocalMode: \"\"\nenableProfiling: false\nhealthzBindAddress: \"\"\nhostnameOverride: \"\"\n\
             iptables:\n  localhostNodePorts: null\n  masqueradeAll: false\n  masqueradeBit: null\n  minSyncPeriod: 0s\n  \
             syncPeriod: 0s\nmetricsBindAddress: 1.2.3.4:0\nmode: iptables\nnodePortAddresses: null\noomScoreAdj: null\nportRange: \"\"\n",
        );
        let config = config.expect("kubeadm's file");
        assert_eq!(config.node_name, "host");
        assert_eq!(
            (config.metrics_address, config.sync_period),
            (None, proxy::Config::default().sync_period)
        );
    }

    #[test]
    fn refuses_the_rest() {
        for rest in [
            "mode: ipvs\n",
            "mode: nftables\n",
            "detectLocalMode: BridgeInterface\n",
            "ipvs: {scheduler: rr}\n",
            "clusterCIDR: nonsense\n",
            "iptables: {masqueradeBit: 32}\n",
            "iptables: {syncPeriod: 1s, minSyncPeriod: 2s}\n",
            "healthzBindAddress: nowhere\n",
            "nodePortAddresses: [primary]\n",
            "portRange: 1-2\n",
        ] {
            assert!(parse(rest).is_err(), "{rest}");
        }
    }
}
