//! GET of one object: bytes from the cache.

use apimachinery::protobuf;
use apimachinery::status::Status;
use component::http::Response;
use http::StatusCode;
use serde_json::json;
use watchcache::ReadVersion;

use super::{Exchange, not_a_list, table};
use crate::core::encode::Encoder;
use crate::negotiate::{Format, View};
use crate::options;
use crate::respond;

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = exchange.media()?;
    let version = match exchange.context.query.get("resourceVersion") {
        None | Some("") => ReadVersion::Latest,
        Some("0") => ReadVersion::Any,
        Some(text) => ReadVersion::NotOlderThan(options::parse_version(text)?),
    };
    let core = exchange.core();
    let target = &exchange.target;
    let cached = core.caches.of(&core.resources.snapshot(), &target.descriptor);
    let found = cached.cache.get(exchange.namespace(), exchange.name(), version).await?;
    let object = found.ok_or_else(|| target.not_found(exchange.name()))?;
    let encoder = Encoder::new(target);
    match media.view {
        View::Object => {
            if media.format == Format::Json && !media.pretty {
                let mut out = Vec::with_capacity(object.json_len() + 1);
                encoder.write_json(&object, &mut out)?;
                out.push(b'\n');
                return Ok(respond::bytes(StatusCode::OK, Format::Json.media_type(), out));
            }
            if media.format == Format::Protobuf && encoder.has_message() {
                let raw = encoder.message(&object)?;
                let body = protobuf::wrap(&target.api_version(), &target.descriptor.kind, &raw);
                return Ok(respond::bytes(StatusCode::OK, Format::Protobuf.media_type(), body));
            }
            let served = target.served();
            let value = encoder.value(&object)?;
            Ok(respond::object(StatusCode::OK, &value, Some((&served.schema, served.root)), &media))
        }
        View::Partial(version) => {
            let value = crate::core::encode::partial_of(&encoder.value(&object)?, version);
            Ok(respond::object(StatusCode::OK, &value, None, &media))
        }
        View::Table(version) => {
            let rows = table::Rows::new(target, &exchange.context)?;
            let metadata = json!({"resourceVersion": object.revision().to_string()});
            let row = rows.stored_row(&encoder, &object)?;
            let shown = table::table(target, version, metadata, vec![row], true);
            Ok(respond::object(StatusCode::OK, &shown, None, &media))
        }
        View::PartialList(_) => Err(not_a_list()),
    }
}
