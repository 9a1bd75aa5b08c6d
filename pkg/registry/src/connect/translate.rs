//! Remote commands over WebSocket for kubelets that speak SPDY (KEP-4006).
//!
//! A client that offers `v5.channel.k8s.io` gets its WebSocket from this server; the command runs over a SPDY
//! connection to the kubelet, and the five channels are carried over. Other subprotocols are the kubelet's business.
//! How the command went, and whatever fails after the handshake, is told as a Status on the error channel.
//! Source: `k8s.io/apiserver/pkg/util/proxy/{streamtranslator,websocket}.go`, `k8s.io/client-go/tools/remotecommand`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use apiserver::{Open, websocket};
use bytes::{BufMut, Bytes, BytesMut};
use component::http::{Body, empty};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::spdy::{self, Decoder, Encoder, Frame};
use super::{Connector, Location};

/// The subprotocol that is translated.
pub(super) const PROTOCOL: &str = "v5.channel.k8s.io";
/// What is spoken with the kubelet: the command's end comes as a Status.
const KUBELET_PROTOCOL: &str = "v4.channel.k8s.io";
/// Header in which SPDY clients and servers agree on a protocol.
pub(super) const PROTOCOL_HEADER: &str = "x-stream-protocol-version";
/// Upgrade token of SPDY.
pub(super) const SPDY: &str = "SPDY/3.1";

/// Longest message of a client.
const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// Read and write buffers of a WebSocket.
const BUFFER_BYTES: usize = 16 << 10;
/// Frames waiting for the kubelet.
const OUTBOX_FRAMES: usize = 8;
/// Read from the kubelet at once.
const READ_BYTES: usize = 32 << 10;
/// Longest Status of a kubelet.
const MAX_STATUS_BYTES: usize = 64 << 10;
/// Signs of life sent to the kubelet.
const PING_PERIOD: Duration = Duration::from_secs(5);
/// A session without a byte for this long is ended.
const IDLE_LIMIT: Duration = Duration::from_secs(4 * 3600);
/// How long a client may take to read what is left once the command has ended.
const FINISH_LIMIT: Duration = Duration::from_secs(15 * 60);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// A message that closes the channel its payload names.
const CLOSE: u8 = 255;

/// A WebSocket of ours, over a connection that was upgraded.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Which channels a command has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Channels {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// The SPDY streams of a command: channel, name and number, in the order they are opened.
fn streams(channels: Channels) -> Vec<(u8, &'static str, u32)> {
    let wanted = [
        (ERROR, "error", true),
        (STDIN, "stdin", channels.stdin),
        (STDOUT, "stdout", channels.stdout),
        // a terminal has one output
        (STDERR, "stderr", channels.stderr && !channels.tty),
        (RESIZE, "resize", channels.tty),
    ];
    let chosen = wanted.into_iter().filter(|(_, _, wanted)| *wanted);
    chosen.zip((1_u32..).step_by(2)).map(|((channel, name, _), number)| (channel, name, number)).collect()
}

/// Whether a request is to be translated.
pub(super) fn is_wanted<B>(request: &Request<B>) -> bool {
    websocket::is_wanted(request.headers())
        && websocket::protocols(request.headers()).any(|protocol| protocol == PROTOCOL)
}

/// Answers the handshake of a client and carries its command over; what comes later is told over the WebSocket.
/// `finished` hears the code the command counts as.
pub(super) fn translate(
    connector: &Arc<Connector>,
    mut request: Request<Body>,
    location: Location,
    channels: Channels,
    finished: impl FnOnce(u16) + Send + 'static,
) -> Result<Response<Body>, Status> {
    let response = websocket::switching(request.headers(), Some(PROTOCOL))?;
    let upgrade = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    let (dialer, open) = (Arc::clone(connector), Open::of(request.extensions()));
    connector.spawn(async move {
        let _open = open;
        let socket = match upgrade.await {
            Ok(upgraded) => socket(upgraded).await,
            Err(error) => {
                tracing::debug!(%error, "a remote command's connection was not upgraded");
                return finished(400);
            }
        };
        finished(run(&dialer, socket, &location, channels).await);
    });
    Ok(response)
}

/// The server's side of a WebSocket.
pub(super) async fn socket(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}

/// How a session ended.
enum End {
    /// A Status of the kubelet, as it was sent, and the code it counts as.
    Told(u16, Bytes),
    /// Something between here and there.
    Failed(Status),
    /// The client has gone, or does not say anything any more.
    Gone,
}

async fn run(connector: &Connector, socket: Socket, location: &Location, channels: Channels) -> u16 {
    let (mut sink, mut source) = socket.split();
    let first = if channels.stdout {
        STDOUT
    } else if channels.stderr {
        STDERR
    } else {
        ERROR
    };
    // an empty message tells the client that the connection stands
    if sink.send(Message::Binary(Bytes::copy_from_slice(&[first]))).await.is_err() {
        return 400;
    }
    let end = match dial(connector, location).await {
        Ok(kubelet) => session(kubelet, &mut sink, &mut source, channels).await,
        Err(end) => end,
    };
    let (code, status) = match end {
        End::Told(code, status) => (code, status),
        End::Failed(status) => (status.code, status.to_value().to_string().into()),
        End::Gone => return 200,
    };
    finish(sink, source, &status).await;
    code
}

