//! Changing an object, in the order of `genericregistry.Store.Update` and `rest.BeforeUpdate`, again after each conflict.

use std::sync::Arc;

use admission::{Operation, Phase};
use apimachinery::Value;
use apimachinery::meta::{at, metadata_mut, resource_version, uid};
use apimachinery::status::{FieldError, Status};
use apimachinery::strategy::Resets;
use component::work;
use storage::objects::{Attempt, Outcome};
use storage::{KeyValue, Revision};
use watchcache::{ReadVersion, StoredText};

use super::create::{Place, WriteParams, admission_of, is_namespace};
use super::manage::Manage;
use super::{Core, caches, metadata, set_resource_version, write_failure, write_time};
use crate::extension::{Nothing, Write, WriteFinish};
use crate::store::ResourceStore;

/// How the new object comes from the old one, both in the request's version. Run once an attempt.
pub(crate) trait Change: Send + Sync {
    /// The new object.
    fn apply(&self, old: Option<&Value>) -> Result<Value, Status>;

    /// What does not exist is created (apply), beyond what the strategy allows.
    fn creates(&self) -> bool {
        false
    }

    /// What does not exist may be created where the kind allows it (PUT).
    fn may_create(&self) -> bool {
        false
    }

    /// [`Change::apply`] has recorded who owns what.
    fn manages_fields(&self) -> bool {
        false
    }
}

/// What became of an update.
pub(crate) struct Written {
    /// The object in the request's version.
    pub(crate) object: Value,
    /// It did not exist before.
    pub(crate) created: bool,
    /// What the store has for it now, at which revision; `None` when it has nothing (a dry run, a removal).
    pub(crate) stored: Option<(StoredText, Revision)>,
}

/// The name of what is changed.
pub(crate) struct Subject<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
}

/// What one attempt comes to.
enum Step {
    Done(Written),
    Conflict(Attempt),
    /// Refused, but what it was judged by came from a cache.
    Stale(Attempt, Status),
}

/// The current object.
struct Current {
    /// In the stored version, with its resourceVersion.
    stored: Value,
    /// In the request's version, where that is another.
    converted: Option<Value>,
    revision: Revision,
}

impl Current {
    /// The object in the request's version.
    fn served(&self) -> &Value {
        self.converted.as_ref().unwrap_or(&self.stored)
    }
}

impl Core {
    /// Changes an object.
    pub(crate) async fn update(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        change: &dyn Change,
        params: &WriteParams,
    ) -> Result<Written, Status> {
        let mut attempt = self.attempt(subject).await?;
        loop {
            if attempt.current().is_none() {
                if !attempt.is_fresh() {
                    attempt = attempt.refresh().await.map_err(watchcache::Error::from)?;
                    continue;
                }
                return self.create_instead(subject, change, params).await;
            }
            let time = write_time(attempt.current().map_or(0, |kv| kv.value.len()));
            let step = self.step(subject, change, params, attempt);
            attempt = match work::turns_taking(time, step).await? {
                Step::Done(written) => return Ok(written),
                Step::Conflict(next) => next,
                Step::Stale(next, refused) => {
                    let before = next.current().map(|c| c.mod_revision);
                    let fresh = next.refresh().await.map_err(watchcache::Error::from)?;
                    if fresh.current().map(|c| c.mod_revision) == before {
                        return Err(refused);
                    }
                    fresh
                }
            };
        }
    }

    /// Begins with what the cache has, which is nearly always current.
    pub(crate) async fn attempt(&self, subject: &Subject<'_>) -> Result<Attempt, Status> {
        let place = &subject.place;
        let cached = self.caches.of(&self.resources.snapshot(), &place.descriptor);
        if cached.cache.is_ready() {
            let found = cached.cache.get(place.namespace, subject.name, ReadVersion::Any).await;
            if let Ok(Some(object)) = found {
                return Ok(self.objects.attempt_cached(object.stored()));
            }
        }
        let key = caches::layout(&place.descriptor).key(place.namespace, subject.name);
        Ok(self.objects.attempt(key).await.map_err(watchcache::Error::from)?)
    }

