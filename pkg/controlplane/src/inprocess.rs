//! Clients inside the process: the server's own handler behind a [`kube::Client`], without sockets or TLS.

use std::convert::Infallible;
use std::sync::Arc;

use apiserver::{InProcess, Server};
use auth::UserInfo;
use component::http::boxed;

/// A client that acts as a user. The identity travels in the request's extensions, which the network cannot set.
pub fn client(server: &Arc<Server>, user: UserInfo) -> kube::Client {
    let user = Arc::new(user);
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (server, user) = (Arc::clone(&server), Arc::clone(&user));
        async move {
            let mut request = request.map(boxed);
            request.extensions_mut().insert(InProcess(user));
            Ok::<_, Infallible>(server.respond(request).await)
        }
    });
    kube::Client::new(service, "default")
}
