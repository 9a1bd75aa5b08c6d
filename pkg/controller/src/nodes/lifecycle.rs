//! The node lifecycle controller: finds nodes that fell silent, and keeps their taints in line with their conditions.
//!
//! Behaviour after upstream's `pkg/controller/nodelifecycle`. A node is alive when its Lease is renewed or its status
//! changes; after `--node-monitor-grace-period` of neither its conditions become Unknown. NoExecute taints, which evict
//! pods, are given at a limited rate per zone, and not at all when every zone is down.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::events::{EventRecorder, EventType, reference};
use client::rest::{Patch, Rest};
use client::workqueue::WorkQueue;
use client::{Event, Selection, Store, is_not_found};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::MissedTickBehavior;
use tracing::warn;

use super::taints::{self, Evict, condition};
use crate::config::NodeMonitor;
use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::pods;
use crate::resources::{NODES, PODS};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const ZONE_LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];
/// Conditions that become Unknown with a silent node.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const BY_NODE: &str = "node";

/// When a node was last heard of.
#[derive(Debug, Clone, PartialEq)]
struct Health {
    heard: Timestamp,
    heartbeat: Option<Timestamp>,
    renewed: Option<Timestamp>,
}

/// Rate of NoExecute taints in one zone.
#[derive(Debug, Clone)]
struct ZoneRate {
    tokens: f64,
    at: Timestamp,
}

#[derive(Debug, Default)]
struct State {
    health: HashMap<String, Health>,
    zones: HashMap<String, ZoneRate>,
    /// What nodes' NoExecute taints may do, as the last look at all of them decided.
    all_down: bool,
}

struct Controller {
    nodes: Store<Node>,
    leases: Store<Lease>,
    pods: Store<Pod>,
    settings: NodeMonitor,
    state: Mutex<State>,
    rest: Rest,
    recorder: EventRecorder,
}

/// Index of pods by node name; shared with taint eviction.
pub(super) fn index_by_node(pods: &client::Informer<Pod>) {
    pods.add_index(BY_NODE, |pod| vec![pods::node_name(pod).to_owned()]);
}

pub(super) fn pods_on(pods: &Store<Pod>, node: &str) -> Vec<Arc<Pod>> {
    pods.by_index(BY_NODE, node)
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let nodes = context.informer::<Node>();
    let pods = context.informer::<Pod>();
    index_by_node(&pods);
    let leases = context.informer_for::<Lease>(Selection::namespace(LEASE_NAMESPACE));
    let controller = Arc::new(Controller {
        nodes: nodes.store(),
        leases: leases.store(),
        pods: pods.store(),
        settings: context.config.node_monitor.clone(),
        state: Mutex::default(),
        rest: context.rest("node-controller"),
        recorder: context.recorder("node-controller"),
    });
    // Taints follow conditions at once: a node that has become ready is of use only without its taint.
    let queue = WorkQueue::new("node_lifecycle_controller");
    let (adds, handler) = (queue.clone(), controller.clone());
    nodes.on_event(move |event| {
        match &event {
            Event::Added(node) => handler.note(node, "RegisteredNode", "Registered Node", "in Controller"),
            Event::Deleted(node) => {
                handler.note(node, "RemovingNode", "Removing Node", "from Controller");
                handler.state.lock().health.remove(&node.name_any());
            }
            Event::Updated { .. } => {}
        }
        adds.add(Key::of(&**event.object()));
    });
    context.work("node-lifecycle-controller", &queue, 8, controller.clone());
    let (ready, period) = (context.ready(), controller.settings.period);
    context.spawn(async move {
        ready.await;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            controller.monitor().await;
        }
    });
}

/// How a zone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ZoneState {
    Normal,
    Partial,
    Full,
}

fn zone_state(ready: usize, not_ready: usize, settings: &NodeMonitor) -> ZoneState {
    let fraction = not_ready as f64 / ((ready + not_ready).max(1)) as f64;
    if ready == 0 && not_ready > 0 {
        ZoneState::Full
    } else if not_ready > 2 && fraction >= settings.unhealthy_zone {
        ZoneState::Partial
    } else {
        ZoneState::Normal
    }
}

/// NoExecute taints a second in a zone.
fn eviction_rate(state: ZoneState, size: usize, settings: &NodeMonitor) -> f64 {
    match state {
        ZoneState::Normal | ZoneState::Full => settings.eviction_rate,
        ZoneState::Partial if size > settings.large_cluster_size => settings.secondary_eviction_rate,
        ZoneState::Partial => 0.0,
    }
}

fn zone_of(node: &Node) -> String {
    ZONE_LABELS.map(|label| node.labels().get(label).map_or("", String::as_str)).join("/")
}

fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Notes a sign of life, and says whether the node has been silent for too long.
fn observe(
    held: Option<&Health>,
    node: &Node,
    renewed: Option<Timestamp>,
    settings: &NodeMonitor,
    now: Timestamp,
) -> (Health, bool) {
    let ready = condition(node, "Ready");
    let heartbeat = ready.and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0);
    let created = node.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let health = match held {
        // a node that never reported counts from its creation, any other from when this process first saw it
        None => Health { heard: if ready.is_none() { created } else { now }, heartbeat, renewed },
        Some(held) => {
            let alive = heartbeat != held.heartbeat || renewed > held.renewed;
            Health {
                heard: if alive { now } else { held.heard },
                heartbeat,
                renewed: renewed.max(held.renewed),
            }
        }
    };
    let grace = if ready.is_none() { settings.startup_grace_period } else { settings.grace_period };
    let silent = now.duration_since(health.heard);
    let is_silent = silent > SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
    (health, is_silent)
}

/// The node with its conditions Unknown; `None` when they are already.
fn silenced(node: &Node, now: Timestamp) -> Option<Node> {
    let mut changed = node.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut any = false;
    for kind in CONDITIONS {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            None => {
                conditions.push(NodeCondition {
                    type_: kind.into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
                any = true;
            }
            Some(held) if held.status != "Unknown" => {
                held.status = "Unknown".into();
                held.reason = Some("NodeStatusUnknown".into());
                held.message = Some("Kubelet stopped posting node status.".into());
                held.last_transition_time = Some(Time(now));
                any = true;
            }
            Some(_) => {}
        }
    }
    any.then_some(changed)
}

impl Controller {
    fn note(&self, node: &Node, reason: &str, what: &str, end: &str) {
        let name = node.name_any();
        let note = format!("Node {name} event: {what} {name} {end}");
        self.recorder.event(&reference(node), EventType::Normal, reason, "", note);
    }

    /// Looks at all nodes: who fell silent, and which may be given eviction taints now.
    async fn monitor(&self) {
        let nodes = self.nodes.list();
        let now = Timestamp::now();
        for node in &nodes {
            let name = node.name_any();
            let lease = self.leases.get(LEASE_NAMESPACE, &name);
            let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
            let is_silent = {
                let mut state = self.state.lock();
                let (health, is_silent) =
                    observe(state.health.get(&name), node, renewed, &self.settings, now);
                state.health.insert(name.clone(), health);
                is_silent
            };
            if is_silent && let Err(error) = self.silence(node, now).await {
                warn!(node = name, %error, "cannot mark the node as unknown");
            }
        }
        self.taint_all(&nodes, now).await;
    }

    async fn silence(&self, node: &Node, now: Timestamp) -> Result<(), SyncError> {
        let Some(changed) = silenced(node, now) else { return Ok(()) };
        self.rest.update(&NODES, "status", &changed).await?;
        Ok(())
    }

    async fn taint_all(&self, nodes: &[Arc<Node>], now: Timestamp) {
        let mut zones: HashMap<String, (usize, usize)> = HashMap::new();
        for node in nodes {
            let counts = zones.entry(zone_of(node)).or_default();
            if is_ready(node) { counts.0 += 1 } else { counts.1 += 1 }
        }
        let states: HashMap<&String, ZoneState> = zones
            .iter()
            .map(|(zone, (ready, not))| (zone, zone_state(*ready, *not, &self.settings)))
            .collect();
        let all_down = !states.is_empty() && states.values().all(|state| *state == ZoneState::Full);
        self.state.lock().all_down = all_down;
        for node in nodes {
            let evict = if all_down {
                Evict::Never
            } else if is_ready(node) || taints::taints(node).iter().any(is_eviction_taint) {
                Evict::Wait
            } else {
                let zone = zone_of(node);
                let size = zones.get(&zone).map_or(0, |(ready, not)| ready + not);
                let rate = eviction_rate(
                    states.get(&zone).copied().unwrap_or(ZoneState::Normal),
                    size,
                    &self.settings,
                );
                if self.take_token(&zone, rate, now) { Evict::Allowed } else { Evict::Wait }
            };
            if let Err(error) = self.taint(node, evict, now).await {
                warn!(node = node.name_any(), %error, "cannot taint the node");
            }
        }
    }

    fn take_token(&self, zone: &str, rate: f64, now: Timestamp) -> bool {
        let mut state = self.state.lock();
        let bucket = state.zones.entry(zone.to_owned()).or_insert(ZoneRate { tokens: 1.0, at: now });
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed * rate).min(1.0);
        bucket.at = now;
        if rate > 0.0 && bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return true;
        }
        false
    }

    async fn taint(&self, node: &Node, evict: Evict, now: Timestamp) -> Result<(), SyncError> {
        let wanted = taints::wanted(node, evict, now);
        if wanted == taints::taints(node) {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": wanted},
        });
        match self.rest.patch(&NODES, ("", &node.name_any()), "", Patch::Merge, &patch).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(node) = self.nodes.get("", &key.name) else { return Ok(Next::OnChange) };
        let evict = if self.state.lock().all_down && !is_ready(&node) { Evict::Never } else { Evict::Wait };
        self.taint(&node, evict, Timestamp::now()).await?;
        // a kubelet that reports «not ready» itself also reports its pods
        if condition(&node, "Ready").is_some_and(|ready| ready.status == "Unknown") {
            self.pods_not_ready(&node).await?;
        }
        Ok(Next::OnChange)
    }

    /// Nothing is known of a silent node: its pods leave the endpoints, whatever their last report said.
    async fn pods_not_ready(&self, node: &Node) -> Result<(), SyncError> {
        let mut marked = false;
        for pod in pods_on(&self.pods, &node.name_any()) {
            if !pods::is_ready(&pod) {
                continue;
            }
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [
                {"type": "Ready", "status": "False", "lastTransitionTime": Time(Timestamp::now())}]}});
            let at = (pod.metadata.namespace.as_deref().unwrap_or(""), pod.name_any());
            match self.rest.patch(&PODS, (at.0, &at.1), "status", Patch::Strategic, &patch).await {
                Err(error) if !is_not_found(&error) => return Err(error.into()),
                _ => marked = true,
            }
            self.recorder.event(
                &reference(&*pod),
                EventType::Warning,
                "NodeNotReady",
                "",
                "Node is not ready",
            );
        }
        if marked {
            let note = format!("Node {} status is now: NodeNotReady", node.name_any());
            self.recorder.event(&reference(node), EventType::Normal, "NodeNotReady", "", note);
        }
        Ok(())
    }
}

