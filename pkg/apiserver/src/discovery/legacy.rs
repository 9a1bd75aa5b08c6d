//! The documents of unaggregated discovery: `/api`, `/apis`, `/apis/GROUP` and the resources of each version.

use apimachinery::Value;
use apimachinery::descriptor::{ResourceDescriptor, ServedVersion, Subresource, VerbSet};
use apimachinery::json;
use apimachinery::meta::GroupVersion;

use super::Group;
use crate::digest;

/// Every document by path.
pub(super) fn documents(groups: &[Group<'_>], address: &str) -> Vec<(String, Value)> {
    let mut documents = Vec::new();
    let mut listed = Vec::new();
    for group in groups {
        let root = if group.name.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.name) };
        for (version, resources) in &group.versions {
            documents.push((format!("{root}/{version}"), resource_list(group.name, version, resources)));
        }
        if group.name.is_empty() {
            let versions: Vec<&str> = group.versions.iter().map(|(v, _)| *v).collect();
            documents.push((
                root,
                json!({"kind": "APIVersions", "versions": versions,
                       "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]}),
            ));
            continue;
        }
        let summary = group_summary(group);
        let mut own = summary.clone();
        own["kind"] = json!("APIGroup");
        own["apiVersion"] = json!("v1");
        documents.push((root, own));
        listed.push(summary);
    }
    documents.push(("/apis".into(), json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": listed})));
    documents
}

fn group_summary(group: &Group<'_>) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|(version, _)| json!({"groupVersion": format!("{}/{version}", group.name), "version": version}))
        .collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

fn resource_list(group: &str, version: &str, resources: &[(&ResourceDescriptor, &ServedVersion)]) -> Value {
    let entries: Vec<Value> = resources
        .iter()
        .flat_map(|(descriptor, served)| {
            let mut subresources: Vec<&Subresource> = served.subresources.iter().collect();
            subresources.sort_by(|a, b| a.name.cmp(&b.name));
            let own = (served.verbs != VerbSet::default()).then(|| resource(descriptor, served));
            own.into_iter()
                .chain(subresources.into_iter().map(|sub| subresource(descriptor, version, sub)))
                .collect::<Vec<_>>()
        })
        .collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GroupVersion::new(group, version).to_string(),
           "resources": entries})
}

fn verbs(set: VerbSet) -> Value {
    set.iter().collect()
}

fn resource(descriptor: &ResourceDescriptor, served: &ServedVersion) -> Value {
    let mut entry = json!({
        "name": descriptor.plural, "singularName": descriptor.singular, "namespaced": descriptor.namespaced,
        "kind": descriptor.kind, "verbs": verbs(served.verbs),
    });
    if !descriptor.short_names.is_empty() {
        entry["shortNames"] = json!(descriptor.short_names);
    }
    if !descriptor.categories.is_empty() {
        entry["categories"] = json!(descriptor.categories);
    }
    if served.verbs.contains("list") && served.verbs.contains("watch") {
        let gvk = &descriptor.storage.gvk;
        entry["storageVersionHash"] =
            json!(digest::storage_version_hash(&gvk.group, &gvk.version, &gvk.kind));
    }
    entry
}

fn subresource(descriptor: &ResourceDescriptor, version: &str, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", descriptor.plural, sub.name), "singularName": "",
        "namespaced": descriptor.namespaced, "kind": sub.gvk.kind, "verbs": verbs(sub.verbs),
    });
    if sub.gvk.group != descriptor.group || sub.gvk.version != version {
        entry["group"] = json!(sub.gvk.group);
        entry["version"] = json!(sub.gvk.version);
        if sub.gvk.group.is_empty() {
            entry.as_object_mut().expect("made as an object").remove("group");
        }
    }
    entry
}
