use super::super::Trust;
use super::super::spdy::tests::headers;
use super::*;
use apimachinery::{Value, json};
use flate2::Decompress;
use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// What the kubelet of the tests does with a command.
#[derive(Clone, Copy, PartialEq)]
enum Kubelet {
    /// Echoes what comes on any stream to stdout, and exits with 3 at the end of stdin.
    Echoes,
    /// Refuses to switch protocols.
    Refuses,
    /// Goes away once the streams are open.
    Vanishes,
}

async fn kubelet(kind: Kubelet, shutdown: CancellationToken) -> Location {
    let handler = move |mut request: Request<Body>| -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            assert_eq!(request.uri(), "/exec/ns/p/c?command=sh");
            assert_eq!(request.headers()[UPGRADE], SPDY);
            if kind == Kubelet::Refuses {
                let refusal = component::http::full("container not found (\"c\")\n");
                return Response::builder().status(500).body(refusal).expect("response");
            }
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move { speak(upgrade.await.expect("upgraded"), kind).await });
            Response::builder()
                .status(101)
                .header(CONNECTION, "Upgrade")
                .header(UPGRADE, SPDY)
                .header(PROTOCOL_HEADER, &request.headers()[PROTOCOL_HEADER])
                .body(empty())
                .expect("response")
        })
    };
    let port = serve(Arc::new(handler), shutdown).await;
    Location {
        secure: false,
        host: "127.0.0.1".into(),
        port,
        path: "/exec/ns/p/c".into(),
        query: "command=sh".into(),
        trust: Trust::Anything,
    }
}

pub(in super::super) async fn serve(
    handler: Arc<dyn component::serving::Handler>,
    shutdown: CancellationToken,
) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    let limits = component::serving::Limits::default();
    tokio::spawn(component::serving::serve(listener, None, handler, limits, shutdown));
    port
}

/// The runtime's side of a command.
async fn speak(connection: Upgraded, kind: Kubelet) {
    let mut io = TokioIo::new(connection);
    let mut state = Decompress::new(true);
    let mut open: Vec<(String, u32)> = Vec::new();
    loop {
        let mut head = [0; 8];
        if io.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let mut body = vec![0; length];
        io.read_exact(&mut body).await.expect("body");
        let of = |name: &str| open.iter().find(|(n, _)| n == name).map(|(_, stream)| *stream);
        if head[..4] == [0x80, 3, 0, 1] {
            // a stream is opened
            let stream = u32::from_be_bytes(body[..4].try_into().expect("four"));
            let names = headers(&mut state, &body[10..]);
            open.push((names[0].1.clone(), stream));
            io.write_all(&[0x80, 3, 0, 2, 0, 0, 0, 4]).await.expect("sent");
            io.write_u32(stream).await.expect("sent");
            if kind == Kubelet::Vanishes && open.len() == 4 {
                return;
            }
        } else if head[0] == 0 {
            let out = of("stdout");
            for frame in spdy::data(out.expect("an output"), body.into()) {
                io.write_all(&frame).await.expect("sent");
            }
            if head[4] == 1 {
                // a sign of life is answered while the command ends
                io.write_all(&spdy::ping(2)).await.expect("sent");
                for frame in spdy::data(of("error").expect("error"), exit_status().to_string().into()) {
                    io.write_all(&frame).await.expect("sent");
                }
                for (_, stream) in &open {
                    io.write_all(&spdy::end(*stream)).await.expect("sent");
                }
            }
        }
    }
}

fn exit_status() -> Value {
    json!({"metadata": {}, "status": "Failure", "message": "command terminated with non-zero exit code",
        "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}})
}

/// A client's WebSocket through this module to a kubelet.
async fn client(
    kubelet: Location,
    channels: Channels,
    shutdown: CancellationToken,
) -> WebSocketStream<TcpStream> {
    let config = super::super::KubeletConfig::default();
    let connector = Arc::new(Connector::new(&config, shutdown.clone()).expect("connector"));
    let handler = move |request: Request<Body>| -> BoxFuture<'static, Response<Body>> {
        assert!(is_wanted(&request));
        let answer = translate(&connector, request, kubelet.clone(), channels, |_| {});
        Box::pin(async move { answer.expect("switched") })
    };
    let port = serve(Arc::new(handler), shutdown).await;
    handshake(port, PROTOCOL).await
}

/// Opens a WebSocket that speaks `protocol`.
pub(in super::super) async fn handshake(port: u16, protocol: &str) -> WebSocketStream<TcpStream> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    let head = format!(
        "GET /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: \
         dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.expect("sent");
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(connection.read_u8().await.expect("head"));
    }
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(seen.starts_with("HTTP/1.1 101") && seen.contains(protocol), "{seen}");
    WebSocketStream::from_raw_socket(connection, Role::Client, None).await
}

