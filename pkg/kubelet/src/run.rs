//! Putting the kubelet together and running it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use client::events::{EventApi, EventRecorder, EventSource};
use client::{InformerFactory, Selection};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use tokio_util::sync::CancellationToken;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::images::Images;
use crate::kubelet::{Kubelet, NodeState};
use crate::node::{Machine, NodeAgent};
use crate::objects::Objects;
use crate::pods::{Overview, Pods, StaticPods};
use crate::resources::{NodeFacts, milli_cpu_to_shares, value};
use crate::statuses::Statuses;
use crate::{eviction, upkeep};

/// Why the kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime's endpoint is malformed.
    #[error(transparent)]
    Runtime(#[from] cri::Error),
    /// A directory the kubelet needs cannot be made.
    #[error("cannot make {path}: {source}")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The machine swaps, and the configuration says that it must not.
    #[error("running with swap on is not supported, please disable swap or set failSwapOn to false")]
    Swap,
    /// The machine has the old cgroup hierarchy, and the configuration says that it must not.
    #[error(
        "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is in maintenance mode"
    )]
    CgroupV1,
    /// Only cgroup v2 can kill a container as a whole.
    #[error(
        "invalid configuration: singleProcessOOMKill must not be explicitly set to false when using cgroup v1"
    )]
    SingleProcessOomKill,
    /// The server cannot listen or has no certificate.
    #[error("kubelet server: {0}")]
    Server(String),
}

/// First and longest wait for a runtime that does not answer at start.
const RUNTIME_WAIT: Duration = Duration::from_millis(200);
const RUNTIME_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long shutdown waits for each part.
const DRAIN: Duration = Duration::from_secs(6);

