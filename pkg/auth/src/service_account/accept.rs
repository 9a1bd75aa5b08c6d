//! Accepting tokens: signature, life, audience, and that what they are bound to still exists.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{GroupResource, at, str_at, uid};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::keys::PublicKey;
use super::token::{Claims, KubernetesClaims, LEEWAY_SECONDS, LEGACY_ISSUER, ObjectRef, Unverified, parse};
use crate::authn::{AuthError, Authenticated, TokenAuthenticator};
use crate::object::ObjectReader;
use crate::user::{CREDENTIAL_ID, NODE_NAME, NODE_UID, POD_NAME, POD_UID, UserInfo};

fn refused(why: impl Into<String>) -> AuthError {
    AuthError::Token(why.into())
}

/// Looks things up that tokens claim to belong to: in the cache, and in the store when the cache says no, as a token may
/// be younger than what the cache has seen.
#[derive(Clone)]
struct Lookup(Arc<dyn ObjectReader>);

impl Lookup {
    /// An object for which `problem` finds nothing wrong; the problem with the newest one otherwise.
    async fn sound(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        problem: &(dyn Fn(Option<&Value>) -> Option<String> + Sync),
    ) -> Result<Option<Value>, AuthError> {
        let resource = GroupResource::new("", resource);
        let cached = self.0.get(&resource, namespace, name).and_then(|o| o.value());
        if problem(cached.as_ref()).is_none() {
            return Ok(cached);
        }
        let live = self.0.get_live(&resource, namespace, name).await.map_err(|s| refused(s.message))?;
        let live = live.and_then(|o| o.value());
        match problem(live.as_ref()) {
            None => Ok(live),
            Some(why) => Err(refused(why)),
        }
    }

    async fn service_account(
        &self,
        namespace: &str,
        account: &ObjectRef,
        now: Timestamp,
    ) -> Result<(), AuthError> {
        let problem = |object: Option<&Value>| {
            let what = format!("service account {namespace}/{}", account.name);
            match object {
                None => Some(format!("serviceaccounts {:?} not found", account.name)),
                Some(o) if deleted(o, now) => Some(format!("{what} has been deleted")),
                Some(o) if uid(o) != account.uid => {
                    Some(format!("service account UID ({}) does not match claim ({})", uid(o), account.uid))
                }
                Some(_) => None,
            }
        };
        self.sound("serviceaccounts", namespace, &account.name, &problem).await.map(|_| ())
    }

    /// A pod, secret or node the token is bound to.
    async fn bound(
        &self,
        (resource, singular): (&str, &str),
        namespace: &str,
        bound: &ObjectRef,
        now: Timestamp,
    ) -> Result<(), AuthError> {
        let problem = |object: Option<&Value>| match object {
            None => Some("service account token has been invalidated".to_owned()),
            Some(o) if deleted(o, now) => Some("service account token has been invalidated".to_owned()),
            Some(o) if !bound.uid.is_empty() && uid(o) != bound.uid => Some(format!(
                "{singular} UID ({}) does not match service account {singular} ref claim ({})",
                uid(o),
                bound.uid
            )),
            Some(_) => None,
        };
        self.sound(resource, namespace, &bound.name, &problem).await.map(|_| ())
    }
}

/// Deleted, counting the leeway tokens have: what is being deleted keeps its tokens while it shuts down.
fn deleted(object: &Value, now: Timestamp) -> bool {
    match at(object, &["metadata", "deletionTimestamp"]).and_then(Value::as_str) {
        None => false,
        Some(text) => {
            text.parse::<Timestamp>().is_ok_and(|t| t.as_second() < now.as_second() - LEEWAY_SECONDS)
        }
    }
}

/// Accepts bound tokens of this cluster's issuers.
pub struct ServiceAccountTokens {
    issuers: Vec<String>,
    keys: Vec<PublicKey>,
    api_audiences: Vec<String>,
    lookup: Lookup,
}

impl ServiceAccountTokens {
    /// Accepts tokens of these issuers (`--service-account-issuer`, repeated), signed with these keys, for these
    /// audiences (`--api-audiences`, by default the issuer).
    pub fn new(
        issuers: Vec<String>,
        keys: Vec<PublicKey>,
        api_audiences: Vec<String>,
        objects: Arc<dyn ObjectReader>,
    ) -> Self {
        Self { issuers, keys, api_audiences, lookup: Lookup(objects) }
    }

