//! What every engine must do, as tests an engine's crate runs: `for case in contract::CASES { case.run(fixture).await }`.
//!
//! A case has an engine and a root no other case writes under, and panics when the engine breaks the contract. Cases
//! that forget history come last, so that one server can take them all in turn.

mod history;
mod random;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;

use crate::{
    Compare, Error, Event, KeyValue, Op, RangeRequest, RangeResponse, Revision, Storage, TxnResponse,
    WatchMessage, WatchStream, prefix_end,
};

/// Longest wait for anything a watch must deliver.
const PATIENCE: Duration = Duration::from_secs(20);

/// One case of the contract.
pub struct Case {
    /// Its name: what must hold.
    pub name: &'static str,
    run: fn(Fixture) -> BoxFuture<'static, ()>,
}

impl Case {
    /// Runs it; panics when the contract is broken.
    pub async fn run(&self, storage: &Arc<dyn Storage>) {
        let root = format!("/registry/contract-{}", self.name);
        (self.run)(Fixture { storage: Arc::clone(storage), root }).await;
    }
}

macro_rules! cases {
    ($($module:ident :: $name:ident),* $(,)?) => {
        /// All cases, in the order to run them in.
        pub const CASES: &[Case] = &[
            $(Case { name: stringify!($name), run: |fixture| Box::pin($module::$name(fixture)) }),*
        ];
    };
}

cases![
    writes::revisions_grow_and_a_transaction_has_one,
    writes::a_key_is_created_once,
    writes::only_the_current_revision_is_replaced,
    writes::a_transaction_is_made_whole_or_not_at_all,
    writes::deleting_nothing_changes_nothing,
    writes::a_key_is_written_once_in_a_transaction,
    writes::values_are_opaque,
    writes::large_values_are_kept_and_too_large_ones_refused,
    writes::ranges_are_ordered_limited_and_counted,
    writes::large_ranges_are_complete,
    writes::what_is_acknowledged_is_read,
    writes::leases_end_what_they_hold,
    writes::unknown_leases_are_refused,
    history::past_revisions_are_read,
    history::future_revisions_are_refused,
    history::watches_see_their_prefix_in_order,
    history::watches_begin_in_the_past,
    history::a_long_past_is_kept_until_it_is_compacted,
    history::watches_wait_for_the_future,
    history::a_revision_is_not_split,
    history::progress_comes_when_asked,
    history::freshness_says_what_a_watch_must_have_seen,
    random::a_watch_adds_up_to_the_store,
    random::random_writes_behave_as_a_map_does,
    history::compaction_forgets_the_past_only,
];

/// An engine and a root of keys for one case.
struct Fixture {
    storage: Arc<dyn Storage>,
    root: String,
}

impl Fixture {
    fn key(&self, name: &str) -> Arc<str> {
        format!("{}/{name}", self.root).into()
    }

    fn prefix(&self) -> String {
        format!("{}/", self.root)
    }

    async fn put(&self, name: &str, value: impl Into<Bytes>) -> Revision {
        let op = Op::Put { key: self.key(name), value: value.into(), lease: None };
        self.write(vec![op]).await
    }

    async fn delete(&self, name: &str) -> Revision {
        self.write(vec![Op::Delete { key: self.key(name) }]).await
    }

    async fn write(&self, ops: Vec<Op>) -> Revision {
        let response = self.storage.txn(Vec::new(), ops).await.unwrap();
        assert!(response.succeeded, "a transaction without conditions succeeds");
        response.revision
    }

    async fn put_if(&self, name: &str, mod_revision: Revision, value: &'static str) -> TxnResponse {
        let compare = Compare { key: self.key(name), mod_revision };
        let op = Op::Put { key: self.key(name), value: Bytes::from_static(value.as_bytes()), lease: None };
        self.storage.txn(vec![compare], vec![op]).await.unwrap()
    }

    async fn get(&self, name: &str) -> Option<KeyValue> {
        self.storage.get(&self.key(name)).await.unwrap()
    }

    async fn range(&self, revision: Option<Revision>, limit: usize) -> Result<RangeResponse, Error> {
        let start = self.prefix();
        let end = prefix_end(&start);
        self.storage.range(RangeRequest { start, end, limit, revision }).await
    }

    /// `name=value` of all keys.
    async fn dump(&self, revision: Option<Revision>) -> Vec<String> {
        let found = self.range(revision, 0).await.unwrap();
        found.kvs.iter().map(|kv| self.show(kv)).collect()
    }

    fn show(&self, kv: &KeyValue) -> String {
        let name = kv.key.strip_prefix(&self.prefix()).expect("keys of the range have its prefix");
        format!("{name}={}", String::from_utf8_lossy(&kv.value))
    }

    async fn watch(&self, start: Revision) -> Watching {
        let stream = self.storage.watch(&self.prefix(), start).await.unwrap();
        Watching { stream, seen: Revision(start.0 - 1) }
    }

    async fn watch_with_prev(&self, start: Revision) -> Watching {
        let stream = self.storage.watch_with_prev(&self.prefix(), start).await.unwrap();
        Watching { stream, seen: Revision(start.0 - 1) }
    }
}

/// A watch that checks the order of what it gets.
struct Watching {
    stream: WatchStream,
    seen: Revision,
}

impl Watching {
    async fn message(&mut self) -> Result<WatchMessage, Error> {
        let next = tokio::time::timeout(PATIENCE, self.stream.next());
        let message = next.await.expect("a watch delivers in time").expect("a watch does not just end")?;
        match &message {
            WatchMessage::Events(events) => {
                assert!(!events.is_empty(), "an empty message");
                assert!(events.iter().all(|e| e.kv.mod_revision > self.seen), "a revision split or again");
                assert!(events.is_sorted_by_key(|e| e.kv.mod_revision), "events out of order");
                self.seen = events.last().map_or(self.seen, |e| e.kv.mod_revision);
            }
            WatchMessage::Progress(revision) => {
                assert!(*revision >= self.seen, "progress goes back");
                self.seen = *revision;
            }
        }
        Ok(message)
    }

    /// The next events, at least `n`.
    async fn events(&mut self, n: usize) -> Vec<Event> {
        let mut all = Vec::new();
        while all.len() < n {
            if let WatchMessage::Events(events) = self.message().await.unwrap() {
                all.extend(events);
            }
        }
        all
    }
}
