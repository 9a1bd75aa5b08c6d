//! Label selectors: `a=b,c in (d,e),!f,g>3` and `metav1.LabelSelector`.
//!
//! Source: `k8s.io/apimachinery/pkg/labels` for grammar, matching and error texts.

use std::fmt;
use std::str::FromStr;

use super::{LabelSet, parse};
use crate::Value;
use crate::meta::str_at;
use crate::status::FieldError;
use crate::validation;

/// Longest text that is parsed: what fits a URL.
pub const MAX_SELECTOR_BYTES: usize = 1 << 20;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are upstream's selection operators")]
pub enum Operator {
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: Box<str>,
    operator: Operator,
    /// Sorted, without repetitions.
    values: Vec<Box<str>>,
}

/// Requirements that must all hold, sorted by key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// Matches no object at all: what a `metav1.LabelSelector` that is absent means.
    nothing: bool,
}

/// Why a text or object is no selector, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub(super) String);

impl Requirement {
    /// A requirement, refused where key, values or their number do not fit the operator.
    pub fn new(key: &str, operator: Operator, values: &[&str]) -> Result<Self, SelectorError> {
        let mut errors = Vec::new();
        let problems = validation::label_key(key);
        if !problems.is_empty() {
            errors.push(FieldError::invalid("key", key, problems.join("; ")));
        }
        let given = || values.iter().map(|v| Value::from(*v)).collect::<Value>();
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => errors.push(FieldError::invalid(
                "values",
                given(),
                "for 'in', 'notin' operators, values set can't be empty",
            )),
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => errors
                .push(FieldError::invalid(
                    "values",
                    given(),
                    "exact-match compatibility requires one single value",
                )),
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                errors.push(FieldError::invalid(
                    "values",
                    given(),
                    "values set must be empty for exists and does not exist",
                ));
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    errors.push(FieldError::invalid(
                        "values",
                        given(),
                        "for 'Gt', 'Lt' operators, exactly one value is required",
                    ));
                }
                for (i, value) in values.iter().enumerate().filter(|(_, v)| parse_integer(v).is_none()) {
                    errors.push(FieldError::invalid(
                        format!("values[{i}]"),
                        *value,
                        "for 'Gt', 'Lt' operators, the value must be an integer",
                    ));
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let problems = validation::label_value(value);
            if !problems.is_empty() {
                errors.push(FieldError::invalid(format!("values[{i}][{key}]"), *value, problems.join("; ")));
            }
        }
        match errors.as_slice() {
            [] => {
                let mut values: Vec<Box<str>> = values.iter().map(|v| (*v).into()).collect();
                values.sort_unstable();
                values.dedup();
                Ok(Self { key: key.into(), operator, values })
            }
            [one] => Err(SelectorError(one.to_string())),
            many => {
                let texts: Vec<String> = many.iter().map(ToString::to_string).collect();
                Err(SelectorError(format!("[{}]", texts.join(", "))))
            }
        }
    }

    /// The label.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The operator.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values, sorted.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(|v| &**v)
    }

    /// Whether labels meet the requirement.
    pub fn matches<L: LabelSet + ?Sized>(&self, labels: &L) -> bool {
        let value = labels.label(&self.key);
        let listed = |value: &str| self.values.iter().any(|v| &**v == value);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let bound = self.values.first().and_then(|v| parse_integer(v));
                let (Some(value), Some(bound)) = (value.and_then(parse_integer), bound) else {
                    return false;
                };
                if self.operator == Operator::GreaterThan { value > bound } else { value < bound }
            }
        }
    }
}

/// As Go's `strconv.ParseInt(_, 10, 64)`.
pub(super) fn parse_integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl Default for LabelSelector {
    fn default() -> Self {
        Self::everything()
    }
}

impl LabelSelector {
    /// Matches every object.
    pub const fn everything() -> Self {
        Self { requirements: Vec::new(), nothing: false }
    }

    /// Matches no object.
    pub const fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// All of these requirements.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Exactly these labels (a Service's or ReplicationController's `spec.selector`); no labels match everything.
    pub fn from_map<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let requirement = |(key, value): (&str, &str)| Requirement {
            key: key.into(),
            operator: Operator::Equals,
            values: vec![value.into()],
        };
        Self::new(labels.into_iter().map(requirement).collect())
    }

    /// A `metav1.LabelSelector`: absent or null matches nothing, `{}` everything.
    pub fn from_value(selector: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(selector) = selector.filter(|s| !s.is_null()) else {
            return Ok(Self::nothing());
        };
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, &[value.as_str().unwrap_or("")])?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let operator = match str_at(expression, &["operator"]) {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{other:?} is not a valid label selector operator")));
                }
            };
            let values: Vec<&str> = strings(expression.get("values"));
            requirements.push(Requirement::new(str_at(expression, &["key"]), operator, &values)?);
        }
        Ok(Self::new(requirements))
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Matches everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether labels meet every requirement.
    pub fn matches<L: LabelSet + ?Sized>(&self, labels: &L) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Whether the labels of an object meet every requirement.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(&object.get("metadata").and_then(|m| m.get("labels")))
    }
}

