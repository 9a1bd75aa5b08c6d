//! Sizes of answers: of those made piece by piece when the last piece has gone.

use bytes::Bytes;
use component::http::Response;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use prometheus_client::metrics::histogram::Histogram;

/// The answer, whose size will have been observed when it is sent.
pub(super) fn observed(response: Response, sizes: &Histogram) -> Response {
    if let Some(bytes) = response.body().size_hint().exact() {
        sizes.observe(bytes as f64);
        return response;
    }
    let mut sent = Sent { bytes: 0, sizes: sizes.clone() };
    response.map(|body| {
        let counted = body.map_frame(move |frame| {
            sent.count(frame.data_ref().map_or(0, Bytes::len));
            frame
        });
        counted.boxed_unsync()
    })
}

/// How much of a body has been sent, observed when the body ends or is given up.
struct Sent {
    bytes: usize,
    sizes: Histogram,
}

impl Sent {
    fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.sizes.observe(self.bytes as f64);
    }
}
