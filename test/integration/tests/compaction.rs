//! What clients are told of a past that the store has forgotten, over both engines.
//!
//! Servers are started anew between the steps: one that has seen the past itself answers from its memory.

use controlplane::StorageConfig;
use integration::Cluster;
use integration::etcd::Etcd;
use integration::events::Events;
use serde_json::{Value, json};

const CM: &str = "/api/v1/namespaces/default/configmaps";
const TOO_OLD: &str = "The resourceVersion for the provided list is too old.";
const CONTINUE_TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can \
    start a new list without the continue parameter, or use the continue token in this response to retrieve the \
    remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were \
    created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

#[tokio::test(flavor = "multi_thread")]
async fn embedded_store() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    story(&StorageConfig::Embedded(dir.path().join("store"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd() -> anyhow::Result<()> {
    let etcd = Etcd::start(&[]).await?;
    story(&etcd.storage()).await
}

fn names(list: &Value) -> String {
    let of = |item: &Value| {
        let name = item["metadata"]["name"].as_str().unwrap_or("");
        format!("{name}{}", if item["data"]["changed"] == "yes" { "*" } else { "" })
    };
    list["items"].as_array().into_iter().flatten().map(of).collect::<Vec<_>>().join(" ")
}

async fn list(cluster: &Cluster, query: &str) -> anyhow::Result<Value> {
    cluster.ok("GET", &format!("{CM}?{query}"), &Value::Null).await
}

fn version(list: &Value) -> String {
    list["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned()
}

fn token(list: &Value) -> String {
    list["metadata"]["continue"].as_str().unwrap_or("").to_owned()
}

async fn story(storage: &StorageConfig) -> anyhow::Result<()> {
    let cluster = Cluster::with(storage.clone()).await?;
    for i in 0..6 {
        cluster.ok("POST", CM, &json!({"metadata": {"name": format!("c{i}")}})).await?;
    }
    let page = list(&cluster, "limit=2").await?;
    let (old, next) = (version(&page), token(&page));
    let change = json!({"metadata": {"name": "c4"}, "data": {"changed": "yes"}});
    cluster.ok("PUT", &format!("{CM}/c4"), &change).await?;
    cluster.ok("DELETE", &format!("{CM}/c5"), &Value::Null).await?;
    cluster.ok("POST", CM, &json!({"metadata": {"name": "c6"}})).await?;
    cluster.stop().await;

    // what the store remembers, a server that was not there can tell
    let cluster = Cluster::with(storage.clone()).await?;
    let exact = format!("resourceVersion={old}&resourceVersionMatch=Exact");
    let rest = format!("limit=10&continue={next}");
    let watch = format!("{CM}?watch=true&timeoutSeconds=1&resourceVersion={old}");
    assert_eq!(names(&list(&cluster, &exact).await?), "c0 c1 c2 c3 c4 c5");
    assert_eq!(names(&list(&cluster, &rest).await?), "c2 c3 c4 c5");
    let seen = Events::open(&cluster, &watch).await?.rest().await?;
    assert_eq!(seen, ["MODIFIED c4", "DELETED c5", "ADDED c6"]);
    let store = cluster.plane().server().store().storage().clone();
    store.compact(store.current_revision().await?).await?;
    cluster.stop().await;

    let cluster = Cluster::with(storage.clone()).await?;
    let latest = version(&list(&cluster, "").await?);
    for query in [&exact, &format!("resourceVersion={old}&limit=2"), &format!("{exact}&limit=2")] {
        for method in ["GET", "DELETE"] {
            let answer = cluster.call(method, &format!("{CM}?{query}"), "").await?;
            let status = answer.json();
            assert_eq!(
                (answer.code, &status["reason"]),
                (410, &json!("Expired")),
                "{method} {query}: {status}"
            );
            assert_eq!(status["message"], TOO_OLD, "{method} {query}");
            assert!(status["metadata"].get("continue").is_none(), "{method} {query}: {status}");
        }
    }
    // "not older" is as true as ever
    let newer = format!("resourceVersion={old}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&list(&cluster, &newer).await?), "c0 c1 c2 c3 c4* c6");

    watched(&cluster, &old, &latest).await?;
    continued(&cluster, &rest, &latest).await?;
    cluster.stop().await;
    Ok(())
}

/// A watch from too early says so by an event and ends.
async fn watched(cluster: &Cluster, old: &str, latest: &str) -> anyhow::Result<()> {
    let mut events = Events::open(cluster, &format!("{CM}?watch=true&resourceVersion={old}")).await?;
    let event = events.next().await?.unwrap_or_default();
    let status = &event["object"];
    assert_eq!((&event["type"], &status["kind"]), (&json!("ERROR"), &json!("Status")), "{event}");
    assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")), "{event}");
    let text = status["message"].as_str().unwrap_or("");
    assert!(text.starts_with(&format!("too old resource version: {old} (")), "{text}");
    assert_eq!(events.next().await?, None);
    let mut events = Events::open(cluster, &format!("{CM}?watch=true&resourceVersion={latest}")).await?;
    cluster.ok("POST", CM, &json!({"metadata": {"name": "c7"}})).await?;
    events.expect("ADDED", "c7").await?;
    cluster.ok("DELETE", &format!("{CM}/c7"), &Value::Null).await?;
    Ok(())
}

/// A token from too early is answered with another one, which goes on with what is there now.
async fn continued(cluster: &Cluster, rest: &str, latest: &str) -> anyhow::Result<()> {
    let refused = cluster.call("GET", &format!("{CM}?{rest}"), "").await?;
    let status = refused.json();
    assert_eq!((refused.code, &status["reason"]), (410, &json!("Expired")), "{status}");
    assert_eq!(status["message"], CONTINUE_TOO_OLD);
    let inconsistent = token(&status);
    assert!(!inconsistent.is_empty(), "{status}");
    let refused = cluster.call("DELETE", &format!("{CM}?{rest}"), "").await?;
    assert_eq!(refused.code, 410, "{}", refused.text());
    let page = list(cluster, &format!("limit=3&continue={inconsistent}")).await?;
    assert_eq!((names(&page).as_str(), &page["metadata"]["remainingItemCount"]), ("c2 c3 c4*", &json!(1)));
    assert!(version(&page).parse::<u64>()? >= latest.parse::<u64>()?, "{page}");
    // from here on it is consistent again
    cluster.ok("POST", CM, &json!({"metadata": {"name": "c5"}})).await?;
    let last = list(cluster, &format!("limit=3&continue={}", token(&page))).await?;
    assert_eq!((names(&last).as_str(), version(&last)), ("c6", version(&page)));
    assert_eq!(token(&last), "");
    Ok(())
}
