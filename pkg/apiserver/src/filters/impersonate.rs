//! Acting as somebody else: the `Impersonate-*` headers, each of which needs the right to impersonate what it names.
//! Source: "User impersonation" and `k8s.io/apiserver/pkg/endpoints/filters/impersonation.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::status::Status;
use auth::authz::{Attributes, forbidden_status};
use auth::user::{ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS};
use auth::{Authorizer, UserInfo};
use http::HeaderMap;
use http::request::Parts;
use percent_encoding::percent_decode_str;

use crate::server::Server;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// Most values that are checked, each of which costs an authorization.
const MAX_IMPERSONATED_VALUES: usize = 256;

/// What the headers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Wanted {
    fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, Status> {
        let values = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
        };
        let mut wanted = Self {
            user: values(USER).into_iter().next().unwrap_or_default(),
            uid: values(UID).into_iter().next().unwrap_or_default(),
            groups: values(GROUP),
            extra: BTreeMap::new(),
        };
        for name in headers.keys() {
            if let Some(key) = name.as_str().strip_prefix(EXTRA) {
                let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
                wanted.extra.entry(key).or_default().extend(values(name.as_str()));
            }
        }
        let others = !wanted.uid.is_empty() || !wanted.groups.is_empty() || !wanted.extra.is_empty();
        if wanted.user.is_empty() {
            return if others {
                Err(Status::internal("requested impersonation without impersonating a user".to_owned()))
            } else {
                Ok(None)
            };
        }
        let values = wanted.groups.len() + wanted.extra.values().map(Vec::len).sum::<usize>();
        if values > MAX_IMPERSONATED_VALUES {
            return Err(Status::bad_request("too many values to impersonate"));
        }
        Ok(Some(wanted))
    }
}

/// The identity the request acts as; the headers are taken off it.
pub(super) async fn impersonate(
    server: &Server,
    parts: &mut Parts,
    user: Arc<UserInfo>,
) -> Result<Arc<UserInfo>, Status> {
    let Some(wanted) = Wanted::from_headers(&parts.headers)? else { return Ok(user) };
    let authorizer = &*server.authorizer;
    let service_account = service_account(&wanted.user);
    match service_account {
        Some((namespace, name)) => {
            allowed(authorizer, &user, "", "serviceaccounts", namespace, name).await?;
        }
        None => allowed(authorizer, &user, "", "users", "", &wanted.user).await?,
    }
    for group in &wanted.groups {
        allowed(authorizer, &user, "", "groups", "", group).await?;
    }
    if !wanted.uid.is_empty() {
        allowed(authorizer, &user, "authentication.k8s.io", "uids", "", &wanted.uid).await?;
    }
    for (key, values) in &wanted.extra {
        let resource = format!("userextras/{key}");
        for value in values {
            allowed(authorizer, &user, "authentication.k8s.io", &resource, "", value).await?;
        }
    }
    let mut groups = wanted.groups;
    if let (Some((namespace, _)), true) = (service_account, groups.is_empty()) {
        groups = UserInfo::service_account(namespace, "", "").groups;
    }
    let marker = if wanted.user == ANONYMOUS { ALL_UNAUTHENTICATED } else { ALL_AUTHENTICATED };
    if !groups.iter().any(|g| g == ALL_AUTHENTICATED || g == ALL_UNAUTHENTICATED) {
        groups.push(marker.to_owned());
    }
    strip(&mut parts.headers);
    Ok(Arc::new(UserInfo { name: wanted.user, uid: wanted.uid, groups, extra: wanted.extra }))
}

fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix(auth::user::SERVICE_ACCOUNT_PREFIX)?.split_once(':')
}

async fn allowed(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), Status> {
    let attributes = Attributes::resource(user, "impersonate", group, resource, namespace, name);
    let answer = authorizer.authorize(&attributes).await;
    if answer.allowed() { Ok(()) } else { Err(forbidden_status(&attributes, &answer.reason)) }
}

/// Handlers that pass requests on (webhooks, proxies) must not pass these headers.
fn strip(headers: &mut HeaderMap) {
    let names: Vec<_> = headers.keys().filter(|n| n.as_str().starts_with("impersonate-")).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(Wanted::from_headers(&headers), Ok(None));
        headers.insert(GROUP, "g".parse().expect("value"));
        assert!(Wanted::from_headers(&headers).is_err(), "a group alone is nobody");
        headers.insert(USER, "u".parse().expect("value"));
        headers.insert("impersonate-extra-acme.com%2fscope", "a".parse().expect("value"));
        let wanted = Wanted::from_headers(&headers).expect("valid").expect("some");
        assert_eq!((wanted.user.as_str(), wanted.groups.as_slice()), ("u", &["g".to_owned()][..]));
        assert_eq!(wanted.extra["acme.com/scope"], ["a"]);
    }
}
