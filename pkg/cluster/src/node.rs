//! The first process of a node: sets up its file system, starts containerd and the agent, keeps them running, and
//! collects every process that is orphaned into it. When it ends, the kernel ends everything in the node.
//!
//! Single-threaded and synchronous: it only waits for children.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname, setsid};

use crate::process::open_log;
use crate::spec::{Paths, Spec};
use crate::{Error, cgroups, make_directory, preflight, write_file};

/// First pause before a child that ended is started again; doubled each time up to [`MAX_RESTART_PAUSE`].
const MIN_RESTART_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause before a restart.
const MAX_RESTART_PAUSE: Duration = Duration::from_secs(30);
/// A child that ran this long is healthy: its next restart is quick again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Directories of a node that are its own, as (name below `disk`, path in the node).
const PRIVATE: [(&str, &str); 7] = [
    ("kubelet", "/var/lib/kubelet"),
    ("containerd", "/var/lib/containerd"),
    ("log", "/var/log"),
    ("cni-net.d", "/etc/cni/net.d"),
    ("cni", "/var/lib/cni"),
    ("kubernetes", "/etc/kubernetes"),
    ("opt", "/opt/kubewright"),
];

/// Runs the node until it is killed. Only returns on a failure to start.
pub fn run(paths: &Paths, spec: &Spec, node: &str) -> Result<(), Error> {
    // A session of its own: no terminal's hang-up reaches the node.
    setsid().map_err(Error::system("setsid"))?;
    let directory = paths.node(node);
    write_configuration(paths, spec, node)?;
    set_up_file_system(&directory)?;
    sethostname(node).map_err(Error::system("sethostname"))?;
    let children = vec![
        Child::new("containerd", paths.log(&format!("{node}-containerd")), move || {
            let mut command = Command::new("containerd");
            command.arg("--config").arg("/etc/kubernetes/containerd.toml");
            command
        }),
        Child::new("agent", paths.log(&format!("{node}-agent")), {
            let (data, name, node) = (paths.root.clone(), spec.name.clone(), node.to_owned());
            move || {
                let mut command = Command::new("/proc/self/exe");
                command.arg("agent").arg("--data-dir").arg(data.parent().unwrap_or(&data));
                command.args(["--name", &name, "--node", &node]);
                command
            }
        }),
    ];
    supervise(children)
}

fn bind(source: &Path, target: &Path) -> Result<(), Error> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(Error::system(format!("mount {} on {}", source.display(), target.display())))
}

fn mount_new(kind: &str, source: &str, target: &Path, options: Option<&str>) -> Result<(), Error> {
    make_directory(target)?;
    mount(Some(source), target, Some(kind), MsFlags::empty(), options)
        .map_err(Error::system(format!("mount {kind} on {}", target.display())))
}

fn set_up_file_system(directory: &Path) -> Result<(), Error> {
    let root = Path::new("/");
    let propagate = |flags| {
        mount(None::<&str>, root, None::<&str>, flags | MsFlags::MS_REC, None::<&str>)
            .map_err(Error::system("change mount propagation"))
    };
    propagate(MsFlags::MS_PRIVATE)?;
    let hierarchies = cgroups::hierarchies()?;
    let unified_only = cgroups::unified_only();
    mount_new("proc", "proc", Path::new("/proc"), None)?;
    mount_new("tmpfs", "tmpfs", Path::new("/run"), Some("mode=755"))?;
    mount_new("sysfs", "sysfs", Path::new("/sys"), None)?;
    let cgroup_root = Path::new("/sys/fs/cgroup");
    if unified_only {
        mount_new("cgroup2", "cgroup2", cgroup_root, None)?;
    } else {
        mount_new("tmpfs", "tmpfs", cgroup_root, Some("mode=755"))?;
        for hierarchy in hierarchies {
            let target = cgroup_root.join(&hierarchy.mount);
            match hierarchy.controllers.as_str() {
                "" => mount_new("cgroup2", "cgroup2", &target, None)?,
                named if named.starts_with("name=") => {
                    mount_new("cgroup", "cgroup", &target, Some(&format!("none,{named}")))?;
                }
                controllers => mount_new("cgroup", "cgroup", &target, Some(controllers))?,
            }
            if hierarchy.mount.contains(',') {
                for controller in hierarchy.mount.split(',') {
                    let link = cgroup_root.join(controller);
                    std::os::unix::fs::symlink(&hierarchy.mount, &link)
                        .map_err(Error::file("link", &link))?;
                }
            }
        }
    }
    for path in ["/run/containerd", "/run/lock", "/run/netns"] {
        make_directory(Path::new(path))?;
    }
    for (name, target) in PRIVATE {
        let source = directory.join("disk").join(name);
        make_directory(&source)?;
        make_directory(Path::new(target))?;
        bind(&source, Path::new(target))?;
    }
    for name in ["hostname", "hosts", "resolv.conf"] {
        let target = Path::new("/etc").join(name);
        if target.exists() {
            bind(&directory.join("etc").join(name), &target)?;
        }
    }
    // Volumes with mount propagation need shared mounts.
    propagate(MsFlags::MS_SHARED)
}

