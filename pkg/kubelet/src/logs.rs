//! Reading container logs in the CRI format: `TIME STREAM TAG TEXT`, a tag of `P` meaning that the line goes on.
//!
//! Source: `k8s.io/cri-client/pkg/logs/logs.go`.

use std::fs;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

/// How often a followed log is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is asked whether the container still runs.
const ALIVE_EVERY: u32 = 4;
/// Size of the blocks a log is read back in.
const BLOCK: u64 = 64 * 1024;
/// Longest line kept in memory; runtimes split at 16 KiB.
const MAX_LINE: u64 = 1024 * 1024;
/// Bytes gathered before they are sent on.
const CHUNK: usize = 32 * 1024;

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on as it grows.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// Each line with its time.
    pub timestamps: bool,
    /// No more than so many bytes.
    pub limit: Option<u64>,
    /// Only `stdout` or `stderr`.
    pub stream: Option<String>,
}

/// A line of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |b| *b == b' ');
    let mut word = || parts.next().and_then(|p| std::str::from_utf8(p).ok());
    let (time, stream, tags) = (word()?, word()?, word()?);
    let text = parts.next()?;
    // Further tags may follow the first one after a colon.
    let partial = tags.split(':').next() == Some("P");
    Some(Line { time, stream, partial, text })
}

/// Turns lines of the file into what a reader sees.
#[derive(Debug)]
struct Filter {
    options: Options,
    left: Option<u64>,
    /// The line before was not complete.
    inside: bool,
}

impl Filter {
    fn new(options: Options) -> Self {
        let left = options.limit;
        Self { options, left, inside: false }
    }

    /// Adds what a line of the file contributes; `false` when the limit is reached.
    fn add(&mut self, raw: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(line) = parse(raw) else { return true };
        let inside = std::mem::replace(&mut self.inside, line.partial);
        if self.options.stream.as_deref().is_some_and(|s| !s.eq_ignore_ascii_case(line.stream)) {
            return true;
        }
        if let Some(since) = self.options.since
            && line.time.parse::<Timestamp>().is_ok_and(|t| t < since)
        {
            return true;
        }
        let start = out.len();
        if self.options.timestamps && !inside {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        if let Some(left) = &mut self.left {
            let added = (out.len() - start) as u64;
            if added >= *left {
                out.truncate(start + *left as usize);
                *left = 0;
                return false;
            }
            *left -= added;
        }
        true
    }
}

/// Where the last `lines` lines of a file begin.
fn tail_offset(file: &mut fs::File, lines: u64) -> io::Result<u64> {
    let end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let (mut at, mut found) = (end, 0u64);
    let mut block = vec![0; BLOCK as usize];
    while at > 0 {
        let size = at.min(BLOCK);
        at -= size;
        file.seek(SeekFrom::Start(at))?;
        let block = &mut block[..size as usize];
        file.read_exact(block)?;
        for (index, byte) in block.iter().enumerate().rev() {
            // The newline that ends the file ends its last line.
            if *byte == b'\n' && at + index as u64 + 1 != end {
                found += 1;
                if found == lines {
                    return Ok(at + index as u64 + 1);
                }
            }
        }
    }
    Ok(0)
}

/// The last lines of a log as plain text, at most so many bytes of it.
pub fn tail_text(path: &Path, lines: usize, most: usize) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let at = tail_offset(&mut file, lines as u64)?;
        file.seek(SeekFrom::Start(at))?;
        let mut filter = Filter::new(Options::default());
        let mut out = Vec::new();
        let mut reader = io::BufReader::new(file);
        let mut line = Vec::new();
        while next_line(&mut reader, &mut line)? {
            filter.add(&line, &mut out);
            line.clear();
        }
        Ok(out)
    };
    let bytes = read().unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(most)..]).into_owned()
}

/// Appends a line to `line`; `false` at the end of the file, with what there is of a line without its newline.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    let room = MAX_LINE.saturating_sub(line.len() as u64).max(1);
    reader.take(room).read_until(b'\n', line)?;
    Ok(line.ends_with(b"\n") || line.len() as u64 >= MAX_LINE)
}

/// Sends a log to `out` until its end, or, when following, until the container has ended and all of it was sent, or
/// nobody listens any more. `running` says whether the container still runs.
pub async fn send<F>(
    path: PathBuf,
    options: Options,
    out: mpsc::Sender<Result<Bytes, io::Error>>,
    running: impl Fn() -> F,
) where
    F: Future<Output = bool>,
{
    if let Err(error) = pump(path, options, &out, running).await {
        let _ = out.send(Err(error)).await;
    }
}

/// A position in a log that may be rotated away.
struct Source {
    reader: io::BufReader<fs::File>,
    inode: u64,
    /// A line not yet complete.
    line: Vec<u8>,
}

