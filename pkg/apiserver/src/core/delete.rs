//! Deleting an object, in the order of `genericregistry.Store.Delete` and `rest.BeforeDelete`: preconditions, graceful
//! deletion, finalizers, and only then removal.

use std::sync::Arc;

use admission::{Operation, Phase};
use apimachinery::Value;
use apimachinery::meta::{at, metadata_mut, name as name_of, resource_version, uid};
use apimachinery::objectmeta::{FOREGROUND_FINALIZER as FOREGROUND, ORPHAN_FINALIZER as ORPHAN};
use apimachinery::status::{Details, FieldError, Status};
use component::work;
use jiff::{Timestamp, ToSpan};
use storage::objects::{Attempt, Outcome};

use super::create::{Place, WriteParams, admission_of, is_namespace};
use super::metadata::{finalizers_of, time_text};
use super::update::Subject;
use super::{Core, set_resource_version, write_failure, write_time};
use crate::extension::{DeleteRequest, Write};
use crate::store::{Deleted, ResourceStore};

/// What the first steps of a deletion decide.
#[derive(Debug, PartialEq)]
enum Plan {
    /// Remove the object now.
    Remove,
    /// Store this: the object waits for finalizers or its grace period.
    Mark(Box<Value>),
    /// It waits already, and nothing changes.
    Pending,
}

impl Core {
    /// Deletes an object.
    pub(crate) async fn delete(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        request: &DeleteRequest,
        params: &WriteParams,
    ) -> Result<Deleted, Status> {
        validate_request(request)?;
        let mut attempt = self.attempt(subject).await?;
        loop {
            let judged = self.judge_deletion(subject, request, params, &attempt).await;
            // a write finds out whether it began with what the store has; anything else must have begun with it
            let is_written = !params.dry_run && judged.as_ref().is_ok_and(|(_, plan)| *plan != Plan::Pending);
            if !is_written && !attempt.is_fresh() {
                attempt = attempt.refresh().await.map_err(watchcache::Error::from)?;
                continue;
            }
            let (object, plan) = judged?;
            match self.delete_step(subject, plan, params, attempt, object).await? {
                Ok(deleted) => return Ok(deleted),
                Err(next) => attempt = next,
            }
        }
    }

    /// The object as an attempt has it, and what is to be done with it.
    async fn judge_deletion(
        &self,
        subject: &Subject<'_>,
        request: &DeleteRequest,
        params: &WriteParams,
        attempt: &Attempt,
    ) -> Result<(Value, Plan), Status> {
        let place = &subject.place;
        let Some(kv) = attempt.current() else { return Err(place.not_found(subject.name)) };
        let read = || crate::codec::from_stored(&place.descriptor, &kv.value);
        let mut object = work::taking(write_time(kv.value.len()), read)?;
        set_resource_version(&mut object, kv.mod_revision);
        check_preconditions(place, subject.name, &object, request)?;
        if params.admission {
            self.admit_delete(subject, &object, params).await?;
        }
        let plan = plan(place, &object, request);
        Ok((object, plan))
    }

    async fn admit_delete(
        &self,
        subject: &Subject<'_>,
        object: &Value,
        params: &WriteParams,
    ) -> Result<(), Status> {
        let place = &subject.place;
        let mut converted = None;
        if place.served().conversion.is_some() {
            let served = converted.insert(object.clone());
            place.served().from_storage(served);
        }
        let served = converted.as_ref().unwrap_or(object);
        let namespace = if is_namespace(place.target) { subject.name } else { place.namespace };
        let admit = admission_of(place, Operation::Delete, namespace, subject.name, "", params);
        self.admit(&admit, Phase::Mutate, None, Some(served)).await?;
        self.admit(&admit, Phase::Validate, None, Some(served)).await
    }

    /// One attempt; the inner error is the attempt that comes after a conflict.
    async fn delete_step(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        plan: Plan,
        params: &WriteParams,
        attempt: Attempt,
        mut object: Value,
    ) -> Result<Result<Deleted, Attempt>, Status> {
        let place = &subject.place;
        let failed = |error| write_failure(error, &place.group_resource(), subject.name);
        let answer = |mut object: Value, gone: bool| {
            place.served().from_storage(&mut object);
            Ok(Ok(Deleted { object, gone }))
        };
        match plan {
            Plan::Pending => answer(object, false),
            Plan::Mark(mut marked) => {
                let text = crate::codec::to_stored(place.target, &mut marked, None)?;
                if params.dry_run {
                    return answer(*marked, false);
                }
                self.announce(&place.descriptor, attempt.key(), &text, &marked);
                match attempt
                    .put(text.json().clone(), place.descriptor.storage.ttl_seconds)
                    .await
                    .map_err(failed)?
                {
                    Outcome::Conflict(next) => Ok(Err(next)),
                    Outcome::Done(revision) => {
                        set_resource_version(&mut marked, revision);
                        answer(*marked, false)
                    }
                }
            }
            Plan::Remove => {
                if params.dry_run {
                    return answer(object, true);
                }
                match attempt.delete().await.map_err(failed)? {
                    Outcome::Conflict(next) => Ok(Err(next)),
                    Outcome::Done(revision) => {
                        set_resource_version(&mut object, revision);
                        self.after_delete(place, &object).await;
                        answer(object, true)
                    }
                }
            }
        }
    }

