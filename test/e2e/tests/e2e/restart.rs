//! Containers that end are started again, each time later.

use anyhow::{Context as _, ensure};
use e2e::{Context, LONG, SHORT, eventually};
use serde_json::json;

use crate::manifests::{server_pod, shell_pod, wait_for};

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let (kubectl, cluster) = (&context.kubectl, context.cluster);
    let mut web = server_pod("web");
    web["spec"]["containers"][0]["livenessProbe"] =
        json!({"httpGet": {"path": "/healthy", "port": "http"}, "periodSeconds": 1, "failureThreshold": 2});
    kubectl.apply(&[web, shell_pod("crash", "exit 3")])?;
    wait_for(kubectl, "Ready", "pod/web")?;
    let status = |path: &str| kubectl.value("pod/web", &format!(".status.containerStatuses[0]{path}"));

    // The container is killed behind everyone's back; the pod stays.
    let uid = kubectl.value("pod/web", ".metadata.uid")?;
    let node = kubectl.value("pod/web", ".spec.nodeName")?;
    let id = status(".containerID")?;
    let id = id.strip_prefix("containerd://").with_context(|| format!("container {id:?}"))?;
    cluster
        .run_in_node(&node, &["ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", id])?;
    kubectl.wait_value("pod/web", ".status.containerStatuses[0].restartCount", "1", LONG)?;
    wait_for(kubectl, "Ready", "pod/web")?;
    ensure!(status(".lastState.terminated.exitCode")? == "137", "{}", status("")?);
    ensure!(kubectl.value("pod/web", ".metadata.uid")? == uid, "the pod is the same");

    // A failing liveness probe does the same.
    kubectl.run("exec web -- wget -q -O - http://127.0.0.1:8080/fail")?;
    kubectl.wait_value("pod/web", ".status.containerStatuses[0].restartCount", "2", LONG)?;
    eventually("an event tells why", SHORT, || {
        kubectl.shows("events --for pod/web", &["Unhealthy", "Liveness probe failed", "Killing"]).map(drop)
    })?;

    let crash = |path: &str| kubectl.value("pod/crash", &format!(".status.containerStatuses[0]{path}"));
    eventually("the crashing container is backed off", LONG, || {
        ensure!(crash(".state.waiting.reason")? == "CrashLoopBackOff", "{}", crash("")?);
        Ok(())
    })?;
    let message = crash(".state.waiting.message")?;
    ensure!(
        message.contains("back-off ")
            && message.contains("restarting failed container=main pod=crash_restart("),
        "{message}"
    );
    ensure!(crash(".lastState.terminated.exitCode")? == "3", "{}", crash("")?);
    // The first restart comes at once, the second after ten seconds, the third after twenty.
    eventually("the second restart", LONG, || {
        let count: u32 = crash(".restartCount")?.parse()?;
        ensure!(count >= 2, "restarted {count} times");
        Ok(())
    })?;
    eventually("the pause grows", LONG, || {
        let message = crash(".state.waiting.message")?;
        ensure!(message.contains("back-off 20s") || message.contains("back-off 40s"), "{message}");
        Ok(())
    })?;
    kubectl.shows("get pod crash", &["CrashLoopBackOff"])?;
    kubectl.shows("events --for pod/crash", &["BackOff", "Back-off restarting failed container main"])?;
    Ok(())
}
