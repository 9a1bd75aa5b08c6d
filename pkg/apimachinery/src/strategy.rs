//! What is special about a kind, as pure functions on the tree.
//!
//! The generic server calls these in the order of upstream's `rest.RESTCreateStrategy` and its kin
//! (`k8s.io/apiserver/pkg/registry/rest`). Objects are in the stored version, except in
//! [`Strategy::default_object`], which sees the served one. What needs I/O (service addresses, bindings, evictions)
//! is not here but in crate `registry`.

use jiff::Timestamp;

use crate::Value;
use crate::meta::at;
use crate::status::FieldError;
use crate::table::{self, Part};

/// What a strategy may know of the request.
#[derive(Debug, Clone)]
pub struct WriteContext<'a> {
    /// Time of the request.
    pub now: Timestamp,
    /// User name of the requester.
    pub user: &'a str,
    /// Groups of the requester.
    pub groups: &'a [String],
    /// Subresource being written, `""` for the resource itself.
    pub subresource: &'a str,
    /// API group of the request, which is not the stored one for events.
    pub group: &'a str,
}

/// What an endpoint does not let its writers change, and they therefore never own
/// (`rest.ResetFieldsStrategy`, `rest.ResetFieldsFilterStrategy`). Paths are dotted field names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resets {
    /// These fields and all below them.
    Except(&'static [&'static str]),
    /// Everything but these fields and what is below them; `*` stands for any element of a list.
    Only(&'static [&'static str]),
}

/// The special rules of one kind. The defaults are right for a kind without any.
pub trait Strategy: Send + Sync {
    /// Fills in defaults that a schema cannot say. Runs on decoded objects of any served version, and again on objects
    /// read from storage, so it must be idempotent.
    fn default_object(&self, _version: &str, _object: &mut Value) {}

    /// The members of the object that [`Strategy::default_object`] reads and writes, if no others: where none of them has
    /// changed it has nothing to do. `None` where it has to run after every change.
    fn defaults_depend_on(&self) -> Option<&'static [&'static str]> {
        None
    }

    /// The object has `status` as its subresource: writes to the resource keep the old status and the other way round.
    fn has_status(&self) -> bool {
        true
    }

    /// What a subresource (`""`: the resource) keeps of the old object.
    fn resets(&self, subresource: &str) -> Resets {
        match subresource {
            "" if self.has_status() => Resets::Except(&["status"]),
            "status" => Resets::Except(&["spec"]),
            _ => Resets::Except(&[]),
        }
    }

    /// A new object may bring its status (nodes register with one); else it is dropped on create.
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// `metadata.generation` counts changes of the object outside metadata and status.
    fn has_generation(&self) -> bool {
        false
    }

    /// Clears what a client may not set on create. Called after status was dropped and generation set.
    fn prepare_for_create(&self, _context: &WriteContext<'_>, _object: &mut Value) {}

    /// Restores what a client may not change. Called after the generic rules (status kept or only status taken,
    /// metadata that cannot change) and before the generation is counted up.
    fn prepare_for_update(&self, _context: &WriteContext<'_>, _new: &mut Value, _old: &Value) {}

    /// Problems of a new object beyond its metadata. Errors in upstream's order and words.
    fn validate_create(&self, _context: &WriteContext<'_>, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Problems of a changed object beyond its metadata; `context.subresource` says which part may have changed.
    fn validate_update(&self, _context: &WriteContext<'_>, _new: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Texts for `Warning` headers, on create (`old` is `None`) and update.
    fn warnings(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Problems of `metadata.name`, given without path; most kinds take a DNS subdomain.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::validation::dns1123_subdomain(name, prefix)
    }

    /// PUT to a name that does not exist creates it.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// PUT without resourceVersion overwrites.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// For kinds deleted gracefully (pods): the grace period in seconds to grant, given what the client asked for.
    /// `None`: deleted at once.
    fn deletion_grace(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Something beyond `metadata.finalizers` keeps a deleted object: `spec.finalizers` of a namespace.
    fn holds_deletion(&self, _object: &Value) -> bool {
        false
    }

    /// Changes an object whose deletion begins, beyond its metadata: the phase of a namespace.
    fn begin_deletion(&self, _object: &mut Value) {}

    /// Propagation of a delete that names none: `true` orphans dependents (the old `batch/v1` Jobs rule).
    fn orphan_by_default(&self) -> bool {
        false
    }

    /// The cells of `kubectl get` in the order of the descriptor's columns, from an object in the stored version.
    /// The default prints name and age.
    fn table_row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![Value::from(crate::meta::name(object)), crate::table::age(object, now)]
    }

    /// The part of an object that [`Strategy::table_row`] looks at.
    fn table_part(&self) -> &'static Part {
        &table::NAME_AND_AGE
    }

    /// Whether a new and an old spec (everything but metadata and status) differ, for the generation.
    fn spec_changed(&self, new: &Value, old: &Value) -> bool {
        let without = |value: &Value| {
            let mut map = value.as_object().cloned().unwrap_or_default();
            map.remove("metadata");
            map.remove("status");
            map
        };
        match (at(new, &["spec"]), at(old, &["spec"])) {
            (Some(a), Some(b)) if a != b => true,
            _ => without(new) != without(old),
        }
    }
}

/// The strategy of a kind without special rules.
#[derive(Debug, Clone, Copy, Default)]
pub struct DefaultStrategy;

impl Strategy for DefaultStrategy {}
