//! One run of the deployment controller as a pure function: from the Deployment and its sets to the writes to make.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use kube::ResourceExt;

use super::sets::{self, observed, replicas};
use super::status::{self, PROGRESSING, condition, new_condition, set_condition};

pub(super) use super::sets::is_recreate;

/// What one run sees.
pub(super) struct Input<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) sets: Vec<Arc<ReplicaSet>>,
    /// Pods not finished, by the uid of their set.
    pub(super) running: &'a HashMap<String, usize>,
    pub(super) now: Timestamp,
}

/// A set to write, and the note of the event when its size changed.
#[derive(Debug, PartialEq)]
pub(super) struct Update {
    pub(super) set: ReplicaSet,
    pub(super) note: Option<String>,
}

/// What one run does, in this order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) create: Option<ReplicaSet>,
    pub(super) updates: Vec<Update>,
    pub(super) deletes: Vec<ReplicaSet>,
    /// The Deployment with its new status and revision, when they changed.
    pub(super) deployment: Option<Deployment>,
    /// Look again after this time.
    pub(super) again: Option<Duration>,
}

/// The sets during a run: changed in place, compared with what was held in the end.
struct Work<'a> {
    input: &'a Input<'a>,
    new: Option<ReplicaSet>,
    /// Oldest first.
    old: Vec<ReplicaSet>,
    status: DeploymentStatus,
    revision: Option<i64>,
    create: bool,
    deletes: Vec<ReplicaSet>,
}

pub(super) fn decide(input: Input<'_>) -> Outcome {
    let deployment = input.deployment;
    let mut work = Work::new(&input);
    if deployment.metadata.deletion_timestamp.is_some() {
        work.count();
        return work.finish(false);
    }
    work.note_pause();
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    if paused || work.is_scaling() {
        work.adopt_new();
        work.scale();
        if paused {
            work.clean_up();
        }
        work.count();
        return work.finish(false);
    }
    if is_recreate(deployment) {
        work.recreate();
    } else {
        work.roll();
    }
    work.count();
    let base = deployment.status.clone().unwrap_or_default();
    let (all, new) = (work.old.iter().chain(&work.new), work.new.as_ref());
    status::rollout(deployment, &base, &mut work.status, all, new, input.now);
    work.finish(true)
}

impl<'a> Work<'a> {
    fn new(input: &'a Input<'a>) -> Self {
        let mut old: Vec<ReplicaSet> = input.sets.iter().map(|set| (**set).clone()).collect();
        old.sort_by(sets::by_creation);
        // of several sets of this template the oldest is the new one, deterministically
        let new = old
            .iter()
            .position(|set| sets::same_template(input.deployment, set))
            .map(|position| old.remove(position));
        let status = input.deployment.status.clone().unwrap_or_default();
        Self { input, new, old, status, revision: None, create: false, deletes: Vec::new() }
    }

    fn wanted(&self) -> i32 {
        sets::wanted(self.input.deployment)
    }

    fn all(&self) -> impl Iterator<Item = &ReplicaSet> + Clone {
        self.old.iter().chain(&self.new)
    }

    fn total(&self) -> i32 {
        self.all().map(replicas).sum()
    }

    fn available(&self) -> i32 {
        self.all().map(|set| observed(set).available).sum()
    }

    /// Notes in Progressing that the rollout was paused or resumed, so that the deadline does not count that time.
    fn note_pause(&mut self) {
        let deployment = self.input.deployment;
        if status::deadline(deployment).is_none() {
            return;
        }
        let reason = condition(&self.status, PROGRESSING).and_then(|c| c.reason.as_deref());
        if reason == Some(status::TIMED_OUT) {
            return;
        }
        let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
        let (reason, message) = match (paused, reason == Some("DeploymentPaused")) {
            (true, false) => ("DeploymentPaused", "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return,
        };
        let condition = new_condition(PROGRESSING, "Unknown", reason, message, self.input.now);
        set_condition(&mut self.status, condition);
    }

    /// The Deployment was resized since its sets were.
    fn is_scaling(&self) -> bool {
        self.all()
            .filter(|set| replicas(set) > 0)
            .filter_map(sets::desired)
            .any(|desired| desired != self.wanted())
    }

    fn next_revision(&self) -> i64 {
        self.old.iter().map(sets::revision).max().unwrap_or(0) + 1
    }

    /// Brings the new set, where it exists, in line: revision, annotations, minReadySeconds.
    fn adopt_new(&mut self) {
        let next = self.next_revision();
        let deployment = self.input.deployment;
        let Some(new) = &mut self.new else { return };
        sets::annotate_new(deployment, new, next);
        let min_ready = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).filter(|s| *s != 0);
        let spec = new.spec.get_or_insert_default();
        if spec.min_ready_seconds.filter(|seconds| *seconds != 0) != min_ready {
            spec.min_ready_seconds = min_ready;
        }
        self.revision = Some(sets::revision(new));
        if status::deadline(deployment).is_some() && condition(&self.status, PROGRESSING).is_none() {
            let message = format!("Found new replica set {:?}", new.name_any());
            let found = new_condition(PROGRESSING, "True", "FoundNewReplicaSet", &message, self.input.now);
            set_condition(&mut self.status, found);
        }
    }

