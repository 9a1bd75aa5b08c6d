//! Cases about writing and reading what is current.

use super::{
    Arc, BoxFuture, Bytes, Compare, Error, Fixture, Op, RangeRequest, Revision, WatchMessage, prefix_end,
};

pub(super) async fn revisions_grow_and_a_transaction_has_one(f: Fixture) {
    let before = f.storage.current_revision().await.unwrap();
    let first = f.put("a", "1").await;
    assert!(first > before);
    let ops = ["b", "c"].map(|name| Op::Put { key: f.key(name), value: "2".into(), lease: None });
    let second = f.write(ops.to_vec()).await;
    assert!(second > first);
    for name in ["b", "c"] {
        let kv = f.get(name).await.unwrap();
        assert_eq!((kv.create_revision, kv.mod_revision), (second, second));
    }
    let third = f.put("b", "3").await;
    let kv = f.get("b").await.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, &kv.value[..]), (second, third, &b"3"[..]));
    assert_eq!(*kv.key, *f.key("b"));
}

pub(super) async fn a_key_is_created_once(f: Fixture) {
    let made = f.put_if("a", Revision(0), "1").await;
    assert!(made.succeeded);
    let again = f.put_if("a", Revision(0), "2").await;
    assert!(!again.succeeded);
    assert!(again.revision >= made.revision);
    let current = again.current[0].as_ref().unwrap();
    assert_eq!((&current.value[..], current.mod_revision), (&b"1"[..], made.revision));
    assert_eq!(f.dump(None).await, ["a=1"]);
}

pub(super) async fn only_the_current_revision_is_replaced(f: Fixture) {
    let first = f.put("a", "1").await;
    let second = f.put_if("a", first, "2").await;
    assert!(second.succeeded);
    assert!(!f.put_if("a", first, "3").await.succeeded);
    f.delete("a").await;
    let gone = f.put_if("a", second.revision, "4").await;
    assert!(!gone.succeeded);
    assert_eq!(gone.current, [None]);
    assert!(f.put_if("a", Revision(0), "5").await.succeeded);
    let compare = Compare { key: f.key("a"), mod_revision: first };
    let refused = f.storage.txn(vec![compare], vec![Op::Delete { key: f.key("a") }]).await.unwrap();
    assert!(!refused.succeeded);
    assert_eq!(f.dump(None).await, ["a=5"]);
}

pub(super) async fn a_transaction_is_made_whole_or_not_at_all(f: Fixture) {
    let a = f.put("a", "1").await;
    let b = f.put("b", "1").await;
    let compares = |b| {
        vec![
            Compare { key: f.key("a"), mod_revision: a },
            Compare { key: f.key("b"), mod_revision: b },
            Compare { key: f.key("c"), mod_revision: Revision(0) },
        ]
    };
    let ops = || {
        vec![
            Op::Put { key: f.key("a"), value: "2".into(), lease: None },
            Op::Delete { key: f.key("b") },
            Op::Put { key: f.key("c"), value: "2".into(), lease: None },
        ]
    };
    let refused = f.storage.txn(compares(a), ops()).await.unwrap();
    assert!(!refused.succeeded);
    let found: Vec<_> = refused.current.iter().map(|kv| kv.as_ref().map(|kv| kv.mod_revision)).collect();
    assert_eq!(found, [Some(a), Some(b), None], "the current state of what was compared, in its order");
    assert_eq!(f.dump(None).await, ["a=1", "b=1"]);
    assert!(f.storage.txn(compares(b), ops()).await.unwrap().succeeded);
    assert_eq!(f.dump(None).await, ["a=2", "c=2"]);
}

pub(super) async fn deleting_nothing_changes_nothing(f: Fixture) {
    let before = f.put("a", "1").await;
    assert_eq!(f.delete("b").await, before);
    assert_eq!(f.storage.current_revision().await.unwrap(), before);
    let gone = f.delete("a").await;
    assert!(gone > before);
    assert_eq!(f.delete("a").await, gone);
    assert_eq!(f.get("a").await, None);
}

pub(super) async fn a_key_is_written_once_in_a_transaction(f: Fixture) {
    let ops = ["1", "2"].map(|value| Op::Put { key: f.key("a"), value: value.into(), lease: None });
    let refused = f.storage.txn(Vec::new(), ops.to_vec()).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert_eq!(f.get("a").await, None);
}

pub(super) async fn values_are_opaque(f: Fixture) {
    let all: Vec<u8> = (0..=255).collect();
    f.put("bytes", all.clone()).await;
    f.put("empty", Bytes::new()).await;
    assert_eq!(f.get("bytes").await.unwrap().value, all);
    assert_eq!(f.get("empty").await.unwrap().value, Bytes::new());
}

