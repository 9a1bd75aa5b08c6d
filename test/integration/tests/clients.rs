//! kube's client, inside the process and over the network.

use futures::{StreamExt, TryStreamExt};
use integration::Cluster;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::ResourceExt;
use kube::api::{
    Api, DeleteParams, DynamicObject, GroupVersionKind, ListParams, ObjectMeta, Patch, PatchParams,
    PostParams, WatchEvent, WatchParams,
};
use serde_json::json;

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

/// The administrator, over TLS.
async fn over_network(cluster: &Cluster) -> anyhow::Result<kube::Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(cluster.kubeconfig())?;
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    Ok(kube::Client::try_from(config)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_network() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    live(over_network(&cluster).await?).await?;
    cluster.stop().await;
    Ok(())
}

fn scaled(name: &str, replicas: i32) -> anyhow::Result<Deployment> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "example.com/x"}]},
            },
        },
    }))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_watches_resume() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let api: Api<ConfigMap> = Api::namespaced(over_network(&cluster).await?, "default");
    let start = api.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
    for n in 0..5 {
        let mut object = config_map(&format!("page-{n}"));
        object.metadata.labels = Some([("pages".to_owned(), "yes".to_owned())].into());
        api.create(&PostParams::default(), &object).await?;
    }
    let mut params = ListParams::default().labels("pages=yes").limit(2);
    let mut names = Vec::new();
    loop {
        let page = api.list(&params).await?;
        names.extend(page.items.iter().map(ResourceExt::name_any));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => break,
        }
    }
    assert_eq!(names, ["page-0", "page-1", "page-2", "page-3", "page-4"]);

    // one watch sees all; another that begins at an event's version sees what came after it
    let read = async |version: String, count: usize| {
        let params = WatchParams::default().labels("pages=yes").timeout(20);
        let mut events = api.watch(&params, &version).await?.boxed();
        let mut found = Vec::new();
        while found.len() < count {
            match events.try_next().await? {
                Some(WatchEvent::Added(object)) => {
                    found.push((object.name_any(), object.resource_version().unwrap_or_default()));
                }
                other => anyhow::bail!("{other:?} after {found:?}"),
            }
        }
        Ok(found)
    };
    let whole = read(start, 5).await?;
    assert_eq!(whole.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
    assert_eq!(read(whole[1].1.clone(), 3).await?, whole[2..]);

    // what is there, then the mark that it was all
    let initial = WatchParams::default().labels("pages=yes").timeout(20).initial_events();
    let mut events = api.watch(&initial, "0").await?.boxed();
    let mut added = 0;
    loop {
        match events.try_next().await? {
            Some(WatchEvent::Added(_)) => added += 1,
            Some(WatchEvent::Bookmark(mark)) => {
                assert!(mark.metadata.annotations.contains_key("k8s.io/initial-events-end"));
                break;
            }
            other => anyhow::bail!("{other:?} after {added}"),
        }
    }
    assert_eq!(added, 5);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_all_types() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let api: Api<Deployment> = Api::namespaced(over_network(&cluster).await?, "default");
    api.create(&PostParams::default(), &scaled("patched", 1)?).await?;
    let by =
        |manager: &str| PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    let merge = Patch::Merge(json!({"spec": {"replicas": 2}}));
    let merged = api.patch("patched", &by("merge"), &merge).await?;
    assert_eq!(merged.spec.and_then(|s| s.replicas), Some(2));
    let side = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "y"}]}}}});
    let strategic = api.patch("patched", &by("strategic"), &Patch::Strategic(side)).await?;
    let pod = strategic.spec.and_then(|s| s.template.spec);
    assert_eq!(pod.map(|p| p.containers.len()), Some(2));
    let json: json_patch::Patch =
        serde_json::from_value(json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]))?;
    let replaced = api.patch("patched", &by("json"), &Patch::Json::<()>(json)).await?;
    assert_eq!(replaced.spec.and_then(|s| s.replicas), Some(3));

    let apply = |replicas: i32| {
        Patch::Apply(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": replicas}}))
    };
    let refused = api.patch("patched", &PatchParams::apply("other"), &apply(4)).await;
    let Err(kube::Error::Api(status)) = refused else { anyhow::bail!("{refused:?}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"json\" using apps/v1: .spec.replicas"
    );
    let forced = api.patch("patched", &PatchParams::apply("other").force(), &apply(4)).await?;
    assert_eq!(forced.spec.and_then(|s| s.replicas), Some(4));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_and_objects_without_types() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let client = over_network(&cluster).await?;
    let api: Api<Deployment> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &scaled("scaled", 1)?).await?;
    let merge = Patch::Merge(json!({"spec": {"replicas": 5}}));
    let scale = api.patch_scale("scaled", &PatchParams::default(), &merge).await?;
    assert_eq!(scale.spec.and_then(|s| s.replicas), Some(5));
    let status = Patch::Merge(json!({"spec": {"replicas": 9}, "status": {"replicas": 5}}));
    let changed = api.patch_status("scaled", &PatchParams::default(), &status).await?;
    assert_eq!(changed.spec.and_then(|s| s.replicas), Some(5));
    assert_eq!(changed.status.and_then(|s| s.replicas), Some(5));

    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some("robot".into()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    accounts.create(&PostParams::default(), &account).await?;
    let request = TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
    let token = accounts.create_token_request("robot", &PostParams::default(), &request).await?;
    let token = token.status.and_then(|s| s.token).unwrap_or_default();
    assert_eq!(token.split('.').count(), 3);

    let kind =
        kube::discovery::pinned_kind(&client, &GroupVersionKind::gvk("batch", "v1", "CronJob")).await?;
    let (resource, capabilities) = kind;
    assert!(capabilities.supports_operation(kube::discovery::verbs::WATCH));
    let jobs: Api<DynamicObject> = Api::namespaced_with(client, "default", &resource);
    let job = serde_json::from_value(json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "nightly"},
        "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}}},
    }))?;
    let made = jobs.create(&PostParams::default(), &job).await?;
    assert_eq!(made.data["spec"]["concurrencyPolicy"], "Allow");
    let deleted = jobs.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    assert_eq!(deleted.left().map(|list| list.items.len()), Some(1));
    assert!(jobs.get_opt("nightly").await?.is_none());
    cluster.stop().await;
    Ok(())
}
