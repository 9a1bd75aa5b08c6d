//! An encrypted HTTP/2 connection whose frames leave together.
//!
//! hyper hands its frames over one at a time and flushes after each. To send each by itself costs a system call, a
//! packet and a wake-up of the client a frame. Here frames wait as records until the connection's task has had its turn,
//! and where many streams write at once, until they have had theirs: [`drive`] says when.

use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::streams::{Running, Streams};

/// Largest record of TLS.
const RECORD: usize = 16 * 1024;
/// Writes shorter than this share a record.
const SMALL: usize = 1024;
/// What shares a record takes this much at most.
const SMALL_TOTAL: usize = 4 * 1024;
/// So much is sent without waiting for the end of the turn.
const SEND_AT: usize = 64 * 1024;
/// Turns that are waited for as long as each brings more.
const MAX_TURNS: u32 = 1;
/// With so much unsent nothing more is taken.
const LIMIT: usize = 2 * SEND_AT;

/// The connection, shared by hyper, which writes, and by [`drive`], which sends.
#[derive(Clone)]
pub(crate) struct Link(Arc<Mutex<Ends>>);

struct Ends {
    socket: TcpStream,
    session: ServerConnection,
    /// Short writes not yet in a record.
    small: Vec<u8>,
    /// Bytes written and not yet sent, about.
    unsent: usize,
    /// Something was written in this turn.
    written: bool,
    /// A write was refused: whoever sends what is in the way must wake the task.
    refused: bool,
    /// Sending has failed.
    broken: bool,
    closed: bool,
}

impl Link {
    /// A connection whose handshake is over.
    pub(crate) fn new(socket: TcpStream, mut session: ServerConnection) -> Self {
        // bounded here, by what was written
        session.set_buffer_limit(None);
        Self(Arc::new(Mutex::new(Ends {
            socket,
            session,
            small: Vec::new(),
            unsent: 0,
            written: false,
            refused: false,
            broken: false,
            closed: false,
        })))
    }
}

/// Runs a connection that uses a link, with its streams, and sends what was written in its turns.
///
/// A turn in which something was written is followed by another before anything is sent, at the end of the run queue:
/// what is still busy waking more streams of this connection has done so by then, and one call sends it all. With
/// nothing else to run that is at once.
pub(crate) async fn drive<T>(link: Link, streams: Streams, connection: impl Future<Output = T>) -> T {
    let mut connection = pin!(connection);
    let mut running = Running::new(streams);
    let mut turns = 0;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = running.poll(cx, connection.as_mut()) {
            return Poll::Ready(output);
        }
        let mut ends = link.0.lock();
        let more = std::mem::take(&mut ends.written);
        if !ends.has_unsent() {
            turns = 0;
        } else if more && turns < MAX_TURNS {
            turns += 1;
            cx.waker().wake_by_ref();
        } else {
            turns = 0;
            let sent = ends.send(cx);
            if std::mem::take(&mut ends.refused) && sent.is_ready() || matches!(sent, Poll::Ready(Err(_))) {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    })
    .await
}

impl Ends {
    fn has_unsent(&self) -> bool {
        !self.broken && (!self.small.is_empty() || self.session.wants_write())
    }

    /// Takes all of the buffers, in records as large as can be.
    fn take(&mut self, bufs: &[IoSlice<'_>], len: usize) -> io::Result<()> {
        self.unsent += len;
        if len < SMALL && self.small.len() + len <= SMALL_TOTAL {
            for buf in bufs {
                self.small.extend_from_slice(buf);
            }
            return Ok(());
        }
        let before = std::mem::take(&mut self.small);
        let total = before.len() + len;
        // a frame of the usual largest size is a little more than a record: the rest waits for company
        let rest = total % RECORD;
        let whole = if rest < SMALL { total - rest } else { total };
        let mut parts = Vec::with_capacity(bufs.len() + 1);
        let mut left = whole;
        for buf in std::iter::once(&before[..]).chain(bufs.iter().map(|buf| &**buf)) {
            let part = &buf[..buf.len().min(left)];
            left -= part.len();
            if !part.is_empty() {
                parts.push(IoSlice::new(part));
            }
        }
        // fewer than offered when keys are renewed in between
        let mut taken = if parts.is_empty() { 0 } else { self.session.writer().write_vectored(&parts)? };
        for buf in std::iter::once(&before[..]).chain(bufs.iter().map(|buf| &**buf)) {
            let skipped = buf.len().min(taken);
            taken -= skipped;
            self.small.extend_from_slice(&buf[skipped..]);
        }
        Ok(())
    }

    /// Sends everything.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.send_all(cx);
        self.broken |= matches!(sent, Poll::Ready(Err(_)));
        sent
    }

