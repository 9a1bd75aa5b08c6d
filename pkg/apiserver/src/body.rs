//! Bodies in: bounded, decoded in the format the client says.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::descriptor::{ResourceDescriptor, Subresource};
use apimachinery::protobuf;
use apimachinery::status::Status;
use bytes::{Bytes, BytesMut};
use component::http::Body;
use http::HeaderMap;
use http_body_util::BodyExt;

use crate::codec::Reader;
use crate::context::RequestContext;
use crate::negotiate;
use crate::options;
use crate::store::ResourceStore;

/// Largest request body, upstream's `MaxRequestBodyBytes`.
pub(crate) const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// Reads a whole body; 413 past [`MAX_BODY_BYTES`].
pub(crate) async fn read(mut body: Body) -> Result<Bytes, Status> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| Status::bad_request(format!("unable to read the request body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + all.len() + data.len() > MAX_BODY_BYTES {
            return Err(Status::request_too_large(format!(
                "Request entity too large: limit is {MAX_BODY_BYTES}"
            )));
        }
        if first.is_empty() && all.is_empty() {
            // most bodies are one frame, which need not be copied
            first = data;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Reads and decodes a body of the kind a subresource (or a virtual resource) declares.
pub(crate) async fn decode_declared(
    context: &RequestContext,
    store: &ResourceStore,
    descriptor: &Arc<ResourceDescriptor>,
    subresource: Option<&Subresource>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Value, Status> {
    let bytes = read(body).await?;
    let format = negotiate::body_format(headers)?;
    let served = descriptor.version(&context.info.version).ok_or_else(Status::path_not_found)?;
    let (gvk, root) = match subresource {
        Some(sub) => (
            sub.gvk.clone(),
            sub.root.ok_or_else(|| Status::bad_request(format!("{} takes no body", sub.name)))?,
        ),
        None => (descriptor.gvk(&served.version), served.root),
    };
    let options = options::write(context, options::Kind::Create)?;
    let resources = store.resources();
    let reader = Reader { resources: &resources, gvk: &gvk, schema: &served.schema, root };
    let decoded = reader.decode(&bytes, format, options.validation)?;
    context.warnings.extend(decoded.warnings);
    let mut object = decoded.value;
    apimachinery::default::apply_defaults(&served.schema, root, &mut object);
    if subresource.is_none() {
        descriptor.strategy.default_object(&served.version, &mut object);
    }
    Ok(object)
}

/// Decodes a protobuf body of a kind that belongs to no group (`DeleteOptions`).
pub(crate) fn meta_kind(body: &[u8], kind: &str) -> Result<Value, Status> {
    let envelope = protobuf::unwrap(body).map_err(|e| Status::bad_request(e.to_string()))?;
    let catalog = apis::catalog();
    let definition = catalog
        .definition(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"))
        .ok_or_else(|| Status::internal(format!("no schema of {kind}")))?;
    protobuf::decode(catalog.schema(), definition.node, envelope.raw)
        .map_err(|e| Status::bad_request(e.to_string()))
}
