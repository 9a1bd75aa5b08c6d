//! Where the resourceVersion goes in an object's JSON, found without decoding it. The bytes may be anything: what is
//! not an object is an error, never a panic.

use apimachinery::text::first_to_escape;

/// The place for `metadata.resourceVersion` in an object's JSON, and the text around the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Splice {
    /// Byte offset of the insertion.
    pub(crate) at: usize,
    pub(crate) before: &'static str,
    pub(crate) after: &'static str,
    /// Bytes from `at` on that hold a resourceVersion already and must be cut out first.
    pub(crate) cut: usize,
    /// Where the value of `metadata` begins and ends, if there is one.
    pub(crate) metadata: Option<(usize, usize)>,
}

impl Splice {
    /// The place in an object whose metadata is at `metadata` and has members. `follower` is where the first of its members
    /// begins that comes after a resourceVersion, if there is one; it has none itself.
    pub(crate) fn among(metadata: (usize, usize), follower: Option<usize>) -> Self {
        let (at, before, after) = match follower {
            Some(at) => (at, r#""resourceVersion":""#, r#"","#),
            None => (metadata.1 - 1, r#","resourceVersion":""#, r#"""#),
        };
        Self { at, before, after, cut: 0, metadata: Some(metadata) }
    }

    /// `json`, where the place was found, with a resourceVersion.
    pub(crate) fn with_version(&self, json: &[u8], revision: i64, out: &mut Vec<u8>) {
        const DIGITS: usize = 20;
        out.reserve(json.len() + self.before.len() + self.after.len() + DIGITS);
        out.extend_from_slice(&json[..self.at]);
        out.extend_from_slice(self.before.as_bytes());
        write_decimal(revision, out);
        out.extend_from_slice(self.after.as_bytes());
        out.extend_from_slice(&json[self.at + self.cut..]);
    }
}

pub(crate) fn write_decimal(number: i64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    // writing to a vector cannot fail
    let _ = write!(out, "{number}");
}

/// Deepest nesting followed; the decoder of request bodies refuses deeper ones. Nothing here recurses.
const MAX_DEPTH: usize = 10_000;
const NAME: &[u8] = b"resourceVersion";

/// Finds the place, keeping the keys of `metadata` sorted where they are.
pub(crate) fn splice(json: &[u8]) -> Result<Splice, &'static str> {
    let mut scanner = Scanner::new(json);
    scanner.eat(b'{')?;
    let start = scanner.at;
    let mut empty = true;
    while let Some(member) = scanner.member(empty)? {
        empty = false;
        if member.key == b"metadata" {
            return metadata(&mut scanner);
        }
        scanner.value()?;
    }
    let (before, after) = if empty {
        (r#""metadata":{"resourceVersion":""#, r#""}"#)
    } else {
        (r#""metadata":{"resourceVersion":""#, r#""},"#)
    };
    Ok(Splice { at: start, before, after, cut: 0, metadata: None })
}

fn metadata(scanner: &mut Scanner<'_>) -> Result<Splice, &'static str> {
    scanner.eat(b'{')?;
    let start = scanner.at;
    let mut place = None;
    let mut old = None;
    let mut last = start;
    let mut empty = true;
    while let Some(member) = scanner.member(empty)? {
        empty = false;
        scanner.value()?;
        last = scanner.at;
        if member.key == NAME {
            // a comma after the member goes with it; one before it stays, as the new member takes the place
            scanner.space();
            let comma = scanner.peek() == Some(b',');
            old.get_or_insert((member.at, scanner.at + usize::from(comma), comma));
        } else if place.is_none() && member.key > NAME {
            place = Some(member.at);
        }
    }
    let metadata = Some((start - 1, scanner.at));
    let before = r#""resourceVersion":""#;
    Ok(match (old, place) {
        (Some((at, end, comma)), _) => {
            let after = if comma { r#"","# } else { r#"""# };
            Splice { at, before, after, cut: end - at, metadata }
        }
        (None, Some(at)) => Splice { at, before, after: r#"","#, cut: 0, metadata },
        (None, None) if empty => Splice { at: start, before, after: r#"""#, cut: 0, metadata },
        (None, None) => {
            Splice { at: last, before: r#","resourceVersion":""#, after: r#"""#, cut: 0, metadata }
        }
    })
}

/// A member of an object, its value to come next.
pub(crate) struct Member<'j> {
    /// Offset of the key's quote.
    at: usize,
    /// Key as written; escapes are not undone, which is fine for names of fields.
    pub(crate) key: &'j [u8],
}

/// A position in JSON.
pub(crate) struct Scanner<'j> {
    json: &'j [u8],
    at: usize,
}

impl<'j> Scanner<'j> {
    pub(crate) fn new(json: &'j [u8]) -> Self {
        Self { json, at: 0 }
    }

    /// The next byte that is no white space.
    pub(crate) fn next(&mut self) -> Option<u8> {
        self.space();
        self.peek()
    }

    /// Whether the array entered has another item; passes the comma before it or the closing bracket.
    pub(crate) fn item(&mut self, first: bool) -> Result<bool, &'static str> {
        match self.next() {
            Some(b']') => {
                self.at += 1;
                Ok(false)
            }
            Some(b',') if !first => {
                self.at += 1;
                Ok(true)
            }
            Some(_) if first => Ok(true),
            _ => Err("broken JSON array"),
        }
    }

    /// Passes a value and answers its text.
    pub(crate) fn value_text(&mut self) -> Result<&'j [u8], &'static str> {
        self.space();
        let start = self.at;
        self.value()?;
        Ok(self.json[start..self.at].trim_ascii_end())
    }

    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    pub(crate) fn eat(&mut self, byte: u8) -> Result<(), &'static str> {
        self.space();
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err("not a JSON object")
        }
    }

    /// The next key of an object and the colon after it, `None` at the object's end.
    pub(crate) fn member(&mut self, first: bool) -> Result<Option<Member<'j>>, &'static str> {
        self.space();
        match self.peek() {
            Some(b'}') => {
                self.at += 1;
                return Ok(None);
            }
            Some(b',') if !first => {
                self.at += 1;
                self.space();
            }
            Some(_) if first => {}
            _ => return Err("broken JSON object"),
        }
        let at = self.at;
        let key = self.string()?;
        self.eat(b':')?;
        Ok(Some(Member { at, key }))
    }

    fn string(&mut self) -> Result<&'j [u8], &'static str> {
        self.eat(b'"')?;
        let start = self.at;
        loop {
            let rest = self.json.get(self.at..).unwrap_or_default();
            self.at += first_to_escape(rest).unwrap_or(rest.len());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(&self.json[start..self.at - 1]);
                }
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => return Err("JSON string without end"),
            }
        }
    }

    /// Skips a value: by brackets, not by grammar; the decoder has the last word on validity.
    pub(crate) fn value(&mut self) -> Result<(), &'static str> {
        self.space();
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'{' | b'[') => {
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Err("JSON nested too deeply");
                    }
                    self.at += 1;
                    continue;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(b'}' | b']' | b',') if depth == 0 => return Ok(()),
                Some(_) => {
                    self.at += 1;
                    if depth == 0 {
                        continue;
                    }
                }
                None => return Err("JSON without end"),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::splice;

