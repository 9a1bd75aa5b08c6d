//! GET of a collection: a header, and the objects' bytes written out in order as the client reads.

mod compressed;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use apimachinery::Value;
use apimachinery::json;
use apimachinery::protobuf;
use apimachinery::schema::{NodeId, Schema};
use apimachinery::status::{Reason, Status};
use bytes::Bytes;
use component::http::{BoxError, Response};
use component::work;
use http::{HeaderValue, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use storage::Revision;
use watchcache::{ListOptions, ListPage, ReadVersion, StoredObject};

use super::{Exchange, make_time, select, table};
use crate::core::Target;
use crate::core::caches::Cached;
use crate::core::encode::{Encoder, meta_type, write_partial};
use crate::negotiate::{Format, MediaType, View};
use crate::options::{self, ReadOptions, VersionMatch};
use crate::respond;

/// Bytes of one piece of a streamed list.
const CHUNK_BYTES: usize = 64 * 1024;
/// Of so many objects encodings are made by one request at a time, with looks at the clock in between.
const MANY: usize = 32;
/// About the time it takes to look at an object that a list may be of.
const PASSING_BY: Duration = Duration::from_nanos(50);
/// Others get their turn after this time.
const LONG: Duration = Duration::from_millis(2);

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = exchange.media()?;
    let options = options::read(&exchange.context.query, false)?;
    let page = page(&exchange, &options).await?;
    respond(&exchange, page, &media).await
}

/// Answers with a page in the form the client wants.
pub(crate) async fn respond(
    exchange: &Exchange,
    page: ListPage,
    media: &MediaType,
) -> Result<Response, Status> {
    let target = &exchange.target;
    match media.view {
        View::Object => {
            let kind = (target.descriptor.list_kind.clone(), target.api_version());
            write(exchange, page, &kind, Items::Objects, media).await
        }
        View::PartialList(version) => {
            let kind = ("PartialObjectMetadataList".to_owned(), format!("meta.k8s.io/{version}"));
            write(exchange, page, &kind, Items::Partial(version), media).await
        }
        View::Table(version) => {
            let rows = table::Rows::new(target, &exchange.context)?;
            let kind = ("Table".to_owned(), format!("meta.k8s.io/{version}"));
            write(exchange, page, &kind, Items::Rows(version, Box::new(rows)), media).await
        }
        View::Partial(_) => Err(Status::new(
            406,
            Reason::NotAcceptable,
            format!(
                "you requested PartialObjectMetadata, but the requested object is a list ({})",
                target.descriptor.list_kind
            ),
        )),
    }
}

/// The page of objects a request asks for.
pub(crate) async fn page(exchange: &Exchange, options: &ReadOptions) -> Result<ListPage, Status> {
    let cached = cached(exchange);
    let selection = select::compile(exchange, &cached, options)?;
    let list = ListOptions {
        namespace: exchange.namespace().to_owned(),
        name: selection.name,
        version: read_version(options),
        // who takes any state gets all of it: upstream's cache has no pages for them
        limit: if options.version == Some(Revision(0)) { 0 } else { options.limit },
        continue_token: Some(options.continue_token.clone()).filter(|t| !t.is_empty()),
        filter: selection.filter,
    };
    let time = PASSING_BY * cached.cache.stats().objects as u32;
    Ok(work::turns_taking(time, cached.cache.list(&list)).await?)
}

/// The table of API concepts, "Semantics for get and list".
fn read_version(options: &ReadOptions) -> ReadVersion {
    match (options.version, options.version_match) {
        (None, _) => ReadVersion::Latest,
        (Some(revision), _) if revision.0 == 0 => ReadVersion::Any,
        (Some(revision), VersionMatch::Exact) => ReadVersion::Exact(revision),
        (Some(revision), VersionMatch::NotOlderThan) => ReadVersion::NotOlderThan(revision),
        // a limited list at a revision was always exact
        (Some(revision), VersionMatch::Unset) if options.limit > 0 => ReadVersion::Exact(revision),
        (Some(revision), VersionMatch::Unset) => ReadVersion::NotOlderThan(revision),
    }
}

