//! YAML in and out as upstream's `sigs.k8s.io/yaml`: YAML 1.1 rules (`0644` is octal, `yes` and `on` are booleans), keys
//! of any scalar type become strings, integral floats become integers, and bombs are refused.

use serde_saphyr::budget::{EnforcingPolicy, check_yaml_budget};
use serde_saphyr::options::{AliasLimits, DuplicateKeyPolicy, Options};
use serde_saphyr::{Budget, SerializerOptions};

use crate::Value;
use crate::json::{self, SyntaxError};

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

/// A text that is not YAML, exceeds a limit, or (strictly read) repeats a key.
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
fn read(text: &str, duplicates: DuplicateKeyPolicy) -> Documents {
    let options = || options(duplicates, alias_allowance(text));
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

/// [`read`] and `then` on a thread with enough stack.
fn read_aside<T: Send>(
    text: &str,
    duplicates: DuplicateKeyPolicy,
    then: impl FnOnce(Documents) -> T + Send,
) -> Result<T, YamlError> {
    let failed = |what: &str| YamlError(format!("the document could not be read: {what}"));
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || then(read(text, duplicates)))
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
    read_aside(text, DuplicateKeyPolicy::LastWins, |read| read.map_err(|error| explain(&error)))?
}

/// Reads every document of a manifest, without the empty ones; of a repeated key the last value stands.
pub fn parse_all(bytes: &[u8]) -> Result<Vec<Value>, YamlError> {
    let mut documents = documents(&String::from_utf8_lossy(bytes))?;
    documents.retain(|document| !document.is_null());
    Ok(documents)
}

/// The first repeated key of a document that [`parse`] reads, in the words of upstream's strict reader.
pub fn duplicate_key(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    if text.trim_start().starts_with('{') && json::parse_str(&text).is_ok_and(|p| !p.has_duplicates) {
        return None;
    }
    read_aside(&text, DuplicateKeyPolicy::Error, |read| match read.err()?.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, location } => Some(format!(
            "yaml: unmarshal errors:\n  line {}: key {:?} already set in map",
            location.line(),
            key.as_deref().unwrap_or_default()
        )),
        _ => None,
    })
    .ok()?
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
        assert_eq!(duplicate_key(text), None);
        assert!(
            duplicate_key(br#"{"a": 1, "a": 2}"#).unwrap().ends_with("line 1: key \"a\" already set in map")
        );
    }

    #[test]
    fn repeated_keys_are_named() {
        let text = b"a:\n  b: 1\n  b: 2\n";
        assert_eq!(parse(text).unwrap(), json!({"a": {"b": 2}}));
        assert_eq!(
            duplicate_key(text).unwrap(),
            "yaml: unmarshal errors:\n  line 3: key \"b\" already set in map"
        );
        assert_eq!(duplicate_key(b"a: 1\nb: 1\n"), None);
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
