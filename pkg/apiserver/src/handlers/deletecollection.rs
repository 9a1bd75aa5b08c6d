//! DELETE of a collection: every object the selectors match, by the rules of single deletes.

use apimachinery::Value;
use apimachinery::json;
use apimachinery::status::Status;
use component::http::Response;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use http::StatusCode;
use watchcache::StoredObject;

use super::{Exchange, delete, list};
use crate::core::create::WriteParams;
use crate::core::update::Subject;
use crate::extension::DeleteRequest;
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
    let workers = exchange.server.limits.delete_collection_workers.max(1);
    let mut waiting = page.items.iter();
    let mut running = FuturesOrdered::new();
    let mut items: Vec<Value> = Vec::with_capacity(page.items.len());
    loop {
        let free = workers - running.len();
        for object in waiting.by_ref().take(free) {
            running.push_back(delete_one(&exchange, object, &request, &params));
        }
        match running.next().await {
            Some(outcome) => items.extend(outcome?),
            None => break,
        }
    }
    drop(running);
    let target = &exchange.target;
    let answer = json!({
        "kind": target.descriptor.list_kind, "apiVersion": target.api_version(),
        "metadata": {"resourceVersion": page.revision.to_string()}, "items": items,
    });
    Ok(respond::object(StatusCode::OK, &answer, None, &media))
}

/// Deletes an object of the collection; `None` when somebody else was faster.
async fn delete_one(
    exchange: &Exchange,
    object: &StoredObject,
    request: &DeleteRequest,
    params: &WriteParams,
) -> Result<Option<Value>, Status> {
    let mut place = exchange.place();
    place.namespace = object.namespace();
    let subject = Subject { place, name: object.name(), subresource: "" };
    match exchange.core().delete(&subject, request, params).await {
        Ok(deleted) => Ok(Some(deleted.object)),
        Err(status) if status.code == 404 => Ok(None),
        Err(status) => Err(status),
    }
}
