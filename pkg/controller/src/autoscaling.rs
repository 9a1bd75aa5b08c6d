//! The horizontal pod autoscaler: as many replicas as keep what pods use near a target.
//!
//! Behaviour after upstream's `pkg/controller/podautoscaler`. [`calculate`] makes a number of measurements, [`behavior`]
//! bounds how fast it may change; this module reads metrics and scales, and reports. Metrics of pods (`Resource`,
//! `ContainerResource`) and `External` ones are read; others are reported as unknown in the `ScalingActive` condition.

mod behavior;
mod calculate;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::quantity::Quantity;
use client::events::{EventRecorder, EventType, reference};
use client::rest::{ResourceId, Rest};
use client::workqueue::WorkQueue;
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, MetricSpec, MetricStatus, MetricTarget,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult, said};
use crate::discovery::discover;
use crate::resources::AUTOSCALERS;
use apimachinery::selectors::LabelSelector;
use behavior::{Bounded, History, bound};
use calculate::{Proposal, Question, Sample, Samples, Target, replicas};

/// Time between two looks at an autoscaler (`--horizontal-pod-autoscaler-sync-period`).
const PERIOD: Duration = Duration::from_secs(15);
/// `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;

type Autoscaler = HorizontalPodAutoscaler;

/// Something to say in a condition and, when it is bad news, in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    reason: String,
    message: String,
}

fn words(reason: &str, message: impl Into<String>) -> Said {
    Said { reason: reason.to_owned(), message: message.into() }
}

/// The scale of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scale {
    tree: Value,
    replicas: i32,
    selector: String,
}

impl Scale {
    fn new(tree: Value) -> Self {
        let number = |path: &str| tree.pointer(path).and_then(Value::as_i64).unwrap_or(0) as i32;
        let (replicas, selector) = (number("/spec/replicas"), tree.pointer("/status/selector"));
        let selector = selector.and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { tree, replicas, selector }
    }
}

struct Controller {
    autoscalers: Store<Autoscaler>,
    pods: Store<Pod>,
    rest: Rest,
    recorder: EventRecorder,
    /// Resources of kinds that were scaled before, by group and kind.
    kinds: Mutex<HashMap<(String, String), ResourceId>>,
    /// What was recommended and done, by autoscaler.
    histories: Mutex<HashMap<Key, History>>,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let queue = WorkQueue::new("horizontalpodautoscaler");
    let autoscalers = context.informer::<Autoscaler>();
    let adds = queue.clone();
    autoscalers.on_event(move |event| match event {
        // Its own status writes are no reason to look again before the period is over.
        Event::Updated { old, new } if old.spec == new.spec => {}
        event => adds.add(Key::of(&**event.object())),
    });
    let controller = Controller {
        autoscalers: autoscalers.store(),
        pods: context.informer::<Pod>().store(),
        rest: context.rest("horizontal-pod-autoscaler"),
        recorder: context.recorder("horizontal-pod-autoscaler"),
        kinds: Mutex::default(),
        histories: Mutex::default(),
    };
    let workers = context.config.concurrency.horizontal_pod_autoscaler;
    context.work("horizontal-pod-autoscaler-controller", &queue, workers, Arc::new(controller));
}

/// Sets a condition; its time changes with its status.
fn set(
    status: &mut Vec<HorizontalPodAutoscalerCondition>,
    kind: &str,
    holds: bool,
    said: &Said,
    now: Timestamp,
) {
    let value = if holds { "True" } else { "False" };
    let since = status
        .iter()
        .find(|c| c.type_ == kind && c.status == value)
        .and_then(|c| c.last_transition_time.clone());
    status.retain(|c| c.type_ != kind);
    status.push(HorizontalPodAutoscalerCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(said.reason.clone()),
        message: Some(said.message.clone()),
        last_transition_time: since.or(Some(Time(now))),
    });
}

/// A target in the form the calculation takes.
fn target_of(target: &MetricTarget) -> Option<Target> {
    if let Some(quantity) = &target.average_value {
        let parsed: Quantity = quantity.0.parse().ok()?;
        return Some(Target::Average(parsed.milli_value()));
    }
    target.average_utilization.map(Target::Utilization)
}

