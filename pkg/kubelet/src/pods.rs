//! Which pods should be here, which are, and one worker for each: the kubelet's main loop.
//!
//! Sources of truth are the API (watched) and manifests on disk; the runtime is relisted every second, and a worker is
//! woken when something of its pod changed. What the runtime holds of pods nobody wants is cleaned up by a worker too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use client::events::EventType;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::admit::{self, Room};
use crate::decide::Ended;
use crate::kubelet::Kubelet;
use crate::metrics::METRICS;
use crate::podutil::{CONFIG_MIRROR, CONFIG_SEEN, CONFIG_SOURCE, PodExt};
use crate::resources::{MAX_SHARES, MIN_SHARES, Qos, pod_limits, qos};
use crate::runtime::{PodSketch, relist};
use crate::worker::{self, Handle, Orders};

/// How often the runtime is relisted.
const RELIST: Duration = Duration::from_secs(1);
/// A relist older than this means that the runtime does not answer (upstream's PLEG threshold).
pub const RELIST_THRESHOLD: Duration = Duration::from_secs(180);
/// How often everything is compared though nothing seems to have happened.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// How long shutdown waits for workers. Containers are left alone.
const DRAIN: Duration = Duration::from_secs(5);

/// What others see of the pods here.
#[derive(Debug, Default)]
pub struct Overview {
    /// Every pod with a worker, by uid, with the status it has here.
    pub pods: ArcSwap<HashMap<String, Arc<Pod>>>,
    /// The last relist of the runtime.
    pub sketch: ArcSwap<HashMap<String, PodSketch>>,
    last_relist: Mutex<Option<Instant>>,
    evictions: Mutex<HashMap<String, Ended>>,
    pressure: Mutex<Vec<&'static str>>,
    changed: Notify,
}

impl Overview {
    /// How long ago the runtime was relisted; `None` before the first time.
    pub fn relist_age(&self) -> Option<Duration> {
        self.last_relist.lock().map(|at| at.elapsed())
    }

    /// Ends a pod for the kubelet's own reasons.
    pub fn end(&self, uid: &str, why: Ended) {
        self.evictions.lock().entry(uid.to_owned()).or_insert(why);
        self.changed.notify_one();
    }

    /// Sets the pressure conditions that new pods are judged by.
    pub fn set_pressure(&self, pressure: Vec<&'static str>) {
        *self.pressure.lock() = pressure;
    }

    /// The pressure conditions in force.
    pub fn pressure(&self) -> Vec<&'static str> {
        self.pressure.lock().clone()
    }

    /// Makes the main loop compare everything now.
    pub fn poke(&self) {
        self.changed.notify_one();
    }

    /// A pod by namespace and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods.load().values().find(|p| p.ns() == namespace && p.name() == name).cloned()
    }
}

/// Pods that come from manifests on this node, by uid.
pub type StaticPods = Arc<ArcSwap<HashMap<String, Arc<Pod>>>>;

/// The main loop.
pub struct Pods {
    kubelet: Arc<Kubelet>,
    overview: Arc<Overview>,
    api: client::Informer<Pod>,
    services: client::Informer<Service>,
    statics: StaticPods,
    workers: HashMap<String, Worker>,
    /// The last relist.
    sketch: HashMap<String, PodSketch>,
    listed: bool,
    /// CPU shares the burstable class was given last.
    burstable_shares: i64,
    shutdown: CancellationToken,
}

struct Worker {
    handle: Handle,
    /// What the last orders were made from.
    seen: Arc<Pod>,
    api_uid: Option<String>,
    removed: bool,
    ended: bool,
}

impl Pods {
    /// The loop over these sources.
    pub fn new(
        kubelet: Arc<Kubelet>,
        overview: Arc<Overview>,
        api: client::Informer<Pod>,
        services: client::Informer<Service>,
        statics: StaticPods,
        shutdown: CancellationToken,
    ) -> Self {
        let poke = overview.clone();
        api.on_event(move |_| poke.poke());
        Self {
            kubelet,
            overview,
            api,
            services,
            statics,
            workers: HashMap::new(),
            sketch: HashMap::new(),
            listed: false,
            burstable_shares: 0,
            shutdown,
        }
    }

