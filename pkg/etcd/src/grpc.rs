//! gRPC over HTTP/2 (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>): a message has five bytes before it, the
//! outcome of a request comes after the last one.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::HeaderMap;
use prost::Message;

use crate::error::Error;

/// A flag (compressed or not) and the length of the message.
const PREFIX: usize = 5;
/// Largest message accepted, as upstream's client accepts.
const MAX_MESSAGE: usize = i32::MAX as usize;

// google.rpc.Code
const OK: u32 = 0;
const UNKNOWN: u32 = 2;

/// A message as it is sent.
pub(crate) fn framed(message: &impl Message) -> Result<Bytes, Error> {
    let len = message.encoded_len();
    let length = u32::try_from(len).map_err(|_| Error::Invalid("the request is too large".into()))?;
    let mut frame = BytesMut::with_capacity(PREFIX + len);
    frame.put_u8(0);
    frame.put_u32(length);
    message.encode_raw(&mut frame);
    Ok(frame.freeze())
}

/// The messages of an answer.
pub(crate) struct Answer {
    state: State,
    partial: Partial,
    /// The part of the body that was received last and has not been used.
    rest: Bytes,
}

enum State {
    Awaited(ResponseFuture),
    Begun(RecvStream),
    Over,
}

impl Answer {
    pub(crate) fn new(response: ResponseFuture) -> Self {
        Self { state: State::Awaited(response), partial: Partial::default(), rest: Bytes::new() }
    }

    /// The one message of a call that has one.
    pub(crate) async fn only<M: Message + Default>(mut self) -> Result<M, Error> {
        let message = self.next().await?.ok_or_else(|| Error::Malformed("it is empty".into()))?;
        // the outcome
        match self.next::<M>().await? {
            None => Ok(message),
            Some(_) => Err(Error::Malformed("it has more than one message".into())),
        }
    }

    /// The next message; none when there will be no more. What has been received of it is kept when the future is dropped.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Error> {
        loop {
            if let Some(message) = self.partial.take(&mut self.rest)? {
                let decoded = M::decode(message).map_err(|e| Error::Malformed(e.to_string()))?;
                return Ok(Some(decoded));
            }
            match &mut self.state {
                State::Awaited(response) => {
                    let (head, body) = response.await?.into_parts();
                    if head.status != http::StatusCode::OK {
                        return Err(Error::Unavailable(format!(
                            "etcd answers with HTTP status {}",
                            head.status
                        )));
                    }
                    // an outcome here is all of the answer
                    if head.headers.contains_key("grpc-status") {
                        self.state = State::Over;
                        outcome(&head.headers)?;
                        continue;
                    }
                    self.state = State::Begun(body);
                }
                State::Begun(body) => match body.data().await {
                    Some(data) => {
                        self.rest = data?;
                        body.flow_control().release_capacity(self.rest.len())?;
                    }
                    None => {
                        let trailers = body.trailers().await?;
                        self.state = State::Over;
                        outcome(&trailers.unwrap_or_default())?;
                    }
                },
                State::Over => {
                    return if self.partial.is_empty() {
                        Ok(None)
                    } else {
                        Err(Error::Malformed("it ends within a message".into()))
                    };
                }
            }
        }
    }
}

/// A message of which not all has come.
#[derive(Default)]
struct Partial {
    prefix: Vec<u8>,
    /// Bytes of the message.
    expected: usize,
    message: Vec<u8>,
}

impl Partial {
    fn is_empty(&self) -> bool {
        self.prefix.is_empty()
    }

