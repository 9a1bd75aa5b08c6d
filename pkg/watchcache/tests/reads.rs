//! Gets and lists at every kind of resourceVersion.

mod common;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::json;
use apimachinery::status::Status;
use common::{World, show};
use storage::objects::{ObjectStore, Outcome};
use storage::{Revision, Storage as _};
use watchcache::{
    Error, Filter, ListOptions, ListPage, Marks, ReadVersion, RepresentationId, RingLimits, StoredObject,
    StoredText,
};

fn shown(page: &ListPage) -> Vec<String> {
    page.items.iter().map(|o| show(o)).collect()
}

fn at(version: ReadVersion) -> ListOptions {
    ListOptions { version, ..ListOptions::all("") }
}

#[tokio::test]
async fn reads_are_not_older_than_what_was_acknowledged() {
    let world = World::new().await;
    for i in 0..100 {
        let revision = world.put("a", "x", &format!("{i}")).await;
        let found = world.cache.get("a", "x", ReadVersion::Latest).await.unwrap().unwrap();
        assert_eq!(found.revision(), revision);
        let elsewhere = world.elsewhere().await;
        let list = world.cache.list(&at(ReadVersion::Latest)).await.unwrap();
        assert_eq!((list.revision, list.items.len()), (elsewhere, 1));
    }
    let gone = world.delete("a", "x").await;
    assert!(world.cache.get("a", "x", ReadVersion::Latest).await.unwrap().is_none());
    assert_eq!(world.cache.list(&at(ReadVersion::Latest)).await.unwrap().revision, gone);
}

#[tokio::test]
async fn namespaces_names_and_filters_narrow_a_list() {
    let world = World::new().await;
    for (namespace, name, node) in
        [("a", "x", "n1"), ("a", "y", "n2"), ("ab", "x", "n1"), ("b", "z", "n2"), ("a-b", "q", "n1")]
    {
        world.put(namespace, name, node).await;
    }
    let names = |page: &ListPage| {
        page.items.iter().map(|o| format!("{}/{}", o.namespace(), o.name())).collect::<Vec<_>>()
    };
    let list = |options: ListOptions| {
        let cache = Arc::clone(&world.cache);
        async move { names(&cache.list(&options).await.unwrap()) }
    };
    assert_eq!(list(ListOptions::all("")).await, ["a-b/q", "a/x", "a/y", "ab/x", "b/z"]);
    assert_eq!(list(ListOptions::all("a")).await, ["a/x", "a/y"]);
    assert_eq!(list(ListOptions::all("none")).await, [""; 0]);
    let name = Some("x".to_owned());
    assert_eq!(list(ListOptions { name: name.clone(), ..ListOptions::all("a") }).await, ["a/x"]);
    assert_eq!(list(ListOptions { name, ..ListOptions::all("") }).await, ["a/x", "ab/x"]);
    let filter =
        Filter::new(|o| o.labels().get("node") == Some("n2")).of_those_with(Marks::of_label("node", "n2"));
    assert_eq!(
        list(ListOptions { filter: Some(filter.clone()), ..ListOptions::all("") }).await,
        ["a/y", "b/z"]
    );
    let first = ListOptions { filter: Some(filter), limit: 1, ..ListOptions::all("") };
    let page = world.cache.list(&first).await.unwrap();
    assert_eq!((names(&page), page.remaining), (vec!["a/y".to_owned()], None));
    let second = ListOptions { continue_token: Some(page.continue_token), ..first };
    let page = world.cache.list(&second).await.unwrap();
    assert_eq!((names(&page), page.continue_token.as_str()), (vec!["b/z".to_owned()], ""));
}

