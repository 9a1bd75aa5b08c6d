//! `--config`: a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), with flags laid over it.
//!
//! Fields that are not here are refused by name; values that are not supported are refused by [`File::proxy`].

use std::collections::BTreeMap;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use component::flags::GoDuration;
use ipnet::IpNet;
use proxy::{Family, LocalTraffic, NodePorts};
use serde::Deserialize;
use serde_json::Value;

/// The group and version of the file.
const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The kind of the file.
const KIND: &str = "KubeProxyConfiguration";

/// The file, every field optional.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct File {
    api_version: String,
    kind: String,
    pub(crate) client_connection: ClientConnection,
    pub(crate) hostname_override: String,
    bind_address: String,
    healthz_bind_address: String,
    metrics_bind_address: String,
    bind_address_hard_fail: bool,
    enable_profiling: bool,
    pub(crate) mode: String,
    pub(crate) iptables: Iptables,
    pub(crate) conntrack: Conntrack,
    detect_local_mode: String,
    detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub(crate) cluster_cidr: String,
    pub(crate) node_port_addresses: Option<Vec<String>>,
    pub(crate) oom_score_adj: Option<i32>,
    /// Informers hear of changes at once and never ask again for what they know.
    config_sync_period: Option<GoDuration>,
    port_range: String,
    feature_gates: BTreeMap<String, bool>,
    pub(crate) logging: Logging,
    show_hidden_metrics_for_version: String,
    /// Settings of other modes, which must ask for nothing.
    ipvs: Value,
    nftables: Value,
    winkernel: Value,
    windows_run_as_service: bool,
}

/// `detectLocal`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct DetectLocal {
    bridge_interface: String,
    interface_name_prefix: String,
}

/// `logging`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Logging {
    pub(crate) format: String,
    pub(crate) verbosity: u8,
    /// Lines are written when they are made, so any frequency is kept.
    flush_frequency: Value,
    vmodule: Value,
    options: Value,
}

/// Whether a part of a file leaves everything to its default.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => matches!(text.as_str(), "" | "0" | "0s"),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.values().all(says_nothing),
    }
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

fn drop_nulls(tree: &mut Value) {
    if let Value::Object(fields) = tree {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}

fn ranges<'a>(field: &str, texts: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Vec<IpNet>> {
    let parse =
        |text: &str| text.parse().with_context(|| format!("{field}: {text:?} must be a valid CIDR block"));
    texts.into_iter().filter(|text| !text.is_empty()).map(parse).collect()
}

impl File {
    /// The tree of a file's text.
    pub(crate) fn tree(text: &str) -> anyhow::Result<Value> {
        serde_saphyr::from_str(text).context("malformed YAML")
    }

    /// A file that says nothing.
    pub(crate) fn empty_tree() -> Value {
        serde_json::json!({"apiVersion": API_VERSION, "kind": KIND})
    }

    /// The file of a tree.
    pub(crate) fn from_tree(mut tree: Value) -> anyhow::Result<Self> {
        // A field without a value is left to its default.
        drop_nulls(&mut tree);
        let file: Self = serde_json::from_value(tree).context("strict decoding error")?;
        ensure!(
            file.api_version == API_VERSION && file.kind == KIND,
            "no kind {:?} is registered for version {:?}; use {KIND} of {API_VERSION}",
            file.kind,
            file.api_version
        );
        Ok(file)
    }

    fn local_traffic(&self) -> anyhow::Result<LocalTraffic> {
        let given = |field: &str, text: &str| -> anyhow::Result<String> {
            ensure!(!text.is_empty(), "detectLocal.{field}: must be set with this detectLocalMode");
            Ok(text.to_owned())
        };
        let cidrs = ranges("clusterCIDR", self.cluster_cidr.split(','))?;
        Ok(match self.detect_local_mode.as_str() {
            "" | "ClusterCIDR" if cidrs.is_empty() => LocalTraffic::Unknown,
            "" | "ClusterCIDR" => LocalTraffic::ClusterCidrs(cidrs),
            "NodeCIDR" => LocalTraffic::NodeCidr,
            "BridgeInterface" => {
                LocalTraffic::Bridge(given("bridgeInterface", &self.detect_local.bridge_interface)?)
            }
            "InterfaceNamePrefix" => LocalTraffic::InterfacePrefix(given(
                "interfaceNamePrefix",
                &self.detect_local.interface_name_prefix,
            )?),
            other => bail!(
                "detectLocalMode: {other:?}: must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix"
            ),
        })
    }

    fn node_ports(&self) -> anyhow::Result<NodePorts> {
        match self.node_port_addresses.as_deref() {
            Some([one]) if one == "primary" => Ok(NodePorts::Primary),
            Some(list) if list.iter().any(|range| range == "primary") => {
                bail!("nodePortAddresses: can't use both 'primary' and CIDRs")
            }
            list => {
                let texts = list.unwrap_or_default().iter().map(String::as_str);
                Ok(NodePorts::Ranges(ranges("nodePortAddresses", texts)?))
            }
        }
    }

