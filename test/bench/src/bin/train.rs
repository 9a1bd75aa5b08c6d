//! The load that an optimised build learns from: `train KUBE_APISERVER` starts the server on the embedded store and on etcd
//! and asks of it what controllers, kubelets and people ask, most often what is asked most often. It measures nothing.
//! `hack/dist.sh` runs it with a server that counts which way its code goes.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bench::pod;
use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use integration::etcd::Etcd;
use integration::servers::{ApiServers, Door, Http2};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Pods that are made, changed and deleted, on each store.
const PODS: usize = 3000;
/// Requests under way at once, on the connections they share.
const REQUESTS: usize = 16;
const CONNECTIONS: usize = 8;
/// Watches of either encoding, ten to a connection.
const WATCHES: usize = 100;
/// Changes that watches are told of.
const CHANGES: usize = 500;
/// The reason that the last of them gives.
const LAST: &str = "TheLastOne";
/// Clients that come at once, each over a connection of its own.
const INFORMERS: usize = 20;
/// Longest wait for what a watch still has to say.
const PATIENCE: Duration = Duration::from_secs(30);

const NAMESPACE: &str = "/api/v1/namespaces/default";
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const NO_BODY: &[(&str, &str)] = &[];
const BODY: &[(&str, &str)] = &[("content-type", JSON)];
const STRATEGIC: &[(&str, &str)] = &[("content-type", "application/strategic-merge-patch+json")];
const JSON_PATCH: &[(&str, &str)] = &[("content-type", "application/json-patch+json")];
const APPLY: &[(&str, &str)] = &[("content-type", "application/apply-patch+yaml")];

/// A request.
struct Ask {
    method: &'static str,
    path: String,
    headers: &'static [(&'static str, &'static str)],
    body: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Some(program) = std::env::args().nth(1) else { bail!("usage: train KUBE_APISERVER") };
    let servers = ApiServers::new(&program)?;
    let store = servers.file("store");
    run(&servers, format!("--storage-dir={}", store.display())).await.context("on the embedded store")?;
    let etcd = Etcd::start(&[]).await?;
    run(&servers, format!("--etcd-servers={}", etcd.url())).await.context("on etcd")
}

/// The whole load on a store. The server is asked to end, as it writes down what it has counted then.
async fn run(servers: &ApiServers, store: String) -> anyhow::Result<()> {
    let server = servers.start(&[store]).await?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(server.door().connect_http2().await?);
    }
    let load = Load { door: server.door(), connections };
    load.create().await?;
    load.read().await?;
    load.change().await?;
    load.watch(JSON).await?;
    load.watch(PROTOBUF).await?;
    load.inform(JSON).await?;
    load.inform(PROTOBUF).await?;
    load.delete().await?;
    ensure!(server.process.stop().await?, "the server did not end well");
    Ok(())
}

struct Load {
    door: Door,
    connections: Vec<Http2>,
}

fn pod_path(i: usize) -> String {
    format!("{NAMESPACE}/pods/pod-{i}")
}

fn config_map(name: String, bytes: usize) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
           "data": {"content": "c".repeat(bytes), "key": "value"}})
    .to_string()
}

/// What a path answers, as it comes.
async fn get(connection: &mut Http2, path: &str, encoding: &str) -> anyhow::Result<Incoming> {
    let answer = connection.send("GET", path, &[("accept", encoding)], "").await?;
    ensure!(answer.status().is_success(), "{path}: {}", answer.status());
    Ok(answer.into_body())
}

impl Load {
    async fn send(&self, i: usize, ask: Ask) -> anyhow::Result<()> {
        let mut connection = self.connections[i % self.connections.len()].clone();
        let Ask { method, path, headers, body } = ask;
        let answer = connection.send(method, &path, headers, &body).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{method} {path}: {status} {}", String::from_utf8_lossy(&bytes));
        Ok(())
    }

    async fn each(&self, count: usize, ask: impl Fn(usize) -> Ask) -> anyhow::Result<()> {
        let answers = futures::stream::iter((0..count).map(|i| self.send(i, ask(i))));
        answers.buffer_unordered(REQUESTS).try_collect().await
    }

    async fn create(&self) -> anyhow::Result<()> {
        let post = |path: &str, body: String| Ask {
            method: "POST",
            path: format!("{NAMESPACE}/{path}"),
            headers: BODY,
            body,
        };
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        self.send(0, post("serviceaccounts", account.to_string())).await?;
        self.each(PODS, |i| {
            let mut pod = pod(i);
            // every other one gets the volume of a token
            pod["spec"]["automountServiceAccountToken"] = json!(i % 2 == 0);
            post("pods", pod.to_string())
        })
        .await?;
        self.each(PODS / 2, |i| post("configmaps", config_map(format!("small-{i}"), 1000))).await?;
        self.each(PODS / 50, |i| post("configmaps", config_map(format!("large-{i}"), 100_000))).await
    }

