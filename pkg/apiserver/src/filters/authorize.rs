//! May they.

use std::time::Instant;

use apimachinery::status::Status;
use auth::authz::{Attributes, forbidden_status};

use crate::context::RequestContext;
use crate::server::Server;

pub(super) async fn authorize(server: &Server, context: &RequestContext) -> Result<(), Status> {
    let info = &*context.info;
    let attributes = Attributes {
        user: &context.user,
        verb: info.verb,
        namespace: &info.namespace,
        api_group: &info.group,
        api_version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        name: &info.name,
        resource_request: info.is_resource,
        path: &info.path,
        field_selector: context.query.get("fieldSelector").unwrap_or(""),
    };
    let began = Instant::now();
    let answer = server.authorizer.authorize(&attributes).await;
    server.access.authorized(&answer, began.elapsed());
    if answer.allowed() {
        return Ok(());
    }
    if !answer.error.is_empty() {
        tracing::debug!(error = answer.error, "trouble while authorizing");
    }
    Err(forbidden_status(&attributes, &answer.reason))
}
