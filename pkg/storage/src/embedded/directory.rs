//! The directory of a store.
//!
//! It holds `STORE` (what this is, with the format's number), `LOCK` (held while open), `CLEAN` (the revision at the last
//! orderly close) and `data` (the engine's). A directory that holds anything else is not touched.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use crate::{Error, NO_SPACE, Revision};

/// First line of `STORE`; the number is that of the record format.
pub(super) const MARKER: &str = "kubewright store, format 1\n";
pub(super) const STORE: &str = "STORE";
const LOCK: &str = "LOCK";
pub(super) const CLEAN: &str = "CLEAN";
pub(super) const DATA: &str = "data";
/// Where a new engine is made before it becomes `data`.
pub(super) const NEW: &str = "data.new";

/// Refuses a directory that holds anything that is not of a store.
pub(super) fn refuse_strangers(dir: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(dir).map_err(|e| io_error("cannot read", dir, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| io_error("cannot read", dir, &e))?;
        let name = entry.file_name();
        let known = [STORE, LOCK, CLEAN, DATA, NEW].iter().any(|k| name.to_str() == Some(k))
            || name.to_string_lossy().ends_with(".tmp")
            || name == "lost+found";
        if !known {
            return Err(Error::Corrupt(format!(
                "{} is not a store: it holds {}",
                dir.display(),
                name.to_string_lossy()
            )));
        }
    }
    Ok(())
}

/// Takes the directory for this process, as long as the file is open.
pub(super) fn take_lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| io_error("cannot open", &path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(Error::InUse(format!("another process has {} open", dir.display())))
        }
        Err(fs::TryLockError::Error(e)) => Err(io_error("cannot lock", &path, &e)),
    }
}

/// After an orderly close the revision that was noted must have been found again.
///
/// The note of the last close is gone from now on: after a crash it would not hold.
pub(super) fn check_clean(dir: &Path, found: Revision) -> Result<(), Error> {
    let path = dir.join(CLEAN);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error("cannot read", &path, &e)),
    };
    let noted: i64 = text
        .trim()
        .parse()
        .map_err(|_| Error::Corrupt(format!("{} cannot be understood", path.display())))?;
    if found.0 != noted {
        return Err(Error::Corrupt(format!(
            "revision {noted} was closed in good order, but {found} was found: records are missing"
        )));
    }
    fs::remove_file(&path).map_err(|e| io_error("cannot remove", &path, &e))?;
    sync_dir(dir).map_err(|e| io_error("cannot sync", dir, &e))
}

/// A file that is there as a whole, or not at all.
pub(super) fn write_durably(dir: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    sync_dir(dir)
}

pub(super) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The error of a full disk, in words that clients look for.
pub(super) fn no_space(why: &str) -> Error {
    Error::NoSpace(format!("{NO_SPACE}: {why}"))
}

/// What the system says of a file, as an error of the store.
pub(super) fn io_error(what: &str, path: &Path, error: &std::io::Error) -> Error {
    let text = format!("{what} {}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => no_space(&text),
        _ => Error::Unavailable(text),
    }
}
