//! Requests for something: tokens of service accounts, approval of certificates, the end of namespaces.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::NAMESPACE;
use crate::client::{Client, Patch};
use crate::compare::{contains, content};
use crate::report::Report;

const SIGNING: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// A request for a certificate of the user `walker`, PEM in base64.
const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIS01ITUNBUUF3RVRFUE1BMEdBMVVFQXd3R2QyRnNhMlZ5\
     TUZrd0V3WUhLb1pJemowQ0FRWUlLb1pJemowRApBUWNEUWdBRXNBcDRMaDA2dkZKVVYyNEhoNFNoZFZBMnh3U2YzRjRuWmpD\
     RXN0Z0pqSTZ3NzhaSEd3bUxYU3duCkMvRmVSa2k5YmpPWUw1Yy95WXFveVBGQlVObTRTcUFBTUFvR0NDcUdTTTQ5QkFNQ0Ew\
     Y0FNRVFDSUVYZGlVVXcKdzE2WlhKaFg3MHVnajZ3YUhTT3JsZms1UWZWTGwwa1oxNDZUQWlBelJhR25mclR5UUh5YjByaW9x\
     WFJha3hrSgpTRFhoVCs2cytzTmN2SkhGZGc9PQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";

pub(super) async fn walk(client: &Client, report: &Report) {
    let token = "/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token";
    report.note("POST", token, token_request(client).await);
    report.note("PUT", "/api/v1/namespaces/{name}/finalize", finalize(client).await);
    let components = "/api/v1/componentstatuses";
    report.note("GET", components, component_list(client).await);
    report.note("GET", &format!("{components}/{{name}}"), component(client).await);
    let approval = format!("{SIGNING}/{{name}}/approval");
    report.note("GET", &approval, approval_get(client).await);
    report.note("PUT", &approval, approval_put(client).await);
    report.note("PATCH", &approval, approval_patch(client).await);
}

async fn token_request(client: &Client) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default/token");
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 1200},
    });
    let made = client.post(&path, &request).await?.expect(201)?;
    contains(&made, &json!({"kind": "TokenRequest", "spec": {"expirationSeconds": 1200}}))?;
    ensure!(made["status"]["expirationTimestamp"].is_string(), "no expirationTimestamp");
    let token = made["status"]["token"].as_str().context("no token")?;
    let bearer = format!("Bearer {token}");
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviewed = client.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await?.expect(201)?;
    let user = format!("system:serviceaccount:{NAMESPACE}:default");
    contains(&reviewed["status"], &json!({"authenticated": true, "user": {"username": user}}))?;
    ensure!(bearer.split('.').count() == 3, "no JWT");
    let short = json!({"spec": {"expirationSeconds": 1}});
    client.post(&path, &short).await?.refused(422, "Invalid")?;
    let none = path.replace("default/token", "none/token");
    client.post(&none, &request).await?.refused(404, "NotFound")?;
    Ok(())
}

async fn finalize(client: &Client) -> anyhow::Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "walk-ending"}});
    let path = "/api/v1/namespaces/walk-ending";
    let made = client.post("/api/v1/namespaces", &namespace).await?.expect(201)?;
    contains(&made, &json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}))?;
    let more = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "walk-ending"},
        "spec": {"finalizers": ["kubernetes", "example.com/walk"]},
    });
    let finalizers = client.put(&format!("{path}/finalize"), &more).await?.expect(200)?;
    contains(&finalizers["spec"], &more["spec"])?;
    contains(&client.get(path).await?.expect(200)?["spec"], &more["spec"]).context("read")?;
    client.delete(path, &Value::Null).await?.expect(200)?;
    let ending = client.get(path).await?.expect(200)?;
    ensure!(ending["status"]["phase"] == "Terminating", "{}", ending["status"]);
    let content = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}});
    let late = client.post(&format!("{path}/configmaps"), &content).await?;
    late.refused_with(403, "Forbidden", "because it is being terminated")?;
    client.put(&format!("{path}/finalize"), &namespace).await?.expect(200)?;
    client.get(path).await?.refused(404, "NotFound")?;
    Ok(())
}

