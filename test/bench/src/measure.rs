//! One cluster from its start to its end, with a stopwatch.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use e2e::process::{Running, run};
use e2e::settings::Settings;
use e2e::{Cluster, LONG, SHORT, Storage, TESTSERVER, eventually};
use serde_json::{Value, json};

use crate::report::{MIB, Metric};

/// Measured values in the order they were taken.
pub(crate) type Samples = Vec<(Metric, f64)>;

/// How long a cluster is left alone before it counts as idle.
const SETTLE: Duration = Duration::from_secs(20);
/// How long processor time is counted.
const IDLE_WINDOW: Duration = Duration::from_secs(60);
/// Pause between two looks at whether the server answers.
const POLL: Duration = Duration::from_millis(2);
/// Processes of the control plane and of the node, as `status` names them.
const COMPONENTS: [&str; 2] = ["server", "agent"];

/// Starts a cluster, runs a workload, measures it while idle if asked, and starts its server alone.
pub(crate) fn round(settings: &Settings, idle: bool, samples: &mut Samples) -> anyhow::Result<()> {
    let cluster = Cluster::prepare(settings, Storage::Embedded, 1)?;
    let started = Instant::now();
    cluster.up()?.success()?;
    samples.push((Metric::NodeReady, started.elapsed().as_secs_f64()));
    run(cluster.kubewright("images").arg("import").args(settings.archives()), "")?.success()?;
    samples.push((Metric::Available, deployment_available(&cluster)?));
    if idle {
        idle_costs(&cluster, samples)?;
    }
    samples.push((Metric::ServerReady, server_ready(&cluster)?));
    Ok(())
}

/// Seconds from `kubectl apply` of a Deployment of one replica until it is Available. Its image is present.
fn deployment_available(cluster: &Cluster) -> anyhow::Result<f64> {
    let kubectl = cluster.kubectl("default");
    // What comes with a namespace is there a moment after the node.
    eventually("the service account", SHORT, || kubectl.run("get serviceaccount default"))?;
    let labels = json!({"app": "bench"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bench"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "web", "image": TESTSERVER, "args": ["8080"]}],
            }},
        },
    });
    let started = Instant::now();
    kubectl.apply(&[deployment])?;
    kubectl.run(&format!("wait --for=condition=Available deployment/bench --timeout={}s", LONG.as_secs()))?;
    let seconds = started.elapsed().as_secs_f64();
    kubectl.run("delete deployment bench --cascade=foreground --timeout=60s")?;
    Ok(seconds)
}

/// Processor time of a process in seconds: user and system, fields 14 and 15 of `/proc/PID/stat` (proc(5)).
fn processor_seconds(pid: i32) -> anyhow::Result<f64> {
    /// Ticks a second in `/proc`; the same on every Linux of today.
    const TICKS: f64 = 100.0;
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    let fields: Vec<&str> =
        text.rsplit_once(')').context("malformed stat")?.1.split_ascii_whitespace().collect();
    let ticks =
        |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).context("malformed stat");
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

fn idle_costs(cluster: &Cluster, samples: &mut Samples) -> anyhow::Result<()> {
    std::thread::sleep(SETTLE);
    let pids = [cluster.pid("control-plane", COMPONENTS[0])?, cluster.pid("node1", COMPONENTS[1])?];
    let spent = || -> anyhow::Result<f64> { Ok(processor_seconds(pids[0])? + processor_seconds(pids[1])?) };
    let (started, before) = (Instant::now(), spent()?);
    std::thread::sleep(IDLE_WINDOW);
    let share = (spent()? - before) / started.elapsed().as_secs_f64();
    samples.push((Metric::IdleProcessor, share * 100.0));
    let status = cluster.status()?;
    for (metric, name) in [(Metric::ServerMemory, COMPONENTS[0]), (Metric::AgentMemory, COMPONENTS[1])] {
        let component = status["components"].as_array().into_iter().flatten().find(|c| c["name"] == name);
        let bytes = component
            .and_then(|c| c["residentBytes"].as_f64())
            .with_context(|| format!("no {name} in {status}"))?;
        samples.push((metric, bytes / MIB));
    }
    Ok(())
}

/// Seconds from the start of the server's process, on an empty store, until `/readyz` says ok.
fn server_ready(cluster: &Cluster) -> anyhow::Result<f64> {
    let old = cluster.pid("control-plane", "server")?;
    run(Command::new("kill").arg(old.to_string()), "")?.success()?;
    eventually("the old server ends", LONG, || {
        ensure!(TcpStream::connect(("127.0.0.1", cluster.port())).is_err(), "it still listens");
        let status: Value = cluster.status()?;
        ensure!(status["components"][0]["pid"].is_null(), "{status}");
        Ok(())
    })?;
    std::fs::remove_dir_all(cluster.root().join("store")).context("cannot empty the store")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(client(cluster))?;
    let started = Instant::now();
    let mut server = Running::start(&mut cluster.kubewright("server"))?;
    runtime.block_on(async {
        while started.elapsed() < LONG {
            ensure!(server.is_running()?, "the server ended");
            // Cheaper than a TLS handshake while nothing listens yet.
            if TcpStream::connect(("127.0.0.1", cluster.port())).is_ok() {
                let request = http::Request::get("/readyz").body(Vec::new())?;
                if client.request_text(request).await.is_ok_and(|text| text == "ok") {
                    return Ok(started.elapsed().as_secs_f64());
                }
            }
            tokio::time::sleep(POLL).await;
        }
        anyhow::bail!("the server was not ready after {} s", LONG.as_secs())
    })
}

async fn client(cluster: &Cluster) -> anyhow::Result<kube::Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(cluster.root().join("admin.conf"))?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}
