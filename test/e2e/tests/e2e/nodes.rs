//! Taking nodes out of service and back.

use anyhow::ensure;
use e2e::{Context, LONG, SHORT, eventually};
use serde_json::json;

use crate::manifests::{server_deployment, server_pod};

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    kubectl.shows("cordon node2", &["node/node2 cordoned"])?;
    kubectl.shows("get nodes", &["Ready,SchedulingDisabled"])?;
    kubectl.apply(&[server_deployment("web", 4)])?;
    kubectl.run("rollout status deployment/web --timeout=90s")?;
    let on = || kubectl.run("get pods -l app=web -o jsonpath={.items[*].spec.nodeName}");
    ensure!(!on()?.contains("node2"), "nothing is placed on a cordoned node: {}", on()?);
    ensure!(on()?.contains("node1") && on()?.contains("node3"), "pods are spread: {}", on()?);

    // A pod without a controller is not drained by accident.
    let mut single = server_pod("single");
    single["spec"]["nodeName"] = json!("node3");
    kubectl.apply(&[single])?;
    kubectl.run("uncordon node2")?;
    let selected = "--ignore-daemonsets --delete-emptydir-data --timeout=90s --pod-selector";
    let refused = kubectl.fail(&format!("drain node3 {selected} app=single"))?;
    ensure!(refused.contains("cannot delete") && refused.contains("--force"), "{refused}");
    // A budget is kept: nothing goes while all are needed, and drain goes on by itself when one may.
    kubectl.run("create poddisruptionbudget web --selector=app=web --min-available=4")?;
    kubectl.wait_value("poddisruptionbudget/web", ".status.currentHealthy", "4", LONG)?;
    let held = kubectl.fail("drain node3 --ignore-daemonsets --pod-selector app=web --timeout=7s")?;
    ensure!(held.contains("would violate the pod's disruption budget"), "{held}");
    ensure!(on()?.contains("node3"), "a pod went against the budget: {}", on()?);
    let mut drain = kubectl.start(&format!("drain node3 {selected} app=web"))?;
    kubectl.run(["patch", "poddisruptionbudget/web", "-p", r#"{"spec": {"minAvailable": 3}}"#])?;
    drain.wait_for("node/node3 drained", LONG)?;
    ensure!(drain.output().contains("evicting pod nodes/web-"), "{}", drain.output());
    eventually("the pods run elsewhere", LONG, || {
        let nodes = on()?;
        ensure!(!nodes.contains("node3") && nodes.split(' ').count() == 4, "{nodes}");
        Ok(())
    })?;
    kubectl.wait_value("deployment/web", ".status.readyReplicas", "4", LONG)?;
    kubectl.run("uncordon node3")?;

    // A pod that fits nowhere says why, and runs as soon as something fits.
    kubectl.run("taint node node1 node2 node3 kept=free:NoSchedule")?;
    let mut waiting = server_pod("waiting");
    waiting["spec"]["nodeSelector"] = json!({"disk": "fast"});
    kubectl.apply(&[waiting])?;
    eventually("the scheduler says why", SHORT, || {
        kubectl.shows("events --for pod/waiting", &["FailedScheduling", "0/3 nodes are available"]).map(drop)
    })?;
    kubectl.run("label node node1 disk=fast")?;
    kubectl.run("taint node node1 node2 node3 kept-")?;
    kubectl.run("wait --for=condition=Ready pod/waiting --timeout=60s")?;
    kubectl.wait_value("pod/waiting", ".spec.nodeName", "node1", SHORT)
}
