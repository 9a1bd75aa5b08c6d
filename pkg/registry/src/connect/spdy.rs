//! SPDY/3.1 as remote commands use it: the client's half, without I/O.
//!
//! Streams are opened by this side only and there is no flow control beyond TCP's, as in upstream's
//! `github.com/moby/spdystream`. Header blocks of the other side are skipped: nothing in them matters to a client that
//! gave its streams their names itself. Source: the SPDY 3.1 draft, sections 2.2 (framing) and 2.6 (control frames).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};

/// Longest control frame of the other side.
const MAX_CONTROL_BYTES: usize = 64 << 10;
/// Longest piece of a stream sent as one frame.
const MAX_DATA_BYTES: usize = 32 << 10;
const HEAD_BYTES: usize = 8;

const CONTROL: u16 = 0x8003; // the control bit and version 3
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const FLAG_FIN: u8 = 1;

/// Why the other side cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum SpdyError {
    /// Another version of the protocol, or none of it.
    #[error("not a SPDY/3.1 frame: {0:#06x}")]
    Version(u16),
    /// A control frame beyond the limit.
    #[error("a control frame of {0} bytes is too long")]
    TooLong(usize),
    /// A control frame without its fields.
    #[error("a control frame of type {0} is too short")]
    TooShort(u16),
}

/// What the other side says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A piece of a stream; long frames come in several.
    Data { stream: u32, bytes: Bytes, fin: bool },
    /// A stream was accepted; with `fin` nothing will come on it.
    Accepted { stream: u32, fin: bool },
    /// A stream was ended, or never accepted.
    Reset { stream: u32 },
    /// To be answered with the same number when the other side began it.
    Ping(u32),
    /// Of no interest here.
    Other,
}

/// Makes frames. Header compression has state, so one encoder a connection.
pub(super) struct Encoder {
    headers: Compress,
}

impl Encoder {
    /// For a new connection.
    pub(super) fn new() -> Self {
        Self { headers: Compress::new(Compression::fast(), true) }
    }

    /// Opens a stream.
    pub(super) fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> Bytes {
        let mut block = BytesMut::new();
        block.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name.to_ascii_lowercase().as_str(), value] {
                block.put_u32(text.len() as u32);
                block.put_slice(text.as_bytes());
            }
        }
        let block = self.compress(&block);
        let mut out = BytesMut::with_capacity(HEAD_BYTES + 10 + block.len());
        control_head(&mut out, SYN_STREAM, 10 + block.len());
        out.put_u32(stream);
        out.put_u32(0); // no associated stream
        out.put_u16(0); // priority and slot
        out.put_slice(&block);
        out.freeze()
    }

    /// The format asks for a preset dictionary only through a flag in the zlib header; without the flag every decoder
    /// reads the block as it stands.
    fn compress(&mut self, block: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(block.len() + 64);
        let mut rest = block;
        loop {
            let before = self.headers.total_in();
            // the only error is a misuse of a preset dictionary
            let _ = self.headers.compress_vec(rest, &mut out, FlushCompress::Sync);
            rest = &rest[(self.headers.total_in() - before) as usize..];
            if rest.is_empty() && out.len() < out.capacity() {
                return out;
            }
            out.reserve(256);
        }
    }
}

fn control_head(out: &mut BytesMut, kind: u16, length: usize) {
    out.put_u16(CONTROL);
    out.put_u16(kind);
    out.put_u32(length as u32); // no flags
}

fn data_head(stream: u32, length: usize, fin: bool) -> Bytes {
    let mut head = BytesMut::with_capacity(HEAD_BYTES);
    head.put_u32(stream);
    head.put_u8(if fin { FLAG_FIN } else { 0 });
    head.put_uint(length as u64, 3);
    head.freeze()
}

