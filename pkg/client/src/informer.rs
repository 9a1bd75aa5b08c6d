//! Shared informers: one list and watch per kind and selection, however many users it has.
//!
//! The contract is client-go's `SharedInformer`: a handler sees every change of an object in order, may miss states in
//! between, and the store is at least as new as what the handler was told. Handlers run one after the other on the
//! informer's task: they note what to do (usually a key in a [`crate::workqueue`]) and return. They may read stores
//! and must not register further handlers of the same informer.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::core::DynamicObject;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::reflector::Reflector;
use crate::rest::ResourceId;
use crate::store::{Decoded, Event, Store, StoreCore, typed_event, typed_ref};
use crate::wire::{self, Decode};

const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const METADATA_WATCH: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// Which objects of a kind an informer holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    /// Only this namespace; all when `None`.
    pub namespace: Option<String>,
    /// Field selector, such as `spec.nodeName=node-1`.
    pub field_selector: Option<String>,
    /// Label selector, such as `app=web`.
    pub label_selector: Option<String>,
}

impl Selection {
    /// Only the objects of a namespace.
    pub fn namespace(name: impl Into<String>) -> Self {
        Self { namespace: Some(name.into()), ..Self::default() }
    }

    /// Only the objects a field selector matches.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { field_selector: Some(selector.into()), ..Self::default() }
    }
}

/// The metadata of an object of any kind, as far as ownership and deletion need it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// `metadata.namespace`, `""` for cluster-scoped objects.
    #[serde(default)]
    pub namespace: String,
    /// `metadata.name`.
    #[serde(default)]
    pub name: String,
    /// `metadata.uid`.
    #[serde(default)]
    pub uid: String,
    /// `metadata.resourceVersion`.
    #[serde(default)]
    pub resource_version: String,
    /// `metadata.deletionTimestamp`.
    pub deletion_timestamp: Option<Time>,
    /// `metadata.finalizers`.
    #[serde(default)]
    pub finalizers: Vec<String>,
    /// `metadata.ownerReferences`.
    #[serde(default)]
    pub owner_references: Vec<OwnerReference>,
}

#[derive(Deserialize)]
struct MetadataOnly {
    #[serde(default)]
    metadata: Metadata,
}

fn decode_metadata(json: &[u8]) -> Result<Decoded, serde_json::Error> {
    let MetadataOnly { metadata } = wire::decoded(json)?;
    Ok(Decoded {
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        object: Arc::new(metadata),
    })
}

fn decode_typed<K: kube::Resource + DeserializeOwned + Any + Send + Sync>(
    json: &[u8],
) -> Result<Decoded, serde_json::Error> {
    let object: K = wire::decoded(json)?;
    let (namespace, name, uid, resource_version) = identity(object.meta());
    Ok(Decoded { object: Arc::new(object), namespace, name, uid, resource_version })
}

fn identity(meta: &ObjectMeta) -> (String, String, String, String) {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    (text(&meta.namespace), text(&meta.name), text(&meta.uid), text(&meta.resource_version))
}

/// One shared informer, kind erased.
struct InformerCore {
    /// Path and selection, for logs and [`NotSynced`].
    label: String,
    store: Arc<StoreCore>,
    synced: watch::Receiver<bool>,
    /// What runs it, taken when it starts.
    reflector: Mutex<Option<Reflector>>,
    stop: CancellationToken,
}

/// A view of one shared list and watch. Cloning is cheap.
pub struct Informer<K> {
    core: Arc<InformerCore>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), kind: PhantomData }
    }
}

impl<K> fmt::Debug for Informer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Informer").field(&self.core.label).finish()
    }
}

impl<K: Any + Send + Sync> Informer<K> {
    /// The objects held.
    pub fn store(&self) -> Store<K> {
        Store::over(self.core.store.clone())
    }

    /// Calls `handler` for every change from now on, after `Added` for each object held at this moment.
    pub fn on_event(&self, handler: impl Fn(Event<K>) + Send + Sync + 'static) {
        self.core.store.subscribe(Box::new(move |event| handler(typed_event(event))));
    }

    /// Adds an index for [`Store::by_index`]: `values` gives the index values of an object. May be called at any
    /// time; a second index of the same name is ignored.
    pub fn add_index(&self, name: &'static str, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        self.core.store.add_index(name, Box::new(move |object| values(typed_ref(object))));
    }

    /// Whether the first complete list has arrived and every handler was told of it.
    pub fn has_synced(&self) -> bool {
        *self.core.synced.borrow()
    }

    /// Waits for [`Self::has_synced`]. `false` when the informer was stopped before.
    pub async fn synced(&self) -> bool {
        let mut synced = self.core.synced.clone();
        tokio::select! {
            done = synced.wait_for(|synced| *synced) => done.is_ok(),
            () = self.core.stop.cancelled() => false,
        }
    }

    /// Ends the list and watch; the store keeps what it holds.
    pub fn stop(&self) {
        self.core.stop.cancel();
    }
}

/// Some informers had no complete list in time.
#[derive(Debug, thiserror::Error)]
#[error("timed out waiting for caches to sync: {}", .0.join(", "))]
pub struct NotSynced(pub Vec<String>);

#[derive(PartialEq, Eq, Hash)]
struct InformerKey {
    kind: TypeId,
    path: String,
    selection: Selection,
}

struct FactoryCore {
    client: kube::Client,
    informers: Mutex<HashMap<InformerKey, Arc<InformerCore>>>,
    /// Set once [`InformerFactory::start`] was called.
    running: Mutex<Option<CancellationToken>>,
    tasks: TaskTracker,
}

