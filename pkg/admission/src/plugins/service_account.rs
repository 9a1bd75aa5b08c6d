//! Every pod runs as a service account and finds its token mounted.
//! Source: `k8s.io/kubernetes/plugin/pkg/admission/serviceaccount`, KEP-1205.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::json;
use apimachinery::meta::{at, str_at};
use apimachinery::status::Status;
use apimachinery::{Map, Value, names};
use async_trait::async_trait;

use super::{find, items, list_mut};
use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Phase, Plugin};

const DEFAULT_NAME: &str = "default";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const ENFORCE_MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Lifetime the mounted token asks for; the server extends tokens of exactly this one.
const TOKEN_SECONDS: i64 = 60 * 60 + 7;
/// Looks for the account `default`, which a controller makes a moment after its namespace: whoever makes a namespace
/// and at once a pod in it is not to fail for being quick.
const DEFAULT_ATTEMPTS: u32 = 20;
/// Pause between two such looks.
const DEFAULT_PAUSE: Duration = Duration::from_millis(50);

/// Gives pods their service account.
pub(super) struct ServiceAccount {
    source: Arc<dyn ObjectSource>,
    pause: Duration,
}

impl ServiceAccount {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source, pause: DEFAULT_PAUSE }
    }

    /// Gets an account; for `default` it waits a little.
    async fn find(&self, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
        let attempts = if name == DEFAULT_NAME { DEFAULT_ATTEMPTS } else { 1 };
        for attempt in 1..=attempts {
            let found = find(&*self.source, "", "serviceaccounts", namespace, name).await?;
            if found.is_some() || attempt == attempts {
                return Ok(found);
            }
            tokio::time::sleep(self.pause).await;
        }
        Ok(None)
    }

    async fn account(&self, request: &AdmissionRequest<'_>, name: &str) -> Result<Value, Status> {
        let namespace = &request.namespace;
        let failed = |why: &str| {
            request.forbidden(&format!("error looking up service account {namespace}/{name}: {why}"))
        };
        match self.find(namespace, name).await {
            Ok(Some(account)) => Ok(account),
            Ok(None) => Err(failed(&format!("serviceaccount {name:?} not found"))),
            Err(status) => Err(failed(&status.message)),
        }
    }
}

/// What a mirror pod may not have.
fn mirror_problem(pod: &Value) -> Option<&'static str> {
    if !str_at(pod, &["spec", "serviceAccountName"]).is_empty() {
        return Some("a mirror pod may not reference service accounts");
    }
    items(pod, &["spec", "volumes"]).iter().find_map(|volume| {
        if at(volume, &["secret"]).is_some_and(|s| !s.is_null()) {
            return Some("a mirror pod may not reference secrets");
        }
        items(volume, &["projected", "sources"])
            .iter()
            .any(|source| at(source, &["serviceAccountToken"]).is_some_and(|s| !s.is_null()))
            .then_some("a mirror pod may not use ServiceAccountToken volume projections")
    })
}

fn wants_token(pod: &Value, account: &Value) -> bool {
    let flag = |object: &Value, path: &[&str]| at(object, path).and_then(Value::as_bool);
    flag(pod, &["spec", "automountServiceAccountToken"])
        .or_else(|| flag(account, &["automountServiceAccountToken"]))
        .unwrap_or(true)
}

/// The volume a pod finds its token, the cluster's CA and its namespace in.
fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// Mounts the token volume in every container that has nothing there yet. `fresh` makes the volume's name.
fn mount_token(pod: &mut Value, fresh: impl FnOnce() -> String) {
    let existing = items(pod, &["spec", "volumes"])
        .iter()
        .map(|volume| str_at(volume, &["name"]))
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let (name, is_new) = match existing {
        Some(name) => (name, false),
        None => (fresh(), true),
    };
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut) else {
            continue;
        };
        for container in containers {
            let mounted =
                items(container, &["volumeMounts"]).iter().any(|m| str_at(m, &["mountPath"]) == MOUNT_PATH);
            if !mounted && let Some(mounts) = list_mut(container, &["volumeMounts"]) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
                needed = true;
            }
        }
    }
    if needed
        && is_new
        && let Some(volumes) = list_mut(pod, &["spec", "volumes"])
    {
        volumes.push(token_volume(&name));
    }
}

