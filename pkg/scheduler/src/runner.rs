//! The loop around the decisions: one task takes pods from the queue and decides, what was decided is written beside it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::events::{EventApi, EventRecorder, EventSource, EventType, reference};
use client::{InformerFactory, Store};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::act::{Promise, Writer};
use crate::cache::Cache;
use crate::cycle::{FitError, schedule};
use crate::informers::{Sources, listen};
use crate::metrics::{Attempt, Attempts, HeldBack, Metrics};
use crate::nominated::Nominated;
use crate::pod::PodInfo;
use crate::preemption::{Preemption, preempt};
use crate::profile::Framework;
use crate::queue::{Queue, Waiting};
use crate::volumes::{Plan, needs, plan};
use crate::{Config, Error};

/// How long the first lists may take before it is reported and waited for again.
const SYNC_REPORT: Duration = Duration::from_secs(60);
/// Bindings and reports under way at once; further decisions wait.
const MAX_WRITES: usize = 128;
/// Pods that wait for their volumes at once; further decisions wait.
const MAX_VOLUME_WAITS: usize = 1024;
/// Attempts beyond this are one label of metrics.
const MAX_ATTEMPTS_LABEL: u32 = 15;

/// What events change and decisions read.
pub(crate) struct State {
    pub(crate) cache: Cache,
    pub(crate) queue: Queue,
    pub(crate) nominated: Nominated,
    next_node: usize,
    random: SmallRng,
}

pub(crate) struct Shared {
    frameworks: Vec<Framework>,
    pub(crate) state: Mutex<State>,
    pub(crate) wake: Notify,
    pub(crate) storage_changed: Notify,
    pub(crate) metrics: Metrics,
    writer: Writer,
    /// One of each profile, in their order.
    events: Vec<EventRecorder>,
    budgets: Store<PodDisruptionBudget>,
    writes: Arc<Semaphore>,
    volume_waits: Arc<Semaphore>,
}

/// Runs until shutdown.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let frameworks = Framework::all(&config.profiles)?;
    let metrics = Metrics::new();
    if let Some(registry) = &config.metrics {
        registry.register(|r| metrics.register(r));
    }
    let name = crate::DEFAULT_SCHEDULER;
    let instance = format!("{name}-{}", client::config::host_name());
    let source = EventSource { component: name.into(), instance };
    let (events, recorder) = EventRecorder::start(client.clone(), EventApi::Events, source, shutdown.clone());
    // Informers that were handed in are started and ended by who made them.
    let own = config.informers.is_none();
    let factory = config.informers.clone().unwrap_or_else(|| InformerFactory::new(client.clone()));
    let random = config.seed.map_or_else(|| SmallRng::from_rng(&mut rand::rng()), SmallRng::seed_from_u64);
    let mut sources = Sources::new(&factory);
    let shared = Arc::new(Shared {
        events: frameworks.iter().map(|framework| events.for_component(&framework.scheduler_name)).collect(),
        frameworks,
        state: Mutex::new(State {
            cache: Cache::default(),
            queue: Queue::new(config.initial_backoff, config.max_backoff),
            nominated: Nominated::default(),
            next_node: 0,
            random,
        }),
        wake: Notify::new(),
        storage_changed: Notify::new(),
        metrics,
        writer: Writer::new(client),
        budgets: sources.informer::<PodDisruptionBudget>().store(),
        writes: Arc::new(Semaphore::new(MAX_WRITES)),
        volume_waits: Arc::new(Semaphore::new(MAX_VOLUME_WAITS)),
    });
    listen(&shared, &mut sources);
    if own {
        factory.start(shutdown.clone());
    }
    let mut synced = std::pin::pin!(sources.synced());
    loop {
        let waited = tokio::time::timeout(SYNC_REPORT, synced.as_mut());
        match shutdown.run_until_cancelled(waited).await {
            None | Some(Ok(false)) => return Err(Error::NotSynced),
            Some(Ok(true)) => break,
            Some(Err(_)) => tracing::warn!("still waiting for the first lists of nodes, pods and volumes"),
        }
    }
    let tasks = TaskTracker::new();
    shared.clone().follow(&tasks, &shutdown).await;
    tasks.close();
    tasks.wait().await;
    if own {
        factory.stopped().await;
    }
    drop(events);
    drop(recorder.await);
    Ok(())
}

