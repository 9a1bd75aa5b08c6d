//! Pods that wait: for their turn, for a pause to pass, or for something to change.
//!
//! Told the time, so that tests need no clock. Three places, as upstream: *active* (by priority, then age), *back-off*
//! (failed and woken before their pause was over), *unschedulable* (until an event that concerns the plug-ins which said
//! no, or [`MAX_UNSCHEDULABLE`]).

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::framework::{ClusterEvent, Plugin};
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
    rejected_by: BTreeSet<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    BackOff,
    Unschedulable,
    Gated,
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
    initial: Duration,
    max: Duration,
}

impl Queue {
    /// An empty queue with these pauses after failures.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { pods: HashMap::new(), active: BinaryHeap::new(), back_off: BTreeSet::new(), initial, max }
    }

    /// Numbers of pods: active, in back-off, unschedulable, gated.
    pub fn lengths(&self) -> [usize; 4] {
        let mut lengths = [0; 4];
        for (_, place) in self.pods.values() {
            lengths[*place as usize] += 1;
        }
        lengths
    }

    /// Takes a new pod, or a change of one that waits.
    pub fn add(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let gated = pod.is_gated();
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
        self.pods.insert(uid.clone(), (waiting, Place::Gated));
        if !gated {
            self.activate(&uid);
        }
    }

    /// Forgets a pod that is gone or bound.
    pub fn remove(&mut self, uid: &str) {
        self.pods.remove(uid);
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
            if current && let Some((mut waiting, _)) = self.pods.remove(&turn.uid) {
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
        self.pods.insert(uid.clone(), (waiting, Place::Unschedulable));
        if only_time {
            self.wake(&uid, now);
        }
    }

    /// Something changed in the cluster: wakes the pods it may concern.
    pub fn on_event(&mut self, event: ClusterEvent, plugins: &[Box<dyn Plugin>], now: Instant) {
        let concerned: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, (waiting, place))| {
                *place == Place::Unschedulable
                    && plugins
                        .iter()
                        .any(|p| waiting.rejected_by.contains(p.name()) && p.is_interested(event))
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in concerned {
            self.wake(&uid, now);
        }
    }

    /// When [`Queue::pop`] may have something again without anything being added.
    pub fn next_due(&self) -> Option<Instant> {
        let pause = self.back_off.first().map(|(due, _)| *due);
        let stuck = self.pods.values().filter(|(_, place)| *place == Place::Unschedulable);
        let oldest = stuck.map(|(waiting, _)| waiting.touched + MAX_UNSCHEDULABLE).min();
        pause.into_iter().chain(oldest).min()
    }

    fn pause(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(30);
        self.initial.saturating_mul(1 << doublings).min(self.max)
    }

    fn activate(&mut self, uid: &str) {
        if let Some((waiting, place)) = self.pods.get_mut(uid) {
            *place = Place::Active;
            let priority = waiting.pod.priority;
            self.active.push(Turn { priority, touched: waiting.touched, uid: uid.to_owned() });
        }
    }

    fn wake(&mut self, uid: &str, now: Instant) {
        let Some((waiting, place)) = self.pods.get_mut(uid) else { return };
        let (touched, attempts) = (waiting.touched, waiting.attempts);
        *place = Place::BackOff;
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
            .pods
            .iter()
            .filter(|(_, (w, place))| *place == Place::Unschedulable && w.touched + MAX_UNSCHEDULABLE <= now)
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in old {
            self.activate(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::all;
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
            queue
                .add(Arc::new(pod(name).priority(priority).build()), start + Duration::from_millis(i as u64));
        }
        assert_eq!(names(&mut queue, start), ["urgent", "old", "young"]);
    }

    #[test]
    fn only_what_concerns_a_pod_wakes_it() {
        let (mut queue, start, plugins) = (queue(), Instant::now(), all());
        queue.add(Arc::new(pod("a").build()), start);
        let waiting = queue.pop(start).expect("its turn");
        queue.reject(waiting, BTreeSet::from(["NodeResourcesFit"]), start);
        let later = start + Duration::from_secs(2);
        queue.on_event(ClusterEvent::NodeLabels, &plugins, later);
        assert_eq!(names(&mut queue, later), Vec::<String>::new());
        queue.on_event(ClusterEvent::PodDelete, &plugins, later);
        assert_eq!(names(&mut queue, later), ["a"]);
    }

    #[test]
    fn pauses_grow_and_end() {
        let (mut queue, mut now, plugins) = (queue(), Instant::now(), all());
        queue.add(Arc::new(pod("a").build()), now);
        for seconds in [1, 2, 4, 8, 10, 10] {
            let waiting = queue.pop(now).expect("its turn");
            queue.reject(waiting, BTreeSet::from(["NodeResourcesFit"]), now);
            queue.on_event(ClusterEvent::NodeAdd, &plugins, now);
            assert!(queue.pop(now).is_none(), "must pause");
            assert_eq!(queue.next_due(), Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut queue, start) = (queue(), Instant::now());
        queue.add(Arc::new(pod("a").build()), start);
        let waiting = queue.pop(start).expect("its turn");
        queue.reject(waiting, BTreeSet::from(["NodePorts"]), start);
        assert_eq!(names(&mut queue, start + MAX_UNSCHEDULABLE), ["a"]);
    }

    #[test]
    fn gates_hold_a_pod_back() {
        let (mut queue, start) = (queue(), Instant::now());
        let gated = || pod("a").spec("schedulingGates", json!([{"name": "wait"}]));
        queue.add(Arc::new(gated().build()), start);
        assert!(queue.pop(start).is_none());
        queue.add(Arc::new(pod("a").build()), start);
        assert_eq!(names(&mut queue, start), ["a"]);
    }
}