    async fn create_instead(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        change: &dyn Change,
        params: &WriteParams,
    ) -> Result<Written, Status> {
        let place = &subject.place;
        let missing = || Err(place.not_found(subject.name));
        let allowed =
            change.creates() || (change.may_create() && place.descriptor.strategy.allow_create_on_update());
        if !allowed || !subject.subresource.is_empty() {
            return missing();
        }
        let mut object = change.apply(None)?;
        if !uid(&object).is_empty() && change.creates() {
            return Err(Status::conflict(
                &place.group_resource(),
                subject.name,
                &format!(
                    "uid mismatch: the provided object specified uid {}, and no existing object was found",
                    uid(&object)
                ),
            ));
        }
        if change.may_create() && !matches!(resource_version(&object), "" | "0") {
            return missing();
        }
        if let Some(metadata) = metadata_mut(&mut object)
            && !metadata.contains_key("name")
        {
            metadata.insert("name".into(), subject.name.into());
        }
        let create = WriteParams {
            manager: if change.manages_fields() { None } else { params.manager.clone() },
            url_name: Some(subject.name.to_owned()),
            ..params.clone()
        };
        self.create(place, object, &create).await
    }

    async fn step(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        change: &dyn Change,
        params: &WriteParams,
        attempt: Attempt,
    ) -> Result<Step, Status> {
        let Some(kv) = attempt.current() else { return Err(subject.place.not_found(subject.name)) };
        let current = current(subject, kv)?;
        let fresh = attempt.is_fresh();
        match self.changed(subject, change, params, &current).await {
            Ok(new) => self.finish(subject, params, attempt, current, new).await,
            Err(refused) if fresh => Err(refused),
            Err(refused) => Ok(Step::Stale(attempt, refused)),
        }
    }

    /// The new object in its stored version, past the mutating phase.
    async fn changed(
        &self,
        subject: &Subject<'_>,
        change: &dyn Change,
        params: &WriteParams,
        current: &Current,
    ) -> Result<Value, Status> {
        let place = &subject.place;
        let mut new = change.apply(Some(current.served()))?;
        metadata::match_name(&new, subject.name, place.namespace)?;
        metadata::match_namespace(&mut new, place.namespace, place.descriptor.namespaced)?;
        let warnings = &place.context.warnings;
        warnings.extend(metadata::dedup_owners(&mut new, false));
        match &params.manager {
            Some(manager) if !change.manages_fields() => {
                let manage = Manage {
                    context: place.context,
                    target: place.target,
                    subresource: subject.subresource,
                    manager,
                };
                manage.on_update(Some(current.served()), &mut new);
            }
            _ => {}
        }
        if params.admission {
            let namespace = if is_namespace(place.target) { subject.name } else { place.namespace };
            let before = new.pointer("/metadata/managedFields").cloned();
            let admit =
                admission_of(place, Operation::Update, namespace, subject.name, subject.subresource, params);
            self.admit(&admit, Phase::Mutate, Some(&mut new), Some(current.served())).await?;
            warnings.extend(super::restore_managed_fields(before.as_ref(), &mut new));
            warnings.extend(metadata::dedup_owners(&mut new, true));
        }
        check_version(subject, current, &mut new)?;
        place.served().to_storage(&mut new);
        Ok(new)
    }

