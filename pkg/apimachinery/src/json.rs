//! A JSON reader with a bounded depth, Go's error texts and a flag for repeated keys.
//!
//! Integers that fit `i64` stay integers, every other number becomes a float, as upstream's
//! `UnmarshalCaseSensitivePreserveInts` does. Grammar: RFC 8259; texts: Go's `encoding/json` scanner, since clients
//! show them to users. `serde_json` cannot report repeated keys, and its depth limit (128) is below that of deep
//! CustomResourceDefinitions.

use std::borrow::Cow;

use bytes::Bytes;

use crate::Number;

use crate::{Key, Map, Value, text};

/// Deepest nesting of arrays and objects that is read. Upstream allows 10,000; every walker here recurses, so the bound
/// keeps the deepest tree well inside a 2 MiB stack.
pub const MAX_DEPTH: usize = 500;

/// Why a text is not JSON, in the words of Go's `encoding/json`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// The text ends inside a value.
    #[error("unexpected end of JSON input")]
    UnexpectedEnd,
    /// A character that the grammar does not allow here.
    #[error("invalid character {} {context}", quote_char(*.found))]
    InvalidCharacter {
        /// The byte found.
        found: u8,
        /// Where the reader was.
        context: Cow<'static, str>,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("exceeded max depth")]
    TooDeep,
    /// A number beyond the range of a 64-bit float.
    #[error("json: cannot unmarshal number {0} into Go value of type float64")]
    NumberRange(String),
}

/// A text as Go's `strconv.Quote` prints it.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn quote_char(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".into(),
        b'"' => "'\"'".into(),
        other => {
            let quoted = go_quote(&char::from(other).to_string());
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}

/// A document and whether any object in it repeats a key (the last value stands).
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The tree.
    pub value: Value,
    /// Some object repeats a key; [`crate::strict`] says which.
    pub has_duplicates: bool,
}

/// Bytes as text: what is not UTF-8 becomes U+FFFD, as in Go.
pub fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    // nearly all is, which is found out much faster than where it is not
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// Reads one JSON document. Bytes that are not UTF-8 become U+FFFD, as in Go.
pub fn parse(bytes: &[u8]) -> Result<Parsed, SyntaxError> {
    parse_str(&text_of(bytes))
}

/// Reads one JSON document.
pub fn parse_str(text: &str) -> Result<Parsed, SyntaxError> {
    let mut reader = Reader::new(text);
    let value = reader.value()?;
    reader.finish()?;
    Ok(Parsed { value, has_duplicates: reader.has_duplicates })
}

/// Reads an API object, but for what its managers own, which is most of many objects and seldom looked at: `fieldsV1` in
/// `metadata.managedFields` is given as its JSON text, which is where [`crate::protobuf`] takes it from.
///
/// # Errors
/// As [`parse`].
pub fn parse_with_owners_as_text(bytes: &[u8]) -> Result<Value, SyntaxError> {
    let text = text_of(bytes);
    let mut reader = Reader::new(&text);
    if reader.peek() != Some(b'{') {
        return parse_str(&text).map(|parsed| parsed.value);
    }
    let value = reader.object_of(|reader, key| match (key, reader.peek()) {
        ("metadata", Some(b'{')) => reader.object_of(|reader, key| match (key, reader.peek()) {
            ("managedFields", Some(b'[')) => reader.array_of(Reader::manager),
            _ => reader.value(),
        }),
        _ => reader.value(),
    })?;
    reader.finish()?;
    Ok(value)
}

/// Reads an object of which most is not going to be looked at, such as a stored one that is about to be changed in part: the
/// larger objects in it are read when somebody asks for one of their members (repeated keys are not told then), and
/// written as they are until somebody changes one. The text is checked as a whole now.
///
/// # Errors
/// As [`parse`].
pub fn parse_in_parts(bytes: &Bytes) -> Result<Value, SyntaxError> {
    let Ok(text) = std::str::from_utf8(bytes) else { return parse(bytes).map(|parsed| parsed.value) };
    let mut reader = Reader { parts: Some(Parts { source: bytes, levels: LEVELS }), ..Reader::new(text) };
    let value = if reader.peek() == Some(b'{') { reader.object()? } else { reader.value()? };
    reader.finish()?;
    Ok(value)
}

