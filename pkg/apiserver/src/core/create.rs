//! Creating an object, in the order of `genericregistry.Store.Create` and `rest.BeforeCreate`.

use admission::{Operation, Phase};
use apimachinery::Value;
use apimachinery::meta::{metadata as metadata_of, metadata_mut, name as name_of, str_at};
use apimachinery::status::{Reason, Status};
use storage::objects::WriteError;

use super::admit::Admit;
use super::manage::Manage;
use super::update::Written;
use super::{Core, Target, caches, metadata, set_resource_version, write_failure};
use crate::context::RequestContext;
use crate::extension::{Nothing, Write, WriteFinish};
use crate::store::ResourceStore;

/// Names tried for one `generateName`, as upstream since 1.32.
const NAME_ATTEMPTS: u32 = 8;

/// How a write goes.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteParams {
    /// Nothing is kept.
    pub(crate) dry_run: bool,
    /// The admission chain runs.
    pub(crate) admission: bool,
    /// Strategy, hooks and validation run.
    pub(crate) rules: bool,
    /// Who owns what is written; `None` records nothing.
    pub(crate) manager: Option<String>,
    /// The write is an apply, which is nothing without the record of who owns what.
    pub(crate) applies: bool,
    /// `CreateOptions` and its kin as admission sees them.
    pub(crate) options: Option<Value>,
    /// The name of the URL, on create-on-update.
    pub(crate) url_name: Option<String>,
}

/// A place in the API: a resource in a version, and a namespace.
#[derive(Clone)]
pub(crate) struct Place<'a> {
    pub(crate) context: &'a RequestContext,
    pub(crate) target: &'a Target,
    pub(crate) namespace: &'a str,
}

impl std::ops::Deref for Place<'_> {
    type Target = Target;

    fn deref(&self) -> &Target {
        self.target
    }
}

impl Core {
    /// Creates an object given and answered in the place's version.
    pub(crate) async fn create(
        self: &std::sync::Arc<Self>,
        place: &Place<'_>,
        mut object: Value,
        params: &WriteParams,
    ) -> Result<Written, Status> {
        metadata::match_namespace(&mut object, place.namespace, place.descriptor.namespaced)?;
        if let Some(name) = &params.url_name {
            metadata::match_name(&object, name, place.namespace)?;
        }
        let warnings = &place.context.warnings;
        warnings.extend(metadata::dedup_owners(&mut object, false));
        if let Some(manager) = &params.manager {
            let manage = Manage { context: place.context, target: place.target, subresource: "", manager };
            manage.on_update(None, &mut object);
        }
        // what the record of owners was made of is normal; what becomes of it shares most with it
        let is_normal =
            params.manager.is_some() && place.stores_served_version() && metadata_of(&object).is_some();
        let normal = is_normal.then(|| object.clone());
        if params.admission {
            let name = name_of(&object).to_owned();
            // a namespace is in itself
            let namespace = if is_namespace(place.target) { &name } else { place.namespace };
            let before = object.pointer("/metadata/managedFields").cloned();
            let admit = admission_of(place, Operation::Create, namespace, &name, "", params);
            self.admit(&admit, Phase::Mutate, Some(&mut object), None).await?;
            warnings.extend(super::restore_managed_fields(before.as_ref(), &mut object));
            warnings.extend(metadata::dedup_owners(&mut object, true));
        }
        let base = str_at(&object, &["metadata", "generateName"]).to_owned();
        if !name_of(&object).is_empty() || base.is_empty() {
            return match self.create_named(place, object, normal.as_ref(), params).await? {
                Ok(created) => Ok(created),
                Err(taken) => Err(taken),
            };
        }
        for _ in 0..NAME_ATTEMPTS {
            let mut named = object.clone();
            let name = apimachinery::names::generate(&base, &mut rand::rng());
            if let Some(metadata) = metadata_mut(&mut named) {
                metadata.insert("name".into(), name.into());
            }
            if let Ok(created) = self.create_named(place, named, normal.as_ref(), params).await? {
                return Ok(created);
            }
        }
        let resource = place.group_resource();
        let mut status = Status::already_exists(&resource, &base);
        status.message = format!(
            "{resource} {base:?} already exists, the server was not able to generate a unique name for the object"
        );
        Err(status)
    }

    /// The inner error is that the name is taken.
    async fn create_named(
        self: &std::sync::Arc<Self>,
        place: &Place<'_>,
        mut object: Value,
        normal: Option<&Value>,
        params: &WriteParams,
    ) -> Result<Result<Written, Status>, Status> {
        if !matches!(str_at(&object, &["metadata", "resourceVersion"]), "" | "0") {
            return Err(Status::new(
                500,
                Reason::Unknown,
                "resourceVersion should not be set on objects to be created",
            ));
        }
        place.served().to_storage(&mut object);
        metadata::prepare_create(&mut object, place.context.now);
        let store = ResourceStore { core: std::sync::Arc::clone(self) };
        let write = Write {
            context: place.context,
            descriptor: &place.descriptor,
            subresource: "",
            dry_run: params.dry_run,
            store: &store,
        };
        let finish: Box<dyn WriteFinish> = match self.hook(&place.descriptor) {
            Some(hook) if params.rules => hook.begin_create(&write, &mut object).await?,
            _ => Box::new(Nothing),
        };
        let outcome = self.store_new(place, object, normal, params).await;
        finish.finish(matches!(&outcome, Ok(Ok(_))) && !params.dry_run).await;
        outcome
    }

