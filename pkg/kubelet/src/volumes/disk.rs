//! Volumes' effects on the file system: directories, tmpfs, ownership, sub-paths, removal.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use crate::env::Facts;
use crate::resources;

/// Deepest tree ownership is changed in and removal descends into.
const MAX_DEPTH: usize = 256;

/// Whether something is mounted at exactly this directory.
pub(super) fn is_mount_point(path: &Path) -> bool {
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else { return false };
    mount_points(&table).any(|point| point == path)
}

fn mount_points(table: &str) -> impl Iterator<Item = PathBuf> {
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| PathBuf::from(unescape(field)))
}

/// Undoes the kernel's octal escapes in mountinfo.
fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Mounts a tmpfs at a directory unless there is one.
pub(super) fn tmpfs(dir: &Path, size: Option<i64>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if is_mount_point(dir) {
        return Ok(());
    }
    let options = size.map(|bytes| format!("size={bytes}"));
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), options.as_deref()).map_err(io::Error::from)
}

/// Makes an `emptyDir`.
pub(super) fn empty_dir(
    dir: &Path,
    source: &EmptyDirVolumeSource,
    pod: &Pod,
    group: Option<u32>,
    facts: &Facts,
) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            let limits = resources::pod_limits(pod, false).memory;
            let node = facts.allocatable.get("memory").and_then(resources::value);
            let asked = source.size_limit.as_ref().and_then(resources::value).filter(|v| *v > 0);
            tmpfs(dir, [asked, limits, node].into_iter().flatten().min())?;
        }
        medium => {
            let page = medium.strip_prefix("HugePages").map(|p| p.trim_start_matches('-'));
            let Some(page) = page else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("unknown storage medium {medium:?}"),
                ));
            };
            if !is_mount_point(dir) {
                let options = (!page.is_empty()).then(|| format!("pagesize={}", page.trim_end_matches('i')));
                mount(Some("nodev"), dir, Some("hugetlbfs"), MsFlags::empty(), options.as_deref())?;
            }
        }
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    if let Some(gid) = group {
        own_dir(dir, gid)?;
    }
    Ok(())
}

/// Gives a directory to a group, and what will be made in it too.
pub(super) fn own_dir(dir: &Path, gid: u32) -> io::Result<()> {
    chown(dir, None, Some(gid))?;
    let mode = fs::metadata(dir)?.permissions().mode();
    fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o2770))
}

/// Gives a tree to a group: readable, and writable unless `read_only`.
pub(super) fn own_by_group(root: &Path, gid: u32, read_only: bool) -> io::Result<()> {
    own_below(root, gid, read_only, MAX_DEPTH)
}

fn own_below(path: &Path, gid: u32, read_only: bool, depth: usize) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.file_type().is_symlink() {
        return std::os::unix::fs::lchown(path, None, Some(gid));
    }
    chown(path, None, Some(gid))?;
    let mode = meta.permissions().mode();
    if meta.is_dir() {
        fs::set_permissions(
            path,
            fs::Permissions::from_mode(mode | 0o2550 | if read_only { 0 } else { 0o220 }),
        )?;
        if depth == 0 {
            return Err(io::Error::other("directory tree is too deep"));
        }
        for entry in fs::read_dir(path)? {
            own_below(&entry?.path(), gid, read_only, depth - 1)?;
        }
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode | if read_only { 0o440 } else { 0o660 }))
}

/// Checks, or makes, what a `hostPath` volume says it is.
pub(super) fn check_host_path(path: &str, kind: &str) -> Result<(), String> {
    let fail = |what: &str| Err(format!("hostPath type check failed: {path} is not {what}"));
    let meta = fs::metadata(path);
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" => match meta {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => fail("a directory"),
            Err(_) => fs::create_dir_all(path)
                .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
                .map_err(|e| e.to_string()),
        },
        "FileOrCreate" => match meta {
            Ok(meta) if meta.is_file() => Ok(()),
            Ok(_) => fail("a file"),
            Err(_) => fs::File::create_new(path).map(|_| ()).map_err(|e| e.to_string()),
        },
        "Directory" if !meta.as_ref().is_ok_and(fs::Metadata::is_dir) => fail("a directory"),
        "File" if !meta.as_ref().is_ok_and(fs::Metadata::is_file) => fail("a file"),
        "Socket" if !meta.as_ref().is_ok_and(|m| m.file_type().is_socket()) => fail("a socket file"),
        "CharDevice" if !meta.as_ref().is_ok_and(|m| m.file_type().is_char_device()) => {
            fail("a character device")
        }
        "BlockDevice" if !meta.as_ref().is_ok_and(|m| m.file_type().is_block_device()) => {
            fail("a block device")
        }
        "Directory" | "File" | "Socket" | "CharDevice" | "BlockDevice" => Ok(()),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