    /// Checks a token as of a time.
    pub async fn check(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Option<Authenticated>, AuthError> {
        let Some(unverified) = parse(token) else { return Ok(None) };
        if !self.issuers.contains(&unverified.claims.iss) {
            return Ok(None);
        }
        let claims = verified(&unverified, &self.keys, now)?;
        let wanted = if audiences.is_empty() { &self.api_audiences } else { audiences };
        let matching: Vec<String> = wanted.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if matching.is_empty() && !wanted.is_empty() {
            return Err(refused(format!(
                "token audiences {:?} is invalid for the target audience {wanted:?}",
                claims.aud
            )));
        }
        let kubernetes =
            claims.kubernetes.as_ref().ok_or_else(|| refused("token has no kubernetes.io claims"))?;
        let user = self.user(claims, kubernetes, now).await?;
        Ok(Some(Authenticated { user, audiences: matching, ..Authenticated::default() }))
    }

    async fn user(
        &self,
        claims: &Claims,
        bound: &KubernetesClaims,
        now: Timestamp,
    ) -> Result<UserInfo, AuthError> {
        let account = &bound.serviceaccount;
        let mut user = UserInfo::service_account(&bound.namespace, &account.name, &account.uid);
        if claims.sub != user.name {
            return Err(refused(format!("sub claim {:?} does not match {:?}", claims.sub, user.name)));
        }
        self.lookup.service_account(&bound.namespace, account, now).await?;
        let extra = &mut user.extra;
        let mut note = |key: &str, value: &str| {
            if !value.is_empty() {
                extra.insert(key.to_owned(), vec![value.to_owned()]);
            }
        };
        if !claims.jti.is_empty() {
            note(CREDENTIAL_ID, &format!("JTI={}", claims.jti));
        }
        if let Some(secret) = &bound.secret {
            self.lookup.bound(("secrets", "secret"), &bound.namespace, secret, now).await?;
        }
        if let Some(pod) = &bound.pod {
            self.lookup.bound(("pods", "pod"), &bound.namespace, pod, now).await?;
            note(POD_NAME, &pod.name);
            note(POD_UID, &pod.uid);
        }
        if let Some(node) = &bound.node {
            // beside a pod the node is only a note: the pod going away ends the token
            if bound.pod.is_none() {
                self.lookup.bound(("nodes", "node"), "", node, now).await?;
            }
            note(NODE_NAME, &node.name);
            note(NODE_UID, &node.uid);
        }
        Ok(user)
    }
}

fn verified<'a>(
    token: &'a Unverified<'_>,
    keys: &[PublicKey],
    now: Timestamp,
) -> Result<&'a Claims, AuthError> {
    if !token.signed_by(keys) {
        return Err(refused("invalid signature"));
    }
    token.claims.check_times(now.as_second()).map_err(refused)?;
    Ok(&token.claims)
}

#[async_trait]
impl TokenAuthenticator for ServiceAccountTokens {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Authenticated>, AuthError> {
        self.check(token, audiences, Timestamp::now()).await
    }
}

/// Accepts tokens kept in Secrets of type `kubernetes.io/service-account-token`.
pub struct LegacyTokens {
    keys: Vec<PublicKey>,
    api_audiences: Vec<String>,
    lookup: Lookup,
}

impl LegacyTokens {
    /// Accepts tokens signed with these keys; they count for all of the server's audiences.
    pub fn new(keys: Vec<PublicKey>, api_audiences: Vec<String>, objects: Arc<dyn ObjectReader>) -> Self {
        Self { keys, api_audiences, lookup: Lookup(objects) }
    }
}

