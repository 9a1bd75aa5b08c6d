//! Which volume suits which claim, and on which nodes a volume can be used.
//!
//! Source: "Persistent Volumes", `k8s.io/component-helpers/storage/volume`.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use apimachinery::selectors::LabelSelector;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::nodes::{Labels, NodeRequirement};

/// On a claim whose binding the controller has completed.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a volume or claim that the controller, not the user, has bound.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim whose volume is to be provisioned for a node: the scheduler's choice.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The storage class, from before there was a field for it.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

type Claim = PersistentVolumeClaim;
type Volume = PersistentVolume;

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The storage class a claim asks for; empty for none.
pub fn class_of_claim(claim: &Claim) -> &str {
    annotation(&claim.metadata, CLASS_ANNOTATION)
        .or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
        .unwrap_or("")
}

/// The storage class of a volume; empty for none.
pub fn class_of_volume(volume: &Volume) -> &str {
    annotation(&volume.metadata, CLASS_ANNOTATION)
        .or_else(|| volume.spec.as_ref()?.storage_class_name.as_deref())
        .unwrap_or("")
}

/// The volume a claim names; empty for none.
pub fn volume_of(claim: &Claim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("")
}

/// Whether the claim and its volume name each other, and the controller has said so.
pub fn is_bound(claim: &Claim) -> bool {
    !volume_of(claim).is_empty() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// The node the scheduler has chosen for a claim's volume.
pub fn selected_node(claim: &Claim) -> Option<&str> {
    annotation(&claim.metadata, SELECTED_NODE).filter(|node| !node.is_empty())
}

/// Whether claims of the class are bound only once a pod that uses them is scheduled.
pub fn is_delayed(class: Option<&StorageClass>) -> bool {
    class.and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
}

/// Whether a volume is kept for a claim: reserved by name, or bound to this very claim.
pub fn is_for(volume: &Volume, claim: &Claim) -> bool {
    let Some(held) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    held.name == claim.metadata.name
        && held.namespace == claim.metadata.namespace
        && held.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
}

/// Whether nobody has claimed a volume.
pub fn is_unclaimed(volume: &Volume) -> bool {
    volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none())
}

fn storage(list: Option<&BTreeMap<String, ApiQuantity>>) -> Quantity {
    list.and_then(|list| list.get("storage")).and_then(|text| text.0.parse().ok()).unwrap_or_default()
}

/// A volume's capacity.
pub fn capacity(volume: &Volume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

/// How much a claim asks for.
pub fn requested(claim: &Claim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(resources.and_then(|resources| resources.requests.as_ref()))
}

/// Whether a volume is what a claim asks for: class, mode, access modes, size, labels.
pub fn fits(volume: &Volume, claim: &Claim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else { return false };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    let attributes = |name: &Option<String>| name.clone().unwrap_or_default();
    let modes = has.access_modes.as_deref().unwrap_or(&[]);
    let selected = || {
        let Some(wanted) = &wants.selector else { return true };
        apimachinery::to_value(wanted)
            .ok()
            .and_then(|value| LabelSelector::from_value(Some(&value)).ok())
            .is_some_and(|selector| selector.matches(&volume.metadata.labels.as_ref()))
    };
    volume.metadata.deletion_timestamp.is_none()
        && class_of_volume(volume) == class_of_claim(claim)
        && mode(&has.volume_mode) == mode(&wants.volume_mode)
        && attributes(&has.volume_attributes_class_name) == attributes(&wants.volume_attributes_class_name)
        && wants.access_modes.iter().flatten().all(|mode| modes.contains(mode))
        && capacity(volume) >= requested(claim)
        && selected()
}

/// Whether a volume can be used on a node.
pub fn is_reachable(volume: &Volume, labels: &Labels, node: &str) -> bool {
    let required = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    required.is_none_or(|selector| NodeRequirement::of_selector(selector).matches(labels, node))
}

/// Of the volumes, the one for a claim: that which is kept for it, or else the smallest that fits.
pub fn best<'a, V: AsRef<Volume>>(volumes: impl Iterator<Item = &'a V>, claim: &Claim) -> Option<&'a V> {
    let mut smallest: Option<&V> = None;
    for volume in volumes {
        let this = volume.as_ref();
        if is_for(this, claim) && this.metadata.deletion_timestamp.is_none() {
            return Some(volume);
        }
        if !is_unclaimed(this) || !fits(this, claim) {
            continue;
        }
        let key = |v: &V| (capacity(v.as_ref()), v.as_ref().metadata.name.clone());
        if smallest.is_none_or(|held| key(volume) < key(held)) {
            smallest = Some(volume);
        }
    }
    smallest
}

/// Names of the claims a pod uses, those made for its ephemeral volumes included, each with whether it is of the latter.
pub fn claims_of(pod: &Pod) -> Vec<(String, bool)> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => Some((source.claim_name.clone(), false)),
            (None, Some(_)) => Some((format!("{name}-{}", volume.name), true)),
            (None, None) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn volume(name: &str, size: &str, more: Value) -> Arc<Volume> {
        let mut spec =
            json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a volume"))
    }

    fn claim(size: &str) -> Claim {
        serde_json::from_value(json!({
            "metadata": {"name": "want", "namespace": "ns", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c", "resources": {"requests": {"storage": size}}},
        }))
        .expect("a claim")
    }

    #[test]
    fn the_volume_kept_for_a_claim_wins_then_the_smallest_that_fits() {
        let free = vec![
            volume("big", "10Gi", json!({})),
            volume("small", "1Gi", json!({})),
            volume("fit", "5Gi", json!({})),
            volume("other", "5Gi", json!({"storageClassName": "x"})),
            volume("taken", "4Gi", json!({"claimRef": {"name": "them", "namespace": "ns"}})),
        ];
        let name = |found: Option<&Arc<Volume>>| found.and_then(|v| v.metadata.name.clone());
        assert_eq!(name(best(free.iter(), &claim("4Gi"))).as_deref(), Some("fit"));
        assert_eq!(name(best(free.iter(), &claim("20Gi"))), None);
        let mut kept = free;
        kept.push(volume("kept", "9Gi", json!({"claimRef": {"name": "want", "namespace": "ns"}})));
        assert_eq!(name(best(kept.iter(), &claim("4Gi"))).as_deref(), Some("kept"));
    }

    #[test]
    fn volumes_of_one_node_are_used_there() {
        let local = volume(
            "v",
            "1Gi",
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "host", "operator": "In", "values": ["n1"]}]}]}}}),
        );
        let labels = |host: &str| Labels::from([("host".to_owned(), host.to_owned())]);
        assert!(is_reachable(&local, &labels("n1"), "n1"));
        assert!(!is_reachable(&local, &labels("n2"), "n2"));
    }
}