    async fn read(&self) -> anyhow::Result<()> {
        let get = |path: String, headers| Ask { method: "GET", path, headers, body: String::new() };
        self.each(PODS * 3, |i| get(pod_path(i % PODS), NO_BODY)).await?;
        self.each(PODS, |i| get(pod_path(i), &[("accept", PROTOBUF)])).await?;
        const ACCEPT: [&[(&str, &str)]; 4] = [
            &[("accept", JSON)],
            &[("accept", PROTOBUF)],
            &[("accept", TABLE)],
            &[("accept", JSON), ("accept-encoding", "gzip")],
        ];
        for accept in ACCEPT {
            self.each(4, |_| get(format!("{NAMESPACE}/pods"), accept)).await?;
            self.each(4, |_| get(format!("{NAMESPACE}/pods?resourceVersion=0"), accept)).await?;
            self.each(20, |_| get(format!("{NAMESPACE}/pods?limit=500"), accept)).await?;
            let selector = |i| format!("{NAMESPACE}/pods?labelSelector=app%3Dapp-{}", i % 100);
            self.each(100, |i| get(selector(i), accept)).await?;
        }
        Ok(())
    }

    async fn change(&self) -> anyhow::Result<()> {
        let patch = |i: usize, more: &str, headers, body: Value| Ask {
            method: "PATCH",
            path: format!("{}{more}", pod_path(i)),
            headers,
            body: body.to_string(),
        };
        let condition = |i| json!([{"type": "Ready", "status": "True", "reason": format!("Reason{i}")}]);
        self.each(PODS, |i| {
            let status =
                json!({"status": {"phase": "Running", "podIP": "10.1.2.3", "conditions": condition(i)}});
            patch(i, "/status", STRATEGIC, status)
        })
        .await?;
        self.each(PODS, |i| patch(i, "", STRATEGIC, json!({"metadata": {"labels": {"round": "1"}}}))).await?;
        let replace = json!([{"op": "replace", "path": "/metadata/labels/tier", "value": "back"}]);
        self.each(PODS, |i| patch(i, "", JSON_PATCH, replace.clone())).await?;
        for manager in ["one", "two", "one"] {
            let labels = json!({manager: "applied"});
            self.each(PODS / 3, |i| {
                let metadata = json!({"name": format!("pod-{i}"), "labels": labels});
                let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata});
                patch(i, &format!("?fieldManager={manager}"), APPLY, object)
            })
            .await?;
        }
        Ok(())
    }

    /// Changes, and many who are told of them.
    async fn watch(&self, encoding: &'static str) -> anyhow::Result<()> {
        let from = self.door.ok("GET", &format!("{NAMESPACE}/pods?limit=1"), &Value::Null).await?;
        let from =
            from["metadata"]["resourceVersion"].as_str().context("a list without a resourceVersion")?;
        let path = format!("{NAMESPACE}/pods?watch=true&allowWatchBookmarks=true&resourceVersion={from}");
        let mut watches = JoinSet::new();
        let mut connection = self.door.connect_http2().await?;
        for i in 0..WATCHES {
            if i % 10 == 0 {
                connection = self.door.connect_http2().await?;
            }
            let mut body = get(&mut connection, &path, encoding).await?;
            watches.spawn(async move {
                // of what came before, as much as the text may begin in
                let mut seen = Vec::new();
                while let Some(frame) = body.frame().await {
                    seen.drain(..seen.len().saturating_sub(LAST.len()));
                    seen.extend_from_slice(&frame?.into_data().unwrap_or_default());
                    if seen.windows(LAST.len()).any(|window| window == LAST.as_bytes()) {
                        return Ok(());
                    }
                }
                bail!("a watch ended")
            });
        }
        for i in 0..CHANGES {
            let reason = if i == CHANGES - 1 { LAST.to_owned() } else { format!("Change{i}") };
            let status =
                json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": reason}]}});
            let ask = Ask {
                method: "PATCH",
                path: format!("{}/status", pod_path(i % 50)),
                headers: STRATEGIC,
                body: status.to_string(),
            };
            self.send(0, ask).await?;
        }
        let told = async {
            while let Some(watch) = watches.join_next().await {
                watch??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, told).await.context("watches wait for the last change")?
    }

    /// Clients that come at once, list and go on watching: those of all pods and those of a node's.
    async fn inform(&self, encoding: &'static str) -> anyhow::Result<()> {
        let mut informers = JoinSet::new();
        for i in 0..INFORMERS * 10 {
            let all = i % 10 == 0;
            let selector =
                if all { String::new() } else { format!("&fieldSelector=spec.nodeName%3Dnode-{}", i % 50) };
            let door = self.door.clone();
            informers.spawn(async move {
                let mut connection = door.connect_http2().await?;
                let list = format!("{NAMESPACE}/pods?resourceVersion=0{selector}");
                get(&mut connection, &list, encoding).await?.collect().await?;
                let watch = format!("{NAMESPACE}/pods?watch=true&resourceVersion=0{selector}");
                get(&mut connection, &watch, encoding).await.map(drop)
            });
        }
        while let Some(informer) = informers.join_next().await {
            informer??;
        }
        Ok(())
    }

    async fn delete(&self) -> anyhow::Result<()> {
        self.each(PODS, |i| Ask {
            method: "DELETE",
            path: format!("{}?gracePeriodSeconds=0", pod_path(i)),
            headers: BODY,
            body: String::new(),
        })
        .await
    }
}
