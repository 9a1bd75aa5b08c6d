//! What was acknowledged is there after a restart, and clients go on where they were.

use controlplane::StorageConfig;
use integration::Cluster;
use serde_json::{Value, json};

const CM: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn objects_survive() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let storage = || StorageConfig::Embedded(dir.path().join("store"));
    let cluster = Cluster::with(storage()).await?;
    let created = cluster.ok("POST", CM, &json!({"metadata": {"name": "kept"}, "data": {"a": "1"}})).await?;
    let namespaces = cluster.ok("GET", "/api/v1/namespaces", &Value::Null).await?;
    cluster.stop().await;

    let cluster = Cluster::with(storage()).await?;
    assert_eq!(cluster.ok("GET", &format!("{CM}/kept"), &Value::Null).await?, created);
    let again = cluster.ok("GET", "/api/v1/namespaces", &Value::Null).await?;
    assert_eq!(again["items"], namespaces["items"], "bootstrap leaves alone what is there");
    // the version a client holds still fits
    let mut changed = created.clone();
    changed["data"]["a"] = json!("2");
    cluster.ok("PUT", &format!("{CM}/kept"), &changed).await?;
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_use_is_left_alone() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let storage = || StorageConfig::Embedded(dir.path().join("store"));
    let first = Cluster::with(storage()).await?;
    let second = Cluster::with(storage()).await;
    assert!(second.is_err_and(|e| e.to_string().contains("cannot open the store")));
    first.ok("GET", "/api/v1/namespaces/default", &Value::Null).await?;
    first.stop().await;
    Ok(())
}

/// A server starts before its store does, and ends when it is told to although the store never came.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_is_waited_for() -> anyhow::Result<()> {
    component::install_crypto();
    let storage = StorageConfig::Etcd { servers: vec!["http://127.0.0.1:1".into()], ca: None, client: None };
    let dev = controlplane::dev::Dev::new(std::net::SocketAddr::from(([127, 0, 0, 1], 0)), storage)?;
    let shutdown = tokio_util::sync::CancellationToken::new();
    let starting = tokio::spawn(controlplane::ControlPlane::start(dev.config, shutdown.clone()));
    shutdown.cancel();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), starting).await??;
    assert!(ended.err().is_some_and(|error| error.to_string().contains("before the store")));
    Ok(())
}
