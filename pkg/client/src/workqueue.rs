//! Keyed work queues with client-go's contract (`util/workqueue`).
//!
//! - A key added several times before it is taken is processed once.
//! - A key is never processed by two workers at once; added while it is processed, it runs again afterwards.
//! - Keys come out in the order they went in.
//! - After [`WorkQueue::shut_down`] what is queued is still handed out, and nothing new is accepted.
//!
//! [`Core`] holds the rules and is told the time; [`WorkQueue`] adds the waiting.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::metrics::METRICS;

/// How retries are spaced.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Delay of a key's first retry; doubles with each further one.
    pub base: Duration,
    /// Longest delay of a key.
    pub max: Duration,
    /// Retries a second over all keys, once the burst is used up.
    pub per_second: f64,
    /// Retries that may go without that spacing.
    pub burst: f64,
}

impl Default for Limits {
    /// client-go's `DefaultTypedControllerRateLimiter`.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(5),
            max: Duration::from_secs(1000),
            per_second: 10.0,
            burst: 100.0,
        }
    }
}

/// A token bucket told the time.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    at: Option<Instant>,
    per_second: f64,
    burst: f64,
}

impl Bucket {
    pub(crate) fn new(per_second: f64, burst: f64) -> Self {
        Self { tokens: burst, at: None, per_second, burst }
    }

    /// Takes a token, in advance if need be: the delay after which it is due.
    pub(crate) fn reserve(&mut self, now: Instant) -> Duration {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        self.tokens = (self.tokens + passed.as_secs_f64() * self.per_second).min(self.burst) - 1.0;
        if self.tokens >= 0.0 {
            Duration::ZERO
        } else {
            Duration::try_from_secs_f64(-self.tokens / self.per_second).unwrap_or(Duration::MAX)
        }
    }
}

/// What [`Core::get`] has for a worker.
#[derive(Debug, PartialEq, Eq)]
enum Got<T> {
    Item(T),
    /// Nothing is ready; something will be at this time, if that is known.
    Wait(Option<Instant>),
    Closed,
}

/// The queue's rules, without waiting.
struct Core<T> {
    queue: VecDeque<T>,
    /// Everything that needs a run: what is queued, and what was added while it ran.
    dirty: HashSet<T>,
    processing: HashMap<T, Instant>,
    /// When each queued key became ready, for the metric.
    ready_at: HashMap<T, Instant>,
    /// Delayed adds in order of their time; the number keeps equal times apart.
    delayed: BTreeMap<(Instant, u64), T>,
    delayed_at: HashMap<T, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<T, u32>,
    bucket: Bucket,
    limits: Limits,
    closed: bool,
}

impl<T: Clone + Eq + Hash> Core<T> {
    fn new(limits: Limits) -> Self {
        Self {
            queue: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashMap::new(),
            ready_at: HashMap::new(),
            delayed: BTreeMap::new(),
            delayed_at: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            bucket: Bucket::new(limits.per_second, limits.burst),
            limits,
            closed: false,
        }
    }

    /// Whether the key was not already waiting for a run.
    fn add(&mut self, item: T, now: Instant) -> bool {
        if self.closed || !self.dirty.insert(item.clone()) {
            return false;
        }
        self.ready_at.entry(item.clone()).or_insert(now);
        if !self.processing.contains_key(&item) {
            self.queue.push_back(item);
        }
        true
    }

    /// A key already delayed keeps the earlier of the two times.
    fn add_at(&mut self, item: T, at: Instant) {
        if self.closed {
            return;
        }
        if let Some(held) = self.delayed_at.get(&item) {
            if held.0 <= at {
                return;
            }
            self.delayed.remove(held);
        }
        self.sequence += 1;
        let slot = (at, self.sequence);
        self.delayed_at.insert(item.clone(), slot);
        self.delayed.insert(slot, item);
    }

    fn retry_delay(&mut self, item: &T, now: Instant) -> Duration {
        let failures = self.failures.entry(item.clone()).or_insert(0);
        let exponential =
            self.limits.base.saturating_mul(2_u32.saturating_pow(*failures)).min(self.limits.max);
        *failures = failures.saturating_add(1);
        exponential.max(self.bucket.reserve(now))
    }

