//! `metadata.managedFields`: the wire form of who owns what.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::fieldpath::{FieldsError, Recorded, Set};
use crate::json::go_quote;
use crate::{Map, Value};

/// What a manager did with its fields. Sorts as it prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What tells entries apart. Appliers have one entry whatever version they apply at; its `api_version` is empty here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ManagerId {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl ManagerId {
    pub(super) fn new(manager: &str, operation: Operation, api_version: &str, subresource: &str) -> Self {
        let api_version = if operation == Operation::Apply { "" } else { api_version };
        Self {
            manager: if manager.is_empty() { "unknown" } else { manager }.to_owned(),
            operation,
            api_version: api_version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// As conflict messages name a manager.
    pub(super) fn shown(&self) -> String {
        let mut text = go_quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", go_quote(&self.subresource)));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// What a manager owns.
#[derive(Debug, Clone)]
pub(super) struct Owned<'v> {
    pub(super) fields: Fields<'v>,
    pub(super) api_version: String,
    pub(super) time: Option<String>,
    /// The entry as it is stored, if it comes from there.
    stored: Option<&'v Map>,
}

/// A set of fields, as it was recorded until it changes.
#[derive(Debug, Clone)]
pub(super) enum Fields<'v> {
    Recorded(Recorded<'v>),
    Changed(Set),
}

impl Fields<'_> {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Recorded(recorded) => recorded.is_empty(),
            Self::Changed(set) => set.is_empty(),
        }
    }

    /// Some of these fields are in a set.
    pub(super) fn meets(&self, set: &Set) -> bool {
        match self {
            Self::Recorded(recorded) => recorded.meets(set),
            Self::Changed(own) => !own.intersection(set).is_empty(),
        }
    }

    /// All of a set are among these fields.
    pub(super) fn covers(&self, set: &Set) -> bool {
        match self {
            Self::Recorded(recorded) => recorded.covers(set),
            Self::Changed(own) => set.is_subset(own),
        }
    }

    /// The fields as a set.
    pub(super) fn to_set(&self) -> Set {
        match self {
            Self::Recorded(recorded) => recorded.to_set(),
            Self::Changed(set) => set.clone(),
        }
    }

    /// The fields as a set that may be changed.
    pub(super) fn set_mut(&mut self) -> &mut Set {
        if let Self::Recorded(recorded) = self {
            *self = Self::Changed(recorded.to_set());
        }
        match self {
            Self::Changed(set) => set,
            Self::Recorded(_) => unreachable!("it was made a set just now"),
        }
    }

    /// Takes a set out.
    pub(super) fn subtract(&mut self, set: &Set) {
        if self.meets(set) {
            let own = self.set_mut();
            *own = std::mem::take(own).difference(set);
        }
    }

    /// Adds a set.
    pub(super) fn add(&mut self, set: Set) {
        if !self.covers(&set) {
            let own = self.set_mut();
            *own = set.union(std::mem::take(own));
        }
    }
}

impl Owned<'_> {
    pub(super) fn new(set: Set, api_version: &str, time: Option<String>) -> Self {
        Self { fields: Fields::Changed(set), api_version: api_version.to_owned(), time, stored: None }
    }

    /// Seconds of the time, 0 without one.
    pub(super) fn seconds(&self) -> i64 {
        self.time.as_deref().and_then(|time| time.parse::<Timestamp>().ok()).map_or(0, Timestamp::as_second)
    }
}

/// All owners of an object.
pub(super) type Managers<'v> = BTreeMap<ManagerId, Owned<'v>>;

/// Why managed fields cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say what each is")]
pub(super) enum EntriesError {
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    #[error("apiVersion must not be empty")]
    ApiVersion,
    #[error("missing fieldsType in managed fields entry {0}")]
    NoFieldsType(usize),
    #[error("invalid fieldsType {1:?} in managed fields entry {0}")]
    FieldsType(usize, String),
    #[error("error decoding versioned set: error decoding set: {0}")]
    Fields(#[from] FieldsError),
    #[error("managed fields entry {0} is not an object")]
    NotObject(usize),
}

/// Reads managed fields; absent and null ones have no entries.
pub(super) fn decode(managed_fields: Option<&Value>) -> Result<Managers<'_>, EntriesError> {
    let mut managers = Managers::new();
    let entries = managed_fields.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (index, entry) in entries.iter().enumerate() {
        let entry = entry.as_object().ok_or(EntriesError::NotObject(index))?;
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return Err(EntriesError::Operation),
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() {
            return Err(EntriesError::ApiVersion);
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(EntriesError::NoFieldsType(index)),
            other => return Err(EntriesError::FieldsType(index, other.to_owned())),
        }
        let id = ManagerId {
            manager: text("manager").to_owned(),
            ..ManagerId::new("", operation, api_version, text("subresource"))
        };
        let owned = Owned {
            fields: match entry.get("fieldsV1") {
                Some(fields) => Fields::Recorded(Recorded::new(fields)?),
                None => Fields::Changed(Set::new()),
            },
            api_version: api_version.to_owned(),
            time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
            // only what is stored is read in parts
            stored: entry.text().is_some().then_some(entry),
        };
        managers.insert(id, owned);
    }
    Ok(managers)
}

/// Writes managed fields in upstream's order: appliers first, then by time, manager, version, subresource. `None` for
/// none.
pub(super) fn encode(managers: Managers<'_>) -> Option<Value> {
    if managers.is_empty() {
        return None;
    }
    let mut entries: Vec<(ManagerId, Owned<'_>)> = managers.into_iter().collect();
    entries.sort_by_cached_key(|(id, owned)| {
        (id.operation, owned.seconds(), id.manager.clone(), owned.api_version.clone(), id.subresource.clone())
    });
    Some(entries.into_iter().map(|(id, owned)| encode_entry(id, owned)).collect())
}

fn encode_entry(id: ManagerId, owned: Owned<'_>) -> Value {
    if let (Fields::Recorded(_), Some(stored)) = (&owned.fields, owned.stored) {
        let said = |key: &str| stored.get(key).and_then(Value::as_str);
        if said("time") == owned.time.as_deref() && said("apiVersion") == Some(&owned.api_version) {
            return Value::Object(stored.clone());
        }
    }
    let fields = match owned.fields {
        Fields::Recorded(recorded) => recorded.tree().clone(),
        Fields::Changed(set) => set.to_fields_v1(),
    };
    entry(id, owned.api_version, owned.time.unwrap_or_default(), fields)
}

/// The entry of a manager that owns `fields`, FieldsV1.
pub(super) fn entry(id: ManagerId, api_version: String, time: String, fields: Value) -> Value {
    let mut entry = Map::from_iter([
        ("apiVersion", Value::from(api_version)),
        ("fieldsType", "FieldsV1".into()),
        ("fieldsV1", fields),
        ("operation", id.operation.as_str().into()),
    ]);
    for (key, text) in [("manager", id.manager), ("subresource", id.subresource), ("time", time)] {
        if !text.is_empty() {
            entry.insert(key.into(), Value::from(text));
        }
    }
    Value::Object(entry)
}

/// The client asks for managed fields to be forgotten: an empty list, or one empty entry.
pub(super) fn is_reset(managed_fields: &Value) -> bool {
    match managed_fields.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(entry)]) => {
            entry.values().all(|value| value.is_null() || value.as_str() == Some(""))
        }
        _ => false,
    }
}
