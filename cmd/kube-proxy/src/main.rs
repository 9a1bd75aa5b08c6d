//! The kube-proxy binary: flags and file to configuration to run.

mod file;
mod sysctl;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{ArgAction, Parser};
use client::config::{ClientOptions, client_from};
use component::flags::GoDuration;

use crate::file::File;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads of the runtime: the proxy waits more than it works.
const THREADS: usize = 2;
/// Upstream's `--oom-score-adj`.
const OOM_SCORE_ADJUSTMENT: i32 = -999;

/// Flags, named as upstream's. Those not listed are refused; with `--config` only `--hostname-override` may be given
/// besides, as the file says everything.
#[derive(Debug, Parser)]
#[command(name = "kube-proxy", version = component::KUBERNETES_VERSION, about = "The proxy for Services on a node.")]
struct Arguments {
    /// The path to the configuration file
    #[arg(long)]
    config: Option<PathBuf>,
    /// Name of this node's object; the host name without it
    #[arg(long)]
    hostname_override: Option<String>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    logs: component::logs::Options,
}

#[derive(Debug, clap::Args)]
#[group(conflicts_with = "config", multiple = true)]
struct Settings {
    /// Path to kubeconfig file with authorization information
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig)
    #[arg(long)]
    master: Option<String>,
    /// QPS to use while talking with kubernetes apiserver
    #[arg(long)]
    kube_api_qps: Option<f64>,
    /// Burst to use while talking with kubernetes apiserver
    #[arg(long)]
    kube_api_burst: Option<u32>,
    /// Only iptables is supported
    #[arg(long)]
    proxy_mode: Option<String>,
    /// An IPv6 address asks for IPv6 rules too
    #[arg(long)]
    bind_address: Option<String>,
    /// Range of pod addresses; what comes from elsewhere to a Service is masqueraded
    #[arg(long)]
    cluster_cidr: Option<String>,
    /// How local traffic is told: ClusterCIDR
    #[arg(long)]
    detect_local_mode: Option<String>,
    /// The IP address with port for the health check server; port 0 serves none
    #[arg(long)]
    healthz_bind_address: Option<String>,
    /// The IP address with port for the metrics server; port 0 serves none
    #[arg(long)]
    metrics_bind_address: Option<String>,
    /// SNAT all traffic sent via Service cluster IPs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    masquerade_all: Option<bool>,
    /// The bit of the fwmark space to mark packets requiring SNAT with
    #[arg(long)]
    iptables_masquerade_bit: Option<u8>,
    /// Node ports answer on loopback
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    iptables_localhost_nodeports: Option<bool>,
    /// Rules are written again at least this often
    #[arg(long)]
    iptables_sync_period: Option<GoDuration>,
    /// Least time between two writes
    #[arg(long)]
    iptables_min_sync_period: Option<GoDuration>,
    /// Ranges of node addresses that node ports answer on
    #[arg(long, value_delimiter = ',')]
    nodeport_addresses: Option<Vec<String>>,
    /// Tracked connections per core
    #[arg(long)]
    conntrack_max_per_core: Option<u64>,
    /// Least number of tracked connections
    #[arg(long)]
    conntrack_min: Option<u64>,
    /// Idle timeout for established TCP connections
    #[arg(long)]
    conntrack_tcp_timeout_established: Option<GoDuration>,
    /// Timeout for TCP connections in the CLOSE_WAIT state
    #[arg(long)]
    conntrack_tcp_timeout_close_wait: Option<GoDuration>,
    /// Packets out of the TCP window are not invalid
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    conntrack_tcp_be_liberal: Option<bool>,
    /// Idle timeout for UDP flows that have seen one direction
    #[arg(long)]
    conntrack_udp_timeout: Option<GoDuration>,
    /// Idle timeout for UDP flows that have seen both
    #[arg(long)]
    conntrack_udp_timeout_stream: Option<GoDuration>,
    /// The oom-score-adj value for this process
    #[arg(long, allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
}

