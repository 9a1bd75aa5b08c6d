//! Lists for clients that take gzip: every object is compressed once, not for every list.

use apimachinery::status::Status;
use bytes::Bytes;
use component::http::{BoxError, Response};
use http::StatusCode;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use super::{CHUNK_BYTES, Items, ListBody, MANY, encode, list_type};
use crate::core::encode::Encoder;
use crate::filters::{MIN_COMPRESSED_BYTES, accepts_gzip, mark_compressed};
use crate::gzip::{self, Pieces, Stream};
use crate::handlers::Exchange;
use crate::negotiate::{Format, MediaType};
use crate::respond;

/// Answers with a compressed list, or gives it back: when the client or the format does not want that, and when it is
/// small.
pub(super) async fn respond(
    exchange: &Exchange,
    mut body: ListBody,
    (kind, api_version): &(String, String),
    media: &MediaType,
) -> Result<Result<Response, ListBody>, Status> {
    let objects = body.items.as_slice();
    let suits = matches!(body.shown, Items::Objects)
        && !media.pretty
        && accepts_gzip(&exchange.parts.headers)
        && objects.len() >= MANY
        && objects.iter().map(|object| object.json_len() as u64).sum::<u64>() >= MIN_COMPRESSED_BYTES;
    if !suits {
        return Ok(Err(body));
    }
    let target = body.target.clone();
    let encoder = Encoder::new(&target);
    let mut pieces = Pieces::new();
    let mut stream = Stream::new();
    let (items, tail) = match media.format {
        Format::Json => {
            // items follow commas, all but the first
            let first = body.items.next();
            let mut head = body.head.take().unwrap_or_default();
            if let Some(first) = first {
                encoder.write_item(&first, &mut head)?;
            }
            stream.plain(&head).map_err(Status::internal)?;
            let items =
                encode(exchange, &body, |object| encoder.compressed_item(object, &mut pieces)).await?;
            (items, &b"]}\n"[..])
        }
        Format::Protobuf => {
            let Some((schema, root)) = list_type(exchange, &body, &encoder, kind)? else {
                return Ok(Err(body));
            };
            let items =
                encode(exchange, &body, |object| encoder.compressed_message(object, &mut pieces)).await?;
            let len = items.iter().map(|piece| gzip::plain_len(piece)).sum();
            let head =
                apimachinery::protobuf::list_prefix(schema, root, api_version, kind, &body.metadata, len)
                    .map_err(Status::internal)?;
            stream.plain(&head).map_err(Status::internal)?;
            (items, &b""[..])
        }
        Format::Yaml => return Ok(Err(body)),
    };
    let chunks = Chunks { stream, items: items.into_iter(), tail, done: false };
    let frames =
        chunks.map(|chunk| chunk.map(|bytes| Frame::data(Bytes::from(bytes))).map_err(BoxError::from));
    let mut response = respond::bytes(StatusCode::OK, media.format.media_type(), Bytes::new());
    *response.body_mut() = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
    mark_compressed(response.headers_mut());
    Ok(Ok(response))
}

/// A compressed list in pieces of about [`CHUNK_BYTES`].
struct Chunks {
    stream: Stream,
    items: std::vec::IntoIter<Bytes>,
    /// What comes after the items.
    tail: &'static [u8],
    done: bool,
}

impl Iterator for Chunks {
    type Item = Result<Vec<u8>, flate2::CompressError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        for piece in self.items.by_ref() {
            self.stream.piece(&piece);
            if self.stream.available() >= CHUNK_BYTES {
                return Some(Ok(self.stream.take()));
            }
        }
        self.done = true;
        Some(self.stream.plain(self.tail).map(|()| self.stream.finish()))
    }
}
