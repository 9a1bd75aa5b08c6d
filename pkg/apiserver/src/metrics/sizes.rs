//! Sizes of answers: of those made piece by piece when the last piece has gone.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use component::http::{Body, BoxError, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use prometheus_client::metrics::histogram::Histogram;

/// The answer, whose size will have been observed when it is sent.
pub(super) fn observed(response: Response, sizes: &Histogram) -> Response {
    match response.body().size_hint().exact() {
        Some(bytes) => {
            sizes.observe(bytes as f64);
            response
        }
        None => response.map(|body| Counted { body, bytes: 0, sizes: sizes.clone() }.boxed_unsync()),
    }
}

/// A body that says when it ends, or is given up, how much of it there was.
struct Counted {
    body: Body,
    bytes: usize,
    sizes: Histogram,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.sizes.observe(self.bytes as f64);
    }
}
