//! The text of a token and its claims. Source: RFC 7515 (compact form), RFC 7519, KEP-1205.

use apimachinery::json;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::keys::{KeyError, PublicKey, SigningKey};

/// Issuer of tokens kept in Secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// Clock difference in seconds that is tolerated at the ends of a token's life.
pub const LEEWAY_SECONDS: i64 = 60;

/// Name and uid of an object a token is bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Name.
    pub name: String,
    /// Uid, may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claims under `kubernetes.io`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesClaims {
    /// Namespace of the service account and of what the token is bound to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Node of the pod, or the node the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectRef>,
    /// Pod the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectRef>,
    /// Secret the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectRef>,
    /// The service account.
    #[serde(default)]
    pub serviceaccount: ObjectRef,
    /// From this second on the client should have a fresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// All claims of a token, bound or legacy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences; a single one may come as a plain string.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// End of life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// Issued at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// Issuer.
    #[serde(default)]
    pub iss: String,
    /// Identifier.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// Claims of a bound token.
    #[serde(default, rename = "kubernetes.io", skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesClaims>,
    /// Legacy: namespace.
    #[serde(
        default,
        rename = "kubernetes.io/serviceaccount/namespace",
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_namespace: String,
    /// Legacy: name of the Secret that holds the token.
    #[serde(
        default,
        rename = "kubernetes.io/serviceaccount/secret.name",
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_secret: String,
    /// Legacy: name of the service account.
    #[serde(
        default,
        rename = "kubernetes.io/serviceaccount/service-account.name",
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_name: String,
    /// Legacy: uid of the service account.
    #[serde(
        default,
        rename = "kubernetes.io/serviceaccount/service-account.uid",
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_uid: String,
    /// Not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Subject: the user name.
    #[serde(default)]
    pub sub: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

impl Claims {
    /// Why the token is not valid at a time (seconds since the epoch), upstream's words.
    pub fn check_times(&self, now: i64) -> Result<(), &'static str> {
        if self.exp.is_some_and(|exp| now - LEEWAY_SECONDS > exp) {
            return Err("service account token has expired");
        }
        if self.nbf.is_some_and(|nbf| now + LEEWAY_SECONDS < nbf) {
            return Err("service account token is not valid yet");
        }
        if self.iat.is_some_and(|iat| now + LEEWAY_SECONDS < iat) {
            return Err("service account token is issued in the future");
        }
        Ok(())
    }
}

/// Header of a compact token.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// A token taken apart, its signature not yet checked.
pub(super) struct Unverified<'a> {
    header: Header,
    pub(super) claims: Claims,
    message: &'a [u8],
    signature: Vec<u8>,
}

/// Takes a compact token apart; `None` when it is none.
pub(super) fn parse(token: &str) -> Option<Unverified<'_>> {
    let (message, signature) = token.rsplit_once('.')?;
    let (header, payload) = message.split_once('.')?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    Some(Unverified {
        header: serde_json::from_slice(&decode(header)?).ok()?,
        claims: serde_json::from_slice(&decode(payload)?).ok()?,
        message: message.as_bytes(),
        signature: decode(signature)?,
    })
}

impl Unverified<'_> {
    /// Whether one of these keys signed it. Keys with the token's `kid` are tried, all of them without one.
    pub(super) fn signed_by(&self, keys: &[PublicKey]) -> bool {
        let wanted = |key: &&PublicKey| {
            key.algorithm.as_str() == self.header.alg
                && (self.header.kid.is_empty() || key.id == self.header.kid)
        };
        keys.iter().filter(wanted).any(|key| key.verify(self.message, &self.signature))
    }
}

/// Signs claims.
pub fn sign(claims: &Claims, key: &SigningKey) -> Result<String, KeyError> {
    let header = json!({"alg": key.public().algorithm.as_str(), "kid": key.public().id});
    let payload = serde_json::to_vec(claims).map_err(|_| KeyError::Sign)?;
    let message =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
    let signature = key.sign(message.as_bytes())?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use super::super::keys::tests::ec_key;
    use super::*;

    #[test]
    fn tokens_survive_the_trip_and_nothing_else_does() {
        let key = ec_key();
        let claims = Claims {
            iss: "https://issuer".into(),
            sub: "system:serviceaccount:ns:a".into(),
            aud: vec!["api".into()],
            exp: Some(100),
            kubernetes: Some(KubernetesClaims {
                namespace: "ns".into(),
                serviceaccount: ObjectRef { name: "a".into(), uid: "u".into() },
                warnafter: Some(50),
                ..KubernetesClaims::default()
            }),
            ..Claims::default()
        };
        let token = sign(&claims, &key).expect("signed");
        let parsed = parse(&token).expect("parsed");
        assert_eq!(parsed.claims, claims);
        assert!(parsed.signed_by(&[ec_key().public().clone(), key.public().clone()]));
        assert!(!parsed.signed_by(&[ec_key().public().clone()]));

        let (message, signature) = token.rsplit_once('.').expect("dots");
        let forged = json!({"alg": "none", "kid": ""}).to_string();
        let payload = message.split_once('.').expect("dot").1;
        for bad in [
            format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode(forged)),
            format!("{message}."),
            format!("{message}.AAAA"),
        ] {
            assert!(!parse(&bad).is_some_and(|t| t.signed_by(&[key.public().clone()])), "{bad}");
        }
        for none in ["", "a.b", "a.b.c", "....", "ey.ey.ey"] {
            assert!(parse(none).is_none(), "{none}");
        }
    }

    #[test]
    fn times_have_leeway() {
        let claims = Claims { exp: Some(1000), nbf: Some(500), iat: Some(500), ..Claims::default() };
        for (now, ok) in [(439, false), (440, true), (1000, true), (1060, true), (1061, false)] {
            assert_eq!(claims.check_times(now).is_ok(), ok, "{now}");
        }
    }

    #[test]
    fn audience_may_be_a_string() {
        let one: Claims =
            apimachinery::from_value(json!({"aud": "a", "iss": "i", "sub": "s"})).expect("claims");
        assert_eq!(one.aud, ["a"]);
    }
}
