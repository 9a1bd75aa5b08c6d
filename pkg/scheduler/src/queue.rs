//! Pods that wait: for their turn, for a pause to pass, or for something to change.
//!
//! Told the time, so that tests need no clock. Three places, as upstream: *active* (by priority, then age), *back-off*
//! (failed and woken before their pause was over), *unschedulable* (until an event that concerns the plug-ins which said
//! no, or [`MAX_UNSCHEDULABLE`]).

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pod::PodInfo;

/// A pod is tried again after this long, whatever happened in between.
pub const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

/// A pod that waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// When it first came.
    pub since: Instant,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was last tried or came.
    touched: Instant,
    /// Who said no the last time.
    pub rejected_by: BTreeSet<&'static str>,
}

/// Where a pod waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// For its turn.
    Active,
    /// For its pause to pass.
    BackOff,
    /// For something to change.
    Unschedulable,
    /// For its gates to be lifted.
    Gated,
}

impl Place {
    /// All, in the order of [`Queue::lengths`].
    pub const ALL: [Self; 4] = [Self::Active, Self::BackOff, Self::Unschedulable, Self::Gated];

    /// As the metric `scheduler_pending_pods` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::BackOff => "backoff",
            Self::Unschedulable => "unschedulable",
            Self::Gated => "gated",
        }
    }
}

/// An entry of the active heap; stale ones are skipped when they come up.
#[derive(Debug, PartialEq, Eq)]
struct Turn {
    priority: i32,
    touched: Instant,
    uid: String,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |t: &Self| (t.priority, Reverse(t.touched));
        key(self).cmp(&key(other)).then_with(|| other.uid.cmp(&self.uid))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    pods: HashMap<String, (Waiting, Place)>,
    active: BinaryHeap<Turn>,
    back_off: BTreeSet<(Instant, String)>,
    /// The unschedulable, longest waiting first.
    stuck: BTreeSet<(Instant, String)>,
    lengths: [usize; 4],
    initial: Duration,
    max: Duration,
}

