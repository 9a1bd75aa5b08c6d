//! Cuts `metadata.managedFields` out of an object's JSON before it is decoded.
//!
//! Managed fields are often half of an object and no informer's user reads them: dropping them as bytes saves both the
//! decoding and the allocations.

use std::borrow::Cow;

/// The object without its managed fields. Borrowed when there are none or the text is not a JSON object.
pub(crate) fn managed_fields(json: &[u8]) -> Cow<'_, [u8]> {
    let cut = find_member(json, 0, b"metadata").and_then(|metadata| {
        let member = find_member(json, metadata.value, b"managedFields")?;
        let mut end = skip_value(json, member.value)?;
        let mut start = member.key;
        // take one neighbouring comma along
        let after = skip_space(json, end);
        if json.get(after) == Some(&b',') {
            end = after + 1;
        } else if let Some(comma) = json[..start].iter().rposition(|byte| !byte.is_ascii_whitespace())
            && json[comma] == b','
        {
            start = comma;
        }
        Some((start, end))
    });
    match cut {
        None => Cow::Borrowed(json),
        Some((start, end)) => {
            let mut out = Vec::with_capacity(json.len() - (end - start));
            out.extend_from_slice(&json[..start]);
            out.extend_from_slice(&json[end..]);
            Cow::Owned(out)
        }
    }
}

struct Member {
    key: usize,
    value: usize,
}

/// Finds a member of the object that starts at or after `at`. Keys with escapes never match, which only costs the cut.
fn find_member(json: &[u8], at: usize, name: &[u8]) -> Option<Member> {
    let mut at = skip_space(json, at);
    if json.get(at) != Some(&b'{') {
        return None;
    }
    at = skip_space(json, at + 1);
    while json.get(at) == Some(&b'"') {
        let key = at;
        let key_end = skip_string(json, at)?;
        at = skip_space(json, key_end);
        if json.get(at) != Some(&b':') {
            return None;
        }
        let value = skip_space(json, at + 1);
        if &json[key + 1..key_end - 1] == name {
            return Some(Member { key, value });
        }
        at = skip_space(json, skip_value(json, value)?);
        if json.get(at) != Some(&b',') {
            return None;
        }
        at = skip_space(json, at + 1);
    }
    None
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while json.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

fn skip_string(json: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The index after the value at `at`; brackets are counted, not matched: the decoder checks the text afterwards.
fn skip_value(json: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = at;
    loop {
        match json.get(at)? {
            b'"' => at = skip_string(json, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            b',' | b':' if depth > 0 => {
                at += 1;
                continue;
            }
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            _ => {
                while json
                    .get(at)
                    .is_some_and(|byte| !matches!(byte, b',' | b'}' | b']') && !byte.is_ascii_whitespace())
                {
                    at += 1;
                }
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::managed_fields;

    #[test]
    fn cuts_only_the_metadatas_member() {
        let cases = [
            (r#"{"metadata":{"name":"a"}}"#, r#"{"metadata":{"name":"a"}}"#),
            (
                r#"{"kind":"Pod","metadata":{"managedFields":[{"a":"]}"},{}],"name":"a"},"spec":{}}"#,
                r#"{"kind":"Pod","metadata":{"name":"a"},"spec":{}}"#,
            ),
            (
                r#"{ "metadata" : { "name" : "a" , "managedFields" : [ {"x":1.5e3} ] } }"#,
                r#"{ "metadata" : { "name" : "a"  } }"#,
            ),
            (r#"{"metadata":{"managedFields":null}}"#, r#"{"metadata":{}}"#),
            (
                r#"{"data":{"managedFields":"keep","metadata":{"managedFields":[]}},"metadata":{"name":"a\"b"}}"#,
                r#"{"data":{"managedFields":"keep","metadata":{"managedFields":[]}},"metadata":{"name":"a\"b"}}"#,
            ),
            (r#"{"metadata":{"managedFields":["#, r#"{"metadata":{"managedFields":["#),
            ("[1]", "[1]"),
            ("", ""),
        ];
        for (input, output) in cases {
            assert_eq!(String::from_utf8_lossy(&managed_fields(input.as_bytes())), output, "{input}");
        }
    }
}
