//! The example application reaches Ready, and its pods see everything that was mounted, injected and prepared.

use anyhow::{Context as _, ensure};
use e2e::Context;

use crate::manifests::wait_for;

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/guestbook");
    let created = kubectl.run(["apply", "-f", example])?;
    for object in ["configmap", "secret", "deployment.apps", "service"] {
        ensure!(created.contains(&format!("{object}/guestbook created")), "{object} missing in {created}");
    }
    wait_for(kubectl, "Available", "deployment/guestbook")?;
    kubectl.run("rollout status deployment/guestbook --timeout=60s")?;

    let pods = kubectl.json("get pods -l app=guestbook")?;
    let pods = pods["items"].as_array().context("no list")?;
    ensure!(pods.len() == 3, "{} pods", pods.len());
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let status = &pod["status"];
        ensure!(status["phase"] == "Running" && status["qosClass"] == "Burstable", "{status}");
        ensure!(
            status["initContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed",
            "{status}"
        );
        let inside = |command: &str| kubectl.run(&format!("exec {name} -c web -- {command}"));
        let prepared = inside("cat /work/prepared")?;
        ensure!(prepared.trim() == format!("prepared for {name}"), "the init container wrote {prepared:?}");
        let environment = inside("env")?;
        ensure!(environment.contains("GREETING=hello from the guestbook\n"), "{environment}");
        ensure!(environment.contains("PASSWORD=not-so-secret\n"), "{environment}");
        ensure!(inside("cat /etc/guestbook/guestbook.conf")? == "pages = 10\n", "the ConfigMap's file");
        ensure!(inside("cat /etc/guestbook-secret/password")? == "not-so-secret", "the Secret's file");
        let refused = kubectl.fail([
            "exec",
            name,
            "-c",
            "web",
            "--",
            "sh",
            "-c",
            "echo x > /etc/guestbook-secret/y",
        ])?;
        ensure!(refused.contains("Read-only file system"), "{refused}");
    }
    // Applying the same again changes nothing, but for the Secret: kubectl takes its stringData, which is never read back,
    // for a change each time.
    let again = kubectl.run(["apply", "-f", example])?;
    ensure!(
        again.lines().filter(|line| !line.starts_with("secret/")).all(|line| line.ends_with(" unchanged")),
        "{again}"
    );
    let generation = kubectl.value("deployment/guestbook", ".metadata.generation")?;
    ensure!(generation == "1", "the Deployment was changed {generation} times");
    // The file names go through a directory, and all of it goes again.
    kubectl.run(["delete", "-f", example, "--wait=true", "--timeout=60s", "--grace-period=1"])?;
    let left = kubectl.run("get deployments,services -o name")?;
    ensure!(!left.contains("guestbook"), "{left}");
    Ok(())
}
