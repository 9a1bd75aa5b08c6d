//! `pods/eviction`: deleting a pod if its disruption budget lets it go.
//! Source: `k8s.io/kubernetes/pkg/registry/core/pod/storage` (EvictionREST), KEP-3017.

use admission::Operation;
use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{GroupResource, at, name, resource_version, str_at};
use apimachinery::selectors::labels::LabelSelector;
use apimachinery::status::{Cause, Status};
use apiserver::{
    Call, DeleteRequest, Precondition, RequestContext, ResourceStore, SubresourceHandler, WriteOptions,
};
use async_trait::async_trait;
use component::http::Body;
use http::Response;
use jiff::Timestamp;

use crate::names::{core, created, internal, is_conflict, v1};

/// Evictions a budget may have allowed that its controller has not yet noticed.
const MAX_DISRUPTED_PODS: usize = 2000;
/// Attempts to delete a pod that changes underneath.
const MAX_ATTEMPTS: usize = 20;

/// Evicts pods.
pub(crate) struct Eviction;

/// What becomes of an eviction under a budget.
#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    /// The pod does not count as healthy: it may go if it stays so.
    IfUnchanged,
    /// The budget pays: its new status.
    Pay(Value),
}

/// Whether the pod may go whatever the budgets say; then, whether it must not have changed meanwhile.
fn beyond_budgets(pod: &Value) -> Option<bool> {
    let phase = str_at(pod, &["status", "phase"]);
    let deleting = at(pod, &["metadata", "deletionTimestamp"]).is_some();
    match phase {
        _ if deleting => Some(false),
        "Succeeded" | "Failed" => Some(false),
        // it could become ready at any moment
        "Pending" => Some(true),
        _ => None,
    }
}

fn is_ready(pod: &Value) -> bool {
    at(pod, &["status", "conditions"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|c| str_at(c, &["type"]) == "Ready" && str_at(c, &["status"]) == "True")
}

fn number(object: &Value, path: &[&str]) -> i64 {
    at(object, path).and_then(Value::as_i64).unwrap_or(0)
}

fn too_many(seconds: u32, cause: String) -> Status {
    let mut status = Status::too_many_requests(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        seconds,
    );
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: "DisruptionBudget".into(),
            message: cause,
            field: String::new(),
        });
    }
    status
}

fn still_processed(budget: &str) -> Status {
    too_many(10, format!("The disruption budget {budget} is still being processed by the server."))
}

/// Whether a budget lets a pod go.
fn judge(pod: &Value, budget: &Value, now: Timestamp) -> Result<Verdict, Status> {
    let count = |field: &str| number(budget, &["status", field]);
    if !is_ready(pod) {
        let enough = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
        if str_at(budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow" || enough {
            return Ok(Verdict::IfUnchanged);
        }
    }
    pay(name(pod), budget, now).map(Verdict::Pay)
}

/// The budget's status after it has paid for one pod.
fn pay(pod: &str, budget: &Value, now: Timestamp) -> Result<Value, Status> {
    let count = |field: &str| number(budget, &["status", field]);
    let budgets = GroupResource::new("policy", "poddisruptionbudget");
    let forbidden = |why: &str| Err(Status::forbidden(&budgets, name(budget), why));
    if count("observedGeneration") < number(budget, &["metadata", "generation"]) {
        return Err(still_processed(name(budget)));
    }
    if count("disruptionsAllowed") < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let disrupted = at(budget, &["status", "disruptedPods"]).and_then(Value::as_object);
    if disrupted.is_some_and(|d| d.len() > MAX_DISRUPTED_PODS) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if count("disruptionsAllowed") == 0 {
        return Err(too_many(
            0,
            format!(
                "The disruption budget {} needs {} healthy pods and has {} currently",
                name(budget),
                count("desiredHealthy"),
                count("currentHealthy")
            ),
        ));
    }
    let mut status = budget["status"].clone();
    let left = count("disruptionsAllowed") - 1;
    status["disruptionsAllowed"] = json!(left);
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    if left == 0 {
        exhausted(&mut status, number(budget, &["metadata", "generation"]), &time);
    }
    let mut disrupted = disrupted.cloned().unwrap_or_default();
    disrupted.insert(pod.to_owned().into(), json!(time));
    status["disruptedPods"] = Value::Object(disrupted);
    Ok(status)
}

