//! The algorithm: who owns what after an update or apply.
//!
//! Behaviour: `structured-merge-diff/merge/update.go`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::entries::{Fields, ManagerId, Managers, Operation, Owned};
use super::fieldpath::{PathElement, Set};
use super::manager::{Write, without_managed_fields};
use super::reset::ResetFields;
use super::typed::{Diff, Type, Typed, Unowned, Unusual};
use super::validation::same_but_managed_fields;
use crate::Value;
use crate::status::Status;

/// Updaters kept apart; older ones are merged.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager older updaters are merged into.
const ANCIENT: &str = "ancient-changes";

/// Why an apply failed.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Others own these fields.
    Conflicts(BTreeMap<ManagerId, Set>),
    /// Something else.
    Failed(Status),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// The kind at one of its versions.
#[derive(Clone, Copy)]
struct Version<'a> {
    typed: Typed<'a>,
    root: Type,
}

impl<'a> Write<'a> {
    fn own_version(&self) -> Version<'a> {
        Version { typed: Typed::new(self.schema), root: Type::Node(self.root) }
    }

    fn version(&self, api_version: &str) -> Option<Version<'a>> {
        if api_version == self.api_version {
            return Some(self.own_version());
        }
        let (schema, root) = self.versions.schema(api_version)?;
        Some(Version { typed: Typed::new(schema), root: Type::Node(root) })
    }
}

/// An object at one version; borrowed as long as nothing had to be converted.
#[derive(Clone)]
struct At<'o> {
    object: Cow<'o, Value>,
    api_version: String,
}

impl<'o> At<'o> {
    fn new(object: Cow<'o, Value>, api_version: &str) -> Self {
        Self { object, api_version: api_version.to_owned() }
    }

    fn convert(self, write: &Write<'_>, api_version: &str) -> Result<Self, Status> {
        if self.api_version == api_version {
            return Ok(self);
        }
        Ok(Self::new(Cow::Owned(write.versions.convert(&self.object, api_version)?), api_version))
    }
}

/// Drops owners at versions that are no longer served and adapts the others to what became atomic since.
pub(super) fn reconcile(write: &Write<'_>, managers: &mut Managers<'_>) {
    managers.retain(|_, owned| {
        let Some(version) = write.version(&owned.api_version) else { return false };
        match &mut owned.fields {
            Fields::Recorded(recorded) if version.typed.is_reconciled(version.root, *recorded) => {}
            fields => version.typed.reconcile(version.root, fields.set_mut()),
        }
        true
    });
}

/// Records what a write other than an apply changed, under `id`. `old` and `new` are at the write's version; managed fields
/// of `old` do not matter, `new` has none.
pub(super) fn record_update(
    write: &Write<'_>,
    old: &Value,
    new: &Value,
    managers: &mut Managers<'_>,
    id: ManagerId,
) -> Result<(), Status> {
    reconcile(write, managers);
    let diff = match take_over(write, old, new, managers, Some(&id), true) {
        Ok(diff) => diff,
        Err(Refusal::Failed(status)) => return Err(status),
        Err(Refusal::Conflicts(_)) => return Err(Status::internal("a forced write has no conflicts")),
    };
    let changed = diff.modified.union(diff.added);
    let set = write.reset_fields.keep(strip(changed.clone()));
    if let Some(own) = managers.get_mut(&id) {
        own.fields.subtract(&diff.removed);
        own.fields.subtract(&changed.difference(&set));
        if !set.is_empty() {
            own.fields.add(set);
            own.time = Some(write.time());
        }
        if own.fields.is_empty() {
            managers.remove(&id);
        }
    } else if !set.is_empty() {
        managers.insert(id, Owned::new(set, write.api_version, Some(write.time())));
    }
    cap_updaters(managers);
    Ok(())
}

/// FieldsV1 of what the creator of an object owns: what [`record_update`] would record of the difference to a blank one
/// when there are no other owners.
///
/// # Errors
/// [`Unusual`] when it takes that to tell.
pub(super) fn created(write: &Write<'_>, blank: &Value, new: &Value) -> Result<Value, Unusual> {
    let reset = match write.reset_fields {
        ResetFields::None => None,
        ResetFields::Except(reset) => Some(reset),
        ResetFields::Only(_) => return Err(Unusual),
    };
    if crate::meta::metadata(blank).is_none() {
        // metadata itself has no owner
        return Err(Unusual);
    }
    let version = write.own_version();
    version.typed.created(version.root, blank, new, Unowned([Some(&*NOBODYS), reset]))
}