    /// Makes the new set if there is none.
    fn ensure_new(&mut self) {
        if self.new.is_some() {
            self.adopt_new();
            return;
        }
        let deployment = self.input.deployment;
        let revision = self.next_revision();
        let mut new = sets::make(deployment);
        sets::set_replicas(&mut new, 0);
        let count = self.size_of_new(0);
        sets::set_replicas(&mut new, count);
        sets::annotate_new(deployment, &mut new, revision);
        sets::annotate_size(&mut new, self.wanted(), self.wanted() + sets::max_surge(deployment));
        if status::deadline(deployment).is_some() {
            let message = format!("Created new replica set {:?}", new.name_any());
            let created =
                new_condition(PROGRESSING, "True", "NewReplicaSetCreated", &message, self.input.now);
            set_condition(&mut self.status, created);
        }
        self.revision = Some(revision);
        self.create = true;
        self.new = Some(new);
    }

    /// How large the new set may be now, given how large it is.
    fn size_of_new(&self, current: i32) -> i32 {
        let wanted = self.wanted();
        if is_recreate(self.input.deployment) {
            return wanted;
        }
        let room = wanted + sets::max_surge(self.input.deployment) - self.total();
        if room <= 0 { current } else { current + room.min(wanted - current) }
    }

    fn roll(&mut self) {
        self.ensure_new();
        if self.create {
            // the old sets follow when the new one has been seen
            return;
        }
        if self.resize_new() || self.shrink_old() {
            return;
        }
        self.clean_up_when_complete();
    }

    fn resize_new(&mut self) -> bool {
        let wanted = self.wanted();
        let Some(current) = self.new.as_ref().map(replicas) else { return false };
        let size = if current >= wanted { wanted } else { self.size_of_new(current) };
        let (deployment, Some(new)) = (self.input.deployment, &mut self.new) else { return false };
        resize(deployment, new, size)
    }

    /// Takes pods from the old sets: unhealthy ones first, then as many as availability allows.
    fn shrink_old(&mut self) -> bool {
        let old_total: i32 = self.old.iter().map(replicas).sum();
        if old_total == 0 {
            return false;
        }
        let deployment = self.input.deployment;
        let least = self.wanted() - sets::max_unavailable(deployment);
        let new_unavailable = self.new.as_ref().map_or(0, |set| replicas(set) - observed(set).available);
        let surplus = self.total() - least - new_unavailable;
        if surplus <= 0 {
            return false;
        }
        let mut left = surplus;
        let mut changed = false;
        for set in &mut self.old {
            let unhealthy = (replicas(set) - observed(set).available).clamp(0, left);
            left -= unhealthy;
            let size = replicas(set) - unhealthy;
            changed |= unhealthy > 0 && resize(deployment, set, size);
        }
        let mut spare = self.available() - least;
        for set in &mut self.old {
            let down = replicas(set).min(spare).max(0);
            spare -= down;
            let size = replicas(set) - down;
            changed |= down > 0 && resize(deployment, set, size);
        }
        changed
    }

