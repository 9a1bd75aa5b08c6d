//! gzip streams (RFC 1952) put together from parts, some of which were compressed before.
//!
//! Clients take lists compressed, and lists are made of the same objects again and again. What a run of objects is in a
//! list is compressed once, as deflate blocks (RFC 1951) that begin and end at a byte and refer to nothing outside of
//! themselves; a list is then a matter of copying, and of combining checksums.

use bytes::Bytes;
use crc32fast::Hasher;
use flate2::{Compress, CompressError, Compression, FlushCompress};

/// A low level: what is compressed here is sent many times, and every client unpacks it.
const LEVEL: Compression = Compression::new(3);
/// No name, no time, nothing of the level, unknown system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty block that is the last.
const LAST_BLOCK: [u8; 2] = [3, 0];

fn compressor() -> Compress {
    Compress::new(LEVEL, false)
}

/// Appends the blocks of `bytes`; what comes after does not refer to them.
fn deflate(compressor: &mut Compress, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CompressError> {
    loop {
        out.reserve(bytes.len() / 4 + 64);
        let before = compressor.total_in();
        compressor.compress_vec(bytes, out, FlushCompress::Full)?;
        bytes = &bytes[(compressor.total_in() - before) as usize..];
        // all has come out when there was room for more
        if bytes.is_empty() && out.len() < out.capacity() {
            return Ok(());
        }
    }
}

/// Makes pieces.
#[derive(Default)]
pub(crate) struct Pieces {
    /// Some hundred kilobytes, which lists of pieces that are all kept do without.
    compressor: Option<Compress>,
    out: Vec<u8>,
}

impl Pieces {
    /// `bytes` compressed, for [`Stream::piece`].
    ///
    /// # Errors
    /// None that is known of.
    pub(crate) fn make(&mut self, bytes: &[u8]) -> Result<Bytes, CompressError> {
        self.out.clear();
        self.out.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        self.out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        let compressor = self.compressor.get_or_insert_with(compressor);
        compressor.reset();
        deflate(compressor, bytes, &mut self.out)?;
        Ok(Bytes::copy_from_slice(&self.out))
    }
}

/// Checksum and length of what a piece says, and its blocks.
fn open(piece: &[u8]) -> Option<(u32, u32, &[u8])> {
    let (checksum, rest) = piece.split_first_chunk()?;
    let (len, blocks) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*checksum), u32::from_le_bytes(*len), blocks))
}

/// Bytes of what a piece says.
pub(crate) fn plain_len(piece: &[u8]) -> usize {
    open(piece).map_or(0, |(_, len, _)| len as usize)
}

/// A gzip stream in the making.
pub(crate) struct Stream {
    compressor: Compress,
    checksum: Hasher,
    len: u32,
    out: Vec<u8>,
}

impl Stream {
    /// A stream of nothing yet.
    pub(crate) fn new() -> Self {
        Self { compressor: compressor(), checksum: Hasher::new(), len: 0, out: HEAD.to_vec() }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// None that is known of.
    pub(crate) fn plain(&mut self, bytes: &[u8]) -> Result<(), CompressError> {
        self.checksum.update(bytes);
        // the length is modulo 2^32
        self.len = self.len.wrapping_add(bytes.len() as u32);
        deflate(&mut self.compressor, bytes, &mut self.out)
    }

    /// Appends what a piece of [`Pieces::make`] says.
    pub(crate) fn piece(&mut self, piece: &[u8]) {
        let Some((checksum, len, blocks)) = open(piece) else { return };
        self.checksum.combine(&Hasher::new_with_initial_len(checksum, u64::from(len)));
        self.len = self.len.wrapping_add(len);
        self.out.extend_from_slice(blocks);
    }

    /// Bytes that can be taken.
    pub(crate) fn available(&self) -> usize {
        self.out.len()
    }

    /// What is there of the stream, less what was taken before.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let capacity = self.out.len() + self.out.len() / 4;
        std::mem::replace(&mut self.out, Vec::with_capacity(capacity))
    }

    /// Ends the stream.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.out.extend_from_slice(&LAST_BLOCK);
        let checksum = std::mem::take(&mut self.checksum).finalize();
        self.out.extend_from_slice(&checksum.to_le_bytes());
        self.out.extend_from_slice(&self.len.to_le_bytes());
        std::mem::take(&mut self.out)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn streams_of_parts_are_gzip() {
        let large: Vec<u8> =
            (0..20_000_u32).flat_map(|i| (i.wrapping_mul(i) ^ (i >> 3)).to_le_bytes()).collect();
        let texts = [&b""[..], b"x", b"hello hello hello hello", &large, &[7; 10_000]];
        let mut pieces = Pieces::default();
        // every text as either sort of part, before and after every other
        for first in texts {
            for second in texts {
                for sorts in 0..4 {
                    let mut stream = Stream::new();
                    let mut compressed = Vec::new();
                    let mut plain = Vec::new();
                    for (i, text) in [first, second, first, second].into_iter().enumerate() {
                        if sorts & (1 << (i % 2)) == 0 {
                            stream.plain(text).expect("a part");
                        } else {
                            let piece = pieces.make(text).expect("a piece");
                            assert_eq!(plain_len(&piece), text.len());
                            stream.piece(&piece);
                        }
                        plain.extend_from_slice(text);
                        if i == 1 {
                            compressed.extend(stream.take());
                        }
                    }
                    compressed.extend(stream.finish());
                    let mut back = Vec::new();
                    flate2::read::GzDecoder::new(&compressed[..]).read_to_end(&mut back).expect("gzip");
                    assert!(back == plain, "{} then {} bytes as {sorts}", first.len(), second.len());
                }
            }
        }
    }
}
