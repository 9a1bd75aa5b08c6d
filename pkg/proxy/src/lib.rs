//! The service proxy in iptables mode.
//!
//! One pure pass turns services and endpoints into the complete input of `iptables-restore` ([`rules`]); the runner
//! feeds it to the kernel in one call a sync. Chain names, marks and comments are upstream's
//! (`pkg/proxy/iptables`), as operators and conformance tests look for them.
//!
//! - [`model`]: what the proxy needs of Services and EndpointSlices.
//! - [`endpoints`]: which endpoints traffic may go to (readiness, termination, locality, topology).
//! - [`rules`]: the text. [`conntrack`]: which tracked flows are stale. [`run`]: the loop around them.

pub mod conntrack;
pub mod endpoints;
pub mod model;
pub mod names;
pub mod rules;

mod health;
mod kernel;
mod metrics;
mod runner;

use std::net::SocketAddr;
use std::time::Duration;

pub use runner::run;

/// Address family of a set of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// iptables.
    V4,
    /// ip6tables.
    V6,
}

/// How the proxy runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node's object (`--hostname-override`).
    pub node_name: String,
    /// Ranges of pod addresses (`--cluster-cidr`): what comes from elsewhere to a cluster address is masqueraded. Empty:
    /// locality is unknown and nothing is masqueraded on that ground.
    pub cluster_cidrs: Vec<ipnet::IpNet>,
    /// Masquerade all traffic to cluster addresses (`--masquerade-all`).
    pub masquerade_all: bool,
    /// Bit of the packet mark that asks for masquerading (`--iptables-masquerade-bit`), 0 to 31.
    pub masquerade_bit: u8,
    /// Node ports answer on loopback too (`--iptables-localhost-nodeports`).
    pub localhost_node_ports: bool,
    /// Ranges of node addresses that node ports answer on (`--nodeport-addresses`); empty is all.
    pub node_port_addresses: Vec<ipnet::IpNet>,
    /// Least time between two syncs (`--iptables-min-sync-period`).
    pub min_sync_period: Duration,
    /// Rules are checked for interference at least this often (`--iptables-sync-period`).
    pub sync_period: Duration,
    /// `--healthz-bind-address`; `None` serves none.
    pub healthz_address: Option<SocketAddr>,
    /// `--metrics-bind-address`; `None` serves none.
    pub metrics_address: Option<SocketAddr>,
    /// Address families to program.
    pub families: Vec<Family>,
}

impl Default for Config {
    /// Upstream's defaults.
    fn default() -> Self {
        Self {
            node_name: String::new(),
            cluster_cidrs: Vec::new(),
            masquerade_all: false,
            masquerade_bit: 14,
            localhost_node_ports: true,
            node_port_addresses: Vec::new(),
            min_sync_period: Duration::from_secs(1),
            sync_period: Duration::from_secs(30),
            healthz_address: Some(SocketAddr::from(([0, 0, 0, 0], 10256))),
            metrics_address: Some(SocketAddr::from(([127, 0, 0, 1], 10249))),
            families: vec![Family::V4],
        }
    }
}

/// Why the proxy could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program of the packet filter could not be run or refused its input.
    #[error("{program}: {reason}")]
    Command {
        /// Which one.
        program: &'static str,
        /// What it said.
        reason: String,
    },
    /// An address could not be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}
