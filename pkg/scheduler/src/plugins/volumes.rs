//! Volumes: what claims need of nodes, disks that one pod at a time may use, zones, and how many a node can attach.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};
use placement::volumes::volume_of;

use crate::cache::Snapshot;
use crate::framework::{Change, Filter, Plugin, Unfit};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::volumes::{Volumes, needs, plan};

/// Claims and volumes find each other ([`crate::volumes`]).
#[derive(Debug)]
pub(super) struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Filter<'a> {
        if pod.claims.is_empty() {
            return Filter::Skip;
        }
        match needs(pod, &snapshot.volumes) {
            Ok(needs) => Filter::Each(Box::new(move |node| plan(&needs, node, &snapshot.volumes).map(drop))),
            Err(unfit) => Filter::Reject(unfit),
        }
    }

    fn wakes(&self, change: &Change<'_>, _: &PodInfo, _: &Snapshot) -> bool {
        match change {
            Change::Storage => true,
            Change::Node(_, what) => what.added || what.labels,
            _ => false,
        }
    }
}

fn claims<'a>(pod: &'a PodInfo, volumes: &'a Volumes) -> impl Iterator<Item = &'a PersistentVolumeClaim> {
    pod.claims.iter().filter_map(|(name, _)| volumes.claim(&pod.namespace, name).map(AsRef::as_ref))
}

/// Kinds of disks that pods of a node can share only to read, and claims that one pod of the cluster may use.
#[derive(Debug)]
pub(super) struct VolumeRestrictions;

/// Whether two pods cannot have these disks on one node.
fn conflict(one: &Volume, other: &Volume) -> bool {
    let writes = |a: Option<bool>, b: Option<bool>| !(a.unwrap_or(false) && b.unwrap_or(false));
    if let (Some(a), Some(b)) = (&one.gce_persistent_disk, &other.gce_persistent_disk) {
        return a.pd_name == b.pd_name && writes(a.read_only, b.read_only);
    }
    if let (Some(a), Some(b)) = (&one.aws_elastic_block_store, &other.aws_elastic_block_store) {
        return a.volume_id == b.volume_id;
    }
    if let (Some(a), Some(b)) = (&one.iscsi, &other.iscsi) {
        return a.iqn == b.iqn && writes(a.read_only, b.read_only);
    }
    if let (Some(a), Some(b)) = (&one.rbd, &other.rbd) {
        return a.monitors.iter().any(|monitor| b.monitors.contains(monitor))
            && a.pool == b.pool
            && a.image == b.image
            && writes(a.read_only, b.read_only);
    }
    false
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Filter<'a> {
        let alone: BTreeSet<&str> = claims(pod, &snapshot.volumes)
            .filter(|claim| {
                let modes = claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten());
                modes.into_iter().any(|mode| mode == "ReadWriteOncePod")
            })
            .filter_map(|claim| claim.metadata.name.as_deref())
            .collect();
        if alone.is_empty() && pod.disks.is_empty() {
            return Filter::Skip;
        }
        let shares = !alone.is_empty();
        let uses = move |other: &PodInfo| {
            other.namespace == pod.namespace
                && other.claims.iter().any(|(name, _)| alone.contains(name.as_str()))
        };
        let used = shares && snapshot.nodes.iter().any(|node| node.pods.iter().any(|p| uses(p)));
        Filter::Each(Box::new(move |node| {
            let mut theirs = node.pods.iter().flat_map(|other| &other.disks);
            if theirs.any(|disk| pod.disks.iter().any(|own| conflict(own, disk))) {
                return Err(Unfit::now("node(s) had no available disk"));
            }
            if !used {
                return Ok(());
            }
            let text = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
            // Evicting helps only where the other pod is.
            Err(if node.pods.iter().any(|other| uses(other)) { Unfit::now(text) } else { Unfit::never(text) })
        }))
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo, _: &Snapshot) -> bool {
        match change {
            Change::Storage => !pod.claims.is_empty(),
            Change::PodDelete(gone) => {
                gone.disks.iter().any(|disk| pod.disks.iter().any(|own| conflict(own, disk)))
                    || (gone.namespace == pod.namespace
                        && gone.claims.iter().any(|(name, _)| pod.claims.iter().any(|(own, _)| own == name)))
            }
            Change::Node(_, what) => what.added,
            Change::PodAdd(_) => false,
        }
    }
}

/// Volumes that exist in a zone or region are used there.
#[derive(Debug)]
pub(super) struct VolumeZone;

