//! `get` in all its forms.

use anyhow::{Context as _, ensure};
use e2e::{Context, SHORT};

use crate::manifests::{idle_pod, wait_for};

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    kubectl.apply(&[idle_pod("b"), idle_pod("a")])?;
    wait_for(kubectl, "Ready", "pod/a pod/b")?;

    let table = kubectl.run("get pods")?;
    let header: Vec<&str> = table.lines().next().context("no output")?.split_ascii_whitespace().collect();
    ensure!(header == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"], "{table}");
    ensure!(table.contains("1/1") && table.contains("Running"), "{table}");
    kubectl.shows("get pods -o wide", &["IP", "NODE", "NOMINATED NODE", "READINESS GATES", "10.244."])?;
    kubectl.shows("get pods -A", &["NAMESPACE", "output"])?;
    kubectl.shows("get all", &["pod/a", "pod/b"])?;
    kubectl.shows("get nodes -o wide", &["node1", "node3", "172.30.0.12", "containerd://", "v1.36"])?;

    ensure!(kubectl.run("get pods -o name")? == "pod/a\npod/b\n", "names in order");
    let labelled = kubectl.run("get pods -l app=b -o name")?;
    ensure!(labelled == "pod/b\n", "{labelled}");
    let excluded = kubectl.run("get pods -l app!=b -o name")?;
    ensure!(excluded == "pod/a\n", "{excluded}");
    let by_field = kubectl.run("get pods --field-selector metadata.name=a -o name")?;
    ensure!(by_field == "pod/a\n", "{by_field}");
    let none = kubectl.ended("get pods -l app=none")?;
    ensure!(none.stderr.contains("No resources found in output namespace."), "{none:?}");

    // b was created first; by name the order is the other one.
    let times = "{range .items[*]}{.metadata.creationTimestamp} {.metadata.name}{\"\\n\"}{end}";
    let sorted = kubectl.run([
        "get",
        "pods",
        "--sort-by=.metadata.creationTimestamp",
        "-o",
        &format!("jsonpath={times}"),
    ])?;
    let lines: Vec<&str> = sorted.lines().collect();
    ensure!(lines.len() == 2 && lines.is_sorted(), "{sorted}");
    let reverse = kubectl.run("get pods --sort-by=.metadata.uid -o jsonpath={.items[*].metadata.uid}")?;
    ensure!(reverse.split(' ').is_sorted(), "{reverse}");

    kubectl.shows("get pod a -o yaml", &["apiVersion: v1\n", "kind: Pod\n", "  name: a\n"])?;
    let json = kubectl.json("get pod a")?;
    ensure!(json["kind"] == "Pod" && json["metadata"]["name"] == "a", "{json}");
    ensure!(json["metadata"].get("managedFields").is_none(), "managed fields are shown only when asked for");
    kubectl.shows("get pod a -o json --show-managed-fields", &["kubectl-client-side-apply", "kubelet"])?;
    let columns =
        kubectl.run("get pods -o custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[0].image")?;
    let rows: Vec<Vec<&str>> = columns.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
    ensure!(rows[0] == ["NAME", "IMAGE"] && rows[1] == ["a", e2e::BUSYBOX], "{columns}");
    let template =
        kubectl.run(["get", "pods", "-o", "go-template={{range .items}}{{.metadata.name}},{{end}}"])?;
    ensure!(template == "a,b,", "{template}");
    kubectl.shows("get pods --show-labels", &["app=a", "app=b"])?;
    kubectl.shows("get pods -L app", &["APP"])?;

    let mut watch = kubectl.start("get pods -w")?;
    watch.wait_for("Running", SHORT)?;
    kubectl.apply(&[idle_pod("c")])?;
    watch.wait_for("\nc ", SHORT)?;
    kubectl.run("delete pod c --wait=false")?;
    watch.wait_for("Terminating", SHORT)?;
    ensure!(watch.is_running()?, "a watch goes on");

    let missing = kubectl.fail("get pod nobody")?;
    ensure!(missing == "Error from server (NotFound): pods \"nobody\" not found\n", "{missing}");
    let unknown = kubectl.fail("get nonsense")?;
    ensure!(unknown.contains("the server doesn't have a resource type \"nonsense\""), "{unknown}");
    Ok(())
}