fn is_eviction_taint(taint: &k8s_openapi::api::core::v1::Taint) -> bool {
    taints::is(taint, taints::NOT_READY, "NoExecute") || taints::is(taint, taints::UNREACHABLE, "NoExecute")
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

/// Retry of evictions, shared by the two controllers that evict.
pub(super) const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeStatus;

    use super::*;
    use crate::testing::{at, meta, time};

    fn node(heartbeat: Option<i64>) -> Node {
        let conditions = heartbeat.map(|second| {
            vec![NodeCondition {
                type_: "Ready".into(),
                status: "True".into(),
                last_heartbeat_time: Some(time(second)),
                ..NodeCondition::default()
            }]
        });
        Node {
            metadata: meta("n"),
            spec: None,
            status: Some(NodeStatus { conditions, ..NodeStatus::default() }),
        }
    }

    #[test]
    fn a_node_is_silent_after_its_grace_period_without_lease_or_status() {
        let settings = NodeMonitor::default();
        let see = |held: Option<&Health>, node: &Node, renewed: Option<i64>, second| {
            observe(held, node, renewed.map(at), &settings, at(second))
        };
        let (first, silent) = see(None, &node(Some(0)), Some(0), 100);
        assert!(!silent, "first seen now, whatever the heartbeat says");
        let (renewed, silent) = see(Some(&first), &node(Some(0)), Some(140), 145);
        assert!(!silent);
        assert!(!see(Some(&renewed), &node(Some(0)), Some(140), 195).1);
        assert!(see(Some(&renewed), &node(Some(0)), Some(140), 196).1);
        assert!(
            !see(Some(&renewed), &node(Some(190)), Some(140), 196).1,
            "a status is a sign of life as well"
        );
        assert!(!see(None, &node(None), None, 60).1);
        assert!(see(None, &node(None), None, 61).1, "a node that never reported has 60 s from its creation");
    }

    #[test]
    fn a_silent_node_becomes_unknown_once() {
        let changed = silenced(&node(Some(0)), at(100)).expect("changed");
        let reason = |kind| condition(&changed, kind).and_then(|condition| condition.reason.clone());
        assert_eq!(reason("Ready").as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(reason("PIDPressure").as_deref(), Some("NodeStatusNeverUpdated"));
        assert_eq!(silenced(&changed, at(101)), None);
    }

    #[test]
    fn zones_slow_down_when_many_nodes_fail() {
        let settings = NodeMonitor::default();
        let cases = [
            (5, 0, ZoneState::Normal, 0.1),
            (0, 2, ZoneState::Full, 0.1),
            (2, 2, ZoneState::Normal, 0.1),
            (2, 3, ZoneState::Partial, 0.0),
            (20, 40, ZoneState::Partial, 0.01),
        ];
        for (ready, not_ready, state, rate) in cases {
            assert_eq!(zone_state(ready, not_ready, &settings), state);
            assert!((eviction_rate(state, ready + not_ready, &settings) - rate).abs() < 1e-9);
        }
    }
}
