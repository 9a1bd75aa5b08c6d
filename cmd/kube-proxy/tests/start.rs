//! The binary with upstream's flags, in a network namespace of its own: it syncs with an API server and writes rules.

use std::process::Command;

use integration::Cluster;
use integration::binary::{Binary, able, free_port, http_get};
use serde_json::{Value, json};

/// Set in the process that is alone in its network.
const INSIDE: &str = "KUBE_PROXY_TEST_INSIDE";

#[test]
fn starts_with_upstreams_flags() {
    if std::env::var_os(INSIDE).is_some() || !able(&["unshare", "ip", "iptables-save", "iptables-restore"]) {
        return;
    }
    let own = std::env::current_exe().expect("this program");
    let script = format!("ip link set lo up && exec {} --exact inside --nocapture", own.display());
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", &script])
        .env(INSIDE, "1")
        .output()
        .expect("unshare runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "inside:\n{text}\n{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside() {
    if std::env::var_os(INSIDE).is_some() {
        story().await.expect("the story");
    }
}

async fn story() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"ports": [{"port": 80, "targetPort": 8080}]}});
    let made = cluster.ok("POST", "/api/v1/namespaces/default/services", &service).await?;
    let ip = made["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let slice = |address: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}]})
    };
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    cluster.ok("POST", slices, &slice("10.244.1.5")).await?;

    let (health, metrics) = (free_port()?, free_port()?);
    let flags = [
        format!("--kubeconfig={}", cluster.kubeconfig().display()),
        "--hostname-override=node1".to_owned(),
        "--proxy-mode=iptables".to_owned(),
        "--cluster-cidr=10.244.0.0/16".to_owned(),
        format!("--healthz-bind-address=127.0.0.1:{health}"),
        format!("--metrics-bind-address=127.0.0.1:{metrics}"),
        "--iptables-sync-period=30s".to_owned(),
        "--nodeport-addresses=127.0.0.0/8".to_owned(),
        "--v=2".to_owned(),
    ];
    let mut proxy = Binary::start(env!("CARGO_BIN_EXE_kube-proxy"), &flags)?;
    let rules = || {
        let saved = Command::new("iptables-save").args(["-t", "nat"]).output().ok();
        saved.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    };
    let written =
        async |to: &str| Some(rules()).filter(|rules| rules.contains(&format!("--to-destination {to}:8080")));
    let text = proxy.until("rules are written", async || written("10.244.1.5").await).await?;
    anyhow::ensure!(text.contains(&format!("-d {ip}/32")), "{text}");
    proxy
        .until("it is healthy", async || http_get(health, "/healthz").filter(|(status, _)| *status == 200))
        .await?;
    anyhow::ensure!(http_get(metrics, "/proxyMode").is_some_and(|(_, mode)| mode == "iptables"));
    let (_, figures) = http_get(metrics, "/metrics").unwrap_or_default();
    anyhow::ensure!(figures.contains("kubeproxy_sync_proxy_rules_duration_seconds_count"), "{figures}");

    cluster.ok("PUT", &format!("{slices}/web"), &slice("10.244.2.6")).await?;
    let text = proxy.until("rules follow", async || written("10.244.2.6").await).await?;
    anyhow::ensure!(!text.contains("10.244.1.5"), "{text}");
    anyhow::ensure!(proxy.stop().await?, "it did not end well");
    anyhow::ensure!(rules().contains("10.244.2.6"), "rules stay without the proxy");
    cluster.ok("DELETE", "/api/v1/namespaces/default/services/web", &Value::Null).await?;
    cluster.stop().await;
    Ok(())
}
