//! What objects get from others or by rule: classes, finalizers, topology labels.
//! Source: `k8s.io/kubernetes/plugin/pkg/admission/{storage,network,podtopologylabels}`.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{GroupResource, at, metadata_mut, name, str_at};
use apimachinery::status::Status;
use async_trait::async_trait;

use super::{find, list_mut};
use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Phase, Plugin};

/// The class marked as default by one of these annotations; of several the youngest, then the first by name.
fn default_class(
    source: &dyn ObjectSource,
    resource: &GroupResource,
    annotations: &[&str],
) -> Option<String> {
    let marked = |class: &Value| {
        annotations.iter().any(|key| str_at(class, &["metadata", "annotations", key]) == "true")
    };
    let mut classes: Vec<Value> =
        source.list(resource, None).iter().filter_map(auth::CachedObject::value).filter(marked).collect();
    classes.sort_by(|a, b| {
        let created = |class| str_at(class, &["metadata", "creationTimestamp"]);
        created(b).cmp(created(a)).then_with(|| name(a).cmp(name(b)))
    });
    classes.first().map(|class| name(class).to_owned())
}

/// Claims that name no storage class get the default one.
pub(super) struct DefaultStorageClass {
    source: Arc<dyn ObjectSource>,
}

impl DefaultStorageClass {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source }
    }
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate]
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let claim = request.object();
        let set = |path: &[&str]| at(claim, path).is_some_and(|v| !v.is_null());
        if !request.is("", "persistentvolumeclaims")
            || set(&["spec", "storageClassName"])
            || set(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"])
        {
            return Ok(());
        }
        let class = default_class(
            &*self.source,
            &GroupResource::new("storage.k8s.io", "storageclasses"),
            &[
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ],
        );
        let spec = request.object.as_mut().and_then(|o| o.get_mut("spec")).and_then(Value::as_object_mut);
        if let (Some(class), Some(spec)) = (class, spec) {
            spec.insert("storageClassName".into(), json!(class));
        }
        Ok(())
    }
}

/// Ingresses that name no class get the default one.
pub(super) struct DefaultIngressClass {
    source: Arc<dyn ObjectSource>,
}

impl DefaultIngressClass {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source }
    }
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate]
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let ingress = request.object();
        if !request.is("networking.k8s.io", "ingresses")
            || at(ingress, &["spec", "ingressClassName"]).is_some_and(|v| !v.is_null())
            || at(ingress, &["metadata", "annotations", "kubernetes.io/ingress.class"]).is_some()
        {
            return Ok(());
        }
        let class = default_class(
            &*self.source,
            &GroupResource::new("networking.k8s.io", "ingressclasses"),
            &["ingressclass.kubernetes.io/is-default-class"],
        );
        let spec = request.object.as_mut().and_then(|o| o.get_mut("spec")).and_then(Value::as_object_mut);
        if let (Some(class), Some(spec)) = (class, spec) {
            spec.insert("ingressClassName".into(), json!(class));
        }
        Ok(())
    }
}

/// Volumes and claims in use are not deleted: controllers remove these finalizers when they are free.
pub(super) struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate]
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let finalizer = match (request.gvr.group.as_str(), request.gvr.resource.as_str()) {
            ("", "persistentvolumes") => "kubernetes.io/pv-protection",
            ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
            ("storage.k8s.io", "volumeattributesclasses") => "kubernetes.io/vac-protection",
            _ => return Ok(()),
        };
        if !request.subresource.is_empty() {
            return Ok(());
        }
        let finalizers = request.object.as_mut().and_then(|o| list_mut(o, &["metadata", "finalizers"]));
        if let Some(list) = finalizers
            && !list.iter().any(|f| f == finalizer)
        {
            list.push(json!(finalizer));
        }
        Ok(())
    }
}

/// Labels that a pod takes over from its node.
const TOPOLOGY_LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Pods bound to a node get its zone and region as labels (KEP-4742).
pub(super) struct PodTopologyLabels {
    source: Arc<dyn ObjectSource>,
}

