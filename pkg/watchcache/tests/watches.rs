//! Watches: where they begin, what they are told, how they end.

mod common;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use common::{World, show_item, take};
use storage::{Revision, Storage as _};
use watchcache::{
    Error, Filter, Interest, ReadVersion, RingLimits, WatchItem, WatchOptions, WatchStart, Watcher,
};

async fn end(watcher: &mut Watcher) -> Option<Error> {
    loop {
        match tokio::time::timeout(Duration::from_secs(1000), watcher.next_batch(100)).await.unwrap() {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                assert!(watcher.next_batch(1).await.is_none(), "an error is the last thing");
                break Some(error);
            }
            None => break None,
        }
    }
}

#[tokio::test]
async fn a_filter_makes_changes_appear_and_go() {
    let world = World::new().await;
    let filter = Filter::new(|o| o.field(0) == "n1");
    let options = WatchOptions { filter: Some(filter), ..WatchOptions::new(WatchStart::Now) };
    let mut watcher = world.cache.watch(options).await.unwrap();
    world.put("a", "x", "n2").await; // 1: not ours
    world.put("a", "x", "n1").await; // 2: begins to match
    world.put("a", "x", "n1").await; // 3
    world.put("a", "x", "n2").await; // 4: ceases to match: what it was, at the change's revision
    world.delete("a", "x").await; // 5: was not ours any more
    world.put("a", "y", "n1").await; // 6
    world.delete("a", "y").await; // 7
    let expected =
        ["ADDED a/x@2:n1", "MODIFIED a/x@3:n1", "DELETED a/x@4:n1", "ADDED a/y@6:n1", "DELETED a/y@7:n1"];
    assert_eq!(take(&mut watcher, 5).await, expected);
}

#[tokio::test]
async fn interests_wake_those_concerned() {
    let world = World::new().await;
    let watch = |interest: Interest| {
        let options = WatchOptions { interest, ..WatchOptions::new(WatchStart::Now) };
        let cache = Arc::clone(&world.cache);
        async move { cache.watch(options).await.unwrap() }
    };
    let mut namespace = watch(Interest::Namespace("a".into())).await;
    let mut object = watch(Interest::Object("b".into(), "x".into())).await;
    let mut node = watch(Interest::Field(0, "n1".into())).await;
    assert_eq!(world.cache.stats().watchers, 3);
    // each is waiting when its change comes
    let told = tokio::spawn(async move {
        (take(&mut namespace, 1).await, take(&mut object, 1).await, take(&mut node, 3).await)
    });
    world.put("c", "x", "n2").await;
    world.put("a", "x", "n2").await;
    world.put("b", "x", "n2").await;
    world.put("c", "x", "n1").await;
    world.put("c", "x", "n2").await;
    world.put("ab", "y", "n1").await;
    let (namespace, object, node) = told.await.unwrap();
    assert_eq!(namespace, ["ADDED a/x@2:n2"]);
    assert_eq!(object, ["ADDED b/x@3:n2"]);
    assert_eq!(node, ["ADDED c/x@4:n1", "DELETED c/x@5:n1", "ADDED ab/y@6:n1"]);
    assert_eq!(world.cache.stats().watchers, 0, "a dropped watch is forgotten");
}

#[tokio::test]
async fn who_was_not_concerned_has_missed_nothing() {
    let ring = RingLimits { max_events: 4, ..RingLimits::default() };
    let world = World::with(|config| config.ring = ring).await;
    let interests = [
        Interest::Namespace("ours".into()),
        Interest::Object("ours".into(), "x".into()),
        Interest::Field(0, "ours".into()),
    ];
    let mut watchers = Vec::new();
    for interest in interests {
        let options = WatchOptions { interest, ..WatchOptions::new(WatchStart::Now) };
        watchers.push(world.cache.watch(options).await.unwrap());
    }
    for round in 0..3 {
        // more than are kept, while everyone waits
        for watcher in &mut watchers {
            let nothing = tokio::time::timeout(Duration::from_millis(1), watcher.next_batch(1)).await;
            assert!(nothing.is_err(), "round {round}: {nothing:?}");
        }
        for i in 0..10 {
            world.put("theirs", &format!("{i}"), &format!("{round}")).await;
        }
        let revision = world.put("ours", "x", "ours").await;
        world.cache.get("ours", "x", ReadVersion::NotOlderThan(revision)).await.unwrap();
        let kind = if round == 0 { "ADDED" } else { "MODIFIED" };
        for watcher in &mut watchers {
            assert_eq!(take(watcher, 1).await, [format!("{kind} ours/x@{revision}:ours")]);
        }
    }
}

