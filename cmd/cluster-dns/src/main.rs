//! The cluster-dns binary: flags to configuration to run. It stands where CoreDNS stands in other clusters.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use client::config::{ClientOptions, client_from};

#[global_allocator]
static ALLOCATOR: component::memory::Allocator = component::memory::Allocator;

/// Threads of the runtime.
const THREADS: usize = 2;
/// Port of resolvers that are named by address alone.
const DNS_PORT: u16 = 53;

/// Flags.
#[derive(Debug, Parser)]
#[command(name = "cluster-dns", version = component::KUBERNETES_VERSION, about = "DNS for the names of a cluster.")]
struct Arguments {
    /// Path to a kubeconfig; in a pod the service account is used without it
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig)
    #[arg(long)]
    master: Option<String>,
    /// Suffix of all names
    #[arg(long, default_value = "cluster.local")]
    domain: String,
    /// Addresses to answer on, UDP and TCP
    #[arg(long, value_delimiter = ',', default_value = "0.0.0.0:53")]
    listen: Vec<SocketAddr>,
    /// Where /health, /ready and /metrics are served; nowhere without it
    #[arg(long)]
    health_address: Option<SocketAddr>,
    /// Resolvers for other names, IP or IP:PORT, asked in order; other names are refused without them
    #[arg(long, value_delimiter = ',', value_parser = resolver)]
    forward: Vec<SocketAddr>,
    /// Seconds that clients may keep an answer
    #[arg(long, default_value_t = 5)]
    ttl: u32,
    /// Address of the DNS Service, answered for ns.dns.DOMAIN
    #[arg(long)]
    service_address: Option<IpAddr>,
    #[command(flatten)]
    logs: component::logs::Options,
}

fn resolver(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, DNS_PORT)));
    with_port.map_err(|_| format!("{text:?} is neither IP nor IP:PORT"))
}

impl Arguments {
    fn config(&self) -> dns::Config {
        dns::Config {
            domain: self.domain.clone(),
            listen: self.listen.clone(),
            health_address: self.health_address,
            upstreams: self.forward.clone(),
            ttl_seconds: self.ttl,
            service_address: self.service_address,
        }
    }
}

fn main() -> anyhow::Result<()> {
    component::install_crypto();
    let arguments = Arguments::parse_from(component::flags::arguments());
    component::logs::init(&arguments.logs);
    component::runtime(THREADS).context("cannot start the asynchronous runtime")?.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let shutdown = component::shutdown::on_signals().context("cannot listen for signals")?;
    let options = ClientOptions {
        kubeconfig: arguments.kubeconfig.clone(),
        master: arguments.master.clone(),
        component: "cluster-dns".into(),
        ..ClientOptions::default()
    };
    let client = client_from(&options).await.context("cannot configure the client")?;
    dns::run(arguments.config(), client, shutdown).await.context("cluster DNS ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_have_ports() {
        let parse = |flags: &[&str]| {
            Arguments::try_parse_from(std::iter::once("cluster-dns").chain(flags.iter().copied()))
        };
        let config = parse(&["--forward=10.0.0.1,[2001:db8::1]:5353", "--listen=127.0.0.1:1053"])
            .expect("flags")
            .config();
        assert_eq!(
            config.upstreams,
            ["10.0.0.1:53", "[2001:db8::1]:5353"].map(|a| a.parse().expect("address"))
        );
        assert_eq!((config.domain.as_str(), config.ttl_seconds), ("cluster.local", 5));
        assert!(parse(&["--forward=resolver.example"]).is_err() && parse(&["--listen=53"]).is_err());
    }
}
