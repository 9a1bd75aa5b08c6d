//! Controllers about volumes: binding claims to volumes, protecting what is in use, claims of generic ephemeral volumes.

mod binder;
mod class_protection;
mod ephemeral;
mod protection;

pub(crate) use binder::start as start_binder;
pub(crate) use class_protection::start as start_class_protection;
pub(crate) use ephemeral::start as start_ephemeral;
pub(crate) use protection::{
    start_claims as start_claim_protection, start_volumes as start_volume_protection,
};

use k8s_openapi::api::core::v1::Pod;

/// Names of the claims a pod mounts, those of its generic ephemeral volumes included.
fn claims_of(pod: &Pod) -> Vec<String> {
    placement::volumes::claims_of(pod).into_iter().map(|(name, _)| name).collect()
}

/// The claim of a generic ephemeral volume: `POD-VOLUME`.
fn ephemeral_claim(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.metadata.name.as_deref().unwrap_or(""))
}
