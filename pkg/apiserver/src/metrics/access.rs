//! Who was let in: handshakes, authentication, authorization, and how long the filters took.

use std::time::Duration;

use auth::authz::{Authorization, Decision};
use component::metrics::Metrics;
use component::serving::FAILED_HANDSHAKES;
use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::Histograms;

/// Upper bounds of the time an authenticator or authorizer takes, in seconds: upstream's, 1 ms to 16 s.
const DECISIONS: (f64, f64, u16) = (0.001, 2.0, 15);
/// Upper bounds of the time a filter takes, in seconds: upstream's.
const FILTERS: [f64; 13] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0, 10.0, 15.0, 30.0];
/// Upper bounds of the time that is left to client certificates, in seconds: upstream's, nothing to a year.
const EXPIRATIONS: [f64; 14] = [
    0.0,
    1_800.0,
    3_600.0,
    7_200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
];

/// What came of an attempt to authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authenticated {
    /// Somebody is known by what was shown.
    Success,
    /// Nobody knew what to make of it.
    Failure,
    /// What was shown is not good.
    Error,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UserLabels {
    username: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FilterLabels {
    filter: &'static str,
}

/// A result's counter and histogram, looked up once.
#[derive(Debug)]
struct Outcome {
    attempts: Counter,
    duration: Histogram,
}

/// The server's metrics of who was let in.
#[derive(Debug)]
pub(crate) struct AccessMetrics {
    authenticated: [Outcome; 3],
    authorized: [Outcome; 4],
    users: Family<UserLabels, Counter>,
    authentication: Histogram,
    impersonation: Histogram,
    authorization: Histogram,
    expirations: Histogram,
}

impl AccessMetrics {
    /// Registered with the process's metrics.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let decisions: fn() -> Histogram = || {
            let (start, factor, count) = DECISIONS;
            Histogram::new(exponential_buckets(start, factor, count))
        };
        let filters: Histograms<FilterLabels> = Family::new_with_constructor(|| Histogram::new(FILTERS));
        let filter = |filter| filters.get_or_create(&FilterLabels { filter }).clone();
        let attempts: [Family<ResultLabels, Counter>; 2] = Default::default();
        let durations: [Histograms<ResultLabels>; 2] =
            [Family::new_with_constructor(decisions), Family::new_with_constructor(decisions)];
        let outcome = |of: usize, result| Outcome {
            attempts: attempts[of].get_or_create(&ResultLabels { result }).clone(),
            duration: durations[of].get_or_create(&ResultLabels { result }).clone(),
        };
        let made = Self {
            authenticated: ["success", "failure", "error"].map(|result| outcome(0, result)),
            authorized: ["allowed", "denied", "no-opinion", "error"].map(|result| outcome(1, result)),
            users: Family::default(),
            authentication: filter("authentication"),
            impersonation: filter("constrainedimpersonation"),
            authorization: filter("authorization"),
            expirations: Histogram::new(EXPIRATIONS),
        };
        metrics.register_bare("authentication_attempts");
        metrics.register_bare("authenticated_user_requests");
        metrics.register(|registry| {
            registry.register(
                "authentication_attempts",
                "Requests, by whether it is known who asks",
                attempts[0].clone(),
            );
            registry.register(
                "authentication_duration_seconds",
                "Seconds it took to find out who asks",
                durations[0].clone(),
            );
            registry.register(
                "authenticated_user_requests",
                "Requests by who asks, as far as the name is a usual one",
                made.users.clone(),
            );
            registry.register(
                "authorization_attempts",
                "Requests, by whether they are allowed",
                attempts[1].clone(),
            );
            registry.register(
                "authorization_duration_seconds",
                "Seconds it took to find out whether a request is allowed",
                durations[1].clone(),
            );
            registry.register(
                "apiserver_tls_handshake_errors",
                "Connections whose handshake failed",
                FAILED_HANDSHAKES.clone(),
            );
            registry.register(
                "apiserver_request_filter_duration_seconds",
                "Seconds that requests spent in a filter",
                filters.clone(),
            );
            registry.register(
                "apiserver_client_certificate_expiration_seconds",
                "Seconds left to the certificates that clients show",
                made.expirations.clone(),
            );
        });
        made
    }

    /// An attempt to authenticate, and whom it made known.
    pub(crate) fn authenticated(&self, outcome: Authenticated, user: &str, took: Duration) {
        let metrics = &self.authenticated[outcome as usize];
        metrics.attempts.inc();
        metrics.duration.observe(took.as_secs_f64());
        self.authentication.observe(took.as_secs_f64());
        if outcome == Authenticated::Success {
            self.users.get_or_create(&UserLabels { username: usual_name(user) }).inc();
        }
    }

    /// Impersonation has been looked at.
    pub(crate) fn impersonated(&self, took: Duration) {
        self.impersonation.observe(took.as_secs_f64());
    }

    /// A decision, and how long it took.
    pub(crate) fn authorized(&self, answer: &Authorization, took: Duration) {
        let result = match answer.decision {
            Decision::Allow => 0,
            _ if !answer.error.is_empty() => 3,
            Decision::Deny => 1,
            Decision::NoOpinion => 2,
        };
        let metrics = &self.authorized[result];
        metrics.attempts.inc();
        metrics.duration.observe(took.as_secs_f64());
        if result == 0 {
            self.authorization.observe(took.as_secs_f64());
        }
    }

    /// A client is known by a certificate that ends then.
    pub(crate) fn certificate(&self, expires: Timestamp) {
        self.expirations.observe(expires.duration_since(Timestamp::now()).as_secs_f64());
    }
}

/// Names of users that are counted apart: others would be without number.
fn usual_name(user: &str) -> &'static str {
    const USUAL: [&str; 5] =
        ["admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default"];
    match USUAL.into_iter().find(|usual| *usual == user) {
        Some(usual) => usual,
        None if user.contains('@') => "email_id",
        None => "other",
    }
}