/// Sets the condition that no further pod may go.
fn exhausted(status: &mut Value, generation: i64, time: &str) {
    let condition = json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "observedGeneration": generation, "lastTransitionTime": time});
    match status.get_mut("conditions").and_then(Value::as_array_mut) {
        Some(list) => match list.iter_mut().find(|c| str_at(c, &["type"]) == "DisruptionAllowed") {
            Some(existing) => *existing = condition,
            None => list.push(condition),
        },
        None => status["conditions"] = json!([condition]),
    }
}

/// The budgets that cover a pod. A budget without a selector covers nothing.
fn covering(pod: &Value, budgets: Vec<Value>) -> Vec<Value> {
    budgets
        .into_iter()
        .filter(|budget| {
            LabelSelector::from_value(at(budget, &["spec", "selector"]))
                .is_ok_and(|selector| !selector.is_everything() && selector.matches_object(pod))
        })
        .collect()
}

/// `deleteOptions` of the eviction as a delete request.
fn delete_request(eviction: &Value, dry_run: bool) -> Result<DeleteRequest, Status> {
    let Some(options) = at(eviction, &["deleteOptions"]).filter(|o| !o.is_null()) else {
        return Ok(DeleteRequest { dry_run, ..DeleteRequest::default() });
    };
    let own: Vec<&str> = at(options, &["dryRun"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let own_dry_run = own.contains(&"All");
    if !own.is_empty() && dry_run && !own_dry_run {
        return Err(Status::bad_request(format!(
            "Non-matching dry-run options in request and content: [All] and [{}]",
            own.join(" ")
        )));
    }
    let text = |path: &[&str]| at(options, path).and_then(Value::as_str).map(str::to_owned);
    Ok(DeleteRequest {
        precondition: Precondition {
            uid: text(&["preconditions", "uid"]),
            resource_version: text(&["preconditions", "resourceVersion"]),
        },
        grace_period_seconds: at(options, &["gracePeriodSeconds"]).and_then(Value::as_i64),
        propagation_policy: text(&["propagationPolicy"]),
        dry_run: dry_run || own_dry_run,
    })
}

struct Evict<'a> {
    store: &'a ResourceStore,
    context: &'a RequestContext,
    pod_name: &'a str,
    request: DeleteRequest,
}

impl Evict<'_> {
    fn namespace(&self) -> &str {
        &self.context.info.namespace
    }

    async fn delete(&self, unchanged: Option<&Value>) -> Result<(), Status> {
        let mut request = self.request.clone();
        if let Some(pod) = unchanged
            && request.precondition.resource_version.is_none()
        {
            request.precondition.resource_version = Some(resource_version(pod).to_owned());
        }
        self.store
            .delete(self.context, &core("pods"), self.namespace(), self.pod_name, &request)
            .await
            .map(|_| ())
    }

    async fn run(&self) -> Result<(), Status> {
        let mut last = None;
        for _ in 0..MAX_ATTEMPTS {
            let pod = self.store.get(&core("pods"), self.namespace(), self.pod_name).await?;
            let Some(must_stay) = beyond_budgets(&pod) else { return self.under_budget(&pod).await };
            match self.delete(must_stay.then_some(&pod)).await {
                Err(status)
                    if is_conflict(&status) && self.request.precondition.resource_version.is_none() =>
                {
                    last = Some(status);
                }
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Status::timeout("couldn't evict the pod due to conflicts", 10)))
    }

    async fn under_budget(&self, pod: &Value) -> Result<(), Status> {
        let budgets = self.store.list(&v1("policy", "poddisruptionbudgets"), Some(self.namespace())).await?;
        let mut covering = covering(pod, budgets);
        if covering.len() > 1 {
            return Err(Status::new(
                500,
                apimachinery::status::Reason::Unknown,
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        let Some(budget) = covering.pop() else { return self.delete(None).await };
        let now = self.context.now;
        match judge(pod, &budget, now)? {
            Verdict::IfUnchanged => match self.delete(Some(pod)).await {
                Err(status)
                    if is_conflict(&status) && self.request.precondition.resource_version.is_none() =>
                {
                    Err(still_processed(name(&budget)))
                }
                other => other,
            },
            Verdict::Pay(_) if self.request.dry_run => self.delete(None).await,
            Verdict::Pay(_) => {
                self.pay(name(&budget), now).await?;
                self.delete(None).await
            }
        }
    }

    /// Takes one disruption from the budget, judged by its newest state.
    async fn pay(&self, budget: &str, now: Timestamp) -> Result<(), Status> {
        let pay = |mut current: Value| {
            let status = pay(self.pod_name, &current, now)?;
            current["status"] = status;
            Ok(current)
        };
        let gvr = v1("policy", "poddisruptionbudgets");
        let options = WriteOptions::default();
        let context = internal();
        self.store
            .update(&context, &gvr, self.namespace(), budget, "status", &pay, &options)
            .await
            .map(|_| ())
    }
}

#[async_trait]
impl SubresourceHandler for Eviction {
    async fn handle(&self, mut call: Call) -> Result<Response<Body>, Status> {
        let mut eviction = call.decode_body().await?;
        let pod_name = call.context.info.name.clone();
        if name(&eviction) != pod_name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let request = delete_request(&eviction, call.dry_run()?)?;
        call.admit(Operation::Create, &mut eviction, request.dry_run).await?;
        let (store, context) = (call.store.clone(), call.context.clone());
        Evict { store: &store, context: &context, pod_name: &pod_name, request }.run().await?;
        Ok(created())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ready: bool) -> Value {
        json!({"metadata": {"name": "p", "labels": {"app": "x"}},
               "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}})
    }

    fn budget(status: Value, policy: &str) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "spec": {"unhealthyPodEvictionPolicy": policy, "selector": {"matchLabels": {"app": "x"}}}, "status": status})
    }

    #[test]
    fn budgets_pay_or_refuse() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("time");
        let status = |allowed: i64, healthy: i64| json!({"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": 2});
        let Ok(Verdict::Pay(paid)) = judge(&pod(true), &budget(status(1, 3), ""), now) else {
            panic!("refused")
        };
        assert_eq!(paid["disruptionsAllowed"], 0);
        assert_eq!(paid["disruptedPods"], json!({"p": "2026-01-02T03:04:05Z"}));
        assert_eq!(paid["conditions"][0]["reason"], "InsufficientPods");

        let refused = judge(&pod(true), &budget(status(0, 2), ""), now).expect_err("exhausted");
        assert_eq!(refused.code, 429);
        let details = refused.details.expect("details");
        assert_eq!(details.causes[0].reason, "DisruptionBudget");
        assert_eq!(
            details.causes[0].message,
            "The disruption budget b needs 2 healthy pods and has 2 currently"
        );

        let stale = json!({"observedGeneration": 0, "disruptionsAllowed": 5});
        let details =
            judge(&pod(true), &budget(stale, ""), now).expect_err("stale").details.expect("details");
        assert_eq!(
            (details.retry_after_seconds, details.causes[0].message.as_str()),
            (10, "The disruption budget b is still being processed by the server.")
        );

        let cases = [
            ("", 2, Ok(Verdict::IfUnchanged)),
            ("AlwaysAllow", 0, Ok(Verdict::IfUnchanged)),
            ("", 1, Err(429)),
        ];
        for (policy, healthy, expected) in cases {
            let got = judge(&pod(false), &budget(status(0, healthy), policy), now).map_err(|s| s.code);
            assert_eq!(got, expected, "{policy} {healthy}");
        }
    }

    #[test]
    fn some_pods_need_no_budget() {
        for (status, expected) in [
            (json!({"phase": "Pending"}), Some(true)),
            (json!({"phase": "Failed"}), Some(false)),
            (json!({"phase": "Running"}), None),
        ] {
            assert_eq!(beyond_budgets(&json!({"status": status})), expected);
        }
        assert_eq!(
            beyond_budgets(&json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running"}})),
            Some(false)
        );
        let all = vec![
            budget(json!({}), ""),
            json!({"spec": {"selector": {}}}),
            json!({"spec": {}}),
            json!({"spec": {"selector": {"matchLabels": {"app": "y"}}}}),
        ];
        assert_eq!(covering(&pod(true), all).len(), 1);
    }

    #[test]
    fn delete_options_are_taken_over() {
        let request = delete_request(&json!({"deleteOptions": {"gracePeriodSeconds": 3, "preconditions": {"uid": "u"}, "dryRun": ["All"]}}), false).expect("ok");
        assert_eq!(
            (request.grace_period_seconds, request.precondition.uid.as_deref(), request.dry_run),
            (Some(3), Some("u"), true)
        );
        assert!(delete_request(&json!({"deleteOptions": {"dryRun": ["None"]}}), true).is_err());
    }
}
