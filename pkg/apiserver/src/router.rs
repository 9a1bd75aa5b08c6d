//! From what a request is about to the handler that answers it.

use std::sync::Arc;

use apimachinery::descriptor::VerbSet;
use apimachinery::meta::GroupVersionResource;
use apimachinery::status::{Reason, Status};
use component::http::{Request, Response};
use component::work;

use crate::context::RequestContext;
use crate::core::{Target, write_time};
use crate::extension::Call;
use crate::handlers::{Exchange, create, delete, deletecollection, get, list, patch, scale, update, watch};
use crate::paths;
use crate::server::Server;

/// Answers an authorized request.
pub(crate) async fn route(
    server: &Arc<Server>,
    context: RequestContext,
    request: Request,
) -> Result<Response, Status> {
    if !context.info.is_resource {
        return paths::respond(server, &context, request).await;
    }
    let info = &*context.info;
    let gvr = GroupVersionResource::new(&*info.group, &*info.version, &*info.resource);
    let core = Arc::clone(&server.store.core);
    let target = core.target(&gvr)?;
    let descriptor = Arc::clone(&target.descriptor);
    let served = target.served();
    if let Some(deprecation) = &served.deprecation {
        context.warnings.add(deprecation.warning.clone());
    }
    let cluster_wide = info.namespace.is_empty();
    if !descriptor.namespaced && info.namespaced_path {
        return Err(Status::path_not_found());
    }
    if descriptor.namespaced && cluster_wide && !matches!(info.verb, "list" | "watch") {
        let collection = info.parts.len() == 1;
        let virtual_resource = core.handler(&info.group, &info.resource, "").is_some();
        if !(virtual_resource && collection) {
            return Err(if collection { paths::method_not_allowed() } else { Status::path_not_found() });
        }
    }
    let handler = core.handler(&info.group, &info.resource, &info.subresource);
    let subresource = if info.subresource.is_empty() {
        None
    } else {
        Some(served.subresource(&info.subresource).cloned().ok_or_else(Status::path_not_found)?)
    };
    if info.parts.len() > 3 && info.subresource != "proxy" {
        return Err(Status::path_not_found());
    }
    if let Some(deprecation) = &served.deprecation {
        // only now is it known that there is such a subresource
        server.metrics.deprecated(&context, &deprecation.removed_release);
    }
    let verbs = subresource.as_ref().map_or(served.verbs, |s| s.verbs);
    // a proxy takes any method: what it means is the other side's business
    let proxied = info.subresource == "proxy" && handler.is_some() && verbs != VerbSet::default();
    if !proxied {
        check_verb(&context, verbs, &target)?;
    }
    if let Some(handler) = handler {
        let store = server.store.clone();
        return handler.handle(Call { context, descriptor, subresource, request, store }).await;
    }
    let verb = info.verb;
    let subresource = info.subresource.clone();
    let exchange = Exchange::new(Arc::clone(server), context, target, request).await?;
    work::turns_taking(write_time(exchange.body.len()), answer(exchange, verb, &subresource)).await
}

async fn answer(exchange: Exchange, verb: &str, subresource: &str) -> Result<Response, Status> {
    match (subresource, verb) {
        ("", "create") => create::handle(exchange).await,
        ("", "list") => list::handle(exchange).await,
        ("", "watch") => watch::handle(exchange).await,
        ("", "delete") => delete::handle(exchange).await,
        ("", "deletecollection") => deletecollection::handle(exchange).await,
        ("scale", "get" | "update" | "patch") => scale::handle(exchange).await,
        (_, "get") => get::handle(exchange).await,
        (_, "update") => update::handle(exchange).await,
        (_, "patch") => patch::handle(exchange).await,
        (name, verb) => Err(Status::new(
            501,
            Reason::Unknown,
            format!("{verb} of the subresource {name:?} is not served by this server"),
        )),
    }
}

/// 405 for what the resource does not do.
fn check_verb(context: &RequestContext, verbs: VerbSet, target: &Target) -> Result<(), Status> {
    let info = &*context.info;
    let verb = match info.verb {
        // a connection may be opened with any method the subresource names
        "watch" if !info.subresource.is_empty() => "get",
        verb => verb,
    };
    // writes of one object need its name, creation must not have one
    let named = info.parts.len() > 1;
    let fits = match verb {
        "update" | "patch" => named,
        "create" => !named || !info.subresource.is_empty(),
        _ => true,
    };
    if !fits {
        return Err(paths::method_not_allowed());
    }
    if verbs.contains(verb) {
        return Ok(());
    }
    if verbs == VerbSet::default() {
        return Err(Status::path_not_found());
    }
    tracing::debug!(verb, resource = %target.group_resource(), "verb not served");
    Err(paths::method_not_allowed())
}
