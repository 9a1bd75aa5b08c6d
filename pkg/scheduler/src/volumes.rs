//! Volumes as the scheduler sees them: what pods' claims need of a node.
//!
//! Source: KEP-490 (topology-aware volume scheduling), upstream's `volumebinding` plug-in. What is decided for a pod but
//! not yet seen in the API is *assumed*, as with pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use placement::volumes::{
    BOUND_BY_CONTROLLER, NO_PROVISIONER, SELECTED_NODE, best, class_of_claim, is_bound, is_delayed,
    is_reachable, requested, selected_node, volume_of,
};

use crate::framework::Unfit;
use crate::node::NodeInfo;
use crate::pod::{PodInfo, selector};

type Claim = PersistentVolumeClaim;
type Volume = PersistentVolume;

/// Everything about volumes.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_field_names, reason = "as the API names them")]
pub struct Volumes {
    claims: HashMap<String, Arc<Claim>>,
    volumes: BTreeMap<String, Arc<Volume>>,
    classes: HashMap<String, Arc<StorageClass>>,
    nodes: HashMap<String, Arc<CSINode>>,
    drivers: HashMap<String, Arc<CSIDriver>>,
    capacities: HashMap<String, Arc<CSIStorageCapacity>>,
    /// Decided, not yet seen: volumes with the claims they are for.
    assumed_volumes: HashMap<String, Arc<Volume>>,
    /// Decided, not yet seen: claims with their nodes.
    assumed_claims: HashMap<String, Arc<Claim>>,
}

