//! Watches: events as the cache sees them, in frames made once for all watchers of one form.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::protobuf;
use apimachinery::status::Status;
use bytes::{BufMut, Bytes, BytesMut};
use component::http::{BoxError, Response};
use futures::StreamExt;
use http::{HeaderValue, header};
use http_body::Frame;
use http_body_util::BodyExt;
use rand::Rng;
use storage::Revision;
use watchcache::{
    CacheEvent, EventKind, Filter, ReadVersion, StoredObject, WatchItem, WatchOptions, WatchStart, Watcher,
};

use super::{Exchange, select, table, websocket};
use crate::context::RequestContext;
use crate::core::Target;
use crate::core::encode::{Encoder, write_partial};
use crate::metrics::WatchMetrics;
use crate::negotiate::{self, Format, MediaType, View};
use crate::options::{self, ReadOptions};

/// Events put together into one write.
const BATCH: usize = 128;
/// A shared frame of this size is not copied to go with others.
const ALONE: usize = 4 * 1024;
/// Longest a watch may be asked to last.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// Annotation of the bookmark that ends the initial events (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = negotiate::stream(&exchange.parts.headers)?;
    let options = options::read(&exchange.context.query, true)?;
    let watcher = begin(&exchange, &options).await?;
    let encoder = EventEncoder::new(exchange.target.clone(), exchange.context.clone(), media);
    let metrics = exchange.server.watches.of(&exchange.context);
    let outgoing = Outgoing { watcher, encoder, metrics, ready: VecDeque::new(), ended: false };
    if websocket::is_wanted(&exchange.parts.headers) {
        let binary = media.format == Format::Protobuf;
        let messages = outgoing.flat_map(move |batch| futures::stream::iter(messages(&batch, binary)));
        return websocket::serve(exchange.parts, binary, None, messages);
    }
    let mut response = Response::new(outgoing.boxed_unsync());
    let content_type = HeaderValue::from_static(match media.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => negotiate::JSON,
    });
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

/// The single events of a batch: lines of JSON, or frames with their length in front.
fn messages(batch: &Bytes, binary: bool) -> Vec<Bytes> {
    const LENGTH_BYTES: usize = 4;
    let mut found = Vec::new();
    let mut rest = batch.clone();
    while !rest.is_empty() {
        let end = if binary {
            let length = rest.first_chunk::<LENGTH_BYTES>().map_or(0, |l| u32::from_be_bytes(*l) as usize);
            LENGTH_BYTES + length
        } else {
            rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1)
        };
        let message = rest.split_to(end.min(rest.len()));
        found.push(if binary { message.slice(LENGTH_BYTES.min(message.len())..) } else { message });
    }
    found
}

async fn begin(
    exchange: &Exchange,
    options: &ReadOptions,
) -> Result<Result<Watcher, watchcache::Error>, Status> {
    let core = exchange.core();
    let cached = core.caches.of(&core.resources.snapshot(), &exchange.target.descriptor);
    let selection = select::compile(exchange, &cached, options)?;
    let mut filter = selection.filter;
    if let Some(name) = selection.name
        && !matches!(selection.interest, watchcache::Interest::Object(..))
    {
        filter = Some(Filter::all(filter, move |object| object.name() == name));
    }
    if let watchcache::Interest::Field(..) = selection.interest
        && !exchange.namespace().is_empty()
    {
        let namespace = exchange.namespace().to_owned();
        filter = Some(Filter::all(filter, move |object| object.namespace() == namespace));
    }
    let from_state = match options.version {
        _ if options.initial_events == Some(false) => None,
        None => Some(ReadVersion::Latest),
        Some(Revision(0)) => Some(ReadVersion::Any),
        Some(revision) => options.initial_events.map(|_| ReadVersion::NotOlderThan(revision)),
    };
    let start = match (from_state, options.version) {
        // who takes no bookmarks is not told where the initial events end
        (Some(version), _) if options.bookmarks => WatchStart::InitialEvents(version),
        (Some(version), _) => WatchStart::State(version),
        (None, Some(revision)) if revision.0 > 0 => WatchStart::After(revision),
        (None, _) => WatchStart::Now,
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
    match cached.cache.watch(options).await {
        Err(error @ watchcache::Error::NotReady) => Err(error.into()),
        // whatever else is wrong with where it begins is what the watch says, as upstream's do
        begun => Ok(begun),
    }
}

/// Watches end at random moments, so that they do not all come back at once.
fn default_timeout(min: Duration) -> Duration {
    min.mul_f64(1.0 + rand::rng().random::<f64>())
}

/// An open watch on its way out.
struct Outgoing {
    /// The watch, or why there is none: then that is all that is sent.
    watcher: Result<Watcher, watchcache::Error>,
    encoder: EventEncoder,
    metrics: WatchMetrics,
    /// Frames made and not yet handed out.
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Outgoing {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(frames) = self.ready.pop_front() {
                return Poll::Ready(Some(frames));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let batch = match &mut self.watcher {
                Ok(watcher) => ready!(watcher.poll_batch(cx, BATCH)),
                Err(error) => Some(Err(error.clone())),
            };
            let Some(batch) = batch else {
                self.ended = true;
                return Poll::Ready(None);
            };
            if let Ok([WatchItem::Event { kind, object, event }]) = batch.as_deref()
                && let Some(Ok(frame)) = self.encoder.shared(*kind, object, event)
            {
                // the usual case: what is sent is what all watchers share
                self.metrics.sends(frame.len());
                return Poll::Ready(Some(frame));
            }
            if let Err(status) = batch.map_err(Status::from).and_then(|items| self.fill(&items)) {
                self.ended = true;
                let mut out = BytesMut::new();
                self.encoder.tree("ERROR", &status.to_value(), &mut out);
                self.ready.push_back(out.freeze());
            }
            self.encoder.headings = false;
        }
    }

    /// Makes the frames of a batch. Large ones that are shared go out as they are, others together.
    fn fill(&mut self, items: &[WatchItem]) -> Result<(), Status> {
        let mut together = BytesMut::new();
        let outcome = items.iter().try_for_each(|item| {
            if let WatchItem::Event { kind, object, event } = item
                && let Some(frame) = self.encoder.shared(*kind, object, event)
            {
                let frame = frame?;
                self.metrics.sends(frame.len());
                if frame.len() < ALONE {
                    together.put_slice(&frame);
                    return Ok(());
                }
                if !together.is_empty() {
                    self.ready.push_back(together.split().freeze());
                }
                self.ready.push_back(frame);
                return Ok(());
            }
            let before = together.len();
            self.encoder.write(item, &mut together)?;
            self.metrics.sends(together.len() - before);
            if let WatchItem::Bookmark { initial_events_end: true, .. } = item {
                self.metrics.sent_initial_objects();
            }
            Ok(())
        });
        if !together.is_empty() {
            self.ready.push_back(together.freeze());
        }
        outcome
    }
}

impl futures::Stream for Outgoing {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.poll(cx)
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.poll(cx).map(|frames| frames.map(|frames| Ok(Frame::data(frames))))
    }
}

