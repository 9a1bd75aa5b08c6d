//! Bearer tokens: where they stand in a request, their order of trial, a short memory, and the static token file.
//! Source: `k8s.io/apiserver/pkg/authentication/{request/bearertoken,request/websocket,token/cache,token/tokenfile}`.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::request::Parts;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use super::{AuthError, Authenticated, Authenticator, TokenAuthenticator};
use crate::cache::{TtlCache, digest_of};
use crate::user::UserInfo;

/// Subprotocol by which browsers, which cannot set headers, hand over a bearer token.
const WEBSOCKET_TOKEN_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
/// Accepted tokens that are remembered.
const CACHE_ENTRIES: usize = 4096;
/// Seconds an accepted token is remembered.
const CACHE_SECONDS: i64 = 10;
/// Longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 64 << 10;

/// The bearer token of a request.
pub fn bearer_token(headers: &HeaderMap) -> Option<String> {
    let header = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).map_or("", str::trim);
    let mut parts = header.splitn(3, ' ');
    if let (Some(scheme), Some(token)) = (parts.next(), parts.next())
        && scheme.eq_ignore_ascii_case("bearer")
        && !token.is_empty()
    {
        return Some(token.to_owned());
    }
    websocket_token(headers)
}

fn websocket_token(headers: &HeaderMap) -> Option<String> {
    let has = |name, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.to_ascii_lowercase().contains(word))
    };
    if !has(CONNECTION, "upgrade") || !has(UPGRADE, "websocket") {
        return None;
    }
    let protocols = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    let encoded = protocols
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .find_map(|p| p.trim().strip_prefix(WEBSOCKET_TOKEN_PREFIX))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

/// Tries token authenticators in turn and remembers what was accepted for [`CACHE_SECONDS`].
pub struct TokenUnion {
    authenticators: Vec<Arc<dyn TokenAuthenticator>>,
    accepted: TtlCache<Authenticated>,
}

impl TokenUnion {
    /// Tries these in this order.
    pub fn new(authenticators: Vec<Arc<dyn TokenAuthenticator>>) -> Self {
        Self { authenticators, accepted: TtlCache::new(CACHE_ENTRIES) }
    }
}

#[async_trait]
impl TokenAuthenticator for TokenUnion {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Authenticated>, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Token("token is too long".into()));
        }
        let mut parts: Vec<&[u8]> = vec![token.as_bytes()];
        parts.extend(audiences.iter().map(String::as_bytes));
        let key = digest_of(&parts);
        let now = Timestamp::now().as_second();
        if let Some(known) = self.accepted.get(&key, now) {
            return Ok(Some(known));
        }
        let mut errors = Vec::new();
        for authenticator in &self.authenticators {
            match authenticator.authenticate_token(token, audiences).await {
                Ok(Some(found)) => {
                    self.accepted.put(key, found.clone(), now + CACHE_SECONDS);
                    return Ok(Some(found));
                }
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        match errors.len() {
            0 => Ok(None),
            1 => Err(errors.swap_remove(0)),
            _ => Err(AuthError::Several(errors.iter().map(ToString::to_string).collect())),
        }
    }
}

/// Authenticates by bearer token; a token nobody knows is an error.
pub struct BearerAuthenticator {
    tokens: Arc<dyn TokenAuthenticator>,
}

impl BearerAuthenticator {
    /// Asks this authenticator about tokens.
    pub fn new(tokens: Arc<dyn TokenAuthenticator>) -> Self {
        Self { tokens }
    }
}

#[async_trait]
impl Authenticator for BearerAuthenticator {
    async fn authenticate(
        &self,
        parts: &Parts,
        _peer_certificates: &[CertificateDer<'static>],
    ) -> Result<Option<Authenticated>, AuthError> {
        let Some(token) = bearer_token(&parts.headers) else { return Ok(None) };
        match self.tokens.authenticate_token(&token, &[]).await? {
            Some(found) => Ok(Some(found)),
            None => Err(AuthError::Token("invalid bearer token".into())),
        }
    }
}

/// Tokens of `--token-auth-file`.
pub struct StaticTokens {
    users: HashMap<String, UserInfo>,
}

impl StaticTokens {
    /// Parses the file: lines `token,user,uid[,"group1,group2"]`; `#` starts no comment, empty lines are skipped.
    pub fn parse(text: &str) -> Result<Self, AuthError> {
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let bad = |why: &str| AuthError::Token(format!("token file line {}: {why}", number + 1));
            let fields = csv_fields(line).ok_or_else(|| bad("unbalanced quotes"))?;
            let [token, name, uid, rest @ ..] = fields.as_slice() else {
                return Err(bad("must have at least 3 columns (token, user name, user uid)"));
            };
            if token.is_empty() {
                continue; // upstream skips entries without a token
            }
            let groups = rest.first().map_or("", String::as_str);
            let groups =
                groups.split(',').map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned).collect();
            let user = UserInfo { name: name.clone(), uid: uid.clone(), groups, ..UserInfo::default() };
            users.insert(token.clone(), user);
        }
        Ok(Self { users })
    }
}

/// One line of comma-separated values with `"` quotes doubled inside quotes.
fn csv_fields(line: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.trim_end().chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut()?;
        match (c, quoted) {
            ('"', true) if chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', false) => fields.push(String::new()),
            (c, false) if c.is_whitespace() && field.is_empty() => {}
            (c, _) => field.push(c),
        }
    }
    (!quoted).then_some(fields)
}

#[async_trait]
impl TokenAuthenticator for StaticTokens {
    async fn authenticate_token(
        &self,
        token: &str,
        _audiences: &[String],
    ) -> Result<Option<Authenticated>, AuthError> {
        Ok(self.users.get(token).map(|user| Authenticated { user: user.clone(), ..Authenticated::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found() {
        let encoded =
            format!("v4.channel.k8s.io, {WEBSOCKET_TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode("secret"));
        let socket = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-protocol", encoded.as_str()),
        ];
        type Case<'a> = (&'a [(&'static str, &'a str)], Option<&'a str>);
        let cases: [Case<'_>; 7] = [
            (&[("authorization", "Bearer abc")], Some("abc")),
            (&[("authorization", "bearer abc def")], Some("abc")),
            (&[("authorization", "Basic abc")], None),
            (&[("authorization", "Bearer ")], None),
            (&[], None),
            (&socket, Some("secret")),
            (&socket[2..], None),
        ];
        for (headers, expected) in cases {
            let mut map = HeaderMap::new();
            for (key, value) in headers {
                map.insert(*key, value.parse().expect("value"));
            }
            assert_eq!(bearer_token(&map).as_deref(), expected, "{headers:?}");
        }
    }

    #[tokio::test]
    async fn static_tokens() {
        let tokens = StaticTokens::parse("t1,ann,1\n\nt2,bob,2,\"a,b\"\nt3,\"q\"\"x\",3,c\n").expect("file");
        for (token, name, groups) in
            [("t1", "ann", vec![]), ("t2", "bob", vec!["a", "b"]), ("t3", "q\"x", vec!["c"])]
        {
            let user = tokens.authenticate_token(token, &[]).await.expect("no error").expect("known").user;
            assert_eq!(
                (user.name.as_str(), user.groups),
                (name, groups.into_iter().map(String::from).collect())
            );
        }
        assert!(tokens.authenticate_token("t4", &[]).await.expect("no error").is_none());
        assert!(StaticTokens::parse("t1,ann").is_err());
        assert!(StaticTokens::parse("t1,\"ann,1").is_err());
    }
}
