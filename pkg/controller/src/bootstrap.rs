//! Bootstrap tokens: the signer vouches for the `cluster-info` ConfigMap in the name of each token, the cleaner deletes
//! tokens that have expired.
//!
//! Behaviour after upstream's `pkg/controller/bootstrap`; the format is that of the reference page "Authenticating with
//! Bootstrap Tokens". Both are off unless `--controllers` names them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::rest::Rest;
use client::workqueue::WorkQueue;
use client::{Event, Informer, Selection, Store, is_not_found};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;
use tracing::warn;

use crate::context::{Context, Key, Next, Reconcile, SyncResult};
use crate::resources::{CONFIG_MAPS, SECRETS};

const TOKEN_NAMESPACE: &str = "kube-system";
const TOKEN_TYPE: &str = "bootstrap.kubernetes.io/token";
const TOKEN_PREFIX: &str = "bootstrap-token-";
const INFO_NAMESPACE: &str = "kube-public";
const INFO: &str = "cluster-info";
/// What is signed.
const KUBECONFIG: &str = "kubeconfig";
/// Signatures are kept beside it under this and the token's id.
const SIGNATURE: &str = "jws-kubeconfig-";

fn tokens(context: &Context) -> Informer<Secret> {
    let mut selection = Selection::fields(format!("type={TOKEN_TYPE}"));
    selection.namespace = Some(TOKEN_NAMESPACE.into());
    context.informer_for::<Secret>(selection)
}

fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[] as &[u8], |value| &value.0);
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// How long a token still lives; `None` for ever, zero when it is over or its end cannot be read.
fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let end = text(secret, "expiration");
    if end.is_empty() {
        return None;
    }
    let end: Timestamp = end.parse().unwrap_or(Timestamp::UNIX_EPOCH);
    Some(Duration::try_from(end.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// Id and secret of a token that may sign now.
fn signing_token(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let (id, key) = (text(secret, "token-id"), text(secret, "token-secret"));
    let named = secret.metadata.name.as_deref().and_then(|name| name.strip_prefix(TOKEN_PREFIX)) == Some(id);
    let usable = named
        && !id.is_empty()
        && !key.is_empty()
        && secret.metadata.deletion_timestamp.is_none()
        && text(secret, "usage-bootstrap-signing") == "true"
        && left(secret, now).is_none_or(|left| !left.is_zero());
    usable.then_some((id, key))
}

/// A detached JSON web signature (RFC 7515, appendix F) with HMAC-SHA-256.
fn sign(content: &str, id: &str, key: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let tag = hmac::sign(&key, format!("{header}.{}", URL_SAFE_NO_PAD.encode(content)).as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

/// The ConfigMap's data as it should be; `None` when there is nothing to sign.
fn signed(map: &ConfigMap, tokens: &[Arc<Secret>], now: Timestamp) -> Option<BTreeMap<String, String>> {
    let data = map.data.as_ref()?;
    let content = data.get(KUBECONFIG)?;
    let rest = data.iter().filter(|(key, _)| !key.starts_with(SIGNATURE));
    let mut wanted: BTreeMap<String, String> = rest.map(|(k, v)| (k.clone(), v.clone())).collect();
    for (id, key) in tokens.iter().filter_map(|secret| signing_token(secret, now)) {
        wanted.insert(format!("{SIGNATURE}{id}"), sign(content, id, key));
    }
    Some(wanted)
}

struct Signer {
    maps: Store<ConfigMap>,
    tokens: Store<Secret>,
    rest: Rest,
}

/// Starts the signer.
pub(crate) fn start_signer(context: &Context) {
    let queue = WorkQueue::new("bootstrap_signer_queue");
    let mut selection = Selection::fields(format!("metadata.name={INFO}"));
    selection.namespace = Some(INFO_NAMESPACE.into());
    let maps = context.informer_for::<ConfigMap>(selection);
    let tokens = tokens(context);
    let adds = queue.clone();
    maps.on_event(move |_| adds.add(Key::new(INFO_NAMESPACE, INFO)));
    let adds = queue.clone();
    tokens.on_event(move |_| adds.add(Key::new(INFO_NAMESPACE, INFO)));
    let signer =
        Signer { maps: maps.store(), tokens: tokens.store(), rest: context.rest("bootstrap-signer") };
    context.work("bootstrap-signer-controller", &queue, 1, Arc::new(signer));
}

impl Signer {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(map) = self.maps.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        let (tokens, now) = (self.tokens.list(), Timestamp::now());
        if let Some(wanted) = signed(&map, &tokens, now)
            && map.data.as_ref() != Some(&wanted)
        {
            let mut changed = (*map).clone();
            changed.data = Some(wanted);
            self.rest.update(&CONFIG_MAPS, "", &changed).await?;
        }
        // a signature goes with its token's end
        let ends = tokens.iter().filter_map(|secret| left(secret, now)).filter(|left| !left.is_zero());
        Ok(ends.min().map_or(Next::OnChange, Next::After))
    }
}

impl Reconcile for Signer {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

struct Cleaner {
    tokens: Store<Secret>,
    rest: Rest,
}

/// Starts the cleaner.
pub(crate) fn start_cleaner(context: &Context) {
    let queue = WorkQueue::new("token_cleaner");
    let tokens = tokens(context);
    let adds = queue.clone();
    tokens.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            adds.add(Key::of(&**event.object()));
        }
    });
    let cleaner = Cleaner { tokens: tokens.store(), rest: context.rest("token-cleaner") };
    context.work("token-cleaner-controller", &queue, 1, Arc::new(cleaner));
}

impl Cleaner {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(secret) = self.tokens.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        match left(&secret, Timestamp::now()) {
            None => Ok(Next::OnChange),
            Some(left) if !left.is_zero() => Ok(Next::After(left)),
            Some(_) => {
                let options = json!({"preconditions": {"uid": secret.metadata.uid}});
                match self.rest.delete(&SECRETS, &key.namespace, &key.name, &options).await {
                    Err(error) if !is_not_found(&error) => {
                        warn!(secret = key.name, %error, "an expired bootstrap token could not be deleted");
                        Err(error.into())
                    }
                    _ => Ok(Next::OnChange),
                }
            }
        }
    }
}

