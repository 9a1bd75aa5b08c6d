//! JSON paths in Kubernetes' dialect, as custom resources use them for columns, selectable fields and scale.
//!
//! `.spec.replicas`, `.metadata.annotations['a.b/c']`, `.status.conditions[?(@.type=="Ready")].status`, `[0]`, `[-1]`,
//! `[1:3]`, `[*]`, `..name`; a dot in a name may be escaped with a backslash. Source:
//! `k8s.io/client-go/util/jsonpath`, without its templates (`{range}`, text around braces).

use std::cmp::Ordering;

use crate::Value;

/// Most steps of a path.
pub const MAX_STEPS: usize = 64;
/// Most values a path may find; more are left out.
pub const MAX_RESULTS: usize = 10_000;

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum PathError {
    #[error("a path starts with a dot, a bracket or $")]
    Start,
    #[error("unexpected {0:?} in the path")]
    Unexpected(char),
    #[error("unterminated {0}")]
    Unterminated(&'static str),
    #[error("invalid array index {0}")]
    Index(String),
    #[error("unrecognized filter {0:?}")]
    Filter(String),
    #[error("the path has more than {MAX_STEPS} steps")]
    TooLong,
}

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Any,
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Names(Vec<String>),
    /// The value and everything below it.
    Descend,
    Filter(Box<Filter>),
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    left: Operand,
    /// Without a comparison the left side must exist.
    comparison: Option<(Comparison, Operand)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Parses a path; braces around it and a leading `$` or `@` are optional.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text).trim();
        let text = text.strip_prefix(['$', '@']).unwrap_or(text);
        if !text.is_empty() && !text.starts_with(['.', '[']) {
            return Err(PathError::Start);
        }
        let mut parser = Parser { rest: text, steps: Vec::new() };
        while !parser.rest.is_empty() {
            parser.step()?;
            if parser.steps.len() > MAX_STEPS {
                return Err(PathError::TooLong);
            }
        }
        Ok(Self { steps: parser.steps })
    }

    /// Made of field names only, which is what selectable fields and scale paths must be.
    pub fn is_simple(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Field(_)))
    }

    /// The names of a simple path.
    pub fn names(&self) -> Option<Vec<&str>> {
        self.steps
            .iter()
            .map(|step| match step {
                Step::Field(name) => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }

    /// The values at the path, in document order; at most [`MAX_RESULTS`].
    pub fn find<'v>(&self, root: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![root];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in found {
                step.apply(value, &mut next);
            }
            found = next;
        }
        found
    }

    /// The first value at the path.
    pub fn first<'v>(&self, root: &'v Value) -> Option<&'v Value> {
        self.find(root).into_iter().next()
    }
}

fn push<'v>(value: &'v Value, out: &mut Vec<&'v Value>) {
    if out.len() < MAX_RESULTS {
        out.push(value);
    }
}

/// An index from the end where negative.
fn position(index: i64, length: usize) -> Option<usize> {
    let at = if index < 0 { index + length as i64 } else { index };
    usize::try_from(at).ok()
}

impl Step {
    fn apply<'v>(&self, value: &'v Value, out: &mut Vec<&'v Value>) {
        match (self, value) {
            (Self::Field(name), Value::Object(map)) => {
                if let Some(child) = map.get(name) {
                    push(child, out);
                }
            }
            (Self::Names(names), Value::Object(map)) => {
                names.iter().filter_map(|name| map.get(name)).for_each(|child| push(child, out));
            }
            (Self::Any, Value::Object(map)) => map.values().for_each(|child| push(child, out)),
            (Self::Any, Value::Array(items)) => items.iter().for_each(|child| push(child, out)),
            (Self::Index(index), Value::Array(items)) => {
                if let Some(child) = position(*index, items.len()).and_then(|i| items.get(i)) {
                    push(child, out);
                }
            }
            (Self::Slice(start, end), Value::Array(items)) => {
                let bound = |index: Option<i64>, default: usize| {
                    index.map_or(default, |i| position(i, items.len()).unwrap_or(0)).min(items.len())
                };
                let (start, end) = (bound(*start, 0), bound(*end, items.len()));
                items.get(start..end).unwrap_or_default().iter().for_each(|child| push(child, out));
            }
            (Self::Filter(filter), Value::Array(items)) => {
                items.iter().filter(|item| filter.holds(item)).for_each(|child| push(child, out));
            }
            (Self::Descend, value) => descend(value, out),
            _ => {}
        }
    }
}

