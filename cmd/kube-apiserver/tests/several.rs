//! Several servers over one etcd: what one writes the others show, and each is among the endpoints while it lives.

use std::collections::BTreeSet;

use component::http::full;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use integration::etcd::Etcd;
use integration::servers::{ApiServer, ApiServers, Door};
use serde_json::{Value, json};

const CM: &str = "/api/v1/namespaces/default/configmaps";

/// The addresses of the `kubernetes` service as Endpoints and as EndpointSlice tell them; `None` while they differ.
async fn endpoints(door: &Door) -> Option<BTreeSet<String>> {
    let endpoints =
        door.ok("GET", "/api/v1/namespaces/default/endpoints/kubernetes", &Value::Null).await.ok()?;
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice = door.ok("GET", path, &Value::Null).await.ok()?;
    let texts = |list: &Value, of: fn(&Value) -> &Value| -> BTreeSet<String> {
        list.as_array().into_iter().flatten().filter_map(|v| of(v).as_str().map(str::to_owned)).collect()
    };
    let old = texts(&endpoints["subsets"][0]["addresses"], |v| &v["ip"]);
    let new = texts(&slice["endpoints"], |v| &v["addresses"][0]);
    (old == new).then_some(old)
}

async fn until_endpoints(asked: &mut ApiServer, wanted: &[&str]) -> anyhow::Result<()> {
    let wanted: BTreeSet<String> = wanted.iter().map(|a| (*a).to_owned()).collect();
    let door = asked.door();
    let what = format!("the endpoints are {wanted:?}");
    asked.process.until(&what, async || endpoints(&door).await.filter(|found| *found == wanted)).await?;
    Ok(())
}

/// The next event of a watch as its type, name and resourceVersion.
async fn event(body: &mut Incoming, rest: &mut Vec<u8>) -> anyhow::Result<(String, String, String)> {
    loop {
        if let Some(at) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=at).collect();
            let event: Value = serde_json::from_slice(&line)?;
            let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
            let metadata = &event["object"]["metadata"];
            return Ok((text(&event["type"]), text(&metadata["name"]), text(&metadata["resourceVersion"])));
        }
        let frame = body.frame().await.ok_or_else(|| anyhow::anyhow!("the watch has ended"))??;
        rest.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_agree() -> anyhow::Result<()> {
    let etcd = Etcd::start(&[]).await?;
    let servers = ApiServers::new(env!("CARGO_BIN_EXE_kube-apiserver"))?;
    let start = async |address: &str| {
        let flags = [format!("--etcd-servers={}", etcd.url()), format!("--advertise-address={address}")];
        servers.start(&flags).await
    };
    let (mut one, two, three) =
        (start("10.88.0.1").await?, start("10.88.0.2").await?, start("10.88.0.3").await?);
    until_endpoints(&mut one, &["10.88.0.1", "10.88.0.2", "10.88.0.3"]).await?;

    // writes through one and another are seen by a watch of the third, in the order of their revisions
    let (a, b) = (one.door(), two.door());
    let list = b.ok("GET", CM, &Value::Null).await?;
    let from = list["metadata"]["resourceVersion"].as_str().unwrap_or("");
    let path = format!("{CM}?watch=true&resourceVersion={from}");
    let mut watch = three.door().connect().await?.send("GET", &path, full("")).await?.into_body();
    let mut rest = Vec::new();
    for round in 0..5 {
        let (writer, other) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let name = format!("c{round}");
        let made = writer.ok("POST", CM, &json!({"metadata": {"name": name}})).await?;
        // what one has acknowledged the other shows at once
        let mut read = other.ok("GET", &format!("{CM}/{name}"), &Value::Null).await?;
        assert_eq!(read, made);
        let listed = other.ok("GET", CM, &Value::Null).await?;
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(round + 1));
        read["data"] = json!({"by": "the other"});
        let changed = other.ok("PUT", &format!("{CM}/{name}"), &read).await?;
        for (kind, object) in [("ADDED", &made), ("MODIFIED", &changed)] {
            let version = object["metadata"]["resourceVersion"].as_str().unwrap_or("");
            let seen = event(&mut watch, &mut rest).await?;
            assert_eq!(seen, (kind.to_owned(), name.clone(), version.to_owned()));
        }
        // the version from before is stale for both
        read["data"] = json!({"by": "nobody"});
        for door in [&a, &b] {
            let refused = door.ok("PUT", &format!("{CM}/{name}"), &read).await;
            assert!(refused.is_err_and(|e| e.to_string().contains("409")));
        }
    }

    // who deletes may not have seen the change before, and yet goes by it: news and request wait for it together
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    for round in 0..20 {
        let path = format!("{CM}/d{round}");
        let made = a.ok("POST", CM, &json!({"metadata": {"name": format!("d{round}")}})).await?;
        let mut held = made.clone();
        held["metadata"]["finalizers"] = json!(["example.com/held"]);
        let mut connection = b.connect().await?;
        connection.send("GET", &path, full("")).await?.into_body().collect().await?;
        two.process.pause()?;
        let held = a.ok("PUT", &path, &held).await?;
        let new = json!({"preconditions": {"resourceVersion": version(&held)}}).to_string();
        let to = path.clone();
        let deleting = tokio::spawn(async move { connection.send("DELETE", &to, full(new)).await });
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        two.process.resume()?;
        let answer = deleting.await??;
        assert_eq!(answer.status(), 200, "round {round}");
        let mut marked: Value = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
        assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
        let old = json!({"preconditions": {"resourceVersion": version(&made)}});
        let refused = b.ok("DELETE", &path, &old).await;
        assert!(refused.is_err_and(|e| e.to_string().contains("409")));
        marked["metadata"]["finalizers"] = json!([]);
        a.ok("PUT", &path, &marked).await?;
        let gone = b.ok("DELETE", &path, &Value::Null).await;
        assert!(gone.is_err_and(|e| e.to_string().contains("404")));
    }

    // addresses and ports are given out once
    let mut taken = BTreeSet::new();
    for (i, door) in [&a, &b, &a, &b].into_iter().enumerate() {
        let service = json!({"metadata": {"name": format!("s{i}")}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        let made = door.ok("POST", "/api/v1/namespaces/default/services", &service).await?;
        assert!(taken.insert(made["spec"]["clusterIP"].to_string()), "{made}");
        assert!(taken.insert(made["spec"]["ports"][0]["nodePort"].to_string()), "{made}");
    }

    // one that is asked to end leaves, one that is killed is missed
    assert!(three.process.stop().await?);
    let left = BTreeSet::from(["10.88.0.1".to_owned(), "10.88.0.2".to_owned()]);
    assert_eq!(endpoints(&one.door()).await, Some(left), "it has left before it ended");
    drop(two);
    until_endpoints(&mut one, &["10.88.0.1"]).await?;
    // and comes back
    let again = start("10.88.0.2").await?;
    until_endpoints(&mut one, &["10.88.0.1", "10.88.0.2"]).await?;
    assert!(again.process.stop().await? && one.process.stop().await?);
    Ok(())
}
