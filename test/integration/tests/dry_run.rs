//! `dryRun=All`: for every way of writing, the answer is that of the real request and nothing else happens.

use std::collections::BTreeMap;

use integration::events::Events;
use integration::{Answer, Cluster};
use serde_json::{Value, json};
use storage::RangeRequest;

const NS: &str = "/api/v1/namespaces/default";
const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// One way of writing: method, path with query, media type, body, code.
type Case = (&'static str, &'static str, &'static str, Value, u16);

fn pod(name: &str, node: Option<&str>) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    if let Some(node) = node {
        pod["spec"]["nodeName"] = json!(node);
    }
    pod
}

fn service(name: &str, spec: Value) -> Value {
    let mut service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    service["spec"]["ports"] = json!([{"port": 80}]);
    service
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

fn held(name: &str) -> Value {
    let mut object = config_map(name);
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    object
}

fn deployment(replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn scale(replicas: i64) -> Value {
    json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas}})
}

/// What is there before.
async fn prepared() -> anyhow::Result<Cluster> {
    let cluster = Cluster::start().await?;
    let post = async |path: &str, object: Value| cluster.ok("POST", &format!("{NS}/{path}"), &object).await;
    post("serviceaccounts", json!({"metadata": {"name": "default"}})).await?;
    for name in ["put", "json", "merge", "strategic", "apply", "delete", "taken"] {
        post("configmaps", config_map(name)).await?;
    }
    for name in ["held", "released"] {
        post("configmaps", held(name)).await?;
    }
    cluster.ok("DELETE", &format!("{NS}/configmaps/released"), &Value::Null).await?;
    for name in ["a", "b"] {
        post("secrets", json!({"metadata": {"name": name, "labels": {"gone": "yes"}}})).await?;
    }
    for name in ["bind", "bindings", "soon"] {
        post("pods", pod(name, None)).await?;
    }
    for name in ["grace", "evict", "evict-body", "debug", "status"] {
        post("pods", pod(name, Some("n"))).await?;
    }
    post("services", service("change", json!({"type": "NodePort"}))).await?;
    post("services", service("remove", json!({"type": "NodePort"}))).await?;
    cluster.ok("POST", "/apis/apps/v1/namespaces/default/deployments", &deployment(1)).await?;
    for name in ["leaving", "finalizing"] {
        cluster.ok("POST", "/api/v1/namespaces", &json!({"metadata": {"name": name}})).await?;
    }
    let budget = json!({"metadata": {"name": "evict"}, "spec": {"minAvailable": 0,
        "selector": {"matchLabels": {"app": "evict"}}}});
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    cluster.ok("POST", budgets, &budget).await?;
    let status = json!({"status": {"disruptionsAllowed": 1, "currentHealthy": 1, "desiredHealthy": 0,
        "expectedPods": 1, "observedGeneration": 1}});
    patched(&cluster, &format!("{budgets}/evict/status"), &status).await?;
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    patched(&cluster, &format!("{NS}/pods/evict/status"), &ready).await?;
    Ok(cluster)
}

async fn patched(cluster: &Cluster, path: &str, patch: &Value) -> anyhow::Result<()> {
    let answer = cluster.call_with("PATCH", path, &patch.to_string(), &[("content-type", MERGE)]).await?;
    anyhow::ensure!(answer.code == 200, "{path}: {}", answer.text());
    Ok(())
}

