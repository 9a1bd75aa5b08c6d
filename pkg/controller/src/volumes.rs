//! Controllers about volumes: binding claims to volumes, protecting what is in use, claims of generic ephemeral volumes.

mod binder;
mod ephemeral;
mod protection;

pub(crate) use binder::start as start_binder;
pub(crate) use ephemeral::start as start_ephemeral;
pub(crate) use protection::{
    start_claims as start_claim_protection, start_volumes as start_volume_protection,
};

use k8s_openapi::api::core::v1::Pod;

/// Names of the claims a pod mounts, those of its generic ephemeral volumes included.
fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(ephemeral_claim(pod, &volume.name)),
            _ => None,
        })
        .collect()
}

/// The claim of a generic ephemeral volume: `POD-VOLUME`.
fn ephemeral_claim(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.metadata.name.as_deref().unwrap_or(""))
}
