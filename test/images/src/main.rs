//! Makes the test images from what is built here and Debian's busybox, as OCI archives.
//!
//! `make-images DIRECTORY TESTSERVER [NGINX]`: writes `DIRECTORY/testserver.tar` and `DIRECTORY/busybox.tar`, and with
//! NGINX `DIRECTORY/nginx.tar`. TESTSERVER is the statically linked executable, NGINX a directory with Debian's packages
//! unpacked (`hack/nginx.sh`).
#![allow(clippy::print_stdout, reason = "a program for people")]

mod nginx;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use oci::{Config, Layer, write_archive};

/// Where Debian's busybox-static puts its program.
const BUSYBOX: &str = "/bin/busybox";
/// Users of both images.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

fn base() -> Result<Layer, oci::Error> {
    Layer::new()
        .directory("tmp", 0o1777)?
        .directory("etc", 0o755)?
        .file("etc/passwd", 0o644, PASSWD.as_bytes())?
        .file("etc/group", 0o644, GROUP.as_bytes())
}

fn busybox() -> anyhow::Result<Layer> {
    let listed = Command::new(BUSYBOX).arg("--list").output().context("busybox-static is not installed")?;
    ensure!(listed.status.success(), "{BUSYBOX} --list failed");
    let mut layer = base()?
        .directory("bin", 0o755)?
        .directory("root", 0o700)?
        .host_file(Path::new(BUSYBOX), "bin/busybox")?;
    for applet in String::from_utf8_lossy(&listed.stdout).lines().filter(|name| *name != "busybox") {
        layer = layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    Ok(layer)
}

fn write(
    directory: &Path,
    file: &str,
    name: &str,
    layers: Vec<Layer>,
    config: &Config,
) -> anyhow::Result<()> {
    let path = directory.join(file);
    let out = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    write_archive(out, &[name], layers, config)?;
    println!("{name} in {}", path.display());
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [directory, testserver, nginx @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: make-images DIRECTORY TESTSERVER [NGINX]");
    };
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let path = "PATH=/bin".to_owned();
    let shell = Config { command: vec!["sh".into()], environment: vec![path.clone()], ..Config::default() };
    write(directory, "busybox.tar", "kubewright.test/busybox:1", vec![busybox()?], &shell)?;
    // As a container's first process it has no default action for SIGTERM, and nothing to save either.
    let server = Config {
        stop_signal: "SIGKILL".into(),
        entrypoint: vec!["/bin/testserver".into()],
        environment: vec![path],
        ..Config::default()
    };
    let layers = vec![busybox()?, Layer::new().host_file(testserver, "bin/testserver")?];
    write(directory, "testserver.tar", "kubewright.test/testserver:1", layers, &server)?;
    if let [root] = nginx {
        let server = Config {
            entrypoint: vec!["/usr/sbin/nginx".into()],
            environment: vec!["PATH=/usr/sbin:/bin".into()],
            stop_signal: "SIGQUIT".into(),
            ..Config::default()
        };
        let layers = vec![busybox()?, nginx::layer(root)?];
        write(directory, "nginx.tar", "kubewright.test/nginx:1", layers, &server)?;
    }
    Ok(())
}
