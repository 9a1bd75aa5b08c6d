//! Whatever is sent, the answer is a Status, and the server goes on.

use integration::Cluster;
use serde_json::{Value, json};

const CM: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_a_status() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let deep = format!("{}{}", "{\"a\":".repeat(20_000), "}".repeat(20_000));
    let deep_list = format!("{{\"data\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let huge =
        format!("{{\"metadata\":{{\"name\":\"a\"}},\"data\":{{\"x\":\"{}\"}}}}", "y".repeat(3 * 1024 * 1024));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\n\
                g: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g]\ni: [*h,*h,*h,*h,*h,*h,*h,*h]\n";
    let long = format!("{CM}/{}", "n".repeat(5000));
    let json = "application/json";
    let cases: [(&str, &str, &str, &str, u16); 22] = [
        ("POST", CM, json, "", 400),
        ("POST", CM, json, "{", 400),
        ("POST", CM, json, "[]", 400),
        ("POST", CM, json, "\"text\"", 400),
        ("POST", CM, json, "{\"metadata\":[]}", 400),
        ("POST", CM, json, "{\"metadata\":{\"name\":1}}", 400),
        ("POST", CM, json, "{\"data\":{\"a\":1}}", 400),
        ("POST", CM, json, &deep, 400),
        ("POST", CM, json, &deep_list, 400),
        ("POST", CM, json, &huge, 413),
        ("POST", CM, "application/yaml", bomb, 400),
        ("POST", CM, "application/vnd.kubernetes.protobuf", "k8s\0garbage", 400),
        ("POST", CM, "application/vnd.kubernetes.protobuf", "nothing", 400),
        ("POST", CM, "application/cbor", "x", 415),
        ("PATCH", &format!("{CM}/x"), "application/json-patch+json", "{}", 400),
        ("PATCH", &format!("{CM}/x"), "application/json", "{}", 415),
        ("PATCH", &format!("{CM}/x"), "application/apply-patch+yaml", "{}", 422),
        ("GET", &long, json, "", 404),
        ("GET", "/api/v1/nothing", json, "", 404),
        ("GET", "/apis/none.example.com/v1/things", json, "", 404),
        ("PUT", CM, json, "{}", 405),
        ("POST", "/api/v1/configmaps", json, "{}", 405),
    ];
    for (method, path, content_type, body, code) in cases {
        let answer = cluster.call_with(method, path, body, &[("content-type", content_type)]).await?;
        let shown: String = body.chars().take(40).collect();
        assert_eq!(answer.code, code, "{method} {path} {shown}: {}", answer.text());
        assert_eq!(answer.json()["kind"], "Status", "{method} {path} {shown}");
        assert!(!answer.header("audit-id").is_empty());
    }
    let alive = cluster.call("GET", "/readyz", "").await?;
    assert_eq!((alive.code, alive.text().as_str()), (200, "ok"));
    cluster.stop().await;
    Ok(())
}

/// A request, what is sent with it, and the answer: code, reason, a part of the message.
struct Case<'a> {
    method: &'a str,
    path: String,
    media: &'a str,
    body: String,
    refused: (u16, &'a str, &'a str),
}

