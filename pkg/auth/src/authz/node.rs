//! The Node authorizer: a kubelet may read what the pods bound to its node refer to, and little else.
//!
//! Where upstream keeps a graph of all references in the cluster, this looks at the pods of the one node that asks
//! (the cache finds them by `spec.nodeName`) and remembers what each of them refers to.
//! Source: the Node authorization reference page, `k8s.io/kubernetes/plugin/pkg/auth/authorizer/node`.

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::{GroupResource, at, str_at};
use async_trait::async_trait;
use parking_lot::Mutex;

use super::rbac::PolicyRule;
use super::{Attributes, Authorization, Authorizer, Decision, RuleResolver, Rules};
use crate::object::{CachedObject, ObjectReader};
use crate::user::UserInfo;

/// Namespace of node leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Annotation of the API's picture of a static pod.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// Pods whose references are remembered; beyond it all are forgotten and looked at again.
const MAX_REMEMBERED_PODS: usize = 200_000;

/// What a pod refers to in its namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct References {
    secrets: Vec<String>,
    configmaps: Vec<String>,
    claims: Vec<String>,
    resource_claims: Vec<String>,
    service_account: String,
}

/// Paths of a volume's name of a Secret in the pod's namespace.
const VOLUME_SECRETS: [&[&str]; 9] = [
    &["secret", "secretName"],
    &["azureFile", "secretName"],
    &["cephfs", "secretRef", "name"],
    &["flexVolume", "secretRef", "name"],
    &["iscsi", "secretRef", "name"],
    &["rbd", "secretRef", "name"],
    &["scaleIO", "secretRef", "name"],
    &["storageos", "secretRef", "name"],
    &["csi", "nodePublishSecretRef", "name"],
];

/// Paths of a persistent volume's references to Secrets, each with name and namespace (`secretName` for Azure files).
const PERSISTENT_VOLUME_SECRETS: [&[&str]; 10] = [
    &["cephfs", "secretRef"],
    &["flexVolume", "secretRef"],
    &["iscsi", "secretRef"],
    &["rbd", "secretRef"],
    &["scaleIO", "secretRef"],
    &["storageos", "secretRef"],
    &["csi", "controllerPublishSecretRef"],
    &["csi", "nodePublishSecretRef"],
    &["csi", "nodeStageSecretRef"],
    &["csi", "nodeExpandSecretRef"],
];

fn items<'a>(object: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a Value> {
    at(object, path).and_then(Value::as_array).into_iter().flatten()
}

impl References {
    fn of(pod: &Value) -> Self {
        let mut found = Self::default();
        // a node makes mirror pods itself: they must not give it anything
        if at(pod, &["metadata", "annotations", MIRROR_ANNOTATION]).is_some() {
            return found;
        }
        str_at(pod, &["spec", "serviceAccountName"]).clone_into(&mut found.service_account);
        for secret in items(pod, &["spec", "imagePullSecrets"]) {
            found.secrets.push(str_at(secret, &["name"]).to_owned());
        }
        for list in ["containers", "initContainers", "ephemeralContainers"] {
            items(pod, &["spec", list]).for_each(|container| found.container(container));
        }
        let pod_name = apimachinery::meta::name(pod);
        items(pod, &["spec", "volumes"]).for_each(|volume| found.volume(volume, pod_name));
        for (claims, key) in [
            (items(pod, &["spec", "resourceClaims"]), "resourceClaimName"),
            (items(pod, &["status", "resourceClaimStatuses"]), "resourceClaimName"),
        ] {
            found.resource_claims.extend(claims.map(|c| str_at(c, &[key]).to_owned()));
        }
        let extended = str_at(pod, &["status", "extendedResourceClaimStatus", "resourceClaimName"]);
        found.resource_claims.push(extended.to_owned());
        for list in [&mut found.secrets, &mut found.configmaps, &mut found.claims, &mut found.resource_claims]
        {
            list.retain(|name| !name.is_empty());
        }
        found
    }

    fn container(&mut self, container: &Value) {
        for env in items(container, &["env"]) {
            self.secrets.push(str_at(env, &["valueFrom", "secretKeyRef", "name"]).to_owned());
            self.configmaps.push(str_at(env, &["valueFrom", "configMapKeyRef", "name"]).to_owned());
        }
        for source in items(container, &["envFrom"]) {
            self.secrets.push(str_at(source, &["secretRef", "name"]).to_owned());
            self.configmaps.push(str_at(source, &["configMapRef", "name"]).to_owned());
        }
    }

    fn volume(&mut self, volume: &Value, pod_name: &str) {
        self.secrets.extend(VOLUME_SECRETS.iter().map(|path| str_at(volume, path).to_owned()));
        self.configmaps.push(str_at(volume, &["configMap", "name"]).to_owned());
        for source in items(volume, &["projected", "sources"]) {
            self.secrets.push(str_at(source, &["secret", "name"]).to_owned());
            self.configmaps.push(str_at(source, &["configMap", "name"]).to_owned());
        }
        self.claims.push(str_at(volume, &["persistentVolumeClaim", "claimName"]).to_owned());
        if at(volume, &["ephemeral"]).is_some_and(|e| !e.is_null()) {
            self.claims.push(format!("{pod_name}-{}", str_at(volume, &["name"])));
        }
    }
}

