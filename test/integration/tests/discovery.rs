//! Discovery, version, health, metrics.

use integration::Cluster;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn documents_agree() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let versions = cluster.ok("GET", "/api", &Value::Null).await?;
    assert_eq!(versions["versions"][0], "v1");
    let core = cluster.ok("GET", "/api/v1", &Value::Null).await?;
    let names: Vec<&str> =
        core["resources"].as_array().into_iter().flatten().filter_map(|r| r["name"].as_str()).collect();
    for name in ["pods", "pods/log", "pods/status", "services/proxy", "bindings", "namespaces/finalize"] {
        assert!(names.contains(&name), "{name}");
    }
    let groups = cluster.ok("GET", "/apis", &Value::Null).await?;
    let listed = groups["groups"].as_array().map_or(0, Vec::len);
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = cluster.call_with("GET", "/apis", "", &[("accept", accept)]).await?;
    assert_eq!(
        aggregated.header("content-type"),
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    assert_eq!(aggregated.json()["items"].as_array().map(Vec::len), Some(listed));
    let etag = aggregated.header("etag").to_owned();
    let again =
        cluster.call_with("GET", "/apis", "", &[("accept", accept), ("if-none-match", &etag)]).await?;
    assert_eq!((again.code, again.bytes.len()), (304, 0));
    let version = cluster.ok("GET", "/version", &Value::Null).await?;
    assert_eq!((version["major"].as_str(), version["minor"].as_str()), (Some("1"), Some("36")));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let verbose = cluster.call("GET", "/readyz?verbose&exclude=etcd", "").await?.text();
    assert!(
        verbose.contains("[+]etcd excluded: ok") && verbose.ends_with("readyz check passed\n"),
        "{verbose}"
    );
    assert_eq!(cluster.call("GET", "/livez/ping", "").await?.text(), "ok");
    assert_eq!(cluster.call("GET", "/healthz/nope", "").await?.code, 404);
    cluster.ok("GET", "/api/v1/namespaces", &Value::Null).await?;
    let metrics = cluster.call("GET", "/metrics", "").await?.text();
    for needle in [
        "apiserver_request_total{verb=\"LIST\"",
        "apiserver_request_duration_seconds_bucket",
        "apiserver_storage_objects{resource=\"namespaces\"} 4",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(needle), "{needle}");
    }
    let index = cluster.ok("GET", "/", &Value::Null).await?;
    assert!(index["paths"].as_array().is_some_and(|p| p.iter().any(|p| p == "/apis/apps/v1")));
    cluster.stop().await;
    Ok(())
}
