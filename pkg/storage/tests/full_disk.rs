//! The embedded engine on a file system that is really full: a tmpfs in a mount namespace of its own.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use storage::embedded::{Embedded, Options};
use storage::{Error, Op, RangeRequest, Revision, Storage, prefix_end};

/// Tells the test binary that it is the one on the small file system.
const DIR: &str = "STORAGE_FULL_DISK";

async fn put(storage: &Embedded, i: usize) -> Result<Revision, Error> {
    let op = Op::Put { key: format!("/{i:05}").into(), value: vec![b'v'; 50_000].into(), lease: None };
    Ok(storage.txn(Vec::new(), vec![op]).await?.revision)
}

async fn keys(storage: &Embedded) -> usize {
    let request = RangeRequest { start: "/".into(), end: prefix_end("/"), limit: 0, revision: None };
    storage.range(request).await.unwrap().count
}

/// What happens on the small file system.
#[tokio::test(flavor = "multi_thread")]
async fn inside() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let ballast = format!("{dir}/ballast");
    std::fs::write(&ballast, vec![0; 40 << 20]).unwrap();
    let store = format!("{dir}/store");
    // no reserve: the disk itself must say no
    let options = Options { min_free_bytes: 0, ..Options::default() };
    let storage = Embedded::open(&store, options.clone()).unwrap();
    let mut acknowledged = 0;
    let error = loop {
        match put(&storage, acknowledged).await {
            Ok(revision) => {
                acknowledged += 1;
                assert_eq!(revision.0 as usize, acknowledged);
            }
            Err(error) => break error,
        }
        assert!(acknowledged < 2000, "the file system is small");
    };
    assert!(matches!(error, Error::NoSpace(_) | Error::Unavailable(_)), "{error:?}");
    // reads go on, writes are refused, nothing half-written shows
    for _ in 0..3 {
        assert!(put(&storage, acknowledged).await.is_err());
        assert_eq!(keys(&storage).await, acknowledged);
    }
    assert_eq!(storage.current_revision().await.unwrap().0 as usize, acknowledged);
    // room again: the engine heals by itself and goes on without a gap
    std::fs::remove_file(&ballast).unwrap();
    let revision = put(&storage, acknowledged).await.expect("there is room");
    assert_eq!(revision.0 as usize, acknowledged + 1);
    acknowledged += 1;
    storage.close().await;
    drop(storage);
    let storage = Embedded::open(&store, options).unwrap();
    assert_eq!(keys(&storage).await, acknowledged);
    assert_eq!(storage.current_revision().await.unwrap().0 as usize, acknowledged);
}

#[test]
fn a_full_disk_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "inside", "--nocapture"]).env(DIR, &path);
    let enter = move || {
        let io = |e: nix::Error| std::io::Error::from_raw_os_error(e as i32);
        unshare(CloneFlags::CLONE_NEWNS).map_err(io)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .map_err(io)?;
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=64m")).map_err(io)
    };
    // the mount lives in the child's namespace and ends with it
    #[allow(unsafe_code, reason = "only system calls between fork and exec")]
    unsafe {
        command.pre_exec(enter);
    }
    let status = match command.status() {
        Ok(status) => status,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            // mounting takes a privilege; in CI the test must have it
            assert!(std::env::var_os("CI").is_none(), "no privilege to mount a file system: {error}");
            let skipped = "SKIPPED a_full_disk_is_survived: no privilege to mount a file system\n";
            // past the harness, which shows the output of failed tests only
            std::io::stderr().lock().write_all(skipped.as_bytes()).unwrap();
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(status.success());
}