fn write_configuration(paths: &Paths, spec: &Spec, node: &str) -> Result<(), Error> {
    let directory = paths.node(node);
    let etc = directory.join("etc");
    write_file(&etc.join("hostname"), format!("{node}\n"), 0o644)?;
    // No resolver is reachable from a node but cluster DNS, which the kubelet names to pods itself.
    write_file(&etc.join("resolv.conf"), "", 0o644)?;
    let mut hosts = format!("127.0.0.1 localhost\n{} control-plane\n", Spec::control_plane_ip());
    for (index, name) in (1u8..).zip(spec.node_names()) {
        hosts.push_str(&format!("{} {name}\n", Spec::node_ip(index)));
    }
    write_file(&etc.join("hosts"), hosts, 0o644)?;
    let cni = preflight::cni_directory().ok_or_else(|| {
        Error::Refused("CNI plug-ins are missing; install containernetworking-plugins".into())
    })?;
    // Without CAP_SYS_RESOURCE a container's OOM score cannot be lowered; restricting it only matters there.
    let containerd = format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = {restrict}
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"#,
        pause = pauseimage::NAME,
        restrict = !can_lower_oom_score(),
    );
    write_file(&directory.join("disk/kubernetes/containerd.toml"), containerd, 0o644)
}

/// Whether this process may lower OOM scores: CAP_SYS_RESOURCE is bit 24 of the effective set (capabilities(7)).
fn can_lower_oom_score() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .is_some_and(|set| set >> CAP_SYS_RESOURCE & 1 == 1)
}

/// A program the supervisor keeps running.
struct Child {
    name: &'static str,
    log: PathBuf,
    command: Box<dyn Fn() -> Command>,
    pid: Option<Pid>,
    started: Instant,
    pause: Duration,
    due: Option<Instant>,
}

impl Child {
    fn new(name: &'static str, log: PathBuf, command: impl Fn() -> Command + 'static) -> Self {
        let now = Instant::now();
        Self {
            name,
            log,
            command: Box::new(command),
            pid: None,
            started: now,
            pause: MIN_RESTART_PAUSE,
            due: Some(now),
        }
    }

    fn start(&mut self, now: Instant) {
        self.due = None;
        let spawned = open_log(&self.log).ok().and_then(|log| {
            let errors = log.try_clone().ok()?;
            (self.command)().stdin(Stdio::null()).stdout(log).stderr(errors).spawn().ok()
        });
        match spawned {
            Some(child) => {
                self.pid = Some(Pid::from_raw(child.id() as i32));
                self.started = now;
            }
            None => self.schedule(now),
        }
    }

    fn ended(&mut self, now: Instant, how: &str) {
        tracing::warn!(child = self.name, how, "ended, starting it again");
        self.pid = None;
        if now.duration_since(self.started) > HEALTHY_AFTER {
            self.pause = MIN_RESTART_PAUSE;
        }
        self.schedule(now);
    }

    fn schedule(&mut self, now: Instant) {
        self.due = Some(now + self.pause);
        self.pause = (self.pause * 2).min(MAX_RESTART_PAUSE);
    }
}

fn supervise(mut children: Vec<Child>) -> Result<(), Error> {
    let mut collected: BTreeMap<Pid, String> = BTreeMap::new();
    loop {
        let now = Instant::now();
        for child in &mut children {
            if let Some(how) = child.pid.and_then(|pid| collected.remove(&pid)) {
                child.ended(now, &how);
            }
            if child.due.is_some_and(|due| due <= now) {
                child.start(now);
            }
        }
        collected.clear();
        let next = children.iter().filter_map(|c| c.due).min();
        let wait_flag = if next.is_some() { Some(WaitPidFlag::WNOHANG) } else { None };
        match waitpid(None, wait_flag) {
            Ok(WaitStatus::Exited(pid, code)) => drop(collected.insert(pid, format!("exit status {code}"))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                drop(collected.insert(pid, format!("signal {signal}")));
            }
            Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => {
                let pause =
                    next.map_or(MIN_RESTART_PAUSE, |due| due.saturating_duration_since(Instant::now()));
                std::thread::sleep(pause.clamp(Duration::from_millis(1), MIN_RESTART_PAUSE));
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(source) => return Err(Error::system("wait for children")(source)),
        }
    }
}
