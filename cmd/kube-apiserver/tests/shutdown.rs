//! The end of the server, step by step: what it refuses, what it finishes, and in which order.

use std::time::Duration;

use bytes::Bytes;
use component::http::{Body, full};
use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::{SinkExt as _, StreamExt as _};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use integration::servers::{ApiServer, ApiServers, Door};
use serde_json::Value;

const CM: &str = "/api/v1/namespaces/default/configmaps";
/// Longest wait for one step.
const PATIENCE: Duration = Duration::from_secs(60);

/// A body that is sent as it is written.
fn slow_body() -> (UnboundedSender<Bytes>, Body) {
    let (sender, receiver) = unbounded();
    let frames = receiver.map(|bytes| Ok::<_, component::http::BoxError>(Frame::data(bytes)));
    (sender, StreamBody::new(frames).boxed_unsync())
}

/// What metrics say while a write is under way.
const ONE_WRITE: &str = "apiserver_current_inflight_requests{request_kind=\"mutating\"} 1";

/// A create whose body has come in part, and a watch: both under way.
struct UnderWay {
    rest: UnboundedSender<Bytes>,
    create: tokio::task::JoinHandle<anyhow::Result<(u16, Value)>>,
    watch: tokio::task::JoinHandle<anyhow::Result<String>>,
}

impl UnderWay {
    async fn begin(door: &Door) -> anyhow::Result<Self> {
        let mut watching = door.connect().await?.send("GET", &format!("{CM}?watch=true"), full("")).await?;
        // it has begun, and says what is there
        door.ok("POST", CM, &serde_json::json!({"metadata": {"name": "before"}})).await?;
        let first = watching.frame().await.and_then(Result::ok).and_then(|f| f.into_data().ok());
        let mut text = String::from_utf8_lossy(&first.unwrap_or_default()).into_owned();
        let watch = tokio::spawn(async move {
            text.push_str(&String::from_utf8_lossy(&watching.into_body().collect().await?.to_bytes()));
            anyhow::Ok(text)
        });
        let (mut rest, body) = slow_body();
        rest.send(Bytes::from_static(b"{\"metadata\": {\"name\": ")).await?;
        let mut connection = door.connect().await?;
        let create = tokio::spawn(async move {
            let response = connection.send("POST", CM, body).await?;
            let code = response.status().as_u16();
            let bytes = response.into_body().collect().await?.to_bytes();
            anyhow::Ok((code, serde_json::from_slice(&bytes).unwrap_or_default()))
        });
        // the server has it too before anything else happens
        let taken = async {
            while !door.get("/metrics").await?.2.contains(ONE_WRITE) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, taken).await??;
        Ok(Self { rest, create, watch })
    }

    /// The watch has ended well; the create is finished and has happened.
    async fn finish(self) -> anyhow::Result<()> {
        let seen = tokio::time::timeout(PATIENCE, self.watch).await???;
        assert!(seen.contains("\"name\":\"before\"") && !seen.contains("ERROR"), "{seen}");
        assert!(!self.create.is_finished());
        self.rest.unbounded_send(Bytes::from_static(b"\"slow\"}}"))?;
        drop(self.rest);
        let (code, object) = tokio::time::timeout(PATIENCE, self.create).await???;
        assert_eq!((code, object["metadata"]["name"].as_str()), (201, Some("slow")), "{object}");
        Ok(())
    }
}

async fn started(flags: &[&str]) -> anyhow::Result<(ApiServers, tempfile::TempDir, ApiServer)> {
    let servers = ApiServers::new(env!("CARGO_BIN_EXE_kube-apiserver"))?;
    let dir = tempfile::tempdir()?;
    let mut all = vec![format!("--storage-dir={}", dir.path().join("store").display())];
    all.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let server = servers.start(&all).await?;
    Ok((servers, dir, server))
}

