//! What is done with a resource, the same for each: objects are created, read, listed, watched, changed, and deleted
//! one by one and together, and each effect is read back.

mod read;
mod subresource;
mod write;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::client::{Client, Patch};
use crate::facts::Resource;
use crate::report::Report;
use crate::samples::Sample;

/// Some kinds orphan their dependents by default, which keeps them until a controller has done it.
const BACKGROUND: &str = "propagationPolicy=Background";

/// A resource on its walk.
pub(crate) struct Subject<'a> {
    /// The administrator.
    pub(crate) client: &'a Client,
    /// Where findings go.
    pub(crate) report: &'a Report,
    /// The resource.
    pub(crate) resource: &'a Resource,
    /// Its sample.
    pub(crate) sample: &'a Sample,
    /// Two namespaces of its own: where most is done, and one that must not be touched by it.
    namespaces: Option<[String; 2]>,
}

impl<'a> Subject<'a> {
    /// Prepares a resource's walk: makes its namespaces.
    pub(crate) async fn new(
        client: &'a Client,
        report: &'a Report,
        resource: &'a Resource,
        sample: &'a Sample,
    ) -> anyhow::Result<Self> {
        let mut subject = Self { client, report, resource, sample, namespaces: None };
        if resource.namespaced {
            let base = resource.id().replace(['/', '.'], "-");
            let names = [format!("{base}-one"), format!("{base}-two")];
            for name in &names {
                make_namespace(client, name).await?;
            }
            subject.namespaces = Some(names);
        }
        Ok(subject)
    }

    fn first(&self) -> Option<&str> {
        self.namespaces.as_ref().map(|n| n[0].as_str())
    }

    fn second(&self) -> Option<&str> {
        self.namespaces.as_ref().map(|n| n[1].as_str())
    }

    /// Path of a collection.
    fn collection(&self, namespace: Option<&str>) -> String {
        let root = self.resource.root();
        let plural = &self.resource.plural;
        namespace.map_or_else(|| format!("{root}/{plural}"), |n| format!("{root}/namespaces/{n}/{plural}"))
    }

    /// Path of an object in the first namespace.
    fn item(&self, number: u32) -> String {
        format!("{}/{}", self.collection(self.first()), self.sample.name(number))
    }

    /// The list's paths for collections and objects.
    fn templates(&self) -> (String, String) {
        let collection = self.collection(self.first().map(|_| "{namespace}"));
        let item = format!("{collection}/{{name}}");
        (collection, item)
    }

    fn object(&self, number: u32) -> Value {
        self.sample.object(self.resource, number, self.first())
    }

    /// Creates an object, with further labels.
    async fn make(
        &self,
        number: u32,
        namespace: Option<&str>,
        labels: &[(&str, &str)],
    ) -> anyhow::Result<Value> {
        let mut object = self.sample.object(self.resource, number, namespace);
        for (name, value) in labels {
            object["metadata"]["labels"][*name] = json!(value);
        }
        self.client.post(&self.collection(namespace), &object).await?.expect(201)
    }

    async fn read(&self, number: u32) -> anyhow::Result<Value> {
        self.client.get(&self.item(number)).await?.expect(200)
    }

    /// Whether objects stay after a delete until something is done about them.
    fn lingers(&self) -> bool {
        self.sample.finalizer.is_some() || self.is_namespaces()
    }

    fn is_namespaces(&self) -> bool {
        self.resource.plural == "namespaces"
    }

    /// After a delete: the object is not there, or waits for the finalizer that it was given, which is taken away.
    async fn gone(&self, number: u32) -> anyhow::Result<()> {
        let path = self.item(number);
        if self.lingers() {
            let object = self.read(number).await?;
            ensure!(object["metadata"]["deletionTimestamp"].is_string(), "{path}: no deletionTimestamp");
            let (found, wanted) = match &self.sample.finalizer {
                Some(finalizer) => (&object["metadata"]["finalizers"], json!([finalizer])),
                None => (&object["status"]["phase"], json!("Terminating")),
            };
            ensure!(*found == wanted, "{path}: has {found} instead of {wanted}");
            self.release(number).await?;
        }
        self.client.get(&path).await?.refused(404, "NotFound")?;
        Ok(())
    }

    async fn remove(&self, number: u32) -> anyhow::Result<()> {
        let path = format!("{}?{BACKGROUND}", self.item(number));
        self.client.delete(&path, &Value::Null).await?.expect(200)?;
        Ok(())
    }

    /// Takes away what keeps a deleted object.
    async fn release(&self, number: u32) -> anyhow::Result<()> {
        let path = self.item(number);
        if self.is_namespaces() {
            let name = self.sample.name(number);
            let done = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.client.put(&format!("{path}/finalize"), &done).await?.expect(200)?;
        } else if self.sample.finalizer.is_some() {
            let without = json!({"metadata": {"finalizers": null}});
            self.client.patch(&path, Patch::Merge, &without).await?.expect(200)?;
        }
        Ok(())
    }

    fn serves(&self, verb: &str) -> bool {
        self.resource.verbs.iter().any(|v| v == verb)
    }

    /// Walks all verbs. What depends on an object that could not be created is not reached.
    pub(crate) async fn walk(&self) {
        let (collection, item) = self.templates();
        let created = match self.create().await {
            Ok(created) => {
                self.report.note("POST", &collection, Ok(()));
                created
            }
            Err(error) => return self.report.note("POST", &collection, Err(error)),
        };
        self.report.note("GET", &item, self.get(&created).await);
        self.report.note("GET", &collection, self.list().await);
        if self.resource.namespaced {
            self.report.note("GET", &self.collection(None), self.list_everywhere().await);
        }
        self.report.note("PATCH", &item, self.patch().await);
        self.report.note("PUT", &item, self.replace(&created).await);
        self.subresources().await;
        self.report.note("DELETE", &item, self.delete().await);
        if self.serves("deletecollection") {
            self.report.note("DELETE", &collection, self.delete_collection().await);
        }
    }
}

/// Makes a namespace with the service account that pods need; no controller does it here.
pub(crate) async fn make_namespace(client: &Client, name: &str) -> anyhow::Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    client.post("/api/v1/namespaces", &namespace).await?.expect(201)?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    client.post(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &account).await?.expect(201)?;
    Ok(())
}
