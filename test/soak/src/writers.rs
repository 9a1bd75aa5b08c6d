//! Writers at full speed. Each has objects of its own, so it knows what must be there; all of them raise shared counters,
//! where they get in each other's way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kube::Client;
use rand::Rng as _;
use serde_json::json;
use tokio::sync::Mutex;

use crate::model::{Kind, Object, Owned};
use crate::run::{NAMESPACE, Run};

/// Objects of one writer.
const OBJECTS: u64 = 25;
/// Shared objects.
pub(crate) const COUNTERS: u64 = 3;
/// Every so many writes one is to a shared object.
const SHARED_EVERY: u64 = 8;
/// Longest wait for an answer; longer than the server's own limit.
const TIMEOUT: Duration = Duration::from_secs(40);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_millis(100);

/// The increments of one shared counter.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    pub(crate) acknowledged: AtomicU64,
    pub(crate) in_doubt: AtomicU64,
}

/// What a writer knows of its objects, readable while it pauses.
pub(crate) type Known = Arc<Mutex<BTreeMap<String, Owned>>>;

enum Answer {
    Done(Object),
    /// Refused for what is there: 404, 409.
    Refused(u16),
    /// It may or may not have been done.
    Unknown,
}

/// One writer.
pub(crate) struct Writer {
    pub(crate) number: usize,
    pub(crate) client: Client,
    pub(crate) run: Arc<Run>,
    pub(crate) known: Known,
}

fn path(name: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps/{name}")
}

fn body(name: &str, seq: u64, op: &str, revision: Option<u64>) -> Vec<u8> {
    let parity = if seq.is_multiple_of(2) { "even" } else { "odd" };
    let mut metadata = json!({"name": name, "labels": {"parity": parity}});
    if let Some(revision) = revision {
        metadata["resourceVersion"] = json!(revision.to_string());
    }
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
           "data": {"seq": seq.to_string(), "op": op, "filler": "x".repeat(500 + (seq % 7) as usize * 400)}})
    .to_string()
    .into_bytes()
}

impl Writer {
    /// Writes until the run is over.
    pub(crate) async fn work(self) {
        for n in 0_u64.. {
            if self.run.is_over() {
                break;
            }
            self.run.wait_while_paused().await;
            if n % SHARED_EVERY == SHARED_EVERY - 1 {
                self.raise_counter(n).await;
            } else {
                self.write_own(n).await;
            }
        }
    }

    async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Answer {
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header("Content-Type", "application/json").body(body).expect("a valid request");
        match tokio::time::timeout(TIMEOUT, self.client.request::<Object>(request)).await {
            Ok(Ok(object)) => Answer::Done(object),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                Answer::Refused(status.code)
            }
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400..=428) => {
                self.run.violation(format!("{method} {path}: {} {}", status.code, status.message));
                Answer::Unknown
            }
            _ => Answer::Unknown,
        }
    }

    /// What is there, as soon as anyone can say; `None` when the run is over first.
    async fn read(&self, name: &str) -> Option<Option<Object>> {
        while !self.run.is_over() {
            match self.send("GET", &path(name), Vec::new()).await {
                Answer::Done(object) => return Some(Some(object)),
                Answer::Refused(404) => return Some(None),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        None
    }

    async fn write_own(&self, n: u64) {
        let (name, kind) = {
            let mut rng = rand::rng();
            let name = format!("w{}-{}", self.number, rng.random_range(0..OBJECTS));
            (name, if rng.random_bool(0.15) { Kind::Delete } else { Kind::Update })
        };
        let mut known = self.known.lock().await;
        let owned = known.entry(name.clone()).or_default();
        let kind = if owned.revision.is_none() { Kind::Create } else { kind };
        let op = format!("{name}-{n}");
        let answer = match kind {
            Kind::Create => {
                let body = body(&name, owned.seq + 1, &op, None);
                self.send("POST", path("").trim_end_matches('/'), body).await
            }
            Kind::Update => {
                self.send("PUT", &path(&name), body(&name, owned.seq + 1, &op, owned.revision)).await
            }
            Kind::Delete => self.send("DELETE", &path(&name), Vec::new()).await,
        };
        let outcome = match answer {
            Answer::Done(object) => {
                self.run.counts.acknowledged.fetch_add(1, Ordering::Relaxed);
                owned.acknowledged(kind, object.revision())
            }
            // only a write in doubt can have come before this one
            Answer::Refused(_) => match self.read(&name).await {
                Some(object) => owned.found(object.as_ref()),
                None => Ok(()),
            },
            Answer::Unknown => {
                self.run.counts.in_doubt.fetch_add(1, Ordering::Relaxed);
                owned.doubted(kind, &op);
                tokio::time::sleep(PAUSE).await;
                match self.read(&name).await {
                    Some(object) => owned.found(object.as_ref()),
                    None => Ok(()),
                }
            }
        };
        if let Err(problem) = outcome {
            self.run.violation(format!("writer {}: {name}: {problem}", self.number));
        }
    }

    /// Reads a shared object and writes it back with one more, on the condition that nobody else has meanwhile.
    async fn raise_counter(&self, n: u64) {
        let counter = rand::rng().random_range(0..COUNTERS);
        let (name, op) = (format!("counter-{counter}"), format!("{}-{n}", self.number));
        let counts = &self.run.counters[counter as usize];
        let Some(current) = self.read(&name).await else { return };
        let answer = match &current {
            Some(object) => {
                let body = body(&name, object.seq() + 1, &op, Some(object.revision()));
                self.send("PUT", &path(&name), body).await
            }
            None => self.send("POST", path("").trim_end_matches('/'), body(&name, 1, &op, None)).await,
        };
        match answer {
            Answer::Done(_) => counts.acknowledged.fetch_add(1, Ordering::Relaxed),
            Answer::Refused(_) => 0,
            Answer::Unknown => {
                tokio::time::sleep(PAUSE).await;
                counts.in_doubt.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}
