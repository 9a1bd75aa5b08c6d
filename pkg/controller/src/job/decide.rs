//! One run of the job controller as a pure function.
//!
//! Pods carry a finalizer until they are counted, so that none is lost or counted twice: a finished pod's uid first
//! goes into `uncountedTerminatedPods`, then its finalizer is removed, then the uid becomes part of the counters
//! (KEP-2307).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::policy::{self, Failure};
use super::{FAILURES, FINALIZER, INDEX, indexes};
use crate::pods;

/// Pods created or deleted in one run.
const BURST: usize = 500;
/// Uids in `uncountedTerminatedPods` at most.
const UNCOUNTED: usize = 500;
/// First wait after a failed pod; doubles up to the longest.
const BACKOFF_BASE: SignedDuration = SignedDuration::from_secs(10);
const BACKOFF_MAX: SignedDuration = SignedDuration::from_mins(10);

/// One pod to create: for Indexed Jobs its index and how often that index failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NewPod {
    pub(super) index: Option<i32>,
    pub(super) failures: i32,
}

/// An event about the Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) is_warning: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

/// What one run does: status first, then finalizers, then pods.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) status: Option<JobStatus>,
    pub(super) notes: Vec<Note>,
    pub(super) release: Vec<Arc<Pod>>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) create: Vec<NewPod>,
    pub(super) again: Option<Duration>,
}

pub(super) fn is_indexed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) == Some("Indexed")
}

pub(super) fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
}

pub(super) fn is_finished(job: &Job) -> bool {
    job.status
        .as_ref()
        .is_some_and(|s| condition(s, "Complete").is_some() || condition(s, "Failed").is_some())
}

pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX).and_then(|text| text.parse().ok())
}

fn failures_of(pod: &Pod) -> i32 {
    pod.annotations().get(FAILURES).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) fn has_finalizer(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

fn set_condition(
    status: &mut JobStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let new = JobCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(held) if held.status == value && held.reason == new.reason && held.message == new.message => {
            false
        }
        Some(held) => {
            *held = new;
            true
        }
        None => {
            conditions.push(new);
            true
        }
    }
}

/// Counts of one run.
struct Counts {
    active: Vec<Arc<Pod>>,
    terminating: usize,
    succeeded: i32,
    failed: i32,
    done: BTreeSet<i32>,
    failed_indexes: BTreeSet<i32>,
}

struct Work<'a> {
    job: &'a Job,
    pods: &'a [Arc<Pod>],
    now: Timestamp,
    status: JobStatus,
    plan: Plan,
    counts: Counts,
    /// Set by a `FailJob` rule.
    fail_job: Option<String>,
}

/// `settled`: the pods seen include everything this controller has done.
pub(super) fn decide(job: &Job, pods: &[Arc<Pod>], settled: bool, now: Timestamp) -> Plan {
    if is_finished(job) {
        let release = pods.iter().filter(|pod| has_finalizer(pod)).cloned().collect();
        return Plan { release, ..Plan::default() };
    }
    let mut work = Work::new(job, pods, now);
    work.count();
    work.conclude();
    work.suspend();
    if settled {
        work.adjust();
    }
    work.finish()
}

