//! A small schema in the shape of a Pod, for tests of the walkers.

use base64::Engine;
use proptest::prelude::*;

use crate::Value;
use crate::schema::{
    Field, ListTopology, ListType, MapType, Node, NodeId, NodeKind, ObjectType, ProtoForm, Scalar, Schema,
};

/// Adds a leaf.
pub(crate) fn scalar(schema: &mut Schema, scalar: Scalar) -> NodeId {
    schema.push(Node::new("", NodeKind::Scalar(scalar)))
}

/// Adds a list.
pub(crate) fn list(schema: &mut Schema, item: NodeId) -> NodeId {
    schema.push(Node::new("", NodeKind::List(ListType { item, topology: ListTopology::Atomic })))
}

/// Adds a map of strings to something.
pub(crate) fn map(schema: &mut Schema, value: NodeId) -> NodeId {
    schema.push(Node::new("", NodeKind::Map { value, map_type: MapType::Granular }))
}

/// Adds an object type.
pub(crate) fn object(schema: &mut Schema, name: &str, fields: Vec<(&str, Field)>) -> NodeId {
    let fields = fields.into_iter().map(|(name, field)| (name.into(), field)).collect();
    schema.push(Node::new(name, NodeKind::Object(ObjectType { fields, ..ObjectType::default() })))
}

fn plain(node: NodeId, proto: u32) -> Field {
    Field { proto, ..Field::new(node) }
}

/// A Pod with a field of every sort, protobuf numbers as upstream's where the field exists there.
pub(crate) fn pod_schema() -> (Schema, NodeId) {
    let mut schema = Schema::new();
    let s = &mut schema;
    let string = scalar(s, Scalar::String);
    let int32 = scalar(s, Scalar::Int32);
    let int64 = scalar(s, Scalar::Int64);
    let boolean = scalar(s, Scalar::Bool);
    let float = scalar(s, Scalar::Float);
    let bytes = scalar(s, Scalar::Bytes);
    let quantity = scalar(s, Scalar::Quantity);
    let int_or_string = scalar(s, Scalar::IntOrString);
    let time = scalar(s, Scalar::Time);
    let micro_time = scalar(s, Scalar::MicroTime);
    let duration = scalar(s, Scalar::Duration);
    let raw = s.push(Node::new("", NodeKind::Raw));
    let strings = list(s, string);
    let labels = map(s, string);
    let quantities = map(s, quantity);
    let blobs = map(s, bytes);
    let wrapped = s.push(Node {
        proto: ProtoForm::Wrapped,
        ..Node::new("", NodeKind::List(ListType { item: string, topology: ListTopology::Atomic }))
    });
    let extra = map(s, wrapped);
    let meta = object(
        s,
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        vec![
            ("name", plain(string, 1)),
            ("generation", plain(int64, 7)),
            ("creationTimestamp", plain(time, 8)),
            ("deletionGracePeriodSeconds", Field { pointer: true, ..plain(int64, 10) }),
            ("labels", plain(labels, 11)),
            ("finalizers", plain(strings, 14)),
        ],
    );
    let resources =
        object(s, "io.k8s.api.core.v1.ResourceRequirements", vec![("limits", plain(quantities, 1))]);
    let port = object(
        s,
        "io.k8s.api.core.v1.ContainerPort",
        vec![
            ("containerPort", Field { required: true, always: true, ..plain(int32, 3) }),
            ("protocol", Field { default: Some(Box::new("TCP".into())), ..plain(string, 4) }),
        ],
    );
    let ports = list(s, port);
    let http_get = object(
        s,
        "io.k8s.api.core.v1.HTTPGetAction",
        vec![
            ("path", plain(string, 1)),
            ("port", Field { required: true, always: true, ..plain(int_or_string, 2) }),
        ],
    );
    let probe = object(
        s,
        "io.k8s.api.core.v1.Probe",
        vec![
            ("httpGet", Field { pointer: true, proto_inline: [1, 0], ..plain(http_get, 2) }),
            ("periodSeconds", plain(int32, 4)),
        ],
    );
    let container = object(
        s,
        "io.k8s.api.core.v1.Container",
        vec![
            ("name", Field { required: true, always: true, ..plain(string, 1) }),
            ("ports", plain(ports, 6)),
            ("resources", Field { always: true, ..plain(resources, 8) }),
            ("livenessProbe", Field { pointer: true, ..plain(probe, 10) }),
            ("stdin", plain(boolean, 16)),
        ],
    );
    let containers = list(s, container);
    let spec = object(
        s,
        "io.k8s.api.core.v1.PodSpec",
        vec![
            ("containers", Field { required: true, always: true, ..plain(containers, 2) }),
            ("terminationGracePeriodSeconds", Field { pointer: true, ..plain(int64, 4) }),
            ("nodeName", plain(string, 10)),
            ("hostNetwork", plain(boolean, 11)),
            ("blobs", plain(blobs, 101)),
            ("extra", plain(extra, 102)),
            ("weight", plain(float, 103)),
            ("timeout", plain(duration, 104)),
            ("renewTime", Field { pointer: true, ..plain(micro_time, 105) }),
            ("raw", plain(raw, 106)),
        ],
    );
    let root = object(
        s,
        "io.k8s.api.core.v1.Pod",
        vec![
            ("apiVersion", plain(string, 0)),
            ("kind", plain(string, 0)),
            ("metadata", Field { always: true, ..plain(meta, 1) }),
            ("spec", Field { always: true, ..plain(spec, 2) }),
        ],
    );
    (schema, root)
}

