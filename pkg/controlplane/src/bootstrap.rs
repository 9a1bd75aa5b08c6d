//! The objects every cluster starts with: system namespaces, default roles, priority classes, and what extension
//! servers read of the authentication. The `kubernetes` Service is crate `registry`'s.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{GroupVersionResource, name, namespace};
use apimachinery::status::Status;
use apiserver::{DeleteRequest, RequestContext, ResourceStore, WriteOptions};
use auth::UserInfo;
use auth::bootstrap::{Reconciliation, reconcile};
use futures::StreamExt;
use jiff::Timestamp;

use crate::assemble::Error;
use crate::config::Config;

/// Objects written at once; the store commits them in groups.
const CONCURRENT_WRITES: usize = 64;

fn gvr(group: &str, version: &str, resource: &str) -> GroupVersionResource {
    GroupVersionResource::new(group, version, resource)
}

/// Writes as the server itself.
#[derive(Clone)]
pub(crate) struct Bootstrap {
    store: ResourceStore,
    context: RequestContext,
    options: WriteOptions,
}

impl Bootstrap {
    pub(crate) fn new(store: ResourceStore) -> Self {
        let context = RequestContext::internal(Arc::new(UserInfo::apiserver()), Timestamp::now());
        let options = WriteOptions { manager: Some("kube-apiserver".into()), ..WriteOptions::default() };
        Self { store, context, options }
    }

    /// Makes sure of everything; namespaces first, as most else is in them.
    pub(crate) async fn run(&self, config: &Config) -> Result<(), Error> {
        let namespaces = ["kube-system", "kube-public", "kube-node-lease", "default"]
            .map(|n| (gvr("", "v1", "namespaces"), json!({"metadata": {"name": n}})));
        self.all(namespaces.to_vec()).await?;
        let (roles, others) = tokio::join!(self.roles(), self.all(objects(config).map_err(Error::Config)?));
        roles?;
        others
    }

    async fn all(&self, objects: Vec<(GroupVersionResource, Value)>) -> Result<(), Error> {
        let writes = objects.into_iter().map(|(gvr, object)| async move {
            self.create(&gvr, object).await.map_err(|status| failed(&gvr, &status))
        });
        let mut running = futures::stream::iter(writes).buffer_unordered(CONCURRENT_WRITES);
        while let Some(outcome) = running.next().await {
            outcome?;
        }
        Ok(())
    }

    /// Creates what is not there.
    async fn create(&self, gvr: &GroupVersionResource, object: Value) -> Result<(), Status> {
        let at = namespace(&object).to_owned();
        match self.store.get(gvr, &at, name(&object)).await {
            Err(status) if status.code == 404 => {}
            other => return other.map(drop),
        }
        match self.store.create(&self.context, gvr, &at, object, &self.options).await {
            Err(status) if status.code == 409 => Ok(()),
            other => other.map(drop),
        }
    }

    /// The default roles and bindings, brought up to what this release wants.
    async fn roles(&self) -> Result<(), Error> {
        let writes = auth::bootstrap::objects().into_iter().map(|wanted| async move {
            self.role(&wanted).await.map_err(|status| failed(&wanted.gvr, &status))
        });
        let mut running = futures::stream::iter(writes).buffer_unordered(CONCURRENT_WRITES);
        while let Some(outcome) = running.next().await {
            outcome?;
        }
        Ok(())
    }

    async fn role(&self, wanted: &auth::bootstrap::BootstrapObject) -> Result<(), Status> {
        let (gvr, at) = (&wanted.gvr, wanted.namespace.as_str());
        let named = name(&wanted.object);
        let existing = match self.store.get(gvr, at, named).await {
            Ok(object) => Some(object),
            Err(status) if status.code == 404 => None,
            Err(status) => return Err(status),
        };
        let create = async |object: Value| match self
            .store
            .create(&self.context, gvr, at, object, &self.options)
            .await
        {
            Err(status) if status.code == 409 => Ok(()),
            other => other.map(drop),
        };
        match reconcile(existing.as_ref(), &wanted.object) {
            Reconciliation::Nothing => Ok(()),
            Reconciliation::Create => create(wanted.object.clone()).await,
            Reconciliation::Update(object) => {
                let change = |_: Value| Ok(object.clone());
                let updated =
                    self.store.update(&self.context, gvr, at, named, "", &change, &self.options).await;
                match updated {
                    // another server was faster
                    Err(status) if status.code == 409 => Ok(()),
                    other => other.map(drop),
                }
            }
            Reconciliation::Recreate(object) => {
                self.store.delete(&self.context, gvr, at, named, &DeleteRequest::default()).await?;
                create(object).await
            }
        }
    }
}

fn failed(gvr: &GroupVersionResource, status: &Status) -> Error {
    Error::Bootstrap { resource: gvr.resource.clone(), reason: status.message.clone() }
}

/// Everything but namespaces and roles.
fn objects(config: &Config) -> Result<Vec<(GroupVersionResource, Value)>, String> {
    let mut objects = Vec::new();
    for (name, value, description) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        objects.push((
            gvr("scheduling.k8s.io", "v1", "priorityclasses"),
            json!({"metadata": {"name": name}, "value": value, "description": description}),
        ));
    }
    let mut data = apimachinery::Map::new();
    if let Some(ca) = &config.client_ca {
        let text = ca.read().map_err(|e| e.to_string())?;
        data.insert("client-ca-file".into(), String::from_utf8_lossy(&text).into());
    }
    if let Some(proxy) = &config.front_proxy {
        let list = |names: &[String]| Value::from(json!(names).to_string());
        let text = proxy.client_ca.read().map_err(|e| e.to_string())?;
        data.insert("requestheader-client-ca-file".into(), String::from_utf8_lossy(&text).into());
        data.insert("requestheader-allowed-names".into(), list(&proxy.allowed_names));
        data.insert("requestheader-username-headers".into(), list(&proxy.username_headers));
        data.insert("requestheader-group-headers".into(), list(&proxy.group_headers));
        data.insert("requestheader-extra-headers-prefix".into(), list(&proxy.extra_header_prefixes));
    }
    objects.push((
        gvr("", "v1", "configmaps"),
        json!({"metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"}, "data": data}),
    ));
    Ok(objects)
}
