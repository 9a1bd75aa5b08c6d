use super::*;
use crate::object::testing::{Objects, reader};
use crate::user::NODES_GROUP;
use apimachinery::json;

fn objects() -> Arc<Objects> {
    let pod = json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {
        "nodeName": "n1", "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
        "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}], "envFrom": [{"configMapRef": {"name": "all"}}]}],
        "volumes": [
            {"name": "v", "ephemeral": {"volumeClaimTemplate": {}}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
            {"name": "j", "projected": {"sources": [{"secret": {"name": "proj"}}, {"configMap": {"name": "ca"}}]}}]}});
    let mirror = json!({"metadata": {"namespace": "ns", "name": "m", "annotations": {MIRROR_ANNOTATION: "x"}},
        "spec": {"nodeName": "n1", "imagePullSecrets": [{"name": "stolen"}]}});
    let claim = json!({"metadata": {"namespace": "ns", "name": "claim"}, "spec": {"volumeName": "pv"}});
    let volume = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "ns", "name": "claim"},
        "csi": {"nodeStageSecretRef": {"namespace": "storage", "name": "stage"}}}});
    let attachment = json!({"metadata": {"name": "va"}, "spec": {"nodeName": "n1"}});
    Arc::new(Objects::new([
        ("", "pods", pod),
        ("", "pods", mirror),
        ("", "persistentvolumeclaims", claim),
        ("", "persistentvolumes", volume),
        ("storage.k8s.io", "volumeattachments", attachment),
    ]))
}

#[tokio::test]
async fn kubelets_see_what_their_pods_need() {
    let authorizer = NodeAuthorizer::new(reader(&objects()), crate::bootstrap::node_rules());
    let own = "no relationship found between node 'n1' and this object";
    // verb, group, resource, namespace, name, selector, refusal (None is allowed)
    type Case = (
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        Option<&'static str>,
    );
    let cases: [Case; 38] = [
        ("get", "", "secrets", "ns", "pull", "", None),
        ("watch", "", "secrets", "ns", "env", "", None),
        ("get", "", "secrets", "ns", "proj", "", None),
        ("get", "", "secrets", "ns", "stolen", "", Some(own)),
        ("get", "", "secrets", "other", "pull", "", Some(own)),
        ("get", "", "secrets", "storage", "stage", "", None),
        ("list", "", "secrets", "ns", "", "", Some("No Object name found")),
        ("list", "", "secrets", "", "", "", Some("can only read namespaced object of this type")),
        ("update", "", "secrets", "ns", "pull", "", Some("can only read resources of this type")),
        ("get", "", "configmaps", "ns", "all", "", None),
        ("get", "", "configmaps", "ns", "ca", "", None),
        ("get", "", "persistentvolumeclaims", "ns", "claim", "", None),
        ("get", "", "persistentvolumeclaims", "ns", "p-v", "", None),
        ("get", "", "persistentvolumeclaims", "ns", "x", "", Some(own)),
        (
            "list",
            "",
            "persistentvolumeclaims",
            "ns",
            "",
            "",
            Some("can only get individual resources of this type"),
        ),
        ("patch", "", "persistentvolumeclaims/status", "ns", "claim", "", None),
        ("get", "", "persistentvolumes", "", "pv", "", None),
        ("get", "", "persistentvolumes", "", "other", "", Some(own)),
        ("get", "storage.k8s.io", "volumeattachments", "", "va", "", None),
        ("create", "", "serviceaccounts/token", "ns", "sa", "", None),
        ("create", "", "serviceaccounts/token", "ns", "other", "", Some(own)),
        (
            "create",
            "",
            "serviceaccounts",
            "ns",
            "sa",
            "",
            Some("can only create token subresource of serviceaccount"),
        ),
        ("get", "", "nodes", "", "n1", "", None),
        ("get", "", "nodes", "", "n2", "", Some("node 'n1' cannot read 'n2', only its own Node object")),
        ("list", "", "nodes", "", "", "", Some("node 'n1' cannot read all nodes, only its own Node object")),
        ("patch", "", "nodes/status", "", "n1", "", None),
        ("delete", "", "nodes", "", "n1", "", Some("")),
        ("get", "", "pods", "ns", "p", "", None),
        ("get", "", "pods", "ns", "q", "", Some(own)),
        ("list", "", "pods", "", "", "spec.nodeName=n1", None),
        ("watch", "", "pods", "", "", "a=b,spec.nodeName==n1", None),
        (
            "list",
            "",
            "pods",
            "",
            "",
            "spec.nodeName=n2",
            Some("can only list/watch pods with spec.nodeName field selector"),
        ),
        ("create", "", "pods/eviction", "ns", "p", "", None),
        ("update", "coordination.k8s.io", "leases", "kube-node-lease", "n1", "", None),
        (
            "update",
            "coordination.k8s.io",
            "leases",
            "kube-node-lease",
            "n2",
            "",
            Some("can only access node lease with the same name as the requesting node"),
        ),
        (
            "update",
            "coordination.k8s.io",
            "leases",
            "ns",
            "n1",
            "",
            Some("can only access leases in the \"kube-node-lease\" system namespace"),
        ),
        ("list", "", "services", "", "", "", None),
        ("list", "apps", "deployments", "", "", "", Some("")),
    ];
    let user = UserInfo::new("system:node:n1", &[NODES_GROUP]);
    for (verb, group, resource, namespace, name, selector, refusal) in cases {
        let mut attributes = Attributes::resource(&user, verb, group, resource, namespace, name);
        attributes.field_selector = selector;
        let answer = authorizer.authorize(&attributes).await;
        let got = (!answer.allowed()).then_some(answer.reason.as_str());
        assert_eq!(got, refusal, "{verb} {resource} {namespace}/{name} {selector}");
    }
}

#[tokio::test]
async fn others_are_not_its_business() {
    let authorizer = NodeAuthorizer::new(reader(&objects()), Vec::new());
    for (name, groups, reason) in [
        ("ann", &[NODES_GROUP][..], ""),
        ("system:node:n1", &[][..], ""),
        ("system:node:", &[NODES_GROUP][..], "unknown node for user \"system:node:\""),
    ] {
        let user = UserInfo::new(name, groups);
        let answer = authorizer.authorize(&Attributes::resource(&user, "get", "", "nodes", "", "n1")).await;
        assert_eq!((answer.decision, answer.reason.as_str()), (Decision::NoOpinion, reason), "{name}");
    }
}
