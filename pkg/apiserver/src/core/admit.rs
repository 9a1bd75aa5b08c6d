//! Running the admission chain on a write.

use admission::{AdmissionRequest, Notes, Operation, Phase};
use apimachinery::Value;
use apimachinery::descriptor::{ResourceDescriptor, Subresource};
use apimachinery::meta::{GroupVersionKind, GroupVersionResource};
use apimachinery::status::Status;
use auth::UserInfo;

use super::Core;
use crate::context::{RequestContext, Warnings};

/// One write on its way through the chain.
pub(crate) struct Admit<'a> {
    pub(crate) operation: Operation,
    pub(crate) gvr: GroupVersionResource,
    pub(crate) gvk: GroupVersionKind,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) options: Option<&'a Value>,
    pub(crate) user: &'a UserInfo,
    pub(crate) dry_run: bool,
    pub(crate) warnings: &'a Warnings,
}

impl<'a> Admit<'a> {
    fn request(&self, object: Option<Value>, old: Option<&'a Value>) -> AdmissionRequest<'a> {
        AdmissionRequest {
            operation: self.operation,
            gvr: self.gvr.clone(),
            gvk: self.gvk.clone(),
            subresource: self.subresource.to_owned(),
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            object,
            old_object: old,
            options: self.options,
            user: self.user,
            dry_run: self.dry_run,
        }
    }
}

impl Core {
    /// Runs one phase; the object is changed in place.
    pub(crate) async fn admit<'a>(
        &self,
        admit: &Admit<'a>,
        phase: Phase,
        object: Option<&mut Value>,
        old: Option<&'a Value>,
    ) -> Result<(), Status> {
        let Some(extensions) = self.extensions.get() else { return Ok(()) };
        let mut notes = Notes::default();
        let mut place = object;
        let taken = place.as_mut().map(|o| std::mem::take(&mut **o));
        let mut request = admit.request(taken, old);
        let outcome = match phase {
            Phase::Mutate => extensions.admission.admit(&mut request, &mut notes).await,
            Phase::Validate => extensions.admission.validate(&request, &mut notes).await,
        };
        if let (Some(place), Some(object)) = (place, request.object.take()) {
            *place = object;
        }
        admit.warnings.extend(notes.warnings);
        outcome
    }

    /// Both phases on the body of a subresource that is no stored object.
    pub(crate) async fn admit_body(
        &self,
        context: &RequestContext,
        descriptor: &ResourceDescriptor,
        subresource: Option<&Subresource>,
        operation: Operation,
        object: &mut Value,
        dry_run: bool,
    ) -> Result<(), Status> {
        let gvk = match subresource {
            Some(subresource) => subresource.gvk.clone(),
            None => descriptor.gvk(&context.info.version),
        };
        let admit = Admit {
            operation,
            gvr: context.gvr(),
            gvk,
            subresource: &context.info.subresource,
            namespace: &context.info.namespace,
            name: &context.info.name,
            options: None,
            user: &context.user,
            dry_run,
            warnings: &context.warnings,
        };
        self.admit(&admit, Phase::Mutate, Some(object), None).await?;
        self.admit(&admit, Phase::Validate, Some(object), None).await
    }
}