    async fn after_delete(self: &Arc<Self>, place: &Place<'_>, object: &Value) {
        if let Some(hook) = self.hook(&place.descriptor) {
            let store = ResourceStore { core: Arc::clone(self) };
            let write = Write {
                context: place.context,
                descriptor: &place.descriptor,
                subresource: "",
                dry_run: false,
                store: &store,
            };
            hook.after_delete(&write, object).await;
        }
    }
}

/// What is wrong with a `propagationPolicy`.
pub(crate) fn check_policy(policy: Option<&str>) -> Option<FieldError> {
    const KNOWN: [&str; 3] = ["Foreground", "Background", "Orphan"];
    let unknown = policy.filter(|policy| !KNOWN.contains(policy))?;
    let supported = [KNOWN[0], KNOWN[1], KNOWN[2], "nil"];
    Some(FieldError::not_supported("propagationPolicy", unknown, &supported))
}

/// What is wrong with the options themselves.
fn validate_request(request: &DeleteRequest) -> Result<(), Status> {
    match check_policy(request.propagation_policy.as_deref()) {
        None => Ok(()),
        Some(error) => Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &[error])),
    }
}

fn check_preconditions(
    place: &Place<'_>,
    name: &str,
    object: &Value,
    request: &DeleteRequest,
) -> Result<(), Status> {
    let wanted = &request.precondition;
    let checks = [
        ("UID", &wanted.uid, uid(object)),
        ("ResourceVersion", &wanted.resource_version, resource_version(object)),
    ];
    for (what, wanted, actual) in checks {
        if let Some(wanted) = wanted
            && wanted != actual
        {
            return Err(Status::conflict(
                &place.group_resource(),
                name,
                &format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}"
                ),
            ));
        }
    }
    Ok(())
}

/// Grace period, finalizers of garbage collection, and what follows from them.
fn plan(place: &Place<'_>, object: &Value, request: &DeleteRequest) -> Plan {
    let strategy = &place.descriptor.strategy;
    let mut changed = object.clone();
    let wanted = collection_finalizers(object, request, strategy.orphan_by_default());
    if wanted != finalizers_of(object)
        && let Some(metadata) = metadata_mut(&mut changed)
    {
        if wanted.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".into(), wanted.iter().map(|f| Value::from(*f)).collect());
        }
    }
    // one second at least, unless it is to go at once: that is what a negative period has come to mean
    let requested = request.grace_period_seconds.map(|s| if s < 0 { 1 } else { s });
    let graceful = match grace(object, strategy.deletion_grace(object, requested), requested) {
        Grace::Pending => return Plan::Pending,
        Grace::None => false,
        Grace::Set { seconds, until } => {
            let now = place.context.now;
            let until = until.unwrap_or_else(|| now.saturating_add(seconds.seconds()).unwrap_or(now));
            mark(&mut changed, &time_text(until), seconds);
            if at(object, &["metadata", "deletionTimestamp"]).is_none() {
                count_generation(&mut changed);
            }
            seconds > 0
        }
    };
    let held = !finalizers_of(&changed).is_empty() || strategy.holds_deletion(&changed);
    if graceful {
        strategy.begin_deletion(&mut changed);
        return Plan::Mark(Box::new(changed));
    }
    if !held {
        return Plan::Remove;
    }
    if at(&changed, &["metadata", "deletionTimestamp"]).is_none() {
        mark(&mut changed, &time_text(place.context.now), 0);
        count_generation(&mut changed);
    } else if let Some(metadata) = metadata_mut(&mut changed) {
        metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
    }
    strategy.begin_deletion(&mut changed);
    if changed == *object { Plan::Pending } else { Plan::Mark(Box::new(changed)) }
}