#[tokio::test]
async fn watches_begin_anywhere_in_the_recent_past() {
    let world = World::new().await;
    let mut all = Vec::new();
    for i in 0..50 {
        let revision = world.put("a", &format!("{}", i % 5), "n").await;
        let kind = if i < 5 { "ADDED" } else { "MODIFIED" };
        all.push(format!("{kind} a/{}@{revision}:n", i % 5));
    }
    world.cache.get("a", "x", ReadVersion::Latest).await.unwrap();
    for start in 0..50 {
        let options = WatchOptions::new(WatchStart::After(Revision(start)));
        let mut watcher = world.cache.watch(options).await.unwrap();
        let rest = &all[start as usize..];
        assert_eq!(take(&mut watcher, rest.len()).await, rest, "after {start}");
    }
}

#[tokio::test]
async fn initial_objects_come_first_and_are_marked() {
    let filter = Filter::new(|o| o.name() != "3");
    for (start, marked) in [
        (WatchStart::State(ReadVersion::Latest), false),
        (WatchStart::State(ReadVersion::NotOlderThan(Revision(10))), false),
        (WatchStart::InitialEvents(ReadVersion::Latest), true),
        (WatchStart::InitialEvents(ReadVersion::NotOlderThan(Revision(10))), true),
    ] {
        let world = World::new().await;
        for i in 0..5 {
            world.put("a", &format!("{i}"), "n").await;
            world.put("b", &format!("{i}"), "n").await;
        }
        let options = WatchOptions {
            interest: Interest::Namespace("b".into()),
            filter: Some(filter.clone()),
            ..WatchOptions::new(start)
        };
        let mut watcher = world.cache.watch(options).await.unwrap();
        let mut expected: Vec<String> =
            [2, 4, 6, 10].iter().map(|r| format!("INITIAL b/{}@{r}:n", r / 2 - 1)).collect();
        expected.extend(marked.then(|| "END 10".to_owned()));
        let mut told = Vec::new();
        while told.len() < expected.len() {
            // however small the pieces
            told.extend(take(&mut watcher, 1).await);
        }
        assert_eq!(told, expected);
        world.put("b", "0", "m").await;
        assert_eq!(take(&mut watcher, 1).await, ["MODIFIED b/0@11:m"]);
    }
}

#[tokio::test]
async fn bookmarks_come_each_minute_and_before_the_end() {
    let world = World::new().await;
    world.put("a", "x", "n").await;
    let elsewhere = world.elsewhere().await;
    // from here on nothing waits for the store's own thread, which knows no paused clock
    tokio::time::pause();
    let options = WatchOptions {
        bookmarks: true,
        timeout: Some(Duration::from_secs(150)),
        ..WatchOptions::new(WatchStart::Now)
    };
    let begin = tokio::time::Instant::now();
    let mut watcher = world.cache.watch(options).await.unwrap();
    let mut told = Vec::new();
    while let Some(batch) = watcher.next_batch(10).await {
        for item in batch.unwrap() {
            told.push((begin.elapsed().as_secs(), show_item(&item)));
        }
    }
    let bookmark = format!("BOOKMARK {elsewhere}");
    assert_eq!(told, [(60, bookmark.clone()), (120, bookmark.clone()), (148, bookmark)]);
    assert_eq!(begin.elapsed().as_secs(), 150);
}

#[tokio::test]
async fn slow_watchers_end_and_nobody_else() {
    let world = World::with(|config| {
        config.ring = RingLimits { max_events: 50, min_events: 0, ..RingLimits::default() };
    })
    .await;
    let mut slow = world.cache.watch(WatchOptions::new(WatchStart::Now)).await.unwrap();
    let mut quick = world.cache.watch(WatchOptions::new(WatchStart::Now)).await.unwrap();
    for _ in 0..200 {
        world.put("a", "x", "n").await;
        assert_eq!(take(&mut quick, 1).await.len(), 1);
    }
    let error = slow.next_batch(10).await.unwrap().unwrap_err();
    assert!(slow.next_batch(10).await.is_none());
    assert_eq!(Status::from(error).code, 410);
    assert!(world.cache.stats().ring_events <= 50);
    let error =
        world.cache.watch(WatchOptions::new(WatchStart::After(Revision(1)))).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("too old resource version: 1 ("), "{error}");
}

