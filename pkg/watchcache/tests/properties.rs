//! Whatever happens, a list plus its watch is the store.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::World;
use futures::FutureExt as _;
use proptest::prelude::*;
use storage::Revision;
use watchcache::{
    EventKind, Filter, Interest, ListOptions, Marks, ReadVersion, WatchCache, WatchItem, WatchOptions,
    WatchStart, Watcher,
};

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Elsewhere,
    /// The engine's watch breaks; it can be resumed.
    Interrupt,
    Compact,
    /// A client lists by pages of this size and watches on.
    ListAndWatch(usize, Option<u8>),
    /// A client begins with a streamed list.
    Stream(Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..8_u8, 0..3_u8).prop_map(|(name, node)| Step::Put(name, node)),
        5 => (0..8_u8).prop_map(Step::Delete),
        1 => Just(Step::Elsewhere),
        1 => Just(Step::Interrupt),
        1 => Just(Step::Compact),
        2 => (1..4_usize, prop::option::of(0..3_u8)).prop_map(|(limit, node)| Step::ListAndWatch(limit, node)),
        1 => prop::option::of(0..3_u8).prop_map(Step::Stream),
    ]
}

type Known = BTreeMap<String, (Revision, String)>;

/// A client as informers are: a list, then every change.
struct Client {
    known: Known,
    node: Option<String>,
    watcher: Watcher,
    last: Revision,
}

fn selector(node: Option<&String>) -> (Interest, Option<Filter>) {
    match node.cloned() {
        None => (Interest::Everything, None),
        Some(node) => {
            let marks = Marks::of_field(0, &node);
            let wanted = node.clone();
            (Interest::Field(0, node), Some(Filter::new(move |o| o.field(0) == wanted).of_those_with(marks)))
        }
    }
}

impl Client {
    async fn list_and_watch(cache: &Arc<WatchCache>, limit: usize, node: Option<String>) -> Self {
        let (interest, filter) = selector(node.as_ref());
        let mut options = ListOptions { limit, filter: filter.clone(), ..ListOptions::all("") };
        let mut known = Known::new();
        let revision = loop {
            let page = cache.list(&options).await.unwrap();
            known.extend(
                page.items.iter().map(|o| (o.name().to_owned(), (o.revision(), o.field(0).to_owned()))),
            );
            if page.continue_token.is_empty() {
                break page.revision;
            }
            options.continue_token = Some(page.continue_token);
        };
        let options = WatchOptions { interest, filter, ..WatchOptions::new(WatchStart::After(revision)) };
        Self { known, node, watcher: cache.watch(options).await.unwrap(), last: revision }
    }

    async fn stream(cache: &Arc<WatchCache>, node: Option<String>) -> Self {
        let (interest, filter) = selector(node.as_ref());
        let start = WatchStart::InitialEvents(ReadVersion::Latest);
        let options = WatchOptions { interest, filter, ..WatchOptions::new(start) };
        Self { known: Known::new(), node, watcher: cache.watch(options).await.unwrap(), last: Revision(0) }
    }

    /// Reads until everything up to `end` has come.
    async fn catch_up(&mut self, end: Revision) {
        loop {
            let Some(batch) = self.watcher.next_batch(3).now_or_never() else {
                if self.watcher.position() >= end {
                    break;
                }
                tokio::task::yield_now().await;
                continue;
            };
            for item in batch.expect("the watch goes on").expect("the watch does not fail") {
                self.take(item);
            }
        }
    }

    fn take(&mut self, item: WatchItem) {
        match item {
            WatchItem::Initial(object) => {
                let new = (object.revision(), object.field(0).to_owned());
                assert!(self.known.insert(object.name().to_owned(), new).is_none());
            }
            WatchItem::Bookmark { revision, .. } => {
                assert!(revision >= self.last);
                self.last = revision;
            }
            WatchItem::Event { kind, object, .. } => {
                assert!(object.revision() > self.last, "duplicated or out of order");
                self.last = object.revision();
                let was = match kind {
                    EventKind::Deleted => self.known.remove(object.name()),
                    EventKind::Added | EventKind::Modified => self
                        .known
                        .insert(object.name().to_owned(), (object.revision(), object.field(0).to_owned())),
                };
                assert_eq!(was.is_none(), kind == EventKind::Added, "{kind:?} {}", object.name());
            }
        }
    }
}

async fn check(steps: Vec<Step>, indexed: Option<usize>) {
    let world = World::with(|config| config.indexed_field = indexed).await;
    let mut model: Known = Known::new();
    let mut clients: Vec<Client> = Vec::new();
    let mut end = Revision(0);
    let mut history: Vec<(Revision, Known)> = Vec::new();
    let node_of = |node: u8| format!("n{node}");
    for step in steps {
        match step {
            Step::Put(name, node) => {
                end = world.put("ns", &format!("o{name}"), &node_of(node)).await;
                model.insert(format!("o{name}"), (end, node_of(node)));
                history.push((end, model.clone()));
            }
            Step::Delete(name) => {
                end = world.delete("ns", &format!("o{name}")).await;
                model.remove(&format!("o{name}"));
                history.push((end, model.clone()));
            }
            Step::Elsewhere => end = world.elsewhere().await,
            Step::Interrupt => world.storage.break_watches(storage::Error::Unavailable("test".into())),
            Step::Compact => {
                // what the cache has read it does not need from the store
                world.cache.list(&ListOptions::all("")).await.unwrap();
                let _ = storage::Storage::compact(&*world.storage, end).await;
            }
            Step::ListAndWatch(limit, node) => {
                clients.push(Client::list_and_watch(&world.cache, limit, node.map(node_of)).await);
            }
            Step::Stream(node) => clients.push(Client::stream(&world.cache, node.map(node_of)).await),
        }
    }
    world.cache.list(&ListOptions::all("")).await.unwrap();
    for client in &mut clients {
        client.catch_up(end).await;
        let expected: Known = model
            .iter()
            .filter(|(_, (_, node))| client.node.as_ref().is_none_or(|n| n == node))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        assert_eq!(client.known, expected);
    }
    // every revision the cache has lived through can be read from it
    for (revision, then) in history {
        let options = ListOptions { version: ReadVersion::Exact(revision), ..ListOptions::all("") };
        let page = world.cache.list(&options).await.unwrap();
        let found: Known =
            page.items.iter().map(|o| (o.name().to_owned(), (o.revision(), o.field(0).to_owned()))).collect();
        assert_eq!(found, then, "at {revision}");
        let node = node_of(0);
        let options = ListOptions { filter: selector(Some(&node)).1, ..options };
        let page = world.cache.list(&options).await.unwrap();
        let found: Vec<_> = page.items.iter().map(|o| o.name()).collect();
        let expected: Vec<_> = then.iter().filter(|(_, (_, on))| *on == node).map(|(name, _)| name).collect();
        assert_eq!(found, expected, "of {node} at {revision}");
    }
}

/// Cases of a run; `STORAGE_CASES` makes it a long one.
fn cases() -> u32 {
    std::env::var("STORAGE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]
    #[test]
    fn a_list_and_its_watch_equal_the_store(
        steps in prop::collection::vec(step(), 1..60),
        indexed in prop::option::of(Just(0)),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(check(steps, indexed));
    }
}
