//! One task a pod: looks at the runtime, decides, acts, reports, and waits for the next reason to look.
//!
//! The rules are in [`crate::decide`] and [`crate::status`]; here is only their order and what may interrupt what.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::decide::{Action, Decision, Ended, View, decide};
use crate::kubelet::Kubelet;
use crate::metrics::METRICS;
use crate::podutil::{Kind, PodExt};
use crate::probes::Probes;
use crate::runtime::{PodRuntime, inspect};
use crate::status::{self, Input, Reasons};
use crate::volumes::{self, Volumes};

mod end;
mod files;
mod kill;
mod resize;
mod start;

/// First delay of a container that keeps failing.
const FIRST_RESTART_DELAY: Duration = Duration::from_secs(10);
/// Steps in a row without waiting; beyond that the worker yields and looks again.
const MAX_STEPS: usize = 32;
/// Wait before trying again what failed.
const RETRY: Duration = Duration::from_secs(10);
/// Wait while the runtime cannot be reached; doubles to [`RUNTIME_RETRY_MAX`].
const RUNTIME_RETRY: Duration = Duration::from_secs(1);
const RUNTIME_RETRY_MAX: Duration = Duration::from_secs(15);
/// Pause between tries to set up volumes; doubles to [`VOLUME_RETRY_MAX`], upstream's bounds.
const VOLUME_RETRY: Duration = Duration::from_millis(500);
const VOLUME_RETRY_MAX: Duration = Duration::from_secs(122);

/// What a worker is told from outside.
#[derive(Debug, Clone)]
pub struct Orders {
    /// The newest spec.
    pub pod: Arc<Pod>,
    /// Uid of the API object: the mirror pod's for a static pod, `None` while it has none.
    pub api_uid: Option<String>,
    /// The pod's sources are gone: leave nothing of it.
    pub removed: bool,
    /// The kubelet ends the pod (eviction, shutdown).
    pub ended: Option<Ended>,
}

impl Orders {
    fn is_over(&self) -> bool {
        self.removed || self.ended.is_some() || self.pod.is_deleting()
    }
}

/// A running worker as its owner sees it.
#[derive(Debug)]
pub struct Handle {
    /// Where its orders go.
    pub orders: watch::Sender<Orders>,
    /// Notified to make it look again.
    pub wake: Arc<Notify>,
    /// Its task.
    pub task: tokio::task::JoinHandle<()>,
}

/// Starts the worker of a pod. `refuse` is why the node does not admit it, if so.
pub fn spawn(
    kubelet: Arc<Kubelet>,
    orders: Orders,
    refuse: Option<Ended>,
    shutdown: CancellationToken,
) -> Handle {
    let wake = Arc::new(Notify::new());
    let crash_max = kubelet.config.crash_loop_max;
    let (sender, receiver) = watch::channel(orders.clone());
    let worker = Worker {
        pod: orders.pod.clone(),
        orders: receiver,
        wake: wake.clone(),
        runtime: PodRuntime::default(),
        probes: Probes::default(),
        backoff: Backoff::new(FIRST_RESTART_DELAY.min(crash_max), crash_max),
        reasons: Reasons::new(),
        volumes: None,
        volume_delay: VOLUME_RETRY,
        last_status: None,
        ended: refuse,
        finished: false,
        cgroup_ready: false,
        messages: HashMap::new(),
        given: HashMap::new(),
        seen: Instant::now(),
        kubelet,
    };
    let task = tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = worker.run() => {}
        }
    });
    Handle { orders: sender, wake, task }
}

/// When the volumes were last brought up to date, and what they are.
struct ReadyVolumes {
    volumes: Volumes,
    at: tokio::time::Instant,
    /// The pod's addresses in them.
    ips: Vec<String>,
    /// The pod's metadata in them.
    version: Option<String>,
}

