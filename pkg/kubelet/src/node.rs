//! The node in the API: registration, status, lease.
//!
//! Sources: `pkg/kubelet/kubelet_node_status.go`, `pkg/kubelet/nodestatus/setters.go`, KEP-589 (leases).

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeCondition, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::kubelet::{Kubelet, NodeState};
use crate::pods::{Overview, RELIST_THRESHOLD};
use crate::status::whole_seconds;
use client::events::EventType;

mod machine;
pub use machine::{Disk, Machine, detect_ip};

/// Namespace of the nodes' leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// While the node is not ready, its status is looked at this often.
const EAGER: Duration = Duration::from_millis(500);
/// Longest time between tries to register.
const REGISTER_MAX: Duration = Duration::from_secs(7);
/// Renewals a lease's duration: upstream renews after a quarter.
const LEASE_FRACTION: u32 = 4;
/// A runtime that has not answered for so long is down (upstream's threshold).
const RUNTIME_SILENCE: Duration = Duration::from_secs(30);
/// Longest wait for one answer of the runtime about itself.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(5);
/// Images are listed again after this.
const IMAGE_LIST_AGE: Duration = Duration::from_secs(30);
/// Most names of an image a status lists.
const MAX_IMAGE_NAMES: usize = 5;

/// What the node's conditions are made from.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Why the node is not ready, empty when it is.
    pub problems: Vec<String>,
    /// Pressure conditions in force.
    pub pressure: Vec<&'static str>,
}

/// The conditions a node has, those of `old` kept where nothing changed.
pub fn conditions(health: &Health, old: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    const PRESSURES: [(&str, [&str; 2], [&str; 2]); 3] = [
        (
            "MemoryPressure",
            ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"],
            ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"],
        ),
        (
            "DiskPressure",
            ["KubeletHasDiskPressure", "kubelet has disk pressure"],
            ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
        ),
        (
            "PIDPressure",
            ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"],
            ["KubeletHasSufficientPID", "kubelet has sufficient PID available"],
        ),
    ];
    let condition = |kind: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        let same = old.iter().find(|c| c.type_ == kind && c.status == status);
        let now = Some(Time(whole_seconds(now)));
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: now.clone(),
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or(now),
        }
    };
    let mut out = Vec::new();
    for (kind, bad, good) in PRESSURES {
        let pressed = health.pressure.contains(&kind);
        let [reason, message] = if pressed { bad } else { good };
        out.push(condition(kind, pressed, reason, message));
    }
    out.push(match health.problems.as_slice() {
        [] => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        [one] => condition("Ready", false, "KubeletNotReady", one),
        many => condition("Ready", false, "KubeletNotReady", &format!("[{}]", many.join(", "))),
    });
    let ours: Vec<&str> = out.iter().map(|c| c.type_.as_str()).collect();
    let foreign: Vec<NodeCondition> =
        old.iter().filter(|c| !ours.contains(&c.type_.as_str())).cloned().collect();
    out.extend(foreign);
    out
}

/// A status without what changes by itself, to see whether anything else did.
fn substance(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    status
}

/// What the runtime was last heard to say.
#[derive(Debug, Default)]
struct Heard {
    /// When it answered last.
    answered: Option<Instant>,
    status: Option<cri::api::StatusResponse>,
    images: Vec<ContainerImage>,
    listed: Option<Instant>,
}

impl Heard {
    /// Why the runtime keeps the node from being ready.
    fn problems(&self, now: Instant) -> Vec<String> {
        let silent = self.answered.is_none_or(|at| now.duration_since(at) >= RUNTIME_SILENCE);
        let Some(status) = self.status.as_ref().filter(|_| !silent) else {
            return vec!["container runtime is down".to_owned()];
        };
        cri::Runtime::conditions(status)
            .iter()
            .filter(|c| !c.status)
            .map(|condition| {
                let what = match condition.kind.as_str() {
                    "NetworkReady" => "container runtime network not ready",
                    _ => "container runtime not ready",
                };
                let (kind, reason, message) = (&condition.kind, &condition.reason, &condition.message);
                format!("{what}: {kind}=false reason:{reason} message:{message}")
            })
            .collect()
    }
}

/// Keeps the node in the API.
#[derive(Debug)]
pub struct NodeAgent {
    kubelet: Arc<Kubelet>,
    overview: Arc<Overview>,
    machine: Machine,
    runtime_version: String,
    heard: Mutex<Heard>,
}