impl Reconcile for Cleaner {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;
    use k8s_openapi::ByteString;

    fn token(id: &str, signs: &str, expiration: Option<Timestamp>) -> Arc<Secret> {
        let mut data = BTreeMap::new();
        let mut put = |key: &str, value: &str| data.insert(key.to_owned(), ByteString(value.into()));
        put("token-id", id);
        put("token-secret", "0123456789abcdef");
        put("usage-bootstrap-signing", signs);
        if let Some(end) = expiration {
            put("expiration", &end.to_string());
        }
        let mut secret = Secret { data: Some(data), ..Secret::default() };
        secret.metadata.name = Some(format!("{TOKEN_PREFIX}{id}"));
        Arc::new(secret)
    }

    #[test]
    fn each_live_token_signs_and_stale_signatures_go() {
        let map: ConfigMap = serde_json::from_value(json!({"data": {
            "kubeconfig": "content", "other": "kept", "jws-kubeconfig-gone00": "old"}}))
        .expect("a config map");
        let tokens = [
            token("abcdef", "true", None),
            token("silent", "false", None),
            token("old000", "true", Some(at(0))),
            token("live00", "true", Some(at(100))),
        ];
        let data = signed(&map, &tokens, at(50)).expect("signed");
        let keys: Vec<&str> = data.keys().map(String::as_str).collect();
        assert_eq!(keys, ["jws-kubeconfig-abcdef", "jws-kubeconfig-live00", "kubeconfig", "other"]);
        // as Python's hmac computes it
        assert_eq!(
            data["jws-kubeconfig-abcdef"],
            "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..psz1NayrXM3IaFzKZGsb5n_mBl7MjtlsZ1xE8MRmF_4"
        );
        let again = ConfigMap { data: Some(data.clone()), ..ConfigMap::default() };
        assert_eq!(signed(&again, &tokens, at(50)), Some(data), "signing again changes nothing");
        assert_eq!(signed(&ConfigMap::default(), &tokens, at(50)), None);
    }

    #[test]
    fn tokens_live_until_their_expiration() {
        assert_eq!(left(&token("a", "", None), at(0)), None);
        assert_eq!(left(&token("a", "", Some(at(5))), at(0)), Some(Duration::from_secs(5)));
        assert_eq!(left(&token("a", "", Some(at(5))), at(6)), Some(Duration::ZERO));
    }
}