impl PodTopologyLabels {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source }
    }
}

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate]
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let node = match request.subresource.as_str() {
            "" if request.is("", "pods") => str_at(request.object(), &["spec", "nodeName"]),
            "binding" if request.is_sub("", "pods", "binding") => {
                str_at(request.object(), &["target", "name"])
            }
            "" if request.is("", "bindings") => str_at(request.object(), &["target", "name"]),
            _ => return Ok(()),
        };
        if node.is_empty() {
            return Ok(());
        }
        let Some(node) = find(&*self.source, "", "nodes", "", node).await? else { return Ok(()) };
        let Some(metadata) = request.object.as_mut().and_then(metadata_mut) else { return Ok(()) };
        for key in TOPOLOGY_LABELS {
            let value = str_at(&node, &["metadata", "labels", key]);
            if value.is_empty() {
                continue;
            }
            let labels = metadata.entry("labels").or_insert_with(|| json!({}));
            if let Some(labels) = labels.as_object_mut() {
                labels.insert(key.into(), json!(value));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Source, request, run};
    use auth::UserInfo;

    fn class(name: &str, annotation: &str, created: &str) -> Value {
        json!({"metadata": {"name": name, "annotations": {annotation: "true"}, "creationTimestamp": created}})
    }

    #[tokio::test]
    async fn default_classes() {
        let key = "storageclass.kubernetes.io/is-default-class";
        let source = Source::new([
            ("storage.k8s.io", "storageclasses", class("old", key, "2026-01-01T00:00:00Z")),
            ("storage.k8s.io", "storageclasses", class("young-b", key, "2026-02-01T00:00:00Z")),
            ("storage.k8s.io", "storageclasses", class("young-a", key, "2026-02-01T00:00:00Z")),
            (
                "networking.k8s.io",
                "ingressclasses",
                class("in", "ingressclass.kubernetes.io/is-default-class", "2026-01-01T00:00:00Z"),
            ),
        ]);
        let user = UserInfo::default();
        let storage = DefaultStorageClass::new(source.clone());
        for (spec, expected) in [
            (json!({}), json!("young-a")),
            (json!({"storageClassName": ""}), json!("")),
            (json!({"storageClassName": "x"}), json!("x")),
        ] {
            let claim = json!({"metadata": {"name": "c"}, "spec": spec});
            let claim = run(
                &storage,
                request(Operation::Create, "/persistentvolumeclaims", &user, Some(claim), None),
            )
            .await
            .expect("ok");
            assert_eq!(claim["spec"]["storageClassName"], expected);
        }
        let ingress = DefaultIngressClass::new(source);
        let made = json!({"metadata": {"name": "c"}, "spec": {}});
        let made =
            run(&ingress, request(Operation::Create, "networking.k8s.io/ingresses", &user, Some(made), None))
                .await
                .expect("ok");
        assert_eq!(made["spec"]["ingressClassName"], "in");
    }

    #[tokio::test]
    async fn finalizers_and_labels() {
        let user = UserInfo::default();
        let claim = json!({"metadata": {"name": "c", "finalizers": ["mine"]}});
        let claim = run(
            &StorageObjectInUseProtection,
            request(Operation::Create, "/persistentvolumeclaims", &user, Some(claim), None),
        )
        .await
        .expect("ok");
        assert_eq!(claim["metadata"]["finalizers"], json!(["mine", "kubernetes.io/pvc-protection"]));

        let node =
            json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z", "other": "x"}}});
        let plugin = PodTopologyLabels::new(Source::new([("", "nodes", node)]));
        let binding =
            json!({"metadata": {"name": "p", "namespace": "ns"}, "target": {"kind": "Node", "name": "n"}});
        let bound = run(&plugin, request(Operation::Create, "/pods/binding", &user, Some(binding), None))
            .await
            .expect("ok");
        assert_eq!(bound["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z"}));
    }
}
