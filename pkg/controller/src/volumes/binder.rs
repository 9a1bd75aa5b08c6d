//! The persistent volume binder: finds a volume for each claim, and says in what phase both are.
//!
//! Behaviour after upstream's `pkg/controller/volume/persistentvolume`, for volumes that exist or that external
//! provisioners make; in-tree provisioning and recycling are gone. [`decide`] and [`volume_phase`] are pure.

use std::sync::Arc;

use client::events::{EventRecorder, EventType, reference};
use client::rest::Rest;
use client::workqueue::WorkQueue;
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use placement::volumes::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, NO_PROVISIONER, best, class_of_claim, is_delayed, is_for,
    is_unclaimed, selected_node, volume_of,
};
use serde_json::Value;

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::resources::{CLAIMS, VOLUMES};

const PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

type Claim = PersistentVolumeClaim;
type Volume = PersistentVolume;

/// What a claim needs.
#[derive(Debug, PartialEq)]
enum Step {
    /// Bind it to this volume (or finish doing so).
    Bind(Arc<Volume>),
    /// Its volume is gone, or somebody else's: event reason and note.
    Lost(&'static str, &'static str),
    /// It waits; the event says for what.
    Wait(EventType, &'static str, String),
    /// It waits for this external provisioner.
    Provision(String),
}

fn decide(claim: &Claim, volumes: &[Arc<Volume>], class: Option<&StorageClass>) -> Step {
    let wait = |kind, reason, note: &str| Step::Wait(kind, reason, note.to_owned());
    let completed = claim.annotations().contains_key(BIND_COMPLETED);
    let name = volume_of(claim);
    if !name.is_empty() {
        let volume = volumes.iter().find(|volume| volume.name_any() == name);
        return match volume {
            Some(volume) if is_for(volume, claim) || (!completed && is_unclaimed(volume)) => {
                Step::Bind(volume.clone())
            }
            None if completed => Step::Lost(
                "ClaimLost",
                "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
            ),
            Some(_) if completed => Step::Lost(
                "ClaimMisbound",
                "Two claims are bound to the same volume, this one is bound incorrectly",
            ),
            Some(_) => Step::Wait(
                EventType::Warning,
                "FailedBinding",
                format!("volume {name:?} already bound to a different claim."),
            ),
            None => {
                Step::Wait(EventType::Warning, "FailedBinding", format!("volume {name:?} does not exist"))
            }
        };
    }
    // one that is reserved for the claim wins, then the smallest that fits; the latter is the scheduler's choice for
    // claims that wait for a pod
    let delayed = is_delayed(class);
    let usable = volumes.iter().filter(|volume| !delayed || is_for(volume, claim));
    if let Some(volume) = best(usable, claim) {
        return Step::Bind(volume.clone());
    }
    if delayed && selected_node(claim).is_none() {
        let note = "waiting for first consumer to be created before binding";
        return wait(EventType::Normal, "WaitForFirstConsumer", note);
    }
    match (class_of_claim(claim), class) {
        ("", _) => wait(
            EventType::Normal,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        ),
        (name, None) => Step::Wait(
            EventType::Warning,
            "ProvisioningFailed",
            format!("storageclass.storage.k8s.io {name:?} not found"),
        ),
        (_, Some(class)) if class.provisioner == NO_PROVISIONER => {
            wait(EventType::Normal, "FailedBinding", "no persistent volumes available for this claim")
        }
        (_, Some(class)) => Step::Provision(class.provisioner.clone()),
    }
}

/// The phase of a volume, given the claim it names if that exists.
fn volume_phase(volume: &Volume, claim: Option<&Claim>) -> &'static str {
    let Some(held) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return "Available";
    };
    if held.uid.as_ref().is_none_or(String::is_empty) {
        return "Available";
    }
    match claim {
        Some(claim) if claim.metadata.uid == held.uid => "Bound",
        _ => "Released",
    }
}

struct Controller {
    claims: Store<Claim>,
    volumes: Store<Volume>,
    classes: Store<StorageClass>,
    rest: Rest,
    recorder: EventRecorder,
}

