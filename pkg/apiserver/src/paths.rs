//! Paths that are no resources: health, version, metrics, the index of paths.

use apimachinery::status::{Reason, Status};
use apimachinery::{Value, json};
use component::http::{Request, Response};
use component::version::BuildInfo;
use http::{Method, StatusCode};

use crate::context::RequestContext;
use crate::negotiate;
use crate::respond;
use crate::server::Server;

/// Answers a path that is no resource.
pub(crate) async fn respond(
    server: &Server,
    context: &RequestContext,
    request: Request,
) -> Result<Response, Status> {
    let path = context.info.path.as_str();
    let (method, headers) = (request.method(), request.headers());
    if let Some(handler) = server.path_handler(path) {
        return handler.handle(context.clone(), request).await;
    }
    let read = method == Method::GET || method == Method::HEAD;
    if !read {
        return Err(if is_known(server, path) { method_not_allowed() } else { Status::path_not_found() });
    }
    if let Some((checks, name)) = health_path(path) {
        let checks = match checks {
            "readyz" => &server.health.readyz,
            "livez" => &server.health.livez,
            _ => &server.health.healthz,
        };
        let prefix = path.trim_start_matches('/').split('/').next().unwrap_or("healthz");
        return Ok(checks.respond(prefix, name, request.uri().query()).await);
    }
    if let Some(response) = server.openapi.respond(path, headers, &context.query) {
        return Ok(response);
    }
    if let Some(response) = server.discovery.respond(path, headers, &context.query) {
        return Ok(response);
    }
    match path.trim_end_matches('/') {
        "/metrics" => {
            server.storage_size.refresh(&server.store).await;
            Ok(server.process_metrics.respond())
        }
        "/metrics/slis" => Ok(server.process_metrics.respond_indicators()),
        "/version" => {
            let media = negotiate::single(headers, &context.query)?;
            Ok(respond::object(StatusCode::OK, &server.version, None, &media))
        }
        "" => {
            let media = negotiate::single(headers, &context.query)?;
            Ok(respond::object(StatusCode::OK, &index(server), None, &media))
        }
        _ => Err(Status::path_not_found()),
    }
}

/// 405 of a path that is served, but not for this method.
pub(crate) fn method_not_allowed() -> Status {
    Status::new(
        405,
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    )
}

fn is_known(server: &Server, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    health_path(path).is_some()
        || matches!(path, "" | "/metrics" | "/metrics/slis" | "/version" | "/openapi/v2" | "/openapi/v3")
        || server.discovery.paths().iter().any(|p| p == path)
}

/// The check list and the single check of a health path.
fn health_path(path: &str) -> Option<(&str, Option<&str>)> {
    let (first, rest) = match path.trim_start_matches('/').split_once('/') {
        Some((first, rest)) => (first, Some(rest).filter(|r| !r.is_empty())),
        None => (path.trim_start_matches('/'), None),
    };
    matches!(first, "healthz" | "livez" | "readyz").then_some((first, rest))
}

fn index(server: &Server) -> Value {
    let mut paths: Vec<String> = server.discovery.paths();
    for fixed in [
        "/healthz",
        "/livez",
        "/readyz",
        "/metrics",
        "/metrics/slis",
        "/version",
        "/openapi/v2",
        "/openapi/v3",
    ] {
        paths.push(fixed.to_owned());
    }
    for (path, checks) in [
        ("/healthz", &server.health.healthz),
        ("/livez", &server.health.livez),
        ("/readyz", &server.health.readyz),
    ] {
        paths.extend(checks.names().into_iter().map(|name| format!("{path}/{name}")));
    }
    paths.extend(server.path_handlers());
    paths.sort();
    paths.dedup();
    json!({ "paths": paths })
}

/// What `/version` answers.
pub(crate) fn version() -> Value {
    let build = BuildInfo::this();
    json!({
        "major": build.major, "minor": build.minor,
        "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": build.git_version, "gitCommit": build.git_commit, "gitTreeState": build.git_tree_state,
        "buildDate": build.build_date, "goVersion": build.go_version, "compiler": build.compiler,
        "platform": build.platform,
    })
}
