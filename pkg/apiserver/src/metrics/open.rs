//! Watches and connections, which are answered long before they are over.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use auth::UserInfo;
use component::http::Response;
use http::{Extensions, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::{Alike, Running};
use crate::server::Server;

/// A request that is under way: it counts as running, and a watch or a connection as answered, when the last holder
/// lets go. Requests carry it in their extensions; what goes on after the answer keeps a share of it.
pub struct Open {
    server: Arc<Server>,
    alike: Arc<Alike>,
    started: Instant,
    /// What a watch or a connection was answered with, and by whom it was asked for.
    answered: OnceLock<(StatusCode, Arc<UserInfo>)>,
    _running: Running,
}

impl Open {
    /// A request that has come.
    pub(crate) fn begin(server: &Arc<Server>, alike: Arc<Alike>, started: Instant) -> Arc<Self> {
        let running = alike.running();
        Arc::new(Self {
            server: Arc::clone(server),
            alike,
            started,
            answered: OnceLock::new(),
            _running: running,
        })
    }

    /// The request that these extensions belong to.
    pub fn of(extensions: &Extensions) -> Option<Arc<Self>> {
        extensions.get::<Arc<Self>>().cloned()
    }

    /// What the request counts as.
    pub(crate) fn alike(&self) -> &Arc<Alike> {
        &self.alike
    }

    /// The answer to a watch or a connection, which is over when the answer's body is, or what else holds on to it.
    pub(crate) fn answered(self: &Arc<Self>, response: Response, user: Arc<UserInfo>) -> Response {
        let _ = self.answered.set((response.status(), user));
        if response.body().size_hint().exact().is_some() {
            // all of it is there already, and clients are told its length
            return response;
        }
        let open = Arc::clone(self);
        response.map(|body| {
            let followed = body.map_frame(move |frame| {
                let _held = &open;
                frame
            });
            followed.boxed_unsync()
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some((code, user)) = self.answered.get() {
            self.server.metrics.observe(
                &self.alike,
                &user.name,
                *code,
                self.started.elapsed(),
                Duration::ZERO,
            );
        }
    }
}
