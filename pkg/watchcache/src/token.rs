//! `continue` tokens, in upstream's form, so that a list begun on one kind of server goes on at the other.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use storage::Revision;

use crate::Error;

/// Version of the token's form.
const FORM: &str = "meta.k8s.io/v1";
/// Revision in tokens that go on with whatever is latest.
const INCONSISTENT: i64 = -1;
/// Longest token looked at.
const MAX_TOKEN: usize = 16 * 1024;

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continue {
    /// First key to return, below the list's prefix.
    pub start: String,
    /// The revision to read at, `None` for the latest.
    pub revision: Option<Revision>,
}

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

impl Continue {
    /// The token's text.
    pub fn encode(&self) -> String {
        let rv = self.revision.map_or(INCONSISTENT, |r| r.0);
        let token = Token { v: FORM.into(), rv, start: self.start.clone() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    /// Reads a token. It comes from a client, so its key is kept from leaving the list's prefix.
    pub fn decode(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| Error::InvalidContinue(format!("continue key is not valid{why}"));
        if text.len() > MAX_TOKEN {
            return Err(invalid(": too long"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| invalid(&format!(": {e}")))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|e| invalid(&format!(": {e}")))?;
        if token.v != FORM {
            return Err(invalid(&format!(": server does not recognize this encoded version {}", token.v)));
        }
        if token.rv == 0 {
            return Err(invalid(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if token.start.is_empty() {
            return Err(invalid(": encoded start key empty (version meta.k8s.io/v1)"));
        }
        let key = token.start.strip_prefix('/').unwrap_or(&token.start);
        if key.is_empty() || key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid(&format!(": {}", token.start)));
        }
        let revision = (token.rv > 0).then_some(Revision(token.rv));
        Ok(Self { start: key.to_owned(), revision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_and_read_as_upstream_writes_them() {
        let token = Continue { start: "default/a\0".into(), revision: Some(Revision(12)) };
        assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        let latest = Continue { start: "a\0".into(), revision: None };
        assert_eq!(Continue::decode(&latest.encode()).unwrap(), latest);
        let upstream = URL_SAFE_NO_PAD.encode(br#"{"v":"meta.k8s.io/v1","rv":12,"start":"default/a\u0000"}"#);
        assert_eq!(Continue::decode(&upstream).unwrap(), token);
    }

    #[test]
    fn bad_tokens_are_refused() {
        let cases = [
            "",
            "%%%",
            "bm90IGpzb24",
            &URL_SAFE_NO_PAD.encode(r#"{"v":"v2","rv":1,"start":"a"}"#),
            &URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#),
            &URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
            &URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets"}"#),
            &URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a//b"}"#),
        ];
        for case in cases {
            assert!(matches!(Continue::decode(case), Err(Error::InvalidContinue(_))), "{case}");
        }
    }
}