    fn refuse_unsupported(&self) -> anyhow::Result<()> {
        ensure!(
            matches!(self.mode.as_str(), "" | "iptables"),
            "mode: {:?} is not supported; use iptables",
            self.mode
        );
        for (field, value) in
            [("ipvs", &self.ipvs), ("nftables", &self.nftables), ("winkernel", &self.winkernel)]
        {
            ensure!(says_nothing(value), "{field}: only mode iptables is supported");
        }
        ensure!(!self.windows_run_as_service, "windowsRunAsService: this is not Windows");
        ensure!(
            self.show_hidden_metrics_for_version.is_empty(),
            "showHiddenMetricsForVersion: no metric is hidden"
        );
        ensure!(
            matches!(self.logging.format.as_str(), "" | "text" | "json"),
            "logging.format: {:?} is not supported; use text or json",
            self.logging.format
        );
        ensure!(
            says_nothing(&self.logging.vmodule) && says_nothing(&self.logging.options),
            "logging: vmodule and options are not supported"
        );
        component::gates::check(self.feature_gates.iter().map(|(gate, on)| (gate.as_str(), *on)))
            .context("featureGates")?;
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
        let local = self.local_traffic()?;
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
        let pods_v6 = match &local {
            LocalTraffic::ClusterCidrs(ranges) => ranges.iter().any(|range| range.addr().is_ipv6()),
            _ => false,
        };
        if bound_v6 || pods_v6 {
            families.push(Family::V6);
        }
        Ok(proxy::Config {
            node_name: match self.hostname_override.trim() {
                "" => host_name.to_lowercase(),
                name => name.to_lowercase(),
            },
            local,
            masquerade_all: self.iptables.masquerade_all.unwrap_or(default.masquerade_all),
            masquerade_bit,
            localhost_node_ports: self.iptables.localhost_node_ports.unwrap_or(default.localhost_node_ports),
            node_ports: self.node_ports()?,
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
        let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{rest}");
        File::from_tree(File::tree(&text)?)?.proxy("Host")
    }

    #[test]
    fn reads_what_kubeadm_writes() {
        let config = parse(
            "bindAddress: 0.0.0.0\nbindAddressHardFail: false\nclientConnection:\n  acceptContentTypes: \"\"\n  burst: 0\n  \
             contentType: \"\"\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n  qps: 0\nclusterCIDR: 10.244.0.0/16\n\
             configSyncPeriod: 0s\nconntrack:\n  maxPerCore: null\n  min: null\n  tcpBeLiberal: false\n  \
             tcpCloseWaitTimeout: null\n  tcpEstablishedTimeout: null\n  udpStreamTimeout: 0s\n  udpTimeout: 0s\n\
             detectLocal: {bridgeInterface: \"\", interfaceNamePrefix: \"\"}\ndetectLocalMode: \"\"\nenableProfiling: false\n\
             healthzBindAddress: \"\"\nhostnameOverride: \"\"\nshowHiddenMetricsForVersion: \"\"\n\
             ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: \"\", strictARP: false, syncPeriod: 0s, tcpTimeout: 0s}\n\
             logging: {flushFrequency: 0, options: {json: {infoBufferSize: \"0\"}, text: {infoBufferSize: \"0\"}}, verbosity: 0}\n\
             nftables: {masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}\n\
             winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: \"\", rootHnsEndpointName: \"\", sourceVip: \"\"}\n\
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
    fn local_traffic_and_node_ports() {
        let config =
            parse("detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}\n").expect("valid");
        assert_eq!(config.local, LocalTraffic::Bridge("cni0".into()));
        assert_eq!(parse("detectLocalMode: NodeCIDR\n").expect("valid").local, LocalTraffic::NodeCidr);
        let config = parse("nodePortAddresses: [primary]\n").expect("valid");
        assert_eq!((config.node_ports, config.local), (NodePorts::Primary, LocalTraffic::Unknown));
    }

    #[test]
    fn refuses_the_rest() {
        for rest in [
            "mode: ipvs\n",
            "mode: nftables\n",
            "detectLocalMode: BridgeInterface\n",
            "detectLocalMode: Guess\n",
            "featureGates: {NoSuchGate: true}\n",
            "ipvs: {scheduler: rr}\n",
            "clusterCIDR: nonsense\n",
            "iptables: {masqueradeBit: 32}\n",
            "iptables: {syncPeriod: 1s, minSyncPeriod: 2s}\n",
            "healthzBindAddress: nowhere\n",
            "nodePortAddresses: [primary, 10.0.0.0/8]\n",
            "portRange: 1-2\n",
        ] {
            assert!(parse(rest).is_err(), "{rest}");
        }
    }
}
