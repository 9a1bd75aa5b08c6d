//! `TokenReview`: whose token is this?

use admission::Operation;
use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{at, str_at};
use apimachinery::status::Status;
use apiserver::{Call, SubresourceHandler};
use async_trait::async_trait;
use auth::assemble::Authentication;
use auth::authn::union::with_authenticated_group;
use auth::{AuthError, Authenticated};
use component::http::Body;
use http::{Response, StatusCode};

/// Answers TokenReviews with the server's own authenticators.
pub(crate) struct TokenReview {
    authentication: Authentication,
}

impl TokenReview {
    pub(crate) fn new(authentication: Authentication) -> Self {
        Self { authentication }
    }
}

/// The status of a review. Audiences are reported when the review asked for some.
fn status(found: Result<Option<Authenticated>, AuthError>, asked: &[String]) -> Value {
    match found {
        Ok(Some(found)) => {
            let found = with_authenticated_group(found);
            let mut status = json!({"authenticated": true, "user": found.user.to_value()});
            if !found.audiences.is_empty() {
                status["audiences"] = json!(found.audiences);
            } else if !asked.is_empty() {
                return json!({"user": {}, "error": "authenticator does not know the audiences of this token"});
            }
            status
        }
        Ok(None) => json!({"user": {}}),
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    }
}

#[async_trait]
impl SubresourceHandler for TokenReview {
    async fn handle(&self, mut call: Call) -> Result<Response<Body>, Status> {
        let mut review = call.decode_body().await?;
        let token = str_at(&review, &["spec", "token"]).to_owned();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let dry_run = call.dry_run()?;
        call.admit(Operation::Create, &mut review, dry_run).await?;
        let audiences: Vec<String> = at(&review, &["spec", "audiences"])
            .and_then(|list| apimachinery::from_value(list.clone()).ok())
            .unwrap_or_default();
        let found = self.authentication.tokens.authenticate_token(&token, &audiences).await;
        review["status"] = status(found, &audiences);
        call.respond(StatusCode::CREATED, &review)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auth::UserInfo;

    #[test]
    fn statuses() {
        let found = |audiences: &[&str]| Authenticated {
            user: UserInfo::new("ann", &["dev"]),
            audiences: audiences.iter().map(|a| (*a).to_owned()).collect(),
            ..Authenticated::default()
        };
        let user = json!({"username": "ann", "groups": ["dev", "system:authenticated"]});
        assert_eq!(
            status(Ok(Some(found(&["api"]))), &[]),
            json!({"authenticated": true, "user": user, "audiences": ["api"]})
        );
        assert_eq!(status(Ok(Some(found(&[]))), &[]), json!({"authenticated": true, "user": user}));
        assert!(status(Ok(Some(found(&[]))), &["vault".into()]).get("authenticated").is_none());
        assert_eq!(status(Ok(None), &[]), json!({"user": {}}));
        assert_eq!(status(Err(AuthError::Token("no".into())), &[])["error"], "no");
    }
}
