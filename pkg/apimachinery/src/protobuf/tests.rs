use crate::json;
use proptest::prelude::*;

use super::*;
use crate::testing::{any_object, pod_schema};
use crate::{coerce, yaml};

fn full_pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "generation": 9_007_199_254_740_993_i64, "creationTimestamp": "2026-01-02T03:04:05Z",
            "deletionGracePeriodSeconds": 0, "labels": {"a": "b", "c": ""}, "finalizers": ["x", "y"]},
        "spec": {
            "containers": [
                {"name": "a", "ports": [{"containerPort": -1, "protocol": "UDP"}, {"containerPort": 80}],
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}, "stdin": true,
                    "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 3}},
                {"name": "b", "resources": {}, "livenessProbe": {"httpGet": {"port": 80}}},
                {"name": "", "resources": {}, "livenessProbe": {}},
            ],
            "terminationGracePeriodSeconds": -30, "nodeName": "n", "hostNetwork": true, "blobs": {"k": "AQID", "e": ""},
            "extra": {"scopes": ["a", "b"], "none": []}, "weight": 1.5, "timeout": "1m30s",
            "renewTime": "2026-01-02T03:04:05.000006Z", "raw": {"x": [1, {"y": null}]},
        },
    })
}

#[test]
fn every_sort_of_field_survives() {
    let (schema, root) = pod_schema();
    let pod = full_pod();
    let bytes = encode_object(&schema, root, &pod).unwrap();
    assert!(bytes.starts_with(MAGIC));
    assert_eq!(decode_object(&schema, root, &bytes).unwrap(), pod);
}

