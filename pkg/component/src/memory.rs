//! The allocator of every binary, mimalloc, and giving memory back. An allocator that serves many threads keeps what they
//! have freed until they allocate again, so a server that was busy once would look as if it still were: [`rest`] is for
//! whenever a thread of a runtime goes to sleep.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ffi::c_void;
use std::time::{Duration, Instant};

/// mimalloc. The crate of that name asks for an alignment each time, for which the allocator takes a path twice as long; it
/// aligns everything to words by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocator;

/// What every block is aligned to: blocks are of sizes that are multiples of this.
const ALIGNED: usize = size_of::<usize>();

#[allow(
    unsafe_code,
    reason = "an allocator is by contract; each call is the one of mimalloc that has the same contract"
)]
// SAFETY: the blocks are mimalloc's, of at least the size asked for, and aligned as asked: by itself, or on request
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: may be called with any size, and any power of two as alignment, which is what a layout has
        let block = unsafe {
            if layout.align() <= ALIGNED {
                libmimalloc_sys::mi_malloc(layout.size())
            } else {
                libmimalloc_sys::mi_malloc_aligned(layout.size(), layout.align())
            }
        };
        block.cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above
        let block = unsafe {
            if layout.align() <= ALIGNED {
                libmimalloc_sys::mi_zalloc(layout.size())
            } else {
                libmimalloc_sys::mi_zalloc_aligned(layout.size(), layout.align())
            }
        };
        block.cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller got the block from here
        unsafe { libmimalloc_sys::mi_free(block.cast::<c_void>()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller got the block from here, with this alignment
        let block = unsafe {
            if layout.align() <= ALIGNED {
                libmimalloc_sys::mi_realloc(block.cast(), size)
            } else {
                libmimalloc_sys::mi_realloc_aligned(block.cast(), size, layout.align())
            }
        };
        block.cast()
    }
}

/// A thread gives back what it holds this often at most.
const INTERVAL: Duration = Duration::from_secs(10);

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
