//! The engine: requests to etcd, each with a time limit, and the hub its one watch feeds.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd::Client;
use etcd::messages::{self, Request, RequestOp, ResponseHeader, TxnRequest};
use parking_lot::Mutex;
use storage::hub::Hub;
use storage::{
    Compare, Error, Freshness, KeyValue, LeaseId, Op, RangeRequest, RangeResponse, Revision, Storage,
    TxnResponse, WatchStream,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::convert;
use crate::feed::{self, Wishes};
use crate::flights::Flights;
use crate::past::Past;

/// Keys of a range asked for at once.
const PAGE: usize = 1000;
/// Tries of a request that changes nothing.
const READ_TRIES: u32 = 3;
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// A consistent read waits this long for the hub to have seen what etcd has.
const CATCH_UP: Duration = Duration::from_secs(3);
/// How often progress is asked for meanwhile.
const CATCH_UP_ASK: Duration = Duration::from_millis(50);

/// The engine over an etcd cluster. Stops when dropped; [`Etcd::close`] waits for it.
pub struct Etcd {
    inner: Arc<Inner>,
    stop: CancellationToken,
    feed: Mutex<Option<JoinHandle<()>>>,
}

pub(crate) struct Inner {
    pub(crate) client: Client,
    pub(crate) config: Config,
    /// Prefix of all keys, with a slash at its end.
    pub(crate) root: String,
    pub(crate) hub: Hub,
    pub(crate) wishes: Wishes,
    flights: Flights,
}

impl Etcd {
    /// Connects to a cluster and begins to follow it. Fails when no member answers.
    pub async fn connect(config: Config) -> Result<Arc<Self>, Error> {
        let client = config.client()?;
        let root = config.root();
        let mut inner = Inner {
            client,
            config,
            root,
            hub: Hub::new(Revision(0), Revision(0)),
            wishes: Wishes::default(),
            flights: Flights::default(),
        };
        inner.learn_version().await?;
        let revision = inner.current_revision().await?;
        inner.hub = Hub::new(revision, revision);
        let inner = Arc::new(inner);
        let stop = CancellationToken::new();
        let feed = tokio::spawn(feed::run(Arc::clone(&inner), stop.clone()));
        Ok(Arc::new(Self { inner, stop, feed: Mutex::new(Some(feed)) }))
    }

    /// Ends all watches and the connection's task.
    pub async fn close(&self) {
        self.stop.cancel();
        let feed = self.feed.lock().take();
        if let Some(feed) = feed {
            // a panic in there has been reported by the panic hook
            let _ = feed.await;
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Inner {
    /// What a failure means.
    pub(crate) fn error(&self, error: &etcd::Error, asked: Revision) -> Error {
        convert::error(error, asked, self.hub.revision())
    }

    /// The answer to a request, or an error when it takes too long.
    pub(crate) async fn in_time<T>(
        &self,
        asked: Revision,
        request: impl Future<Output = Result<T, etcd::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.config.request_timeout, request).await {
            Ok(answer) => answer.map_err(|e| self.error(&e, asked)),
            Err(_) => Err(convert::too_late()),
        }
    }

    /// A range request; tried again when etcd is unavailable, as it changes nothing.
    async fn read(&self, request: &messages::RangeRequest) -> Result<messages::RangeResponse, Error> {
        let mut tries = 0;
        loop {
            match self.in_time(Revision(request.revision), self.client.range(request)).await {
                Err(Error::Unavailable(text)) if tries + 1 < READ_TRIES => {
                    tracing::debug!(text, "trying again to read from etcd");
                    tries += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    /// The latest revision, linearizably, by a question put after this call.
    pub(crate) async fn current_revision(&self) -> Result<Revision, Error> {
        self.flights
            .ask(async {
                // a key that does not exist: nothing is read but the revision
                let key = format!("{}\0", self.root).into();
                let nothing = messages::RangeRequest { key, count_only: true, ..Default::default() };
                Ok(header_revision(self.read(&nothing).await?.header.as_ref()))
            })
            .await
    }

    /// Asks etcd for its version and notes what it can be trusted with.
    pub(crate) async fn learn_version(&self) -> Result<(), Error> {
        let status = self.in_time(Revision(0), self.client.status()).await?;
        let reliable = convert::progress_is_reliable(&status.version);
        self.wishes.unreliable.store(!reliable, std::sync::atomic::Ordering::Release);
        Ok(())
    }

    /// Waits until the hub has seen a revision of etcd.
    async fn catch_up(&self, revision: Revision) -> Result<(), Error> {
        if self.hub.revision() >= revision {
            return Ok(());
        }
        let wait = async {
            while tokio::time::timeout(CATCH_UP_ASK, self.hub.reaches(revision)).await.is_err() {
                self.wishes.ask_for_progress();
            }
        };
        tokio::time::timeout(CATCH_UP, wait).await.map_err(|_| {
            Error::Timeout(format!("the watch of etcd has not come to revision {revision} in time"))
        })
    }
}

impl Etcd {
    fn not_watched(&self, prefix: &str) -> Error {
        Error::Invalid(format!("only keys under {} can be watched, {prefix} is not", self.inner.root))
    }
}

#[async_trait]
impl Storage for Etcd {
    async fn current_revision(&self) -> Result<Revision, Error> {
        self.inner.current_revision().await
    }

    async fn freshness(&self, prefix: &str) -> Result<Freshness, Error> {
        let seen = self.inner.hub.revision();
        let revision = self.inner.current_revision().await?;
        if revision < seen {
            // etcd has gone back: restored from a backup
            return Ok(Freshness { revision, changed: revision });
        }
        self.inner.catch_up(revision).await?;
        Ok(self.inner.hub.freshness(prefix))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let mut revision = request.revision;
        let mut start = request.start;
        let mut found = RangeResponse::default();
        loop {
            let left = if request.limit == 0 { PAGE } else { PAGE.min(request.limit - found.kvs.len()) };
            // one key is not a range to etcd
            let one = request.end.strip_prefix(start.as_str()) == Some("\0");
            let range_end = match request.end.as_str() {
                _ if one => Bytes::new(),
                "" => Bytes::from_static(b"\0"),
                end => Bytes::copy_from_slice(end.as_bytes()),
            };
            let page = messages::RangeRequest {
                key: start.into(),
                range_end,
                limit: left as i64,
                revision: revision.unwrap_or_default().0,
                count_only: false,
            };
            let answer = self.inner.read(&page).await?;
            if found.revision == Revision(0) {
                found.revision = header_revision(answer.header.as_ref());
                found.count = answer.count as usize;
                // the pages that follow are of the same moment
                revision.get_or_insert(found.revision);
            }
            for kv in convert::key_values(answer.kvs) {
                found.kvs.push(kv?);
            }
            let enough = request.limit > 0 && found.kvs.len() >= request.limit;
            match found.kvs.last() {
                Some(last) if answer.more && !enough => start = format!("{}\0", last.key),
                _ => return Ok(found),
            }
        }
    }

    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<TxnResponse, Error> {
        let key = |compare: &Compare| Bytes::copy_from_slice(compare.key.as_bytes());
        let request = TxnRequest {
            compare: compares
                .iter()
                .map(|c| messages::Compare::mod_revision(key(c), c.mod_revision.0))
                .collect(),
            success: ops.into_iter().map(write).collect(),
            failure: compares.iter().map(|c| Request::Range(read_one(key(c))).into()).collect(),
        };
        let answer = self.inner.in_time(Revision(0), self.inner.client.txn(&request)).await?;
        let revision = header_revision(answer.header.as_ref());
        let mut current = Vec::new();
        if !answer.succeeded {
            for range in answer.responses.into_iter().filter_map(|response| response.range) {
                current.push(convert::key_values(range.kvs).next().transpose()?);
            }
        }
        Ok(TxnResponse { succeeded: answer.succeeded, revision, current })
    }

    async fn watch(&self, prefix: &str, start: Revision) -> Result<WatchStream, Error> {
        match self.inner.hub.watch(prefix, start) {
            Err(Error::Compacted { .. }) if prefix.starts_with(self.inner.root.as_str()) => {
                Ok(Past::open(Arc::clone(&self.inner), prefix.to_owned(), start, false))
            }
            Ok(_) | Err(_) if !prefix.starts_with(self.inner.root.as_str()) => Err(self.not_watched(prefix)),
            opened => opened,
        }
    }

    async fn watch_with_prev(&self, prefix: &str, start: Revision) -> Result<WatchStream, Error> {
        if !prefix.starts_with(self.inner.root.as_str()) {
            return Err(self.not_watched(prefix));
        }
        Ok(Past::open(Arc::clone(&self.inner), prefix.to_owned(), start, true))
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.inner.wishes.ask_for_progress();
        self.inner.hub.request_progress();
        Ok(())
    }

    async fn grant_lease(&self, ttl_seconds: i64) -> Result<LeaseId, Error> {
        let granted = self.inner.client.grant_lease(ttl_seconds);
        Ok(LeaseId(self.inner.in_time(Revision(0), granted).await?.id))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.in_time(revision, self.inner.client.compact(revision.0)).await?;
        drop(self.inner.hub.trim(revision));
        Ok(())
    }

    async fn size(&self) -> Result<u64, Error> {
        let status = self.inner.in_time(Revision(0), self.inner.client.status()).await?;
        Ok(status.db_size.try_into().unwrap_or(0))
    }

    async fn health(&self) -> Result<(), Error> {
        // as upstream's check: a linearizable read of a key that need not exist
        let key = format!("{}health", self.inner.root);
        self.get(&key).await.map(|_| ())
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let request = read_one(Bytes::copy_from_slice(key.as_bytes()));
        convert::key_values(self.inner.read(&request).await?.kvs).next().transpose()
    }
}

fn read_one(key: Bytes) -> messages::RangeRequest {
    messages::RangeRequest { key, ..Default::default() }
}

fn write(op: Op) -> RequestOp {
    match op {
        Op::Put { key, value, lease } => Request::Put(messages::PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value,
            lease: lease.map_or(0, |lease| lease.0),
        }),
        Op::Delete { key } => {
            Request::DeleteRange(messages::DeleteRangeRequest { key: Bytes::copy_from_slice(key.as_bytes()) })
        }
    }
    .into()
}

fn header_revision(header: Option<&ResponseHeader>) -> Revision {
    Revision(header.map_or(0, |header| header.revision))
}