/// Everything a client is told, by channel, until the server closes.
async fn told(socket: &mut WebSocketStream<TcpStream>) -> [Vec<u8>; 4] {
    let mut out = [const { Vec::new() }; 4];
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Binary(bytes) => out[usize::from(bytes[0])].extend_from_slice(&bytes[1..]),
            Message::Close(close) => {
                assert_eq!(close.expect("a reason").code, CloseCode::Normal);
                break;
            }
            _ => {}
        }
    }
    out
}

const ALL: Channels = Channels { stdin: true, stdout: true, stderr: true, tty: false };

#[tokio::test]
async fn commands_run_to_their_exit_code() {
    let shutdown = CancellationToken::new();
    let target = kubelet(Kubelet::Echoes, shutdown.clone()).await;
    let mut socket = client(target, ALL, shutdown.clone()).await;
    let long = vec![b'x'; 100_000];
    for bytes in [&b"hello "[..], &long] {
        socket.send(message(STDIN, bytes)).await.expect("sent");
    }
    socket.send(message(CLOSE, &[STDIN])).await.expect("sent");
    // what comes after the end of stdin is no input any more
    socket.send(message(STDIN, b"late")).await.expect("sent");
    let [_, stdout, stderr, error] = told(&mut socket).await;
    assert_eq!(stdout.len(), 6 + long.len());
    assert!(stdout.starts_with(b"hello xx") && stderr.is_empty());
    assert_eq!(serde_json::from_slice::<Value>(&error).expect("a status"), exit_status());
    shutdown.cancel();
}

#[test]
fn terminals_have_one_output() {
    let channels = Channels { tty: true, ..ALL };
    let names: Vec<&str> = streams(channels).iter().map(|s| s.1).collect();
    assert_eq!(names, ["error", "stdin", "stdout", "resize"]);
    let numbers: Vec<u32> = streams(ALL).iter().map(|s| s.2).collect();
    assert_eq!(numbers, [1, 3, 5, 7]);
    let mut output = Output {
        streams: &streams(channels),
        open: Output::awaited(&streams(channels)),
        status: BytesMut::new(),
    };
    assert!(matches!(output.take(Frame::Ping(2)), Step::Say(_)));
    assert!(matches!(output.take(Frame::Ping(1)), Step::Nothing));
    let size = Bytes::from_static(br#"{"Width":80,"Height":24}"#);
    let end = Frame::Data { stream: 1, bytes: size, fin: true };
    assert!(matches!(output.take(end), Step::Nothing));
    assert!(matches!(output.take(Frame::Reset { stream: 5 }), Step::Nothing));
    assert!(output.open.is_empty(), "the input streams are not waited for");
    // what is no Status is not told as one
    assert!(matches!(output.end(), End::Failed(_)));
}

#[tokio::test]
async fn resizes_reach_the_command() {
    let shutdown = CancellationToken::new();
    let target = kubelet(Kubelet::Echoes, shutdown.clone()).await;
    let mut socket = client(target, Channels { tty: true, ..ALL }, shutdown.clone()).await;
    let size = br#"{"Width":80,"Height":24}"#;
    socket.send(message(RESIZE, size)).await.expect("sent");
    socket.send(message(CLOSE, &[STDIN])).await.expect("sent");
    let [_, stdout, _, _] = told(&mut socket).await;
    assert_eq!(stdout, size);
    shutdown.cancel();
}

#[tokio::test]
async fn failures_are_told_on_the_error_channel() {
    for (kind, expected) in [
        (
            Kubelet::Refuses,
            "Internal error occurred: unable to upgrade connection: container not found (\"c\")",
        ),
        (
            Kubelet::Vanishes,
            "Internal error occurred: the connection to the container was lost before the command's end",
        ),
    ] {
        let shutdown = CancellationToken::new();
        let target = kubelet(kind, shutdown.clone()).await;
        let mut socket = client(target, ALL, shutdown.clone()).await;
        let [_, _, _, error] = told(&mut socket).await;
        let status: Value = serde_json::from_slice(&error).expect("a status");
        assert_eq!((&status["status"], &status["code"]), (&json!("Failure"), &json!(500)));
        assert_eq!(status["message"], expected);
        shutdown.cancel();
    }
}
