//! What requests cost the API server itself: processor time per operation, without network and TLS, on a store in memory.
//! `cargo bench -p bench --bench server`; an argument names the cases to run.
//!
//! Processor time is what a busy machine leaves comparable. Each figure is the smallest of several rounds.
#![allow(clippy::print_stdout, reason = "what it measured is what it is for")]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use auth::UserInfo;
use bench::pod;
use component::http::full;
use controlplane::StorageConfig;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use integration::Cluster;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::json;

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: component::memory::Allocator = component::memory::Allocator;

const PODS: usize = 1000;
const ROUNDS: usize = 5;
const WATCHERS: usize = 100;
const NAMESPACE: &str = "/api/v1/namespaces/default";

/// Processor time of the process so far.
fn cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros =
        |t: nix::sys::time::TimeVal| t.tv_sec().unsigned_abs() * 1_000_000 + t.tv_usec().unsigned_abs();
    Ok(Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time())))
}

struct Bench {
    cluster: Cluster,
    wanted: Option<String>,
}

impl Bench {
    fn wants(&self, case: &str) -> bool {
        self.wanted.as_deref().is_none_or(|wanted| case.contains(wanted))
    }

    /// The least processor time that `operations` operations took, over the rounds.
    async fn measure<'a>(
        &'a self,
        case: &str,
        operations: usize,
        round: impl Fn(&'a Self, usize) -> BoxFuture<'a, anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        if !self.wants(case) {
            return Ok(());
        }
        let mut best = Duration::MAX;
        for n in 0..ROUNDS {
            let before = cpu()?;
            round(self, n).await.with_context(|| case.to_owned())?;
            best = best.min(cpu()?.saturating_sub(before));
        }
        println!("{case:<28} {:>10.1} us", best.as_secs_f64() * 1e6 / operations as f64);
        Ok(())
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<usize> {
        let answer = self.cluster.call_with(method, path, body, headers).await?;
        ensure!((200..300).contains(&answer.code), "{method} {path}: {} {}", answer.code, answer.text());
        Ok(answer.bytes.len())
    }

    /// A request for every pod of a round.
    async fn each(
        &self,
        pods: usize,
        request: impl Fn(usize) -> (&'static str, String, String),
        headers: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        for i in 0..pods {
            let (method, path, body) = request(i);
            self.send(method, &path, &body, headers).await?;
        }
        Ok(())
    }

    async fn writes(&self) -> anyhow::Result<()> {
        const MERGE: &[(&str, &str)] = &[("content-type", "application/strategic-merge-patch+json")];
        const APPLY: &[(&str, &str)] = &[("content-type", "application/apply-patch+yaml")];
        let bodies: Vec<String> = (0..PODS).map(|i| pod(i).to_string()).collect();
        let create = |i: usize| ("POST", format!("{NAMESPACE}/pods"), bodies[i].clone());
        self.each(PODS, create, &[]).await?;
        self.measure("get", PODS, |b, _| {
            Box::pin(b.each(PODS, |i| ("GET", format!("{NAMESPACE}/pods/pod-{i}"), String::new()), &[]))
        })
        .await?;
        self.measure("patch status", PODS, |b, round| {
            Box::pin(b.each(
                PODS,
                move |i| {
                    let status = json!({"status": {"phase": "Running", "conditions": [
                        {"type": "Ready", "status": "True", "reason": format!("Round{round}")}]}});
                    ("PATCH", format!("{NAMESPACE}/pods/pod-{i}/status"), status.to_string())
                },
                MERGE,
            ))
        })
        .await?;
        self.measure("apply labels", PODS, |b, round| {
            Box::pin(b.each(
                PODS,
                move |i| {
                    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
                        "name": format!("pod-{i}"), "labels": {"round": round.to_string()}}});
                    let path = format!("{NAMESPACE}/pods/pod-{i}?fieldManager=bench");
                    ("PATCH", path, object.to_string())
                },
                APPLY,
            ))
        })
        .await?;
        let bodies = &bodies;
        self.measure("create and delete", 200, |b, _| {
            Box::pin(async move {
                for body in &bodies[..200] {
                    let body = body.replacen("\"name\":\"pod-", "\"name\":\"again-", 1);
                    b.send("POST", &format!("{NAMESPACE}/pods"), &body, &[]).await?;
                }
                for i in 0..200 {
                    let path = format!("{NAMESPACE}/pods/again-{i}?gracePeriodSeconds=0");
                    b.send("DELETE", &path, "", &[]).await?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn lists(&self) -> anyhow::Result<()> {
        const LISTS: [(&str, &str, &str); 6] = [
            ("list json", "", "application/json"),
            ("list protobuf", "", "application/vnd.kubernetes.protobuf"),
            ("list table", "", "application/json;as=Table;v=v1;g=meta.k8s.io"),
            ("list metadata", "", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
            ("list one percent", "?labelSelector=app%3Dapp-7", "application/json"),
            ("list of a node", "?fieldSelector=spec.nodeName%3Dnode-7", "application/json"),
        ];
        const TIMES: usize = 10;
        for (case, query, accept) in LISTS {
            self.measure(case, TIMES, |b, _| {
                Box::pin(async move {
                    for _ in 0..TIMES {
                        let path = format!("{NAMESPACE}/pods{query}");
                        b.send("GET", &path, "", &[("accept", accept)]).await?;
                    }
                    Ok(())
                })
            })
            .await?;
        }
        Ok(())
    }

    /// Changes delivered to many watchers; the writes are a hundredth of it.
    async fn watches(&self) -> anyhow::Result<()> {
        const CHANGES: usize = 50;
        let user = || UserInfo::new("admin", &["system:masters", "system:authenticated"]);
        let mut bodies = Vec::new();
        for _ in 0..WATCHERS {
            let path =
                format!("{NAMESPACE}/pods?watch=true&resourceVersion=0&fieldSelector=spec.nodeName%3Dnone");
            bodies.push(self.cluster.open(user(), "GET", &path, full(""), &[]).await?.into_body());
        }
        let readers: Vec<_> = bodies
            .into_iter()
            .map(|mut body| {
                tokio::spawn(async move {
                    let mut bytes = 0;
                    while let Some(Ok(frame)) = body.frame().await {
                        bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
                    }
                    bytes
                })
            })
            .collect();
        self.measure("deliver to a watcher", CHANGES * WATCHERS, |b, round| {
            Box::pin(async move {
                for i in 0..CHANGES {
                    let mut object = pod(i);
                    object["metadata"]["name"] = json!(format!("seen-{round}-{i}"));
                    object["spec"]["nodeName"] = json!("none");
                    b.send("POST", &format!("{NAMESPACE}/pods"), &object.to_string(), &[]).await?;
                }
                Ok(())
            })
        })
        .await?;
        readers.iter().for_each(tokio::task::JoinHandle::abort);
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let runtime = component::runtime(component::threads_for_requests())?;
    runtime.block_on(async {
        let cluster = Cluster::with(StorageConfig::Memory).await?;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        cluster.ok("POST", &format!("{NAMESPACE}/serviceaccounts"), &account).await?;
        let bench = Bench { cluster, wanted };
        bench.writes().await?;
        bench.lists().await?;
        bench.watches().await?;
        bench.cluster.stop().await;
        Ok(())
    })
}
