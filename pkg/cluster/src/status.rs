//! What of a cluster runs, how much memory it takes and whether it is healthy.

use serde::Serialize;

use crate::process;
use crate::spec::{Paths, Spec, Storage};

/// One process of the cluster.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// `server`, `etcd`, `containerd`, `agent`, `init`, `containerd-shim`.
    pub name: String,
    /// Node it runs on, `control-plane` for the server.
    pub machine: String,
    /// Number of the process on this machine; absent when it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// `ok`, `not running`, or what is wrong.
    pub health: String,
}

/// The state of a cluster.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What was asked for.
    pub cluster: Spec,
    /// Everything that should run.
    pub components: Vec<Component>,
    /// All of it runs and is healthy.
    pub healthy: bool,
}

/// Looks at every process and asks the API server.
pub async fn status(paths: &Paths, spec: Spec) -> Status {
    let mut components = vec![server(paths).await];
    if spec.storage == Storage::Etcd {
        components.push(daemon(paths, "etcd", "control-plane", "etcd"));
    }
    let ready = ready_nodes(paths).await;
    for node in spec.node_names() {
        components.extend(node_components(paths, &node, ready.as_deref()));
    }
    let healthy = components.iter().all(|c| c.health == "ok");
    Status { cluster: spec, components, healthy }
}

fn daemon(paths: &Paths, daemon: &str, machine: &str, name: &str) -> Component {
    let record = process::running(paths, daemon);
    Component {
        name: name.into(),
        machine: machine.into(),
        pid: record.map(|r| r.pid),
        resident_bytes: record.map_or(0, |r| r.resident_bytes()),
        health: if record.is_some() { "ok".into() } else { "not running".into() },
    }
}

async fn server(paths: &Paths) -> Component {
    let mut component = daemon(paths, "server", "control-plane", "server");
    if component.pid.is_some() {
        component.health = match readyz(paths).await {
            Ok(()) => "ok".into(),
            Err(reason) => format!("not ready: {reason}"),
        };
    }
    component
}

async fn readyz(paths: &Paths) -> Result<(), String> {
    let client = crate::up::client(paths).await.map_err(|e| e.to_string())?;
    let request = http::Request::get("/readyz").body(Vec::new()).map_err(|e| e.to_string())?;
    let answer = tokio::time::timeout(std::time::Duration::from_secs(5), client.request_text(request)).await;
    answer.map_err(|_| "no answer within 5 s".to_owned())?.map(drop).map_err(|e| e.to_string())
}

/// Names of the nodes that are Ready; `None` when the server does not answer.
async fn ready_nodes(paths: &Paths) -> Option<Vec<String>> {
    let client = crate::up::client(paths).await.ok()?;
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client);
    let parameters = kube::api::ListParams::default();
    let list =
        tokio::time::timeout(std::time::Duration::from_secs(5), nodes.list(&parameters)).await.ok()?.ok()?;
    Some(list.items.into_iter().filter(crate::up::is_ready).filter_map(|n| n.metadata.name).collect())
}

fn node_components(paths: &Paths, node: &str, ready: Option<&[String]>) -> Vec<Component> {
    let init = daemon(paths, &format!("{node}-init"), node, "init");
    let Some(init_pid) = init.pid else { return vec![init] };
    let processes = process::in_namespace(init_pid);
    let mut components = vec![init];
    for name in ["containerd", "agent"] {
        let pid = processes.iter().find(|(_, line)| is_program(line, name)).map(|(pid, _)| *pid);
        let health = match (pid, name, ready) {
            (None, ..) => "not running".to_owned(),
            (Some(_), "agent", Some(ready)) if !ready.iter().any(|n| n == node) => {
                "node is not Ready".to_owned()
            }
            _ => "ok".to_owned(),
        };
        let resident_bytes = pid.map_or(0, process::resident_bytes);
        components.push(Component { name: name.into(), machine: node.into(), pid, resident_bytes, health });
    }
    for (pid, _) in processes.iter().filter(|(_, line)| is_program(line, "containerd-shim-runc-v2")) {
        components.push(Component {
            name: "containerd-shim".into(),
            machine: node.into(),
            pid: Some(*pid),
            resident_bytes: process::resident_bytes(*pid),
            health: "ok".into(),
        });
    }
    components
}

/// Whether a command line runs a program, or this one with a subcommand.
fn is_program(line: &[String], name: &str) -> bool {
    let program = line.first().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
    program == name || (line.get(1).is_some_and(|s| s == name) && matches!(program, "exe" | "kubewright"))
}
