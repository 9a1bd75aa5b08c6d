//! Makes a tree fit a type as Go's decoder would: checks types, drops unknown fields and nulls, and brings quantities,
//! times and durations into their canonical text. One pass, in place; nothing is allocated for an object that fits.

use std::borrow::Cow;
use std::fmt;

use crate::Number;
use base64::Engine;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

use crate::schema::{NodeId, NodeKind, ObjectType, ProtoForm, Scalar, Schema};
use crate::status::Status;
use crate::strict::MAX_STRICT_ERRORS;
use crate::{Map, Value, gotime, json, quantity};

/// What to do about unknown and repeated fields: the `fieldValidation` parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

impl FieldValidation {
    /// The value of the query parameter; the empty one is the default, `None` is not a value upstream takes.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A value that does not fit its type. Prints as the error of Go's JSON decoder does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeError(Box<Misfit>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Misfit {
    problem: Problem,
    /// Go name of the innermost struct on the way to the value.
    structure: String,
    /// Field names on the way, innermost first; indices and map keys are not shown.
    path: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    /// What was found, the Go type wanted.
    Mismatch(String, String),
    /// A type that reads its own text refused it.
    Text(String),
}

impl TypeError {
    fn mismatch(found: impl Into<String>, wanted: impl Into<String>) -> Self {
        Self::of(Problem::Mismatch(found.into(), wanted.into()))
    }

    fn text(text: impl fmt::Display) -> Self {
        Self::of(Problem::Text(text.to_string()))
    }

    fn of(problem: Problem) -> Self {
        Self(Box::new(Misfit { problem, structure: String::new(), path: Vec::new() }))
    }

    fn inside(&mut self, structure: &str, field: &str) {
        if self.0.path.is_empty() {
            structure.rsplit('.').next().unwrap_or_default().clone_into(&mut self.0.structure);
        }
        self.0.path.push(field.to_owned());
    }
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.problem {
            Problem::Text(text) => f.write_str(text),
            Problem::Mismatch(found, wanted) if self.0.path.is_empty() => {
                write!(f, "json: cannot unmarshal {found} into Go value of type {wanted}")
            }
            Problem::Mismatch(found, wanted) => {
                let path: Vec<&str> = self.0.path.iter().rev().map(String::as_str).collect();
                write!(
                    f,
                    "json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}",
                    self.0.structure,
                    path.join(".")
                )
            }
        }
    }
}

impl std::error::Error for TypeError {}

/// Standard base64 as Go reads it, for checking and re-encoding.
pub(crate) const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new());

/// Makes `value` fit the type `root`, and says which fields were unknown.
///
/// The result is the texts for `Warning` headers; with [`FieldValidation::Strict`] unknown fields are a 400 instead.
/// For request bodies use [`crate::decode::object`], which knows their kind and the order of their fields.
pub fn coerce(
    schema: &Schema,
    root: NodeId,
    value: &mut Value,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    let unknown = fit(schema, root, value, validation != FieldValidation::Ignore)
        .map_err(|e| Status::bad_request(e.to_string()))?;
    let texts: Vec<String> =
        unknown.iter().map(|path| format!("unknown field {}", json::go_quote(path))).collect();
    if validation == FieldValidation::Strict && !texts.is_empty() {
        return Err(Status::bad_request(format!("strict decoding error: {}", texts.join(", "))));
    }
    Ok(texts)
}

/// [`coerce`] without words: the paths of unknown fields (with `collect`, sorted by path), or the type error as a value.
pub fn fit(
    schema: &Schema,
    root: NodeId,
    value: &mut Value,
    collect: bool,
) -> Result<Vec<String>, TypeError> {
    fit_changed(schema, root, value, collect, None)
}

/// [`fit`] of what has become of a value that fits already: what the two share is passed by.
pub fn fit_changed(
    schema: &Schema,
    root: NodeId,
    value: &mut Value,
    collect: bool,
    settled: Option<&Value>,
) -> Result<Vec<String>, TypeError> {
    let mut walk = Walk { schema, collect, unknown: Vec::new() };
    walk.value(root, value, settled)?;
    Ok(walk.unknown)
}

/// The Go type of a node, as reflection prints it.
fn go_type(schema: &Schema, id: NodeId) -> String {
    let node = schema.node(id);
    match &node.kind {
        NodeKind::Object(_) | NodeKind::Raw if !node.name.is_empty() => {
            let start = node.name.rmatch_indices('.').nth(1).map_or(0, |(i, _)| i + 1);
            node.name[start..].to_owned()
        }
        NodeKind::Object(_) => "map[string]interface {}".into(),
        NodeKind::Raw => "runtime.RawExtension".into(),
        NodeKind::Map { value, .. } => format!("map[string]{}", go_type(schema, *value)),
        NodeKind::List(list) => format!("[]{}", go_type(schema, list.item)),
        NodeKind::Scalar(scalar) => match scalar {
            Scalar::Bool => "bool",
            Scalar::Int32 | Scalar::IntOrString => "int32",
            Scalar::Int64 => "int64",
            Scalar::Float => "float64",
            Scalar::Bytes => "[]uint8",
            Scalar::String | Scalar::Time | Scalar::MicroTime | Scalar::Duration => "string",
            Scalar::Quantity => "resource.Quantity",
        }
        .into(),
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(_) => "array".into(),
        Value::Object(_) => "object".into(),
    }
}

