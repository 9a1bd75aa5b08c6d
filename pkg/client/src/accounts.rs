//! Acting as a service account: its token is asked for with the process's own rights and renewed before it ends.
//!
//! This is how upstream's controller manager gives each controller an identity (`--use-service-account-credentials`):
//! the account is made if it is missing, TokenRequest makes the token. No impersonation, which RBAC would have to allow.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderValue, StatusCode};
use kube::client::{Body, ClientBuilder};
use kube::config::{AuthInfo, Config};
use serde_json::json;
use tokio::time::Instant;

use crate::config::ConfigError;
use crate::error::is_already_exists;
use crate::rest::{ResourceId, Rest};

static ACCOUNTS: ResourceId = ResourceId::namespaced("", "v1", "serviceaccounts", "ServiceAccount");
/// How long a token is asked to live.
const LIFETIME: Duration = Duration::from_secs(3600);
/// It is renewed when this much of its life is over.
const USED: f64 = 0.8;
/// Pause between attempts to get a token.
const RETRY: Duration = Duration::from_secs(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A client that acts as `system:serviceaccount:NAMESPACE:NAME`. `config` says where the server is; its credentials are
/// not used. `own` is the client of the process, which may create service accounts and their tokens.
pub fn client_for(
    config: &Config,
    own: kube::Client,
    namespace: &str,
    name: &str,
) -> Result<kube::Client, ConfigError> {
    let mut config = config.clone();
    config.auth_info = AuthInfo::default();
    let tokens = Arc::new(Tokens {
        rest: Rest::new(own, "service-account-tokens"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&BearerLayer(tokens)).build())
}

/// Gets tokens of one account.
struct Tokens {
    rest: Rest,
    namespace: String,
    name: String,
}

impl Tokens {
    async fn fetch(self: Arc<Self>) -> Result<HeaderValue, BoxError> {
        let (namespace, name) = (self.namespace.as_str(), self.name.as_str());
        let account = json!({"metadata": {"name": name, "namespace": namespace}});
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": LIFETIME.as_secs()}});
        let ask = || self.rest.create_subresource(&ACCOUNTS, namespace, name, "token", &request);
        let answer = match ask().await {
            Err(error) if crate::error::is_not_found(&error) => {
                match self.rest.create(&ACCOUNTS, namespace, &account).await {
                    Err(error) if !is_already_exists(&error) => return Err(error.into()),
                    _ => ask().await?,
                }
            }
            answer => answer?,
        };
        let token = answer.pointer("/status/token").and_then(|token| token.as_str()).unwrap_or_default();
        let mut header = HeaderValue::try_from(format!("Bearer {token}"))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

#[derive(Clone)]
struct BearerLayer(Arc<Tokens>);

impl<S> tower::Layer<S> for BearerLayer {
    type Service = Bearer<S>;

    fn layer(&self, inner: S) -> Bearer<S> {
        Bearer { inner, tokens: self.0.clone(), state: State::Empty, refused: Arc::default() }
    }
}

enum State {
    Empty,
    Fetching(BoxFuture<'static, Result<HeaderValue, BoxError>>),
    Held {
        header: HeaderValue,
        until: Instant,
    },
    /// Requests fail with this until it is time to try again.
    Failed {
        why: String,
        until: Instant,
    },
}

/// Adds the token. It is got before a request is taken, so that requests wait for it in order.
struct Bearer<S> {
    inner: S,
    tokens: Arc<Tokens>,
    state: State,
    /// The server did not accept the token, as when the account was made anew.
    refused: Arc<AtomicBool>,
}

impl<S, B> tower::Service<http::Request<Body>> for Bearer<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = http::Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            match &mut self.state {
                State::Empty => self.state = State::Fetching(Box::pin(self.tokens.clone().fetch())),
                State::Fetching(fetching) => {
                    let now = Instant::now();
                    self.state = match std::task::ready!(fetching.as_mut().poll(cx)) {
                        Ok(header) => State::Held { header, until: now + LIFETIME.mul_f64(USED) },
                        Err(error) => State::Failed { why: error.to_string(), until: now + RETRY },
                    };
                }
                State::Held { until, .. } | State::Failed { until, .. } => {
                    if Instant::now() < *until && !self.refused.swap(false, Ordering::Relaxed) {
                        return self.inner.poll_ready(cx);
                    }
                    self.state = State::Empty;
                }
            }
        }
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match &self.state {
            State::Held { header, .. } => {
                request.headers_mut().insert(AUTHORIZATION, header.clone());
                let (answer, refused) = (self.inner.call(request), self.refused.clone());
                Box::pin(async move {
                    let answer = answer.await?;
                    if answer.status() == StatusCode::UNAUTHORIZED {
                        refused.store(true, Ordering::Relaxed);
                    }
                    Ok(answer)
                })
            }
            State::Failed { why, .. } => {
                let why = format!(
                    "no token for service account {}/{}: {why}",
                    self.tokens.namespace, self.tokens.name
                );
                Box::pin(std::future::ready(Err(why.into())))
            }
            // Nothing is called before it was ready.
            State::Empty | State::Fetching(_) => {
                Box::pin(std::future::ready(Err("called before a token was there".into())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use parking_lot::Mutex;
    use tower::{Layer as _, Service as _, ServiceExt as _};

    use super::*;

    type Asked = Arc<Mutex<Vec<String>>>;

    /// A server that makes tokens once the account exists.
    fn server(asked: &Asked) -> kube::Client {
        let asked = asked.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let asked = asked.clone();
            async move {
                let mut asked = asked.lock();
                let path = request.uri().path().to_owned();
                let made = asked.iter().any(|path| path.ends_with("/serviceaccounts"));
                asked.push(path.clone());
                let (code, body) = if path.ends_with("/token") && !made {
                    (
                        404,
                        json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": ""}),
                    )
                } else {
                    (201, json!({"status": {"token": format!("t{}", asked.len())}}))
                };
                let body = http_body_util::Full::new(bytes::Bytes::from(body.to_string()));
                Ok::<_, Infallible>(http::Response::builder().status(code).body(body).expect("a response"))
            }
        });
        kube::Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_got_kept_and_renewed() {
        let (asked, seen) = (Asked::default(), Asked::default());
        let tokens = Arc::new(Tokens {
            rest: Rest::new(server(&asked), "test"),
            namespace: "kube-system".into(),
            name: "robot".into(),
        });
        let sink = seen.clone();
        let inner = tower::service_fn(move |request: http::Request<Body>| {
            let token = request.headers()[AUTHORIZATION].to_str().unwrap_or_default().to_owned();
            let mut seen = sink.lock();
            seen.push(token);
            let status = if seen.len() == 3 { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
            std::future::ready(Ok::<_, BoxError>(
                http::Response::builder().status(status).body(()).expect("a response"),
            ))
        });
        let mut service = BearerLayer(tokens).layer(inner);
        let mut call = async || {
            let request = http::Request::new(Body::empty());
            service.ready().await.expect("ready").call(request).await.expect("answered");
        };
        call().await;
        call().await;
        tokio::time::advance(LIFETIME).await;
        call().await; // renewed, and refused by the server
        call().await;
        assert_eq!(*seen.lock(), ["Bearer t3", "Bearer t3", "Bearer t4", "Bearer t5"]);
        assert_eq!(asked.lock().len(), 5, "the account was made once: {:?}", asked.lock());
    }
}
