//! YAML in and out as upstream's `sigs.k8s.io/yaml`: YAML 1.1 rules (`0644` is octal, `yes` and `on` are booleans), keys
//! of any scalar type become strings, integral floats become integers, and bombs are refused.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::{EnforcingPolicy, check_yaml_budget};
use serde_saphyr::options::{AliasLimits, DuplicateKeyPolicy, Options};
use serde_saphyr::{Budget, SerializerOptions, Spanned};

use crate::Value;
use crate::json::{self, SyntaxError};
use crate::strict::MAX_STRICT_ERRORS;

/// Deepest nesting of a document that is not JSON; what is nested deeper is generated, and generated as JSON.
pub const MAX_DEPTH: usize = 200;
/// Stack of the thread that reads a document. The YAML reader takes up to 25 KiB for a level (without optimisation),
/// which would be too much for the stack of whoever calls.
const STACK_BYTES: usize = 16 << 20;
/// Most nodes of a document, aliases expanded.
pub const MAX_NODES: usize = 1_000_000;
/// Deepest nesting of aliases in aliases.
pub const MAX_ALIAS_DEPTH: usize = 16;
/// Events (nodes and ends of collections) up to which aliases are not counted.
const UNCOUNTED_EVENTS: usize = 1000;

/// A text that is not YAML or exceeds a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("yaml: {0}")]
pub struct YamlError(String);

fn budget() -> Budget {
    let mut budget = Budget::default();
    budget.max_depth = MAX_DEPTH;
    budget.max_nodes = MAX_NODES;
    budget.max_events = 2 * MAX_NODES;
    // how often one anchor is used says little; what aliases come to is bounded below
    budget.enforce_alias_anchor_ratio = false;
    budget
}

/// The share of a document that aliases may make up when it has so many events once they are replaced: nearly all of a
/// small one, little of a large one. The numbers are go-yaml's (`allowedAliasRatio`), which upstream reads bodies with.
fn alias_share(events: usize) -> f64 {
    const SMALL: (f64, f64) = (400_000.0, 0.99);
    const LARGE: (f64, f64) = (4_000_000.0, 0.10);
    let beyond = ((events as f64 - SMALL.0) / (LARGE.0 - SMALL.0)).clamp(0.0, 1.0);
    SMALL.1 + beyond * (LARGE.1 - SMALL.1)
}

/// How many events aliases may stand for in a document that has `written` of them in its text.
fn alias_events(written: usize) -> usize {
    // what has to be written grows with the whole, so the largest whole is found by halving
    let fits = |aliased: usize| {
        let whole = written + aliased;
        aliased as f64 <= alias_share(whole) * whole as f64
    };
    let (mut allowed, mut refused) = (0, MAX_NODES + 1);
    while refused - allowed > 1 {
        let middle = usize::midpoint(allowed, refused);
        if fits(middle) { allowed = middle } else { refused = middle }
    }
    allowed.max(UNCOUNTED_EVENTS.saturating_sub(written))
}

/// How many events the aliases of a text may stand for. A text without aliases is not read for that.
fn alias_allowance(text: &str) -> usize {
    if !(text.contains('&') && text.contains('*')) {
        return 0;
    }
    // what is not YAML or exceeds the budget is found again, and told, when it is read
    check_yaml_budget(text, budget(), EnforcingPolicy::AllContent)
        .map_or(0, |report| alias_events(report.events))
}

fn options(duplicates: DuplicateKeyPolicy, alias_events: usize) -> Options {
    let mut limits = AliasLimits::default();
    limits.max_total_replayed_events = alias_events;
    limits.max_replay_stack_depth = MAX_ALIAS_DEPTH;
    let mut options = Options::default();
    options.budget = Some(budget());
    options.alias_limits = limits;
    options.duplicate_keys = duplicates;
    options.legacy_octal_numbers = true;
    options
}

type Documents = Result<Vec<Value>, serde_saphyr::Error>;

