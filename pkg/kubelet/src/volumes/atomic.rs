//! Writing a set of files so that readers see all of the old ones or all of the new ones.
//!
//! The layout is upstream's, because programs in containers watch for it: every visible name is a link into `..data`,
//! which is a link to a directory named after the time; an update makes another directory and renames the link
//! (`pkg/volume/util/atomic_writer.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Contents.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, root when absent.
    pub uid: Option<u32>,
}

/// Files by their path below the volume.
pub type Payload = BTreeMap<String, File>;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;

/// Whether a path may name a file of a payload: relative, not hidden behind `..`, not too long.
pub fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("invalid path: must not be empty: \"\"".to_owned());
    }
    if path.len() > MAX_PATH {
        return Err(format!("invalid path: must be less than or equal to {MAX_PATH} characters"));
    }
    if path.starts_with('/') {
        return Err(format!("invalid path: must be relative path: {path}"));
    }
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) if name.len() > MAX_NAME => {
                return Err(format!(
                    "invalid path: filenames must be less than or equal to {MAX_NAME} characters"
                ));
            }
            Component::Normal(_) | Component::CurDir => {}
            _ => return Err(format!("invalid path: must not contain '..': {path}")),
        }
    }
    if path.starts_with("..") {
        return Err(format!("invalid path: must not start with '..': {path}"));
    }
    Ok(())
}

/// Makes `dir` show exactly `payload`. Answers whether anything had to change. `finish` runs on the new directory
/// before it becomes visible (ownership).
///
/// # Errors
/// The file system's, or `InvalidInput` for a path no payload may have.
pub fn write(
    dir: &Path,
    payload: &Payload,
    stamp: &str,
    finish: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<bool> {
    for path in payload.keys() {
        check_path(path).map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload)
    {
        return Ok(false);
    }
    let fresh = PathBuf::from(format!("..{stamp}"));
    let root = dir.join(&fresh);
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(&root)?;
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        write_file(&root.join(path), file)?;
    }
    finish(&root)?;
    let temporary = dir.join(DATA_NEW);
    let _ = fs::remove_file(&temporary);
    symlink(&fresh, &temporary)?;
    fs::rename(&temporary, dir.join(DATA))?;
    link_names(dir, payload)?;
    if let Some(old) = old
        && old != fresh
    {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    Ok(true)
}

fn write_file(path: &Path, file: &File) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut out, &file.data)?;
    // The mode given at creation goes through the umask; this one does not.
    fs::set_permissions(path, fs::Permissions::from_mode(file.mode))?;
    if let Some(uid) = file.uid {
        std::os::unix::fs::chown(path, Some(uid), None)?;
    }
    Ok(())
}

/// Links every first path element into `..data`, and removes links to what is no longer there.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> =
        payload.keys().filter_map(|path| path.trim_start_matches("./").split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !wanted.contains(name) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a written directory holds exactly this payload.
fn same(root: &Path, payload: &Payload) -> bool {
    let matches = |path: &str, file: &File| {
        let full = root.join(path);
        // The group bits may have been widened for the pod's group; the owner's are ours alone.
        let mode = fs::metadata(&full).map(|m| m.permissions().mode() & 0o700);
        mode.is_ok_and(|m| m == file.mode & 0o700) && fs::read(&full).is_ok_and(|data| data == file.data)
    };
    payload.iter().all(|(path, file)| matches(path, file)) && count_files(root) == payload.len()
}

fn count_files(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count_files(&entry.path()),
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, data)| {
                ((*path).to_owned(), File { data: data.as_bytes().to_vec(), mode: 0o644, uid: None })
            })
            .collect()
    }

    fn visible(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("the directory is there")
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| !n.starts_with(".."))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn updates_swap_everything_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        let ok = |_: &Path| Ok(());
        assert!(write(dir, &payload(&[("a", "1"), ("b/c", "2")]), "1", ok).expect("written"));
        assert!(
            !write(dir, &payload(&[("a", "1"), ("b/c", "2")]), "2", ok).expect("written"),
            "nothing changed"
        );
        assert_eq!(visible(dir), ["a", "b"]);
        assert_eq!(fs::read_link(dir.join("a")).expect("a link"), Path::new("..data/a"));
        assert!(write(dir, &payload(&[("a", "9"), ("d", "4")]), "3", ok).expect("written"));
        assert_eq!(visible(dir), ["a", "d"]);
        assert_eq!(fs::read_to_string(dir.join("a")).expect("readable"), "9");
        assert!(!dir.join("..1").exists(), "the old directory is gone");
        assert!(write(dir, &Payload::new(), "4", ok).expect("written"));
        assert_eq!(visible(dir), Vec::<String>::new());
    }

    #[test]
    fn modes_are_exact() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = File { data: vec![], mode: 0o400, uid: None };
        write(dir.path(), &Payload::from([("x".to_owned(), file)]), "1", |_| Ok(())).expect("written");
        let mode = fs::metadata(dir.path().join("x")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
    }

    #[test]
    fn escapes_are_refused() {
        for path in ["", "/a", "../a", "a/../b", "..data", "a/../../b"] {
            assert!(check_path(path).is_err(), "{path}");
        }
        for path in ["a", "a/b", ".a", "a..b", "./a"] {
            assert!(check_path(path).is_ok(), "{path}");
        }
    }
}
