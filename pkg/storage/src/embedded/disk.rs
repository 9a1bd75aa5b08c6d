//! What is on disk: one record a change, by big-endian revision, in a log-structured engine; so writes append,
//! recovery is one scan in order, and compaction frees the oldest records.
//!
//! Until compaction frees it, the past is read from here too ([`Archive`]).

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fjall::config::FilterPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::RwLock;

use super::directory::{
    CLEAN, DATA, MARKER, NEW, STORE, check_clean, io_error, no_space, refuse_strangers, sync_dir, take_lock,
    write_durably,
};
use super::index::Place;
use super::record::{Record, decode, encode, peek, place_key};
use crate::{Error, LeaseId, Revision};

/// The engine's own version file: without it the engine would begin an empty database.
const ENGINE_MARKER: &str = "version";

/// Key of the compacted revision.
const COMPACTED: &[u8] = b"compacted";
const LEASE_PREFIX: &[u8] = b"lease/";

/// Records wait in memory up to this size before the engine writes a table; they are in its journal all the while.
const MEMTABLE_BYTES: u64 = 2 * 1024 * 1024;
/// In quiet times they need not wait, as they keep much memory around them from being given back, if they are this many.
const UNSETTLED_BYTES: usize = 256 * 1024;
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;
/// Reads happen at recovery only.
const CACHE_BYTES: u64 = 1024 * 1024;
/// With less than this free, a failed write is put down to lack of space.
const FULL: u64 = 1024 * 1024;
/// A reclaim is worth it from so many freed bytes on.
const RECLAIM_BYTES: u64 = 32 * 1024 * 1024;
/// One that has given back too little is tried again after this time: the engine leaves alone what it is merging at the time.
const RECLAIM_AGAIN: Duration = Duration::from_secs(5);

/// Writes that become durable together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    pub(super) free: Vec<Place>,
    pub(super) freed_bytes: usize,
    pub(super) compacted: Option<Revision>,
    /// Leases granted, with their ends, and (`None`) removed.
    pub(super) leases: Vec<(LeaseId, Option<SystemTime>)>,
}

impl Batch {
    fn value_bytes(&self) -> usize {
        self.records.iter().map(|r| r.value.as_ref().map_or(0, Bytes::len)).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.free.is_empty() && self.compacted.is_none() && self.leases.is_empty()
    }
}

/// What was found on disk beside the records.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) compacted: Revision,
    pub(super) leases: Vec<(LeaseId, SystemTime)>,
}

/// The open directory.
pub(super) struct Disk {
    dir: PathBuf,
    engine: Option<Engine>,
    /// Free bytes the file system must keep.
    min_free: u64,
    freed_since_reclaim: u64,
    reclaimed: Instant,
    /// Bytes of records written since [`Disk::settle`].
    unsettled: usize,
    reclaim: Option<std::thread::JoinHandle<()>>,
    archive: Arc<Archive>,
    _lock: File,
}

struct Engine {
    database: Database,
    data: Keyspace,
    meta: Keyspace,
}

