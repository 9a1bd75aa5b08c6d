//! The pod network of a node: CNI configuration and routes to the other nodes' pods.
//!
//! Nodes that share a link need no overlay: each gets a range of pod addresses (`spec.podCIDR`), a bridge for its own
//! pods (CNI plug-ins `bridge`, `host-local` and `portmap`), and a route to every other node's range through that node's
//! address. [`plan`] decides, [`run`] acts. A packet for a pod range that no node has is dropped here, not sent to a
//! gateway.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use client::InformerFactory;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Routing protocol number that marks our routes, so that no other route is ever touched (rtnetlink(7): numbers above
/// RTPROT_STATIC are free for use by daemons).
const ROUTE_PROTOCOL: &str = "120";
/// How long the first list of nodes may take before it is reported and waited for again.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);
/// Routes are checked against the plan this often, should something else have removed one.
const RESYNC: Duration = Duration::from_secs(300);
/// Pause before a failed update is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Name of the device that drops packets: a bridge without ports, as bridges are what CNI needs anyway.
const SINK: &str = "kw-sink";
/// Name of the CNI configuration; ours comes first if there are several.
const CONFIGURATION: &str = "10-kubewright.conflist";

/// Why the pod network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CNI configuration could not be written.
    #[error("cannot write {path}: {source}")]
    Configuration {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// `ip` failed.
    #[error("ip {arguments}: {reason}")]
    Route {
        /// What it was asked.
        arguments: String,
        /// What it said.
        reason: String,
    },
}

/// What to set up where.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node's object.
    pub node_name: String,
    /// Range of all pod addresses.
    pub cluster_cidr: String,
    /// Range of service addresses. What the service proxy does not translate ends on this node.
    pub service_cidr: String,
    /// Directory of CNI configurations.
    pub cni_directory: PathBuf,
    /// Largest packet of pod interfaces in bytes.
    pub mtu: u32,
}

/// What the network of this node should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Text of the CNI configuration; `None` until this node has a range, and then the node is not ready for pods.
    pub configuration: Option<String>,
    /// Ranges and where their packets go.
    pub routes: BTreeMap<String, Route>,
}

/// Where packets of a range go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To the node with this address.
    Via(String),
    /// Nowhere: the sender is told.
    Unreachable,
    /// Into a device that drops them. The node's own packets need a route before they are translated, so a range of
    /// service addresses cannot be unreachable.
    Sink,
}

impl Route {
    /// The route in the words of `ip route`, as (type before the range, rest after it).
    fn words(&self) -> (&'static str, String) {
        match self {
            Self::Via(address) => ("", format!(" via {address}")),
            Self::Unreachable => ("unreachable ", String::new()),
            Self::Sink => ("", format!(" dev {SINK}")),
        }
    }
}

/// Decides from the nodes.
pub fn plan<'a>(config: &Config, nodes: impl IntoIterator<Item = &'a Node>) -> Plan {
    let mut plan = Plan::default();
    for node in nodes {
        let Some(range) = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()) else { continue };
        if node.metadata.name.as_deref() == Some(&config.node_name) {
            plan.configuration = Some(configuration(config, range));
            // More specific than the bridge's own route, it would win; the whole cluster's range is less specific.
            plan.routes.insert(config.cluster_cidr.clone(), Route::Unreachable);
            plan.routes.insert(config.service_cidr.clone(), Route::Sink);
        } else if let Some(address) = internal_ip(node) {
            plan.routes.insert(range.to_owned(), Route::Via(address.to_owned()));
        }
    }
    plan
}

fn internal_ip(node: &Node) -> Option<&str> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|a| a.type_ == "InternalIP").map(|a| a.address.as_str())
}

