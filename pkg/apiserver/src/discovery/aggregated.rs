//! Aggregated discovery (KEP-3352): every group, version and resource in one document.

use apimachinery::Value;
use apimachinery::descriptor::{ResourceDescriptor, ServedVersion, VerbSet};
use apimachinery::json;
use apimachinery::meta::GroupVersionKind;
use http::{HeaderMap, header};

use super::Group;

/// The documents of `/api` and `/apis` in both versions.
pub(super) fn documents(groups: &[Group<'_>]) -> Vec<((&'static str, &'static str), Value)> {
    let mut documents = Vec::new();
    for version in ["v2", "v2beta1"] {
        for path in ["/api", "/apis"] {
            let items: Vec<Value> =
                groups.iter().filter(|g| g.name.is_empty() == (path == "/api")).map(group).collect();
            let document = json!({
                "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
                "metadata": {}, "items": items,
            });
            documents.push(((path, version), document));
        }
    }
    documents
}

/// The version of `apidiscovery.k8s.io` that the client prefers, `None` when it did not ask for aggregated discovery
/// or asked for something it prefers to it.
pub(super) fn wanted_version(headers: &HeaderMap) -> Option<&'static str> {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|clause| {
            let parameters: Vec<&str> = clause.split(';').map(str::trim).collect();
            let aggregated = parameters.contains(&"g=apidiscovery.k8s.io")
                && parameters.contains(&"as=APIGroupDiscoveryList")
                && parameters.first() == Some(&"application/json");
            match aggregated {
                true if parameters.contains(&"v=v2") => Some(Some("v2")),
                true if parameters.contains(&"v=v2beta1") => Some(Some("v2beta1")),
                // a plain media type that is served ends the search: it stands before any aggregated one
                false if matches!(parameters.first(), Some(&("application/json" | "*/*"))) => Some(None),
                _ => None,
            }
        })
        .find_map(|found| found)
        .flatten()
}

/// The media type of an answer.
pub(super) fn media_type(version: &str) -> &'static str {
    match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    }
}

fn group(group: &Group<'_>) -> Value {
    let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|(version, resources)| {
            let resources: Vec<Value> = resources.iter().map(|(d, v)| resource(d, v)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    json!({"metadata": metadata, "versions": versions})
}

fn response_kind(gvk: &GroupVersionKind) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

fn verbs(set: VerbSet) -> Value {
    set.iter().collect()
}

fn resource(descriptor: &ResourceDescriptor, served: &ServedVersion) -> Value {
    let mut entry = json!({
        "resource": descriptor.plural,
        "responseKind": response_kind(&descriptor.gvk(&served.version)),
        "scope": if descriptor.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": descriptor.singular,
        "verbs": verbs(served.verbs),
    });
    if !descriptor.short_names.is_empty() {
        entry["shortNames"] = json!(descriptor.short_names);
    }
    if !descriptor.categories.is_empty() {
        entry["categories"] = json!(descriptor.categories);
    }
    if !served.subresources.is_empty() {
        let mut subresources: Vec<_> = served.subresources.iter().collect();
        subresources.sort_by(|a, b| a.name.cmp(&b.name));
        entry["subresources"] = subresources
            .into_iter()
            .map(|s| json!({"subresource": s.name, "responseKind": response_kind(&s.gvk), "verbs": verbs(s.verbs)}))
            .collect();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferred_form_is_found() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        for (accept, expected) in [
            (format!("{v2},{beta},application/json"), Some("v2")),
            (format!("{beta},application/json"), Some("v2beta1")),
            ("application/json".into(), None),
            (format!("application/json,{v2}"), None),
            (
                "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json"
                    .into(),
                None,
            ),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("header"));
            assert_eq!(wanted_version(&headers), expected, "{accept}");
        }
    }
}
