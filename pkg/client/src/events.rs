//! Event recording: what happened to an object, for `kubectl describe` and `kubectl events`.
//!
//! Recording never blocks and never fails: events go through a bounded queue to one task, and are dropped when that is
//! full, as upstream's broadcaster does. What repeats is folded together first ([`correlate`]).

mod correlate;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::error::{is_namespace_terminating, is_not_found, status_of};
use crate::rest::{Patch, ResourceId, Rest};
use correlate::{Correlator, Write};

/// Events waiting to be written; more are dropped (upstream's `maxQueuedEvents`).
const QUEUE: usize = 1000;
/// Attempts to write one event while the server cannot be reached.
const ATTEMPTS: u32 = 12;
/// Wait between attempts.
const RETRY: Duration = Duration::from_secs(10);
/// Longest time spent writing what is queued at shutdown.
const DRAIN: Duration = Duration::from_secs(2);
/// Longest note, in bytes (validation of events.k8s.io).
const MAX_NOTE: usize = 1024;
/// How often series are refreshed and finished.
const TICK: Duration = Duration::from_secs(6 * 60);

const CORE_EVENTS: ResourceId = ResourceId::namespaced("", "v1", "events", "Event");
const EVENTS: ResourceId = ResourceId::namespaced("events.k8s.io", "v1", "events", "Event");

/// Which of the two event APIs a component writes; both are the same stored objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventApi {
    /// core/v1: controller manager and kubelet. Repetition is a `count`.
    Core,
    /// events.k8s.io/v1: scheduler and proxy. Repetition is a `series`.
    Events,
}

/// `type` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Information.
    Normal,
    /// Something did not go well.
    Warning,
}

impl EventType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Who records.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventSource {
    /// Component name, such as `deployment-controller` or `kubelet`.
    pub component: String,
    /// core/v1: `source.host`, empty for components that run on no particular node. events.k8s.io/v1:
    /// `reportingInstance`, must not be empty.
    pub instance: String,
}

/// One occurrence.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) source: EventSource,
    pub(crate) regarding: ObjectReference,
    pub(crate) related: Option<ObjectReference>,
    pub(crate) kind: EventType,
    pub(crate) reason: String,
    pub(crate) action: String,
    pub(crate) note: String,
    pub(crate) at: Timestamp,
}

/// Records events for one source. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct EventRecorder {
    source: EventSource,
    queue: mpsc::Sender<Record>,
}

impl EventRecorder {
    /// Starts the task that writes events, and gives the recorder that feeds it. The task ends at `shutdown`, after
    /// writing what is queued for at most two seconds.
    pub fn start(
        client: kube::Client,
        api: EventApi,
        source: EventSource,
        shutdown: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let (queue, records) = mpsc::channel(QUEUE);
        let writer =
            Writer { rest: Rest::new(client, "kubewright-events"), api, correlator: Correlator::new(api) };
        let task = tokio::spawn(writer.run(records, shutdown));
        (Self { source, queue }, task)
    }

    /// A recorder for another component, on the same queue.
    #[must_use]
    pub fn for_component(&self, component: impl Into<String>) -> Self {
        let source = EventSource { component: component.into(), instance: self.source.instance.clone() };
        Self { source, queue: self.queue.clone() }
    }

    /// Records that something happened to `regarding`. `action` is what was done or failed to be done (events.k8s.io
    /// requires one; core/v1 writers may pass `""`).
    pub fn event(
        &self,
        regarding: &ObjectReference,
        kind: EventType,
        reason: &str,
        action: &str,
        note: impl Into<String>,
    ) {
        self.event_with_related(regarding, None, kind, reason, action, note);
    }

    /// [`Self::event`] with a second object it is about.
    pub fn event_with_related(
        &self,
        regarding: &ObjectReference,
        related: Option<&ObjectReference>,
        kind: EventType,
        reason: &str,
        action: &str,
        note: impl Into<String>,
    ) {
        let record = Record {
            source: self.source.clone(),
            regarding: regarding.clone(),
            related: related.cloned(),
            kind,
            reason: reason.into(),
            action: action.into(),
            note: shortened(note.into()),
            at: Timestamp::now(),
        };
        if self.queue.try_send(record).is_err() {
            debug!(reason, "event dropped: the queue is full or closed");
        }
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > MAX_NOTE {
        let mut end = MAX_NOTE - 3;
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        note.push_str("...");
    }
    note
}

/// A reference to an object for events. Kind and version are the type's, as listed objects do not carry them.
pub fn reference<K: kube::Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

struct Writer {
    rest: Rest,
    api: EventApi,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut records: mpsc::Receiver<Record>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                record = records.recv() => match record {
                    Some(record) => {
                        let written = self.record(record);
                        if shutdown.run_until_cancelled(written).await.is_none() {
                            break;
                        }
                    }
                    None => return,
                },
                _ = tick.tick() => {
                    for write in self.correlator.refresh(Timestamp::now()) {
                        self.write(write).await;
                    }
                }
            }
        }
        records.close();
        let rest = async {
            while let Some(record) = records.recv().await {
                if let Some(write) = self.correlator.observe(&record) {
                    // one attempt each: the process is ending
                    let _ = self.send(&write).await;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN, rest).await;
    }

    async fn record(&mut self, record: Record) {
        if let Some(write) = self.correlator.observe(&record) {
            self.write(write).await;
        }
    }

    async fn write(&self, write: Write) {
        for attempt in 1..=ATTEMPTS {
            match self.send(&write).await {
                Ok(_) => return,
                // the server answered: sending the same again will not help
                Err(error) if status_of(&error).is_some() => {
                    if !is_namespace_terminating(&error) {
                        warn!(error = &error as &dyn std::error::Error, "event refused");
                    }
                    return;
                }
                Err(error) if attempt == ATTEMPTS => {
                    warn!(error = &error as &dyn std::error::Error, "event given up");
                }
                Err(_) => tokio::time::sleep(RETRY.mul_f64(rand::random_range(0.5..1.0))).await,
            }
        }
    }

    async fn send(&self, write: &Write) -> Result<Value, kube::Error> {
        let resource = match self.api {
            EventApi::Core => &CORE_EVENTS,
            EventApi::Events => &EVENTS,
        };
        let Write { namespace, name, patch, object } = write;
        if let Some(patch) = patch {
            match self.rest.patch(resource, (namespace, name), "", Patch::Strategic, patch).await {
                // expired in the meantime: it starts anew
                Err(error) if is_not_found(&error) => {}
                done => return done,
            }
        }
        self.rest.create(resource, namespace, object).await
    }
}
