//! A place in an object: the value there, if any, and its path in upstream's notation, for validation.

use std::cell::OnceCell;
use std::fmt;
use std::rc::Rc;

use apimachinery::Value;
use apimachinery::status::{FieldError, FieldErrorKind};

/// Problems found so far.
pub(crate) type Errors = Vec<FieldError>;

/// A value with its path. Absent and `null` are the same.
#[derive(Clone)]
pub(crate) struct At<'a> {
    value: Option<&'a Value>,
    parent: Option<Rc<Segment<'a>>>,
    /// `None` at the object itself.
    step: Option<Step<'a>>,
    /// Parent and step, made for the first child: most places have none.
    segment: OnceCell<Rc<Segment<'a>>>,
}

struct Segment<'a> {
    parent: Option<Rc<Segment<'a>>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl fmt::Display for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // iterative, as the parent's depth is the object's
        let mut steps = vec![self.step];
        let mut parent = self.parent.as_ref();
        while let Some(segment) = parent {
            steps.push(segment.step);
            parent = segment.parent.as_ref();
        }
        for (i, step) in steps.into_iter().rev().enumerate() {
            match step {
                Step::Field(name) if i == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => write!(f, "[{key}]")?,
            }
        }
        Ok(())
    }
}

impl<'a> At<'a> {
    /// The object itself, whose path is empty.
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { value: Some(value), parent: None, step: None, segment: OnceCell::new() }
    }

    fn segment(&self) -> Option<&Rc<Segment<'a>>> {
        let step = self.step?;
        Some(self.segment.get_or_init(|| Rc::new(Segment { parent: self.parent.clone(), step })))
    }

    fn child(&self, value: Option<&'a Value>, step: Step<'a>) -> Self {
        let value = value.filter(|v| !v.is_null());
        Self { value, parent: self.segment().cloned(), step: Some(step), segment: OnceCell::new() }
    }

    /// A field.
    pub(crate) fn get(&self, name: &'a str) -> Self {
        self.child(self.value.and_then(|v| v.get(name)), Step::Field(name))
    }

    /// Both are the same memory, and therefore equal; `false` says nothing.
    pub(crate) fn shares(&self, other: &At<'_>) -> bool {
        matches!((self.value, other.value), (Some(value), Some(other)) if value.shares(other))
    }

    /// A field of fields.
    pub(crate) fn at(&self, names: &[&'a str]) -> Self {
        names.iter().fold(self.clone(), |at, name| at.get(name))
    }

    /// An entry of a map, whose path has brackets.
    pub(crate) fn key(&self, key: &'a str) -> Self {
        self.child(self.value.and_then(|v| v.get(key)), Step::Key(key))
    }

    /// An item of a list.
    pub(crate) fn index(&self, index: usize) -> Self {
        self.child(self.value.and_then(|v| v.get(index)), Step::Index(index))
    }

    /// The items of a list, none if it is absent.
    pub(crate) fn items(&self) -> impl Iterator<Item = At<'a>> + use<'a> {
        let list = self.value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let this = self.clone();
        list.iter().enumerate().map(move |(i, v)| this.child(Some(v), Step::Index(i)))
    }

    /// The entries of a map, in order of keys.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, At<'a>)> + use<'a> {
        let this = self.clone();
        let map = self.value.and_then(Value::as_object);
        map.into_iter().flatten().map(move |(k, v)| (k.as_str(), this.child(Some(v), Step::Key(k))))
    }

    /// The value, unless it is absent or null.
    pub(crate) fn value(&self) -> Option<&'a Value> {
        self.value
    }

    /// A copy of the value, null if it is absent.
    pub(crate) fn to_value(&self) -> Value {
        self.value.cloned().unwrap_or_default()
    }

    /// There is a value.
    pub(crate) fn present(&self) -> bool {
        self.value.is_some()
    }

    /// There is no value, or an empty text, list or map.
    pub(crate) fn is_empty(&self) -> bool {
        match self.value {
            None | Some(Value::Null) => true,
            Some(Value::String(s)) => s.is_empty(),
            Some(Value::Array(a)) => a.is_empty(),
            Some(Value::Object(m)) => m.is_empty(),
            Some(_) => false,
        }
    }

    /// Number of items or entries.
    pub(crate) fn len(&self) -> usize {
        match self.value {
            Some(Value::Array(a)) => a.len(),
            Some(Value::Object(m)) => m.len(),
            _ => 0,
        }
    }

    /// The text, `""` if there is none.
    pub(crate) fn text(&self) -> &'a str {
        self.value.and_then(Value::as_str).unwrap_or("")
    }

    /// The number.
    pub(crate) fn int(&self) -> Option<i64> {
        self.value.and_then(Value::as_i64)
    }

    /// The number, 0 if there is none.
    pub(crate) fn int_or_zero(&self) -> i64 {
        self.int().unwrap_or_default()
    }

    /// True if it says so.
    pub(crate) fn flag(&self) -> bool {
        self.value == Some(&Value::Bool(true))
    }

    /// The path as upstream prints it.
    pub(crate) fn path(&self) -> String {
        self.segment().map_or_else(|| "<nil>".into(), ToString::to_string)
    }

    /// `Required value`.
    pub(crate) fn required(&self, detail: &str) -> FieldError {
        FieldError::required(self.path(), detail)
    }

    /// `Invalid value` with the value here.
    pub(crate) fn invalid(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(self.path(), self.to_value(), detail)
    }

    /// `Invalid value` with another value.
    pub(crate) fn invalid_value(&self, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(self.path(), value, detail)
    }

    /// `Invalid value` for a field without `omitempty`: absent text is `""`.
    pub(crate) fn invalid_text(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(self.path(), self.text(), detail)
    }

    /// `Forbidden`.
    pub(crate) fn forbidden(&self, detail: &str) -> FieldError {
        FieldError::forbidden(self.path(), detail)
    }

    /// `Duplicate value`.
    pub(crate) fn duplicate(&self) -> FieldError {
        FieldError::duplicate(self.path(), self.to_value())
    }

    /// `Not found`.
    pub(crate) fn not_found(&self) -> FieldError {
        FieldError::not_found(self.path(), self.text())
    }

    /// `Unsupported value` with the supported ones, which upstream prints sorted.
    pub(crate) fn not_supported(&self, supported: &[&str]) -> FieldError {
        let mut sorted = supported.to_vec();
        sorted.sort_unstable();
        FieldError::not_supported(self.path(), self.text(), &sorted)
    }

    /// `Too long`.
    pub(crate) fn too_long(&self, max: usize) -> FieldError {
        FieldError::new(
            FieldErrorKind::TooLong,
            self.path(),
            Value::Null,
            format!("may not be more than {max} bytes"),
        )
    }

    /// `Too many`.
    pub(crate) fn too_many(&self, max: usize) -> FieldError {
        FieldError::too_many(self.path(), self.len(), max)
    }
}

