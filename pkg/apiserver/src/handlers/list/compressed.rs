//! Lists for clients that take gzip: runs of objects are compressed once, not for every list.

use std::ops::Range;
use std::sync::Arc;

use apimachinery::status::Status;
use bytes::Bytes;
use component::http::{BoxError, Response};
use http::StatusCode;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use watchcache::StoredObject;

use super::{CHUNK_BYTES, Items, ListBody, MANY, Turn, cached, list_type};
use crate::core::encode::Encoder;
use crate::filters::{MIN_COMPRESSED_BYTES, accepts_gzip, mark_compressed};
use crate::gzip::{self, Pieces, Stream};
use crate::handlers::Exchange;
use crate::negotiate::{Format, MediaType};
use crate::respond;

/// Objects of a run, on average; a power of two.
const RUN: usize = 16;
/// At most so many.
const MAX_RUN: usize = 64;

/// Answers with a compressed list, or gives it back: when the client or the format does not want that, when it is small,
/// and when it is a selection, whose runs no other list has.
pub(super) async fn respond(
    exchange: &Exchange,
    mut body: ListBody,
    (kind, api_version): &(String, String),
    media: &MediaType,
) -> Result<Result<Response, ListBody>, Status> {
    let objects = body.items.as_slice();
    let selects = |parameter| exchange.context.query.get(parameter).is_some_and(|text| !text.is_empty());
    let target = body.target.clone();
    let encoder = Encoder::new(&target);
    let has_form = match media.format {
        Format::Json => !media.pretty,
        Format::Protobuf => encoder.has_message(),
        Format::Yaml => false,
    };
    let suits = matches!(body.shown, Items::Objects)
        && has_form
        && accepts_gzip(&exchange.parts.headers)
        && !selects("labelSelector")
        && !selects("fieldSelector")
        && objects.len() >= MANY
        && objects.iter().map(|object| object.json_len() as u64).sum::<u64>() >= MIN_COMPRESSED_BYTES;
    if !suits {
        return Ok(Err(body));
    }
    let mut pieces = Pieces::default();
    let mut stream = Stream::new();
    let cached = cached(exchange);
    let mut turn = Turn::take(&cached, objects.len()).await;
    let mut made = Vec::with_capacity(objects.len() / RUN + 1);
    let runs = runs(objects);
    let tail = match media.format {
        Format::Json => {
            // items follow commas, all but the first
            let mut head = body.head.take().unwrap_or_default();
            let (first, rest) =
                runs.split_first().map_or((0..0, &[][..]), |(first, rest)| (first.clone(), rest));
            for (i, object) in objects[first].iter().enumerate() {
                if i > 0 {
                    head.push(b',');
                }
                encoder.write_item(object, &mut head)?;
            }
            stream.plain(&head).map_err(Status::internal)?;
            for run in rest {
                made.push(encoder.compressed_items(&objects[run.clone()], false, &mut pieces)?);
                turn.pause().await;
            }
            &b"]}\n"[..]
        }
        Format::Protobuf => {
            let Some((schema, root)) = list_type(exchange, &body, &encoder, kind)? else {
                return Ok(Err(body));
            };
            for run in runs {
                made.push(encoder.compressed_items(&objects[run], true, &mut pieces)?);
                turn.pause().await;
            }
            let len = made.iter().map(|piece| gzip::plain_len(piece)).sum();
            let head =
                apimachinery::protobuf::list_prefix(schema, root, api_version, kind, &body.metadata, len)
                    .map_err(Status::internal)?;
            stream.plain(&head).map_err(Status::internal)?;
            &b""[..]
        }
        Format::Yaml => return Ok(Err(body)),
    };
    let chunks = Chunks { stream, pieces: made.into_iter(), tail, done: false };
    let frames =
        chunks.map(|chunk| chunk.map(|bytes| Frame::data(Bytes::from(bytes))).map_err(BoxError::from));
    let mut response = respond::bytes(StatusCode::OK, media.format.media_type(), Bytes::new());
    *response.body_mut() = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
    mark_compressed(response.headers_mut());
    Ok(Ok(response))
}

/// Cuts a list into runs at places that depend on the objects there and on no others: a list of all namespaces, one of a
/// single namespace and a later one have most of their runs in common.
fn runs(objects: &[Arc<StoredObject>]) -> Vec<Range<usize>> {
    let mut runs = Vec::with_capacity(objects.len() / RUN + 1);
    let mut start = 0;
    for (at, object) in objects.iter().enumerate() {
        let ends = match objects.get(at + 1) {
            None => true,
            Some(next) => {
                at + 1 - start == MAX_RUN
                    || is_boundary(object.key())
                    || next.namespace() != object.namespace()
            }
        };
        if ends {
            runs.push(start..at + 1);
            start = at + 1;
        }
    }
    runs
}

/// One of [`RUN`] keys, told by all of the key: names differ in their ends or their middles.
fn is_boundary(key: &str) -> bool {
    crc32fast::hash(key.as_bytes()).is_multiple_of(RUN as u32)
}

/// A compressed list in pieces of about [`CHUNK_BYTES`].
struct Chunks {
    stream: Stream,
    pieces: std::vec::IntoIter<Bytes>,
    /// What comes after the pieces.
    tail: &'static [u8],
    done: bool,
}

impl Iterator for Chunks {
    type Item = Result<Vec<u8>, flate2::CompressError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        for piece in self.pieces.by_ref() {
            self.stream.piece(&piece);
            if self.stream.available() >= CHUNK_BYTES {
                return Some(Ok(self.stream.take()));
            }
        }
        self.done = true;
        Some(self.stream.plain(self.tail).map(|()| self.stream.finish()))
    }
}