    async fn finish(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        params: &WriteParams,
        attempt: Attempt,
        current: Current,
        mut new: Value,
    ) -> Result<Step, Status> {
        let place = &subject.place;
        let store = ResourceStore { core: Arc::clone(self) };
        let write = Write {
            context: place.context,
            descriptor: &place.descriptor,
            subresource: subject.subresource,
            dry_run: params.dry_run,
            store: &store,
        };
        let hook = self.hook(&place.descriptor).filter(|_| params.rules);
        let finish: Box<dyn WriteFinish> = match &hook {
            Some(hook) => match hook.begin_update(&write, &mut new, &current.stored).await {
                Ok(finish) => finish,
                Err(refused) if attempt.is_fresh() => return Err(refused),
                Err(refused) => return Ok(Step::Stale(attempt, refused)),
            },
            None => Box::new(Nothing),
        };
        let (outcome, stored) = match self.judged(subject, params, &current, &mut new).await {
            Err(refused) => {
                finish.finish(false).await;
                return if attempt.is_fresh() { Err(refused) } else { Ok(Step::Stale(attempt, refused)) };
            }
            Ok(()) => self.put(subject, params, attempt, &current, &mut new).await?,
        };
        finish.finish(matches!(outcome, Outcome::Done(_)) && !params.dry_run).await;
        match outcome {
            Outcome::Conflict(next) => Ok(Step::Conflict(next)),
            Outcome::Done(revision) => {
                set_resource_version(&mut new, revision);
                if let (Some(hook), true) = (&hook, stored.is_none() && !params.dry_run) {
                    hook.after_delete(&write, &new).await;
                }
                place.served().from_storage(&mut new);
                let stored = stored.filter(|_| !params.dry_run).map(|text| (text, revision));
                Ok(Step::Done(Written { object: new, created: false, stored }))
            }
        }
    }

    /// Rules, validation and the validating phase.
    async fn judged(
        &self,
        subject: &Subject<'_>,
        params: &WriteParams,
        current: &Current,
        new: &mut Value,
    ) -> Result<(), Status> {
        if params.rules {
            apply_update_rules(subject, new, &current.stored)?;
        }
        if params.admission {
            let place = &subject.place;
            let namespace = if is_namespace(place.target) { subject.name } else { place.namespace };
            let admit =
                admission_of(place, Operation::Update, namespace, subject.name, subject.subresource, params);
            self.admit_stored(&admit, place.target, new, Some(current.served())).await?;
        }
        Ok(())
    }

    /// Writes the new object, or removes it when this update took away the last thing its deletion waited for. Answers
    /// what was written, nothing when it was removed.
    async fn put(
        &self,
        subject: &Subject<'_>,
        params: &WriteParams,
        attempt: Attempt,
        current: &Current,
        new: &mut Value,
    ) -> Result<(Outcome, Option<StoredText>), Status> {
        let place = &subject.place;
        let removed = is_finished(place, new, &current.stored);
        let mut text = crate::codec::to_stored_keeping_times(place.target, new, &current.stored)?;
        let failed = |error| write_failure(error, &place.group_resource(), subject.name);
        if params.dry_run {
            return Ok((Outcome::Done(current.revision), Some(text).filter(|_| !removed)));
        }
        if removed {
            return Ok((attempt.delete().await.map_err(failed)?, None));
        }
        let ttl = place.descriptor.storage.ttl_seconds;
        self.announce(&place.descriptor, attempt.key(), &text, new);
        let again = attempt.clone();
        let mut put = attempt.put(text.json().clone(), ttl).await;
        if super::is_too_large(&put) && super::drop_owners(params, new) {
            text = crate::codec::to_stored_keeping_times(place.target, new, &current.stored)?;
            put = again.put(text.json().clone(), ttl).await;
        }
        Ok((put.map_err(failed)?, Some(text)))
    }
}

/// What is stored, in both versions.
fn current(subject: &Subject<'_>, kv: &KeyValue) -> Result<Current, Status> {
    let mut stored = crate::codec::from_stored(&subject.place.descriptor, &kv.value)?;
    set_resource_version(&mut stored, kv.mod_revision);
    let version = subject.place.served();
    let converted = version.conversion.is_some().then(|| {
        let mut served = stored.clone();
        version.from_storage(&mut served);
        served
    });
    Ok(Current { stored, converted, revision: kv.mod_revision })
}

