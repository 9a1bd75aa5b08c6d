//! A kubelet's port that says what it was asked, to see what reaches a node.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, ensure};
use component::http::{Request, Response, text};
use component::pki::self_signed;
use component::serving::{Handler, Limits, serve};
use component::tls::{ServerCertificate, server_config};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::pods;
use crate::client::{Client, Patch};

/// Name of the node.
const NODE: &str = "walk-echo";

/// The running port; ended by [`Echo::stop`].
pub(super) struct Echo {
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

fn said(request: &Request) -> String {
    format!("{} {}", request.method(), request.uri().path_and_query().map_or("/", |p| p.as_str()))
}

fn answer(request: Request) -> BoxFuture<'static, Response> {
    std::future::ready(text(http::StatusCode::OK, said(&request))).boxed()
}

impl Echo {
    /// Listens, and makes a node that says so, with a pod on it.
    pub(super) async fn start(client: &Client) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let key = self_signed("kubelet", &["127.0.0.1".into()])?;
        let tls = server_config(ServerCertificate::fixed(key.cert.as_bytes(), key.key.as_bytes())?, None)?;
        let shutdown = CancellationToken::new();
        let handler: std::sync::Arc<dyn Handler> = std::sync::Arc::new(answer);
        let served = tokio::spawn(serve(listener, Some(tls), handler, Limits::default(), shutdown.clone()));
        let echo = Self { shutdown, served };
        echo.register(client, port).await?;
        Ok(echo)
    }

    async fn register(&self, client: &Client, port: u16) -> anyhow::Result<()> {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
        client.post("/api/v1/nodes", &node).await?.expect(201)?;
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": SocketAddr::from((Ipv4Addr::LOCALHOST, port)).ip()}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }});
        client.patch(&format!("/api/v1/nodes/{NODE}/status"), Patch::Merge, &status).await?.expect(200)?;
        pods::make(client, "spoken", &["main"]).await?;
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "spoken"},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        });
        client.post(&format!("{}/binding", pods::path("spoken")), &binding).await?.expect(201)?;
        Ok(())
    }

    /// Ends the port.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.served.await.context("the kubelet's port")
    }
}

/// A log is what the node says, asked for with the options given.
pub(super) async fn log(client: &Client) -> anyhow::Result<()> {
    let path = format!("{}/log?tailLines=3&timestamps=true&limitBytes=500", pods::path("spoken"));
    let answer = client.get(&path).await?;
    answer.expect(200)?;
    let log = String::from_utf8_lossy(&answer.bytes).into_owned();
    let wanted = format!("GET /containerLogs/{}/spoken/main?", super::NAMESPACE);
    let options = log.strip_prefix(&wanted).with_context(|| format!("the node was asked {log:?}"))?;
    let options: Vec<_> = options.split('&').collect();
    for option in ["tailLines=3", "timestamps=true", "limitBytes=500"] {
        ensure!(options.contains(&option), "{option} is not in {options:?}");
    }
    Ok(())
}

/// What goes through a node's proxy reaches it as it is.
pub(super) async fn proxy(client: &Client, method: &str) -> anyhow::Result<()> {
    let path = format!("/api/v1/nodes/{NODE}/proxy/some/where?a=b&c=d");
    let answer = client.send(method, &path, &[], Vec::new()).await?;
    answer.expect(200)?;
    let found = String::from_utf8_lossy(&answer.bytes).into_owned();
    let wanted = if method == "HEAD" { String::new() } else { format!("{method} /some/where?a=b&c=d") };
    ensure!(found == wanted, "the node was asked {found:?} instead of {wanted:?}");
    Ok(())
}

/// Commands need a connection that is upgraded.
pub(super) async fn plain_exec(client: &Client) -> anyhow::Result<()> {
    let path = format!("{}/exec?command=ls&stdout=true", pods::path("spoken"));
    client.get(&path).await?.refused_with(400, "BadRequest", "Upgrade request required")
}
