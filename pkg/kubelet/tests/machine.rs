//! The kubelet on a real containerd, in namespaces of its own: static pods, restarts of everything, and what is left.
//!
//! Needs root, containerd, runc, the CNI plugins and a static busybox; without them there is nothing to show: the test
//! says so, and fails where `CI` is set. Nothing outside the namespaces is touched but a cgroup, which is removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cri::api;
use kubelet::{Config, Flags, KubeletConfiguration};
use tokio_util::sync::CancellationToken;

/// Set inside the machine: the directory that is its disk.
const INSIDE: &str = "KUBELET_TEST_MACHINE";
const SCRIPT: &str = include_str!("machine.sh");
const SOCKET: &str = "/run/containerd/containerd.sock";
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: test}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: init, image: "test.local/busybox:1", imagePullPolicy: Never, command: [sh, -c, "echo made > /data/index.html"], volumeMounts: [{name: data, mountPath: /data}]}
  containers:
  - name: main
    image: test.local/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, "echo serving $(WHO); httpd -f -p 80 -h /data"]
    env: [{name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    resources: {limits: {cpu: 500m, memory: 64Mi}}
    readinessProbe: {httpGet: {port: 80, path: /index.html}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
"#;

#[allow(clippy::print_stderr, reason = "the harness shows it to whoever runs the tests")]
fn able() -> bool {
    let there = |program: &str| {
        Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    let root =
        fs::read_to_string("/proc/self/status").is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:\t0\t")));
    let programs = ["containerd", "runc", "busybox", "unshare", "ctr", "ip"];
    let mut missing: Vec<&str> = programs.into_iter().filter(|program| !there(program)).collect();
    if !root {
        missing.push("root");
    }
    if !Path::new("/usr/lib/cni/ptp").exists() {
        missing.push("/usr/lib/cni/ptp");
    }
    if missing.is_empty() {
        return true;
    }
    let text = format!("SKIPPED, for want of {}", missing.join(", "));
    assert!(std::env::var_os("CI").is_none(), "{text}");
    eprintln!("{text}");
    false
}

/// Cgroup directories of this process with `name` below them, in every hierarchy.
fn cgroups(name: &str) -> (Vec<PathBuf>, bool) {
    let base = Path::new("/sys/fs/cgroup");
    let v2 = base.join("cgroup.controllers").exists();
    let text = fs::read_to_string("/proc/self/cgroup").expect("cgroups are listed");
    let dirs = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let root = match controllers {
            "" if v2 => base.to_owned(),
            "" => base.join("unified"),
            other => base.join(other.trim_start_matches("name=")),
        };
        root.is_dir().then(|| root.join(path).join(name))
    });
    (dirs.collect(), v2)
}

fn remove_cgroup(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

#[test]
fn static_pods_on_containerd() {
    if std::env::var_os(INSIDE).is_some() || !able() {
        return;
    }
    let disk = tempfile::tempdir().expect("a directory");
    let script = disk.path().join("machine.sh");
    fs::write(&script, SCRIPT).expect("written");
    let (dirs, v2) = cgroups(&format!("kubelet-test-{}", std::process::id()));
    let mut join = String::new();
    for dir in &dirs {
        if fs::create_dir_all(dir).is_err() {
            continue;
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let (Some(parent), true) = (dir.parent(), dir.join(file).exists()) {
                let _ = fs::copy(parent.join(file), dir.join(file));
            }
        }
        join.push_str(&format!("echo $$ > {}/cgroup.procs 2>/dev/null || true; ", dir.display()));
    }
    let own = std::env::current_exe().expect("this program");
    let command = format!(
        "{join} exec unshare --net --mount --uts --ipc --cgroup --pid --fork --kill-child sh {} {} --exact inside --nocapture",
        script.display(),
        own.display()
    );
    let output = Command::new("sh")
        .args(["-c", &command])
        .env(INSIDE, disk.path())
        .env("DIR", disk.path())
        .env("CGROUP", if v2 { "v2" } else { "v1" })
        .output()
        .expect("sh runs");
    // The machine's init is gone, and with it everything that ran in it; cgroups empty a moment later.
    let started = Instant::now();
    while dirs.iter().any(|d| d.exists()) && started.elapsed() < Duration::from_secs(10) {
        for dir in &dirs {
            remove_cgroup(dir);
        }
        std::thread::yield_now();
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "inside:\n{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "nothing ran: {}", text(&output.stdout));
    assert!(!dirs.iter().any(|d| d.exists()), "cgroups are left: {dirs:?}");
}

/// Containerd, ended with the test.
struct Containerd(Child);

impl Containerd {
    fn start(disk: &Path) -> Self {
        let log =
            fs::File::options().create(true).append(true).open(disk.join("containerd.log")).expect("a log");
        let child = Command::new("containerd")
            .args(["-c", &disk.join("containerd.toml").to_string_lossy()])
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("containerd starts");
        Self(child)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `found` finds something.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, found: impl Fn() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = found().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn running(runtime: &cri::Runtime, name: &str) -> Option<api::Container> {
    let labels = [(kubelet::names::CONTAINER_NAME, name)];
    let all = runtime.list_containers(&labels).await.ok()?;
    all.into_iter().find(|c| c.state() == api::ContainerState::ContainerRunning)
}

fn start_kubelet(disk: &Path) -> (CancellationToken, tokio::task::JoinHandle<Result<(), kubelet::Error>>) {
    let text = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nstaticPodPath: {0}/manifests\n\
         authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}\nauthorization: {{mode: AlwaysAllow}}\n\
         address: 127.0.0.1\nfailSwapOn: false\nevictionHard: {{memory.available: '1'}}\n",
        disk.display()
    );
    let (file, warnings) =
        KubeletConfiguration::parse(&text, Path::new("kubelet.yaml")).expect("a configuration");
    assert!(warnings.is_empty(), "{warnings:?}");
    let flags = Flags {
        hostname_override: Some("node".into()),
        node_ips: vec!["127.0.0.1".parse().expect("an address")],
        root_dir: Some(disk.join("kubelet")),
        ..Flags::default()
    };
    let config = Config::new(&file, &flags, "node").expect("valid");
    // There is no API server: static pods run without one.
    let api = kube::Config::new("http://127.0.0.1:1/".parse().expect("a URL"));
    let client = kube::Client::try_from(api).expect("a client");
    let shutdown = CancellationToken::new();
    (shutdown.clone(), tokio::spawn(kubelet::run(config, client, shutdown)))
}

#[test]
fn inside() {
    let Some(disk) = std::env::var_os(INSIDE).map(PathBuf::from) else { return };
    component::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(story(&disk));
}

async fn story(disk: &Path) {
    let containerd = Containerd::start(disk);
    let runtime = cri::Runtime::connect(SOCKET, cri::Timeouts::default()).expect("a socket");
    until("containerd answers", async || runtime.version().await.ok()).await;
    let image = disk.join("image.tar");
    let imported = Command::new("ctr")
        .args(["-n", "k8s.io", "images", "import"])
        .arg(&image)
        .output()
        .expect("ctr runs");
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    fs::create_dir_all(disk.join("manifests")).expect("made");
    let manifest = disk.join("manifests/web.yaml");
    fs::write(&manifest, MANIFEST).expect("written");

    let (stop, kubelet) = start_kubelet(disk);
    let main = until("the pod runs", async || running(&runtime, "main").await).await;
    assert_eq!(main.annotations[kubelet::names::RESTART_COUNT], "0");
    let uid = main.labels[kubelet::names::POD_UID].clone();
    let log = format!("/var/log/pods/test_web-node_{uid}/main/0.log");
    until("its log says so", async || {
        fs::read_to_string(&log).ok().filter(|text| text.contains("stdout F serving web-node"))
    })
    .await;
    let sandbox = runtime.list_sandboxes(&[]).await.expect("listed").remove(0);
    let ip = runtime.sandbox_status(&sandbox.id).await.expect("a status").network.expect("a network").ip;
    let target = kubelet::check::HttpTarget {
        tls: false,
        host: ip,
        port: 80,
        path: "/index.html".into(),
        headers: vec![],
    };
    until("it serves what its init container made", async || {
        let outcome = kubelet::check::http_get(&target, Duration::from_secs(1)).await;
        (outcome == kubelet::check::Outcome::Success).then_some(())
    })
    .await;
    let limit = runtime.container_status(&main.id).await.expect("a status").resources.and_then(|r| r.linux);
    if let Some(limit) = limit {
        assert_eq!(limit.memory_limit_in_bytes, 64 << 20);
    }

    // The kubelet restarts, and so does containerd: no container is touched.
    stop.cancel();
    kubelet.await.expect("no panic").expect("a clean end");
    let (stop, kubelet) = start_kubelet(disk);
    drop(containerd);
    let containerd = Containerd::start(disk);
    until("containerd answers again", async || runtime.version().await.ok()).await;
    let same = until("the container is there", async || running(&runtime, "main").await).await;
    assert_eq!(same.id, main.id);

    // A container that dies is started again, and counted.
    runtime.stop_container(&main.id, Duration::ZERO).await.expect("stopped");
    let next =
        until("another one runs", async || running(&runtime, "main").await.filter(|c| c.id != main.id)).await;
    assert_eq!(next.annotations[kubelet::names::RESTART_COUNT], "1");

    // Without its manifest nothing of the pod stays.
    fs::remove_file(&manifest).expect("removed");
    until("everything is gone", async || {
        let (containers, sandboxes) =
            (runtime.list_containers(&[]).await.ok()?, runtime.list_sandboxes(&[]).await.ok()?);
        let files = disk.join("kubelet/pods").join(&uid).exists() || Path::new(&log).exists();
        (containers.is_empty() && sandboxes.is_empty() && !files).then_some(())
    })
    .await;
    let left = Command::new("sh")
        .args(["-c", "ls -d /sys/fs/cgroup/*/kubepods/*pod* /sys/fs/cgroup/kubepods/*pod* 2>/dev/null"])
        .output();
    assert_eq!(String::from_utf8_lossy(&left.expect("sh runs").stdout), "");
    stop.cancel();
    kubelet.await.expect("no panic").expect("a clean end");
    drop(containerd);
}
