//! The TTL-after-finished controller: Jobs with `ttlSecondsAfterFinished` go that long after they ended.
//!
//! Behaviour after upstream's `ttlafterfinished_controller.go` (KEP-592).

use std::sync::Arc;
use std::time::Duration;

use client::rest::{Rest, typed};
use client::workqueue::WorkQueue;
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use serde_json::json;

use crate::context::{Context, Key, Next, Reconcile, SyncResult};
use crate::resources::JOBS;

struct Controller {
    jobs: Store<Job>,
    rest: Rest,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let queue = WorkQueue::new("ttl_jobs_to_delete");
    let jobs = context.informer::<Job>();
    let adds = queue.clone();
    jobs.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) && due(event.object()).is_some() {
            adds.add(Key::of(&**event.object()));
        }
    });
    let controller = Controller { jobs: jobs.store(), rest: context.rest("ttl-after-finished-controller") };
    let workers = context.config.concurrency.ttl_after_finished;
    context.work("ttl-after-finished-controller", &queue, workers, Arc::new(controller));
}

/// When a Job goes; `None` while it runs, is being deleted or has no TTL.
fn due(job: &Job) -> Option<Timestamp> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let ended = job.status.as_ref()?.conditions.iter().flatten().find(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    })?;
    Some(ended.last_transition_time.as_ref()?.0 + SignedDuration::from_secs(ttl.into()))
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(job) = self.jobs.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        let now = Timestamp::now();
        let Some(at) = due(&job) else { return Ok(Next::OnChange) };
        if at > now {
            return Ok(Next::After(
                Duration::try_from(at.duration_since(now)).unwrap_or(Duration::from_secs(1)),
            ));
        }
        // the TTL may just have been raised: judge the server's version
        let fresh: Job = match self.rest.get(&JOBS, &key.namespace, &key.name).await {
            Err(error) if is_not_found(&error) => return Ok(Next::OnChange),
            fresh => typed(fresh?)?,
        };
        if due(&fresh).is_none_or(|at| at > now) {
            return Ok(Next::OnChange);
        }
        let options = json!({
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": fresh.metadata.uid, "resourceVersion": fresh.metadata.resource_version},
        });
        match self.rest.delete(&JOBS, &key.namespace, &key.name, &options).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(Next::OnChange),
        }
    }
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, time};

    #[test]
    fn a_job_is_due_its_ttl_after_its_end() {
        let job = |ttl: Option<i32>, condition: &str| -> Job {
            serde_json::from_value(json!({
                "metadata": {"name": "j"},
                "spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
                "status": {"conditions": [{"type": condition, "status": "True", "lastTransitionTime": time(10)}]},
            }))
            .expect("a job")
        };
        assert_eq!(due(&job(Some(30), "Complete")), Some(at(40)));
        assert_eq!(due(&job(Some(0), "Failed")), Some(at(10)));
        assert_eq!(due(&job(None, "Complete")), None);
        assert_eq!(due(&job(Some(30), "Suspended")), None);
    }
}