#[async_trait]
impl TokenAuthenticator for LegacyTokens {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Authenticated>, AuthError> {
        let Some(unverified) = parse(token) else { return Ok(None) };
        if unverified.claims.iss != LEGACY_ISSUER {
            return Ok(None);
        }
        let now = Timestamp::now();
        let claims = verified(&unverified, &self.keys, now)?;
        let (namespace, name) = (&claims.legacy_namespace, &claims.legacy_name);
        let mut user = UserInfo::service_account(namespace, name, &claims.legacy_uid);
        for (what, text) in [
            ("namespace", namespace),
            ("secretName", &claims.legacy_secret),
            ("serviceAccountName", name),
            ("serviceAccountUID", &claims.legacy_uid),
        ] {
            if text.is_empty() {
                return Err(refused(format!("{what} claim is missing")));
            }
        }
        if claims.sub != user.name {
            return Err(refused(format!("sub claim {:?} does not match {:?}", claims.sub, user.name)));
        }
        let matching: Vec<String> = if audiences.is_empty() {
            self.api_audiences.clone()
        } else {
            self.api_audiences.iter().filter(|a| audiences.contains(a)).cloned().collect()
        };
        if matching.is_empty() && !audiences.is_empty() {
            return Err(refused(format!(
                "token audiences {:?} is invalid for the target audience {audiences:?}",
                self.api_audiences
            )));
        }
        let problem = |secret: Option<&Value>| match secret {
            None => Some(format!("secrets {:?} not found", claims.legacy_secret)),
            Some(s) if at(s, &["metadata", "deletionTimestamp"]).is_some() => {
                Some("service account token has been invalidated".to_owned())
            }
            Some(s) => (STANDARD.decode(str_at(s, &["data", "token"])).unwrap_or_default()
                != token.as_bytes())
            .then(|| "service account token does not match server's copy".to_owned()),
        };
        self.lookup.sound("secrets", namespace, &claims.legacy_secret, &problem).await?;
        let account = ObjectRef { name: name.clone(), uid: claims.legacy_uid.clone() };
        self.lookup.service_account(namespace, &account, now).await?;
        user.uid.clone_from(&claims.legacy_uid);
        Ok(Some(Authenticated { user, audiences: matching, ..Authenticated::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::tests::ec_key;
    use super::super::{TokenGenerator, TokenRequestClaims};
    use super::*;
    use crate::object::testing::Objects;
    use apimachinery::json;

    const ISSUER: &str = "https://kubernetes.default.svc";

    fn objects() -> Objects {
        Objects::new([
            ("", "serviceaccounts", json!({"metadata": {"namespace": "ns", "name": "a", "uid": "u1"}})),
            ("", "pods", json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u2"}})),
            ("", "nodes", json!({"metadata": {"name": "n", "uid": "u3"}})),
        ])
    }

    fn object_ref(name: &str, uid: &str) -> ObjectRef {
        ObjectRef { name: name.into(), uid: uid.into() }
    }

    #[tokio::test]
    async fn tokens_live_as_long_as_what_they_are_bound_to() {
        let generator = TokenGenerator::new(ISSUER, ec_key());
        let keys = vec![ec_key().public().clone(), generator.key().public().clone()];
        let issued: Timestamp = "2026-01-01T00:00:00Z".parse().expect("time");
        let request = TokenRequestClaims {
            namespace: "ns".into(),
            service_account: ObjectRef { name: "a".into(), uid: "u1".into() },
            pod: Some(object_ref("p", "u2")),
            node: Some(object_ref("n", "u3")),
            audiences: vec![ISSUER.into()],
            expiration_seconds: 3600,
            ..TokenRequestClaims::default()
        };
        type Change = fn(&mut TokenRequestClaims);
        let cases: [(&str, Change, i64, Result<(), &str>); 9] = [
            ("good", |_| {}, 10, Ok(())),
            ("last minute", |_| {}, 3660, Ok(())),
            ("expired", |_| {}, 3661, Err("service account token has expired")),
            ("early", |_| {}, -61, Err("service account token is not valid yet")),
            ("audience", |r| r.audiences = vec!["vault".into()], 10, Err("token audiences")),
            (
                "other account",
                |r| r.service_account.uid = "x".into(),
                10,
                Err("service account UID (u1) does not match claim (x)"),
            ),
            (
                "no account",
                |r| r.service_account.name = "b".into(),
                10,
                Err("serviceaccounts \"b\" not found"),
            ),
            (
                "other pod",
                |r| r.pod = Some(object_ref("p", "x")),
                10,
                Err("pod UID (u2) does not match service account pod ref claim (x)"),
            ),
            (
                "no pod",
                |r| r.pod = Some(object_ref("q", "x")),
                10,
                Err("service account token has been invalidated"),
            ),
        ];
        let tokens =
            ServiceAccountTokens::new(vec![ISSUER.into()], keys, vec![ISSUER.into()], Arc::new(objects()));
        for (case, change, after, expected) in cases {
            let mut request = request.clone();
            change(&mut request);
            let token = generator.issue(&request, issued, "id-1").expect("issued");
            let now = issued + jiff::SignedDuration::from_secs(after);
            let got = tokens.check(&token, &[], now).await;
            match expected {
                Ok(()) => {
                    let found = got.expect(case).expect(case);
                    assert_eq!(found.user.name, "system:serviceaccount:ns:a");
                    assert_eq!(found.user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns"]);
                    assert_eq!(found.user.extra[POD_NAME], ["p"]);
                    assert_eq!(found.user.extra[NODE_NAME], ["n"]);
                    assert_eq!(found.user.extra[CREDENTIAL_ID], ["JTI=id-1"]);
                    assert_eq!(found.audiences, [ISSUER]);
                }
                Err(text) => {
                    let error = got.expect_err(case).to_string();
                    assert!(error.starts_with(text), "{case}: {error}");
                }
            }
        }
        let foreign =
            TokenGenerator::new("https://other", ec_key()).issue(&request, issued, "i").expect("issued");
        assert_eq!(tokens.check(&foreign, &[], issued).await.expect("not ours"), None);
        let forged = TokenGenerator::new(ISSUER, ec_key()).issue(&request, issued, "i").expect("issued");
        assert_eq!(
            tokens.check(&forged, &[], issued).await.expect_err("forged").to_string(),
            "invalid signature"
        );
    }

    #[test]
    fn deletion_has_a_minute_of_grace() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().expect("time");
        for (deletion, expected) in [("2026-01-01T00:09:30Z", false), ("2026-01-01T00:08:00Z", true)] {
            let object = json!({"metadata": {"deletionTimestamp": deletion}});
            assert_eq!(deleted(&object, now), expected);
        }
    }
}
