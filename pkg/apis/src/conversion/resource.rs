//! resource.k8s.io/v1beta1: requests and devices spell out in one map what v1 keeps in a member.
//!
//! Source: `pkg/apis/resource/v1beta1/conversion.go` for what moves where.

use apimachinery::descriptor::Conversion;
use apimachinery::{Map, Value};

use super::set_api_version;

/// Fields that v1 keeps in a request's `exactly`.
const EXACTLY: [&str; 7] =
    ["deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity"];
/// Fields of a device that v1beta1 does not keep in `basic`.
const OUTSIDE_BASIC: [&str; 1] = ["name"];

/// The conversion of a kind.
pub(super) fn from_kind(kind: &str) -> Conversion {
    match kind {
        "ResourceClaim" => Conversion {
            to_storage: |o| {
                set_api_version(o, "resource.k8s.io/v1");
                requests(o.pointer_mut("/spec/devices/requests"), nest);
            },
            from_storage: |o| {
                set_api_version(o, "resource.k8s.io/v1beta1");
                requests(o.pointer_mut("/spec/devices/requests"), flatten);
            },
        },
        "ResourceClaimTemplate" => Conversion {
            to_storage: |o| {
                set_api_version(o, "resource.k8s.io/v1");
                requests(o.pointer_mut("/spec/spec/devices/requests"), nest);
            },
            from_storage: |o| {
                set_api_version(o, "resource.k8s.io/v1beta1");
                requests(o.pointer_mut("/spec/spec/devices/requests"), flatten);
            },
        },
        "ResourceSlice" => Conversion {
            to_storage: |o| {
                set_api_version(o, "resource.k8s.io/v1");
                requests(o.pointer_mut("/spec/devices"), from_basic);
            },
            from_storage: |o| {
                set_api_version(o, "resource.k8s.io/v1beta1");
                requests(o.pointer_mut("/spec/devices"), to_basic);
            },
        },
        _ => Conversion {
            to_storage: |o| set_api_version(o, "resource.k8s.io/v1"),
            from_storage: |o| set_api_version(o, "resource.k8s.io/v1beta1"),
        },
    }
}

fn requests(list: Option<&mut Value>, change: fn(&mut Map)) {
    for item in list.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(map) = item.as_object_mut() {
            change(map);
        }
    }
}

/// Moves the fields of `names` into a member; nothing to move makes no member.
fn gather(map: &mut Map, member: &str, names: impl Fn(&str) -> bool) {
    let moved: Map = map.iter().filter(|(k, _)| names(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
    if !moved.is_empty() {
        map.retain(|k, _| !names(k));
        map.insert(member.into(), Value::Object(moved));
    }
}

fn spread(map: &mut Map, member: &str) {
    if let Some(Value::Object(inner)) = map.remove(member) {
        map.extend(inner);
    }
}

fn nest(request: &mut Map) {
    gather(request, "exactly", |name| EXACTLY.contains(&name));
}

fn flatten(request: &mut Map) {
    spread(request, "exactly");
}

fn from_basic(device: &mut Map) {
    spread(device, "basic");
}

fn to_basic(device: &mut Map) {
    gather(device, "basic", |name| !OUTSIDE_BASIC.contains(&name));
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn requests_and_devices_survive_both_ways() {
        for (kind, old, new) in [
            (
                "ResourceClaim",
                json!({"apiVersion": "resource.k8s.io/v1beta1", "spec": {"devices": {"requests": [
                    {"name": "a", "deviceClassName": "gpu", "count": 2}, {"name": "b", "firstAvailable": []}]}}}),
                json!({"apiVersion": "resource.k8s.io/v1", "spec": {"devices": {"requests": [
                    {"name": "a", "exactly": {"deviceClassName": "gpu", "count": 2}},
                    {"name": "b", "firstAvailable": []}]}}}),
            ),
            (
                "ResourceSlice",
                json!({"apiVersion": "resource.k8s.io/v1beta1",
                       "spec": {"devices": [{"name": "d", "basic": {"attributes": {}}}]}}),
                json!({"apiVersion": "resource.k8s.io/v1", "spec": {"devices": [{"name": "d", "attributes": {}}]}}),
            ),
        ] {
            let conversion = from_kind(kind);
            let mut object = old.clone();
            (conversion.to_storage)(&mut object);
            assert_eq!(object, new);
            (conversion.from_storage)(&mut object);
            assert_eq!(object, old);
        }
    }
}