/// A SPDY connection to the kubelet.
async fn dial(connector: &Connector, location: &Location) -> Result<Upgraded, End> {
    let failed = |why: String| End::Failed(Status::internal(why));
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}?{}", location.path, location.query))
        .header(HOST, location.authority())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, SPDY)
        .header(PROTOCOL_HEADER, KUBELET_PROTOCOL)
        .body(empty())
        .map_err(|error| failed(error.to_string()))?;
    let sent = connector.send(location, request).await;
    let mut answer = sent.map_err(|error| failed(format!("error sending request: {error}")))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(answer).await);
    }
    let agreed = answer.headers().get(PROTOCOL_HEADER).and_then(|v| v.to_str().ok()).unwrap_or("");
    if agreed != KUBELET_PROTOCOL {
        return Err(failed(format!(
            "unable to negotiate protocol: client supports [{KUBELET_PROTOCOL}], server accepted {agreed:?}"
        )));
    }
    hyper::upgrade::on(&mut answer).await.map_err(|e| failed(format!("unable to upgrade connection: {e}")))
}

/// What a kubelet that does not switch protocols says about it.
async fn refusal(answer: Response<Incoming>) -> End {
    let code = answer.status().as_u16();
    let Ok(body) = Limited::new(answer.into_body(), MAX_STATUS_BYTES).collect().await else {
        let why = "unable to upgrade connection: unable to read error from server response";
        return End::Failed(Status::internal(why));
    };
    let body = body.to_bytes();
    match serde_json::from_slice::<apimachinery::Value>(&body) {
        Ok(status) if status["kind"] == "Status" => End::Told(code, body),
        _ => {
            let why = String::from_utf8_lossy(&body);
            End::Failed(Status::internal(format!("unable to upgrade connection: {}", why.trim())))
        }
    }
}

/// When something last moved, for the idle limit.
struct Activity(Mutex<Instant>);

impl Activity {
    fn seen(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Ends when nothing moved for [`IDLE_LIMIT`].
    async fn idle(&self) {
        loop {
            let until = *self.0.lock() + IDLE_LIMIT;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

async fn session(
    kubelet: Upgraded,
    sink: &mut SplitSink<Socket, Message>,
    source: &mut SplitStream<Socket>,
    channels: Channels,
) -> End {
    let streams = streams(channels);
    let number = |channel: u8| streams.iter().find(|s| s.0 == channel).map(|s| s.2);
    let (reader, mut writer) = tokio::io::split(TokioIo::new(kubelet));
    let mut encoder = Encoder::new();
    for (_, name, number) in &streams {
        if let Err(error) = writer.write_all(&encoder.open(*number, &[("streamType", name)])).await {
            return End::Failed(Status::internal(format!("error creating {name} stream: {error}")));
        }
    }
    let (outbox, inbox) = mpsc::channel(OUTBOX_FRAMES);
    let activity = Activity(Mutex::new(Instant::now()));
    let output = Output { open: Output::awaited(&streams), streams: &streams, status: BytesMut::new() };
    tokio::select! {
        end = output.carry(reader, sink, &outbox, &activity) => end,
        () = input(source, &outbox, number(STDIN), number(RESIZE), &activity) => End::Gone,
        () = send(writer, inbox) => End::Gone,
        () = activity.idle() => End::Gone,
    }
}

/// Writes frames and signs of life to the kubelet. A kubelet that takes nothing any more may still have something to
/// say, so frames are then dropped and its end is left to whoever reads.
async fn send(mut writer: WriteHalf<TokioIo<Upgraded>>, mut inbox: mpsc::Receiver<Bytes>) {
    let mut pings = tokio::time::interval_at(Instant::now() + PING_PERIOD, PING_PERIOD);
    let mut numbers = (1_u32..).step_by(2);
    let mut taken = true;
    loop {
        let frame = tokio::select! {
            frame = inbox.recv() => match frame {
                Some(frame) => frame,
                None => return,
            },
            _ = pings.tick() => spdy::ping(numbers.next().unwrap_or(1)),
        };
        taken = taken && writer.write_all(&frame).await.is_ok();
    }
}

/// Carries what the client says to the kubelet; ends when the client does.
async fn input(
    source: &mut SplitStream<Socket>,
    outbox: &mpsc::Sender<Bytes>,
    mut stdin: Option<u32>,
    resize: Option<u32>,
    activity: &Activity,
) {
    while let Some(Ok(message)) = source.next().await {
        activity.seen();
        let mut bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => return,
            _ => continue,
        };
        if bytes.is_empty() {
            continue;
        }
        let channel = bytes.split_to(1)[0];
        let stream = match channel {
            STDIN => stdin,
            RESIZE => resize,
            CLOSE if bytes.first() == Some(&STDIN) => {
                if let Some(stream) = stdin.take()
                    && outbox.send(spdy::end(stream)).await.is_err()
                {
                    return;
                }
                continue;
            }
            _ => None,
        };
        let Some(stream) = stream else { continue };
        for frame in spdy::data(stream, bytes) {
            if outbox.send(frame).await.is_err() {
                return;
            }
        }
    }
}

/// What comes from the kubelet.
struct Output<'a> {
    streams: &'a [(u8, &'static str, u32)],
    /// Streams that have not ended.
    open: BTreeSet<u32>,
    /// The Status so far.
    status: BytesMut,
}

