//! The versioned store.
//!
//! One [`Storage`] contract at etcd's semantics, several engines: [`embedded`] (one server, one directory) and crate
//! `storage-etcd`. The `contract` suite says what an engine must do and runs against each of them. Whoever writes
//! objects uses [`objects::ObjectStore`], which has upstream's key layout and the optimistic retry.
//!
//! Invariants: revisions only grow, every successful write transaction gets exactly one, and all its keys share it.
//! A write is acknowledged only when it is durable. Keys are text (`/registry/...`), values are opaque bytes.

pub mod compaction;
#[cfg(feature = "contract-tests")]
pub mod contract;
pub mod embedded;
pub mod hub;
pub mod objects;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

/// The store's logical clock; 0 is before every write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key with its value at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, shared with the engine.
    pub key: Arc<str>,
    /// The value, shared with the engine.
    pub value: Bytes,
    /// Revision of the key's creation.
    pub create_revision: Revision,
    /// Revision of the key's last change.
    pub mod_revision: Revision,
}

/// What a range read asks for.
#[derive(Debug, Clone, Default)]
pub struct RangeRequest {
    /// First key, inclusive.
    pub start: String,
    /// End, exclusive; see [`prefix_end`].
    pub end: String,
    /// At most this many keys; 0 is no limit.
    pub limit: usize,
    /// Read as of this revision; `None` reads the latest, linearizably.
    pub revision: Option<Revision>,
}

/// What a range read found.
#[derive(Debug, Clone, Default)]
pub struct RangeResponse {
    /// Keys in order.
    pub kvs: Vec<KeyValue>,
    /// How many keys the range holds in all at that revision, regardless of the limit.
    pub count: usize,
    /// The store's revision when it answered.
    pub revision: Revision,
}

/// A condition of a transaction: the key's modification revision, 0 for "does not exist".
#[derive(Debug, Clone)]
pub struct Compare {
    /// The key.
    pub key: Arc<str>,
    /// The modification revision it must have.
    pub mod_revision: Revision,
}

/// A write in a transaction.
#[derive(Debug, Clone)]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key.
        key: Arc<str>,
        /// The value.
        value: Bytes,
        /// The lease that removes it, if any.
        lease: Option<LeaseId>,
    },
    /// Removes a key; removing what is not there is no change.
    Delete {
        /// The key.
        key: Arc<str>,
    },
}

/// What a transaction did.
#[derive(Debug, Clone)]
pub struct TxnResponse {
    /// All conditions held and the writes were made.
    pub succeeded: bool,
    /// The store's revision after it.
    pub revision: Revision,
    /// When it failed: the current state of the keys compared, in their order.
    pub current: Vec<Option<KeyValue>>,
}

/// A lease; keys put under it vanish when it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// One change, in a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key after the change; for a delete its value is empty and `mod_revision` is the delete's.
    pub kv: KeyValue,
    /// The key before the change, `None` for a creation. Only [`Storage::watch_with_prev`] says it of every change.
    pub prev: Option<KeyValue>,
    /// The key was removed.
    pub deleted: bool,
}

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchMessage {
    /// Changes in revision order; those of one revision are never split over two messages.
    Events(Vec<Event>),
    /// Everything up to this revision has been delivered.
    Progress(Revision),
}

/// How far a watch must have come to know everything about a prefix; see [`Storage::freshness`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The store's revision.
    pub revision: Revision,
    /// Nothing under the prefix changed after this revision, up to [`Freshness::revision`].
    pub changed: Revision,
}

/// A watch. It ends after its first error, [`Error::Compacted`] when its start is gone, or when the engine closes.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchMessage, Error>> + Send>>;

/// What etcd says when it takes no more data, and with it every engine.
pub const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
/// What etcd says to a request that is too large, and with it every engine.
pub const TOO_LARGE: &str = "etcdserver: request is too large";

