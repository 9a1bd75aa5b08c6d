//! What is true of the metadata of every kind, on create and on update.
//!
//! Source: API conventions, "Metadata"; `k8s.io/apiserver/pkg/registry/rest` (BeforeCreate, BeforeUpdate). What is valid
//! is said by [`objectmeta`].

use std::collections::HashSet;

use apimachinery::meta::{at, metadata_mut, str_at};
use apimachinery::status::{FieldError, Status};
use apimachinery::{Map, Value, objectmeta};
use jiff::Timestamp;

use super::Target;

/// A timestamp as `metav1.Time` prints it.
pub(crate) fn time_text(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Makes the object's namespace the request's; 400 when it names another.
pub(crate) fn match_namespace(object: &mut Value, namespace: &str, namespaced: bool) -> Result<(), Status> {
    let given = apimachinery::meta::namespace(object).to_owned();
    let expected = if namespaced { namespace } else { "" };
    if given == expected {
        return Ok(());
    }
    let Some(metadata) = metadata_mut(object) else { return Ok(()) };
    if expected.is_empty() {
        metadata.remove("namespace");
    } else if given.is_empty() {
        metadata.insert("namespace".into(), expected.into());
    } else {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// 400 unless the object of an update is named as the URL says.
pub(crate) fn match_name(object: &Value, name: &str, namespace: &str) -> Result<(), Status> {
    let given = apimachinery::meta::name(object);
    if given.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    if given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let given = apimachinery::meta::namespace(object);
    if !namespace.is_empty() && !given.is_empty() && given != namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({given}) does not match the namespace on the request ({namespace})"
        )));
    }
    Ok(())
}

/// Drops repeated owner references; the warning to send when there were any.
pub(crate) fn dedup_owners(object: &mut Value, after_admission: bool) -> Option<String> {
    let owners = metadata_mut(object)?.get_mut("ownerReferences")?.as_array_mut()?;
    if owners.len() < 2 {
        return None;
    }
    let mut seen: HashSet<Value> = HashSet::with_capacity(owners.len());
    let mut repeated: Vec<String> = Vec::new();
    let mut named: HashSet<String> = HashSet::new();
    owners.retain(|owner| {
        if seen.contains(owner) {
            let uid = str_at(owner, &["uid"]).to_owned();
            if named.insert(uid.clone()) {
                repeated.push(uid);
            }
            return false;
        }
        seen.insert(owner.clone());
        true
    });
    if repeated.is_empty() {
        return None;
    }
    let when = if after_admission { " after mutating admission happens" } else { "" };
    Some(format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and \
         may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        repeated.join(", ")
    ))
}

/// What a client may not set on create; fills in uid and creation time.
pub(crate) fn prepare_create(object: &mut Value, now: Timestamp) {
    let Some(metadata) = metadata_mut(object) else { return };
    metadata.remove("deletionTimestamp");
    metadata.remove("deletionGracePeriodSeconds");
    metadata.remove("selfLink");
    metadata.remove("resourceVersion");
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), time_text(now).into());
}

/// What a client may not change on update.
pub(crate) fn prepare_update(new: &mut Value, old: &Value) {
    let Some(before) = old.get("metadata").and_then(Value::as_object) else { return };
    let Some(metadata) = metadata_mut(new) else { return };
    metadata.remove("selfLink");
    keep(metadata, before, "generation");
    keep(metadata, before, "creationTimestamp");
    if metadata.get("uid").and_then(Value::as_str).unwrap_or("").is_empty() {
        keep(metadata, before, "uid");
    }
    // an update can neither set nor remove a deletion
    keep(metadata, before, "deletionTimestamp");
    if before.contains_key("deletionTimestamp") {
        if !metadata.contains_key("deletionGracePeriodSeconds") {
            keep(metadata, before, "deletionGracePeriodSeconds");
        }
    } else {
        metadata.remove("deletionGracePeriodSeconds");
    }
}

fn keep(metadata: &mut Map, before: &Map, key: &str) {
    match before.get(key) {
        Some(value) => metadata.insert(key.into(), value.clone()),
        None => metadata.remove(key),
    };
}

/// Problems of a new object's metadata.
pub(crate) fn validate_create(target: &Target, object: &Value) -> Vec<FieldError> {
    let descriptor = &target.descriptor;
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    let check_name = |name: &str, prefix: bool| descriptor.strategy.validate_name(name, prefix);
    objectmeta::validate_create(metadata, descriptor.namespaced, check_name, "metadata")
}

/// Problems of a changed object's metadata.
pub(crate) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let [new, old] = [new, old].map(|object| object.get("metadata").unwrap_or(&Value::Null));
    objectmeta::validate_update(new, old, "metadata")
}

fn strings<'a>(object: &'a Value, key: &str) -> Vec<&'a str> {
    at(object, &["metadata", key])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// The object's finalizers.
pub(crate) fn finalizers_of(object: &Value) -> Vec<&str> {
    strings(object, "finalizers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn namespaces_must_match() {
        let mut object = json!({"metadata": {"name": "a"}});
        match_namespace(&mut object, "x", true).expect("filled in");
        assert_eq!(apimachinery::meta::namespace(&object), "x");
        assert_eq!(match_namespace(&mut object, "y", true).expect_err("differs").code, 400);
        match_namespace(&mut object, "", false).expect("dropped");
        assert_eq!(apimachinery::meta::namespace(&object), "");
    }

    #[test]
    fn updates_keep_what_clients_may_not_change() {
        let old = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "7", "generation": 3,
                                      "creationTimestamp": "t", "deletionTimestamp": "d",
                                      "deletionGracePeriodSeconds": 30}});
        let mut new = json!({"metadata": {"name": "a", "resourceVersion": "7", "generation": 9}});
        prepare_update(&mut new, &old);
        assert_eq!(new, old);
        assert!(validate_update(&new, &old).is_empty());
        new["metadata"]["uid"] = json!("other");
        new["metadata"]["finalizers"] = json!(["a/b"]);
        let messages: Vec<String> = validate_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{\"a/b\"}",
                "metadata.uid: Invalid value: \"other\": field is immutable"
            ]
        );
    }
}
