//! Daemons of the cluster: started detached, recorded with their start time, stopped by number.
//!
//! A record is trusted only while a process with that number *and* that start time exists, so a number used again by
//! the system is never killed.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::spec::Paths;
use crate::{Error, make_directory, write_file};

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(10);

/// A process that was running when recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Number of the process, as this machine's PID namespace counts.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub started: u64,
}

/// Fields of `/proc/PID/stat` after the command name (proc(5)): parent is 1, flags 6, threads 17, start time 19.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_ascii_whitespace().map(str::to_owned).collect())
}

impl Record {
    /// The record of a running process.
    pub fn of(pid: i32) -> Option<Self> {
        let fields = stat(pid)?;
        // A zombie is over, whoever has yet to collect it; but its other threads may still hold its files and ports.
        let threads: u32 = fields.get(17)?.parse().ok()?;
        if fields.first().is_some_and(|state| state == "Z") && threads <= 1 {
            return None;
        }
        Some(Self { pid, started: fields.get(19)?.parse().ok()? })
    }

    /// Whether that very process still runs.
    pub fn alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Ends it: SIGTERM, then SIGKILL after `grace`; waits until it is gone.
    pub fn stop(&self, grace: Duration) -> Result<(), Error> {
        for (signal, wait) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, Duration::from_secs(10))] {
            if !self.alive() {
                return Ok(());
            }
            match kill(Pid::from_raw(self.pid), signal) {
                Ok(()) | Err(nix::Error::ESRCH) => {}
                Err(source) => return Err(Error::system(format!("kill {}", self.pid))(source)),
            }
            let deadline = Instant::now() + wait;
            while self.alive() && Instant::now() < deadline {
                sleep(POLL);
            }
        }
        if self.alive() { Err(Error::Refused(format!("process {} does not end", self.pid))) } else { Ok(()) }
    }

    /// Whether it was killed and is on its way out: `PF_EXITING` of the flags, or SIGKILL has yet to reach a thread.
    fn is_exiting(&self) -> bool {
        const PF_EXITING: u64 = 0x4;
        let flags = stat(self.pid).and_then(|fields| fields.get(6)?.parse::<u64>().ok());
        flags.is_none_or(|flags| flags & PF_EXITING != 0) || kill_is_pending(self.pid)
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.pid)
    }
}

/// Whether the signals waiting for a process or its first thread contain SIGKILL.
fn kill_is_pending(pid: i32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let bit = 1_u64 << (Signal::SIGKILL as i32 - 1);
    ["SigPnd:", "ShdPnd:"].iter().any(|name| {
        let set = status.lines().find_map(|line| line.strip_prefix(name));
        set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & bit != 0)
    })
}

/// Resident memory of a process in bytes, 0 when it is gone.
pub fn resident_bytes(pid: i32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        })
        .map_or(0, |kib| kib * 1024)
}

/// The recorded daemon, if it still runs.
pub fn running(paths: &Paths, daemon: &str) -> Option<Record> {
    let record: Record = serde_json::from_slice(&fs::read(paths.pid(daemon)).ok()?).ok()?;
    record.alive().then_some(record)
}

/// Waits for a daemon that was killed and has not ended yet. A node's first process ends after all others in the node,
/// so for a moment it looks as if it ran.
pub fn settle(paths: &Paths, daemon: &str) {
    /// Longest wait; after it the process counts as running.
    const LIMIT: Duration = Duration::from_secs(10);
    let deadline = Instant::now() + LIMIT;
    while running(paths, daemon).is_some_and(|record| record.is_exiting()) && Instant::now() < deadline {
        sleep(POLL);
    }
}

/// Records a running process as a daemon of the cluster.
pub fn record(paths: &Paths, daemon: &str, pid: i32) -> Result<Record, Error> {
    let record = Record::of(pid).ok_or_else(|| {
        Error::Refused(format!("{daemon} ended at once; see {}", paths.log(daemon).display()))
    })?;
    let text = serde_json::to_vec(&record).map_err(|e| Error::Refused(e.to_string()))?;
    write_file(&paths.pid(daemon), text, 0o644)?;
    Ok(record)
}

/// Starts a daemon in a session of its own, its output appended to its log, and records it.
pub fn spawn(paths: &Paths, daemon: &str, command: &mut Command) -> Result<Record, Error> {
    let path = paths.log(daemon);
    let log = open_log(&path)?;
    let errors = log.try_clone().map_err(Error::file("write", &path))?;
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|e| Error::Command { command: name, reason: e.to_string() })?;
    record(paths, daemon, child.id() as i32)
}

/// Opens a log to append to; what an earlier run wrote is kept once, as `NAME.log.1`.
pub fn open_log(path: &Path) -> Result<File, Error> {
    /// A log larger than this is set aside when its daemon starts.
    const KEEP_BYTES: u64 = 16 << 20;
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    if fs::metadata(path).is_ok_and(|m| m.len() > KEEP_BYTES) {
        fs::rename(path, path.with_extension("log.1")).map_err(Error::file("rename", path))?;
    }
    File::options().append(true).create(true).open(path).map_err(Error::file("open", path))
}

/// Every process in the PID namespace whose init is `init`, with its command line.
pub fn in_namespace(init: i32) -> Vec<(i32, Vec<String>)> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(wanted) = namespace(init) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| namespace(*pid).as_ref() == Some(&wanted))
        .map(|pid| (pid, command_line(pid)))
        .collect()
}

fn command_line(pid: i32) -> Vec<String> {
    fs::read(format!("/proc/{pid}/cmdline"))
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_of_one_process_only() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let record = Record::of(child.id() as i32).expect("running");
        assert!(record.alive() && record.resident_bytes() > 0);
        assert!(
            !Record { started: record.started + 1, ..record }.alive(),
            "another start time is another process"
        );
        record.stop(Duration::from_secs(5)).expect("stopped");
        assert!(!record.alive());
        child.wait().expect("collected");
    }
}
