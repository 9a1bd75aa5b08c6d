//! Discovery: groups, versions, resources, and the server's version.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::client::Client;
use crate::compare::contains;
use crate::facts::Resource;
use crate::report::Report;

pub(super) async fn walk(client: &Client, report: &Report, resources: &[Resource]) {
    report.note("GET", "/api/", core_versions(client).await);
    report.note("GET", "/version/", version(client).await);
    let served = groups(client).await;
    report.note("GET", "/apis/", served.as_ref().map(|_| ()).map_err(|e| anyhow::anyhow!("{e:#}")));
    let mut versions = vec!["v1".to_owned()];
    for group in served.unwrap_or_default() {
        let path = format!("/apis/{}/", group["name"].as_str().unwrap_or(""));
        report.note("GET", &path, one_group(client, &path, &group).await);
        for version in group["versions"].as_array().into_iter().flatten() {
            versions.push(version["groupVersion"].as_str().unwrap_or("").to_owned());
        }
    }
    for version in versions {
        let prefix = if version.contains('/') { "/apis" } else { "/api" };
        let path = format!("{prefix}/{version}/");
        report.note("GET", &path, one_version(client, &path, &version, resources).await);
        resources.iter().filter(|r| r.group_version == version).for_each(|r| report.expect(r));
    }
}

async fn core_versions(client: &Client) -> anyhow::Result<()> {
    let found = client.get("/api/").await?.expect(200)?;
    contains(&found, &json!({"kind": "APIVersions", "versions": ["v1"]}))?;
    ensure!(found["serverAddressByClientCIDRs"][0]["clientCIDR"] == "0.0.0.0/0", "{found}");
    Ok(())
}

async fn version(client: &Client) -> anyhow::Result<()> {
    let found = client.get("/version/").await?.expect(200)?;
    contains(&found, &json!({"major": "1", "minor": "36"}))?;
    let version = found["gitVersion"].as_str().unwrap_or("");
    ensure!(version.starts_with("v1.36."), "gitVersion is {version:?}");
    for field in ["gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"] {
        ensure!(found[field].is_string(), "no {field}");
    }
    Ok(())
}

async fn groups(client: &Client) -> anyhow::Result<Vec<Value>> {
    let found = client.get("/apis/").await?.expect(200)?;
    contains(&found, &json!({"kind": "APIGroupList", "apiVersion": "v1"}))?;
    Ok(found["groups"].as_array().context("no groups")?.clone())
}

async fn one_group(client: &Client, path: &str, listed: &Value) -> anyhow::Result<()> {
    let found = client.get(path).await?.expect(200)?;
    contains(&found, &json!({"kind": "APIGroup", "apiVersion": "v1"}))?;
    contains(&found, listed).context("differs from /apis/")?;
    let preferred = &found["preferredVersion"];
    ensure!(*preferred == found["versions"][0], "prefers {preferred}");
    Ok(())
}

/// A version lists exactly the resources of the facts.
async fn one_version(
    client: &Client,
    path: &str,
    group_version: &str,
    resources: &[Resource],
) -> anyhow::Result<()> {
    let found = client.get(path).await?.expect(200)?;
    contains(&found, &json!({"kind": "APIResourceList", "groupVersion": group_version}))?;
    let entries = found["resources"].as_array().context("no resources")?;
    let entry = |name: &str| entries.iter().find(|e| e["name"] == name);
    let mut names = BTreeSet::new();
    for resource in resources.iter().filter(|r| r.group_version == group_version) {
        let plural = &resource.plural;
        let described = entry(plural).with_context(|| format!("{plural} is not listed"))?;
        let some = |words: &[String]| if words.is_empty() { Value::Null } else { json!(words) };
        let wanted = json!({
            "singularName": resource.singular, "kind": resource.kind, "namespaced": resource.namespaced,
            "verbs": resource.verbs, "shortNames": some(&resource.short), "categories": some(&resource.categories),
        });
        contains(described, &wanted).with_context(|| plural.clone())?;
        names.insert(plural.clone());
        for subresource in &resource.subresources {
            let name = format!("{plural}/{}", subresource.name);
            let described = entry(&name).with_context(|| format!("{name} is not listed"))?;
            contains(described, &json!({"kind": subresource.kind, "verbs": subresource.verbs}))
                .with_context(|| name.clone())?;
            names.insert(name);
        }
    }
    // Resources that the walk itself defines are in groups of their own and may still be there.
    let known = resources.iter().any(|r| r.group_version == group_version);
    let listed: BTreeSet<_> = entries.iter().filter_map(|e| e["name"].as_str()).map(str::to_owned).collect();
    ensure!(!known || listed == names, "unknown resources: {:?}", listed.difference(&names));
    Ok(())
}
