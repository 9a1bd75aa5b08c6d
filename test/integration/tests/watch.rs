//! Watches.

use integration::Cluster;
use integration::events::Events;
use serde_json::{Value, json};

const CM: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn changes_arrive_in_order() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let list = cluster.ok("GET", CM, &Value::Null).await?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
    let mut all = Events::open(&cluster, &format!("{CM}?watch=true&resourceVersion={version}")).await?;
    let mut some =
        Events::open(&cluster, &format!("{CM}?watch=true&resourceVersion={version}&labelSelector=on"))
            .await?;
    cluster.ok("POST", CM, &json!({"metadata": {"name": "a"}})).await?;
    let mut object = cluster.ok("GET", &format!("{CM}/a"), &Value::Null).await?;
    object["metadata"]["labels"] = json!({"on": "1"});
    let labelled = cluster.ok("PUT", &format!("{CM}/a"), &object).await?;
    cluster.ok("DELETE", &format!("{CM}/a"), &Value::Null).await?;
    all.expect("ADDED", "a").await?;
    let modified = all.expect("MODIFIED", "a").await?;
    assert_eq!(modified, labelled);
    let deleted = all.expect("DELETED", "a").await?;
    assert_ne!(deleted["metadata"]["resourceVersion"], modified["metadata"]["resourceVersion"]);
    some.expect("ADDED", "a").await?;
    some.expect("DELETED", "a").await?;
    drop((all, some));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn streaming_lists_end_with_a_bookmark() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    cluster.ok("POST", CM, &json!({"metadata": {"name": "a"}})).await?;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&\
                 fieldSelector=metadata.name%3Da";
    let mut events = Events::open(&cluster, &format!("{CM}?{query}")).await?;
    events.expect("ADDED", "a").await?;
    let bookmark = events.next().await?.unwrap_or_default();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    drop(events);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_end() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    // after their time
    let mut short = Events::open(
        &cluster,
        &format!("{CM}?watch=true&resourceVersion=0&timeoutSeconds=1&fieldSelector=metadata.name%3Dnone"),
    )
    .await?;
    assert_eq!(short.next().await?, None);
    // with the server
    let mut open = Events::open(&cluster, &format!("{CM}?watch=true")).await?;
    let stop = tokio::spawn(cluster.stop());
    while open.next().await?.is_some() {}
    stop.await?;
    Ok(())
}
