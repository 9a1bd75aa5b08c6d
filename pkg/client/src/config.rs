//! From flags to a client: kubeconfig file, in-cluster service account, or plain address.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use kube::client::{Body, ClientBuilder};
use kube::config::{Config, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::workqueue::Bucket;

/// Time to establish a connection to the API server.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Where the API server is and how to talk to it.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// `--kubeconfig`; in-cluster configuration when neither this nor `master` is given.
    pub kubeconfig: Option<PathBuf>,
    /// `--master`: overrides the kubeconfig's server address.
    pub master: Option<String>,
    /// Component name for the `User-Agent`, such as `kube-scheduler`.
    pub component: String,
    /// `--kube-api-qps`: requests a second after the burst; no limit when not positive.
    pub qps: f64,
    /// `--kube-api-burst`.
    pub burst: u32,
}

/// No client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The kubeconfig cannot be read or used.
    #[error("kubeconfig")]
    Kubeconfig(#[from] KubeconfigError),
    /// No kubeconfig was given and this is not a pod.
    #[error("neither --kubeconfig nor --master was given, and the in-cluster configuration failed")]
    InCluster(#[from] InClusterError),
    /// `--master` or the component name is malformed.
    #[error("invalid {what}: {text:?}")]
    Invalid {
        /// Which option.
        what: &'static str,
        /// Its text.
        text: String,
    },
    /// TLS material or authentication settings are unusable.
    #[error("client")]
    Client(#[from] kube::Error),
}

/// `COMPONENT/v1.36.0 (linux/amd64) kubewright`: as upstream's components name themselves.
pub fn user_agent(component: &str) -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{component}/v1.36.0 ({}/{arch}) kubewright", std::env::consts::OS)
}

/// Reads the configuration without connecting.
pub async fn config_from(options: &ClientOptions) -> Result<Config, ConfigError> {
    let mut config = match (&options.kubeconfig, &options.master) {
        (Some(path), _) => {
            let kubeconfig = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        (None, Some(_)) => Config::new(http::Uri::default()),
        (None, None) => Config::incluster()?,
    };
    let invalid = |what, text: &str| ConfigError::Invalid { what, text: text.to_owned() };
    if let Some(master) = &options.master {
        config.cluster_url = master.parse().map_err(|_| invalid("--master", master))?;
    }
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let agent = user_agent(&options.component);
    let value = http::HeaderValue::from_str(&agent).map_err(|_| invalid("component name", &agent))?;
    config.headers.push((http::header::USER_AGENT, value));
    Ok(config)
}

/// A client as the options say. Nothing is sent: a server that is down shows at the first call.
pub async fn client_from(options: &ClientOptions) -> Result<kube::Client, ConfigError> {
    let config = config_from(options).await?;
    let builder = ClientBuilder::try_from(config)?;
    if options.qps > 0.0 {
        let bucket = Bucket::new(options.qps, f64::from(options.burst.max(1)));
        return Ok(builder.with_layer(&ThrottleLayer(Arc::new(Mutex::new(bucket)))).build());
    }
    Ok(builder.build())
}

/// This host's name, as event sources and lock holders carry it.
pub fn host_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_or_else(|_| "localhost".to_owned(), |text| text.trim().to_owned())
    })
}

/// Client-side request rate (`--kube-api-qps`): requests wait for a token before they are sent.
struct ThrottleLayer(Arc<Mutex<Bucket>>);

impl<S> tower::Layer<S> for ThrottleLayer {
    type Service = Throttle<S>;

    fn layer(&self, inner: S) -> Throttle<S> {
        Throttle { inner, bucket: self.0.clone() }
    }
}

struct Throttle<S> {
    inner: S,
    bucket: Arc<Mutex<Bucket>>,
}

impl<S> tower::Service<http::Request<Body>> for Throttle<S>
where
    S: tower::Service<http::Request<Body>>,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let delay = self.bucket.lock().reserve(Instant::now());
        // the service under it sends only when polled
        let response = self.inner.call(request);
        Box::pin(async move {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            response.await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn master_overrides_and_agent_names_the_component() {
        let options = ClientOptions {
            master: Some("http://127.0.0.1:8080".into()),
            component: "kube-scheduler".into(),
            ..ClientOptions::default()
        };
        let config = config_from(&options).await.expect("valid");
        assert_eq!(config.cluster_url.to_string(), "http://127.0.0.1:8080/");
        assert!(
            config.headers[0]
                .1
                .to_str()
                .is_ok_and(|agent| agent.starts_with("kube-scheduler/v1.36.0 (linux/"))
        );
        let bad = ClientOptions { master: Some("http://[".into()), ..options };
        assert!(matches!(config_from(&bad).await, Err(ConfigError::Invalid { what: "--master", .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_past_the_burst_wait_their_turn() {
        use tower::{Layer as _, ServiceExt as _};
        let inner = tower::service_fn(|_: http::Request<Body>| async { Ok::<_, std::io::Error>(()) });
        let mut service = ThrottleLayer(Arc::new(Mutex::new(Bucket::new(10.0, 2.0)))).layer(inner);
        let begin = Instant::now();
        for _ in 0..4 {
            let ready = service.ready().await.expect("ready");
            tower::Service::call(ready, http::Request::new(Body::empty())).await.expect("answered");
        }
        assert_eq!(begin.elapsed().as_millis(), 200);
    }
}
