//! Descriptors of the built-in resources, made from `api/resources.txt` and its kin.

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::descriptor::{
    Deprecation, ResourceDescriptor, ServedVersion, StorageLocation, Subresource, VerbSet,
};
use apimachinery::meta::{GroupVersion, GroupVersionKind};

use crate::catalog::catalog;
use crate::served::ServedVersions;
use crate::{conversion, data, kinds};

/// How long an event is kept, in seconds.
pub const EVENT_TTL_SECONDS: i64 = 3600;

/// This release, for deprecation warnings.
const MINOR: u32 = 36;

/// A line of `api/resources.txt`.
struct Entry {
    version: GroupVersion,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    namespaced: bool,
    verbs: VerbSet,
    short_names: Vec<String>,
    categories: Vec<String>,
    subresources: Vec<Subresource>,
}

/// Priority of a group version in discovery: the group's, then the version's; higher is earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Priority {
    /// `groupPriorityMinimum` of the APIService.
    pub group: i32,
    /// `versionPriority` of the APIService.
    pub version: i32,
}

/// The priority of a built-in group version (`v1`, `apps/v1`).
pub fn priority(group_version: &str) -> Option<Priority> {
    data::PRIORITIES.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.next() == Some(group_version)).then(|| {
            let mut number = || words.next().and_then(|w| w.parse().ok()).unwrap_or_default();
            Priority { group: number(), version: number() }
        })
    })
}

/// Every group version of the release, served or not.
pub(crate) fn group_versions() -> impl Iterator<Item = &'static str> {
    data::RESOURCES.lines().filter_map(|line| line.strip_prefix("version "))
}

/// Whether the release has a resource in a group version.
pub(crate) fn has_resource(group_version: &str, plural: &str) -> bool {
    entries().iter().any(|e| e.version.to_string() == group_version && e.plural == plural)
}

/// The built-in resources in discovery order: groups and versions by priority, resources by name.
pub fn resources(served: &ServedVersions) -> Vec<Arc<ResourceDescriptor>> {
    let mut grouped: Vec<Vec<Entry>> = Vec::new();
    let mut place: HashMap<(String, &'static str), usize> = HashMap::new();
    let mut all: Vec<Entry> = entries();
    // stable: resources of one version stay in order
    all.sort_by_key(|e| std::cmp::Reverse(priority(&e.version.to_string()).unwrap_or_default()));
    let mut preferred: HashMap<(String, &'static str), GroupVersion> = HashMap::new();
    for entry in &all {
        preferred.entry((entry.version.group.clone(), entry.plural)).or_insert_with(|| entry.version.clone());
    }
    for entry in all {
        if !served.serves(&entry.version.to_string(), entry.plural) {
            continue;
        }
        let at = *place.entry((entry.version.group.clone(), entry.plural)).or_insert_with(|| {
            grouped.push(Vec::new());
            grouped.len() - 1
        });
        grouped[at].push(entry);
    }
    grouped
        .into_iter()
        .map(|versions| {
            let key = (versions[0].version.group.clone(), versions[0].plural);
            Arc::new(descriptor(versions, preferred[&key].clone()))
        })
        .collect()
}

/// The descriptor of a resource from its served versions; `preferred` is the first of all it has, served or not.
fn descriptor(entries: Vec<Entry>, preferred: GroupVersion) -> ResourceDescriptor {
    let first = &entries[0];
    let (group, plural, kind) = (first.version.group.clone(), first.plural, first.kind);
    let storage = storage(preferred, plural, kind);
    let has_status = entries.iter().any(|e| e.subresources.iter().any(|s| s.name == "status"));
    let special = kinds::special(&group, plural, has_status);
    let (short_names, categories) = (first.short_names.clone(), first.categories.clone());
    let (singular, namespaced) = (first.singular.to_owned(), first.namespaced);
    let versions = entries
        .into_iter()
        .map(|entry| {
            let gvk = GroupVersionKind::new(group.clone(), entry.version.version.clone(), kind);
            ServedVersion {
                verbs: entry.verbs,
                schema: Arc::clone(catalog().schema()),
                root: catalog().kind(&gvk).expect("a test finds every resource's kind").node,
                conversion: conversion::between(&gvk, &storage.gvk),
                deprecation: deprecation(&entry.version, kind),
                subresources: entry.subresources,
                version: entry.version.version,
            }
        })
        .collect();
    ResourceDescriptor {
        group,
        plural: plural.into(),
        singular,
        kind: kind.into(),
        list_kind: format!("{kind}List"),
        short_names,
        categories,
        namespaced,
        versions,
        storage,
        selectable_fields: special.selectable_fields,
        columns: special.columns,
        strategy: special.strategy,
    }
}

/// Where a resource is kept: `api/storage.txt`, else its plural in its preferred version.
fn storage(preferred: GroupVersion, plural: &str, kind: &str) -> StorageLocation {
    let name = apimachinery::meta::GroupResource::new(preferred.group.clone(), plural).to_string();
    let special = data::STORAGE.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.next() == Some(name.as_str())).then(|| (words.next().unwrap_or(plural), words.next()))
    });
    let (prefix, version) = special.unwrap_or((plural, None));
    let gv = version.and_then(GroupVersion::parse).unwrap_or(preferred);
    let ttl_seconds = (prefix == "events").then_some(EVENT_TTL_SECONDS);
    StorageLocation {
        prefix: prefix.into(),
        gvk: GroupVersionKind::new(gv.group, gv.version, kind),
        ttl_seconds,
    }
}

