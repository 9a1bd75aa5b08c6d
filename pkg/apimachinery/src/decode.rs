//! From the bytes of a request to a tree of the expected kind, or the 400 that upstream's handlers answer.
//!
//! Source of rules and texts: `k8s.io/apimachinery/pkg/runtime/serializer/{json,protobuf}` and
//! `k8s.io/apiserver/pkg/endpoints/handlers` (`transformDecodeError`).

use std::borrow::Cow;

use crate::coerce::{self, FieldValidation};
use crate::meta::{GroupVersion, GroupVersionKind};
use crate::schema::{NodeId, Schema};
use crate::status::Status;
use crate::{Value, json, protobuf, strict, yaml};

/// Where upstream's messages say that a kind is unknown.
const SCHEME: &str = "pkg/api/legacyscheme/scheme.go:30";
/// Bytes of a body shown in the message about a body that is no object at all.
const SUMMARY_BYTES: usize = 30;

/// How a body is encoded: its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// What the handler expects to read.
#[derive(Clone, Copy)]
pub struct Expected<'a> {
    /// The kind; a body without `kind` or `apiVersion` is taken to be of it.
    pub gvk: &'a GroupVersionKind,
    /// The arena of `root`.
    pub schema: &'a Schema,
    /// The type of the object.
    pub root: NodeId,
    /// Whether the server knows a kind: a body of another known kind is answered differently.
    pub is_registered: &'a dyn Fn(&GroupVersionKind) -> bool,
}

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object: it fits the schema, and its `apiVersion` and `kind` are the expected ones.
    pub value: Value,
    /// Texts for `Warning` headers, one each.
    pub warnings: Vec<String>,
}

/// Decodes the body of a create, update or apply.
pub fn object(
    body: &[u8],
    format: Format,
    expected: &Expected<'_>,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    match format {
        Format::Json => {
            let text = json::text_of(body);
            let parsed = json::parse_str(&text).map_err(|e| {
                expected.unrecognized(body, &format!("couldn't get version/kind; json parse error: {e}"))
            })?;
            let source = Source { body, json: Some(&text), has_duplicates: parsed.has_duplicates };
            expected.finish(parsed.value, &source, validation)
        }
        Format::Yaml => {
            let value = yaml::parse(body).map_err(|e| expected.unrecognized(body, &e.to_string()))?;
            expected.finish(value, &Source { body, json: None, has_duplicates: false }, validation)
        }
        Format::Protobuf => {
            let envelope = protobuf::unwrap(body).map_err(|e| expected.unrecognized(body, &e.to_string()))?;
            let gvk = expected.actual(&envelope.api_version, &envelope.kind, body)?;
            expected.check(&gvk)?;
            let mut value = protobuf::decode(expected.schema, expected.root, envelope.raw)
                .map_err(|e| expected.unhandled(&gvk, &e.to_string()))?;
            expected.stamp(&mut value);
            Ok(Decoded { value, warnings: Vec::new() })
        }
    }
}

/// Reads JSON or YAML without a kind in mind (patches, embedded objects); with the texts of repeated keys.
pub fn untyped(body: &[u8], format: Format) -> Result<(Value, Vec<String>), Status> {
    match format {
        Format::Json => {
            let text = json::text_of(body);
            let parsed = json::parse_str(&text).map_err(|e| Status::bad_request(e.to_string()))?;
            let duplicates =
                if parsed.has_duplicates { strict::strict_errors(&text, None) } else { Vec::new() };
            Ok((parsed.value, duplicates))
        }
        Format::Yaml => {
            let value = yaml::parse(body).map_err(|e| Status::bad_request(e.to_string()))?;
            Ok((value, yaml::repeated_keys(body)))
        }
        Format::Protobuf => Err(Status::bad_request("protobuf cannot be read without a type")),
    }
}

/// The body beside the tree made of it.
struct Source<'a> {
    body: &'a [u8],
    json: Option<&'a str>,
    has_duplicates: bool,
}

