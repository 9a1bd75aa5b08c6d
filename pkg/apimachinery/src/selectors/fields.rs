//! Field selectors: `metadata.name=a,status.phase!=Running`, values escaped with backslashes.
//!
//! Source: `k8s.io/apimachinery/pkg/fields`. Which fields a kind has is its descriptor's business.

use std::fmt;
use std::str::FromStr;

/// Longest text that is parsed.
pub const MAX_SELECTOR_BYTES: usize = super::labels::MAX_SELECTOR_BYTES;

/// One comparison of a field with a text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Term {
    /// Name of the field.
    pub field: String,
    /// Text it must (or must not) have.
    pub value: String,
    /// `!=`.
    pub negated: bool,
}

/// Terms that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    /// The terms, in the order of their texts.
    pub terms: Vec<Term>,
}

/// Why a text is no field selector, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum FieldSelectorError {
    #[error("invalid selector: '{selector}'; can't understand '{part}'")]
    Term { selector: String, part: String },
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// Go prints the number of the character.
    #[error("invalid field selector: unescaped character in value: {0}")]
    Unescaped(u32),
    #[error("the field selector is too long")]
    TooLong,
}

impl FieldSelector {
    /// Exactly one field with one value.
    pub fn equals(field: impl Into<String>, value: impl Into<String>) -> Self {
        Self { terms: vec![Term { field: field.into(), value: value.into(), negated: false }] }
    }

    /// No condition at all.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value a field must have, where some term says so.
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| !t.negated && t.field == field).map(|t| t.value.as_str())
    }

    /// Whether every term holds, given the text of each field (`""` for unset ones).
    pub fn matches<V: AsRef<str>>(&self, get: impl Fn(&str) -> V) -> bool {
        self.terms.iter().all(|term| (get(&term.field).as_ref() == term.value) != term.negated)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if term.negated { "!=" } else { "=" };
            write!(f, "{comma}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

/// A text as a value in a field selector.
pub fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn unescape(text: &str) -> Result<String, FieldSelectorError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(other) => return Err(FieldSelectorError::Escape(format!("\\{other}"))),
                None => return Err(FieldSelectorError::Escape("\\".into())),
            },
            ',' | '=' => return Err(FieldSelectorError::Unescaped(c.into())),
            other => out.push(other),
        }
    }
    Ok(out)
}

/// The parts between commas that are not escaped.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

impl FromStr for FieldSelector {
    type Err = FieldSelectorError;

    fn from_str(text: &str) -> Result<Self, FieldSelectorError> {
        if text.len() > MAX_SELECTOR_BYTES {
            return Err(FieldSelectorError::TooLong);
        }
        let mut parts = split(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let at = part.char_indices().find_map(|(i, c)| match c {
                '!' if part[i..].starts_with("!=") => Some((i, 2, true)),
                '=' if part[i..].starts_with("==") => Some((i, 2, false)),
                '=' => Some((i, 1, false)),
                _ => None,
            });
            let Some((at, length, negated)) = at else {
                return Err(FieldSelectorError::Term { selector: text.into(), part: part.into() });
            };
            terms.push(Term { field: part[..at].into(), value: unescape(&part[at + length..])?, negated });
        }
        Ok(Self { terms })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_parse_and_print() {
        for (text, printed) in [
            ("", ""),
            ("a=b", "a=b"),
            ("b!=c,a==b", "a=b,b!=c"),
            ("a=,b", "?invalid selector: 'a=,b'; can't understand 'b'"),
            (r"a=x\,y\=z\\", r"a=x\,y\=z\\"),
            (r"a=x\y", r"?invalid field selector: invalid escape sequence: \y"),
            (r"a=x\", r"?invalid field selector: invalid escape sequence: \"),
            ("a=b=c", "?invalid field selector: unescaped character in value: 61"),
            (",,a=b,", "a=b"),
        ] {
            let shown = match text.parse::<FieldSelector>() {
                Ok(selector) => selector.to_string(),
                Err(error) => format!("?{error}"),
            };
            assert_eq!(shown, printed, "{text}");
        }
    }

    #[test]
    fn matching() {
        let get = |field: &str| if field == "spec.nodeName" { "n1" } else { "" };
        for (text, matched) in [
            ("spec.nodeName=n1", true),
            ("spec.nodeName!=n1", false),
            ("spec.nodeName=", false),
            ("status.phase=", true),
            ("status.phase!=Failed,spec.nodeName=n1", true),
        ] {
            assert_eq!(text.parse::<FieldSelector>().unwrap().matches(get), matched, "{text}");
        }
        let selector: FieldSelector = "a!=b,c=d".parse().unwrap();
        assert_eq!((selector.required_value("a"), selector.required_value("c")), (None, Some("d")));
    }

    proptest! {
        #[test]
        fn values_survive_escaping(value in ".{0,20}") {
            let selector = FieldSelector::equals("a", value);
            prop_assert_eq!(selector.to_string().parse::<FieldSelector>().unwrap(), selector);
        }

        #[test]
        fn any_text_gives_an_answer(text in r"[a=!,\\é]{0,30}") {
            let _ = text.parse::<FieldSelector>();
        }
    }
}
