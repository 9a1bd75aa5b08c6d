//! A connection's bytes: frames that are written in a turn of the connection's task leave in one system call, and a
//! system call reads as much as there is. h2 alone flushes after each frame and reads 8 KiB at a time.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read at once.
const READ: usize = 32 * 1024;
/// With so much unsent, sending does not wait for the end of the turn.
const LIMIT: usize = 128 * 1024;
/// Room for what is unsent that is kept when it has been sent.
const KEEP: usize = 16 * 1024;

/// The bytes, shared by h2, which reads and writes, and by [`drive`], which sends.
pub(crate) struct Wire<S>(Arc<Mutex<Ends<S>>>);

impl<S> Clone for Wire<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Ends<S> {
    socket: S,
    input: Box<[u8]>,
    /// What of the input has not been taken.
    unread: std::ops::Range<usize>,
    output: Vec<u8>,
    /// How much of the output has left.
    sent: usize,
    /// The socket (TLS) may hold something back.
    unflushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self(Arc::new(Mutex::new(Ends {
            socket,
            input: vec![0; READ].into_boxed_slice(),
            unread: 0..0,
            output: Vec::new(),
            sent: 0,
            unflushed: false,
        })))
    }
}

/// Runs a connection that uses a wire and sends what was written in each of its turns.
///
/// A turn in which something was written is followed by another, behind what else is ready to run: the requests of those
/// tasks leave together with this one's.
pub(crate) async fn drive<S, T>(wire: Wire<S>, connection: impl Future<Output = T>) -> Result<T, io::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = pin!(connection);
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = connection.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let mut ends = wire.0.lock();
        if !ends.unflushed {
            waited = false;
        } else if !std::mem::replace(&mut waited, true) {
            cx.waker().wake_by_ref();
        } else {
            match ends.send(cx) {
                Poll::Ready(Ok(())) => waited = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await
}

impl<S: AsyncRead + AsyncWrite + Unpin> Ends<S> {
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.output.len() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.output[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        self.output.clear();
        self.output.shrink_to(KEEP);
        self.sent = 0;
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let ends = &mut *self.0.lock();
        if ends.unread.is_empty() {
            let mut input = ReadBuf::new(&mut ends.input);
            ready!(Pin::new(&mut ends.socket).poll_read(cx, &mut input))?;
            ends.unread = 0..input.filled().len();
        }
        let n = ends.unread.len().min(to.remaining());
        to.put_slice(&ends.input[ends.unread.start..][..n]);
        ends.unread.start += n;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let ends = &mut *self.0.lock();
        if ends.output.len() >= LIMIT {
            ready!(ends.send(cx))?;
        }
        ends.unflushed = true;
        for slice in slices {
            ends.output.extend_from_slice(slice);
        }
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is written leaves at the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ends = &mut *self.0.lock();
        ready!(ends.send(cx))?;
        Pin::new(&mut ends.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_written_in_a_turn_leaves_together() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let wire = Wire::new(ours);
        let mut writer = wire.clone();
        let connection = async move {
            writer.write_all(b"one ").await.expect("room");
            writer.flush().await.expect("no error");
            writer.write_all(b"two").await.expect("room");
            std::future::pending::<()>().await;
        };
        tokio::spawn(drive(wire, connection));
        let mut read = [0; 64];
        let n = theirs.read(&mut read).await.expect("bytes");
        assert_eq!(&read[..n], b"one two");
    }

    #[tokio::test]
    async fn more_than_the_limit_leaves_in_parts_and_whole() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let wire = Wire::new(ours);
        let mut writer = wire.clone();
        let text: Vec<u8> = (0..3 * LIMIT).map(|i| (i % 251) as u8).collect();
        let expected = text.clone();
        let connection = async move {
            for part in text.chunks(10_000) {
                writer.write_all(part).await.expect("room in the end");
            }
            writer.shutdown().await.expect("all is sent");
            std::future::pending::<()>().await;
        };
        tokio::spawn(drive(wire, connection));
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).await.expect("bytes");
        assert!(read == expected, "{} bytes of {}", read.len(), expected.len());
    }

    #[tokio::test]
    async fn small_reads_get_what_one_large_read_brought() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut wire = Wire::new(ours);
        theirs.write_all(b"some bytes").await.expect("room");
        drop(theirs);
        let mut read = Vec::new();
        loop {
            let mut two = [0; 2];
            match wire.read(&mut two).await.expect("bytes") {
                0 => break,
                n => read.extend_from_slice(&two[..n]),
            }
        }
        assert_eq!(read, b"some bytes");
    }
}