impl Queue {
    /// An empty queue with these pauses after failures.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self {
            pods: HashMap::new(),
            active: BinaryHeap::new(),
            back_off: BTreeSet::new(),
            stuck: BTreeSet::new(),
            lengths: [0; 4],
            initial,
            max,
        }
    }

    /// Numbers of pods: active, in back-off, unschedulable, gated.
    pub fn lengths(&self) -> [usize; 4] {
        self.lengths
    }

    /// A pod that waits.
    pub fn get(&self, uid: &str) -> Option<&Waiting> {
        self.pods.get(uid).map(|(waiting, _)| waiting)
    }

    /// Puts a pod somewhere else; the lists of the places follow.
    fn place(&mut self, uid: &str, to: Place) {
        let Some((waiting, place)) = self.pods.get_mut(uid) else { return };
        let from = std::mem::replace(place, to);
        let entry = (waiting.touched, uid.to_owned());
        self.lengths[from as usize] -= 1;
        self.lengths[to as usize] += 1;
        if from == Place::Unschedulable {
            self.stuck.remove(&entry);
        }
        if to == Place::Unschedulable {
            self.stuck.insert(entry);
        }
    }

    fn insert(&mut self, waiting: Waiting, place: Place) {
        self.lengths[place as usize] += 1;
        let (uid, touched) = (waiting.pod.uid.clone(), waiting.touched);
        if place == Place::Unschedulable {
            self.stuck.insert((touched, uid.clone()));
        }
        self.pods.insert(uid, (waiting, place));
    }

    fn take(&mut self, uid: &str) -> Option<Waiting> {
        let (waiting, place) = self.pods.remove(uid)?;
        self.lengths[place as usize] -= 1;
        if place == Place::Unschedulable {
            self.stuck.remove(&(waiting.touched, uid.to_owned()));
        }
        Some(waiting)
    }

    /// Takes a new pod, or a change of one that waits. `gated` pods wait until they come without.
    pub fn add(&mut self, pod: Arc<PodInfo>, gated: bool, now: Instant) {
        let uid = pod.uid.clone();
        if let Some((waiting, place)) = self.pods.get_mut(&uid) {
            let changed = waiting.pod.pod.spec != pod.pod.spec || waiting.pod.labels() != pod.labels();
            waiting.pod = pod;
            match place {
                Place::Gated if !gated => self.activate(&uid),
                Place::Unschedulable if changed => self.wake(&uid, now),
                Place::Active if changed => self.activate(&uid),
                _ => {}
            }
            return;
        }
        let waiting = Waiting { pod, since: now, attempts: 0, touched: now, rejected_by: BTreeSet::new() };
        self.insert(waiting, Place::Gated);
        if !gated {
            self.activate(&uid);
        }
    }

    /// Forgets a pod that is gone or bound.
    pub fn remove(&mut self, uid: &str) -> Option<Waiting> {
        self.take(uid)
    }

    /// The next pod whose turn it is. It leaves the queue; give it back with [`Queue::reject`] if it could not be placed.
    pub fn pop(&mut self, now: Instant) -> Option<Waiting> {
        self.flush(now);
        while let Some(turn) = self.active.pop() {
            let current = self.pods.get(&turn.uid).is_some_and(|(waiting, place)| {
                *place == Place::Active
                    && waiting.pod.priority == turn.priority
                    && waiting.touched == turn.touched
            });
            if current && let Some(mut waiting) = self.take(&turn.uid) {
                waiting.attempts += 1;
                return Some(waiting);
            }
        }
        None
    }

    /// Takes back a pod that fits nowhere; `rejected_by` is empty for failures that only time heals.
    pub fn reject(&mut self, mut waiting: Waiting, rejected_by: BTreeSet<&'static str>, now: Instant) {
        let uid = waiting.pod.uid.clone();
        // A change that came while it was being tried has put it into the queue again: that one is newer.
        if self.pods.contains_key(&uid) {
            return;
        }
        waiting.touched = now;
        let only_time = rejected_by.is_empty();
        waiting.rejected_by = rejected_by;
        self.insert(waiting, Place::Unschedulable);
        if only_time {
            self.wake(&uid, now);
        }
    }

    /// Something changed in the cluster: wakes the pods it may concern, and says how many those were.
    pub fn on_change(&mut self, now: Instant, concerns: impl Fn(&Waiting) -> bool) -> usize {
        let concerned: Vec<String> = self
            .stuck
            .iter()
            .filter(|(_, uid)| self.pods.get(uid).is_some_and(|(waiting, _)| concerns(waiting)))
            .map(|(_, uid)| uid.clone())
            .collect();
        for uid in &concerned {
            self.wake(uid, now);
        }
        concerned.len()
    }

    /// When [`Queue::pop`] may have something again without anything being added.
    pub fn next_due(&self) -> Option<Instant> {
        let pause = self.back_off.first().map(|(due, _)| *due);
        let oldest = self.stuck.first().map(|(touched, _)| *touched + MAX_UNSCHEDULABLE);
        pause.into_iter().chain(oldest).min()
    }

    fn pause(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(30);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }

    fn activate(&mut self, uid: &str) {
        self.place(uid, Place::Active);
        if let Some((waiting, _)) = self.pods.get(uid) {
            let priority = waiting.pod.priority;
            self.active.push(Turn { priority, touched: waiting.touched, uid: uid.to_owned() });
        }
    }

    fn wake(&mut self, uid: &str, now: Instant) {
        let Some((waiting, _)) = self.pods.get(uid) else { return };
        let (touched, attempts) = (waiting.touched, waiting.attempts);
        self.place(uid, Place::BackOff);
        let due = touched + self.pause(attempts);
        if attempts == 0 || due <= now {
            self.activate(uid);
        } else {
            self.back_off.insert((due, uid.to_owned()));
        }
    }

    /// Moves on what has waited long enough.
    fn flush(&mut self, now: Instant) {
        while self.back_off.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, uid)) = self.back_off.pop_first() else { break };
            if self.pods.get(&uid).is_some_and(|(_, place)| *place == Place::BackOff) {
                self.activate(&uid);
            }
        }
        let old: Vec<String> = self
            .stuck
            .iter()
            .take_while(|(touched, _)| *touched + MAX_UNSCHEDULABLE <= now)
            .map(|(_, uid)| uid.clone())
            .collect();
        for uid in old {
            self.activate(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;
    use serde_json::json;

    fn queue() -> Queue {
        Queue::new(Duration::from_secs(1), Duration::from_secs(10))
    }

    fn names(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|w| w.pod.name.clone()).collect()
    }

    #[test]
    fn priority_comes_before_age() {
        let (mut queue, start) = (queue(), Instant::now());
        for (i, (name, priority)) in [("old", 0), ("young", 0), ("urgent", 5)].into_iter().enumerate() {
            let pod = Arc::new(pod(name).priority(priority).build());
            queue.add(pod, false, start + Duration::from_millis(i as u64));
        }
        assert_eq!(names(&mut queue, start), ["urgent", "old", "young"]);
    }

    #[test]
    fn only_what_concerns_a_pod_wakes_it() {
        let (mut queue, start) = (queue(), Instant::now());
        queue.add(Arc::new(pod("a").build()), false, start);
        let waiting = queue.pop(start).expect("its turn");
        queue.reject(waiting, BTreeSet::from(["NodeResourcesFit"]), start);
        let later = start + Duration::from_secs(2);
        assert_eq!(queue.on_change(later, |w| w.rejected_by.contains("NodePorts")), 0);
        assert_eq!(names(&mut queue, later), Vec::<String>::new());
        assert_eq!(queue.lengths(), [0, 0, 1, 0]);
        assert_eq!(queue.on_change(later, |w| w.rejected_by.contains("NodeResourcesFit")), 1);
        assert_eq!(names(&mut queue, later), ["a"]);
    }

    #[test]
    fn pauses_grow_and_end() {
        let (mut queue, mut now) = (queue(), Instant::now());
        queue.add(Arc::new(pod("a").build()), false, now);
        for seconds in [1, 2, 4, 8, 10, 10] {
            let waiting = queue.pop(now).expect("its turn");
            queue.reject(waiting, BTreeSet::from(["NodeResourcesFit"]), now);
            queue.on_change(now, |_| true);
            assert!(queue.pop(now).is_none(), "must pause");
            assert_eq!(queue.next_due(), Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut queue, start) = (queue(), Instant::now());
        queue.add(Arc::new(pod("a").build()), false, start);
        let waiting = queue.pop(start).expect("its turn");
        queue.reject(waiting, BTreeSet::from(["NodePorts"]), start);
        assert_eq!(names(&mut queue, start + MAX_UNSCHEDULABLE), ["a"]);
    }

    #[test]
    fn gates_hold_a_pod_back() {
        let (mut queue, start) = (queue(), Instant::now());
        let gated = || pod("a").spec("schedulingGates", json!([{"name": "wait"}]));
        queue.add(Arc::new(gated().build()), true, start);
        assert_eq!(queue.lengths(), [0, 0, 0, 1]);
        assert!(queue.pop(start).is_none());
        queue.add(Arc::new(pod("a").build()), false, start);
        assert_eq!(names(&mut queue, start), ["a"]);
    }
}
