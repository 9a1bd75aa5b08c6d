//! Operations that connect to a node or a pod. There is none here, so what is checked is how they refuse without.

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{NAMESPACE, pods};
use crate::client::Client;
use crate::report::Report;

/// Methods that proxies serve.
const METHODS: [&str; 7] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH"];
const PODS: &str = "/api/v1/namespaces/{namespace}/pods/{name}";
const SERVICES: &str = "/api/v1/namespaces/{namespace}/services/{name}";

/// The operations whose effect needs a node.
pub(crate) fn need_a_node(path: &str) -> bool {
    ["exec", "log", "proxy", "proxy/{path}"].iter().any(|end| path.ends_with(&format!("{{name}}/{end}")))
}

pub(super) async fn walk(client: &Client, report: &Report) {
    report.note("GET", &format!("{PODS}/log"), log(client).await);
    report.note("GET", &format!("{PODS}/exec"), exec(client).await);
    let service = service(client).await;
    report.note("POST", SERVICES, service);
    for method in METHODS {
        for (end, at) in [("proxy", "proxy"), ("proxy/{path}", "proxy/some/where?a=b")] {
            report.note(method, &format!("{PODS}/{end}"), pod_proxy(client, method, at).await);
            report.note(method, &format!("{SERVICES}/{end}"), service_proxy(client, method, at).await);
        }
    }
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

async fn exec(client: &Client) -> anyhow::Result<()> {
    pods::make(client, "entered", &["main"]).await?;
    let path = format!("{}/exec?command=ls&stdout=true", pods::path("entered"));
    client.get(&path).await?.refused_with(400, "BadRequest", "pod entered does not have a host assigned")?;
    let none = format!("{}/exec?command=ls&stdout=true", pods::path("none"));
    client.get(&none).await?.refused(404, "NotFound")?;
    let other = client.get(&format!("{path}&container=other")).await?;
    other.refused_with(400, "BadRequest", "container other is not valid for pod entered")
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
