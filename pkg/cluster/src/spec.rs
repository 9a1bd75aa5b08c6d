//! What a cluster is made of, and where on this machine its parts are.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, write_file};

/// Most nodes of one cluster: their addresses and pod ranges end in one byte.
pub const MAX_NODES: u8 = 200;
/// Range of service addresses.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// Address of the `kubernetes` Service: the first of the range.
pub const KUBERNETES_SERVICE_IP: &str = "10.96.0.1";
/// Address of cluster DNS.
pub const DNS_SERVICE_IP: &str = "10.96.0.10";
/// Range of pod addresses; every node gets a /24 of it.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// Suffix of names in cluster DNS.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Port of the API server inside the cluster's network.
pub const API_PORT: u16 = 6443;
/// First three bytes of the addresses of nodes. The network exists only inside the cluster's namespaces, so clusters
/// side by side do not mind each other.
const NODE_NETWORK: [u8; 3] = [172, 30, 0];

/// Where the API server keeps its objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Storage {
    /// In the API server's own process and directory.
    Embedded,
    /// In an etcd that `up` starts and `down` stops.
    Etcd,
    /// In an etcd that runs already, reachable from the control plane's network namespace.
    External(Vec<String>),
}

/// A cluster as asked for. Kept in its directory, so that later commands need only the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Name of the cluster; part of the names of namespaces and cgroups.
    pub name: String,
    /// Number of nodes.
    pub nodes: u8,
    /// Port of the API server on this machine's loopback.
    pub port: u16,
    /// Where objects are kept.
    pub storage: Storage,
    /// Verbosity of the components' logs.
    pub verbosity: u8,
}

/// The files of a cluster.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Everything of the cluster.
    pub root: PathBuf,
}

impl Spec {
    /// Checks what a user typed.
    pub fn validate(&self) -> Result<(), Error> {
        let name_ok = (1..=12).contains(&self.name.len())
            && self.name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            && self.name.starts_with(|c: char| c.is_ascii_lowercase());
        if !name_ok {
            return Err(Error::Refused(format!(
                "invalid cluster name {:?}: use 1 to 12 lower case letters and digits, a letter first",
                self.name
            )));
        }
        if self.nodes == 0 || self.nodes > MAX_NODES {
            return Err(Error::Refused(format!(
                "invalid number of nodes {}: use 1 to {MAX_NODES}",
                self.nodes
            )));
        }
        if let Storage::External(servers) = &self.storage
            && servers.is_empty()
        {
            return Err(Error::Refused("no etcd servers given".into()));
        }
        Ok(())
    }

    /// Names of the nodes, in order.
    pub fn node_names(&self) -> impl Iterator<Item = String> {
        (1..=self.nodes).map(|i| format!("node{i}"))
    }

    /// Address of the control plane in the cluster's network.
    pub fn control_plane_ip() -> Ipv4Addr {
        node_network(2)
    }

    /// Address of the bridge, which forwards nothing.
    pub fn bridge_ip() -> Ipv4Addr {
        node_network(1)
    }

    /// Address of a node, counted from 1.
    pub fn node_ip(index: u8) -> Ipv4Addr {
        node_network(10 + index)
    }

    /// Number of a node name made by [`Spec::node_names`].
    pub fn node_index(name: &str) -> Option<u8> {
        name.strip_prefix("node")?.parse().ok()
    }

    /// Name of a network namespace of this cluster: `fabric`, `ctl` or a node's name.
    pub fn netns(&self, part: &str) -> String {
        format!("kw-{}-{part}", self.name)
    }

    /// URL of the API server inside the cluster's network.
    pub fn internal_url() -> String {
        format!("https://{}:{API_PORT}", Self::control_plane_ip())
    }

    /// URL of the API server on this machine.
    pub fn local_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

fn node_network(last: u8) -> Ipv4Addr {
    let [a, b, c] = NODE_NETWORK;
    Ipv4Addr::new(a, b, c, last)
}

impl Paths {
    /// The files of the cluster `name` below a data directory.
    pub fn new(data: &Path, name: &str) -> Self {
        Self { root: data.join(name) }
    }

    /// The cluster's specification.
    pub fn spec(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// Certificates, keys and kubeconfigs.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// Kubeconfig for users of this machine.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.root.join("admin.conf")
    }

    /// Log of a daemon: `server`, `etcd`, or `NODE-containerd` and the like.
    pub fn log(&self, daemon: &str) -> PathBuf {
        self.root.join("log").join(format!("{daemon}.log"))
    }

    /// Where a running daemon's process is recorded.
    pub fn pid(&self, daemon: &str) -> PathBuf {
        self.root.join("run").join(format!("{daemon}.json"))
    }

    /// Directory of the embedded store.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Directory of an etcd started by `up`.
    pub fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    /// Files of a node; its private parts of the file system are below `disk`.
    pub fn node(&self, name: &str) -> PathBuf {
        self.root.join("nodes").join(name)
    }

    /// Reads the specification; `None` when the cluster was never made.
    pub fn load(&self) -> Result<Option<Spec>, Error> {
        let path = self.spec();
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| {
                Error::Refused(format!(
                    "{} is damaged ({e}); remove it with `kubewright down --purge`",
                    path.display()
                ))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("read", &path)(error)),
        }
    }

    /// Keeps the specification.
    pub fn save(&self, spec: &Spec) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(spec).map_err(|e| Error::Refused(e.to_string()))?;
        write_file(&self.spec(), text, 0o644)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, nodes: u8) -> Spec {
        Spec { name: name.into(), nodes, port: 6443, storage: Storage::Embedded, verbosity: 0 }
    }

    #[test]
    fn names_and_sizes_are_checked() {
        assert!(spec("kubewright", 1).validate().is_ok());
        for (name, nodes) in
            [("", 1), ("Upper", 1), ("1st", 1), ("much-too-long", 1), ("a/b", 1), ("ok", 0), ("ok", 201)]
        {
            assert!(spec(name, nodes).validate().is_err(), "{name} {nodes}");
        }
    }

    #[test]
    fn addresses_do_not_collide() {
        let mut all: Vec<_> = (1..=MAX_NODES).map(Spec::node_ip).collect();
        all.extend([Spec::control_plane_ip(), Spec::bridge_ip()]);
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(Spec::node_index("node12"), Some(12));
    }
}
