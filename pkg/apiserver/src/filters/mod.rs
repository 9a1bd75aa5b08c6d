//! The filter chain: what every request passes before a handler sees it, in upstream's order
//! (`k8s.io/apiserver/pkg/server.DefaultBuildHandlerChain`): panics contained, audit id, request info, whether the server
//! is ending, deadline, authentication, impersonation, limits in flight, authorization; on the way back warnings, cache headers, compression
//! and metrics.

mod authenticate;
mod authorize;
mod compress;
mod ending;
mod impersonate;
mod inflight;

pub(crate) use compress::{MIN_COMPRESSED_BYTES, accepts_gzip, mark_compressed};
pub(crate) use ending::Ending;
pub use ending::NewRequests;
pub(crate) use inflight::InFlight;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::status::{Reason, Status};
use auth::UserInfo;
use component::http::{Request, Response};
use futures::FutureExt;
use http::header::{self, HeaderName};
use http::{HeaderValue, Method, StatusCode, Version};
use jiff::Timestamp;

use crate::context::{RequestContext, Warnings};
use crate::metrics::{Open, is_counted};
use crate::negotiate::{self, MediaType};
use crate::query::Query;
use crate::requestinfo::RequestInfo;
use crate::respond;
use crate::server::Server;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// Longest `Audit-Id` taken over from a client.
const MAX_AUDIT_ID_BYTES: usize = 64;

/// Passes a request through the chain.
pub(crate) async fn run(server: Arc<Server>, request: Request) -> Response {
    let started = Instant::now();
    let query = Arc::new(Query::parse(request.uri().query().unwrap_or("")));
    let info = Arc::new(RequestInfo::of(request.method(), request.uri(), &query));
    let audit_id = audit_id(&request);
    let head_only = request.method() == Method::HEAD;
    let goes_away = request.version() == Version::HTTP_2 && server.limits.sends_away();
    let media = negotiate::single(request.headers(), &query).unwrap_or(MediaType::JSON);
    let compression = accepts_gzip(request.headers());
    let warnings = Warnings::default();
    let long_running = server.is_long_running(&info);
    let _taken = match server.ending.enter(&request, long_running) {
        Ok(taken) => taken,
        Err(refused) => return *refused,
    };
    let context = RequestContext {
        audit_id: Arc::clone(&audit_id),
        user: Arc::default(),
        info: Arc::clone(&info),
        query,
        now: Timestamp::now(),
        user_agent: user_agent(&request),
        warnings: warnings.clone(),
    };
    let open = Open::begin(&server, server.metrics.of(&server, &context, &request, long_running), started);
    let counted = is_counted(&context);
    let deadline = if long_running { None } else { Some(deadline(&context, server.limits.request_timeout)) };
    let mut passage = Passage::default();
    let outcome = {
        let guarded = AssertUnwindSafe(inner(&server, context, request, &open, &mut passage)).catch_unwind();
        match deadline {
            None => guarded.await,
            Some(Err(status)) => Ok(Err(status)),
            Some(Ok(allowed)) => match tokio::time::timeout(allowed, guarded).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    server.metrics.terminated(open.alike(), StatusCode::GATEWAY_TIMEOUT);
                    Ok(Err(Status::timeout("request did not complete within the allotted timeout", 0)))
                }
            },
        }
    };
    let mut response = match outcome {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => respond::failure(&status, &media),
        Err(panic) => {
            tracing::error!(path = info.path, panic = panic_text(&*panic), "a handler panicked");
            let status = Status::new(
                500,
                Reason::InternalError,
                "This request caused apiserver to panic. Look in the logs for details.",
            );
            respond::failure(&status, &media)
        }
    };
    if let Ok(value) = HeaderValue::from_str(&audit_id) {
        response.headers_mut().insert(AUDIT_ID, value);
    }
    for warning in warnings.headers() {
        response.headers_mut().append(header::WARNING, warning);
    }
    if !response.headers().contains_key(header::CACHE_CONTROL) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    }
    if goes_away {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    tracing::debug!(
        verb = info.verb, path = info.path, code = response.status().as_u16(),
        micros = started.elapsed().as_micros() as u64, audit_id = %audit_id, "request"
    );
    let response = if long_running { response } else { compress::compress(response, compression) };
    let response = match passage.reached {
        Some(user) if counted && long_running => open.answered(response, user),
        Some(user) if counted => {
            server.metrics.finished(open.alike(), &user.name, response, started.elapsed(), passage.waited)
        }
        _ => response,
    };
    if head_only { response.map(|_| component::http::empty()) } else { response }
}

/// How far a request came, as far as metrics want to know.
#[derive(Default)]
struct Passage {
    /// Whom a handler answers: whoever is not let in is not counted, as upstream counts behind its filters.
    reached: Option<Arc<UserInfo>>,
    /// How long it waited for its turn.
    waited: Duration,
}

async fn inner(
    server: &Arc<Server>,
    mut context: RequestContext,
    request: Request,
    open: &Arc<Open>,
    passage: &mut Passage,
) -> Result<Response, Status> {
    let (mut parts, body) = request.into_parts();
    let user = authenticate::authenticate(server, &mut parts, &context.warnings).await?;
    let began = Instant::now();
    context.user = impersonate::impersonate(server, &mut parts, user).await?;
    server.access.impersonated(began.elapsed());
    let _permit = if open.alike().long_running() {
        None
    } else {
        let began = Instant::now();
        let permit = server.inflight.enter(&context, server).await.inspect_err(|_| {
            server.metrics.count(open.alike(), StatusCode::TOO_MANY_REQUESTS);
            server.metrics.terminated(open.alike(), StatusCode::TOO_MANY_REQUESTS);
        })?;
        passage.waited = began.elapsed();
        Some(permit)
    };
    authorize::authorize(server, &context).await?;
    passage.reached = Some(Arc::clone(&context.user));
    parts.extensions.insert(Arc::clone(open));
    crate::router::route(server, context, Request::from_parts(parts, body)).await
}

/// The client's `Audit-Id` or a new one.
fn audit_id(request: &Request) -> Arc<str> {
    request
        .headers()
        .get(AUDIT_ID)
        .and_then(|v| v.to_str().ok())
        .filter(|v| !v.is_empty() && v.len() <= MAX_AUDIT_ID_BYTES)
        .map_or_else(|| Arc::from(uuid::Uuid::new_v4().to_string()), Arc::from)
}

fn user_agent(request: &Request) -> Arc<str> {
    Arc::from(request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or(""))
}

/// The time a request may take: `timeout` in its query (Go's duration text), at most the server's.
fn deadline(context: &RequestContext, most: Duration) -> Result<Duration, Status> {
    match context.query.get("timeout") {
        None | Some("") => Ok(most),
        Some(text) => match text.parse::<component::flags::GoDuration>() {
            Ok(asked) if asked.0.is_zero() => Ok(most),
            Ok(asked) => Ok(asked.0.min(most)),
            Err(why) => {
                Err(Status::bad_request(format!("invalid timeout specified in the request URL - {why}")))
            }
        },
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
