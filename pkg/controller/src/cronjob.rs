//! The cronjob controller: makes Jobs on a schedule.
//!
//! Behaviour after upstream's `pkg/controller/cronjob/cronjob_controllerv2.go`.

mod schedule;

use std::sync::Arc;
use std::time::Duration;

use client::events::{EventRecorder, EventType, reference};
use client::rest::Rest;
use client::workqueue::WorkQueue;
use client::{Event, Store, is_already_exists, is_namespace_terminating, is_not_found};
use futures::future::BoxFuture;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::expectations::Written;
use crate::owner::{controller_of, controller_reference};
use crate::resources::{CRON_JOBS, JOBS};
use schedule::Schedule;

/// Missed times after which something is wrong with clock or deadline.
const TOO_MANY_MISSED: i64 = 100;
/// Added to waits, so that a timer never fires a moment too early.
const DELTA: Duration = Duration::from_millis(100);
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct Controller {
    cron_jobs: Store<CronJob>,
    jobs: Store<Job>,
    written: Written,
    rest: Rest,
    recorder: EventRecorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let queue = WorkQueue::new("cronjob");
    let cron_jobs = context.informer::<CronJob>();
    let jobs = context.informer::<Job>();
    let controller = Arc::new(Controller {
        cron_jobs: cron_jobs.store(),
        jobs: jobs.store(),
        written: Written::default(),
        rest: context.rest("cronjob-controller"),
        recorder: context.recorder("cronjob-controller"),
    });
    let (adds, handler) = (queue.clone(), controller.clone());
    cron_jobs.on_event(move |event| {
        let key = Key::of(&**event.object());
        if matches!(event, Event::Deleted(_)) {
            handler.written.forget(&key);
        }
        adds.add(key);
    });
    let adds = queue.clone();
    jobs.on_event(move |event| {
        let job = event.object();
        if let Some(owner) = controller_of(&job.metadata).filter(|owner| owner.kind == "CronJob") {
            adds.add(Key::new(job.namespace().unwrap_or_default(), owner.name.clone()));
        }
    });
    context.work("cronjob-controller", &queue, context.config.concurrency.cron_job, controller);
}

/// How a Job ended, if it has.
fn ended(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
        .map(|c| c.type_.as_str())
}

/// The times of a schedule that have passed and were not acted on.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    /// The latest of them.
    at: Option<Timestamp>,
    /// More than [`TOO_MANY_MISSED`] were missed.
    too_many: bool,
    next: Option<Timestamp>,
}

