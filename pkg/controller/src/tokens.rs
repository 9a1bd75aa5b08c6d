//! The service account token controller: fills Secrets of type `kubernetes.io/service-account-token` with a token, and
//! deletes them with their account.
//!
//! Behaviour after upstream's `pkg/controller/serviceaccount/tokens_controller.go`. Nothing makes such Secrets by itself
//! any more; pods get bound tokens.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::rest::{Rest, typed};
use client::workqueue::WorkQueue;
use client::{Event, Selection, Store, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::config::SignToken;
use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::resources::{SECRETS, SERVICE_ACCOUNTS};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const BY_ACCOUNT: &str = "account";

struct Controller {
    secrets: Store<Secret>,
    root_ca: Option<String>,
    sign: SignToken,
    rest: Rest,
}

fn account_of(secret: &Secret) -> Option<&String> {
    secret.annotations().get(ACCOUNT_NAME).filter(|name| !name.is_empty())
}

/// Starts the controller; without `--service-account-private-key-file` no token can be made.
pub(crate) fn start(context: &Context) {
    let Some(sign) = context.config.sign_token.clone() else { return };
    let queue = WorkQueue::new("serviceaccount_tokens_secret");
    let secrets = context.informer_for::<Secret>(Selection::fields(format!("type={TYPE}")));
    secrets.add_index(BY_ACCOUNT, |secret| {
        account_of(secret)
            .map(|name| format!("{}/{name}", secret.namespace().unwrap_or_default()))
            .into_iter()
            .collect()
    });
    let adds = queue.clone();
    secrets.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            adds.add(Key::of(&**event.object()));
        }
    });
    let (adds, held) = (queue.clone(), secrets.store());
    context.informer::<ServiceAccount>().on_event(move |event| {
        if matches!(event, Event::Updated { .. }) {
            return;
        }
        for secret in held.by_index(BY_ACCOUNT, &Key::of(&**event.object()).to_string()) {
            adds.add(Key::of(&*secret));
        }
    });
    let controller = Controller {
        secrets: secrets.store(),
        root_ca: context.config.root_ca_pem.clone(),
        sign,
        rest: context.rest("service-account-controller"),
    };
    let workers = context.config.concurrency.service_account_token;
    context.work("serviceaccount-token-controller", &queue, workers, Arc::new(controller));
}

/// The claims of a token kept in a Secret.
fn claims(secret: &Secret, account: &ServiceAccount) -> Value {
    let (namespace, name) = (secret.namespace().unwrap_or_default(), account.name_any());
    json!({
        "iss": "kubernetes/serviceaccount",
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.name_any(),
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.metadata.uid,
    })
}

/// The Secret with what it lacks; `None` when it has all.
fn complete(
    secret: &Secret,
    account: &ServiceAccount,
    root_ca: Option<&String>,
    sign: impl FnOnce(&Value) -> Result<String, String>,
) -> Result<Option<Value>, SyncError> {
    let data = secret.data.clone().unwrap_or_default();
    let has = |key: &str| data.get(key).is_some_and(|ByteString(bytes)| !bytes.is_empty());
    let needs_token = !has("token");
    let ca_differs =
        root_ca.is_some_and(|pem| data.get("ca.crt").is_none_or(|held| held.0 != pem.as_bytes()));
    let needs_namespace = !has("namespace");
    let uid = account.metadata.uid.clone().unwrap_or_default();
    let needs_uid = secret.annotations().get(ACCOUNT_UID) != Some(&uid);
    if !(needs_token || ca_differs || needs_namespace || needs_uid) {
        return Ok(None);
    }
    let mut changed = json!(secret);
    if !changed["data"].is_object() {
        changed["data"] = json!({});
    }
    if needs_token {
        let token = sign(&claims(secret, account)).map_err(SyncError::other)?;
        changed["data"]["token"] = json!(STANDARD.encode(token));
    }
    if let Some(pem) = root_ca {
        changed["data"]["ca.crt"] = json!(STANDARD.encode(pem));
    }
    changed["data"]["namespace"] = json!(STANDARD.encode(secret.namespace().unwrap_or_default()));
    changed["metadata"]["annotations"][ACCOUNT_UID] = json!(uid);
    Ok(Some(changed))
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(secret) = self.secrets.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        let Some(name) = account_of(&secret) else { return Ok(Next::OnChange) };
        // the server is asked, as a Secret is deleted with its account at once
        let account: Option<ServiceAccount> =
            match self.rest.get(&SERVICE_ACCOUNTS, &key.namespace, name).await {
                Err(error) if is_not_found(&error) => None,
                found => Some(typed(found?)?),
            };
        let held_uid = secret.annotations().get(ACCOUNT_UID).filter(|uid| !uid.is_empty());
        let account =
            account.filter(|account| held_uid.is_none_or(|uid| Some(uid) == account.metadata.uid.as_ref()));
        let written = match account {
            None => {
                let options = json!({"preconditions": {"uid": secret.metadata.uid}});
                self.rest.delete(&SECRETS, &key.namespace, &key.name, &options).await
            }
            Some(account) => {
                let Some(changed) =
                    complete(&secret, &account, self.root_ca.as_ref(), |claims| (self.sign)(claims))?
                else {
                    return Ok(Next::OnChange);
                };
                self.rest.update(&SECRETS, "", &changed).await
            }
        };
        match written {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(Next::OnChange),
        }
    }
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::meta;

    #[test]
    fn secrets_are_filled_once() {
        let account = ServiceAccount { metadata: meta("robot"), ..ServiceAccount::default() };
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns",
            "annotations": {ACCOUNT_NAME: "robot"}}, "type": TYPE}))
        .expect("a secret");
        let ca = "PEM".to_owned();
        let filled = complete(&secret, &account, Some(&ca), |claims| Ok(claims["sub"].to_string()))
            .expect("signed")
            .expect("changed");
        assert_eq!(filled["data"]["token"], STANDARD.encode("\"system:serviceaccount:ns:robot\""));
        assert_eq!(filled["metadata"]["annotations"][ACCOUNT_UID], "robot");
        let filled: Secret = serde_json::from_value(filled).expect("a secret");
        let again = complete(&filled, &account, Some(&ca), |_| panic!("has a token")).expect("no error");
        assert_eq!(again, None);
        let renewed = complete(&filled, &account, Some(&"NEW".to_owned()), |_| panic!("has a token"))
            .expect("no error");
        assert_eq!(renewed.expect("changed")["data"]["ca.crt"], STANDARD.encode("NEW"));
    }
}