impl Shared {
    /// The profile a pod asks for, if it is one of ours.
    pub(crate) fn framework(&self, pod: &PodInfo) -> Option<&Framework> {
        self.frameworks.iter().find(|framework| framework.scheduler_name == pod.scheduler_name())
    }

    fn recorder(&self, pod: &PodInfo) -> &EventRecorder {
        let index = self.frameworks.iter().position(|f| f.scheduler_name == pod.scheduler_name());
        &self.events[index.unwrap_or(0)]
    }

    /// Takes pods and decides until shutdown.
    async fn follow(self: Arc<Self>, tasks: &TaskTracker, shutdown: &CancellationToken) {
        loop {
            let Ok(permit) = self.writes.clone().acquire_owned().await else { return };
            let work = self.decide_next();
            let Some(work) = work else {
                drop(permit);
                let due = self.state.lock().queue.next_due();
                let pause = due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(pause.min(crate::queue::MAX_UNSCHEDULABLE)) => {}
                }
                continue;
            };
            if shutdown.is_cancelled() {
                return;
            }
            let (own, shutdown) = (self.clone(), shutdown.clone());
            tasks.spawn(async move { own.act(work, permit, &shutdown).await });
        }
    }

    /// One decision, without any I/O. `None` when nothing waits.
    fn decide_next(&self) -> Option<Work> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let State { cache, queue, nominated, next_node, random } = &mut *state;
        let waiting = queue.pop(now)?;
        let pod = waiting.pod.clone();
        let framework = self.framework(&pod)?;
        let decided = schedule(framework, &pod, cache.snapshot(), nominated, next_node, random);
        self.metrics.algorithm_seconds.observe(now.elapsed().as_secs_f64());
        let for_node = |node: &str, cache: &Cache| {
            let (Some(info), true) = (cache.node(node), framework.binds_volumes) else {
                return Plan::default();
            };
            let volumes = &cache.snapshot().volumes;
            needs(&pod, volumes).and_then(|needs| plan(&needs, info, volumes)).unwrap_or_default()
        };
        self.hold_back(&waiting, &BTreeSet::new());
        let outcome = match decided {
            Ok(choice) => {
                tracing::debug!(
                    namespace = pod.namespace,
                    pod = pod.name,
                    node = choice.node,
                    evaluated = choice.evaluated,
                    feasible = choice.feasible,
                    "placed"
                );
                let volumes = for_node(&choice.node, cache);
                cache.volumes().assume(&volumes);
                cache.assume(&pod, &choice.node);
                nominated.remove(&pod.uid);
                Outcome::Bind { node: choice.node, volumes }
            }
            Err(mut error) => {
                let verdict = if framework.preempts {
                    self.metrics.preemptions.inc();
                    let budgets = self.budgets.list();
                    match preempt(framework, &pod, cache.snapshot(), nominated, &error, &budgets) {
                        Ok(preemption) => {
                            self.metrics.victims.observe(preemption.victims.len() as f64);
                            let outranked = nominated.outranked(&preemption.node, &pod);
                            for other in &outranked {
                                nominated.remove(&other.uid);
                            }
                            nominated.put(pod.clone(), &preemption.node);
                            Verdict::Evict(preemption, outranked)
                        }
                        Err(declined) => {
                            error.preemption = declined.text;
                            if declined.hopeless { Verdict::Hopeless } else { Verdict::Wait }
                        }
                    }
                } else {
                    Verdict::Wait
                };
                if matches!(verdict, Verdict::Hopeless) {
                    nominated.remove(&pod.uid);
                }
                self.hold_back(&waiting, &error.plugins);
                // Into the queue before anything is written: what happens meanwhile must find it there.
                queue.reject(waiting.clone(), error.plugins.clone(), now);
                Outcome::Unschedulable(error, verdict)
            }
        };
        Some(Work { waiting, started: now, outcome })
    }

    /// Keeps count of the pods each plug-in holds back: by these now, or, when there are none, not any more by those
    /// that held it before.
    pub(crate) fn hold_back(&self, waiting: &Waiting, now: &BTreeSet<&'static str>) {
        let profile = waiting.pod.scheduler_name();
        let gauge = |plugin| {
            self.metrics.held_back.get_or_create_owned(&HeldBack { plugin, profile: profile.to_owned() })
        };
        if now.is_empty() {
            for plugin in &waiting.rejected_by {
                gauge(plugin).dec();
            }
        } else {
            for plugin in now {
                gauge(plugin).inc();
            }
        }
    }

    async fn act(&self, work: Work, permit: OwnedSemaphorePermit, shutdown: &CancellationToken) {
        let pod = work.waiting.pod.clone();
        let result = match work.outcome {
            Outcome::Bind { node, volumes } => {
                let decided = Decided { waiting: work.waiting, node, volumes };
                match shutdown.run_until_cancelled(self.bind(decided, permit)).await {
                    Some(result) => result,
                    None => return,
                }
            }
            Outcome::Unschedulable(error, verdict) => {
                self.unschedulable(&pod, &error, verdict).await;
                "unschedulable"
            }
        };
        let label = Attempt { profile: pod.scheduler_name().to_owned(), result };
        self.metrics.attempts.get_or_create(&label).inc();
        self.metrics.seconds.get_or_create(&label).observe(work.started.elapsed().as_secs_f64());
        tracing::debug!(namespace = pod.namespace, pod = pod.name, result, "scheduling attempt");
    }

    /// Has volumes bound, then binds the pod. Whoever waits long gives its place among the writers to others.
    async fn bind(&self, decided: Decided, permit: OwnedSemaphorePermit) -> &'static str {
        let (pod, mut permit) = (decided.waiting.pod.clone(), Some(permit));
        if !decided.volumes.is_empty() {
            let written = self.writer.bind_volumes(&decided.volumes).await.map_err(|error| error.to_string());
            let settled = match written {
                Ok(()) => self.wait_for_volumes(&pod, &decided.node, &mut permit).await,
                Err(error) => Err(error),
            };
            if let Err(why) = settled {
                let message = format!("running PreBind plugin \"VolumeBinding\": binding volumes: {why}");
                return self.failed(decided, Some(message)).await;
            }
        }
        match self.writer.bind(&pod, &decided.node).await {
            Ok(()) => {
                let note =
                    format!("Successfully assigned {}/{} to {}", pod.namespace, pod.name, decided.node);
                let subject = reference(pod.pod.as_ref());
                self.recorder(&pod).event(&subject, EventType::Normal, "Scheduled", "Binding", note);
                let attempts = decided.waiting.attempts;
                let label = Attempts {
                    attempts: if attempts > MAX_ATTEMPTS_LABEL {
                        format!("{MAX_ATTEMPTS_LABEL}+")
                    } else {
                        attempts.to_string()
                    },
                };
                let waited = decided.waiting.since.elapsed().as_secs_f64();
                self.metrics.sli_seconds.get_or_create(&label).observe(waited);
                self.metrics.pod_attempts.observe(f64::from(attempts));
                "scheduled"
            }
            Err(error) if client::is_not_found(&error) => self.failed(decided, None).await,
            Err(error) => {
                tracing::warn!(namespace = pod.namespace, pod = pod.name, %error, "binding failed");
                let message = format!("running Bind plugin \"DefaultBinder\": {error}");
                self.failed(decided, Some(message)).await
            }
        }
    }

    /// Waits until the pod's claims are bound.
    async fn wait_for_volumes(
        &self,
        pod: &PodInfo,
        node: &str,
        permit: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<(), String> {
        let timeout = self.framework(pod).map_or(Duration::ZERO, |framework| framework.args.bind_timeout());
        let gone = || "the scheduler is ending".to_owned();
        let _waiting = self.volume_waits.clone().acquire_owned().await.map_err(|_| gone())?;
        permit.take();
        let settled = async {
            loop {
                let changed = self.storage_changed.notified();
                tokio::pin!(changed);
                // Registered before the look, so that no change falls in between.
                changed.as_mut().enable();
                {
                    let state = self.state.lock();
                    if state.cache.pod(&pod.uid).is_none() {
                        return Err("pod does not exist any more".to_owned());
                    }
                    if state.cache.snapshot().volumes.settled(pod, node)? {
                        return Ok(());
                    }
                }
                changed.await;
            }
        };
        tokio::time::timeout(timeout, settled)
            .await
            .unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))?;
        *permit = Some(self.writes.clone().acquire_owned().await.map_err(|_| gone())?);
        Ok(())
    }

    /// Takes a decision back that could not be carried out. Without a message the pod is gone.
    async fn failed(&self, decided: Decided, message: Option<String>) -> &'static str {
        let pod = decided.waiting.pod.clone();
        {
            let mut state = self.state.lock();
            state.cache.volumes().forget(&decided.volumes);
            let existed = state.cache.is_assumed(&pod.uid);
            state.cache.forget(&pod.uid);
            // A pod that is gone has left by its own event; any other is tried again after a pause.
            if message.is_some() && existed {
                state.queue.reject(decided.waiting, BTreeSet::new(), Instant::now());
            }
        }
        self.wake.notify_one();
        if let Some(message) = message {
            let subject = reference(pod.pod.as_ref());
            let recorder = self.recorder(&pod);
            recorder.event(&subject, EventType::Warning, "FailedScheduling", "Scheduling", message.clone());
            if let Err(error) = self.writer.report(&pod, "SchedulerError", &message, Promise::Keep).await {
                tracing::debug!(%error, "status not written");
            }
        }
        "error"
    }

    async fn unschedulable(&self, pod: &PodInfo, error: &FitError, verdict: Verdict) {
        let message = error.message();
        let subject = reference(pod.pod.as_ref());
        let recorder = self.recorder(pod);
        recorder.event(&subject, EventType::Warning, "FailedScheduling", "Scheduling", message.clone());
        let promise = match &verdict {
            Verdict::Evict(preemption, _) => Promise::Node(&preemption.node),
            Verdict::Hopeless => Promise::Withdraw,
            Verdict::Wait => Promise::Keep,
        };
        if let Err(error) = self.writer.report(pod, "Unschedulable", &message, promise).await {
            tracing::debug!(namespace = pod.namespace, pod = pod.name, %error, "status not written");
        }
        let Verdict::Evict(preemption, outranked) = &verdict else { return };
        for other in outranked {
            if let Err(error) = self.writer.withdraw(other).await {
                tracing::debug!(namespace = other.namespace, pod = other.name, %error, "status not written");
            }
        }
        for victim in preemption.victims.iter().filter(|v| !v.is_terminating()) {
            match self.writer.evict(victim, pod).await {
                Ok(()) => recorder.event_with_related(
                    &reference(victim.pod.as_ref()),
                    Some(&subject),
                    EventType::Normal,
                    "Preempted",
                    "Preempting",
                    format!("Preempted by pod {} on node {}", pod.uid, preemption.node),
                ),
                Err(error) if client::is_not_found(&error) => {}
                Err(error) => tracing::warn!(victim = victim.name, %error, "preemption failed"),
            }
        }
    }
}

/// A decision and the pod it is about.
struct Work {
    waiting: Waiting,
    started: Instant,
    outcome: Outcome,
}

enum Outcome {
    Bind { node: String, volumes: Plan },
    Unschedulable(FitError, Verdict),
}

/// What preemption has to say.
enum Verdict {
    /// These must go, and those promised the node come after this pod.
    Evict(Preemption, Vec<Arc<PodInfo>>),
    /// Nothing new.
    Wait,
    /// No node can be made free.
    Hopeless,
}

/// A pod, its node, and what its claims get there.
struct Decided {
    waiting: Waiting,
    node: String,
    volumes: Plan,
}
