//! What is killed comes back, and running traffic does not notice.

use std::process::Command;

use anyhow::{Context as _, ensure};
use e2e::process::{self, Running};
use e2e::{Context, LONG, SHORT, Storage, eventually};

use crate::manifests::server_deployment;

/// Answers a prober must get after something was killed before the test believes that traffic goes on.
const UNDISTURBED: usize = 40;

/// Asks a Service without pause from a node and tells each answer; the first failure ends it.
struct Prober(Running);

impl Prober {
    fn start(context: &Context<'_>, node: &str, address: &str) -> anyhow::Result<Self> {
        let script = format!(
            "while busybox timeout 2 busybox wget -q -O /dev/null http://{address}/; do echo answered; busybox sleep 0.05; done; echo BROKEN"
        );
        let mut prober = Self(context.cluster.start_on(node, ["busybox", "sh", "-c", &script])?);
        prober.undisturbed(5)?;
        Ok(prober)
    }

    /// Waits for that many more answers; none may be missing.
    fn undisturbed(&mut self, count: usize) -> anyhow::Result<()> {
        let before = self.0.output().matches("answered").count();
        eventually("answers go on", SHORT, || {
            let output = self.0.output();
            if output.contains("BROKEN") {
                return Ok(());
            }
            let more = output.matches("answered").count() - before;
            ensure!(more >= count, "{more} more answers");
            Ok(())
        })?;
        ensure!(!self.0.output().contains("BROKEN"), "a request failed");
        Ok(())
    }
}

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let (kubectl, cluster) = (&context.kubectl, context.cluster);
    kubectl.apply(&[server_deployment("web", 3)])?;
    kubectl.run("rollout status deployment/web --timeout=90s")?;
    kubectl.run("expose deployment/web --port=80 --target-port=http")?;
    let address = kubectl.value("service/web", ".spec.clusterIP")?;
    eventually("the Service answers", SHORT, || cluster.fetch_from("node1", &format!("http://{address}/")))?;
    let mut prober = Prober::start(context, "node2", &address)?;
    agent(context, &mut prober)?;
    server(context, &mut prober)?;
    if cluster.storage() == Storage::Etcd {
        store(context, &mut prober)?;
    }
    runtime(context, &mut prober)?;
    drop(prober);
    node(context, &address)?;
    eventually("everything is healthy", LONG, || cluster.ensure_healthy())
}

/// Kubelet and service proxy of a node are killed.
fn agent(context: &Context<'_>, prober: &mut Prober) -> anyhow::Result<()> {
    let cluster = context.cluster;
    let old = cluster.kill("node2", "agent")?;
    prober.undisturbed(UNDISTURBED)?;
    eventually("the agent is started again", LONG, || {
        let new = cluster.pid("node2", "agent")?;
        ensure!(new != old, "still {old}");
        cluster.ensure_healthy()
    })?;
    prober.undisturbed(UNDISTURBED)
}

/// The server is killed, with everything that decides.
fn server(context: &Context<'_>, prober: &mut Prober) -> anyhow::Result<()> {
    let (kubectl, cluster) = (&context.kubectl, context.cluster);
    let containers =
        || kubectl.run("get pods -l app=web -o jsonpath={.items[*].status.containerStatuses[*].containerID}");
    let before = containers()?;
    cluster.kill("control-plane", "server")?;
    kubectl.fail("get pods --request-timeout=2s")?;
    prober.undisturbed(UNDISTURBED)?;
    let again = cluster.up()?.success()?;
    ensure!(again.contains("node(s) ready"), "{again}");
    prober.undisturbed(UNDISTURBED)?;
    ensure!(containers()? == before, "containers were replaced: {before} and {}", containers()?);
    // It works, not merely answers.
    scale(context, 4)?;
    eventually("the agent speaks to the new server", LONG, || cluster.ensure_healthy())
}

/// The store alone is killed: the server waits for it, says so, and goes on when it is back.
fn store(context: &Context<'_>, prober: &mut Prober) -> anyhow::Result<()> {
    let (kubectl, cluster) = (&context.kubectl, context.cluster);
    let server = cluster.pid("control-plane", "server")?;
    cluster.kill("control-plane", "etcd")?;
    kubectl.fail("create configmap refused --request-timeout=2s")?;
    eventually("the store is reported missing", SHORT, || {
        let ready = kubectl.fail("get --raw /readyz")?;
        ensure!(ready.contains("etcd failed"), "{ready}");
        Ok(())
    })?;
    prober.undisturbed(UNDISTURBED)?;
    cluster.up()?.success()?;
    ensure!(cluster.pid("control-plane", "server")? == server, "the server was replaced");
    kubectl.run("create configmap accepted")?;
    // Only ever up: a pod that ends may drop the request it is just given.
    scale(context, 5)
}

/// The runtime of a node hangs: its node says what is missing and is back with it.
fn runtime(context: &Context<'_>, prober: &mut Prober) -> anyhow::Result<()> {
    let (kubectl, cluster) = (&context.kubectl, context.cluster);
    let runtime = cluster.pid("node3", "containerd")?.to_string();
    let signal = |name: &str| process::run(Command::new("kill").args([name, &runtime]), "")?.success();
    signal("-STOP")?;
    let reported = eventually("the runtime is reported down", LONG, || {
        let of = |field: &str| {
            kubectl.value("node/node3", &format!(".status.conditions[?(@.type==\"Ready\")].{field}"))
        };
        let (status, message) = (of("status")?, of("message")?);
        ensure!(status == "False" && message.contains("container runtime is down"), "{status}: {message}");
        Ok(())
    });
    signal("-CONT")?;
    reported?;
    kubectl.run("wait --for=condition=Ready node/node3 --timeout=90s")?;
    prober.undisturbed(UNDISTURBED)
}

/// A whole node is killed. Its pods are gone with it and come back with it.
fn node(context: &Context<'_>, address: &str) -> anyhow::Result<()> {
    let (kubectl, cluster) = (&context.kubectl, context.cluster);
    cluster.kill("node3", "init")?;
    eventually("the node is noticed missing", SHORT, || {
        let status = cluster.status()?;
        ensure!(status["healthy"] == false, "{status}");
        Ok(())
    })?;
    cluster.up()?.success()?;
    eventually("all pods run again", LONG, || {
        let ready = kubectl.value("deployment/web", ".status.readyReplicas")?;
        let wanted = kubectl.value("deployment/web", ".spec.replicas")?;
        ensure!(ready == wanted, "{ready} of {wanted} are ready");
        let running = kubectl.json("get pods -l app=web --field-selector spec.nodeName=node3")?;
        let items = running["items"].as_array().context("no list")?;
        for pod in items {
            let started = &pod["status"]["containerStatuses"][0]["state"];
            ensure!(started.get("running").is_some(), "{started}");
        }
        Ok(())
    })?;
    eventually("the Service answers from that node", LONG, || {
        cluster.fetch_from("node3", &format!("http://{address}/")).map(drop)
    })
}

fn scale(context: &Context<'_>, replicas: u32) -> anyhow::Result<()> {
    let (kubectl, wanted) = (&context.kubectl, replicas.to_string());
    kubectl.run(&format!("scale deployment/web --replicas={wanted}"))?;
    kubectl.wait_value("deployment/web", ".status.readyReplicas", &wanted, LONG)
}