impl Settings {
    /// The flags in the form of a file.
    fn file(&self) -> File {
        let mut file = File::default();
        let text = |given: &Option<String>| given.clone().unwrap_or_default();
        file.client_connection.kubeconfig.clone_from(&self.kubeconfig);
        file.client_connection.qps = self.kube_api_qps;
        file.client_connection.burst = self.kube_api_burst;
        file.mode = text(&self.proxy_mode);
        file.bind_address = text(&self.bind_address);
        file.cluster_cidr = text(&self.cluster_cidr);
        file.detect_local_mode = text(&self.detect_local_mode);
        file.healthz_bind_address = text(&self.healthz_bind_address);
        file.metrics_bind_address = text(&self.metrics_bind_address);
        file.iptables.masquerade_all = self.masquerade_all;
        file.iptables.masquerade_bit = self.iptables_masquerade_bit;
        file.iptables.localhost_node_ports = self.iptables_localhost_nodeports;
        file.iptables.sync_period = self.iptables_sync_period;
        file.iptables.min_sync_period = self.iptables_min_sync_period;
        file.node_port_addresses.clone_from(&self.nodeport_addresses);
        file.conntrack.max_per_core = self.conntrack_max_per_core;
        file.conntrack.min = self.conntrack_min;
        file.conntrack.tcp_established_timeout = self.conntrack_tcp_timeout_established;
        file.conntrack.tcp_close_wait_timeout = self.conntrack_tcp_timeout_close_wait;
        file.conntrack.tcp_be_liberal = self.conntrack_tcp_be_liberal.unwrap_or(false);
        file.conntrack.udp_timeout = self.conntrack_udp_timeout;
        file.conntrack.udp_stream_timeout = self.conntrack_udp_timeout_stream;
        file.oom_score_adj = self.oom_score_adj;
        file
    }
}

impl Arguments {
    fn file(&self) -> anyhow::Result<File> {
        let mut file = match &self.config {
            None => self.settings.file(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(anyhow::Error::from)
                .and_then(|text| File::parse(&text))
                .with_context(|| path.display().to_string())?,
        };
        if let Some(name) = &self.hostname_override {
            file.hostname_override.clone_from(name);
        }
        Ok(file)
    }

    fn client(&self, file: &File) -> ClientOptions {
        let connection = &file.client_connection;
        ClientOptions {
            kubeconfig: connection.kubeconfig.clone().filter(|path| !path.as_os_str().is_empty()),
            master: self.settings.master.clone(),
            component: "kube-proxy".into(),
            // Zero is "not set" in upstream's files.
            qps: connection.qps.filter(|qps| *qps != 0.0).unwrap_or(5.0),
            burst: connection.burst.filter(|burst| *burst != 0).unwrap_or(10),
        }
    }
}

fn main() -> anyhow::Result<()> {
    component::install_crypto();
    let arguments = Arguments::parse_from(component::flags::arguments());
    component::logs::init(&arguments.logs);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?
        .block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let shutdown = component::shutdown::on_signals().context("cannot listen for signals")?;
    let file = arguments.file()?;
    let config = file.proxy(client::config::host_name())?;
    let client = client_from(&arguments.client(&file)).await.context("cannot configure the client")?;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    sysctl::apply(&sysctl::settings(&file.conntrack, cores), Path::new("/proc/sys/net/netfilter"))?;
    let adjustment = file.oom_score_adj.unwrap_or(OOM_SCORE_ADJUSTMENT);
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", adjustment.to_string()) {
        tracing::warn!(%error, adjustment, "cannot set the OOM score adjustment");
    }
    proxy::run(config, client, shutdown).await.context("the service proxy ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("kube-proxy").chain(flags.iter().copied()))
    }

    #[test]
    fn flags_fill_in_the_file() {
        let arguments = parse(&[
            "--kubeconfig=/k",
            "--cluster-cidr=10.244.0.0/16",
            "--proxy-mode=iptables",
            "--masquerade-all",
            "--hostname-override=Node-1",
            "--healthz-bind-address=0.0.0.0:0",
            "--conntrack-min=5",
            "--oom-score-adj=-998",
        ])
        .expect("flags");
        let file = arguments.file().expect("file");
        let config = file.proxy("host").expect("config");
        assert_eq!((config.node_name.as_str(), config.masquerade_all), ("node-1", true));
        assert_eq!((config.healthz_address, file.conntrack.min), (None, Some(5)));
        assert_eq!(file.oom_score_adj, Some(-998));
    }

    #[test]
    fn flags_beside_a_file_and_unknown_ones_are_refused() {
        assert!(parse(&["--config=/c", "--hostname-override=n"]).is_ok());
        assert!(parse(&["--config=/c", "--cluster-cidr=10.0.0.0/8"]).is_err());
        assert!(parse(&["--ipvs-scheduler=rr"]).is_err());
        let arguments = parse(&["--proxy-mode=ipvs"]).expect("flags");
        assert!(arguments.file().expect("file").proxy("host").is_err());
    }
}