#[tokio::test]
async fn watches_reach_back_into_the_past_of_the_store() {
    let before = World::new().await;
    let mut all = Vec::new();
    for i in 0..30 {
        let (name, node) = (format!("{}", i % 3), format!("n{i}"));
        if i % 10 == 9 {
            let revision = before.delete("a", &name).await;
            all.push(format!("DELETED a/{name}@{revision}:n{}", i - 3));
            continue;
        }
        let kind = if i < 3 || i % 10 == 2 && i > 9 { "ADDED" } else { "MODIFIED" };
        let revision = before.put("a", &name, &node).await;
        all.push(format!("{kind} a/{name}@{revision}:{node}"));
        before.elsewhere().await;
    }
    // a server that starts anew knows the present only
    let world = World::over(Arc::clone(&before.storage), |_| {}).await;
    assert_eq!(world.cache.stats().ring_events, 0);
    let revision_of = |told: &String| told.split(['@', ':']).nth(1).unwrap().parse::<i64>().unwrap();
    let from = |n: usize| WatchOptions::new(WatchStart::After(Revision(revision_of(&all[n]) - 1)));
    let mut late = world.cache.watch(from(20)).await.unwrap();
    assert_eq!(take(&mut late, 10).await, all[20..]);
    let opened = world.storage.watches.lock().len();
    let mut early = world.cache.watch(from(0)).await.unwrap();
    let filter = Filter::new(|o| o.field(0) == "n4");
    let options = WatchOptions { filter: Some(filter), ..from(0) };
    let mut filtered = world.cache.watch(options).await.unwrap();
    assert_eq!(take(&mut early, 30).await, all);
    assert_eq!(take(&mut filtered, 2).await.len(), 2, "appeared and went");
    assert_eq!(world.storage.watches.lock().len(), opened + 1, "read once for all");
    // into the present
    world.put("a", "new", "n").await;
    for watcher in [&mut late, &mut early] {
        assert!(take(watcher, 1).await[0].starts_with("ADDED a/new"));
    }
    // an exact list of that time, too
    let then = Revision(revision_of(&all[4]));
    assert_eq!(world.cache.read(ReadVersion::Exact(then)).await.unwrap().iter("").count(), 3);
    // what was compacted is gone
    before.storage.compact(Revision(20)).await.unwrap();
    let world = World::over(Arc::clone(&before.storage), |_| {}).await;
    let refused = world.cache.watch(from(0)).await.map(|_| ()).unwrap_err();
    assert_eq!(Status::from(refused).code, 410);
    let start = WatchOptions::new(WatchStart::After(Revision(20)));
    let rest: Vec<_> = all.iter().filter(|told| revision_of(told) > 20).collect();
    let mut watcher = world.cache.watch(start).await.unwrap();
    let told = take(&mut watcher, rest.len()).await;
    assert_eq!(told.iter().take(rest.len()).collect::<Vec<_>>(), rest);
}

#[tokio::test]
async fn an_interrupted_store_watch_is_resumed_unnoticed() {
    let world = World::new().await;
    let mut watcher = world.cache.watch(WatchOptions::new(WatchStart::Now)).await.unwrap();
    for i in 0..5 {
        world.put("a", "x", &format!("{i}")).await;
        world.storage.break_watches(storage::Error::Unavailable("cable".into()));
        world.put("a", "y", &format!("{i}")).await;
    }
    let told = take(&mut watcher, 10).await;
    let revisions: Vec<_> = told.iter().map(|t| t.split(['@', ':']).nth(1).unwrap().to_owned()).collect();
    assert_eq!(revisions, (1..=10).map(|r| r.to_string()).collect::<Vec<_>>());
    assert_eq!(world.cache.stats().starts, 1);
}

#[tokio::test]
async fn when_changes_may_be_missing_watches_end_and_the_cache_begins_anew() {
    let world = World::new().await;
    world.put("a", "x", "1").await;
    let mut watcher =
        world.cache.watch(WatchOptions::new(WatchStart::State(ReadVersion::Latest))).await.unwrap();
    take(&mut watcher, 1).await;
    world.storage.break_watches(storage::Error::Compacted { compacted: Revision(1) });
    let error = end(&mut watcher).await.unwrap();
    assert_eq!(Status::from(error).code, 410);
    world.put("a", "y", "1").await;
    let list = world.cache.list(&watchcache::ListOptions::all("")).await.unwrap();
    assert_eq!(list.items.len(), 2);
    assert_eq!(world.cache.stats().starts, 2);
    let mut watcher = world.cache.watch(WatchOptions::new(WatchStart::After(list.revision))).await.unwrap();
    world.put("a", "z", "1").await;
    assert!(take(&mut watcher, 1).await[0].starts_with("ADDED a/z"));
}