/// Makes and runs the informers of one process. Cloning is cheap.
#[derive(Clone)]
pub struct InformerFactory {
    core: Arc<FactoryCore>,
}

impl fmt::Debug for InformerFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InformerFactory").field("informers", &self.core.informers.lock().len()).finish()
    }
}

impl InformerFactory {
    /// A factory whose informers list and watch with this client.
    pub fn new(client: kube::Client) -> Self {
        let core = FactoryCore {
            client,
            informers: Mutex::default(),
            running: Mutex::default(),
            tasks: TaskTracker::new(),
        };
        Self { core: Arc::new(core) }
    }

    /// The client informers use.
    pub fn client(&self) -> &kube::Client {
        &self.core.client
    }

    /// The informer of all objects of a kind; the same one at every call.
    pub fn informer<K>(&self) -> Informer<K>
    where
        K: kube::Resource<DynamicType = ()> + DeserializeOwned + Any + Send + Sync,
    {
        self.informer_for(Selection::default())
    }

    /// The informer of the selected objects of a kind; the same one for equal selections.
    pub fn informer_for<K>(&self, selection: Selection) -> Informer<K>
    where
        K: kube::Resource<DynamicType = ()> + DeserializeOwned + Any + Send + Sync,
    {
        let path = K::url_path(&(), selection.namespace.as_deref());
        self.get_or_make(TypeId::of::<K>(), path, selection, None, decode_typed::<K>).into()
    }

    /// The informer of all objects of a resource known only at run time.
    pub fn dynamic(&self, resource: &ResourceId) -> Informer<DynamicObject> {
        let path = resource.collection_path("");
        self.get_or_make(
            TypeId::of::<DynamicObject>(),
            path,
            Selection::default(),
            None,
            decode_typed::<DynamicObject>,
        )
        .into()
    }

    /// The informer of the metadata of all objects of a resource. Asks the server for metadata only.
    pub fn metadata(&self, resource: &ResourceId) -> Informer<Metadata> {
        let path = resource.collection_path("");
        let accept = Some((METADATA_LIST, METADATA_WATCH));
        self.get_or_make(TypeId::of::<Metadata>(), path, Selection::default(), accept, decode_metadata).into()
    }

    /// Stops an informer and forgets it, for resources that are no longer served. Others that hold it keep its last
    /// state.
    pub fn remove<K: Any + Send + Sync>(&self, informer: &Informer<K>) {
        informer.stop();
        self.core.informers.lock().retain(|_, held| !Arc::ptr_eq(held, &informer.core));
    }

    fn get_or_make(
        &self,
        kind: TypeId,
        path: String,
        selection: Selection,
        accept: Option<(&'static str, &'static str)>,
        decode: Decode,
    ) -> Arc<InformerCore> {
        let running = self.core.running.lock();
        let mut informers = self.core.informers.lock();
        let key = InformerKey { kind, path: path.clone(), selection: selection.clone() };
        if let Some(held) = informers.get(&key) {
            return held.clone();
        }
        let (sender, synced) = watch::channel(false);
        let store = Arc::new(StoreCore::default());
        let mut label = path.clone();
        for selector in [&selection.label_selector, &selection.field_selector].into_iter().flatten() {
            label.push('?');
            label.push_str(selector);
        }
        let reflector = Reflector {
            client: self.core.client.clone(),
            path,
            selection,
            accept,
            decode,
            store: store.clone(),
            synced: sender,
        };
        let made = Arc::new(InformerCore {
            label,
            store,
            synced,
            reflector: Mutex::new(Some(reflector)),
            stop: CancellationToken::new(),
        });
        informers.insert(key, made.clone());
        if let Some(shutdown) = &*running {
            self.run(&made, shutdown);
        }
        made
    }

    fn run(&self, informer: &InformerCore, shutdown: &CancellationToken) {
        let Some(reflector) = informer.reflector.lock().take() else { return };
        let (stop, shutdown) = (informer.stop.clone(), shutdown.clone());
        self.core.tasks.spawn(async move {
            shutdown.run_until_cancelled(reflector.run(stop)).await;
        });
    }

    /// Starts every informer made so far, and those made later at once. They run until `shutdown`.
    pub fn start(&self, shutdown: CancellationToken) {
        let mut running = self.core.running.lock();
        let shutdown = running.get_or_insert(shutdown);
        for informer in self.core.informers.lock().values() {
            self.run(informer, shutdown);
        }
    }

    /// Waits until every informer made so far has synced; names those that have not after `within`.
    pub async fn wait_for_sync(&self, within: Duration) -> Result<(), NotSynced> {
        let deadline = Instant::now() + within;
        let informers: Vec<Arc<InformerCore>> = self.core.informers.lock().values().cloned().collect();
        let mut late = Vec::new();
        for informer in informers {
            let mut synced = informer.synced.clone();
            let stopped = informer.stop.cancelled();
            let waited = timeout_at(deadline, async {
                tokio::select! {
                    done = synced.wait_for(|synced| *synced) => done.is_ok(),
                    () = stopped => true,
                }
            });
            if !matches!(waited.await, Ok(true)) {
                late.push(informer.label.clone());
            }
        }
        if late.is_empty() { Ok(()) } else { Err(NotSynced(late)) }
    }

    /// Waits until every informer's task has ended, after the shutdown given to [`Self::start`].
    pub async fn stopped(&self) {
        self.core.tasks.close();
        self.core.tasks.wait().await;
    }
}

impl<K> From<Arc<InformerCore>> for Informer<K> {
    fn from(core: Arc<InformerCore>) -> Self {
        Self { core, kind: PhantomData }
    }
}

#[cfg(test)]
mod tests;
