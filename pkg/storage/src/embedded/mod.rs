//! The engine of one server: all keys and their recent past in memory, every change in one directory.
//!
//! Reads take a snapshot of a persistent map and disturb nobody. Writes go through one writer thread that commits in
//! groups and syncs before it answers. Watches read the [`hub`](crate::hub). Past values stay in memory for a while, up to
//! [`Options::history_bytes`], older ones are read from disk; compaction forgets the past, as the engine does by itself
//! beyond [`Options::max_history_events`] and [`Options::max_history_disk_bytes`]. A store without a directory has
//! memory only, and forgets what does not fit.

mod directory;
mod disk;
mod index;
mod leases;
mod past;
mod queue;
mod record;
mod replay;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use crate::hub::Hub;
use crate::{
    Compare, Error, Freshness, LeaseId, Op, RangeRequest, RangeResponse, Revision, Storage, TxnResponse,
    WatchStream,
};
use disk::{Archive, Disk, Notes};
use index::{Found, Index};
use past::Past;
use queue::{Queue, Request};
use replay::{Replay, Replayed};
use writer::{AT_REST, Writer};

/// Limits of an engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Largest transaction, keys and values together; etcd's default is 1.5 MiB.
    pub max_txn_bytes: usize,
    /// Values held in memory in all, past ones included; writes beyond fail with [`Error::NoSpace`].
    pub max_bytes: usize,
    /// Past values kept in memory; more are left to the disk (or forgotten without one) once all watches have read the
    /// changes.
    pub history_bytes: usize,
    /// Past values kept in memory in any case at most, whatever watches have read.
    pub max_history_bytes: usize,
    /// Past values that all watches have read are left to the disk after this time, or twice as long.
    pub history_age: Duration,
    /// Changes that are kept on disk only; more are forgotten before they are compacted. Each takes some hundred bytes
    /// of memory.
    pub max_history_events: usize,
    /// Past values that are kept on disk only; more are forgotten before they are compacted.
    pub max_history_disk_bytes: u64,
    /// Bytes left free on the file system.
    pub min_free_bytes: u64,
    /// Called by the engine's thread when nothing has been written for a while: programs have their allocator give back
    /// what the thread has freed.
    pub at_rest: fn(),
}

impl Default for Options {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            max_txn_bytes: MIB + MIB / 2,
            max_bytes: 4096 * MIB,
            history_bytes: 16 * MIB,
            max_history_bytes: 256 * MIB,
            history_age: Duration::from_secs(15),
            max_history_events: 300_000,
            max_history_disk_bytes: 1024 * MIB as u64,
            min_free_bytes: 64 * MIB as u64,
            at_rest: || (),
        }
    }
}

/// Sizes of an engine, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Keys, deleted ones not yet forgotten among them.
    pub keys: usize,
    /// Bytes of values in memory, past ones included.
    pub bytes: usize,
    /// Bytes of past values in memory that watches can still read.
    pub history_bytes: usize,
    /// Revision forgotten up to.
    pub compacted: Revision,
    /// Bytes on disk when the past was last looked through; 0 without a directory.
    pub disk_bytes: u64,
}

/// The embedded engine. Closes when dropped; [`Embedded::close`] waits for it.
pub struct Embedded {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What readers and the writer share.
struct Shared {
    view: RwLock<View>,
    hub: Hub,
    queue: Queue,
    /// Where past values are that memory has no room for.
    archive: Option<Arc<Archive>>,
    disk_bytes: AtomicU64,
}

/// What readers see. Cheap to clone.
#[derive(Debug, Clone)]
struct View {
    index: Index,
    revision: Revision,
    compacted: Revision,
}

impl Embedded {
    /// Opens the store in a directory, which is made when it is not there. Blocks while it reads the disk.
    ///
    /// [`Error::InUse`] when another process has it, [`Error::Corrupt`] when what is there is no store or a damaged one
    /// (nothing is changed then), [`Error::NoSpace`] or [`Error::Unavailable`] when the file system fails.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Arc<Self>, Error> {
        let (disk, notes) = Disk::open(dir.as_ref(), options.min_free_bytes)?;
        let mut replay = Replay::new(notes, options.history_bytes);
        disk.records(|record| replay.take(record))?;
        disk.confirm(replay.revision())?;
        Self::start(Some(disk), replay, options)
    }

    /// A store without a directory: the same engine, gone when dropped.
    pub fn in_memory(options: Options) -> Arc<Self> {
        let nothing = Replay::new(Notes::default(), options.history_bytes);
        Self::start(None, nothing, options).expect("nothing can fail without a disk")
    }

