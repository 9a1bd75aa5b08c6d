//! The client at servers that do what a well-behaved etcd seldom does. What etcd itself does is tested in `storage-etcd`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd::messages::{KeyValue, RangeRequest, RangeResponse, ResponseHeader};
use etcd::{Client, Error};
use http::{HeaderMap, HeaderValue, Response};
use prost::Message as _;
use tokio::net::TcpListener;

/// What a server does with the requests of a connection.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answers,
    /// Tells the connection's client to go away after the first answer.
    Leaves,
    Refuses,
    Waits,
}

/// A server and what it has seen.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: AtomicUsize,
    given_up: AtomicUsize,
}

async fn serve(manner: Manner) -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::new(Seen::default());
    tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            while let Ok((socket, _)) = listener.accept().await {
                seen.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(connection(socket, manner, Arc::clone(&seen)));
            }
        }
    });
    (address, seen)
}

async fn connection(socket: tokio::net::TcpStream, manner: Manner, seen: Arc<Seen>) {
    let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().path(), "/etcdserverpb.KV/Range");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        seen.requests.fetch_add(1, Ordering::SeqCst);
        if manner == Manner::Waits {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                seen.given_up.fetch_add(1, Ordering::SeqCst);
            });
            continue;
        }
        let mut outcome = HeaderMap::new();
        outcome.insert("grpc-status", HeaderValue::from_static("0"));
        if manner == Manner::Refuses {
            let mut response = Response::new(());
            response.headers_mut().insert("grpc-status", HeaderValue::from_static("8"));
            response.headers_mut().insert("grpc-message", HeaderValue::from_static("too%20many"));
            respond.send_response(response, true).expect("an open stream");
            continue;
        }
        let kv = KeyValue { key: Bytes::from_static(b"k"), ..Default::default() };
        let header = Some(ResponseHeader { revision: 7 });
        let message = RangeResponse { header, kvs: vec![kv], more: false, count: 1 }.encode_to_vec();
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).expect("short").to_be_bytes());
        frame.extend(message);
        let mut stream = respond.send_response(Response::new(()), false).expect("an open stream");
        stream.send_data(frame.into(), false).expect("an open stream");
        stream.send_trailers(outcome).expect("an open stream");
        if manner == Manner::Leaves {
            connection.graceful_shutdown();
        }
    }
}

fn client(addresses: &[SocketAddr]) -> Client {
    let servers: Vec<String> = addresses.iter().map(|address| format!("http://{address}")).collect();
    Client::new(&servers, None).expect("addresses")
}

async fn ask(client: &Client) -> Result<i64, Error> {
    let request = RangeRequest { key: Bytes::from_static(b"k"), ..Default::default() };
    let answer =
        tokio::time::timeout(Duration::from_secs(10), client.range(&request)).await.expect("in time")?;
    Ok(answer.header.map_or(0, |header| header.revision))
}

#[tokio::test]
async fn members_take_turns_and_those_that_are_gone_are_passed_by() {
    let (one, first) = serve(Manner::Answers).await;
    let (two, second) = serve(Manner::Answers).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let client = client(&[one, gone, two]);
    // both are connected to
    while first.requests.load(Ordering::SeqCst) == 0 || second.requests.load(Ordering::SeqCst) == 0 {
        assert_eq!(ask(&client).await.expect("an answer"), 7);
    }
    let before = first.requests.load(Ordering::SeqCst);
    for _ in 0..30 {
        assert_eq!(ask(&client).await.expect("an answer"), 7);
    }
    let part = first.requests.load(Ordering::SeqCst) - before;
    assert!((10..=20).contains(&part), "{part} of 30 went to the first member");
    assert_eq!(first.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_that_is_told_to_go_away_is_left_for_another() {
    let (address, seen) = serve(Manner::Leaves).await;
    let client = client(&[address]);
    for _ in 0..20 {
        assert_eq!(ask(&client).await.expect("an answer"), 7);
    }
    assert!(seen.connections.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn no_member_at_all_is_said_at_once() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let client = client(&[gone]);
    for _ in 0..3 {
        let error = ask(&client).await.expect_err("nobody is there");
        assert!(matches!(&error, Error::Unavailable(text) if text.contains(&gone.to_string())), "{error:?}");
    }
}

#[tokio::test]
async fn an_outcome_without_an_answer_is_the_error() {
    let (address, _) = serve(Manner::Refuses).await;
    let error = ask(&client(&[address])).await.expect_err("it refuses");
    assert!(matches!(&error, Error::Status { code: 8, message } if message == "too many"), "{error:?}");
}

#[tokio::test]
async fn who_gives_up_ends_the_stream() {
    let (address, seen) = serve(Manner::Waits).await;
    let client = client(&[address]);
    let request = RangeRequest::default();
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_millis(50), client.range(&request)).await.is_err());
    }
    let told = async {
        while seen.given_up.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.expect("the server is told");
}

#[test]
fn addresses_that_cannot_be_used_are_refused() {
    let cases = [
        (vec![], "no etcd server"),
        (vec!["127.0.0.1:2379"], "not of the form http://"),
        (vec!["https://127.0.0.1:2379"], "not of the form http://"),
        (vec!["http://"], "http://"),
    ];
    for (servers, expected) in cases {
        let servers: Vec<String> = servers.into_iter().map(str::to_owned).collect();
        let error = Client::new(&servers, None).map(|_| ()).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
}
