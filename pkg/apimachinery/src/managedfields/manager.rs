//! What the server calls on every write.
//!
//! Behaviour: the chain of managers of `k8s.io/apimachinery/pkg/util/managedfields`.

use crate::json;
use jiff::Timestamp;

use super::entries::{self, ManagerId, Managers, Operation};
use super::lastapplied;
use super::ownership::{self, Merged, Refusal};
use super::reset::ResetFields;
use super::typed::{Type, Typed};
use crate::coerce;
use crate::default::{normalise, normalise_changed};
use crate::meta::{metadata, metadata_mut, name, namespace, str_at, uid};
use crate::schema::{NodeId, Schema};
use crate::status::{Cause, Details, Reason, Status};
use crate::{Map, Value};

/// Owner of everything in an object that had no managed fields when it was first applied to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Longest name of a manager, in bytes.
const MAX_MANAGER_NAME: usize = 128;

/// Access to the other served versions of the kind being written, as entries recorded at them have to be compared at
/// them.
pub trait Versions {
    /// Schema and root type of the kind at `api_version` (`apps/v1`). `None` when that version is not served: entries
    /// recorded at it are dropped, as upstream does.
    fn schema(&self, api_version: &str) -> Option<(&Schema, NodeId)>;

    /// The object at `api_version`, for which [`Versions::schema`] knows a schema. The object says its own version.
    ///
    /// # Errors
    /// Whatever conversion fails with; the managed fields then stay as they are (update), or the write fails (apply).
    fn convert(&self, object: &Value, api_version: &str) -> Result<Value, Status>;
}

/// For kinds served in one version.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoOtherVersions;

impl Versions for NoOtherVersions {
    fn schema(&self, _api_version: &str) -> Option<(&Schema, NodeId)> {
        None
    }

    fn convert(&self, _object: &Value, api_version: &str) -> Result<Value, Status> {
        Err(Status::internal(format!("no conversion to {api_version}")))
    }
}

/// One write, as the field manager needs to know it.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// Schema of the request's version.
    pub schema: &'a Schema,
    /// Type of the object in it.
    pub root: NodeId,
    /// `apiVersion` of the request; all objects handed in are at this version.
    pub api_version: &'a str,
    /// Kind of the object.
    pub kind: &'a str,
    /// Subresource written, `""` for the resource itself.
    pub subresource: &'a str,
    /// Who writes: [`manager_name`] for updates, the `fieldManager` parameter for apply.
    pub manager: &'a str,
    /// Time of the request; recorded in whole seconds.
    pub now: Timestamp,
    /// What the endpoint resets.
    pub reset_fields: &'a ResetFields,
    /// The other versions.
    pub versions: &'a dyn Versions,
}

impl Write<'_> {
    pub(super) fn time(&self) -> String {
        // whole seconds print without a fraction
        Timestamp::from_second(self.now.as_second()).unwrap_or(self.now).to_string()
    }

    fn id(&self, manager: &str, operation: Operation) -> ManagerId {
        ManagerId::new(manager, operation, self.api_version, self.subresource)
    }

    /// What a create compares its object with: what Go prints of an object nobody has set anything in.
    fn blank(&self) -> Value {
        let mut blank = json!({"apiVersion": self.api_version, "kind": self.kind});
        normalise(self.schema, self.root, &mut blank);
        blank
    }
}

/// Records a create (`live` is `None`), update or non-apply patch in `new.metadata.managedFields`.
///
/// Called on the object as decoded, patched and defaulted, before mutating admission, as upstream does; what the endpoint
/// resets is left out by [`Write::reset_fields`]. `new` is normalised on the way, `live` is as it was stored. The managed
/// fields the client sent in `new` must still be there: `[]` and `[{}]` reset, a list that can be read replaces the recorded
/// one, anything else is ignored. Never fails: when ownership cannot be computed, the live object's managed fields are
/// kept.
pub fn on_update(live: Option<&Value>, new: &mut Value, write: &Write<'_>) {
    if metadata(new).is_none() {
        return;
    }
    let sent = take_managed_fields(new);
    normalise_changed(write.schema, write.root, new, live);
    let recorded = live.and_then(managed_fields);
    let managed = match update(live, new, sent.as_ref(), recorded, write) {
        Ok(managed) => managed,
        Err(_) => recorded.cloned(),
    };
    set_managed_fields(new, managed);
}