/// The documents of a text; empty ones are left out, unless there is no other.
fn read(text: &str) -> Documents {
    let options = || options(DuplicateKeyPolicy::LastWins, alias_allowance(text));
    let first: Result<Value, _> = serde_saphyr::from_str_with_options(text, options());
    let mut documents = match first {
        Ok(only) => vec![only],
        Err(error) => match error.without_snippet() {
            serde_saphyr::Error::MultipleDocuments { .. } => {
                serde_saphyr::from_multiple_with_options(text, options())?
            }
            _ => return Err(error),
        },
    };
    documents.iter_mut().for_each(whole_numbers);
    Ok(documents)
}

/// Runs a reader on a thread with enough stack.
fn aside<T: Send>(read: impl FnOnce() -> T + Send) -> Result<T, YamlError> {
    let failed = |what: &str| YamlError(format!("the document could not be read: {what}"));
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, read)
            .map_err(|e| failed(&e.to_string()))?
            .join()
            .map_err(|_| failed("the reader failed"))
    })
}

/// `1.0` and `1e3` are integers once Go has printed them as JSON on the way.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let float = number.as_f64().filter(|f| number.is_f64() && f.fract() == 0.0 && f.abs() < 1e15);
            if let Some(float) = float {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// Reads the first document; of a repeated key the last value stands.
///
/// JSON is YAML, and clients send it as such (server-side apply): it is read as JSON, which is faster and may be deeper.
pub fn parse(bytes: &[u8]) -> Result<Value, YamlError> {
    let text = String::from_utf8_lossy(bytes);
    if text.trim_start().starts_with('{') {
        match json::parse_str(&text) {
            Ok(parsed) => {
                let mut value = parsed.value;
                whole_numbers(&mut value);
                return Ok(value);
            }
            Err(error @ SyntaxError::TooDeep) => return Err(YamlError(error.to_string())),
            // a flow mapping that is no JSON
            Err(_) => {}
        }
    }
    Ok(documents(&text)?.into_iter().next().unwrap_or_default())
}

fn documents(text: &str) -> Result<Vec<Value>, YamlError> {
    aside(|| read(text).map_err(|error| explain(&error)))?
}

/// Reads every document of a manifest, without the empty ones; of a repeated key the last value stands.
pub fn parse_all(bytes: &[u8]) -> Result<Vec<Value>, YamlError> {
    let mut documents = documents(&String::from_utf8_lossy(bytes))?;
    documents.retain(|document| !document.is_null());
    Ok(documents)
}

/// The repeated keys of a document that [`parse`] reads, in the words of upstream's strict reader and its order: those
/// within a value come before the key itself.
pub fn repeated_keys(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    if text.trim_start().starts_with('{') && json::parse_str(&text).is_ok_and(|p| !p.has_duplicates) {
        return Vec::new();
    }
    let find = || {
        let found = RefCell::new(Vec::new());
        let options = options(DuplicateKeyPolicy::PassThrough, alias_allowance(&text));
        let _ = serde_saphyr::with_deserializer_from_str_with_options(&text, options, |reader| {
            Repeated(&found).deserialize(reader)
        });
        found.into_inner()
    };
    aside(find).unwrap_or_default()
}

/// Repeated keys as one text, as upstream's strict reader fails.
pub fn unmarshal_errors(repeated: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", repeated.join("\n  "))
}

/// Walks a document and notes repeated keys, as many as are reported of JSON.
#[derive(Clone, Copy)]
struct Repeated<'f>(&'f RefCell<Vec<String>>);

impl<'de> DeserializeSeed<'de> for Repeated<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Repeated<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            map.next_value_seed(self)?;
            let line = key.referenced.line();
            if seen.contains(&key.value) && self.0.borrow().len() < MAX_STRICT_ERRORS {
                let key = json::go_quote(&key.value);
                self.0.borrow_mut().push(format!("line {line}: key {key} already set in map"));
            }
            seen.insert(key.value);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        self.deserialize(reader)
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i128<E>(self, _: i128) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u128<E>(self, _: u128) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<(), E> {
        Ok(())
    }
}

