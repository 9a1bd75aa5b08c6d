//! Conversion between the served versions of a kind and its stored one, in place and total.
//!
//! Most pairs differ in nothing but `apiVersion`; the others have a module.

pub(crate) mod autoscaling;
mod crd;
mod events;
mod resource;

use apimachinery::Value;
use apimachinery::descriptor::Conversion;
use apimachinery::meta::GroupVersionKind;

/// Sets `apiVersion` of a converted object.
fn set_api_version(object: &mut Value, version: &str) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), version.into());
    }
}

/// Conversions that only rename the version.
macro_rules! renames {
    ($served:expr, $stored:expr, $($a:literal <-> $b:literal,)*) => {
        match ($served, $stored) {
            $(($a, $b) => Some(Conversion {
                to_storage: |object| set_api_version(object, $b),
                from_storage: |object| set_api_version(object, $a),
            }),)*
            _ => None,
        }
    };
}

/// The conversion of a served kind to and from the stored one, `None` when they are the same.
pub(crate) fn between(served: &GroupVersionKind, stored: &GroupVersionKind) -> Option<Conversion> {
    if served == stored {
        return None;
    }
    let (from, to) = (served.group_version().to_string(), stored.group_version().to_string());
    match (from.as_str(), to.as_str()) {
        ("events.k8s.io/v1", "v1") => Some(events::CONVERSION),
        ("autoscaling/v1", "autoscaling/v2") => Some(autoscaling::CONVERSION),
        ("resource.k8s.io/v1beta1", "resource.k8s.io/v1") => Some(resource::from_kind(&served.kind)),
        (from, to) => renames!(from, to,
            "admissionregistration.k8s.io/v1" <-> "admissionregistration.k8s.io/v1beta1",
            "admissionregistration.k8s.io/v1alpha1" <-> "admissionregistration.k8s.io/v1beta1",
            "certificates.k8s.io/v1alpha1" <-> "certificates.k8s.io/v1beta1",
            "coordination.k8s.io/v1alpha2" <-> "coordination.k8s.io/v1beta1",
            "networking.k8s.io/v1beta1" <-> "networking.k8s.io/v1",
            "resource.k8s.io/v1beta2" <-> "resource.k8s.io/v1",
            "resource.k8s.io/v1beta2" <-> "resource.k8s.io/v1alpha3",
            "storage.k8s.io/v1beta1" <-> "storage.k8s.io/v1",
        ),
    }
}

/// How a stored object of a version that is served no more becomes one of the version that is stored now.
pub fn upgrade(stored: &GroupVersionKind) -> Option<fn(&mut Value)> {
    let crd = GroupVersionKind::new("apiextensions.k8s.io", "v1beta1", "CustomResourceDefinition");
    (*stored == crd).then_some(crd::upgrade as fn(&mut Value))
}

/// Moves fields of a map to new names.
fn rename(object: &mut Value, names: &[(&str, &str)]) {
    let Some(map) = object.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            map.insert((*to).into(), value);
        }
    }
}
