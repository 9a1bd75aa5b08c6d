//! The embedded engine killed in the middle of writes: nothing acknowledged is lost, nothing is half there.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures::StreamExt as _;
use storage::embedded::{Embedded, Options};
use storage::{Error, KeyValue, Op, RangeRequest, Revision, Storage, WatchMessage, prefix_end};

/// Tells the test binary that it is the victim, and where to write.
const DIR: &str = "STORAGE_CRASH_DIR";
const ROUND: &str = "STORAGE_CRASH_ROUND";

fn options() -> Options {
    // a short past, so that the engine compacts while it is being killed
    Options {
        min_free_bytes: 0,
        history_bytes: 100_000,
        max_history_bytes: 200_000,
        max_history_events: 2000,
        ..Options::default()
    }
}

/// The victim: writes pairs of keys in one transaction, says which were acknowledged, until it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn victim() {
    let (Ok(dir), Ok(round)) = (std::env::var(DIR), std::env::var(ROUND)) else { return };
    let storage = Embedded::open(dir, options()).unwrap();
    // the harness has begun a line of its own
    std::io::stdout().lock().write_all(b"\n").unwrap();
    let writers = (0..6).map(|writer| {
        let (storage, round) = (Arc::clone(&storage), round.clone());
        tokio::spawn(async move {
            for i in 0_u64.. {
                let value = format!("{round}-{i}-{}", "x".repeat(500));
                let pair = ["left", "right"].map(|side| Op::Put {
                    key: format!("/{writer}/{}/{side}", i % 20).into(),
                    value: value.clone().into(),
                    lease: None,
                });
                let revision = storage.txn(Vec::new(), pair.to_vec()).await.unwrap().revision;
                let line = format!("ack {writer}/{} {i} {revision}\n", i % 20);
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, (String, i64)> = BTreeMap::new();
    // `STORAGE_CASES` makes it a long run
    let rounds = std::env::var("STORAGE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    for (round, kill_after) in [700_usize, 1, 1500, 40, 300].into_iter().cycle().take(rounds).enumerate() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(DIR, dir.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut acks = 0;
        let mut take = |line: &str, acks: &mut usize| {
            let mut words = line.split(' ');
            if words.next() == Some("ack")
                && let (Some(slot), Some(i), Some(revision)) = (words.next(), words.next(), words.next())
                && let Ok(revision) = revision.parse::<i64>()
            {
                *acks += 1;
                let newest = acknowledged.entry(slot.to_owned()).or_default();
                if newest.1 < revision {
                    *newest = (format!("{round}-{i}-"), revision);
                }
            }
        };
        while acks < kill_after {
            take(&lines.next().expect("the victim writes until it is killed"), &mut acks);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // what it said before it died, it had acknowledged (the last line may be cut off)
        let rest: Vec<String> = lines.collect();
        rest.iter().take(rest.len().saturating_sub(1)).for_each(|line| take(line, &mut acks));

        let storage = Embedded::open(dir.path(), options()).unwrap();
        let request = RangeRequest { start: "/".into(), end: prefix_end("/"), limit: 0, revision: None };
        let kvs: BTreeMap<_, _> = storage
            .range(request)
            .await
            .unwrap()
            .kvs
            .into_iter()
            .map(|kv| (kv.key.to_string(), kv))
            .collect();
        for (slot, (value, revision)) in &acknowledged {
            let [left, right] = ["left", "right"].map(|side| &kvs[&format!("/{slot}/{side}")]);
            assert_eq!(
                (&left.value, left.mod_revision),
                (&right.value, right.mod_revision),
                "{slot} is half there"
            );
            assert!(
                left.mod_revision.0 >= *revision,
                "{slot}: {revision} was acknowledged, {} found",
                left.mod_revision
            );
            if left.mod_revision.0 == *revision {
                assert!(left.value.starts_with(value.as_bytes()), "{slot} is not what was acknowledged");
            }
        }
        // the store may let go of more of its past meanwhile
        let mut state = past(&storage).await;
        for _ in 0..100 {
            if !matches!(state, Err(Error::Compacted { .. })) {
                break;
            }
            state = past(&storage).await;
        }
        let state = state.unwrap();
        assert!(state == kvs, "the past that is kept adds up to the present");
        assert!(storage.stats().bytes < 1_000_000, "the past grows: {:?}", storage.stats());
    }
}

/// The present, made of the oldest state that is kept and all changes since.
async fn past(storage: &Embedded) -> Result<BTreeMap<String, KeyValue>, Error> {
    let revision = storage.current_revision().await?;
    let (then, mut state) = (storage.stats().compacted, BTreeMap::new());
    if then > Revision(0) {
        let request =
            RangeRequest { start: "/".into(), end: prefix_end("/"), limit: 0, revision: Some(then) };
        let found = storage.range(request).await?.kvs;
        state.extend(found.into_iter().map(|kv| (kv.key.to_string(), kv)));
    }
    let mut watch = storage.watch("/", Revision(then.0 + 1)).await?;
    let mut seen = then;
    while seen < revision {
        if let WatchMessage::Events(events) = watch.next().await.expect("a watch goes on")? {
            for event in events {
                seen = event.kv.mod_revision;
                state.insert(event.kv.key.to_string(), event.kv);
            }
        }
    }
    Ok(state)
}