/// Samples out of a PodMetricsList; of one container when that is given.
fn samples_of(list: &Value, resource: &str, container: Option<&str>) -> Samples {
    let items = list["items"].as_array().into_iter().flatten();
    let sample = |item: &Value| -> Option<(String, Sample)> {
        let containers = item["containers"].as_array()?;
        let mut value = 0;
        let chosen = containers.iter().filter(|held| container.is_none_or(|name| held["name"] == name));
        for held in chosen {
            let used: Quantity = held["usage"][resource].as_str()?.parse().ok()?;
            value += used.milli_value();
        }
        let at = item["timestamp"].as_str()?.parse().ok()?;
        let window = item["window"].as_str().and_then(|text| text.parse().ok());
        let window = window.unwrap_or(SignedDuration::from_mins(1));
        Some((item["metadata"]["name"].as_str()?.to_owned(), Sample { value, at, window }))
    };
    items.filter_map(sample).collect()
}

/// What one metric calls for.
struct Measured {
    proposal: Proposal,
    name: String,
    status: Option<MetricStatus>,
}

/// Thousandths as the API writes them.
fn milli(value: i64) -> Value {
    if value % 1000 == 0 { json!((value / 1000).to_string()) } else { json!(format!("{value}m")) }
}

/// What all metrics together call for.
struct Wanted {
    replicas: i32,
    name: String,
    statuses: Vec<MetricStatus>,
}

/// Combines metrics: the highest wins; those that failed forbid going down.
fn combine(current: i32, results: Vec<Result<Measured, Said>>) -> Result<Wanted, Said> {
    let total = results.len();
    let (mut wanted, mut failures) = (None::<Wanted>, Vec::new());
    for result in results {
        match result {
            Ok(measured) => {
                let held =
                    wanted.get_or_insert(Wanted { replicas: 0, name: String::new(), statuses: Vec::new() });
                held.statuses.extend(measured.status);
                if held.name.is_empty() || measured.proposal.replicas > held.replicas {
                    held.replicas = measured.proposal.replicas;
                    held.name = measured.name;
                }
            }
            Err(said) => failures.push(said),
        }
    }
    let invalid = failures.len();
    let Some(first) = failures.into_iter().next() else {
        return wanted.ok_or_else(|| words("InvalidMetricSourceType", "no metrics are specified"));
    };
    match wanted {
        Some(wanted) if wanted.replicas >= current => Ok(wanted),
        _ => Err(Said {
            message: format!(
                "invalid metrics ({invalid} invalid out of {total}), first error is: {}",
                first.message
            ),
            reason: first.reason,
        }),
    }
}

impl Controller {
    /// The resource of a kind. Found ones are kept: kinds do not move.
    async fn resource_of(&self, group: &str, kind: &str) -> Result<ResourceId, String> {
        let key = (group.to_owned(), kind.to_owned());
        if let Some(known) = self.kinds.lock().get(&key) {
            return Ok(known.clone());
        }
        let served = discover(&self.rest).await.map_err(|error| said(&error))?;
        let mut resources = served.resources.into_iter().map(|found| found.resource);
        let found = resources.find(|resource| resource.kind == kind && resource.group == group);
        let found = found.ok_or_else(|| format!("no matches for kind {kind:?} in group {group:?}"))?;
        self.kinds.lock().insert(key, found.clone());
        Ok(found)
    }

    async fn scale_of(&self, autoscaler: &Autoscaler) -> Result<(ResourceId, Scale), String> {
        let wanted = &autoscaler.spec.scale_target_ref;
        let namespace = autoscaler.metadata.namespace.as_deref().unwrap_or_default();
        let group =
            wanted.api_version.as_deref().and_then(|v| v.split_once('/')).map_or("", |(group, _)| group);
        let resource = self.resource_of(group, &wanted.kind).await?;
        let path = resource.object_path(namespace, &wanted.name, "scale");
        let tree = self.rest.get_path(&path, "application/json").await.map_err(|error| said(&error))?;
        Ok((resource, Scale::new(tree)))
    }

