//! What a server does by itself while it runs: compaction, and its place among the `kubernetes` endpoints.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use apimachinery::meta::{GroupVersionResource, at};
use apimachinery::status::Status;
use apiserver::{RequestContext, ResourceStore, WriteOptions};
use auth::UserInfo;
use jiff::Timestamp;
use serde_json::json;
use storage::Storage;
use tokio_util::sync::CancellationToken;

/// The endpoints are looked at this often; upstream's lease reconciler does the same.
const ENDPOINTS_INTERVAL: Duration = Duration::from_secs(10);

/// Forgets history older than one interval, every interval.
pub(crate) async fn compact(storage: Arc<dyn Storage>, interval: Duration, shutdown: CancellationToken) {
    if interval.is_zero() {
        return;
    }
    let mut last = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        if let Some(revision) = last
            && let Err(error) = storage.compact(revision).await
        {
            tracing::warn!(%error, "compaction failed");
        }
        last = storage.current_revision().await.ok();
    }
}

/// The server's place in the endpoints of the `kubernetes` Service.
#[derive(Clone)]
pub(crate) struct Endpoints {
    pub(crate) store: ResourceStore,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

impl Endpoints {
    /// Keeps the address there until shutdown.
    pub(crate) async fn keep(self, shutdown: CancellationToken) {
        loop {
            if let Err(error) = self.reconcile().await {
                tracing::warn!(%error, "the kubernetes endpoints could not be written");
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(ENDPOINTS_INTERVAL) => {}
            }
        }
    }

    /// Writes Endpoints and EndpointSlice where they do not name this server.
    pub(crate) async fn reconcile(&self) -> Result<(), Status> {
        let address = self.address.to_string();
        let ports = json!([{"name": "https", "port": self.port, "protocol": "TCP"}]);
        let endpoints = json!({
            "metadata": {"name": "kubernetes", "namespace": "default",
                         "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": address}], "ports": ports}],
        });
        self.ensure(&GroupVersionResource::new("", "v1", "endpoints"), &endpoints, &["subsets"]).await?;
        let slice = json!({
            "metadata": {"name": "kubernetes", "namespace": "default",
                         "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": if self.address.is_ipv6() { "IPv6" } else { "IPv4" },
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": ports,
        });
        let slices = GroupVersionResource::new("discovery.k8s.io", "v1", "endpointslices");
        self.ensure(&slices, &slice, &["endpoints", "ports"]).await
    }

    async fn ensure(
        &self,
        gvr: &GroupVersionResource,
        wanted: &Value,
        fields: &[&str],
    ) -> Result<(), Status> {
        let context = RequestContext::internal(Arc::new(UserInfo::apiserver()), Timestamp::now());
        let options = WriteOptions { manager: Some("kube-apiserver".into()), ..WriteOptions::default() };
        match self.store.get(gvr, "default", "kubernetes").await {
            Err(status) if status.code == 404 => {
                let created = self.store.create(&context, gvr, "default", wanted.clone(), &options).await;
                match created {
                    Err(status) if status.code == 409 => Ok(()),
                    other => other.map(drop),
                }
            }
            Err(status) => Err(status),
            Ok(existing) if fields.iter().all(|f| at(&existing, &[f]) == at(wanted, &[f])) => Ok(()),
            Ok(_) => {
                let change = |mut object: Value| {
                    for field in fields {
                        object[*field] = wanted[*field].clone();
                    }
                    Ok(object)
                };
                self.store
                    .update(&context, gvr, "default", "kubernetes", "", &change, &options)
                    .await
                    .map(drop)
            }
        }
    }
}
