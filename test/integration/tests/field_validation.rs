//! `fieldValidation`: unknown and repeated fields by every way of writing, dropped, told or refused in upstream's words.

use integration::Cluster;
use serde_json::{Value, json};

const BASE: &str = "/apis/apps/v1/namespaces/default/deployments";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

const BODY: &str = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "NAME", "labels": {"app": "x"}},
  "spec": {"unknown1": "val1", "unknownDupe": "valDupe", "unknownDupe": "valDupe2", "paused": true, "paused": false,
    "selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [
      {"name": "c", "image": "i", "unknownNested": "val1", "imagePullPolicy": "Always", "imagePullPolicy": "Never"}]}}}}"#;

const BODY_YAML: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: NAME
  labels:
    app: x
spec:
  unknown1: val1
  unknownDupe: valDupe
  unknownDupe: valDupe2
  paused: true
  paused: false
  selector:
    matchLabels:
      app: x
  template:
    metadata:
      labels:
        app: x
    spec:
      containers:
      - name: c
        image: i
        unknownNested: val1
        imagePullPolicy: Always
        imagePullPolicy: Never
";

const APPLY_BODY: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: NAME
spec:
  paused: false
  paused: true
  selector:
    matchLabels:
      app: x
  template:
    metadata:
      labels:
        app: x
    spec:
      containers:
      - name: c
        image: i
        imagePullPolicy: Never
        imagePullPolicy: Always
";

const PATCH: &str = r#"{"spec": {"unknown1": "val1", "unknownDupe": "a", "unknownDupe": "b", "paused": true, "paused": false,
  "template": {"spec": {"containers": [{"name": "c", "image": "i", "unknownNested": "v", "imagePullPolicy": "Always",
    "imagePullPolicy": "Never"}]}}}}"#;

const OPERATIONS: &str = r#"[{"op": "add", "path": "/spec/unknown1", "path": "/spec/unknown1", "foo": "bar", "value": "v"},
  {"op": "replace", "path": "/spec/paused", "value": true}]"#;

const IN_JSON: [&str; 5] = [
    "unknown field \"spec.unknown1\"",
    "unknown field \"spec.unknownDupe\"",
    "duplicate field \"spec.paused\"",
    "unknown field \"spec.template.spec.containers[0].unknownNested\"",
    "duplicate field \"spec.template.spec.containers[0].imagePullPolicy\"",
];
const UNKNOWN: [&str; 3] = [
    "unknown field \"spec.template.spec.containers[0].unknownNested\"",
    "unknown field \"spec.unknown1\"",
    "unknown field \"spec.unknownDupe\"",
];
const IN_YAML: [&str; 3] = [
    "line 10: key \"unknownDupe\" already set in map",
    "line 12: key \"paused\" already set in map",
    "line 26: key \"imagePullPolicy\" already set in map",
];
const IN_PATCH: [&str; 3] = [
    "duplicate field \"spec.unknownDupe\"",
    "duplicate field \"spec.paused\"",
    "duplicate field \"spec.template.spec.containers[0].imagePullPolicy\"",
];
const IN_OPERATIONS: [&str; 3] = [
    "json patch duplicate field \"[0].path\"",
    "json patch unknown field \"[0].foo\"",
    "unknown field \"spec.unknown1\"",
];
const IN_APPLY: [&str; 2] =
    ["line 7: key \"paused\" already set in map", "line 20: key \"imagePullPolicy\" already set in map"];

/// The `Warning` texts of an answer.
fn warnings(answer: &integration::Answer) -> Vec<String> {
    let of = |value: &http::HeaderValue| {
        let text = value.to_str().unwrap_or("");
        let quoted = text.strip_prefix("299 - ").unwrap_or(text);
        serde_json::from_str(quoted).unwrap_or_default()
    };
    answer.headers.get_all("warning").iter().map(of).collect()
}

struct Case {
    method: &'static str,
    media: &'static str,
    body: &'static str,
    /// What is warned of.
    warned: Vec<&'static str>,
    /// Code and message of the refusal; the message may go on.
    refused: (u16, String),
}

