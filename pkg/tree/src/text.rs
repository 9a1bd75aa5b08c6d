//! JSON text of trees, as serde_json writes it, but with the eye on what objects are made of: short texts without
//! anything to escape.

use std::fmt::{self, Write as _};

use crate::Value;

/// What text is appended to.
pub trait Sink {
    /// Appends a part.
    fn push_part(&mut self, part: &str);
}

impl Sink for Vec<u8> {
    fn push_part(&mut self, part: &str) {
        self.extend_from_slice(part.as_bytes());
    }
}

impl Sink for String {
    fn push_part(&mut self, part: &str) {
        self.push_str(part);
    }
}

/// A sink as what is formatted goes to it.
struct Formatted<'s, S>(&'s mut S);

impl<S: Sink> fmt::Write for Formatted<'_, S> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0.push_part(part);
        Ok(())
    }
}

/// Appends a tree.
pub fn value(tree: &Value, out: &mut impl Sink) {
    match tree {
        Value::Null => out.push_part("null"),
        Value::Bool(true) => out.push_part("true"),
        Value::Bool(false) => out.push_part("false"),
        // a sink takes everything
        Value::Number(number) => _ = write!(Formatted(out), "{number}"),
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            out.push_part("[");
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_part(",");
                }
                value(item, out);
            }
            out.push_part("]");
        }
        Value::Object(members) => {
            out.push_part("{");
            for (i, (key, member)) in members.iter().enumerate() {
                if i > 0 {
                    out.push_part(",");
                }
                string(key, out);
                out.push_part(":");
                value(member, out);
            }
            out.push_part("}");
        }
    }
}

/// Appends a text with its quotes.
pub fn string(text: &str, out: &mut impl Sink) {
    out.push_part("\"");
    let mut rest = text;
    while let Some(at) = first_to_escape(rest.as_bytes()) {
        out.push_part(&rest[..at]);
        escape(rest.as_bytes()[at], out);
        // what is escaped is one byte long
        rest = &rest[at + 1..];
    }
    out.push_part(rest);
    out.push_part("\"");
}

/// Where the first quote, backslash or control character is, with which a JSON string goes on otherwise; eight bytes at a
/// time.
pub fn first_to_escape(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let (words, tail) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_ne_bytes(*word);
        // the high bit of a byte is set where the byte is below n; bytes from 128 on never count
        let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGHS;
        let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        if below(word, 0x20) | equal(b'"') | equal(b'\\') != 0 {
            // a borrow can set too many bits, never too few
            if let Some(at) = word.to_ne_bytes().iter().position(|byte| must_escape(*byte)) {
                return Some(i * 8 + at);
            }
        }
    }
    let start = bytes.len() - tail.len();
    tail.iter().position(|byte| must_escape(*byte)).map(|at| start + at)
}

fn must_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn escape(byte: u8, out: &mut impl Sink) {
    match byte {
        b'"' => out.push_part("\\\""),
        b'\\' => out.push_part("\\\\"),
        b'\n' => out.push_part("\\n"),
        b'\r' => out.push_part("\\r"),
        b'\t' => out.push_part("\\t"),
        0x08 => out.push_part("\\b"),
        0x0c => out.push_part("\\f"),
        // a sink takes everything
        control => _ = write!(Formatted(out), "\\u{control:04x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn texts_are_those_of_serde_json() {
        let all: String = (0..=0x7f_u8).map(char::from).chain("äöü€𝄞\u{80}\u{2028}".chars()).collect();
        let mut texts = vec![String::new(), all.clone()];
        // every character at every place of a word
        for (i, c) in all.chars().enumerate() {
            for before in 0..9 {
                texts.push(format!("{}{c}{}", "x".repeat(before), "y".repeat(i % 12)));
            }
        }
        for text in texts {
            let mut out = Vec::new();
            string(&text, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), serde_json::to_string(&text).expect("a text"));
        }
    }

    #[test]
    fn trees_are_those_of_serde_json() {
        let tree = json!({"a": [1, -2, 1.5, 1e300, true, false, null, [], {}], "b": {"c\"": "d\n"}, "": "x"});
        let mut out = Vec::new();
        value(&tree, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), tree.to_string());
    }
}
