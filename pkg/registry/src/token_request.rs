//! `serviceaccounts/token`: a fresh token of a service account, bound to a pod, node or secret if asked.
//! Source: `k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage`, KEP-1205, KEP-4193.

use std::sync::Arc;

use admission::Operation;
use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{GroupResource, GroupVersion, at, metadata_mut, name, str_at, uid};
use apimachinery::status::{FieldError, Status};
use apiserver::{Call, ResourceStore, SubresourceHandler};
use async_trait::async_trait;
use auth::service_account::{
    ObjectRef, TokenGenerator, TokenRequestClaims, WARN_ONLY_EXTENDED_SECONDS, WARN_ONLY_SECONDS,
};
use component::http::Body;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};

use crate::names::{core, is_not_found};

/// Shortest lifetime that may be asked for, in seconds.
const MIN_SECONDS: i64 = 10 * 60;
/// Longest lifetime that may be asked for, in seconds.
const MAX_SECONDS: i64 = 1 << 32;
/// Lifetime of a request that names none, in seconds.
const DEFAULT_SECONDS: i64 = 60 * 60;

/// How tokens are issued.
#[derive(Clone)]
pub struct TokenConfig {
    /// Signs them.
    pub generator: Arc<TokenGenerator>,
    /// Audiences of tokens that name none: the server's own.
    pub audiences: Vec<String>,
    /// `--service-account-max-token-expiration` in seconds.
    pub max_seconds: Option<i64>,
    /// `--service-account-extend-token-expiration`: tokens mounted by admission live a year, for clients that never
    /// read them again.
    pub extend: bool,
}

/// Issues tokens.
pub(crate) struct TokenRequest {
    config: TokenConfig,
}

impl TokenRequest {
    pub(crate) fn new(config: TokenConfig) -> Self {
        Self { config }
    }
}

/// Seconds asked for and what is wrong with the request.
fn checked_seconds(request: &Value, account: &str, namespace: &str) -> (i64, Vec<FieldError>) {
    let mut errors = Vec::new();
    let given_name = name(request);
    if !given_name.is_empty() && given_name != account {
        errors.push(FieldError::invalid("metadata.name", given_name, "must match the service account name"));
    }
    let given_namespace = str_at(request, &["metadata", "namespace"]);
    if !given_namespace.is_empty() && given_namespace != namespace {
        errors.push(FieldError::invalid(
            "metadata.namespace",
            given_namespace,
            "must match the service account namespace",
        ));
    }
    let seconds =
        at(request, &["spec", "expirationSeconds"]).and_then(Value::as_i64).unwrap_or(DEFAULT_SECONDS);
    let field = "spec.expirationSeconds";
    if seconds < MIN_SECONDS {
        errors.push(FieldError::invalid(field, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > MAX_SECONDS {
        errors.push(FieldError::invalid(
            field,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        ));
    }
    (seconds, errors)
}

fn object_ref(object: &Value) -> ObjectRef {
    ObjectRef { name: name(object).to_owned(), uid: uid(object).to_owned() }
}

/// What the token is bound to.
async fn bind(store: &ResourceStore, request: &Value, claims: &mut TokenRequestClaims) -> Result<(), Status> {
    let Some(bound) = at(request, &["spec", "boundObjectRef"]).filter(|r| !r.is_null()) else {
        return Ok(());
    };
    let gv = GroupVersion::parse(str_at(bound, &["apiVersion"])).unwrap_or_else(|| GroupVersion::new("", ""));
    let (kind, wanted) = (str_at(bound, &["kind"]), str_at(bound, &["name"]));
    let namespace = claims.namespace.clone();
    let found = match (gv.group.as_str(), kind) {
        ("", "Pod") => {
            let pod = store.get(&core("pods"), &namespace, wanted).await?;
            let account = str_at(&pod, &["spec", "serviceAccountName"]);
            if account != claims.service_account.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with serviceaccount {account:?}",
                    claims.service_account.name
                )));
            }
            claims.pod = Some(object_ref(&pod));
            let node = str_at(&pod, &["spec", "nodeName"]);
            if !node.is_empty() {
                claims.node = Some(match store.get(&core("nodes"), "", node).await {
                    Ok(node) => object_ref(&node),
                    // the node may be gone already while its pod shuts down
                    Err(status) if is_not_found(&status) => {
                        ObjectRef { name: node.to_owned(), uid: String::new() }
                    }
                    Err(status) => return Err(status),
                });
            }
            pod
        }
        ("", "Node") => {
            let node = store.get(&core("nodes"), "", wanted).await?;
            claims.node = Some(object_ref(&node));
            node
        }
        ("", "Secret") => {
            let secret = store.get(&core("secrets"), &namespace, wanted).await?;
            claims.secret = Some(object_ref(&secret));
            secret
        }
        _ => {
            let gvk = apimachinery::meta::GroupVersionKind::new(gv.group, gv.version, kind);
            return Err(Status::bad_request(format!("cannot bind token to object of type {gvk}")));
        }
    };
    let given = str_at(bound, &["uid"]);
    if !given.is_empty() && given != uid(&found) {
        let why = format!(
            "the UID in the bound object reference ({given}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(&GroupResource::new("", kind), wanted, &why));
    }
    Ok(())
}