impl Expected<'_> {
    fn finish(
        &self,
        mut value: Value,
        source: &Source<'_>,
        validation: FieldValidation,
    ) -> Result<Decoded, Status> {
        let (api_version, kind) = type_meta(&value).map_err(|e| {
            self.unrecognized(source.body, &format!("couldn't get version/kind; json parse error: {e}"))
        })?;
        let gvk = self.actual(api_version, kind, source.body)?;
        self.check(&gvk)?;
        let collect = validation != FieldValidation::Ignore;
        let unknown = coerce::fit(self.schema, self.root, &mut value, collect)
            .map_err(|e| self.unhandled(&gvk, &e.to_string()))?;
        let warnings = match source.json {
            _ if !collect => Vec::new(),
            Some(_) if unknown.is_empty() && !source.has_duplicates => Vec::new(),
            Some(text) => strict::strict_errors(text, Some((self.schema, self.root))),
            None => {
                let mut repeated = yaml::repeated_keys(source.body);
                if validation == FieldValidation::Strict && !repeated.is_empty() {
                    // one error of the reader's, where each is a warning of its own
                    repeated = vec![yaml::unmarshal_errors(&repeated)];
                }
                let unknown = unknown.iter().map(|path| format!("unknown field {}", json::go_quote(path)));
                repeated.into_iter().chain(unknown).collect()
            }
        };
        if validation == FieldValidation::Strict && !warnings.is_empty() {
            return Err(self.unhandled(&gvk, &format!("strict decoding error: {}", warnings.join(", "))));
        }
        self.stamp(&mut value);
        Ok(Decoded { value, warnings })
    }

    /// The kind a body says it is, gaps filled from the expected one.
    fn actual(&self, api_version: &str, kind: &str, body: &[u8]) -> Result<GroupVersionKind, Status> {
        let given = GroupVersion::parse(api_version).ok_or_else(|| {
            self.unrecognized(body, &format!("unexpected GroupVersion string: {api_version}"))
        })?;
        let mut gvk = GroupVersionKind::new(given.group, given.version, kind);
        if gvk.kind.is_empty() {
            gvk.kind.clone_from(&self.gvk.kind);
        }
        if gvk.version.is_empty() && (gvk.group.is_empty() || gvk.group == self.gvk.group) {
            gvk.group.clone_from(&self.gvk.group);
            gvk.version.clone_from(&self.gvk.version);
        }
        Ok(gvk)
    }

    /// A body of another kind or version is refused, in the order and words of upstream.
    fn check(&self, gvk: &GroupVersionKind) -> Result<(), Status> {
        if gvk == self.gvk {
            return Ok(());
        }
        if !(self.is_registered)(gvk) {
            let why = format!(
                "no kind {:?} is registered for version {:?} in scheme {SCHEME:?}",
                gvk.kind,
                gvk.group_version().to_string()
            );
            return Err(self.unhandled(gvk, &why));
        }
        if gvk.kind != self.gvk.kind {
            let package = if self.gvk.group.is_empty() {
                "core"
            } else {
                self.gvk.group.split('.').next().unwrap_or_default()
            };
            let why = format!(
                "converting ({}.{}) to ({package}.{}): unknown conversion",
                gvk.version, gvk.kind, self.gvk.kind
            );
            return Err(self.unhandled(gvk, &why));
        }
        Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            gvk.group_version(),
            self.gvk.group_version()
        )))
    }

    fn stamp(&self, value: &mut Value) {
        if let Some(map) = value.as_object_mut() {
            map.insert("apiVersion".into(), self.gvk.group_version().to_string().into());
            map.insert("kind".into(), self.gvk.kind.as_str().into());
        }
    }

    fn unhandled(&self, gvk: &GroupVersionKind, why: &str) -> Status {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            gvk.kind, gvk.version, self.gvk.kind
        ))
    }

    fn unrecognized(&self, body: &[u8], why: &str) -> Status {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {why} ({})",
            self.gvk.kind,
            summary(body)
        ))
    }
}