#[tokio::test]
async fn an_indexed_field_finds_the_same() {
    for indexed in [None, Some(0)] {
        let world = World::with(|config| config.indexed_field = indexed).await;
        world.put("a", "early", "n2").await;
        for (namespace, name, node) in [
            ("a", "x", "n1"),
            ("a", "y", "n2"),
            ("ab", "x", "n1"),
            ("b", "z", "n2"),
            ("b", "gone", "n2"),
            ("a-b", "q", ""),
        ] {
            world.put(namespace, name, node).await;
        }
        let moved = world.put("a", "early", "n1").await;
        world.delete("b", "gone").await;
        let list = async |node: &str, options: ListOptions| {
            let wanted = node.to_owned();
            let filter = Filter::new(move |o| o.field(0) == wanted).of_those_with(Marks::of_field(0, node));
            let page = world.cache.list(&ListOptions { filter: Some(filter), ..options }).await.unwrap();
            let names: Vec<_> =
                page.items.iter().map(|o| format!("{}/{}", o.namespace(), o.name())).collect();
            (names.join(" "), page.continue_token)
        };
        let all = |namespace: &str| ListOptions::all(namespace);
        assert_eq!(list("n1", all("")).await.0, "a/early a/x ab/x", "{indexed:?}");
        assert_eq!(list("n2", all("")).await.0, "a/y b/z", "{indexed:?}");
        assert_eq!(list("", all("")).await.0, "a-b/q", "{indexed:?}");
        assert_eq!(list("n1", all("a")).await.0, "a/early a/x", "{indexed:?}");
        assert_eq!(list("n3", all("")).await.0, "", "{indexed:?}");
        let before = ListOptions { version: ReadVersion::Exact(Revision(moved.0 - 1)), ..all("") };
        assert_eq!(list("n2", before).await.0, "a/early a/y b/gone b/z", "{indexed:?}");
        let (first, token) = list("n1", ListOptions { limit: 2, ..all("") }).await;
        assert_eq!(first, "a/early a/x", "{indexed:?}");
        let rest = ListOptions { limit: 2, continue_token: Some(token), ..all("") };
        assert_eq!(list("n1", rest).await, ("ab/x".to_owned(), String::new()), "{indexed:?}");
    }
}

#[tokio::test]
async fn pages_are_of_one_moment() {
    let world = World::new().await;
    for i in 0..7 {
        world.put("a", &format!("{i}"), "old").await;
    }
    let mut options = ListOptions { limit: 3, ..ListOptions::all("a") };
    let mut pages = Vec::new();
    let mut remaining = Vec::new();
    let mut revision = None;
    loop {
        let page = world.cache.list(&options).await.unwrap();
        assert_eq!(*revision.get_or_insert(page.revision), page.revision);
        remaining.push(page.remaining);
        pages.extend(page.items.iter().map(|o| format!("{}:{}", o.name(), o.field(0))));
        if page.continue_token.is_empty() {
            break;
        }
        options.continue_token = Some(page.continue_token);
        // what happens meanwhile is not seen
        world.put("a", "5", "new").await;
        world.put("a", "55", "new").await;
        world.delete("a", "6").await;
    }
    assert_eq!(pages, ["0:old", "1:old", "2:old", "3:old", "4:old", "5:old", "6:old"]);
    assert_eq!(remaining, [Some(4), Some(1), None]);
}

#[tokio::test]
async fn a_token_too_old_can_be_gone_on_with_inconsistently() {
    let world = World::with(|config| {
        config.ring = RingLimits { max_events: 2, min_events: 0, ..RingLimits::default() };
    })
    .await;
    for i in 0..4 {
        world.put("a", &format!("{i}"), "old").await;
    }
    let page = world.cache.list(&ListOptions { limit: 2, ..ListOptions::all("a") }).await.unwrap();
    // more tokens than snapshots are held for, then the store forgets too
    for i in 0..20 {
        world.put("a", "3", &format!("{i}")).await;
        world.cache.list(&ListOptions { limit: 1, ..ListOptions::all("a") }).await.unwrap();
    }
    let options = ListOptions { continue_token: Some(page.continue_token), ..ListOptions::all("a") };
    let from_store = world.cache.list(&options).await.unwrap();
    assert_eq!(from_store.items.len(), 2);
    assert_eq!((from_store.items[1].field(0), from_store.revision), ("old", page.revision));

    let now = world.storage.current_revision().await.unwrap();
    world.storage.compact(now).await.unwrap();
    let error = world.cache.list(&options).await.unwrap_err();
    let Error::ContinueExpired { inconsistent_continue, .. } = &error else { panic!("{error:?}") };
    let inconsistent =
        ListOptions { continue_token: Some(inconsistent_continue.clone()), ..ListOptions::all("a") };
    let status = Status::from(error);
    assert_eq!((status.code, status.continue_token.is_some()), (410, true));
    let rest = world.cache.list(&inconsistent).await.unwrap();
    assert_eq!((rest.items.len(), rest.items[1].field(0), rest.revision), (2, "19", now));
}

