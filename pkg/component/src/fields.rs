//! Flags that stand for fields of a component's configuration file: a flag is its field, laid over the file.
//!
//! A component gives a table of [`Field`]s; values that a field refuses are then refused whichever way they come.

use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value, json};

use crate::flags::go_bool;

/// How a flag's text becomes a value of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Text,
    /// `true`, `false`; without a value it is `true`.
    Boolean,
    /// An integer or a decimal number.
    Number,
    /// `a,b`
    List,
    /// `a=b,c=d`
    Map,
    /// `a=true,b=false`, laid over the file's one by one.
    Gates,
    /// `signal<quantity,...`
    Thresholds,
    /// `key=value:effect,...`
    Taints,
}

/// Flag, field with dots between levels, form.
pub type Field = (&'static str, &'static str, Form);

/// Why flags cannot be laid over a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid argument {text:?} for \"--{flag}\": {reason}")]
pub struct Malformed {
    /// Which flag.
    pub flag: &'static str,
    /// What it was given.
    pub text: String,
    /// What is wrong with that.
    pub reason: String,
}

/// Adds the flags to a command.
pub fn add(command: Command, fields: &[Field]) -> Command {
    fields.iter().fold(command, |command, (flag, field, form)| {
        let arg = Arg::new(*flag).long(*flag).help(format!("The field {field} of the configuration file"));
        command.arg(match form {
            Form::Boolean => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            Form::Number => arg.allow_negative_numbers(true),
            _ => arg,
        })
    })
}

/// Lays the flags that were given over a file.
pub fn overlay(matches: &ArgMatches, fields: &[Field], file: &mut Value) -> Result<(), Malformed> {
    for (flag, field, form) in fields {
        let Some(text) = matches.get_one::<String>(flag) else { continue };
        let value = form.value(text).map_err(|reason| Malformed { flag, text: text.clone(), reason })?;
        let mut at = &mut *file;
        for part in field.split('.') {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[part];
        }
        match (&mut *at, value) {
            (Value::Object(old), Value::Object(new)) if *form == Form::Gates => old.extend(new),
            (at, value) => *at = value,
        }
    }
    Ok(())
}

/// Lays one file over another: objects are merged, everything else is replaced.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn pairs(text: &str, separator: char) -> Result<Vec<(&str, &str)>, String> {
    parts(text)
        .map(|part| part.split_once(separator).ok_or_else(|| format!("{part:?} has no {separator:?}")))
        .collect()
}

fn boolean(text: &str) -> Result<Value, String> {
    go_bool(text.trim()).map(Value::Bool).ok_or_else(|| "not a boolean".to_owned())
}

impl Form {
    fn value(self, text: &str) -> Result<Value, String> {
        let strings = |pairs: Vec<(&str, &str)>| -> Value {
            pairs.into_iter().map(|(k, v)| (k.trim().to_owned(), json!(v.trim()))).collect()
        };
        Ok(match self {
            Self::Text => json!(text),
            Self::Boolean => boolean(text)?,
            Self::Number => match text.parse::<i64>() {
                Ok(whole) => json!(whole),
                Err(_) => {
                    json!(text.parse::<f64>().ok().filter(|n| n.is_finite()).ok_or("not a number")?)
                }
            },
            Self::List => parts(text).collect(),
            Self::Map => strings(pairs(text, '=')?),
            Self::Thresholds => strings(pairs(text, '<')?),
            Self::Gates => pairs(text, '=')?
                .into_iter()
                .map(|(gate, on)| Ok((gate.trim().to_owned(), boolean(on)?)))
                .collect::<Result<Map<String, Value>, String>>()?
                .into(),
            Self::Taints => parts(text).map(taint).collect::<Result<_, _>>()?,
        })
    }
}

/// `key=value:effect` or `key:effect`.
fn taint(text: &str) -> Result<Value, String> {
    let (name, effect) = text.rsplit_once(':').ok_or_else(|| format!("invalid taint spec: {text}"))?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(format!("invalid taint effect: {effect}"));
    }
    let (key, value) = name.split_once('=').unwrap_or((name, ""));
    Ok(json!({"key": key, "value": value, "effect": effect}))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        ("max-pods", "maxPods", Form::Number),
        ("anonymous-auth", "authentication.anonymous.enabled", Form::Boolean),
        ("webhook", "authentication.webhook.enabled", Form::Boolean),
        ("cluster-dns", "clusterDNS", Form::List),
        ("eviction-hard", "evictionHard", Form::Thresholds),
        ("eviction-minimum-reclaim", "evictionMinimumReclaim", Form::Map),
        ("feature-gates", "featureGates", Form::Gates),
        ("register-with-taints", "registerWithTaints", Form::Taints),
        ("oom-score-adj", "oomScoreAdj", Form::Number),
        ("qps", "qps", Form::Number),
    ];

    fn laid_over(flags: &[&str], mut file: Value) -> Result<Value, String> {
        let command = add(Command::new("kubelet"), FIELDS);
        let arguments = std::iter::once("kubelet").chain(flags.iter().copied());
        let matches = command.try_get_matches_from(arguments).map_err(|e| e.to_string())?;
        overlay(&matches, FIELDS, &mut file).map_err(|e| e.to_string())?;
        Ok(file)
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = json!({"maxPods": 5, "port": 1, "featureGates": {"A": true, "B": true}});
        let flags = [
            "--max-pods=7",
            "--anonymous-auth",
            "--webhook=false",
            "--cluster-dns=10.0.0.1,10.0.0.2",
            "--eviction-hard=memory.available<5%,nodefs.available<1Gi",
            "--eviction-minimum-reclaim=memory.available=1Gi",
            "--feature-gates=B=false,C=true",
            "--register-with-taints=a=b:NoSchedule,c:NoExecute",
            "--oom-score-adj=-5",
            "--qps=2.5",
        ];
        let expected = json!({
            "maxPods": 7, "port": 1, "featureGates": {"A": true, "B": false, "C": true},
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "clusterDNS": ["10.0.0.1", "10.0.0.2"],
            "evictionHard": {"memory.available": "5%", "nodefs.available": "1Gi"},
            "evictionMinimumReclaim": {"memory.available": "1Gi"},
            "registerWithTaints": [
                {"key": "a", "value": "b", "effect": "NoSchedule"}, {"key": "c", "value": "", "effect": "NoExecute"}],
            "oomScoreAdj": -5, "qps": 2.5,
        });
        assert_eq!(laid_over(&flags, file), Ok(expected));
    }

    #[test]
    fn malformed_flags_are_refused() {
        for flag in [
            "--max-pods=many",
            "--anonymous-auth=maybe",
            "--eviction-hard=memory.available=1Gi",
            "--register-with-taints=a:Never",
            "--no-such-flag=1",
        ] {
            assert!(laid_over(&[flag], json!({})).is_err(), "{flag}");
        }
    }

    #[test]
    fn files_merge() {
        let mut base = json!({"a": {"b": 1, "c": [1]}, "d": 1});
        merge(&mut base, json!({"a": {"c": [2], "e": 3}, "d": 2}));
        assert_eq!(base, json!({"a": {"b": 1, "c": [2], "e": 3}, "d": 2}));
    }
}