    /// A whole message, when what has come completes one. It has its own memory: parts of it may live on for long,
    /// what was received is shared with other messages.
    fn take(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, Error> {
        if self.prefix.len() < PREFIX {
            let n = (PREFIX - self.prefix.len()).min(input.len());
            self.prefix.extend_from_slice(&input.split_to(n));
            let Some((&compressed, mut length)) =
                self.prefix.split_first().filter(|(_, l)| l.len() == PREFIX - 1)
            else {
                return Ok(None);
            };
            if compressed != 0 {
                return Err(Error::Malformed("it is compressed".into()));
            }
            self.expected = length.get_u32() as usize;
            if self.expected > MAX_MESSAGE {
                return Err(Error::Malformed(format!("it has {} bytes", self.expected)));
            }
        }
        // grows as it comes: a length alone reserves nothing beyond what there is
        let n = (self.expected - self.message.len()).min(input.len());
        if self.message.is_empty() && n == self.expected {
            self.message.reserve_exact(n);
        }
        self.message.extend_from_slice(&input.split_to(n));
        if self.message.len() < self.expected {
            return Ok(None);
        }
        self.prefix.clear();
        Ok(Some(std::mem::take(&mut self.message).into()))
    }
}

/// How a request went.
fn outcome(headers: &HeaderMap) -> Result<(), Error> {
    let code =
        headers.get("grpc-status").and_then(|code| code.to_str().ok()?.parse().ok()).unwrap_or(UNKNOWN);
    if code == OK {
        return Ok(());
    }
    let message = headers.get("grpc-message").map_or(&b""[..], |message| message.as_bytes());
    let message = percent_encoding::percent_decode(message).decode_utf8_lossy().into_owned();
    Err(Error::Status { code, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{CompactionRequest, KeyValue};

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let messages: Vec<KeyValue> = (0..5)
            .map(|i| KeyValue {
                value: vec![7; i * 100].into(),
                mod_revision: i as i64,
                ..Default::default()
            })
            .collect();
        let all: Vec<u8> = messages.iter().flat_map(|message| framed(message).expect("short")).collect();
        for size in [1, 2, 3, 5, 7, 64, 105, all.len()] {
            let mut partial = Partial::default();
            let mut found = Vec::new();
            for chunk in all.chunks(size) {
                let mut input = Bytes::copy_from_slice(chunk);
                while let Some(message) = partial.take(&mut input).expect("well formed") {
                    found.push(KeyValue::decode(message).expect("a message"));
                }
                assert!(input.is_empty());
            }
            assert_eq!(found, messages, "cut into {size}");
            assert!(partial.is_empty());
        }
    }

    #[test]
    fn what_is_compressed_is_refused() {
        let error = Partial::default().take(&mut Bytes::from_static(&[1, 0, 0, 0, 0])).expect_err("refused");
        assert!(error.to_string().contains("compressed"), "{error}");
    }

    #[test]
    fn a_length_is_not_believed_before_the_bytes_come() {
        let mut partial = Partial::default();
        let mut input = Bytes::from_static(&[0, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3]);
        assert_eq!(partial.take(&mut input).expect("not over"), None);
        assert!(partial.message.capacity() < 1024);
        let too_long = Partial::default().take(&mut Bytes::from_static(&[0, 0x80, 0, 0, 0, 1]));
        assert!(matches!(too_long, Err(Error::Malformed(_))), "{too_long:?}");
    }

    #[test]
    fn a_frame_says_how_long_it_is() {
        assert_eq!(framed(&CompactionRequest { revision: 5 }).expect("short")[..], [0, 0, 0, 0, 2, 8, 5]);
    }

    #[test]
    fn outcomes_are_read() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs
                .iter()
                .map(|(k, v)| (http::HeaderName::from_static(k), http::HeaderValue::from_static(v)))
                .collect()
        };
        outcome(&headers(&[("grpc-status", "0")])).expect("fine");
        let cases = [
            (headers(&[("grpc-status", "11"), ("grpc-message", "a%20b%25")]), 11, "a b%"),
            (headers(&[("grpc-status", "14")]), 14, ""),
            (headers(&[]), 2, ""),
        ];
        for (headers, expected, text) in cases {
            let Err(Error::Status { code, message }) = outcome(&headers) else { panic!("{headers:?}") };
            assert_eq!((code, message.as_str()), (expected, text));
        }
    }
}