/// Namespace and name as one key.
fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn key_of(meta: &ObjectMeta) -> String {
    key(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

fn replace<T>(map: &mut HashMap<String, Arc<T>>, key: String, object: Option<Arc<T>>) {
    match object {
        Some(object) => drop(map.insert(key, object)),
        None => drop(map.remove(&key)),
    }
}

impl Volumes {
    /// Takes over a claim, or that it is gone.
    pub fn set_claim(&mut self, meta: &ObjectMeta, claim: Option<Arc<Claim>>) {
        self.assumed_claims.remove(&key_of(meta));
        replace(&mut self.claims, key_of(meta), claim);
    }

    /// Takes over a volume, or that it is gone.
    pub fn set_volume(&mut self, meta: &ObjectMeta, volume: Option<Arc<Volume>>) {
        let name = meta.name.clone().unwrap_or_default();
        self.assumed_volumes.remove(&name);
        match volume {
            Some(volume) => drop(self.volumes.insert(name, volume)),
            None => drop(self.volumes.remove(&name)),
        }
    }

    /// Takes over a storage class, or that it is gone.
    pub fn set_class(&mut self, meta: &ObjectMeta, class: Option<Arc<StorageClass>>) {
        replace(&mut self.classes, meta.name.clone().unwrap_or_default(), class);
    }

    /// Takes over what drivers say of a node, or that it is gone.
    pub fn set_csi_node(&mut self, meta: &ObjectMeta, node: Option<Arc<CSINode>>) {
        replace(&mut self.nodes, meta.name.clone().unwrap_or_default(), node);
    }

    /// Takes over a driver, or that it is gone.
    pub fn set_driver(&mut self, meta: &ObjectMeta, driver: Option<Arc<CSIDriver>>) {
        replace(&mut self.drivers, meta.name.clone().unwrap_or_default(), driver);
    }

    /// Takes over how much storage a driver has somewhere, or that it is gone.
    pub fn set_capacity(&mut self, meta: &ObjectMeta, capacity: Option<Arc<CSIStorageCapacity>>) {
        replace(&mut self.capacities, key_of(meta), capacity);
    }

    /// A claim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<Claim>> {
        let key = key(namespace, name);
        self.assumed_claims.get(&key).or_else(|| self.claims.get(&key))
    }

    /// A volume.
    pub fn volume(&self, name: &str) -> Option<&Arc<Volume>> {
        self.assumed_volumes.get(name).or_else(|| self.volumes.get(name))
    }

    /// The storage class of a claim.
    pub fn class(&self, claim: &Claim) -> Option<&Arc<StorageClass>> {
        self.classes.get(class_of_claim(claim))
    }

    /// What drivers say of a node.
    pub fn csi_node(&self, name: &str) -> Option<&Arc<CSINode>> {
        self.nodes.get(name)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.volumes.iter().map(|(name, volume)| self.assumed_volumes.get(name).unwrap_or(volume))
    }

    /// Counts a plan as carried out.
    pub fn assume(&mut self, plan: &Plan) {
        for (_, volume) in &plan.bind {
            self.assumed_volumes.insert(volume.metadata.name.clone().unwrap_or_default(), volume.clone());
        }
        for claim in &plan.provision {
            self.assumed_claims.insert(key_of(&claim.metadata), claim.clone());
        }
    }

    /// Takes an assumed plan back.
    pub fn forget(&mut self, plan: &Plan) {
        for (_, volume) in &plan.bind {
            self.assumed_volumes.remove(volume.metadata.name.as_deref().unwrap_or_default());
        }
        for claim in &plan.provision {
            self.assumed_claims.remove(&key_of(&claim.metadata));
        }
    }

    /// Whether every claim of a pod is bound; an error when that can no longer be expected on the node.
    pub fn settled(&self, pod: &PodInfo, node: &str) -> Result<bool, String> {
        for (name, _) in &pod.claims {
            let Some(claim) = self.claim(&pod.namespace, name) else {
                return Err(format!("persistentvolumeclaim {name:?} not found"));
            };
            if is_bound(claim) {
                continue;
            }
            if volume_of(claim).is_empty()
                && !self.all().any(|volume| placement::volumes::is_for(volume, claim))
                && selected_node(claim) != Some(node)
            {
                return Err(format!("provisioning failed for PVC {name:?}"));
            }
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether a driver that counts its storage has enough for a claim on a node.
    fn has_room(&self, class: &StorageClass, claim: &Claim, node: &NodeInfo) -> bool {
        let counts = self
            .drivers
            .get(&class.provisioner)
            .and_then(|driver| driver.spec.storage_capacity)
            .unwrap_or(false);
        if !counts {
            return true;
        }
        let size = requested(claim);
        let class_name = class.metadata.name.as_deref().unwrap_or_default();
        self.capacities.values().any(|capacity| {
            let limit = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
            capacity.storage_class_name == class_name
                && limit.and_then(|limit| limit.0.parse().ok()).is_some_and(|limit| size <= limit)
                && capacity
                    .node_topology
                    .as_ref()
                    .is_some_and(|topology| selector(Some(topology)).matches(&Some(&node.labels)))
        })
    }
}

/// What a pod's claims need, before a node is known.
#[derive(Debug, Default)]
pub struct Needs {
    /// Volumes that are bound already; `None` for one that does not exist.
    bound: Vec<Option<Arc<Volume>>>,
    /// Claims that are bound once the node is known.
    open: Vec<Arc<Claim>>,
}

/// What is written to have a pod's claims bound on its node.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Volumes, with the claim reference they get, beside the claims.
    pub bind: Vec<(Arc<Claim>, Arc<Volume>)>,
    /// Claims, with the node they get a volume on.
    pub provision: Vec<Arc<Claim>>,
    /// Whether a volume is being made for this node already.
    pub awaited: bool,
}

impl Plan {
    /// Nothing has to be written or waited for.
    pub fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty() && !self.awaited
    }
}

/// What a pod's claims need; an error when no node will do.
pub fn needs(pod: &PodInfo, volumes: &Volumes) -> Result<Needs, Unfit> {
    let mut needs = Needs::default();
    for (name, is_ephemeral) in &pod.claims {
        let Some(claim) = volumes.claim(&pod.namespace, name) else {
            let waits = if *is_ephemeral {
                format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                )
            } else {
                format!("persistentvolumeclaim {name:?} not found")
            };
            return Err(Unfit::never(waits));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(Unfit::never(format!("persistentvolumeclaim {name:?} is being deleted")));
        }
        let owned = || {
            let owners = claim.metadata.owner_references.iter().flatten();
            owners.into_iter().any(|owner| owner.controller == Some(true) && owner.uid == pod.uid)
        };
        if *is_ephemeral && !owned() {
            let text = format!("PVC {name:?} was not created for pod {:?} (pod is not owner)", pod.name);
            return Err(Unfit::never(text));
        }
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            let text = format!(
                "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}",
                volume_of(claim)
            );
            return Err(Unfit::never(text));
        }
        if is_bound(claim) {
            needs.bound.push(volumes.volume(volume_of(claim)).cloned());
        } else if volume_of(claim).is_empty() && is_delayed(volumes.class(claim).map(AsRef::as_ref)) {
            needs.open.push(claim.clone());
        } else {
            return Err(Unfit::never("pod has unbound immediate PersistentVolumeClaims"));
        }
    }
    // The largest choose last: what is left for them is what is large.
    needs.open.sort_by_key(|claim| requested(claim));
    Ok(needs)
}

