//! Where the resourceVersion goes in an object's JSON, found without decoding it.

/// The place for `metadata.resourceVersion` in an object's JSON, and the text around the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Splice {
    /// Byte offset of the insertion.
    pub(crate) at: usize,
    pub(crate) before: &'static str,
    pub(crate) after: &'static str,
    /// Bytes from `at` on that hold a resourceVersion already and must be cut out first.
    pub(crate) cut: usize,
}

/// Deepest nesting followed; the decoder of request bodies refuses deeper ones. Nothing here recurses.
const MAX_DEPTH: usize = 10_000;
const NAME: &[u8] = b"resourceVersion";

/// Finds the place, keeping the keys of `metadata` sorted where they are.
pub(crate) fn splice(json: &[u8]) -> Result<Splice, &'static str> {
    let mut scanner = Scanner { json, at: 0 };
    scanner.expect(b'{')?;
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
    Ok(Splice { at: start, before, after, cut: 0 })
}

fn metadata(scanner: &mut Scanner<'_>) -> Result<Splice, &'static str> {
    scanner.expect(b'{')?;
    let start = scanner.at;
    let mut place = None;
    let mut end = start;
    let mut empty = true;
    while let Some(member) = scanner.member(empty)? {
        empty = false;
        scanner.value()?;
        if member.key == NAME {
            // a comma after the member goes with it; one before it stays, as the new member takes the place
            scanner.space();
            let comma = scanner.peek() == Some(b',');
            let end = scanner.at + usize::from(comma);
            let after = if comma { r#"","# } else { r#"""# };
            return Ok(Splice {
                at: member.at,
                before: r#""resourceVersion":""#,
                after,
                cut: end - member.at,
            });
        }
        if place.is_none() && member.key > NAME {
            place = Some(member.at);
        }
        end = scanner.at;
    }
    Ok(match place {
        Some(at) => Splice { at, before: r#""resourceVersion":""#, after: r#"","#, cut: 0 },
        None if empty => Splice { at: start, before: r#""resourceVersion":""#, after: r#"""#, cut: 0 },
        None => Splice { at: end, before: r#","resourceVersion":""#, after: r#"""#, cut: 0 },
    })
}

struct Member<'j> {
    /// Offset of the key's quote.
    at: usize,
    /// Key as written; escapes are not undone, which is fine for the two keys looked for.
    key: &'j [u8],
}

struct Scanner<'j> {
    json: &'j [u8],
    at: usize,
}

impl<'j> Scanner<'j> {
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), &'static str> {
        self.space();
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err("not a JSON object")
        }
    }

    /// The next key of an object and the colon after it, `None` at the object's end.
    fn member(&mut self, first: bool) -> Result<Option<Member<'j>>, &'static str> {
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
        self.expect(b':')?;
        Ok(Some(Member { at, key }))
    }

    fn string(&mut self) -> Result<&'j [u8], &'static str> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
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
    fn value(&mut self) -> Result<(), &'static str> {
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
            assert_eq!(with_version(json), expected, "{json}");
            serde_json::from_str::<serde_json::Value>(expected).unwrap();
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
}
