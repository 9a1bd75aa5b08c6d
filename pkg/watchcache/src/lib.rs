//! The watch cache: one ordered snapshot of a resource that serves gets, lists and watches.
//!
//! [`WatchCache`] follows the store and keeps, per object, the bytes it serves ([`StoredObject`]); nothing is decoded or
//! encoded again to answer a read. Its state is a persistent ordered map and a ring of recent changes ([`CacheEvent`]):
//! a page, a `continue` token and an exact revision are snapshots of the map, a watch is a position in the ring. So a
//! watcher needs no queue; one that falls behind the ring is ended with [`Error::Expired`], and the cache never waits.
//! A watch that begins before the ring, as after a restart, has the ring extended from the store's own past.
//!
//! Semantics of resourceVersion: API concepts, "Resource versions"; of bookmarks and streaming lists: KEP-956, KEP-3157;
//! of reads from the cache: KEP-2340, KEP-4988.

mod announced;
mod back;
mod cache;
mod counts;
mod error;
mod extract;
mod kept;
mod object;
mod objects;
mod pruned;
mod pump;
mod scan;
mod state;
mod texts;
mod token;
mod watcher;

pub use cache::{Filter, ListOptions, ListPage, ReadVersion, Snapshot, Stats, WatchCache, WatchCacheConfig};
pub use error::Error;
pub use object::{
    Codec, DecodeError, Decoded, FieldSource, JsonCodec, RepresentationId, StoredObject, StoredText,
};
pub use objects::Marks;
pub use state::{CacheEvent, EventKind, RingLimits};
pub use texts::{Labels, Texts};
pub use token::Continue;
pub use watcher::{Interest, WatchItem, WatchOptions, WatchStart, Watcher};