    /// Moves due delayed keys into the queue. The number moved.
    fn promote(&mut self, now: Instant) -> usize {
        let mut moved = 0;
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let item = entry.remove();
            self.delayed_at.remove(&item);
            moved += usize::from(self.add(item, now));
        }
        moved
    }

    fn get(&mut self, now: Instant) -> Got<T> {
        match self.queue.pop_front() {
            Some(item) => {
                self.dirty.remove(&item);
                self.processing.insert(item.clone(), now);
                Got::Item(item)
            }
            None if self.closed => Got::Closed,
            None => Got::Wait(self.delayed.keys().next().map(|slot| slot.0)),
        }
    }

    /// The run of a key ended. When it began; and whether the key is queued again.
    fn done(&mut self, item: &T) -> (Option<Instant>, bool) {
        let began = self.processing.remove(item);
        let again = began.is_some() && self.dirty.contains(item);
        if again {
            self.queue.push_back(item.clone());
        }
        (began, again)
    }
}

struct Shared<T> {
    name: &'static str,
    core: Mutex<Core<T>>,
    /// Wakes one waiting worker: there is a key, or an earlier time to wait for.
    ready: Notify,
    /// Wakes those who wait for the drain.
    idle: Notify,
}

/// A queue of keys for any number of workers. Cloning gives another handle to the same queue.
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T> fmt::Debug for WorkQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WorkQueue").field(&self.shared.name).finish()
    }
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    /// A queue with the default retry limits; `name` labels its metrics.
    pub fn new(name: &'static str) -> Self {
        Self::with_limits(name, Limits::default())
    }

    /// A queue with retry limits of its own.
    pub fn with_limits(name: &'static str, limits: Limits) -> Self {
        let shared =
            Shared { name, core: Mutex::new(Core::new(limits)), ready: Notify::new(), idle: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    fn label(&self) -> crate::metrics::Name {
        [("name", self.shared.name)]
    }

    /// Queues a key, unless it waits already.
    pub fn add(&self, item: T) {
        let added = self.shared.core.lock().add(item, Instant::now());
        if added {
            METRICS.adds.get_or_create(&self.label()).inc();
            METRICS.depth.get_or_create(&self.label()).inc();
            self.shared.ready.notify_one();
        }
    }

    /// Queues a key after a delay; of several delays of one key the shortest counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        self.shared.core.lock().add_at(item, Instant::now() + delay);
        self.shared.ready.notify_one();
    }

    /// Queues a key again after a failure: after its own growing delay, and not faster than the queue's rate.
    pub fn add_rate_limited(&self, item: T) {
        METRICS.retries.get_or_create(&self.label()).inc();
        let now = Instant::now();
        let mut core = self.shared.core.lock();
        let delay = core.retry_delay(&item, now);
        core.add_at(item, now + delay);
        drop(core);
        self.shared.ready.notify_one();
    }

    /// The key succeeded (or is given up): its retry delay starts from the base again.
    pub fn forget(&self, item: &T) {
        self.shared.core.lock().failures.remove(item);
    }

    /// How often the key was queued by [`Self::add_rate_limited`] since it was last forgotten.
    pub fn retries(&self, item: &T) -> u32 {
        self.shared.core.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// Number of keys ready to be taken.
    pub fn len(&self) -> usize {
        self.shared.core.lock().queue.len()
    }

    /// Whether no key is ready to be taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the next key, waiting for one. `None` once the queue is shut down and empty. Whoever takes a key must
    /// call [`Self::done`] for it. Safe to drop while waiting.
    pub async fn get(&self) -> Option<T> {
        loop {
            let ready = self.shared.ready.notified();
            tokio::pin!(ready);
            ready.as_mut().enable();
            let now = Instant::now();
            let (got, promoted, more) = {
                let mut core = self.shared.core.lock();
                let promoted = core.promote(now);
                let got = core.get(now);
                if let Got::Item(item) = &got
                    && let Some(at) = core.ready_at.remove(item)
                {
                    let waited = now.saturating_duration_since(at).as_secs_f64();
                    METRICS.queue_seconds.get_or_create(&self.label()).observe(waited);
                }
                (got, promoted, !core.queue.is_empty() || !core.delayed.is_empty())
            };
            if promoted > 0 {
                METRICS.adds.get_or_create(&self.label()).inc_by(promoted as u64);
                METRICS.depth.get_or_create(&self.label()).inc_by(promoted as i64);
            }
            match got {
                Got::Item(item) => {
                    METRICS.depth.get_or_create(&self.label()).dec();
                    if more {
                        // somebody else has to watch what is left while this worker is busy
                        self.shared.ready.notify_one();
                    }
                    return Some(item);
                }
                Got::Closed => return None,
                Got::Wait(None) => ready.await,
                Got::Wait(Some(at)) => {
                    tokio::select! {
                        () = ready => {}
                        () = sleep_until(at) => {}
                    }
                }
            }
        }
    }

    /// The run of a key ended, well or not. A key added meanwhile is queued again.
    pub fn done(&self, item: &T) {
        let (began, again, idle) = {
            let mut core = self.shared.core.lock();
            let (began, again) = core.done(item);
            (began, again, core.processing.is_empty() && core.queue.is_empty())
        };
        if let Some(began) = began {
            METRICS.work_seconds.get_or_create(&self.label()).observe(began.elapsed().as_secs_f64());
        }
        if again {
            self.shared.ready.notify_one();
        }
        if idle {
            self.shared.idle.notify_waiters();
        }
    }

    /// Refuses new keys from now on; delayed ones are dropped, queued ones still handed out.
    pub fn shut_down(&self) {
        {
            let mut core = self.shared.core.lock();
            core.closed = true;
            core.delayed.clear();
            core.delayed_at.clear();
        }
        self.shared.ready.notify_waiters();
        self.shared.ready.notify_one();
    }

    /// [`Self::shut_down`], and waits until every key taken is done and none is left.
    pub async fn drain(&self) {
        self.shut_down();
        loop {
            let idle = self.shared.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            {
                let core = self.shared.core.lock();
                if core.processing.is_empty() && core.queue.is_empty() {
                    return;
                }
            }
            idle.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core() -> (Core<&'static str>, Instant) {
        (Core::new(Limits::default()), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_runs_once_and_one_added_while_running_runs_again() {
        let (mut core, now) = core();
        assert!(core.add("a", now));
        assert!(!core.add("a", now));
        core.add("b", now);
        assert_eq!(core.get(now), Got::Item("a"));
        assert!(core.add("a", now));
        assert_eq!(core.get(now), Got::Item("b"), "a runs already");
        assert_eq!(core.get(now), Got::Wait(None));
        assert!(core.done(&"a").1);
        assert_eq!(core.get(now), Got::Item("a"));
        assert!(!core.done(&"a").1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_delay_of_a_key_counts() {
        let (mut core, now) = core();
        let later = |seconds| now + Duration::from_secs(seconds);
        core.add_at("a", later(5));
        core.add_at("a", later(2));
        core.add_at("a", later(9));
        core.add_at("b", later(3));
        assert_eq!(core.get(now), Got::Wait(Some(later(2))));
        core.promote(later(2));
        assert_eq!(core.get(later(2)), Got::Item("a"));
        core.promote(later(10));
        assert_eq!(core.get(later(10)), Got::Item("b"));
        assert_eq!(core.get(later(10)), Got::Wait(None));
    }

    #[tokio::test(start_paused = true)]
    async fn retries_double_up_to_the_limit_and_share_a_bucket() {
        let limits = Limits {
            base: Duration::from_millis(10),
            max: Duration::from_millis(35),
            per_second: 1.0,
            burst: 4.0,
        };
        let mut core = Core::new(limits);
        let now = Instant::now();
        let delays: Vec<u128> = (0..5).map(|_| core.retry_delay(&"a", now).as_millis()).collect();
        assert_eq!(delays, [10, 20, 35, 35, 1000], "the fifth finds the bucket empty");
    }

    #[tokio::test(start_paused = true)]
    async fn delayed_keys_wake_a_worker_in_time_even_when_another_is_busy() {
        let queue = WorkQueue::new("test");
        let begin = Instant::now();
        queue.add_after("late", Duration::from_secs(10));
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { (queue.get().await, begin.elapsed()) }
        });
        tokio::task::yield_now().await;
        queue.add_after("soon", Duration::from_secs(1));
        assert_eq!(waiting.await.expect("no panic"), (Some("soon"), Duration::from_secs(1)));
        assert_eq!((queue.get().await, begin.elapsed()), (Some("late"), Duration::from_secs(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn shutting_down_hands_out_what_is_queued_and_waits_for_what_runs() {
        let queue = WorkQueue::new("test");
        queue.add(1);
        queue.add(2);
        queue.add_after(3, Duration::from_secs(1));
        assert_eq!(queue.get().await, Some(1));
        let drained = tokio::spawn({
            let queue = queue.clone();
            async move { queue.drain().await }
        });
        tokio::task::yield_now().await;
        queue.add(4);
        assert_eq!(queue.get().await, Some(2));
        assert_eq!(queue.get().await, None);
        queue.done(&1);
        tokio::task::yield_now().await;
        assert!(!drained.is_finished());
        queue.done(&2);
        drained.await.expect("no panic");
    }
}
