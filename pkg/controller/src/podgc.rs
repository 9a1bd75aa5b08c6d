//! The pod garbage collector: finished pods beyond a number, pods of nodes that are gone, and deleted pods that never
//! got a node.
//!
//! Behaviour after upstream's `pkg/controller/podgc`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::rest::{Patch, Rest};
use client::{Store, is_not_found};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::context::{Context, SyncError};
use crate::pods;
use crate::resources::{NODES, PODS};

const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be missing before its pods are taken for orphans.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Why a pod is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Finished,
    Orphaned,
    NeverScheduled,
    OutOfService,
}

/// Pods to remove. `missing` are nodes known for long enough not to exist.
fn decide(
    pods: &[Arc<Pod>],
    nodes: &[Arc<Node>],
    missing: &HashSet<String>,
    threshold: usize,
) -> Vec<(Arc<Pod>, Why)> {
    let mut chosen = Vec::new();
    if threshold > 0 {
        let mut finished: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pods::is_finished(pod)).collect();
        let surplus = finished.len().saturating_sub(threshold);
        // those evicted first, then the oldest
        finished.sort_by_key(|pod| {
            let evicted = pod.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
            (!evicted, pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.metadata.name.clone())
        });
        chosen.extend(finished.into_iter().take(surplus).map(|pod| (pod.clone(), Why::Finished)));
    }
    let out: HashSet<String> = nodes
        .iter()
        .filter(|node| {
            let ready = node
                .status
                .iter()
                .flat_map(|s| s.conditions.iter().flatten())
                .any(|c| c.type_ == "Ready" && c.status == "True");
            let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
            !ready && taints.clone().any(|taint| taint.key == OUT_OF_SERVICE)
        })
        .map(|node| node.name_any())
        .collect();
    for pod in pods {
        let node = pods::node_name(pod);
        let why = if missing.contains(node) {
            Why::Orphaned
        } else if pods::is_terminating(pod) && node.is_empty() {
            Why::NeverScheduled
        } else if pods::is_terminating(pod) && out.contains(node) {
            Why::OutOfService
        } else {
            continue;
        };
        chosen.push((pod.clone(), why));
    }
    chosen
}

struct Collector {
    pods: Store<Pod>,
    nodes: Store<Node>,
    threshold: usize,
    rest: Rest,
    /// Nodes that pods name and that do not exist, since when.
    missing: HashMap<String, Timestamp>,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let mut collector = Collector {
        pods: context.informer::<Pod>().store(),
        nodes: context.informer::<Node>().store(),
        threshold: context.config.terminated_pod_gc_threshold,
        rest: context.rest("pod-garbage-collector"),
        missing: HashMap::new(),
    };
    let ready = context.ready();
    context.spawn(async move {
        ready.await;
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            collector.collect().await;
        }
    });
}

/// Updates since when each named node is missing; the nodes missing for at least [`QUARANTINE`].
fn quarantine(
    missing: &mut HashMap<String, Timestamp>,
    named: &HashSet<String>,
    exists: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Vec<String> {
    missing.retain(|name, _| named.contains(name) && !exists(name));
    for name in named.iter().filter(|name| !exists(name)) {
        missing.entry(name.clone()).or_insert(now);
    }
    missing
        .iter()
        .filter(|(_, since)| now.duration_since(**since) >= QUARANTINE)
        .map(|(name, _)| name.clone())
        .collect()
}

impl Collector {
    async fn collect(&mut self) {
        let pods = self.pods.list();
        let named: HashSet<String> =
            pods.iter().map(|pod| pods::node_name(pod).to_owned()).filter(|name| !name.is_empty()).collect();
        let nodes = self.nodes.clone();
        let suspects =
            quarantine(&mut self.missing, &named, |name| nodes.get("", name).is_some(), Timestamp::now());
        let mut gone = HashSet::new();
        for name in suspects {
            // the cache may be behind: only the server's word counts
            if matches!(self.rest.get(&NODES, "", &name).await, Err(error) if is_not_found(&error)) {
                gone.insert(name);
            }
        }
        for (pod, why) in decide(&pods, &self.nodes.list(), &gone, self.threshold) {
            info!(pod = pod.name_any(), namespace = pod.namespace(), ?why, "removing pod");
            if let Err(error) = self.remove(&pod, why).await {
                warn!(pod = pod.name_any(), %error, "cannot remove pod");
            }
        }
    }

    async fn remove(&self, pod: &Pod, why: Why) -> Result<(), SyncError> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let reason = match why {
            Why::Orphaned => Some("PodGC: node no longer exists"),
            Why::OutOfService => Some("PodGC: node is out of service"),
            Why::Finished | Why::NeverScheduled => None,
        };
        // a pod that has not finished must be seen to have failed before it is gone
        if !pods::is_finished(pod) && why != Why::Finished {
            let mut status = json!({"phase": "Failed"});
            if let Some(message) = reason.filter(|_| why == Why::Orphaned) {
                status["conditions"] = json!([{
                    "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                    "message": message, "lastTransitionTime": Time(Timestamp::now())}]);
            }
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            match self.rest.patch(&PODS, (&namespace, &name), "status", Patch::Strategic, &patch).await {
                Err(error) if is_not_found(&error) => return Ok(()),
                done => done?,
            };
        }
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod.metadata.uid}});
        match self.rest.delete(&PODS, &namespace, &name, &options).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod};

    #[test]
    fn pods_are_chosen_by_their_state() {
        let pods: Vec<Arc<Pod>> = [
            pod("done-old").phase("Succeeded").created(0).node("n"),
            pod("done-new").phase("Failed").created(5).node("n"),
            pod("lost").node("gone"),
            pod("never").deleted(1).phase("Pending"),
            pod("fine").node("n"),
        ]
        .into_iter()
        .map(|pod| Arc::new(pod.build()))
        .collect();
        let missing = HashSet::from(["gone".to_owned()]);
        let chosen: Vec<(String, Why)> =
            decide(&pods, &[], &missing, 1).into_iter().map(|(pod, why)| (pod.name_any(), why)).collect();
        let expected = [("done-old", Why::Finished), ("lost", Why::Orphaned), ("never", Why::NeverScheduled)];
        assert_eq!(chosen, expected.map(|(name, why)| (name.to_owned(), why)));
        assert!(decide(&pods[..2], &[], &HashSet::new(), 0).is_empty(), "no limit");
    }

    #[test]
    fn a_node_is_gone_only_after_quarantine() {
        let mut missing = HashMap::new();
        let named = HashSet::from(["n".to_owned()]);
        assert!(quarantine(&mut missing, &named, |_| false, at(0)).is_empty());
        assert!(quarantine(&mut missing, &named, |_| false, at(39)).is_empty());
        assert_eq!(quarantine(&mut missing, &named, |_| false, at(40)), ["n"]);
        assert!(quarantine(&mut missing, &named, |_| true, at(41)).is_empty());
        assert!(quarantine(&mut missing, &named, |_| false, at(90)).is_empty(), "it was back in between");
    }
}