pub(super) fn strings(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

impl FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR_BYTES {
            return Err(SelectorError("the label selector is too long".into()));
        }
        Ok(Self::new(parse::requirements(text)?))
    }
}

#[cfg(test)]
mod tests {
    use crate::json;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_parse_and_print() {
        for (text, printed) in [
            ("", ""),
            ("x=a,y=b,z=c", "x=a,y=b,z=c"),
            ("z==c, x != a", "x!=a,z==c"),
            ("!x", "!x"),
            ("x in (b, a)", "x in (a,b)"),
            ("x notin ()", "x notin ()"),
            ("x in (,)", "x in ()"),
            ("x in (a,,b)", "x in (,a,b)"),
            ("x,y", "x,y"),
            ("x>1,y<2", "x>1,y<2"),
            ("x=", "x="),
            ("in in (in,notin)", "in in (in,notin)"),
            ("example.com/a=b", "example.com/a=b"),
        ] {
            assert_eq!(text.parse::<LabelSelector>().expect(text).to_string(), printed, "{text}");
        }
    }

    #[test]
    fn errors_are_upstreams() {
        for (text, message) in [
            ("x=a||y=b", "unable to parse requirement: values[0][x]: Invalid value: \"a||y\""),
            ("x==a==b", "found '==', expected: ',' or 'end of string'"),
            ("!x=a", "found '=', expected: ',' or 'end of string'"),
            ("x<a", "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("x in a", "unable to parse requirement: found 'a' expected: '('"),
            ("x in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("x a", "unable to parse requirement: found 'a', expected: in, notin, =, ==, !=, gt, lt"),
            ("x,", "found '', expected: identifier after ','"),
            ("a b/c d=e", "unable to parse requirement: found 'b/c', expected: in, notin"),
            ("-a=b", "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
        ] {
            let error = text.parse::<LabelSelector>().expect_err(text).to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    #[test]
    fn matching() {
        let labels = json!({"foo": "bar", "n": "5", "empty": ""});
        for (text, matched) in [
            ("", true),
            ("foo=bar", true),
            ("foo=baz", false),
            ("foo!=baz", true),
            ("absent!=a", true),
            ("foo in (bar,baz)", true),
            ("foo notin (bar)", false),
            ("absent notin (a)", true),
            ("foo", true),
            ("!foo", false),
            ("!absent", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("foo>1", false),
            ("empty=", true),
            ("absent=", false),
        ] {
            assert_eq!(text.parse::<LabelSelector>().unwrap().matches(&labels), matched, "{text}");
        }
    }

    #[test]
    fn objects_are_selectors_too() {
        assert!(!LabelSelector::from_value(None).unwrap().matches(&json!({})));
        assert!(LabelSelector::from_value(Some(&json!({}))).unwrap().matches(&json!({})));
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_value(Some(&selector)).unwrap();
        assert_eq!(selector.to_string(), "a=b,c in (d,e),!f");
        assert!(selector.matches_object(&json!({"metadata": {"labels": {"a": "b", "c": "d"}}})));
        assert!(!selector.matches_object(&json!({"metadata": {}})));
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Foo"}]});
        assert_eq!(
            LabelSelector::from_value(Some(&bad)).unwrap_err().to_string(),
            "\"Foo\" is not a valid label selector operator"
        );
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in r"[a-c!=(),<> in.\-/\x00é]{0,30}") {
            if let Ok(selector) = text.parse::<LabelSelector>() {
                prop_assert_eq!(selector.to_string().parse::<LabelSelector>().unwrap(), selector);
            }
        }

        #[test]
        fn an_operator_and_its_opposite_split_the_world(
            value in proptest::option::of("[a-c]{0,1}"), listed in proptest::collection::vec("[a-c]{0,1}", 1..3)
        ) {
            let labels: std::collections::BTreeMap<String, String> =
                value.into_iter().map(|v| ("k".to_owned(), v)).collect();
            let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
            let inside = Requirement::new("k", Operator::In, &listed).unwrap().matches(&labels);
            let outside = Requirement::new("k", Operator::NotIn, &listed).unwrap().matches(&labels);
            prop_assert!(inside != outside);
        }

        #[test]
        fn requirements_hold_together_in_any_order(
            labels in proptest::collection::btree_map("[a-c]", "[x-z]", 0..3),
            wanted in proptest::collection::vec(("[a-c]", "[x-z]", proptest::bool::ANY), 0..4),
        ) {
            let requirement = |(key, value, is): &(String, String, bool)| {
                let operator = if *is { Operator::In } else { Operator::NotIn };
                Requirement::new(key, operator, &[value]).unwrap()
            };
            let there: Vec<Requirement> = wanted.iter().map(requirement).collect();
            let back: Vec<Requirement> = wanted.iter().rev().map(requirement).collect();
            let each = there.iter().all(|requirement| requirement.matches(&labels));
            prop_assert_eq!(LabelSelector::new(there).matches(&labels), each);
            prop_assert_eq!(LabelSelector::new(back).matches(&labels), each);
            // no labels wanted is everything wanted, and an object's own labels select it
            prop_assert!(LabelSelector::new(Vec::new()).matches(&labels));
            let own = LabelSelector::from_map(labels.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            prop_assert!(own.matches(&labels));
        }
    }
}
