//! Watchers of all kinds: quick and slow ones, of everything and of what a selector matches, beginning with a list or
//! with a stream of initial events. Each goes on from where it was after an interruption, at any server.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{AsyncBufReadExt as _, StreamExt as _};
use kube::Client;
use rand::Rng as _;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::model::{Metadata, Object, Objects, View, Watched, differences, objects};
use crate::run::{NAMESPACE, Run};

const PAUSE: Duration = Duration::from_millis(200);
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(40);
/// A watch is opened anew when nothing, not even a bookmark, has come for this long.
const SILENCE: Duration = Duration::from_secs(90);
/// A quick watcher compares itself with an exact list every so many events.
const COMPARE_EVERY: u64 = 2000;
/// The longest a slow watcher pauses between two events.
const SLOW_PAUSE_MILLIS: u64 = 25;
/// Marks the bookmark after initial events (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// How a watcher behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) view: View,
    pub(crate) slow: bool,
    /// Begins with initial events instead of a list.
    pub(crate) streams_list: bool,
}

/// One watcher.
pub(crate) struct Watching {
    pub(crate) name: String,
    pub(crate) manner: Manner,
    pub(crate) clients: Vec<Client>,
    pub(crate) run: Arc<Run>,
    /// What it has been told, for others to compare.
    pub(crate) state: Arc<Mutex<Option<Watched>>>,
}