fn cases() -> Vec<Case> {
    let merge = json!({"data": {"k": "w"}});
    let operations = json!([{"op": "replace", "path": "/data/k", "value": "w"}]);
    let applied = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"x": "y"}});
    let mut changed = config_map("put");
    changed["data"]["k"] = json!("w");
    let mut freed = config_map("released");
    freed["metadata"]["finalizers"] = json!([]);
    let available = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "status": {"replicas": 1}});
    let mut with_status = deployment(1);
    with_status["status"] = json!({"observedGeneration": 1});
    let binding = |pod: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": {"name": "n"}});
    let eviction = |pod: &str, options: Value| {
        let mut eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
        if !options.is_null() {
            eviction["deleteOptions"] = options;
        }
        eviction
    };
    let debugger = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}});
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "new"}});
    let finalize = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "finalizing"}, "spec": {"finalizers": ["kubernetes", "a.b/c"]}});
    vec![
        ("POST", "/api/v1/namespaces/default/configmaps", JSON, config_map("new"), 201),
        (
            "POST",
            "/api/v1/namespaces/default/configmaps",
            JSON,
            json!({"metadata": {"generateName": "some-"}}),
            201,
        ),
        ("POST", "/api/v1/namespaces/default/configmaps", JSON, config_map("taken"), 409),
        ("POST", "/api/v1/namespaces/default/configmaps", JSON, json!({"metadata": {"name": "No"}}), 422),
        ("POST", "/api/v1/namespaces/default/services", JSON, service("plain", json!({})), 201),
        (
            "POST",
            "/api/v1/namespaces/default/services",
            JSON,
            service("node", json!({"type": "NodePort"})),
            201,
        ),
        (
            "POST",
            "/api/v1/namespaces/default/services",
            JSON,
            service("local", json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})),
            201,
        ),
        ("POST", "/api/v1/namespaces", JSON, json!({"metadata": {"name": "new"}}), 201),
        ("POST", "/api/v1/namespaces/default/pods", JSON, pod("new", None), 201),
        ("PUT", "/api/v1/namespaces/default/configmaps/put", JSON, changed, 200),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/default/leases/new", JSON, lease, 201),
        (
            "PUT",
            "/api/v1/namespaces/default/services/change",
            JSON,
            service("change", json!({"type": "ClusterIP"})),
            200,
        ),
        // the last finalizer of what is being deleted: the object goes
        ("PUT", "/api/v1/namespaces/default/configmaps/released", JSON, freed, 200),
        ("PATCH", "/api/v1/namespaces/default/configmaps/json", JSON_PATCH, operations, 200),
        ("PATCH", "/api/v1/namespaces/default/configmaps/merge", MERGE, merge.clone(), 200),
        ("PATCH", "/api/v1/namespaces/default/configmaps/strategic", STRATEGIC, merge.clone(), 200),
        ("PATCH", "/api/v1/namespaces/default/configmaps/none", MERGE, merge, 404),
        ("PATCH", "/api/v1/namespaces/default/configmaps/apply?fieldManager=m", APPLY, applied("apply"), 200),
        (
            "PATCH",
            "/api/v1/namespaces/default/configmaps/applied?fieldManager=m",
            APPLY,
            applied("applied"),
            201,
        ),
        ("PUT", "/apis/apps/v1/namespaces/default/deployments/web/status", JSON, with_status, 200),
        (
            "PATCH",
            "/apis/apps/v1/namespaces/default/deployments/web/status",
            MERGE,
            json!({"status": {"replicas": 2}}),
            200,
        ),
        (
            "PATCH",
            "/apis/apps/v1/namespaces/default/deployments/web/status?fieldManager=m&force=true",
            APPLY,
            available,
            200,
        ),
        (
            "PATCH",
            "/api/v1/namespaces/default/pods/status/status",
            STRATEGIC,
            json!({"status": {"phase": "Running"}}),
            200,
        ),
        ("PUT", "/apis/apps/v1/namespaces/default/deployments/web/scale", JSON, scale(2), 200),
        (
            "PATCH",
            "/apis/apps/v1/namespaces/default/deployments/web/scale",
            MERGE,
            json!({"spec": {"replicas": 3}}),
            200,
        ),
        (
            "PATCH",
            "/apis/apps/v1/namespaces/default/deployments/web/scale?fieldManager=m&force=true",
            APPLY,
            scale(4),
            200,
        ),
        ("PATCH", "/api/v1/namespaces/default/pods/debug/ephemeralcontainers", STRATEGIC, debugger, 200),
        ("PUT", "/api/v1/namespaces/finalizing/finalize", JSON, finalize, 200),
        ("POST", "/api/v1/namespaces/default/pods/bind/binding", JSON, binding("bind"), 201),
        ("POST", "/api/v1/namespaces/default/bindings", JSON, binding("bindings"), 201),
        ("POST", "/api/v1/namespaces/default/pods/evict/eviction", JSON, eviction("evict", Value::Null), 201),
        (
            "POST",
            "/api/v1/namespaces/default/pods/evict-body/eviction",
            JSON,
            eviction("evict-body", json!({"gracePeriodSeconds": 5})),
            201,
        ),
        (
            "POST",
            "/api/v1/namespaces/default/serviceaccounts/default/token",
            JSON,
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}),
            201,
        ),
        ("DELETE", "/api/v1/namespaces/default/configmaps/delete", JSON, Value::Null, 200),
        ("DELETE", "/api/v1/namespaces/default/configmaps/held", JSON, Value::Null, 200),
        ("DELETE", "/api/v1/namespaces/default/configmaps/none", JSON, Value::Null, 404),
        ("DELETE", "/api/v1/namespaces/default/pods/grace", JSON, Value::Null, 200),
        ("DELETE", "/api/v1/namespaces/default/pods/soon?gracePeriodSeconds=0", JSON, Value::Null, 200),
        ("DELETE", "/api/v1/namespaces/default/services/remove", JSON, Value::Null, 200),
        (
            "DELETE",
            "/apis/apps/v1/namespaces/default/deployments/web?propagationPolicy=Foreground",
            JSON,
            Value::Null,
            202,
        ),
        ("DELETE", "/api/v1/namespaces/default/secrets?labelSelector=gone%3Dyes", JSON, Value::Null, 200),
        ("DELETE", "/api/v1/namespaces/leaving", JSON, Value::Null, 200),
    ]
}

