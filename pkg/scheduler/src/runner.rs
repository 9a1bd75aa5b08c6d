//! The loop around the decisions: informers change the cache and the queue, one task takes pods from the queue and
//! decides, bindings go on beside it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::events::{EventApi, EventRecorder, EventSource, EventType, reference};
use client::{Event, InformerFactory, Store};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::act::Writer;
use crate::cache::Cache;
use crate::cycle::{FitError, schedule};
use crate::framework::{ClusterEvent, Plugin};
use crate::metrics::{Attempt, Metrics, Queue as QueueLabel};
use crate::pod::PodInfo;
use crate::preemption::{Preemption, preempt};
use crate::queue::{Queue, Waiting};
use crate::{Config, Error, plugins};

/// How long the first lists may take before it is reported and waited for again.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);
/// Bindings and reports under way at once; further decisions wait.
const MAX_WRITES: usize = 128;

/// What events change and decisions read.
struct State {
    cache: Cache,
    queue: Queue,
    next_node: usize,
    random: SmallRng,
}

struct Shared {
    config: Config,
    plugins: Vec<Box<dyn Plugin>>,
    state: Mutex<State>,
    wake: Notify,
    metrics: Metrics,
    writer: Writer,
    events: EventRecorder,
    budgets: Store<PodDisruptionBudget>,
    writes: Arc<Semaphore>,
}

/// Runs until shutdown.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let metrics = Metrics::new();
    if let Some(registry) = &config.metrics {
        registry.register(|r| metrics.register(r));
    }
    let source = EventSource {
        component: config.scheduler_name.clone(),
        instance: format!("{}-{}", config.scheduler_name, client::config::host_name()),
    };
    let (events, recorder) = EventRecorder::start(client.clone(), EventApi::Events, source, shutdown.clone());
    let factory = InformerFactory::new(client.clone());
    let random = config.seed.map_or_else(|| SmallRng::from_rng(&mut rand::rng()), SmallRng::seed_from_u64);
    let shared = Arc::new(Shared {
        plugins: plugins::all(),
        state: Mutex::new(State {
            cache: Cache::default(),
            queue: Queue::new(config.initial_backoff, config.max_backoff),
            next_node: 0,
            random,
        }),
        wake: Notify::new(),
        metrics,
        writer: Writer::new(client),
        events,
        budgets: factory.informer::<PodDisruptionBudget>().store(),
        writes: Arc::new(Semaphore::new(MAX_WRITES)),
        config,
    });
    listen(&shared, &factory);
    factory.start(shutdown.clone());
    while let Err(error) = factory.wait_for_sync(SYNC_TIMEOUT).await {
        if shutdown.is_cancelled() {
            return Err(Error::NotSynced);
        }
        tracing::warn!(%error, "waiting for nodes and pods");
    }
    let tasks = TaskTracker::new();
    shared.clone().follow(&tasks, &shutdown).await;
    tasks.close();
    tasks.wait().await;
    factory.stopped().await;
    drop(recorder.await);
    Ok(())
}

fn listen(shared: &Arc<Shared>, factory: &InformerFactory) {
    let own = shared.clone();
    factory.informer::<Node>().on_event(move |event| own.on_node(&event));
    let own = shared.clone();
    factory.informer::<Pod>().on_event(move |event| own.on_pod(event));
    let own = shared.clone();
    factory.informer::<Namespace>().on_event(move |event| {
        let namespace = event.object();
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let labels = match &event {
            Event::Deleted(_) => None,
            _ => Some(namespace.metadata.labels.clone().unwrap_or_default()),
        };
        own.state.lock().cache.set_namespace(&name, labels);
    });
}

/// What a change of a node means for waiting pods.
fn node_events(old: Option<&Node>, new: &Node) -> BTreeSet<ClusterEvent> {
    let Some(old) = old else { return BTreeSet::from([ClusterEvent::NodeAdd]) };
    let mut events = BTreeSet::new();
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    let taints = |n: &Node| n.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable));
    if allocatable(old) != allocatable(new) {
        events.insert(ClusterEvent::NodeAllocatable);
    }
    if old.metadata.labels != new.metadata.labels {
        events.insert(ClusterEvent::NodeLabels);
    }
    if taints(old) != taints(new) {
        events.insert(ClusterEvent::NodeTaints);
    }
    events
}

impl Shared {
    fn on_node(&self, event: &Event<Node>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let State { cache, queue, .. } = &mut *state;
        let events = match event {
            Event::Added(node) => {
                cache.set_node(node);
                node_events(None, node)
            }
            Event::Updated { old, new } => {
                cache.set_node(new);
                node_events(Some(old), new)
            }
            Event::Deleted(node) => {
                cache.remove_node(node.metadata.name.as_deref().unwrap_or_default());
                BTreeSet::new()
            }
        };
        for event in events {
            queue.on_event(event, &self.plugins, now);
        }
        drop(state);
        self.wake.notify_one();
    }

