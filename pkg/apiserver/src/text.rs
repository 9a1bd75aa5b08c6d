//! JSON text of trees, as serde_json writes it, but with the eye on what objects are made of: short texts without
//! anything to escape.

use std::io::Write as _;

use apimachinery::Value;

/// Appends a tree.
pub(crate) fn value(tree: &Value, out: &mut Vec<u8>) {
    match tree {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        // writing to a vector cannot fail
        Value::Number(number) => _ = write!(out, "{number}"),
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                value(item, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            for (i, (key, member)) in members.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                string(key, out);
                out.push(b':');
                value(member, out);
            }
            out.push(b'}');
        }
    }
}

/// Appends a text with its quotes.
pub(crate) fn string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = first_to_escape(rest) {
        out.extend_from_slice(&rest[..at]);
        escape(rest[at], out);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Where the first quote, backslash or control character is; eight bytes at a time.
fn first_to_escape(bytes: &[u8]) -> Option<usize> {
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

fn escape(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0c => out.extend_from_slice(b"\\f"),
        // writing to a vector cannot fail
        control => _ = write!(out, "\\u{control:04x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

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
