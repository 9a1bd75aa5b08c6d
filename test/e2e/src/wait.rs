//! Waiting for conditions.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Deadline of what happens within one or two round trips.
pub const SHORT: Duration = Duration::from_secs(20);
/// Deadline of what starts containers, or waits for time-outs of the system under test.
pub const LONG: Duration = Duration::from_secs(90);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Looks until the look succeeds; after the deadline its last error is the result.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("waited {} s for: {what}", limit.as_secs()));
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}
