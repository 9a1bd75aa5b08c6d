//! Small promises of the API that clients rely on.

use integration::Cluster;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn reviews_need_no_name() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let authorization = "/apis/authorization.k8s.io/v1";
    let resource = json!({"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}});
    let mut about_somebody = resource.clone();
    about_somebody["user"] = json!("jane");
    let cases = [
        (format!("{authorization}/subjectaccessreviews"), about_somebody.clone()),
        (format!("{authorization}/namespaces/default/localsubjectaccessreviews"), about_somebody),
        (format!("{authorization}/selfsubjectaccessreviews"), resource),
        (format!("{authorization}/selfsubjectrulesreviews"), json!({"namespace": "default"})),
        ("/apis/authentication.k8s.io/v1/selfsubjectreviews".into(), json!({})),
        ("/apis/authentication.k8s.io/v1/tokenreviews".into(), json!({"token": "x"})),
        (
            "/api/v1/namespaces/default/serviceaccounts/default/token".into(),
            json!({"expirationSeconds": 600}),
        ),
    ];
    cluster
        .ok("POST", "/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}}))
        .await?;
    for (path, spec) in cases {
        let body = if path.ends_with("selfsubjectreviews") { json!({}) } else { json!({"spec": spec}) };
        for query in ["", "?dryRun=All", "?fieldManager=x&fieldValidation=Strict"] {
            let answer = cluster.call("POST", &format!("{path}{query}"), &body.to_string()).await?;
            assert_eq!(answer.code, 201, "{path}{query}: {}", answer.text());
            assert!(answer.json()["status"].is_object(), "{path}: {}", answer.text());
        }
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_ports_have_a_protocol() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let endpoints = json!({"metadata": {"name": "e"}, "subsets": [
        {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "name": "web"}, {"port": 53, "name": "dns", "protocol": "UDP"}]}]});
    let created = cluster.ok("POST", "/api/v1/namespaces/default/endpoints", &endpoints).await?;
    let protocols: Vec<&str> = created["subsets"][0]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| port["protocol"].as_str())
        .collect();
    assert_eq!(protocols.len(), 2, "{created}");
    assert!(protocols.contains(&"TCP") && protocols.contains(&"UDP"));
    cluster.stop().await;
    Ok(())
}

/// Fields an endpoint resets are never its writers' own.
#[tokio::test(flavor = "multi_thread")]
async fn subresources_own_what_they_write() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let pods = "/api/v1/namespaces/default/pods";
    cluster
        .ok("POST", "/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}}))
        .await?;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i",
        "resources": {"requests": {"cpu": "100m"}}}]}});
    let created = cluster.ok("POST", pods, &pod).await?;
    let fields = |object: &Value, manager: &str, subresource: Option<&str>| {
        let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        entries
            .into_iter()
            .find(|e| e["manager"] == manager && e["subresource"].as_str() == subresource)
            .map(|e| e["fieldsV1"].clone())
    };
    let mut resized = created.clone();
    resized["metadata"]["labels"] = json!({"ignored": "here"});
    resized["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("200m");
    let after = cluster.ok("PUT", &format!("{pods}/p/resize?fieldManager=resizer"), &resized).await?;
    assert!(after["metadata"].get("labels").is_none(), "{after}");
    let owned = fields(&after, "resizer", Some("resize")).unwrap_or_default();
    assert!(owned.pointer("/f:metadata").is_none(), "{owned}");
    let container = owned.pointer("/f:spec/f:containers/k:{\"name\":\"c\"}");
    assert!(container.is_some_and(|c| c.get("f:resources").is_some()), "{owned}");

    let mut debugged = after.clone();
    debugged["spec"]["ephemeralContainers"] =
        json!([{"name": "d", "image": "i", "targetContainerName": "c"}]);
    let after =
        cluster.ok("PUT", &format!("{pods}/p/ephemeralcontainers?fieldManager=debugger"), &debugged).await?;
    let owned = fields(&after, "debugger", Some("ephemeralcontainers")).unwrap_or_default();
    let spec: Vec<&String> = owned["f:spec"].as_object().into_iter().flat_map(|m| m.keys()).collect();
    assert_eq!(spec, ["f:ephemeralContainers"], "{owned}");

    let mut reported = after.clone();
    reported["status"]["phase"] = json!("Running");
    reported["spec"]["priority"] = json!(7);
    reported["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]);
    let after = cluster.ok("PUT", &format!("{pods}/p/status?fieldManager=reporter"), &reported).await?;
    assert!(after["metadata"].get("ownerReferences").is_none());
    let owned = fields(&after, "reporter", Some("status")).unwrap_or_default();
    assert!(
        owned.get("f:spec").is_none() && owned.pointer("/f:metadata/f:ownerReferences").is_none(),
        "{owned}"
    );

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d", "labels": {"a": "b"}}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let mut reported = cluster.ok("POST", deployments, &deployment).await?;
    reported["metadata"]["labels"] = json!({"a": "c"});
    reported["status"]["replicas"] = json!(1);
    let after =
        cluster.ok("PUT", &format!("{deployments}/d/status?fieldManager=reporter"), &reported).await?;
    assert_eq!(
        after["metadata"]["labels"],
        json!({"a": "b"}),
        "a deployment's status update keeps the labels"
    );
    let owned = fields(&after, "reporter", Some("status")).unwrap_or_default();
    assert!(owned.get("f:metadata").is_none(), "{owned}");
    cluster.stop().await;
    Ok(())
}