async fn send(cluster: &Cluster, case: &Case, dry_run: bool) -> anyhow::Result<Answer> {
    let (method, path, media, body, _) = case;
    let joint = if path.contains('?') { '&' } else { '?' };
    let path = if dry_run { format!("{path}{joint}dryRun=All") } else { (*path).to_owned() };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    cluster.call_with(method, &path, &body, &[("content-type", media)]).await
}

/// Everything in the store with the revision it is from; not what servers write to say that they live.
async fn everything(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, i64>> {
    let request = RangeRequest { start: "/".into(), end: "0".into(), ..RangeRequest::default() };
    let store = cluster.plane().server().store().storage().clone();
    let all = store.range(request).await?.kvs.into_iter();
    let of_servers = |key: &str| key.contains("/masterleases/") || key.contains("/leases/kube-system/");
    Ok(all.filter(|kv| !of_servers(&kv.key)).map(|kv| (kv.key.to_string(), kv.mod_revision.0)).collect())
}

/// An answer without what differs between any two requests.
fn comparable(mut answer: Value) -> Value {
    fn blank(value: &mut Value, generated: bool) {
        match value {
            Value::Object(map) => {
                map.remove("resourceVersion");
                let generated = generated || map.contains_key("generateName");
                for (key, value) in map.iter_mut() {
                    let differs = match key.as_str() {
                        "uid"
                        | "time"
                        | "creationTimestamp"
                        | "deletionTimestamp"
                        | "token"
                        | "expirationTimestamp"
                        | "lastTransitionTime"
                        | "clusterIP"
                        | "clusterIPs"
                        | "nodePort"
                        | "healthCheckNodePort" => true,
                        "name" => {
                            generated || value.as_str().is_some_and(|n| n.starts_with("kube-api-access-"))
                        }
                        _ => false,
                    };
                    if differs {
                        *value = json!("SOME");
                    } else {
                        blank(value, false);
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|item| blank(item, false)),
            _ => {}
        }
    }
    blank(&mut answer, false);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_happens_and_the_answer_is_true() -> anyhow::Result<()> {
    let cluster = prepared().await?;
    let watched = ["configmaps", "pods", "services", "secrets", "serviceaccounts"];
    let mut watches = Vec::new();
    for resource in watched {
        let path = format!("{NS}/{resource}");
        let list = cluster.ok("GET", &path, &Value::Null).await?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
        watches.push(Events::open(&cluster, &format!("{path}?watch=1&resourceVersion={version}")).await?);
    }
    let before = everything(&cluster).await?;
    let cases = cases();
    let mut answers = Vec::new();
    for case in &cases {
        let answer = send(&cluster, case, true).await?;
        assert_eq!(answer.code, case.4, "{} {}: {}", case.0, case.1, answer.text());
        assert_eq!(everything(&cluster).await?, before, "{} {}", case.0, case.1);
        answers.push(answer);
    }
    // the first event is one of a change that is meant
    for (resource, watch) in watched.iter().zip(&mut watches) {
        let object = match *resource {
            "pods" => pod("sentinel", None),
            "services" => service("sentinel", json!({})),
            _ => json!({"metadata": {"name": "sentinel"}}),
        };
        cluster.ok("POST", &format!("{NS}/{resource}"), &object).await?;
        watch.expect("ADDED", "sentinel").await?;
    }
    // the same requests in the same order, of which those on one object build on each other where the dry ones did not
    let shared = "/deployments/web";
    for (case, dry) in cases.iter().zip(answers) {
        let real = send(&cluster, case, false).await?;
        let what = format!("{} {}", case.0, case.1);
        assert_eq!(real.code, dry.code, "{what}: {}", real.text());
        assert_eq!(real.header("content-type"), dry.header("content-type"), "{what}");
        if !case.1.contains(shared) {
            assert_eq!(comparable(dry.json()), comparable(real.json()), "{what}");
        }
    }
    assert_ne!(everything(&cluster).await?, before);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_the_only_value() -> anyhow::Result<()> {
    let cluster = prepared().await?;
    let before = everything(&cluster).await?;
    let unsupported = |kind: &str, value: &str| {
        format!(
            "{kind}.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: {value}: supported values: \"All\""
        )
    };
    let delete = |dry: Value| json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": dry}).to_string();
    let cases = [
        (
            "POST",
            "configmaps?dryRun=Some",
            JSON,
            config_map("x").to_string(),
            unsupported("CreateOptions", "[\"Some\"]"),
        ),
        (
            "POST",
            "configmaps?dryRun=",
            JSON,
            config_map("x").to_string(),
            unsupported("CreateOptions", "[\"\"]"),
        ),
        (
            "POST",
            "configmaps?dryRun=All&dryRun=all",
            JSON,
            config_map("x").to_string(),
            unsupported("CreateOptions", "[\"All\",\"all\"]"),
        ),
        (
            "PUT",
            "configmaps/put?dryRun=true",
            JSON,
            config_map("put").to_string(),
            unsupported("UpdateOptions", "[\"true\"]"),
        ),
        ("PATCH", "configmaps/put?dryRun=1", MERGE, "{}".into(), unsupported("PatchOptions", "[\"1\"]")),
        (
            "PATCH",
            "configmaps/put?dryRun=1&fieldManager=m",
            APPLY,
            config_map("put").to_string(),
            unsupported("PatchOptions", "[\"1\"]"),
        ),
        (
            "DELETE",
            "configmaps/put?dryRun=Some",
            JSON,
            String::new(),
            unsupported("DeleteOptions", "[\"Some\"]"),
        ),
        (
            "DELETE",
            "configmaps/put",
            JSON,
            delete(json!(["Some"])),
            unsupported("DeleteOptions", "[\"Some\"]"),
        ),
        ("DELETE", "configmaps?dryRun=Some", JSON, String::new(), unsupported("DeleteOptions", "[\"Some\"]")),
        (
            "POST",
            "pods/bind/binding?dryRun=Some",
            JSON,
            json!({"metadata": {"name": "bind"}, "target": {"name": "n"}}).to_string(),
            unsupported("CreateOptions", "[\"Some\"]"),
        ),
        (
            "POST",
            "pods/evict/eviction?dryRun=Some",
            JSON,
            json!({"metadata": {"name": "evict"}}).to_string(),
            unsupported("CreateOptions", "[\"Some\"]"),
        ),
        (
            "POST",
            "serviceaccounts/default/token?dryRun=Some",
            JSON,
            json!({"spec": {}}).to_string(),
            unsupported("CreateOptions", "[\"Some\"]"),
        ),
    ];
    for (method, path, media, body, message) in cases {
        let answer =
            cluster.call_with(method, &format!("{NS}/{path}"), &body, &[("content-type", media)]).await?;
        assert_eq!((answer.code, answer.message()), (422, message), "{method} {path}");
    }
    // in the body of a delete or an eviction it counts as in the query
    let body = delete(json!(["All"]));
    for path in ["configmaps/put", "configmaps", "pods/grace"] {
        let answer = cluster.call("DELETE", &format!("{NS}/{path}"), &body).await?;
        assert_eq!(answer.code, 200, "{path}: {}", answer.text());
    }
    let eviction = json!({"metadata": {"name": "evict"}, "deleteOptions": {"dryRun": ["All"]}});
    let answer = cluster.call("POST", &format!("{NS}/pods/evict/eviction"), &eviction.to_string()).await?;
    assert_eq!(answer.code, 201, "{}", answer.text());
    assert_eq!(everything(&cluster).await?, before);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dry_run_shows_is_free_afterwards() -> anyhow::Result<()> {
    let cluster = prepared().await?;
    let path = format!("{NS}/services");
    let dry =
        cluster.ok("POST", &format!("{path}?dryRun=All"), &service("a", json!({"type": "NodePort"}))).await?;
    let (ip, port) = (dry["spec"]["clusterIP"].clone(), dry["spec"]["ports"][0]["nodePort"].clone());
    assert!(ip.is_string() && port.is_u64(), "{dry}");
    // twice, as the first time must not have taken them either
    let mut wanted = service("b", json!({"type": "NodePort", "clusterIP": ip}));
    wanted["spec"]["ports"][0]["nodePort"] = port;
    for query in ["?dryRun=All", "?dryRun=All", ""] {
        cluster.ok("POST", &format!("{path}{query}"), &wanted).await?;
    }
    // an update that would give them back has not
    let external =
        json!({"metadata": {"name": "b"}, "spec": {"type": "ExternalName", "externalName": "example.com"}});
    let shown = cluster.ok("PUT", &format!("{path}/b?dryRun=All"), &external).await?;
    assert!(shown["spec"].get("clusterIP").is_none(), "{shown}");
    wanted["metadata"]["name"] = json!("c");
    let refused = cluster.call("POST", &path, &wanted.to_string()).await?;
    assert_eq!(refused.code, 422, "{}", refused.text());
    cluster.stop().await;
    Ok(())
}
