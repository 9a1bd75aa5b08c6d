//! Watches: events as the cache sees them, in frames made once for all watchers of one form.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use apimachinery::status::Status;
use bytes::{BufMut, Bytes, BytesMut};
use component::http::{BoxError, Response};
use http::{HeaderValue, header};
use http_body::Frame;
use http_body_util::BodyExt;
use http_body_util::StreamBody;
use prometheus_client::metrics::counter::Counter;
use rand::Rng;
use serde_json::json;
use storage::Revision;
use watchcache::{ReadVersion, StoredObject, WatchItem, WatchOptions, WatchStart, Watcher};

use super::{Exchange, select, table};
use crate::context::RequestContext;
use crate::core::{Core, Target};
use crate::negotiate::{self, MediaType, View};
use crate::options::{self, ReadOptions};

/// Events put together into one write.
const BATCH: usize = 128;
/// Longest a watch may be asked to last.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// Annotation of the bookmark that ends the initial events (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = negotiate::stream(&exchange.parts.headers)?;
    let options = options::read(&exchange.context.query, true)?;
    let watcher = begin(&exchange, &options).await?;
    let encoder = EventEncoder {
        core: Arc::clone(exchange.core()),
        target: exchange.target.clone(),
        context: exchange.context.clone(),
        media,
        headings: true,
    };
    let events = exchange.server.metrics.watch_events(&exchange.context);
    let state = Stream { watcher, encoder, events, ended: false };
    let frames = futures::stream::unfold(state, Stream::next);
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let content_type = HeaderValue::from_static(media.format.media_type());
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

async fn begin(exchange: &Exchange, options: &ReadOptions) -> Result<Watcher, Status> {
    let core = exchange.core();
    let cached = core.caches.of(&core.resources.snapshot(), &exchange.target.descriptor);
    let selection = select::compile(exchange, &cached, options)?;
    let mut filter = selection.filter;
    if let Some(name) = selection.name
        && !matches!(selection.interest, watchcache::Interest::Object(..))
    {
        let inner = filter.take();
        filter = Some(Arc::new(move |object: &StoredObject| {
            object.name() == name && inner.as_ref().is_none_or(|f| f(object))
        }));
    }
    if let watchcache::Interest::Field(..) = selection.interest
        && !exchange.namespace().is_empty()
    {
        let (namespace, inner) = (exchange.namespace().to_owned(), filter.take());
        filter = Some(Arc::new(move |object: &StoredObject| {
            object.namespace() == namespace && inner.as_ref().is_none_or(|f| f(object))
        }));
    }
    let start = match (options.version, options.initial_events) {
        (None, Some(true)) => WatchStart::InitialEvents(ReadVersion::Latest),
        (Some(Revision(0)), Some(true)) => WatchStart::InitialEvents(ReadVersion::Any),
        (Some(revision), Some(true)) => WatchStart::InitialEvents(ReadVersion::NotOlderThan(revision)),
        (None | Some(Revision(0)), Some(false)) => WatchStart::Now,
        (None, None) => WatchStart::State(ReadVersion::Latest),
        (Some(Revision(0)), None) => WatchStart::State(ReadVersion::Any),
        (Some(revision), _) => WatchStart::After(revision),
    };
    let timeout =
        options.timeout.unwrap_or_else(|| default_timeout(exchange.server.limits.min_request_timeout));
    let options = WatchOptions {
        start,
        interest: selection.interest,
        filter,
        bookmarks: options.bookmarks,
        timeout: Some(timeout.min(MAX_TIMEOUT)),
    };
    Ok(cached.cache.watch(options).await?)
}

/// Watches end at random moments, so that they do not all come back at once.
fn default_timeout(min: Duration) -> Duration {
    min.mul_f64(1.0 + rand::rng().random::<f64>())
}

/// An open watch on its way out.
struct Stream {
    watcher: Watcher,
    encoder: EventEncoder,
    events: Counter,
    ended: bool,
}

