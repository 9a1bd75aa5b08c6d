//! Certificate signing requests: approving those of kubelets, signing what is approved, forgetting what is old.
//!
//! Behaviour after upstream's `pkg/controller/certificates`. [`sign`] knows the built-in signers and what each demands.

mod sign;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::rest::{ResourceId, Rest};
use client::workqueue::{Limits, WorkQueue};
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use tracing::warn;

use crate::config::Config;
use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult, said};
use crate::resources::SIGNING_REQUESTS;
use sign::{Signer, parse};

const ACCESS_REVIEWS: ResourceId =
    ResourceId::cluster("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview");
const CLEAN_PERIOD: Duration = Duration::from_secs(60 * 60);
const APPROVED_KEPT: SignedDuration = SignedDuration::from_hours(1);
const DENIED_KEPT: SignedDuration = SignedDuration::from_hours(1);
const PENDING_KEPT: SignedDuration = SignedDuration::from_hours(24);

type Request = CertificateSigningRequest;

fn limits() -> Limits {
    Limits { base: Duration::from_millis(200), ..Limits::default() }
}

fn condition<'a>(request: &'a Request, kind: &str) -> Option<&'a CertificateSigningRequestCondition> {
    request.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn is_signed(request: &Request) -> bool {
    request
        .status
        .as_ref()
        .and_then(|status| status.certificate.as_ref())
        .is_some_and(|pem| !pem.0.is_empty())
}

/// Queues requests as they come and change.
fn follow(context: &Context, queue: &WorkQueue<Key>) -> Store<Request> {
    let requests = context.informer::<Request>();
    let adds = queue.clone();
    requests.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            adds.add(Key::of(&**event.object()));
        }
    });
    requests.store()
}

fn with_condition(request: &Request, kind: &str, reason: &str, message: &str) -> Request {
    let mut changed = request.clone();
    let now = Time(Timestamp::now());
    changed.status.get_or_insert_default().conditions.get_or_insert_default().push(
        CertificateSigningRequestCondition {
            type_: kind.into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_update_time: Some(now.clone()),
            last_transition_time: Some(now),
        },
    );
    changed
}

struct Approver {
    requests: Store<Request>,
    rest: Rest,
}

/// Starts the approving controller: client certificates of kubelets are approved when RBAC lets the requestor have them.
pub(crate) fn start_approving(context: &Context) {
    let queue = WorkQueue::with_limits("certificate_approving", limits());
    let controller =
        Approver { requests: follow(context, &queue), rest: context.rest("certificate-controller") };
    context.work("certificatesigningrequest-approving-controller", &queue, 1, Arc::new(controller));
}

impl Approver {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(request) = self.requests.get("", &key.name) else { return Ok(Next::OnChange) };
        if is_signed(&request)
            || condition(&request, "Approved").is_some()
            || condition(&request, "Denied").is_some()
        {
            return Ok(Next::OnChange);
        }
        if request.spec.signer_name != Signer::KubeletClient.name() {
            return Ok(Next::OnChange);
        }
        let Ok(parsed) = parse(&request.spec.request.0) else { return Ok(Next::OnChange) };
        let usages = request.spec.usages.clone().unwrap_or_default();
        if Signer::KubeletClient.check(&parsed, &usages).is_err() {
            return Ok(Next::OnChange);
        }
        let is_own = request.spec.username.as_deref() == Some(parsed.common_name.as_str());
        let recognizers: &[(&str, &str)] = if is_own {
            &[
                (
                    "selfnodeclient",
                    "Auto approving self kubelet client certificate after SubjectAccessReview.",
                ),
                ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
            ]
        } else {
            &[("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")]
        };
        for (subresource, message) in recognizers {
            if self.is_allowed(&request, subresource).await? {
                let approved = with_condition(&request, "Approved", "AutoApproved", message);
                self.rest.update(&SIGNING_REQUESTS, "approval", &approved).await?;
                return Ok(Next::OnChange);
            }
        }
        Err(SyncError::other(format!(
            "recognized csr {:?} but subject access review was not approved",
            key.name
        )))
    }

    async fn is_allowed(&self, request: &Request, subresource: &str) -> Result<bool, SyncError> {
        let spec = &request.spec;
        let review = json!({"spec": {
            "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
            "resourceAttributes": {"group": "certificates.k8s.io", "resource": "certificatesigningrequests",
                "verb": "create", "subresource": subresource, "version": "*"},
        }});
        let answer = self.rest.create(&ACCESS_REVIEWS, "", &review).await?;
        Ok(answer.pointer("/status/allowed") == Some(&Value::Bool(true)))
    }
}

