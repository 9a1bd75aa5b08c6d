//! Lists, selectors, pages, Tables, formats.

use integration::Cluster;
use serde_json::{Value, json};

const CM: &str = "/api/v1/namespaces/default/configmaps";

async fn filled(count: usize) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start().await?;
    for i in 0..count {
        let object = json!({"metadata": {"name": format!("c{i:03}"), "labels": {"n": i.to_string()}},
                            "data": {"k": "v"}});
        cluster.ok("POST", CM, &object).await?;
    }
    Ok(cluster)
}

fn names(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|i| i["metadata"]["name"].as_str().unwrap_or("").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_snapshots() -> anyhow::Result<()> {
    let cluster = filled(10).await?;
    let first = cluster.ok("GET", &format!("{CM}?limit=4"), &Value::Null).await?;
    assert_eq!(first["kind"], "ConfigMapList");
    assert_eq!(first["metadata"]["remainingItemCount"], 6);
    assert!(first["items"][0]["kind"].is_null(), "items of a list do not repeat their kind");
    cluster.ok("POST", CM, &json!({"metadata": {"name": "c0055"}})).await?;
    let mut seen = names(&first);
    let mut token = first["metadata"]["continue"].as_str().unwrap_or("").to_owned();
    while !token.is_empty() {
        let page = cluster.ok("GET", &format!("{CM}?limit=4&continue={token}"), &Value::Null).await?;
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        seen.extend(names(&page));
        page["metadata"]["continue"].as_str().unwrap_or("").clone_into(&mut token);
    }
    let expected: Vec<String> = (0..10).map(|i| format!("c{i:03}")).collect();
    assert_eq!(seen, expected, "what was created meanwhile is not on these pages");
    assert_eq!(cluster.call("GET", &format!("{CM}?limit=1&continue=garbage"), "").await?.code, 400);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_lists_are_compressed_and_say_the_same() -> anyhow::Result<()> {
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let cluster = filled(40).await?;
    let patch = json!({"data": {"text": "\u{e9}\u{1d11e}<&> ".repeat(2000)}});
    for i in 0..40 {
        let headers = [("content-type", "application/merge-patch+json")];
        let text = patch.to_string();
        assert_eq!(cluster.call_with("PATCH", &format!("{CM}/c{i:03}"), &text, &headers).await?.code, 200);
    }
    for (accept, query) in [
        ("application/json", ""),
        ("application/json", "?limit=35"),
        ("application/json", "?resourceVersion=0&labelSelector=n!%3D0"),
        (PROTOBUF, ""),
        (PROTOBUF, "?limit=35"),
        ("application/yaml", ""),
        (TABLE, ""),
    ] {
        let path = format!("{CM}{query}");
        let plain = cluster.call_with("GET", &path, "", &[("accept", accept)]).await?;
        assert_eq!((plain.code, plain.header("content-encoding")), (200, ""), "{accept} {query}");
        // made, and then kept
        for _ in 0..2 {
            let headers = [("accept", accept), ("accept-encoding", "gzip")];
            let packed = cluster.call_with("GET", &path, "", &headers).await?;
            assert_eq!(packed.code, 200);
            if accept == TABLE {
                // which is small
                assert_eq!(packed.bytes, plain.bytes);
                continue;
            }
            assert!(packed.unpacked() == plain.bytes, "{accept} {query}");
            assert!(packed.bytes.len() * 10 < plain.bytes.len(), "{accept} {query}");
            assert_eq!(packed.header("content-type"), plain.header("content-type"));
            assert_eq!(packed.header("vary"), "Accept-Encoding");
        }
    }
    // runs of objects of which one has changed, and one is gone
    let headers = [("content-type", "application/merge-patch+json")];
    let changed = json!({"data": {"k": "w"}}).to_string();
    assert_eq!(cluster.call_with("PATCH", &format!("{CM}/c020"), &changed, &headers).await?.code, 200);
    cluster.ok("DELETE", &format!("{CM}/c030"), &Value::Null).await?;
    for accept in ["application/json", PROTOBUF] {
        let plain = cluster.call_with("GET", CM, "", &[("accept", accept)]).await?;
        let packed =
            cluster.call_with("GET", CM, "", &[("accept", accept), ("accept-encoding", "gzip")]).await?;
        assert!(packed.unpacked() == plain.bytes, "{accept}");
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors() -> anyhow::Result<()> {
    let cluster = filled(5).await?;
    let cases = [
        ("labelSelector=n%3D3", vec!["c003"]),
        ("labelSelector=n+in+(1,2)", vec!["c001", "c002"]),
        ("labelSelector=n+notin+(0,1,2,3)", vec!["c004"]),
        ("labelSelector=!n", vec![]),
        ("fieldSelector=metadata.name%3Dc001", vec!["c001"]),
        (
            "fieldSelector=metadata.name!%3Dc001,metadata.namespace%3Ddefault&labelSelector=n%3D2",
            vec!["c002"],
        ),
    ];
    for (query, expected) in cases {
        let list = cluster.ok("GET", &format!("{CM}?{query}"), &Value::Null).await?;
        let found: Vec<String> = names(&list).into_iter().filter(|n| n.starts_with('c')).collect();
        assert_eq!(found, expected, "{query}");
    }
    let bad = cluster.call("GET", &format!("{CM}?fieldSelector=data.k%3Dv"), "").await?;
    assert_eq!(bad.code, 400);
    assert!(bad.message().contains("data.k"), "{}", bad.message());
    let bad = cluster.call("GET", "/api/v1/pods?fieldSelector=spec.nope%3Dv", "").await?;
    assert_eq!((bad.code, bad.message().as_str()), (400, "field label not supported: spec.nope"));
    assert_eq!(cluster.call("GET", &format!("{CM}?labelSelector=a+b+c"), "").await?.code, 400);
    // the name of a path is the one that was authorized
    let one = "/api/v1/watch/namespaces/default/configmaps/c001";
    for selector in ["metadata.name%3Dc002", "metadata.name!%3Dc001", "metadata.namespace%3Ddefault"] {
        let other =
            cluster.call("GET", &format!("{one}?timeoutSeconds=1&fieldSelector={selector}"), "").await?;
        let text = "fieldSelector metadata.name doesn't match requested name";
        assert_eq!((other.code, other.message().as_str()), (400, text), "{selector}");
    }
    let same = cluster
        .call("GET", &format!("{one}?timeoutSeconds=1&fieldSelector=metadata.name%3Dc001"), "")
        .await?;
    assert!(same.code == 200 && same.text().contains("c001"), "{}", same.text());
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_lists() -> anyhow::Result<()> {
    let cluster = filled(2).await?;
    let before = cluster.ok("GET", CM, &Value::Null).await?;
    let version = before["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
    let later = cluster.ok("POST", CM, &json!({"metadata": {"name": "later"}})).await?;
    let exact = format!("{CM}?resourceVersion={version}&resourceVersionMatch=Exact");
    assert_eq!(names(&cluster.ok("GET", &exact, &Value::Null).await?), names(&before));
    // A cache may be behind the latest write, but not behind the version asked for.
    let created = later["metadata"]["resourceVersion"].as_str().unwrap_or("");
    let newer = format!("{CM}?resourceVersion={created}&resourceVersionMatch=NotOlderThan");
    assert!(names(&cluster.ok("GET", &newer, &Value::Null).await?).contains(&"later".to_owned()));
    let future = cluster.call("GET", &format!("{CM}?resourceVersion=999999"), "").await?;
    assert_eq!(future.code, 504);
    assert_eq!(future.json()["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn formats_and_views() -> anyhow::Result<()> {
    let cluster = filled(1).await?;
    let path = format!("{CM}/c000");
    let accept =
        async |path: &str, accept: &str| cluster.call_with("GET", path, "", &[("accept", accept)]).await;
    let yaml = accept(&path, "application/yaml").await?;
    assert_eq!(yaml.header("content-type"), "application/yaml");
    assert!(yaml.text().starts_with("apiVersion: v1\n"), "{}", yaml.text());

    let table = accept(CM, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await?.json();
    assert_eq!(table["kind"], "Table");
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");

    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = accept(CM, partial).await?.json();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    assert!(list["items"][0]["data"].is_null());

    let refused = accept(&path, "text/html").await?;
    assert_eq!((refused.code, refused.json()["reason"].as_str()), (406, Some("NotAcceptable")));
    let unknown = cluster.call_with("POST", CM, "<a/>", &[("content-type", "application/xml")]).await?;
    assert_eq!((unknown.code, unknown.json()["reason"].as_str()), (415, Some("UnsupportedMediaType")));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_says_the_same() -> anyhow::Result<()> {
    use apimachinery::protobuf;
    let cluster = filled(3).await?;
    let headers = [("accept", "application/vnd.kubernetes.protobuf")];
    let one = cluster.call_with("GET", &format!("{CM}/c001"), "", &headers).await?;
    assert_eq!(one.header("content-type"), "application/vnd.kubernetes.protobuf");
    let catalog = apis::catalog();
    let root = |name: &str| catalog.definition(name).map(|d| d.node).expect("definition");
    let object = protobuf::decode_object(catalog.schema(), root("io.k8s.api.core.v1.ConfigMap"), &one.bytes)?;
    let object = Value::from(object);
    assert_eq!(object, cluster.ok("GET", &format!("{CM}/c001"), &Value::Null).await?);

    let list = cluster.call_with("GET", CM, "", &headers).await?;
    let decoded =
        protobuf::decode_object(catalog.schema(), root("io.k8s.api.core.v1.ConfigMapList"), &list.bytes)?;
    let decoded = Value::from(decoded);
    let json = cluster.ok("GET", CM, &Value::Null).await?;
    assert_eq!(decoded["metadata"], json["metadata"]);
    assert_eq!(names(&decoded), names(&json));
    // and in: the same object again under another name
    let mut copy = object;
    copy["metadata"] = json!({"name": "copy"});
    let body = protobuf::encode_object(catalog.schema(), root("io.k8s.api.core.v1.ConfigMap"), &copy.into())?;
    let admin = auth::UserInfo::new("admin", &["system:masters"]);
    let sent = [("content-type", "application/vnd.kubernetes.protobuf")];
    let created = cluster.call_as(admin, "POST", CM, component::http::full(body), &sent).await?;
    assert_eq!(created.code, 201, "{}", created.text());
    assert_eq!(created.json()["data"], json!({"k": "v"}));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_one_kind_are_converted() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let base =
        |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let object = json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": target, "maxReplicas": 3,
                        "targetCPUUtilizationPercentage": 70}});
    let created = cluster.ok("POST", &base("v1"), &object).await?;
    assert_eq!(created["apiVersion"], "autoscaling/v1");
    let newer = cluster.ok("GET", &format!("{}/h", base("v2")), &Value::Null).await?;
    assert_eq!(newer["apiVersion"], "autoscaling/v2");
    assert_eq!(newer["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
    let older = cluster.ok("GET", &format!("{}/h", base("v1")), &Value::Null).await?;
    assert_eq!(older["spec"]["targetCPUUtilizationPercentage"], 70);
    let list = cluster.ok("GET", &base("v2"), &Value::Null).await?;
    assert_eq!(list["apiVersion"], "autoscaling/v2");
    assert_eq!(list["items"][0]["spec"]["metrics"][0]["type"], "Resource");
    // one object, whichever version it is changed through
    let mut changed = newer;
    changed["spec"]["maxReplicas"] = json!(9);
    cluster.ok("PUT", &format!("{}/h", base("v2")), &changed).await?;
    let older = cluster.ok("GET", &format!("{}/h", base("v1")), &Value::Null).await?;
    assert_eq!(older["spec"]["maxReplicas"], 9);
    cluster.stop().await;
    Ok(())
}
