//! Objects of the API that pods refer to: ConfigMaps, Secrets, tokens, services, volumes.
//!
//! ConfigMaps and Secrets are asked for by name when a pod needs them and kept for a short while: a kubelet may read
//! only what its pods name, and idle pods must cost nothing. Source: `pkg/kubelet/util/manager/cache_based_manager.go`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;

use crate::podutil::PodExt;

/// How long an object is served without asking again.
const FRESH: Duration = Duration::from_secs(30);
/// Most objects and tokens kept.
const MAX_CACHED: usize = 4096;
/// A token is renewed when this share of its life has passed (upstream: 80 %)...
const RENEW_AT: f64 = 0.8;
/// ...or when it is this old.
const RENEW_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Data of a ConfigMap or Secret: every key with its bytes.
pub type Data = BTreeMap<String, Vec<u8>>;

/// What went wrong with a call to the API, in the server's words where it had any.
pub fn api_error(error: &kube::Error) -> String {
    client::status_of(error).map_or_else(|| error.to_string(), |status| status.message.clone())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    ConfigMap,
    Secret,
}

/// Kind, namespace and name.
type Key = (Kind, String, String);
/// Pod uid, audience and lifetime.
type TokenKey = (String, String, String);

#[derive(Debug, Clone)]
struct Cached {
    data: Arc<Data>,
    at: Instant,
    immutable: bool,
}

#[derive(Debug, Clone)]
struct Token {
    text: String,
    renew: Instant,
}

/// Reads objects for pods. Clones share their caches.
#[derive(Clone)]
pub struct Objects {
    client: kube::Client,
    cache: Arc<Mutex<HashMap<Key, Cached>>>,
    tokens: Arc<Mutex<HashMap<TokenKey, Token>>>,
    services: client::Store<Service>,
    nodes: client::Store<Node>,
    fresh: Duration,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

impl Objects {
    /// Reads with this client; services and the own node come from informers. With `always_get`, ConfigMaps and Secrets
    /// are asked for each time, but for immutable ones.
    pub fn new(
        client: kube::Client,
        services: client::Store<Service>,
        nodes: client::Store<Node>,
        always_get: bool,
    ) -> Self {
        let fresh = if always_get { Duration::ZERO } else { FRESH };
        Self { client, cache: Arc::default(), tokens: Arc::default(), services, nodes, fresh }
    }

    /// The client underneath.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// The own node as last seen.
    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get("", name)
    }

    /// Services whose variables a pod of this namespace gets.
    pub fn services(&self, namespace: &str, links: bool) -> Vec<Arc<Service>> {
        let mut out = if links { self.services.list_in(namespace) } else { Vec::new() };
        if let Some(master) = self.services.get("default", "kubernetes")
            && !(links && namespace == "default")
        {
            // A service of the same name in the pod's own namespace wins.
            if !out.iter().any(|s| s.metadata.name.as_deref() == Some("kubernetes")) {
                out.push(master);
            }
        }
        out
    }