pub(super) async fn large_values_are_kept_and_too_large_ones_refused(f: Fixture) {
    let large = vec![b'x'; 1_400_000];
    f.put("large", large.clone()).await;
    assert_eq!(f.get("large").await.unwrap().value, large);
    let op = Op::Put { key: f.key("larger"), value: vec![b'x'; 4 << 20].into(), lease: None };
    let refused = f.storage.txn(Vec::new(), vec![op]).await;
    assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
    assert_eq!(f.get("larger").await, None);
}

pub(super) async fn ranges_are_ordered_limited_and_counted(f: Fixture) {
    for name in ["b/2", "a/1", "b/10", "b", "b/1", "c/1", "b0"] {
        f.put(name, name.to_owned()).await;
    }
    let under_b = f.key("b/").to_string();
    let request =
        |limit| RangeRequest { start: under_b.clone(), end: prefix_end(&under_b), limit, revision: None };
    let names = |kvs: &[super::KeyValue]| {
        kvs.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).collect::<Vec<_>>()
    };
    let all = f.storage.range(request(0)).await.unwrap();
    assert_eq!((names(&all.kvs), all.count), (vec!["b/1".into(), "b/10".into(), "b/2".into()], 3));
    let some = f.storage.range(request(2)).await.unwrap();
    assert_eq!((names(&some.kvs), some.count), (vec!["b/1".into(), "b/10".into()], 3));
    assert_eq!(some.revision, f.storage.current_revision().await.unwrap());
    let exact = f.storage.range(request(3)).await.unwrap();
    assert_eq!((exact.kvs.len(), exact.count), (3, 3));
}

pub(super) async fn large_ranges_are_complete(f: Fixture) {
    const KEYS: usize = 2500;
    let value = Bytes::from(vec![b'v'; 4000]);
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        let ops = chunk.iter().map(|i| Op::Put {
            key: f.key(&format!("{i:05}")),
            value: value.clone(),
            lease: None,
        });
        f.write(ops.collect()).await;
    }
    let found = f.range(None, 0).await.unwrap();
    assert_eq!((found.kvs.len(), found.count), (KEYS, KEYS));
    assert!(
        found
            .kvs
            .iter()
            .enumerate()
            .all(|(i, kv)| *kv.key == *f.key(&format!("{i:05}")) && kv.value == value)
    );
    let first = f.range(None, 1200).await.unwrap();
    assert_eq!((first.kvs.len(), first.count), (1200, KEYS));
}

pub(super) async fn what_is_acknowledged_is_read(f: Fixture) {
    let f = Arc::new(f);
    let writers: Vec<BoxFuture<'_, ()>> = (0..8)
        .map(|writer| {
            let f = Arc::clone(&f);
            Box::pin(async move {
                for i in 0..10 {
                    let name = format!("{writer}");
                    let revision = f.put(&name, format!("{i}")).await;
                    assert!(f.storage.current_revision().await.unwrap() >= revision);
                    let found = f.get(&name).await.unwrap();
                    assert_eq!((found.mod_revision, &found.value[..]), (revision, format!("{i}").as_bytes()));
                }
            }) as BoxFuture<'_, ()>
        })
        .collect();
    futures::future::join_all(writers).await;
}

pub(super) async fn leases_end_what_they_hold(f: Fixture) {
    let lease = f.storage.grant_lease(2).await.unwrap();
    let held = ["ends", "freed", "also"].map(|name| Op::Put {
        key: f.key(name),
        value: "1".into(),
        lease: Some(lease),
    });
    let made = f.write(held.to_vec()).await;
    f.put("freed", "2").await;
    let mut watch = f.watch_with_prev(Revision(made.0 + 1)).await;
    let mut gone = Vec::new();
    while gone.len() < 2 {
        if let WatchMessage::Events(events) = watch.message().await.unwrap() {
            gone.extend(events.into_iter().filter(|e| e.deleted).map(|e| {
                assert_eq!(e.prev.expect("a deletion shows what was there").value, "1");
                e.kv.key
            }));
        }
    }
    gone.sort();
    assert_eq!(gone, [f.key("also"), f.key("ends")]);
    assert_eq!(f.dump(None).await, ["freed=2"]);
}

pub(super) async fn unknown_leases_are_refused(f: Fixture) {
    let op = Op::Put { key: f.key("a"), value: "1".into(), lease: Some(crate::LeaseId(987_654_321)) };
    let refused = f.storage.txn(Vec::new(), vec![op]).await;
    assert!(matches!(refused, Err(Error::LeaseNotFound)), "{refused:?}");
    assert_eq!(f.get("a").await, None);
}