fn due(cron_job: &CronJob, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Due {
    let time = |field: Option<&Time>| field.map(|time| time.0);
    let created = time(cron_job.metadata.creation_timestamp.as_ref()).unwrap_or(now);
    let mut earliest =
        time(cron_job.status.as_ref().and_then(|s| s.last_schedule_time.as_ref())).unwrap_or(created);
    if let Some(seconds) = cron_job.spec.starting_deadline_seconds {
        // what is later than its deadline allows is not started anyway
        earliest = earliest.max(now - SignedDuration::from_secs(seconds.clamp(0, i64::from(i32::MAX))));
    }
    let next = schedule.next(now, zone);
    let Some(first) = schedule.next(earliest, zone).filter(|first| *first <= now) else {
        return Due { at: None, too_many: false, next };
    };
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else {
        return Due { at: Some(first), too_many: false, next };
    };
    // jump close to now by the distance of two times, then step: uneven schedules are corrected by the steps
    let distance = second.duration_since(first).as_secs().max(1);
    let missed = now.duration_since(first).as_secs() / distance + 1;
    let back = SignedDuration::from_secs(distance.saturating_mul(2));
    let mut latest = if missed > 3 {
        schedule.next(now - back, zone).filter(|at| *at <= now).unwrap_or(second)
    } else {
        second
    };
    for _ in 0..TOO_MANY_MISSED {
        match schedule.next(latest, zone).filter(|at| *at <= now) {
            Some(later) => latest = later,
            None => break,
        }
    }
    Due { at: Some(latest), too_many: missed > TOO_MANY_MISSED, next }
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(cron_job) = self.cron_jobs.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        if self.written.is_stale(key, cron_job.metadata.resource_version.as_deref()) {
            return Ok(Next::OnChange);
        }
        let mut jobs = self.jobs.list_in(&key.namespace);
        jobs.retain(|job| {
            controller_of(&job.metadata).is_some_and(|o| Some(&o.uid) == cron_job.metadata.uid.as_ref())
        });
        let mut status = cron_job.status.clone().unwrap_or_default();
        self.follow(&cron_job, &jobs, &mut status);
        self.forget_old(&cron_job, &jobs).await?;
        let next = self.run(&cron_job, key, &jobs, &mut status).await;
        status.active = status.active.filter(|active| !active.is_empty());
        if Some(&status) != cron_job.status.as_ref()
            && (cron_job.status.is_some() || status != CronJobStatus::default())
        {
            let changed = CronJob { status: Some(status), ..(*cron_job).clone() };
            match self.rest.update(&CRON_JOBS, "status", &changed).await {
                Err(error) if is_not_found(&error) => return Ok(Next::OnChange),
                done => self.written.note(key, &done?),
            }
        }
        next
    }

    /// Takes what became of the active Jobs into the status.
    fn follow(&self, cron_job: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus) {
        let about = reference(cron_job);
        let active = status.active.get_or_insert_default();
        for job in jobs {
            let name = job.name_any();
            let known = active.iter().position(|held| held.uid == job.metadata.uid);
            match (ended(job), known) {
                (Some(how), Some(position)) => {
                    active.remove(position);
                    let note = format!("Saw completed job: {name}, condition: {how}");
                    self.recorder.event(&about, EventType::Normal, "SawCompletedJob", "", note);
                    let done = job.status.as_ref().and_then(|s| s.completion_time.as_ref());
                    if let Some(done) = done.filter(|_| how == "Complete")
                        && status.last_successful_time.as_ref().is_none_or(|held| held.0 < done.0)
                    {
                        status.last_successful_time = Some(done.clone());
                    }
                }
                (None, None) if job.metadata.deletion_timestamp.is_none() => {
                    let note = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.recorder.event(&about, EventType::Warning, "UnexpectedJob", "", note);
                    active.push(job_reference(job));
                }
                _ => {}
            }
        }
        active.retain(|held| {
            let there = jobs.iter().any(|job| job.metadata.uid == held.uid);
            if !there {
                let note = format!("Active job went missing: {}", held.name.as_deref().unwrap_or(""));
                self.recorder.event(&about, EventType::Normal, "MissingJob", "", note);
            }
            there
        });
    }

    /// Deletes finished Jobs beyond the history limits, oldest first.
    async fn forget_old(&self, cron_job: &CronJob, jobs: &[Arc<Job>]) -> Result<(), SyncError> {
        let spec = &cron_job.spec;
        for (how, limit) in
            [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)]
        {
            let Some(limit) = limit else { continue };
            let mut finished: Vec<&Arc<Job>> = jobs
                .iter()
                .filter(|job| ended(job) == Some(how) && job.metadata.deletion_timestamp.is_none())
                .collect();
            finished.sort_by_key(|job| {
                (job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|time| time.0), job.name_any())
            });
            let surplus = finished.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in finished.into_iter().take(surplus) {
                self.delete(cron_job, job).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, cron_job: &CronJob, job: &Job) -> Result<(), SyncError> {
        let name = job.name_any();
        let options = json!({"propagationPolicy": "Background", "preconditions": {"uid": job.metadata.uid}});
        match self.rest.delete(&JOBS, &job.namespace().unwrap_or_default(), &name, &options).await {
            Err(error) if !is_not_found(&error) => {
                let error = SyncError::from(error);
                let note = format!("Deleted job: {error}");
                self.recorder.event(&reference(cron_job), EventType::Warning, "FailedDelete", "", note);
                Err(error)
            }
            _ => {
                let note = format!("Deleted job {name}");
                self.recorder.event(&reference(cron_job), EventType::Normal, "SuccessfulDelete", "", note);
                Ok(())
            }
        }
    }

    /// Starts the Job that is due, if there is one.
    async fn run(
        &self,
        cron_job: &CronJob,
        key: &Key,
        jobs: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> SyncResult {
        let about = reference(cron_job);
        let warn =
            |reason: &str, note: String| self.recorder.event(&about, EventType::Warning, reason, "", note);
        let spec = &cron_job.spec;
        if cron_job.metadata.deletion_timestamp.is_some() || spec.suspend.unwrap_or(false) {
            return Ok(Next::OnChange);
        }
        let zone = match spec.time_zone.as_deref() {
            None => TimeZone::UTC,
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => zone,
                Err(_) => {
                    warn("UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}"));
                    return Ok(Next::OnChange);
                }
            },
        };
        let schedule = match Schedule::parse(&spec.schedule) {
            Ok(schedule) => schedule,
            Err(error) => {
                warn("UnparseableSchedule", format!("unparseable schedule: {:?} : {error}", spec.schedule));
                return Ok(Next::OnChange);
            }
        };
        let now = Timestamp::now();
        let due = due(cron_job, &schedule, &zone, now);
        let next = due.next.map_or(Next::OnChange, |at| {
            Next::After(Duration::try_from(at.duration_since(now)).unwrap_or_default() + DELTA)
        });
        if due.too_many {
            let note = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            warn("TooManyMissedTimes", note.into());
        }
        let Some(at) = due.at else { return Ok(next) };
        let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        if deadline.is_some_and(|deadline| at + deadline < now) {
            warn("MissSchedule", format!("Missed scheduled time to start a job: {at}"));
            return Ok(next);
        }
        let name = format!("{key_name}-{minute}", key_name = key.name, minute = at.as_second() / 60);
        let active = status.active.get_or_insert_default();
        if active.iter().any(|held| held.name.as_ref() == Some(&name))
            || status.last_schedule_time.as_ref().is_some_and(|last| last.0 == at)
        {
            return Ok(next);
        }
        if !active.is_empty() {
            match spec.concurrency_policy.as_deref() {
                Some("Forbid") => {
                    let note = "Not starting job because prior execution is running and concurrency policy is Forbid";
                    self.recorder.event(&about, EventType::Normal, "JobAlreadyActive", "", note);
                    return Ok(next);
                }
                Some("Replace") => {
                    for job in
                        jobs.iter().filter(|job| active.iter().any(|held| held.uid == job.metadata.uid))
                    {
                        self.delete(cron_job, job).await?;
                    }
                    active.clear();
                }
                _ => {}
            }
        }
        match self.rest.create(&JOBS, &key.namespace, &make_job(cron_job, &name, at, &zone)).await {
            Ok(made) => {
                let note = format!("Created job {name}");
                self.recorder.event(&about, EventType::Normal, "SuccessfulCreate", "", note);
                let text = |pointer: &str| made.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
                active.push(ObjectReference {
                    api_version: Some("batch/v1".into()),
                    kind: Some("Job".into()),
                    name: text("/metadata/name"),
                    namespace: text("/metadata/namespace"),
                    uid: text("/metadata/uid"),
                    resource_version: text("/metadata/resourceVersion"),
                    field_path: None,
                });
                status.last_schedule_time = Some(Time(at));
                Ok(next)
            }
            // made by the run before, whose status was lost
            Err(error) if is_already_exists(&error) => {
                status.last_schedule_time = Some(Time(at));
                Ok(next)
            }
            Err(error) if is_namespace_terminating(&error) => Ok(Next::OnChange),
            Err(error) => {
                let error = SyncError::from(error);
                warn("FailedCreate", format!("Error creating job: {error}"));
                Err(error)
            }
        }
    }
}

