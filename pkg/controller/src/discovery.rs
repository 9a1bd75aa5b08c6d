//! Which resources the API server serves: what a namespace may hold, what may own and be owned.
//!
//! Aggregated discovery (KEP-3352) is one request for each of `/api` and `/apis`; servers without it are asked group by
//! group.

use std::collections::HashSet;

use client::rest::{ResourceId, Rest};
use serde_json::Value;

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// One resource at its preferred version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Discovered {
    pub(crate) resource: ResourceId,
    pub(crate) verbs: Vec<String>,
}

impl Discovered {
    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|held| held == verb)
    }
}

/// What was found, and the group versions that could not be asked (aggregated servers that are down).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Discovery {
    pub(crate) resources: Vec<Discovered>,
    pub(crate) failed: Vec<String>,
}

/// One resource in one version, in the order of preference of the versions.
struct Found {
    group: String,
    version: String,
    plural: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn verbs(resource: &Value) -> Vec<String> {
    list(resource, "verbs").filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Reads an `APIGroupDiscoveryList`.
fn aggregated(answer: &Value, failed: &mut Vec<String>) -> Vec<Found> {
    let mut found = Vec::new();
    for group in list(answer, "items") {
        let name = group.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("");
        for version in list(group, "versions") {
            let version_name = text(version, "version");
            if text(version, "freshness") == "Stale" && list(version, "resources").next().is_none() {
                failed.push(format!("{name}/{version_name}"));
            }
            for resource in list(version, "resources") {
                found.push(Found {
                    group: name.to_owned(),
                    version: version_name.to_owned(),
                    plural: text(resource, "resource").to_owned(),
                    kind: resource
                        .pointer("/responseKind/kind")
                        .and_then(Value::as_str)
                        .unwrap_or("")
                        .to_owned(),
                    namespaced: text(resource, "scope") == "Namespaced",
                    verbs: verbs(resource),
                });
            }
        }
    }
    found
}

/// Reads an `APIResourceList`; subresources are left out.
fn plain(answer: &Value, group: &str, version: &str) -> Vec<Found> {
    list(answer, "resources")
        .filter(|resource| !text(resource, "name").contains('/'))
        .map(|resource| Found {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: text(resource, "name").to_owned(),
            kind: text(resource, "kind").to_owned(),
            namespaced: resource.get("namespaced").and_then(Value::as_bool).unwrap_or(false),
            verbs: verbs(resource),
        })
        .collect()
}

/// Of each resource the first version that has it.
fn preferred(found: Vec<Found>) -> Vec<Discovered> {
    let mut seen = HashSet::new();
    found
        .into_iter()
        .filter(|found| !found.plural.is_empty() && seen.insert((found.group.clone(), found.plural.clone())))
        .map(|found| Discovered {
            resource: ResourceId {
                group: found.group.into(),
                version: found.version.into(),
                plural: found.plural.into(),
                kind: found.kind.into(),
                namespaced: found.namespaced,
            },
            verbs: found.verbs,
        })
        .collect()
}

/// Group versions of an `APIGroupList` in order of preference.
fn group_versions(answer: &Value) -> Vec<(String, String)> {
    list(answer, "groups")
        .flat_map(|group| {
            let first = group.pointer("/preferredVersion/version").and_then(Value::as_str).unwrap_or("");
            let mut versions: Vec<&str> =
                list(group, "versions").map(|version| text(version, "version")).collect();
            versions.sort_by_key(|version| *version != first);
            let name = text(group, "name").to_owned();
            versions.into_iter().map(move |version| (name.clone(), version.to_owned())).collect::<Vec<_>>()
        })
        .collect()
}

/// Asks the server. Fails only when nothing could be learnt of a whole tree.
pub(crate) async fn discover(rest: &Rest) -> Result<Discovery, kube::Error> {
    let mut discovery = Discovery::default();
    let mut found = Vec::new();
    for path in ["/api", "/apis"] {
        let answer = rest.get_path(path, AGGREGATED).await?;
        if text(&answer, "kind") == "APIGroupDiscoveryList" {
            found.extend(aggregated(&answer, &mut discovery.failed));
            continue;
        }
        let versions = if path == "/api" {
            list(&answer, "versions")
                .filter_map(Value::as_str)
                .map(|v| (String::new(), v.to_owned()))
                .collect()
        } else {
            group_versions(&answer)
        };
        for (group, version) in versions {
            let path =
                if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
            match rest.get_path(&path, "application/json").await {
                Ok(answer) => found.extend(plain(&answer, &group, &version)),
                Err(_) => discovery.failed.push(format!("{group}/{version}")),
            }
        }
    }
    discovery.resources = preferred(found);
    Ok(discovery)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn aggregated_discovery_gives_each_resource_once_at_its_first_version() {
        let answer = json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": "autoscaling"}, "versions": [
            {"version": "v2", "freshness": "Current", "resources": [
                {"resource": "horizontalpodautoscalers", "responseKind": {"kind": "HorizontalPodAutoscaler"},
                 "scope": "Namespaced", "verbs": ["list", "delete"]}]},
            {"version": "v1", "freshness": "Current", "resources": [
                {"resource": "horizontalpodautoscalers", "responseKind": {"kind": "HorizontalPodAutoscaler"},
                 "scope": "Namespaced", "verbs": ["list"]}]}]},
            {"metadata": {"name": "metrics.k8s.io"}, "versions": [{"version": "v1beta1", "freshness": "Stale"}]}]});
        let mut failed = Vec::new();
        let resources = preferred(aggregated(&answer, &mut failed));
        assert_eq!(resources.len(), 1);
        assert_eq!(resources[0].resource.version, "v2");
        assert!(resources[0].can("delete") && resources[0].resource.namespaced);
        assert_eq!(failed, ["metrics.k8s.io/v1beta1"]);
    }

    #[test]
    fn plain_discovery_leaves_out_subresources_and_prefers_the_preferred() {
        let groups = json!({"groups": [{"name": "apps", "preferredVersion": {"version": "v1"},
            "versions": [{"version": "v1beta1"}, {"version": "v1"}]}]});
        assert_eq!(
            group_versions(&groups),
            [("apps".into(), "v1".into()), ("apps".into(), "v1beta1".into())]
        );
        let answer = json!({"resources": [
            {"name": "deployments", "kind": "Deployment", "namespaced": true, "verbs": ["list"]},
            {"name": "deployments/status", "kind": "Deployment", "namespaced": true, "verbs": ["get"]}]});
        assert_eq!(preferred(plain(&answer, "apps", "v1")).len(), 1);
    }
}
