//! Starting a cluster, step by step. Every step is skipped when it is done already, so running `up` twice, or after
//! a crash, brings back what is missing and leaves alone what runs.

use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::api::{Api, ListParams};

use crate::spec::{API_PORT, Paths, Spec, Storage};
use crate::{Error, down, images, launch, network, pki, preflight, process};

/// User name of the cluster DNS server: the service account that upstream's role `system:kube-dns` is bound to.
pub const DNS_USER: &str = "system:serviceaccount:kube-system:kube-dns";

/// How long the server may take to become ready.
const SERVER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long etcd may take to answer.
const ETCD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long containerd may take to answer in a node.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(30);
/// How long all nodes may take to become Ready.
const NODES_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(20);

/// Tells the user what is happening; called before each step and with the time it took.
pub type Progress<'a> = &'a mut dyn FnMut(&str, Option<Duration>);

/// Starts the cluster and waits until every node is Ready.
pub async fn up(paths: &Paths, spec: &Spec, progress: Progress<'_>) -> Result<(), Error> {
    spec.validate()?;
    if let Some(existing) = paths.load()?
        && (existing.storage != spec.storage || existing.port != spec.port || existing.nodes != spec.nodes)
        && down::recorded(paths).iter().any(|daemon| process::running(paths, daemon).is_some())
    {
        return Err(Error::Refused(format!(
            "cluster {:?} runs already with {} node(s) on port {}; stop it first: kubewright down --name {}",
            spec.name, existing.nodes, existing.port, spec.name
        )));
    }
    for daemon in down::recorded(paths) {
        process::settle(paths, &daemon);
    }
    let server = process::running(paths, "server");
    preflight::check(spec, server.is_some())?;
    paths.save(spec)?;
    step(progress, "certificates", || pki::ensure(paths, spec))?;
    step(progress, "network", || make_network(paths, spec))?;
    if spec.storage == Storage::Etcd && process::running(paths, "etcd").is_none() {
        step(progress, "etcd", || start_etcd(paths, spec))?;
    }
    let since = Since::of(paths, spec);
    // Nodes need about as long for their runtime as the server for its start: both go on at once.
    step(progress, "start server and nodes", || {
        if server.is_none() {
            start_server(paths, spec)?;
        }
        spec.node_names().try_for_each(|node| start_node(paths, spec, &node))
    })?;
    let started = Instant::now();
    let client = wait_for_server(paths).await?;
    progress("API server ready", Some(started.elapsed()));
    step(progress, "images", || {
        spec.node_names().try_for_each(|node| wait_for_runtime(paths, &node))?;
        images::ensure_pause(paths, spec)
    })?;
    let started = Instant::now();
    let routes = wait_for_nodes(paths, spec, &client, &since).await?;
    network::route_pods_from_control_plane(spec, &routes)?;
    progress("nodes ready", Some(started.elapsed()));
    Ok(())
}

fn step(progress: Progress<'_>, what: &str, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let started = Instant::now();
    work()?;
    progress(what, Some(started.elapsed()));
    Ok(())
}

fn make_network(paths: &Paths, spec: &Spec) -> Result<(), Error> {
    network::make_fabric(spec)?;
    network::make_machine(spec, "ctl")?;
    for node in spec.node_names() {
        if process::running(paths, &format!("{node}-init")).is_none() {
            down::clear_node(&spec.netns(&node), &launch::cgroup(spec, &node));
        }
        network::make_machine(spec, &node)?;
    }
    Ok(())
}

/// A command that runs a program in the control plane's network namespace, detached from this terminal.
fn in_control_plane(spec: &Spec, program: &str) -> Command {
    let mut command = Command::new("setsid");
    let handle = network::handle(&spec.netns("ctl"));
    command.arg("nsenter").arg(format!("--net={}", handle.display())).args(["--", program]);
    command
}