/// One `Invalid value` for each problem of a shape.
pub(crate) fn shape(errors: &mut Errors, at: &At<'_>, problems: Vec<String>) {
    errors.extend(problems.into_iter().map(|problem| at.invalid_text(problem)));
}

/// Adds an error for a negative number.
pub(crate) fn non_negative(errors: &mut Errors, at: &At<'_>) {
    if at.int().is_some_and(|n| n < 0) {
        errors.push(at.invalid("must be greater than or equal to 0"));
    }
}

/// Adds an error unless the text is one of a set; an absent one is `required`.
pub(crate) fn one_of(errors: &mut Errors, at: &At<'_>, allowed: &[&str]) {
    if at.is_empty() {
        errors.push(at.required(""));
    } else if !allowed.contains(&at.text()) {
        errors.push(at.not_supported(allowed));
    }
}

/// Adds `field is immutable` if two values differ.
pub(crate) fn immutable(errors: &mut Errors, new: &At<'_>, old: &At<'_>) {
    if !same(new.value(), old.value()) {
        errors.push(new.invalid("field is immutable"));
    }
}

/// Equal, empty and absent being the same, as upstream's semantic equality has it.
pub(crate) fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    fn empty(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(a) => a.is_empty(),
            Value::Object(m) => m.is_empty(),
            _ => false,
        }
    }
    match (a, b) {
        (Some(a), Some(b)) if a.shares(b) => true,
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.iter().all(|(k, v)| same(Some(v), b.get(k)))
                && b.iter().all(|(k, v)| a.contains_key(k) || empty(v))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b)))
        }
        (Some(a), Some(b)) => a == b || empty(a) && empty(b),
        (None, Some(value)) | (Some(value), None) => empty(value),
        (None, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn paths_are_upstreams() {
        let pod = json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {"labels": {"a/b": "c"}}});
        let root = At::root(&pod);
        assert_eq!(root.get("spec").get("containers").index(0).get("name").path(), "spec.containers[0].name");
        assert_eq!(root.at(&["metadata", "labels"]).key("a/b").path(), "metadata.labels[a/b]");
        let error = root.get("spec").get("nodeName").invalid_text("no");
        assert_eq!(error.to_string(), "spec.nodeName: Invalid value: \"\": no");
    }

    #[test]
    fn absent_and_empty_are_the_same() {
        for (a, b, expected) in [
            (json!({"a": 1}), json!({"a": 1, "b": []}), true),
            (json!({"a": {"c": null}}), json!({}), false),
            (json!({"a": {}}), json!({}), true),
            (json!([1]), json!([1, 2]), false),
            (json!(""), Value::Null, false),
        ] {
            assert_eq!(same(Some(&a), Some(&b)), expected, "{a} {b}");
        }
    }
}
