//! Storage: every kind that is stored goes through a server's write path into the store, and comes back in every form,
//! before and after the store is opened again.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use apimachinery::descriptor::{ResourceDescriptor, ServedVersion};
use apimachinery::{Value, protobuf, yaml};
use apiserver::{RequestContext, WriteOptions};
use auth::UserInfo;
use controlplane::{StorageConfig, StorageMediaType};
use integration::Cluster;

use super::forms::numbered;
use super::{Report, object, unchanged};

/// Where every object is.
const NAMESPACE: &str = "default";
const NAME: &str = "full";

/// A server over the embedded store in a directory, with every version on.
async fn server(directory: &Path, form: StorageMediaType) -> anyhow::Result<Cluster> {
    Cluster::configured(StorageConfig::Embedded(directory.to_owned()), |config| {
        config.runtime_config.insert("api/all".into(), "true".into());
        config.storage_media_type = form;
    })
    .await
}

/// The resources that are stored, by the version that is.
fn stored(cluster: &Cluster) -> Vec<(Arc<ResourceDescriptor>, ServedVersion)> {
    let resources = cluster.plane().server().store().resources();
    let all = resources.all.iter().filter_map(|descriptor| {
        let version = descriptor.versions.iter().find(|version| version.conversion.is_none())?;
        let is_stored = version.verbs.contains("create") && version.verbs.contains("get");
        is_stored.then(|| (Arc::clone(descriptor), version.clone()))
    });
    all.collect()
}

/// Checks every kind on the embedded store, with objects stored in a form.
pub async fn check(form: StorageMediaType, report: &mut Report) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let cluster = server(directory.path(), form).await?;
    let mut written = Vec::new();
    for (descriptor, version) in stored(&cluster) {
        let name = format!("{} stored as {form:?}", descriptor.group_resource());
        match create(&cluster, &descriptor, &version).await {
            Ok((given, made)) => {
                report.note(&format!("{name}: created"), unchanged(&given, &made));
                report.note(&format!("{name}: form"), in_form(&cluster, &descriptor, &version, form).await);
                written.push((name, descriptor, made));
            }
            Err(error) => report.note(&format!("{name}: created"), Err(format!("{error:#}"))),
        }
    }
    for (name, descriptor, made) in &written {
        read(&cluster, name, descriptor, made, report).await?;
    }
    cluster.stop().await;
    // once more from disk
    let cluster = server(directory.path(), form).await?;
    for (name, descriptor, made) in &written {
        read(&cluster, &format!("{name}, opened again"), descriptor, made, report).await?;
    }
    cluster.stop().await;
    Ok(())
}

/// Creates the full object below validation; answers what was given (with what every creation changes) and what was made.
async fn create(
    cluster: &Cluster,
    descriptor: &ResourceDescriptor,
    version: &ServedVersion,
) -> anyhow::Result<(Value, Value)> {
    let gvk = descriptor.gvk(&version.version);
    let mut given = object(&version.schema, version.root, &gvk.group_version().to_string(), &gvk.kind);
    let metadata = given["metadata"].as_object_mut().context("no metadata")?;
    for gone in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        metadata.remove(gone);
    }
    if !descriptor.namespaced {
        metadata.remove("namespace");
    }
    // fields that mirror each other (serviceAccount, stringData) come to agree
    descriptor.strategy.default_object(&version.version, &mut given);
    let user = Arc::new(UserInfo::new("admin", &["system:masters"]));
    let context = RequestContext::internal(user, jiff::Timestamp::UNIX_EPOCH);
    let options = WriteOptions { rules: false, ..WriteOptions::default() };
    let namespace = if descriptor.namespaced { NAMESPACE } else { "" };
    let store = cluster.plane().server().store();
    let made = store
        .create(&context, &descriptor.gvr(&version.version), namespace, given.clone(), &options)
        .await
        .map_err(|status| anyhow::anyhow!("{}", status.message))?;
    for set in ["uid", "creationTimestamp", "resourceVersion"] {
        given["metadata"][set] = made["metadata"][set].clone();
    }
    Ok((given, made))
}

/// Whether the store has the object in the form it was told.
async fn in_form(
    cluster: &Cluster,
    descriptor: &ResourceDescriptor,
    version: &ServedVersion,
    form: StorageMediaType,
) -> Result<(), String> {
    let namespace = if descriptor.namespaced { format!("{NAMESPACE}/") } else { String::new() };
    let key = format!("/registry/{}/{namespace}{NAME}", descriptor.storage.prefix);
    let held = cluster.plane().server().store().storage().get(&key).await.map_err(|e| e.to_string())?;
    let held = held.ok_or_else(|| format!("{key} is not there"))?;
    let wanted = form == StorageMediaType::Protobuf && protobuf::has_message(&version.schema, version.root);
    if held.value.starts_with(protobuf::MAGIC) == wanted {
        Ok(())
    } else {
        Err("stored in the other form".into())
    }
}

/// Reads an object in every version and format.
async fn read(
    cluster: &Cluster,
    name: &str,
    descriptor: &ResourceDescriptor,
    made: &Value,
    report: &mut Report,
) -> anyhow::Result<()> {
    for version in &descriptor.versions {
        let gvk = descriptor.gvk(&version.version);
        let group_version = gvk.group_version().to_string();
        let mut expected = made.clone();
        version.from_storage(&mut expected);
        let root = if gvk.group.is_empty() { "/api" } else { "/apis" };
        let namespace =
            if descriptor.namespaced { format!("namespaces/{NAMESPACE}/") } else { String::new() };
        let path = format!("{root}/{group_version}/{namespace}{}/{NAME}", descriptor.plural);
        for media in ["application/json", "application/yaml", protobuf::MEDIA_TYPE] {
            let answer = cluster.call_with("GET", &path, "", &[("accept", media)]).await?;
            ensure!(answer.code == 200, "GET {path}: {} {}", answer.code, answer.message());
            let what = format!("{name}, read as {media} in {group_version}");
            let found = match media {
                // what has no protobuf form is answered as JSON
                _ if answer.header("content-type").starts_with("application/json") => {
                    Ok(answer.json().into())
                }
                "application/yaml" => yaml::parse(&answer.bytes).map_err(|e| e.to_string()),
                _ => {
                    expected = numbered(&version.schema, version.root, &expected);
                    protobuf::decode_object(&version.schema, version.root, &answer.bytes)
                        .map_err(|e| e.to_string())
                }
            };
            report.note(&what, found.and_then(|found| unchanged(&expected, &found)));
        }
    }
    Ok(())
}
