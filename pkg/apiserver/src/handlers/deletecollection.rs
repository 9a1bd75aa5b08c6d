//! DELETE of a collection: every object the selectors match, by the rules of single deletes.

use apimachinery::Value;
use apimachinery::status::Status;
use component::http::Response;
use http::StatusCode;
use serde_json::json;

use super::{Exchange, delete, list};
use crate::core::create::WriteParams;
use crate::core::update::Subject;
use crate::negotiate;
use crate::options;
use crate::respond;

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = negotiate::single(&exchange.parts.headers, &exchange.context.query)?;
    let (request, tree) = delete::read_request(&exchange)?;
    let options = options::read(&exchange.context.query, false)?;
    let page = list::page(&exchange, &options).await?;
    let params = WriteParams {
        dry_run: request.dry_run,
        admission: true,
        rules: true,
        options: tree,
        ..WriteParams::default()
    };
    let mut items: Vec<Value> = Vec::with_capacity(page.items.len());
    for object in &page.items {
        let mut place = exchange.place();
        place.namespace = object.namespace();
        let subject = Subject { place, name: object.name(), subresource: "" };
        match exchange.core().delete(&subject, &request, &params).await {
            Ok(deleted) => items.push(deleted.object),
            // somebody else was faster
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let target = &exchange.target;
    let answer = json!({
        "kind": target.descriptor.list_kind, "apiVersion": target.api_version(),
        "metadata": {"resourceVersion": page.revision.to_string()}, "items": items,
    });
    Ok(respond::object(StatusCode::OK, &answer, None, &media))
}