    fn recreate(&mut self) {
        self.adopt_new();
        let deployment = self.input.deployment;
        let mut shrunk = false;
        for set in &mut self.old {
            shrunk |= resize(deployment, set, 0);
        }
        let running = |set: &ReplicaSet| {
            let pods = set.metadata.uid.as_ref().and_then(|uid| self.input.running.get(uid)).copied();
            observed(set).replicas > 0 || pods.unwrap_or(0) > 0
        };
        if shrunk || self.old.iter().any(running) {
            return;
        }
        self.ensure_new();
        if !self.create {
            self.resize_new();
            self.clean_up_when_complete();
        }
    }

    /// Resizes the sets after the Deployment was resized: all to the one that is active, or by their shares.
    fn scale(&mut self) {
        let (deployment, wanted) = (self.input.deployment, self.wanted());
        let active: Vec<usize> = (0..self.old.len()).filter(|at| replicas(&self.old[*at]) > 0).collect();
        let new_active = self.new.as_ref().is_some_and(|set| replicas(set) > 0);
        match (active.as_slice(), new_active) {
            ([], _) => {
                let latest = match &mut self.new {
                    Some(new) => Some(new),
                    None => self.old.iter_mut().max_by(|a, b| sets::by_revision(a, b)),
                };
                if let Some(set) = latest {
                    resize(deployment, set, wanted);
                }
                return;
            }
            ([one], false) => {
                let one = *one;
                resize(deployment, &mut self.old[one], wanted);
                return;
            }
            _ => {}
        }
        let saturated = self.new.as_ref().is_some_and(|set| {
            replicas(set) == wanted && sets::desired(set) == Some(wanted) && observed(set).available == wanted
        });
        if saturated {
            for set in &mut self.old {
                resize(deployment, set, 0);
            }
            return;
        }
        if !is_recreate(deployment) {
            self.scale_by_share();
        }
    }

    /// A rollout is under way: every active set gets its share of the difference, larger ones first.
    fn scale_by_share(&mut self) {
        let (deployment, wanted) = (self.input.deployment, self.wanted());
        let most = if wanted > 0 { wanted + sets::max_surge(deployment) } else { 0 };
        let held_replicas = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let mut active: Vec<&mut ReplicaSet> =
            self.old.iter_mut().chain(&mut self.new).filter(|set| replicas(set) > 0).collect();
        let difference = most - active.iter().map(|set| replicas(set)).sum::<i32>();
        // what is left over goes to the largest: the newest of equals when growing, the oldest when shrinking
        active.sort_by(|a, b| {
            let age = if difference > 0 { sets::by_creation(b, a) } else { sets::by_creation(a, b) };
            replicas(b).cmp(&replicas(a)).then(age)
        });
        let mut given = 0;
        let sizes: Vec<i32> = active
            .iter()
            .map(|set| {
                let size = replicas(set);
                let left = difference - given;
                if left == 0 {
                    return size;
                }
                let share = share(size, sets::max_replicas(set).unwrap_or(held_replicas), wanted, most);
                let part = if difference > 0 { share.min(left) } else { share.max(left) };
                given += part;
                size + part
            })
            .collect();
        for (position, (set, mut size)) in active.into_iter().zip(sizes).enumerate() {
            if position == 0 {
                size = (size + difference - given).max(0);
            }
            resize_with_annotations(deployment, set, size);
        }
    }

    fn clean_up_when_complete(&mut self) {
        let mut counted =
            status::counts(self.input.deployment, self.all(), self.new.as_ref(), self.input.now);
        counted.observed_generation = self.input.deployment.metadata.generation;
        if status::is_complete(self.input.deployment, &counted) {
            self.clean_up();
        }
    }

    /// Old empty sets beyond `revisionHistoryLimit` go, lowest revision first.
    fn clean_up(&mut self) {
        let limit = self.input.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut old: Vec<&ReplicaSet> =
            self.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by(|a, b| sets::by_revision(a, b));
        let empty = |set: &ReplicaSet| {
            let seen = set.status.as_ref().and_then(|status| status.observed_generation);
            observed(set).replicas == 0 && replicas(set) == 0 && set.metadata.generation <= seen
        };
        self.deletes = old.into_iter().take(surplus).filter(|set| empty(set)).cloned().collect();
    }

    fn count(&mut self) {
        let carrier = Deployment { status: Some(self.status.clone()), ..self.input.deployment.clone() };
        self.status = status::counts(&carrier, self.all(), self.new.as_ref(), self.input.now);
    }

