//! Two controllers that keep one object in every namespace: the `default` ServiceAccount, and the `kube-root-ca.crt`
//! ConfigMap with which pods verify the API server.
//!
//! Behaviour after upstream's `serviceaccounts_controller.go` and `rootcacertpublisher/publisher.go`.

use std::sync::Arc;

use client::rest::Rest;
use client::workqueue::WorkQueue;
use client::{Event, Selection, Store, is_already_exists, is_namespace_terminating, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::context::{Context, Key, Next, Reconcile, SyncResult};
use crate::resources::{CONFIG_MAPS, SERVICE_ACCOUNTS};

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                                endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                                guaranteed across distributions of Kubernetes clusters.";

fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    phase != Some("Terminating") && namespace.metadata.deletion_timestamp.is_none()
}

/// Queues a namespace when it appears or changes, and when the object kept in it goes or is changed.
fn watch_namespaces(context: &Context, queue: &WorkQueue<Key>) -> Store<Namespace> {
    let namespaces = context.informer::<Namespace>();
    let adds = queue.clone();
    namespaces.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            adds.add(Key::of(&**event.object()));
        }
    });
    namespaces.store()
}

struct Accounts {
    namespaces: Store<Namespace>,
    held: Store<ServiceAccount>,
    rest: Rest,
}

/// Starts the serviceaccount controller.
pub(crate) fn start_service_accounts(context: &Context) {
    let queue = WorkQueue::new("serviceaccount");
    let selection = Selection::fields(format!("metadata.name={ACCOUNT}"));
    let accounts = context.informer_for::<ServiceAccount>(selection);
    let deletions = queue.clone();
    accounts.on_event(move |event| {
        if let Event::Deleted(account) = event {
            deletions.add(Key::new("", account.namespace().unwrap_or_default()));
        }
    });
    let controller = Accounts {
        namespaces: watch_namespaces(context, &queue),
        held: accounts.store(),
        rest: context.rest("service-account-controller"),
    };
    context.work("serviceaccount-controller", &queue, 1, Arc::new(controller));
}

impl Accounts {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(namespace) = self.namespaces.get("", &key.name) else { return Ok(Next::OnChange) };
        if !is_active(&namespace) || self.held.get(&key.name, ACCOUNT).is_some() {
            return Ok(Next::OnChange);
        }
        let account = json!({"metadata": {"name": ACCOUNT, "namespace": key.name}});
        match self.rest.create(&SERVICE_ACCOUNTS, &key.name, &account).await {
            Err(error)
                if is_already_exists(&error) || is_namespace_terminating(&error) || is_not_found(&error) => {}
            done => {
                done?;
            }
        }
        Ok(Next::OnChange)
    }
}

impl Reconcile for Accounts {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

struct RootCa {
    namespaces: Store<Namespace>,
    config_maps: Store<ConfigMap>,
    pem: String,
    rest: Rest,
}

/// Starts the root CA certificate publisher; there is nothing to publish without `--root-ca-file`.
pub(crate) fn start_root_ca(context: &Context) {
    let Some(pem) = context.config.root_ca_pem.clone() else { return };
    let queue = WorkQueue::new("root_ca_cert_publisher");
    let selection = Selection::fields(format!("metadata.name={ROOT_CA}"));
    let config_maps = context.informer_for::<ConfigMap>(selection);
    let changes = queue.clone();
    config_maps.on_event(move |event| {
        if !matches!(event, Event::Added(_)) {
            changes.add(Key::new("", event.object().namespace().unwrap_or_default()));
        }
    });
    let controller = RootCa {
        namespaces: watch_namespaces(context, &queue),
        config_maps: config_maps.store(),
        pem,
        rest: context.rest("root-ca-cert-publisher"),
    };
    context.work("root-ca-certificate-publisher-controller", &queue, 1, Arc::new(controller));
}

/// What has to be written.
#[derive(Debug, PartialEq)]
enum Publish {
    Nothing,
    Create(Value),
    Update(Value),
}

fn publish(namespace: &str, pem: &str, held: Option<&ConfigMap>) -> Publish {
    let data = json!({ "ca.crt": pem });
    let Some(held) = held else {
        return Publish::Create(json!({
            "metadata": {"name": ROOT_CA, "namespace": namespace, "annotations": {DESCRIPTION: DESCRIPTION_TEXT}},
            "data": data,
        }));
    };
    if json!(held.data) == data && held.annotations().contains_key(DESCRIPTION) {
        return Publish::Nothing;
    }
    let mut map = json!(held);
    map["data"] = data;
    map["metadata"]["annotations"][DESCRIPTION] = json!(DESCRIPTION_TEXT);
    Publish::Update(map)
}

impl RootCa {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(namespace) = self.namespaces.get("", &key.name) else { return Ok(Next::OnChange) };
        if !is_active(&namespace) {
            return Ok(Next::OnChange);
        }
        let held = self.config_maps.get(&key.name, ROOT_CA);
        let written = match publish(&key.name, &self.pem, held.as_deref()) {
            Publish::Nothing => return Ok(Next::OnChange),
            Publish::Create(map) => self.rest.create(&CONFIG_MAPS, &key.name, &map).await,
            Publish::Update(map) => self.rest.update(&CONFIG_MAPS, "", &map).await,
        };
        match written {
            Err(error) if is_namespace_terminating(&error) || is_not_found(&error) => Ok(Next::OnChange),
            done => done.map(|_| Next::OnChange).map_err(Into::into),
        }
    }
}

impl Reconcile for RootCa {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_ca_is_created_repaired_and_left_alone() {
        let Publish::Create(map) = publish("ns", "PEM", None) else { panic!("expected a create") };
        let held: ConfigMap = serde_json::from_value(map.clone()).expect("a config map");
        assert_eq!(publish("ns", "PEM", Some(&held)), Publish::Nothing);
        let Publish::Update(repaired) = publish("ns", "NEW", Some(&held)) else {
            panic!("expected an update")
        };
        assert_eq!(repaired["data"], json!({"ca.crt": "NEW"}));
        let mut extra = held;
        extra.data.get_or_insert_default().insert("more".into(), String::new());
        assert!(matches!(publish("ns", "PEM", Some(&extra)), Publish::Update(_)));
    }
}