    fn start(disk: Option<Disk>, replay: Replay, options: Options) -> Result<Arc<Self>, Error> {
        let Replayed { view, floor, changes, unloaded, leases, next_lease, leftover } = replay.finish();
        let hub = Hub::new(floor, floor);
        hub.publish(changes, view.revision);
        let disk_bytes = AtomicU64::new(disk.as_ref().map_or(0, Disk::bytes));
        let archive = disk.as_ref().map(|disk| Arc::clone(disk.archive()));
        let shared =
            Arc::new(Shared { view: RwLock::new(view), hub, queue: Queue::new(), archive, disk_bytes });
        let writer = Writer {
            shared: Arc::clone(&shared),
            options,
            disk,
            leases,
            next_lease,
            unloaded,
            forgetting: std::collections::VecDeque::new(),
            leftover,
            paused_until: None,
            tidy_at: Instant::now(),
            quiet: AT_REST,
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| Error::Unavailable(format!("cannot start the writer: {e}")))?;
        Ok(Arc::new(Self { shared, writer: Mutex::new(Some(thread)) }))
    }

    /// Serves what is waiting, ends all watches and closes the directory.
    pub async fn close(&self) {
        self.shared.queue.close();
        let thread = self.writer.lock().take();
        if let Some(thread) = thread {
            // a panic of the writer has been reported by the panic hook
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// Sizes, for metrics.
    pub fn stats(&self) -> Stats {
        let view = self.shared.view.read().clone();
        Stats {
            keys: view.index.len(),
            bytes: view.index.bytes(),
            history_bytes: self.shared.hub.weight(),
            compacted: view.compacted,
            disk_bytes: self.shared.disk_bytes.load(Ordering::Relaxed),
        }
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push(request(reply)).await?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(thread) = self.writer.lock().take() {
            // short: at most one group is on its way to disk
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Storage for Embedded {
    async fn current_revision(&self) -> Result<Revision, Error> {
        Ok(self.shared.view.read().revision)
    }

    async fn freshness(&self, prefix: &str) -> Result<Freshness, Error> {
        // under the lock under which changes are published: the hub cannot be behind what a range has shown
        let _view = self.shared.view.read();
        Ok(self.shared.hub.freshness(prefix))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let view = self.shared.view.read().clone();
        if let Some(requested) = request.revision {
            if requested > view.revision {
                return Err(Error::Future { requested, current: view.revision });
            }
            if requested < view.compacted {
                return Err(Error::Compacted { compacted: view.compacted });
            }
        }
        let Found { mut kvs, on_disk, count } =
            view.index.range(&request.start, &request.end, request.limit, request.revision);
        if !on_disk.is_empty() {
            let shared = Arc::clone(&self.shared);
            let at = request.revision.unwrap_or(view.revision);
            let read = tokio::task::spawn_blocking(move || shared.load(kvs, &on_disk, at)).await;
            kvs = read.map_err(|_| Error::Unavailable("reading the past was interrupted".into()))??;
        }
        Ok(RangeResponse { kvs, count, revision: view.revision })
    }

    async fn get(&self, key: &str) -> Result<Option<crate::KeyValue>, Error> {
        Ok(self.shared.view.read().index.get(key))
    }

    async fn txn(&self, compares: Vec<Compare>, mut ops: Vec<Op>) -> Result<TxnResponse, Error> {
        for op in &mut ops {
            if let Op::Put { value, .. } = op {
                // what is kept for long is kept tight: the caller's buffer has room to grow, or is part of a larger one
                *value = Bytes::copy_from_slice(value);
            }
        }
        self.ask(|reply| Request::Txn { compares, ops, reply }).await
    }

    async fn watch(&self, prefix: &str, start: Revision) -> Result<WatchStream, Error> {
        if self.shared.archive.is_none() {
            return self.shared.hub.watch(prefix, start);
        }
        Past::open(Arc::clone(&self.shared), prefix, start)
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.shared.hub.request_progress();
        Ok(())
    }

    async fn grant_lease(&self, ttl_seconds: i64) -> Result<LeaseId, Error> {
        self.ask(|reply| Request::Grant { ttl_seconds, reply }).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.ask(|reply| Request::Compact { revision, reply }).await
    }

    async fn size(&self) -> Result<u64, Error> {
        Ok(self.shared.disk_bytes.load(Ordering::Relaxed))
    }

    async fn health(&self) -> Result<(), Error> {
        // an empty transaction goes through the writer and changes nothing
        self.txn(Vec::new(), Vec::new()).await.map(|_| ())
    }
}
