//! Operations that connect to a node or a pod. There are none here but a port that stands for a kubelet's, so what is
//! checked is what reaches that, and how the others refuse.

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{NAMESPACE, kubelet, pods};
use crate::client::Client;
use crate::report::Report;

/// Methods that proxies serve.
const METHODS: [&str; 7] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH"];
const PODS: &str = "/api/v1/namespaces/{namespace}/pods/{name}";
const SERVICES: &str = "/api/v1/namespaces/{namespace}/services/{name}";

/// The operations whose effect needs a node.
pub(crate) fn need_a_node(path: &str) -> bool {
    ["exec", "proxy", "proxy/{path}"].iter().any(|end| path.ends_with(&format!("{{name}}/{end}")))
}

pub(super) async fn walk(client: &Client, report: &Report) {
    report.note("GET", &format!("{PODS}/log"), log(client).await);
    if let Err(error) = pods::make(client, "entered", &["main"]).await {
        return report.note("GET", &format!("{PODS}/exec"), Err(error));
    }
    report.note("GET", &format!("{PODS}/log"), nodes(client, report).await);
    for (method, end, query) in [
        ("GET", "exec", "command=ls&stdout=true"),
        ("POST", "exec", "command=ls&stdout=true"),
        ("GET", "attach", "stdout=true"),
        ("POST", "attach", "stdout=true"),
        ("GET", "portforward", "ports=80"),
        ("POST", "portforward", "ports=80"),
    ] {
        report.note(method, &format!("{PODS}/{end}"), stream(client, method, end, query).await);
    }
    let nowhere = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "walk-nowhere"}});
    report.note("POST", "/api/v1/nodes", client.post("/api/v1/nodes", &nowhere).await.map(drop));
    let service = service(client).await;
    report.note("POST", SERVICES, service);
    for method in METHODS {
        for (end, at) in [("proxy", "proxy"), ("proxy/{path}", "proxy/some/where?a=b")] {
            report.note(method, &format!("{PODS}/{end}"), pod_proxy(client, method, at).await);
            report.note(method, &format!("{SERVICES}/{end}"), service_proxy(client, method, at).await);
            let nodes = format!("/api/v1/nodes/{{name}}/{end}");
            report.note(method, &nodes, node_proxy(client, method, at).await);
        }
    }
}

/// What reaches a node.
async fn nodes(client: &Client, report: &Report) -> anyhow::Result<()> {
    let echo = kubelet::Echo::start(client).await?;
    report.note("GET", &format!("{PODS}/log"), kubelet::log(client).await);
    report.note("GET", &format!("{PODS}/exec"), kubelet::plain_exec(client).await);
    for method in METHODS {
        report.note(method, "/api/v1/nodes/{name}/proxy/{path}", kubelet::proxy(client, method).await);
    }
    echo.stop().await
}

async fn log(client: &Client) -> anyhow::Result<()> {
    pods::make(client, "logged", &["one", "two"]).await?;
    let path = format!("{}/log", pods::path("logged"));
    client.get(&path).await?.refused_with(
        400,
        "BadRequest",
        "a container name must be specified for pod logged, choose one of: [one two]",
    )?;
    let no_container = client.get(&format!("{path}?container=three")).await?;
    no_container.refused_with(400, "BadRequest", "container three is not valid for pod logged")?;
    let negative = client.get(&format!("{path}?container=one&tailLines=-1")).await?;
    negative.refused(422, "Invalid").context("tailLines=-1")?;
    client.get(&format!("{}/log", pods::path("none"))).await?.refused(404, "NotFound")?;
    // A pod without a node has nothing to say yet.
    let empty = client.get(&format!("{path}?container=one")).await?;
    ensure!(empty.bytes.is_empty(), "logs of a pod without node: {}", empty.json());
    empty.expect(204)?;
    Ok(())
}

/// Commands, attachments and tunnels of a pod that is nowhere yet.
async fn stream(client: &Client, method: &str, end: &str, query: &str) -> anyhow::Result<()> {
    let at = |pod: &str| format!("{}/{end}?{query}", pods::path(pod));
    let nowhere = client.send(method, &at("entered"), &[], Vec::new()).await?;
    nowhere.refused_with(400, "BadRequest", "pod entered does not have a host assigned")?;
    client.send(method, &at("none"), &[], Vec::new()).await?.refused(404, "NotFound")?;
    if end != "portforward" {
        let other =
            client.send(method, &format!("{}&container=other", at("entered")), &[], Vec::new()).await?;
        other.refused_with(400, "BadRequest", "container other is not valid for pod entered")?;
    }
    Ok(())
}

/// A node that says nowhere where it is.
async fn node_proxy(client: &Client, method: &str, at: &str) -> anyhow::Result<()> {
    let absent = client.send(method, &format!("/api/v1/nodes/none/{at}"), &[], Vec::new()).await?;
    ensure!(absent.code == 404, "without a node: {}", absent.code);
    let refused = client.send(method, &format!("/api/v1/nodes/walk-nowhere/{at}"), &[], Vec::new()).await?;
    if method == "HEAD" {
        ensure!(refused.code == 500, "{}", refused.code);
        return Ok(());
    }
    refused.refused_with(500, "InternalError", "no preferred addresses found; known addresses: []")
}

async fn pod_proxy(client: &Client, method: &str, at: &str) -> anyhow::Result<()> {
    let absent = client.send(method, &format!("{}/{at}", pods::path("none")), &[], Vec::new()).await?;
    ensure!(absent.code == 404, "without a pod: {}", absent.code);
    let path = format!("{}/{at}", pods::path("entered"));
    let refused = client.send(method, &path, &[], Vec::new()).await?;
    if method == "HEAD" {
        ensure!(refused.code == 400, "{}", refused.code);
        return Ok(());
    }
    refused.refused_with(400, "BadRequest", "address not allowed")
}

/// A service without endpoints.
async fn service(client: &Client) -> anyhow::Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "empty"},
        "spec": {"ports": [{"name": "web", "port": 80}]},
    });
    client.post(&format!("/api/v1/namespaces/{NAMESPACE}/services"), &service).await?.expect(201)?;
    Ok(())
}

async fn service_proxy(client: &Client, method: &str, at: &str) -> anyhow::Result<()> {
    let services = format!("/api/v1/namespaces/{NAMESPACE}/services");
    let absent = client.send(method, &format!("{services}/none/{at}"), &[], Vec::new()).await?;
    ensure!(absent.code == 404, "without a service: {}", absent.code);
    let path = format!("{services}/empty:web/{at}");
    let refused = client.send(method, &path, &[], Vec::new()).await?;
    if method == "HEAD" {
        ensure!(refused.code == 503, "{}", refused.code);
        return Ok(());
    }
    refused.refused_with(503, "ServiceUnavailable", "no endpoints available for service \"empty:web\"")
}
