//! Bootstrap tokens: Secrets of type `bootstrap.kubernetes.io/token` in `kube-system` that let new nodes in.
//! Source: the "Authenticating with Bootstrap Tokens" reference, `plugin/pkg/auth/authenticator/token/bootstrap`.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{GroupResource, str_at};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::{AuthError, Authenticated, TokenAuthenticator};
use crate::object::ObjectReader;
use crate::user::UserInfo;

const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const USER_PREFIX: &str = "system:bootstrap:";
const DEFAULT_GROUP: &str = "system:bootstrappers";
const GROUP_PREFIX: &str = "system:bootstrappers:";

/// Authenticates bootstrap tokens.
pub struct BootstrapTokens {
    objects: Arc<dyn ObjectReader>,
}

impl BootstrapTokens {
    /// Reads Secrets through this.
    pub fn new(objects: Arc<dyn ObjectReader>) -> Self {
        Self { objects }
    }
}

/// Splits `abcdef.0123456789abcdef` into id and secret.
fn parse_token(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

fn is_bootstrap_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix(GROUP_PREFIX) else { return false };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().last().is_some_and(plain)
        && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-')
}

/// The user a Secret makes of a token, `None` when the Secret does not vouch for it.
fn user_of(secret: &Value, id: &str, key: &str, now: Timestamp) -> Option<UserInfo> {
    let field = |name: &str| {
        let bytes = STANDARD.decode(str_at(secret, &["data", name])).ok()?;
        String::from_utf8(bytes).ok()
    };
    let same = |a: &str, b: &str| {
        aws_lc_rs::constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
    };
    let live = apimachinery::meta::at(secret, &["metadata", "deletionTimestamp"]).is_none();
    let expired = match field("expiration").as_deref() {
        None | Some("") => false,
        Some(text) => {
            text.parse::<Timestamp>().is_ok_and(|end| end <= now) || text.parse::<Timestamp>().is_err()
        }
    };
    let vouches = live
        && !expired
        && str_at(secret, &["type"]) == SECRET_TYPE
        && field("token-id").is_some_and(|v| v == id)
        && field("token-secret").is_some_and(|v| same(&v, key))
        && field("usage-bootstrap-authentication").is_some_and(|v| v == "true");
    if !vouches {
        return None;
    }
    let extra = field("auth-extra-groups").unwrap_or_default();
    let extra: Vec<&str> = extra.split(',').filter(|g| !g.is_empty()).collect();
    if !extra.iter().all(|g| is_bootstrap_group(g)) {
        return None;
    }
    let mut groups = vec![DEFAULT_GROUP];
    groups.extend(extra);
    groups.sort_unstable();
    groups.dedup();
    Some(UserInfo::new(format!("{USER_PREFIX}{id}"), &groups))
}

#[async_trait]
impl TokenAuthenticator for BootstrapTokens {
    async fn authenticate_token(
        &self,
        token: &str,
        _audiences: &[String],
    ) -> Result<Option<Authenticated>, AuthError> {
        let Some((id, key)) = parse_token(token) else { return Ok(None) };
        let secret = self.objects.get(
            &GroupResource::new("", "secrets"),
            "kube-system",
            &format!("bootstrap-token-{id}"),
        );
        let user = secret.and_then(|s| s.value()).and_then(|s| user_of(&s, id, key, Timestamp::now()));
        Ok(user.map(|user| Authenticated { user, ..Authenticated::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn secrets_vouch_for_tokens() {
        let encode = |text: &str| json!(STANDARD.encode(text));
        let good = json!({"type": SECRET_TYPE, "metadata": {"name": "bootstrap-token-abcdef"}, "data": {
            "token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
            "usage-bootstrap-authentication": encode("true"), "expiration": encode("2030-01-01T00:00:00Z"),
            "auth-extra-groups": encode("system:bootstrappers:a,system:bootstrappers:b-c")}});
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("time");
        let user = user_of(&good, "abcdef", "0123456789abcdef", now).expect("good");
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(
            user.groups,
            ["system:bootstrappers", "system:bootstrappers:a", "system:bootstrappers:b-c"]
        );

        let bad = [
            ("/type", json!("Opaque")),
            ("/data/token-secret", encode("x")),
            ("/data/token-id", encode("x")),
            ("/data/usage-bootstrap-authentication", encode("false")),
            ("/data/expiration", encode("2025-01-01T00:00:00Z")),
            ("/data/expiration", encode("soon")),
            ("/data/auth-extra-groups", encode("system:masters")),
            ("/metadata", json!({"deletionTimestamp": "2025-01-01T00:00:00Z"})),
        ];
        for (pointer, value) in bad {
            let mut secret = good.clone();
            *secret.pointer_mut(pointer).expect("path") = value;
            assert_eq!(user_of(&secret, "abcdef", "0123456789abcdef", now), None, "{pointer}");
        }
        assert_eq!(parse_token("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for token in ["abcdef", "abcdeF.0123456789abcdef", "abcdef.0123", "a.b.c"] {
            assert_eq!(parse_token(token), None);
        }
    }
}