fn list_metadata(page: &ListPage) -> Value {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if !page.continue_token.is_empty() {
        metadata["continue"] = json!(page.continue_token);
    }
    if let Some(remaining) = page.remaining.filter(|r| *r > 0) {
        metadata["remainingItemCount"] = json!(remaining);
    }
    metadata
}

/// What a list shows of its objects; views are in a version of `meta.k8s.io`.
enum Items {
    Objects,
    Partial(&'static str),
    Rows(&'static str, Box<table::Rows>),
}

/// Writes a list in the negotiated format; compact JSON is streamed.
async fn write(
    exchange: &Exchange,
    page: ListPage,
    (kind, api_version): &(String, String),
    shown: Items,
    media: &MediaType,
) -> Result<Response, Status> {
    let metadata = list_metadata(&page);
    let head = match shown {
        Items::Rows(version, _) => table::head(&exchange.target, version, &metadata, true),
        _ => format!(
            "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":["
        )
        .into_bytes(),
    };
    let body = ListBody {
        target: exchange.target.clone(),
        shown,
        head: Some(head),
        metadata,
        items: page.items.into_iter(),
        first: true,
        done: false,
    };
    let kind = &(kind.clone(), api_version.clone());
    let body = match compressed::respond(exchange, body, kind, media).await? {
        Ok(response) => return Ok(response),
        Err(body) => body,
    };
    let (kind, api_version) = kind;
    if media.format == Format::Json && !media.pretty {
        return stream(body);
    }
    if media.format == Format::Protobuf
        && let Some(message) = messages(exchange, &body, kind, api_version).await?
    {
        return Ok(message);
    }
    let bytes = body.items.as_slice().iter().map(|object| object.json_len()).sum();
    work::taking(make_time(bytes), || {
        let text = body.collect()?;
        let value = apimachinery::json::parse(&text).map_err(|e| Status::internal(e.to_string()))?.value;
        Ok(respond::object(StatusCode::OK, &value, None, media))
    })
}

/// The list as protobuf, `None` where the kind has no such form.
async fn messages(
    exchange: &Exchange,
    body: &ListBody,
    kind: &str,
    api_version: &str,
) -> Result<Option<Response>, Status> {
    let encoder = Encoder::new(&body.target);
    let Some((schema, root)) = list_type(exchange, body, &encoder, kind)? else { return Ok(None) };
    let items = encode(exchange, body, |object| match body.shown {
        Items::Partial(_) => encoder.partial_message(object),
        _ => encoder.message(object),
    })
    .await?;
    let items_len: usize =
        items.iter().map(|item| protobuf::list_item_prefix(item.len()).len() + item.len()).sum();
    let head = protobuf::list_prefix(schema, root, api_version, kind, &body.metadata, items_len)
        .map_err(Status::internal)?;
    let mut chunks = MessageChunks { head: Some(head), items: items.into_iter() };
    let first = chunks.next().unwrap_or_default();
    let media_type = Format::Protobuf.media_type();
    if chunks.items.as_slice().is_empty() {
        return Ok(Some(respond::bytes(StatusCode::OK, media_type, first)));
    }
    let frames =
        std::iter::once(first).chain(chunks).map(|chunk| Ok::<_, BoxError>(Frame::data(chunk.into())));
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    Ok(Some(response))
}

/// The type of a list's message, `None` where it has none.
fn list_type(
    exchange: &Exchange,
    body: &ListBody,
    encoder: &Encoder<'_>,
    kind: &str,
) -> Result<Option<(&'static Schema, NodeId)>, Status> {
    Ok(match &body.shown {
        Items::Rows(..) => None,
        Items::Partial(_) => Some(meta_type("PartialObjectMetadataList")?),
        Items::Objects if !encoder.has_message() => None,
        Items::Objects => {
            let served = exchange.target.served();
            let item = &served.schema.node(served.root).name;
            let package = item.rsplit_once('.').map_or("", |(package, _)| package);
            let catalog = apis::catalog();
            catalog.definition(&format!("{package}.{kind}")).map(|d| (&**catalog.schema(), d.node))
        }
    })
}

/// What `make` makes of a list's items.
async fn encode(
    exchange: &Exchange,
    body: &ListBody,
    mut make: impl FnMut(&StoredObject) -> Result<Bytes, Status>,
) -> Result<Vec<Bytes>, Status> {
    let objects = body.items.as_slice();
    let cached = cached(exchange);
    let mut turn = Turn::take(&cached, objects.len()).await;
    let mut items = Vec::with_capacity(objects.len());
    for some in objects.chunks(MANY) {
        for object in some {
            items.push(make(object)?);
        }
        turn.pause().await;
    }
    Ok(items)
}

fn cached(exchange: &Exchange) -> Arc<Cached> {
    let core = exchange.core();
    core.caches.of(&core.resources.snapshot(), &exchange.target.descriptor)
}

/// The turn to make encodings of many objects: others wait for it, as they will need the same.
struct Turn<'c> {
    _guard: Option<tokio::sync::MutexGuard<'c, ()>>,
    began: Instant,
}

impl<'c> Turn<'c> {
    async fn take(cached: &'c Cached, objects: usize) -> Self {
        let guard = if objects >= MANY { cached.cache.turn_to_encode().await } else { None };
        Self { _guard: guard, began: Instant::now() }
    }

    /// Lets other tasks go on when this one has worked for [`LONG`].
    async fn pause(&mut self) {
        if self.began.elapsed() >= LONG {
            tokio::task::yield_now().await;
            self.began = Instant::now();
        }
    }
}

/// A list of messages in pieces of about [`CHUNK_BYTES`].
struct MessageChunks {
    head: Option<Vec<u8>>,
    items: std::vec::IntoIter<Bytes>,
}

impl Iterator for MessageChunks {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        out.extend(self.head.take().unwrap_or_default());
        while out.len() < CHUNK_BYTES
            && let Some(message) = self.items.next()
        {
            out.extend(protobuf::list_item_prefix(message.len()));
            out.extend_from_slice(&message);
        }
        (!out.is_empty()).then_some(out)
    }
}

fn stream(mut body: ListBody) -> Result<Response, Status> {
    let first = body.chunk()?.unwrap_or_default();
    if body.done {
        return Ok(respond::bytes(StatusCode::OK, Format::Json.media_type(), first));
    }
    let mut response = Response::new(Streamed { first: Some(first.into()), rest: body }.boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(Format::Json.media_type()));
    Ok(response)
}

/// A list on its way out.
struct ListBody {
    target: Target,
    shown: Items,
    head: Option<Vec<u8>>,
    metadata: Value,
    items: std::vec::IntoIter<Arc<StoredObject>>,
    first: bool,
    done: bool,
}

impl ListBody {
    /// About the time it takes to make what is left. Objects are only copied, and clients take no more than some thousands
    /// at a time.
    fn remaining_time(&self) -> Duration {
        match self.shown {
            Items::Objects | Items::Partial(_) => Duration::ZERO,
            Items::Rows(..) => Duration::from_micros(3) * self.items.len() as u32,
        }
    }

    /// The next piece, `None` at the end.
    fn chunk(&mut self) -> Result<Option<Vec<u8>>, Status> {
        if self.done {
            return Ok(None);
        }
        let mut out = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        out.extend_from_slice(&self.head.take().unwrap_or_default());
        let encoder = Encoder::new(&self.target);
        while out.len() < CHUNK_BYTES {
            let Some(object) = self.items.next() else {
                out.extend_from_slice(b"]}\n");
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.push(b',');
            }
            match &self.shown {
                Items::Objects => encoder.write_item(&object, &mut out)?,
                Items::Partial(version) => write_partial(&object, version, &mut out),
                Items::Rows(_, rows) => rows.write(&encoder, &object, &mut out)?,
            }
        }
        Ok(Some(out))
    }

    fn collect(mut self) -> Result<Vec<u8>, Status> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk()? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}

struct Streamed {
    first: Option<Bytes>,
    rest: ListBody,
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        // a client that takes much gets one piece after the other
        let time = self.rest.remaining_time();
        Poll::Ready(match work::taking(time, || self.rest.chunk()) {
            Ok(Some(chunk)) => Some(Ok(Frame::data(chunk.into()))),
            Ok(None) => None,
            Err(error) => Some(Err(error.into())),
        })
    }
}
