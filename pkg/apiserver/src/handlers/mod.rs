//! The verbs, one file each. Every one works for every descriptor.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod deletecollection;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod scale;
pub(crate) mod select;
pub(crate) mod table;
pub(crate) mod update;
pub(crate) mod watch;
pub mod websocket;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use apimachinery::coerce::FieldValidation;
use apimachinery::status::Status;
use bytes::Bytes;
use component::http::{Request, Response};
use http::StatusCode;
use http::request::Parts;

use crate::body;
use crate::codec::{self, Reader};
use crate::context::RequestContext;
use crate::core::create::Place;
use crate::core::update::Written;
use crate::core::{Core, Target};
use crate::metrics::Open;
use crate::negotiate::{Format, MediaType, View};
use crate::respond;
use crate::server::Server;

/// A request for a resource.
pub(crate) struct Exchange {
    pub(crate) server: Arc<Server>,
    pub(crate) context: RequestContext,
    pub(crate) target: Target,
    pub(crate) parts: Parts,
    /// The body, read within its limit; empty for requests that have none.
    pub(crate) body: Bytes,
}

impl Exchange {
    /// Reads the body of a request.
    pub(crate) async fn new(
        server: Arc<Server>,
        context: RequestContext,
        target: Target,
        request: Request,
    ) -> Result<Self, Status> {
        let (parts, body) = request.into_parts();
        let body = if context.info.is_read_only() {
            Bytes::new()
        } else {
            let body = body::read(body).await?;
            if let Some(open) = Open::of(&parts.extensions) {
                server.metrics.read_body(open.alike(), body.len());
            }
            body
        };
        Ok(Self { server, context, target, parts, body })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.server.store.core
    }

    /// Namespace of the objects asked for, empty for cluster-wide resources.
    pub(crate) fn namespace(&self) -> &str {
        if self.target.descriptor.namespaced { &self.context.info.namespace } else { "" }
    }

    pub(crate) fn name(&self) -> &str {
        &self.context.info.name
    }

    pub(crate) fn place(&self) -> Place<'_> {
        Place { context: &self.context, target: &self.target, namespace: self.namespace() }
    }

    /// Decodes the body as an object of the resource, with defaults; warnings are sent along.
    pub(crate) fn decode(&self, validation: FieldValidation) -> Result<Value, Status> {
        let format = crate::negotiate::body_format(&self.parts.headers)?;
        let resources = self.core().resources.snapshot();
        let served = self.target.served();
        let gvk = self.target.gvk();
        let reader = Reader { resources: &resources, gvk: &gvk, schema: &served.schema, root: served.root };
        let decoded = reader.decode(&self.body, format, validation)?;
        self.context.warnings.extend(decoded.warnings);
        let mut object = decoded.value;
        codec::complete(&self.target.descriptor, served, &mut object, None);
        Ok(object)
    }

    /// The negotiated media type of an answer with an object.
    pub(crate) fn media(&self) -> Result<MediaType, Status> {
        crate::negotiate::resource(&self.parts.headers, &self.context.query)
    }

    /// Answers with what a write has made. Where the client wants what is stored, the stored bytes are the answer.
    pub(crate) fn respond_written(&self, written: Written, media: &MediaType) -> Result<Response, Status> {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let plain = media.view == View::Object && media.format == Format::Json && !media.pretty;
        match written.stored {
            Some((text, revision)) if plain && self.target.stores_served_version() => {
                let mut text = text.with_version(revision);
                text.push(b'\n');
                Ok(respond::bytes(code, Format::Json.media_type(), text))
            }
            _ => self.respond(code, written.object, media),
        }
    }

    /// Answers with an object of the resource, as it is after a write.
    pub(crate) fn respond(
        &self,
        code: StatusCode,
        object: Value,
        media: &MediaType,
    ) -> Result<Response, Status> {
        let served = self.target.served();
        let mut object = object;
        if served.conversion.is_some() {
            apimachinery::default::normalise(&served.schema, served.root, &mut object);
        }
        let shown = match media.view {
            View::Object => {
                if media.format == Format::Json && !media.pretty {
                    let mut text = codec::canonical(&object);
                    text.push(b'\n');
                    return Ok(respond::bytes(code, Format::Json.media_type(), text));
                }
                return Ok(respond::object(code, &object, Some((&served.schema, served.root)), media));
            }
            View::Partial(version) => crate::core::encode::partial_of(&object, version),
            View::Table(version) => {
                let rows = table::Rows::new(&self.target, &self.context)?;
                let mut stored = object.clone();
                served.to_storage(&mut stored);
                table::table(
                    &self.target,
                    version,
                    apimachinery::json!({}),
                    vec![rows.row(&stored, &object)],
                    true,
                )
            }
            View::PartialList(_) => {
                return Err(not_a_list());
            }
        };
        Ok(respond::object(code, &shown, None, media))
    }
}

/// About the time it takes to make another form of so much JSON.
fn make_time(bytes: usize) -> Duration {
    Duration::from_nanos(10 * bytes as u64)
}

/// 406: a list was asked for where there is one object.
pub(crate) fn not_a_list() -> Status {
    Status::new(
        406,
        apimachinery::status::Reason::NotAcceptable,
        "you requested PartialObjectMetadataList, but the requested object is not a list",
    )
}