struct Walk<'s> {
    schema: &'s Schema,
    collect: bool,
    unknown: Vec<String>,
}

impl Walk<'_> {
    fn value(&mut self, id: NodeId, value: &mut Value, settled: Option<&Value>) -> Result<(), TypeError> {
        if settled.is_some_and(|settled| settled.shares(value)) {
            return Ok(());
        }
        let node = self.schema.node(id);
        match &node.kind {
            NodeKind::Raw => match node.proto {
                ProtoForm::Union { object, other } => self.union(object.1, other.1, value),
                ProtoForm::Plain | ProtoForm::Wrapped => Ok(()),
            },
            NodeKind::Scalar(kind) => scalar(*kind, value),
            NodeKind::Object(object) => match value {
                Value::Object(map) => self.object(id, object, map, settled),
                other => Err(TypeError::mismatch(found(other), go_type(self.schema, id))),
            },
            NodeKind::Map { value: item, .. } => match value {
                Value::Object(map) => self.entries(*item, map, settled),
                other => Err(TypeError::mismatch(found(other), go_type(self.schema, id))),
            },
            NodeKind::List(list) => match value {
                Value::Array(items) => self.items(list.item, items, settled),
                other => Err(TypeError::mismatch(found(other), go_type(self.schema, id))),
            },
        }
    }

    /// One of two types by the JSON's shape. They read their own JSON in Go, which drops unknown fields silently.
    fn union(&mut self, object: NodeId, other: NodeId, value: &mut Value) -> Result<(), TypeError> {
        let collect = std::mem::replace(&mut self.collect, false);
        let fits = self.value(if value.is_object() { object } else { other }, value, None);
        self.collect = collect;
        fits
    }

    fn object(
        &mut self,
        id: NodeId,
        object: &ObjectType,
        map: &mut Map,
        settled: Option<&Value>,
    ) -> Result<(), TypeError> {
        let mut failed = None;
        map.retain(|key, value| {
            if failed.is_some() {
                return true;
            }
            let Some(field) = object.fields.get(key.as_str()) else {
                if !object.preserve_unknown && self.collect && self.unknown.len() < MAX_STRICT_ERRORS {
                    self.unknown.push(key.to_string());
                }
                return object.preserve_unknown;
            };
            if !value.is_null() {
                let before = self.unknown.len();
                if let Err(mut error) = self.value(field.node, value, settled.and_then(|s| s.get(key))) {
                    error.inside(&self.schema.node(id).name, key);
                    failed = Some(error);
                }
                self.prefix(before, key);
            }
            field.nullable || !value.is_null()
        });
        failed.map_or(Ok(()), Err)
    }

    fn entries(&mut self, item: NodeId, map: &mut Map, settled: Option<&Value>) -> Result<(), TypeError> {
        for (key, value) in map.iter_mut() {
            let before = self.unknown.len();
            self.element(item, value, settled.and_then(|s| s.get(key)))?;
            self.prefix(before, key);
        }
        Ok(())
    }

    fn items(&mut self, item: NodeId, items: &mut [Value], settled: Option<&Value>) -> Result<(), TypeError> {
        for (index, value) in items.iter_mut().enumerate() {
            let before = self.unknown.len();
            self.element(item, value, settled.and_then(|s| s.get(index)))?;
            if self.unknown.len() > before {
                self.prefix(before, &format!("[{index}]"));
            }
        }
        Ok(())
    }

    /// An element of a list or map: null is the zero value of its type.
    fn element(&mut self, id: NodeId, value: &mut Value, settled: Option<&Value>) -> Result<(), TypeError> {
        if value.is_null() {
            *value = zero(&self.schema.node(id).kind);
            return Ok(());
        }
        self.value(id, value, settled)
    }

    /// Puts a step before the paths found below it.
    fn prefix(&mut self, from: usize, step: &str) {
        for path in &mut self.unknown[from..] {
            let separator = if path.starts_with('[') { "" } else { "." };
            *path = format!("{step}{separator}{path}");
        }
    }
}

