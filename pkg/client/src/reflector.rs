//! Keeps a store equal to what the server holds: list once, watch from there, resume, relist when the server says the
//! past is gone.
//!
//! [`Machine`] decides the next request from what came back and never does I/O; [`Reflector`] drives it. Behaviour after
//! API concepts, "Efficient detection of changes", and client-go's `tools/cache/reflector.go`.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use kube::core::params::{ListParams, WatchParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::backoff::Backoff;
use crate::error::is_gone;
use crate::informer::Selection;
use crate::store::{Decoded, StoreCore};
use crate::wire::{self, Decode, Frame, Lines, Page};

/// Objects asked for in one page of a list.
const PAGE_SIZE: u32 = 500;
/// Longest wait for one page of a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// Server-side length of a watch in seconds, before random lengthening by up to [`WATCH_SPREAD_SECONDS`].
const WATCH_SECONDS: u32 = 240;
const WATCH_SPREAD_SECONDS: u32 = 50;
/// How long after its announced end a silent watch is taken for dead.
const WATCH_GRACE: Duration = Duration::from_secs(10);
/// A watch shorter than this that brought nothing counts as a failure, so that it cannot become a busy loop.
const SHORT_WATCH: Duration = Duration::from_secs(1);
const BACKOFF_BASE: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The next request to make.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    List { token: String, paged: bool },
    Watch { resource_version: String },
}

/// Why a request failed, as far as the next step depends on it.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Failure {
    /// The resource version or continue token is no longer held.
    Expired,
    /// Try again, not before this.
    RetryAfter(Duration),
    Other,
}

enum State {
    Listing { token: String, paged: bool, items: Vec<Decoded> },
    Watching { resource_version: String },
}

/// The list-watch protocol as a state machine.
pub(crate) struct Machine {
    state: State,
    backoff: Backoff,
    /// Wait before the next step, at least this long.
    delay: Option<Duration>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { state: Self::fresh_list(), backoff: Backoff::new(BACKOFF_BASE, BACKOFF_MAX), delay: None }
    }

    fn fresh_list() -> State {
        State::Listing { token: String::new(), paged: true, items: Vec::new() }
    }

    pub(crate) fn step(&self) -> Step {
        match &self.state {
            State::Listing { token, paged, .. } => Step::List { token: token.clone(), paged: *paged },
            State::Watching { resource_version } => {
                Step::Watch { resource_version: resource_version.clone() }
            }
        }
    }

    /// A page arrived. Returns the whole list when it was the last one.
    pub(crate) fn page(&mut self, page: Page) -> Option<Vec<Decoded>> {
        self.backoff.reset();
        let State::Listing { token, items, .. } = &mut self.state else { return None };
        items.extend(page.items);
        if page.continue_token.is_empty() {
            let all = std::mem::take(items);
            self.state = State::Watching { resource_version: page.resource_version };
            return Some(all);
        }
        *token = page.continue_token;
        None
    }

    /// The watch has reached this resource version.
    pub(crate) fn advanced(&mut self, to: &str) {
        self.backoff.reset();
        if let State::Watching { resource_version } = &mut self.state {
            to.clone_into(resource_version);
        }
    }

    /// The watch ended without an error. `idle`: it was short and brought nothing.
    pub(crate) fn watch_ended(&mut self, idle: bool) {
        if idle {
            self.delay = Some(Duration::ZERO);
        } else {
            self.backoff.reset();
        }
    }

    /// A request failed, or an `ERROR` event came.
    pub(crate) fn failed(&mut self, failure: Failure) {
        match failure {
            Failure::Expired => {
                // An expired continue token: pages are too slow for this collection, take it whole.
                let paged = match &self.state {
                    State::Listing { token, .. } if token.is_empty() => {
                        self.delay = Some(Duration::ZERO);
                        true
                    }
                    State::Listing { .. } => false,
                    State::Watching { .. } => true,
                };
                self.state = State::Listing { token: String::new(), paged, items: Vec::new() };
            }
            Failure::RetryAfter(least) => self.delay = Some(least),
            Failure::Other => self.delay = Some(Duration::ZERO),
        }
    }

    /// How long to wait before the next step, if at all.
    pub(crate) fn take_delay(&mut self, jitter: f64) -> Option<Duration> {
        self.delay.take().map(|least| self.backoff.next(jitter).max(least))
    }
}

