//! Limits of requests in flight: writes by count, reads by the bytes they may send.
//!
//! Upstream counts both (`--max-requests-inflight`, `--max-mutating-requests-inflight`); here a read weighs what it may
//! put in memory, so that a thousand small reads pass where a few full lists would be too many.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use auth::user::SYSTEM_MASTERS;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::context::RequestContext;
use crate::server::Server;

/// Bytes of responses that reads may have under way, in units of [`READ_UNIT`].
const READ_UNITS: u32 = 16 * 1024;
/// What one unit of the read limit stands for: a small read.
pub(crate) const READ_UNIT: usize = 16 * 1024;
/// Most units one read takes: streamed lists hold no more than a window of their bytes.
const MAX_UNITS_PER_READ: u32 = 512;
/// How long a request waits for its turn before it is told to come back.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// `Retry-After` of a request that is turned away, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;

/// The limits of a server.
#[derive(Debug)]
pub(crate) struct InFlight {
    writes: Option<Arc<Semaphore>>,
    reads: Option<Arc<Semaphore>>,
}

impl InFlight {
    /// `writes` and `reads` are upstream's counts, 0 for no limit. The bytes of reads grow with their count over
    /// upstream's default of 400.
    pub(crate) fn new(writes: usize, reads: usize) -> Self {
        let units = (READ_UNITS as usize).max(READ_UNITS as usize / 400 * reads);
        Self {
            writes: (writes > 0).then(|| Arc::new(Semaphore::new(writes))),
            reads: (reads > 0).then(|| Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)))),
        }
    }

    /// Waits for a place; 429 when none comes free in time.
    pub(crate) async fn enter(
        &self,
        context: &RequestContext,
        server: &Server,
    ) -> Result<Option<OwnedSemaphorePermit>, Status> {
        // as upstream, so that an administrator can always get in
        if context.user.in_group(SYSTEM_MASTERS) {
            return Ok(None);
        }
        let (limit, units) = if context.info.is_read_only() {
            let bytes = server.expected_bytes(context);
            (&self.reads, u32::try_from(bytes / READ_UNIT).unwrap_or(u32::MAX).clamp(1, MAX_UNITS_PER_READ))
        } else {
            (&self.writes, 1)
        };
        let Some(semaphore) = limit else { return Ok(None) };
        match tokio::time::timeout(MAX_WAIT, Arc::clone(semaphore).acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            _ => Err(Status::too_many_requests(
                "Too many requests, please try again later.",
                RETRY_AFTER_SECONDS,
            )),
        }
    }
}