impl Stream {
    async fn next(mut self) -> Option<(Result<Frame<Bytes>, BoxError>, Self)> {
        if self.ended {
            return None;
        }
        let batch = self.watcher.next_batch(BATCH).await?;
        let mut out = BytesMut::new();
        let outcome = batch.map_err(Status::from).and_then(|items| {
            self.events.inc_by(items.len() as u64);
            items.iter().try_for_each(|item| self.encoder.write(item, &mut out))
        });
        if let Err(status) = outcome {
            self.ended = true;
            frame("ERROR", status.to_value().to_string().as_bytes(), &mut out);
        }
        self.encoder.headings = false;
        Some((Ok(Frame::data(out.freeze())), self))
    }
}

/// Writes events in one form.
struct EventEncoder {
    core: Arc<Core>,
    target: Target,
    context: RequestContext,
    media: MediaType,
    /// The next Table has headings: only the first one of a watch does.
    headings: bool,
}

/// `{"type":"KIND","object":OBJECT}` and a newline.
fn frame(kind: &str, object: &[u8], out: &mut BytesMut) {
    out.reserve(object.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}

impl EventEncoder {
    fn write(&self, item: &WatchItem, out: &mut BytesMut) -> Result<(), Status> {
        match item {
            WatchItem::Initial(object) => {
                let json = self.object(object)?;
                frame("ADDED", &json, out);
            }
            WatchItem::Event { kind, object, event } => match self.frame_number() {
                Some(number) => {
                    let made = event.frame(*kind, number, || {
                        let mut one = BytesMut::new();
                        frame(kind.as_str(), &self.object(object)?, &mut one);
                        Ok::<_, Status>(one.freeze())
                    })?;
                    out.put_slice(&made);
                }
                None => {
                    let json = self.object(object)?;
                    frame(kind.as_str(), &json, out);
                }
            },
            WatchItem::Bookmark { revision, initial_events_end } => {
                let object = self.bookmark(*revision, *initial_events_end);
                frame("BOOKMARK", object.to_string().as_bytes(), out);
            }
        }
        Ok(())
    }

    /// Frames of whole and partial objects are shared between watchers; Tables hold ages.
    fn frame_number(&self) -> Option<u32> {
        let number = crate::core::encode::version_number(&self.target) % (1 << 24);
        match self.media.view {
            View::Object => Some(number * 4),
            View::Partial("v1") | View::PartialList("v1") => Some(number * 4 + 1),
            View::Partial(_) | View::PartialList(_) => Some(number * 4 + 2),
            View::Table(_) => None,
        }
    }

    fn object(&self, object: &StoredObject) -> Result<Bytes, Status> {
        let encoder = self.core.encoder(&self.target);
        match self.media.view {
            View::Object => {
                let mut out = Vec::with_capacity(object.json_len());
                encoder.write_json(object, &mut out)?;
                Ok(out.into())
            }
            View::Partial(version) | View::PartialList(version) => encoder.partial(object, version),
            View::Table(version) => {
                let rows = table::Rows::new(&self.target, &self.context)?;
                let row = rows.stored_row(&encoder, object)?;
                let metadata = json!({"resourceVersion": object.revision().to_string()});
                let shown = table::table(&self.target, version, metadata, vec![row], self.headings);
                Ok(shown.to_string().into())
            }
        }
    }

    fn bookmark(&self, revision: Revision, initial_events_end: bool) -> Value {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_events_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let (kind, api_version) = match self.media.view {
            View::Object => (self.target.descriptor.kind.clone(), self.target.api_version()),
            View::Table(version) => {
                let row = json!({"cells": [], "object": {"kind": "PartialObjectMetadata",
                                 "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata}});
                return json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"),
                              "metadata": {"resourceVersion": revision.to_string()}, "columnDefinitions": null,
                              "rows": [row]});
            }
            View::Partial(version) | View::PartialList(version) => {
                ("PartialObjectMetadata".to_owned(), format!("meta.k8s.io/{version}"))
            }
        };
        json!({"kind": kind, "apiVersion": api_version, "metadata": metadata})
    }
}
