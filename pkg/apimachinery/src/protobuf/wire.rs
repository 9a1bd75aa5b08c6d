//! The wire format of protocol buffers: <https://protobuf.dev/programming-guides/encoding/>.

use super::ProtoError;

/// Wire type of integers and booleans.
pub(super) const VARINT: u8 = 0;
/// Wire type of eight bytes.
pub(super) const FIXED64: u8 = 1;
/// Wire type of strings, bytes and messages.
pub(super) const BYTES: u8 = 2;
/// Wire type of four bytes.
const FIXED32: u8 = 5;

/// Writes from the end to the start, so that the length of a message is known when it is to be written and nothing is
/// moved or measured twice. Callers write fields in descending order, and of a field the value before its tag.
pub(super) struct BackWriter {
    buffer: Vec<u8>,
    /// Where the bytes written begin.
    start: usize,
}

impl BackWriter {
    pub(super) fn new() -> Self {
        Self { buffer: Vec::new(), start: 0 }
    }

    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { buffer: vec![0; bytes], start: bytes }
    }

    /// Bytes written.
    pub(super) fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    fn reserve(&mut self, bytes: usize) {
        if self.start >= bytes {
            return;
        }
        let used = self.len();
        let size = (self.buffer.len() * 2).max(used + bytes).max(64);
        let mut wider = vec![0; size];
        wider[size - used..].copy_from_slice(&self.buffer[self.start..]);
        self.start = size - used;
        self.buffer = wider;
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let end = self.start;
        self.start -= bytes.len();
        self.buffer[self.start..end].copy_from_slice(bytes);
    }

    pub(super) fn varint(&mut self, mut value: u64) {
        let mut bytes = [0_u8; 10];
        let mut length = 0;
        loop {
            bytes[length] = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                break;
            }
            bytes[length] |= 0x80;
            length += 1;
        }
        self.raw(&bytes[..=length]);
    }

    pub(super) fn tag(&mut self, number: u32, wire: u8) {
        self.varint(u64::from(number) << 3 | u64::from(wire));
    }

    pub(super) fn integer(&mut self, number: u32, value: i64) {
        self.varint(value as u64);
        self.tag(number, VARINT);
    }

    pub(super) fn double(&mut self, number: u32, value: f64) {
        self.raw(&value.to_le_bytes());
        self.tag(number, FIXED64);
    }

    pub(super) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.raw(bytes);
        self.varint(bytes.len() as u64);
        self.tag(number, BYTES);
    }

    pub(super) fn text(&mut self, number: u32, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    /// Makes what was written since the writer had `end` bytes the message of a field.
    pub(super) fn close(&mut self, number: u32, end: usize) {
        self.varint((self.len() - end) as u64);
        self.tag(number, BYTES);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
        }
        self.buffer
    }
}

/// Number and wire type of a field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tag {
    pub(super) number: u32,
    pub(super) wire: u8,
}

/// Reads the fields of one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut value = 0;
        for (i, byte) in self.rest.iter().enumerate() {
            if i == 10 {
                return Err(ProtoError::Overflow);
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(ProtoError::UnexpectedEnd)
    }

    /// The next field, `None` at the end of the message.
    pub(super) fn tag(&mut self) -> Result<Option<Tag>, ProtoError> {
        if self.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        match u32::try_from(tag >> 3) {
            Ok(number) if number > 0 => Ok(Some(Tag { number, wire: (tag & 7) as u8 })),
            _ => Err(ProtoError::IllegalTag(tag)),
        }
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], ProtoError> {
        let count = usize::try_from(count).map_err(|_| ProtoError::UnexpectedEnd)?;
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(ProtoError::UnexpectedEnd)?;
        self.rest = rest;
        Ok(taken)
    }

    fn expect(tag: Tag, wire: u8, field: &str) -> Result<(), ProtoError> {
        if tag.wire == wire {
            return Ok(());
        }
        Err(ProtoError::WrongWireType { wire: tag.wire, field: field.to_owned() })
    }

    pub(super) fn integer(&mut self, tag: Tag, field: &str) -> Result<i64, ProtoError> {
        Self::expect(tag, VARINT, field)?;
        Ok(self.varint()? as i64)
    }

    pub(super) fn double(&mut self, tag: Tag, field: &str) -> Result<f64, ProtoError> {
        Self::expect(tag, FIXED64, field)?;
        let bytes = self.take(8)?;
        Ok(f64::from_le_bytes(bytes.try_into().map_err(|_| ProtoError::UnexpectedEnd)?))
    }

    pub(super) fn bytes(&mut self, tag: Tag, field: &str) -> Result<&'a [u8], ProtoError> {
        Self::expect(tag, BYTES, field)?;
        let length = self.varint()?;
        self.take(length)
    }

    pub(super) fn text(&mut self, tag: Tag, field: &str) -> Result<String, ProtoError> {
        self.bytes(tag, field).map(|b| String::from_utf8_lossy(b).into_owned())
    }

    /// Steps over the value of a field that nobody knows. Groups do not occur in proto files of Kubernetes.
    pub(super) fn skip(&mut self, tag: Tag) -> Result<(), ProtoError> {
        match tag.wire {
            VARINT => self.varint().map(|_| ()),
            FIXED64 => self.take(8).map(|_| ()),
            BYTES => self.bytes(tag, "").map(|_| ()),
            FIXED32 => self.take(4).map(|_| ()),
            _ => Err(ProtoError::IllegalTag(u64::from(tag.number) << 3 | u64::from(tag.wire))),
        }
    }
}
