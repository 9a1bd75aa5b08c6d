//! DELETE of a collection: every object the selectors match, by the rules of single deletes.

use apimachinery::status::Status;
use component::http::Response;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use watchcache::StoredObject;

use super::{Exchange, delete, list};
use crate::core::create::WriteParams;
use crate::core::update::Subject;
use crate::extension::DeleteRequest;
use crate::options::{self, VersionMatch};

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = exchange.media()?;
    let mut options = options::read(&exchange.context.query, false)?;
    if options.limit == 0 && options.version_match == VersionMatch::Unset {
        // upstream lists in pages, and a page at a revision is of this very revision
        options.version_match = VersionMatch::Exact;
    }
    let (request, tree) = delete::read_request(&exchange)?;
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
    loop {
        let free = workers - running.len();
        for object in waiting.by_ref().take(free) {
            running.push_back(delete_one(&exchange, object, &request, &params));
        }
        match running.next().await {
            Some(outcome) => outcome?,
            None => break,
        }
    }
    drop(running);
    // the answer is what was found, with the token of the next page if there was a limit
    list::respond(&exchange, page, &media).await
}

/// Deletes an object of the collection, unless somebody else was faster.
async fn delete_one(
    exchange: &Exchange,
    object: &StoredObject,
    request: &DeleteRequest,
    params: &WriteParams,
) -> Result<(), Status> {
    let mut place = exchange.place();
    place.namespace = object.namespace();
    let subject = Subject { place, name: object.name(), subresource: "" };
    match exchange.core().delete(&subject, request, params).await {
        Ok(_) => Ok(()),
        Err(status) if status.code == 404 => Ok(()),
        Err(status) => Err(status),
    }
}
