//! Cases about the past: reads at revisions, watches, compaction.

use super::{Error, Fixture, Op, Revision, WatchMessage, Watching};

fn after(revision: Revision) -> Revision {
    Revision(revision.0 + 1)
}

pub(super) async fn past_revisions_are_read(f: Fixture) {
    let before = f.storage.current_revision().await.unwrap();
    let first = f.put("a", "1").await;
    let second = f.put("b", "1").await;
    let third = f.put("a", "2").await;
    let fourth = f.delete("b").await;
    if before > Revision(0) {
        assert_eq!(f.dump(Some(before)).await, [""; 0]);
    }
    assert_eq!(f.dump(Some(first)).await, ["a=1"]);
    assert_eq!(f.dump(Some(second)).await, ["a=1", "b=1"]);
    assert_eq!(f.dump(Some(third)).await, ["a=2", "b=1"]);
    assert_eq!(f.dump(Some(fourth)).await, ["a=2"]);
    let at = f.range(Some(second), 1).await.unwrap();
    assert_eq!((at.kvs.len(), at.count), (1, 2), "counted as of the revision");
    assert_eq!(at.kvs[0].mod_revision, first);
}

pub(super) async fn future_revisions_are_refused(f: Fixture) {
    let now = f.put("a", "1").await;
    let refused = f.range(Some(Revision(now.0 + 1000)), 0).await;
    assert!(matches!(refused, Err(Error::Future { .. })), "{refused:?}");
}

pub(super) async fn watches_see_their_prefix_in_order(f: Fixture) {
    let now = f.put("a", "0").await;
    let mut watches = [f.watch(after(now)).await, f.watch_with_prev(after(now)).await];
    let neighbour: std::sync::Arc<str> = format!("{}x/a", f.root).into();
    f.write(vec![Op::Put { key: neighbour, value: "no".into(), lease: None }]).await;
    let changed = f.put("a", "1").await;
    let made = f.put("b", "1").await;
    let gone = f.delete("a").await;
    let again = f.put("a", "2").await;
    let expected = [
        ("a=1".to_owned(), changed, false, Some(("a=0".to_owned(), now))),
        ("b=1".to_owned(), made, false, None),
        ("a=".to_owned(), gone, true, Some(("a=1".to_owned(), changed))),
        ("a=2".to_owned(), again, false, None),
    ];
    for (with_prev, watch) in watches.iter_mut().enumerate() {
        let events = watch.events(4).await;
        for (event, (shown, revision, deleted, before)) in events.iter().zip(&expected) {
            assert_eq!(
                (&f.show(&event.kv), event.kv.mod_revision, event.deleted),
                (shown, *revision, *deleted)
            );
            let prev = event.prev.as_ref().map(|p| (f.show(p), p.mod_revision));
            assert!(prev == *before || with_prev == 0 && prev.is_none(), "{prev:?}");
        }
        assert_eq!(events[3].kv.create_revision, again);
    }
}

pub(super) async fn watches_begin_in_the_past(f: Fixture) {
    let first = f.put("a", "1").await;
    let second = f.put("a", "2").await;
    let third = f.delete("a").await;
    for (start, expected) in [(first, vec![first, second, third]), (second, vec![second, third])] {
        let events = f.watch(start).await.events(expected.len()).await;
        assert_eq!(events.iter().map(|e| e.kv.mod_revision).collect::<Vec<_>>(), expected);
    }
    let prev = f.watch_with_prev(third).await.events(1).await.remove(0).prev.unwrap();
    assert_eq!((&prev.value[..], prev.mod_revision), (&b"2"[..], second));
}

/// More than any engine should hold in memory: etcd keeps what was not compacted, so must all.
pub(super) async fn a_long_past_is_kept_until_it_is_compacted(f: Fixture) {
    const CHANGES: usize = 240;
    const KEYS: usize = 8;
    let value = |i: usize| format!("{i}:{}", "v".repeat(100_000));
    let mut revisions = Vec::new();
    for i in 0..CHANGES {
        revisions.push(f.put(&(i % KEYS).to_string(), value(i)).await);
    }
    let gone = f.delete("0").await;
    // a watch from the beginning sees every change with what it superseded
    let mut watch = f.watch_with_prev(revisions[0]).await;
    let events = watch.events(CHANGES + 1).await;
    for (i, event) in events[..CHANGES].iter().enumerate() {
        assert_eq!((event.kv.mod_revision, event.deleted), (revisions[i], false));
        assert!(event.kv.value == value(i), "the value of change {i}");
        assert_eq!(event.kv.create_revision, revisions[i % KEYS]);
        let prev = event.prev.as_ref().map(|p| (p.mod_revision, p.value == value(i.wrapping_sub(KEYS))));
        assert_eq!(prev, i.checked_sub(KEYS).map(|before| (revisions[before], true)), "before change {i}");
    }
    assert!(events[CHANGES].deleted && events[CHANGES].kv.mod_revision == gone);
    // one from the middle goes on into the present
    let mut watch = f.watch(revisions[CHANGES / 2]).await;
    let now = f.put("now", "1").await;
    let events = watch.events(CHANGES / 2 + 2).await;
    assert_eq!(events[0].kv.mod_revision, revisions[CHANGES / 2]);
    assert_eq!(events.last().map(|e| e.kv.mod_revision), Some(now));
    // and every revision can be read
    for i in [0, KEYS, CHANGES / 2, CHANGES - 1] {
        let found = f.range(Some(revisions[i]), 0).await.unwrap();
        assert_eq!(found.kvs.len(), KEYS.min(i + 1));
        for kv in found.kvs {
            let written = revisions.binary_search(&kv.mod_revision).expect("one of ours");
            assert!(written + KEYS > i && kv.value == value(written), "{} as of change {i}", kv.key);
        }
    }
}

