//! The end of a server, seen from its requests: which are still taken, and when those under way are done.
//! Source: `k8s.io/apiserver/pkg/server/filters` (WithWaitGroup, WithRetryAfter).

use std::sync::atomic::{AtomicU8, Ordering};

use apimachinery::status::Status;
use component::http::{Request, Response};
use http::{HeaderValue, StatusCode, header};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::negotiate::MediaType;
use crate::respond;
use crate::server::InProcess;

/// Paths that probes and scrapers ask to the last.
const ALWAYS_TAKEN: [&str; 4] = ["/readyz", "/livez", "/healthz", "/metrics"];
/// How servers call themselves in requests to each other and to themselves.
const SERVER_AGENT: &str = "kube-apiserver/";
/// `Retry-After` of a refused request: there are other servers to ask.
const RETRY_SOON: HeaderValue = HeaderValue::from_static("1");
/// `Retry-After` with `--shutdown-send-retry-after`.
const RETRY_LATER: HeaderValue = HeaderValue::from_static("5");

/// What is done with new requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum NewRequests {
    /// They are taken.
    Taken,
    /// They are answered with 503, while watches and connections are still begun: they end with the server.
    Refused,
    /// All are answered with 429, and told to come back on another connection: `--shutdown-send-retry-after`.
    SentAway,
}

/// How far a server has come with its end.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    new: AtomicU8,
    running: TaskTracker,
}

impl Ending {
    /// From now on.
    pub(crate) fn set(&self, new: NewRequests) {
        self.new.store(new as u8, Ordering::SeqCst);
    }

    /// Waits until every request that was taken has been answered. Watches and connections are not waited for.
    pub(crate) async fn drained(&self) {
        self.running.close();
        self.running.wait().await;
    }

    /// Takes a request, which counts as long as the token lives, or refuses it.
    pub(crate) fn enter(
        &self,
        request: &Request,
        long_running: bool,
    ) -> Result<Option<TaskTrackerToken>, Box<Response>> {
        // counted before it is decided, so that nobody can miss a request that is taken
        let token = (!long_running).then(|| self.running.token());
        let new = self.new.load(Ordering::SeqCst);
        if new == NewRequests::Taken as u8 {
            return Ok(token);
        }
        if is_exempt(request) {
            return Ok(None);
        }
        if new == NewRequests::SentAway as u8 {
            return Err(Box::new(sent_away()));
        }
        if long_running { Ok(None) } else { Err(Box::new(refused())) }
    }
}

/// Probes, scrapers, and what this process and its likes ask.
fn is_exempt(request: &Request) -> bool {
    let path = request.uri().path();
    let agent = request.headers().get(header::USER_AGENT);
    request.extensions().get::<InProcess>().is_some()
        || agent.is_some_and(|agent| agent.as_bytes().starts_with(SERVER_AGENT.as_bytes()))
        || ALWAYS_TAKEN.iter().any(|prefix| path.starts_with(prefix))
}

fn refused() -> Response {
    let status = Status::service_unavailable("apiserver is shutting down");
    let mut response = respond::failure(&status, &MediaType::JSON);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, RETRY_SOON);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn sent_away() -> Response {
    let text = "The apiserver is shutting down, please try again later.\n";
    let mut response = component::http::text(StatusCode::TOO_MANY_REQUESTS, text);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, RETRY_LATER);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn request(path: &str, agent: &str) -> Request {
        let request = http::Request::get(path).header(header::USER_AGENT, agent);
        request.body(component::http::empty()).expect("a request")
    }

    #[test]
    fn who_is_taken_when() {
        use NewRequests::{Refused, SentAway, Taken};
        let codes = [
            (Taken, "/api/v1/pods", "kubectl/1", false, 0),
            (Taken, "/api/v1/pods", "kubectl/1", true, 0),
            (Refused, "/api/v1/pods", "kubectl/1", false, 503),
            (Refused, "/api/v1/pods", "kubectl/1", true, 0),
            (Refused, "/readyz/ping", "kubectl/1", false, 0),
            (Refused, "/metrics", "prometheus", false, 0),
            (Refused, "/api/v1/pods", "kube-apiserver/v1.36.0", false, 0),
            (SentAway, "/api/v1/pods", "kubectl/1", false, 429),
            (SentAway, "/api/v1/pods", "kubectl/1", true, 429),
            (SentAway, "/livez", "kubectl/1", false, 0),
        ];
        for (new, path, agent, long_running, code) in codes {
            let ending = Ending::default();
            ending.set(new);
            let outcome = ending.enter(&request(path, agent), long_running);
            let got = outcome.as_ref().err().map_or(0, |response| response.status().as_u16());
            assert_eq!(got, code, "{new:?} {path} {agent} {long_running}");
        }
    }

    #[test]
    fn what_is_under_way_is_waited_for() {
        let ending = Ending::default();
        let token = ending.enter(&request("/api", ""), false).expect("taken");
        let watch = ending.enter(&request("/api", ""), true).expect("taken");
        ending.set(NewRequests::Refused);
        let probe = ending.enter(&request("/readyz", ""), false).expect("taken");
        assert!(ending.drained().now_or_never().is_none());
        drop(token);
        assert!(ending.drained().now_or_never().is_some(), "neither watches nor probes count");
        drop((watch, probe));
    }
}