/// Secrets a pod may not use because its service account does not list them.
fn unlisted_secret(pod: &Value, account: &Value) -> Option<String> {
    let listed =
        |list: &str, name: &str| items(account, &[list]).iter().any(|s| str_at(s, &["name"]) == name);
    let of = apimachinery::meta::name(account);
    for volume in items(pod, &["spec", "volumes"]) {
        let secret = str_at(volume, &["secret", "secretName"]);
        if !secret.is_empty() && !listed("secrets", secret) {
            return Some(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {of} does not reference that secret"
            ));
        }
    }
    for (list, kind) in [
        ("initContainers", "init container"),
        ("containers", "container"),
        ("ephemeralContainers", "ephemeral container"),
    ] {
        for container in items(pod, &["spec", list]) {
            let name = str_at(container, &["name"]);
            for env in items(container, &["env"]) {
                let secret = str_at(env, &["valueFrom", "secretKeyRef", "name"]);
                if !secret.is_empty() && !listed("secrets", secret) {
                    return Some(format!(
                        "{kind} {name} with envVar {} referencing secret.secretName=\"{secret}\" is not allowed because service account {of} does not reference that secret",
                        str_at(env, &["name"])
                    ));
                }
            }
        }
    }
    items(pod, &["spec", "imagePullSecrets"]).iter().enumerate().find_map(|(i, reference)| {
        let name = str_at(reference, &["name"]);
        (!listed("imagePullSecrets", name)).then(|| {
            format!(
                "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {of} does not reference that imagePullSecret"
            )
        })
    })
}

fn enforces_secrets(account: &Value) -> bool {
    matches!(
        str_at(account, &["metadata", "annotations", ENFORCE_MOUNTABLE_SECRETS]),
        "true" | "True" | "TRUE" | "t" | "T" | "1"
    )
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate, Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !request.is("", "pods") || request.operation != Operation::Create {
            return Ok(());
        }
        if at(request.object(), &["metadata", "annotations", MIRROR_ANNOTATION]).is_some() {
            return Ok(()); // the kubelet compares its pods with their mirrors
        }
        let named = str_at(request.object(), &["spec", "serviceAccountName"]);
        let name = if named.is_empty() { DEFAULT_NAME } else { named }.to_owned();
        let account = self.account(request, &name).await?;
        let mut pod = request.object.take().unwrap_or(Value::Null);
        if let Some(spec) = pod.pointer_mut("/spec").and_then(Value::as_object_mut) {
            complete_spec(spec, &name, &account);
        }
        if wants_token(&pod, &account) {
            mount_token(&mut pod, || names::generate(VOLUME_PREFIX, &mut rand::rng()));
        }
        request.object = Some(pod);
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let create = request.is("", "pods") && request.operation == Operation::Create;
        if !create && !request.is_sub("", "pods", "ephemeralcontainers") {
            return Ok(());
        }
        let pod = request.object();
        if at(pod, &["metadata", "annotations", MIRROR_ANNOTATION]).is_some() {
            return mirror_problem(pod).map_or(Ok(()), |why| Err(request.forbidden(why)));
        }
        let account = self.account(request, str_at(pod, &["spec", "serviceAccountName"])).await?;
        if enforces_secrets(&account)
            && let Some(why) = unlisted_secret(pod, &account)
        {
            return Err(request.forbidden(&why));
        }
        Ok(())
    }
}