/// What [`strip`] takes out of the set of a new object.
static NOBODYS: LazyLock<Set> = LazyLock::new(|| {
    let mut set = Set::new();
    for name in ["apiVersion", "kind"] {
        set.insert(&[PathElement::field(name)]);
    }
    for name in BOOKKEEPING {
        set.insert(&[PathElement::field("metadata"), PathElement::field(name)]);
    }
    set
});

/// Takes what changed between two objects away from its owners (all but `skip`). Without `force`, changed or added
/// fields of others are conflicts. Answers the difference at the write's version, less what is reset.
fn take_over(
    write: &Write<'_>,
    old: &Value,
    new: &Value,
    managers: &mut Managers<'_>,
    skip: Option<&ManagerId>,
    force: bool,
) -> Result<Diff, Refusal> {
    let version = write.own_version();
    let diff = write.reset_fields.keep_of(version.typed.compare(version.root, old, new));
    let mut others: BTreeMap<String, Diff> = BTreeMap::new();
    let mut dropped = Vec::new();
    for (id, owned) in managers.iter() {
        let at = &owned.api_version;
        if Some(id) == skip || *at == write.api_version || others.contains_key(at) || dropped.contains(at) {
            continue;
        }
        let Some(version) = write.version(at) else {
            dropped.push(at.clone());
            continue;
        };
        let (old, new) = (write.versions.convert(old, at)?, write.versions.convert(new, at)?);
        others
            .insert(at.clone(), write.reset_fields.keep_of(version.typed.compare(version.root, &old, &new)));
    }
    managers.retain(|id, owned| Some(id) == skip || !dropped.contains(&owned.api_version));

    let diff_at = |api_version: &str| others.get(api_version).unwrap_or(&diff);
    if !force {
        let conflicts: BTreeMap<ManagerId, Set> = managers
            .iter()
            .filter(|(id, _)| Some(*id) != skip)
            .filter_map(|(id, owned)| {
                let diff = diff_at(&owned.api_version);
                if !owned.fields.meets(&diff.modified) && !owned.fields.meets(&diff.added) {
                    return None;
                }
                let set = owned.fields.to_set();
                Some((id.clone(), set.intersection(&diff.modified).union(set.intersection(&diff.added))))
            })
            .collect();
        if !conflicts.is_empty() {
            return Err(Refusal::Conflicts(conflicts));
        }
    }
    managers.retain(|id, owned| {
        if Some(id) != skip {
            let diff = diff_at(&owned.api_version);
            for lost in [&diff.modified, &diff.added, &diff.removed] {
                owned.fields.subtract(lost);
            }
        }
        Some(id) == skip || !owned.fields.is_empty()
    });
    Ok(diff)
}

/// What an apply makes of an object.
pub(super) struct Merged {
    /// The merged object, not defaulted yet, without managed fields.
    pub(super) object: Value,
    /// It differs from the live one.
    pub(super) changed: bool,
}

/// Merges `config` into `live` under `id`, which gets the fields of the config; fields it had before and nobody else
/// has are removed.
pub(super) fn record_apply(
    write: &Write<'_>,
    live: &Value,
    config: &Value,
    managers: &mut Managers<'_>,
    id: ManagerId,
    force: bool,
) -> Result<Merged, Refusal> {
    reconcile(write, managers);
    let version = write.own_version();
    let mut merged = without_managed_fields(live);
    version.typed.merge(version.root, &mut merged, config);

    let set = write.reset_fields.keep(version.typed.field_set(version.root, config));
    let last = managers.remove(&id);
    let time = last.as_ref().and_then(|last| last.time.clone());
    managers.insert(id.clone(), Owned::new(set, write.api_version, time));
    if let Some(last) = last {
        merged = prune(write, merged, managers, &id, &last)?;
    }
    take_over(write, live, &merged, managers, Some(&id), force)?;

    let changed = !same_but_managed_fields(live, &merged);
    if let Some(owned) = managers.get_mut(&id) {
        let set = owned.fields.set_mut();
        *set = strip(std::mem::take(set));
        if changed {
            owned.time = Some(write.time());
        }
        if owned.fields.is_empty() {
            managers.remove(&id);
        }
    }
    Ok(Merged { object: merged, changed })
}