impl Disk {
    /// Opens or makes the store in a directory.
    ///
    /// What it holds is read with [`Disk::records`], and then confirmed with [`Disk::confirm`].
    pub(super) fn open(dir: &Path, min_free: u64) -> Result<(Self, Notes), Error> {
        fs::create_dir_all(dir).map_err(|e| io_error("cannot make the directory", dir, &e))?;
        refuse_strangers(dir)?;
        let lock = take_lock(dir)?;
        let marker = dir.join(STORE);
        let data = dir.join(DATA);
        let exists = data.try_exists().map_err(|e| io_error("cannot look at", &data, &e))?;
        match fs::read_to_string(&marker) {
            Ok(text) if text == MARKER && exists => {}
            Ok(text) if text == MARKER && dir.join(NEW).exists() => finish_creation(dir)?,
            Ok(text) if text == MARKER => {
                return Err(Error::Corrupt(format!("{} has a STORE file but no data", dir.display())));
            }
            Ok(text) => {
                let text: String = text.chars().take(80).collect();
                return Err(Error::Corrupt(format!(
                    "{} holds a store of another format: {text:?}",
                    dir.display()
                )));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !exists => create(dir)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Corrupt(format!("{} has data but no STORE file", dir.display())));
            }
            Err(e) => return Err(io_error("cannot read", &marker, &e)),
        }
        let engine = open_engine(&data)?;
        let notes = engine.notes()?;
        let archive = Arc::new(Archive(RwLock::new(Some(engine.data.clone()))));
        let disk = Self {
            dir: dir.to_owned(),
            engine: Some(engine),
            min_free,
            freed_since_reclaim: 0,
            reclaimed: Instant::now(),
            unsettled: 0,
            reclaim: None,
            archive,
            _lock: lock,
        };
        Ok((disk, notes))
    }

    /// Every record, in order.
    pub(super) fn records(&self, mut take: impl FnMut(Record) -> Result<(), Error>) -> Result<(), Error> {
        let Some(engine) = &self.engine else { return Ok(()) };
        for guard in engine.data.iter() {
            let (key, value) = guard.into_inner().map_err(|e| engine_error("cannot read", &e))?;
            take(decode(&key, &value).ok_or_else(undecodable)?)?;
        }
        Ok(())
    }

    /// After an orderly close nothing may be missing: `found` is the revision that the records come to.
    pub(super) fn confirm(&self, found: Revision) -> Result<(), Error> {
        check_clean(&self.dir, found)
    }

    /// Reads of what this directory keeps.
    pub(super) fn archive(&self) -> &Arc<Archive> {
        &self.archive
    }

    /// Makes a batch durable. When this fails nothing of it has happened as far as later batches are concerned;
    /// `last` is the revision before the batch.
    pub(super) fn commit(&mut self, batch: &Batch, last: Revision) -> Result<(), Error> {
        self.check_space(batch)?;
        let written = match self.try_commit(batch, last) {
            // it failed in the background, before this batch: once more with a fresh one
            Err(fjall::Error::Poisoned) => self.try_commit(batch, last),
            written => written,
        };
        if let Err(error) = written {
            let error = engine_error("cannot write", &error);
            let full = !matches!(error, Error::NoSpace(_)) && self.free_bytes().is_ok_and(|free| free < FULL);
            return Err(if full { no_space(&error.to_string()) } else { error });
        }
        self.freed_since_reclaim += batch.freed_bytes as u64;
        self.unsettled += batch.value_bytes();
        Ok(())
    }

    /// Has the engine write its next table now, in the background, when many records wait for it.
    pub(super) fn settle(&mut self) {
        if self.unsettled < UNSETTLED_BYTES {
            return;
        }
        self.unsettled = 0;
        if let Some(engine) = &self.engine
            && let Err(error) = engine.data.rotate_memtable()
        {
            // it is written when it is full
            tracing::debug!(%error, "cannot have the store's engine write a table");
        }
    }

    fn try_commit(&mut self, batch: &Batch, last: Revision) -> fjall::Result<()> {
        let engine = match self.engine.take() {
            Some(engine) => engine,
            None => self.heal(last)?,
        };
        engine.commit(batch)?;
        // only now: the engine takes no more writes after a failed one, and is opened anew before the next batch
        self.engine = Some(engine);
        Ok(())
    }

    /// Gives freed space back to the file system, in the background, when there is enough of it beside `kept` bytes.
    pub(super) fn reclaim(&mut self, kept: u64) {
        if self.reclaim.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let Some(engine) = &self.engine else { return };
        let data = engine.data.clone();
        let has_freed = self.freed_since_reclaim >= RECLAIM_BYTES.max(kept / 2);
        let has_too_much = || {
            self.reclaimed.elapsed() >= RECLAIM_AGAIN
                && data.disk_space() > kept + RECLAIM_BYTES.max(kept / 2)
        };
        if !has_freed && !has_too_much() {
            return;
        }
        let work = move || {
            let done = data.rotate_memtable_and_wait().and_then(|()| data.major_compact());
            if let Err(error) = done {
                tracing::warn!(%error, "cannot reclaim space in the store");
            }
        };
        match std::thread::Builder::new().name("store-reclaim".into()).spawn(work) {
            Ok(thread) => {
                self.freed_since_reclaim = 0;
                self.reclaimed = Instant::now();
                self.reclaim = Some(thread);
            }
            Err(error) => tracing::warn!(%error, "cannot reclaim space in the store"),
        }
    }

    /// Bytes the store takes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.engine.as_ref().and_then(|e| e.database.disk_space().ok()).unwrap_or(0)
    }

    /// Closes in good order, noting the revision that must be found again.
    pub(super) fn close(mut self, revision: Revision) {
        if let Some(thread) = self.reclaim.take() {
            // a panic in there has been reported by the panic hook
            let _ = thread.join();
        }
        let Some(engine) = self.engine.take() else { return };
        if engine.database.persist(PersistMode::SyncAll).is_ok()
            && let Err(error) = write_durably(&self.dir, CLEAN, &format!("{revision}\n"))
        {
            tracing::warn!(%error, "cannot note the orderly close of the store");
        }
    }

    fn check_space(&self, batch: &Batch) -> Result<(), Error> {
        let writes = batch.value_bytes();
        // deletions and compaction must get through, they make room
        if writes == 0 {
            return Ok(());
        }
        let free = self.free_bytes()?;
        if free < self.min_free.saturating_add(writes as u64) {
            return Err(no_space(&format!(
                "{} has {} MiB left, of which {} are kept free",
                self.dir.display(),
                free >> 20,
                self.min_free >> 20
            )));
        }
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, Error> {
        let stat = nix::sys::statvfs::statvfs(&self.dir)
            .map_err(|e| Error::Unavailable(format!("cannot look at the file system: {e}")))?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    /// Opens the engine again after a failed write, without what was written but not acknowledged.
    fn heal(&self, last: Revision) -> fjall::Result<Engine> {
        // the engine is not opened a second time while anyone reads with the first
        *self.archive.0.write() = None;
        let engine = open_engine_files(&self.dir.join(DATA))?;
        let from = place_key(Place { revision: Revision(last.0 + 1), sub: 0 });
        let mut batch = engine.database.batch().durability(Some(PersistMode::SyncData));
        for guard in engine.data.range(from..) {
            batch.remove(&engine.data, guard.key()?);
        }
        batch.commit()?;
        *self.archive.0.write() = Some(engine.data.clone());
        Ok(engine)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // readers may outlive the writer; the directory may not stay open for them
        *self.archive.0.write() = None;
    }
}

/// Reads past records. They block, so they are not for threads that others wait for.
pub(super) struct Archive(RwLock<Option<Keyspace>>);

impl Archive {
    /// The value that was put at a place, `None` when it is not there (any more).
    pub(super) fn value(&self, place: Place) -> Result<Option<Bytes>, Error> {
        let data = self.0.read();
        let data = data.as_ref().ok_or_else(closed)?;
        let found = data.get(place_key(place)).map_err(|e| engine_error("cannot read", &e))?;
        let Some(found) = found else { return Ok(None) };
        Ok(decode(&place_key(place), &found).ok_or_else(undecodable)?.value)
    }

    /// Hands over records of the revisions from `from` to `to` in order, those under a prefix decoded, others as their
    /// place only, until `take` says that it has enough.
    pub(super) fn records(
        &self,
        from: Revision,
        to: Revision,
        prefix: &str,
        mut take: impl FnMut(Place, Option<Record>) -> Result<ControlFlow<()>, Error>,
    ) -> Result<(), Error> {
        let data = self.0.read();
        let data = data.as_ref().ok_or_else(closed)?;
        let range = [from, Revision(to.0 + 1)].map(|revision| place_key(Place { revision, sub: 0 }));
        for guard in data.range(range[0]..range[1]) {
            let (key, value) = guard.into_inner().map_err(|e| engine_error("cannot read", &e))?;
            let (place, of) = peek(&key, &value).ok_or_else(undecodable)?;
            let record = if of.starts_with(prefix.as_bytes()) {
                Some(decode(&key, &value).ok_or_else(undecodable)?)
            } else {
                None
            };
            if take(place, record)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn closed() -> Error {
    Error::Unavailable("the store is not open".into())
}

fn undecodable() -> Error {
    Error::Corrupt("a record that cannot be decoded".into())
}

impl Engine {
    fn commit(&self, batch: &Batch) -> fjall::Result<()> {
        let mut writes = self.database.batch().durability(Some(PersistMode::SyncData));
        for record in &batch.records {
            writes.insert(&self.data, place_key(record.place), encode(record));
        }
        for place in &batch.free {
            writes.remove(&self.data, place_key(*place));
        }
        if let Some(revision) = batch.compacted {
            writes.insert(&self.meta, COMPACTED, revision.0.to_be_bytes());
        }
        for (id, ends) in &batch.leases {
            let key = [LEASE_PREFIX, &id.0.to_be_bytes()].concat();
            match ends {
                Some(ends) => {
                    let millis = ends.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
                    writes.insert(&self.meta, key, millis.to_be_bytes());
                }
                None => writes.remove(&self.meta, key),
            }
        }
        writes.commit()
    }

    fn notes(&self) -> Result<Notes, Error> {
        let corrupt = |what: &str| Error::Corrupt(what.to_owned());
        let mut notes = Notes::default();
        for guard in self.meta.iter() {
            let (key, value) = guard.into_inner().map_err(|e| engine_error("cannot read", &e))?;
            let number = <[u8; 8]>::try_from(&*value).map_err(|_| corrupt("a note of the wrong length"))?;
            if &*key == COMPACTED {
                notes.compacted = Revision(i64::from_be_bytes(number));
            } else if let Some(id) = key.strip_prefix(LEASE_PREFIX) {
                let id =
                    <[u8; 8]>::try_from(id).map_err(|_| corrupt("a lease's number of the wrong length"))?;
                let ends = UNIX_EPOCH + Duration::from_millis(u64::from_be_bytes(number));
                notes.leases.push((LeaseId(i64::from_be_bytes(id)), ends));
            } else {
                return Err(corrupt("a note that is not known"));
            }
        }
        Ok(notes)
    }
}

/// Makes a new, empty store: every step can be interrupted and is then begun again.
fn create(dir: &Path) -> Result<(), Error> {
    let new = dir.join(NEW);
    if new.exists() {
        // an earlier creation that never was finished holds nothing
        fs::remove_dir_all(&new).map_err(|e| io_error("cannot remove", &new, &e))?;
    }
    drop(open_engine(&new)?);
    write_durably(dir, STORE, MARKER).map_err(|e| io_error("cannot write in", dir, &e))?;
    finish_creation(dir)
}

fn finish_creation(dir: &Path) -> Result<(), Error> {
    fs::rename(dir.join(NEW), dir.join(DATA)).map_err(|e| io_error("cannot rename in", dir, &e))?;
    sync_dir(dir).map_err(|e| io_error("cannot sync", dir, &e))
}

fn open_engine(data: &Path) -> Result<Engine, Error> {
    let is_new = data.file_name().is_some_and(|name| name == NEW);
    if !is_new && !data.join(ENGINE_MARKER).exists() {
        return Err(Error::Corrupt(format!("{} is not complete", data.display())));
    }
    // the engine asserts what it believes of its files; for us a file may be anything
    match catch_unwind(AssertUnwindSafe(|| open_engine_files(data))) {
        Ok(Ok(engine)) => Ok(engine),
        Ok(Err(error)) => Err(engine_error("cannot open the engine", &error)),
        Err(_) => Err(Error::Corrupt(format!("the engine panicked over {}", data.display()))),
    }
}

fn open_engine_files(data: &Path) -> fjall::Result<Engine> {
    let database = Database::builder(data)
        .worker_threads(1)
        .cache_size(CACHE_BYTES)
        .max_journaling_size(JOURNAL_BYTES)
        .open()?;
    let options = || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(MEMTABLE_BYTES)
            .filter_policy(FilterPolicy::disabled())
    };
    let engine = Engine {
        data: database.keyspace("changes", options)?,
        meta: database.keyspace("notes", options)?,
        database,
    };
    engine.database.persist(PersistMode::SyncAll)?;
    Ok(engine)
}

fn engine_error(what: &str, error: &fjall::Error) -> Error {
    let io = match error {
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e)) => Some(e),
        fjall::Error::Locked => return Error::InUse(format!("{what}: {error}")),
        fjall::Error::Poisoned => return Error::Unavailable(format!("{what}: {error}")),
        _ => None,
    };
    let text = format!("{what}: {error}");
    match io.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => no_space(&text),
        // a file that ends too early or is not there is damage, not weather
        Some(
            std::io::ErrorKind::UnexpectedEof
            | std::io::ErrorKind::NotFound
            | std::io::ErrorKind::InvalidData,
        ) => Error::Corrupt(text),
        Some(_) => Error::Unavailable(text),
        None => Error::Corrupt(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_that_a_reclaim_left_is_given_back_later() {
        const RECORD_BYTES: usize = 1024 * 1024;
        const RECORDS: i64 = 100;
        let dir = tempfile::tempdir().unwrap();
        let (mut disk, _) = Disk::open(dir.path(), 0).unwrap();
        let places: Vec<Place> = (1..=RECORDS).map(|i| Place { revision: Revision(i), sub: 0 }).collect();
        for place in &places {
            let value = Some(Bytes::from(vec![b'v'; RECORD_BYTES]));
            let record =
                Record { place: *place, key: "/k".into(), value, created: place.revision, lease: None };
            disk.commit(&Batch { records: vec![record], ..Batch::default() }, place.revision).unwrap();
        }
        // as if a reclaim had just been made, and had not given this back
        disk.commit(&Batch { free: places, ..Batch::default() }, Revision(RECORDS)).unwrap();
        disk.reclaimed = Instant::now();
        disk.reclaim(0);
        assert!(disk.reclaim.is_none(), "too soon");
        let started = Instant::now();
        let tables = |disk: &Disk| disk.engine.as_ref().unwrap().data.disk_space();
        // with less than that in them they are left alone
        while tables(&disk) > RECLAIM_BYTES {
            assert!(started.elapsed() < Duration::from_secs(120), "{} bytes are left", tables(&disk));
            if let Some(earlier) = Instant::now().checked_sub(RECLAIM_AGAIN) {
                disk.reclaimed = earlier;
            }
            disk.reclaim(0);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
