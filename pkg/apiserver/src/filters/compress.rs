//! gzip for large answers, at the lowest level as upstream does (KEP-156): most of the gain, little of the cost.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use component::http::{Body, BoxError, Response};
use component::work;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;

/// Answers below this size are sent as they are.
pub(crate) const MIN_COMPRESSED_BYTES: u64 = 128 * 1024;

/// Whether the client takes gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|coding| coding.split(';').next().is_some_and(|c| c.trim() == "gzip"))
}

/// Compresses a body that is large, or of unknown size.
pub(super) fn compress(response: Response, wanted: bool) -> Response {
    let eligible = wanted
        && response.status().is_success()
        && !response.headers().contains_key(header::CONTENT_ENCODING)
        && response.body().size_hint().exact().is_none_or(|size| size >= MIN_COMPRESSED_BYTES);
    if !eligible {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    mark_compressed(&mut parts.headers);
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    Response::from_parts(parts, Gzip { body, encoder: Some(encoder) }.boxed_unsync())
}

/// The headers of a compressed body.
pub(crate) fn mark_compressed(headers: &mut HeaderMap) {
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// A body that compresses what passes.
struct Gzip {
    body: Body,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

/// Frames of this size are parts of something large.
const LARGE: usize = 32 * 1024;
/// Compressed bytes that are kept back until there are this many.
const FLUSH_BYTES: usize = 16 * 1024;

impl http_body::Body for Gzip {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let this = &mut *self;
            let Some(encoder) = this.encoder.as_mut() else { return Poll::Ready(None) };
            match std::task::ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    // a client that takes much gets one frame after the other, and half a millisecond each
                    let time = if data.len() < LARGE { Duration::ZERO } else { work::LONG };
                    work::taking(time, || encoder.write_all(&data))?;
                    if encoder.get_ref().len() >= FLUSH_BYTES {
                        let out = std::mem::take(encoder.get_mut());
                        return Poll::Ready(Some(Ok(Frame::data(out.into()))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let encoder = this.encoder.take().expect("checked above");
                    return Poll::Ready(Some(Ok(Frame::data(encoder.finish()?.into()))));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::io::Read as _;

    #[tokio::test]
    async fn large_bodies_are_compressed_and_small_ones_are_not() {
        let small = http::Response::new(component::http::full("small"));
        assert!(!compress(small, true).headers().contains_key(header::CONTENT_ENCODING));
        let text = "0123456789".repeat(50_000);
        let large = compress(http::Response::new(component::http::full(text.clone())), true);
        assert_eq!(large.headers()[header::CONTENT_ENCODING], "gzip");
        let bytes = large.into_body().collect().await.expect("memory").to_bytes();
        assert!(bytes.len() < text.len() / 10);
        let mut back = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut back).expect("gzip");
        assert_eq!(back, text);
        let plain = compress(http::Response::new(component::http::full(text)), false);
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
    }
}