/// The optimistic lock and the uid.
fn check_version(subject: &Subject<'_>, current: &Current, new: &mut Value) -> Result<(), Status> {
    let place = &subject.place;
    let (given_uid, actual_uid) = (uid(new), uid(&current.stored));
    if !given_uid.is_empty() && given_uid != actual_uid {
        return Err(Status::conflict(
            &place.group_resource(),
            subject.name,
            &format!(
                "Precondition failed: UID in precondition: {given_uid}, UID in object meta: {actual_uid}"
            ),
        ));
    }
    let given = resource_version(new);
    match given {
        "" | "0" if place.descriptor.strategy.allow_unconditional_update() => {
            set_resource_version(new, current.revision);
            Ok(())
        }
        "" | "0" => Err(place.invalid(
            subject.name,
            &[FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update")],
        )),
        text if text.parse() == Ok(current.revision.0) => Ok(()),
        text if text.parse::<u64>().is_err() => Err(place.invalid(
            subject.name,
            &[FieldError::invalid("metadata.resourceVersion", text, "must be a number")],
        )),
        _ => Err(Status::stale_write(&place.group_resource(), subject.name)),
    }
}

/// What the kind and its metadata demand of a changed object.
fn apply_update_rules(subject: &Subject<'_>, new: &mut Value, old: &Value) -> Result<(), Status> {
    let place = &subject.place;
    let strategy = &place.descriptor.strategy;
    let write = place.context.write_context(subject.subresource);
    metadata::prepare_update(new, old);
    match (subject.subresource, strategy.resets(subject.subresource)) {
        ("", _) if strategy.has_status() => keep_status(new, old),
        ("status", Resets::Except(paths)) if strategy.has_status() => keep_all_but_status(new, old, paths),
        (_, Resets::Only(_)) => keep_metadata(new, old, &["metadata"]),
        _ => {}
    }
    strategy.prepare_for_update(&write, new, old);
    if strategy.has_generation()
        && subject.subresource != "status"
        && strategy.spec_changed(new, old)
        && let Some(metadata) = metadata_mut(new)
    {
        let generation = at(old, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
        metadata.insert("generation".into(), (generation + 1).into());
    }
    let mut errors = metadata::validate_update(new, old);
    errors.extend(strategy.validate_update(&write, new, old));
    if !errors.is_empty() {
        return Err(place.invalid(subject.name, &errors));
    }
    place.context.warnings.extend(strategy.warnings(new, Some(old)));
    Ok(())
}

fn keep_status(new: &mut Value, old: &Value) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get("status") {
        Some(status) => map.insert("status".into(), status.clone()),
        None => map.remove("status"),
    };
}

/// What is kept where an endpoint resets `metadata` as a whole (`metav1.ResetObjectMetaForStatus`).
const RESET_METADATA: [&str; 5] =
    ["labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp"];

/// Keeps the old metadata that the paths name.
fn keep_metadata(new: &mut Value, old: &Value, paths: &[&str]) {
    let (Some(new), Some(old)) = (metadata_mut(new), old.get("metadata").and_then(Value::as_object)) else {
        return;
    };
    let whole = if paths.contains(&"metadata") { &RESET_METADATA[..] } else { &[] };
    let single = paths.iter().filter_map(|path| path.strip_prefix("metadata."));
    for field in whole.iter().copied().chain(single) {
        match old.get(field) {
            Some(value) => new.insert(field.into(), value.clone()),
            None => new.remove(field),
        };
    }
}

/// A status update changes the status, and metadata but for what the paths name.
fn keep_all_but_status(new: &mut Value, old: &Value, paths: &[&str]) {
    keep_metadata(new, old, paths);
    let (Some(changed), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
    let (status, metadata) = (changed.remove("status"), changed.remove("metadata"));
    let mut kept = before.clone();
    for (key, value) in [("status", status), ("metadata", metadata)] {
        match value {
            Some(value) => kept.insert(key.into(), value),
            None => kept.remove(key),
        };
    }
    *changed = kept;
}

/// An object whose deletion has begun and that nothing holds any more.
fn is_finished(place: &Place<'_>, new: &Value, old: &Value) -> bool {
    let grace =
        |object: &Value| at(object, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    at(new, &["metadata", "deletionTimestamp"]).is_some()
        && metadata::finalizers_of(new).is_empty()
        && !place.descriptor.strategy.holds_deletion(new)
        && grace(new).is_none_or(|g| g == 0)
        // a deletion in progress is what the old object says; an update cannot begin one
        && at(old, &["metadata", "deletionTimestamp"]).is_some()
}