#[tokio::test]
async fn while_the_store_is_away_old_state_is_served_as_such() {
    let world = World::new().await;
    let written = world.put("a", "x", "1").await;
    world.cache.get("a", "x", ReadVersion::NotOlderThan(written)).await.unwrap();
    world.storage.set_down(true);
    let error = world.cache.get("a", "x", ReadVersion::Latest).await.unwrap_err();
    assert!(matches!(error, Error::Storage(storage::Error::Unavailable(_))));
    assert!(world.cache.get("a", "x", ReadVersion::Any).await.unwrap().is_some());
    world.storage.set_down(false);
    assert!(world.cache.get("a", "x", ReadVersion::Latest).await.unwrap().is_some());
}

#[tokio::test]
async fn stopping_ends_watches_without_error() {
    let world = World::new().await;
    let mut watcher = world.cache.watch(WatchOptions::new(WatchStart::Now)).await.unwrap();
    let waiting = tokio::spawn(async move { end(&mut watcher).await });
    world.cache.stop().await;
    assert!(waiting.await.unwrap().is_none());
    assert!(world.cache.watch(WatchOptions::new(WatchStart::Now)).await.is_err());
    assert!(world.cache.get("a", "x", ReadVersion::Latest).await.is_err());
}

#[tokio::test]
async fn watches_can_end_before_reads_do() {
    let world = World::new().await;
    let mut watcher = world.cache.watch(WatchOptions::new(WatchStart::Now)).await.unwrap();
    let waiting = tokio::spawn(async move { end(&mut watcher).await });
    world.cache.end_watches(Duration::ZERO);
    assert!(waiting.await.unwrap().is_none());
    let mut later = world.cache.watch(WatchOptions::new(WatchStart::State(ReadVersion::Any))).await.unwrap();
    assert!(end(&mut later).await.is_none());
    let written = world.put("a", "x", "n").await;
    let found = world.cache.get("a", "x", ReadVersion::Latest).await.unwrap();
    assert_eq!(found.unwrap().revision(), written);
}

#[tokio::test(start_paused = true)]
async fn watches_can_end_one_after_the_other() {
    let world = World::new().await;
    let began = tokio::time::Instant::now();
    let mut ends = Vec::new();
    for _ in 0..4 {
        let mut watcher = world.cache.watch(WatchOptions::new(WatchStart::Now)).await.unwrap();
        ends.push(tokio::spawn(async move {
            let seen = end(&mut watcher).await;
            assert!(seen.is_none());
            began.elapsed().as_secs()
        }));
    }
    // they are asleep
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.cache.watches(), 4);
    world.cache.end_watches(Duration::from_secs(20));
    let mut at = Vec::new();
    for end in ends {
        at.push(end.await.unwrap());
    }
    at.sort_unstable();
    assert_eq!(at, [6, 11, 16, 21]);
    let mut later = world.cache.watch(WatchOptions::new(WatchStart::State(ReadVersion::Any))).await.unwrap();
    assert!(end(&mut later).await.is_none());
    assert_eq!(began.elapsed().as_secs(), 21);
}

#[tokio::test]
async fn frames_are_encoded_once_for_all_watchers() {
    let world = World::new().await;
    let mut watchers = Vec::new();
    for _ in 0..20 {
        watchers.push(world.cache.watch(WatchOptions::new(WatchStart::Now)).await.unwrap());
    }
    world.put("a", "x", "n").await;
    let mut encoded = 0;
    for watcher in &mut watchers {
        let batch = watcher.next_batch(1).await.unwrap().unwrap();
        let WatchItem::Event { kind, object, event } = &batch[0] else { panic!("an event") };
        let frame = event.frame(*kind, 3, || {
            encoded += 1;
            Ok::<_, ()>(object.to_json())
        });
        assert_eq!(frame.unwrap(), object.to_json());
    }
    assert_eq!(encoded, 1);
}
