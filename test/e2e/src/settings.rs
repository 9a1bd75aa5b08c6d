//! What is tested, from the environment.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, ensure};

/// The binaries and images under test.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The all-in-one binary.
    pub kubewright: PathBuf,
    /// Upstream's kubectl of the version we are.
    pub kubectl: PathBuf,
    /// Upstream's kubectl of the next version, which must work too.
    pub kubectl_next: PathBuf,
    /// Directory with the archives of the test images.
    pub images: PathBuf,
}

fn path(variable: &str, what: &str) -> anyhow::Result<PathBuf> {
    let value: OsString = std::env::var_os(variable)
        .with_context(|| format!("{variable} must be set to {what}; `make e2e` does all of it"))?;
    let path = std::path::absolute(PathBuf::from(value))?;
    ensure!(path.exists(), "{variable} names {}, which does not exist", path.display());
    Ok(path)
}

impl Settings {
    /// Reads the environment; whatever is missing is an error, never a reason to skip.
    pub fn from_environment() -> anyhow::Result<Self> {
        let settings = Self {
            kubewright: path("KUBEWRIGHT", "the all-in-one binary")?,
            kubectl: path("KUBECTL", "upstream's kubectl")?,
            kubectl_next: path("KUBECTL_NEXT", "upstream's kubectl of the next version")?,
            images: path("IMAGES", "the directory of the test images")?,
        };
        for archive in settings.archives() {
            ensure!(archive.is_file(), "IMAGES has no {}; make it with `make images`", archive.display());
        }
        Ok(settings)
    }

    /// The archives to import into every node.
    pub fn archives(&self) -> [PathBuf; 2] {
        [self.images.join("busybox.tar"), self.images.join("testserver.tar")]
    }
}
