//! Patches against a small schema made by hand.

use crate::json;

use super::*;
use crate::schema::{
    Field, ListTopology, ListType, MapType, Node, NodeKind, ObjectType, PatchStrategy, Scalar,
};

/// A type with every patch strategy: `containers` (merge by name, with `ports` merged by containerPort and `args`
/// replaced), `finalizers` (a set), `strategy` (retainKeys), `volumes` (merge, retainKeys), `selector` (replace),
/// `labels` (a map), `conditions` (replaced list), `raw`.
pub(super) fn schema() -> (Schema, NodeId) {
    let mut schema = Schema::new();
    let string = schema.push(Node::new("", NodeKind::Scalar(Scalar::String)));
    let int = schema.push(Node::new("", NodeKind::Scalar(Scalar::Int32)));
    let raw = schema.push(Node::new("io.k8s.apimachinery.pkg.runtime.RawExtension", NodeKind::Raw));
    let labels = schema.push(Node::new("", NodeKind::Map { value: string, map_type: MapType::Granular }));
    let object = |schema: &mut Schema, name: &str, fields: Vec<(&str, Field)>| {
        let fields = fields.into_iter().map(|(name, field)| (name.into(), field)).collect();
        let kind = NodeKind::Object(ObjectType { fields, ..ObjectType::default() });
        schema.push(Node::new(name, kind))
    };
    let list = |schema: &mut Schema, item| {
        schema.push(Node::new("", NodeKind::List(ListType { item, topology: ListTopology::Atomic })))
    };
    let merge = |node, key: &str| Field {
        patch_strategy: PatchStrategy::Merge,
        patch_merge_key: key.into(),
        ..Field::new(node)
    };
    let strings = list(&mut schema, string);
    let port = object(
        &mut schema,
        "p.Port",
        vec![("containerPort", Field::new(int)), ("protocol", Field::new(string))],
    );
    let ports = list(&mut schema, port);
    let container = object(
        &mut schema,
        "p.Container",
        vec![
            ("name", Field::new(string)),
            ("image", Field::new(string)),
            ("args", Field::new(strings)),
            ("ports", merge(ports, "containerPort")),
        ],
    );
    let containers = list(&mut schema, container);
    let rolling = object(&mut schema, "p.Rolling", vec![("maxSurge", Field::new(int))]);
    let strategy = object(
        &mut schema,
        "p.Strategy",
        vec![("type", Field::new(string)), ("rollingUpdate", Field::new(rolling))],
    );
    let volume = object(
        &mut schema,
        "p.Volume",
        vec![
            ("name", Field::new(string)),
            ("emptyDir", Field::new(labels)),
            ("hostPath", Field::new(labels)),
        ],
    );
    let volumes = list(&mut schema, volume);
    let root = object(
        &mut schema,
        "p.Thing",
        vec![
            ("containers", merge(containers, "name")),
            ("finalizers", merge(strings, "")),
            ("strategy", Field { patch_strategy: PatchStrategy::RetainKeys, ..Field::new(strategy) }),
            ("volumes", Field { patch_strategy: PatchStrategy::MergeRetainKeys, ..merge(volumes, "name") }),
            ("selector", Field { patch_strategy: PatchStrategy::Replace, ..Field::new(labels) }),
            ("labels", Field::new(labels)),
            ("conditions", Field::new(containers)),
            ("raw", Field::new(raw)),
            ("replicas", Field::new(int)),
        ],
    );
    (schema, root)
}

fn strategic(current: &Value, patch: &Value) -> Result<Value, Status> {
    let (schema, root) = schema();
    Patch::from_value(PatchType::StrategicMerge, patch.clone())?.apply(current, &schema, root)
}

