//! A kubelet changes its own node and the pods on it, and nothing else.
//! Source: `k8s.io/kubernetes/plugin/pkg/admission/noderestriction`.

use std::collections::BTreeSet;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{GroupResource, at, metadata_mut, name, str_at, uid};
use apimachinery::status::Status;
use async_trait::async_trait;

use super::{find, items};
use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Phase, Plugin};

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Labels a kubelet may set on its node.
const KUBELET_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
];
/// Namespaces of labels a kubelet may set on its node.
const KUBELET_LABEL_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Limits kubelets.
pub(super) struct NodeRestriction {
    source: Arc<dyn ObjectSource>,
}

type Check = Result<(), Status>;

/// Whether a label's namespace is this one or below it.
fn within(namespace: &str, parent: &str) -> bool {
    namespace == parent || namespace.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
}

fn is_forbidden_label(key: &str) -> bool {
    let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
    if within(namespace, "node-restriction.kubernetes.io") {
        return true;
    }
    let kubernetes = within(namespace, "kubernetes.io") || within(namespace, "k8s.io");
    let kubelets =
        KUBELET_LABELS.contains(&key) || KUBELET_LABEL_NAMESPACES.iter().any(|ns| within(namespace, ns));
    kubernetes && !kubelets
}

/// Labels that differ and may not, by comma.
fn forbidden_changes(new: &Value, old: &Value) -> String {
    let labels = |object| at(object, &["metadata", "labels"]).and_then(Value::as_object);
    let (new, old) = (labels(new), labels(old));
    let keys: BTreeSet<&apimachinery::Key> =
        new.into_iter().chain(old).flat_map(apimachinery::Map::keys).collect();
    let changed = |key: &&&apimachinery::Key| {
        new.and_then(|m| m.get(key.as_str())) != old.and_then(|m| m.get(key.as_str()))
    };
    let forbidden: Vec<&str> =
        keys.iter().filter(changed).map(|k| k.as_str()).filter(|k| is_forbidden_label(k)).collect();
    forbidden.join(", ")
}

/// What objects a pod refers to that a mirror pod may not.
fn foreign_reference(pod: &Value) -> Option<&'static str> {
    let set = |object: &Value, path: &[&str]| at(object, path).is_some_and(|v| !v.is_null());
    if !str_at(pod, &["spec", "serviceAccountName"]).is_empty() {
        return Some("a service account");
    }
    let volumes = items(pod, &["spec", "volumes"]);
    let containers = ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| items(pod, &["spec", list]))
        .collect::<Vec<_>>();
    let in_containers = |key: &str, source: &str| {
        containers.iter().any(|c| {
            items(c, &["env"]).iter().any(|e| set(e, &["valueFrom", key]))
                || items(c, &["envFrom"]).iter().any(|e| set(e, &[source]))
        })
    };
    let projected = |key: &str| {
        volumes.iter().any(|v| items(v, &["projected", "sources"]).iter().any(|s| set(s, &[key])))
    };
    let any_volume = |path: &[&str]| volumes.iter().any(|v| set(v, path));
    let secret_volumes: [&[&str]; 9] = [
        &["secret"],
        &["azureFile"],
        &["cephfs", "secretRef"],
        &["flexVolume", "secretRef"],
        &["iscsi", "secretRef"],
        &["rbd", "secretRef"],
        &["scaleIO", "secretRef"],
        &["storageos", "secretRef"],
        &["csi", "nodePublishSecretRef"],
    ];
    if !items(pod, &["spec", "imagePullSecrets"]).is_empty()
        || in_containers("secretKeyRef", "secretRef")
        || projected("secret")
        || secret_volumes.iter().any(|path| any_volume(path))
    {
        return Some("secrets");
    }
    if in_containers("configMapKeyRef", "configMapRef")
        || projected("configMap")
        || any_volume(&["configMap"])
    {
        return Some("configmaps");
    }
    if projected("clusterTrustBundle") {
        return Some("clustertrustbundles");
    }
    if !items(pod, &["spec", "resourceClaims"]).is_empty() {
        return Some("resourceclaims");
    }
    any_volume(&["persistentVolumeClaim"]).then_some("persistentvolumeclaims")
}