    fn send_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let small = std::mem::take(&mut self.small);
        self.session.writer().write_all(&small)?;
        while self.session.wants_write() {
            match self.session.write_tls(&mut Socket { socket: &mut self.socket, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(sent) => self.unsent = self.unsent.saturating_sub(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.unsent = 0;
        Poll::Ready(Ok(()))
    }

    fn read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.session.reader().into_first_chunk() {
                Ok(chunk) => {
                    let len = chunk.len().min(out.remaining());
                    out.put_slice(&chunk[..len]);
                    io::BufRead::consume(&mut self.session.reader(), len);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            match self.session.read_tls(&mut Socket { socket: &mut self.socket, cx }) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
            if let Err(error) = self.session.process_new_packets() {
                // the alert that says so may still reach the client
                let _ = self.send(cx);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.lock().read(cx, out)
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut ends = self.0.lock();
        if ends.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if ends.unsent >= SEND_AT && ends.send(cx)?.is_pending() && ends.unsent >= LIMIT {
            ends.refused = true;
            return Poll::Pending;
        }
        let len = bufs.iter().map(|buf| buf.len()).sum();
        ends.take(bufs, len)?;
        ends.written = true;
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: [`drive`] sends.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let broken = self.0.lock().broken;
        Poll::Ready(if broken { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) })
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.0.lock();
        if !std::mem::replace(&mut ends.closed, true) {
            let small = std::mem::take(&mut ends.small);
            ends.session.writer().write_all(&small)?;
            ends.session.send_close_notify();
        }
        ready!(ends.send(cx))?;
        match ready!(Pin::new(&mut ends.socket).poll_shutdown(cx)) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// The socket as rustls wants it: what is not ready would block.
struct Socket<'a, 'c> {
    socket: &'a mut TcpStream,
    cx: &'a mut Context<'c>,
}

fn unless_pending<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Read for Socket<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        unless_pending(Pin::new(&mut *self.socket).poll_read(self.cx, &mut buf))?;
        Ok(buf.filled().len())
    }
}

impl Write for Socket<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        unless_pending(Pin::new(&mut *self.socket).poll_write(self.cx, buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        unless_pending(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::ServerName;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::{pki, tls};

    /// Both ends of a connection on loopback.
    async fn pair() -> (Link, TlsStream<TcpStream>) {
        let ca = pki::Ca::new("test").expect("a CA");
        let pair =
            ca.issue_server("server", None, &[pki::Host::Dns("localhost".into())]).expect("a certificate");
        let certificate = tls::ServerCertificate::fixed(pair.cert.as_bytes(), pair.key.as_bytes());
        let config = tls::server_config(certificate.expect("a pair"), None).expect("a configuration");
        let roots = tls::roots(ca.pem().cert.as_bytes()).expect("roots");
        let client = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connecting = async {
            let socket = TcpStream::connect(address).await.expect("a connection");
            let name = ServerName::try_from("localhost").expect("a name");
            TlsConnector::from(Arc::new(client)).connect(name, socket).await.expect("a handshake")
        };
        let accepting = async {
            let (socket, _) = listener.accept().await.expect("a connection");
            TlsAcceptor::from(config).accept(socket).await.expect("a handshake")
        };
        let (client, server) = tokio::join!(connecting, accepting);
        let (socket, session) = server.into_inner();
        (Link::new(socket, session), client)
    }

    #[tokio::test]
    async fn what_is_written_arrives_as_it_was_though_the_client_is_slow() {
        let (link, mut client) = pair().await;
        // about records' and shared records' limits, and in all more than sockets hold
        let lengths =
            [1, 9, SMALL - 1, SMALL, 3 * SMALL, 8411, RECORD - 1, RECORD, RECORD + 9, RECORD + SMALL];
        let pieces: Vec<Vec<u8>> =
            (0..2000_usize).map(|i| vec![(i % 251) as u8; lengths[i * 7 / 3 % lengths.len()]]).collect();
        let expected = pieces.concat();
        let mut writer = link.clone();
        let writing = tokio::spawn(drive(link, Streams::default(), async move {
            for piece in pieces {
                writer.write_all(&piece).await.expect("written");
                writer.flush().await.expect("flushed");
            }
            writer.shutdown().await.expect("shut down");
        }));
        let mut read = Vec::new();
        while client.read_buf(&mut read).await.expect("read") > 0 {
            tokio::task::yield_now().await;
        }
        assert!(read == expected, "{} bytes of {}", read.len(), expected.len());
        writing.await.expect("no panic");
    }

    /// Lengths of the records that have arrived and were not read.
    async fn records(client: &TlsStream<TcpStream>) -> Vec<usize> {
        const HEADER: usize = 5;
        let mut buf = [0; 8192];
        let arrived = client.get_ref().0.peek(&mut buf).await.expect("not closed");
        let (mut rest, mut lengths) = (&buf[..arrived], Vec::new());
        while let [_, _, _, high, low, ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            lengths.push(length);
            rest = rest.get(HEADER + length..).unwrap_or_default();
        }
        lengths
    }

    #[tokio::test]
    async fn what_streams_write_in_turn_leaves_together() {
        let (link, mut client) = pair().await;
        let mut connection = link.clone();
        // flushed each, by another task as hyper's streams are; the connection is woken by each
        let (frames, mut queue) = tokio::sync::mpsc::unbounded_channel::<u8>();
        let driven = tokio::spawn(drive(link, Streams::default(), async move {
            while let Some(frame) = queue.recv().await {
                connection.write_all(&[frame; 100]).await.expect("written");
                connection.flush().await.expect("flushed");
            }
        }));
        // one that comes alone is sent at once
        frames.send(0).expect("open");
        let mut buf = [0; 8192];
        assert_eq!(client.read(&mut buf).await.expect("read"), 100);
        for i in 1..=10 {
            let frames = frames.clone();
            tokio::spawn(async move { frames.send(i) });
        }
        let arrived = records(&client).await;
        assert!(matches!(arrived[..], [1000..1100]), "{arrived:?}");
        drop(frames);
        driven.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_client_that_is_gone_ends_the_connection() {
        let (link, client) = pair().await;
        drop(client);
        let mut writer = link.clone();
        let error = drive(link, Streams::default(), async move {
            loop {
                if let Err(error) = writer.write_all(&[0; RECORD]).await {
                    break error;
                }
                if let Err(error) = writer.flush().await {
                    break error;
                }
                tokio::task::yield_now().await;
            }
        });
        assert!(matches!(error.await.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset));
    }
}