struct Worker {
    kubelet: Arc<Kubelet>,
    pod: Arc<Pod>,
    orders: watch::Receiver<Orders>,
    wake: Arc<Notify>,
    runtime: PodRuntime,
    probes: Probes,
    backoff: Backoff,
    reasons: Reasons,
    volumes: Option<ReadyVolumes>,
    volume_delay: Duration,
    last_status: Option<PodStatus>,
    ended: Option<Ended>,
    finished: bool,
    cgroup_ready: bool,
    /// Last words of ended containers, by id: they are read once.
    messages: HashMap<String, String>,
    /// Resources containers were given, by id.
    given: HashMap<String, cri::api::LinuxContainerResources>,
    /// When this kubelet first saw the pod.
    seen: Instant,
}

/// What became of a look at the pod.
enum Next {
    /// Look again after this, or when something happens.
    Wait(Option<Duration>),
    /// Nothing is left of it.
    Gone,
}

impl Worker {
    async fn run(mut self) {
        let mut runtime_delay = RUNTIME_RETRY;
        METRICS.worker_start.observe(self.seen.elapsed().as_secs_f64());
        let mut operation = "create";
        loop {
            let started = Instant::now();
            let synced = self.sync().await;
            let seconds = started.elapsed().as_secs_f64();
            METRICS.worker.get_or_create(&[("operation_type", operation)]).observe(seconds);
            operation = "sync";
            let next = match synced {
                Ok(Next::Gone) => return,
                Ok(Next::Wait(delay)) => {
                    runtime_delay = RUNTIME_RETRY;
                    delay
                }
                Err(error) => {
                    tracing::warn!(pod = %self.pod.full_id(), %error, "error syncing pod, will retry");
                    let delay = runtime_delay;
                    runtime_delay = (runtime_delay * 2).min(RUNTIME_RETRY_MAX);
                    Some(delay)
                }
            };
            let timer = async {
                match next {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.orders.changed() => {
                    // The owner dropped us: it is shutting down.
                    if changed.is_err() {
                        return;
                    }
                    operation = "update";
                }
                () = self.wake.notified() => {}
                () = timer => {}
            }
        }
    }

    /// One look: as many steps as there are, then the status.
    async fn sync(&mut self) -> cri::Result<Next> {
        let orders = self.orders.borrow_and_update().clone();
        self.take(&orders);
        for _ in 0..MAX_STEPS {
            self.look().await?;
            let decision = self.decide(&orders);
            if let Some(ended) = decision.deadline {
                self.kubelet.pod_event(&self.pod, EventType::Normal, &ended.reason, &ended.message);
                self.ended = Some(ended);
                continue;
            }
            self.hold(&decision);
            if decision.finished {
                return self.finish(&orders).await;
            }
            self.report(&orders);
            if decision.actions.is_empty() {
                if self.resize().await {
                    continue;
                }
                return Ok(Next::Wait(self.idle(decision.wake).await));
            }
            match self.act(decision.actions, &orders).await? {
                Step::Again => {}
                Step::Retry(delay) => {
                    self.look().await?;
                    self.report(&orders);
                    let delay = decision.wake.map_or(delay, |w| w.min(delay));
                    return Ok(Next::Wait(Some(delay)));
                }
                Step::NewOrders => return Ok(Next::Wait(Some(Duration::ZERO))),
            }
        }
        Ok(Next::Wait(Some(RETRY)))
    }

    /// Takes over new orders. A pod keeps the status this worker gave it last, as the API's may be older.
    fn take(&mut self, orders: &Orders) {
        if self.ended.is_none() {
            self.ended.clone_from(&orders.ended);
        }
        let mut pod = (*orders.pod).clone();
        if let Some(last) = &self.last_status {
            let api = pod.status.take().unwrap_or_default();
            let mut merged = last.clone();
            status::keep_foreign_conditions(&mut merged, &api);
            pod.status = Some(merged);
        }
        self.pod = Arc::new(pod);
    }

    /// Looks at the runtime and at what the probes should be doing.
    async fn look(&mut self) -> cri::Result<()> {
        self.runtime = inspect(&self.kubelet.runtime, self.pod.uid()).await?;
        self.read_messages();
        self.probes.update(&self.kubelet, &self.pod, &self.runtime, &self.wake);
        // What runs has nothing to wait for any more.
        let runtime = &self.runtime;
        self.reasons
            .retain(|name, _| !runtime.latest(name).is_some_and(crate::runtime::ContainerRecord::is_running));
        Ok(())
    }

    fn decide(&self, orders: &Orders) -> Decision {
        decide(&View {
            pod: &self.pod,
            runtime: &self.runtime,
            health: &self.probes.view(),
            backoff: &self.backoff,
            ended: self.ended.as_ref(),
            removed: orders.removed,
            now: Timestamp::now(),
        })
    }

    /// Says why containers in back-off wait.
    fn hold(&mut self, decision: &Decision) {
        for held in &decision.held {
            let delay = component::flags::GoDuration(held.delay);
            let message = format!(
                "back-off {delay} restarting failed container={} pod={}",
                held.name,
                self.pod.full_id()
            );
            let reason = ("CrashLoopBackOff".to_owned(), message);
            if self.reasons.get(&held.name) != Some(&reason) {
                let note = format!(
                    "Back-off restarting failed container {} in pod {}",
                    held.name,
                    self.pod.full_id()
                );
                self.kubelet.container_event(
                    &self.pod,
                    held.kind,
                    &held.name,
                    EventType::Warning,
                    "BackOff",
                    &note,
                );
                self.reasons.insert(held.name.clone(), reason);
            }
        }
    }

    /// Carries out one step. Stops early at what cannot be done now.
    async fn act(&mut self, actions: Vec<Action>, orders: &Orders) -> cri::Result<Step> {
        let mut step = Step::Again;
        for action in actions {
            let result = match action {
                Action::KillPod { grace } => {
                    self.kill_pod(grace).await?;
                    Step::Again
                }
                Action::KillContainer { id, name, kind, reason, message } => {
                    self.kill_one(&id, &name, kind, reason, &message).await;
                    Step::Again
                }
                Action::CreateSandbox { attempt } => self.create_sandbox(attempt).await?,
                Action::Start { kind, name, attempt } => {
                    let mut watched = self.orders.clone();
                    let over = orders.is_over();
                    tokio::select! {
                        step = self.start(kind, &name, attempt) => step?,
                        () = until_over(&mut watched, over) => Step::NewOrders,
                    }
                }
            };
            match result {
                Step::Again => {}
                Step::NewOrders => return Ok(Step::NewOrders),
                // One container that cannot start does not keep the others from starting.
                Step::Retry(delay) => {
                    step = match step {
                        Step::Retry(other) => Step::Retry(other.min(delay)),
                        _ => Step::Retry(delay),
                    };
                }
            }
        }
        Ok(step)
    }

    /// Gives the status to whoever writes it.
    fn report(&mut self, orders: &Orders) {
        let node = self.kubelet.node.load();
        let status = status::generate(&Input {
            pod: &self.pod,
            runtime: &self.runtime,
            health: &self.probes.view(),
            reasons: &self.reasons,
            ended: self.ended.as_ref(),
            finished: self.finished,
            runtime_name: &self.kubelet.runtime_name,
            host_ips: &node.ips,
            now: Timestamp::now(),
        });
        let phase = |status: &PodStatus| status.phase.clone().unwrap_or_default();
        if self.last_status.as_ref().is_some_and(|s| phase(s) == "Pending") && phase(&status) == "Running" {
            METRICS.pod_start.observe(self.seen.elapsed().as_secs_f64());
        }
        if self.last_status.as_ref() != Some(&status) {
            let mut pod = (*self.pod).clone();
            pod.status = Some(status.clone());
            self.pod = Arc::new(pod);
            self.last_status = Some(status.clone());
        }
        if let Some(uid) = &orders.api_uid {
            self.kubelet.statuses.set(&orders.pod, uid, status);
        }
    }

    /// Nothing to do: keeps volumes current, and says when to look again.
    async fn idle(&mut self, wake: Option<Duration>) -> Option<Duration> {
        let period = self.kubelet.config.sync_frequency;
        if !files::changes(&self.pod) {
            return wake;
        }
        let Some(ready) = &self.volumes else {
            // A pod that was running when this kubelet started: its volumes are here, but not known yet.
            let _ = self.ensure_volumes(true).await;
            return Some(wake.map_or(period, |w| w.min(period)));
        };
        let stale =
            ready.at.elapsed() >= period || ready.version != self.pod.metadata.resource_version_for_volumes();
        if stale {
            let _ = self.ensure_volumes(true).await;
        }
        Some(wake.map_or(period, |w| w.min(period)))
    }

    /// Makes sure the volumes are there; `false` when they are not, and why was said.
    async fn ensure_volumes(&mut self, refresh: bool) -> bool {
        let ips = self.ips();
        if let Some(ready) = &self.volumes
            && !refresh
            && ready.ips == ips
        {
            return true;
        }
        if self.volumes.is_none() {
            self.kubelet.objects.refresh(self.pod.ns());
        }
        let facts = self.kubelet.downward_facts(&ips);
        match volumes::setup(&self.kubelet.config, &self.kubelet.objects, &self.pod, &facts).await {
            Ok(volumes) => {
                self.volume_delay = VOLUME_RETRY;
                let version = self.pod.metadata.resource_version_for_volumes();
                self.kubelet.volume_stats.note(self.pod.uid(), &volumes);
                self.volumes = Some(ReadyVolumes { volumes, at: tokio::time::Instant::now(), ips, version });
                true
            }
            Err(error) => {
                self.kubelet.pod_event(&self.pod, EventType::Warning, "FailedMount", &error.to_string());
                if let Some(ready) = &mut self.volumes {
                    ready.at = tokio::time::Instant::now();
                }
                false
            }
        }
    }

    fn next_volume_delay(&mut self) -> Duration {
        let delay = self.volume_delay;
        self.volume_delay = (delay * 2).min(VOLUME_RETRY_MAX);
        delay
    }

    fn ips(&self) -> Vec<String> {
        if self.pod.host_network() {
            return self.kubelet.host_ips();
        }
        self.runtime.sandbox().map(|s| s.ips.clone()).unwrap_or_default()
    }

    fn fail(&mut self, kind: Kind, name: &str, reason: &str, message: &str) {
        let labels = vec![("container_type", kind_label(kind).to_owned()), ("code", reason.to_owned())];
        METRICS.started_containers_errors.get_or_create(&labels).inc();
        if reason != "CrashLoopBackOff" {
            let note = if matches!(
                reason,
                "ErrImagePull"
                    | "ImagePullBackOff"
                    | "ErrImageNeverPull"
                    | "InvalidImageName"
                    | "ImageInspectError"
            ) {
                format!("Error: {reason}")
            } else {
                format!("Error: {message}")
            };
            self.kubelet.container_event(&self.pod, kind, name, EventType::Warning, "Failed", &note);
        }
        self.reasons.insert(name.to_owned(), (reason.to_owned(), message.to_owned()));
    }
}

/// A kind of container as metrics name it.
const fn kind_label(kind: Kind) -> &'static str {
    match kind {
        Kind::Init => "init_container",
        Kind::Regular => "container",
        Kind::Ephemeral => "ephemeral_container",
    }
}

/// What became of an action.
enum Step {
    /// Done; look again.
    Again,
    /// Not possible now; try again after this.
    Retry(Duration),
    /// Interrupted: the pod is to end.
    NewOrders,
}

/// Waits until the orders say that the pod ends. Never, when it was ending before.
async fn until_over(orders: &mut watch::Receiver<Orders>, already: bool) {
    if already {
        return std::future::pending().await;
    }
    if orders.wait_for(Orders::is_over).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What of the metadata shows in volumes.
trait VolumeVersion {
    /// Changes when labels or annotations do.
    fn resource_version_for_volumes(&self) -> Option<String>;
}

impl VolumeVersion for k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
    fn resource_version_for_volumes(&self) -> Option<String> {
        Some(format!("{:?}{:?}", self.labels, self.annotations))
    }
}