impl Reconcile for Approver {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

struct SigningController {
    requests: Store<Request>,
    authorities: BTreeMap<&'static str, sign::Authority>,
    rest: Rest,
}

/// The authority of each signer that has one.
fn authorities(config: &Config) -> BTreeMap<&'static str, sign::Authority> {
    let mut found = BTreeMap::new();
    for signer in Signer::ALL {
        let Some(ca) = config.signing_for.get(signer.name()).or(config.signing.as_ref()) else { continue };
        match sign::Authority::new(ca) {
            Ok(authority) => drop(found.insert(signer.name(), authority)),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(
                    signer = signer.name(),
                    error, "the signing CA cannot be used: no request will be signed"
                );
            }
        }
    }
    found
}

/// Starts the signing controller; signers without `--cluster-signing-*-file` sign nothing.
pub(crate) fn start_signing(context: &Context) {
    let authorities = authorities(&context.config);
    if authorities.is_empty() {
        return;
    }
    let queue = WorkQueue::with_limits("certificate_signing", limits());
    let controller = SigningController {
        requests: follow(context, &queue),
        authorities,
        rest: context.rest("certificate-controller"),
    };
    context.work("certificatesigningrequest-signing-controller", &queue, 1, Arc::new(controller));
}

impl SigningController {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(request) = self.requests.get("", &key.name) else { return Ok(Next::OnChange) };
        let Some(signer) = Signer::named(&request.spec.signer_name) else { return Ok(Next::OnChange) };
        let Some(authority) = self.authorities.get(signer.name()) else { return Ok(Next::OnChange) };
        let refused = condition(&request, "Denied").is_some() || condition(&request, "Failed").is_some();
        if is_signed(&request) || refused || condition(&request, "Approved").is_none() {
            return Ok(Next::OnChange);
        }
        let usages = request.spec.usages.clone().unwrap_or_default();
        let expires = request.spec.expiration_seconds.map(i64::from);
        let changed =
            match authority.sign(signer, &request.spec.request.0, &usages, expires, Timestamp::now()) {
                Ok(pem) => {
                    let mut signed = json!(&*request);
                    signed["status"]["certificate"] = json!(STANDARD.encode(pem));
                    signed
                }
                Err(error) => {
                    json!(with_condition(&request, "Failed", "SignerValidationFailure", &error.to_string()))
                }
            };
        match self.rest.update(&SIGNING_REQUESTS, "status", &changed).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(Next::OnChange),
        }
    }
}

impl Reconcile for SigningController {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

/// Whether a request has been kept for long enough.
fn is_old(request: &Request, now: Timestamp) -> bool {
    let since = |condition: &CertificateSigningRequestCondition, kept: SignedDuration| {
        condition.last_update_time.as_ref().is_some_and(|time| now.duration_since(time.0) > kept)
    };
    if let Some(denied) = condition(request, "Denied").or_else(|| condition(request, "Failed")) {
        return since(denied, DENIED_KEPT);
    }
    match condition(request, "Approved") {
        Some(approved) if is_signed(request) => since(approved, APPROVED_KEPT),
        Some(_) => false,
        None => {
            let created = request.metadata.creation_timestamp.as_ref();
            created.is_some_and(|time| now.duration_since(time.0) > PENDING_KEPT)
        }
    }
}

/// Starts the cleaning controller.
pub(crate) fn start_cleaning(context: &Context) {
    let requests = context.informer::<Request>().store();
    let rest = context.rest("certificate-controller");
    let ready = context.ready();
    context.spawn(async move {
        ready.await;
        let mut ticks = tokio::time::interval(CLEAN_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for request in requests.list().iter().filter(|request| is_old(request, Timestamp::now())) {
                let deleted = rest.delete(&SIGNING_REQUESTS, "", &request.name_any(), &json!({})).await;
                if let Err(error) = deleted
                    && !is_not_found(&error)
                {
                    warn!(request = request.name_any(), error = said(&error), "cannot delete an old request");
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, time};

    #[test]
    fn requests_are_kept_by_their_state() {
        let request = |conditions: Value, certificate: &str| -> Request {
            serde_json::from_value(json!({"metadata": {"name": "r", "creationTimestamp": time(0)},
                "spec": {"request": "", "signerName": "x"},
                "status": {"conditions": conditions, "certificate": certificate}}))
            .expect("a request")
        };
        let state = |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": time(0)}]);
        let hour = 3600;
        let cases = [
            (request(json!([]), ""), 23 * hour, false),
            (request(json!([]), ""), 25 * hour, true),
            (request(state("Denied"), ""), 2 * hour, true),
            (request(state("Approved"), ""), 100 * hour, false),
            (request(state("Approved"), "UEVN"), 2 * hour, true),
            (request(state("Approved"), "UEVN"), hour / 2, false),
        ];
        for (request, after, expected) in cases {
            assert_eq!(is_old(&request, at(after)), expected);
        }
    }
}