/// Components of the control plane, as far as the server can ask them.
async fn component_list(client: &Client) -> anyhow::Result<()> {
    let found = client.get("/api/v1/componentstatuses").await?.expect(200)?;
    contains(&found, &json!({"kind": "ComponentStatusList", "apiVersion": "v1"}))?;
    let names: Vec<_> = found["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect();
    for name in ["scheduler", "controller-manager", "etcd-0"] {
        ensure!(names.contains(&name), "{name} is not in {names:?}");
    }
    Ok(())
}

async fn component(client: &Client) -> anyhow::Result<()> {
    let found = client.get("/api/v1/componentstatuses/etcd-0").await?.expect(200)?;
    contains(&found, &json!({"kind": "ComponentStatus", "metadata": {"name": "etcd-0"}}))?;
    contains(&found["conditions"], &json!([{"type": "Healthy", "status": "True"}]))?;
    client.get("/api/v1/componentstatuses/none").await?.expect(404)?;
    Ok(())
}

async fn signing_request(client: &Client, name: &str) -> anyhow::Result<Value> {
    let request = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": REQUEST, "signerName": "example.com/walk", "usages": ["client auth"]},
    });
    client.post(SIGNING, &request).await?.expect(201)
}

async fn approval_get(client: &Client) -> anyhow::Result<()> {
    let made = signing_request(client, "walk-approved").await?;
    contains(&made["spec"], &json!({"username": "kubernetes-admin", "signerName": "example.com/walk"}))?;
    let found = client.get(&format!("{SIGNING}/walk-approved/approval")).await?.expect(200)?;
    contains(&found, &made)
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "Walk", "message": "walked"})
}

/// Approval changes these conditions and nothing else, and cannot be taken back.
async fn approval_put(client: &Client) -> anyhow::Result<()> {
    let path = format!("{SIGNING}/walk-approved");
    let before = client.get(&path).await?.expect(200)?;
    let mut sent = before.clone();
    sent["status"] = json!({"conditions": [condition("Approved")], "certificate": "QQ=="});
    sent["spec"]["usages"] = json!(["server auth"]);
    client.put(&path, &sent).await?.expect(200).context("of the object")?;
    let kept = client.get(&path).await?.expect(200)?;
    ensure!(kept["status"]["conditions"].is_null(), "approved by a replace of the object");
    sent["metadata"]["resourceVersion"] = kept["metadata"]["resourceVersion"].clone();
    client.put(&format!("{path}/approval"), &sent).await?.expect(200)?;
    let after = client.get(&path).await?.expect(200)?;
    contains(&after["status"]["conditions"], &json!([condition("Approved")]))?;
    ensure!(after["status"]["conditions"][0]["lastUpdateTime"].is_string(), "no lastUpdateTime");
    ensure!(after["status"]["certificate"].is_null(), "a certificate by approval");
    ensure!(content(&after) == content(&before), "more than the approval changed");
    let mut back = after.clone();
    back["status"] = json!({});
    client.put(&format!("{path}/approval"), &back).await?.refused(422, "Invalid").context("taken back")?;
    Ok(())
}

async fn approval_patch(client: &Client) -> anyhow::Result<()> {
    signing_request(client, "walk-denied").await?;
    let path = format!("{SIGNING}/walk-denied");
    let patch = json!({"status": {"conditions": [condition("Denied")]}});
    client
        .patch(&format!("{path}/status"), Patch::Merge, &patch)
        .await?
        .refused(422, "Invalid")
        .context("by status")?;
    client.patch(&format!("{path}/approval"), Patch::Merge, &patch).await?.expect(200)?;
    let after = client.get(&path).await?.expect(200)?;
    contains(&after["status"]["conditions"], &json!([condition("Denied")]))?;
    let both = json!([{"op": "add", "path": "/status/conditions/-", "value": condition("Approved")}]);
    client
        .patch(&format!("{path}/approval"), Patch::Json, &both)
        .await?
        .refused(422, "Invalid")
        .context("both")?;
    Ok(())
}