fn update(
    live: Option<&Value>,
    new: &Value,
    sent: Option<&Value>,
    recorded: Option<&Value>,
    write: &Write<'_>,
) -> Result<Option<Value>, Status> {
    let mut managers = current_managers(sent, recorded, write);
    // tracking begins with the object, or with its first apply
    if managers.is_empty() && live.is_some_and(|live| !uid(live).is_empty()) {
        return Ok(None);
    }
    let id = write.id(write.manager, Operation::Update);
    let Some(live) = live else { return create(new, managers, id, write) };
    ownership::record_update(write, live, new, &mut managers, id)?;
    Ok(entries::encode(managers))
}

fn create(
    new: &Value,
    mut managers: Managers<'_>,
    id: ManagerId,
    write: &Write<'_>,
) -> Result<Option<Value>, Status> {
    let blank = write.blank();
    if managers.is_empty()
        && let Ok(fields) = ownership::created(write, &blank, new)
    {
        debug_assert_eq!(Ok(&fields), by_sets(&blank, new, id.clone(), write).as_ref(), "of {new}");
        let has_fields = fields.as_object().is_some_and(|fields| !fields.is_empty());
        let entry =
            has_fields.then(|| entries::entry(id, write.api_version.to_owned(), write.time(), fields));
        return Ok(entry.map(|entry| Value::Array(vec![entry].into())));
    }
    ownership::record_update(write, &blank, new, &mut managers, id)?;
    Ok(entries::encode(managers))
}

/// What [`ownership::created`] has to answer.
fn by_sets(blank: &Value, new: &Value, id: ManagerId, write: &Write<'_>) -> Result<Value, Status> {
    let mut managers = Managers::new();
    ownership::record_update(write, blank, new, &mut managers, id)?;
    let set = managers.into_values().next().map(|owned| owned.fields.to_set()).unwrap_or_default();
    Ok(set.to_fields_v1())
}

/// The owners before an update: the client's list when it can be read and says something (and is not sent to a
/// subresource), else the recorded one; what cannot be read counts as empty.
fn current_managers<'v>(
    sent: Option<&'v Value>,
    recorded: Option<&'v Value>,
    write: &Write<'_>,
) -> Managers<'v> {
    if write.subresource.is_empty() {
        if sent.is_some_and(entries::is_reset) {
            return Managers::new();
        }
        match entries::decode(sent) {
            Ok(managers) if !managers.is_empty() => return managers,
            _ => {}
        }
    }
    entries::decode(recorded).unwrap_or_default()
}

/// Server-side apply: `applied` (which names only what its manager wants) merged into `live` (`None`: the object is
/// to be created), with `metadata.managedFields` set. `applied` is as the client sent it: neither pruned (unknown fields are
/// an error here) nor defaulted (its manager would own the defaults). The result is canonical: what Go would decode,
/// defaulted by `default` in the request's version, normalised. An apply that changes nothing answers the live object with
/// its times as they were; who owns what may have changed even so.
///
/// # Errors
/// 400 for a configuration of another kind or version or with managed fields, 409 with one cause a conflict,
/// 500 without reason (`failed to create typed patch object ...`) when it does not fit the schema.
pub fn on_apply(
    live: Option<&Value>,
    applied: &Value,
    force: bool,
    default: &dyn Fn(&mut Value),
    write: &Write<'_>,
) -> Result<Value, Status> {
    let (api_version, kind) = (str_at(applied, &["apiVersion"]), str_at(applied, &["kind"]));
    if api_version != write.api_version || kind != write.kind {
        return Err(Status::bad_request(format!("invalid object type: {}", gvk(api_version, kind))));
    }
    if managed_fields(applied).is_some_and(Value::is_array) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    Typed::new(write.schema).validate(Type::Node(write.root), applied).map_err(|invalid| {
        failed(format!("failed to create typed patch object ({}): {invalid}", described(applied)))
    })?;
    let nothing = Value::Object(Map::new());
    let live = live.unwrap_or(&nothing);

    let outcome = match apply(live, applied, force, write) {
        Err(Refusal::Conflicts(conflicts)) if write.manager == lastapplied::UPGRADING_MANAGER => {
            match lastapplied::conflicts_left(write, live, conflicts) {
                left if left.is_empty() => apply(live, applied, true, write),
                left => Err(Refusal::Conflicts(left)),
            }
        }
        outcome => outcome,
    };
    let (merged, managers) = outcome.map_err(|refusal| match refusal {
        Refusal::Failed(status) => status,
        Refusal::Conflicts(conflicts) => conflict_status(&conflicts),
    })?;
    let mut object = merged.object;
    if merged.changed {
        coerce::fit_changed(write.schema, write.root, &mut object, false, Some(live)).map_err(|error| {
            failed(format!("failed to convert new typed object ({}) to object: {error}", described(applied)))
        })?;
        default(&mut object);
        normalise_changed(write.schema, write.root, &mut object, Some(live));
    }
    if write.manager == lastapplied::UPGRADING_MANAGER {
        lastapplied::refresh(&mut object, applied);
    }
    set_managed_fields(&mut object, entries::encode(managers));
    Ok(object)
}