#[tokio::test]
async fn exact_revisions_are_served_while_they_are_known() {
    let world = World::new().await;
    let first = world.put("a", "x", "1").await;
    let second = world.put("a", "y", "2").await;
    let third = world.delete("a", "x").await;
    let list = |revision| {
        let cache = Arc::clone(&world.cache);
        async move {
            cache.list(&at(ReadVersion::Exact(revision))).await.map(|page| (page.revision, shown(&page)))
        }
    };
    assert_eq!(list(first).await.unwrap(), (first, vec!["a/x@1:1".into()]));
    assert_eq!(list(second).await.unwrap(), (second, vec!["a/x@1:1".into(), "a/y@2:2".into()]));
    assert_eq!(list(third).await.unwrap(), (third, vec!["a/y@2:2".into()]));
    let found = world.cache.get("a", "x", ReadVersion::Exact(second)).await.unwrap();
    assert_eq!(found.unwrap().revision(), first);

    // a cache that has not seen the past asks the store, until it has forgotten
    let young = World::over(Arc::clone(&world.storage), |_| {}).await;
    let page = young.cache.list(&at(ReadVersion::Exact(second))).await.unwrap();
    assert_eq!(shown(&page), ["a/x@1:1", "a/y@2:2"]);
    world.storage.compact(third).await.unwrap();
    let error = young.cache.list(&at(ReadVersion::Exact(second))).await.unwrap_err();
    assert_eq!(Status::from(error).code, 410);
}

#[tokio::test]
async fn revisions_are_waited_for_but_not_for_ever() {
    let world = World::new().await;
    let now = world.put("a", "x", "1").await;
    for version in [ReadVersion::NotOlderThan(now), ReadVersion::Any] {
        // whatever is at hand may be nothing yet
        world.cache.list(&at(ReadVersion::NotOlderThan(now))).await.unwrap();
        assert_eq!(world.cache.list(&at(version)).await.unwrap().items.len(), 1);
    }
    let later = Revision(now.0 + 1);
    tokio::time::pause();
    for version in [ReadVersion::NotOlderThan(later), ReadVersion::Exact(later)] {
        let error = world.cache.list(&at(version)).await.unwrap_err();
        assert_eq!(error.to_string(), format!("Too large resource version: {later}, current: {now}"));
        let status = Status::from(error);
        let details = status.details.unwrap();
        assert_eq!((status.code, details.retry_after_seconds), (504, 1));
        assert_eq!(details.causes[0].reason, "ResourceVersionTooLarge");
    }
    tokio::time::resume();
    let (waited, written) =
        tokio::join!(world.cache.get("a", "y", ReadVersion::NotOlderThan(later)), world.put("a", "y", "2"));
    assert_eq!(waited.unwrap().unwrap().revision(), written);
}