#[tokio::test(flavor = "multi_thread")]
async fn not_ready_then_closed_then_done() -> anyhow::Result<()> {
    let (servers, dir, mut server) = started(&["--shutdown-delay-duration=8s"]).await?;
    let door = server.door();
    let under_way = UnderWay::begin(&door).await?;
    server.process.terminate()?;
    let report = server
        .process
        .until("readiness fails", async || {
            let (code, _, text) = door.get("/readyz?verbose").await.ok()?;
            (code == 500).then_some(text)
        })
        .await?;
    assert!(report.contains("[-]shutdown failed: reason withheld\n"), "{report}");
    assert_eq!(report.matches("[-]").count(), 1, "{report}");
    // whoever has not noticed is served as ever
    assert_eq!(door.get("/livez").await?.0, 200);
    assert_eq!(door.get("/healthz").await?.0, 200);
    door.ok("POST", CM, &serde_json::json!({"metadata": {"name": "late"}})).await?;
    assert!(!under_way.watch.is_finished(), "watches go on meanwhile");
    server.process.until("the listener is closed", async || door.connect().await.err()).await?;
    assert!(server.process.is_running()?);
    under_way.finish().await?;
    assert!(server.process.ended().await?);

    // what was answered had happened
    let server = servers.start(&[format!("--storage-dir={}", dir.path().join("store").display())]).await?;
    for name in ["before", "late", "slow"] {
        server.door().ok("GET", &format!("{CM}/{name}"), &Value::Null).await?;
    }
    assert!(server.process.stop().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn or_sent_away_until_done() -> anyhow::Result<()> {
    let (_servers, _dir, mut server) = started(&["--shutdown-send-retry-after=true"]).await?;
    let door = server.door();
    let mut idle = door.connect().await?;
    let mut http2 = door.connect_http2().await?;
    assert_eq!(http2.get("/version").await?, 200);
    idle.send("GET", "/version", full("")).await?.into_body().collect().await?;
    let under_way = UnderWay::begin(&door).await?;
    server.process.terminate()?;
    let refused = server
        .process
        .until("new requests are sent away", async || {
            door.get("/version").await.ok().filter(|(code, ..)| *code == 429)
        })
        .await?;
    let text = "The apiserver is shutting down, please try again later.\n";
    let header = |name: &str| refused.1.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    assert_eq!((refused.2.as_str(), header("retry-after"), header("connection")), (text, "5", "close"));
    // on old connections too, and watches as well
    let old = idle.send("GET", CM, full("")).await?;
    assert_eq!(old.status(), 429);
    assert_eq!(door.get(&format!("{CM}?watch=true")).await?.0, 429);
    // and those that many requests share are given up
    assert_eq!(http2.get(CM).await?, 429);
    tokio::time::timeout(PATIENCE, async { while http2.get(CM).await.is_ok() {} }).await?;
    // probes are answered to the last
    assert_eq!(door.get("/livez").await?.0, 200);
    assert_eq!(door.get("/readyz").await?.0, 500);
    assert!(server.process.is_running()?);
    under_way.finish().await?;
    assert!(server.process.ended().await?);
    assert!(door.connect().await.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_end_over_their_time() -> anyhow::Result<()> {
    let (_servers, _dir, server) =
        started(&["--shutdown-watch-termination-grace-period=8s", "--request-timeout=20s"]).await?;
    let door = server.door();
    let mut watches = Vec::new();
    for _ in 0..2 {
        watches.push(door.connect().await?.send("GET", &format!("{CM}?watch=true"), full("")).await?);
    }
    door.ok("POST", CM, &serde_json::json!({"metadata": {"name": "before"}})).await?;
    server.process.terminate()?;
    let began = std::time::Instant::now();
    let mut ends = Vec::new();
    for watch in watches {
        ends.push(tokio::spawn(async move {
            let seen = watch.into_body().collect().await?.to_bytes();
            anyhow::Ok((began.elapsed().as_secs(), seen))
        }));
    }
    let mut ended = Vec::new();
    for end in ends {
        let (after, seen) = tokio::time::timeout(PATIENCE, end).await???;
        assert!(seen.windows(8).any(|text| text == b"\"before\""), "{seen:?}");
        ended.push(after);
    }
    // half of the time between them
    ended.sort_unstable();
    assert!(ended[0] >= 3 && ended[1] >= ended[0] + 3, "{ended:?}");
    assert!(server.process.ended().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_by_chance() -> anyhow::Result<()> {
    /// A connection that lives through so many has a chance of 2 in a billion.
    const REQUESTS: usize = 1000;
    for (flag, ends) in [("--goaway-chance=0.02", true), ("--goaway-chance=0", false)] {
        let (_servers, _dir, server) = started(&[flag]).await?;
        let door = server.door();
        let mut http2 = door.connect_http2().await?;
        let mut answered = 0;
        while answered < REQUESTS && http2.get("/version").await.is_ok_and(|status| status == 200) {
            answered += 1;
        }
        assert_eq!(answered < REQUESTS, ends, "{flag}: {answered} requests");
        assert_eq!(door.connect_http2().await?.get("/version").await?, 200, "another is to be had");
        assert!(server.process.stop().await?);
    }
    Ok(())
}
