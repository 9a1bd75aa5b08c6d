//! GET of one object: bytes from the cache.

use apimachinery::json;
use apimachinery::protobuf;
use apimachinery::status::Status;
use component::http::Response;
use component::work;
use http::StatusCode;
use watchcache::{ReadVersion, StoredObject};

use super::{Exchange, make_time, not_a_list, table};
use crate::core::encode::{Encoder, write_partial};
use crate::negotiate::{Format, MediaType, View};
use crate::options;
use crate::respond;

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = exchange.media()?;
    let version = match exchange.context.query.get("resourceVersion") {
        None | Some("") => ReadVersion::Latest,
        Some("0") => ReadVersion::Any,
        Some(text) => ReadVersion::NotOlderThan(options::version_of_get(text)?),
    };
    let core = exchange.core();
    let target = &exchange.target;
    let cached = core.caches.of(&core.resources.snapshot(), &target.descriptor);
    let found = cached.cache.get(exchange.namespace(), exchange.name(), version).await?;
    let object = found.ok_or_else(|| target.not_found(exchange.name()))?;
    if media.view == View::Object && media.format == Format::Json && !media.pretty {
        let mut out = Vec::with_capacity(object.json_len() + 1);
        Encoder::new(target).write_json(&object, &mut out)?;
        out.push(b'\n');
        return Ok(respond::bytes(StatusCode::OK, Format::Json.media_type(), out));
    }
    work::taking(make_time(object.json_len()), || made(&exchange, &object, &media))
}

/// What is made from the object for this client.
fn made(exchange: &Exchange, object: &StoredObject, media: &MediaType) -> Result<Response, Status> {
    let target = &exchange.target;
    let encoder = Encoder::new(target);
    match media.view {
        View::Object => {
            if media.format == Format::Protobuf && encoder.has_message() {
                let raw = encoder.message(object)?;
                let body = protobuf::wrap(&target.api_version(), &target.descriptor.kind, &raw);
                return Ok(respond::bytes(StatusCode::OK, Format::Protobuf.media_type(), body));
            }
            let served = target.served();
            let value = encoder.value(object)?;
            Ok(respond::object(StatusCode::OK, &value, Some((&served.schema, served.root)), media))
        }
        View::Partial(version) => {
            let mut out = Vec::with_capacity(object.json_len() / 2);
            write_partial(object, version, &mut out);
            shown(media, out)
        }
        View::Table(version) => {
            let rows = table::Rows::new(target, &exchange.context)?;
            let metadata = json!({"resourceVersion": object.revision().to_string()});
            let mut out = table::head(target, version, &metadata, true);
            rows.write(&encoder, object, &mut out)?;
            out.extend_from_slice(b"]}");
            shown(media, out)
        }
        View::PartialList(_) => Err(not_a_list()),
    }
}

/// A view given as JSON, in the negotiated format.
fn shown(media: &MediaType, mut json: Vec<u8>) -> Result<Response, Status> {
    if media.format == Format::Json && !media.pretty {
        json.push(b'\n');
        return Ok(respond::bytes(StatusCode::OK, Format::Json.media_type(), json));
    }
    let value = apimachinery::json::parse(&json).map_err(|e| Status::internal(e.to_string()))?.value;
    Ok(respond::object(StatusCode::OK, &value, None, media))
}