fn explain(error: &serde_saphyr::Error) -> YamlError {
    let bare = error.without_snippet();
    let text = bare.to_string();
    // one line: the text goes into a Status message and into headers
    let first = text.lines().next().unwrap_or_default().trim();
    YamlError(match bare.location() {
        Some(location) if location.line() > 0 => format!("line {}: {first}", location.line()),
        _ => first.to_owned(),
    })
}

/// Prints a document: block style, keys sorted, list items at the indent of their key, as upstream does.
pub fn to_string(value: &Value) -> String {
    let mut options = SerializerOptions::default();
    options.compact_list_indent = true;
    let mut out = String::new();
    match serde_saphyr::to_fmt_writer_with_options(&mut out, value, options) {
        Ok(()) => out,
        // JSON is YAML; a tree of strings, numbers, lists and maps always prints, so this is never seen
        Err(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn rules_are_those_of_yaml_1_1() {
        let text = "mode: 0644\nyes: on\n1: y\nn: ~\ntrue: 'no'\nf: 1.0\ng: 1e3\nh: 1.5\nt: 2026-01-02\n\
                    base: &b {a: 1}\nuse:\n  <<: *b\n  c: 0x10\nbig: 12345678901234567890123\n";
        assert_eq!(
            parse(text.as_bytes()).unwrap(),
            json!({"mode": 420, "yes": true, "1": true, "n": null, "true": "no", "f": 1, "g": 1000, "h": 1.5,
                "t": "2026-01-02", "base": {"a": 1}, "use": {"a": 1, "c": 16}, "big": 1.234_567_890_123_456_8e22})
        );
    }

    #[test]
    fn documents_are_told_apart() {
        let text = b"# first\na: 1\n---\n---\nb: 2.0\n---\n# nothing\n";
        assert_eq!(parse(text).unwrap(), json!({"a": 1}));
        assert_eq!(parse_all(text).unwrap(), [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(parse_all(b"a: 1").unwrap(), [json!({"a": 1})]);
        assert_eq!(parse_all(b"").unwrap(), [Value::Null; 0]);
        assert_eq!(parse(b"").unwrap(), Value::Null);
    }

    #[test]
    fn json_is_yaml() {
        let text = br#"{"a": 1.0, "b": "yes", "c": [null]}"#;
        assert_eq!(parse(text).unwrap(), json!({"a": 1, "b": "yes", "c": [null]}));
        assert_eq!(parse(b"{a: yes, b: 0644}").unwrap(), json!({"a": true, "b": 420}));
        assert_eq!(repeated_keys(text), [""; 0]);
        assert_eq!(repeated_keys(br#"{"a": 1, "a": 2}"#), ["line 1: key \"a\" already set in map"]);
    }

    #[test]
    fn repeated_keys_are_named() {
        let text = b"a:\n  b: 1\n  b: 2\n";
        assert_eq!(parse(text).unwrap(), json!({"a": {"b": 2}}));
        let repeated = |text: &str| {
            let texts = repeated_keys(text.as_bytes());
            texts.iter().map(|t| t.replace(" already set in map", "")).collect::<Vec<_>>()
        };
        let cases: [(&str, &[&str]); 8] = [
            ("a:\n  b: 1\n  b: 2\n", &["line 3: key \"b\""]),
            ("a: 1\nb: 1\n", &[]),
            ("a: 1\na: 2\na: 3\n", &["line 2: key \"a\"", "line 3: key \"a\""]),
            // what is within a repeated value comes first
            ("a: 1\na: {b: ~, b: yes}\n", &["line 2: key \"b\"", "line 2: key \"a\""]),
            (
                "l:\n- a: 1.5\n  a: x\n- [{c: 0x1, c: 2026-01-02}]\n",
                &["line 3: key \"a\"", "line 4: key \"c\""],
            ),
            // a merged key is overridden, not repeated
            ("x: &x {a: 1}\ny:\n  <<: *x\n  a: 2\n", &[]),
            ("a: 1\n---\nb: 1\nb: 2\n", &[]),
            ("a: [\n", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(repeated(text), expected, "{text}");
        }
        assert_eq!(repeated_keys("a: 1\n".repeat(1000).as_bytes()).len(), MAX_STRICT_ERRORS);
        let two = ["line 2: x".to_owned(), "line 3: y".to_owned()];
        assert_eq!(unmarshal_errors(&two), "yaml: unmarshal errors:\n  line 2: x\n  line 3: y");
    }

    /// Lists of ten aliases of the list before, `levels` of them.
    fn bomb(levels: usize) -> String {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..levels {
            let refs = vec![format!("*a{}", i - 1); 10].join(",");
            bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        bomb
    }

    #[test]
    fn aliases_stand_for_a_share_of_what_is_written() {
        for (written, allowed) in [
            (0, UNCOUNTED_EVENTS),
            (10, UNCOUNTED_EVENTS - 10),
            (100, 9_900),
            (1_000, 99_000),
            (4_000, 396_000),
            (100_000, 740_700),
            (1_000_000, MAX_NODES),
        ] {
            let found = alias_events(written);
            assert!(found.abs_diff(allowed) * 50 <= allowed, "{written}: {found}");
        }
    }

    #[test]
    fn what_is_small_may_repeat_itself() {
        let parsed = parse(bomb(2).as_bytes()).unwrap();
        assert_eq!(parsed["a1"][9], json!(["x", "x", "x", "x", "x", "x", "x", "x", "x", "x"]));
        // a manifest that shares its labels and environment many times
        let shared =
            "env: &env {A: a, B: b, C: c}\nlist:\n".to_owned() + &"- name: x\n  env: *env\n".repeat(500);
        assert_eq!(parse(shared.as_bytes()).unwrap()["list"][499]["env"]["C"], "c");
        // an asterisk and an ampersand alone make no alias
        assert_eq!(parse(b"a: '*'\nb: x&y\n").unwrap(), json!({"a": "*", "b": "x&y"}));
    }

    #[test]
    fn bombs_and_depth_are_refused() {
        // from the fourth level on more than 99 in 100 events are aliases'; the large ones are over as soon
        for levels in [4, 5, 6, 12, 15] {
            let error = parse(bomb(levels).as_bytes()).unwrap_err().to_string();
            assert!(error.contains("alias"), "{levels}: {error}");
        }
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
        assert_eq!(
            parse("{\"a\":".repeat(json::MAX_DEPTH + 1).as_bytes()).unwrap_err().to_string(),
            "yaml: exceeded max depth"
        );
        let deep = |levels: usize| "- ".repeat(levels) + "x";
        assert!(parse(deep(MAX_DEPTH - 1).as_bytes()).is_ok());
        assert!(parse(deep(MAX_DEPTH + 1).as_bytes()).is_err());
        let error = parse(b"a: [").unwrap_err().to_string();
        assert!(error.starts_with("yaml: line ") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn what_is_printed_reads_back() {
        let value = json!({
            "spec": {"containers": [{"name": "a", "args": ["yes", "1", "", "a: b", "x\ny\n", "0644", "null", "~"]}]},
            "empty": {}, "none": [], "n": null, "i": 3, "f": 1.5, "b": true, "s": "line\n",
            "long": "word ".repeat(60), "odd": "\t'\"\\ #", "date": "2026-01-02", "1": "on",
        });
        let text = to_string(&value);
        assert_eq!(parse(text.as_bytes()).unwrap(), value, "{text}");
        assert!(text.contains("  containers:\n  - "), "{text}");
    }
}