impl NodeRestriction {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source }
    }

    async fn pod(&self, request: &AdmissionRequest<'_>, pod: &str) -> Result<Value, Status> {
        let missing = || Status::not_found(&GroupResource::new("", "pods"), pod);
        find(&*self.source, "", "pods", &request.namespace, pod).await?.ok_or_else(missing)
    }

    async fn pods(&self, node: &str, request: &AdmissionRequest<'_>) -> Check {
        let deny = |why: String| Err(request.forbidden(&why));
        match (request.subresource.as_str(), request.operation) {
            ("", Operation::Create) => self.create_pod(node, request).await,
            ("", Operation::Delete) => {
                let existing = self.pod(request, &request.name).await?;
                if str_at(&existing, &["spec", "nodeName"]) != node {
                    return deny(format!(
                        "node {node:?} can only delete pods with spec.nodeName set to itself"
                    ));
                }
                Ok(())
            }
            ("", operation) => deny(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                operation.as_str()
            )),
            ("status", Operation::Update) => pod_status(node, request),
            ("eviction", Operation::Create) => {
                let name = if request.name.is_empty() { name(request.object()) } else { &request.name };
                if name.is_empty() {
                    return deny("could not determine pod from request data".into());
                }
                let existing = self.pod(request, name).await?;
                if str_at(&existing, &["spec", "nodeName"]) != node {
                    return deny(format!("node {node} can only evict pods with spec.nodeName set to itself"));
                }
                Ok(())
            }
            ("status", operation) => deny(format!("unexpected operation {:?}", operation.as_str())),
            ("eviction", operation) => deny(format!("unexpected operation {}", operation.as_str())),
            (other, _) => deny(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            )),
        }
    }

    async fn create_pod(&self, node: &str, request: &AdmissionRequest<'_>) -> Check {
        let pod = request.object();
        let deny = |why: String| Err(request.forbidden(&why));
        if at(pod, &["metadata", "annotations", MIRROR_ANNOTATION]).is_none() {
            return deny(format!(
                "pod does not have {MIRROR_ANNOTATION:?} annotation, node {node:?} can only create mirror pods"
            ));
        }
        if str_at(pod, &["spec", "nodeName"]) != node {
            return deny(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        let only_own = format!("node {node:?} can only create pods with an owner reference set to itself");
        let owner = match items(pod, &["metadata", "ownerReferences"]) {
            [owner] => owner,
            [] => return deny(only_own),
            _ => {
                return deny(format!(
                    "node {node:?} can only create pods with a single owner reference set to itself"
                ));
            }
        };
        let flag = |key: &str| at(owner, &[key]).and_then(Value::as_bool) == Some(true);
        let is_own = str_at(owner, &["apiVersion"]) == "v1"
            && str_at(owner, &["kind"]) == "Node"
            && str_at(owner, &["name"]) == node;
        if !is_own {
            return deny(only_own);
        }
        if !flag("controller") {
            return deny(format!(
                "node {node:?} can only create pods with a controller owner reference set to itself"
            ));
        }
        if flag("blockOwnerDeletion") {
            return deny(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let own = find(&*self.source, "", "nodes", "", node)
            .await?
            .ok_or_else(|| Status::not_found(&GroupResource::new("", "nodes"), node))?;
        let given = str_at(owner, &["uid"]);
        if given != uid(&own) {
            return deny(format!("node {node} UID mismatch: expected {given} got {}", uid(&own)));
        }
        match foreign_reference(pod) {
            Some(what) => deny(format!("node {node:?} can not create pods that reference {what}")),
            None => Ok(()),
        }
    }

    async fn token(&self, node: &str, request: &AdmissionRequest<'_>) -> Check {
        if request.operation != Operation::Create || request.subresource != "token" {
            return Ok(());
        }
        let deny = |why: &str| Err(request.forbidden(why));
        let Some(bound) = at(request.object(), &["spec", "boundObjectRef"]) else {
            return deny("node requested token not bound to a pod");
        };
        let (pod_name, pod_uid) = (str_at(bound, &["name"]), str_at(bound, &["uid"]));
        if str_at(bound, &["apiVersion"]) != "v1" || str_at(bound, &["kind"]) != "Pod" || pod_name.is_empty()
        {
            return deny("node requested token not bound to a pod");
        }
        if pod_uid.is_empty() {
            return deny("node requested token with a pod binding without a uid");
        }
        let pod = self.pod(request, pod_name).await?;
        if pod_uid != uid(&pod) {
            return deny(&format!(
                "the UID in the bound object reference ({pod_uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ));
        }
        if str_at(&pod, &["spec", "nodeName"]) != node {
            return deny("node requested token bound to a pod scheduled on a different node");
        }
        Ok(())
    }
}

fn pod_status(node: &str, request: &AdmissionRequest<'_>) -> Check {
    let (new, old) = (request.object(), request.old());
    let deny = |why: String| Err(request.forbidden(&why));
    if str_at(old, &["spec", "nodeName"]) != node {
        return deny(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    let same = |path: &[&str]| at(new, path) == at(old, path);
    if !same(&["metadata", "labels"]) {
        return deny(format!("node {node:?} cannot update labels through pod status"));
    }
    if !same(&["status", "resourceClaimStatuses"]) {
        return deny(format!("node {node:?} cannot update resource claim statues"));
    }
    Ok(())
}

fn claim_status(node: &str, request: &AdmissionRequest<'_>) -> Check {
    if request.subresource != "status" {
        return Err(request.forbidden("may only update PVC status"));
    }
    if request.operation != Operation::Update {
        return Err(request.forbidden(&format!("unexpected operation {:?}", request.operation.as_str())));
    }
    let strip = |claim: &Value| {
        let mut claim = claim.clone();
        if let Some(metadata) = metadata_mut(&mut claim) {
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
        }
        if let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut) {
            for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
                status.remove(field);
            }
        }
        claim
    };
    if strip(request.object()) == strip(request.old()) {
        return Ok(());
    }
    Err(request.forbidden(&format!(
        "node {node:?} is not allowed to update fields other than status.capacity and status.conditions"
    )))
}

fn own_node(node: &str, request: &AdmissionRequest<'_>) -> Check {
    let (new, old) = (request.object(), request.old());
    let asked = if request.name.is_empty() { name(new) } else { &request.name };
    if asked != node {
        return Err(request.forbidden(&format!("node {node:?} is not allowed to modify node {asked:?}")));
    }
    let changed_source = at(new, &["spec", "configSource"]).filter(|s| !s.is_null());
    match request.operation {
        Operation::Create => {
            if changed_source.is_some() {
                return Err(request.forbidden(&format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                )));
            }
            let labels = forbidden_changes(new, &Value::Null);
            if !labels.is_empty() {
                return Err(request.forbidden(&format!(
                    "node {node:?} is not allowed to set the following labels: {labels}"
                )));
            }
        }
        Operation::Update => {
            if changed_source.is_some() && changed_source != at(old, &["spec", "configSource"]) {
                return Err(request.forbidden(&format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                )));
            }
            if items(new, &["spec", "taints"]) != items(old, &["spec", "taints"]) {
                return Err(request.forbidden(&format!("node {node:?} is not allowed to modify taints")));
            }
            let labels = forbidden_changes(new, old);
            if !labels.is_empty() {
                return Err(request.forbidden(&format!("is not allowed to modify labels: {labels}")));
            }
        }
        Operation::Delete | Operation::Connect => {}
    }
    Ok(())
}

/// Leases and CSINodes go by the node's name.
fn same_name(node: &str, request: &AdmissionRequest<'_>, what: &str) -> Check {
    let asked = if request.operation == Operation::Create { name(request.object()) } else { &request.name };
    if asked == node {
        return Ok(());
    }
    Err(request.forbidden(&format!("can only access {what} with the same name as the requesting node")))
}

fn slice(request: &AdmissionRequest<'_>, node: &str) -> Check {
    let object = if request.operation == Operation::Delete { request.old() } else { request.object() };
    if str_at(object, &["spec", "nodeName"]) == node {
        return Ok(());
    }
    let verb = match request.operation {
        Operation::Create => "create",
        Operation::Delete => "delete",
        _ => return Ok(()), // the node name cannot change, and the authorizer looked at the stored one
    };
    Err(request
        .forbidden(&format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")))
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update | Operation::Delete)
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let request = &*request;
        let Some(node) = request.user.as_node() else { return Ok(()) };
        if node.is_empty() {
            return Err(
                request.forbidden(&format!("could not determine node from user {:?}", request.user.name))
            );
        }
        match (request.gvr.group.as_str(), request.gvr.resource.as_str()) {
            ("", "pods") => self.pods(node, request).await,
            ("", "nodes") => own_node(node, request),
            ("", "persistentvolumeclaims") => claim_status(node, request),
            ("", "serviceaccounts") => self.token(node, request).await,
            ("coordination.k8s.io", "leases") => {
                if request.namespace != LEASE_NAMESPACE {
                    return Err(request.forbidden(&format!(
                        "can only access leases in the {LEASE_NAMESPACE:?} system namespace"
                    )));
                }
                same_name(node, request, "node lease")
            }
            ("storage.k8s.io", "csinodes") => same_name(node, request, "CSINode"),
            ("resource.k8s.io", "resourceslices") => slice(request, node),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Source, request, run};
    use apimachinery::json;
    use auth::UserInfo;
    use auth::user::NODES_GROUP;

    fn node(labels: Value, taints: Value) -> Value {
        json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}})
    }

    fn mirror(spec: Value, owner_uid: &str) -> Value {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        json!({"metadata": {"namespace": "ns", "name": "m", "annotations": {MIRROR_ANNOTATION: "x"}, "ownerReferences":
            [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": owner_uid, "controller": true}]}, "spec": spec})
    }

    #[tokio::test]
    async fn kubelets_are_limited() {
        let pod = |name: &str, node: &str| json!({"metadata": {"namespace": "ns", "name": name, "uid": "u"}, "spec": {"nodeName": node}});
        let plugin = NodeRestriction::new(Source::new([
            ("", "pods", pod("mine", "n1")),
            ("", "pods", pod("other", "n2")),
            ("", "nodes", json!({"metadata": {"name": "n1", "uid": "nu"}})),
        ]));
        let user = UserInfo::new("system:node:n1", &[NODES_GROUP]);
        let (mine, other) = (pod("mine", "n1"), pod("other", "n2"));
        let plain = node(json!({}), json!([]));
        let token = |pod: &str, uid: &str| json!({"metadata": {"namespace": "ns", "name": "sa"}, "spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}}});
        let lease = |ns: &str, name: &str| json!({"metadata": {"namespace": ns, "name": name}});
        use Operation::{Create, Delete, Update};
        type Case<'a> = (Operation, &'a str, Option<Value>, Option<&'a Value>, &'a str);
        let cases: Vec<Case<'_>> = vec![
            (Delete, "/pods", None, Some(&mine), ""),
            (
                Delete,
                "/pods",
                None,
                Some(&other),
                "node \"n1\" can only delete pods with spec.nodeName set to itself",
            ),
            (Create, "/pods", Some(mirror(json!({}), "nu")), None, ""),
            (Create, "/pods", Some(mirror(json!({}), "x")), None, "node n1 UID mismatch: expected x got nu"),
            (
                Create,
                "/pods",
                Some(mine.clone()),
                None,
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods",
            ),
            (
                Create,
                "/pods",
                Some(mirror(json!({"serviceAccountName": "a"}), "nu")),
                None,
                "node \"n1\" can not create pods that reference a service account",
            ),
            (
                Create,
                "/pods",
                Some(mirror(json!({"volumes": [{"secret": {}}]}), "nu")),
                None,
                "node \"n1\" can not create pods that reference secrets",
            ),
            (
                Create,
                "/pods",
                Some(mirror(json!({"containers": [{"envFrom": [{"configMapRef": {}}]}]}), "nu")),
                None,
                "node \"n1\" can not create pods that reference configmaps",
            ),
            (
                Update,
                "/pods",
                Some(mine.clone()),
                Some(&mine),
                "unexpected operation \"UPDATE\", node \"n1\" can only create and delete mirror pods",
            ),
            (Update, "/pods/status", Some(mine.clone()), Some(&mine), ""),
            (
                Update,
                "/pods/status",
                Some(other.clone()),
                Some(&other),
                "node \"n1\" can only update pod status for pods with spec.nodeName set to itself",
            ),
            (
                Create,
                "/pods/eviction",
                Some(json!({"metadata": {"namespace": "ns", "name": "other"}})),
                None,
                "node n1 can only evict pods with spec.nodeName set to itself",
            ),
            (
                Create,
                "/pods/binding",
                Some(mine.clone()),
                None,
                "unexpected pod subresource \"binding\", only 'status' and 'eviction' are allowed",
            ),
            (
                Create,
                "/nodes",
                Some(node(
                    json!({"kubernetes.io/hostname": "n1", "mine": "1", "node.kubernetes.io/x": "1"}),
                    json!([]),
                )),
                None,
                "",
            ),
            (
                Create,
                "/nodes",
                Some(node(json!({"node-restriction.kubernetes.io/a": "1", "foo.k8s.io/b": "1"}), json!([]))),
                None,
                "node \"n1\" is not allowed to set the following labels: foo.k8s.io/b, node-restriction.kubernetes.io/a",
            ),
            (
                Update,
                "/nodes",
                Some(node(json!({"node-role.kubernetes.io/master": ""}), json!([]))),
                Some(&plain),
                "is not allowed to modify labels: node-role.kubernetes.io/master",
            ),
            (
                Update,
                "/nodes/status",
                Some(node(json!({}), json!([{"key": "a"}]))),
                Some(&plain),
                "node \"n1\" is not allowed to modify taints",
            ),
            (Create, "/serviceaccounts/token", Some(token("mine", "u")), None, ""),
            (
                Create,
                "/serviceaccounts/token",
                Some(token("mine", "")),
                None,
                "node requested token with a pod binding without a uid",
            ),
            (
                Create,
                "/serviceaccounts/token",
                Some(token("other", "u")),
                None,
                "node requested token bound to a pod scheduled on a different node",
            ),
            (Create, "coordination.k8s.io/leases", Some(lease(LEASE_NAMESPACE, "n1")), None, ""),
            (
                Create,
                "coordination.k8s.io/leases",
                Some(lease(LEASE_NAMESPACE, "n2")),
                None,
                "can only access node lease with the same name as the requesting node",
            ),
            (
                Create,
                "coordination.k8s.io/leases",
                Some(lease("ns", "n1")),
                None,
                "can only access leases in the \"kube-node-lease\" system namespace",
            ),
        ];
        for (operation, resource, object, old, expected) in cases {
            let got = run(&plugin, request(operation, resource, &user, object, old)).await;
            let message = got.err().unwrap_or_default();
            let why = message.split_once(" is forbidden: ").map_or(message.as_str(), |(_, why)| why);
            assert_eq!(why, expected, "{operation:?} {resource}");
        }
        let ann = UserInfo::new("ann", &[]);
        assert!(run(&plugin, request(Delete, "/pods", &ann, None, Some(&other))).await.is_ok());
    }
}
