//! Getting a container's image onto the node: policy, back-off, credentials, events.
//!
//! Source: `pkg/kubelet/images`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use cri::api;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::backoff::Backoff;
use crate::objects::Data;
use crate::podutil::PodExt;
use crate::security::ImageUser;

/// First delay after a failed pull.
const FIRST_DELAY: Duration = Duration::from_secs(10);
/// Longest delay between pulls.
const MAX_DELAY: Duration = Duration::from_secs(300);

/// What a container needs to know of its image.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// Reference to make a container from.
    pub reference: String,
    /// The user it asks for.
    pub user: ImageUser,
}

/// Why there is no image, as `waiting.reason` and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `ErrImagePull`, `ImagePullBackOff`...
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
}

/// Something to tell the user about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// `false` for a warning.
    pub normal: bool,
    /// Event reason.
    pub reason: &'static str,
    /// Event text.
    pub message: String,
}

/// Pulls images, few at a time.
#[derive(Debug, Clone)]
pub struct Images {
    runtime: cri::Runtime,
    slots: Arc<Semaphore>,
    rate: Option<Arc<Mutex<Rate>>>,
    backoff: Arc<Mutex<Backoff>>,
    last_error: Arc<Mutex<std::collections::HashMap<String, String>>>,
}

/// A token bucket that is told the time (`registryPullQPS`, `registryBurst`).
#[derive(Debug)]
struct Rate {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Rate {
    fn new(per_second: f64, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Self { per_second, burst, tokens: burst, at: now }
    }

    /// Takes a token, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.at = now;
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }
}

/// Most remembered pull errors.
const MAX_ERRORS: usize = 1024;

/// Adds `:latest` to a reference without tag or digest.
pub fn with_default_tag(image: &str) -> Result<String, String> {
    let invalid = || format!("couldn't parse image name {image:?}: invalid reference format");
    if image.is_empty()
        || image.contains(char::is_whitespace)
        || image.starts_with('-')
        || image.ends_with(':')
    {
        return Err(invalid());
    }
    let (name, digest) = image.split_once('@').map_or((image, None), |(n, d)| (n, Some(d)));
    if digest.is_some_and(|d| !d.contains(':')) {
        return Err(invalid());
    }
    let last = name.rsplit('/').next().unwrap_or(name);
    let repository = last.split(':').next().unwrap_or(last);
    // Upper case is for hosts and tags only.
    let path_ok = name
        .split('/')
        .skip(usize::from(
            name.contains('/')
                && name.split('/').next().is_some_and(|h| h.contains(['.', ':']) || h == "localhost"),
        ))
        .all(|part| {
            let part = if part == last { repository } else { part };
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        });
    if !path_ok {
        return Err(invalid());
    }
    let tagged = last.contains(':');
    Ok(if tagged || digest.is_some() { image.to_owned() } else { format!("{image}:latest") })
}

fn pull_policy(container: &Container) -> &str {
    container.image_pull_policy.as_deref().unwrap_or("IfNotPresent")
}

impl Images {
    /// A puller with this many pulls at once, and at most so many begun a second (after a burst of so many).
    pub fn new(runtime: cri::Runtime, parallel: usize, rate: Option<(f64, u32)>) -> Self {
        Self {
            runtime,
            slots: Arc::new(Semaphore::new(parallel)),
            rate: rate.map(|(qps, burst)| Arc::new(Mutex::new(Rate::new(qps, burst, Instant::now())))),
            backoff: Arc::new(Mutex::new(Backoff::new(FIRST_DELAY, MAX_DELAY))),
            last_error: Arc::default(),
        }
    }