/// Removes from `merged` what the applier had last time, does not have now, and nobody else has.
fn prune(
    write: &Write<'_>,
    merged: Value,
    managers: &Managers<'_>,
    id: &ManagerId,
    last: &Owned<'_>,
) -> Result<Value, Status> {
    let Some(version) = write.version(&last.api_version) else { return Ok(merged) };
    let last_set = last.fields.to_set();
    // Of what the applier still has nothing can go: the usual case, told without walking the object.
    let unchanged = managers
        .get(id)
        .is_some_and(|now| now.api_version == last.api_version && now.fields.covers(&last_set));
    if last_set.is_empty() || unchanged {
        return Ok(merged);
    }
    let Version { typed, root } = version;
    let merged = At::new(Cow::Owned(merged), write.api_version).convert(write, &last.api_version)?;
    let had = typed.with_named_fields(root, last_set);
    let mut pruned = merged.object.clone().into_owned();
    typed.remove(root, &mut pruned, &had);
    let pruned = At::new(Cow::Owned(pruned), &last.api_version);

    let pruned =
        keep_owned(write, &merged, pruned, managers, &last.api_version)?.convert(write, &last.api_version)?;
    // what the applier did not have stays, even when it hung on what it had
    let in_merged = typed.with_named_fields(root, typed.field_set(root, &merged.object));
    let in_pruned = typed.with_named_fields(root, typed.field_set(root, &pruned.object));
    let gone = in_merged.difference(&in_pruned).intersection(&had);
    let mut object = merged.object.into_owned();
    typed.remove(root, &mut object, &gone);
    Ok(At::new(Cow::Owned(object), &last.api_version).convert(write, write.api_version)?.object.into_owned())
}

/// Puts back into `pruned` what it lost of `merged` but some manager has, version by version, beginning with the one it
/// was pruned at (others may not convert without those fields).
fn keep_owned<'o>(
    write: &Write<'_>,
    merged: &At<'o>,
    mut pruned: At<'o>,
    managers: &Managers<'_>,
    first: &str,
) -> Result<At<'o>, Status> {
    let mut owned_at: BTreeMap<&str, Set> = BTreeMap::new();
    for owned in managers.values() {
        let set = owned_at.entry(&owned.api_version).or_default();
        *set = std::mem::take(set).union(owned.fields.to_set());
    }
    let ours = owned_at.remove(first).map(|set| (first, set));
    let mut merged = merged.clone();
    for (api_version, owned) in ours.into_iter().chain(owned_at) {
        let Some(Version { typed, root }) = write.version(api_version) else { continue };
        merged = merged.convert(write, api_version)?;
        pruned = pruned.convert(write, api_version)?;
        let in_merged = typed.with_named_fields(root, typed.field_set(root, &merged.object));
        let in_pruned = typed.with_named_fields(root, typed.field_set(root, &pruned.object));
        let owned = typed.with_named_fields(root, owned);
        let gone = in_merged.difference(&in_pruned).difference(&owned);
        let mut object = merged.object.clone().into_owned();
        typed.remove(root, &mut object, &gone);
        pruned = At::new(Cow::Owned(object), api_version);
    }
    Ok(pruned)
}

/// The set without what nobody owns: type, identity and bookkeeping of the object.
fn strip(mut set: Set) -> Set {
    set.modify(|element, member, children| {
        let PathElement::Field(name) = element else { return };
        match &**name {
            "apiVersion" | "kind" => *member = false,
            "metadata" => {
                *member = false;
                children.modify(|element, member, _| {
                    if let PathElement::Field(name) = element {
                        *member &= !BOOKKEEPING.contains(&&**name);
                    }
                });
            }
            _ => {}
        }
    });
    set
}

/// Fields of metadata that nobody owns.
const BOOKKEEPING: [&str; 9] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Merges the oldest updaters of each version until at most [`MAX_UPDATE_MANAGERS`] are left.
fn cap_updaters(managers: &mut Managers<'_>) {
    let mut updaters: Vec<(i64, ManagerId)> = managers
        .iter()
        .filter(|(id, _)| id.operation == Operation::Update)
        .map(|(id, owned)| (owned.seconds(), id.clone()))
        .collect();
    let mut left = updaters.len();
    if left <= MAX_UPDATE_MANAGERS {
        return;
    }
    updaters.sort();
    // the oldest of each version waits for a second one to be merged with
    let mut first_of: BTreeMap<String, ManagerId> = BTreeMap::new();
    for (_, id) in updaters {
        if left <= MAX_UPDATE_MANAGERS {
            return;
        }
        let Some(version) = managers.get(&id).map(|owned| owned.api_version.clone()) else { continue };
        let bucket = ManagerId::new(ANCIENT, Operation::Update, &version, "");
        let Some(first) = first_of.get(&version) else {
            first_of.insert(version, id);
            continue;
        };
        let Some(merging) = managers.remove(&id) else { continue };
        let into = managers.remove(&bucket).or_else(|| managers.remove(first));
        let set = merging.fields.to_set().union(into.map(|owned| owned.fields.to_set()).unwrap_or_default());
        // the newer of the two times stands for both
        managers.insert(bucket, Owned::new(set, &version, merging.time));
        left -= 1;
    }
}