pub(super) async fn watches_wait_for_the_future(f: Fixture) {
    let now = f.put("a", "0").await;
    let mut watch = f.watch(Revision(now.0 + 3)).await;
    for i in 1..=4 {
        f.put("a", format!("{i}")).await;
    }
    let events = watch.events(2).await;
    assert_eq!(events.iter().map(|e| f.show(&e.kv)).collect::<Vec<_>>(), ["a=3", "a=4"]);
}

pub(super) async fn a_revision_is_not_split(f: Fixture) {
    const KEYS: usize = 60;
    let start = f.put("before", "1").await;
    let value = "v".repeat(20_000);
    let ops = (0..KEYS).map(|i| Op::Put {
        key: f.key(&format!("{i:03}")),
        value: value.clone().into(),
        lease: None,
    });
    let revision = f.write(ops.collect()).await;
    let f = &f;
    let check = |mut watch: Watching| async move {
        loop {
            if let WatchMessage::Events(events) = watch.message().await.unwrap() {
                let of_it = events.iter().filter(|e| e.kv.mod_revision == revision).count();
                assert_eq!(of_it, KEYS, "all changes of a revision come at once");
                break;
            }
        }
    };
    check(f.watch(after(start)).await).await;
}

pub(super) async fn progress_comes_when_asked(f: Fixture) {
    let now = f.put("a", "1").await;
    let mut watch = f.watch(after(now)).await;
    let elsewhere: std::sync::Arc<str> = format!("{}-elsewhere/a", f.root).into();
    let later = f.write(vec![Op::Put { key: elsewhere, value: "1".into(), lease: None }]).await;
    f.storage.request_progress().await.unwrap();
    loop {
        match watch.message().await.unwrap() {
            WatchMessage::Progress(revision) if revision >= later => break,
            WatchMessage::Progress(_) => f.storage.request_progress().await.unwrap(),
            WatchMessage::Events(events) => panic!("nothing happened here: {events:?}"),
        }
    }
}

pub(super) async fn freshness_says_what_a_watch_must_have_seen(f: Fixture) {
    let mut last = f.put("a", "0").await;
    let mut watch = f.watch(after(last)).await;
    let elsewhere: std::sync::Arc<str> = format!("{}-elsewhere/a", f.root).into();
    for i in 0..20 {
        if i % 3 == 0 {
            last = f.put("a", format!("{i}")).await;
            watch.events(1).await;
        }
        let other = f.write(vec![Op::Put { key: elsewhere.clone(), value: "1".into(), lease: None }]).await;
        let fresh = f.storage.freshness(&f.prefix()).await.unwrap();
        assert!(fresh.revision >= other, "not older than what was acknowledged");
        assert!(fresh.changed >= last || watch.seen >= last, "the last change is not left out");
        assert!(fresh.changed <= fresh.revision);
    }
}

pub(super) async fn compaction_forgets_the_past_only(f: Fixture) {
    let first = f.put("a", "1").await;
    let kept = f.put("kept", "1").await;
    let gone = f.delete("a").await;
    let at = f.put("b", "1").await;
    let later = f.put("b", "2").await;
    f.storage.compact(at).await.unwrap();

    for revision in [first, kept, gone] {
        let refused = f.range(Some(revision), 0).await;
        assert!(matches!(refused, Err(Error::Compacted { .. })), "{revision}: {refused:?}");
    }
    assert_eq!(f.dump(Some(at)).await, ["b=1", "kept=1"]);
    assert_eq!(f.dump(Some(later)).await, ["b=2", "kept=1"]);
    assert_eq!(f.dump(None).await, ["b=2", "kept=1"]);

    let refused = match f.storage.watch(&f.prefix(), first).await {
        Err(error) => error,
        Ok(stream) => {
            let mut watch = Watching { stream, seen: Revision(first.0 - 1) };
            loop {
                match watch.message().await {
                    Ok(WatchMessage::Progress(_)) => {}
                    Ok(message) => panic!("a watch from before the compaction gave {message:?}"),
                    Err(error) => break error,
                }
            }
        }
    };
    assert!(matches!(refused, Error::Compacted { .. }), "{refused:?}");
    let events = f.watch(after(at)).await.events(1).await;
    assert_eq!(f.show(&events[0].kv), "b=2");

    let again = f.storage.compact(at).await;
    assert!(matches!(again, Err(Error::Compacted { .. })), "{again:?}");
    let too_far = f.storage.compact(Revision(later.0 + 1000)).await;
    assert!(matches!(too_far, Err(Error::Future { .. })), "{too_far:?}");
    // life goes on
    f.put("b", "3").await;
    assert_eq!(f.dump(None).await, ["b=3", "kept=1"]);
}
