//! Whatever is sent, the answer is a Status, and the server goes on.

use integration::Cluster;

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
