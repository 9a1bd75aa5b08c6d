//! Managed fields of a write: what the field manager needs to know of the resource.

use apimachinery::Value;
use apimachinery::managedfields::{self, ResetFields, Versions};
use apimachinery::meta::GroupVersion;
use apimachinery::schema::{NodeId, Schema};
use apimachinery::status::Status;
use apimachinery::strategy::Resets;

use super::Target;
use crate::context::RequestContext;

/// The other versions of a resource.
pub(crate) struct TargetVersions<'a>(pub(crate) &'a Target);

impl TargetVersions<'_> {
    fn version(&self, api_version: &str) -> Option<&apimachinery::descriptor::ServedVersion> {
        let wanted = GroupVersion::parse(api_version)?;
        let descriptor = &self.0.descriptor;
        if wanted.group == descriptor.group { descriptor.version(&wanted.version) } else { None }
    }
}

impl Versions for TargetVersions<'_> {
    fn schema(&self, api_version: &str) -> Option<(&Schema, NodeId)> {
        self.version(api_version).map(|v| (&*v.schema, v.root))
    }

    fn convert(&self, object: &Value, api_version: &str) -> Result<Value, Status> {
        let unknown = || Status::internal(format!("no conversion to {api_version}"));
        let from = apimachinery::meta::str_at(object, &["apiVersion"]);
        let mut converted = object.clone();
        if from != api_version {
            self.version(from).ok_or_else(unknown)?.to_storage(&mut converted);
            self.version(api_version).ok_or_else(unknown)?.from_storage(&mut converted);
        }
        Ok(converted)
    }
}

/// What the endpoint resets, and its writers therefore never own.
pub(crate) fn reset_fields(target: &Target, subresource: &str) -> ResetFields {
    match target.descriptor.strategy.resets(subresource) {
        Resets::Except([]) => ResetFields::None,
        Resets::Except(paths) => ResetFields::except(paths),
        Resets::Only(paths) => ResetFields::only(paths),
    }
}

/// One write for the field manager.
pub(crate) struct Manage<'a> {
    pub(crate) context: &'a RequestContext,
    pub(crate) target: &'a Target,
    pub(crate) subresource: &'a str,
    pub(crate) manager: &'a str,
}

impl Manage<'_> {
    fn with<T>(&self, run: impl FnOnce(&managedfields::Write<'_>) -> T) -> T {
        let served = self.target.served();
        let reset_fields = reset_fields(self.target, self.subresource);
        run(&managedfields::Write {
            schema: &served.schema,
            root: served.root,
            api_version: &self.target.api_version(),
            kind: &self.target.descriptor.kind,
            subresource: self.subresource,
            manager: self.manager,
            now: self.context.now,
            reset_fields: &reset_fields,
            versions: &TargetVersions(self.target),
        })
    }

    /// Records a create, update or patch.
    pub(crate) fn on_update(&self, live: Option<&Value>, new: &mut Value) {
        self.with(|write| managedfields::on_update(live, new, write));
    }

    /// Merges an applied configuration.
    pub(crate) fn on_apply(
        &self,
        live: Option<&Value>,
        applied: &Value,
        force: bool,
        default: &dyn Fn(&mut Value),
    ) -> Result<Value, Status> {
        self.with(|write| managedfields::on_apply(live, applied, force, default, write))
    }
}