    /// Measures one metric.
    async fn measure(
        &self,
        autoscaler: &Autoscaler,
        metric: &MetricSpec,
        scale: &Scale,
        pods: &[Arc<Pod>],
        now: Timestamp,
    ) -> Result<Measured, Said> {
        let namespace = autoscaler.metadata.namespace.as_deref().unwrap_or_default();
        let (resource, container, target) =
            match (&metric.resource, &metric.container_resource, &metric.external) {
                (Some(source), ..) => (source.name.as_str(), None, &source.target),
                (_, Some(source), _) => {
                    (source.name.as_str(), Some(source.container.as_str()), &source.target)
                }
                (.., Some(source)) => {
                    return self
                        .measure_external(namespace, &source.metric.name, &source.target, scale)
                        .await;
                }
                _ => {
                    let text = format!("unknown metric source type {:?}", metric.type_);
                    return Err(words(
                        "InvalidMetricSourceType",
                        format!("the HPA was unable to compute the replica count: {text}"),
                    ));
                }
            };
        let (kind, title) = match container {
            None => ("resource", "FailedGetResourceMetric"),
            Some(_) => ("containerResource", "FailedGetContainerResourceMetric"),
        };
        let failed = |text: String| {
            let what = if container.is_some() { "container metric" } else { "resource metric" };
            words(title, format!("failed to get {resource} {what} value: {text}"))
        };
        let aim = target_of(target).ok_or_else(|| failed("no target is set".into()))?;
        let selector: String = percent(&scale.selector);
        let path =
            format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={selector}");
        let aspect = match aim {
            Target::Utilization(_) => "utilization",
            Target::Average(_) => "usage",
        };
        let failed = |text: String| failed(format!("failed to get {resource} {aspect}: {text}"));
        let list = self.rest.get_path(&path, "application/json").await.map_err(|error| {
            failed(format!(
                "unable to get metrics for resource {resource}: unable to fetch metrics from resource metrics API: {}",
                said(&error)
            ))
        })?;
        let samples = samples_of(&list, resource, container);
        let question = Question {
            pods,
            resource,
            container,
            target: aim,
            current: scale.replicas,
            tolerance: TOLERANCE,
        };
        let proposal = replicas(&question, samples, now).map_err(failed)?;
        let mut current = json!({"averageValue": milli(proposal.average)});
        if let Some(percent) = proposal.utilization {
            current["averageUtilization"] = json!(percent);
        }
        let mut body = json!({"name": resource, "current": current});
        if let Some(container) = container {
            body["container"] = json!(container);
        }
        let status = serde_json::from_value(json!({"type": metric.type_, kind: body})).ok();
        let name = match aim {
            Target::Utilization(_) => format!("{resource} resource utilization (percentage of request)"),
            Target::Average(_) => format!("{resource} resource"),
        };
        Ok(Measured { proposal, name, status })
    }

