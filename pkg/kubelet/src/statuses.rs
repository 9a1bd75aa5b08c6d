//! Writes pods' statuses to the API, only when they changed, and again until they are written.
//!
//! Source: `pkg/kubelet/status/status_manager.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::podutil::PodExt;

/// Statuses written at once.
const PARALLEL: usize = 16;
/// Wait before a status that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
struct Entry {
    namespace: String,
    name: String,
    /// The uid the API knows: of the mirror pod for a static pod.
    uid: String,
    status: PodStatus,
    version: u64,
    written: u64,
    busy: bool,
}

/// The statuses of all pods here.
#[derive(Debug, Default)]
pub struct Statuses {
    entries: Mutex<HashMap<String, Entry>>,
    changed: Notify,
    settled: Notify,
}

impl Statuses {
    /// Sets a pod's status; written soon if it differs from the last one.
    pub fn set(&self, pod: &Pod, api_uid: &str, status: PodStatus) {
        let mut entries = self.entries.lock();
        let key = pod.uid().to_owned();
        let api = pod.status.as_ref();
        let entry = entries.entry(key).or_insert_with(|| Entry {
            namespace: pod.ns().to_owned(),
            name: pod.name().to_owned(),
            uid: api_uid.to_owned(),
            // What the API has is what is written, as far as this kubelet knows.
            status: api.cloned().unwrap_or_default(),
            version: 0,
            written: 0,
            busy: false,
        });
        let same_object = entry.uid == api_uid;
        if same_object && entry.status == status {
            return;
        }
        api_uid.clone_into(&mut entry.uid);
        entry.status = status;
        entry.version += 1;
        drop(entries);
        self.changed.notify_one();
    }

    /// The last status set for a pod.
    pub fn get(&self, uid: &str) -> Option<PodStatus> {
        self.entries.lock().get(uid).map(|e| e.status.clone())
    }

    /// Forgets a pod.
    pub fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
        self.settled.notify_waiters();
    }

    fn pending(&self, uid: &str) -> bool {
        self.entries.lock().get(uid).is_some_and(|e| e.version != e.written)
    }

    /// Waits until a pod's last status was written (or the pod is gone).
    pub async fn flushed(&self, uid: &str) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if !self.pending(uid) {
                return;
            }
            settled.await;
        }
    }

    /// Writes until shutdown.
    pub async fn run(self: Arc<Self>, client: kube::Client, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(PARALLEL));
        let tasks = TaskTracker::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.changed.notified() => {}
            }
            for (uid, entry) in self.take_dirty() {
                let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
                let (this, client) = (self.clone(), client.clone());
                tasks.spawn(async move {
                    let _slot = slot;
                    let done = write(&client, &entry).await;
                    this.finish(&uid, entry.version, done);
                    if !done {
                        tokio::time::sleep(RETRY).await;
                        this.changed.notify_one();
                    }
                });
            }
        }
        tasks.close();
    }

    fn take_dirty(&self) -> Vec<(String, Entry)> {
        let mut entries = self.entries.lock();
        let dirty = entries.iter_mut().filter(|(_, e)| e.version != e.written && !e.busy);
        dirty
            .map(|(uid, entry)| {
                entry.busy = true;
                (uid.clone(), entry.clone())
            })
            .collect()
    }

    fn finish(&self, uid: &str, version: u64, done: bool) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(uid) else { return };
        entry.busy = false;
        if done {
            entry.written = version;
        }
        let more = entry.version != entry.written;
        drop(entries);
        if more && done {
            self.changed.notify_one();
        }
        self.settled.notify_waiters();
    }
}

/// Writes one status; `true` when there is nothing more to do, whether it worked or the pod is gone.
async fn write(client: &kube::Client, entry: &Entry) -> bool {
    let api: Api<Pod> = Api::namespaced(client.clone(), &entry.namespace);
    let patch = Patch::Strategic(patch(&entry.uid, &entry.status));
    match api.patch_status(&entry.name, &PatchParams::default(), &patch).await {
        Ok(_) => true,
        Err(error) if client::is_not_found(&error) => true,
        // Another pod of that name, which is not ours to write.
        Err(error) if client::is_conflict(&error) => true,
        Err(error) => {
            let invalid = client::status_of(&error).is_some_and(|s| s.code == 422);
            tracing::warn!(pod = %format!("{}/{}", entry.namespace, entry.name), %error, "failed to update status for pod");
            invalid
        }
    }
}

/// The patch that makes the API's status this one. Lists that merge by key are replaced where the kubelet owns all of
/// them; conditions merge, since others write conditions too.
fn patch(uid: &str, status: &PodStatus) -> Value {
    let mut tree = serde_json::to_value(status).unwrap_or_default();
    if let Some(map) = tree.as_object_mut() {
        for key in ["podIPs", "hostIPs"] {
            if let Some(list) = map.get_mut(key).and_then(Value::as_array_mut) {
                list.insert(0, json!({"$patch": "replace"}));
            }
        }
        for key in ["reason", "message", "resize"] {
            map.entry(key).or_insert(Value::Null);
        }
        // Fields of a condition that are gone must go there as well.
        for condition in map.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(condition) = condition.as_object_mut() {
                for key in ["reason", "message"] {
                    condition.entry(key).or_insert(Value::Null);
                }
            }
        }
    }
    json!({"metadata": {"uid": uid}, "status": tree})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_replace_what_is_ours() {
        let status: PodStatus =
            serde_json::from_value(json!({"phase": "Running", "podIPs": [{"ip": "1.1.1.1"}],
            "conditions": [{"type": "Ready", "status": "True"}]}))
            .expect("a status");
        assert_eq!(
            patch("u", &status),
            json!({"metadata": {"uid": "u"}, "status": {
                "phase": "Running", "podIPs": [{"$patch": "replace"}, {"ip": "1.1.1.1"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}],
                "reason": null, "message": null, "resize": null}})
        );
    }

    #[test]
    fn only_changes_are_written() {
        let statuses = Statuses::default();
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "status": {"phase": "Pending"}}),
        )
        .expect("a pod");
        let same = pod.status.clone().expect("set");
        statuses.set(&pod, "u", same);
        assert!(!statuses.pending("u"));
        statuses.set(&pod, "u", PodStatus { phase: Some("Running".into()), ..PodStatus::default() });
        assert!(statuses.pending("u"));
        assert_eq!(statuses.take_dirty().len(), 1);
        assert_eq!(statuses.take_dirty().len(), 0, "one write at a time");
        statuses.finish("u", 1, true);
        assert!(!statuses.pending("u"));
    }
}