#[test]
fn strategic_merges() {
    let cases = [
        // scalars, maps, nulls
        (json!({"replicas": 1}), json!({"replicas": 2}), json!({"replicas": 2})),
        (json!({"replicas": 1}), json!({"replicas": null, "labels": null}), json!({})),
        (
            json!({"labels": {"a": "1", "b": "2"}}),
            json!({"labels": {"a": null, "c": "3"}}),
            json!({"labels": {"b": "2", "c": "3"}}),
        ),
        (json!({}), json!({"labels": {"a": null, "c": "3"}}), json!({"labels": {"c": "3"}})),
        (
            json!({"labels": {"a": "1"}}),
            json!({"labels": {"$patch": "replace", "b": "2"}}),
            json!({"labels": {"b": "2"}}),
        ),
        (json!({"labels": {"a": "1"}}), json!({"labels": {"$patch": "delete"}}), json!({"labels": {}})),
        (json!({}), json!({"labels": {"$patch": "delete"}}), json!({})),
        (json!({"replicas": 1}), json!({"$patch": "replace", "labels": {}}), json!({"labels": {}})),
        (json!({"selector": {"a": "1"}}), json!({"selector": {"b": "2"}}), json!({"selector": {"b": "2"}})),
        // a list without strategy is replaced
        (
            json!({"conditions": [{"name": "a"}]}),
            json!({"conditions": [{"name": "b"}]}),
            json!({"conditions": [{"name": "b"}]}),
        ),
        // lists of objects merge by key; an item of the server stands before the first item of the patch that it
        // stood before already, else last
        (
            json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}]}),
            json!({"containers": [{"name": "d"}, {"name": "a", "image": "2", "args": ["y", "z"]}, {"name": "c"}]}),
            json!({"containers": [{"name": "d"}, {"name": "a", "image": "2", "args": ["y", "z"]}, {"name": "c"}, {"name": "b"}]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}, {"name": "b"}]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "UDP"}, {"containerPort": 443}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "UDP"}, {"containerPort": 443}]}]}),
        ),
        // lists of scalars merge as sets
        (
            json!({"finalizers": ["a", "b"]}),
            json!({"finalizers": ["c", "b"]}),
            json!({"finalizers": ["c", "a", "b"]}),
        ),
        (
            json!({"finalizers": ["a", "b", "c"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["a", "x"]}),
            json!({"finalizers": ["b", "c"]}),
        ),
        (
            json!({"finalizers": ["a", "b", "c"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["d"]}),
            json!({"finalizers": ["d", "b", "c"]}),
        ),
        (json!({}), json!({"$deleteFromPrimitiveList/finalizers": ["a"]}), json!({})),
        // $setElementOrder
        (
            json!({"finalizers": ["a", "b", "c"]}),
            json!({"$setElementOrder/finalizers": ["c", "d", "a"], "finalizers": ["d"]}),
            json!({"finalizers": ["b", "c", "d", "a"]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b", "image": "1"}]}),
            json!({
                "$setElementOrder/containers": [{"name": "n"}, {"name": "b"}],
                "containers": [{"name": "n", "image": "x"}, {"name": "b", "image": "2"}, {"name": "a", "$patch": "delete"}]
            }),
            json!({"containers": [{"name": "n", "image": "x"}, {"name": "b", "image": "2"}]}),
        ),
        (
            json!({}),
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a"}, {"name": "z", "$patch": "delete"}]}),
            json!({"containers": [{"name": "a"}]}),
        ),
        // what is added takes the place of what is deleted in the server's order
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "n"}], "containers": [{"name": "n"}, {"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}, {"name": "c"}, {"name": "n"}]}),
        ),
        (json!({"replicas": 1}), json!({"$setElementOrder/containers": []}), json!({"replicas": 1})),
        // $retainKeys
        (
            json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}),
            json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
            json!({"strategy": {"type": "Recreate"}}),
        ),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        ),
        // another type than before
        (json!({"raw": {"a": 1}}), json!({"raw": [1, {"b": null}]}), json!({"raw": [1, {}]})),
        (
            json!({"raw": {"a": 1}}),
            json!({"raw": {"a": 2, "b": {"c": 1}}}),
            json!({"raw": {"a": 2, "b": {"c": 1}}}),
        ),
    ];
    for (current, patch, wanted) in cases {
        let got = strategic(&current, &patch).unwrap_or_else(|e| panic!("{current} {patch}: {e}"));
        assert_eq!(got, wanted, "{current} {patch}");
    }
}

