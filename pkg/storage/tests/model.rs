//! The embedded engine against a model that remembers everything, over compactions and reopenings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use proptest::prelude::*;
use storage::embedded::{Embedded, Options};
use storage::{Compare, Error, Op, RangeRequest, Revision, Storage, WatchMessage, prefix_end};

/// Longest wait for what a watch has to deliver.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
enum Step {
    /// Writes of one transaction: keys with values, or `None` to delete.
    Write(Vec<(u8, Option<u16>)>),
    /// A conditional write that may be refused.
    Replace(u8, u8, u16),
    /// Forgets what is older than so many revisions.
    Compact(u8),
    Reopen,
    /// Watches from so many revisions ago, and reads it to the end.
    Watch(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0..6_u8, prop::option::weighted(0.7, any::<u16>()));
    prop_oneof![
        8 => prop::collection::vec(write, 1..4).prop_map(Step::Write),
        4 => (0..6_u8, 0..3_u8, any::<u16>()).prop_map(|(k, b, v)| Step::Replace(k, b, v)),
        1 => (0..12_u8).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
        2 => (0..12_u8).prop_map(Step::Watch),
    ]
}

/// Key to value, creation and modification.
type Keys = BTreeMap<String, (String, i64, i64)>;

/// What must be true at every revision so far.
#[derive(Default)]
struct Model {
    at: Vec<Keys>,
    compacted: usize,
}

impl Model {
    fn now(&self) -> &Keys {
        self.at.last().expect("revision 0 is there from the start")
    }

    fn revision(&self) -> usize {
        self.at.len() - 1
    }

    fn write(&mut self, writes: &[(String, Option<String>)]) -> bool {
        let mut next = self.now().clone();
        let revision = self.at.len() as i64;
        let mut changed = false;
        for (key, value) in writes {
            match value {
                Some(value) => {
                    let created = next.get(key).map_or(revision, |(_, created, _)| *created);
                    next.insert(key.clone(), (value.clone(), created, revision));
                    changed = true;
                }
                None => changed |= next.remove(key).is_some(),
            }
        }
        if changed {
            self.at.push(next);
        }
        changed
    }
}

fn key(n: u8) -> String {
    format!("/k{n}")
}

async fn read(storage: &Embedded, revision: Option<usize>) -> Result<Keys, Error> {
    let revision = revision.map(|r| Revision(r as i64));
    let request = RangeRequest { start: "/".into(), end: prefix_end("/"), limit: 0, revision };
    let found = storage.range(request).await?;
    Ok(found
        .kvs
        .into_iter()
        .map(|kv| {
            let value = String::from_utf8_lossy(&kv.value).into_owned();
            (kv.key.to_string(), (value, kv.create_revision.0, kv.mod_revision.0))
        })
        .collect())
}

async fn write(
    storage: &Embedded,
    model: &mut Model,
    compares: Vec<Compare>,
    writes: Vec<(String, Option<String>)>,
) {
    let holds = compares
        .iter()
        .all(|c| model.now().get(&*c.key).map_or(0, |(_, _, modified)| *modified) == c.mod_revision.0);
    let ops = writes
        .iter()
        .map(|(key, value)| match value.clone() {
            Some(value) => Op::Put { key: key.as_str().into(), value: value.into(), lease: None },
            None => Op::Delete { key: key.as_str().into() },
        })
        .collect();
    let response = storage.txn(compares, ops).await.unwrap();
    assert_eq!(response.succeeded, holds);
    if holds {
        model.write(&writes);
    }
    assert_eq!(response.revision.0 as usize, model.revision());
}