/// A piece of a stream as frames: heads and payloads in turn.
pub(super) fn data(stream: u32, mut payload: Bytes) -> impl Iterator<Item = Bytes> {
    let mut pending: Option<Bytes> = None;
    std::iter::from_fn(move || {
        if let Some(piece) = pending.take() {
            return Some(piece);
        }
        if payload.is_empty() {
            return None;
        }
        let piece = payload.split_to(payload.len().min(MAX_DATA_BYTES));
        let head = data_head(stream, piece.len(), false);
        pending = Some(piece);
        Some(head)
    })
}

/// Says that nothing more comes on a stream.
pub(super) fn end(stream: u32) -> Bytes {
    data_head(stream, 0, true)
}

/// Asks for, or gives, a sign of life.
pub(super) fn ping(number: u32) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + 4);
    control_head(&mut out, PING, 4);
    out.put_u32(number);
    out.freeze()
}

/// Takes bytes apart.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: BytesMut,
    /// The data frame being read: stream, bytes to come, whether it is the stream's last.
    current: Option<(u32, usize, bool)>,
}

impl Decoder {
    /// Where to read bytes into.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame, `None` when more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        if let Some((stream, left, fin)) = self.current {
            if self.buffer.is_empty() {
                return Ok(None);
            }
            return Ok(Some(self.piece(stream, left, fin)));
        }
        let Some(head) = self.buffer.first_chunk::<HEAD_BYTES>().copied() else { return Ok(None) };
        let [a, b, c, d, flags, tail @ ..] = head;
        let length = tail.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let fin = flags & FLAG_FIN != 0;
        if a & 0x80 == 0 {
            self.buffer.advance(HEAD_BYTES);
            return Ok(Some(self.piece(u32::from_be_bytes([a, b, c, d]), length, fin)));
        }
        let version = u16::from_be_bytes([a, b]);
        if version != CONTROL {
            return Err(SpdyError::Version(version));
        }
        if length > MAX_CONTROL_BYTES {
            return Err(SpdyError::TooLong(length));
        }
        if self.buffer.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        control(u16::from_be_bytes([c, d]), fin, self.buffer.split_to(length)).map(Some)
    }

    /// What is there of a data frame of which `left` bytes are to come.
    fn piece(&mut self, stream: u32, left: usize, fin: bool) -> Frame {
        let bytes = self.buffer.split_to(left.min(self.buffer.len())).freeze();
        let left = left - bytes.len();
        self.current = (left > 0).then_some((stream, left, fin));
        Frame::Data { stream, bytes, fin: fin && left == 0 }
    }
}