/// Whether a field selector requires `field` to be `value`.
fn selects(selector: &str, field: &str, value: &str) -> bool {
    selector.split(',').any(|term| {
        let rest = term.trim().strip_prefix(field).and_then(|r| r.strip_prefix('='));
        rest.map(|r| r.strip_prefix('=').unwrap_or(r)) == Some(value)
    })
}

type Remembered = HashMap<(Arc<str>, Arc<str>), (i64, Arc<References>)>;

/// Authorizes kubelets.
pub struct NodeAuthorizer {
    objects: Arc<dyn ObjectReader>,
    rules: Vec<PolicyRule>,
    remembered: Mutex<Remembered>,
}

type Verdict = Result<(), String>;

fn refuse(why: &str) -> Verdict {
    Err(why.to_owned())
}

impl NodeAuthorizer {
    /// Reads pods and what they refer to through `objects`; `rules` hold for everything that is not about single
    /// objects (the rules of ClusterRole `system:node`, see [`crate::bootstrap::node_rules`]).
    pub fn new(objects: Arc<dyn ObjectReader>, rules: Vec<PolicyRule>) -> Self {
        Self { objects, rules, remembered: Mutex::default() }
    }

    fn references(&self, pod: &CachedObject) -> Arc<References> {
        let key = (pod.namespace.clone(), pod.name.clone());
        let mut remembered = self.remembered.lock();
        if let Some((revision, references)) = remembered.get(&key)
            && *revision == pod.revision
        {
            return Arc::clone(references);
        }
        let references = Arc::new(pod.value().map(|p| References::of(&p)).unwrap_or_default());
        if remembered.len() >= MAX_REMEMBERED_PODS {
            remembered.clear();
        }
        remembered.insert(key, (pod.revision, Arc::clone(&references)));
        references
    }

    fn pods(&self, node: &str, namespace: Option<&str>) -> Vec<CachedObject> {
        self.objects.select(&GroupResource::new("", "pods"), namespace, "spec.nodeName", node)
    }

    /// Whether a pod of the node refers to something in its namespace.
    fn any_pod(&self, node: &str, namespace: &str, refers: impl Fn(&References) -> bool) -> bool {
        self.pods(node, Some(namespace)).iter().any(|pod| refers(&self.references(pod)))
    }

    fn cached(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.objects.get(&GroupResource::new(group, resource), namespace, name)?.value()
    }

    /// A Secret that a persistent volume of the node's pods refers to.
    fn volume_secret(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.pods(node, None).iter().any(|pod| {
            self.references(pod).claims.iter().any(|claim| {
                let volume = self
                    .cached("", "persistentvolumeclaims", &pod.namespace, claim)
                    .map(|c| str_at(&c, &["spec", "volumeName"]).to_owned())
                    .filter(|v| !v.is_empty())
                    .and_then(|v| self.cached("", "persistentvolumes", "", &v));
                volume.is_some_and(|v| volume_refers(&v, &pod.namespace, namespace, name))
            })
        })
    }

    /// Whether an object is related to a node.
    fn related(&self, node: &str, a: &Attributes<'_>) -> bool {
        let (namespace, name) = (a.namespace, a.name);
        let named = |list: &[String]| list.iter().any(|n| n == name);
        match (a.api_group, a.resource) {
            ("", "secrets") => {
                self.any_pod(node, namespace, |r| named(&r.secrets))
                    || self.volume_secret(node, namespace, name)
            }
            ("", "configmaps") => self.any_pod(node, namespace, |r| named(&r.configmaps)),
            ("", "persistentvolumeclaims") => self.any_pod(node, namespace, |r| named(&r.claims)),
            ("", "serviceaccounts") => self.any_pod(node, namespace, |r| r.service_account == name),
            ("resource.k8s.io", "resourceclaims") => {
                self.any_pod(node, namespace, |r| named(&r.resource_claims))
            }
            ("", "persistentvolumes") => {
                let Some(volume) = self.cached("", "persistentvolumes", "", name) else { return false };
                let claim = str_at(&volume, &["spec", "claimRef", "name"]);
                let of = str_at(&volume, &["spec", "claimRef", "namespace"]);
                !claim.is_empty() && self.any_pod(node, of, |r| r.claims.iter().any(|c| c == claim))
            }
            ("storage.k8s.io", "volumeattachments") => self
                .cached(a.api_group, a.resource, "", name)
                .is_some_and(|v| str_at(&v, &["spec", "nodeName"]) == node),
            ("resource.k8s.io", "resourceslices") => self
                .cached(a.api_group, a.resource, "", name)
                .is_some_and(|v| str_at(&v, &["spec", "nodeName"]) == node),
            ("", "pods") => self
                .cached("", "pods", namespace, name)
                .is_some_and(|p| str_at(&p, &["spec", "nodeName"]) == node),
            _ => false,
        }
    }