/// What Go's zero value of a type prints as, without the fields of structs.
pub(crate) fn zero(kind: &NodeKind) -> Value {
    match kind {
        NodeKind::Object(_) => Value::Object(Map::new()),
        NodeKind::Map { .. } | NodeKind::List(_) | NodeKind::Raw => Value::Null,
        NodeKind::Scalar(scalar) => match scalar {
            Scalar::Bool => Value::Bool(false),
            Scalar::Int32 | Scalar::Int64 | Scalar::Float | Scalar::IntOrString => Value::from(0),
            Scalar::String => Value::String(String::new()),
            Scalar::Bytes | Scalar::Time | Scalar::MicroTime => Value::Null,
            Scalar::Quantity => Value::from("0"),
            Scalar::Duration => Value::from("0s"),
        },
    }
}

fn int32(number: &Number) -> Result<(), TypeError> {
    match number.as_i64() {
        Some(n) if i32::try_from(n).is_ok() => Ok(()),
        _ => Err(TypeError::mismatch(format!("number {number}"), "int32")),
    }
}

/// Checks a leaf and makes its text canonical.
pub(crate) fn scalar(kind: Scalar, value: &mut Value) -> Result<(), TypeError> {
    let wanted = match (kind, &mut *value) {
        (Scalar::String, Value::String(_))
        | (Scalar::Bool, Value::Bool(_))
        | (Scalar::Float, Value::Number(_)) => {
            return Ok(());
        }
        (Scalar::Int32 | Scalar::IntOrString, Value::Number(number)) => return int32(number),
        (Scalar::IntOrString, Value::String(_)) => return Ok(()),
        (Scalar::Int64, Value::Number(number)) => {
            return match number.as_i64() {
                Some(_) => Ok(()),
                None => Err(TypeError::mismatch(format!("number {number}"), "int64")),
            };
        }
        (Scalar::Quantity, Value::String(text)) => {
            let canonical = quantity::canonicalize(text).map_err(TypeError::text)?;
            if canonical.as_ref() != text.as_str() {
                *value = Value::String(canonical.into_owned());
            }
            return Ok(());
        }
        (Scalar::Quantity, Value::Number(number)) => {
            let text = number.to_string();
            *value = quantity::canonicalize(&text).map_err(TypeError::text)?.into_owned().into();
            return Ok(());
        }
        (Scalar::Quantity, _) => return Err(TypeError::text(quantity::QuantityError::Format)),
        (Scalar::Time, Value::String(text)) => return time(gotime::canonical_time, &text.clone(), value),
        (Scalar::MicroTime, Value::String(text)) => {
            return time(gotime::canonical_micro_time, &text.clone(), value);
        }
        (Scalar::Duration, Value::String(text)) => {
            let nanos = gotime::parse_duration(text).map_err(TypeError::text)?;
            *value = gotime::format_duration(nanos).into();
            return Ok(());
        }
        (Scalar::Bytes, Value::String(text)) => return bytes(text),
        (Scalar::Bool, _) => "bool",
        (Scalar::Int32 | Scalar::IntOrString, _) => "int32",
        (Scalar::Int64, _) => "int64",
        (Scalar::Float, _) => "float64",
        (Scalar::Bytes, _) => "[]uint8",
        (Scalar::String | Scalar::Time | Scalar::MicroTime | Scalar::Duration, _) => "string",
    };
    Err(TypeError::mismatch(found(value), wanted))
}

type Canonical = for<'a> fn(&'a str) -> Result<Option<Cow<'a, str>>, gotime::TimeError>;

fn time(canonical: Canonical, text: &str, value: &mut Value) -> Result<(), TypeError> {
    match canonical(text).map_err(TypeError::text)? {
        None => *value = Value::Null,
        Some(Cow::Borrowed(_)) => {}
        Some(Cow::Owned(canonical)) => *value = canonical.into(),
    }
    Ok(())
}