    /// A ConfigMap's data; `None` when it does not exist.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<Data>>, kube::Error> {
        let key = (Kind::ConfigMap, namespace.to_owned(), name.to_owned());
        if let Some(data) = self.cached(&key) {
            return Ok(Some(data));
        }
        let found = Api::<ConfigMap>::namespaced(self.client.clone(), namespace).get_opt(name).await?;
        let immutable = found.as_ref().is_some_and(|m| m.immutable == Some(true));
        let data = found.map(|map| {
            let mut data: Data = map.data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes())).collect();
            data.extend(map.binary_data.into_iter().flatten().map(|(k, v)| (k, v.0)));
            Arc::new(data)
        });
        Ok(self.keep(key, data, immutable))
    }

    /// A Secret's data; `None` when it does not exist.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Data>>, kube::Error> {
        let key = (Kind::Secret, namespace.to_owned(), name.to_owned());
        if let Some(data) = self.cached(&key) {
            return Ok(Some(data));
        }
        let found = Api::<Secret>::namespaced(self.client.clone(), namespace).get_opt(name).await?;
        let immutable = found.as_ref().is_some_and(|s| s.immutable == Some(true));
        let data =
            found.map(|s| Arc::new(s.data.into_iter().flatten().map(|(k, v)| (k, v.0)).collect::<Data>()));
        Ok(self.keep(key, data, immutable))
    }

    fn cached(&self, key: &Key) -> Option<Arc<Data>> {
        let cache = self.cache.lock();
        let entry = cache.get(key)?;
        (entry.immutable || entry.at.elapsed() < self.fresh).then(|| entry.data.clone())
    }

    /// Absence is never cached: what is missing is waited for.
    fn keep(&self, key: Key, data: Option<Arc<Data>>, immutable: bool) -> Option<Arc<Data>> {
        let mut cache = self.cache.lock();
        if cache.len() >= MAX_CACHED {
            cache.retain(|_, entry| entry.at.elapsed() < FRESH);
        }
        match &data {
            Some(data) => {
                cache.insert(key, Cached { data: data.clone(), at: Instant::now(), immutable });
            }
            None => {
                cache.remove(&key);
            }
        }
        data
    }

    /// Forgets what is cached for a namespace: a pod that starts shall see what was written just before it.
    pub fn refresh(&self, namespace: &str) {
        self.cache.lock().retain(|(_, ns, _), entry| entry.immutable || ns != namespace);
    }

    /// A token of the pod's service account, bound to the pod; renewed in time.
    pub async fn token(&self, pod: &Pod, audience: &str, seconds: i64) -> Result<String, kube::Error> {
        let key = (pod.uid().to_owned(), audience.to_owned(), seconds.to_string());
        let known = self.tokens.lock().get(&key).filter(|t| t.renew > Instant::now()).map(|t| t.text.clone());
        if let Some(text) = known {
            return Ok(text);
        }
        let account = pod.spec().service_account_name.as_deref().unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience.to_owned()]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod.name().to_owned()),
                    uid: Some(pod.uid().to_owned()),
                }),
            }),
            ..TokenRequest::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), pod.ns());
        let answer: TokenRequest =
            api.create_subresource("token", account, &PostParams::default(), &request).await?;
        let text = answer.status.and_then(|s| s.token).unwrap_or_default();
        let life = Duration::from_secs_f64(seconds.max(0) as f64 * RENEW_AT).min(RENEW_AFTER);
        let mut tokens = self.tokens.lock();
        if tokens.len() >= MAX_CACHED {
            tokens.retain(|_, t| t.renew > Instant::now());
        }
        tokens.insert(key, Token { text: text.clone(), renew: Instant::now() + life });
        Ok(text)
    }

    /// Drops a pod's tokens.
    pub fn forget_pod(&self, uid: &str) {
        self.tokens.lock().retain(|(pod, ..), _| pod != uid);
    }

    /// A claim and the volume it is bound to.
    pub async fn claimed_volume(
        &self,
        namespace: &str,
        claim: &str,
    ) -> Result<(PersistentVolumeClaim, Option<PersistentVolume>), kube::Error> {
        let pvc = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace).get(claim).await?;
        let bound = pvc.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| !n.is_empty());
        let pv = match bound {
            Some(name) => Some(Api::<PersistentVolume>::all(self.client.clone()).get(&name).await?),
            None => None,
        };
        Ok((pvc, pv))
    }

    /// Credentials for pulling, out of the pod's image pull secrets: the `dockerconfigjson` of each that exists.
    pub async fn pull_secrets(&self, pod: &Pod) -> Vec<Arc<Data>> {
        let mut out = Vec::new();
        for secret in pod.spec().image_pull_secrets.iter().flatten() {
            match self.secret(pod.ns(), &secret.name).await {
                Ok(Some(data)) => out.push(data),
                Ok(None) => {
                    tracing::warn!(pod = %pod.full_id(), secret = secret.name, "image pull secret not found");
                }
                Err(error) => {
                    tracing::warn!(pod = %pod.full_id(), secret = secret.name, %error, "cannot read image pull secret");
                }
            }
        }
        out
    }
}