/// The members of an object that was checked.
fn read_part(bytes: &Bytes, levels: u8) -> Map {
    let read = || {
        let text = std::str::from_utf8(bytes).ok()?;
        let parts = (levels > 0).then_some(Parts { source: bytes, levels });
        match (Reader { parts, ..Reader::new(text) }).object().ok()? {
            Value::Object(map) => Some(map),
            _ => None,
        }
    };
    let map = read();
    debug_assert!(map.is_some(), "what was checked can be read");
    map.unwrap_or_default()
}

/// Objects whose text is shorter are read with what they are in.
const PART: usize = if cfg!(test) { 8 } else { 256 };
/// Objects are left unread to so many levels. Each is one more time that the text below is looked through, which must not be
/// as often as clients can nest.
const LEVELS: u8 = 6;

/// Where larger objects are left unread.
#[derive(Clone, Copy)]
struct Parts<'a> {
    /// The memory of the text.
    source: &'a Bytes,
    /// To so many levels.
    levels: u8,
}

/// A position in a JSON text. The steps are public to the crate for walkers that build no tree.
pub(crate) struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    position: usize,
    depth: usize,
    has_duplicates: bool,
    /// Members and items of what is being read, those of the innermost object and array last: when one ends, its own
    /// are moved out at once, into a place of the right size.
    members: Vec<(Key, Value)>,
    items: Vec<Value>,
    parts: Option<Parts<'a>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            bytes: text.as_bytes(),
            position: 0,
            depth: 0,
            has_duplicates: false,
            members: Vec::new(),
            items: Vec::new(),
            parts: None,
        }
    }

    /// The next byte that is no white space.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.bytes.get(self.position) {
            match byte {
                b' ' | b'\n' | b'\t' | b'\r' => self.position += 1,
                other => return Some(*other),
            }
        }
        None
    }

    fn unexpected<T>(&self, context: impl Into<Cow<'static, str>>) -> Result<T, SyntaxError> {
        match self.bytes.get(self.position) {
            None => Err(SyntaxError::UnexpectedEnd),
            Some(found) => Err(SyntaxError::InvalidCharacter { found: *found, context: context.into() }),
        }
    }

    pub(crate) fn finish(&mut self) -> Result<(), SyntaxError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.unexpected("after top-level value"),
        }
    }

    /// Steps into an object or array whose opening byte was peeked. Pair with [`Reader::leave`].
    pub(crate) fn enter(&mut self) -> Result<(), SyntaxError> {
        self.position += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(SyntaxError::TooDeep) } else { Ok(()) }
    }

    fn leave(&mut self) {
        self.position += 1;
        self.depth -= 1;
    }

    /// The next key of the object entered, its colon consumed; `None` at (and past) the closing brace.
    pub(crate) fn next_key(&mut self, first: bool) -> Result<Option<Cow<'a, str>>, SyntaxError> {
        self.key(first, Self::string)
    }

    fn skip_key(&mut self, first: bool) -> Result<bool, SyntaxError> {
        Ok(self.key(first, Self::skip_string)?.is_some())
    }

    fn key<K>(
        &mut self,
        first: bool,
        read: impl FnOnce(&mut Self) -> Result<K, SyntaxError>,
    ) -> Result<Option<K>, SyntaxError> {
        match self.peek() {
            Some(b'}') => {
                self.leave();
                return Ok(None);
            }
            Some(b',') if !first => self.position += 1,
            _ if first => {}
            _ => return self.unexpected("after object key:value pair"),
        }
        if self.peek() != Some(b'"') {
            return self.unexpected("looking for beginning of object key string");
        }
        let key = read(self)?;
        if self.peek() != Some(b':') {
            return self.unexpected("after object key");
        }
        self.position += 1;
        Ok(Some(key))
    }

    /// Whether the array entered has another item; consumes the comma before it or the closing bracket.
    pub(crate) fn next_item(&mut self, first: bool) -> Result<bool, SyntaxError> {
        match self.peek() {
            Some(b']') => {
                // a comma was consumed only when an item follows, so `[1,]` fails at the value
                self.leave();
                Ok(false)
            }
            Some(b',') if !first => {
                self.position += 1;
                if self.peek() == Some(b']') {
                    return self.unexpected("looking for beginning of value");
                }
                Ok(true)
            }
            _ if first => Ok(true),
            _ => self.unexpected("after array element"),
        }
    }

    fn value(&mut self) -> Result<Value, SyntaxError> {
        match self.peek() {
            Some(b'{') => match self.parts {
                Some(parts) => self.part(parts),
                None => self.object(),
            },
            Some(b'[') => self.array(),
            Some(b'"') => Ok(Value::String(self.string()?.into_owned())),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b't') => self.literal("true").map(|()| Value::Bool(true)),
            Some(b'f') => self.literal("false").map(|()| Value::Bool(false)),
            Some(b'n') => self.literal("null").map(|()| Value::Null),
            _ => self.unexpected("looking for beginning of value"),
        }
    }

    fn object(&mut self) -> Result<Value, SyntaxError> {
        self.object_of(|reader, _| reader.value())
    }

    /// An object, unread if it is large. At the first level its text has yet to be checked.
    fn part(&mut self, parts: Parts<'a>) -> Result<Value, SyntaxError> {
        let start = self.position;
        if parts.levels < LEVELS {
            self.skip_checked();
        } else {
            self.skip()?;
        }
        if self.position - start >= PART {
            let text = parts.source.slice(start..self.position);
            return Ok(Value::Object(Map::unread(text, parts.levels - 1, read_part)));
        }
        self.position = start;
        self.parts = None;
        let object = self.object();
        self.parts = Some(parts);
        object
    }

    /// An object whose values `read` reads, which is told their keys.
    fn object_of(
        &mut self,
        mut read: impl FnMut(&mut Self, &str) -> Result<Value, SyntaxError>,
    ) -> Result<Value, SyntaxError> {
        self.enter()?;
        let start = self.members.len();
        while let Some(key) = self.next_key(self.members.len() == start)? {
            let value = read(self, &key)?;
            self.members.push((key.into(), value));
        }
        let (map, repeated) = Map::from_members(self.members.drain(start..).collect());
        self.has_duplicates |= repeated;
        Ok(Value::Object(map))
    }

    fn array(&mut self) -> Result<Value, SyntaxError> {
        self.array_of(Self::value)
    }

    /// An array whose items `read` reads.
    fn array_of(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<Value, SyntaxError>,
    ) -> Result<Value, SyntaxError> {
        self.enter()?;
        let start = self.items.len();
        while self.next_item(self.items.len() == start)? {
            let item = read(self)?;
            self.items.push(item);
        }
        Ok(Value::Array(self.items.drain(start..).collect::<Vec<_>>().into()))
    }

    /// An entry of managed fields, what is owned as text.
    fn manager(&mut self) -> Result<Value, SyntaxError> {
        if self.peek() != Some(b'{') {
            return self.value();
        }
        self.object_of(|reader, key| match (key, reader.peek()) {
            ("fieldsV1", Some(b'{')) => {
                let start = reader.position;
                reader.skip()?;
                Ok(Value::String(reader.text[start..reader.position].to_owned()))
            }
            _ => reader.value(),
        })
    }

    /// Steps over a value of any kind.
    pub(crate) fn skip(&mut self) -> Result<(), SyntaxError> {
        match self.peek() {
            Some(b'{') => {
                self.enter()?;
                let mut first = true;
                while self.skip_key(first)? {
                    first = false;
                    self.skip()?;
                }
                Ok(())
            }
            Some(b'[') => {
                self.enter()?;
                let mut first = true;
                while self.next_item(first)? {
                    first = false;
                    self.skip()?;
                }
                Ok(())
            }
            Some(b'"') => self.skip_string(),
            _ => self.value().map(|_| ()),
        }
    }

    /// Steps over a value of a text that was checked.
    fn skip_checked(&mut self) {
        let mut open = 0_usize;
        while let Some(byte) = self.bytes.get(self.position) {
            self.position += 1;
            match byte {
                b'"' => {
                    // an escaped character is not the end, whichever it is
                    while let Some(run) = text::first_to_escape(&self.bytes[self.position..]) {
                        self.position += run + 1;
                        if self.bytes[self.position - 1] == b'"' {
                            break;
                        }
                        self.position = (self.position + 1).min(self.bytes.len());
                    }
                }
                b'{' | b'[' => open += 1,
                b'}' | b']' => open = open.saturating_sub(1),
                _ => continue,
            }
            if open == 0 {
                return;
            }
        }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), SyntaxError> {
        for expected in word.bytes() {
            if self.bytes.get(self.position) != Some(&expected) {
                return self.unexpected(format!("in literal {word} (expecting '{}')", char::from(expected)));
            }
            self.position += 1;
        }
        Ok(())
    }

    fn digits(&mut self, context: &'static str) -> Result<(), SyntaxError> {
        let start = self.position;
        while matches!(self.bytes.get(self.position), Some(b'0'..=b'9')) {
            self.position += 1;
        }
        if self.position == start { self.unexpected(context) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Number, SyntaxError> {
        let start = self.position;
        let mut integer = true;
        if self.bytes[self.position] == b'-' {
            self.position += 1;
        }
        if self.bytes.get(self.position) == Some(&b'0') {
            self.position += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.bytes.get(self.position) == Some(&b'.') {
            integer = false;
            self.position += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.bytes.get(self.position), Some(b'e' | b'E')) {
            integer = false;
            self.position += 1;
            if matches!(self.bytes.get(self.position), Some(b'+' | b'-')) {
                self.position += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        let text = &self.text[start..self.position];
        if integer && let Ok(number) = text.parse::<i64>() {
            return Ok(number.into());
        }
        text.parse().ok().and_then(Number::from_f64).ok_or_else(|| SyntaxError::NumberRange(text.into()))
    }

    /// A string whose opening quote was peeked; borrowed where it has no escapes.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, SyntaxError> {
        self.position += 1;
        let start = self.position;
        let mut plain = start;
        let mut owned: Option<String> = None;
        loop {
            // bytes above 0x7f are parts of valid UTF-8 and belong to the string
            let rest = &self.bytes[self.position..];
            let run = text::first_to_escape(rest).unwrap_or(rest.len());
            self.position += run;
            match self.bytes.get(self.position) {
                Some(b'"') => {
                    let tail = &self.text[plain..self.position];
                    self.position += 1;
                    return Ok(match owned {
                        None => Cow::Borrowed(tail),
                        Some(mut text) => {
                            text.push_str(tail);
                            Cow::Owned(text)
                        }
                    });
                }
                Some(b'\\') => {
                    let text = owned.get_or_insert_with(String::new);
                    text.push_str(&self.text[plain..self.position]);
                    self.position += 1;
                    let c = self.escape()?;
                    owned.get_or_insert_with(String::new).push(c);
                    plain = self.position;
                }
                _ => return self.unexpected("in string literal"),
            }
        }
    }

    /// [`Reader::string`] for who does not want it.
    fn skip_string(&mut self) -> Result<(), SyntaxError> {
        self.position += 1;
        loop {
            let rest = &self.bytes[self.position..];
            self.position += text::first_to_escape(rest).unwrap_or(rest.len());
            match self.bytes.get(self.position) {
                Some(b'"') => {
                    self.position += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.position += 1;
                    self.escape()?;
                }
                _ => return self.unexpected("in string literal"),
            }
        }
    }

    /// The character of an escape whose backslash is consumed. Lone surrogates become U+FFFD, as in Go.
    fn escape(&mut self) -> Result<char, SyntaxError> {
        let c = match self.bytes.get(self.position) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\x08',
            Some(b'f') => '\x0c',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.position += 1;
                return self.unicode_escape();
            }
            _ => return self.unexpected("in string escape code"),
        };
        self.position += 1;
        Ok(c)
    }

    fn unicode_escape(&mut self) -> Result<char, SyntaxError> {
        let first = self.hex4()?;
        if !(0xd800..0xdc00).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        if self.bytes.get(self.position..self.position + 2) == Some(b"\\u") {
            let before = self.position;
            self.position += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            // not the other half: it is an escape of its own
            self.position = before;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Result<u32, SyntaxError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.bytes.get(self.position).and_then(|b| char::from(*b).to_digit(16));
            let Some(digit) = digit else {
                return self.unexpected("in \\u hexadecimal character escape");
            };
            code = code * 16 + digit;
            self.position += 1;
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests;