#[derive(Deserialize)]
struct List {
    metadata: Metadata,
    items: Vec<Object>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

/// Why a watch is to be begun anew.
enum End {
    /// It goes on from where it was.
    Resume,
    /// Where it was is too old.
    Expired,
}

impl Watching {
    /// Watches until the run is over.
    pub(crate) async fn work(self) {
        let mut server = 0;
        while !self.run.is_over() {
            // whichever server it was, the next one must be able to go on
            server = (server + 1) % self.clients.len();
            match self.session(&self.clients[server]).await {
                Ok(End::Resume) => _ = self.run.counts.resumed.fetch_add(1, Ordering::Relaxed),
                Ok(End::Expired) => {
                    self.run.counts.expired.fetch_add(1, Ordering::Relaxed);
                    if let Err(problem) = self.list_again(server).await {
                        self.violation(&format!("{problem:#}"));
                    }
                }
                // a server that is down or being started
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn violation(&self, problem: &str) {
        self.run.violation(format!("watcher {}: {problem}", self.name));
    }

    fn query(&self, more: &str) -> String {
        let selector = if self.manner.view == View::Even { "&labelSelector=parity%3Deven" } else { "" };
        format!("/api/v1/namespaces/{NAMESPACE}/configmaps?{more}{selector}")
    }

    async fn list(&self, client: &Client, more: &str) -> anyhow::Result<List> {
        let request = http::Request::get(self.query(more)).body(Vec::new())?;
        Ok(tokio::time::timeout(TIMEOUT, client.request::<List>(request)).await??)
    }

    /// After "too old": what is there now must not be older than what was known.
    async fn list_again(&self, server: usize) -> anyhow::Result<()> {
        let list = loop {
            match self.list(&self.clients[server], "").await {
                Ok(list) => break list,
                Err(_) if self.run.is_over() => return Ok(()),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        let revision = list.metadata.resource_version.parse()?;
        if let Some(watched) = &mut *self.state.lock().await {
            watched.relist(&list.items, revision).map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    /// One connection's worth.
    async fn session(&self, client: &Client) -> anyhow::Result<End> {
        let mut initial: Option<Vec<Object>> = None;
        let known = self.state.lock().await.as_ref().map(|watched| watched.revision);
        let from = match known {
            Some(revision) => format!("resourceVersion={revision}"),
            None if self.manner.streams_list => {
                initial = Some(Vec::new());
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned()
            }
            None => {
                let list = self.list(client, "").await?;
                let revision = list.metadata.resource_version.parse().context("a list's resourceVersion")?;
                let watched = Watched::from_list(self.manner.view, &list.items, revision);
                *self.state.lock().await = Some(watched);
                format!("resourceVersion={revision}")
            }
        };
        let uri = self.query(&format!("watch=true&allowWatchBookmarks=true&{from}"));
        let request = http::Request::get(uri).body(Vec::new())?;
        let stream = match tokio::time::timeout(TIMEOUT, client.request_stream(request)).await? {
            Ok(stream) => stream,
            Err(kube::Error::Api(status)) if status.code == 410 => return Ok(End::Expired),
            Err(error) => return Err(error.into()),
        };
        let mut lines = std::pin::pin!(stream.lines());
        let mut seen = 0_u64;
        loop {
            let Ok(Some(Ok(line))) = tokio::time::timeout(SILENCE, lines.next()).await else {
                // ended, broken off or silent
                return Ok(End::Resume);
            };
            if self.run.is_over() {
                return Ok(End::Resume);
            }
            // the last line of a killed server may be cut off
            let Ok(event) = serde_json::from_str::<Event>(&line) else { return Ok(End::Resume) };
            if let Some(end) = self.take(event, &mut initial).await? {
                return Ok(end);
            }
            seen += 1;
            if self.manner.slow && !self.run.is_paused() {
                let pause = rand::rng().random_range(0..SLOW_PAUSE_MILLIS);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            } else if seen.is_multiple_of(COMPARE_EVERY) {
                self.compare_with_exact_list(client).await;
            }
        }
    }

    async fn take(&self, event: Event, initial: &mut Option<Vec<Object>>) -> anyhow::Result<Option<End>> {
        if event.kind == "ERROR" {
            let code = event.object.get("code").and_then(serde_json::Value::as_u64);
            return Ok(Some(if code == Some(410) { End::Expired } else { End::Resume }));
        }
        let object: Object = serde_json::from_value(event.object)?;
        let mut state = self.state.lock().await;
        if let Some(items) = initial {
            match event.kind.as_str() {
                "ADDED" => items.push(object),
                "BOOKMARK" if object.metadata.annotations.contains_key(INITIAL_EVENTS_END) => {
                    *state = Some(Watched::from_list(self.manner.view, items, object.revision()));
                    *initial = None;
                }
                kind => bail!("{kind} among the initial events"),
            }
            return Ok(None);
        }
        self.run.counts.events.fetch_add(1, Ordering::Relaxed);
        let Some(watched) = &mut *state else { bail!("an event without a beginning") };
        let outcome = if event.kind == "BOOKMARK" {
            watched.bookmark(object.revision())
        } else {
            watched.event(&event.kind, &object)
        };
        if let Err(problem) = outcome {
            self.violation(&problem);
        }
        Ok(None)
    }

    /// A list at the very revision the watch has come to equals what the watch has told.
    async fn compare_with_exact_list(&self, client: &Client) {
        let Some((revision, told)) =
            self.state.lock().await.as_ref().map(|watched| (watched.revision, watched.objects.clone()))
        else {
            return;
        };
        // compacted meanwhile, or the server is down: then not this time
        let exact = format!("resourceVersionMatch=Exact&resourceVersion={revision}");
        let Ok(list) = self.list(client, &exact).await else { return };
        self.run.counts.compared.fetch_add(1, Ordering::Relaxed);
        let listed = objects(&list.items);
        if listed != told {
            self.violation(&format!("at {revision} the list differs: {:?}", differences(&listed, &told)));
        }
    }
}

/// Everything there is, by a consistent read.
pub(crate) async fn list_all(client: &Client) -> anyhow::Result<Objects> {
    let request = http::Request::get(format!("/api/v1/namespaces/{NAMESPACE}/configmaps")).body(Vec::new())?;
    let list = tokio::time::timeout(TIMEOUT, client.request::<List>(request)).await??;
    Ok(objects(&list.items).into_iter().filter(|(name, _)| name != "kube-root-ca.crt").collect())
}
