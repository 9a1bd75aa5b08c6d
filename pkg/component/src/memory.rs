//! Giving memory back. An allocator that serves many threads keeps what they have freed until they allocate again, so a
//! server that was busy once would look as if it still were. Programs whose allocator is mimalloc call [`rest`] whenever
//! a thread of their runtime goes to sleep.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// A thread gives back what it holds this often at most.
const INTERVAL: Duration = Duration::from_secs(15);

thread_local! {
    static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Gives the memory that this thread has freed back to the system, if it has not done so lately.
pub fn rest() {
    let now = Instant::now();
    let due = LAST.get().is_none_or(|last| now.duration_since(last) >= INTERVAL);
    if due {
        LAST.set(Some(now));
        collect();
    }
}

#[allow(
    unsafe_code,
    reason = "the allocator's own call; it takes no pointers and may be made from any thread"
)]
fn collect() {
    // SAFETY: without arguments but a flag; a thread that has allocated nothing has nothing collected
    unsafe { libmimalloc_sys::mi_collect(true) }
}
