//! The bounded way to the writer: requests wait for room without blocking a thread, the writer takes them in groups.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{Compare, Error, LeaseId, Op, Revision, TxnResponse};

/// Requests waiting for the writer; more wait for room.
const MAX_WAITING: usize = 1024;
/// The most requests that share one commit.
const MAX_GROUP: usize = 256;

/// What is asked of the writer.
pub(super) enum Request {
    Txn { compares: Vec<Compare>, ops: Vec<Op>, reply: oneshot::Sender<Result<TxnResponse, Error>> },
    Grant { ttl_seconds: i64, reply: oneshot::Sender<Result<LeaseId, Error>> },
    Compact { revision: Revision, reply: oneshot::Sender<Result<(), Error>> },
}

/// Requests, with the room they take.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<(Request, OwnedSemaphorePermit)>,
    closed: bool,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting::default()),
            arrived: Condvar::new(),
            room: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// Hands a request to the writer, waiting for room.
    pub(super) async fn push(&self, request: Request) -> Result<(), Error> {
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(|_| Error::Closed)?;
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Error::Closed);
        }
        waiting.requests.push_back((request, permit));
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// The requests that have arrived, waiting for one until `until` (`None`: without end). `None` once closed and empty.
    pub(super) fn take(&self, until: Option<Instant>) -> Option<Vec<Request>> {
        let mut waiting = self.waiting.lock();
        while waiting.requests.is_empty() {
            if waiting.closed {
                return None;
            }
            match until {
                None => self.arrived.wait(&mut waiting),
                Some(until) => {
                    if self.arrived.wait_until(&mut waiting, until).timed_out() {
                        break;
                    }
                }
            }
        }
        let n = waiting.requests.len().min(MAX_GROUP);
        Some(waiting.requests.drain(..n).map(|(request, _)| request).collect())
    }

    /// Takes no more requests; those waiting are still served.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.room.close();
        self.arrived.notify_all();
    }

    /// Takes no more requests and drops those waiting: who asked gets [`Error::Closed`].
    pub(super) fn abandon(&self) {
        self.close();
        let dropped = std::mem::take(&mut self.waiting.lock().requests);
        drop(dropped);
    }
}