fn job_reference(job: &Job) -> ObjectReference {
    ObjectReference { api_version: Some("batch/v1".into()), kind: Some("Job".into()), ..reference(job) }
}

/// The Job of one scheduled time; its name is of that time, so that it cannot be made twice.
fn make_job(cron_job: &CronJob, name: &str, at: Timestamp, zone: &TimeZone) -> Value {
    let template = cron_job.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(
        SCHEDULED_AT.into(),
        at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string().replace("+00:00", "Z"),
    );
    json!({
        "metadata": {
            "name": name,
            "namespace": cron_job.namespace(),
            "labels": meta.labels,
            "annotations": annotations,
            "ownerReferences": [controller_reference(&CRON_JOBS, &cron_job.metadata)],
        },
        "spec": template.spec,
    })
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::time;

    fn cron_job(schedule: &str, last: Option<i64>, deadline: Option<i64>) -> CronJob {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "creationTimestamp": time(0)},
            "spec": {"schedule": schedule, "startingDeadlineSeconds": deadline, "jobTemplate": {}},
            "status": {"lastScheduleTime": last.map(time)},
        }))
        .expect("a cron job")
    }

    #[test]
    fn the_latest_missed_time_is_due() {
        // the tests' beginning is 2023-11-14T22:13:20Z
        let at = |cron_job: &CronJob, minute: i64| {
            let schedule = Schedule::parse(&cron_job.spec.schedule).expect("a schedule");
            let due = due(cron_job, &schedule, &TimeZone::UTC, crate::testing::at(minute * 60));
            (due.at.map(|at| at.to_string()), due.too_many)
        };
        let text = |text: &str| Some(text.to_owned());
        let every_five = cron_job("*/5 * * * *", None, None);
        assert_eq!(at(&every_five, 1), (None, false));
        assert_eq!(at(&every_five, 2), (text("2023-11-14T22:15:00Z"), false));
        assert_eq!(at(&every_five, 23), (text("2023-11-14T22:35:00Z"), false));
        assert_eq!(at(&every_five, 600), (text("2023-11-15T08:10:00Z"), true));
        assert_eq!(at(&cron_job("*/5 * * * *", Some(100), None), 4), (None, false), "done already");
        assert_eq!(
            at(&cron_job("0 0 1 * *", None, Some(60)), 60 * 24 * 40),
            (None, false),
            "past its deadline"
        );
        assert_eq!(
            at(&cron_job("0 0 1 * *", None, None), 60 * 24 * 40),
            (text("2023-12-01T00:00:00Z"), false)
        );
    }

    #[test]
    fn jobs_are_named_after_their_time() {
        let job = make_job(&cron_job("* * * * *", None, None), "c-1", crate::testing::at(0), &TimeZone::UTC);
        assert_eq!(job["metadata"]["annotations"][SCHEDULED_AT], "2023-11-14T22:13:20Z");
        assert_eq!(job["metadata"]["ownerReferences"][0]["kind"], "CronJob");
    }
}
