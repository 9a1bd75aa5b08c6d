//! The facts that the walk is made from: `api/operations.txt` (what conformance covers) and `api/resources.txt` (what
//! the API serves). api/README.md describes their formats.

use anyhow::{Context as _, bail};

/// An operation of the conformance list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    /// HTTP method.
    pub(crate) method: String,
    /// Path with `{namespace}`, `{name}` and `{path}`.
    pub(crate) path: String,
    /// Name in the OpenAPI document.
    pub(crate) id: String,
}

/// A resource and its subresources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    /// `GROUP/VERSION`, or `v1`.
    pub(crate) group_version: String,
    /// Name in paths.
    pub(crate) plural: String,
    /// Name of one.
    pub(crate) singular: String,
    /// Kind of its objects.
    pub(crate) kind: String,
    /// Whether its objects are in namespaces.
    pub(crate) namespaced: bool,
    /// What can be done, in discovery's words.
    pub(crate) verbs: Vec<String>,
    /// Short names.
    pub(crate) short: Vec<String>,
    /// Categories.
    pub(crate) categories: Vec<String>,
    /// Subresources.
    pub(crate) subresources: Vec<Subresource>,
}

/// A subresource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subresource {
    /// Last part of the path.
    pub(crate) name: String,
    /// Kind of its objects.
    pub(crate) kind: String,
    /// What can be done.
    pub(crate) verbs: Vec<String>,
}

impl Resource {
    /// `GROUP/VERSION/PLURAL`.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.group_version, self.plural)
    }

    /// The group, empty for the core one.
    pub(crate) fn group(&self) -> &str {
        self.group_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Path of the group and version.
    pub(crate) fn root(&self) -> String {
        let prefix = if self.group().is_empty() { "/api" } else { "/apis" };
        format!("{prefix}/{}", self.group_version)
    }

    /// Whether there is a subresource of this name.
    pub(crate) fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|s| s.name == subresource)
    }

    /// Methods and paths of everything that discovery says can be done.
    pub(crate) fn operations(&self) -> Vec<(&'static str, String)> {
        let place = if self.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{}{place}/{}", self.root(), self.plural);
        let item = format!("{collection}/{{name}}");
        let mut found = Vec::new();
        for verb in &self.verbs {
            match verb.as_str() {
                "create" => found.push(("POST", collection.clone())),
                "list" => {
                    found.push(("GET", collection.clone()));
                    if self.namespaced {
                        found.push(("GET", format!("{}/{}", self.root(), self.plural)));
                    }
                }
                "deletecollection" => found.push(("DELETE", collection.clone())),
                verb => found.extend(method(verb).map(|m| (m, item.clone()))),
            }
        }
        for subresource in &self.subresources {
            let path = format!("{item}/{}", subresource.name);
            found.extend(subresource.verbs.iter().filter_map(|verb| method(verb)).map(|m| (m, path.clone())));
        }
        found
    }

    /// How `NotFound` and `AlreadyExists` name it in messages.
    pub(crate) fn qualified(&self) -> String {
        if self.group().is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group())
        }
    }
}

/// The method of a verb on one object; a watch is a list with a parameter.
fn method(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "create" => "POST",
        "get" => "GET",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        _ => return None,
    })
}

/// The conformance list.
pub(crate) fn operations() -> anyhow::Result<Vec<Operation>> {
    let mut found = Vec::new();
    let mut path = "";
    for line in include_str!("../../../api/operations.txt").lines() {
        let Some(words) = line.strip_prefix("  ") else {
            path = line;
            continue;
        };
        let [method, _, id] = words.split(' ').collect::<Vec<_>>()[..] else {
            bail!("operations.txt: {line}");
        };
        found.push(Operation { method: method.to_owned(), path: path.to_owned(), id: id.to_owned() });
    }
    Ok(found)
}

fn commas(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

/// Everything the API knows, on by default or not.
pub(crate) fn resources() -> anyhow::Result<Vec<Resource>> {
    let mut found: Vec<Resource> = Vec::new();
    let mut version = String::new();
    for line in include_str!("../../../api/resources.txt").lines() {
        if let Some(name) = line.strip_prefix("version ") {
            name.clone_into(&mut version);
        } else if let Some(rest) = line.strip_prefix("    ") {
            let [name, kind, verbs, ..] = rest.split(' ').collect::<Vec<_>>()[..] else {
                bail!("resources.txt: {line}");
            };
            let of = found.last_mut().context("a subresource of nothing")?;
            let (name, kind) = (name.to_owned(), kind.to_owned());
            of.subresources.push(Subresource { name, kind, verbs: commas(verbs) });
        } else if let Some(rest) = line.strip_prefix("  ") {
            let [plural, singular, kind, scope, verbs, more @ ..] = &rest.split(' ').collect::<Vec<_>>()[..]
            else {
                bail!("resources.txt: {line}");
            };
            let extra =
                |key: &str| more.iter().find_map(|w| w.strip_prefix(key)).map(commas).unwrap_or_default();
            found.push(Resource {
                group_version: version.clone(),
                plural: (*plural).to_owned(),
                singular: (*singular).to_owned(),
                kind: (*kind).to_owned(),
                namespaced: *scope == "namespaced",
                verbs: commas(verbs),
                short: extra("short="),
                categories: extra("categories="),
                subresources: Vec::new(),
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_whole() {
        let operations = operations().expect("operations");
        assert_eq!(operations.len(), 563);
        let resources = resources().expect("resources");
        let pods = resources.iter().find(|r| r.id() == "v1/pods").expect("pods");
        assert!(pods.namespaced && pods.has("eviction") && pods.short == ["po"]);
        let deployments = resources.iter().find(|r| r.id() == "apps/v1/deployments").expect("deployments");
        assert_eq!(deployments.root(), "/apis/apps/v1");
        assert_eq!(deployments.qualified(), "deployments.apps");
        let mut listed = deployments.operations();
        listed.sort_unstable();
        assert_eq!(listed.len(), 14, "{listed:?}");
        assert!(listed.contains(&("GET", "/apis/apps/v1/deployments".to_owned())));
        let scale = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale".to_owned();
        assert!(listed.contains(&("PATCH", scale)));
    }
}