fn cases() -> Vec<Case> {
    let handled = |texts: &str| {
        let text = format!(
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: {texts}"
        );
        (400, text)
    };
    let all = |lists: &[&[&'static str]]| lists.concat();
    let json = IN_JSON.join(", ");
    let yaml = format!("yaml: unmarshal errors:\n  {}, {}", IN_YAML.join("\n  "), UNKNOWN.join(", "));
    let invalid_patch = || (422, " \"\" is invalid: patch: Invalid value: ".to_owned());
    let mut cases = Vec::new();
    for method in ["POST", "PUT"] {
        let (warned, refused) = (IN_JSON.to_vec(), handled(&json));
        cases.push(Case { method, media: JSON, body: BODY, warned, refused });
        let (warned, refused) = (all(&[&IN_YAML, &UNKNOWN]), handled(&yaml));
        cases.push(Case { method, media: YAML, body: BODY_YAML, warned, refused });
    }
    let method = "PATCH";
    for media in [MERGE, STRATEGIC] {
        let warned = all(&[&IN_PATCH, &UNKNOWN]);
        cases.push(Case { method, media, body: PATCH, warned, refused: invalid_patch() });
    }
    let warned = IN_OPERATIONS.to_vec();
    cases.push(Case { method, media: JSON_PATCH, body: OPERATIONS, warned, refused: invalid_patch() });
    let why = format!(
        "error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
        IN_APPLY.join("\n  ")
    );
    cases.push(Case {
        method,
        media: APPLY,
        body: APPLY_BODY,
        warned: IN_APPLY.to_vec(),
        refused: (400, why),
    });
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_object() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let plain = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {
            "metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    for (i, case) in cases().into_iter().enumerate() {
        for directive in ["Strict", "Warn", "Ignore", ""] {
            let Case { method, media, body, warned, refused } = &case;
            let what = format!("{method} {media} {directive:?}");
            let name = format!("d{i}-{}", directive.to_ascii_lowercase());
            let name = name.trim_end_matches('-');
            let mut path = BASE.to_owned();
            if *method != "POST" {
                if *media != APPLY {
                    cluster.ok("POST", BASE, &plain(name)).await?;
                }
                path = format!("{BASE}/{name}");
            }
            let path = format!("{path}?fieldManager=m&fieldValidation={directive}");
            let text = body.replace("NAME", name);
            let answer = cluster.call_with(method, &path, &text, &[("content-type", media)]).await?;
            if directive == "Strict" {
                assert_eq!(answer.code, refused.0, "{what}: {}", answer.text());
                assert!(answer.message().starts_with(&refused.1), "{what}: {}", answer.message());
                for text in warned.iter().filter(|text| text.contains("field")) {
                    assert!(answer.message().contains(text), "{what}: {text}: {}", answer.message());
                }
                assert_eq!(warnings(&answer), [""; 0], "{what}");
                continue;
            }
            assert!(answer.code < 300, "{what}: {}", answer.text());
            let wanted = if directive == "Ignore" { Vec::new() } else { warned.clone() };
            assert_eq!(warnings(&answer), wanted, "{what}");
            let spec = &answer.json()["spec"];
            assert!(
                spec.get("unknown1").is_none() && spec["template"]["spec"]["containers"].is_array(),
                "{what}"
            );
        }
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_subresources() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    cluster
        .ok("POST", "/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}}))
        .await?;
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.ok("POST", BASE, &deployment).await?;
    for name in ["p", "q"] {
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        cluster.ok("POST", "/api/v1/namespaces/default/pods", &pod).await?;
    }
    let scale = r#"{"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": 1, "replicas": 2, "nope": 1}}"#;
    let binding = r#"{"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "p"}, "target": {"name": "n", "nope": 1}}"#;
    let eviction = r#"{"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "q"}, "nope": 1}"#;
    let token = r#"{"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"nope": 1}}"#;
    let status = r#"{"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "web"}, "status": {"replicas": 1, "nope": 1}}"#;
    let (in_scale, dup) = ("unknown field \"spec.nope\"", "duplicate field \"spec.replicas\"");
    let cases = [
        ("PUT", format!("{BASE}/web/scale"), JSON, scale, vec![dup, in_scale], 400),
        (
            "PATCH",
            format!("{BASE}/web/scale"),
            MERGE,
            r#"{"spec": {"replicas": 1, "replicas": 2, "nope": 1}}"#,
            vec![dup, in_scale],
            422,
        ),
        (
            "PATCH",
            format!("{BASE}/web/scale"),
            JSON_PATCH,
            r#"[{"op": "add", "path": "/spec/nope", "value": 1}]"#,
            vec![in_scale],
            422,
        ),
        ("PUT", format!("{BASE}/web/status"), JSON, status, vec!["unknown field \"status.nope\""], 400),
        (
            "PATCH",
            format!("{BASE}/web/status"),
            STRATEGIC,
            r#"{"status": {"nope": 1}}"#,
            vec!["unknown field \"status.nope\""],
            422,
        ),
        (
            "POST",
            "/api/v1/namespaces/default/pods/p/binding".into(),
            JSON,
            binding,
            vec!["unknown field \"target.nope\""],
            400,
        ),
        (
            "POST",
            "/api/v1/namespaces/default/pods/q/eviction".into(),
            JSON,
            eviction,
            vec!["unknown field \"nope\""],
            400,
        ),
        (
            "POST",
            "/api/v1/namespaces/default/serviceaccounts/default/token".into(),
            JSON,
            token,
            vec!["unknown field \"spec.nope\""],
            400,
        ),
    ];
    for (method, path, media, body, texts, code) in cases {
        for directive in ["Strict", "Warn", "Ignore"] {
            // nothing is kept, so that all can be asked for in any order
            let path = format!("{path}?dryRun=All&fieldValidation={directive}");
            let answer = cluster.call_with(method, &path, body, &[("content-type", media)]).await?;
            if directive == "Strict" {
                assert_eq!(answer.code, code, "{method} {path}: {}", answer.text());
                let all = format!("strict decoding error: {}", texts.join(", "));
                assert!(answer.message().contains(&all), "{method} {path}: {}", answer.message());
                continue;
            }
            assert!(answer.code < 300, "{method} {path}: {}", answer.text());
            let wanted = if directive == "Ignore" { Vec::new() } else { texts.clone() };
            assert_eq!(warnings(&answer), wanted, "{method} {path}");
        }
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_a_directive_and_nothing_saves_an_applied_field() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let cm = "/api/v1/namespaces/default/configmaps";
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let wrong = cluster.call("POST", &format!("{cm}?fieldValidation=strict"), &body.to_string()).await?;
    let text = "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"strict\": supported values: \
                \"\", \"Ignore\", \"Strict\", \"Warn\"";
    assert_eq!((wrong.code, wrong.message().as_str()), (422, text));
    let mut unknown = body;
    unknown["nope"] = Value::from(1);
    for directive in ["Strict", "Warn", "Ignore"] {
        let path = format!("{cm}/c?fieldManager=m&fieldValidation={directive}");
        let headers = [("content-type", APPLY)];
        let refused = cluster.call_with("PATCH", &path, &unknown.to_string(), &headers).await?;
        let text = "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .nope: field not declared in schema";
        assert_eq!((refused.code, refused.message().as_str()), (500, text), "{directive}");
    }
    cluster.stop().await;
    Ok(())
}
