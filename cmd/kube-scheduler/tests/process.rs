//! The binary as a process, with kubeadm's flags and with a configuration file, against a server with RBAC.

use client::rest::{ResourceId, Rest};
use client::{InformerFactory, Selection};
use integration::binary::free_port;
use integration::component::{Lab, until};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const PODS: ResourceId = ResourceId::namespaced("", "v1", "pods", "Pod");
const NODES: ResourceId = ResourceId::cluster("", "v1", "nodes", "Node");
const ACCOUNTS: ResourceId = ResourceId::namespaced("", "v1", "serviceaccounts", "ServiceAccount");
const CLAIMS: ResourceId =
    ResourceId::namespaced("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim");
const VOLUMES: ResourceId = ResourceId::cluster("", "v1", "persistentvolumes", "PersistentVolume");
const CLASSES: ResourceId = ResourceId::cluster("storage.k8s.io", "v1", "storageclasses", "StorageClass");

async fn cluster(rest: &Rest) -> anyhow::Result<()> {
    rest.create(&ACCOUNTS, "default", &json!({"metadata": {"name": "default"}})).await?;
    for name in ["n1", "n2"] {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        let mut node = rest.create(&NODES, "", &node).await?;
        // what the node lifecycle controller takes away once a kubelet reports
        node["spec"]["taints"] = json!([]);
        let mut node = rest.update(&NODES, "", &node).await?;
        node["status"]["allocatable"] = json!({"cpu": "2", "memory": "4Gi", "pods": "10"});
        node["status"]["capacity"] = node["status"]["allocatable"].clone();
        rest.update(&NODES, "status", &node).await?;
    }
    Ok(())
}

