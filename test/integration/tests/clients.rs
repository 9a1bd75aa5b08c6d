//! kube's client, inside the process and over the network.

use futures::{StreamExt, TryStreamExt};
use integration::Cluster;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some([("a".to_owned(), "1".to_owned())].into()),
        ..ConfigMap::default()
    }
}

async fn live(client: kube::Client) -> anyhow::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    let before = api.list(&ListParams::default()).await?;
    let version = before.metadata.resource_version.unwrap_or_default();
    let watch = api.watch(&WatchParams::default().timeout(10), &version).await?;
    let mut events = watch.boxed();
    let created = api.create(&PostParams::default(), &config_map("one")).await?;
    assert_eq!(api.get("one").await?, created);
    let patch = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": "2"}});
    let applied = api.patch("one", &PatchParams::apply("test"), &Patch::Apply(patch)).await?;
    assert_eq!(applied.data.map(|d| d.len()), Some(2));
    api.delete("one", &DeleteParams::default()).await?;
    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        match events.try_next().await? {
            Some(WatchEvent::Added(_)) => kinds.push("added"),
            Some(WatchEvent::Modified(_)) => kinds.push("modified"),
            Some(WatchEvent::Deleted(_)) => kinds.push("deleted"),
            Some(_) => {}
            None => anyhow::bail!("the watch ended after {kinds:?}"),
        }
    }
    assert_eq!(kinds, ["added", "modified", "deleted"]);
    let missing = api.get("one").await;
    assert!(matches!(missing, Err(kube::Error::Api(status)) if status.code == 404));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_the_process() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let admin = auth::UserInfo::new("admin", &["system:masters", "system:authenticated"]);
    live(cluster.plane().in_process_client(admin)).await?;
    // identities are not mixed up
    let stranger = auth::UserInfo::new("eve", &["system:authenticated"]);
    let api: Api<ConfigMap> = Api::namespaced(cluster.plane().in_process_client(stranger), "default");
    let refused = api.list(&ListParams::default()).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_network() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let kubeconfig = kube::config::Kubeconfig::read_from(cluster.kubeconfig())?;
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    live(kube::Client::try_from(config)?).await?;
    cluster.stop().await;
    Ok(())
}