impl Source {
    fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut file = fs::File::open(path)?;
        let at = match tail {
            Some(lines) => tail_offset(&mut file, lines)?,
            None => 0,
        };
        file.seek(SeekFrom::Start(at))?;
        let inode = file.metadata()?.ino();
        Ok(Self { reader: io::BufReader::with_capacity(CHUNK, file), inode, line: Vec::new() })
    }

    /// Reads up to a chunk. The flags: there may be more to read now; the limit is not reached.
    fn read(&mut self, filter: &mut Filter) -> io::Result<(Vec<u8>, bool, bool)> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            if !next_line(&mut self.reader, &mut self.line)? {
                return Ok((chunk, false, true));
            }
            let go_on = filter.add(&self.line, &mut chunk);
            self.line.clear();
            if !go_on {
                return Ok((chunk, false, false));
            }
        }
        Ok((chunk, true, true))
    }
}

async fn pump<F>(
    path: PathBuf,
    options: Options,
    out: &mpsc::Sender<Result<Bytes, io::Error>>,
    running: impl Fn() -> F,
) -> io::Result<()>
where
    F: Future<Output = bool>,
{
    let (follow, tail) = (options.follow, options.tail);
    let mut filter = Filter::new(options);
    if filter.left == Some(0) {
        return Ok(());
    }
    let mut source = Source::open(&path, tail)?;
    let (mut looks, mut ending) = (0u32, false);
    loop {
        // Local files answer at once; a block of a log is not worth a thread.
        let (chunk, more, go_on) = source.read(&mut filter)?;
        if !chunk.is_empty() && out.send(Ok(chunk.into())).await.is_err() {
            return Ok(());
        }
        if !go_on || (!more && (!follow || ending)) {
            return Ok(());
        }
        if more {
            tokio::task::yield_now().await;
            continue;
        }
        // The file was read to its end: has another one taken its place?
        if let Ok(meta) = fs::metadata(&path)
            && meta.ino() != source.inode
        {
            source = Source::open(&path, None)?;
            continue;
        }
        looks += 1;
        if looks.is_multiple_of(ALIVE_EVERY) && !running().await {
            // One more look, for what was written just before the end.
            ending = true;
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
            () = out.closed() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LOG: &str = "2024-01-01T00:00:01Z stdout F one\n2024-01-01T00:00:02Z stderr F two\n\
                       2024-01-01T00:00:03Z stdout P thr\n2024-01-01T00:00:03Z stdout F ee\nnonsense\n";

    async fn read(options: Options) -> String {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(LOG.as_bytes()).expect("written");
        let (sender, mut receiver) = mpsc::channel(16);
        send(file.path().into(), options, sender, || async { false }).await;
        let mut out = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            out.extend_from_slice(&chunk.expect("readable"));
        }
        String::from_utf8(out).expect("text")
    }

    #[tokio::test]
    async fn options_select() {
        let since = Some("2024-01-01T00:00:02Z".parse().expect("a time"));
        for (options, expected) in [
            (Options::default(), "one\ntwo\nthree\n"),
            (Options { tail: Some(3), ..Options::default() }, "three\n"),
            (Options { tail: Some(0), ..Options::default() }, ""),
            (Options { tail: Some(99), ..Options::default() }, "one\ntwo\nthree\n"),
            (Options { since, ..Options::default() }, "two\nthree\n"),
            (Options { limit: Some(5), ..Options::default() }, "one\nt"),
            (Options { stream: Some("Stderr".into()), ..Options::default() }, "two\n"),
            (
                Options { timestamps: true, tail: Some(3), ..Options::default() },
                "2024-01-01T00:00:03Z three\n",
            ),
            (Options { follow: true, ..Options::default() }, "one\ntwo\nthree\n"),
        ] {
            assert_eq!(read(options.clone()).await, expected, "{options:?}");
        }
    }

    #[tokio::test]
    async fn following_survives_rotation() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        fs::write(&path, "2024-01-01T00:00:01Z stdout F one\n").expect("written");
        let (sender, mut receiver) = mpsc::channel(16);
        let options = Options { follow: true, ..Options::default() };
        let task = tokio::spawn(send(path.clone(), options, sender, || async { true }));
        assert_eq!(receiver.recv().await.expect("a chunk").expect("readable"), "one\n");
        fs::rename(&path, dir.path().join("0.log.old")).expect("moved");
        fs::write(&path, "2024-01-01T00:00:02Z stdout F two\n").expect("written");
        assert_eq!(receiver.recv().await.expect("a chunk").expect("readable"), "two\n");
        drop(receiver);
        task.await.expect("ends when nobody listens");
    }

    #[test]
    fn tails_are_bounded() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(LOG.as_bytes()).expect("written");
        assert_eq!(tail_text(file.path(), 4, 4), "ree\n");
    }
}