/// The warning of a deprecated version. Source: `k8s.io/apiserver/pkg/endpoints/deprecation`.
fn deprecation(version: &GroupVersion, kind: &str) -> Option<Deprecation> {
    let gv = version.to_string();
    data::DEPRECATIONS.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [line_version, line_kind, since, ref rest @ ..] = words[..] else { return None };
        if line_version != gv || line_kind != kind || since.parse::<u32>().ok()? > MINOR {
            return None;
        }
        let mut warning = format!("{gv} {kind} is deprecated in v1.{since}+");
        let mut removed_release = String::new();
        if let Some(removed) = rest.first().filter(|r| **r != "-") {
            warning.push_str(&format!(", unavailable in v1.{removed}+"));
            removed_release = format!("1.{removed}");
        }
        if let [_, replacement, replacement_kind] = rest[..] {
            warning.push_str(&format!("; use {replacement} {replacement_kind}"));
        }
        Some(Deprecation { warning, removed_release })
    })
}

fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').filter(|w| !w.is_empty())
}

fn entries() -> Vec<Entry> {
    let mut version = GroupVersion::new("", "");
    let mut all: Vec<Entry> = Vec::with_capacity(100);
    for line in data::RESOURCES.lines() {
        if let Some(text) = line.strip_prefix("version ") {
            version = GroupVersion::parse(text).expect("a test reads the table");
        } else if let Some(line) = line.strip_prefix("    ") {
            let resource = all.last_mut().expect("a subresource follows its resource");
            resource.subresources.push(subresource(line, &version));
        } else {
            all.push(resource(line.trim_start(), &version));
        }
    }
    all
}

fn resource(line: &'static str, version: &GroupVersion) -> Entry {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let mut entry = Entry {
        version: version.clone(),
        plural: word(),
        singular: word(),
        kind: word(),
        namespaced: word() == "namespaced",
        verbs: VerbSet::of(split(word())),
        short_names: Vec::new(),
        categories: Vec::new(),
        subresources: Vec::new(),
    };
    for word in words {
        match word.split_once('=') {
            Some(("short", names)) => entry.short_names = split(names).map(Into::into).collect(),
            Some(("categories", names)) => entry.categories = split(names).map(Into::into).collect(),
            _ => {}
        }
    }
    entry
}