#[tokio::test]
async fn what_cannot_be_decoded_is_an_error_not_a_gap() {
    let world = World::new().await;
    world.put("a", "good", "1").await;
    world.put_raw("a/bad", "{ not json".into()).await;
    let error = world.cache.get("a", "bad", ReadVersion::Latest).await.unwrap_err();
    assert!(matches!(error, Error::Undecodable { .. }), "{error:?}");
    assert!(world.cache.get("a", "good", ReadVersion::Latest).await.unwrap().is_some());
    let error = world.cache.list(&ListOptions::all("")).await.unwrap_err();
    assert_eq!(Status::from(error).code, 500);
    world.delete("a", "bad").await;
    assert_eq!(world.cache.list(&ListOptions::all("")).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn bytes_are_those_of_the_store() {
    let world = World::new().await;
    world.put("a", "x", "1").await;
    let held = world.storage.get("/registry/things/a/x").await.unwrap().unwrap();
    let object = world.cache.get("a", "x", ReadVersion::Latest).await.unwrap().unwrap();
    assert_eq!(object.json_without_version().as_ptr(), held.value.as_ptr(), "one copy in memory");
    let (head, version, tail) = object.json_pieces();
    assert_eq!([&head[..], version.as_bytes(), &tail[..]].concat(), object.to_json());
    assert!(object.json_len() >= object.to_json().len());

    // and an update can begin from it
    let store = ObjectStore::new(Arc::<common::Flaky>::clone(&world.storage));
    let attempt = store.attempt_cached(object.stored());
    world.put("a", "x", "2").await;
    let Outcome::Conflict(attempt) = attempt.put("{}".into(), None).await.unwrap() else {
        panic!("it had changed")
    };
    assert!(attempt.is_fresh());
    assert!(matches!(attempt.put("{}".into(), None).await.unwrap(), Outcome::Done(Revision(3))));
}

#[tokio::test]
async fn values_announced_are_not_decoded_again() {
    let world = World::new().await;
    let value = |name: &str| {
        format!(r#"{{"metadata":{{"name":"{name}","namespace":"a"}},"spec":{{"node":"said"}}}}"#)
    };
    // the tree says something else, which tells who was asked
    let tree = json!({"metadata": {"labels": {"from": "tree"}}, "spec": {"node": "told"}});
    let announce = |name: &str| {
        let text = StoredText::new(value(name).into()).unwrap();
        world.cache.announce(&format!("/registry/things/a/{name}").into(), &text, &tree);
    };
    announce("x");
    announce("y");
    // another value of the key, another key with the value
    let other = value("y").replace("said", "other");
    for (name, value, node) in [("x", value("x"), "told"), ("y", other, "other"), ("z", value("y"), "said")] {
        let revision = world.put_raw(&format!("a/{name}"), value).await;
        let found = world.cache.get("a", name, ReadVersion::Latest).await.unwrap().unwrap();
        assert_eq!(found.field(0), node, "{name}");
        assert_eq!(found.labels().get("from"), (node == "told").then_some("tree"), "{name}");
        let json = String::from_utf8(found.to_json().to_vec()).unwrap();
        assert!(json.contains(&format!(r#""namespace":"a","resourceVersion":"{revision}"}}"#)), "{json}");
    }
}

#[tokio::test]
async fn encodings_of_runs_are_kept_while_the_run_is_the_same() {
    let world = World::new().await;
    for name in ["x", "y", "z"] {
        world.put("a", name, "1").await;
    }
    world.cache.read(ReadVersion::Latest).await.unwrap();
    let id = RepresentationId(9);
    let objects = || world.cache.snapshot().iter("a").collect::<Vec<_>>();
    let encode = |run: &[Arc<StoredObject>], text: &'static str| {
        run[0].representation_of_run(run, id, || Ok::<_, ()>(text.into())).unwrap()
    };
    assert_eq!(encode(&objects(), "first"), "first");
    assert_eq!(encode(&objects(), "second"), "first");
    // fewer, or one of them changed
    assert_eq!(encode(&objects()[..2], "third"), "third");
    assert_eq!(encode(&objects()[..2], "fourth"), "third");
    let revision = world.put("a", "y", "2").await;
    let found = world.cache.get("a", "y", ReadVersion::Latest).await.unwrap().unwrap();
    assert_eq!(found.revision(), revision);
    assert_eq!(encode(&objects()[..2], "fifth"), "fifth");
    assert_eq!(world.cache.stats().representation_bytes, "fifth".len() + 2 * size_of::<usize>());
}

#[tokio::test]
async fn trees_are_kept_while_they_are_used() {
    let world = World::new().await;
    world.put("a", "x", "n1").await;
    let object = world.cache.get("a", "x", ReadVersion::Latest).await.unwrap().unwrap();
    let (first, second) = (object.tree().unwrap(), object.tree().unwrap());
    assert_eq!(first, object.to_value().unwrap());
    assert!(first.shares(&second) && world.cache.stats().representation_bytes > 0);
    // beyond the budget they are made each time
    let world = World::with(|config| config.representation_bytes = 0).await;
    world.put("a", "x", "n1").await;
    let object = world.cache.get("a", "x", ReadVersion::Latest).await.unwrap().unwrap();
    assert!(!object.tree().unwrap().shares(&object.tree().unwrap()));
    assert_eq!(world.cache.stats().representation_bytes, 0);
}

#[tokio::test]
async fn encodings_are_made_once_and_let_go_when_unused() {
    let world = World::with(|config| config.representation_bytes = 500).await;
    world.put("a", "x", "1").await;
    world.put("a", "y", "1").await;
    let protobuf = RepresentationId(7);
    let encode = |object: &StoredObject| {
        object.representation(protobuf, |_| Ok::<_, ()>(vec![0; 400].into())).unwrap()
    };
    let never = |object: &StoredObject| object.representation(protobuf, |_| Err(()));
    let x = world.cache.get("a", "x", ReadVersion::Latest).await.unwrap().unwrap();
    let y = world.cache.get("a", "y", ReadVersion::Latest).await.unwrap().unwrap();
    encode(&x);
    assert_eq!(never(&x).unwrap().len(), 400);
    encode(&y);
    assert!(never(&y).is_err(), "beyond the budget nothing is kept");
    assert_eq!(world.cache.stats().representation_bytes, 400);
    // another form of an object takes the place of the one that was used before
    let other = |object: &StoredObject| {
        object.representation(RepresentationId(8), |_| Ok::<_, ()>(vec![0; 300].into())).unwrap()
    };
    other(&x);
    assert_eq!(world.cache.stats().representation_bytes, 300);
    assert!(never(&x).is_err());
    encode(&x);
    assert_eq!(world.cache.stats().representation_bytes, 400);
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.cache.stats().representation_bytes, 0);
    encode(&y);
    drop((x, y));
    tokio::time::resume();
    world.delete("a", "y").await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.cache.stats().representation_bytes, 0);
}