/// Starts the controller. Keys with a namespace are claims, those without are volumes.
pub(crate) fn start(context: &Context) {
    let queue = WorkQueue::new("persistentvolume_binder");
    let claims = context.informer::<Claim>();
    let volumes = context.informer::<Volume>();
    let classes = context.informer::<StorageClass>();
    let (adds, all_volumes) = (queue.clone(), volumes.store());
    claims.on_event(move |event| {
        let claim = event.object();
        if !matches!(event, Event::Deleted(_)) {
            adds.add(Key::of(&**claim));
        }
        for volume in all_volumes.list().iter().filter(|volume| is_for(volume, claim)) {
            adds.add(Key::of(&**volume));
        }
    });
    let (adds, all_claims) = (queue.clone(), claims.store());
    volumes.on_event(move |event| {
        let volume = event.object();
        if !matches!(event, Event::Deleted(_)) {
            adds.add(Key::of(&**volume));
        }
        // the volume's claim, and every claim that still looks for one
        for claim in all_claims.list() {
            let waits = !claim.annotations().contains_key(BIND_COMPLETED);
            if waits || is_for(volume, &claim) {
                adds.add(Key::of(&*claim));
            }
        }
    });
    let (adds, all_claims) = (queue.clone(), claims.store());
    classes.on_event(move |event| {
        let name = event.object().name_any();
        for claim in all_claims.list().iter().filter(|claim| class_of_claim(claim) == name) {
            adds.add(Key::of(&**claim));
        }
    });
    let controller = Controller {
        claims: claims.store(),
        volumes: volumes.store(),
        classes: classes.store(),
        rest: context.rest("persistent-volume-binder"),
        recorder: context.recorder("persistentvolume-controller"),
    };
    // one worker: two claims must not be given one volume
    context.work("persistentvolume-binder-controller", &queue, 1, Arc::new(controller));
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        if key.namespace.is_empty() { self.sync_volume(key).await } else { self.sync_claim(key).await }
    }

    async fn sync_volume(&self, key: &Key) -> SyncResult {
        let Some(volume) = self.volumes.get("", &key.name) else { return Ok(Next::OnChange) };
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).and_then(|held| {
            self.claims.get(held.namespace.as_deref().unwrap_or(""), held.name.as_deref().unwrap_or(""))
        });
        let phase = volume_phase(&volume, claim.as_deref());
        let held = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if held != Some(phase) {
            let mut changed = (*volume).clone();
            changed.status.get_or_insert_default().phase = Some(phase.to_owned());
            Self::write(self.rest.update(&VOLUMES, "status", &changed).await)?;
        }
        Ok(Next::OnChange)
    }

    /// An answer, `None` when the object is gone by now.
    fn write(answer: Result<Value, kube::Error>) -> Result<Option<Value>, SyncError> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn sync_claim(&self, key: &Key) -> SyncResult {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(Next::OnChange) };
        let class = self.classes.get("", class_of_claim(&claim));
        let about = reference(&*claim);
        match decide(&claim, &self.volumes.list(), class.as_deref()) {
            Step::Bind(volume) => self.bind(&claim, &volume).await?,
            Step::Lost(reason, note) => {
                if self.set_phase(&claim, "Lost").await? {
                    self.recorder.event(&about, EventType::Warning, reason, "", note);
                }
            }
            Step::Wait(kind, reason, note) => {
                self.set_phase(&claim, "Pending").await?;
                self.recorder.event(&about, kind, reason, "", note);
            }
            Step::Provision(provisioner) => {
                if PROVISIONER.iter().any(|key| claim.annotations().get(*key) != Some(&provisioner)) {
                    let mut changed = (*claim).clone();
                    for key in PROVISIONER {
                        changed.annotations_mut().insert(key.into(), provisioner.clone());
                    }
                    Self::write(self.rest.update(&CLAIMS, "", &changed).await)?;
                }
                let note = format!(
                    "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually \
                     by the system administrator. If volume creation is delayed, please verify that the provisioner is \
                     running and correctly registered."
                );
                self.recorder.event(&about, EventType::Normal, "ExternalProvisioning", "", note);
            }
        }
        Ok(Next::OnChange)
    }

    /// Sets a claim's phase; whether it changed.
    async fn set_phase(&self, claim: &Claim, phase: &str) -> Result<bool, SyncError> {
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase) {
            return Ok(false);
        }
        let mut changed = claim.clone();
        changed.status.get_or_insert_default().phase = Some(phase.to_owned());
        Self::write(self.rest.update(&CLAIMS, "status", &changed).await)?;
        Ok(true)
    }

    /// Binds both ways, volume first: a crash in between leaves a volume reserved for the claim, which is found again.
    async fn bind(&self, claim: &Claim, volume: &Volume) -> Result<(), SyncError> {
        let mut held = volume.clone();
        let claim_ref =
            held.spec.get_or_insert_default().claim_ref.get_or_insert_with(ObjectReference::default);
        if claim_ref.uid.is_none() || claim_ref.uid != claim.metadata.uid {
            let by_controller = claim_ref.name.is_none();
            *claim_ref = reference(claim);
            if by_controller {
                held.annotations_mut().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
            }
            let Some(written) = Self::write(self.rest.update(&VOLUMES, "", &held).await)? else {
                return Ok(());
            };
            held = client::rest::typed(written)?;
        }
        if held.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
            held.status.get_or_insert_default().phase = Some("Bound".into());
            Self::write(self.rest.update(&VOLUMES, "status", &held).await)?;
        }
        let mut bound = claim.clone();
        let name = volume.name_any();
        let spec = bound.spec.get_or_insert_default();
        if spec.volume_name.as_deref() != Some(name.as_str())
            || !claim.annotations().contains_key(BIND_COMPLETED)
        {
            let by_controller = spec.volume_name.as_ref().is_none_or(String::is_empty);
            spec.volume_name = Some(name);
            bound.annotations_mut().insert(BIND_COMPLETED.into(), "yes".into());
            if by_controller {
                bound.annotations_mut().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
            }
            let Some(written) = Self::write(self.rest.update(&CLAIMS, "", &bound).await)? else {
                return Ok(());
            };
            bound = client::rest::typed(written)?;
        }
        let has = volume.spec.as_ref();
        let status = bound.status.get_or_insert_default();
        if status.phase.as_deref() != Some("Bound") {
            status.phase = Some("Bound".into());
            status.access_modes = has.and_then(|spec| spec.access_modes.clone());
            status.capacity = has.and_then(|spec| spec.capacity.clone());
            Self::write(self.rest.update(&CLAIMS, "status", &bound).await)?;
        }
        Ok(())
    }
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(spec: Value, annotations: Value) -> Claim {
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "ns", "uid": "1", "annotations": annotations}, "spec": spec}))
            .expect("a claim")
    }

    fn volume(name: &str, capacity: &str, extra: Value) -> Arc<Volume> {
        let mut spec = json!({"capacity": {"storage": capacity}, "accessModes": ["ReadWriteOnce"]});
        for (key, value) in extra.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        let volume = json!({"metadata": {"name": name, "labels": {"tier": name}}, "spec": spec});
        Arc::new(serde_json::from_value(volume).expect("a volume"))
    }

    fn asks(size: &str) -> Value {
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}})
    }

    fn with(mut spec: Value, key: &str, value: Value) -> Value {
        spec[key] = value;
        spec
    }

    fn shown(step: &Step) -> String {
        match step {
            Step::Bind(volume) => volume.name_any(),
            Step::Lost(reason, _) | Step::Wait(_, reason, _) => (*reason).to_owned(),
            Step::Provision(by) => by.clone(),
        }
    }

    #[test]
    fn claims_get_the_smallest_volume_that_fits() {
        let class = |mode: &str| -> StorageClass {
            serde_json::from_value(json!({"metadata": {"name": "fast"}, "provisioner": "csi.example.com", "volumeBindingMode": mode}))
                .expect("a class")
        };
        let (immediate, delayed) = (class("Immediate"), class("WaitForFirstConsumer"));
        let volumes = [
            volume("big", "10Gi", json!({})),
            volume("small", "2Gi", json!({})),
            volume("taken", "1Gi", json!({"claimRef": {"name": "x", "namespace": "ns", "uid": "9"}})),
            volume("fast", "1Gi", json!({"storageClassName": "fast"})),
            volume("block", "1Gi", json!({"volumeMode": "Block"})),
        ];
        let reserved = [volume("mine", "1Mi", json!({"claimRef": {"name": "c", "namespace": "ns"}}))];
        let none = json!({});
        let done = json!({BIND_COMPLETED: "yes"});
        let fast = || with(asks("1Gi"), "storageClassName", json!("fast"));
        let cases = [
            (claim(asks("1Gi"), none.clone()), &volumes[..], None, "small"),
            (claim(asks("5Gi"), none.clone()), &volumes[..], None, "big"),
            (claim(asks("50Gi"), none.clone()), &volumes[..], None, "FailedBinding"),
            (
                claim(with(asks("1Gi"), "accessModes", json!(["ReadWriteMany"])), none.clone()),
                &volumes[..],
                None,
                "FailedBinding",
            ),
            (
                claim(with(asks("1Gi"), "selector", json!({"matchLabels": {"tier": "big"}})), none.clone()),
                &volumes[..],
                None,
                "big",
            ),
            (
                claim(with(asks("1Gi"), "volumeMode", json!("Block")), none.clone()),
                &volumes[..],
                None,
                "block",
            ),
            (claim(fast(), none.clone()), &volumes[..], Some(&immediate), "fast"),
            (claim(fast(), none.clone()), &[], Some(&immediate), "csi.example.com"),
            (claim(fast(), none.clone()), &volumes[..], Some(&delayed), "WaitForFirstConsumer"),
            (claim(fast(), none.clone()), &[], None, "ProvisioningFailed"),
            (claim(asks("1Gi"), none.clone()), &reserved[..], None, "mine"),
            (
                claim(with(asks("1Gi"), "volumeName", json!("taken")), none),
                &volumes[..],
                None,
                "FailedBinding",
            ),
            (
                claim(with(asks("1Gi"), "volumeName", json!("gone")), done.clone()),
                &volumes[..],
                None,
                "ClaimLost",
            ),
            (
                claim(with(asks("1Gi"), "volumeName", json!("taken")), done),
                &volumes[..],
                None,
                "ClaimMisbound",
            ),
        ];
        for (number, (claim, volumes, class, expected)) in cases.into_iter().enumerate() {
            assert_eq!(shown(&decide(&claim, volumes, class)), expected, "case {number}");
        }
    }

    #[test]
    fn phases_follow_the_claim() {
        let held = volume("v", "1Gi", json!({"claimRef": {"name": "c", "namespace": "ns", "uid": "1"}}));
        let owner = claim(asks("1Gi"), json!({}));
        assert_eq!(volume_phase(&volume("v", "1Gi", json!({})), None), "Available");
        assert_eq!(
            volume_phase(&volume("v", "1Gi", json!({"claimRef": {"name": "c"}})), Some(&owner)),
            "Available"
        );
        assert_eq!(volume_phase(&held, Some(&owner)), "Bound");
        assert_eq!(volume_phase(&held, None), "Released");
    }
}
