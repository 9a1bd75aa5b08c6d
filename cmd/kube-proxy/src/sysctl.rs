//! The kernel's connection tracking, set up as asked through `/proc/sys`.
//!
//! Source: upstream's defaults (32768 connections a core and 131072 at least; 24 h for established connections, 1 h for
//! half-closed ones) and its rule that the table is only ever made larger.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use component::flags::GoDuration;

use crate::file::Conntrack;

/// `conntrack.maxPerCore` unless given.
const MAX_PER_CORE: u64 = 32_768;
/// `conntrack.min` unless given.
const MIN: u64 = 131_072;
/// Seconds: `conntrack.tcpEstablishedTimeout` unless given.
const TCP_ESTABLISHED: u64 = 24 * 3600;
/// Seconds: `conntrack.tcpCloseWaitTimeout` unless given.
const TCP_CLOSE_WAIT: u64 = 3600;

/// One setting of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    name: &'static str,
    value: u64,
    /// Asked for by the user, so failing to set it is an error.
    asked: bool,
    /// A larger value that is there already stays.
    at_least: bool,
}

/// The settings for a machine with that many cores. Zero leaves a setting as it is.
pub(crate) fn settings(conntrack: &Conntrack, cores: u64) -> Vec<Setting> {
    let mut all = Vec::new();
    let per_core = conntrack.max_per_core.unwrap_or(MAX_PER_CORE);
    if per_core > 0 {
        all.push(Setting {
            name: "nf_conntrack_max",
            value: (per_core * cores).max(conntrack.min.unwrap_or(MIN)),
            asked: conntrack.max_per_core.is_some() || conntrack.min.is_some(),
            at_least: true,
        });
    }
    let mut seconds = |name, given: Option<GoDuration>, default: u64| {
        let value = given.map_or(default, |d| d.0.as_secs());
        if value > 0 {
            all.push(Setting { name, value, asked: given.is_some(), at_least: false });
        }
    };
    seconds("nf_conntrack_tcp_timeout_established", conntrack.tcp_established_timeout, TCP_ESTABLISHED);
    seconds("nf_conntrack_tcp_timeout_close_wait", conntrack.tcp_close_wait_timeout, TCP_CLOSE_WAIT);
    seconds("nf_conntrack_udp_timeout", conntrack.udp_timeout, 0);
    seconds("nf_conntrack_udp_timeout_stream", conntrack.udp_stream_timeout, 0);
    if conntrack.tcp_be_liberal {
        all.push(Setting { name: "nf_conntrack_tcp_be_liberal", value: 1, asked: true, at_least: false });
    }
    all
}

impl Setting {
    fn path(&self, directory: &Path) -> PathBuf {
        directory.join(self.name)
    }

    fn apply(&self, directory: &Path) -> std::io::Result<()> {
        let path = self.path(directory);
        let current: Option<u64> = std::fs::read_to_string(&path)?.trim().parse().ok();
        let done = current.is_some_and(|is| is == self.value || (self.at_least && is > self.value));
        if done { Ok(()) } else { std::fs::write(&path, self.value.to_string()) }
    }
}

/// Applies settings below a directory (`/proc/sys/net/netfilter`). What was asked for and cannot be had is an error;
/// what is merely upstream's default is a warning.
pub(crate) fn apply(settings: &[Setting], directory: &Path) -> anyhow::Result<()> {
    for setting in settings {
        match setting.apply(directory) {
            Ok(()) => {}
            Err(error) if setting.asked => {
                let (path, value) = (setting.path(directory), setting.value);
                return Err(error).with_context(|| format!("cannot set {} to {value}", path.display()));
            }
            Err(error) => tracing::warn!(setting = setting.name, %error, "kernel setting left as it is"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_only_grows_and_what_is_asked_for_must_work() {
        let directory = std::env::temp_dir().join(format!("kube-proxy-sysctl-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let write = |name: &str, value: &str| std::fs::write(directory.join(name), value).expect("write");
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect("read");
        write("nf_conntrack_max", "999999\n");
        write("nf_conntrack_tcp_timeout_established", "1\n");
        apply(&settings(&Conntrack::default(), 2), &directory).expect("defaults that fail are warnings");
        assert_eq!(read("nf_conntrack_max"), "999999\n");
        assert_eq!(read("nf_conntrack_tcp_timeout_established"), "86400");
        let asked = Conntrack { min: Some(2_000_000), ..Conntrack::default() };
        apply(&settings(&asked, 2), &directory).expect("larger");
        assert_eq!(read("nf_conntrack_max"), "2000000");
        let absent = Conntrack { tcp_be_liberal: true, ..Conntrack::default() };
        assert!(apply(&settings(&absent, 2), &directory).is_err());
        std::fs::remove_dir_all(&directory).expect("clean up");
        assert_eq!(settings(&Conntrack { max_per_core: Some(0), ..Conntrack::default() }, 2).len(), 2);
    }
}
