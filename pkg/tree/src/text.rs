//! JSON text of trees, as serde_json writes it, but with the eye on what objects are made of: short texts without
//! anything to escape.

use std::fmt::{self, Write as _};

use crate::Value;

/// What text is appended to.
pub trait Sink {
    /// Appends a part.
    fn push_part(&mut self, part: &str);

    /// Appends a text that has nothing to escape, between quotes; answers whether it has not, or nothing is appended.
    fn push_plain(&mut self, text: &str) -> bool {
        let is_plain = first_to_escape(text.as_bytes()).is_none();
        if is_plain {
            self.push_part("\"");
            self.push_part(text);
            self.push_part("\"");
        }
        is_plain
    }
}

impl Sink for Vec<u8> {
    fn push_part(&mut self, part: &str) {
        match part.as_bytes() {
            // brackets, colons and commas
            [byte] => self.push(*byte),
            bytes => self.extend_from_slice(bytes),
        }
    }

    /// Looks at what it copies: eight bytes at a time, without a call.
    fn push_plain(&mut self, text: &str) -> bool {
        let start = self.len();
        self.reserve(text.len() + WORD + 2);
        self.push(b'"');
        let (words, tail) = text.as_bytes().as_chunks::<WORD>();
        for word in words {
            if to_escape(u64::from_le_bytes(*word)) != 0 {
                self.truncate(start);
                return false;
            }
            self.extend_from_slice(word);
        }
        let last = last_word(text.as_bytes(), tail.len());
        if to_escape(last | filler(tail.len())) != 0 {
            self.truncate(start);
            return false;
        }
        self.extend_from_slice(&last.to_le_bytes());
        self.truncate(start + 1 + text.len());
        self.push(b'"');
        true
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
            if let Some(Ok(text)) = members.text().map(|text| std::str::from_utf8(text)) {
                return out.push_part(text);
            }
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
    if out.push_plain(text) {
        return;
    }
    out.push_part("\"");
    let mut rest = text;
    let mut next = first_to_escape(text.as_bytes());
    while let Some(at) = next {
        out.push_part(&rest[..at]);
        escape(rest.as_bytes()[at], out);
        // what is escaped is one byte long
        rest = &rest[at + 1..];
        next = first_to_escape(rest.as_bytes());
    }
    out.push_part(rest);
    out.push_part("\"");
}

/// Where the first quote, backslash or control character is, with which a JSON string goes on otherwise; eight bytes at a
/// time.
pub fn first_to_escape(bytes: &[u8]) -> Option<usize> {
    let (words, tail) = bytes.as_chunks::<WORD>();
    for (i, word) in words.iter().enumerate() {
        let found = to_escape(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(i * WORD + first(found));
        }
    }
    let found = to_escape(last_word(bytes, tail.len()) | filler(tail.len()));
    (found != 0).then(|| bytes.len() - tail.len() + first(found))
}

/// The last `len` bytes, fewer than a word, as the low ones of a word whose others are 0.
fn last_word(bytes: &[u8], len: usize) -> u64 {
    let tail = &bytes[bytes.len() - len..];
    if len == 0 {
        0
    } else if let Some(last) = bytes.last_chunk::<WORD>() {
        u64::from_le_bytes(*last) >> (8 * (WORD - len))
    } else if let (Some(head), Some(end)) = (tail.first_chunk::<4>(), tail.last_chunk::<4>()) {
        // what is in both is the same in both
        u64::from(u32::from_le_bytes(*head)) | u64::from(u32::from_le_bytes(*end)) << (8 * (len - 4))
    } else {
        tail.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
    }
}

/// Bytes that are not escaped in the places of a word after the first `len`.
fn filler(len: usize) -> u64 {
    (ONES * u64::from(b' ')) << (8 * len)
}

const WORD: usize = size_of::<u64>();
const ONES: u64 = u64::from_ne_bytes([1; WORD]);

/// Has the high bit of the first byte set that must be escaped, and none before; nothing when there is none.
fn to_escape(word: u64) -> u64 {
    const HIGHS: u64 = ONES << 7;
    // the high bit of a byte is set where the byte is below n; bytes from 128 on never count. Of several bits only the
    // first is certain: a byte that is below borrows from the next one
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGHS;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    below(word, 0x20) | equal(b'"') | equal(b'\\')
}

fn first(found: u64) -> usize {
    found.trailing_zeros() as usize / 8
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
