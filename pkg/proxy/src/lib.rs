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

/// How traffic of local pods is told from other traffic (`--detect-local-mode`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalTraffic {
    /// Not at all: nothing is masqueraded for coming from elsewhere.
    Unknown,
    /// By source, in the ranges of all pods (`ClusterCIDR`, `--cluster-cidr`).
    ClusterCidrs(Vec<ipnet::IpNet>),
    /// By source, in the ranges of this node's pods (`NodeCIDR`), which its object names.
    NodeCidr,
    /// By the bridge it comes in through (`BridgeInterface`, `--pod-bridge-interface`).
    Bridge(String),
    /// By the first letters of the interface it comes in through (`InterfaceNamePrefix`,
    /// `--pod-interface-name-prefix`).
    InterfacePrefix(String),
}

/// Node addresses that node ports answer on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePorts {
    /// Those in these ranges; all when there are none.
    Ranges(Vec<ipnet::IpNet>),
    /// Those that the node's object names (`primary`).
    Primary,
}

/// How the proxy runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node's object (`--hostname-override`).
    pub node_name: String,
    /// How traffic of pods is told from traffic of others: what others send to a cluster address is masqueraded.
    pub local: LocalTraffic,
    /// Masquerade all traffic to cluster addresses (`--masquerade-all`).
    pub masquerade_all: bool,
    /// Bit of the packet mark that asks for masquerading (`--iptables-masquerade-bit`), 0 to 31.
    pub masquerade_bit: u8,
    /// Node ports answer on loopback too (`--iptables-localhost-nodeports`).
    pub localhost_node_ports: bool,
    /// Node addresses that node ports answer on (`--nodeport-addresses`).
    pub node_ports: NodePorts,
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
            local: LocalTraffic::Unknown,
            masquerade_all: false,
            masquerade_bit: 14,
            localhost_node_ports: true,
            node_ports: NodePorts::Ranges(Vec::new()),
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
