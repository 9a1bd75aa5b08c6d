//! The embedded engine: the contract, what it finds again after being closed or killed, what it refuses to open.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use storage::embedded::{Embedded, Options};
use storage::{Compare, Error, Op, RangeRequest, Revision, Storage, contract, prefix_end};

fn small() -> Options {
    Options { min_free_bytes: 0, ..Options::default() }
}

async fn put(storage: &Embedded, key: &str, value: &str) -> Revision {
    let op = Op::Put { key: key.into(), value: value.to_owned().into(), lease: None };
    storage.txn(Vec::new(), vec![op]).await.unwrap().revision
}

async fn dump(storage: &Embedded, revision: Option<Revision>) -> Vec<String> {
    let request = RangeRequest { start: "/".into(), end: prefix_end("/"), limit: 0, revision };
    let found = storage.range(request).await.unwrap();
    found
        .kvs
        .iter()
        .map(|kv| format!("{}={}@{}", kv.key, String::from_utf8_lossy(&kv.value), kv.mod_revision))
        .collect()
}

async fn run_contract(storage: Arc<Embedded>) {
    let engine: Arc<dyn Storage> = storage;
    for case in contract::CASES {
        case.run(&engine).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_in_memory() {
    // without a disk the past has to fit
    let options = Options { history_bytes: 100_000_000, ..small() };
    run_contract(Embedded::in_memory(options)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_with_the_past_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_bytes: 3000, max_history_bytes: 6000, ..small() };
    run_contract(Embedded::open(dir.path(), options).unwrap()).await;
}

/// Changes of a watch from `start` on, up to and including revision `last`.
async fn changes(storage: &Embedded, start: Revision, last: Revision) -> Vec<String> {
    use futures::StreamExt as _;
    let mut watch = storage.watch("/", start).await.unwrap();
    let mut seen = Vec::new();
    let read = async {
        loop {
            let storage::WatchMessage::Events(events) = watch.next().await.unwrap().unwrap() else {
                continue;
            };
            for event in events {
                let prev = event.prev.map_or(0, |prev| prev.value.len());
                let (key, at) = (&event.kv.key, event.kv.mod_revision);
                seen.push(format!("{key} {} {} at {at} after {prev}", event.deleted, event.kv.value.len()));
                if at >= last {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("the watch gets there");
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_go_on_after_reopening_from_before_what_memory_holds() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_bytes: 20_000, max_history_bytes: 40_000, ..small() };
    let storage = Embedded::open(dir.path(), options.clone()).unwrap();
    let mut last = Revision(0);
    for i in 0..300_usize {
        last = put(&storage, &format!("/{}", i % 7), &"v".repeat(1000 + i)).await;
        if i % 50 == 0 {
            last = storage
                .txn(Vec::new(), vec![Op::Delete { key: "/3".into() }])
                .await
                .unwrap()
                .revision
                .max(last);
        }
    }
    storage.compact(Revision(20)).await.unwrap();
    assert!(storage.stats().bytes < 100_000, "the past is not in memory: {:?}", storage.stats());
    let before = changes(&storage, Revision(21), last).await;
    let middle = dump(&storage, Some(Revision(150))).await;
    assert!(before.len() as i64 >= last.0 - 20);
    drop(storage);
    for _ in 0..2 {
        let storage = Embedded::open(dir.path(), options.clone()).unwrap();
        assert!(storage.stats().bytes < 100_000, "nor after reopening: {:?}", storage.stats());
        assert_eq!(changes(&storage, Revision(21), last).await, before);
        assert_eq!(dump(&storage, Some(Revision(150))).await, middle);
        assert!(matches!(storage.watch("/", Revision(20)).await, Err(Error::Compacted { .. })));
    }
    // compacted, it is forgotten in memory and on disk, and what is left is whole
    let storage = Embedded::open(dir.path(), options.clone()).unwrap();
    storage.compact(Revision(200)).await.unwrap();
    put(&storage, "/x", "1").await;
    assert!(matches!(storage.watch("/", Revision(200)).await, Err(Error::Compacted { .. })));
    let after = changes(&storage, Revision(201), last).await;
    assert!(before.ends_with(&after) && after.len() as i64 >= last.0 - 200);
    drop(storage);
    let storage = Embedded::open(dir.path(), options).unwrap();
    assert_eq!(changes(&storage, Revision(201), last).await, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_on_disk_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        Options { max_history_events: 100, ..small() },
        Options { max_history_disk_bytes: 100_000, ..small() },
    ];
    for (i, options) in cases.into_iter().enumerate() {
        let options = Options { history_bytes: 10_000, max_history_bytes: 10_000, ..options };
        let storage = Embedded::open(dir.path().join(i.to_string()), options).unwrap();
        let mut last = Revision(0);
        for n in 0..500 {
            last = put(&storage, &format!("/{}", n % 5), &"v".repeat(1000)).await;
        }
        let compacted = storage.stats().compacted;
        assert!(compacted > Revision(last.0 - 150), "history goes back to {compacted} of {last}");
        assert_eq!(
            changes(&storage, Revision(compacted.0 + 1), last).await.len() as i64,
            last.0 - compacted.0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_on_disk_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Embedded::open(dir.path(), small()).unwrap();
    run_contract(Arc::clone(&storage)).await;
    let (before, revision) = (dump(&storage, None).await, storage.current_revision().await.unwrap());
    storage.close().await;
    drop(storage);
    let storage = Embedded::open(dir.path(), small()).unwrap();
    assert_eq!(dump(&storage, None).await, before);
    assert_eq!(storage.current_revision().await.unwrap(), revision);
    put(&storage, "/x", "1").await;
}

#[tokio::test]
async fn the_past_survives_reopening_up_to_the_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Embedded::open(dir.path(), small()).unwrap();
    put(&storage, "/a", "1").await;
    let second = put(&storage, "/a", "2").await;
    let third = put(&storage, "/b", "3").await;
    let gone = storage.txn(Vec::new(), vec![Op::Delete { key: "/b".into() }]).await.unwrap().revision;
    storage.compact(second).await.unwrap();
    drop(storage);

    let storage = Embedded::open(dir.path(), small()).unwrap();
    assert_eq!(dump(&storage, Some(second)).await, ["/a=2@2"]);
    assert_eq!(dump(&storage, Some(third)).await, ["/a=2@2", "/b=3@3"]);
    assert_eq!(storage.stats().compacted, second);
    assert!(matches!(storage.watch("/", second).await, Err(Error::Compacted { .. })));
    // all is forgotten: the revision is not
    storage.compact(gone).await.unwrap();
    storage.txn(Vec::new(), vec![Op::Delete { key: "/a".into() }]).await.unwrap();
    storage.compact(Revision(gone.0 + 1)).await.unwrap();
    drop(storage);
    let storage = Embedded::open(dir.path(), small()).unwrap();
    assert_eq!(storage.current_revision().await.unwrap(), Revision(gone.0 + 1));
    assert_eq!(dump(&storage, None).await, [""; 0]);
    assert_eq!(put(&storage, "/c", "1").await, Revision(gone.0 + 2));
}

#[tokio::test]
async fn leases_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Embedded::open(dir.path(), small()).unwrap();
    let lease = storage.grant_lease(1).await.unwrap();
    let op = Op::Put { key: "/event".into(), value: "1".into(), lease: Some(lease) };
    let made = storage.txn(Vec::new(), vec![op]).await.unwrap().revision;
    drop(storage);
    let storage = Embedded::open(dir.path(), small()).unwrap();
    let mut watch = storage.watch("/", Revision(made.0 + 1)).await.unwrap();
    let gone = async {
        use futures::StreamExt as _;
        loop {
            if let storage::WatchMessage::Events(events) = watch.next().await.unwrap().unwrap() {
                break events;
            }
        }
    };
    let events = tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    assert!(events[0].deleted);
    let other = storage.grant_lease(100).await.unwrap();
    assert_ne!(other, lease);
}

#[tokio::test]
async fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Embedded::open(dir.path(), small()).unwrap();
    assert!(matches!(Embedded::open(dir.path(), small()), Err(Error::InUse(_))));
    put(&storage, "/a", "1").await;
    drop(storage);
    assert_eq!(dump(&Embedded::open(dir.path(), small()).unwrap(), None).await, ["/a=1@1"]);
}

fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(tree(&path));
        } else if path.file_name().unwrap() != "LOCK" {
            all.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_and_left_alone() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 6] = [
        ("a stranger's directory", |dir| {
            std::fs::remove_dir_all(dir).unwrap();
            std::fs::create_dir(dir).unwrap();
            std::fs::write(dir.join("thesis.tex"), "hello").unwrap();
        }),
        ("another format", |dir| std::fs::write(dir.join("STORE"), "kubewright store, format 99\n").unwrap()),
        ("no marker", |dir| std::fs::remove_file(dir.join("STORE")).unwrap()),
        ("no data", |dir| std::fs::remove_dir_all(dir.join("data")).unwrap()),
        ("no engine", |dir| std::fs::remove_file(dir.join("data/version")).unwrap()),
        ("records missing", |dir| std::fs::write(dir.join("CLEAN"), "1000\n").unwrap()),
    ];
    for (what, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("store");
        let storage = Embedded::open(&dir, small()).unwrap();
        put(&storage, "/a", "1").await;
        drop(storage);
        damage(&dir);
        let before = tree(&dir);
        let refused = Embedded::open(&dir, small()).map(|_| ());
        assert!(matches!(refused, Err(Error::Corrupt(_))), "{what}: {refused:?}");
        if what != "records missing" {
            // the engine tidies its own files when it is opened; elsewhere nothing is touched
            assert!(tree(&dir) == before, "{what}: changed");
        }
    }
}

#[tokio::test]
async fn an_unfinished_creation_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data.new")).unwrap();
    std::fs::write(dir.path().join("data.new/1.jnl"), "half").unwrap();
    let storage = Embedded::open(dir.path(), small()).unwrap();
    put(&storage, "/a", "1").await;
}

#[tokio::test]
async fn space_has_limits() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Embedded::open(dir.path(), Options { max_bytes: 10_000, ..small() }).unwrap();
    let value = "v".repeat(4000);
    put(&storage, "/a", &value).await;
    put(&storage, "/b", &value).await;
    let op = |key: &str| Op::Put { key: key.into(), value: value.clone().into(), lease: None };
    let full = storage.txn(Vec::new(), vec![op("/c")]).await;
    assert!(matches!(full, Err(Error::NoSpace(_))), "{full:?}");
    assert_eq!(dump(&storage, None).await.len(), 2);
    // what makes room still goes, and then there is room
    let gone = storage.txn(Vec::new(), vec![Op::Delete { key: "/a".into() }]).await.unwrap();
    storage.compact(gone.revision).await.unwrap();
    put(&storage, "/d", "1").await;
    put(&storage, "/c", &value).await;
    drop(storage);

    let huge = Options { min_free_bytes: u64::MAX / 2, ..small() };
    let storage = Embedded::open(dir.path(), huge).unwrap();
    let full = storage.txn(Vec::new(), vec![op("/e")]).await;
    assert!(matches!(full, Err(Error::NoSpace(_))), "{full:?}");
    assert_eq!(dump(&storage, None).await.len(), 3);
    storage.txn(Vec::new(), vec![Op::Delete { key: "/b".into() }]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_shrinks_memory_and_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_bytes: usize::MAX, max_history_bytes: usize::MAX, ..small() };
    let storage = Embedded::open(dir.path(), options.clone()).unwrap();
    let value = "v".repeat(100_000);
    let mut last = Revision(0);
    for i in 0..1200 {
        last = put(&storage, &format!("/{}", i % 10), &value).await;
    }
    assert!(storage.stats().bytes >= 120_000_000);
    storage.compact(last).await.unwrap();
    // a journal of 64 MB is always there, and what is not worth a merge may be
    let shrunk = async {
        loop {
            let stats = storage.stats();
            if stats.bytes <= 1_000_100 && stats.history_bytes == 0 && stats.disk_bytes < 100_000_000 {
                break;
            }
            put(&storage, "/x", "1").await;
            let revision = storage.current_revision().await.unwrap();
            storage.compact(revision).await.unwrap();
            // Space is given back in the background, which needs the processor too.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(120), shrunk).await;
    assert!(in_time.is_ok(), "{:?}", storage.stats());
    drop(storage);
    let storage = Embedded::open(dir.path(), options).unwrap();
    assert_eq!(dump(&storage, None).await.len(), 11);
    assert!(storage.stats().bytes <= 1_000_100);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_bounds_itself_without_losing_watches() {
    use futures::StreamExt as _;
    let options = Options { history_bytes: 200_000, max_history_bytes: 100_000_000, ..small() };
    let storage = Embedded::in_memory(options);
    let mut watch = storage.watch("/", Revision(1)).await.unwrap();
    let value = "v".repeat(1000);
    for i in 0..2000 {
        put(&storage, &format!("/{}", i % 10), &value).await;
    }
    // a watch that has not read holds the past back
    assert!(storage.stats().history_bytes > 1_000_000);
    let mut seen = 0;
    while seen < 2000 {
        if let storage::WatchMessage::Events(events) = watch.next().await.unwrap().unwrap() {
            seen += events.len();
        }
    }
    let bounded = async {
        while storage.stats().history_bytes > 200_000 || storage.stats().bytes > 300_000 {
            put(&storage, "/x", "1").await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), bounded).await.unwrap();
    assert!(storage.stats().compacted > Revision(1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_store_leaves_its_past_to_the_disk() {
    use futures::StreamExt as _;
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_age: Duration::ZERO, ..small() };
    let storage = Embedded::open(dir.path(), options).unwrap();
    let read = async |start| {
        let mut watch = storage.watch("/", start).await.unwrap();
        let mut revisions = Vec::new();
        while revisions.len() < 20 {
            if let storage::WatchMessage::Events(events) = watch.next().await.unwrap().unwrap() {
                revisions.extend(events.iter().map(|event| (event.kv.mod_revision.0, event.kv.value.len())));
            }
        }
        revisions
    };
    for i in 1..=20 {
        put(&storage, "/a", &"v".repeat(1000 + i)).await;
    }
    let expected: Vec<_> = (1..=20_i64).map(|i| (i, 1000 + i as usize)).collect();
    assert_eq!(read(Revision(1)).await, expected);
    let unloaded = async {
        while storage.stats().history_bytes > 0 || storage.stats().bytes > 1020 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), unloaded).await.unwrap();
    // and it is still there
    assert_eq!(read(Revision(1)).await, expected);
    assert_eq!(dump(&storage, Some(Revision(3))).await, [format!("/a={}@3", "v".repeat(1003))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_too_far_behind_ends_and_the_store_goes_on() {
    use futures::StreamExt as _;
    let options = Options { history_bytes: 10_000, max_history_bytes: 50_000, ..small() };
    let storage = Embedded::in_memory(options);
    let mut watch = storage.watch("/", Revision(1)).await.unwrap();
    let value = "v".repeat(1000);
    for _ in 0..500 {
        put(&storage, "/a", &value).await;
    }
    assert!(storage.stats().history_bytes < 60_000);
    let end = watch.next().await.unwrap();
    assert!(matches!(end, Err(Error::Compacted { .. })), "{end:?}");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn closing_ends_watches_and_refuses_requests() {
    use futures::StreamExt as _;
    let storage = Embedded::in_memory(small());
    let mut watch = storage.watch("/", Revision(1)).await.unwrap();
    storage.close().await;
    let end = loop {
        match watch.next().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(end, Error::Closed));
    let refused = storage.txn(vec![Compare { key: "/a".into(), mod_revision: Revision(0) }], vec![]).await;
    assert!(matches!(refused, Err(Error::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_quiet_times_records_go_to_a_table_and_the_thread_rests() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static RESTED: AtomicBool = AtomicBool::new(false);
    fn tables(dir: &Path) -> usize {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .map(|entry| match entry.file_type() {
                Ok(kind) if kind.is_dir() => tables(&entry.path()),
                _ => usize::from(dir.ends_with("tables")),
            })
            .sum()
    }
    let dir = tempfile::tempdir().unwrap();
    let options = || Options {
        history_age: Duration::from_millis(50),
        at_rest: || RESTED.store(true, Ordering::SeqCst),
        ..small()
    };
    let storage = Embedded::open(dir.path(), options()).unwrap();
    let at_first = tables(dir.path());
    let value = "x".repeat(100_000);
    for key in ["/a", "/b", "/c"] {
        put(&storage, key, &value).await;
    }
    assert_eq!(tables(dir.path()), at_first, "far fewer than make a table");
    let before = dump(&storage, None).await;
    let quiet = async {
        while !RESTED.load(Ordering::SeqCst) || tables(dir.path()) == at_first {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), quiet).await.expect("a table, and rest");
    storage.close().await;
    drop(storage);
    let storage = Embedded::open(dir.path(), options()).unwrap();
    assert_eq!(dump(&storage, None).await, before);
}
