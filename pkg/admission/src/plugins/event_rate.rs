//! Limits how many events are written, by server, namespace, user or what they are about.
//! Source: `k8s.io/kubernetes/plugin/pkg/admission/eventratelimit`.

use std::collections::HashMap;
use std::time::Instant;

use apimachinery::Value;
use apimachinery::meta::str_at;
use apimachinery::status::Status;
use async_trait::async_trait;
use parking_lot::Mutex;

use super::items;
use crate::{AdmissionRequest, ConfigError, Notes, Operation, Phase, Plugin};

/// Keys remembered where the configuration does not say.
const DEFAULT_KEYS: usize = 4096;
/// Seconds a refused client is told to wait.
const RETRY_AFTER_SECONDS: u32 = 1;

/// What a limit is for each of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Per {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

/// One limit: buckets of tokens that fill again.
struct Limit {
    per: Per,
    name: String,
    /// Tokens a second.
    rate: f64,
    /// Most tokens.
    burst: f64,
    /// Most keys.
    keys: usize,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limit {
    fn parse(value: &Value) -> Result<Self, String> {
        let name = str_at(value, &["type"]);
        let per = match name {
            "Server" => Per::Server,
            "Namespace" => Per::Namespace,
            "User" => Per::User,
            "SourceAndObject" => Per::SourceAndObject,
            other => return Err(format!("limits.type: Unsupported value: {other:?}")),
        };
        let positive = |key: &str| {
            let number = value.get(key).and_then(Value::as_u64).filter(|n| *n > 0);
            number.ok_or_else(|| format!("limits.{key}: must be positive"))
        };
        let keys = match value.get("cacheSize").and_then(Value::as_i64).unwrap_or(0) {
            0 => DEFAULT_KEYS,
            size => usize::try_from(size).map_err(|_| "limits.cacheSize: must not be negative".to_owned())?,
        };
        let (rate, burst) = (positive("qps")? as f64, positive("burst")? as f64);
        Ok(Self { per, name: name.to_owned(), rate, burst, keys, buckets: Mutex::default() })
    }

    fn key(&self, request: &AdmissionRequest<'_>) -> String {
        let event = request.object();
        match self.per {
            Per::Server => String::new(),
            Per::Namespace => request.namespace.clone(),
            Per::User => request.user.name.clone(),
            Per::SourceAndObject => [
                ["source", "component"],
                ["source", "host"],
                ["involvedObject", "kind"],
                ["involvedObject", "namespace"],
                ["involvedObject", "name"],
                ["involvedObject", "uid"],
                ["involvedObject", "apiVersion"],
            ]
            .map(|path| str_at(event, &path))
            .concat(),
        }
    }

    /// Takes a token; `false` when there is none.
    fn take(&self, key: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock();
        if !buckets.contains_key(key) && buckets.len() >= self.keys {
            self.make_room(&mut buckets, now);
        }
        let bucket = buckets.entry(key.to_owned()).or_insert(Bucket { tokens: self.burst, at: now });
        bucket.tokens = self.filled(*bucket, now);
        bucket.at = now;
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }

    fn filled(&self, bucket: Bucket, now: Instant) -> f64 {
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.tokens + since * self.rate).min(self.burst)
    }

    /// Forgets full buckets, which are as good as none, or else the one used longest ago.
    fn make_room(&self, buckets: &mut HashMap<String, Bucket>, now: Instant) {
        let before = buckets.len();
        buckets.retain(|_, bucket| self.filled(*bucket, now) < self.burst);
        if buckets.len() == before
            && let Some(oldest) = buckets.iter().min_by_key(|(_, b)| b.at).map(|(key, _)| key.clone())
        {
            buckets.remove(&oldest);
        }
    }
}

/// Refuses events beyond the limits.
pub(super) struct EventRateLimit {
    limits: Vec<Limit>,
}

impl EventRateLimit {
    pub(super) fn new(config: Option<&Value>) -> Result<Self, ConfigError> {
        let bad = |why: String| ConfigError::Plugin { plugin: "EventRateLimit".into(), why };
        let limits = config.map(|config| items(config, &["limits"])).unwrap_or_default();
        if limits.is_empty() {
            return Err(bad("limits: Invalid value: must not be empty".into()));
        }
        let limits = limits.iter().map(Limit::parse).collect::<Result<_, _>>().map_err(bad)?;
        Ok(Self { limits })
    }
}

#[async_trait]
impl Plugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !request.is("", "events") || request.dry_run {
            return Ok(());
        }
        let now = Instant::now();
        let mut refused = Vec::new();
        for limit in &self.limits {
            let key = limit.key(request);
            if !limit.take(&key, now) {
                refused.push(format!("limit reached on type {} for key {key}", limit.name));
            }
        }
        if refused.is_empty() {
            return Ok(());
        }
        Err(Status::too_many_requests(refused.join(", "), RETRY_AFTER_SECONDS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{request, run};
    use apimachinery::json;
    use auth::UserInfo;
    use std::time::Duration;

    #[test]
    fn buckets_fill_again_and_are_forgotten() {
        let value = json!({"type": "Namespace", "qps": 2, "burst": 3, "cacheSize": 2});
        let limit = Limit::parse(&value).expect("a limit");
        let start = Instant::now();
        let taken = |key: &str, now| (0..5).filter(|_| limit.take(key, now)).count();
        assert_eq!(taken("a", start), 3);
        assert_eq!(taken("a", start + Duration::from_secs(1)), 2);
        assert_eq!(taken("b", start + Duration::from_secs(1)), 3);
        assert_eq!(taken("c", start + Duration::from_secs(1)), 3);
        assert_eq!(limit.buckets.lock().len(), 2);
    }

    #[tokio::test]
    async fn events_beyond_the_limit_are_refused() {
        for bad in [
            json!({}),
            json!({"limits": [{"type": "Other", "qps": 1, "burst": 1}]}),
            json!({"limits": [{"type": "User", "qps": 0, "burst": 1}]}),
        ] {
            assert!(EventRateLimit::new(Some(&bad)).is_err(), "{bad}");
        }
        let config = json!({"limits": [{"type": "User", "qps": 1, "burst": 1}]});
        let plugin = EventRateLimit::new(Some(&config)).expect("configured");
        let user = UserInfo::new("jane", &[]);
        let event = json!({"kind": "Event", "metadata": {"namespace": "ns", "name": "e"}});
        let create =
            |resource| run(&plugin, request(Operation::Create, resource, &user, Some(event.clone()), None));
        assert!(create("/events").await.is_ok());
        assert_eq!(create("/events").await, Err("limit reached on type User for key jane".into()));
        assert!(create("/pods").await.is_ok());
    }
}
