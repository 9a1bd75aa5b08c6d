//! Ownership: who controls an object, and adopting and releasing what a selector picks.

use client::is_not_found;
use client::rest::{Patch, ResourceId, Rest};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::core::Selector;
use serde_json::{Value, json};

use crate::context::SyncError;

/// The owner reference that is marked as the controller.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// A reference that makes `owner` the controller of what carries it.
pub(crate) fn controller_reference(resource: &ResourceId, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: resource.api_version(),
        kind: resource.kind.to_string(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A label selector ready to match; `None` when it is malformed. Absent selectors match nothing.
pub(crate) fn selector(selector: Option<&LabelSelector>) -> Option<Selector> {
    selector.and_then(|selector| Selector::try_from(selector.clone()).ok())
}

/// What to do with an object a controller may own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is the controller's.
    Keep,
    /// It is nobody's and matches.
    Adopt,
    /// It is the controller's and no longer matches.
    Release,
    /// It is none of the controller's business.
    Ignore,
}

/// Decides about one object, as upstream's `ControllerRefManager`.
pub(crate) fn claim(owner: &ObjectMeta, object: &ObjectMeta, matches: bool) -> Claim {
    let owner_goes = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_goes => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_goes || !matches || object.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The strategic merge patch that makes an object the owner's.
fn adoption(
    resource: &ResourceId,
    owner: &ObjectMeta,
    object: &ObjectMeta,
    finalizer: Option<&str>,
) -> Value {
    let mut metadata = json!({"ownerReferences": [controller_reference(resource, owner)], "uid": object.uid});
    if let Some(finalizer) = finalizer {
        metadata["finalizers"] = json!([finalizer]);
    }
    json!({ "metadata": metadata })
}

/// The strategic merge patch that takes an object from the owner.
fn dismissal(owner: &ObjectMeta, object: &ObjectMeta, finalizer: Option<&str>) -> Value {
    let mut metadata =
        json!({"ownerReferences": [{"$patch": "delete", "uid": owner.uid}], "uid": object.uid});
    if let Some(finalizer) = finalizer {
        metadata["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
    }
    json!({ "metadata": metadata })
}

/// Adopts and releases for one owner. Before the first adoption the owner is read anew, as an informer may not yet
/// know that it is being deleted.
pub(crate) struct Claimer<'a> {
    pub(crate) rest: &'a Rest,
    pub(crate) resource: &'a ResourceId,
    pub(crate) owner: &'a ObjectMeta,
    /// Resource of what is claimed.
    pub(crate) claimed: &'a ResourceId,
    /// Finalizer that what the owner holds has, and that what it lets go must not keep.
    pub(crate) finalizer: Option<&'static str>,
    pub(crate) checked: bool,
}

impl Claimer<'_> {
    /// Carries out a claim. Whether the object is the owner's afterwards.
    pub(crate) async fn settle(&mut self, object: &ObjectMeta, claim: Claim) -> Result<bool, SyncError> {
        match claim {
            Claim::Keep => Ok(true),
            Claim::Ignore => Ok(false),
            Claim::Adopt => self.adopt(object).await,
            Claim::Release => self.release(object).await.map(|()| false),
        }
    }

    async fn adopt(&mut self, object: &ObjectMeta) -> Result<bool, SyncError> {
        self.check_owner().await?;
        match self.patch(object, &adoption(self.resource, self.owner, object, self.finalizer)).await {
            Ok(()) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn release(&self, object: &ObjectMeta) -> Result<(), SyncError> {
        match self.patch(object, &dismissal(self.owner, object, self.finalizer)).await {
            Ok(()) => Ok(()),
            // gone, or replaced by another of its name (the uid does not match): either way no longer the owner's
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn patch(&self, object: &ObjectMeta, patch: &Value) -> Result<(), kube::Error> {
        let at = (object.namespace.as_deref().unwrap_or(""), object.name.as_deref().unwrap_or(""));
        self.rest.patch(self.claimed, at, "", Patch::Strategic, patch).await.map(drop)
    }

    async fn check_owner(&mut self) -> Result<(), SyncError> {
        if self.checked {
            return Ok(());
        }
        let (namespace, name) =
            (self.owner.namespace.as_deref().unwrap_or(""), self.owner.name.as_deref().unwrap_or(""));
        let fresh = self.rest.get(self.resource, namespace, name).await?;
        let at = |pointer: &str| fresh.pointer(pointer).and_then(Value::as_str);
        if at("/metadata/uid") != self.owner.uid.as_deref() {
            return Err(SyncError::other(format!("{namespace}/{name} was replaced by another object")));
        }
        if at("/metadata/deletionTimestamp").is_some() {
            return Err(SyncError::other(format!("{namespace}/{name} has just been deleted")));
        }
        self.checked = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{meta, pod, time};

    #[test]
    fn claims_follow_ownership_selection_and_deletion() {
        let owner = meta("me");
        let going = ObjectMeta { deletion_timestamp: Some(time(0)), ..meta("me") };
        let (mine, other, orphan) =
            (pod("a").owned("me").build(), pod("a").owned("you").build(), pod("a").build());
        let cases = [
            (&owner, &mine, true, Claim::Keep),
            (&owner, &mine, false, Claim::Release),
            (&owner, &other, true, Claim::Ignore),
            (&owner, &orphan, true, Claim::Adopt),
            (&owner, &orphan, false, Claim::Ignore),
            (&owner, &pod("a").deleted(1).build(), true, Claim::Ignore),
            (&going, &mine, true, Claim::Keep),
            (&going, &mine, false, Claim::Ignore),
            (&going, &orphan, true, Claim::Ignore),
        ];
        for (owner, pod, matches, expected) in cases {
            assert_eq!(claim(owner, &pod.metadata, matches), expected);
        }
    }
    #[test]
    fn finalizers_come_with_adoption_and_go_with_dismissal() {
        let (owner, object) = (meta("me"), pod("a").build().metadata);
        let adopted = adoption(&crate::resources::JOBS, &owner, &object, Some("x/y"));
        assert_eq!(adopted["metadata"]["finalizers"], json!(["x/y"]));
        let dismissed = dismissal(&owner, &object, Some("x/y"));
        assert_eq!(dismissed["metadata"]["$deleteFromPrimitiveList/finalizers"], json!(["x/y"]));
        assert_eq!(
            dismissal(&owner, &object, None)["metadata"].as_object().map(serde_json::Map::len),
            Some(2)
        );
    }
}