    /// Runs until shutdown. Workers end; containers go on.
    pub async fn run(mut self) {
        let mut relists = tokio::time::interval(RELIST);
        relists.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last_housekeeping = Instant::now();
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                () = self.overview.changed.notified() => self.reconcile(),
                _ = relists.tick() => {
                    self.relist().await;
                    if last_housekeeping.elapsed() >= HOUSEKEEPING {
                        last_housekeeping = Instant::now();
                        self.reconcile();
                    }
                }
            }
        }
        let workers = std::mem::take(&mut self.workers);
        let all = async {
            for (_, worker) in workers {
                let _ = worker.handle.task.await;
            }
        };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            tracing::warn!("pod workers did not end in time");
        }
    }

    /// Compares the runtime with what it held a second ago and wakes the workers concerned.
    async fn relist(&mut self) {
        let started = Instant::now();
        if let Some(interval) = self.overview.relist_age() {
            METRICS.relist_interval.observe(interval.as_secs_f64());
        }
        let listed = relist(&self.kubelet.runtime).await;
        METRICS.relist.observe(started.elapsed().as_secs_f64());
        match listed {
            Ok(now) => {
                *self.overview.last_relist.lock() = Some(Instant::now());
                let was_listed = std::mem::replace(&mut self.listed, true);
                if now == self.sketch && was_listed {
                    return;
                }
                for (uid, worker) in &self.workers {
                    if now.get(uid) != self.sketch.get(uid) {
                        worker.handle.wake.notify_one();
                    }
                }
                self.sketch = now;
                self.overview.sketch.store(Arc::new(self.sketch.clone()));
                if !was_listed {
                    self.reconcile();
                }
            }
            Err(error) => tracing::warn!(%error, "relist of the container runtime failed"),
        }
    }

    /// The pods that should be here by uid, and the uids of mirror pods by the static pod's.
    fn wanted(&self) -> (HashMap<String, Arc<Pod>>, HashMap<String, String>) {
        let statics = self.statics.load();
        let mut wanted: HashMap<String, Arc<Pod>> = HashMap::clone(&statics);
        let mut mirrors = HashMap::new();
        // Containers get the services' variables at their start: without services none of the API's pods starts.
        let known = if self.services.has_synced() { self.api.store().list() } else { Vec::new() };
        for pod in known {
            match pod.annotation(CONFIG_MIRROR) {
                Some(hash) => {
                    mirrors.insert(hash.to_owned(), pod.uid().to_owned());
                }
                None => {
                    wanted.insert(pod.uid().to_owned(), pod);
                }
            }
        }
        (wanted, mirrors)
    }

    /// Starts, informs and ends workers.
    fn reconcile(&mut self) {
        self.workers.retain(|_, worker| !worker.handle.task.is_finished());
        // Until both sides are known, a pod that is missing on one of them means nothing.
        if !self.listed {
            return;
        }
        let synced = self.api.has_synced() && self.services.has_synced();
        let (wanted, mirrors) = self.wanted();
        for (uid, pod) in &wanted {
            self.inform(uid, pod, &mirrors, &wanted);
        }
        for (uid, worker) in &mut self.workers {
            if !wanted.contains_key(uid) && !worker.removed && (synced || worker.seen.is_static()) {
                worker.removed = true;
                worker.handle.orders.send_modify(|orders| orders.removed = true);
            }
        }
        if synced {
            self.adopt_orphans(&wanted);
        }
        self.publish();
        self.share_cpu();
    }

    /// Gives the burstable class as many CPU shares as its pods ask for together.
    fn share_cpu(&mut self) {
        let burstable = self.workers.values().filter(|w| !w.removed && qos(&w.seen) == Qos::Burstable);
        let shares: i64 = burstable.map(|w| pod_limits(&w.seen, false).shares).sum();
        let shares = shares.clamp(MIN_SHARES, MAX_SHARES);
        if shares == self.burstable_shares {
            return;
        }
        match self.kubelet.cgroups.set_burstable_shares(shares) {
            Ok(()) => self.burstable_shares = shares,
            Err(error) => tracing::debug!(%error, "cannot set the shares of burstable pods"),
        }
    }

    fn inform(
        &mut self,
        uid: &str,
        pod: &Arc<Pod>,
        mirrors: &HashMap<String, String>,
        wanted: &HashMap<String, Arc<Pod>>,
    ) {
        let api_uid = if pod.is_static() { mirrors.get(uid).cloned() } else { Some(uid.to_owned()) };
        let ended = self.overview.evictions.lock().get(uid).cloned();
        if let Some(worker) = self.workers.get_mut(uid) {
            let unchanged = Arc::ptr_eq(&worker.seen, pod)
                && worker.api_uid == api_uid
                && worker.ended == ended.is_some();
            if unchanged && !worker.removed {
                return;
            }
            let mut marked = (**pod).clone();
            mark(
                &mut marked,
                self.statics.load().contains_key(uid),
                worker.handle.orders.borrow().pod.annotation(CONFIG_SEEN),
            );
            let only_status = same_but_status(&worker.seen, pod)
                && worker.api_uid == api_uid
                && worker.ended == ended.is_some();
            worker.seen = pod.clone();
            worker.api_uid.clone_from(&api_uid);
            worker.ended = ended.is_some();
            worker.removed = false;
            let change = |orders: &mut Orders| {
                orders.pod = Arc::new(marked);
                orders.api_uid = api_uid;
                orders.ended = ended;
                orders.removed = false;
            };
            // Our own status coming back is no reason to look again.
            if only_status {
                worker.handle.orders.send_if_modified(|orders| {
                    change(orders);
                    false
                });
            } else {
                worker.handle.orders.send_modify(change);
            }
            return;
        }
        // A pod that is over and of which nothing is here needs no worker, unless it waits to be deleted.
        let over = matches!(pod.phase(), "Succeeded" | "Failed");
        if over && !pod.is_deleting() && !self.sketch.contains_key(uid) {
            return;
        }
        let refuse = self.refuse(uid, pod, wanted);
        let mut marked = (**pod).clone();
        mark(&mut marked, self.statics.load().contains_key(uid), None);
        let orders =
            Orders { pod: Arc::new(marked), api_uid: api_uid.clone(), removed: false, ended: ended.clone() };
        let handle = worker::spawn(self.kubelet.clone(), orders, refuse, self.shutdown.clone());
        let worker = Worker { handle, seen: pod.clone(), api_uid, removed: false, ended: ended.is_some() };
        self.workers.insert(uid.to_owned(), worker);
    }

    /// Why the node does not take a new pod. What already runs here is not judged again.
    fn refuse(&self, uid: &str, pod: &Arc<Pod>, wanted: &HashMap<String, Arc<Pod>>) -> Option<Ended> {
        let known =
            self.sketch.contains_key(uid) || pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        if known || pod.is_deleting() {
            return None;
        }
        let others: Vec<Arc<Pod>> = wanted
            .iter()
            .filter(|(other, p)| {
                *other != uid
                    && self.workers.contains_key(*other)
                    && !matches!(self.phase(p).as_str(), "Succeeded" | "Failed")
            })
            .map(|(_, p)| p.clone())
            .collect();
        let room = Room {
            allocatable: self.kubelet.node.load().allocatable.clone(),
            allowed_sysctls: self.kubelet.config.allowed_unsafe_sysctls.clone(),
            pressure: self.overview.pressure(),
        };
        let refused = admit::refuse(pod, &others, &room);
        if let Some(why) = &refused {
            self.kubelet.pod_event(pod, EventType::Warning, &why.reason, &why.message);
        }
        refused.map(|why| Ended { message: format!("Pod was rejected: {}", why.message), ..why })
    }

    fn phase(&self, pod: &Pod) -> String {
        self.kubelet.statuses.get(pod.uid()).and_then(|s| s.phase).unwrap_or_else(|| pod.phase().to_owned())
    }

    /// What the runtime holds of pods nobody wants gets a worker that takes it away.
    fn adopt_orphans(&mut self, wanted: &HashMap<String, Arc<Pod>>) {
        let mut orphans: HashMap<String, PodSketch> = self
            .sketch
            .iter()
            .filter(|(uid, _)| !wanted.contains_key(*uid) && !self.workers.contains_key(*uid))
            .map(|(uid, sketch)| (uid.clone(), sketch.clone()))
            .collect();
        for uid in self.leftovers() {
            if !wanted.contains_key(&uid) && !self.workers.contains_key(&uid) {
                orphans.entry(uid).or_default();
            }
        }
        for (uid, sketch) in orphans {
            tracing::info!(
                uid,
                pod = sketch.name,
                namespace = sketch.namespace,
                "cleaning up a pod nobody wants"
            );
            let mut pod = Pod::default();
            pod.metadata.uid = Some(uid.clone());
            pod.metadata.name = Some(sketch.name);
            pod.metadata.namespace = Some(sketch.namespace);
            let pod = Arc::new(pod);
            let orders = Orders { pod: pod.clone(), api_uid: None, removed: true, ended: None };
            let handle = worker::spawn(self.kubelet.clone(), orders, None, self.shutdown.clone());
            self.workers
                .insert(uid, Worker { handle, seen: pod, api_uid: None, removed: true, ended: false });
        }
    }

    /// Uids of pods that left a directory.
    fn leftovers(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.kubelet.config.root_dir.join("pods")) else {
            return Vec::new();
        };
        entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    fn publish(&self) {
        let pods =
            self.workers.iter().filter(|(_, w)| !w.removed).map(|(uid, w)| (uid.clone(), w.seen.clone()));
        self.overview.pods.store(Arc::new(pods.collect()));
        self.overview.evictions.lock().retain(|uid, _| self.workers.contains_key(uid));
    }
}

