//! What every controller gets: informers, its identity, an event recorder, and a place to run.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use client::events::EventRecorder;
use client::rest::Rest;
use client::workqueue::WorkQueue;
use client::{Informer, InformerFactory, Selection, is_conflict};
use futures::future::BoxFuture;
use kube::ResourceExt;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::config::Config;

/// Namespace and name of the object to look at; the namespace of a cluster-scoped one is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(crate) fn of(object: &impl ResourceExt) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Why one run of a key failed. The key is tried again with growing delays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// A call to the API server failed.
    #[error("{}", said(.0))]
    Api(#[from] kube::Error),
    /// The objects found do not allow to go on.
    #[error("{0}")]
    Other(String),
}

/// The server's own words where it answered: events and conditions show them.
pub(crate) fn said(error: &kube::Error) -> String {
    client::status_of(error).map_or_else(|| error.to_string(), |status| status.message.clone())
}

impl SyncError {
    pub(crate) fn other(text: impl Into<String>) -> Self {
        Self::Other(text.into())
    }

    /// The cache was behind; the next run will not be.
    pub(crate) fn is_expected(&self) -> bool {
        matches!(self, Self::Api(error) if is_conflict(error))
    }
}

/// When a key that went well is to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// When something changes.
    OnChange,
    /// After this time at the latest.
    After(Duration),
}

pub(crate) type SyncResult = Result<Next, SyncError>;

/// One controller's work on one key. Reads its informers anew at each call; holds nothing over from the call before.
pub(crate) trait Reconcile: Send + Sync + 'static {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult>;
}

/// The informers one controller reads: its workers wait for all of them, as deciding on half a cluster would delete
/// the other half.
struct Needs {
    waits: Mutex<Vec<BoxFuture<'static, bool>>>,
    ready: watch::Sender<bool>,
}

/// What one controller is given. Everything but its list of needed informers is shared by all of a process.
pub(crate) struct Context {
    pub(crate) informers: InformerFactory,
    needs: Arc<Needs>,
    pub(crate) config: Arc<Config>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) client: kube::Client,
    pub(crate) recorder: EventRecorder,
    pub(crate) tasks: TaskTracker,
}

impl Context {
    pub(crate) fn new(
        client: kube::Client,
        config: Arc<Config>,
        recorder: EventRecorder,
        shutdown: CancellationToken,
    ) -> Self {
        let informers = config.informers.clone().unwrap_or_else(|| InformerFactory::new(client.clone()));
        Self { informers, needs: Needs::new(), config, shutdown, client, recorder, tasks: TaskTracker::new() }
    }

    /// The context of one more controller.
    pub(crate) fn for_controller(&self) -> Self {
        Self {
            informers: self.informers.clone(),
            needs: Needs::new(),
            config: self.config.clone(),
            shutdown: self.shutdown.clone(),
            client: self.client.clone(),
            recorder: self.recorder.clone(),
            tasks: self.tasks.clone(),
        }
    }

    /// The shared informer of a kind; this controller's workers wait for it.
    pub(crate) fn informer<K>(&self) -> Informer<K>
    where
        K: kube::Resource<DynamicType = ()> + DeserializeOwned + Any + Send + Sync,
    {
        self.informer_for(Selection::default())
    }

    /// [`Self::informer`] of selected objects.
    pub(crate) fn informer_for<K>(&self, selection: Selection) -> Informer<K>
    where
        K: kube::Resource<DynamicType = ()> + DeserializeOwned + Any + Send + Sync,
    {
        let informer = self.informers.informer_for::<K>(selection);
        let synced = informer.clone();
        self.needs.waits.lock().push(Box::pin(async move { synced.synced().await }));
        informer
    }

    /// Lets the workers begin once every informer asked for has its first list. Called when the controller has started.
    pub(crate) fn begin(&self, name: &'static str) {
        let needs = self.needs.clone();
        let waits = std::mem::take(&mut *needs.waits.lock());
        self.spawn(async move {
            for wait in waits {
                if !wait.await {
                    return;
                }
            }
            debug!(controller = name, "caches synced");
            needs.ready.send_replace(true);
        });
    }

    /// Waits for [`Self::begin`]'s condition.
    pub(crate) fn ready(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ready = self.needs.ready.subscribe();
        async move {
            if ready.wait_for(|ready| *ready).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Calls with the identity of a service account in `kube-system`; the name is also the field manager.
    pub(crate) fn rest(&self, account: &'static str) -> Rest {
        let client = match &self.config.client_for {
            Some(client_for) => client_for(account),
            None => self.client.clone(),
        };
        Rest::new(client, "kube-controller-manager")
    }

    /// Records events under a component name.
    pub(crate) fn recorder(&self, component: &str) -> EventRecorder {
        self.recorder.for_component(component)
    }

    /// Runs something until shutdown.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            shutdown.run_until_cancelled(task).await;
        });
    }

    /// Runs workers on a queue until shutdown; the run under way at that moment is finished.
    pub(crate) fn work(
        &self,
        name: &'static str,
        queue: &WorkQueue<Key>,
        workers: usize,
        reconciler: Arc<dyn Reconcile>,
    ) {
        for _ in 0..workers.max(1) {
            let (queue, reconciler) = (queue.clone(), reconciler.clone());
            let (ready, shutdown) = (self.ready(), self.shutdown.clone());
            self.tasks.spawn(async move {
                if shutdown.run_until_cancelled(ready).await.is_none() {
                    return;
                }
                while let Some(key) = queue.get().await {
                    settle(name, &queue, &key, reconciler.reconcile(&key).await);
                    queue.done(&key);
                }
            });
        }
        let (queue, shutdown) = (queue.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            shutdown.cancelled().await;
            queue.shut_down();
        });
    }
}

impl Needs {
    fn new() -> Arc<Self> {
        Arc::new(Self { waits: Mutex::default(), ready: watch::Sender::new(false) })
    }
}

fn settle(controller: &str, queue: &WorkQueue<Key>, key: &Key, result: SyncResult) {
    match result {
        Ok(next) => {
            queue.forget(key);
            if let Next::After(delay) = next {
                queue.add_after(key.clone(), delay);
            }
        }
        Err(error) => {
            if error.is_expected() {
                debug!(controller, %key, %error, "stale, trying again");
            } else {
                warn!(controller, %key, %error, "sync failed, trying again");
            }
            queue.add_rate_limited(key.clone());
        }
    }
}