fn descend<'v>(value: &'v Value, out: &mut Vec<&'v Value>) {
    if out.len() >= MAX_RESULTS {
        return;
    }
    push(value, out);
    match value {
        Value::Object(map) => map.values().for_each(|child| descend(child, out)),
        Value::Array(items) => items.iter().for_each(|child| descend(child, out)),
        _ => {}
    }
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let Some(left) = self.left.value(item) else {
            return false;
        };
        let Some((comparison, right)) = &self.comparison else {
            return true;
        };
        let Some(right) = right.value(item) else {
            return false;
        };
        let order = match (left, right) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => a.as_f64().partial_cmp(&b.as_f64()),
            },
            _ => None,
        };
        match (comparison, order) {
            (Comparison::NotEqual, order) => order != Some(Ordering::Equal),
            (_, None) => false,
            (Comparison::Equal, Some(order)) => order == Ordering::Equal,
            (Comparison::Less, Some(order)) => order == Ordering::Less,
            (Comparison::LessOrEqual, Some(order)) => order != Ordering::Greater,
            (Comparison::Greater, Some(order)) => order == Ordering::Greater,
            (Comparison::GreaterOrEqual, Some(order)) => order != Ordering::Less,
        }
    }
}

impl Operand {
    fn value<'v>(&'v self, item: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Path(path) => path.first(item),
            Self::Literal(value) => Some(value),
        }
    }

    fn parse(text: &str) -> Result<Self, PathError> {
        let text = text.trim();
        let bad = || PathError::Filter(text.to_owned());
        if let Some(path) = text.strip_prefix('@') {
            // a filter in a filter would nest without bound and upstream has none
            return if path.contains('?') { Err(bad()) } else { JsonPath::parse(path).map(Self::Path) };
        }
        let quoted = ['"', '\''].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q));
        if let Some(quoted) = quoted {
            return Ok(Self::Literal(unescape(quoted).into()));
        }
        match text {
            "true" => Ok(Self::Literal(true.into())),
            "false" => Ok(Self::Literal(false.into())),
            _ => match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(number), _) => Ok(Self::Literal(number.into())),
                (_, Ok(number)) if number.is_finite() => Ok(Self::Literal(number.into())),
                _ => Err(bad()),
            },
        }
    }
}

/// A text without the backslashes that protect its characters.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

struct Parser<'a> {
    rest: &'a str,
    steps: Vec<Step>,
}

impl Parser<'_> {
    fn step(&mut self) -> Result<(), PathError> {
        if let Some(rest) = self.rest.strip_prefix("..") {
            self.steps.push(Step::Descend);
            self.rest = rest;
            return if rest.starts_with('[') { Ok(()) } else { self.field() };
        }
        if let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            // `.[0]` is as good as `[0]`
            return if rest.starts_with('[') { Ok(()) } else { self.field() };
        }
        match self.rest.chars().next() {
            Some('[') => self.bracket(),
            Some(other) => Err(PathError::Unexpected(other)),
            None => Ok(()),
        }
    }

    /// A name up to the next dot or bracket; nothing at all is the value itself.
    fn field(&mut self) -> Result<(), PathError> {
        let mut escaped = false;
        let end = self.rest.char_indices().find(|(_, c)| match c {
            _ if escaped => {
                escaped = false;
                false
            }
            '\\' => {
                escaped = true;
                false
            }
            c => matches!(c, '.' | '[') || !(c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '*' | ':')),
        });
        let (name, rest) = self.rest.split_at(end.map_or(self.rest.len(), |(i, _)| i));
        if let Some(c) = rest.chars().next().filter(|c| !matches!(c, '.' | '[')) {
            return Err(PathError::Unexpected(c));
        }
        self.rest = rest;
        match name {
            "" => {}
            "*" => self.steps.push(Step::Any),
            name => self.steps.push(Step::Field(unescape(name))),
        }
        Ok(())
    }

    fn bracket(&mut self) -> Result<(), PathError> {
        let inner = &self.rest[1..];
        let mut quote = None;
        let mut depth = 0_usize;
        let mut escaped = false;
        let end = inner.char_indices().find(|(_, c)| {
            match (quote, *c) {
                _ if escaped => escaped = false,
                (_, '\\') => escaped = true,
                (Some(q), c) if q == c => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(*c),
                (None, '[') => depth += 1,
                (None, ']') if depth == 0 => return true,
                (None, ']') => depth -= 1,
                _ => {}
            }
            false
        });
        let (end, _) = end.ok_or(PathError::Unterminated("array"))?;
        let content = inner[..end].trim();
        self.rest = &inner[end + 1..];
        let step = if let Some(filter) = content.strip_prefix("?(") {
            let filter = filter.strip_suffix(')').ok_or(PathError::Unterminated("filter"))?;
            Step::Filter(Box::new(parse_filter(filter)?))
        } else if content == "*" {
            Step::Any
        } else if content.starts_with(['\'', '"']) {
            names(content)?
        } else {
            index(content)?
        };
        self.steps.push(step);
        Ok(())
    }
}