fn subresource(line: &'static str, version: &GroupVersion) -> Subresource {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let (name, kind, verbs) = (word(), word(), word());
    let gv = words.next().and_then(GroupVersion::parse).unwrap_or_else(|| version.clone());
    let gvk = GroupVersionKind::new(gv.group, gv.version, kind);
    Subresource {
        name: name.into(),
        verbs: VerbSet::of(split(verbs)),
        root: catalog().kind(&gvk).map(|d| d.node),
        gvk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::descriptor::Resources;

    fn all() -> Vec<Arc<ResourceDescriptor>> {
        let served = ServedVersions::from_runtime_config([("api/all", "true")]).expect("valid");
        resources(&served)
    }

    #[test]
    fn every_line_of_the_table_is_a_descriptor() {
        let descriptors = Resources::new(all());
        let mut count = 0;
        for entry in entries() {
            let found = descriptors.resource(&entry.version.group, entry.plural).expect(entry.plural);
            let version = found.version(&entry.version.version).expect("the version");
            assert_eq!((found.kind.as_str(), found.namespaced), (entry.kind, entry.namespaced));
            assert_eq!(version.verbs, entry.verbs, "{}", entry.plural);
            assert_eq!(version.subresources.len(), entry.subresources.len());
            for sub in &version.subresources {
                assert!(sub.root.is_some(), "{}/{} has no type {}", entry.plural, sub.name, sub.gvk);
            }
            count += 1;
        }
        assert_eq!(count, 95);
    }

    #[test]
    fn stable_versions_alone_are_served_by_default() {
        let descriptors = resources(&ServedVersions::default());
        assert!(descriptors.iter().flat_map(|d| &d.versions).all(|v| !v.version.contains("alpha")));
        assert!(descriptors.iter().flat_map(|d| &d.versions).all(|v| !v.version.contains("beta")));
        let groups: Vec<&str> = descriptors.iter().map(|d| d.group.as_str()).collect();
        let mut order = groups.clone();
        order.dedup();
        assert_eq!(order[..4], ["apiregistration.k8s.io", "", "apps", "events.k8s.io"]);
        let hpa = descriptors.iter().find(|d| d.plural == "horizontalpodautoscalers").expect("hpa");
        let versions: Vec<&str> = hpa.versions.iter().map(|v| v.version.as_str()).collect();
        assert_eq!(versions, ["v2", "v1"]);
    }

    #[test]
    fn objects_are_kept_where_upstream_keeps_them() {
        let descriptors = Resources::new(all());
        for (group, plural, prefix, gvk) in [
            ("", "pods", "pods", "v1, Kind=Pod"),
            ("", "services", "services/specs", "v1, Kind=Service"),
            ("", "endpoints", "services/endpoints", "v1, Kind=Endpoints"),
            ("", "nodes", "minions", "v1, Kind=Node"),
            ("", "replicationcontrollers", "controllers", "v1, Kind=ReplicationController"),
            ("events.k8s.io", "events", "events", "v1, Kind=Event"),
            ("networking.k8s.io", "ingresses", "ingress", "networking.k8s.io/v1, Kind=Ingress"),
            ("apps", "deployments", "deployments", "apps/v1, Kind=Deployment"),
            (
                "autoscaling",
                "horizontalpodautoscalers",
                "horizontalpodautoscalers",
                "autoscaling/v2, Kind=HorizontalPodAutoscaler",
            ),
            (
                "coordination.k8s.io",
                "leasecandidates",
                "leasecandidates",
                "coordination.k8s.io/v1beta1, Kind=LeaseCandidate",
            ),
            (
                "apiextensions.k8s.io",
                "customresourcedefinitions",
                "apiextensions.k8s.io/customresourcedefinitions",
                "apiextensions.k8s.io/v1, Kind=CustomResourceDefinition",
            ),
        ] {
            let storage = &descriptors.resource(group, plural).expect(plural).storage;
            assert_eq!((storage.prefix.as_str(), storage.gvk.to_string()), (prefix, gvk.to_owned()));
            assert_eq!(storage.ttl_seconds.is_some(), plural == "events");
        }
    }

    #[test]
    fn every_version_has_a_priority_and_converts() {
        for descriptor in all() {
            for version in &descriptor.versions {
                let gvk = descriptor.gvk(&version.version);
                assert!(priority(&gvk.group_version().to_string()).is_some(), "{gvk}");
                assert_eq!(version.conversion.is_none(), gvk == descriptor.storage.gvk, "{gvk}");
            }
        }
    }

    #[test]
    fn deprecated_versions_warn() {
        let said = |gv: &str, kind| {
            let deprecation = deprecation(&GroupVersion::parse(gv).expect("gv"), kind)?;
            Some((deprecation.warning, deprecation.removed_release))
        };
        let warning = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
        assert_eq!(said("v1", "Endpoints"), Some((warning.to_owned(), String::new())));
        let warning = "networking.k8s.io/v1beta1 IPAddress is deprecated in v1.34+, unavailable in v1.37+";
        assert_eq!(said("networking.k8s.io/v1beta1", "IPAddress"), Some((warning.to_owned(), "1.37".into())));
        assert_eq!(said("v1", "Pod"), None);
    }
}
