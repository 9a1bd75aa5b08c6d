//! Informers against a scripted server: a tower service that answers each list and watch with the next line of a script.

use std::collections::VecDeque;
use std::convert::Infallible;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;

type Reply = http::Response<UnsyncBoxBody<Bytes, Infallible>>;

#[derive(Clone, Default)]
struct Script {
    steps: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

enum Answer {
    Page(u16, Value),
    /// These events, then the end of the stream.
    Events(Vec<Value>),
    /// Events as they are sent.
    Live(mpsc::UnboundedReceiver<Value>),
}

impl Script {
    fn then(self, answer: Answer) -> Self {
        self.steps.lock().push_back(answer);
        self
    }

    fn client(&self) -> kube::Client {
        let script = self.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let script = script.clone();
            async move {
                script.asked.lock().push(request.uri().to_string());
                let answer = script.steps.lock().pop_front();
                Ok::<_, Infallible>(match answer {
                    Some(answer) => reply(answer),
                    // out of script: a watch in which nothing happens
                    None => stream(futures::stream::pending().boxed()),
                })
            }
        });
        kube::Client::new(service, "default")
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

fn stream(lines: futures::stream::BoxStream<'static, Value>) -> Reply {
    let frames = lines.map(|line| {
        let mut text = line.to_string();
        text.push('\n');
        Ok(http_body::Frame::data(Bytes::from(text)))
    });
    http::Response::new(StreamBody::new(frames).boxed_unsync())
}

fn reply(answer: Answer) -> Reply {
    match answer {
        Answer::Page(code, body) => {
            let full = http_body_util::Full::new(Bytes::from(body.to_string())).boxed_unsync();
            http::Response::builder().status(code).body(full).expect("a valid response")
        }
        Answer::Events(events) => stream(futures::stream::iter(events).boxed()),
        Answer::Live(events) => stream(
            futures::stream::unfold(events, |mut events| async { Some((events.recv().await?, events)) })
                .boxed(),
        ),
    }
}

fn map(name: &str, version: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": version.to_string(),
           "managedFields": [{"manager": "x"}]}})
}

fn list(version: u64, token: &str, items: &[Value]) -> Answer {
    Answer::Page(
        200,
        json!({"metadata": {"resourceVersion": version.to_string(), "continue": token}, "items": items}),
    )
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn gone() -> Value {
    json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"})
}

fn recorded(informer: &Informer<ConfigMap>) -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    informer.on_event(move |event| {
        let (sign, meta) = match &event {
            Event::Added(new) => ('+', &new.metadata),
            Event::Updated { new, .. } => ('~', &new.metadata),
            Event::Deleted(old) => ('-', &old.metadata),
        };
        assert!(meta.managed_fields.is_none());
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let _ = sender.send(format!("{sign}{}@{}", text(&meta.name), text(&meta.resource_version)));
    });
    receiver
}

async fn next(log: &mut mpsc::UnboundedReceiver<String>, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    for _ in 0..count {
        seen.push(log.recv().await.expect("the informer runs"));
    }
    seen
}

fn resumed_at(uri: &str) -> Option<&str> {
    uri.split(['?', '&']).find_map(|pair| pair.strip_prefix("resourceVersion="))
}

#[tokio::test(start_paused = true)]
async fn lists_pages_watches_resumes_after_a_bookmark_and_relists_when_gone() {
    let script = Script::default()
        .then(list(5, "more", &[map("a", 1)]))
        .then(list(5, "", &[map("b", 2)]))
        .then(Answer::Events(vec![
            event("MODIFIED", map("a", 6)),
            event("DELETED", map("b", 7)),
            event("BOOKMARK", json!({"kind": "ConfigMap", "metadata": {"resourceVersion": "9"}})),
        ]))
        .then(Answer::Events(vec![event("ADDED", map("c", 10)), event("ERROR", gone())]))
        .then(list(20, "", &[map("a", 6), map("d", 15)]));
    let factory = InformerFactory::new(script.client());
    let informer = factory.informer::<ConfigMap>();
    let mut log = recorded(&informer);
    let shutdown = CancellationToken::new();
    factory.start(shutdown.clone());
    factory.wait_for_sync(Duration::from_secs(5)).await.expect("synced");
    assert_eq!(next(&mut log, 7).await, ["+a@1", "+b@2", "~a@6", "-b@7", "+c@10", "-c@10", "+d@15"]);
    let asked = script.asked();
    assert!(asked[0].contains("limit=500") && asked[1].contains("continue=more"), "{asked:?}");
    assert_eq!((resumed_at(&asked[2]), resumed_at(&asked[3])), (Some("5"), Some("9")));
    assert!(asked[2].contains("watch=true") && asked[2].contains("allowWatchBookmarks=true"));
    assert!(!asked[4].contains("watch=true"));
    shutdown.cancel();
    factory.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_is_waited_for_with_growing_pauses() {
    let refused = || Answer::Page(503, json!({"kind": "Status", "code": 503, "message": "starting"}));
    let script =
        Script::default().then(refused()).then(refused()).then(refused()).then(list(1, "", &[map("a", 1)]));
    let factory = InformerFactory::new(script.client());
    let informer = factory.informer::<ConfigMap>();
    let begin = Instant::now();
    factory.start(CancellationToken::new());
    let early = factory.wait_for_sync(Duration::from_millis(100)).await.expect_err("not yet");
    assert_eq!(early.0, ["/api/v1/configmaps"]);
    factory.wait_for_sync(Duration::from_secs(10)).await.expect("synced");
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_millis(1400) && waited < Duration::from_millis(2200), "{waited:?}");
    assert_eq!(informer.store().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_kind_has_one_informer_and_late_handlers_and_indexes_see_everything() {
    let (events, live) = mpsc::unbounded_channel();
    let script = Script::default().then(list(1, "", &[map("a", 1)])).then(Answer::Live(live));
    let factory = InformerFactory::new(script.client());
    let informer = factory.informer::<ConfigMap>();
    factory.start(CancellationToken::new());
    assert!(informer.synced().await);
    let again = factory.informer::<ConfigMap>();
    let mut log = recorded(&again);
    again
        .add_index("initial", |map| vec![map.metadata.name.iter().flat_map(|n| n.chars().take(1)).collect()]);
    events.send(event("ADDED", map("b", 2))).expect("the watch is open");
    events.send(event("ADDED", map("bb", 3))).expect("the watch is open");
    assert_eq!(next(&mut log, 3).await, ["+a@1", "+b@2", "+bb@3"]);
    assert_eq!(informer.store().by_index("initial", "b").len(), 2);
    assert_eq!(informer.store().by_index("initial", "a").len(), 1);
    assert_eq!(script.asked().len(), 2, "one list, one watch");
}

#[tokio::test(start_paused = true)]
async fn selections_are_sent_and_kept_apart() {
    let script = Script::default().then(list(1, "", &[])).then(list(1, "", &[]));
    let factory = InformerFactory::new(script.client());
    factory.start(CancellationToken::new());
    let fields = factory.informer_for::<Pod>(Selection::fields("spec.nodeName=n1"));
    let spaced = factory.informer_for::<Pod>(Selection::namespace("kube-system"));
    assert!(fields.synced().await && spaced.synced().await);
    let asked = script.asked();
    assert!(
        asked
            .iter()
            .any(|uri| uri.starts_with("/api/v1/pods?") && uri.contains("fieldSelector=spec.nodeName%3Dn1"))
    );
    assert!(asked.iter().any(|uri| uri.starts_with("/api/v1/namespaces/kube-system/pods?")));
}