fn bytes(text: &mut String) -> Result<(), TypeError> {
    if text.contains(['\r', '\n']) {
        // Go reads base64 over several lines and prints it on one
        text.retain(|c| c != '\r' && c != '\n');
    }
    BASE64.decode(text.as_bytes()).map(|_| ()).map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len() / 4 * 4,
        };
        TypeError::text(format!("illegal base64 data at input byte {at}"))
    })
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;
    use crate::testing::{any_tree, pod_schema};

    #[test]
    fn what_fits_is_kept_and_made_canonical() {
        let (schema, root) = pod_schema();
        let mut value = json!({
            "kind": "Pod", "junk": 1,
            "metadata": {"name": "a", "labels": {"a": "b", "n": null}, "creationTimestamp": null, "generation": 3},
            "spec": {
                "timeout": "90m", "renewTime": "2026-01-02T03:04:05.000001+01:00", "raw": {"any": [1, null]},
                "blobs": {"a": "aGk=", "b": null}, "weight": 1.5, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "a", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}},
                    "livenessProbe": {"httpGet": {"port": "http", "zz": 1}}, "aa": {}}, null],
            },
        });
        let unknown = fit(&schema, root, &mut value, true).unwrap();
        assert_eq!(unknown, ["junk", "spec.containers[0].aa", "spec.containers[0].livenessProbe.httpGet.zz"]);
        assert_eq!(
            value,
            json!({
                "kind": "Pod",
                "metadata": {"name": "a", "labels": {"a": "b", "n": ""}, "generation": 3},
                "spec": {
                    "timeout": "1h30m0s", "renewTime": "2026-01-02T02:04:05.000001Z", "raw": {"any": [1, null]},
                    "blobs": {"a": "aGk=", "b": null}, "weight": 1.5, "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                        "livenessProbe": {"httpGet": {"port": "http"}}}, {}],
                },
            })
        );
        assert_eq!(fit(&schema, root, &mut value.clone(), true).unwrap(), [""; 0]);
    }

    #[test]
    fn unions_are_told_apart_by_shape() {
        use crate::schema::{Field, Node};
        use crate::testing::{list, object, scalar as leaf};
        let mut schema = Schema::new();
        let string = leaf(&mut schema, Scalar::String);
        let inner = object(&mut schema, "Inner", vec![("a", Field::new(string))]);
        let inners = list(&mut schema, inner);
        let proto = ProtoForm::Union { object: (1, inner), other: (2, inners) };
        let union = schema.push(Node { proto, ..Node::new("InnerOrArray", NodeKind::Raw) });
        let root = object(&mut schema, "Outer", vec![("u", Field::new(union))]);
        for (given, kept) in [
            (json!({"u": {"a": "x", "b": 1}}), json!({"u": {"a": "x"}})),
            (json!({"u": [{"a": "x", "b": 1}]}), json!({"u": [{"a": "x"}]})),
        ] {
            let mut value = given;
            assert_eq!(fit(&schema, root, &mut value, true).unwrap(), [""; 0]);
            assert_eq!(value, kept);
        }
        assert!(fit(&schema, root, &mut json!({"u": {"a": 1}}), true).is_err());
        let mut value = json!({"u": [{"a": ""}]});
        crate::default::normalise(&schema, root, &mut value);
        assert_eq!(value, json!({"u": [{}]}));
    }

    #[test]
    fn type_errors_are_gos() {
        let (schema, root) = pod_schema();
        let field = "json: cannot unmarshal";
        for (value, message) in [
            (json!([]), format!("{field} array into Go value of type v1.Pod")),
            (
                json!({"spec": {"containers": [{"ports": "x"}]}}),
                format!(
                    "{field} string into Go struct field Container.spec.containers.ports of type []v1.ContainerPort"
                ),
            ),
            (
                json!({"spec": {"containers": [{"ports": [{"containerPort": 3_000_000_000_u32}]}]}}),
                format!(
                    "{field} number 3000000000 into Go struct field \
                     ContainerPort.spec.containers.ports.containerPort of type int32"
                ),
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                format!("{field} number into Go struct field ObjectMeta.metadata.labels of type string"),
            ),
            (
                json!({"metadata": {"generation": 1.5}}),
                format!(
                    "{field} number 1.5 into Go struct field ObjectMeta.metadata.generation of type int64"
                ),
            ),
            (
                json!({"metadata": {"labels": []}}),
                format!(
                    "{field} array into Go struct field ObjectMeta.metadata.labels of type map[string]string"
                ),
            ),
            (
                json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1x"}}}]}}),
                "quantities must match the regular expression \
                 '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                    .into(),
            ),
            (json!({"spec": {"blobs": {"a": "%%%%"}}}), "illegal base64 data at input byte 0".into()),
        ] {
            assert_eq!(fit(&schema, root, &mut value.clone(), true).unwrap_err().to_string(), message);
        }
    }
    const NAMES: &[&str] = &[
        "metadata",
        "spec",
        "name",
        "labels",
        "finalizers",
        "containers",
        "resources",
        "limits",
        "ports",
        "protocol",
        "livenessProbe",
        "httpGet",
        "port",
        "blobs",
        "weight",
        "raw",
        "timeout",
        "generation",
        "unknown",
    ];

    proptest::proptest! {
        #[test]
        fn what_fits_is_a_fixed_point_of_every_pass(mut value in any_tree(NAMES)) {
            let (schema, root) = pod_schema();
            if fit(&schema, root, &mut value, true).is_ok() {
                let mut again = value.clone();
                proptest::prop_assert_eq!(fit(&schema, root, &mut again, true).unwrap(), [""; 0]);
                proptest::prop_assert_eq!(&again, &value);
                crate::default::normalise(&schema, root, &mut value);
                let mut again = value.clone();
                crate::default::normalise(&schema, root, &mut again);
                proptest::prop_assert_eq!(&again, &value);
                crate::protobuf::encode(&schema, root, &value).unwrap();
            }
        }
    }
}