impl Output<'_> {
    fn awaited(streams: &[(u8, &'static str, u32)]) -> BTreeSet<u32> {
        streams.iter().filter(|s| matches!(s.0, ERROR | STDOUT | STDERR)).map(|s| s.2).collect()
    }

    /// Carries the command's output to the client until all of it and the command's end are there.
    async fn carry(
        mut self,
        mut reader: ReadHalf<TokioIo<Upgraded>>,
        sink: &mut SplitSink<Socket, Message>,
        outbox: &mpsc::Sender<Bytes>,
        activity: &Activity,
    ) -> End {
        let mut decoder = Decoder::default();
        loop {
            match decoder.next() {
                Ok(Some(frame)) => {
                    match self.take(frame) {
                        Step::Show(channel, bytes) => {
                            activity.seen();
                            if sink.send(message(channel, &bytes)).await.is_err() {
                                return End::Gone;
                            }
                        }
                        // dropped when the kubelet reads nothing: waiting for it here could be for ever
                        Step::Say(frame) => drop(outbox.try_send(frame)),
                        Step::Nothing => {}
                        Step::Failed(status) => return End::Failed(status),
                    }
                    if self.open.is_empty() {
                        return self.end();
                    }
                }
                Ok(None) => {
                    decoder.buffer().reserve(READ_BYTES);
                    match reader.read_buf(decoder.buffer()).await {
                        Ok(0) | Err(_) => return self.end(),
                        Ok(_) => {}
                    }
                }
                Err(error) => return End::Failed(Status::internal(error)),
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Step {
        match frame {
            Frame::Data { stream, bytes, fin } => {
                let channel = self.streams.iter().find(|s| s.2 == stream).map(|s| s.0);
                if fin {
                    self.open.remove(&stream);
                }
                match channel {
                    Some(ERROR) if self.status.len() + bytes.len() > MAX_STATUS_BYTES => {
                        Step::Failed(Status::internal("error stream protocol error: the status is too long"))
                    }
                    Some(ERROR) => {
                        self.status.extend_from_slice(&bytes);
                        Step::Nothing
                    }
                    Some(channel @ (STDOUT | STDERR)) if !bytes.is_empty() => Step::Show(channel, bytes),
                    _ => Step::Nothing,
                }
            }
            Frame::Accepted { stream, fin: true } | Frame::Reset { stream } => {
                self.open.remove(&stream);
                Step::Nothing
            }
            Frame::Ping(number) if number % 2 == 0 => Step::Say(spdy::ping(number)),
            _ => Step::Nothing,
        }
    }

    /// What the client is told once nothing more comes.
    fn end(self) -> End {
        if self.status.is_empty() {
            return End::Failed(Status::internal(
                "the connection to the container was lost before the command's end",
            ));
        }
        let status = self.status.freeze();
        let known = serde_json::from_slice::<apimachinery::Value>(&status);
        match known {
            Ok(value) if matches!(value["status"].as_str(), Some("Success" | "Failure")) => {
                End::Told(200, status)
            }
            _ => End::Failed(Status::internal(format!(
                "error stream protocol error: unknown error: {:?}",
                String::from_utf8_lossy(&status)
            ))),
        }
    }
}

/// What a frame of the kubelet asks for.
enum Step {
    Show(u8, Bytes),
    Say(Bytes),
    Failed(Status),
    Nothing,
}

fn message(channel: u8, payload: &[u8]) -> Message {
    let mut out = BytesMut::with_capacity(payload.len() + 1);
    out.put_u8(channel);
    out.put_slice(payload);
    Message::Binary(out.freeze())
}

/// A close that says nothing went wrong (1000); without a code clients take it for a failure.
pub(super) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Tells the client how the command ended and leaves it the time to read everything: closing at once would have the
/// kernel throw away what the client has not read yet as soon as it sends something.
async fn finish(mut sink: SplitSink<Socket, Message>, mut source: SplitStream<Socket>, status: &[u8]) {
    let last = async {
        // whatever the client still says is of no use, but must be read
        let said = async { while let Some(Ok(_)) = source.next().await {} };
        let told = async {
            if sink.send(message(ERROR, status)).await.is_ok() {
                let _ = sink.send(goodbye()).await;
            }
        };
        tokio::join!(said, told);
    };
    let _ = tokio::time::timeout(FINISH_LIMIT, last).await;
}

#[cfg(test)]
pub(super) mod tests;