/// A volume as it will be for a claim.
fn reserved(volume: &Volume, claim: &Claim) -> Volume {
    let mut held = volume.clone();
    let meta = &claim.metadata;
    held.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    });
    held.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    held
}

/// How a pod's claims would be bound on a node; an error when they cannot be.
pub fn plan(needs: &Needs, node: &NodeInfo, volumes: &Volumes) -> Result<Plan, Unfit> {
    const NONE: &str = "node(s) didn't find available persistent volumes to bind";
    for volume in &needs.bound {
        let Some(volume) = volume else {
            return Err(Unfit::never(
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            ));
        };
        if !is_reachable(volume, &node.labels, &node.name) {
            return Err(Unfit::never("node(s) didn't match PersistentVolume's node affinity"));
        }
    }
    let (mut plan, mut taken) = (Plan::default(), BTreeSet::new());
    for claim in &needs.open {
        if let Some(chosen) = selected_node(claim) {
            // Its volume is being made for that node.
            if chosen != node.name {
                return Err(Unfit::never(NONE));
            }
            plan.awaited = true;
            continue;
        }
        let usable = volumes.all().filter(|volume| {
            !taken.contains(&volume.metadata.name) && is_reachable(volume, &node.labels, &node.name)
        });
        if let Some(volume) = best(usable, claim) {
            taken.insert(volume.metadata.name.clone());
            plan.bind.push((claim.clone(), Arc::new(reserved(volume, claim))));
            continue;
        }
        let class = volumes.class(claim).filter(|class| class.provisioner != NO_PROVISIONER);
        let Some(class) = class.filter(|class| allows(class, node)) else { return Err(Unfit::never(NONE)) };
        if !volumes.has_room(class, claim, node) {
            return Err(Unfit::never("node(s) did not have enough free storage"));
        }
        let mut chosen = Claim::clone(claim);
        chosen.metadata.annotations.get_or_insert_default().insert(SELECTED_NODE.into(), node.name.clone());
        plan.provision.push(Arc::new(chosen));
    }
    Ok(plan)
}

