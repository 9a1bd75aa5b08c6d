//! The operations of the API as OpenAPI describes them: made from the descriptors, rendered by [`super::document`]. Names and order follow `k8s.io/apiserver/pkg/endpoints/installer.go`.

use apimachinery::descriptor::{ResourceDescriptor, ServedVersion, Subresource};
use apimachinery::meta::GroupVersionKind;

use super::parameters::{
    DELETE, DELETE_COLLECTION, LIST, PATCH, Parameter, WRITE, of_options, parameter, queries, query,
};
use super::{Document, nonresource};
use crate::discovery::Group;

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
/// What PATCH takes.
pub(super) const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// Encodings of objects.
pub(super) const OBJECT_TYPES: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
/// Encodings of what may be watched.
pub(super) const STREAM_TYPES: [&str; 5] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// What a request carries or an answer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// An object of this definition.
    Definition(String),
    /// Text.
    Text,
}

/// One method of a path.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) action: Option<&'static str>,
    pub(super) id: String,
    pub(super) description: String,
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Option<(Content, bool)>,
    pub(super) answer: Content,
    pub(super) codes: &'static [(&'static str, &'static str)],
    pub(super) consumes: Vec<&'static str>,
    pub(super) produces: Vec<&'static str>,
    pub(super) gvk: Option<GroupVersionKind>,
}

/// A path with what all its methods share.
#[derive(Debug, Clone)]
pub(super) struct PathItem {
    pub(super) path: String,
    pub(super) tag: String,
    pub(super) parameters: Vec<Parameter>,
    pub(super) operations: Vec<Operation>,
}

pub(super) const OK: &[(&str, &str)] = &[("200", "OK")];
const WRITTEN: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];
const DELETED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];

/// `RbacAuthorizationV1` of a group version.
pub(super) fn id_stem(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) };
    let group: String = group.split('.').map(title).collect();
    format!("{group}{}", title(version))
}

/// `rbacAuthorization_v1` of a group version.
pub(super) fn tag(group: &str, version: &str) -> String {
    let stem = id_stem(group, "");
    let mut letters = stem.chars();
    let lower: String = letters.next().map(|c| c.to_lowercase().chain(letters).collect()).unwrap_or_default();
    if version.is_empty() { lower } else { format!("{lower}_{version}") }
}

fn title(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|c| c.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// One resource in one version.
struct Of<'a> {
    descriptor: &'a ResourceDescriptor,
    served: &'a ServedVersion,
    root: String,
    stem: String,
    tag: String,
    gvk: GroupVersionKind,
    definition: String,
    /// The list type's definition.
    list: String,
}