    fn on_pod(&self, event: Event<Pod>) {
        let now = Instant::now();
        let deleted = matches!(event, Event::Deleted(_));
        let info = Arc::new(PodInfo::new(event.object().clone()));
        let mut state = self.state.lock();
        let State { cache, queue, .. } = &mut *state;
        if deleted || info.is_finished() {
            queue.remove(&info.uid);
            if cache.remove_pod(&info.uid) {
                queue.on_event(ClusterEvent::PodDelete, &self.plugins, now);
            }
        } else if info.node_name.is_empty() {
            if info.is_terminating() {
                queue.remove(&info.uid);
            } else if self.is_ours(&info) && !cache.is_assumed(&info.uid) {
                queue.add(info, now);
            }
        } else {
            queue.remove(&info.uid);
            let is_new = !cache.holds(&info.uid) || cache.is_assumed(&info.uid);
            cache.set_pod(info);
            if is_new {
                queue.on_event(ClusterEvent::PodAdd, &self.plugins, now);
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    fn is_ours(&self, pod: &PodInfo) -> bool {
        let asked = pod.pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref());
        asked.unwrap_or(crate::DEFAULT_SCHEDULER) == self.config.scheduler_name
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
            let own = self.clone();
            tasks.spawn(async move {
                own.act(work).await;
                drop(permit);
            });
        }
    }

    /// One decision, without any I/O. `None` when nothing waits.
    fn decide_next(&self) -> Option<Work> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let State { cache, queue, next_node, random } = &mut *state;
        let waiting = queue.pop(now)?;
        let lengths = queue.lengths();
        for (name, length) in ["active", "backoff", "unschedulable", "gated"].into_iter().zip(lengths) {
            self.metrics.pending.get_or_create(&QueueLabel { queue: name }).set(length as i64);
        }
        let percentage = self.config.percentage_of_nodes_to_score;
        let decided = schedule(&self.plugins, &waiting.pod, cache.snapshot(), percentage, next_node, random);
        Some(match decided {
            Ok(node) => {
                cache.assume(&waiting.pod, &node);
                Work { waiting, started: now, outcome: Outcome::Bind(node) }
            }
            Err(mut error) => {
                let budgets = self.budgets.list();
                self.metrics.preemptions.inc();
                let preemption =
                    match preempt(&self.plugins, &waiting.pod, cache.snapshot(), &error, &budgets) {
                        Ok(preemption) => Some(preemption),
                        Err(why) => {
                            error.preemption = why;
                            None
                        }
                    };
                // Into the queue before anything is written: what happens meanwhile must find it there.
                queue.reject(waiting.clone(), error.plugins.clone(), now);
                Work { waiting, started: now, outcome: Outcome::Unschedulable(error, preemption) }
            }
        })
    }

    async fn act(&self, work: Work) {
        let (pod, result) = (
            work.waiting.pod.clone(),
            match work.outcome {
                Outcome::Bind(node) => self.bind(work.waiting, &node).await,
                Outcome::Unschedulable(error, preemption) => {
                    self.unschedulable(&work.waiting.pod, &error, preemption).await;
                    "unschedulable"
                }
            },
        );
        let labels = Attempt { profile: self.config.scheduler_name.clone(), result };
        self.metrics.attempts.get_or_create(&labels).inc();
        self.metrics.seconds.get_or_create(&labels).observe(work.started.elapsed().as_secs_f64());
        tracing::debug!(namespace = pod.namespace, pod = pod.name, result, "scheduling attempt");
    }

    async fn bind(&self, waiting: Waiting, node: &str) -> &'static str {
        let pod = waiting.pod.clone();
        match self.writer.bind(&pod, node).await {
            Ok(()) => {
                let note = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                self.events.event(
                    &reference(pod.pod.as_ref()),
                    EventType::Normal,
                    "Scheduled",
                    "Binding",
                    note,
                );
                "scheduled"
            }
            Err(error) => {
                {
                    let mut state = self.state.lock();
                    state.cache.forget(&pod.uid);
                    // A pod that is gone has left by its own event; any other is tried again after a pause.
                    if !client::is_not_found(&error) {
                        state.queue.reject(waiting, BTreeSet::new(), Instant::now());
                    }
                }
                self.wake.notify_one();
                if client::is_not_found(&error) {
                    return "error";
                }
                let message = format!("running Bind plugin \"DefaultBinder\": {error}");
                tracing::warn!(namespace = pod.namespace, pod = pod.name, node, %error, "binding failed");
                self.events.event(
                    &reference(pod.pod.as_ref()),
                    EventType::Warning,
                    "FailedScheduling",
                    "Scheduling",
                    message.clone(),
                );
                if let Err(error) = self.writer.report(&pod, "SchedulerError", &message, None).await {
                    tracing::debug!(%error, "status not written");
                }
                "error"
            }
        }
    }

    async fn unschedulable(&self, pod: &PodInfo, error: &FitError, preemption: Option<Preemption>) {
        let message = error.message();
        let subject = reference(pod.pod.as_ref());
        self.events.event(&subject, EventType::Warning, "FailedScheduling", "Scheduling", message.clone());
        let nominated = preemption.as_ref().map(|p| p.node.as_str());
        if let Err(error) = self.writer.report(pod, "Unschedulable", &message, nominated).await {
            tracing::debug!(namespace = pod.namespace, pod = pod.name, %error, "status not written");
        }
        for victim in preemption.iter().flat_map(|p| &p.victims).filter(|v| !v.is_terminating()) {
            match self.writer.evict(victim, pod).await {
                Ok(()) => {
                    let node = nominated.unwrap_or_default();
                    self.events.event_with_related(
                        &reference(victim.pod.as_ref()),
                        Some(&subject),
                        EventType::Normal,
                        "Preempted",
                        "Preempting",
                        format!("Preempted by pod {} on node {node}", pod.uid),
                    );
                }
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
    Bind(String),
    Unschedulable(FitError, Option<Preemption>),
}