/// Whether a class makes volumes for a node (`allowedTopologies`).
fn allows(class: &StorageClass, node: &NodeInfo) -> bool {
    let Some(terms) = class.allowed_topologies.as_ref().filter(|terms| !terms.is_empty()) else {
        return true;
    };
    terms.iter().any(|term| {
        let expressions = term.match_label_expressions.as_deref().unwrap_or(&[]);
        !expressions.is_empty()
            && expressions
                .iter()
                .all(|e| node.labels.get(&e.key).is_some_and(|value| e.values.contains(value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod, snapshot};
    use serde_json::{Value, json};

    fn volumes(objects: &[Value]) -> Volumes {
        let mut all = Volumes::default();
        for object in objects {
            let mut object = object.clone();
            let kind = object.as_object_mut().and_then(|map| map.remove("kind"));
            match kind.as_ref().and_then(Value::as_str) {
                Some("PVC") => {
                    let claim: Arc<Claim> = Arc::new(serde_json::from_value(object).expect("a claim"));
                    all.set_claim(&claim.metadata.clone(), Some(claim));
                }
                Some("PV") => {
                    let volume: Arc<Volume> = Arc::new(serde_json::from_value(object).expect("a volume"));
                    all.set_volume(&volume.metadata.clone(), Some(volume));
                }
                _ => {
                    let class: Arc<StorageClass> = Arc::new(serde_json::from_value(object).expect("a class"));
                    all.set_class(&class.metadata.clone(), Some(class));
                }
            }
        }
        all
    }

    fn claim(name: &str, size: &str) -> Value {
        json!({"kind": "PVC", "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "late",
                "resources": {"requests": {"storage": size}}}})
    }

    fn local(name: &str, size: &str, host: &str) -> Value {
        json!({"kind": "PV", "metadata": {"name": name}, "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "late",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}}})
    }

    fn class(provisioner: &str) -> Value {
        json!({"kind": "SC", "metadata": {"name": "late"}, "provisioner": provisioner,
            "volumeBindingMode": "WaitForFirstConsumer"})
    }

    fn user(claims: &[&str]) -> PodInfo {
        let volumes: Vec<Value> = claims
            .iter()
            .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
            .collect();
        pod("user").spec("volumes", json!(volumes)).build()
    }

    fn planned(all: &Volumes, claims: &[&str], host: &str) -> Result<(Vec<String>, usize), String> {
        let nodes = snapshot(vec![node(host)], vec![]).nodes;
        let needs = needs(&user(claims), all).map_err(|unfit| unfit.reasons.join(","))?;
        let plan = plan(&needs, &nodes[0], all).map_err(|unfit| unfit.reasons.join(","))?;
        let names = plan.bind.iter().filter_map(|(_, volume)| volume.metadata.name.clone()).collect();
        Ok((names, plan.provision.len()))
    }

    #[test]
    fn each_claim_gets_the_smallest_volume_of_the_node_that_fits() {
        let mut all = volumes(&[
            class(NO_PROVISIONER),
            claim("a", "1Gi"),
            claim("b", "5Gi"),
            local("big", "9Gi", "n1"),
            local("small", "2Gi", "n1"),
            local("far", "1Gi", "n2"),
        ]);
        assert_eq!(planned(&all, &["b", "a"], "n1"), Ok((vec!["small".into(), "big".into()], 0)));
        let none = "node(s) didn't find available persistent volumes to bind";
        assert_eq!(planned(&all, &["a", "b"], "n2"), Err(none.into()));
        // what was decided for one pod is not given to the next
        let nodes = snapshot(vec![node("n1")], vec![]).nodes;
        let first = plan(&needs(&user(&["a"]), &all).expect("needs"), &nodes[0], &all).expect("a plan");
        all.assume(&first);
        assert_eq!(planned(&all, &["b"], "n1"), Ok((vec!["big".into()], 0)));
        all.forget(&first);
        assert_eq!(planned(&all, &["a"], "n1"), Ok((vec!["small".into()], 0)));
    }

    #[test]
    fn claims_are_provisioned_where_the_class_can() {
        let all = volumes(&[class("example.com/disk"), claim("a", "1Gi")]);
        assert_eq!(planned(&all, &["a"], "n1"), Ok((vec![], 1)));
        let mut limited = class("example.com/disk");
        limited["allowedTopologies"] =
            json!([{"matchLabelExpressions": [{"key": "kubernetes.io/hostname", "values": ["n2"]}]}]);
        let all = volumes(&[limited, claim("a", "1Gi")]);
        assert!(planned(&all, &["a"], "n1").is_err());
        let mut chosen = claim("a", "1Gi");
        chosen["metadata"]["annotations"] = json!({SELECTED_NODE: "n1"});
        let all = volumes(&[class("example.com/disk"), chosen]);
        assert_eq!(planned(&all, &["a"], "n1"), Ok((vec![], 0)));
        assert!(planned(&all, &["a"], "n2").is_err());
    }

    #[test]
    fn what_no_node_can_mend_rejects_the_pod() {
        let mut early = class("example.com/disk");
        early["volumeBindingMode"] = json!("Immediate");
        let all = volumes(&[early, claim("a", "1Gi")]);
        assert_eq!(
            planned(&all, &["a"], "n1"),
            Err("pod has unbound immediate PersistentVolumeClaims".into())
        );
        assert_eq!(planned(&all, &["b"], "n1"), Err("persistentvolumeclaim \"b\" not found".into()));
        let mut lost = claim("a", "1Gi");
        lost["spec"]["volumeName"] = json!("gone");
        lost["status"] = json!({"phase": "Lost"});
        let text = "persistentvolumeclaim \"a\" bound to non-existent persistentvolume \"gone\"";
        assert_eq!(planned(&volumes(&[lost]), &["a"], "n1"), Err(text.into()));
    }

    #[test]
    fn bound_claims_hold_pods_to_their_volumes_nodes() {
        let mut bound = claim("a", "1Gi");
        bound["spec"]["volumeName"] = json!("v");
        bound["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
        let all = volumes(&[bound, local("v", "1Gi", "n1")]);
        assert_eq!(planned(&all, &["a"], "n1"), Ok((vec![], 0)));
        let text = "node(s) didn't match PersistentVolume's node affinity";
        assert_eq!(planned(&all, &["a"], "n2"), Err(text.into()));
        assert_eq!(all.settled(&user(&["a"]), "n1"), Ok(true));
        let open = volumes(&[class("example.com/disk"), claim("a", "1Gi")]);
        assert!(open.settled(&user(&["a"]), "n1").is_err(), "nobody will make its volume");
    }
}