async fn check(cluster: &Cluster, cases: &[Case<'_>]) -> anyhow::Result<()> {
    for Case { method, path, media, body, refused: (code, reason, text) } in cases {
        let answer = cluster.call_with(method, path, body, &[("content-type", media)]).await?;
        let shown: String = format!("{method} {path} {media} {body}").chars().take(160).collect();
        let seen: String = answer.text().chars().take(400).collect();
        assert_eq!(answer.code, *code, "{shown}: {seen}");
        if *code < 300 {
            continue;
        }
        let status = answer.json();
        assert_eq!(status["kind"], "Status", "{shown}: {seen}");
        assert_eq!(status["status"], "Failure", "{shown}: {seen}");
        assert_eq!(status["code"], *code, "{shown}: {seen}");
        assert_eq!(status["reason"].as_str().unwrap_or(""), *reason, "{shown}: {seen}");
        assert!(answer.message().contains(text), "{shown}: {seen}");
    }
    Ok(())
}

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

#[tokio::test(flavor = "multi_thread")]
async fn sizes_have_limits() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    cluster.ok("POST", CM, &json!({"metadata": {"name": "x"}, "data": {"a": "b"}})).await?;
    let one = format!("{CM}/x");
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let revision = |bytes: usize| {
        json!({"metadata": {"name": if bytes > 1_572_864 { "too-large" } else { "r" }}, "revision": 1, "data": {"x": "y".repeat(bytes)}}).to_string()
    };
    let body_limit = (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728");
    let store_limit = (500, "", "etcdserver: request is too large");
    let too_long = "y".repeat((3 << 20) + 1);
    let operations =
        |count: usize| json!(vec![json!({"op": "test", "path": "/data/a", "value": "b"}); count]).to_string();
    let filled =
        |bytes: usize| json!({"metadata": {"name": "big"}, "data": {"a": "b".repeat(bytes)}}).to_string();
    let labelled =
        |key: &str, value: &str| json!({"metadata": {"name": "l", "labels": {key: value}}}).to_string();
    let noted = |bytes: usize| {
        json!({"metadata": {"name": "n", "annotations": {"a": "v".repeat(bytes / 2), "b": "v".repeat(bytes / 2)}}})
            .to_string()
    };
    let named = |name: &str| json!({"metadata": {"name": name}}).to_string();
    let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let deep_yaml = (0..400).map(|i| " ".repeat(i) + "a:").collect::<Vec<_>>().join("\n");
    let bomb = (1..12).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, i| {
        text + &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","))
    });
    let case = |method, path: &str, media, body: String, refused| Case {
        method,
        path: path.to_owned(),
        media,
        body,
        refused,
    };
    check(
        &cluster,
        &[
            case("POST", CM, JSON, too_long.clone(), body_limit),
            case("PUT", &one, JSON, too_long.clone(), body_limit),
            case("PATCH", &one, MERGE, too_long.clone(), body_limit),
            case("PATCH", &one, APPLY, too_long.clone(), body_limit),
            case("DELETE", &one, JSON, too_long.clone(), body_limit),
            case("DELETE", CM, JSON, too_long, body_limit),
            // what the store takes, less than what a body may have
            case("POST", revisions, JSON, revision(1_560_000), (201, "", "")),
            case("POST", revisions, JSON, revision(1_600_000), store_limit),
            case("POST", revisions, JSON, revision(3_000_000), store_limit),
            case("PUT", &format!("{revisions}/r"), JSON, revision(1_500_000), (422, "Invalid", "immutable")),
            case("POST", CM, JSON, filled(1 << 20), (201, "", "")),
            case(
                "POST",
                CM,
                JSON,
                filled((1 << 20) + 1),
                (422, "Invalid", "Too long: may not be more than 1048576 bytes"),
            ),
            case("PATCH", &one, JSON_PATCH, operations(10_000), (200, "", "")),
            case(
                "PATCH",
                &one,
                JSON_PATCH,
                operations(10_001),
                (
                    413,
                    "RequestEntityTooLarge",
                    "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
                ),
            ),
            case("POST", CM, JSON, deep(20_000), (400, "BadRequest", "exceeded max depth")),
            case("PATCH", &one, MERGE, deep(20_000), (400, "BadRequest", "exceeded max depth")),
            case("PATCH", &one, STRATEGIC, deep(20_000), (400, "BadRequest", "exceeded max depth")),
            case("PATCH", &one, APPLY, deep(20_000), (422, "Invalid", "fieldManager")),
            case("PATCH", &format!("{one}?fieldManager=f"), APPLY, deep(20_000), (400, "BadRequest", "max depth")),
            case("PATCH", &format!("{one}?fieldManager=f"), APPLY, deep_yaml.clone(), (400, "BadRequest", "depth")),
            case("PATCH", &format!("{one}?fieldManager=f"), APPLY, bomb.clone(), (400, "BadRequest", "alias")),
            case("POST", CM, "application/yaml", bomb, (400, "BadRequest", "alias")),
            case("POST", CM, "application/yaml", deep_yaml, (400, "BadRequest", "depth")),
            case("POST", CM, JSON, noted(262_142), (201, "", "")),
            case(
                "POST",
                CM,
                JSON,
                noted(262_144),
                (422, "Invalid", "metadata.annotations: Too long: may not be more than 262144 bytes"),
            ),
            case("POST", CM, JSON, labelled("k", &"v".repeat(64)), (422, "Invalid", "must be no more than 63")),
            case("POST", CM, JSON, labelled(&"k".repeat(64), "v"), (422, "Invalid", "must be no more than 63")),
            case(
                "POST",
                CM,
                JSON,
                labelled(&format!("{}/k", "p".repeat(254)), "v"),
                (422, "Invalid", "must be no more than 253"),
            ),
            case("POST", CM, JSON, labelled("k", "v v"), (422, "Invalid", "a valid label must be")),
            case("POST", CM, JSON, named(&"n".repeat(253)), (201, "", "")),
            case("POST", CM, JSON, named(&"n".repeat(254)), (422, "Invalid", "must be no more than 253")),
            case("POST", CM, JSON, named("../x"), (422, "Invalid", "metadata.name: Invalid value")),
            case("POST", CM, JSON, named("A"), (422, "Invalid", "a lowercase RFC 1123 subdomain")),
            case("POST", CM, JSON, named("a\u{0}b"), (422, "Invalid", "metadata.name: Invalid value")),
            case("POST", "/api/v1/namespaces", JSON, named(&"n".repeat(64)), (422, "Invalid", "no more than 63")),
        ],
    )
    .await?;
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_and_headers_have_limits() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    cluster.ok("POST", CM, &json!({"metadata": {"name": "x"}, "data": {"a": "b"}})).await?;
    let query = |method, query: &str, refused| Case {
        method,
        path: format!("{CM}{query}"),
        media: JSON,
        body: String::new(),
        refused,
    };
    let bad = |text| (400, "BadRequest", text);
    let invalid = |text| (422, "Invalid", text);
    let many = "&parameter=v".repeat(5_000);
    let long_selector = (0..3_000).map(|i| format!("k{i}")).collect::<Vec<_>>().join(",");
    check(
        &cluster,
        &[
            query("GET", "?limit=many", bad("strconv.ParseInt: parsing \"many\": invalid syntax")),
            query(
                "GET",
                "?limit=99999999999999999999",
                bad("strconv.ParseInt: parsing \"99999999999999999999\": value out of range"),
            ),
            query("GET", "?limit=-5", (200, "", "")),
            query("GET", "?timeoutSeconds=soon", bad("strconv.ParseInt")),
            query("GET", "?timeout=soon", bad("invalid timeout specified in the request URL")),
            query("GET", "?timeout=-1s", bad("timeout")),
            query("GET", "?continue=garbage", bad("continue key is not valid")),
            query("GET", &format!("?continue={}", "A".repeat(40_000)), bad("continue key is not valid")),
            query("GET", "?labelSelector=((", bad("found '(', expected")),
            query("GET", &format!("?labelSelector={long_selector}"), (200, "", "")),
            query("GET", "?labelSelector=k%3D", (200, "", "")),
            query("GET", &format!("?labelSelector=k%3D{}", "v".repeat(64)), bad("must be no more than 63")),
            query(
                "GET",
                "?fieldSelector=spec.nothing%3Dx",
                bad("\"spec.nothing\" is not a known field selector"),
            ),
            query("GET", "?fieldSelector=novalue", bad("invalid selector")),
            query("GET", "?resourceVersionMatch=Exact", invalid("resourceVersionMatch is forbidden unless")),
            query("GET", "?watch=1&resourceVersionMatch=Exact", invalid("sendInitialEvents is provided")),
            query("GET", &format!("?limit=1{many}"), (200, "", "")),
            query("GET", "?%zz=%&&&==&a", (200, "", "")),
            query(
                "POST",
                "?dryRun=maybe",
                invalid("dryRun: Unsupported value: [\"maybe\"]: supported values: \"All\""),
            ),
            query("POST", "?fieldValidation=Maybe", invalid("fieldValidation: Unsupported value: \"Maybe\"")),
            query("POST", &format!("?fieldManager={}", "f".repeat(129)), invalid("fieldManager: Too long")),
            query(
                "POST",
                "?fieldManager=a%07b",
                invalid("fieldManager: Invalid value: \"a\\ab\": invalid character U+0007 (at position 1)"),
            ),
            query("DELETE", "/x?propagationPolicy=Sometimes", invalid("propagationPolicy")),
            query("DELETE", "/x?gracePeriodSeconds=soon", bad("strconv.ParseInt")),
        ],
    )
    .await?;
    // options in the body, of other types than theirs
    let wrong =
        "DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: json: cannot unmarshal";
    for body in [
        json!({"gracePeriodSeconds": "soon"}),
        json!({"preconditions": "x"}),
        json!({"preconditions": {"uid": 1}}),
        json!({"dryRun": "All"}),
        json!({"orphanDependents": "yes"}),
    ] {
        let (path, refused) = (format!("{CM}/x"), (400, "BadRequest", wrong));
        let case = Case { method: "DELETE", path, media: JSON, body: body.to_string(), refused };
        check(&cluster, &[case]).await?;
    }
    // headers
    let gzipped = {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(br#"{"metadata":{"name":"z"}}"#)?;
        encoder.finish()?
    };
    let admin = || auth::UserInfo::new("admin", &["system:masters"]);
    let many_types = vec!["application/x-none"; 5000].join(",");
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, Vec<u8>, Headers<'_>, u16); 9] = [
        // bodies are not unpacked, as upstream does not
        ("POST", gzipped, &[("content-encoding", "gzip")], 400),
        ("GET", Vec::new(), &[("accept", "text/html")], 406),
        ("GET", Vec::new(), &[("accept", &many_types)], 406),
        ("GET", Vec::new(), &[("accept", ";;;q=x,,,")], 406),
        ("GET", Vec::new(), &[("accept", "application/json;as=Table;g=meta.k8s.io;v=v9")], 406),
        ("POST", b"{}".to_vec(), &[("content-type", "application/json; charset=\"")], 422),
        ("POST", b"{}".to_vec(), &[("content-type", "text/plain")], 415),
        ("POST", b"{}".to_vec(), &[("content-type", "/")], 415),
        ("GET", Vec::new(), &[("authorization", "Bearer ")], 200),
    ];
    for (method, body, headers, code) in cases {
        let answer = cluster.call_as(admin(), method, CM, component::http::full(body), headers).await?;
        assert_eq!(answer.code, code, "{method} {headers:?}: {}", answer.text());
        assert!(code == 200 || answer.json()["kind"] == "Status", "{method} {headers:?}: {}", answer.text());
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_of_owners_is_bounded() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    cluster.ok("POST", CM, &json!({"metadata": {"name": "x"}, "data": {"a": "b"}})).await?;
    for i in 0..20 {
        let path = format!("{CM}/x?fieldManager=m{i}");
        let patch = json!({"data": {format!("k{i}"): "v"}}).to_string();
        let answer = cluster.call_with("PATCH", &path, &patch, &[("content-type", MERGE)]).await?;
        assert_eq!(answer.code, 200, "{}", answer.text());
    }
    let object = cluster.ok("GET", &format!("{CM}/x"), &Value::Null).await?;
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let updates = entries.iter().filter(|e| e["operation"] == "Update").count();
    assert!(updates <= 11, "{updates} entries");
    assert!(entries.iter().any(|e| e["manager"] == "ancient-changes"), "{entries:?}");

    // an object that is too large with the record of its owners is stored without, unless it is applied
    let data: serde_json::Map<String, Value> =
        (0..3_200).map(|i| (format!("{i:04}{}", "k".repeat(246)), "v".into())).collect();
    let named = |name: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}).to_string()
    };
    let case = |method, path: &str, media, body, refused| Case {
        method,
        path: format!("{CM}{path}"),
        media,
        body,
        refused,
    };
    check(
        &cluster,
        &[
            case("POST", "", JSON, named("created"), (201, "", "")),
            case("PATCH", "/x", MERGE, named("x"), (200, "", "")),
            case(
                "PATCH",
                "/applied?fieldManager=a",
                APPLY,
                named("applied"),
                (500, "", "etcdserver: request is too large"),
            ),
        ],
    )
    .await?;
    for name in ["created", "x"] {
        let object = cluster.ok("GET", &format!("{CM}/{name}"), &Value::Null).await?;
        assert!(object["metadata"]["managedFields"].is_null(), "{name}");
        assert!(object["data"].as_object().is_some_and(|data| data.len() >= 3_200), "{name}");
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_kept_out() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let eve = || auth::UserInfo::new("eve", &["system:authenticated"]);
    let answer = cluster.call_as(eve(), "GET", CM, component::http::empty(), &[]).await?;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.message(),
        "configmaps is forbidden: User \"eve\" cannot list resource \"configmaps\" in API group \"\" in the namespace \
         \"default\""
    );
    // discovery is for everybody who is known
    let answer = cluster.call_as(eve(), "GET", "/apis", component::http::empty(), &[]).await?;
    assert_eq!(answer.code, 200);
    let as_other = [("impersonate-user", "alice")];
    let answer = cluster.call_as(eve(), "GET", CM, component::http::empty(), &as_other).await?;
    assert_eq!(answer.code, 403);
    assert!(answer.message().contains("cannot impersonate resource \"users\""), "{}", answer.message());
    let answer = cluster.call_with("GET", CM, "", &as_other).await?;
    assert!(answer.message().contains("User \"alice\" cannot list"), "{}", answer.message());
    cluster.stop().await;
    Ok(())
}