/// Makes a sub-path of a volume available at a path that programs in the volume cannot redirect any more, and answers
/// that path. Links inside the volume are followed, but never out of it.
pub fn prepare_subpath(volume: &Path, subpath: &str, target: &Path) -> io::Result<()> {
    if is_mount_point(target) {
        return Ok(());
    }
    let root = fs::File::open(volume)?;
    let open = |flags: OFlag| {
        let how = OpenHow::new().flags(flags).mode(Mode::empty()).resolve(ResolveFlag::RESOLVE_BENEATH);
        openat2(&root, Path::new(subpath), how)
    };
    let found = match open(OFlag::O_PATH | OFlag::O_CLOEXEC) {
        Err(nix::errno::Errno::ENOENT) => {
            make_below(volume, &root, subpath)?;
            open(OFlag::O_PATH | OFlag::O_CLOEXEC)
        }
        other => other,
    }?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    if fs::metadata(&source)?.is_dir() {
        fs::create_dir_all(target)?;
    } else if !target.exists() {
        fs::File::create(target)?;
    }
    mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

/// Makes the directories of a sub-path one by one, each below the one before, with the volume's own permissions.
fn make_below(volume: &Path, root: &fs::File, subpath: &str) -> io::Result<()> {
    let permissions = fs::metadata(volume)?.permissions();
    let mut done = PathBuf::new();
    let parts: Vec<&str> = subpath.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.len() > MAX_DEPTH || parts.contains(&"..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "subPath leaves its volume"));
    }
    for part in parts {
        let parent_path = if done.as_os_str().is_empty() { PathBuf::from(".") } else { done.clone() };
        let how = OpenHow::new()
            .flags(OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH);
        let parent = openat2(root, &parent_path, how)?;
        match nix::sys::stat::mkdirat(&parent, part, Mode::from_bits_truncate(0o750)) {
            Ok(()) => {
                let fresh = format!("/proc/self/fd/{}/{part}", parent.as_raw_fd());
                fs::set_permissions(fresh, permissions.clone())?;
            }
            Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        done.push(part);
    }
    Ok(())
}

/// Unmounts everything below a pod's directory and removes it. Never crosses into what is still mounted.
pub fn remove_pod_dir(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = mount_points(&table).filter(|p| p.starts_with(dir)).collect();
    // Innermost first.
    points.sort_by_key(|p| std::cmp::Reverse(p.as_os_str().len()));
    for point in points {
        umount2(&point, MntFlags::UMOUNT_NOFOLLOW).or_else(|_| umount2(&point, MntFlags::MNT_DETACH))?;
    }
    let device = fs::symlink_metadata(dir)?.dev();
    remove_below(dir, device, MAX_DEPTH)
}

fn remove_below(path: &Path, device: u64, depth: usize) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return fs::remove_file(path);
    }
    if meta.dev() != device {
        return Err(io::Error::other(format!("{} is still a mount point", path.display())));
    }
    if depth == 0 {
        return Err(io::Error::other("directory tree is too deep"));
    }
    for entry in fs::read_dir(path)? {
        remove_below(&entry?.path(), device, depth - 1)?;
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_tables_are_read() {
        let table = "36 35 98:0 / /mnt/a\\040b rw - ext3 /dev/root rw\n1 2 0:1 / /x rw - tmpfs t rw\n";
        assert_eq!(mount_points(table).collect::<Vec<_>>(), [PathBuf::from("/mnt/a b"), "/x".into()]);
    }

    #[test]
    fn host_paths_are_what_they_say() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        fs::write(path("f"), "").expect("written");
        let cases = [
            ("gone", "", true),
            ("gone", "Directory", false),
            ("made", "DirectoryOrCreate", true),
            ("file", "FileOrCreate", true),
            ("f", "File", true),
            ("f", "Directory", false),
            ("f", "DirectoryOrCreate", false),
            ("f", "Socket", false),
            ("f", "Nonsense", false),
        ];
        for (name, kind, good) in cases {
            let got = check_host_path(&path(name), kind);
            assert_eq!(got.is_ok(), good, "{name} {kind}: {got:?}");
        }
        assert!(Path::new(&path("made")).is_dir());
        let error = check_host_path(&path("f"), "Directory").expect_err("a file");
        assert!(
            error.starts_with("hostPath type check failed: ") && error.ends_with(" is not a directory"),
            "{error}"
        );
    }

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).expect("linked");
        let target = dir.path().join("target");
        assert!(prepare_subpath(dir.path(), "out/passwd", &target).is_err());
        assert!(prepare_subpath(dir.path(), "../x", &target).is_err());
    }
}