fn summary(body: &[u8]) -> String {
    let shown = &body[..body.len().min(SUMMARY_BYTES)];
    let more = if body.len() > SUMMARY_BYTES { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => {
            let mut hex = String::with_capacity(2 * SUMMARY_BYTES);
            for byte in shown {
                hex.push_str(&format!("{byte:02x}"));
            }
            format!("{hex}{more}")
        }
    }
}

/// `apiVersion` and `kind` of a tree, empty where absent; the error is Go's for values of other types.
fn type_meta(value: &Value) -> Result<(&str, &str), Cow<'static, str>> {
    let found = |value: &Value| match value {
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::Array(_) => "array",
        _ => "object",
    };
    let map = match value {
        Value::Object(map) => map,
        Value::Null => return Ok(("", "")),
        Value::String(_) => return Err("json: cannot unmarshal string into Go value of type struct".into()),
        other => {
            return Err(
                format!("json: cannot unmarshal {} into Go value of type struct", found(other)).into()
            );
        }
    };
    let text = |key: &'static str| match map.get(key) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err(Cow::Owned(format!(
            "json: cannot unmarshal {} into Go struct field .{key} of type string",
            found(other)
        ))),
    };
    Ok((text("apiVersion")?, text("kind")?))
}

#[cfg(test)]
mod tests {
    use crate::json;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::pod_schema;

    fn decode(body: &[u8], format: Format, validation: FieldValidation) -> Result<Decoded, String> {
        let (schema, root) = pod_schema();
        let gvk = GroupVersionKind::new("", "v1", "Pod");
        let expected = Expected {
            gvk: &gvk,
            schema: &schema,
            root,
            is_registered: &|gvk| gvk.kind == "Pod" && gvk.group.is_empty() || gvk.kind == "Service",
        };
        object(body, format, &expected, validation).map_err(|status| {
            assert_eq!(status.code, 400);
            status.message
        })
    }