/// Any object that fits a type, in the form Go prints. Not for types that contain themselves.
pub(crate) fn any_object(schema: &Schema, root: NodeId) -> BoxedStrategy<Value> {
    // derived tables are made anew in the copy
    let mut copy = Schema::new();
    for (_, node) in schema.iter() {
        copy.push(node.clone());
    }
    any_value(schema, root)
        .prop_map(move |mut value| {
            crate::default::normalise(&copy, root, &mut value);
            value
        })
        .boxed()
}

fn any_value(schema: &Schema, id: NodeId) -> BoxedStrategy<Value> {
    let text = || proptest::string::string_regex("[a-zé\"\\\\ ]{0,6}").expect("a valid expression");
    match &schema.node(id).kind {
        NodeKind::Raw => prop_oneof![
            any::<bool>().prop_map(Value::from),
            text().prop_map(Value::from),
            Just(crate::json!({"a": [1, null, {"b": "c"}]})),
        ]
        .boxed(),
        NodeKind::Object(object) => {
            let fields: Vec<BoxedStrategy<Option<(String, Value)>>> = object
                .fields
                .iter()
                .filter(|(_, field)| field.proto != 0)
                .map(|(name, field)| {
                    let name = name.to_string();
                    let value = any_value(schema, field.node).prop_map(move |v| (name.clone(), v));
                    if field.always {
                        value.prop_map(Some).boxed()
                    } else {
                        proptest::option::of(value).boxed()
                    }
                })
                .collect();
            fields.prop_map(|fields| Value::Object(fields.into_iter().flatten().collect())).boxed()
        }
        NodeKind::Map { value, .. } => {
            proptest::collection::btree_map(text(), any_value(schema, *value), 1..3)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
                .boxed()
        }
        NodeKind::List(list) => {
            proptest::collection::vec(any_value(schema, list.item), 1..3).prop_map(Value::from).boxed()
        }
        NodeKind::Scalar(scalar) => match scalar {
            Scalar::Bool => any::<bool>().prop_map(Value::from).boxed(),
            Scalar::Int32 => any::<i32>().prop_map(Value::from).boxed(),
            Scalar::Int64 => any::<i64>().prop_map(Value::from).boxed(),
            Scalar::Float => (-1e6..1e6_f64).prop_map(Value::from).boxed(),
            Scalar::String => text().prop_map(Value::from).boxed(),
            Scalar::Bytes => proptest::collection::vec(any::<u8>(), 0..5)
                .prop_map(|bytes| Value::from(crate::coerce::BASE64.encode(bytes)))
                .boxed(),
            Scalar::Quantity => (any::<i32>(), prop_oneof![Just("m"), Just(""), Just("Mi"), Just("e3")])
                .prop_map(|(n, suffix)| Value::from(format!("{n}{suffix}")))
                .boxed(),
            Scalar::IntOrString => {
                prop_oneof![any::<i32>().prop_map(Value::from), text().prop_map(Value::from)].boxed()
            }
            Scalar::Time => (0..4_000_000_000_i64)
                .prop_map(|seconds| crate::gotime::Instant { seconds, nanos: 0 }.to_time().into())
                .boxed(),
            Scalar::MicroTime => (0..4_000_000_000_i64, 0..999_999_i32)
                .prop_map(|(seconds, micros)| {
                    crate::gotime::Instant { seconds, nanos: micros * 1000 }.to_micro_time().into()
                })
                .boxed(),
            Scalar::Duration => any::<i64>().prop_map(|n| crate::gotime::format_duration(n).into()).boxed(),
        },
    }
}

/// Any tree whose keys are names of fields, so that some of it fits a type and some does not.
pub(crate) fn any_tree(names: &'static [&'static str]) -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e3..1e3_f64).prop_map(Value::from),
        "[a-z0-9Mim.]{0,5}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(proptest::sample::select(names), inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
    .boxed()
}
