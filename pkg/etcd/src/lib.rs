//! A client of etcd v3: what an API server asks of etcd, and no more.
//!
//! It is gRPC on h2 without the layers that general clients have between the two: a small write's way to etcd and back is
//! most of what it costs (docs/adr/0014). Requests wait for no one but etcd; limits on their time are the caller's, who
//! drops what takes too long. Values are not copied on their way out of an answer.
//!
//! The API: <https://etcd.io/docs/latest/learning/api/>.

mod connection;
mod error;
mod grpc;
mod members;
pub mod messages;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use h2::SendStream;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use prost::Message;

pub use error::Error;
use grpc::Answer;
use members::Members;
use messages::{
    CompactionRequest, Empty, LeaseGrantRequest, LeaseGrantResponse, RangeRequest, RangeResponse,
    StatusResponse, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse, Wish,
};

/// A client of a cluster. Connections are made, and made again, in the background; they end when it is dropped.
pub struct Client {
    members: Members,
    /// Of every request.
    headers: HeaderMap,
}

impl Client {
    /// A client of the members at these URLs, all `http` or all `https`. TLS is spoken as `tls` says.
    ///
    /// Fails when a URL is none, or `tls` is missing or has no use. Whether a member answers shows at the first request.
    ///
    /// # Panics
    /// Outside of a runtime, which the connections need.
    pub fn new(servers: &[String], tls: Option<Arc<rustls::ClientConfig>>) -> Result<Self, Error> {
        let scheme = if tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let address = |server: &String| -> Result<Uri, Error> {
            let uri: Uri =
                server.parse().map_err(|e| Error::Invalid(format!("etcd server {server}: {e}")))?;
            if uri.scheme() != Some(&scheme) || uri.host().is_none_or(str::is_empty) {
                return Err(Error::Invalid(format!(
                    "etcd server {server} is not of the form {scheme}://host:port"
                )));
            }
            Ok(uri)
        };
        let addresses = servers.iter().map(address).collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Err(Error::Invalid("no etcd server is given".into()));
        }
        Ok(Self { members: Members::new(addresses, tls), headers: headers() })
    }

    /// Reads keys.
    pub async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        self.call("/etcdserverpb.KV/Range", request).await
    }

    /// Runs a transaction.
    pub async fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        self.call("/etcdserverpb.KV/Txn", request).await
    }

    /// Forgets the past.
    pub async fn compact(&self, revision: i64) -> Result<(), Error> {
        self.call::<Empty>("/etcdserverpb.KV/Compact", &CompactionRequest { revision }).await.map(drop)
    }

    /// Makes a lease that lasts so many seconds.
    pub async fn grant_lease(&self, ttl: i64) -> Result<LeaseGrantResponse, Error> {
        self.call("/etcdserverpb.Lease/LeaseGrant", &LeaseGrantRequest { ttl }).await
    }

    /// Asks a member about itself.
    pub async fn status(&self) -> Result<StatusResponse, Error> {
        self.call("/etcdserverpb.Maintenance/Status", &Empty {}).await
    }

    /// Begins a watch. That it has begun is its first message.
    pub async fn watch(&self, request: WatchCreateRequest) -> Result<Watch, Error> {
        let create = WatchRequest { wish: Some(Wish::Create(request)) };
        let (answer, requests) = self.send("/etcdserverpb.Watch/Watch", &create, false).await?;
        Ok(Watch { answer, requests })
    }

    async fn call<A: Message + Default>(
        &self,
        path: &'static str,
        message: &impl Message,
    ) -> Result<A, Error> {
        let (answer, _) = self.send(path, message, true).await?;
        answer.only().await
    }

    /// Sends a first message, the only one or not.
    async fn send(
        &self,
        path: &'static str,
        message: &impl Message,
        only: bool,
    ) -> Result<(Answer, SendStream<Bytes>), Error> {
        let (mut requests, address) = self.members.ready().await?;
        let mut target = address.clone().into_parts();
        target.path_and_query = Some(PathAndQuery::from_static(path));
        let target = Uri::from_parts(target).map_err(|e| Error::Invalid(e.to_string()))?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target;
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().clone_from(&self.headers);
        let frame = grpc::framed(message)?;
        let (response, mut stream) = requests.send_request(request, false)?;
        stream.send_data(frame, only)?;
        Ok((Answer::new(response), stream))
    }
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("kubewright"));
    // a member without a leader says so instead of answering from what it has
    headers.insert("hasleader", HeaderValue::from_static("true"));
    headers
}

/// A watch, until it is dropped.
pub struct Watch {
    answer: Answer,
    requests: SendStream<Bytes>,
}

impl Watch {
    /// The next message; none when etcd has ended the stream. Nothing is lost when the future is dropped.
    pub async fn message(&mut self) -> Result<Option<WatchResponse>, Error> {
        self.answer.next().await
    }

    /// Asks for a message that says how far the watch is.
    pub fn request_progress(&mut self) -> Result<(), Error> {
        let progress = WatchRequest { wish: Some(Wish::Progress(Empty {})) };
        Ok(self.requests.send_data(grpc::framed(&progress)?, false)?)
    }
}