    #[test]
    fn kind_and_version_are_filled_in() {
        let decoded = decode(br#"{"metadata":{"name":"a"}}"#, Format::Json, FieldValidation::Strict).unwrap();
        assert_eq!(decoded.value, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}));
        let yaml =
            decode(b"kind: Pod\nmetadata: {name: a}\n", Format::Yaml, FieldValidation::Strict).unwrap();
        assert_eq!(yaml.value, decoded.value);
    }

    #[test]
    fn refusals_are_upstreams() {
        let prefix = "Pod in version \"v1\" cannot be handled as a Pod: ";
        for (body, message) in [
            (
                "",
                "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse \
                 error: unexpected end of JSON input (<empty>)"
                    .to_owned(),
            ),
            (
                "{\"a\":}",
                "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse \
                 error: invalid character '}' looking for beginning of value ({\"a\":})"
                    .to_owned(),
            ),
            (
                "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]",
                "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse \
                 error: json: cannot unmarshal array into Go value of type struct \
                 (5b312c20322c20332c20342c20352c20362c20372c20382c20392c203130 ...)"
                    .to_owned(),
            ),
            (
                r#"{"kind":1}"#,
                "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse \
                 error: json: cannot unmarshal number into Go struct field .kind of type string ({\"kind\":1})"
                    .to_owned(),
            ),
            (
                r#"{"kind":"Service","apiVersion":"v1"}"#,
                "Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown \
                 conversion"
                    .to_owned(),
            ),
            (
                r#"{"kind":"Foo","apiVersion":"a/b/c"}"#,
                "the object provided is unrecognized (must be of type Pod): unexpected GroupVersion string: a/b/c \
                 ({\"kind\":\"Foo\",\"apiVersion\":\"a/ ...)"
                    .to_owned(),
            ),
            (
                r#"{"spec":{"nodeName":1}}"#,
                format!("{prefix}json: cannot unmarshal number into Go struct field PodSpec.spec.nodeName of type string"),
            ),
            (
                r#"{"spec":{"foo":1,"nodeName":"a","nodeName":"b"}}"#,
                format!(
                    "{prefix}strict decoding error: unknown field \"spec.foo\", duplicate field \"spec.nodeName\""
                ),
            ),
        ] {
            assert_eq!(decode(body.as_bytes(), Format::Json, FieldValidation::Strict).unwrap_err(), message);
        }
        assert_eq!(
            decode(br#"{"apiVersion":"apps/v1"}"#, Format::Json, FieldValidation::Strict).unwrap_err(),
            "Pod in version \"v1\" cannot be handled as a Pod: no kind \"Pod\" is registered for version \"apps/v1\" \
             in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        );
        assert_eq!(
            decode(br#"{"apiVersion":"v2"}"#, Format::Json, FieldValidation::Strict).unwrap_err(),
            "the API version in the data (v2) does not match the expected API version (v1)"
        );
    }

    #[test]
    fn unknown_and_repeated_fields_by_validation() {
        let body = br#"{"spec":{"nodeName":"a","nodeName":"b","foo":1}}"#;
        let warned = decode(body, Format::Json, FieldValidation::Warn).unwrap();
        assert_eq!(warned.warnings, ["duplicate field \"spec.nodeName\"", "unknown field \"spec.foo\""]);
        assert_eq!(warned.value["spec"], json!({"nodeName": "b"}));
        assert_eq!(decode(body, Format::Json, FieldValidation::Ignore).unwrap().warnings, [""; 0]);
        let yaml = b"spec:\n  nodeName: a\n  foo: 1\n  nodeName: b\n";
        assert_eq!(
            decode(yaml, Format::Yaml, FieldValidation::Warn).unwrap().warnings,
            ["line 4: key \"nodeName\" already set in map", "unknown field \"spec.foo\""]
        );
        let refused = decode(yaml, Format::Yaml, FieldValidation::Strict).unwrap_err();
        let why = "strict decoding error: yaml: unmarshal errors:\n  line 4: key \"nodeName\" already set in map, unknown \
                   field \"spec.foo\"";
        assert!(refused.ends_with(why), "{refused}");
    }

    #[test]
    fn the_deepest_document_fits_the_stack_of_every_walker() {
        use crate::schema::Field;
        use crate::testing::{list, object as declare};
        // a type that holds a list of itself: two levels of JSON and one message each
        let mut schema = Schema::new();
        let root = declare(&mut schema, "Deep", vec![]);
        let children = list(&mut schema, root);
        let field = Field { proto: 1, ..Field::new(children) };
        let node = declare(&mut schema, "Deep", vec![("c", field)]);
        *schema.node_mut(root) = schema.node(node).clone();
        let levels = json::MAX_DEPTH / 2;
        let body = format!("{}{}{}", "{\"c\":[".repeat(levels - 1), "{\"c\":[]}", "]}".repeat(levels - 1));
        let gvk = GroupVersionKind::new("", "v1", "Deep");
        let expected = Expected { gvk: &gvk, schema: &schema, root, is_registered: &|_| true };
        let mut value = object(body.as_bytes(), Format::Json, &expected, FieldValidation::Strict);
        let value = &mut value.as_mut().expect("it is as deep as allowed").value;
        crate::default::apply_defaults(&schema, root, value);
        crate::default::normalise(&schema, root, value);
        let bytes = protobuf::encode_object(&schema, root, value).unwrap();
        assert_eq!(&protobuf::decode_object(&schema, root, &bytes).unwrap(), value);
        let deeper = body.replace("[]", "[{\"c\":[]}]");
        let error = object(deeper.as_bytes(), Format::Json, &expected, FieldValidation::Warn).unwrap_err();
        assert!(error.message.contains("exceeded max depth"), "{error}");
        assert_eq!(yaml::parse(value.to_string().as_bytes()).as_ref(), Ok(&*value));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            for format in [Format::Json, Format::Yaml, Format::Protobuf] {
                let _ = decode(&body, format, FieldValidation::Strict);
            }
        }

        #[test]
        fn any_text_near_yaml_gives_an_answer(body in r"[a-c:\-\[\]{}&*#|>'! \n0-9.]{0,60}") {
            let _ = decode(body.as_bytes(), Format::Yaml, FieldValidation::Strict);
        }
    }
}