fn control(kind: u16, fin: bool, mut body: BytesMut) -> Result<Frame, SpdyError> {
    if !matches!(kind, SYN_REPLY | RST_STREAM | PING) {
        return Ok(Frame::Other);
    }
    let number = body.try_get_u32().map_err(|_| SpdyError::TooShort(kind))?;
    Ok(match kind {
        SYN_REPLY => Frame::Accepted { stream: number & 0x7fff_ffff, fin },
        RST_STREAM => Frame::Reset { stream: number & 0x7fff_ffff },
        _ => Frame::Ping(number),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use flate2::{Decompress, FlushDecompress};
    use proptest::prelude::*;

    /// The header block of a SYN_STREAM frame, as the other side reads it.
    pub(in super::super) fn headers(state: &mut Decompress, block: &[u8]) -> Vec<(String, String)> {
        let mut plain = Vec::with_capacity(4096);
        state.decompress_vec(block, &mut plain, FlushDecompress::Sync).expect("a zlib block");
        let mut plain = Bytes::from(plain);
        let text = |plain: &mut Bytes| {
            let length = plain.get_u32() as usize;
            String::from_utf8(plain.split_to(length).to_vec()).expect("text")
        };
        (0..plain.get_u32()).map(|_| (text(&mut plain), text(&mut plain))).collect()
    }

    fn all(decoder: &mut Decoder, bytes: &[u8]) -> Result<Vec<Frame>, SpdyError> {
        decoder.buffer().extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn headers_are_readable_by_any_zlib() {
        let mut encoder = Encoder::new();
        let mut state = Decompress::new(true);
        for kind in ["error", "stdin", "stdout"] {
            let frame = encoder.open(3, &[("streamType", kind), ("x", &"y".repeat(700))]);
            assert_eq!(frame[..4], [0x80, 3, 0, 1]);
            assert_eq!(
                frame.len(),
                HEAD_BYTES + u32::from_be_bytes(frame[4..8].try_into().expect("four")) as usize
            );
            assert_eq!(frame[8..12], [0, 0, 0, 3]);
            let got = headers(&mut state, &frame[HEAD_BYTES + 10..]);
            assert_eq!(got[0], ("streamtype".to_owned(), kind.to_owned()));
            assert_eq!(got[1].1.len(), 700);
        }
    }

    #[test]
    fn frames_are_told_apart() {
        type Case<'a> = (&'a [u8], Result<Vec<Frame>, SpdyError>);
        let cases: [Case<'_>; 9] = [
            (&[0x80, 3, 0, 2, 1, 0, 0, 4, 0, 0, 0, 5], Ok(vec![Frame::Accepted { stream: 5, fin: true }])),
            (&[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 1], Ok(vec![Frame::Reset { stream: 5 }])),
            (&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2], Ok(vec![Frame::Ping(2)])),
            (&[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 0], Ok(vec![Frame::Other])),
            (
                &[0, 0, 0, 3, 1, 0, 0, 1, 7],
                Ok(vec![Frame::Data { stream: 3, bytes: Bytes::from_static(&[7]), fin: true }]),
            ),
            (&[0, 0, 0, 3, 1, 0, 0, 0], Ok(vec![Frame::Data { stream: 3, bytes: Bytes::new(), fin: true }])),
            (&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2], Err(SpdyError::Version(0x8002))),
            (&[0x80, 3, 0, 6, 0, 0, 0, 1, 0], Err(SpdyError::TooShort(6))),
            (&[0x80, 3, 0, 2, 0, 1, 0, 1], Err(SpdyError::TooLong(65537))),
        ];
        for (bytes, expected) in cases {
            assert_eq!(all(&mut Decoder::default(), bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn long_data_goes_out_in_frames_that_end_with_the_stream() {
        let payload = Bytes::from(vec![1; MAX_DATA_BYTES + 5]);
        let mut bytes: Vec<u8> = data(7, payload).flatten().collect();
        bytes.extend_from_slice(&end(7));
        assert_eq!(bytes.len(), MAX_DATA_BYTES + 5 + 3 * HEAD_BYTES);
        let frames = all(&mut Decoder::default(), &bytes).expect("frames");
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[2], Frame::Data { stream: 7, bytes: Bytes::new(), fin: true });
    }

    proptest! {
        /// However the bytes arrive, the same comes out, and no bytes make it panic.
        #[test]
        fn pieces_do_not_matter(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            let mut whole = Decoder::default();
            let mut pieces = Decoder::default();
            let cut = cut.min(bytes.len());
            let together = all(&mut whole, &bytes).map(|f| joined(&f));
            let apart = all(&mut pieces, &bytes[..cut]).and_then(|mut first| {
                first.extend(all(&mut pieces, &bytes[cut..])?);
                Ok(joined(&first))
            });
            prop_assert_eq!(together, apart);
        }
    }

    /// Frames with pieces of one data frame put together again.
    fn joined(frames: &[Frame]) -> Vec<(u32, Vec<u8>, bool)> {
        let mut out: Vec<(u32, Vec<u8>, bool)> = Vec::new();
        for frame in frames {
            let Frame::Data { stream, bytes, fin } = frame else {
                out.push((u32::MAX, format!("{frame:?}").into_bytes(), true));
                continue;
            };
            match out.last_mut() {
                Some((last, text, ended)) if *last == *stream && !*ended => {
                    text.extend_from_slice(bytes);
                    *ended = *fin;
                }
                _ => out.push((*stream, bytes.to_vec(), *fin)),
            }
        }
        out
    }
}
