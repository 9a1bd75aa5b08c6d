//! Cases with many writers or random operations, against a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{BoxFuture, Bytes, Compare, Fixture, Op, Revision};

/// A small generator of its own, so that a case is the same at every run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }
}

pub(super) async fn a_watch_adds_up_to_the_store(f: Fixture) {
    const WRITERS: u64 = 8;
    const WRITES: u64 = 40;
    let start = f.put("start", "0").await;
    let f = Arc::new(f);
    let mut watch = f.watch_with_prev(start).await;
    let writers: Vec<BoxFuture<'_, Revision>> = (0..WRITERS)
        .map(|writer| {
            let f = Arc::clone(&f);
            Box::pin(async move {
                let mut random = Random(writer + 1);
                let mut last = Revision(0);
                for i in 0..WRITES {
                    let name = format!("{}", random.below(5));
                    last = match random.below(4) {
                        0 => f.delete(&name).await,
                        _ => f.put(&name, format!("{writer}-{i}")).await,
                    };
                }
                last
            }) as BoxFuture<'_, Revision>
        })
        .collect();
    let last = futures::future::join_all(writers).await.into_iter().max().unwrap();
    let end = f.put("end", "0").await;
    assert!(end > last);
    let mut seen: BTreeMap<Arc<str>, (Bytes, Revision)> = BTreeMap::new();
    'watch: loop {
        for event in watch.events(1).await {
            let key = event.kv.key;
            let before = seen.get(&key).cloned();
            assert_eq!(event.prev.map(|p| (p.value, p.mod_revision)), before, "{key}: every change was seen");
            let revision = event.kv.mod_revision;
            if event.deleted {
                seen.remove(&key);
            } else {
                seen.insert(key, (event.kv.value, revision));
            }
            if revision == end {
                break 'watch;
            }
        }
    }
    let stored = f.range(None, 0).await.unwrap().kvs;
    let stored: BTreeMap<_, _> = stored.into_iter().map(|kv| (kv.key, (kv.value, kv.mod_revision))).collect();
    assert_eq!(seen, stored);
}

pub(super) async fn random_writes_behave_as_a_map_does(f: Fixture) {
    let mut model: BTreeMap<String, (String, Revision, Revision)> = BTreeMap::new();
    let mut past: Vec<(Revision, Vec<String>)> = Vec::new();
    let mut random = Random(42);
    let mut revision = f.put("first", "0").await;
    model.insert("first".into(), ("0".into(), revision, revision));
    for i in 0..300_u64 {
        let name = format!("k{}", random.below(12));
        let value = format!("{i}");
        let known = model.get(&name).map_or(Revision(0), |(_, _, at)| *at);
        // now and then a condition that does not hold
        let wrong = random.below(5) == 0;
        let expected = if wrong { Revision(known.0 + 1) } else { known };
        let compare = Compare { key: f.key(&name), mod_revision: expected };
        let delete = random.below(3) == 0;
        let op = if delete {
            Op::Delete { key: f.key(&name) }
        } else {
            Op::Put { key: f.key(&name), value: value.clone().into(), lease: None }
        };
        let response = f.storage.txn(vec![compare], vec![op]).await.unwrap();
        assert_eq!(response.succeeded, !wrong);
        let changes = !wrong && (!delete || known > Revision(0));
        assert_eq!(response.revision > revision, changes, "a revision for every change and for nothing else");
        if !changes {
            continue;
        }
        revision = response.revision;
        if delete {
            model.remove(&name);
        } else {
            let created = model.get(&name).map_or(revision, |(_, created, _)| *created);
            model.insert(name, (value, created, revision));
        }
        past.push((revision, model.iter().map(|(k, (v, _, _))| format!("{k}={v}")).collect()));
    }
    let found = f.range(None, 0).await.unwrap().kvs;
    let found: BTreeMap<_, _> = found
        .into_iter()
        .map(|kv| {
            let name = kv.key.rsplit('/').next().unwrap_or_default().to_owned();
            (name, (String::from_utf8_lossy(&kv.value).into_owned(), kv.create_revision, kv.mod_revision))
        })
        .collect();
    assert_eq!(found, model);
    for (revision, expected) in past.iter().step_by(17) {
        assert_eq!(&f.dump(Some(*revision)).await, expected, "at {revision}");
    }
}