/// One attempt: the merged object and who owns it.
fn apply<'v>(
    live: &'v Value,
    applied: &Value,
    force: bool,
    write: &Write<'_>,
) -> Result<(Merged, Managers<'v>), Refusal> {
    let mut managers = entries::decode(managed_fields(live))
        .map_err(|error| failed(format!("failed to decode managed fields: {error}")))?;
    if managers.is_empty() && !uid(live).is_empty() {
        let id = write.id(BEFORE_FIRST_APPLY, Operation::Update);
        ownership::record_update(write, &write.blank(), live, &mut managers, id)?;
    }
    let id = write.id(write.manager, Operation::Apply);
    let merged = ownership::record_apply(write, live, applied, &mut managers, id, force)?;
    Ok((merged, managers))
}

/// A failure that upstream answers as a plain error: 500 without reason.
fn failed(message: String) -> Status {
    Status::new(500, Reason::Unknown, message)
}

/// How upstream's messages name an object: `default/web; apps/v1, Kind=Deployment`.
fn described(object: &Value) -> String {
    let gvk = gvk(str_at(object, &["apiVersion"]), str_at(object, &["kind"]));
    format!("{}/{}; {gvk}", namespace(object), name(object))
}

/// `apps/v1, Kind=Deployment`, `/v1, Kind=Pod`.
fn gvk(api_version: &str, kind: &str) -> String {
    let slash = if api_version.contains('/') { "" } else { "/" };
    format!("{slash}{api_version}, Kind={kind}")
}

fn conflict_status(conflicts: &std::collections::BTreeMap<ManagerId, super::fieldpath::Set>) -> Status {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for (id, set) in conflicts {
        let manager = id.shown();
        lines.push(format!("conflicts with {manager}:"));
        set.for_each(&mut |path| {
            let field = super::fieldpath::Path(path).to_string();
            lines.push(format!("- {field}"));
            causes.push(Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {manager}"),
                field,
            });
        });
    }
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n")),
    };
    Status::new(409, Reason::Conflict, message).with_details(Details { causes, ..Details::default() })
}

/// The manager's name of a write: `field_manager` (the query parameter) or else the user agent up to its first slash,
/// cut to 128 bytes, unprintable characters left out.
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let mut name = String::new();
    for c in user_agent.split('/').next().unwrap_or_default().chars().filter(|c| is_printable(*c)) {
        if name.len() + c.len_utf8() > MAX_MANAGER_NAME {
            break;
        }
        name.push(c);
    }
    name
}

/// Go's `unicode.IsPrint`, as near as the standard library comes: what its debug form does not escape, and no space
/// but the ASCII one.
pub(super) fn is_printable(c: char) -> bool {
    c == ' '
        || matches!(c, '"' | '\'' | '\\')
        || (!c.is_whitespace() && !c.is_control() && c.escape_debug().len() == 1)
}

/// `metadata.managedFields`, unless absent.
pub(super) fn managed_fields(object: &Value) -> Option<&Value> {
    metadata(object)?.get("managedFields").filter(|value| !value.is_null())
}

pub(super) fn take_managed_fields(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

pub(super) fn set_managed_fields(object: &mut Value, managed: Option<Value>) {
    if let (Some(metadata), Some(managed)) = (metadata_mut(object), managed) {
        metadata.insert("managedFields".into(), managed);
    }
}

/// A copy of the object but for its managed fields.
pub(super) fn without_managed_fields(object: &Value) -> Value {
    let mut copy = object.clone();
    take_managed_fields(&mut copy);
    copy
}