impl NodeAgent {
    /// An agent for this machine.
    pub fn new(
        kubelet: Arc<Kubelet>,
        overview: Arc<Overview>,
        machine: Machine,
        runtime_version: String,
    ) -> Self {
        Self { kubelet, overview, machine, runtime_version, heard: Mutex::default() }
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.kubelet.heartbeats.clone())
    }

    /// Registers, then keeps the status current until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let work = async {
            self.register().await;
            self.keep_status().await;
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
    }

    /// Looks at the node and remembers what pods need to know of it.
    async fn look(&self, old: Option<&NodeStatus>) -> NodeStatus {
        let config = &self.kubelet.config;
        let ips: Vec<String> = if config.node_ips.is_empty() {
            detect_ip().into_iter().map(|ip| ip.to_string()).collect()
        } else {
            config.node_ips.iter().map(ToString::to_string).collect()
        };
        let mut capacity = self.machine.capacity(config);
        let mut allocatable = self.machine.allocatable(config, &capacity);
        machine::keep_extended(&mut capacity, &mut allocatable, old);
        self.kubelet.node.store(Arc::new(NodeState { ips: ips.clone(), allocatable: allocatable.clone() }));
        self.ask_runtime().await;
        let health = self.health();
        let old_conditions = old.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let heard = self.heard.lock();
        let (handlers, features) = machine::handlers(heard.status.as_ref());
        NodeStatus {
            addresses: Some(machine::addresses(&ips, &config.hostname)),
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            conditions: Some(conditions(&health, old_conditions, Timestamp::now())),
            daemon_endpoints: Some(k8s_openapi::api::core::v1::NodeDaemonEndpoints {
                kubelet_endpoint: Some(k8s_openapi::api::core::v1::DaemonEndpoint {
                    port: i32::from(config.port),
                }),
            }),
            images: Some(heard.images.clone()),
            node_info: Some(
                self.machine.info(&format!("{}://{}", self.kubelet.runtime_name, self.runtime_version)),
            ),
            runtime_handlers: handlers,
            features,
            volumes_attached: old.and_then(|s| s.volumes_attached.clone()),
            volumes_in_use: old.and_then(|s| s.volumes_in_use.clone()),
            ..NodeStatus::default()
        }
    }

    /// Asks the runtime how it is and what images it has. One that hangs does not hold up the node's status: what it
    /// said before holds until it has been silent for too long.
    async fn ask_runtime(&self) {
        let runtime = &self.kubelet.runtime;
        match tokio::time::timeout(RUNTIME_PATIENCE, runtime.status()).await {
            Ok(Ok(status)) => {
                let mut heard = self.heard.lock();
                heard.answered = Some(Instant::now());
                heard.status = Some(status);
            }
            Ok(Err(error)) => return tracing::warn!(%error, "the container runtime does not tell its status"),
            Err(_) => return tracing::warn!("the container runtime does not answer"),
        }
        if self.heard.lock().listed.is_some_and(|at| at.elapsed() < IMAGE_LIST_AGE) {
            return;
        }
        if let Ok(Ok(images)) = tokio::time::timeout(RUNTIME_PATIENCE, runtime.list_images()).await {
            let most = self.kubelet.config.node_status_max_images.unwrap_or(usize::MAX);
            let mut heard = self.heard.lock();
            heard.images = container_images(images, most);
            heard.listed = Some(Instant::now());
        }
    }

    fn health(&self) -> Health {
        let mut problems = self.heard.lock().problems(Instant::now());
        match self.overview.relist_age() {
            None => problems.push("PLEG is not healthy: pleg has yet to be successful".to_owned()),
            Some(age) if age > RELIST_THRESHOLD => problems.push(format!(
                "PLEG is not healthy: pleg was last seen active {}s ago; threshold is {}s",
                age.as_secs(),
                RELIST_THRESHOLD.as_secs()
            )),
            Some(_) => {}
        }
        Health { problems, pressure: self.overview.pressure() }
    }

    /// Makes the node object, or brings labels and taints of an existing one up to date. Tries until it works.
    async fn register(&self) {
        if !self.kubelet.config.register_node {
            let _ = self.look(None).await;
            return;
        }
        let mut delay = Duration::from_millis(100);
        loop {
            match self.try_register().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(node = self.kubelet.config.node_name, %error, "unable to register node with API server");
                }
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(REGISTER_MAX);
        }
    }

    async fn try_register(&self) -> Result<(), kube::Error> {
        let config = &self.kubelet.config;
        let api = self.api();
        let labels = self.machine.labels(config);
        let annotations =
            [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())];
        if let Some(existing) = api.get_opt(&config.node_name).await? {
            let have = existing.metadata.labels.clone().unwrap_or_default();
            if labels.iter().any(|(k, v)| have.get(k) != Some(v)) {
                let patch = json!({"metadata": {"labels": labels}});
                api.patch(&config.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
            }
            return Ok(());
        }
        let mut taints = config.register_with_taints.clone();
        if config.external_cloud {
            taints.push(Taint {
                key: "node.cloudprovider.kubernetes.io/uninitialized".to_owned(),
                value: Some("true".to_owned()),
                effect: "NoSchedule".to_owned(),
                time_added: None,
            });
        }
        let node = Node {
            metadata: ObjectMeta {
                name: Some(config.node_name.clone()),
                labels: Some(labels),
                annotations: Some(annotations.into()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                taints: (!taints.is_empty()).then_some(taints),
                provider_id: Some(config.provider_id.clone()).filter(|p| !p.is_empty()),
                ..NodeSpec::default()
            }),
            status: Some(self.look(None).await),
        };
        match api.create(&PostParams::default(), &node).await {
            Ok(_) => {
                tracing::info!(node = config.node_name, "successfully registered node");
                self.kubelet.node_event(EventType::Normal, "Starting", "Starting kubelet.");
                Ok(())
            }
            Err(error) if client::is_already_exists(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Computes the status often and sends it at the start, when it changed, or when it is time to show life.
    async fn keep_status(&self) {
        let config = &self.kubelet.config;
        let (mut sent, mut last) = (None::<Instant>, None::<NodeStatus>);
        loop {
            let old = self.kubelet.objects.node(&config.node_name).and_then(|n| n.status.clone());
            let status = self.look(old.as_ref().or(last.as_ref())).await;
            let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            let known = old.as_ref().or(last.as_ref());
            let changed = known.is_none_or(|k| substance_of_ours(k) != substance_of_ours(&status));
            if changed || sent.is_none_or(|at| at.elapsed() >= config.node_status_report) {
                self.tell_transitions(known, &status);
                match self.send(&status).await {
                    Ok(()) => {
                        sent = Some(Instant::now());
                        last = Some(status);
                    }
                    Err(error) if client::is_not_found(&error) => self.register().await,
                    Err(error) => tracing::warn!(%error, "error updating node status, will retry"),
                }
            }
            tokio::time::sleep(if ready { config.node_status_update } else { EAGER }).await;
        }
    }

    fn tell_transitions(&self, old: Option<&NodeStatus>, new: &NodeStatus) {
        for condition in new.conditions.iter().flatten() {
            let before = old.and_then(|o| o.conditions.iter().flatten().find(|c| c.type_ == condition.type_));
            if before.is_some_and(|b| b.status == condition.status) {
                continue;
            }
            let name = &self.kubelet.config.node_name;
            let reason = match (condition.type_.as_str(), condition.status.as_str()) {
                ("Ready", "True") => "NodeReady",
                ("Ready", _) => "NodeNotReady",
                _ => condition.reason.as_deref().unwrap_or_default(),
            };
            self.kubelet.node_event(
                EventType::Normal,
                reason,
                &format!("Node {name} status is now: {reason}"),
            );
        }
    }

    async fn send(&self, status: &NodeStatus) -> Result<(), kube::Error> {
        let mut tree = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
        // Addresses merge by type: what is gone must go.
        if let Some(list) = tree.get_mut("addresses").and_then(serde_json::Value::as_array_mut) {
            list.insert(0, json!({"$patch": "replace"}));
        }
        let patch = Patch::Strategic(json!({"status": tree}));
        self.api()
            .patch_status(&self.kubelet.config.node_name, &PatchParams::default(), &patch)
            .await
            .map(|_| ())
    }

    /// Renews the node's lease until shutdown.
    pub async fn keep_lease(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
        let interval = kubelet.config.lease_duration / LEASE_FRACTION;
        loop {
            let pause = match renew(&kubelet).await {
                Ok(true) => interval,
                Ok(false) => EAGER,
                Err(error) => {
                    tracing::warn!(%error, "failed to update lease, will retry");
                    interval.min(Duration::from_secs(2))
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Images as a node lists them: the largest, with a few of their names.
fn container_images(mut images: Vec<cri::api::Image>, most: usize) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    images.truncate(most);
    images
        .into_iter()
        .map(|image| {
            let names = image.repo_digests.into_iter().chain(image.repo_tags).take(MAX_IMAGE_NAMES).collect();
            ContainerImage { names: Some(names), size_bytes: Some(image.size as i64) }
        })
        .collect()
}

/// What of a status is the kubelet's to say: others add conditions and attached volumes.
fn substance_of_ours(status: &NodeStatus) -> NodeStatus {
    const OURS: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
    let mut status = substance(status);
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| OURS.contains(&c.type_.as_str()));
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    }
    status.volumes_attached = None;
    status.volumes_in_use = None;
    status.phase = None;
    status.config = None;
    status.declared_features = None;
    status
}

/// Renews the lease, or makes it; `false` while the node it belongs to is not known yet.
async fn renew(kubelet: &Kubelet) -> Result<bool, kube::Error> {
    let name = &kubelet.config.node_name;
    let api: Api<Lease> = Api::namespaced(kubelet.heartbeats.clone(), LEASE_NAMESPACE);
    let now = MicroTime(Timestamp::now());
    let patch = Patch::Merge(json!({"spec": {
        "holderIdentity": name, "leaseDurationSeconds": kubelet.config.lease_duration.as_secs(), "renewTime": now}}));
    match api.patch(name, &PatchParams::default(), &patch).await {
        Ok(_) => return Ok(true),
        Err(error) if client::is_not_found(&error) => {}
        Err(error) => return Err(error),
    }
    let owner = kubelet.objects.node(name).and_then(|n| n.metadata.uid.clone()).map(|uid| {
        vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.clone(),
            uid,
            ..OwnerReference::default()
        }]
    });
    // Without its node a lease would outlive it: the first ones wait for the registration.
    if owner.is_none() && kubelet.config.register_node {
        return Ok(false);
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: owner,
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(kubelet.config.lease_duration.as_secs() as i32),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    match api.create(&PostParams::default(), &lease).await {
        Ok(_) => Ok(true),
        Err(error) if client::is_already_exists(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_runtime_is_down_after_a_while() {
        let now = Instant::now();
        let down = vec!["container runtime is down".to_owned()];
        assert_eq!(Heard::default().problems(now), down);
        let condition = |status| cri::api::RuntimeCondition {
            r#type: "NetworkReady".into(),
            status,
            reason: "R".into(),
            message: "m".into(),
        };
        let mut heard = Heard { answered: Some(now), ..Heard::default() };
        for (ready, after, expected) in [
            (true, 29, vec![]),
            (true, 30, down),
            (
                false,
                1,
                vec!["container runtime network not ready: NetworkReady=false reason:R message:m".into()],
            ),
        ] {
            let status = cri::api::RuntimeStatus { conditions: vec![condition(ready)] };
            heard.status = Some(cri::api::StatusResponse {
                status: Some(status),
                ..cri::api::StatusResponse::default()
            });
            assert_eq!(heard.problems(now + Duration::from_secs(after)), expected, "{ready} {after}");
        }
    }

    #[test]
    fn conditions_change_only_when_they_must() {
        let at = |s| Timestamp::from_second(s).expect("in range");
        let first = conditions(&Health::default(), &[], at(10));
        assert!(first.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
        let mut with_foreign = first.clone();
        with_foreign.push(NodeCondition {
            type_: "NetworkUnavailable".into(),
            status: "False".into(),
            ..NodeCondition::default()
        });
        let health = Health { problems: vec!["a".into(), "b".into()], pressure: vec!["DiskPressure"] };
        let second = conditions(&health, &with_foreign, at(20));
        let text: Vec<String> = second
            .iter()
            .map(|c| {
                format!(
                    "{}={} {}",
                    c.type_,
                    c.status,
                    c.last_transition_time.as_ref().map_or(0, |t| t.0.as_second())
                )
            })
            .collect();
        assert_eq!(
            text,
            [
                "MemoryPressure=False 10",
                "DiskPressure=True 20",
                "PIDPressure=False 10",
                "Ready=False 20",
                "NetworkUnavailable=False 0"
            ]
        );
        assert_eq!(second[3].message.as_deref(), Some("[a, b]"));
    }
}