/// One or several quoted names.
fn names(content: &str) -> Result<Step, PathError> {
    let mut names = Vec::new();
    let mut rest = content;
    loop {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let quote = quote.ok_or(PathError::Unterminated("quoted string"))?;
        let mut escaped = false;
        let end = rest[1..].char_indices().find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let (end, _) = end.ok_or(PathError::Unterminated("quoted string"))?;
        names.push(unescape(&rest[1..=end]));
        rest = rest[end + 2..].trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None => break,
        }
    }
    match rest.chars().next() {
        Some(c) => Err(PathError::Unexpected(c)),
        None if names.len() == 1 => Ok(Step::Field(names.swap_remove(0))),
        None => Ok(Step::Names(names)),
    }
}

/// A number, or a range of numbers.
fn index(content: &str) -> Result<Step, PathError> {
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| PathError::Index(content.to_owned()));
    let optional = |text: &str| if text.trim().is_empty() { Ok(None) } else { number(text).map(Some) };
    match content.split_once(':') {
        None => Ok(Step::Index(number(content)?)),
        Some((start, end)) => Ok(Step::Slice(optional(start)?, optional(end)?)),
    }
}

fn parse_filter(text: &str) -> Result<Filter, PathError> {
    const COMPARISONS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, _) => {
                let found = COMPARISONS.iter().find(|(symbol, _)| text[at..].starts_with(symbol));
                if let Some((symbol, comparison)) = found {
                    let right = Operand::parse(&text[at + symbol.len()..])?;
                    return Ok(Filter {
                        left: Operand::parse(&text[..at])?,
                        comparison: Some((*comparison, right)),
                    });
                }
            }
            _ => {}
        }
    }
    Ok(Filter { left: Operand::parse(text)?, comparison: None })
}

#[cfg(test)]
mod tests {
    use crate::json;
    use proptest::prelude::*;

    use super::*;

    fn tree() -> Value {
        json!({
            "metadata": {"annotations": {"a.b/c": "x"}},
            "spec": {"replicas": 3, "list": [1, 2, 3]},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "n": 1},
                {"type": "Other", "status": "False", "n": 2},
            ]},
        })
    }

    #[test]
    fn paths_find_values() {
        for (path, found) in [
            (".spec.replicas", json!([3])),
            ("{.spec.replicas}", json!([3])),
            ("$.spec.replicas", json!([3])),
            (".spec.absent", json!([])),
            (r".metadata.annotations.a\.b/c", json!(["x"])),
            (".metadata.annotations['a.b/c']", json!(["x"])),
            (".spec.list[0]", json!([1])),
            (".spec.list[-1]", json!([3])),
            (".spec.list[9]", json!([])),
            (".spec.list[1:]", json!([2, 3])),
            (".spec.list[:-1]", json!([1, 2])),
            (".spec.list[*]", json!([1, 2, 3])),
            (".spec['replicas','list']", json!([3, [1, 2, 3]])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.type!='Ready')].status", json!(["False"])),
            (".status.conditions[?(@.n > 1)].type", json!(["Other"])),
            (".status.conditions[?(@.absent)].type", json!([])),
            ("..status", json!([tree()["status"], "True", "False"])),
            ("", json!([tree()])),
        ] {
            let tree = tree();
            let values: Vec<Value> =
                JsonPath::parse(path).expect(path).find(&tree).into_iter().cloned().collect();
            assert_eq!(Value::from(values), found, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in ["spec", ".a[", ".a['b", ".a[b]", ".a[?(@.b=x)]", ".a b", ".a[?(@.b[?(@.c)])]", ".a]"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
        assert_eq!(JsonPath::parse(&".a".repeat(65)).unwrap_err(), PathError::TooLong);
        assert_eq!(JsonPath::parse(".a.b").unwrap().names(), Some(vec!["a", "b"]));
        assert!(!JsonPath::parse(".a[0]").unwrap().is_simple());
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in r#"[$@.\[\]{}()?*:'"\\a-c0-9<>=!, é-]{0,40}"#) {
            if let Ok(path) = JsonPath::parse(&text) {
                let _ = path.find(&tree());
            }
        }
    }
}