impl<'a> Work<'a> {
    fn new(job: &'a Job, pods: &'a [Arc<Pod>], now: Timestamp) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let completions = job.spec.as_ref().and_then(|spec| spec.completions).unwrap_or(0);
        let list = |text: &Option<String>| indexes::parse(text.as_deref().unwrap_or(""), completions);
        let counts = Counts {
            active: pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect(),
            terminating: pods
                .iter()
                .filter(|pod| pods::is_terminating(pod) && !pods::is_finished(pod))
                .count(),
            succeeded: 0,
            failed: 0,
            done: list(&status.completed_indexes),
            failed_indexes: list(&status.failed_indexes),
        };
        Self { job, pods, now, status, plan: Plan::default(), counts, fail_job: None }
    }

    fn spec_int(&self, field: impl Fn(&k8s_openapi::api::batch::v1::JobSpec) -> Option<i32>) -> Option<i32> {
        self.job.spec.as_ref().and_then(field)
    }

    fn replaces_only_failed(&self) -> bool {
        let spec = self.job.spec.as_ref();
        spec.and_then(|spec| spec.pod_replacement_policy.as_deref()) == Some("Failed")
    }

    /// Whether a pod counts as failed now. Pods being deleted do, unless only failed ones are to be replaced.
    fn counts_as_failed(&self, pod: &Pod) -> bool {
        pods::phase(pod) == "Failed"
            || (pods::is_terminating(pod) && pods::phase(pod) != "Succeeded" && !self.replaces_only_failed())
    }

    fn count(&mut self) {
        let by_uid: HashMap<&str, &Arc<Pod>> =
            self.pods.iter().filter_map(|pod| Some((pod.metadata.uid.as_deref()?, pod))).collect();
        let mut uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let mut succeeded = uncounted.succeeded.take().unwrap_or_default();
        let mut failed = uncounted.failed.take().unwrap_or_default();
        // pods whose finalizer is gone are counted for good
        let released = |uid: &String| by_uid.get(uid.as_str()).is_none_or(|pod| !has_finalizer(pod));
        let settle = |uids: &mut Vec<String>, total: Option<i32>| {
            let before = uids.len();
            uids.retain(|uid| !released(uid));
            Some(total.unwrap_or(0) + (before - uids.len()) as i32)
        };
        self.status.succeeded = settle(&mut succeeded, self.status.succeeded);
        self.status.failed = settle(&mut failed, self.status.failed);

        let per_index = self.spec_int(|spec| spec.backoff_limit_per_index);
        for pod in self.pods.iter().filter(|pod| has_finalizer(pod)) {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if succeeded.contains(&uid) || failed.contains(&uid) {
                self.plan.release.push(pod.clone());
                continue;
            }
            if succeeded.len() + failed.len() >= UNCOUNTED {
                break;
            }
            if pods::phase(pod) == "Succeeded" {
                if is_indexed(self.job) {
                    let Some(index) = index_of(pod) else { continue };
                    if !self.counts.done.insert(index) {
                        // a second success of an index is let go uncounted
                        self.plan.release.push(pod.clone());
                        continue;
                    }
                }
                succeeded.push(uid);
                self.plan.release.push(pod.clone());
            } else if self.counts_as_failed(pod) {
                let verdict = policy::judge(self.job, pod);
                if let Failure::FailJob(message) = &verdict {
                    self.fail_job.get_or_insert_with(|| message.clone());
                }
                if let (Some(limit), Some(index)) = (per_index, index_of(pod))
                    && (verdict == Failure::FailIndex
                        || (verdict == Failure::Count && failures_of(pod) >= limit))
                {
                    self.counts.failed_indexes.insert(index);
                }
                self.plan.release.push(pod.clone());
                if verdict != Failure::Ignore {
                    failed.push(uid);
                }
            }
        }
        self.counts.succeeded = if is_indexed(self.job) {
            self.counts.done.len() as i32
        } else {
            self.status.succeeded.unwrap_or(0) + succeeded.len() as i32
        };
        self.counts.failed = self.status.failed.unwrap_or(0) + failed.len() as i32;
        if is_indexed(self.job) {
            self.status.succeeded = Some(self.counts.done.len() as i32);
            self.status.completed_indexes =
                Some(indexes::format(&self.counts.done)).filter(|text| !text.is_empty());
            if per_index.is_some() {
                self.status.failed_indexes = Some(indexes::format(&self.counts.failed_indexes));
            }
        }
        uncounted.succeeded = Some(succeeded).filter(|list| !list.is_empty());
        uncounted.failed = Some(failed).filter(|list| !list.is_empty());
        self.status.uncounted_terminated_pods = Some(uncounted);
    }

    /// Sets FailureTarget or SuccessCriteriaMet when the outcome is known, and the final condition when no pod is left.
    fn conclude(&mut self) {
        if let Some((reason, message)) = self.failure() {
            set_condition(&mut self.status, "FailureTarget", "True", &reason, &message, self.now);
        } else if condition(&self.status, "FailureTarget").is_none()
            && let Some((reason, message)) = self.success()
        {
            set_condition(&mut self.status, "SuccessCriteriaMet", "True", &reason, &message, self.now);
        }
        let outcome = [("FailureTarget", "Failed"), ("SuccessCriteriaMet", "Complete")]
            .into_iter()
            .find_map(|(kind, end)| Some((end, condition(&self.status, kind)?.clone())));
        let Some((end, outcome)) = outcome else { return };
        let left = std::mem::take(&mut self.counts.active);
        self.plan.delete = left;
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        let all_counted = uncounted.is_none_or(|list| list.succeeded.is_none() && list.failed.is_none());
        let quiet = self.plan.delete.is_empty() && self.counts.terminating == 0 && all_counted;
        if quiet {
            let (reason, message) = (outcome.reason.unwrap_or_default(), outcome.message.unwrap_or_default());
            set_condition(&mut self.status, end, "True", &reason, &message, self.now);
            if end == "Complete" {
                self.status.completion_time = Some(Time(self.now));
                self.note(false, "Completed", "Job completed");
            } else {
                self.note(true, &reason, &message);
            }
        }
    }

    fn is_decided(&self) -> bool {
        condition(&self.status, "FailureTarget").is_some()
            || condition(&self.status, "SuccessCriteriaMet").is_some()
    }

    fn note(&mut self, is_warning: bool, reason: &str, message: &str) {
        self.plan.notes.push(Note { is_warning, reason: reason.into(), message: message.into() });
    }

    /// Why the Job has failed, if it has.
    fn failure(&mut self) -> Option<(String, String)> {
        if self.is_decided() {
            return None;
        }
        let failure = |reason: &str, message: &str| Some((reason.to_owned(), message.to_owned()));
        if let Some(message) = &self.fail_job {
            return failure("PodFailurePolicy", message);
        }
        let limit = self.spec_int(|spec| spec.backoff_limit).unwrap_or(6);
        let restarts: i32 = self
            .counts
            .active
            .iter()
            .filter(|pod| pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure"))
            .flat_map(|pod| pod.status.iter())
            .flat_map(|s| {
                s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten())
            })
            .map(|container| container.restart_count)
            .sum();
        if self.counts.failed > limit || (restarts > 0 && restarts >= limit.max(1)) {
            return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if let (Some(seconds), Some(start)) =
            (self.job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds), &self.status.start_time)
            && !self.is_suspended()
        {
            let left = (start.0 + SignedDuration::from_secs(seconds)).duration_since(self.now);
            if left <= SignedDuration::ZERO {
                return failure("DeadlineExceeded", "Job was active longer than specified deadline");
            }
            self.plan.again = Duration::try_from(left).ok();
        }
        if self.spec_int(|spec| spec.backoff_limit_per_index).is_some() {
            let failed = self.counts.failed_indexes.len() as i32;
            if self.spec_int(|spec| spec.max_failed_indexes).is_some_and(|most| failed > most) {
                let text = "Job has exceeded the specified maximal number of failed indexes";
                return failure("MaxFailedIndexesExceeded", text);
            }
            let completions = self.spec_int(|spec| spec.completions).unwrap_or(0);
            if failed > 0 && failed + self.counts.succeeded >= completions {
                return failure("FailedIndexes", "Job has failed indexes");
            }
        }
        None
    }

    /// Why the Job has succeeded, if it has.
    fn success(&self) -> Option<(String, String)> {
        if self.is_decided() {
            return None;
        }
        if let Some(message) = policy::succeeded(self.job, &self.counts.done) {
            return Some(("SuccessPolicy".into(), message));
        }
        let reached = match self.spec_int(|spec| spec.completions) {
            Some(completions) => self.counts.succeeded >= completions,
            None => {
                self.counts.succeeded > 0 && self.counts.active.is_empty() && self.counts.terminating == 0
            }
        };
        reached.then(|| ("CompletionsReached".into(), "Reached expected number of succeeded pods".into()))
    }

    fn is_suspended(&self) -> bool {
        self.job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or(false)
    }

    fn suspend(&mut self) {
        if self.is_decided() {
            return;
        }
        let held = self
            .status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Suspended")
            .map(|c| c.status.clone());
        if self.is_suspended() {
            if set_condition(&mut self.status, "Suspended", "True", "JobSuspended", "Job suspended", self.now)
            {
                self.note(false, "Suspended", "Job suspended");
            }
            self.status.start_time = None;
        } else {
            if held.as_deref() == Some("True") {
                set_condition(&mut self.status, "Suspended", "False", "JobResumed", "Job resumed", self.now);
                self.note(false, "Resumed", "Job resumed");
                self.status.start_time = Some(Time(self.now));
            }
            if self.status.start_time.is_none() {
                self.status.start_time = Some(Time(self.now));
                if let Some(seconds) = self.job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds) {
                    self.again(SignedDuration::from_secs(seconds));
                }
            }
        }
    }

    fn again(&mut self, wait: SignedDuration) {
        let wait = Duration::try_from(wait).unwrap_or_default();
        self.plan.again = Some(self.plan.again.map_or(wait, |held| held.min(wait)));
    }

    /// Creates what is missing and deletes what is too much.
    fn adjust(&mut self) {
        if self.is_decided() || self.job.metadata.deletion_timestamp.is_some() {
            return;
        }
        if self.is_suspended() {
            self.plan.delete.clone_from(&self.counts.active);
            return;
        }
        let parallelism = self.spec_int(|spec| spec.parallelism).unwrap_or(1).max(0) as usize;
        let mut surplus = if is_indexed(self.job) { self.doubled() } else { Vec::new() };
        let active = self.counts.active.len() - surplus.len();
        let wanted = match self.spec_int(|spec| spec.completions) {
            None if self.counts.succeeded > 0 => active.min(parallelism),
            None => parallelism,
            Some(completions) => {
                let decided = self.counts.succeeded + self.counts.failed_indexes.len() as i32;
                parallelism.min((completions - decided).max(0) as usize)
            }
        };
        if active > wanted {
            let mut pods: Vec<Arc<Pod>> = self.counts.active.clone();
            pods.retain(|pod| !surplus.iter().any(|other| Arc::ptr_eq(pod, other)));
            pods.sort_by(|a, b| pods::by_deletion_preference(a, b, &HashMap::new(), self.now));
            surplus.extend(pods.into_iter().take(active - wanted));
        }
        if !surplus.is_empty() {
            surplus.truncate(BURST);
            self.plan.delete = surplus;
            return;
        }
        let waiting = if self.replaces_only_failed() { self.counts.terminating } else { 0 };
        let missing = wanted.saturating_sub(active + waiting).min(BURST);
        if missing == 0 {
            return;
        }
        if let Some(wait) = self.backoff() {
            self.again(wait);
            return;
        }
        self.plan.create = if is_indexed(self.job) {
            self.next_indexes(missing)
        } else {
            vec![NewPod { index: None, failures: 0 }; missing]
        };
    }

    /// Active pods beyond the first of their index, and those of indexes already decided.
    fn doubled(&self) -> Vec<Arc<Pod>> {
        let completions = self.spec_int(|spec| spec.completions).unwrap_or(0);
        let mut seen = BTreeSet::new();
        let mut pods = self.counts.active.clone();
        pods.sort_by(|a, b| pods::by_deletion_preference(b, a, &HashMap::new(), self.now));
        pods.retain(|pod| match index_of(pod) {
            None => true,
            Some(index) => {
                let decided =
                    self.counts.done.contains(&index) || self.counts.failed_indexes.contains(&index);
                index >= completions || decided || !seen.insert(index)
            }
        });
        pods
    }

    fn next_indexes(&self, count: usize) -> Vec<NewPod> {
        let completions = self.spec_int(|spec| spec.completions).unwrap_or(0);
        let busy: BTreeSet<i32> = self
            .pods
            .iter()
            .filter(|pod| pods::is_active(pod) || (self.replaces_only_failed() && !pods::is_finished(pod)))
            .filter_map(|pod| index_of(pod))
            .collect();
        let mut failures: BTreeMap<i32, i32> = BTreeMap::new();
        if self.spec_int(|spec| spec.backoff_limit_per_index).is_some() {
            for pod in self.pods.iter().filter(|pod| self.counts_as_failed(pod)) {
                if let Some(index) = index_of(pod) {
                    let counted = i32::from(policy::judge(self.job, pod) != Failure::Ignore);
                    let next = failures.entry(index).or_insert(0);
                    *next = (*next).max(failures_of(pod) + counted);
                }
            }
        }
        (0..completions)
            .filter(|index| {
                !busy.contains(index)
                    && !self.counts.done.contains(index)
                    && !self.counts.failed_indexes.contains(index)
            })
            .take(count)
            .map(|index| NewPod { index: Some(index), failures: failures.get(&index).copied().unwrap_or(0) })
            .collect()
    }

    /// How long to wait before the next pod: doubles with each failure since the last success.
    fn backoff(&self) -> Option<SignedDuration> {
        let finished = |pod: &Pod| {
            let ends = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            ends.filter_map(|c| {
                c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
            })
            .max()
            .or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
            .or_else(|| pods::condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0))
        };
        let of = |phase: &str| {
            self.pods
                .iter()
                .filter(move |pod| pods::phase(pod) == phase)
                .filter_map(|pod| finished(pod))
                .collect::<Vec<_>>()
        };
        let last_success = of("Succeeded").into_iter().max();
        let failures: Vec<Timestamp> =
            of("Failed").into_iter().filter(|at| last_success.is_none_or(|success| *at > success)).collect();
        let last = failures.iter().max()?;
        let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(16);
        let wait = (BACKOFF_BASE * 2_i32.pow(doublings)).min(BACKOFF_MAX);
        let left = (*last + wait).duration_since(self.now);
        (left > SignedDuration::ZERO).then_some(left)
    }

    fn finish(mut self) -> Plan {
        let active = self.counts.active.len() as i32;
        let ready = self.counts.active.iter().filter(|pod| pods::is_ready(pod)).count() as i32;
        self.status.active = Some(active).filter(|count| *count > 0);
        self.status.ready = Some(ready);
        self.status.terminating = Some(self.counts.terminating as i32);
        if self.status != self.job.status.clone().unwrap_or_default() {
            self.plan.status = Some(self.status);
        }
        self.plan
    }
}

#[cfg(test)]
mod tests;
