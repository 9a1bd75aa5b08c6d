//! The binary against an API server in this process: it syncs, is ready, and answers for a Service.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use integration::Cluster;
use integration::binary::{Binary, free_port, http_get};
use serde_json::json;

/// A question for the A record of a name.
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

fn ask(port: u16, name: &str) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    socket.send_to(&question(name), (Ipv4Addr::LOCALHOST, port)).ok()?;
    let mut answer = vec![0; 512];
    let length = socket.recv(&mut answer).ok()?;
    answer.truncate(length);
    Some(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_and_answers() {
    story().await.expect("the story");
}

async fn story() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"ports": [{"port": 80}]}});
    let made = cluster.ok("POST", "/api/v1/namespaces/default/services", &service).await?;
    let ip: Ipv4Addr = made["spec"]["clusterIP"].as_str().unwrap_or_default().parse()?;
    let (listen, health) = (free_port()?, free_port()?);
    let flags = [
        format!("--kubeconfig={}", cluster.kubeconfig().display()),
        format!("--listen=127.0.0.1:{listen}"),
        format!("--health-address=127.0.0.1:{health}"),
        "--domain=cluster.test".to_owned(),
    ];
    let mut dns = Binary::start(env!("CARGO_BIN_EXE_cluster-dns"), &flags)?;
    dns.until("it is ready", async || http_get(health, "/ready").filter(|(status, _)| *status == 200))
        .await?;
    let answer = ask(listen, "web.default.svc.cluster.test").unwrap_or_default();
    anyhow::ensure!(answer.ends_with(&ip.octets()), "{answer:?} does not end with {ip}");
    let absent = ask(listen, "none.default.svc.cluster.test").unwrap_or_default();
    anyhow::ensure!(absent.get(3).is_some_and(|flags| flags & 0xf == 3), "not NXDOMAIN: {absent:?}");
    anyhow::ensure!(dns.stop().await?, "it did not end well");
    cluster.stop().await;
    Ok(())
}
