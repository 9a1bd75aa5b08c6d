//! The engine: requests to etcd, each with a time limit, and the hub its one watch feeds.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, Compare as EtcdCompare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
};
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
use crate::transport::InOneTask;

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
        let options = config.connect_options()?;
        let connect = Client::connect_with_balanced_channel(&config.servers, Some(options), InOneTask);
        let client = tokio::time::timeout(config.request_timeout, connect)
            .await
            .map_err(|_| convert::too_late())?
            .map_err(|e| convert::error(&e, Revision(0), Revision(0)))?;
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
    pub(crate) fn error(&self, error: &etcd_client::Error, asked: Revision) -> Error {
        convert::error(error, asked, self.hub.revision())
    }

    /// The answer to a request, or an error when it takes too long.
    pub(crate) async fn in_time<T>(
        &self,
        asked: Revision,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.config.request_timeout, request).await {
            Ok(answer) => answer.map_err(|e| self.error(&e, asked)),
            Err(_) => Err(convert::too_late()),
        }
    }

    /// A range request; tried again when etcd is unavailable, as it changes nothing.
    async fn get(
        &self,
        key: &str,
        options: GetOptions,
        asked: Revision,
    ) -> Result<etcd_client::GetResponse, Error> {
        let mut tries = 0;
        loop {
            let mut client = self.client.kv_client().max_decoding_message_size(convert::MAX_MESSAGE);
            match self.in_time(asked, client.get(key, Some(options.clone()))).await {
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
                let key = format!("{}\0", self.root);
                let answer = self.get(&key, GetOptions::new().with_count_only(), Revision(0)).await?;
                Ok(header_revision(answer.header()))
            })
            .await
    }

    /// Asks etcd for its version and notes what it can be trusted with.
    pub(crate) async fn learn_version(&self) -> Result<(), Error> {
        let mut client = self.client.maintenance_client();
        let status = self.in_time(Revision(0), client.status()).await?;
        let reliable = convert::progress_is_reliable(status.version());
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
            let mut options = GetOptions::new().with_limit(left as i64);
            // one key is not a range to etcd
            if request.end.strip_prefix(start.as_str()) != Some("\0") {
                options =
                    options.with_range(if request.end.is_empty() { "\0" } else { request.end.as_str() });
            }
            if let Some(revision) = revision {
                options = options.with_revision(revision.0);
            }
            let mut answer = self.inner.get(&start, options, revision.unwrap_or_default()).await?;
            if found.revision == Revision(0) {
                found.revision = header_revision(answer.header());
                found.count = answer.count() as usize;
                // the pages that follow are of the same moment
                revision.get_or_insert(found.revision);
            }
            let more = answer.more();
            for kv in answer.take_kvs() {
                found.kvs.push(convert::key_value(kv)?);
            }
            let enough = request.limit > 0 && found.kvs.len() >= request.limit;
            match found.kvs.last() {
                Some(last) if more && !enough => start = format!("{}\0", last.key),
                _ => return Ok(found),
            }
        }
    }

    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<TxnResponse, Error> {
        let conditions: Vec<_> = compares
            .iter()
            .map(|c| EtcdCompare::mod_revision(c.key.as_bytes(), CompareOp::Equal, c.mod_revision.0))
            .collect();
        let reads: Vec<_> = compares.iter().map(|c| TxnOp::get(c.key.as_bytes(), None)).collect();
        let writes: Vec<_> = ops.into_iter().map(write).collect();
        let txn = Txn::new().when(conditions).and_then(writes).or_else(reads);
        let mut client = self.inner.client.kv_client().max_decoding_message_size(convert::MAX_MESSAGE);
        let answer = self.inner.in_time(Revision(0), client.txn(txn)).await?;
        let revision = header_revision(answer.header());
        let mut current = Vec::new();
        if !answer.succeeded() {
            for response in answer.op_responses() {
                let TxnOpResponse::Get(mut found) = response else { continue };
                current.push(found.take_kvs().into_iter().next().map(convert::key_value).transpose()?);
            }
        }
        Ok(TxnResponse { succeeded: answer.succeeded(), revision, current })
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
        let mut client = self.inner.client.lease_client();
        let granted = self.inner.in_time(Revision(0), client.grant(ttl_seconds, None)).await?;
        Ok(LeaseId(granted.id()))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let mut client = self.inner.client.kv_client();
        self.inner.in_time(revision, client.compact(revision.0, None)).await?;
        drop(self.inner.hub.trim(revision));
        Ok(())
    }

    async fn size(&self) -> Result<u64, Error> {
        let mut client = self.inner.client.maintenance_client();
        let status = self.inner.in_time(Revision(0), client.status()).await?;
        Ok(status.db_size().try_into().unwrap_or(0))
    }

    async fn health(&self) -> Result<(), Error> {
        // as upstream's check: a linearizable read of a key that need not exist
        let key = format!("{}health", self.inner.root);
        self.inner.get(&key, GetOptions::new(), Revision(0)).await.map(|_| ())
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let mut answer = self.inner.get(key, GetOptions::new(), Revision(0)).await?;
        answer.take_kvs().into_iter().next().map(convert::key_value).transpose()
    }
}

fn write(op: Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_bytes(), &value[..], options)
        }
        Op::Delete { key } => TxnOp::delete(key.as_bytes(), None),
    }
}

fn header_revision(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    Revision(header.map_or(0, etcd_client::ResponseHeader::revision))
}
