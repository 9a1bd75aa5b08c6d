//! Compiles `src/pause.rs` into a static executable without a libc.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/pause.rs");
    let var = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let out = PathBuf::from(var("OUT_DIR")).join("pause");
    let status = Command::new(var("RUSTC"))
        .args(["--edition=2024", "--crate-name=pause", "--crate-type=bin", "-Copt-level=s", "-Cpanic=abort"])
        .args(["-Crelocation-model=static", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"])
        .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static"])
        .arg(format!("--target={}", var("TARGET")))
        .arg("-o")
        .arg(&out)
        .arg("src/pause.rs")
        .status()
        .expect("rustc runs, as it is running this build");
    assert!(status.success(), "rustc could not compile src/pause.rs");
}