/// What becomes of the grace period.
#[derive(Debug, PartialEq)]
enum Grace {
    /// The kind has none, or it is over.
    None,
    /// It is running, and the request does not shorten it.
    Pending,
    /// It begins, or is shortened.
    Set { seconds: i64, until: Option<Timestamp> },
}

fn grace(object: &Value, granted: Option<i64>, requested: Option<i64>) -> Grace {
    let Some(granted) = granted else { return Grace::None };
    let began: Option<Timestamp> =
        at(object, &["metadata", "deletionTimestamp"]).and_then(Value::as_str).and_then(|t| t.parse().ok());
    let Some(until) = began else { return Grace::Set { seconds: granted, until: None } };
    let running = at(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    match (running, requested) {
        (None, _) => Grace::None,
        (Some(running), Some(shorter)) if shorter < running => {
            let until = until.saturating_sub((running - shorter).seconds()).unwrap_or(until);
            Grace::Set { seconds: shorter, until: Some(until) }
        }
        // what is only held by finalizers may be asked to go as often as one likes
        (Some(0), _) => Grace::None,
        (Some(_), _) => Grace::Pending,
    }
}

fn mark(object: &mut Value, until: &str, seconds: i64) {
    if let Some(metadata) = metadata_mut(object) {
        metadata.insert("deletionTimestamp".into(), until.into());
        metadata.insert("deletionGracePeriodSeconds".into(), seconds.into());
    }
}

/// Controllers see the deletion as a change of what is wanted.
fn count_generation(object: &mut Value) {
    if let Some(metadata) = metadata_mut(object)
        && let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|g| *g > 0)
    {
        metadata.insert("generation".into(), (generation + 1).into());
    }
}

/// The finalizers an object must have so that the garbage collector does what the request asks for.
fn collection_finalizers<'a>(
    object: &'a Value,
    request: &DeleteRequest,
    orphan_by_default: bool,
) -> Vec<&'a str> {
    let existing = finalizers_of(object);
    let (orphan, foreground) = match request.propagation_policy.as_deref() {
        Some("Orphan") => (true, false),
        Some("Foreground") => (false, true),
        Some(_) => (false, false),
        None if existing.contains(&ORPHAN) => (true, false),
        None if existing.contains(&FOREGROUND) => (false, true),
        None => (orphan_by_default, false),
    };
    let mut wanted: Vec<&str> =
        existing.iter().copied().filter(|f| *f != ORPHAN && *f != FOREGROUND).collect();
    if orphan {
        wanted.push(ORPHAN);
    }
    if foreground {
        wanted.push(FOREGROUND);
    }
    // the same set in another order is no change
    let (mut a, mut b) = (wanted.clone(), existing.clone());
    a.sort_unstable();
    b.sort_unstable();
    if a == b { existing } else { wanted }
}

/// `details` of the Status that answers a delete.
pub(crate) fn details(place: &Place<'_>, object: &Value) -> Details {
    Details {
        name: name_of(object).to_owned(),
        group: place.descriptor.group.clone(),
        kind: place.descriptor.plural.clone(),
        uid: uid(object).to_owned(),
        ..Details::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn finalizers_follow_the_policy() {
        let request = |policy: Option<&str>| DeleteRequest {
            propagation_policy: policy.map(str::to_owned),
            ..DeleteRequest::default()
        };
        let object = json!({"metadata": {"finalizers": ["a/b", "orphan"]}});
        let cases: [(Option<&str>, &[&str]); 4] = [
            (None, &["a/b", "orphan"]),
            (Some("Orphan"), &["a/b", "orphan"]),
            (Some("Background"), &["a/b"]),
            (Some("Foreground"), &["a/b", "foregroundDeletion"]),
        ];
        for (policy, expected) in cases {
            assert_eq!(collection_finalizers(&object, &request(policy), false), expected, "{policy:?}");
        }
        let plain = json!({"metadata": {}});
        assert!(collection_finalizers(&plain, &request(None), false).is_empty());
        assert_eq!(collection_finalizers(&plain, &request(None), true), ["orphan"]);
    }

    #[test]
    fn grace_periods_only_shrink() {
        let live = json!({"metadata": {}});
        let dying = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30}});
        assert_eq!(grace(&live, None, Some(5)), Grace::None);
        assert_eq!(grace(&live, Some(30), None), Grace::Set { seconds: 30, until: None });
        assert_eq!(grace(&dying, Some(30), None), Grace::Pending);
        assert_eq!(grace(&dying, Some(60), Some(60)), Grace::Pending);
        let until = "2026-01-01T00:00:05Z".parse().ok();
        assert_eq!(grace(&dying, Some(5), Some(5)), Grace::Set { seconds: 5, until });
    }
}
