//! `up`, `status` and `down` themselves.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use anyhow::{Context as _, ensure};
use e2e::process::run as run_program;
use e2e::settings::Settings;
use e2e::{Cluster, Context, LONG, eventually};

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let cluster = context.cluster;
    // Once more is no harm, and nothing is started twice.
    let server = cluster.pid("control-plane", "server")?;
    cluster.up()?.success()?;
    ensure!(cluster.pid("control-plane", "server")? == server, "the server was replaced");
    let mut other = cluster.kubewright("up");
    other.args([
        "--port",
        &cluster.port().to_string(),
        "--nodes",
        "1",
        "--storage",
        cluster.storage().flag(),
    ]);
    let refused = run_program(&mut other, "")?.failure()?;
    ensure!(
        refused.contains("runs already with 3 node(s)") && refused.contains("kubewright down"),
        "{refused}"
    );

    let status = cluster.status()?;
    let components = status["components"].as_array().context("no components")?;
    for (machine, name) in
        [("control-plane", "server"), ("node1", "agent"), ("node2", "containerd"), ("node3", "init")]
    {
        let found = components.iter().find(|c| c["machine"] == machine && c["name"] == name);
        let found = found.with_context(|| format!("no {name} on {machine}: {status}"))?;
        ensure!(found["residentBytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{found}");
    }
    let table = run_program(&mut cluster.kubewright("status"), "")?.success()?;
    ensure!(table.contains("HEALTH") && table.contains("control-plane"), "{table}");
    small_cluster()
}

/// A cluster of its own: a taken port, everything killed, and what is left after `down`.
fn small_cluster() -> anyhow::Result<()> {
    let settings = Settings::from_environment()?;
    let small = Cluster::prepare(&settings, e2e::Storage::Embedded, 1)?;
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, small.port()))?;
    let refused = small.up()?.failure()?;
    ensure!(refused.contains(&format!("port {}", small.port())) && refused.contains("--port"), "{refused}");
    drop(holder);
    small.up()?.success()?;
    let kubectl = small.kubectl("default");
    kubectl.run("create configmap kept --from-literal=a=b")?;

    for (machine, component) in [("node1", "init"), ("control-plane", "server")] {
        small.kill(machine, component)?;
    }
    small.up()?.success()?;
    ensure!(kubectl.value("configmap/kept", ".data.a")? == "b", "objects survive");
    eventually("all is well again", LONG, || small.ensure_healthy())?;

    broken_store(&small)?;
    ensure!(!small.remains()?.is_empty(), "a running cluster is visible");
    small.down()?.success()?;
    let left = small.remains()?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    let none = run_program(&mut small.kubewright("status"), "")?.failure()?;
    ensure!(none.contains("there is no cluster"), "{none}");
    // Without the rights it needs it says so; `setpriv` is in Debian's base system.
    let mut plain = Command::new("setpriv");
    plain.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&settings.kubewright);
    plain.args(["up", "--data-dir", "/nonexistent"]);
    let refused = run_program(&mut plain, "")?.failure()?;
    ensure!(refused.contains("needs root") || refused.contains("ermission denied"), "{refused}");
    Ok(())
}

/// A store that cannot be understood is refused and left as it is; with the old bytes back, everything is there.
fn broken_store(small: &Cluster) -> anyhow::Result<()> {
    let marker = small.root().join("store/STORE");
    let good = std::fs::read(&marker)?;
    small.kill("control-plane", "server")?;
    std::fs::write(&marker, "not of this kind\n")?;
    let refused = small.up()?.failure()?;
    ensure!(refused.contains("server"), "{refused}");
    let log = std::fs::read_to_string(small.root().join("log/server.log"))?;
    ensure!(log.contains("store"), "{log}");
    ensure!(std::fs::read(&marker)? == b"not of this kind\n", "the store was overwritten");
    std::fs::write(&marker, good)?;
    small.up()?.success()?;
    ensure!(small.kubectl("default").value("configmap/kept", ".data.a")? == "b", "objects survive");
    Ok(())
}