/// A watch's events, applied to the state before it, give every state since.
async fn check_watch(storage: &Embedded, model: &Model, start: usize) {
    let opened = storage.watch("/", Revision(start as i64)).await;
    if start <= model.compacted {
        assert!(matches!(opened, Err(Error::Compacted { .. })));
        return;
    }
    let mut watch = opened.unwrap();
    let mut state = model.at[start - 1].clone();
    let mut seen = start - 1;
    // at the latest a progress message says that there is no more
    while seen < model.revision() {
        let message = tokio::time::timeout(PATIENCE, watch.next()).await.expect("a watch gets to the end");
        let events = match message.expect("a watch does not just end").unwrap() {
            WatchMessage::Events(events) => events,
            WatchMessage::Progress(revision) => {
                assert!(revision.0 as usize <= seen, "progress before the changes");
                continue;
            }
        };
        for event in events {
            let kv = event.kv;
            if kv.mod_revision.0 as usize != seen {
                assert_eq!(state, model.at[seen], "at {seen}");
                seen = kv.mod_revision.0 as usize;
            }
            let before =
                state.get(&*kv.key).map(|(value, _, modified)| (value.clone().into_bytes(), *modified));
            assert_eq!(event.prev.map(|p| (p.value.to_vec(), p.mod_revision.0)), before);
            if event.deleted {
                state.remove(&*kv.key);
            } else {
                let value = String::from_utf8_lossy(&kv.value).into_owned();
                state.insert(kv.key.to_string(), (value, kv.create_revision.0, kv.mod_revision.0));
            }
        }
    }
    assert_eq!((seen, &state), (model.revision(), model.now()));
}

async fn check_all(storage: &Embedded, model: &Model) {
    assert_eq!(storage.current_revision().await.unwrap().0 as usize, model.revision());
    assert_eq!(&read(storage, None).await.unwrap(), model.now());
    for (revision, expected) in model.at.iter().enumerate() {
        let found = read(storage, Some(revision)).await;
        if revision < model.compacted {
            assert!(matches!(found, Err(Error::Compacted { .. })), "{revision}");
        } else {
            assert_eq!(&found.unwrap(), expected, "at {revision}");
        }
    }
    assert!(matches!(read(storage, Some(model.at.len())).await, Err(Error::Future { .. })));
}

async fn check(steps: Vec<Step>, history_bytes: usize, history_age: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { min_free_bytes: 0, history_bytes, history_age, ..Options::default() };
    let open = || Embedded::open(dir.path(), options()).unwrap();
    let mut storage: Arc<Embedded> = open();
    let mut model = Model { at: vec![Keys::new()], compacted: 0 };
    for step in steps {
        match step {
            Step::Write(writes) => {
                let writes: BTreeMap<String, Option<String>> =
                    writes.into_iter().map(|(k, v)| (key(k), v.map(|v| v.to_string()))).collect();
                write(&storage, &mut model, Vec::new(), writes.into_iter().collect()).await;
            }
            Step::Replace(k, back, value) => {
                let modified = model.now().get(&key(k)).map_or(0, |(_, _, modified)| *modified);
                let compare = Compare {
                    key: key(k).into(),
                    mod_revision: Revision((modified - i64::from(back)).max(0)),
                };
                write(&storage, &mut model, vec![compare], vec![(key(k), Some(value.to_string()))]).await;
            }
            Step::Compact(back) => {
                let to = model.revision().saturating_sub(back as usize);
                let compacted = storage.compact(Revision(to as i64)).await;
                assert_eq!(compacted.is_ok(), to > model.compacted);
                model.compacted = model.compacted.max(to);
            }
            Step::Reopen => {
                drop(storage);
                storage = open();
                check_all(&storage, &model).await;
            }
            Step::Watch(back) => {
                let start = (model.revision() + 1).saturating_sub(back as usize);
                check_watch(&storage, &model, start).await;
            }
        }
    }
    check_all(&storage, &model).await;
}

/// Cases of a run; `STORAGE_CASES` makes it a long one.
fn cases() -> u32 {
    std::env::var("STORAGE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(32)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]
    #[test]
    fn the_engine_remembers_what_it_must(
        steps in prop::collection::vec(step(), 1..60),
        // from all of the past on disk to all of it in memory
        history_bytes in prop_oneof![Just(0_usize), 300..3000_usize, Just(1_000_000)],
        history_age in prop_oneof![Just(Duration::ZERO), Just(Duration::from_secs(15))],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(steps, history_bytes, history_age));
    }
}
