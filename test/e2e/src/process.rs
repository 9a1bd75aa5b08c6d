//! Programs that are run to their end or watched while they run.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::wait::eventually;

/// Longest any program may run to its end.
const RUN_LIMIT: Duration = Duration::from_secs(180);
/// Pause between two looks at whether a program has ended.
const POLL: Duration = Duration::from_millis(5);
/// Characters of output quoted in an error.
const QUOTED: usize = 2000;

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// The command line, for messages.
    pub line: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// Everything on standard output.
    pub stdout: String,
    /// Everything on standard error.
    pub stderr: String,
}

impl Ended {
    /// Standard output of a program that must have succeeded.
    pub fn success(self) -> anyhow::Result<String> {
        ensure!(
            self.status.success(),
            "{}: {}: {}",
            self.line,
            self.status,
            quote(&format!("{}{}", self.stdout, self.stderr))
        );
        Ok(self.stdout)
    }

    /// Standard error of a program that must have failed.
    pub fn failure(self) -> anyhow::Result<String> {
        ensure!(!self.status.success(), "{} succeeded but must fail: {}", self.line, quote(&self.stdout));
        Ok(self.stderr)
    }
}

fn quote(text: &str) -> &str {
    let end = text.char_indices().nth(QUOTED).map_or(text.len(), |(index, _)| index);
    text[..end].trim()
}

/// A program that runs in the background. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

fn text(buffer: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&buffer.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

fn collect(mut from: impl Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut chunk = [0; 8192];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..count]);
        }
    })
}

impl Running {
    /// Starts a program; its input stays open until [`Running::close_input`].
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let line = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|part| part.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {line}"))?;
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let mut readers = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            readers.push(collect(pipe, Arc::clone(&stdout)));
        }
        if let Some(pipe) = child.stderr.take() {
            readers.push(collect(pipe, Arc::clone(&stderr)));
        }
        Ok(Self { line, child, stdout, stderr, readers })
    }

    /// What it wrote to standard output so far.
    pub fn output(&self) -> String {
        text(&self.stdout)
    }

    /// Writes to its standard input.
    pub fn write(&mut self, input: &str) -> anyhow::Result<()> {
        let pipe = self.child.stdin.as_mut().context("its input is closed")?;
        pipe.write_all(input.as_bytes())?;
        pipe.flush()?;
        Ok(())
    }

    /// Ends its standard input.
    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits until its standard output contains a text, and gives all of it.
    pub fn wait_for(&mut self, needle: &str, limit: Duration) -> anyhow::Result<String> {
        let what = format!("{needle:?} in the output of `{}`", self.line);
        eventually(&what, limit, || {
            let output = self.output();
            ensure!(output.contains(needle), "got {:?} and {:?}", quote(&output), quote(&text(&self.stderr)));
            Ok(output)
        })
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end.
    pub fn end(mut self) -> anyhow::Result<Ended> {
        let deadline = Instant::now() + RUN_LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!(
                    "{} did not end within {} s: {}",
                    self.line,
                    RUN_LIMIT.as_secs(),
                    quote(&self.output())
                );
            }
            std::thread::sleep(POLL);
        };
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
        Ok(Ended { line: self.line.clone(), status, stdout: text(&self.stdout), stderr: text(&self.stderr) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended, which is the aim.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a program to its end with the given input.
pub fn run(command: &mut Command, input: &str) -> anyhow::Result<Ended> {
    let mut running = Running::start(command)?;
    if !input.is_empty() {
        running.write(input)?;
    }
    running.close_input();
    running.end()
}
