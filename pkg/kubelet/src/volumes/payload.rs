//! What ConfigMap, Secret, downward API and projected volumes hold: data and items to files. Pure.

use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, KeyToPath, Pod};

use super::atomic::{File, Payload};
use crate::env::{Facts, field_value, resource_value};
use crate::objects::Data;
use crate::podutil::PodExt;

/// Mode of files whose volume names none.
pub const DEFAULT_MODE: i32 = 0o644;

/// Adds the keys of a ConfigMap or Secret: all, or the items named. `kind` is for the message about a missing key.
pub fn add_keys(
    payload: &mut Payload,
    data: &Data,
    items: Option<&[KeyToPath]>,
    default_mode: i32,
    optional: bool,
    kind: &str,
) -> Result<(), String> {
    let file = |data: &[u8], mode: i32| File { data: data.to_vec(), mode: mode as u32 & 0o777, uid: None };
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        payload.extend(data.iter().map(|(key, value)| (key.clone(), file(value, default_mode))));
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                payload.insert(item.path.clone(), file(value, item.mode.unwrap_or(default_mode)));
            }
            None if optional => {}
            None => return Err(format!("references non-existent {kind} key: {}", item.key)),
        }
    }
    Ok(())
}

/// Adds files of the downward API.
pub fn add_downward(
    payload: &mut Payload,
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default_mode: i32,
    facts: &Facts,
) -> Result<(), String> {
    let nobody = Container::default();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_value(pod, &field.field_path, facts),
            (None, Some(resource)) => {
                let name = resource.container_name.as_deref().unwrap_or_default();
                if crate::podutil::find_container(pod, name).is_none() {
                    return Err(format!("couldn't find container {name:?} in pod {}", pod.full_id()));
                }
                resource_value(pod, &nobody, resource, &facts.allocatable)
            }
            (None, None) => continue,
        }
        .map_err(|e| e.to_string())?;
        let mode = item.mode.unwrap_or(default_mode) as u32 & 0o777;
        payload.insert(item.path.clone(), File { data: text.into_bytes(), mode, uid: None });
    }
    Ok(())
}

/// The user every container of a pod runs as, if it is one and the same.
pub fn common_user(pod: &Pod) -> Option<i64> {
    let default = pod.spec().security_context.as_ref().and_then(|s| s.run_as_user);
    let all = pod.spec().containers.iter().chain(pod.spec().init_containers.iter().flatten());
    let mut users = all.map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(default));
    let first = users.next().flatten()?;
    users.all(|u| u == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_items_and_modes() {
        let data = Data::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
        let items: Vec<KeyToPath> =
            serde_json::from_value(json!([{"key": "b", "path": "x/y", "mode": 256}])).expect("items");
        let mut all = Payload::new();
        add_keys(&mut all, &data, None, 0o600, false, "config").expect("no items to miss");
        assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(all["a"].mode, 0o600);
        let mut some = Payload::new();
        add_keys(&mut some, &data, Some(&items), 0o644, false, "config").expect("the key is there");
        assert_eq!((some.len(), some["x/y"].mode), (1, 0o400));
        let gone: Vec<KeyToPath> = serde_json::from_value(json!([{"key": "z", "path": "z"}])).expect("items");
        let error = add_keys(&mut some, &data, Some(&gone), 0o644, false, "config").expect_err("missing");
        assert_eq!(error, "references non-existent config key: z");
        assert!(add_keys(&mut some, &data, Some(&gone), 0o644, true, "config").is_ok());
    }

    #[test]
    fn downward_files() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"a": "1", "b": "2"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}}))
        .expect("a pod");
        let items: Vec<DownwardAPIVolumeFile> = serde_json::from_value(json!([
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}}]))
        .expect("items");
        let mut payload = Payload::new();
        add_downward(&mut payload, &pod, &items, 0o644, &Facts::default()).expect("all known");
        assert_eq!(payload["labels"].data, b"a=\"1\"\nb=\"2\"");
        assert_eq!(payload["cpu"].data, b"2000");
    }

    #[test]
    fn users() {
        let pod = |spec: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod")
        };
        let same =
            pod(json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a"}, {"name": "b"}]}));
        let mixed = pod(
            json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a", "securityContext": {"runAsUser": 8}}, {"name": "b"}]}),
        );
        assert_eq!((common_user(&same), common_user(&mixed)), (Some(7), None));
    }
}