    /// Makes sure a container's image is here, pulling it if its policy says so. `note` is told what happens.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        secrets: &[Arc<Data>],
        sandbox: api::PodSandboxConfig,
        note: impl Fn(Note),
    ) -> Result<Present, Failure> {
        let warn = |reason, message: String| note(Note { normal: false, reason, message });
        let tell = |reason, message: String| note(Note { normal: true, reason, message });
        let asked = container.image.as_deref().unwrap_or_default();
        let image = with_default_tag(asked).map_err(|why| {
            let message = format!("Failed to apply default image tag {asked:?}: {why}");
            warn("InspectFailed", message.clone());
            Failure { reason: "InvalidImageName", message }
        })?;
        let found = self.runtime.image_status(&image).await.map_err(|error| {
            let message = format!("Failed to inspect image {asked:?}: {error}");
            warn("InspectFailed", message.clone());
            Failure { reason: "ImageInspectError", message }
        })?;
        match (pull_policy(container), found) {
            ("Never" | "IfNotPresent", Some(image)) => {
                tell("Pulled", format!("Container image {asked:?} already present on machine"));
                return Ok(present(&image));
            }
            ("Never", None) => {
                let message = format!("Container image {asked:?} is not present with pull policy of Never");
                warn("ErrImageNeverPull", message.clone());
                return Err(Failure { reason: "ErrImageNeverPull", message });
            }
            _ => {}
        }
        let key = format!("{}_{image}", pod.uid());
        if self.backoff.lock().remaining_since_update(&key, Timestamp::now()).is_some() {
            let message = format!("Back-off pulling image {asked:?}");
            tell("BackOff", message.clone());
            let last = self.last_error.lock().get(&key).cloned();
            let message = last.map_or(message.clone(), |last| format!("{message}: ErrImagePull: {last}"));
            return Err(Failure { reason: "ImagePullBackOff", message });
        }
        let queued = Instant::now();
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        tell("Pulling", format!("Pulling image {asked:?}"));
        let started = Instant::now();
        let allowed = self.rate.as_ref().is_none_or(|rate| rate.lock().take(started));
        let pulled = if allowed {
            self.pull(&image, secrets, sandbox).await.map_err(|error| error.to_string())
        } else {
            Err("pull QPS exceeded".to_owned())
        };
        match pulled {
            Ok(reference) => {
                let found = self.runtime.image_status(&reference).await.ok().flatten();
                let size = found.as_ref().map_or(0, |i| i.size);
                tell(
                    "Pulled",
                    format!(
                        "Successfully pulled image {asked:?} in {} ({} including waiting). Image size: {size} bytes.",
                        go_millis(started.elapsed()),
                        go_millis(queued.elapsed())
                    ),
                );
                self.backoff.lock().reset(&key);
                self.last_error.lock().remove(&key);
                Ok(found.as_ref().map_or_else(|| Present { reference, ..Present::default() }, present))
            }
            Err(text) => {
                self.backoff.lock().next(&key, Timestamp::now());
                warn("Failed", format!("Failed to pull image {asked:?}: {text}"));
                let mut errors = self.last_error.lock();
                if errors.len() >= MAX_ERRORS {
                    errors.clear();
                }
                errors.insert(key, text.clone());
                Err(Failure { reason: "ErrImagePull", message: text })
            }
        }
    }

    /// How long until an image in back-off may be pulled again.
    pub fn retry_in(&self, pod: &Pod, container: &Container) -> Option<Duration> {
        let image = with_default_tag(container.image.as_deref().unwrap_or_default()).ok()?;
        self.backoff.lock().remaining_since_update(&format!("{}_{image}", pod.uid()), Timestamp::now())
    }

    /// Tries every credential that fits, or none when there are none.
    async fn pull(
        &self,
        image: &str,
        secrets: &[Arc<Data>],
        sandbox: api::PodSandboxConfig,
    ) -> cri::Result<String> {
        let credentials: Vec<api::AuthConfig> = secrets.iter().flat_map(|s| credentials(s, image)).collect();
        let mut last = None;
        for auth in credentials {
            match self.runtime.pull_image(image, Some(auth), Some(sandbox.clone())).await {
                Ok(reference) => return Ok(reference),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error),
            None => self.runtime.pull_image(image, None, Some(sandbox)).await,
        }
    }
}