    async fn store_new(
        &self,
        place: &Place<'_>,
        mut object: Value,
        normal: Option<&Value>,
        params: &WriteParams,
    ) -> Result<Result<Written, Status>, Status> {
        if params.rules {
            apply_create_rules(place, &mut object)?;
        }
        let name = name_of(&object).to_owned();
        if params.admission {
            let namespace = if is_namespace(place.target) { &name } else { place.namespace };
            let admit = admission_of(place, Operation::Create, namespace, &name, "", params);
            self.admit_stored(&admit, place.target, &mut object, None).await?;
        }
        let mut text = crate::codec::to_stored(place.target, &mut object, normal)?;
        let key = caches::layout(&place.descriptor).key(apimachinery::meta::namespace(&object), &name);
        let taken = |existing: &storage::KeyValue| {
            let mut status = Status::already_exists(&place.group_resource(), &name);
            if crate::codec::is_being_deleted(&existing.value) {
                status.message = format!("object is being deleted: {}", status.message);
            }
            status
        };
        let mut stored = None;
        if params.dry_run {
            let existing = self.objects.get(&key).await.map_err(watchcache::Error::from)?;
            if let Some(existing) = existing {
                return Ok(Err(taken(&existing)));
            }
        } else {
            let ttl = place.descriptor.storage.ttl_seconds;
            self.announce(&place.descriptor, &key, &text, &object);
            let mut made = self.objects.create(std::sync::Arc::clone(&key), text.json().clone(), ttl).await;
            if super::is_too_large(&made) && super::drop_owners(params, &mut object) {
                text = crate::codec::to_stored(place.target, &mut object, normal)?;
                made = self.objects.create(key, text.json().clone(), ttl).await;
            }
            match made {
                Ok(revision) => {
                    set_resource_version(&mut object, revision);
                    stored = Some((text, revision));
                }
                Err(WriteError::Exists(existing)) => return Ok(Err(taken(&existing))),
                Err(error) => return Err(write_failure(error, &place.group_resource(), &name)),
            }
        }
        place.served().from_storage(&mut object);
        Ok(Ok(Written { object, created: true, stored }))
    }

    /// The validating phase on objects in their stored version.
    pub(crate) async fn admit_stored<'a>(
        &self,
        admit: &Admit<'a>,
        target: &Target,
        object: &mut Value,
        old: Option<&'a Value>,
    ) -> Result<(), Status> {
        if target.served().conversion.is_none() {
            return self.admit(admit, Phase::Validate, Some(object), old).await;
        }
        let mut served = object.clone();
        target.served().from_storage(&mut served);
        self.admit(admit, Phase::Validate, Some(&mut served), old).await
    }
}

/// The admission request of a write.
pub(crate) fn admission_of<'a>(
    place: &'a Place<'_>,
    operation: Operation,
    namespace: &'a str,
    name: &'a str,
    subresource: &'a str,
    params: &'a WriteParams,
) -> Admit<'a> {
    Admit {
        operation,
        gvr: place.gvr(),
        gvk: place.gvk(),
        subresource,
        namespace,
        name,
        options: params.options.as_ref(),
        user: &place.context.user,
        dry_run: params.dry_run,
        warnings: &place.context.warnings,
    }
}

/// The resource whose objects are the namespaces of others.
pub(crate) fn is_namespace(target: &Target) -> bool {
    target.descriptor.group.is_empty() && target.descriptor.plural == "namespaces"
}

/// What the kind and its metadata demand of a new object.
fn apply_create_rules(place: &Place<'_>, object: &mut Value) -> Result<(), Status> {
    let strategy = &place.descriptor.strategy;
    let write = place.context.write_context("");
    if strategy.has_status()
        && !strategy.keeps_status_on_create()
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    if let Some(metadata) = metadata_mut(object) {
        if strategy.has_generation() {
            metadata.insert("generation".into(), 1.into());
        } else {
            metadata.remove("generation");
        }
    }
    strategy.prepare_for_create(&write, object);
    let name = name_of(object).to_owned();
    let mut errors = metadata::validate_create(place.target, object);
    errors.extend(strategy.validate_create(&write, object));
    if !errors.is_empty() {
        return Err(place.invalid(&name, &errors));
    }
    place.context.warnings.extend(strategy.warnings(object, None));
    Ok(())
}