/// Whether two versions of a pod ask for the same.
fn same_but_status(a: &Pod, b: &Pod) -> bool {
    a.spec == b.spec
        && a.metadata.labels == b.metadata.labels
        && a.metadata.annotations == b.metadata.annotations
        && a.metadata.deletion_timestamp == b.metadata.deletion_timestamp
        && a.metadata.deletion_grace_period_seconds == b.metadata.deletion_grace_period_seconds
        && foreign(a) == foreign(b)
}

/// Conditions that are not the kubelet's own: readiness gates depend on them.
fn foreign(pod: &Pod) -> Vec<(&str, &str)> {
    const OWN: [&str; 5] =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions
        .filter(|c| !OWN.contains(&c.type_.as_str()))
        .map(|c| (c.type_.as_str(), c.status.as_str()))
        .collect()
}

/// Says in a pod's annotations where it came from and when it was first seen here, as the runtime's objects carry it.
fn mark(pod: &mut Pod, is_static: bool, seen: Option<&str>) {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SOURCE.to_owned(), if is_static { "file" } else { "api" }.to_owned());
    let now = || jiff::Timestamp::now().to_string();
    annotations.entry(CONFIG_SEEN.to_owned()).or_insert_with(|| seen.map_or_else(now, str::to_owned));
}