fn present(image: &api::Image) -> Present {
    // An image that names nobody runs as root.
    let uid = match (&image.uid, image.username.is_empty()) {
        (Some(uid), _) => Some(uid.value),
        (None, true) => Some(0),
        (None, false) => None,
    };
    Present { reference: image.id.clone(), user: ImageUser { uid, name: image.username.clone() } }
}

/// A duration as Go prints one rounded to milliseconds.
fn go_millis(duration: Duration) -> String {
    component::flags::GoDuration(Duration::from_millis(duration.as_millis() as u64)).to_string()
}

/// Host an image is pulled from, as credentials name it.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// Credentials in a `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` Secret that fit an image.
fn credentials(secret: &Data, image: &str) -> Vec<api::AuthConfig> {
    let tree = |key: &str| secret.get(key).and_then(|d| serde_json::from_slice::<serde_json::Value>(d).ok());
    let entries = tree(".dockerconfigjson").map(|t| t["auths"].clone()).or_else(|| tree(".dockercfg"));
    let host = registry(image);
    let mut out = Vec::new();
    for (server, entry) in entries.as_ref().and_then(|e| e.as_object()).into_iter().flatten() {
        let bare = server.trim_start_matches("https://").trim_start_matches("http://");
        let (name, path) = bare.split_once('/').map_or((bare, ""), |(n, p)| (n, p));
        let hub =
            host == "docker.io" && matches!(name, "index.docker.io" | "docker.io" | "registry-1.docker.io");
        // An entry may be for part of a registry only; version paths of old clients are not such a part.
        let path = path.trim_end_matches('/');
        let part = path.is_empty()
            || matches!(path, "v1" | "v2")
            || image.split_once('/').is_some_and(|(_, rest)| rest.starts_with(path));
        if !(name == host || hub) || !part {
            continue;
        }
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let (mut username, mut password) = (text("username"), text("password"));
        let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")).ok();
        if let Some(pair) = decoded.and_then(|d| String::from_utf8(d).ok())
            && let Some((u, p)) = pair.split_once(':')
        {
            (username, password) = (u.to_owned(), p.trim_end_matches('\0').to_owned());
        }
        out.push(api::AuthConfig {
            username,
            password,
            identity_token: text("identitytoken"),
            ..Default::default()
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_are_spaced_after_the_burst() {
        let start = Instant::now();
        let mut rate = Rate::new(2.0, 3, start);
        let mut taken = |millis| rate.take(start + Duration::from_millis(millis));
        let expected = [(0, true), (0, true), (0, true), (0, false), (400, false), (500, true), (510, false)];
        for (millis, there) in expected {
            assert_eq!(taken(millis), there, "{millis}");
        }
    }

    #[test]
    fn tags() {
        for (image, expected) in [
            ("busybox", Some("busybox:latest")),
            ("busybox:1", Some("busybox:1")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest")),
            ("a/b@sha256:12", Some("a/b@sha256:12")),
            ("FAILED_IMAGE", None),
            ("", None),
            ("a b", None),
            ("a:", None),
            ("Registry.IO/a", Some("Registry.IO/a:latest")),
        ] {
            assert_eq!(with_default_tag(image).ok().as_deref(), expected, "{image}");
        }
    }

    #[test]
    fn secrets_fit_registries() {
        let json = br#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "r.io/team": {"username": "a", "password": "b"}}}"#;
        let secret = Data::from([(".dockerconfigjson".to_owned(), json.to_vec())]);
        let users = |image: &str| -> Vec<String> {
            credentials(&secret, image).into_iter().map(|c| c.username).collect()
        };
        assert_eq!(users("busybox"), ["u"]);
        assert_eq!(users("r.io/team/x"), ["a"]);
        assert_eq!(users("r.io/other/x"), Vec::<String>::new());
        assert_eq!(users("x.io/y"), Vec::<String>::new());
    }
}
