//! Patches in each of their formats, and server-side apply.

use std::sync::OnceLock;

use apimachinery::Value;
use apimachinery::decode::{self, Format};
use apimachinery::default::{apply_defaults, normalise};
use apimachinery::managedfields::{NoOtherVersions, ResetFields, Write, on_apply, on_update};
use apimachinery::meta::metadata_mut;
use apimachinery::patch::{PatchType, apply_patch};
use jiff::Timestamp;

/// A pod with lists of maps, of scalars and of neither, as patches treat each differently.
fn pod() -> &'static Value {
    static POD: OnceLock<Value> = OnceLock::new();
    POD.get_or_init(|| {
        apimachinery::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"},
            "finalizers": ["example.com/a", "example.com/b"]},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}, {"name": "d"}],
                     "tolerations": [{"key": "k"}], "volumes": [{"name": "v", "emptyDir": {}}]}})
    })
}

/// A patch; the first byte chooses its kind.
pub fn patch(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let kind = match kind % 3 {
        0 => PatchType::Json,
        1 => PatchType::Merge,
        _ => PatchType::StrategicMerge,
    };
    let (schema, root, _) = super::pod();
    let _ = apply_patch(kind, body, pod(), schema, root);
}

/// The body of a server-side apply, applied twice over a pod that others own fields of.
pub fn apply(data: &[u8]) {
    let Ok((mut applied, _)) = decode::untyped(data, Format::Yaml) else { return };
    let Some(object) = applied.as_object_mut() else { return };
    object.insert("apiVersion".into(), "v1".into());
    object.insert("kind".into(), "Pod".into());
    if let Some(metadata) = metadata_mut(&mut applied) {
        metadata.remove("managedFields");
    }
    let (schema, root, _) = super::pod();
    let reset_fields = ResetFields::default();
    let write = |manager| Write {
        schema,
        root,
        api_version: "v1",
        kind: "Pod",
        subresource: "",
        manager,
        now: Timestamp::UNIX_EPOCH,
        reset_fields: &reset_fields,
        versions: &NoOtherVersions,
    };
    let complete = |object: &mut Value| {
        apply_defaults(schema, root, object);
        normalise(schema, root, object);
    };
    let mut live = pod().clone();
    complete(&mut live);
    on_update(None, &mut live, &write("somebody"));
    for force in [false, true] {
        if let Ok(merged) = on_apply(Some(&live), &applied, force, &complete, &write("fuzzer")) {
            let again = on_apply(Some(&merged), &applied, force, &complete, &write("fuzzer"));
            assert_eq!(again.as_ref(), Ok(&merged), "what is applied twice is the same");
        }
    }
    if let Ok(created) = on_apply(None, &applied, false, &complete, &write("fuzzer")) {
        let mut updated = live;
        on_update(Some(&created), &mut updated, &write("somebody"));
    }
}
