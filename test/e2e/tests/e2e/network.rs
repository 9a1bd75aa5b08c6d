//! Services: addresses, names and ports from everywhere, and endpoints that follow readiness.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use e2e::{Context, LONG, SHORT, eventually};
use serde_json::json;

use crate::manifests::{idle_pod, server_deployment, wait_for};

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let (kubectl, cluster) = (&context.kubectl, context.cluster);
    let mut client = idle_pod("client");
    client["spec"]["nodeName"] = json!("node2");
    kubectl.apply(&[server_deployment("web", 3), client])?;
    kubectl.run("rollout status deployment/web --timeout=90s")?;
    wait_for(kubectl, "Ready", "pod/client")?;
    kubectl.run("expose deployment/web --port=80 --target-port=http --type=NodePort")?;
    kubectl.run("expose deployment/web --name=headless --port=8080 --cluster-ip=None")?;
    let address = kubectl.value("service/web", ".spec.clusterIP")?;
    let port = kubectl.value("service/web", ".spec.ports[0].nodePort")?;
    ensure!(port.parse::<u16>().is_ok_and(|p| (30000..=32767).contains(&p)), "node port {port}");

    let from_pod =
        |url: &str| kubectl.run(["exec", "client", "--", "timeout", "5", "wget", "-q", "-O", "-", url]);
    let pods: BTreeSet<String> = names(kubectl)?;
    ensure!(pods.len() == 3, "{pods:?}");

    // Every way in: from a pod by address and by each form of the name, from nodes, by the port of every node.
    for url in [
        format!("http://{address}/"),
        "http://web/".to_owned(),
        "http://web.network/".to_owned(),
        "http://web.network.svc.cluster.local/".to_owned(),
        "http://headless:8080/".to_owned(),
        format!("http://172.30.0.13:{port}/"),
    ] {
        let answer = eventually(&url, SHORT, || from_pod(&url))?;
        ensure!(pods.iter().any(|pod| answer.starts_with(&format!("host {pod} client "))), "{url}: {answer}");
    }
    for node in ["node1", "node2", "node3"] {
        let answer = eventually("the Service from a node", SHORT, || {
            cluster.fetch_from(node, &format!("http://{address}/"))
        })?;
        ensure!(answer.starts_with("host web-"), "{node}: {answer}");
    }
    for target in ["172.30.0.11", "172.30.0.12", "172.30.0.13"] {
        // The control plane's machine is no node: this comes from outside.
        let answer = eventually("a node port", SHORT, || {
            cluster.fetch_from("ctl", &format!("http://{target}:{port}/"))
        })?;
        ensure!(answer.starts_with("host web-"), "{target}: {answer}");
    }
    // All endpoints get their share: missing one of three in 60 tries has a chance below 1 in 10^9.
    let mut seen = BTreeSet::new();
    let all = kubectl.run([
        "exec",
        "client",
        "--",
        "sh",
        "-c",
        &format!("for i in $(seq 60); do wget -q -O - http://{address}/; done"),
    ])?;
    seen.extend(all.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned));
    ensure!(seen == pods, "{seen:?} answered, not {pods:?}");

    dns(context, &address)?;
    readiness(context, &address)
}

fn names(kubectl: &e2e::Kubectl) -> anyhow::Result<BTreeSet<String>> {
    let text = kubectl.run("get pods -l app=web -o jsonpath={.items[*].metadata.name}")?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn dns(context: &Context<'_>, address: &str) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    let resolver = kubectl.run("exec client -- cat /etc/resolv.conf")?;
    ensure!(resolver.contains("nameserver 10.96.0.10\n"), "{resolver}");
    ensure!(
        resolver.contains("search network.svc.cluster.local svc.cluster.local cluster.local"),
        "{resolver}"
    );
    ensure!(resolver.contains("options ndots:5"), "{resolver}");
    let look_up = |name: &str| kubectl.ended(&format!("exec client -- nslookup -type=a {name}"));
    let service = look_up("web.network.svc.cluster.local.")?;
    ensure!(service.stdout.contains(&format!("Address: {address}")), "{service:?}");
    let pods = look_up("headless.network.svc.cluster.local.")?;
    let addresses = kubectl.run("get pods -l app=web -o jsonpath={.items[*].status.podIP}")?;
    for pod in addresses.split(' ') {
        ensure!(pods.stdout.contains(&format!("Address: {pod}")), "{pod} is missing in {pods:?}");
    }
    let missing = look_up("nothing.network.svc.cluster.local.")?;
    ensure!(format!("{}{}", missing.stdout, missing.stderr).contains("NXDOMAIN"), "{missing:?}");
    let kubernetes = look_up("kubernetes.default.svc.cluster.local.")?;
    ensure!(kubernetes.stdout.contains("Address: 10.96.0.1\n"), "{kubernetes:?}");
    Ok(())
}

/// A server that fails its probe gets no traffic, and gets it again when it is replaced.
fn readiness(context: &Context<'_>, address: &str) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    let failing = names(kubectl)?.into_iter().next().context("no pods")?;
    let ip = kubectl.value(&format!("pod/{failing}"), ".status.podIP")?;
    let ready = || {
        kubectl.run([
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=web",
            "-o",
            "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}",
        ])
    };
    ensure!(ready()?.contains(&ip), "{}", ready()?);
    kubectl.run(["exec", "client", "--", "wget", "-q", "-O", "-", &format!("http://{ip}:8080/fail")])?;
    eventually("the failing endpoint is not ready", SHORT, || {
        ensure!(!ready()?.contains(&ip), "{}", ready()?);
        Ok(())
    })?;
    kubectl.wait_value(
        &format!("pod/{failing}"),
        ".status.conditions[?(@.type==\"Ready\")].status",
        "False",
        SHORT,
    )?;
    eventually("no traffic for it", SHORT, || {
        let script =
            format!("for i in $(seq 30); do timeout 5 wget -q -O - http://{address}/ || exit 1; done");
        let all = kubectl.run(["exec", "client", "--", "sh", "-c", &script])?;
        ensure!(!all.contains(&failing), "{all}");
        ensure!(all.lines().count() == 30, "{all}");
        Ok(())
    })?;
    kubectl.run(["delete", "pod", &failing])?;
    kubectl.wait_value("deployment/web", ".status.readyReplicas", "3", LONG)?;
    // A Service whose last endpoint is gone refuses at once.
    kubectl.run("scale deployment/web --replicas=0")?;
    eventually("connections are refused", LONG, || {
        let refused = kubectl.fail([
            "exec",
            "client",
            "--",
            "timeout",
            "5",
            "wget",
            "-q",
            "-O",
            "-",
            &format!("http://{address}/"),
        ])?;
        ensure!(refused.contains("Connection refused"), "{refused}");
        Ok(())
    })
}
