//! Watches over WebSocket (RFC 6455): one message an event, text for JSON, binary for protobuf.
//!
//! The server's half only, and nothing of it but what a watch needs: messages out, a close or a lost connection in.
//! Source: `k8s.io/apiserver/pkg/endpoints/handlers/watch.go` (`HandleWS`).

use std::time::Duration;

use apimachinery::status::Status;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use component::http::{Response, empty};
use futures::{Stream, StreamExt};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};

use crate::metrics::Open;

/// What the key of a handshake is hashed with.
const HANDSHAKE_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// A client that does not take a message for this long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest control message a client may send.
const MAX_CLIENT_PAYLOAD: u64 = 64 * 1024;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
/// Close code 1000: normal.
const CLOSE_NORMAL: [u8; 2] = [0x03, 0xe8];

/// Whether a request asks for WebSocket.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    let has = |name: header::HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|v| v.trim().eq_ignore_ascii_case(token))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// The subprotocols a client offers, the preferred first.
pub fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
}

/// The answer to a handshake, with the subprotocol that was chosen. 400 when the client sent no key.
pub fn switching(headers: &HeaderMap, protocol: Option<&str>) -> Result<Response, Status> {
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|v| v.to_str().ok())
        .ok_or_else(|| Status::bad_request("the WebSocket handshake lacks Sec-WebSocket-Key"))?;
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&accept(key)).map_err(Status::internal)?;
    out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        let protocol = HeaderValue::from_str(protocol).map_err(Status::internal)?;
        out.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

/// Switches a request to WebSocket and sends the messages; ends when they do or the client goes.
pub fn serve(
    mut request: Parts,
    binary: bool,
    protocol: Option<&str>,
    messages: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Response, Status> {
    let response = switching(&request.headers, protocol)?;
    let upgrade = request
        .extensions
        .remove::<OnUpgrade>()
        .ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    let open = Open::of(&request.extensions);
    tokio::spawn(async move {
        let _open = open;
        match upgrade.await {
            Ok(upgraded) => send(upgraded, binary, messages).await,
            Err(error) => tracing::debug!(%error, "a WebSocket watch was not upgraded"),
        }
    });
    Ok(response)
}

fn accept(key: &str) -> String {
    let text = format!("{key}{HANDSHAKE_SUFFIX}");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

async fn send(upgraded: Upgraded, binary: bool, messages: impl Stream<Item = Bytes> + Send) {
    let (reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
    let mut gone = Box::pin(until_closed(reader));
    let mut messages = std::pin::pin!(messages);
    let opcode = if binary { BINARY } else { TEXT };
    loop {
        let message = tokio::select! {
            () = &mut gone => return,
            message = messages.next() => message,
        };
        let frame = match &message {
            Some(message) => frame(opcode, message),
            None => frame(CLOSE, &CLOSE_NORMAL),
        };
        let written = tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&frame)).await;
        if message.is_none() || !matches!(written, Ok(Ok(()))) {
            let _ = writer.shutdown().await;
            return;
        }
    }
}

/// One unmasked, unfragmented frame.
fn frame(opcode: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 10);
    out.put_u8(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => out.put_u8(length as u8),
        length @ 126..=0xffff => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        length => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
    out.put_slice(payload);
    out.freeze()
}

/// Reads what the client sends, which a watch has no use for, until it closes or breaks the protocol.
async fn until_closed(mut reader: ReadHalf<TokioIo<Upgraded>>) {
    loop {
        let mut head = [0_u8; 2];
        if reader.read_exact(&mut head).await.is_err() || head[0] & 0x0f == CLOSE {
            return;
        }
        let length = match head[1] & 0x7f {
            126 => reader.read_u16().await.map(u64::from),
            127 => reader.read_u64().await,
            short => Ok(u64::from(short)),
        };
        let masked = head[1] & 0x80 != 0;
        let Ok(length) = length else { return };
        // clients must mask
        if !masked || length > MAX_CLIENT_PAYLOAD {
            return;
        }
        let mut rest = (&mut reader).take(length + 4);
        if tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_the_rfcs() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frames_have_lengths_of_three_sizes() {
        assert_eq!(frame(TEXT, b"ab")[..], [0x81, 2, b'a', b'b']);
        assert_eq!(frame(BINARY, &[0; 126])[..4], [0x82, 126, 0, 126]);
        assert_eq!(frame(TEXT, &vec![0; 0x1_0000])[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
