//! Deletion and what depends on the deleted.

use anyhow::ensure;
use e2e::{Context, LONG, SHORT, eventually};

use crate::manifests::{idle_pod, server_deployment};

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    for (name, cascade) in [("back", "background"), ("front", "foreground"), ("orphan", "orphan")] {
        kubectl.apply(&[server_deployment(name, 1)])?;
        kubectl.run(&format!("rollout status deployment/{name} --timeout=90s"))?;
        let sets = kubectl.run(&format!("get replicasets -l app={name} -o name"))?;
        ensure!(sets.lines().count() == 1, "{sets}");
        kubectl.run(&format!("delete deployment {name} --cascade={cascade} --timeout=60s"))?;
        let dependents = || kubectl.run(&format!("get replicasets,pods -l app={name} -o name"));
        match cascade {
            // The owner goes last.
            "foreground" => ensure!(dependents()?.is_empty(), "left at once: {}", dependents()?),
            "background" => eventually("dependents are collected", LONG, || {
                ensure!(dependents()?.is_empty(), "left: {}", dependents()?);
                Ok(())
            })?,
            _ => {
                let owners = kubectl.run(&format!(
                    "get replicasets -l app={name} -o jsonpath={{.items[*].metadata.ownerReferences}}"
                ))?;
                ensure!(owners.is_empty(), "orphans have no owner: {owners}");
                ensure!(dependents()?.lines().count() == 2, "orphans stay: {}", dependents()?);
            }
        }
    }
    // A ReplicaSet replaces a pod that is deleted, and a new Deployment adopts the orphan.
    let pod = || kubectl.run("get pods -l app=orphan -o jsonpath={.items[*].metadata.name}");
    let before = pod()?;
    kubectl.run(["delete", "pod", &before, "--wait=false"])?;
    eventually("the pod is replaced", LONG, || {
        let now = pod()?;
        ensure!(!now.is_empty() && !now.contains(&before), "{now}");
        Ok(())
    })?;
    let set = kubectl.run("get replicasets -l app=orphan -o name")?;
    kubectl.apply(&[server_deployment("orphan", 1)])?;
    eventually("the ReplicaSet is adopted", SHORT, || {
        let owner = kubectl
            .run("get replicasets -l app=orphan -o jsonpath={.items[*].metadata.ownerReferences[0].name}")?;
        ensure!(owner == "orphan", "{owner}");
        Ok(())
    })?;
    ensure!(kubectl.run("get replicasets -l app=orphan -o name")? == set, "adopted, not made again");

    // A finalizer holds an object back until it is removed.
    kubectl.run("create configmap held")?;
    kubectl.run([
        "patch",
        "configmap/held",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":["example.com/hold"]}}"#,
    ])?;
    kubectl.run("delete configmap held --wait=false")?;
    let deleted = kubectl.value("configmap/held", ".metadata.deletionTimestamp")?;
    ensure!(!deleted.is_empty(), "it is being deleted");
    kubectl.run(["patch", "configmap/held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])?;
    kubectl.run("wait --for=delete configmap/held --timeout=10s")?;

    kubectl.apply(&[idle_pod("now")])?;
    kubectl.run("wait --for=condition=Ready pod/now --timeout=60s")?;
    kubectl.run("delete pod now --now --timeout=30s")?;
    kubectl.run("create namespace delete-inner")?;
    kubectl.run("--namespace=delete-inner create configmap inner")?;
    kubectl.run("delete namespace delete-inner --timeout=60s")?;
    let gone = kubectl.fail("get namespace delete-inner")?;
    ensure!(gone.contains("NotFound"), "{gone}");
    Ok(())
}