fn configuration(config: &Config, range: &str) -> String {
    let list = json!({
        "cniVersion": "0.4.0",
        "name": "kubewright",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
                // A pod may reach itself through a Service.
                "hairpinMode": true, "mtu": config.mtu,
                "ipam": {
                    "type": "host-local", "ranges": [[{"subnet": range}]], "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    });
    format!("{list:#}\n")
}

/// Follows the nodes until shutdown.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let factory = InformerFactory::new(client);
    let nodes = factory.informer::<Node>();
    let (wake, mut woken) = watch::channel(());
    nodes.on_event(move |_| wake.send_modify(|()| {}));
    factory.start(shutdown.clone());
    while !shutdown.is_cancelled() {
        match factory.wait_for_sync(SYNC_TIMEOUT).await {
            Ok(()) => break,
            Err(error) => tracing::warn!(%error, "waiting for the list of nodes"),
        }
    }
    let store = nodes.store();
    let mut done = Plan::default();
    while !shutdown.is_cancelled() {
        let wanted = plan(&config, store.list().iter().map(AsRef::as_ref));
        let mut pause = RESYNC;
        if wanted != done {
            match act(&config, &wanted).await {
                Ok(()) => {
                    tracing::info!(routes = wanted.routes.len(), "pod network set up");
                    done = wanted;
                }
                Err(error) => {
                    tracing::warn!(%error, "pod network not set up, trying again");
                    pause = RETRY;
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = woken.changed() => if changed.is_err() { break },
            // Forget what was done: routes are set again, whatever became of them.
            () = tokio::time::sleep(pause) => done = Plan::default(),
        }
    }
    factory.stopped().await;
    Ok(())
}

async fn act(config: &Config, plan: &Plan) -> Result<(), Error> {
    make_sink().await?;
    let listed = ip(&["-4", "route", "show", "proto", ROUTE_PROTOCOL], "").await?;
    ip(&["-batch", "-"], &batch(plan, &listed)).await?;
    if let Some(text) = &plan.configuration {
        write_if_changed(&config.cni_directory.join(CONFIGURATION), text)?;
    }
    Ok(())
}

/// Makes the device that drops packets, once.
async fn make_sink() -> Result<(), Error> {
    if ip(&["link", "show", SINK], "").await.is_err() {
        ip(&["link", "add", SINK, "type", "bridge"], "").await?;
    }
    ip(&["link", "set", SINK, "up"], "").await.map(drop)
}

/// Commands that turn the routes listed into those planned.
fn batch(plan: &Plan, listed: &str) -> String {
    let mut commands = String::new();
    for line in listed.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        let range = if first == "unreachable" { words.next().unwrap_or_default() } else { first };
        if !range.is_empty() && !plan.routes.contains_key(range) {
            let kind = if first == "unreachable" { "unreachable " } else { "" };
            commands.push_str(&format!("route del {kind}{range} proto {ROUTE_PROTOCOL}\n"));
        }
    }
    for (range, route) in &plan.routes {
        let (kind, rest) = route.words();
        commands.push_str(&format!("route replace {kind}{range}{rest} proto {ROUTE_PROTOCOL}\n"));
    }
    commands
}

/// Runs `ip` with this input.
async fn ip(arguments: &[&str], input: &str) -> Result<String, Error> {
    let failed = |reason: String| Error::Route { arguments: arguments.join(" "), reason };
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.map_err(|e| failed(e.to_string()))?;
    }
    let out = child.wait_with_output().await.map_err(|e| failed(e.to_string()))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(failed(String::from_utf8_lossy(&out.stderr).trim().to_owned()))
    }
}

/// Replaces a file in one step, and only when its content differs: the runtime watches the directory.
fn write_if_changed(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |source| Error::Configuration { path: path.to_owned(), source };
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, range: Option<&str>, address: &str) -> Node {
        let value = json!({
            "metadata": {"name": name}, "spec": {"podCIDR": range},
            "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]},
        });
        serde_json::from_value(value).expect("a node")
    }

    fn config() -> Config {
        Config {
            node_name: "node1".into(),
            cluster_cidr: "10.244.0.0/16".into(),
            service_cidr: "10.96.0.0/16".into(),
            cni_directory: "/etc/cni/net.d".into(),
            mtu: 1500,
        }
    }

    #[test]
    fn a_node_routes_to_the_others_and_drops_the_rest() {
        let nodes = [
            node("node1", Some("10.244.1.0/24"), "172.30.0.11"),
            node("node2", Some("10.244.2.0/24"), "172.30.0.12"),
            node("node3", None, "172.30.0.13"),
        ];
        let plan = plan(&config(), &nodes);
        let routes: Vec<_> =
            plan.routes.iter().map(|(range, route)| (range.as_str(), route.clone())).collect();
        assert_eq!(
            routes,
            [
                ("10.244.0.0/16", Route::Unreachable),
                ("10.244.2.0/24", Route::Via("172.30.0.12".into())),
                ("10.96.0.0/16", Route::Sink)
            ]
        );
        assert!(plan.configuration.is_some_and(|text| text.contains(r#""subnet": "10.244.1.0/24""#)));
    }

    #[test]
    fn a_node_without_a_range_takes_no_pods() {
        assert_eq!(plan(&config(), &[node("node1", None, "172.30.0.11")]), Plan::default());
    }

    #[test]
    fn routes_that_are_not_planned_go() {
        let nodes = [
            node("node1", Some("10.244.1.0/24"), "1.1.1.1"),
            node("node2", Some("10.244.2.0/24"), "172.30.0.12"),
        ];
        let listed = "unreachable 10.244.0.0/16 dev lo scope link\n10.244.9.0/24 via 172.30.0.19 dev eth0\n";
        assert_eq!(
            batch(&plan(&config(), &nodes), listed),
            "route del 10.244.9.0/24 proto 120\n\
             route replace unreachable 10.244.0.0/16 proto 120\n\
             route replace 10.244.2.0/24 via 172.30.0.12 proto 120\n\
             route replace 10.96.0.0/16 dev kw-sink proto 120\n"
        );
    }
}