/// Writes events in one form.
struct EventEncoder {
    target: Target,
    context: RequestContext,
    media: MediaType,
    /// The next Table has headings: only the first one of a watch does.
    headings: bool,
    /// Under which frames of this form are shared; Tables, which hold ages, are not.
    number: Option<u32>,
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
    fn new(target: Target, context: RequestContext, media: MediaType) -> Self {
        const FORMS: u32 = 8;
        let view = match media.view {
            View::Object => Some(0),
            View::Partial("v1") | View::PartialList("v1") => Some(1),
            View::Partial(_) | View::PartialList(_) => Some(2),
            View::Table(_) => None,
        };
        let format = if media.format == Format::Protobuf { FORMS / 2 } else { 0 };
        let number = view.map(|view| crate::core::encode::version_number(&target) * FORMS + view + format);
        Self { target, context, media, headings: true, number }
    }

    fn write(&self, item: &WatchItem, out: &mut BytesMut) -> Result<(), Status> {
        match item {
            WatchItem::Initial(object) => self.event("ADDED", object, out),
            WatchItem::Event { kind, object, .. } => self.event(kind.as_str(), object, out),
            WatchItem::Bookmark { revision, initial_events_end } => {
                let object = self.bookmark(*revision, *initial_events_end);
                self.tree("BOOKMARK", &object, out);
                Ok(())
            }
        }
    }

    /// The frame of an event, made once for all watchers of the form; `None` where they share none.
    fn shared(
        &self,
        kind: EventKind,
        object: &StoredObject,
        event: &CacheEvent,
    ) -> Option<Result<Bytes, Status>> {
        let number = self.number?;
        Some(event.frame(kind, number, || {
            let mut one = BytesMut::new();
            self.event(kind.as_str(), object, &mut one)?;
            Ok(one.freeze())
        }))
    }

    /// One event with an object of the cache.
    fn event(&self, kind: &str, object: &StoredObject, out: &mut BytesMut) -> Result<(), Status> {
        let encoder = Encoder::new(&self.target);
        if self.media.format == Format::Protobuf {
            let enveloped = match self.media.view {
                View::Object if encoder.has_message() => {
                    let raw = encoder.message(object)?;
                    protobuf::wrap(&self.target.api_version(), &self.target.descriptor.kind, &raw)
                }
                View::Partial(version) | View::PartialList(version) => {
                    let raw = encoder.partial_message(object)?;
                    protobuf::wrap(&format!("meta.k8s.io/{version}"), "PartialObjectMetadata", &raw)
                }
                _ => return Err(Status::not_acceptable(&[negotiate::JSON])),
            };
            out.put_slice(&protobuf::watch_event(kind, &enveloped));
            return Ok(());
        }
        let mut json = Vec::with_capacity(object.json_len());
        match self.media.view {
            View::Object => encoder.write_json(object, &mut json)?,
            View::Partial(version) | View::PartialList(version) => write_partial(object, version, &mut json),
            View::Table(version) => {
                let rows = table::Rows::new(&self.target, &self.context)?;
                let metadata = json!({"resourceVersion": object.revision().to_string()});
                json = table::head(&self.target, version, &metadata, self.headings);
                rows.write(&encoder, object, &mut json)?;
                json.extend_from_slice(b"]}");
            }
        }
        frame(kind, &json, out);
        Ok(())
    }

    /// One event with an object made for it: a bookmark or a failure.
    fn tree(&self, kind: &str, object: &Value, out: &mut BytesMut) {
        if self.media.format == Format::Protobuf {
            let served = self.target.served();
            let of_kind = apimachinery::meta::str_at(object, &["kind"]) == self.target.descriptor.kind;
            let schema = of_kind.then_some((&*served.schema, served.root));
            if let Some(enveloped) = crate::codec::to_protobuf(object, schema) {
                out.put_slice(&protobuf::watch_event(kind, &enveloped));
            }
            return;
        }
        frame(kind, object.to_string().as_bytes(), out);
    }

    fn bookmark(&self, revision: Revision, initial_events_end: bool) -> Value {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
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