impl TokenConfig {
    /// Lifetime of a token and seconds after which its client is warned, from the lifetime asked for.
    fn lifetime(&self, asked: i64, audiences: &[String]) -> (i64, Option<i64>) {
        let own = audiences.iter().all(|a| self.audiences.contains(a));
        if self.extend && asked == WARN_ONLY_SECONDS && own {
            return (WARN_ONLY_EXTENDED_SECONDS, Some(asked));
        }
        (asked, None)
    }
}

#[async_trait]
impl SubresourceHandler for TokenRequest {
    async fn handle(&self, mut call: Call) -> Result<Response<Body>, Status> {
        let info = Arc::clone(&call.context.info);
        let mut request = call.decode_body().await?;
        let account = call.store.get(&core("serviceaccounts"), &info.namespace, &info.name).await?;
        let (mut asked, errors) = checked_seconds(&request, &info.name, &info.namespace);
        if !errors.is_empty() {
            return Err(Status::invalid("authentication.k8s.io", "TokenRequest", name(&request), &errors));
        }
        if let Some(metadata) = metadata_mut(&mut request) {
            metadata.insert("name".into(), json!(info.name));
            metadata.insert("namespace".into(), json!(info.namespace));
        }
        let dry_run = call.dry_run()?;
        call.admit(Operation::Create, &mut request, dry_run).await?;
        if let Some(max) = self.config.max_seconds
            && asked > max
        {
            call.context
                .warnings
                .add(format!("requested expiration of {asked} seconds shortened to {max} seconds"));
            asked = max;
        }
        let given: Vec<String> = at(&request, &["spec", "audiences"])
            .and_then(|list| apimachinery::from_value(list.clone()).ok())
            .unwrap_or_default();
        let audiences = if given.is_empty() { self.config.audiences.clone() } else { given };
        let (expiration_seconds, warn_after_seconds) = self.config.lifetime(asked, &audiences);
        let mut claims = TokenRequestClaims {
            namespace: info.namespace.clone(),
            service_account: object_ref(&account),
            audiences: audiences.clone(),
            expiration_seconds,
            warn_after_seconds,
            ..TokenRequestClaims::default()
        };
        bind(&call.store, &request, &mut claims).await?;
        let now: Timestamp = call.context.now;
        let id = uuid::Uuid::new_v4().to_string();
        let token = self
            .config
            .generator
            .issue(&claims, now, &id)
            .map_err(|e| Status::internal(format!("failed to generate token: {e}")))?;
        // what is told is what was asked for, so that clients that do reload come back in time
        let expires = now.saturating_add(SignedDuration::from_secs(asked)).unwrap_or(Timestamp::MAX);
        if let Some(metadata) = metadata_mut(&mut request) {
            metadata.insert("creationTimestamp".into(), json!(whole_seconds(now)));
        }
        request["spec"]["audiences"] = json!(audiences);
        request["spec"]["expirationSeconds"] = json!(asked);
        request["status"] = json!({"token": token, "expirationTimestamp": whole_seconds(expires)});
        call.respond(StatusCode::CREATED, &request)
    }
}

/// RFC 3339 in whole seconds, as Go prints times of objects.
fn whole_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_checked() {
        let cases = [
            (json!({}), 3600, 0),
            (json!({"spec": {"expirationSeconds": 600}}), 600, 0),
            (json!({"spec": {"expirationSeconds": 599}}), 599, 1),
            (json!({"spec": {"expirationSeconds": 4_294_967_297_i64}}), 4_294_967_297, 1),
            (json!({"metadata": {"name": "other"}}), 3600, 1),
            (json!({"metadata": {"name": "sa", "namespace": "x"}}), 3600, 1),
        ];
        for (request, seconds, errors) in cases {
            let got = checked_seconds(&request, "sa", "ns");
            assert_eq!((got.0, got.1.len()), (seconds, errors), "{request}");
        }
    }

    #[test]
    fn times_print_whole_seconds() {
        let time: Timestamp = "2026-01-02T03:04:05.678Z".parse().expect("time");
        assert_eq!(whole_seconds(time), "2026-01-02T03:04:05Z");
    }
}