/// Every path of a document.
pub(super) fn paths(document: &Document, groups: &[Group<'_>]) -> Vec<PathItem> {
    match document {
        Document::Version { group, version } => groups
            .iter()
            .filter(|g| g.name == group)
            .flat_map(|g| &g.versions)
            .filter(|(name, _)| name == version)
            .flat_map(|(_, resources)| version_paths(group, version, resources))
            .collect(),
        Document::Group { group } => vec![nonresource::group(group)],
        Document::Groups => vec![nonresource::groups()],
        Document::Release => vec![nonresource::version()],
        Document::Issuer { path } => nonresource::issuer(path).into_iter().collect(),
    }
}

fn version_paths(
    group: &str,
    version: &str,
    resources: &[(&ResourceDescriptor, &ServedVersion)],
) -> Vec<PathItem> {
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let (stem, tag) = (id_stem(group, version), tag(group, version));
    let mut paths = vec![nonresource::information(
        format!("{root}/"),
        tag.clone(),
        &format!("get{stem}APIResources"),
        "get available resources",
        "APIResourceList",
    )];
    for (descriptor, served) in resources {
        let definition = served.schema.node(served.root).name.to_string();
        let package = definition.rsplit_once('.').map_or("", |(package, _)| package);
        let of = Of {
            descriptor,
            served,
            root: root.clone(),
            stem: stem.clone(),
            tag: tag.clone(),
            gvk: descriptor.gvk(version),
            list: format!("{package}.{}", descriptor.list_kind),
            definition,
        };
        paths.extend(of.paths());
    }
    paths
}

impl Of<'_> {
    fn paths(&self) -> Vec<PathItem> {
        let plural = &self.descriptor.plural;
        let collection = if self.descriptor.namespaced {
            format!("{}/namespaces/{{namespace}}/{plural}", self.root)
        } else {
            format!("{}/{plural}", self.root)
        };
        let object = format!("{collection}/{{name}}");
        let mut items = Vec::new();
        let has = |verb: &str| self.served.verbs.contains(verb);
        let methods: Vec<Operation> = [
            has("deletecollection").then(|| self.delete_collection()),
            has("list").then(|| self.list("")),
            has("create").then(|| self.create()),
        ]
        .into_iter()
        .flatten()
        .collect();
        self.push(&mut items, &collection, self.shared(false), methods);
        let methods: Vec<Operation> = [
            has("delete").then(|| self.delete()),
            has("get").then(|| self.get("", &self.gvk, &self.definition)),
            has("patch").then(|| self.patch("", &self.gvk, &self.definition)),
            has("update").then(|| self.update("", &self.gvk, &self.definition)),
        ]
        .into_iter()
        .flatten()
        .collect();
        self.push(&mut items, &object, self.shared(true), methods);
        for subresource in &self.served.subresources {
            self.subresource(&mut items, &object, subresource);
        }
        if self.descriptor.namespaced && has("list") {
            let path = format!("{}/{plural}", self.root);
            let all = self.list("ForAllNamespaces");
            self.push(&mut items, &path, vec![query("pretty")], vec![all]);
        }
        if has("watch") {
            self.watches(&mut items, &collection);
        }
        items
    }

    /// Adds a path. What all its methods take is said once, for the path.
    fn push(
        &self,
        items: &mut Vec<PathItem>,
        path: &str,
        mut parameters: Vec<Parameter>,
        mut operations: Vec<Operation>,
    ) {
        let Some((first, others)) = operations.split_first() else { return };
        let common: Vec<Parameter> = first
            .parameters
            .iter()
            .filter(|p| others.iter().all(|other| other.parameters.contains(p)))
            .cloned()
            .collect();
        for operation in &mut operations {
            operation.parameters.retain(|p| !common.contains(p));
        }
        parameters.extend(common);
        parameters.sort_by(|a, b| a.name.cmp(&b.name));
        items.push(PathItem { path: path.to_owned(), tag: self.tag.clone(), parameters, operations });
    }

    /// Parameters of the path and `pretty`.
    fn shared(&self, named: bool) -> Vec<Parameter> {
        self.shared_of(named.then_some(self.descriptor.kind.as_str()))
    }

    fn shared_of(&self, named: Option<&str>) -> Vec<Parameter> {
        let mut all = Vec::new();
        if let Some(kind) = named {
            all.push(parameter("path", "name", "string", &format!("name of the {kind}")));
        }
        if self.descriptor.namespaced {
            all.push(parameter(
                "path",
                "namespace",
                "string",
                "object name and auth scope, such as for teams and projects",
            ));
        }
        all.push(query("pretty"));
        all
    }

    fn id(&self, verb: &str, suffix: &str) -> String {
        let namespaced = if self.descriptor.namespaced { "Namespaced" } else { "" };
        format!("{verb}{}{namespaced}{}{suffix}", self.stem, self.descriptor.kind)
    }

    fn operation(
        &self,
        method: &'static str,
        action: &'static str,
        id: String,
        description: String,
    ) -> Operation {
        Operation {
            method,
            action: Some(action),
            id,
            description,
            parameters: Vec::new(),
            body: None,
            answer: Content::Definition(self.definition.clone()),
            codes: OK,
            consumes: vec!["*/*"],
            produces: OBJECT_TYPES.to_vec(),
            gvk: Some(self.gvk.clone()),
        }
    }

    fn list(&self, scope: &str) -> Operation {
        let id = if scope.is_empty() {
            self.id("list", "")
        } else {
            format!("list{}{}{scope}", self.stem, self.descriptor.kind)
        };
        let what = if self.served.verbs.contains("watch") { "list or watch" } else { "list" };
        let description = format!("{what} objects of kind {}", self.descriptor.kind);
        Operation {
            parameters: queries(LIST),
            answer: Content::Definition(self.list.clone()),
            produces: STREAM_TYPES.to_vec(),
            ..self.operation("get", "list", id, description)
        }
    }

    fn create(&self) -> Operation {
        let description = format!("create {}{}", article(&self.descriptor.kind), self.descriptor.kind);
        Operation {
            parameters: queries(WRITE),
            body: Some((Content::Definition(self.definition.clone()), true)),
            codes: CREATED,
            ..self.operation("post", "post", self.id("create", ""), description)
        }
    }

    fn delete_collection(&self) -> Operation {
        let namespaced = if self.descriptor.namespaced { "Namespaced" } else { "" };
        let id = format!("delete{}Collection{namespaced}{}", self.stem, self.descriptor.kind);
        let description = format!("delete collection of {}", self.descriptor.kind);
        Operation {
            parameters: queries(DELETE_COLLECTION),
            body: Some((Content::Definition(format!("{META}DeleteOptions")), false)),
            answer: Content::Definition(format!("{META}Status")),
            ..self.operation("delete", "deletecollection", id, description)
        }
    }

    fn delete(&self) -> Operation {
        let answers_object = crate::handlers::delete::answers_object(self.descriptor);
        let answer = if answers_object { self.definition.clone() } else { format!("{META}Status") };
        let description = format!("delete {}{}", article(&self.descriptor.kind), self.descriptor.kind);
        Operation {
            parameters: queries(DELETE),
            body: Some((Content::Definition(format!("{META}DeleteOptions")), false)),
            answer: Content::Definition(answer),
            codes: DELETED,
            ..self.operation("delete", "delete", self.id("delete", ""), description)
        }
    }

    /// `read the specified Pod`, `read status of the specified Pod`.
    fn about(&self, verb: &str, sub: &str) -> String {
        let kind = &self.descriptor.kind;
        if sub.is_empty() {
            format!("{verb} the specified {kind}")
        } else {
            format!("{verb} {sub} of the specified {kind}")
        }
    }

    fn get(&self, sub: &str, gvk: &GroupVersionKind, definition: &str) -> Operation {
        Operation {
            answer: Content::Definition(definition.to_owned()),
            gvk: Some(gvk.clone()),
            ..self.operation("get", "get", self.id("read", &title(sub)), self.about("read", sub))
        }
    }

    fn update(&self, sub: &str, gvk: &GroupVersionKind, definition: &str) -> Operation {
        Operation {
            parameters: queries(WRITE),
            body: Some((Content::Definition(definition.to_owned()), true)),
            answer: Content::Definition(definition.to_owned()),
            codes: WRITTEN,
            gvk: Some(gvk.clone()),
            ..self.operation("put", "put", self.id("replace", &title(sub)), self.about("replace", sub))
        }
    }

    fn patch(&self, sub: &str, gvk: &GroupVersionKind, definition: &str) -> Operation {
        Operation {
            parameters: queries(PATCH),
            body: Some((Content::Definition(format!("{META}Patch")), true)),
            answer: Content::Definition(definition.to_owned()),
            codes: WRITTEN,
            consumes: PATCH_TYPES.to_vec(),
            gvk: Some(gvk.clone()),
            ..self.operation(
                "patch",
                "patch",
                self.id("patch", &title(sub)),
                self.about("partially update", sub),
            )
        }
    }

    fn subresource(&self, items: &mut Vec<PathItem>, object: &str, sub: &Subresource) {
        let path = format!("{object}/{}", sub.name);
        if sub.gvk.kind.ends_with("Options") && sub.name != "log" {
            return self.connections(items, &path, sub);
        }
        let definition = sub
            .root
            .map_or_else(|| self.definition.clone(), |root| self.served.schema.node(root).name.to_string());
        let mut operations = Vec::new();
        if sub.verbs.contains("get") {
            let mut get = self.get(&sub.name, &sub.gvk, &definition);
            if sub.name == "log" {
                get.answer = Content::Text;
                get.produces.insert(0, "text/plain");
            }
            operations.push(get);
        }
        if sub.verbs.contains("patch") {
            operations.push(self.patch(&sub.name, &sub.gvk, &definition));
        }
        if sub.verbs.contains("create") {
            let description =
                format!("create {} of {}{}", sub.name, article(&self.descriptor.kind), self.descriptor.kind);
            operations.push(Operation {
                parameters: queries(WRITE),
                body: Some((Content::Definition(definition.clone()), true)),
                answer: Content::Definition(definition.clone()),
                codes: CREATED,
                gvk: Some(sub.gvk.clone()),
                ..self.operation("post", "post", self.id("create", &title(&sub.name)), description)
            });
        }
        if sub.verbs.contains("update") {
            operations.push(self.update(&sub.name, &sub.gvk, &definition));
        }
        let mut parameters = self.shared_of(Some(&sub.gvk.kind));
        if sub.name == "log" {
            let options = GroupVersionKind::new("", "v1", format!("{}LogOptions", self.descriptor.kind));
            parameters.extend(of_options(&options));
        }
        self.push(items, &path, parameters, operations);
    }

    /// Subresources that open a connection: every method does the same.
    fn connections(&self, items: &mut Vec<PathItem>, path: &str, sub: &Subresource) {
        const METHODS: [(&str, &str, &str); 7] = [
            ("delete", "delete", "Delete"),
            ("get", "get", "Get"),
            ("head", "get", "Head"),
            ("options", "get", "Options"),
            ("patch", "patch", "Patch"),
            ("post", "create", "Post"),
            ("put", "update", "Put"),
        ];
        let proxied = sub.name == "proxy";
        let namespaced = if self.descriptor.namespaced { "Namespaced" } else { "" };
        for (path, with) in [(path.to_owned(), ""), (format!("{path}/{{path}}"), "WithPath")] {
            if !with.is_empty() && !proxied {
                continue;
            }
            let operations = METHODS
                .iter()
                .filter(|(method, verb, _)| {
                    sub.verbs.contains(verb) && (proxied || matches!(*method, "get" | "post"))
                })
                .map(|(method, _, name)| Operation {
                    answer: Content::Text,
                    produces: vec!["*/*"],
                    gvk: Some(sub.gvk.clone()),
                    ..self.operation(
                        method,
                        "connect",
                        format!(
                            "connect{}{name}{namespaced}{}{}{with}",
                            self.stem,
                            self.descriptor.kind,
                            title(&sub.name)
                        ),
                        format!(
                            "connect {} requests to {} of {}",
                            method.to_uppercase(),
                            sub.name,
                            self.descriptor.kind
                        ),
                    )
                })
                .collect();
            let mut parameters = self.shared_of(Some(&sub.gvk.kind));
            parameters.retain(|p| p.name != "pretty");
            parameters.extend(of_options(&sub.gvk));
            if !with.is_empty() {
                parameters.push(parameter("path", "path", "string", "path to the resource"));
            }
            self.push(items, &path, parameters, operations);
        }
    }

    /// The deprecated `/watch/` paths.
    fn watches(&self, items: &mut Vec<PathItem>, collection: &str) {
        let watch_root = format!("{}/watch", self.root);
        let moved = |path: &str| path.replacen(&self.root, &watch_root, 1);
        let kind = &self.descriptor.kind;
        let plural = &self.descriptor.plural;
        let mut all = vec![(
            moved(collection),
            self.id("watch", "List"),
            "watchlist",
            self.shared(false),
            format!(
                "watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter with a list \
                 operation instead."
            ),
        )];
        if self.served.verbs.contains("get") {
            all.push((
                moved(&format!("{collection}/{{name}}")),
                self.id("watch", ""),
                "watch",
                self.shared(true),
                format!(
                    "watch changes to an object of kind {kind}. deprecated: use the 'watch' parameter with a list \
                     operation instead, filtered to a single item with the 'fieldSelector' parameter."
                ),
            ));
        }
        if self.descriptor.namespaced {
            all.push((
                format!("{watch_root}/{plural}"),
                format!("watch{}{kind}ListForAllNamespaces", self.stem),
                "watchlist",
                vec![query("pretty")],
                format!(
                    "watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter with a list \
                     operation instead."
                ),
            ));
        }
        for (path, id, action, parameters, description) in all {
            let operation = Operation {
                parameters: queries(LIST),
                answer: Content::Definition(format!("{META}WatchEvent")),
                produces: STREAM_TYPES.to_vec(),
                ..self.operation("get", action, id, description)
            };
            self.push(items, &path, parameters, vec![operation]);
        }
    }
}

/// `a `, `an ` or, before a plural, nothing.
fn article(kind: &str) -> &'static str {
    if kind.ends_with('s') && !kind.ends_with("ss") {
        ""
    } else if kind.starts_with(['A', 'E', 'I', 'O', 'U']) {
        "an "
    } else {
        "a "
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        assert_eq!(id_stem("", "v1"), "CoreV1");
        assert_eq!(id_stem("rbac.authorization.k8s.io", "v1"), "RbacAuthorizationV1");
        assert_eq!(id_stem("autoscaling", "v2"), "AutoscalingV2");
        assert_eq!(tag("rbac.authorization.k8s.io", "v1"), "rbacAuthorization_v1");
        assert_eq!(tag("", "v1"), "core_v1");
    }
}
