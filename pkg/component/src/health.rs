//! `/healthz`, `/livez` and `/readyz`: named checks and upstream's text forms.
//!
//! Source: "Kubernetes API health endpoints". One [`Checks`] a path; `?verbose` lists every check, `?exclude=NAME`
//! leaves some out, `/readyz/NAME` asks for one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use http::StatusCode;
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::http::{Response, text};
use crate::metrics::Metrics;

/// Longest a single check may take before it counts as failed.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// A check: `Err` says why it fails. The reason is logged, never sent.
pub type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The checks of one path, in order.
#[derive(Clone, Default)]
pub struct Checks {
    checks: Arc<RwLock<Vec<(String, Check)>>>,
    metrics: Arc<OnceLock<HealthMetrics>>,
}

/// Outcomes of checks, under upstream's names (`k8s.io/component-base/metrics/prometheus/slis`).
#[derive(Debug, Clone, Default)]
pub(crate) struct HealthMetrics {
    latest: Family<CheckLabels, Gauge>,
    total: Family<OutcomeLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    name: String,
    r#type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    name: String,
    status: &'static str,
    r#type: String,
}

impl HealthMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let made = Self::default();
        registry.register(
            "kubernetes_healthcheck",
            "1 for a check that passed when it was last made, 0 for one that failed",
            made.latest.clone(),
        );
        registry.register("kubernetes_healthchecks", "Checks made, by outcome", made.total.clone());
        made
    }

    fn count(&self, path: &str, name: &str, passed: bool) {
        let (name, r#type) = (name.to_owned(), path.to_owned());
        let status = if passed { "success" } else { "error" };
        self.total.get_or_create(&OutcomeLabels { name: name.clone(), status, r#type: r#type.clone() }).inc();
        self.latest.get_or_create(&CheckLabels { name, r#type }).set(passed.into());
    }
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.checks.read().iter().map(|(name, _)| name)).finish()
    }
}

impl Checks {
    /// The checks of a path; `ping` is always first.
    pub fn new() -> Self {
        let checks = Self::default();
        checks.add("ping", || Ok(()));
        checks
    }

    /// Adds a check that answers at once.
    pub fn add(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.add_async(name, Arc::new(move || Box::pin(std::future::ready(check()))));
    }

    /// Adds a check that waits for something; it fails after [`CHECK_TIMEOUT`].
    pub fn add_async(&self, name: &str, check: Check) {
        self.checks.write().push((name.to_owned(), check));
    }

    /// Has the outcomes of the checks counted in these metrics, if they are not counted already.
    pub fn count_in(&self, metrics: &Metrics) {
        let _ = self.metrics.set(metrics.health().clone());
    }

    /// Names of the checks, in order.
    pub fn names(&self) -> Vec<String> {
        self.checks.read().iter().map(|(name, _)| name.clone()).collect()
    }

    /// Answers `/PATH` (`which` is `None`) or `/PATH/NAME`. `path` is `livez` and the like, for the texts.
    pub async fn respond(&self, path: &str, which: Option<&str>, query: Option<&str>) -> Response {
        let checks = self.checks.read().clone();
        if let Some(name) = which {
            let Some((name, check)) = checks.into_iter().find(|(n, _)| n == name) else {
                return text(StatusCode::NOT_FOUND, "404 page not found\n");
            };
            return match self.run(path, &name, &check).await {
                Ok(()) => text(StatusCode::OK, "ok"),
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "internal server error: reason withheld\n"),
            };
        }
        let parameters: Vec<(&str, &str)> =
            query.unwrap_or("").split('&').map(|p| p.split_once('=').unwrap_or((p, ""))).collect();
        let verbose = parameters.iter().any(|(key, _)| *key == "verbose");
        let mut excluded: BTreeSet<&str> =
            parameters.iter().filter(|(key, _)| *key == "exclude").map(|(_, value)| *value).collect();
        let (mut report, mut failed) = (String::new(), Vec::new());
        for (name, check) in &checks {
            if excluded.remove(name.as_str()) {
                let _ = writeln!(report, "[+]{name} excluded: ok");
            } else if self.run(path, name, check).await.is_ok() {
                let _ = writeln!(report, "[+]{name} ok");
            } else {
                failed.push(name.clone());
                let _ = writeln!(report, "[-]{name} failed: reason withheld");
            }
        }
        if !excluded.is_empty() {
            let names: Vec<String> = excluded.iter().map(|n| format!("{n:?}")).collect();
            let _ = writeln!(
                report,
                "warn: some health checks cannot be excluded: no matches for {}",
                names.join(",")
            );
        }
        if !failed.is_empty() {
            let _ = writeln!(report, "{path} check failed");
            return text(StatusCode::INTERNAL_SERVER_ERROR, report);
        }
        if verbose {
            let _ = writeln!(report, "{path} check passed");
            return text(StatusCode::OK, report);
        }
        text(StatusCode::OK, "ok")
    }

    async fn run(&self, path: &str, name: &str, check: &Check) -> Result<(), String> {
        let outcome =
            tokio::time::timeout(CHECK_TIMEOUT, check()).await.unwrap_or_else(|_| Err("timed out".into()));
        if let Err(reason) = &outcome {
            tracing::warn!(check = name, reason, "health check failed");
        }
        if let Some(metrics) = self.metrics.get() {
            metrics.count(path, name, outcome.is_ok());
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn body(response: Response) -> (u16, String) {
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("in memory").to_bytes();
        (status, String::from_utf8(bytes.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn answers_in_upstreams_forms() {
        let checks = Checks::new();
        let metrics = Metrics::new();
        checks.count_in(&metrics);
        assert_eq!(body(checks.respond("livez", None, None).await).await, (200, "ok".into()));
        let (_, verbose) = body(checks.respond("livez", None, Some("verbose")).await).await;
        assert_eq!(verbose, "[+]ping ok\nlivez check passed\n");
        checks.add("etcd", || Err("gone".into()));
        let (code, report) = body(checks.respond("readyz", None, None).await).await;
        assert_eq!(
            (code, report.as_str()),
            (500, "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n")
        );
        let (code, report) =
            body(checks.respond("readyz", None, Some("verbose&exclude=etcd&exclude=x")).await).await;
        assert_eq!(code, 200);
        assert!(
            report.contains("[+]etcd excluded: ok") && report.contains("no matches for \"x\""),
            "{report}"
        );
        assert_eq!(body(checks.respond("readyz", Some("etcd"), None).await).await.0, 500);
        assert_eq!(body(checks.respond("readyz", Some("ping"), None).await).await.0, 200);
        assert_eq!(body(checks.respond("readyz", Some("none"), None).await).await.0, 404);
        let (_, counted) = body(metrics.respond_indicators()).await;
        for line in [
            "kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 1",
            "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 0",
            "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"livez\"} 2",
            "kubernetes_healthchecks_total{name=\"etcd\",status=\"error\",type=\"readyz\"} 2",
        ] {
            assert!(counted.lines().any(|l| l == line), "{line} is not in\n{counted}");
        }
    }
}