#[test]
fn bytes_are_those_of_the_wire_format() {
    let (schema, root) = pod_schema();
    let value = json!({"metadata": {"name": "ab"}, "spec": {"containers": [{"livenessProbe": {"httpGet": {"port": 8}}}]}});
    let expected: &[u8] = &[
        0x0a, 4, 0x0a, 2, b'a', b'b', // metadata.name
        0x12, 16, 0x12, 14, // spec, containers
        0x52, 12, 0x0a, 10, 0x12, 8, 0x12,
        6, // livenessProbe, the handler flattened in JSON, httpGet, port
        0x08, 0, 0x10, 8, 0x1a, 0,
    ];
    assert_eq!(encode(&schema, root, &value).unwrap(), expected);
    assert_eq!(wrap("v1", "Pod", b"xyz"), b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x03xyz".as_slice());
    assert_eq!(watch_event("ADDED", b"xy"), b"\0\0\0\x0d\x0a\x05ADDED\x12\x04\x0a\x02xy".as_slice());
}

#[test]
fn zeros_that_go_writes_are_dropped() {
    let (schema, root) = pod_schema();
    // metadata {name "", generation 0, creationTimestamp {}, grace 0}, spec {nodeName "", hostNetwork false}
    let raw = [0x0a, 8, 0x0a, 0, 0x38, 0, 0x42, 0, 0x50, 0, 0x12, 4, 0x52, 0, 0x58, 0];
    assert_eq!(
        decode(&schema, root, &raw).unwrap(),
        json!({"metadata": {"deletionGracePeriodSeconds": 0}, "spec": {}})
    );
}

#[test]
fn broken_bytes_are_errors() {
    let (schema, root) = pod_schema();
    for (raw, message) in [
        (&[0x0a][..], "unexpected EOF"),
        (&[0x0a, 5, 1], "unexpected EOF"),
        (&[0x08, 1], "proto: wrong wireType = 0 for field metadata"),
        (&[0x02, 0], "proto: illegal tag 2"),
        (&[0x0b], "unexpected EOF"),
        (&[0x80; 11], "proto: integer overflow"),
        (&[0xff, 0xff, 0xff, 0xff, 0x7f, 0], "proto: illegal tag"),
    ] {
        let error = decode(&schema, root, raw).map_or_else(|e| e.to_string(), |v| v.to_string());
        // a group start in a known field is a wrong wire type rather than an end
        let wanted = if raw == [0x0b] { "proto: wrong wireType = 3 for field metadata" } else { message };
        assert!(error.starts_with(wanted), "{raw:?}: {error}");
    }
    assert_eq!(unwrap(b"").unwrap_err(), ProtoError::Empty);
    assert_eq!(unwrap(b"k8s\0").unwrap_err(), ProtoError::EmptyBody);
    assert_eq!(unwrap(b"{}").unwrap_err(), ProtoError::NotEnveloped);
}

#[test]
fn lists_can_be_put_together_from_items() {
    let (mut schema, root) = pod_schema();
    let meta = schema.field(root, "metadata").unwrap().node;
    let items = crate::testing::list(&mut schema, root);
    let field = |node, proto| crate::schema::Field { proto, ..crate::schema::Field::new(node) };
    let list = crate::testing::object(
        &mut schema,
        "PodList",
        vec![("metadata", field(meta, 1)), ("items", field(items, 2))],
    );
    let pods = [full_pod(), json!({"metadata": {"name": "b"}})];
    let metadata = json!({"name": "m"});
    let whole = json!({"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": pods});
    let mut body = Vec::new();
    for pod in &pods {
        let item = encode(&schema, root, pod).unwrap();
        body.extend(list_item_prefix(item.len()));
        body.extend(item);
    }
    let mut out = list_prefix(&schema, list, "v1", "PodList", &metadata, body.len()).unwrap();
    out.extend(body);
    assert_eq!(out, encode_object(&schema, list, &whole).unwrap());
}

#[test]
fn a_map_entry_without_value_has_the_empty_one() {
    let (schema, root) = pod_schema();
    let spec = schema.field(root, "spec").unwrap();
    for (name, empty) in [("extra", json!([])), ("blobs", json!(""))] {
        let number = schema.field(spec.node, name).unwrap().proto;
        let (outer, inner) = ((spec.proto << 3 | 2) as u8, number << 3 | 2);
        let inner =
            if inner < 0x80 { vec![inner as u8] } else { vec![inner as u8 | 0x80, (inner >> 7) as u8] };
        let entry = [&inner[..], &[3, 0x0a, 1, b'k']].concat();
        let raw = [&[outer, entry.len() as u8], &entry[..]].concat();
        assert_eq!(decode(&schema, root, &raw).unwrap(), json!({"spec": {name: {"k": empty}}}), "{name}");
    }
}

fn any_pod() -> impl Strategy<Value = Value> {
    let (schema, root) = pod_schema();
    any_object(&schema, root).prop_map(|mut pod| {
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod
    })
}

proptest! {
    #[test]
    fn any_object_survives_every_form(pod in any_pod()) {
        let (schema, root) = pod_schema();
        let bytes = encode_object(&schema, root, &pod).unwrap();
        prop_assert_eq!(&decode_object(&schema, root, &bytes).unwrap(), &pod);
        let text = pod.to_string();
        prop_assert_eq!(&json::parse_str(&text).unwrap().value, &pod);
        prop_assert_eq!(&yaml::parse(yaml::to_string(&pod).as_bytes()).unwrap(), &pod);
        // what is in canonical form is a fixed point of every pass
        let mut again = pod.clone();
        prop_assert!(coerce::fit(&schema, root, &mut again, true).unwrap().is_empty());
        default::normalise(&schema, root, &mut again);
        prop_assert_eq!(again, pod);
    }

    #[test]
    fn any_bytes_give_an_answer(raw in proptest::collection::vec(any::<u8>(), 0..120)) {
        let (schema, root) = pod_schema();
        let _ = decode(&schema, root, &raw);
        let _ = decode_object(&schema, root, &[MAGIC.as_slice(), &raw].concat());
    }

    #[test]
    fn broken_objects_give_an_answer(at in 0_usize..400, byte in any::<u8>(), cut in 0_usize..400) {
        let (schema, root) = pod_schema();
        let mut bytes = encode_object(&schema, root, &full_pod()).unwrap();
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - cut % 3);
        if let Ok(value) = decode_object(&schema, root, &bytes) {
            // what was read can be written and says the same again
            let again = encode_object(&schema, root, &value).unwrap();
            prop_assert_eq!(decode_object(&schema, root, &again).unwrap(), value);
        }
    }
}
