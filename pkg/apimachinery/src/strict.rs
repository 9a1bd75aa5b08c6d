//! Which fields of a document are unknown or repeated, in the order of the document.
//!
//! The hot path does not keep positions: it notes only that there is something to report (a repeated key, a pruned
//! field), and then this walks the text once more. Order, paths, wording and the limit are those of upstream's strict
//! JSON decoder (`sigs.k8s.io/json`), since users see them and tests compare them.

use std::collections::HashSet;

use crate::json::{Reader, SyntaxError, go_quote};
use crate::schema::{NodeId, NodeKind, Schema};

/// Most problems that are reported of one document.
pub const MAX_STRICT_ERRORS: usize = 100;

/// What is known of the value ahead.
#[derive(Clone, Copy)]
enum Target<'s> {
    /// Any tree; repeated keys count.
    Untyped,
    /// A type.
    Typed(&'s Schema, NodeId),
}

impl Target<'_> {
    /// What is known of the value of a key, `None` when the key is unknown.
    fn child(self, key: &str) -> Option<Self> {
        let Self::Typed(schema, id) = self else {
            return Some(Self::Untyped);
        };
        match &schema.node(id).kind {
            NodeKind::Object(object) => match object.fields.get(key) {
                Some(field) => Some(Self::Typed(schema, field.node)),
                None => object.preserve_unknown.then_some(Self::Untyped),
            },
            NodeKind::Map { value, .. } => Some(Self::Typed(schema, *value)),
            _ => Some(Self::Untyped),
        }
    }
}

/// `unknown field "PATH"` and `duplicate field "PATH"` of a document; without a schema only duplicates are known.
///
/// A document that does not parse has none: its syntax error is the better answer.
pub fn strict_errors(text: &str, schema: Option<(&Schema, NodeId)>) -> Vec<String> {
    let target = schema.map_or(Target::Untyped, |(schema, root)| Target::Typed(schema, root));
    let mut walk = Walk { reader: Reader::new(text), path: String::new(), found: Vec::new() };
    match walk.value(target) {
        Ok(()) => walk.found,
        Err(_) => Vec::new(),
    }
}

struct Walk<'a> {
    reader: Reader<'a>,
    path: String,
    found: Vec<String>,
}

impl Walk<'_> {
    fn report(&mut self, what: &str, key: &str) {
        if self.found.len() >= MAX_STRICT_ERRORS {
            return;
        }
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        let text = format!("{what} field {}", go_quote(&path));
        if !self.found.contains(&text) {
            self.found.push(text);
        }
    }

    /// Repeated keys inside types that read their own JSON are not seen upstream either.
    fn value(&mut self, target: Target<'_>) -> Result<(), SyntaxError> {
        let kind = match target {
            Target::Typed(schema, id) => Some(&schema.node(id).kind),
            Target::Untyped => None,
        };
        match (self.reader.peek(), kind) {
            (Some(b'{'), None | Some(NodeKind::Object(_) | NodeKind::Map { .. })) => self.object(target),
            (Some(b'['), None) => self.array(target),
            (Some(b'['), Some(NodeKind::List(list))) => match target {
                Target::Typed(schema, _) => self.array(Target::Typed(schema, list.item)),
                Target::Untyped => self.array(target),
            },
            _ => self.reader.skip(),
        }
    }

    fn object(&mut self, target: Target<'_>) -> Result<(), SyntaxError> {
        self.reader.enter()?;
        let length = self.path.len();
        let mut seen = HashSet::new();
        let mut first = true;
        while let Some(key) = self.reader.next_key(first)? {
            first = false;
            let Some(child) = target.child(&key) else {
                self.report("unknown", &key);
                self.reader.skip()?;
                continue;
            };
            if seen.contains(key.as_ref()) {
                self.report("duplicate", &key);
            }
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(&key);
            seen.insert(key.into_owned());
            self.value(child)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn array(&mut self, item: Target<'_>) -> Result<(), SyntaxError> {
        self.reader.enter()?;
        let length = self.path.len();
        let mut index = 0_usize;
        while self.reader.next_item(index == 0)? {
            self.path.push_str(&format!("[{index}]"));
            self.value(item)?;
            self.path.truncate(length);
            index += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_schema;

    #[test]
    fn problems_come_in_the_order_of_the_document() {
        let (schema, root) = pod_schema();
        let cases: [(&str, &[&str]); 5] = [
            (r#"{"spec":{"nodeName":"a"}}"#, &[]),
            (
                r#"{"zz":1,"spec":{"foo":{"bar":1,"bar":2},"nodeName":"a","nodeName":"b","foo":1},"aa":1}"#,
                &[
                    "unknown field \"zz\"",
                    "unknown field \"spec.foo\"",
                    "duplicate field \"spec.nodeName\"",
                    "unknown field \"aa\"",
                ],
            ),
            (
                r#"{"spec":{"containers":[{},{"name":"a","name":"b","x":1}]}}"#,
                &["duplicate field \"spec.containers[1].name\"", "unknown field \"spec.containers[1].x\""],
            ),
            (
                r#"{"metadata":{"labels":{"a/b":"1","a/b":"2"}}}"#,
                &["duplicate field \"metadata.labels.a/b\""],
            ),
            (r#"{"spec":{"raw":{"x":1,"x":2}}}"#, &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(strict_errors(text, Some((&schema, root))), expected, "{text}");
        }
    }

    #[test]
    fn without_a_schema_repeated_keys_are_found_at_any_depth() {
        let text = r#"{"a":[{"b":1,"b":2}],"a":3}"#;
        assert_eq!(strict_errors(text, None), ["duplicate field \"a[0].b\"", "duplicate field \"a\""]);
    }
}