fn start_etcd(paths: &Paths, spec: &Spec) -> Result<(), Error> {
    let directory = paths.etcd();
    crate::make_directory(&directory)?;
    let address = Spec::control_plane_ip();
    let client = format!("http://{address}:2379");
    let mut command = in_control_plane(spec, "etcd");
    command
        .arg("--data-dir")
        .arg(&directory)
        .args(["--name", "kubewright", "--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args([
            "--listen-peer-urls",
            "http://127.0.0.1:2380",
            "--initial-advertise-peer-urls",
            "http://127.0.0.1:2380",
        ])
        .args([
            "--initial-cluster",
            "kubewright=http://127.0.0.1:2380",
            "--logger",
            "zap",
            "--log-level",
            "warn",
        ]);
    process::spawn(paths, "etcd", &mut command)?;
    let netns = spec.netns("ctl");
    wait_until("etcd", ETCD_TIMEOUT, &paths.log("etcd"), || listens(&netns, address, 2379))
}

/// Whether something listens at an address inside a network namespace, from the kernel's table of sockets.
fn listens(netns: &str, address: Ipv4Addr, port: u16) -> bool {
    let filter = format!("( sport = :{port} )");
    let listed = crate::command::run("ip", &["netns", "exec", netns, "ss", "-Hltn", &filter]);
    listed.is_ok_and(|text| text.contains(&format!("{address}:{port}")))
}

fn start_server(paths: &Paths, spec: &Spec) -> Result<(), Error> {
    let program = std::env::current_exe().map_err(Error::file("find", &paths.root))?;
    let mut command = Command::new("setsid");
    command.arg(program).arg("server").arg("--data-dir").arg(paths.root.parent().unwrap_or(&paths.root));
    command.args(["--name", &spec.name]);
    process::spawn(paths, "server", &mut command).map(drop)
}

fn start_node(paths: &Paths, spec: &Spec, node: &str) -> Result<(), Error> {
    if process::running(paths, &format!("{node}-init")).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe().map_err(Error::file("find", &paths.root))?;
    let data = paths.root.parent().unwrap_or(&paths.root);
    let mut command = Command::new(program);
    command
        .arg(launch::LAUNCH_COMMAND)
        .arg("--data-dir")
        .arg(data)
        .args(["--name", &spec.name, "--node", node]);
    crate::command::output(&mut command).map(drop)
}