/// Why a storage operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The revision asked for is gone.
    #[error("required revision has been compacted (compacted at {compacted})")]
    Compacted {
        /// The oldest revision gone.
        compacted: Revision,
    },
    /// The revision asked for has not happened yet.
    #[error("required revision {requested} is a future revision (current is {current})")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// What is.
        current: Revision,
    },
    /// No such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// The store cannot be reached; the write may or may not have happened.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
    /// The store does not answer in time; the write may or may not have happened.
    #[error("{0}")]
    Timeout(String),
    /// The store takes no more data; the text begins with [`NO_SPACE`], which clients look for.
    #[error("{0}")]
    NoSpace(String),
    /// The request is larger than the store takes (etcd's limit is 1.5 MiB); the text is [`TOO_LARGE`] or an equal of
    /// it, which clients look for.
    #[error("{0}")]
    TooLarge(String),
    /// The request makes no sense, such as one that writes a key twice.
    #[error("invalid storage request: {0}")]
    Invalid(String),
    /// Another process has the store open.
    #[error("storage is in use: {0}")]
    InUse(String),
    /// What is on disk cannot be understood; nothing was overwritten.
    #[error("storage is corrupt: {0}")]
    Corrupt(String),
    /// The engine has been closed.
    #[error("storage is closed")]
    Closed,
}

/// The storage contract. Engines are shared as `Arc<dyn Storage>`.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// The latest revision, linearizably: not older than any write acknowledged before the call.
    async fn current_revision(&self) -> Result<Revision, Error>;

    /// The latest revision, linearizably, with the last change under a prefix: a watch of the prefix that has delivered
    /// `changed` has nothing to deliver up to `revision`. Engines that cannot tell answer `changed = revision`.
    async fn freshness(&self, _prefix: &str) -> Result<Freshness, Error> {
        let revision = self.current_revision().await?;
        Ok(Freshness { revision, changed: revision })
    }

    /// Keys of a range, latest or as of a revision.
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error>;

    /// One key, latest, linearizably.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let request =
            RangeRequest { start: key.to_owned(), end: format!("{key}\0"), limit: 1, revision: None };
        Ok(self.range(request).await?.kvs.into_iter().next())
    }

    /// Checks all conditions and makes all writes, or none.
    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<TxnResponse, Error>;

    /// Changes of keys starting with `prefix`, from `start` on (inclusive). Engines send [`WatchMessage::Progress`]
    /// at least every few seconds while idle, and soon after [`Storage::request_progress`].
    async fn watch(&self, prefix: &str, start: Revision) -> Result<WatchStream, Error>;

    /// A watch whose events all have what was there before. For who reads the past: it costs etcd a second value for each
    /// change, so engines need not share it between watches.
    async fn watch_with_prev(&self, prefix: &str, start: Revision) -> Result<WatchStream, Error> {
        self.watch(prefix, start).await
    }

    /// Asks for a [`WatchMessage::Progress`] on every watch of this engine.
    async fn request_progress(&self) -> Result<(), Error>;

    /// A lease that expires after `ttl_seconds` and is not renewed.
    async fn grant_lease(&self, ttl_seconds: i64) -> Result<LeaseId, Error>;

    /// Forgets the history up to a revision: what was overwritten or deleted up to and including it. Reads before it and
    /// watches from before it fail with [`Error::Compacted`]; reads at it and watches from the one after it do not.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// Bytes the store takes on disk, as of a moment ago; 0 for one that has no disk.
    async fn size(&self) -> Result<u64, Error>;

    /// Whether the store answers and takes writes.
    async fn health(&self) -> Result<(), Error> {
        self.current_revision().await.map(|_| ())
    }
}

/// The exclusive end of the range of all keys that start with `prefix`.
pub fn prefix_end(prefix: &str) -> String {
    // Keys are ASCII paths, so the last byte can be counted up; `/` becomes `0`.
    let mut bytes = prefix.as_bytes().to_vec();
    while let Some(last) = bytes.pop() {
        if last < 0x7f {
            bytes.push(last + 1);
            break;
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}
