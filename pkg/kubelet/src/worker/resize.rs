//! Giving running containers the resources their spec asks for now.

use client::events::EventType;
use k8s_openapi::api::core::v1::Container;

use super::Worker;
use crate::decide::KillReason;
use crate::podutil::{Kind, PodExt, init_containers, is_sidecar};
use crate::resize::{Resize, compare};
use crate::resources::container_resources;

impl Worker {
    /// Brings every running container's resources up to date. `true` when one was stopped to be started anew.
    pub(super) async fn resize(&mut self) -> bool {
        let pod = self.pod.clone();
        let sidecars = init_containers(&pod).iter().filter(|c| is_sidecar(c)).map(|c| (Kind::Init, c));
        let regular = pod.spec().containers.iter().map(|c| (Kind::Regular, c));
        let mut stopped = false;
        self.given.retain(|id, _| self.runtime.containers.iter().any(|r| r.id == *id));
        for (kind, container) in regular.chain(sidecars) {
            stopped |= self.resize_one(kind, container).await;
        }
        stopped
    }

    async fn resize_one(&mut self, kind: Kind, container: &Container) -> bool {
        let Some(record) = self.runtime.latest(&container.name).filter(|r| r.is_running()) else {
            return false;
        };
        let id = record.id.clone();
        let wanted = container_resources(&self.pod, container, &self.kubelet.facts);
        // A container that ran when the kubelet started has what its spec said, as far as anyone knows.
        let Some(given) = self.given.get(&id) else {
            self.given.insert(id, record.resources.clone().unwrap_or(wanted));
            return false;
        };
        let verdict = compare(container, given, &wanted);
        // The pod's cgroup must hold the new sum, whichever of the two grows.
        if verdict != Resize::None
            && let Err(error) = self.kubelet.cgroups.ensure_pod(&self.pod, self.kubelet.config.cpu_cfs_quota)
        {
            tracing::warn!(pod = %self.pod.full_id(), %error, "cannot resize the pod's cgroup");
        }
        match verdict {
            Resize::None => false,
            Resize::Restart => {
                let message = format!("Container {} resize requires restart", container.name);
                self.kill_one(&id, &container.name, kind, KillReason::Changed, &message).await;
                true
            }
            Resize::InPlace => {
                match self.kubelet.runtime.update_resources(&id, wanted.clone()).await {
                    Ok(()) => {
                        self.given.insert(id, wanted);
                    }
                    Err(error) => {
                        let note = format!("Error resizing container {}: {error}", container.name);
                        self.kubelet.pod_event(&self.pod, EventType::Warning, "ResizeError", &note);
                    }
                }
                false
            }
        }
    }
}
