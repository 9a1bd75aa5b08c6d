//! One run: writers, watchers, and someone who kills; now and then everybody stops and compares.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use rand::Rng as _;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use crate::model::{Objects, Owned, View, Watched, differences};
use crate::processes::{Engine, Plane};
use crate::watchers::{self, Manner, Watching};
use crate::writers::{COUNTERS, Counter, Known, Writer};

/// Where everything is written.
pub(crate) const NAMESPACE: &str = "default";
/// Writers, over all servers.
const WRITERS: usize = 8;
/// Violations that are kept for the report.
const MAX_VIOLATIONS: usize = 50;
/// Time between two comparisons.
const COMPARE_INTERVAL: Duration = Duration::from_secs(20);
/// Longest wait for a watcher to catch up while nobody writes.
const CATCH_UP: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

/// What is counted for the report.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acknowledged: AtomicU64,
    pub(crate) in_doubt: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) resumed: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) compared: AtomicU64,
    pub(crate) kills: AtomicU64,
    pub(crate) stops: AtomicU64,
}

/// What all tasks of a run share.
pub(crate) struct Run {
    begun: Instant,
    over: AtomicBool,
    paused: watch::Sender<bool>,
    violations: std::sync::Mutex<Vec<String>>,
    pub(crate) counts: Counts,
    pub(crate) counters: [Counter; COUNTERS as usize],
}

impl Run {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            over: AtomicBool::new(false),
            paused: watch::Sender::new(false),
            violations: std::sync::Mutex::default(),
            counts: Counts::default(),
            counters: std::array::from_fn(|_| Counter::default()),
        })
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Tells whoever looks on how it goes.
    fn say(&self, text: &str) {
        // nobody may be looking
        let _ = writeln!(std::io::stderr(), "{:7.1} s  {text}", self.begun.elapsed().as_secs_f64());
    }

    pub(crate) fn violation(&self, text: String) {
        self.say(&format!("VIOLATED: {text}"));
        let mut violations = self.violations.lock().unwrap_or_else(PoisonError::into_inner);
        if violations.len() < MAX_VIOLATIONS {
            violations.push(text);
        }
    }

    fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nobody writes for now.
    pub(crate) fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    pub(crate) async fn wait_while_paused(&self) {
        let mut paused = self.paused.subscribe();
        // cannot fail: the sender lives as long as the run
        let _ = paused.wait_for(|paused| !*paused).await;
    }
}

/// A watcher as others see it.
struct Watcher {
    name: String,
    view: View,
    state: Arc<Mutex<Option<Watched>>>,
}

/// Runs for a time; answers what was violated and a line about what was done.
pub(crate) async fn run(
    engine: Engine,
    apiserver: &Path,
    dir: &Path,
    time: Duration,
) -> anyhow::Result<(Vec<String>, String)> {
    let mut plane = Plane::start(engine, apiserver, dir).await?;
    let run = Run::new();
    let mut tasks = JoinSet::new();
    let mut known: Vec<Known> = Vec::new();
    for number in 0..WRITERS {
        let client = plane.clients[number % plane.clients.len()].clone();
        let writer = Writer { number, client, run: Arc::clone(&run), known: Known::default() };
        known.push(Arc::clone(&writer.known));
        tasks.spawn(writer.work());
    }
    let mut watchers = Vec::new();
    for (i, (view, slow, streams_list)) in [
        (View::All, false, false),
        (View::All, false, true),
        (View::All, true, false),
        (View::All, true, true),
        (View::Even, false, false),
        (View::Even, true, true),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{i} ({view:?}{})", if slow { ", slow" } else { "" });
        let state = Arc::default();
        watchers.push(Watcher { name: name.clone(), view, state: Arc::clone(&state) });
        let manner = Manner { view, slow, streams_list };
        let watching =
            Watching { name, manner, clients: plane.clients.clone(), run: Arc::clone(&run), state };
        tasks.spawn(watching.work());
    }
    let begun = Instant::now();
    let outcome = async {
        let mut compared = Instant::now();
        while begun.elapsed() < time {
            disturb(&mut plane, &run).await?;
            if compared.elapsed() >= COMPARE_INTERVAL {
                compare(&plane, &run, &known, &watchers).await?;
                compared = Instant::now();
            }
        }
        compare(&plane, &run, &known, &watchers).await
    }
    .await;
    run.over.store(true, Ordering::Relaxed);
    run.paused.send_replace(false);
    tasks.shutdown().await;
    outcome?;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &run.counts;
    let report = format!(
        "{engine:?}: {:.0} s, {} writes acknowledged, {} in doubt, {} events checked, {} watches resumed, {} too old, \
         {} exact lists compared, {} kills, {} stops",
        begun.elapsed().as_secs_f64(),
        count(&counts.acknowledged),
        count(&counts.in_doubt),
        count(&counts.events),
        count(&counts.resumed),
        count(&counts.expired),
        count(&counts.compared),
        count(&counts.kills),
        count(&counts.stops),
    );
    Ok((run.violations(), report))
}

