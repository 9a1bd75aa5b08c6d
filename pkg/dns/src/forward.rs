//! Questions about the rest of the world, passed on as they came.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_server::proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// How long one resolver may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Questions being forwarded at once; further ones are answered SERVFAIL.
const MAX_CONCURRENT: usize = 1000;

/// Resolvers outside the cluster.
#[derive(Debug, Clone)]
pub struct Forwarder {
    upstreams: Arc<[SocketAddr]>,
    slots: Arc<Semaphore>,
}

impl Forwarder {
    /// Forwards to these, in order.
    pub fn new(upstreams: Vec<SocketAddr>) -> Self {
        Self { upstreams: upstreams.into(), slots: Arc::new(Semaphore::new(MAX_CONCURRENT)) }
    }

    /// Whether there is anyone to ask.
    pub fn is_configured(&self) -> bool {
        !self.upstreams.is_empty()
    }

    /// Asks the resolvers one after the other; `None` when none of them answers.
    pub async fn ask(&self, question: &[u8], id: u16) -> Option<Message> {
        let _slot = self.slots.try_acquire().ok()?;
        for upstream in self.upstreams.iter() {
            match tokio::time::timeout(TIMEOUT, exchange(*upstream, question, id)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%upstream, %error, "resolver failed"),
                Err(_) => tracing::debug!(%upstream, "resolver did not answer"),
            }
        }
        None
    }
}

/// UDP first, TCP when the answer was cut short.
async fn exchange(upstream: SocketAddr, question: &[u8], id: u16) -> std::io::Result<Message> {
    let any = match upstream {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let invalid = |reason: String| std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
    let socket = UdpSocket::bind(any).await?;
    // A connected socket takes answers from that resolver only.
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Ok(answer) = Message::from_vec(&buffer[..length]) else { continue };
        if answer.metadata.id != id {
            continue;
        }
        if !answer.metadata.truncation {
            return Ok(answer);
        }
        break;
    }
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(question.len()).map_err(|_| invalid("question too long".into()))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(question).await?;
    let length = usize::from(stream.read_u16().await?);
    stream.read_exact(&mut buffer[..length]).await?;
    let answer = Message::from_vec(&buffer[..length]).map_err(|e| invalid(e.to_string()))?;
    if answer.metadata.id == id { Ok(answer) } else { Err(invalid("answer to another question".into())) }
}
