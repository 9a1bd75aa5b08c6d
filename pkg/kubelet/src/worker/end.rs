//! What is left to do when nothing of a pod runs any more.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Preconditions};

use super::{Next, Orders, RETRY, Worker};
use crate::names;
use crate::podutil::PodExt;
use crate::volumes;

/// Wait between tries to clean up.
const CLEAN_RETRY: Duration = Duration::from_secs(2);

impl Worker {
    /// Reports the end, cleans up as far as the pod's state allows, and lets the API forget the pod once it asked for
    /// that.
    pub(super) async fn finish(&mut self, orders: &Orders) -> cri::Result<Next> {
        self.finished = true;
        self.report(orders);
        if !self.clean_node().await {
            return Ok(Next::Wait(Some(CLEAN_RETRY)));
        }
        if !orders.removed && !orders.pod.is_deleting() {
            // It is over, but may still be looked at: containers and logs stay until it is deleted.
            return Ok(Next::Wait(None));
        }
        self.remove_records().await?;
        if let Err(error) = remove(self.dir()).await {
            tracing::warn!(pod = %self.pod.full_id(), %error, "cannot remove pod directory, will retry");
            return Ok(Next::Wait(Some(CLEAN_RETRY)));
        }
        if orders.removed {
            self.forget();
            return Ok(Next::Gone);
        }
        // The final status must be there before the object goes: who waits for the pod's result reads it.
        self.kubelet.statuses.flushed(self.pod.uid()).await;
        if !self.pod.is_static() && !self.delete_object().await {
            return Ok(Next::Wait(Some(RETRY)));
        }
        // The watch will say that it is gone, and the owner that it is removed.
        Ok(Next::Wait(Some(RETRY)))
    }

    /// Takes away volumes and cgroups; `false` when something holds them.
    async fn clean_node(&mut self) -> bool {
        let dir = self.dir();
        for sub in ["volume-subpaths", "volumes"] {
            if let Err(error) = remove(dir.join(sub)).await {
                tracing::warn!(pod = %self.pod.full_id(), %error, "cannot take down volumes, will retry");
                return false;
            }
        }
        self.volumes = None;
        if let Err(error) = self.kubelet.cgroups.remove_pod(self.pod.uid()) {
            tracing::debug!(pod = %self.pod.full_id(), %error, "cgroup is still in use, will retry");
            return false;
        }
        self.cgroup_ready = false;
        true
    }

    async fn remove_records(&self) -> cri::Result<()> {
        for container in &self.runtime.containers {
            self.kubelet.runtime.remove_container(&container.id).await?;
            let link = names::log_link(self.pod.name(), self.pod.ns(), &container.name, &container.id);
            let _ = std::fs::remove_file(link);
        }
        for sandbox in &self.runtime.sandboxes {
            self.kubelet.runtime.stop_sandbox(&sandbox.id).await?;
            self.kubelet.runtime.remove_sandbox(&sandbox.id).await?;
        }
        let logs = names::log_directory(self.pod.ns(), self.pod.name(), self.pod.uid());
        if let Err(error) = std::fs::remove_dir_all(Path::new(&logs))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(logs, %error, "cannot remove pod logs");
        }
        Ok(())
    }

    fn forget(&self) {
        self.kubelet.statuses.forget(self.pod.uid());
        self.kubelet.objects.forget_pod(self.pod.uid());
        self.kubelet.volume_stats.forget(self.pod.uid());
    }

    /// The last word of a graceful deletion.
    async fn delete_object(&self) -> bool {
        let api: Api<Pod> = Api::namespaced(self.kubelet.objects.client().clone(), self.pod.ns());
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.pod.uid().to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(self.pod.name(), &params).await {
            Ok(_) => true,
            Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => true,
            Err(error) => {
                tracing::warn!(pod = %self.pod.full_id(), %error, "failed to delete status for pod");
                false
            }
        }
    }
}

/// Removes a directory on a thread that may take its time.
async fn remove(dir: PathBuf) -> io::Result<()> {
    let done = tokio::task::spawn_blocking(move || volumes::remove_pod_dir(&dir)).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}
