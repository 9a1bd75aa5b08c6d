//! What a cluster has beyond its components: the cluster DNS Service, the rights of its servers, and their endpoints.

use std::net::Ipv4Addr;
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::spec::DNS_SERVICE_IP;

/// Port on a node's address where its DNS server answers; 53 is left to pods with host ports.
pub const DNS_PORT: u16 = 10053;
/// Manager of the fields written here.
const FIELD_MANAGER: &str = "kubewright";
/// Name of the DNS Service, and of the account its servers act as.
const DNS: &str = "kube-dns";
/// Role of the DNS servers.
const DNS_ROLE: &str = "kubewright:cluster-dns";
/// Pause before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The objects every cluster has.
fn objects() -> Vec<Value> {
    let rbac = "rbac.authorization.k8s.io";
    let labels =
        json!({"k8s-app": DNS, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
    let subject = json!([{"kind": "ServiceAccount", "name": DNS, "namespace": "kube-system"}]);
    vec![
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": {"name": DNS_ROLE},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": DNS_ROLE},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": DNS_ROLE}, "subjects": subject,
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "Role",
            "metadata": {"name": DNS_ROLE, "namespace": "kube-system"},
            "rules": [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
                       "verbs": ["get", "create", "patch", "delete"]}],
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding",
            "metadata": {"name": DNS_ROLE, "namespace": "kube-system"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": DNS_ROLE}, "subjects": subject,
        }),
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DNS, "namespace": "kube-system"},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": DNS, "namespace": "kube-system", "labels": labels},
            "spec": {
                "clusterIP": DNS_SERVICE_IP,
                // Every node answers for its own pods.
                "internalTrafficPolicy": "Local",
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": DNS_PORT},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": DNS_PORT},
                ],
            },
        }),
    ]
}

/// The endpoint of a node's DNS server.
fn dns_slice(node: &str, address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{DNS}-{node}"), "namespace": "kube-system", "labels": {
            "kubernetes.io/service-name": DNS, "endpointslice.kubernetes.io/managed-by": "kubewright"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address.to_string()], "nodeName": node, "conditions": {"ready": true}}],
        "ports": [
            {"name": "dns", "port": DNS_PORT, "protocol": "UDP"},
            {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"},
        ],
    })
}

async fn apply(client: &kube::Client, object: &Value) -> Result<(), Error> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("/apiVersion").rsplit_once('/').unwrap_or(("", text("/apiVersion")));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("/kind")));
    let api: Api<DynamicObject> = match text("/metadata/namespace") {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(text("/metadata/name"), &parameters, &Patch::Apply(object))
        .await
        .map(drop)
        .map_err(|e| Error::Api(format!("{} {}: {e}", text("/kind"), text("/metadata/name"))))
}

/// Brings the objects every cluster has into the form described here.
pub async fn ensure(client: kube::Client) -> Result<(), Error> {
    for object in objects() {
        apply(&client, &object).await?;
    }
    Ok(())
}

/// Makes a node's DNS server an endpoint of the Service. Tried until it succeeds: the server may not be up yet.
pub async fn register_dns(
    client: kube::Client,
    node: &str,
    address: Ipv4Addr,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let slice = dns_slice(node, address);
    while let Err(error) = apply(&client, &slice).await {
        tracing::debug!(%error, "DNS endpoint not registered, trying again");
        if shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            break;
        }
    }
    Ok(())
}