    fn by_relation(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        if a.name.is_empty() {
            return refuse("No Object name found");
        }
        if self.related(node, a) {
            return Ok(());
        }
        Err(format!("no relationship found between node '{node}' and this object"))
    }

    fn get_only(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        match (a.verb, a.subresource) {
            ("get", "") => self.by_relation(node, a),
            ("get", _) => refuse("cannot get subresource"),
            _ => refuse("can only get individual resources of this type"),
        }
    }

    fn read_only(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        if !a.is_read_only() {
            return refuse("can only read resources of this type");
        }
        if !a.subresource.is_empty() {
            return refuse("cannot read subresource");
        }
        if a.namespace.is_empty() {
            return refuse("can only read namespaced object of this type");
        }
        self.by_relation(node, a)
    }

    fn claim(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        match (a.subresource, a.verb) {
            ("status", "update" | "patch") => self.by_relation(node, a),
            ("status", _) => refuse("can only get/update/patch this type"),
            _ => self.get_only(node, a),
        }
    }

    fn service_account(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        match (a.verb, a.subresource) {
            // image credential providers may look at the service account of a pod
            ("get", "") => self.by_relation(node, a),
            ("create", "token") if !a.name.is_empty() => self.by_relation(node, a),
            ("create", sub) if !a.name.is_empty() && sub != "token" => {
                refuse("can only create token subresource of serviceaccount")
            }
            _ => refuse("can only create tokens for individual service accounts"),
        }
    }

    fn slice(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        match a.verb {
            _ if !a.subresource.is_empty() => refuse("cannot authorize ResourceSlice subresources"),
            "create" => Ok(()), // NodeRestriction looks at the content
            "get" | "update" | "patch" | "delete" => self.by_relation(node, a),
            "watch" | "list" | "deletecollection" if selects(a.field_selector, "spec.nodeName", node) => {
                Ok(())
            }
            "watch" | "list" | "deletecollection" => {
                refuse("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => refuse(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                 delete, deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        match (a.subresource, a.verb) {
            ("", "get") => self.get_only(node, a),
            ("", "list" | "watch") if selects(a.field_selector, "spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") => refuse("can only list/watch pods with spec.nodeName field selector"),
            // NodeRestriction limits these to the node's own pods
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => refuse(""),
        }
    }

    fn decide(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        if a.resource_request {
            match (a.api_group, a.resource) {
                ("", "secrets" | "configmaps") => return self.read_only(node, a),
                ("", "persistentvolumeclaims") => return self.claim(node, a),
                ("", "persistentvolumes")
                | ("resource.k8s.io", "resourceclaims")
                | ("storage.k8s.io", "volumeattachments") => return self.get_only(node, a),
                ("", "serviceaccounts") => return self.service_account(node, a),
                ("coordination.k8s.io", "leases") => return lease(node, a),
                ("storage.k8s.io", "csinodes") => return csi_node(node, a),
                ("resource.k8s.io", "resourceslices") => return self.slice(node, a),
                ("", "nodes") => return own_node(node, a),
                ("", "pods") => return self.pod(node, a),
                _ => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(a)) { Ok(()) } else { refuse("") }
    }
}

fn volume_refers(volume: &Value, claim_namespace: &str, namespace: &str, name: &str) -> bool {
    let Some(spec) = at(volume, &["spec"]) else { return false };
    let here = |ns: &str| if ns.is_empty() { claim_namespace == namespace } else { ns == namespace };
    let azure = at(spec, &["azureFile"])
        .is_some_and(|a| str_at(a, &["secretName"]) == name && here(str_at(a, &["secretNamespace"])));
    azure
        || PERSISTENT_VOLUME_SECRETS
            .iter()
            .filter_map(|path| at(spec, path))
            .any(|r| str_at(r, &["name"]) == name && here(str_at(r, &["namespace"])))
}

fn lease(node: &str, a: &Attributes<'_>) -> Verdict {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    if a.verb != "create" && a.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, a: &Attributes<'_>) -> Verdict {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

fn own_node(node: &str, a: &Attributes<'_>) -> Verdict {
    match (a.subresource, a.verb) {
        // NodeRestriction limits these to the node's own object
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if a.name == node => Ok(()),
        ("", "get" | "list" | "watch") if a.name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", a.name))
        }
        _ => refuse(""),
    }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Authorization {
        match attributes.user.as_node() {
            None => Authorization::new(Decision::NoOpinion, ""),
            Some("") => {
                let reason = format!("unknown node for user {:?}", attributes.user.name);
                Authorization::new(Decision::NoOpinion, reason)
            }
            Some(node) => match self.decide(node, attributes) {
                Ok(()) => Authorization::new(Decision::Allow, ""),
                Err(reason) => Authorization::new(Decision::NoOpinion, reason),
            },
        }
    }
}

impl RuleResolver for NodeAuthorizer {
    fn rules_for(&self, user: &UserInfo, _namespace: &str) -> Rules {
        if user.as_node().is_none() {
            return Rules::default();
        }
        Rules {
            incomplete: true,
            evaluation_error: "node authorizer does not support user rule resolution".into(),
            ..Rules::default()
        }
    }
}

#[cfg(test)]
mod tests;