fn pod(name: &str, more: &Value) -> Value {
    let mut spec =
        json!({"containers": [{"name": "c", "image": "image", "resources": {"requests": {"cpu": "500m"}}}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn node_of(list: &[std::sync::Arc<Pod>], name: &str) -> Option<String> {
    let pod = list.iter().find(|pod| pod.metadata.name.as_deref() == Some(name))?;
    pod.spec.as_ref()?.node_name.clone()
}

fn message_of(list: &[std::sync::Arc<Pod>], name: &str) -> Option<String> {
    let pod = list.iter().find(|pod| pod.metadata.name.as_deref() == Some(name))?;
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?.message.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubeadms_flags_schedule_pods() -> anyhow::Result<()> {
    let lab = Lab::start().await?;
    let port = free_port()?;
    let kubeconfig = lab.kubeconfig("system:kube-scheduler")?;
    let conf = kubeconfig.display();
    let flags = [
        format!("--authentication-kubeconfig={conf}"),
        format!("--authorization-kubeconfig={conf}"),
        "--bind-address=127.0.0.1".into(),
        format!("--kubeconfig={conf}"),
        "--leader-elect=true".into(),
        format!("--secure-port={port}"),
    ];
    let client = lab.admin().await?;
    let rest = Rest::new(client.clone(), "test");
    cluster(&rest).await?;
    let _process = lab.run(env!("CARGO_BIN_EXE_kube-scheduler").as_ref(), &flags)?;

    let stop = CancellationToken::new();
    let informers = InformerFactory::new(client);
    let pods = informers.informer::<Pod>();
    let leases = informers.informer_for::<Lease>(Selection::namespace("kube-system"));
    informers.start(stop.clone());

    rest.create(&PODS, "default", &pod("plain", &json!({}))).await?;
    rest.create(&PODS, "default", &pod("picky", &json!({"nodeSelector": {"kubernetes.io/hostname": "n2"}})))
        .await?;
    rest.create(&PODS, "default", &pod("nowhere", &json!({"nodeSelector": {"disk": "tape"}}))).await?;
    let list = until(&pods, "pods to be placed", |list| {
        node_of(list, "plain").is_some()
            && node_of(list, "picky").is_some()
            && message_of(list, "nowhere").is_some()
    })
    .await?;
    assert_eq!(node_of(&list, "picky").as_deref(), Some("n2"));
    assert_eq!(
        message_of(&list, "nowhere").as_deref(),
        Some(
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/2 nodes are \
             available: 2 Preemption is not helpful for scheduling."
        )
    );

    // a local volume: the pod goes to where it is, and the volume is kept for its claim
    let class = json!({"metadata": {"name": "local"}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"});
    rest.create(&CLASSES, "", &class).await?;
    let volume = json!({"metadata": {"name": "disk"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "storageClassName": "local", "local": {"path": "/mnt"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}}}});
    rest.create(&VOLUMES, "", &volume).await?;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "local", "resources": {"requests": {"storage": "1Gi"}}}});
    rest.create(&CLAIMS, "default", &claim).await?;
    let with_claim = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]});
    rest.create(&PODS, "default", &pod("stateful", &with_claim)).await?;
    let volumes = informers.informer::<k8s_openapi::api::core::v1::PersistentVolume>();
    until(&volumes, "the volume to be kept", |list| {
        list.iter().any(|v| v.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some()))
    })
    .await?;
    // what the binder of the controller manager does next
    let mut bound = rest.get(&CLAIMS, "default", "data").await?;
    bound["spec"]["volumeName"] = json!("disk");
    bound["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = json!("yes");
    rest.update(&CLAIMS, "", &bound).await?;
    let list = until(&pods, "the pod with a volume", |list| node_of(list, "stateful").is_some()).await?;
    assert_eq!(node_of(&list, "stateful").as_deref(), Some("n1"));

    until(&leases, "the lease", |list| {
        list.iter().any(|lease| lease.metadata.name.as_deref() == Some("kube-scheduler"))
    })
    .await?;
    assert_eq!(lab.get(port, "/healthz").await?, "ok");
    let metrics = lab.get(port, "/metrics").await?;
    for name in [
        "scheduler_schedule_attempts_total",
        "scheduler_pending_pods",
        "scheduler_pod_scheduling_sli_duration_seconds",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
    stop.cancel();
    lab.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_makes_several_schedulers() -> anyhow::Result<()> {
    let lab = Lab::start().await?;
    let kubeconfig = lab.kubeconfig("system:kube-scheduler")?;
    let config = lab.file("scheduler.yaml");
    let text = format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nenableProfiling: true\n\
         leaderElection:\n  leaderElect: false\nclientConnection:\n  kubeconfig: {}\nprofiles:\n- schedulerName: \
         default-scheduler\n- schedulerName: packing\n  pluginConfig:\n  - name: NodeResourcesFit\n    args:\n      \
         scoringStrategy:\n        type: MostAllocated\n  plugins:\n    score:\n      disabled:\n      - name: \
         NodeResourcesBalancedAllocation\n      - name: PodTopologySpread\n",
        kubeconfig.display()
    );
    std::fs::write(&config, text)?;
    let client = lab.admin().await?;
    let rest = Rest::new(client.clone(), "test");
    cluster(&rest).await?;
    let flags = [format!("--config={}", config.display()), format!("--secure-port={}", free_port()?)];
    let _process = lab.run(env!("CARGO_BIN_EXE_kube-scheduler").as_ref(), &flags)?;
    let stop = CancellationToken::new();
    let informers = InformerFactory::new(client);
    let pods = informers.informer::<Pod>();
    informers.start(stop.clone());
    for name in ["a", "b", "c"] {
        rest.create(&PODS, "default", &pod(name, &json!({"schedulerName": "packing"}))).await?;
        until(&pods, "a pod of the second profile", |list| node_of(list, name).is_some()).await?;
    }
    let list = pods.store().list();
    let nodes: std::collections::BTreeSet<_> = ["a", "b", "c"].map(|name| node_of(&list, name)).into();
    assert_eq!(nodes.len(), 1, "one node is filled first: {nodes:?}");
    rest.create(&PODS, "default", &pod("d", &json!({}))).await?;
    let list = until(&pods, "a pod of the first profile", |list| node_of(list, "d").is_some()).await?;
    assert!(!nodes.contains(&node_of(&list, "d")), "the emptier one");
    stop.cancel();
    lab.stop().await;
    Ok(())
}