async fn wait_for_server(paths: &Paths) -> Result<kube::Client, Error> {
    let spec = paths.load()?.ok_or_else(|| Error::Refused("the cluster's specification is gone".into()))?;
    let deadline = Instant::now() + SERVER_TIMEOUT;
    let client = client(paths).await?;
    loop {
        // Cheaper than a TLS handshake while nothing listens yet.
        if TcpStream::connect(("127.0.0.1", spec.port)).is_ok() {
            let request = http_get("/readyz");
            if client.request_text(request).await.is_ok_and(|text| text == "ok") {
                return Ok(client);
            }
        }
        if process::running(paths, "server").is_none() {
            return Err(Error::Refused(format!("the server ended; see {}", paths.log("server").display())));
        }
        if Instant::now() > deadline {
            return Err(timeout("API server", SERVER_TIMEOUT, &paths.log("server")));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn http_get(path: &str) -> http::Request<Vec<u8>> {
    let mut request = http::Request::new(Vec::new());
    *request.uri_mut() = http::Uri::try_from(path).unwrap_or_default();
    request
}

/// A client of the cluster as its administrator.
pub async fn client(paths: &Paths) -> Result<kube::Client, Error> {
    let path = paths.admin_kubeconfig();
    let read = kube::config::Kubeconfig::read_from(&path)
        .map_err(|e| Error::Api(format!("{}: {e}", path.display())))?;
    let config = kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default())
        .await
        .map_err(|e| Error::Api(e.to_string()))?;
    kube::Client::try_from(config).map_err(|e| Error::Api(e.to_string()))
}

fn wait_for_runtime(paths: &Paths, node: &str) -> Result<(), Error> {
    let log = paths.log(&format!("{node}-containerd"));
    wait_until(&format!("containerd on {node}"), RUNTIME_TIMEOUT, &log, || {
        images::in_node(paths, node, "ctr")
            .and_then(|mut ctr| crate::command::output(ctr.arg("version")))
            .is_ok()
    })
}

fn wait_until(
    what: &str,
    limit: Duration,
    log: &std::path::Path,
    mut done: impl FnMut() -> bool,
) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    while !done() {
        if Instant::now() > deadline {
            return Err(timeout(what, limit, log));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn timeout(what: &str, limit: Duration, log: &std::path::Path) -> Error {
    Error::Timeout { what: what.into(), seconds: limit.as_secs(), log: log.into() }
}

/// Which nodes this run starts, and when: what the store says of them is from an earlier life until they report.
struct Since {
    /// Seconds since 1970, as precise as heartbeats are.
    started: i64,
    fresh: Vec<String>,
}

impl Since {
    fn of(paths: &Paths, spec: &Spec) -> Self {
        let fresh = spec
            .node_names()
            .filter(|node| process::running(paths, &format!("{node}-init")).is_none())
            .collect();
        let started = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs() as i64);
        Self { started, fresh }
    }

    /// Whether a node is Ready by a report of its present life.
    fn is_ready(&self, node: &Node) -> bool {
        let fresh = node.metadata.name.as_ref().is_some_and(|name| self.fresh.contains(name));
        ready_condition(node).is_some_and(|condition| {
            let reported = condition.last_heartbeat_time.as_ref().map(|time| time.0.as_second());
            condition.status == "True" && (!fresh || reported >= Some(self.started))
        })
    }
}

/// Waits until every node is Ready; gives the routes to their pods as (range, node address).
async fn wait_for_nodes(
    paths: &Paths,
    spec: &Spec,
    client: &kube::Client,
    since: &Since,
) -> Result<Vec<(String, String)>, Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let deadline = Instant::now() + NODES_TIMEOUT;
    loop {
        let list = nodes.list(&ListParams::default()).await.map(|l| l.items).unwrap_or_default();
        let ready: Vec<&Node> = list.iter().filter(|node| since.is_ready(node)).collect();
        let unready =
            spec.node_names().find(|name| !ready.iter().any(|n| n.metadata.name.as_ref() == Some(name)));
        let Some(unready) = unready else { return Ok(ready.into_iter().filter_map(route).collect()) };
        if Instant::now() > deadline {
            return Err(timeout(
                &format!("node {unready}"),
                NODES_TIMEOUT,
                &paths.log(&format!("{unready}-agent")),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

pub(crate) fn is_ready(node: &Node) -> bool {
    ready_condition(node).is_some_and(|condition| condition.status == "True")
}

fn route(node: &Node) -> Option<(String, String)> {
    let cidr = node.spec.as_ref()?.pod_cidr.clone()?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let address = addresses.iter().find(|a| a.type_ == "InternalIP")?.address.clone();
    Some((cidr, address))
}

/// Address and port the server listens on inside the cluster's network.
pub fn server_address() -> (Ipv4Addr, u16) {
    (Spec::control_plane_ip(), API_PORT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_just_started_counts_by_its_own_report_only() {
        let node = |status: &str, heartbeat: &str| -> Node {
            serde_json::from_value(json!({
                "metadata": {"name": "node1"},
                "status": {"conditions": [{"type": "Ready", "status": status, "lastHeartbeatTime": heartbeat}]},
            }))
            .unwrap()
        };
        let started = 1_000_000_000; // 2001-09-09T01:46:40Z
        let fresh = Since { started, fresh: vec!["node1".into()] };
        let running = Since { started, fresh: vec!["node2".into()] };
        for (status, heartbeat, by_fresh, by_running) in [
            ("True", "2001-09-09T01:46:39Z", false, true),
            ("True", "2001-09-09T01:46:40Z", true, true),
            ("False", "2001-09-09T01:46:41Z", false, false),
        ] {
            let node = node(status, heartbeat);
            assert_eq!(
                (fresh.is_ready(&node), running.is_ready(&node)),
                (by_fresh, by_running),
                "{heartbeat}"
            );
        }
        assert!(!fresh.is_ready(&Node::default()));
    }
}
