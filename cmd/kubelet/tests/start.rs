//! The binary with upstream's flags on a real containerd, in namespaces of its own: its node becomes ready.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use integration::Cluster;
use integration::binary::{Binary, able, free_port, http_get};
use serde_json::Value;

/// Set inside the machine: the directory that is its disk.
const INSIDE: &str = "KUBELET_START_TEST";
const MACHINE: &str = include_str!("../../../pkg/kubelet/tests/machine.sh");
/// Kernel settings are the machine's below this one: the kubelet gets files that look as it wants them.
const SETTINGS: &str = "for kv in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
     kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do \
     f=$DIR/$(echo ${kv%=*} | tr / -); echo ${kv#*=} > $f; mount --bind $f /proc/sys/${kv%=*}; done";

#[test]
fn starts_with_upstreams_flags() {
    let needed = ["unshare", "ip", "containerd", "runc", "busybox", "/usr/lib/cni/ptp"];
    if std::env::var_os(INSIDE).is_some() || !able(&needed) {
        return;
    }
    let disk = tempfile::tempdir().expect("a directory");
    let machine = disk.path().join("machine.sh");
    std::fs::write(&machine, MACHINE).expect("written");
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let own = std::env::current_exe().expect("this program");
    let inner = format!("{SETTINGS}; exec {} --exact inside --nocapture", own.display());
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--uts", "--ipc", "--cgroup", "--pid", "--fork", "--kill-child"])
        .args([Path::new("sh"), &machine, Path::new("sh"), Path::new("-c"), Path::new(&inner)])
        .env(INSIDE, disk.path())
        .env("DIR", disk.path())
        .env("CGROUP", if v2 { "v2" } else { "v1" })
        .output()
        .expect("unshare runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "inside:\n{text}\n{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside() {
    if let Some(disk) = std::env::var_os(INSIDE).map(PathBuf::from) {
        story(&disk).await.expect("the story");
    }
}

/// Containerd, ended with the test.
struct Containerd(Child);

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn story(disk: &Path) -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let log = std::fs::File::create(disk.join("containerd.log"))?;
    let containerd = Command::new("containerd")
        .args(["-c", &disk.join("containerd.toml").to_string_lossy()])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let _containerd = Containerd(containerd);
    let config = disk.join("kubelet.yaml");
    std::fs::write(
        &config,
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nfailSwapOn: false\n\
         authentication: {webhook: {enabled: false}}\nauthorization: {mode: AlwaysAllow}\nmaxPods: 5\n",
    )?;
    let (port, health) = (free_port()?, free_port()?);
    let flags = [
        format!("--config={}", config.display()),
        format!("--kubeconfig={}", cluster.kubeconfig().display()),
        format!("--root-dir={}", disk.join("kubelet").display()),
        "--container-runtime-endpoint=unix:///run/containerd/containerd.sock".to_owned(),
        "--hostname-override=node1".to_owned(),
        "--node-ip=127.0.0.1".to_owned(),
        "--node-labels=example.com/rack=r1".to_owned(),
        "--register-with-taints=example.com/new=true:NoSchedule".to_owned(),
        "--cgroups-per-qos=false".to_owned(),
        "--enforce-node-allocatable=".to_owned(),
        "--eviction-hard=memory.available<1Mi".to_owned(),
        "--feature-gates=NodeSwap=true".to_owned(),
        "--tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_AES_128_GCM_SHA256".to_owned(),
        format!("--port={port}"),
        format!("--healthz-port={health}"),
        "--max-pods=7".to_owned(),
        "--v=2".to_owned(),
    ];
    let mut kubelet = Binary::start(env!("CARGO_BIN_EXE_kubelet"), &flags)?;
    let path = "/api/v1/nodes/node1";
    let node = kubelet
        .until("the node is ready", async || {
            let node = cluster.ok("GET", path, &Value::Null).await.ok()?;
            let conditions = node["status"]["conditions"].as_array()?;
            let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            ready.then_some(node)
        })
        .await?;
    anyhow::ensure!(node["status"]["capacity"]["pods"] == "7", "flags win over the file: {node}");
    anyhow::ensure!(node["metadata"]["labels"]["example.com/rack"] == "r1", "{node}");
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    anyhow::ensure!(taints.iter().any(|t| t["key"] == "example.com/new"), "{node}");
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node1";
    kubelet.until("its lease is there", async || cluster.ok("GET", lease, &Value::Null).await.ok()).await?;
    anyhow::ensure!(http_get(health, "/healthz").is_some_and(|(status, _)| status == 200));
    anyhow::ensure!(kubelet.stop().await?, "it did not end well");
    cluster.stop().await;
    Ok(())
}
