//! The pause image, built in: a cluster needs no registry to start pods.

use oci::{Config, Error, Layer, write_archive};

/// The image's name, which the runtime is configured to use for sandboxes.
pub const NAME: &str = "registry.k8s.io/pause:3.10";

/// The static executable inside.
static PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// The image as an OCI archive.
pub fn archive() -> Result<Vec<u8>, Error> {
    let layer = Layer::new().file("pause", 0o755, PAUSE)?;
    let config =
        Config { entrypoint: vec!["/pause".into()], user: "65535:65535".into(), ..Config::default() };
    let mut out = Vec::new();
    write_archive(&mut out, &[NAME], vec![layer], &config)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    use std::process::{Command, Stdio};

    #[test]
    fn pause_waits_and_ends_on_a_signal() {
        let directory = std::env::temp_dir().join(format!("pause-test-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let path = directory.join("pause");
        {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.create(true).write(true).mode(0o755).open(&path).expect("file");
            file.write_all(super::PAUSE).expect("written");
        }
        let mut child = Command::new(&path).stdin(Stdio::null()).spawn().expect("pause runs");
        assert!(child.try_wait().expect("wait").is_none(), "it must not end by itself");
        let killed = Command::new("kill").arg(child.id().to_string()).status().expect("kill");
        assert!(killed.success());
        assert_eq!(child.wait().expect("wait").code(), Some(0));
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
