//! A cluster on one machine without a container engine.
//!
//! Each node is a set of namespaces (network, mount, PID, UTS, IPC, cgroup) with its own containerd and agent, joined by
//! a bridge that lives in a namespace of its own and has no uplink. The control plane runs in a network namespace too; it
//! also holds a listener that was opened on the machine's loopback before it moved there, so clients on the machine
//! reach it while the machine's network and packet filter stay untouched.
//!
//! Where to start: [`spec`] (what is wanted and where things are), [`up`](mod@up), [`down`](mod@down),
//! [`status`](mod@status). [`launch`] and [`node`] run inside a node, before any thread is started.

pub mod addons;
pub mod command;
pub mod down;
pub mod images;
pub mod launch;
pub mod network;
pub mod node;
pub mod pki;
pub mod preflight;
pub mod process;
pub mod spec;
pub mod status;
pub mod up;

mod cgroups;

pub use pauseimage::NAME as PAUSE_IMAGE;

use std::io;
use std::path::{Path, PathBuf};

/// Why something about the cluster failed. Texts say what to do where a user can do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read, written or made.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program could not be run or failed.
    #[error("{command}: {reason}")]
    Command {
        /// The command line.
        command: String,
        /// Its error output, or why it could not be started.
        reason: String,
    },
    /// A system call failed.
    #[error("{call}: {source}")]
    System {
        /// What was called for what.
        call: String,
        /// The error number.
        source: nix::Error,
    },
    /// Something did not come about in time.
    #[error("{what} was not ready after {seconds} s; see {log}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
        /// Where to look.
        log: PathBuf,
    },
    /// The machine or the request does not allow it.
    #[error("{0}")]
    Refused(String),
    /// Certificates could not be made.
    #[error(transparent)]
    Pki(#[from] component::tls::Error),
    /// A built-in image could not be made.
    #[error(transparent)]
    Image(#[from] oci::Error),
    /// The API server could not be asked.
    #[error("API server: {0}")]
    Api(String),
}

impl Error {
    /// For `map_err` on file operations.
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    /// For `map_err` on system calls.
    fn system(call: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let call = call.into();
        move |source| Self::System { call, source }
    }
}

/// Writes a file and the directories above it.
fn write_file(path: &Path, content: impl AsRef<[u8]>, mode: u32) -> Result<(), Error> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .map_err(Error::file("write", path))?;
    file.write_all(content.as_ref()).map_err(Error::file("write", path))
}

/// Makes a directory and those above it.
fn make_directory(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(Error::file("make directory", path))
}