const ZONES: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// Today's name of a zone label.
fn current(label: &'static str) -> &'static str {
    match label {
        "failure-domain.beta.kubernetes.io/zone" => ZONES[0],
        "failure-domain.beta.kubernetes.io/region" => ZONES[1],
        other => other,
    }
}

fn zones_of(volume: &PersistentVolume) -> impl Iterator<Item = (&'static str, BTreeSet<&str>)> {
    let labels = volume.metadata.labels.as_ref();
    ZONES.into_iter().filter_map(move |label| Some((label, labels?.get(label)?.split("__").collect())))
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Filter<'a> {
        let needed: Vec<(&str, BTreeSet<&str>)> = claims(pod, &snapshot.volumes)
            .filter_map(|claim| snapshot.volumes.volume(volume_of(claim)))
            .flat_map(|volume| zones_of(volume))
            .collect();
        if needed.is_empty() {
            return Filter::Skip;
        }
        Filter::Each(Box::new(move |node: &NodeInfo| {
            // A node without any zone label is in a cluster of one zone.
            if !ZONES.iter().any(|label| node.labels.contains_key(*label)) {
                return Ok(());
            }
            let fits = needed.iter().all(|(label, zones)| {
                let held = node.labels.get(*label).or_else(|| node.labels.get(current_static(label)));
                held.is_some_and(|zone| zones.contains(zone.as_str()))
            });
            if fits { Ok(()) } else { Err(Unfit::never("node(s) had no available volume zone")) }
        }))
    }

    fn wakes(&self, change: &Change<'_>, _: &PodInfo, _: &Snapshot) -> bool {
        match change {
            Change::Storage => true,
            Change::Node(_, what) => what.added || what.labels,
            _ => false,
        }
    }
}

/// The same for a label that came from [`ZONES`].
fn current_static(label: &str) -> &'static str {
    ZONES.into_iter().find(|known| *known == label).map_or(ZONES[0], current)
}

/// How many volumes of a CSI driver a node can attach (`CSINode`).
#[derive(Debug)]
pub(super) struct NodeVolumeLimits;

/// The driver and the handle of a claim's volume, bound or yet to be made.
fn attached<'a>(claim: &'a PersistentVolumeClaim, volumes: &'a Volumes) -> Option<(&'a str, String)> {
    if let Some(volume) = volumes.volume(volume_of(claim)) {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        return Some((&csi.driver, csi.volume_handle.clone()));
    }
    let meta = &claim.metadata;
    let name = format!("{}/{}", meta.namespace.as_deref()?, meta.name.as_deref()?);
    Some((&volumes.class(claim)?.provisioner, name))
}

fn attached_by<'a>(pod: &'a PodInfo, volumes: &'a Volumes) -> impl Iterator<Item = (&'a str, String)> {
    claims(pod, volumes).filter_map(|claim| attached(claim, volumes))
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Filter<'a> {
        let wanted: BTreeSet<(&str, String)> = attached_by(pod, &snapshot.volumes).collect();
        if wanted.is_empty() {
            return Filter::Skip;
        }
        Filter::Each(Box::new(move |node| {
            let Some(csi) = snapshot.volumes.csi_node(&node.name) else { return Ok(()) };
            let limits: BTreeMap<&str, usize> = csi
                .spec
                .drivers
                .iter()
                .filter_map(|driver| {
                    let count = driver.allocatable.as_ref()?.count?;
                    Some((driver.name.as_str(), usize::try_from(count).unwrap_or(0)))
                })
                .collect();
            if limits.is_empty() {
                return Ok(());
            }
            let held: BTreeSet<(&str, String)> =
                node.pods.iter().flat_map(|other| attached_by(other, &snapshot.volumes)).collect();
            for (driver, limit) in limits {
                let of = |set: &BTreeSet<(&str, String)>| set.iter().filter(|(d, _)| *d == driver).count();
                let new = wanted.difference(&held).filter(|(d, _)| *d == driver).count();
                if new > 0 && of(&held) + new > limit {
                    return Err(Unfit::now("node(s) exceed max volume count"));
                }
            }
            Ok(())
        }))
    }

    fn wakes(&self, change: &Change<'_>, _: &PodInfo, _: &Snapshot) -> bool {
        match change {
            Change::Storage => true,
            Change::PodDelete(gone) => !gone.claims.is_empty(),
            Change::Node(_, what) => what.added,
            Change::PodAdd(_) => false,
        }
    }
}
