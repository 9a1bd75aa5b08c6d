//! The binary as a process, with kubeadm's flags, against a server with RBAC.

use std::path::Path;

use client::rest::{ResourceId, Rest};
use client::{InformerFactory, Selection};
use integration::binary::free_port;
use integration::component::{Lab, until};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const DEPLOYMENTS: ResourceId = ResourceId::namespaced("apps", "v1", "deployments", "Deployment");
const CONFIG_MAPS: ResourceId = ResourceId::namespaced("", "v1", "configmaps", "ConfigMap");
const SECRETS: ResourceId = ResourceId::namespaced("", "v1", "secrets", "Secret");

/// What kubeadm v1.36 writes into the static pod's manifest, with the lab's files.
fn flags(lab: &Lab, kubeconfig: &Path, port: u16) -> Vec<String> {
    let file = |name: &str| lab.file(name).display().to_string();
    let kubeconfig = kubeconfig.display();
    vec![
        "--allocate-node-cidrs=true".into(),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".into(),
        format!("--client-ca-file={}", file("ca.crt")),
        "--cluster-cidr=10.244.0.0/16".into(),
        "--cluster-name=kubernetes".into(),
        format!("--cluster-signing-cert-file={}", file("ca.crt")),
        format!("--cluster-signing-key-file={}", file("ca.key")),
        "--controllers=*,bootstrapsigner,tokencleaner".into(),
        format!("--kubeconfig={kubeconfig}"),
        "--leader-elect=true".into(),
        format!("--requestheader-client-ca-file={}", file("front-proxy-ca.crt")),
        format!("--root-ca-file={}", file("ca.crt")),
        format!("--service-account-private-key-file={}", file("sa.key")),
        "--service-cluster-ip-range=10.96.0.0/16".into(),
        "--use-service-account-credentials=true".into(),
        format!("--secure-port={port}"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn kubeadms_flags_run_the_controllers() -> anyhow::Result<()> {
    let lab = Lab::start().await?;
    let port = free_port()?;
    let kubeconfig = lab.kubeconfig("system:kube-controller-manager")?;
    let _process =
        lab.run(env!("CARGO_BIN_EXE_kube-controller-manager").as_ref(), &flags(&lab, &kubeconfig, port))?;

    let client = lab.admin().await?;
    let stop = CancellationToken::new();
    let informers = InformerFactory::new(client.clone());
    let pods = informers.informer::<Pod>();
    let leases = informers.informer_for::<Lease>(Selection::namespace("kube-system"));
    let maps = informers.informer::<ConfigMap>();
    informers.start(stop.clone());

    // as `kubeadm init` leaves it
    let rest = Rest::new(client, "test");
    let info = json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "content"}});
    rest.create(&CONFIG_MAPS, "kube-public", &info).await?;
    let token = json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true"}});
    rest.create(&SECRETS, "kube-system", &token).await?;
    let web = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "image"}]}}}});
    rest.create(&DEPLOYMENTS, "default", &web).await?;

    until(&leases, "the lease", |list| {
        list.iter().any(|lease| {
            lease.metadata.name.as_deref() == Some("kube-controller-manager")
                && lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.is_some())
        })
    })
    .await?;
    let made = until(&pods, "two pods", |list| list.len() == 2).await?;
    let account = made[0].spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    assert_eq!(account, Some("default"));
    let named = |list: &[std::sync::Arc<ConfigMap>], namespace: &str, name: &str, key: &str| {
        list.iter().any(|map| {
            map.metadata.namespace.as_deref() == Some(namespace)
                && map.metadata.name.as_deref() == Some(name)
                && map.data.as_ref().is_some_and(|data| data.contains_key(key))
        })
    };
    until(&maps, "the published authority", |list| named(list, "default", "kube-root-ca.crt", "ca.crt"))
        .await?;
    until(&maps, "the signature of the token", |list| {
        named(list, "kube-public", "cluster-info", "jws-kubeconfig-abcdef")
    })
    .await?;
    assert_eq!(lab.get(port, "/healthz").await?, "ok");
    assert!(lab.get(port, "/metrics").await?.contains("leader_election_master_status"));
    assert!(lab.get(port, "/debug/pprof/").await.is_err(), "says that there are none");
    stop.cancel();
    lab.stop().await;
    Ok(())
}
