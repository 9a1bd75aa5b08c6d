//! The members of a cluster: a connection to each, requests to those that answer, in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Uri;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::connection::{self, Connection};
use crate::error::Error;

/// Wait after a failure before a member is connected to again, doubled up to [`MAX_BACKOFF`]; who has a request and no
/// other member cuts it short.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// The members. Their connections end when it is dropped.
pub(crate) struct Members {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    members: Vec<Member>,
    /// The member whose turn it is.
    next: AtomicUsize,
    /// Counts what has happened to any member.
    changes: watch::Sender<u64>,
}

struct Member {
    address: Uri,
    state: Mutex<State>,
    /// A request has no member to go to.
    wanted: Notify,
}

#[derive(Default)]
struct State {
    current: Option<Current>,
    /// Attempts to connect that have come to an end.
    attempts: u64,
    /// What the last one ended with.
    error: Option<Error>,
}

/// A connection that takes requests.
#[derive(Clone)]
struct Current {
    requests: SendRequest<Bytes>,
    /// It takes no more.
    retired: Arc<Notify>,
}

impl Members {
    /// Begins to connect to all.
    pub(crate) fn new(addresses: Vec<Uri>, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        let member = |address| Member { address, state: Mutex::default(), wanted: Notify::new() };
        let shared = Arc::new(Shared {
            members: addresses.into_iter().map(member).collect(),
            next: AtomicUsize::new(0),
            changes: watch::Sender::new(0),
        });
        let mut tasks = JoinSet::new();
        for index in 0..shared.members.len() {
            tasks.spawn(run(Arc::clone(&shared), index, tls.clone()));
        }
        Self { shared, _tasks: tasks }
    }

    /// A connection that takes a request now, and the address it goes to. Fails when connecting to each member has failed
    /// since the call.
    pub(crate) async fn ready(&self) -> Result<(SendRequest<Bytes>, &Uri), Error> {
        let shared = &*self.shared;
        loop {
            let (member, Current { requests, retired }) = match shared.connected() {
                Some(found) => found,
                None => shared.wait().await?,
            };
            match requests.ready().await {
                Ok(requests) => return Ok((requests, &member.address)),
                // it was told to take its requests elsewhere, or broke just now
                Err(_) => member.retire(&retired),
            }
        }
    }
}

impl Shared {
    /// The next member with a connection.
    fn connected(&self) -> Option<(&Member, Current)> {
        let count = self.members.len();
        let first = if count == 1 { 0 } else { self.next.fetch_add(1, Ordering::Relaxed) };
        (0..count).map(|i| first.wrapping_add(i) % count).find_map(|index| {
            let member = &self.members[index];
            let current = member.state.lock().current.clone();
            current.map(|current| (member, current))
        })
    }

    /// Waits for a member to have a connection, or for all to have failed.
    async fn wait(&self) -> Result<(&Member, Current), Error> {
        let mut changes = self.changes.subscribe();
        let before: Vec<u64> = self.members.iter().map(|member| member.state.lock().attempts).collect();
        for member in &self.members {
            member.wanted.notify_one();
        }
        loop {
            if let Some(found) = self.connected() {
                return Ok(found);
            }
            let failed = self.members.iter().zip(&before).map(|(member, before)| {
                let state = member.state.lock();
                (state.attempts > *before).then(|| state.error.clone()).flatten()
            });
            // the first member's error stands for all
            if let Some(errors) = failed.collect::<Option<Vec<Error>>>() {
                let none = || Error::Invalid("no etcd server is given".into());
                return Err(errors.into_iter().next().unwrap_or_else(none));
            }
            // the sender is part of this
            let _ = changes.changed().await;
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Member {
    /// No more requests to a connection, which may be gone by now.
    fn retire(&self, retired: &Arc<Notify>) {
        let mut state = self.state.lock();
        if state.current.as_ref().is_some_and(|current| Arc::ptr_eq(&current.retired, retired)) {
            state.current = None;
        }
        retired.notify_one();
    }
}

/// Keeps a member connected.
async fn run(shared: Arc<Shared>, index: usize, tls: Option<Arc<rustls::ClientConfig>>) {
    let member = &shared.members[index];
    let mut backoff = MIN_BACKOFF;
    // connections that take no more requests and still have some
    let mut leaving = JoinSet::new();
    loop {
        let dialled = connection::dial(&member.address, tls.as_ref()).await;
        let error = match dialled {
            Ok(Connection { requests, mut running }) => {
                backoff = MIN_BACKOFF;
                let retired = Arc::new(Notify::new());
                {
                    let mut state = member.state.lock();
                    state.current = Some(Current { requests, retired: Arc::clone(&retired) });
                    state.error = None;
                }
                shared.changed();
                tokio::select! {
                    error = &mut running => error,
                    () = retired.notified() => {
                        leaving.spawn(running);
                        while leaving.try_join_next().is_some() {}
                        continue;
                    }
                }
            }
            Err(error) => error,
        };
        tracing::debug!(address = %member.address, %error, "no connection to this member of etcd");
        {
            let mut state = member.state.lock();
            state.current = None;
            state.error = Some(error);
            state.attempts += 1;
        }
        shared.changed();
        // at least the shortest wait, so that requests that fail do not make a member be dialled without end
        tokio::time::sleep(MIN_BACKOFF).await;
        let _ = tokio::time::timeout(backoff.saturating_sub(MIN_BACKOFF), member.wanted.notified()).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}
