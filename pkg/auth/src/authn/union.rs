//! All authenticators as one: order, errors, the group of the authenticated, anonymous requests.

use std::sync::Arc;

use async_trait::async_trait;
use http::request::Parts;
use rustls_pki_types::CertificateDer;

use super::{AuthError, Authenticated, Authenticator};
use crate::user::{ALL_AUTHENTICATED, ALL_UNAUTHENTICATED, ANONYMOUS, UserInfo};

/// Tries authenticators in turn; adds `system:authenticated`; optionally lets requests without credentials in as
/// `system:anonymous`. A bad credential is refused even when anonymous requests are not.
pub struct RequestAuthenticator {
    authenticators: Vec<Arc<dyn Authenticator>>,
    anonymous: bool,
}

impl RequestAuthenticator {
    /// Tries these in this order; `anonymous` is `--anonymous-auth`.
    pub fn new(authenticators: Vec<Arc<dyn Authenticator>>, anonymous: bool) -> Self {
        Self { authenticators, anonymous }
    }
}

/// Adds the group of all authenticated users, unless the user is anonymous or already in one of the two.
pub fn with_authenticated_group(mut found: Authenticated) -> Authenticated {
    let user = &mut found.user;
    if user.name != ANONYMOUS && !user.in_group(ALL_AUTHENTICATED) && !user.in_group(ALL_UNAUTHENTICATED) {
        user.groups.push(ALL_AUTHENTICATED.to_owned());
    }
    found
}

#[async_trait]
impl Authenticator for RequestAuthenticator {
    async fn authenticate(
        &self,
        parts: &Parts,
        peer_certificates: &[CertificateDer<'static>],
    ) -> Result<Option<Authenticated>, AuthError> {
        let mut errors = Vec::new();
        for authenticator in &self.authenticators {
            match authenticator.authenticate(parts, peer_certificates).await {
                Ok(Some(found)) => return Ok(Some(with_authenticated_group(found))),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        match errors.len() {
            0 if self.anonymous => {
                Ok(Some(Authenticated { user: UserInfo::anonymous(), ..Authenticated::default() }))
            }
            0 => Ok(None),
            1 => Err(errors.swap_remove(0)),
            _ => Err(AuthError::Several(errors.iter().map(ToString::to_string).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::token::{BearerAuthenticator, StaticTokens};

    #[tokio::test]
    async fn order_errors_and_anonymous() {
        let tokens = StaticTokens::parse("good,ann,1,\"dev\"").expect("file");
        let bearer = Arc::new(BearerAuthenticator::new(Arc::new(tokens)));
        let parts = |header: Option<&str>| {
            let mut request = http::Request::builder();
            if let Some(value) = header {
                request = request.header("authorization", value);
            }
            request.body(()).expect("request").into_parts().0
        };
        for anonymous in [true, false] {
            let union = RequestAuthenticator::new(vec![bearer.clone()], anonymous);
            let good =
                union.authenticate(&parts(Some("Bearer good")), &[]).await.expect("ok").expect("known");
            assert_eq!(good.user.groups, ["dev", ALL_AUTHENTICATED]);
            let bad = union.authenticate(&parts(Some("Bearer bad")), &[]).await;
            assert_eq!(bad.expect_err("refused").to_string(), "invalid bearer token");
            let none = union.authenticate(&parts(None), &[]).await.expect("ok");
            assert_eq!(none.map(|a| a.user), anonymous.then(UserInfo::anonymous));
        }
    }
}