    fn with_version(json: &str) -> String {
        let s = splice(json.as_bytes()).unwrap();
        format!("{}{}7{}{}", &json[..s.at], s.before, s.after, &json[s.at + s.cut..])
    }

    #[test]
    fn the_version_lands_in_metadata_wherever_it_is() {
        let cases = [
            (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#),
            ("{}", r#"{"metadata":{"resourceVersion":"7"}}"#),
            (r#"{"a":1}"#, r#"{"metadata":{"resourceVersion":"7"},"a":1}"#),
            (
                r#"{"data":{"metadata":"\"}"},"metadata":{"name":"a","uid":"u"},"x":[{"y":1.5}]}"#,
                r#"{"data":{"metadata":"\"}"},"metadata":{"name":"a","resourceVersion":"7","uid":"u"},"x":[{"y":1.5}]}"#,
            ),
            (r#"{"metadata":{"name":"a"}}"#, r#"{"metadata":{"name":"a","resourceVersion":"7"}}"#),
            (
                r#"{ "kind" : null, "metadata" : { "uid" : "u" } }"#,
                r#"{ "kind" : null, "metadata" : { "resourceVersion":"7","uid" : "u" } }"#,
            ),
            (
                r#"{"metadata":{"resourceVersion":"3","uid":"u"}}"#,
                r#"{"metadata":{"resourceVersion":"7","uid":"u"}}"#,
            ),
            (
                r#"{"metadata":{"name":"a","resourceVersion":"3"}}"#,
                r#"{"metadata":{"name":"a","resourceVersion":"7"}}"#,
            ),
        ];
        for (json, expected) in cases {
            let (start, end) = splice(json.as_bytes()).unwrap().metadata.unwrap_or_default();
            let span = serde_json::from_str::<apimachinery::Value>(&json[start..end]).unwrap_or_default();
            let tree: apimachinery::Value = serde_json::from_str(json).unwrap();
            assert_eq!(span, tree["metadata"], "{json}");
            assert_eq!(with_version(json), expected, "{json}");
            serde_json::from_str::<apimachinery::Value>(expected).unwrap();
        }
    }

    #[test]
    fn broken_json_is_refused() {
        for json in ["", "[]", "{", r#"{"a"}"#, r#"{"a":1"#, r#"{"a":"b"#, "{\"a\":\"\\", "null"] {
            assert!(splice(json.as_bytes()).is_err(), "{json}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(splice(deep.as_bytes()).is_err());
    }

    /// What stored bytes can look like to the scanner: anything, pieces of JSON in any order, JSON cut off or damaged.
    fn stored_bytes() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\\\"",
            " ",
            "\"metadata\":",
            "\"metadata\"",
            "{\"metadata\":{",
            "\"resourceVersion\":\"1\"",
            "\"a\":1",
            "\"z\":{}",
            "null",
            "\u{e9}",
            "1.5",
        ]);
        let object =
            r#"{"kind":"T","metadata":{"name":"a","resourceVersion":"3","uid":"\u00e9"},"spec":[{"x":"}"}]}"#;
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat().into_bytes()),
            (0..=object.len()).prop_map(move |cut| object.as_bytes()[..cut].to_vec()),
            (0..object.len(), any::<u8>()).prop_map(move |(at, byte)| {
                let mut bytes = object.as_bytes().to_vec();
                bytes[at] = byte;
                bytes
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
        #[test]
        fn no_stored_bytes_can_make_it_panic(bytes in stored_bytes()) {
            if let Ok(found) = splice(&bytes) {
                prop_assert!(found.at + found.cut <= bytes.len());
                // of what is JSON it makes JSON with the version in it
                if serde_json::from_slice::<apimachinery::Value>(&bytes).is_ok_and(|tree| tree.is_object()) {
                    let (head, tail) = (&bytes[..found.at], &bytes[found.at + found.cut..]);
                    let text = [head, found.before.as_bytes(), b"7", found.after.as_bytes(), tail].concat();
                    let tree: apimachinery::Value = serde_json::from_slice(&text).expect("still JSON");
                    prop_assert_eq!(&tree["metadata"]["resourceVersion"], "7");
                }
            }
        }
    }
}
