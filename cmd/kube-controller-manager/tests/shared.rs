//! Controllers and scheduler in one process, as in the all-in-one server: they read the same informers.

use std::time::Duration;

use client::InformerFactory;
use client::rest::{ResourceId, Rest};
use integration::component::{Lab, until};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio_util::sync::CancellationToken;

const NODES: ResourceId = ResourceId::cluster("", "v1", "nodes", "Node");
const DEPLOYMENTS: ResourceId = ResourceId::namespaced("apps", "v1", "deployments", "Deployment");
/// Longest end of both parts.
const END: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn one_set_of_informers_serves_both() -> anyhow::Result<()> {
    let lab = Lab::start().await?;
    let (client, stop) = (lab.admin().await?, CancellationToken::new());
    let informers = InformerFactory::new(client.clone());
    informers.start(stop.clone());
    let controllers =
        controller::Config { informers: Some(informers.clone()), ..controller::Config::default() };
    let controllers = tokio::spawn(controller::run(controllers, client.clone(), stop.clone()));
    let scheduler = scheduler::Config { informers: Some(informers.clone()), ..scheduler::Config::default() };
    let scheduler = tokio::spawn(scheduler::run(scheduler, client.clone(), stop.clone()));

    let rest = Rest::new(client, "test");
    let size = json!({"cpu": "2", "memory": "4Gi", "pods": "10"});
    let node = json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}}, "status": {
        "allocatable": size, "capacity": size,
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"}]}});
    rest.create(&NODES, "", &node).await?;
    let web = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
            "tolerations": [{"operator": "Exists"}], "containers": [{"name": "c", "image": "image"}]}}}});
    rest.create(&DEPLOYMENTS, "default", &web).await?;
    let placed = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some("n1"));
    until(&informers.informer::<Pod>(), "both pods on the node", |list| {
        list.iter().filter(|pod| placed(pod)).count() == 2
    })
    .await?;

    stop.cancel();
    tokio::time::timeout(END, controllers).await???;
    tokio::time::timeout(END, scheduler).await???;
    lab.stop().await;
    Ok(())
}