/// What one watch or list did not bring.
#[derive(Debug, thiserror::Error)]
enum ReflectError {
    #[error("request failed")]
    Request(#[from] kube::Error),
    #[error("cannot decode the server's answer")]
    Decode(#[from] serde_json::Error),
    #[error(transparent)]
    TooLong(#[from] wire::LineTooLong),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl ReflectError {
    fn failure(&self) -> Failure {
        match self {
            Self::Request(error) if is_gone(error) => Failure::Expired,
            Self::Request(kube::Error::Api(status)) => match &status.details {
                Some(details) if details.retry_after_seconds > 0 => Failure::RetryAfter(
                    Duration::from_secs(details.retry_after_seconds.into()).min(BACKOFF_MAX),
                ),
                _ => Failure::Other,
            },
            _ => Failure::Other,
        }
    }
}

/// Drives one list and watch into one store.
pub(crate) struct Reflector {
    pub(crate) client: kube::Client,
    /// Path of the collection, such as `/api/v1/pods`.
    pub(crate) path: String,
    pub(crate) selection: Selection,
    /// Media types asked for, one for lists and one for watches; `None` is plain JSON.
    pub(crate) accept: Option<(&'static str, &'static str)>,
    pub(crate) decode: Decode,
    pub(crate) store: Arc<StoreCore>,
    pub(crate) synced: watch::Sender<bool>,
}

impl Reflector {
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.reflect()).await;
    }

    async fn reflect(&self) {
        let mut machine = Machine::new();
        loop {
            let result = match machine.step() {
                Step::List { token, paged } => self.list(&mut machine, &token, paged).await,
                Step::Watch { resource_version } => self.watch(&mut machine, &resource_version).await,
            };
            if let Err(error) = result {
                let failure = error.failure();
                if failure == Failure::Expired {
                    debug!(path = %self.path, "resource version expired, listing again");
                } else {
                    warn!(path = %self.path, error = &error as &dyn std::error::Error, "list or watch failed");
                }
                machine.failed(failure);
            }
            if let Some(delay) = machine.take_delay(rand::random()) {
                sleep(delay).await;
            }
        }
    }

    async fn list(&self, machine: &mut Machine, token: &str, paged: bool) -> Result<(), ReflectError> {
        let params = ListParams {
            label_selector: self.selection.label_selector.clone(),
            field_selector: self.selection.field_selector.clone(),
            limit: paged.then_some(PAGE_SIZE),
            continue_token: (!token.is_empty()).then(|| token.to_owned()),
            ..ListParams::default()
        };
        let request =
            kube::core::Request::new(&self.path).list(&params).map_err(kube::Error::BuildRequest)?;
        let body = timeout(LIST_TIMEOUT, async {
            let response = self.send(request, self.accept.map(|(list, _)| list)).await?;
            response.into_body().collect_bytes().await
        })
        .await
        .map_err(|_| ReflectError::Timeout(LIST_TIMEOUT))??;
        if let Some(all) = machine.page(wire::page(&body, self.decode)?) {
            self.store.replace(all);
            self.synced.send_replace(true);
        }
        Ok(())
    }

    async fn watch(&self, machine: &mut Machine, from: &str) -> Result<(), ReflectError> {
        let seconds = WATCH_SECONDS + rand::random_range(0..WATCH_SPREAD_SECONDS);
        let params = WatchParams {
            label_selector: self.selection.label_selector.clone(),
            field_selector: self.selection.field_selector.clone(),
            timeout: Some(seconds),
            bookmarks: true,
            send_initial_events: false,
        };
        let request =
            kube::core::Request::new(&self.path).watch(&params, from).map_err(kube::Error::BuildRequest)?;
        let began = Instant::now();
        let deadline = began + Duration::from_secs(seconds.into()) + WATCH_GRACE;
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let response = timeout(LIST_TIMEOUT, self.send(request, self.accept.map(|(_, watch)| watch)))
            .await
            .map_err(|_| ReflectError::Timeout(LIST_TIMEOUT))??;
        let mut body = response.into_body();
        let mut lines = Lines::default();
        let mut seen = 0_usize;
        // A watch that outlives its announced end is a dead connection; ending it resumes from where it stood.
        while let Ok(Some(chunk)) = timeout(left(deadline), body.frame()).await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    debug!(path = %self.path, error = &error as &dyn std::error::Error, "watch broke off");
                    break;
                }
            };
            let Ok(data) = chunk.into_data() else { continue };
            lines.push(&data)?;
            while let Some(line) = lines.next() {
                seen += 1;
                self.apply(machine, wire::frame(&line, self.decode)?)?;
            }
        }
        machine.watch_ended(seen == 0 && began.elapsed() < SHORT_WATCH);
        Ok(())
    }

    fn apply(&self, machine: &mut Machine, frame: Frame) -> Result<(), ReflectError> {
        match frame {
            Frame::Put(decoded) => {
                machine.advanced(&decoded.resource_version);
                self.store.put(decoded);
            }
            Frame::Delete(decoded) => {
                machine.advanced(&decoded.resource_version);
                self.store.delete(decoded);
            }
            Frame::Bookmark { resource_version } => machine.advanced(&resource_version),
            Frame::Failed(status) => return Err(kube::Error::Api(status).into()),
        }
        Ok(())
    }

    async fn send(
        &self,
        request: http::Request<Vec<u8>>,
        accept: Option<&'static str>,
    ) -> Result<http::Response<kube::client::Body>, kube::Error> {
        let mut request = request.map(kube::client::Body::from);
        let headers = request.headers_mut();
        headers.insert(
            http::header::ACCEPT,
            http::HeaderValue::from_static(accept.unwrap_or(crate::rest::JSON)),
        );
        crate::rest::checked(self.client.send(request).await?).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(names: &[&str], version: &str, token: &str) -> Page {
        let items = names
            .iter()
            .map(|name| Decoded {
                object: Arc::new(()),
                namespace: String::new(),
                name: (*name).into(),
                uid: String::new(),
                resource_version: version.into(),
            })
            .collect();
        Page { items, resource_version: version.into(), continue_token: token.into() }
    }

    fn list(token: &str, paged: bool) -> Step {
        Step::List { token: token.into(), paged }
    }

    fn watch(version: &str) -> Step {
        Step::Watch { resource_version: version.into() }
    }

    #[test]
    fn pages_then_watches_then_resumes() {
        let mut machine = Machine::new();
        assert_eq!(machine.step(), list("", true));
        assert!(machine.page(page(&["a"], "7", "next")).is_none());
        assert_eq!(machine.step(), list("next", true));
        let all = machine.page(page(&["b"], "7", "")).expect("the last page");
        assert_eq!(all.len(), 2);
        assert_eq!(machine.step(), watch("7"));
        machine.advanced("9");
        machine.watch_ended(false);
        assert_eq!((machine.step(), machine.take_delay(0.0)), (watch("9"), None));
    }

    #[test]
    fn an_expired_version_lists_again_at_once() {
        let mut machine = Machine::new();
        machine.page(page(&[], "7", ""));
        machine.failed(Failure::Expired);
        assert_eq!((machine.step(), machine.take_delay(0.0)), (list("", true), None));
    }

    #[test]
    fn an_expired_token_takes_the_list_whole_and_forgets_the_pages_before() {
        let mut machine = Machine::new();
        machine.page(page(&["a"], "7", "next"));
        machine.failed(Failure::Expired);
        assert_eq!(machine.step(), list("", false));
        assert_eq!(machine.page(page(&["a", "b"], "8", "")).map(|all| all.len()), Some(2));
    }

    #[test]
    fn failures_back_off_and_success_resets() {
        let mut machine = Machine::new();
        let mut delays = Vec::new();
        for _ in 0..3 {
            machine.failed(Failure::Other);
            delays.extend(machine.take_delay(0.0));
        }
        assert_eq!(delays, [BACKOFF_BASE, BACKOFF_BASE * 2, BACKOFF_BASE * 4]);
        machine.page(page(&[], "1", ""));
        machine.watch_ended(true);
        assert_eq!(machine.take_delay(0.0), Some(BACKOFF_BASE));
        machine.failed(Failure::RetryAfter(Duration::from_secs(5)));
        assert_eq!(machine.take_delay(0.0), Some(Duration::from_secs(5)));
        assert_eq!(machine.step(), watch("1"), "a failed watch resumes where it stood");
    }
}