#[test]
fn strategic_errors() {
    let cases = [
        (
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": [{"image": "x"}]}),
            500,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": [{"name": "a", "$patch": "burn"}]}),
            500,
            "unknown patch type: burn in map: map[$patch:burn name:a]",
        ),
        (
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": [{"name": "a", "$patch": "merge"}]}),
            500,
            "merging lists cannot yet be specified in the patch",
        ),
        (
            json!({"labels": {"a": "1"}}),
            json!({"labels": {"$patch": "merge"}}),
            500,
            "unknown patch type: merge in map: map[$patch:merge]",
        ),
        (
            json!({"finalizers": ["a"]}),
            json!({"finalizers": [["b"]]}),
            500,
            "list element types are not identical: [[a] [[b]]]",
        ),
        (
            json!({"finalizers": [["a"]]}),
            json!({"finalizers": [["b"]]}),
            422,
            "the server rejected our request due to an error in our request",
        ),
        (
            json!({}),
            json!({"$deleteFromPrimitiveList": ["b"]}),
            400,
            "invalid patch format of primitive list",
        ),
        (json!({}), json!({"$setElementOrder": ["b"]}), 400, "invalid patch format of setElementOrder list"),
        (
            json!({}),
            json!({"$setElementOrder/containers": 5}),
            500,
            "expected a []interface {}, but received a int64",
        ),
        (
            json!({}),
            json!({"$retainKeys": ["replicas"], "labels": {}}),
            400,
            "invalid patch format of retainKeys",
        ),
        (json!({}), json!({"$retainKeys": 1}), 400, "invalid patch format of retainKeys"),
        (
            json!({"finalizers": ["a"]}),
            json!({"$setElementOrder/finalizers": ["b", "a"], "finalizers": ["a", "b"]}),
            500,
            "The order in patch list:\n[a b]\n doesn't match $setElementOrder list:\n[b a]\n",
        ),
        (
            json!({"raw": {"a": {"b": 1}}}),
            json!({"raw": {"a": {"b": 2}}}),
            500,
            "unable to find api field in struct RawExtension for the json field \"a\"",
        ),
    ];
    for (current, patch, code, message) in cases {
        let error = strategic(&current, &patch).expect_err(&patch.to_string());
        assert_eq!((error.code, error.message.as_str()), (code, message), "{patch}");
    }
}

#[test]
fn bodies() {
    let (schema, root) = schema();
    let many = format!("[{}]", vec![r#"{"op":"test","path":"/x"}"#; 10_001].join(","));
    let cases = [
        (
            PatchType::Json,
            r#"[{"op":"test","path":"/replicas","value":2}]"#,
            422,
            "the server rejected our request due to an error in our request",
        ),
        (
            PatchType::Json,
            "{}",
            400,
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch",
        ),
        (
            PatchType::Json,
            "[1]",
            400,
            "error decoding patch: json: cannot unmarshal number into Go value of type jsonpatch.Operation",
        ),
        (PatchType::Json, "[", 400, "error decoding patch: unexpected end of JSON input"),
        (
            PatchType::Json,
            many.as_str(),
            413,
            "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
        ),
        (
            PatchType::Merge,
            "[]",
            400,
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        (
            PatchType::StrategicMerge,
            "null",
            400,
            "error decoding patch: json: cannot unmarshal null into Go value of type map[string]interface {}",
        ),
    ];
    for (kind, body, code, message) in cases {
        let error = apply_patch(kind, body.as_bytes(), &json!({"replicas": 1}), &schema, root).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (code, message));
    }
    let patched =
        apply_patch(PatchType::Merge, br#"{"labels":{"a":"b"}}"#, &json!({"replicas": 1}), &schema, root)
            .unwrap();
    assert_eq!(patched, json!({"replicas": 1, "labels": {"a": "b"}}));
    let patch = Patch::parse(PatchType::Json, br#"[{"op":"add","path":"/a","valu":1}]"#).unwrap();
    assert_eq!(patch.unknown_fields(), [r#"json patch unknown field "[0].valu""#]);
    let status = patch.undecodable(&json!({"a": 1}), "why");
    assert_eq!(status.message, r#" "" is invalid: patch: Invalid value: "{\"a\":1}": why"#);
}

#[test]
fn media_types() {
    for kind in [PatchType::Json, PatchType::Merge, PatchType::StrategicMerge] {
        assert_eq!(PatchType::from_media_type(kind.media_type()), Some(kind));
    }
    assert_eq!(PatchType::from_media_type("application/apply-patch+yaml"), None);
}

#[test]
fn deep_patches_are_applied() {
    let (schema, root) = schema();
    let nested = |value: Value| (0..crate::json::MAX_DEPTH - 2).fold(value, |inner, _| json!({ "a": inner }));
    let (current, patch) = (json!({"raw": nested(json!(1))}), json!({"labels": nested(json!(2))}));
    for kind in [PatchType::Merge, PatchType::StrategicMerge] {
        let patched = apply_patch(kind, patch.to_string().as_bytes(), &current, &schema, root).unwrap();
        assert_eq!((&patched["raw"], &patched["labels"]), (&current["raw"], &patch["labels"]));
        let twice =
            apply_patch(kind, json!({"labels": {"a": null}}).to_string().as_bytes(), &patched, &schema, root);
        assert_eq!(twice.unwrap()["labels"], json!({}));
    }
    let too_deep = format!("{{\"labels\":{}}}", "[".repeat(crate::json::MAX_DEPTH));
    let error = apply_patch(PatchType::Merge, too_deep.as_bytes(), &current, &schema, root).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "error decoding patch: exceeded max depth"));
}