    fn finish(self, rollout: bool) -> Outcome {
        let deployment = self.input.deployment;
        let again = if rollout { status::look_again(deployment, &self.status, self.input.now) } else { None };
        let held: HashMap<Option<&str>, &ReplicaSet> =
            self.input.sets.iter().map(|set| (set.metadata.name.as_deref(), &**set)).collect();
        let mut outcome = Outcome { deletes: self.deletes, again, ..Outcome::default() };
        let mut changed = deployment.clone();
        if let Some(revision) = self.revision {
            changed.annotations_mut().insert(sets::REVISION.into(), revision.to_string());
        }
        changed.status = Some(self.status);
        let new = if self.create {
            outcome.create = self.new;
            None
        } else {
            self.new
        };
        for set in new.into_iter().chain(self.old) {
            let Some(before) = held.get(&set.metadata.name.as_deref()) else { continue };
            if set == **before {
                continue;
            }
            let (from, to) = (replicas(before), replicas(&set));
            let note = (from != to).then(|| {
                let direction = if from < to { "up" } else { "down" };
                format!("Scaled {direction} replica set {} from {from} to {to}", set.name_any())
            });
            outcome.updates.push(Update { set, note });
        }
        let same_status = normal(changed.status.as_ref()) == normal(deployment.status.as_ref());
        if !same_status || changed.annotations() != deployment.annotations() {
            outcome.deployment = Some(changed);
        }
        outcome
    }
}

/// Absent and zero counts are the same.
fn normal(status: Option<&DeploymentStatus>) -> DeploymentStatus {
    let mut status = status.cloned().unwrap_or_default();
    for count in [
        &mut status.replicas,
        &mut status.updated_replicas,
        &mut status.ready_replicas,
        &mut status.available_replicas,
        &mut status.unavailable_replicas,
    ] {
        count.get_or_insert(0);
    }
    status
}

/// The change of one set of `size` when all sets together are to have `most` pods and had `before`.
fn share(size: i32, before: i32, wanted: i32, most: i32) -> i32 {
    if wanted == 0 {
        return -size;
    }
    if before <= 0 {
        return 0;
    }
    let scaled = f64::from(size) * f64::from(most) / f64::from(before);
    scaled.round() as i32 - size
}

/// Whether the size changed.
fn resize(deployment: &Deployment, set: &mut ReplicaSet, size: i32) -> bool {
    if replicas(set) == size {
        return false;
    }
    resize_with_annotations(deployment, set, size);
    true
}

fn resize_with_annotations(deployment: &Deployment, set: &mut ReplicaSet, size: i32) {
    let wanted = sets::wanted(deployment);
    sets::set_replicas(set, size);
    sets::annotate_size(set, wanted, wanted + sets::max_surge(deployment));
}

/// An empty selector would select every pod of the namespace.
pub(super) fn selects_everything(deployment: &Deployment) -> bool {
    crate::owner::selector(deployment.spec.as_ref().map(|spec| &spec.selector))
        .is_some_and(|selector| selector.selects_all())
}

/// The Deployment with only its observed generation brought up to date, if it is behind.
pub(super) fn observed_only(deployment: &Deployment) -> Option<Deployment> {
    let seen = deployment.status.as_ref().and_then(|status| status.observed_generation);
    (seen < deployment.metadata.generation).then(|| {
        let mut changed = deployment.clone();
        changed.status.get_or_insert_default().observed_generation = deployment.metadata.generation;
        changed
    })
}

/// The Deployment after its template's hash met an unrelated set's name.
pub(super) fn next_collision(deployment: &Deployment) -> Deployment {
    let mut changed = deployment.clone();
    let count = changed.status.get_or_insert_default().collision_count.get_or_insert(0);
    *count += 1;
    changed
}

/// The Deployment with the failure to create its new set in Progressing; `None` without a deadline.
pub(super) fn create_failed(deployment: &Deployment, message: &str, now: Timestamp) -> Option<Deployment> {
    status::deadline(deployment)?;
    let mut changed = deployment.clone();
    let status = changed.status.get_or_insert_default();
    set_condition(status, new_condition(PROGRESSING, "False", "ReplicaSetCreateError", message, now));
    (changed.status != deployment.status).then_some(changed)
}

#[cfg(test)]
mod tests;
