//! Reviews: who a token belongs to, and who may do what.

use anyhow::ensure;
use serde_json::{Value, json};

use super::NAMESPACE;
use crate::client::Client;
use crate::compare::contains;
use crate::report::Report;

const TOKENS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS: &str = "/apis/authorization.k8s.io/v1";

pub(super) async fn walk(client: &Client, report: &Report) {
    report.note("POST", TOKENS, token_review(client).await);
    report.note("POST", &format!("{ACCESS}/subjectaccessreviews"), subject(client).await);
    report.note("POST", &format!("{ACCESS}/selfsubjectaccessreviews"), own(client).await);
    let local = format!("{ACCESS}/namespaces/{{namespace}}/localsubjectaccessreviews");
    report.note("POST", &local, local_subject(client).await);
    report.note("POST", &format!("{ACCESS}/selfsubjectrulesreviews"), own_rules(client).await);
    report.note("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", own_name(client).await);
}

/// That a known token is known is shown where one is made.
async fn token_review(client: &Client) -> anyhow::Result<()> {
    let review = |token: &str| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let unknown = client.post(TOKENS, &review("no.such.token")).await?.expect(201)?;
    contains(&unknown, &json!({"kind": "TokenReview", "spec": {"token": "no.such.token"}}))?;
    ensure!(unknown["status"]["authenticated"] != true, "{unknown}");
    let empty = client.post(TOKENS, &review("")).await?;
    empty.refused_with(400, "BadRequest", "token is required for TokenReview in authentication")
}

fn access(kind: &str, user: &str, namespace: &str, verb: &str) -> Value {
    let mut spec = json!({"resourceAttributes": {"namespace": namespace, "verb": verb, "resource": "pods"}});
    if !user.is_empty() {
        spec["user"] = json!(user);
    }
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": {}, "spec": spec})
}

/// A user that may read pods in the namespace, and nothing else.
async fn reader(client: &Client) -> anyhow::Result<()> {
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}");
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    client.post(&format!("{rbac}/roles"), &role).await?.expect(201)?;
    let binding = json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "walker"}],
    });
    client.post(&format!("{rbac}/rolebindings"), &binding).await?.expect(201)?;
    // A list waits for the cache that the authorizer reads.
    for resource in ["roles", "rolebindings"] {
        client.get(&format!("{rbac}/{resource}")).await?.expect(200)?;
    }
    Ok(())
}

async fn subject(client: &Client) -> anyhow::Result<()> {
    reader(client).await?;
    let path = format!("{ACCESS}/subjectaccessreviews");
    for (namespace, verb, allowed) in
        [(NAMESPACE, "get", true), (NAMESPACE, "create", false), ("default", "get", false)]
    {
        let review = access("SubjectAccessReview", "walker", namespace, verb);
        let found = client.post(&path, &review).await?.expect(201)?;
        contains(&found, &review)?;
        ensure!(found["status"]["allowed"] == allowed, "{verb} in {namespace}: {}", found["status"]);
    }
    client
        .post(&path, &access("SubjectAccessReview", "", NAMESPACE, "get"))
        .await?
        .refused(422, "Invalid")?;
    Ok(())
}

async fn own(client: &Client) -> anyhow::Result<()> {
    let path = format!("{ACCESS}/selfsubjectaccessreviews");
    let found =
        client.post(&path, &access("SelfSubjectAccessReview", "", "default", "delete")).await?.expect(201)?;
    contains(&found, &json!({"kind": "SelfSubjectAccessReview", "status": {"allowed": true}}))?;
    let none =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {}});
    client.post(&path, &none).await?.refused(422, "Invalid")?;
    Ok(())
}

async fn local_subject(client: &Client) -> anyhow::Result<()> {
    let path = format!("{ACCESS}/namespaces/{NAMESPACE}/localsubjectaccessreviews");
    for (verb, allowed) in [("get", true), ("delete", false)] {
        let mut review = access("LocalSubjectAccessReview", "walker", NAMESPACE, verb);
        review["metadata"]["namespace"] = json!(NAMESPACE);
        let found = client.post(&path, &review).await?.expect(201)?;
        ensure!(found["status"]["allowed"] == allowed, "{verb}: {}", found["status"]);
    }
    let other = access("LocalSubjectAccessReview", "walker", "default", "get");
    client.post(&path, &other).await?.refused(422, "Invalid").map(drop)
}

async fn own_rules(client: &Client) -> anyhow::Result<()> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": NAMESPACE}});
    let found = client.post(&format!("{ACCESS}/selfsubjectrulesreviews"), &review).await?.expect(201)?;
    let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
    let rules = found["status"]["resourceRules"].as_array();
    ensure!(rules.is_some_and(|r| r.iter().any(|rule| contains(rule, &all).is_ok())), "{}", found["status"]);
    Ok(())
}

async fn own_name(client: &Client) -> anyhow::Result<()> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let found =
        client.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await?.expect(201)?;
    let user = &found["status"]["userInfo"];
    ensure!(user["username"] == "kubernetes-admin", "{user}");
    ensure!(user["groups"] == json!(["system:masters", "system:authenticated"]), "{user}");
    Ok(())
}
