//! Who asks. A request from inside the process carries its identity in an extension, which the network cannot set.

use std::sync::Arc;
use std::time::Instant;

use apimachinery::status::Status;
use auth::UserInfo;
use auth::user::{ALL_AUTHENTICATED, ALL_UNAUTHENTICATED};
use component::serving::ConnInfo;
use http::header;
use http::request::Parts;

use crate::context::Warnings;
use crate::metrics::Authenticated;
use crate::server::{InProcess, Server};

pub(super) async fn authenticate(
    server: &Server,
    parts: &mut Parts,
    warnings: &Warnings,
) -> Result<Arc<UserInfo>, Status> {
    if let Some(InProcess(user)) = parts.extensions.get() {
        return Ok(Arc::clone(user));
    }
    let connection = parts.extensions.get::<Arc<ConnInfo>>().cloned();
    let certificates = connection.as_ref().map_or(&[][..], |c| &c.certificates);
    let began = Instant::now();
    let found = server.authenticator.authenticate(parts, certificates).await;
    let (outcome, name) = match &found {
        Ok(Some(known)) => (Authenticated::Success, known.user.name.as_str()),
        Ok(None) => (Authenticated::Failure, ""),
        Err(_) => (Authenticated::Error, ""),
    };
    server.access.authenticated(outcome, name, began.elapsed());
    let authenticated = match found {
        Ok(Some(authenticated)) => authenticated,
        Ok(None) => return Err(Status::unauthorized()),
        Err(error) => {
            tracing::debug!(%error, "unable to authenticate the request");
            return Err(Status::unauthorized());
        }
    };
    if let Some(expires) = authenticated.certificate_expires {
        server.access.certificate(expires);
    }
    // nothing behind this filter may see the credential
    parts.headers.remove(header::AUTHORIZATION);
    warnings.extend(authenticated.warnings);
    let mut user = authenticated.user;
    if !user.in_group(ALL_AUTHENTICATED) && !user.in_group(ALL_UNAUTHENTICATED) {
        user.groups.push(ALL_AUTHENTICATED.to_owned());
    }
    Ok(Arc::new(user))
}