/// How the kubelet talks to the API: each client has its own rate, so that events never hold up heartbeats.
#[derive(Clone)]
pub struct Clients {
    /// For everything else (`kubeAPIQPS`).
    pub api: kube::Client,
    /// For events (`eventRecordQPS`).
    pub events: kube::Client,
    /// For the node's lease and status, never held back.
    pub heartbeats: kube::Client,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl From<kube::Client> for Clients {
    fn from(client: kube::Client) -> Self {
        Self { api: client.clone(), events: client.clone(), heartbeats: client }
    }
}

/// Runs the kubelet until shutdown. Containers are left running.
pub async fn run(
    config: Config,
    clients: impl Into<Clients>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let clients: Clients = clients.into();
    let client = clients.api;
    prepare(&config)?;
    let timeouts = cri::Timeouts { request: config.runtime_request_timeout, ..cri::Timeouts::default() };
    let runtime = cri::Runtime::connect(&config.runtime_endpoint, timeouts)?;
    let machine = Machine::detect();

    let factory = InformerFactory::new(client.clone());
    let own = format!("spec.nodeName={}", config.node_name);
    let pods = factory.informer_for::<Pod>(Selection::fields(own));
    let services = factory.informer::<Service>();
    let nodes =
        factory.informer_for::<Node>(Selection::fields(format!("metadata.name={}", config.node_name)));
    let objects = Objects::new(client.clone(), services.store(), nodes.store(), config.always_get_objects);

    let source = EventSource { component: "kubelet".to_owned(), instance: config.node_name.clone() };
    let (events, events_task) =
        EventRecorder::start(clients.events, EventApi::Core, source, shutdown.clone());

    let Some(version) = wait_for_runtime(&runtime, &shutdown).await else { return Ok(()) };
    tracing::info!(
        runtime = version.name,
        version = version.version,
        api = version.api_version,
        "container runtime initialized"
    );
    let cgroups = Cgroups::detect(&config.cgroup_root, config.pod_pids_limit, config.cgroups_per_qos);
    let facts = NodeFacts {
        cpus: machine.cpus,
        memory: machine.memory,
        kill_whole_containers: cgroups.is_v2() && config.single_process_oom_kill != Some(true),
        enforce_cpu_quota: config.cpu_cfs_quota,
    };
    if let Some(cidr) = &config.pod_cidr
        && let Err(error) = runtime.set_pod_cidr(cidr).await
    {
        tracing::warn!(%error, "failed to update pod CIDR");
    }
    let capacity = machine.capacity(&config);
    let allocatable = machine.allocatable(&config, &capacity);
    let bound = allocatable.get("memory").and_then(value).filter(|_| config.enforce_node_allocatable);
    if let Err(error) = cgroups.setup(bound, milli_cpu_to_shares(machine.cpus * 1000)) {
        tracing::warn!(%error, "cannot set up the cgroups of pods");
    }
    let parallel = if config.serialize_image_pulls { 1 } else { config.max_parallel_image_pulls };
    let kubelet = Arc::new(Kubelet {
        images: Images::new(runtime.clone(), parallel, config.pull_rate),
        heartbeats: clients.heartbeats,
        volume_stats: crate::volumestats::VolumeStats::default(),
        runtime,
        runtime_name: version.name,
        objects,
        statuses: Arc::new(Statuses::default()),
        cgroups,
        facts,
        events,
        node: ArcSwap::from_pointee(NodeState {
            ips: config.node_ips.iter().map(ToString::to_string).collect(),
            allocatable,
        }),
        config,
    });
    let overview = Arc::new(Overview::default());
    let statics = StaticPods::default();

    factory.start(shutdown.clone());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(kubelet.statuses.clone().run(client, shutdown.clone()));
    let agent = NodeAgent::new(kubelet.clone(), overview.clone(), machine, version.version);
    tasks.spawn(agent.run(shutdown.clone()));
    tasks.spawn(NodeAgent::keep_lease(kubelet.clone(), shutdown.clone()));
    let main = Pods::new(
        kubelet.clone(),
        overview.clone(),
        pods.clone(),
        services.clone(),
        statics.clone(),
        shutdown.clone(),
    );
    tasks.spawn(main.run());
    let (poke, stop) = (overview.clone(), shutdown.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = services.synced() => poke.poke(),
        }
    });
    tasks.spawn(crate::statics::run(kubelet.clone(), overview.clone(), pods, statics, shutdown.clone()));
    tasks.spawn(upkeep::run(kubelet.clone(), overview.clone(), shutdown.clone()));
    tasks.spawn(eviction::run(kubelet.clone(), overview.clone(), shutdown.clone()));
    if kubelet.config.iptables_chains {
        crate::firewall::set_up().await;
    }
    crate::server::start(&mut tasks, kubelet.clone(), overview.clone(), shutdown.clone())
        .await
        .map_err(Error::Server)?;

    shutdown.cancelled().await;
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::warn!("not all parts of the kubelet ended in time");
    }
    let _ = tokio::time::timeout(DRAIN, events_task).await;
    Ok(())
}

fn prepare(config: &Config) -> Result<(), Error> {
    for sub in ["", "pods", "plugins", "plugins_registry", "pod-resources", "seccomp"] {
        let path = config.root_dir.join(sub);
        std::fs::create_dir_all(&path)
            .map_err(|source| Error::Directory { path: path.display().to_string(), source })?;
    }
    for path in [crate::names::POD_LOGS, crate::names::CONTAINER_LOGS] {
        std::fs::create_dir_all(path).map_err(|source| Error::Directory { path: path.to_owned(), source })?;
    }
    let v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if !v2 && config.fail_cgroup_v1 {
        return Err(Error::CgroupV1);
    }
    if !v2 && config.single_process_oom_kill == Some(false) {
        return Err(Error::SingleProcessOomKill);
    }
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if config.fail_swap_on && swaps.lines().skip(1).any(|l| !l.trim().is_empty()) {
        return Err(Error::Swap);
    }
    Ok(())
}

/// Waits for the runtime to answer; `None` when shutdown came first.
async fn wait_for_runtime(runtime: &cri::Runtime, shutdown: &CancellationToken) -> Option<cri::RuntimeInfo> {
    let mut delay = RUNTIME_WAIT;
    loop {
        match runtime.version().await {
            Ok(version) => return Some(version),
            Err(error) => {
                tracing::warn!(socket = %runtime.socket().display(), %error, "container runtime does not answer yet");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(delay) => {}
        }
        delay = (delay * 2).min(RUNTIME_WAIT_MAX);
    }
}