/// Lets everybody work for a moment, then kills or stops something.
async fn disturb(plane: &mut Plane, run: &Run) -> anyhow::Result<()> {
    let (work, what, away) = {
        let mut rng = rand::rng();
        (rng.random_range(1000..5000), rng.random_range(0..8), rng.random_range(0..2500))
    };
    tokio::time::sleep(Duration::from_millis(work)).await;
    let away = Duration::from_millis(away);
    let server = rand::rng().random_range(0..plane.servers.len());
    let process = match &mut plane.etcd {
        Some(etcd) if what % 2 == 0 => etcd,
        _ => &mut plane.servers[server],
    };
    let name = process.name().to_owned();
    match what {
        0..=3 => {
            run.say(&format!("kill -9 {name}, back after {away:?}"));
            run.counts.kills.fetch_add(1, Ordering::Relaxed);
            process.end(Signal::SIGKILL).await?;
            tokio::time::sleep(away).await;
            process.start()?;
        }
        4 => {
            run.say(&format!("restart {name}"));
            run.counts.kills.fetch_add(1, Ordering::Relaxed);
            process.end(Signal::SIGTERM).await?;
            process.start()?;
        }
        _ => {
            run.say(&format!("stop {name} for {away:?}"));
            run.counts.stops.fetch_add(1, Ordering::Relaxed);
            process.signal(Signal::SIGSTOP)?;
            tokio::time::sleep(away).await;
            process.signal(Signal::SIGCONT)?;
        }
    }
    plane.wait_ready().await
}

/// Nobody writes: the store must hold what was acknowledged, and every watcher must come to what the store holds.
async fn compare(plane: &Plane, run: &Run, known: &[Known], watchers: &[Watcher]) -> anyhow::Result<()> {
    run.say("everybody stops to compare");
    run.paused.send_replace(true);
    let mut expected = Objects::new();
    let mut guards = Vec::new();
    for known in known {
        // taken once the writer has finished what it was at
        let guard = known.lock().await;
        let present = |(name, owned): (&String, &Owned)| {
            owned.revision.map(|revision| (name.clone(), (owned.seq, revision)))
        };
        expected.extend(guard.iter().filter_map(present));
        guards.push(guard);
    }
    // writers of shared objects hold no lock: they are done when nothing changes any more
    let mut store = list_stable(plane).await?;
    for (i, counter) in run.counters.iter().enumerate() {
        let (seq, _) = store.get(&format!("counter-{i}")).copied().unwrap_or_default();
        let acknowledged = counter.acknowledged.load(Ordering::Relaxed);
        let most = acknowledged + counter.in_doubt.load(Ordering::Relaxed);
        if !(acknowledged..=most).contains(&seq) {
            run.violation(format!("counter {i} is at {seq}, {acknowledged} to {most} increments were made"));
        }
    }
    let everything = store.clone();
    store.retain(|name, _| !name.starts_with("counter-"));
    if store != expected {
        run.violation(format!("the store differs: {:?}", differences(&expected, &store)));
    }
    for watcher in watchers {
        let expected: Objects = everything
            .iter()
            .filter(|(_, (seq, _))| watcher.view == View::All || seq.is_multiple_of(2))
            .map(|(name, of)| (name.clone(), *of))
            .collect();
        let begun = Instant::now();
        loop {
            let told = watcher.state.lock().await.as_ref().map(|watched| watched.objects.clone());
            let told: Objects =
                told.unwrap_or_default().into_iter().filter(|(name, _)| name != "kube-root-ca.crt").collect();
            if told == expected {
                break;
            }
            if begun.elapsed() > CATCH_UP {
                let differences = differences(&expected, &told);
                run.violation(format!("watcher {} has not come to the store: {differences:?}", watcher.name));
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    }
    drop(guards);
    run.paused.send_replace(false);
    run.say("compared");
    Ok(())
}

/// What every server lists, once nothing changes any more.
async fn list_stable(plane: &Plane) -> anyhow::Result<Objects> {
    const SAME: Duration = Duration::from_secs(1);
    let begun = Instant::now();
    let mut before = Objects::new();
    loop {
        if begun.elapsed() > CATCH_UP {
            bail!("the store does not come to rest");
        }
        let mut lists = Vec::new();
        for client in &plane.clients {
            lists.push(watchers::list_all(client).await.context("cannot list")?);
        }
        let same = lists.iter().all(|list| *list == before);
        before = lists.pop().unwrap_or_default();
        if same && !before.is_empty() {
            return Ok(before);
        }
        tokio::time::sleep(SAME).await;
    }
}