fn complete_spec(spec: &mut Map, name: &str, account: &Value) {
    spec.insert("serviceAccountName".into(), json!(name));
    // the old name of the field goes along in every answer
    spec.insert("serviceAccount".into(), json!(name));
    let has_pull_secrets =
        spec.get("imagePullSecrets").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    let pull_secrets = items(account, &["imagePullSecrets"]);
    if !has_pull_secrets && !pull_secrets.is_empty() {
        spec.insert("imagePullSecrets".into(), json!(pull_secrets));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Source, request, run};
    use auth::UserInfo;

    fn plugin() -> ServiceAccount {
        let account = |name: &str, rest: Value| {
            let mut object = json!({"metadata": {"namespace": "ns", "name": name}});
            object.as_object_mut().expect("map").extend(rest.as_object().expect("map").clone());
            ("", "serviceaccounts", object)
        };
        ServiceAccount::new(Source::new([
            account("default", json!({"imagePullSecrets": [{"name": "registry"}]})),
            account("quiet", json!({"automountServiceAccountToken": false})),
            account(
                "strict",
                json!({"secrets": [{"name": "ok"}], "metadata": {"namespace": "ns", "name": "strict",
                "annotations": {ENFORCE_MOUNTABLE_SECRETS: "true"}}}),
            ),
        ]))
    }

    fn pod(spec: Value) -> Value {
        let mut spec = spec;
        spec["containers"] =
            json!([{"name": "c"}, {"name": "d", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]);
        json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": spec})
    }

    #[tokio::test]
    async fn pods_get_account_and_token() {
        let user = UserInfo::default();
        let made = run(&plugin(), request(Operation::Create, "/pods", &user, Some(pod(json!({}))), None))
            .await
            .expect("ok");
        assert_eq!(made["spec"]["serviceAccountName"], "default");
        assert_eq!(made["spec"]["serviceAccount"], "default");
        assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
        let volume = &made["spec"]["volumes"][0];
        let name = volume["name"].as_str().expect("name");
        assert!(name.starts_with(VOLUME_PREFIX) && name.len() == VOLUME_PREFIX.len() + 5);
        assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        assert_eq!(
            made["spec"]["containers"][0]["volumeMounts"],
            json!([{"name": name, "readOnly": true, "mountPath": MOUNT_PATH}])
        );
        assert_eq!(made["spec"]["containers"][1]["volumeMounts"].as_array().map(Vec::len), Some(1));
    }

    #[tokio::test]
    async fn the_default_account_may_be_a_moment_late() {
        let user = UserInfo::default();
        let source = Source::new([]);
        let plugin = ServiceAccount { source: source.clone(), pause: Duration::ZERO };
        let create = || run(&plugin, request(Operation::Create, "/pods", &user, Some(pod(json!({}))), None));
        let refused = create().await.expect_err("there is no account");
        assert!(refused.ends_with("serviceaccount \"default\" not found"), "{refused}");
        let (made, ()) = tokio::join!(create(), async {
            let account = json!({"metadata": {"namespace": "ns", "name": "default"}});
            source.objects.put("", "serviceaccounts", &account);
        });
        assert_eq!(made.expect("the account came")["spec"]["serviceAccountName"], "default");
    }

    #[tokio::test]
    async fn what_is_asked_for_counts() {
        let user = UserInfo::default();
        let mirror = |spec: Value| {
            let mut pod = pod(spec);
            pod["metadata"]["annotations"] = json!({MIRROR_ANNOTATION: "x"});
            pod
        };
        let cases = [
            ("no automount", pod(json!({"automountServiceAccountToken": false})), Ok(false)),
            ("account says no", pod(json!({"serviceAccountName": "quiet"})), Ok(false)),
            (
                "pod overrides",
                pod(json!({"serviceAccountName": "quiet", "automountServiceAccountToken": true})),
                Ok(true),
            ),
            (
                "missing",
                pod(json!({"serviceAccountName": "none"})),
                Err(
                    "pods \"p\" is forbidden: error looking up service account ns/none: serviceaccount \"none\" not found",
                ),
            ),
            ("mirror", mirror(json!({})), Ok(false)),
            (
                "mirror with account",
                mirror(json!({"serviceAccountName": "default"})),
                Err("pods \"p\" is forbidden: a mirror pod may not reference service accounts"),
            ),
            (
                "strict",
                pod(
                    json!({"serviceAccountName": "strict", "volumes": [{"name": "v", "secret": {"secretName": "no"}}]}),
                ),
                Err(
                    "pods \"p\" is forbidden: volume with secret.secretName=\"no\" is not allowed because service account strict does not reference that secret",
                ),
            ),
            (
                "strict, listed",
                pod(
                    json!({"serviceAccountName": "strict", "volumes": [{"name": "v", "secret": {"secretName": "ok"}}]}),
                ),
                Ok(true),
            ),
        ];
        for (case, pod, expected) in cases {
            let got = run(&plugin(), request(Operation::Create, "/pods", &user, Some(pod), None)).await;
            let mounted = got.map(|pod| {
                items(&pod, &["spec", "volumes"])
                    .iter()
                    .any(|v| str_at(v, &["name"]).starts_with(VOLUME_PREFIX))
            });
            assert_eq!(mounted, expected.map_err(str::to_owned), "{case}");
        }
    }
}