    async fn measure_external(
        &self,
        namespace: &str,
        name: &str,
        target: &MetricTarget,
        scale: &Scale,
    ) -> Result<Measured, Said> {
        let failed = |text: String| {
            words("FailedGetExternalMetric", format!("failed to get {name} external metric value: {text}"))
        };
        let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}", percent(name));
        let list =
            self.rest.get_path(&path, "application/json").await.map_err(|error| failed(said(&error)))?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let parse = |text: &str| text.parse::<Quantity>().ok().map(Quantity::milli_value);
        let total: i64 = items.iter().filter_map(|item| parse(item["value"].as_str()?)).sum();
        let of = |quantity: &Option<k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
            quantity.as_ref().and_then(|quantity| parse(&quantity.0)).filter(|value| *value > 0)
        };
        let current = f64::from(scale.replicas.max(1));
        let (ratio, key) = match (of(&target.average_value), of(&target.value)) {
            (Some(average), _) => (total as f64 / average as f64 / current, "averageValue"),
            (None, Some(value)) => (total as f64 / value as f64, "value"),
            (None, None) => return Err(failed("no target is set".into())),
        };
        let near = (1.0 - ratio).abs() <= TOLERANCE;
        let replicas = if near { scale.replicas } else { (ratio * current).ceil() as i32 };
        let shown = if key == "value" { total } else { total / i64::from(scale.replicas.max(1)) };
        let status = json!({"type": "External", "external": {"metric": {"name": name}, "current": {key: milli(shown)}}});
        Ok(Measured {
            proposal: Proposal { replicas, utilization: None, average: shown },
            name: format!("external metric {name}(nil)"),
            status: serde_json::from_value(status).ok(),
        })
    }

    async fn wanted(&self, autoscaler: &Autoscaler, scale: &Scale, now: Timestamp) -> Result<Wanted, Said> {
        if scale.selector.is_empty() {
            return Err(words("InvalidSelector", "the HPA target's scale is missing a selector"));
        }
        let invalid = |_| {
            words(
                "InvalidSelector",
                "couldn't convert selector into a corresponding internal selector object",
            )
        };
        let selector: LabelSelector = scale.selector.parse().map_err(invalid)?;
        let namespace = autoscaler.metadata.namespace.as_deref().unwrap_or_default();
        let mut pods = self.pods.list_in(namespace);
        pods.retain(|pod| selector.matches(&pod.metadata.labels.as_ref()));
        let mut results = Vec::new();
        for metric in autoscaler.spec.metrics.iter().flatten() {
            results.push(self.measure(autoscaler, metric, scale, &pods, now).await);
        }
        combine(scale.replicas, results)
    }

    fn warn(&self, autoscaler: &Autoscaler, said: &Said) {
        self.recorder.event(
            &reference(autoscaler),
            EventType::Warning,
            &said.reason,
            "",
            said.message.clone(),
        );
    }

    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(autoscaler) = self.autoscalers.get(&key.namespace, &key.name) else {
            self.histories.lock().remove(key);
            return Ok(Next::OnChange);
        };
        let now = Timestamp::now();
        let mut changed = (*autoscaler).clone();
        let status = changed.status.get_or_insert_default();
        let mut conditions = status.conditions.take().unwrap_or_default();
        match self.scale_of(&autoscaler).await {
            Err(why) => {
                let text = words("FailedGetScale", why);
                self.warn(&autoscaler, &text);
                let message = format!(
                    "the HPA controller was unable to get the target's current scale: {}",
                    text.message
                );
                set(&mut conditions, "AbleToScale", false, &words("FailedGetScale", message), now);
            }
            Ok((resource, scale)) => {
                let fine = words(
                    "SucceededGetScale",
                    "the HPA controller was able to get the target's current scale",
                );
                set(&mut conditions, "AbleToScale", true, &fine, now);
                let (desired, reason) =
                    self.desire(key, &autoscaler, &scale, &mut conditions, status, now).await;
                status.current_replicas = Some(scale.replicas);
                let mut done = scale.replicas;
                if let Some(desired) = desired.filter(|desired| *desired != scale.replicas) {
                    match self.rescale(&resource, &autoscaler, &scale, desired, &reason).await {
                        Ok(()) => {
                            self.histories.lock().entry(key.clone()).or_default().changed(
                                now,
                                scale.replicas,
                                desired,
                            );
                            status.last_scale_time = Some(Time(now));
                            let text = format!(
                                "the HPA controller was able to update the target scale to {desired}"
                            );
                            set(&mut conditions, "AbleToScale", true, &words("SucceededRescale", text), now);
                            done = desired;
                        }
                        Err(error) => {
                            let text =
                                format!("the HPA controller was unable to update the target scale: {error}");
                            set(
                                &mut conditions,
                                "AbleToScale",
                                false,
                                &words("FailedUpdateScale", text),
                                now,
                            );
                        }
                    }
                }
                status.desired_replicas = done;
            }
        }
        status.conditions = Some(conditions);
        if changed.status != autoscaler.status {
            match self.rest.update(&AUTOSCALERS, "status", &changed).await {
                Err(error) if !is_not_found(&error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(Next::After(PERIOD))
    }

    /// The number of replicas there should be and why; `None` when nothing can be said.
    async fn desire(
        &self,
        key: &Key,
        autoscaler: &Autoscaler,
        scale: &Scale,
        conditions: &mut Vec<HorizontalPodAutoscalerCondition>,
        status: &mut k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerStatus,
        now: Timestamp,
    ) -> (Option<i32>, String) {
        let (min, max) = (autoscaler.spec.min_replicas.unwrap_or(1), autoscaler.spec.max_replicas);
        if scale.replicas == 0 && min != 0 {
            let off =
                words("ScalingDisabled", "scaling is disabled since the replica count of the target is zero");
            set(conditions, "ScalingActive", false, &off, now);
            return (None, String::new());
        }
        if scale.replicas > max {
            return (Some(max), "Current number of replicas above Spec.MaxReplicas".into());
        }
        if scale.replicas < min {
            return (Some(min), "Current number of replicas below Spec.MinReplicas".into());
        }
        let wanted = match self.wanted(autoscaler, scale, now).await {
            Ok(wanted) => wanted,
            Err(text) => {
                self.warn(autoscaler, &text);
                let message = format!("the HPA was unable to compute the replica count: {}", text.message);
                set(conditions, "ScalingActive", false, &words(&text.reason, message), now);
                self.warn(autoscaler, &words("FailedComputeMetricsReplicas", text.message));
                return (None, String::new());
            }
        };
        let valid =
            format!("the HPA was able to successfully calculate a replica count from {}", wanted.name);
        set(conditions, "ScalingActive", true, &words("ValidMetricFound", valid), now);
        status.current_metrics = Some(wanted.statuses);
        let reason = if wanted.replicas > scale.replicas {
            format!("{} above target", wanted.name)
        } else {
            "All metrics below target".to_owned()
        };
        let Bounded { replicas, able, limited } = {
            let mut histories = self.histories.lock();
            let history = histories.entry(key.clone()).or_default();
            bound(
                autoscaler.spec.behavior.as_ref(),
                (min, max),
                scale.replicas,
                wanted.replicas,
                history,
                now,
            )
        };
        set(conditions, "AbleToScale", true, &words(able.0, able.1), now);
        let inside = ("DesiredWithinRange", "the desired count is within the acceptable range");
        let text = limited.unwrap_or(inside);
        set(conditions, "ScalingLimited", limited.is_some(), &words(text.0, text.1), now);
        (Some(replicas), reason)
    }

    async fn rescale(
        &self,
        resource: &ResourceId,
        autoscaler: &Autoscaler,
        scale: &Scale,
        desired: i32,
        reason: &str,
    ) -> Result<(), SyncError> {
        let mut tree = scale.tree.clone();
        tree["spec"]["replicas"] = json!(desired);
        match self.rest.update(resource, "scale", &tree).await {
            Ok(_) => {
                let note = format!("New size: {desired}; reason: {reason}");
                self.recorder.event(&reference(autoscaler), EventType::Normal, "SuccessfulRescale", "", note);
                Ok(())
            }
            Err(error) => {
                let note = format!("New size: {desired}; reason: {reason}; error: {}", said(&error));
                self.warn(autoscaler, &words("FailedRescale", note));
                Err(error.into())
            }
        }
    }
}

/// Percent-encodes a query value or path segment.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(replicas: i32, name: &str) -> Measured {
        let proposal = Proposal { replicas, utilization: None, average: 0 };
        Measured { proposal, name: name.into(), status: None }
    }

    #[test]
    fn the_highest_metric_wins_and_failures_forbid_going_down() {
        let failed = || Err(words("FailedGetResourceMetric", "gone"));
        let of = |results| combine(4, results).map(|w| (w.replicas, w.name)).map_err(|said| said.message);
        assert_eq!(of(vec![Ok(measured(3, "a")), Ok(measured(6, "b"))]), Ok((6, "b".into())));
        assert_eq!(of(vec![failed(), Ok(measured(6, "b"))]), Ok((6, "b".into())));
        assert_eq!(
            of(vec![failed(), Ok(measured(3, "a"))]),
            Err("invalid metrics (1 invalid out of 2), first error is: gone".into())
        );
        assert!(of(vec![failed()]).is_err() && of(vec![]).is_err());
    }

    #[test]
    fn samples_are_summed_over_containers() {
        let list = json!({"items": [{"metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:00Z", "window": "30s",
            "containers": [{"name": "x", "usage": {"cpu": "250m"}}, {"name": "y", "usage": {"cpu": "1"}}]}]});
        assert_eq!(samples_of(&list, "cpu", None)["a"].value, 1250);
        assert_eq!(samples_of(&list, "cpu", Some("y"))["a"].value, 1000);
        assert_eq!(samples_of(&list, "cpu", None)["a"].window, SignedDuration::from_secs(30));
        assert!(samples_of(&list, "memory", None).is_empty());
    }

    #[test]
    fn conditions_keep_their_time_while_their_status_holds() {
        let mut conditions = Vec::new();
        let at = crate::testing::at;
        set(&mut conditions, "AbleToScale", true, &words("A", "a"), at(0));
        set(&mut conditions, "AbleToScale", true, &words("B", "b"), at(5));
        assert_eq!((conditions.len(), conditions[0].last_transition_time.clone()), (1, Some(Time(at(0)))));
        set(&mut conditions, "AbleToScale", false, &words("C", "c"), at(9));
        assert_eq!(conditions[0].last_transition_time, Some(Time(at(9))));
    }
}
