//! Roles and bindings, indexed by subject. Built anew when a cache has seen a change; unchanged objects are not parsed
//! again.

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::meta::GroupResource;
use serde::Deserialize;

use super::rule::PolicyRule;
use crate::object::{CachedObject, ObjectReader};
use crate::user::{SERVICE_ACCOUNT_PREFIX, UserInfo};

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";
/// The resources the index is made of.
const RESOURCES: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];

/// Whom a binding names. Service accounts are users by another name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum SubjectKey {
    User(String),
    Group(String),
}

#[derive(Debug, Deserialize)]
struct RoleObject {
    #[serde(default)]
    rules: Option<Vec<PolicyRule>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct RoleRef {
    #[serde(default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct SubjectObject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindingObject {
    #[serde(default)]
    role_ref: RoleRef,
    #[serde(default)]
    subjects: Option<Vec<SubjectObject>>,
}

/// A binding, ready for use.
#[derive(Debug)]
pub(super) struct Binding {
    /// Empty for a cluster-wide binding.
    namespace: String,
    name: String,
    pub(super) role: RoleRef,
    subjects: Vec<(SubjectKey, String)>,
}

impl Binding {
    fn new(object: &CachedObject) -> Option<Self> {
        let parsed: BindingObject = serde_json::from_slice(&object.json()).ok()?;
        let namespace = object.namespace.to_string();
        let subjects = parsed
            .subjects
            .unwrap_or_default()
            .into_iter()
            .filter_map(|subject| {
                let described = |name: &str| format!("{} {name:?}", subject.kind);
                match subject.kind.as_str() {
                    "User" => Some((SubjectKey::User(subject.name.clone()), described(&subject.name))),
                    "Group" => Some((SubjectKey::Group(subject.name.clone()), described(&subject.name))),
                    "ServiceAccount" => {
                        let of = if subject.namespace.is_empty() { &namespace } else { &subject.namespace };
                        let user = format!("{SERVICE_ACCOUNT_PREFIX}{of}:{}", subject.name);
                        let text = described(&format!("{}/{}", subject.name, subject.namespace));
                        (!of.is_empty()).then_some((SubjectKey::User(user), text))
                    }
                    _ => None,
                }
            })
            .collect();
        Some(Self { namespace, name: object.name.to_string(), role: parsed.role_ref, subjects })
    }

    /// Upstream's sentence of why something was allowed.
    pub(super) fn describe(&self, user: &UserInfo) -> String {
        let applies = |key: &SubjectKey| match key {
            SubjectKey::User(name) => *name == user.name,
            SubjectKey::Group(name) => user.in_group(name),
        };
        let subject = self.subjects.iter().find(|(key, _)| applies(key)).map_or("", |(_, text)| text);
        let (kind, name) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", self.name.clone())
        } else {
            ("RoleBinding", format!("{}/{}", self.name, self.namespace))
        };
        format!("{kind} {name:?} of {} {:?} to {subject}", self.role.kind, self.role.name)
    }
}

type Rules = Arc<Vec<PolicyRule>>;
type BySubject = HashMap<SubjectKey, Vec<Arc<Binding>>>;
type Parsed<T> = HashMap<(Arc<str>, Arc<str>), (i64, Option<Arc<T>>)>;

/// Roles and bindings at one moment.
#[derive(Debug, Default)]
pub(super) struct Index {
    generations: [i64; 4],
    roles: Parsed<Vec<PolicyRule>>,
    cluster_roles: Parsed<Vec<PolicyRule>>,
    cluster_bindings: Parsed<Binding>,
    bindings: Parsed<Binding>,
    by_cluster_subject: BySubject,
    by_subject: HashMap<String, BySubject>,
}

fn resource(name: &str) -> GroupResource {
    GroupResource::new(GROUP, name)
}

/// The generations of the four caches.
pub(super) fn generations(objects: &dyn ObjectReader) -> [i64; 4] {
    RESOURCES.map(|r| objects.generation(&resource(r)))
}

/// Parses what changed since `old` and takes over the rest.
fn parse<T>(
    objects: Vec<CachedObject>,
    old: &Parsed<T>,
    parse: impl Fn(&CachedObject) -> Option<T>,
) -> Parsed<T> {
    objects
        .into_iter()
        .map(|object| {
            let key = (object.namespace.clone(), object.name.clone());
            let known = old.get(&key).filter(|(revision, _)| *revision == object.revision);
            let parsed = match known {
                Some((_, parsed)) => parsed.clone(),
                None => parse(&object).map(Arc::new),
            };
            (key, (object.revision, parsed))
        })
        .collect()
}

fn by_subject<'a>(bindings: impl Iterator<Item = &'a Arc<Binding>>) -> BySubject {
    let mut map = BySubject::new();
    for binding in bindings {
        for (key, _) in &binding.subjects {
            let list = map.entry(key.clone()).or_default();
            // a binding may name a subject twice
            if list.last().is_none_or(|last| !Arc::ptr_eq(last, binding)) {
                list.push(Arc::clone(binding));
            }
        }
    }
    map
}

impl Index {
    /// Whether the caches have seen nothing since this was built.
    pub(super) fn is_current(&self, generations: &[i64; 4]) -> bool {
        self.generations == *generations
    }

    /// The index of what the caches hold now, re-using what did not change.
    pub(super) fn rebuild(&self, objects: &dyn ObjectReader) -> Self {
        // read before the lists: a change in between is seen again, never missed
        let generations = generations(objects);
        let list = |name: &str| objects.list(&resource(name), None);
        let rules = |o: &CachedObject| {
            serde_json::from_slice::<RoleObject>(&o.json()).ok().map(|role| role.rules.unwrap_or_default())
        };
        let cluster_roles = parse(list(RESOURCES[0]), &self.cluster_roles, rules);
        let roles = parse(list(RESOURCES[1]), &self.roles, rules);
        let cluster_bindings = parse(list(RESOURCES[2]), &self.cluster_bindings, Binding::new);
        let bindings = parse(list(RESOURCES[3]), &self.bindings, Binding::new);

        let by_cluster_subject = by_subject(cluster_bindings.values().filter_map(|(_, b)| b.as_ref()));
        let mut namespaces: HashMap<String, Vec<&Arc<Binding>>> = HashMap::new();
        for binding in bindings.values().filter_map(|(_, b)| b.as_ref()) {
            namespaces.entry(binding.namespace.clone()).or_default().push(binding);
        }
        let by_namespace =
            namespaces.into_iter().map(|(ns, list)| (ns, by_subject(list.into_iter()))).collect();
        Self {
            generations,
            roles,
            cluster_roles,
            cluster_bindings,
            bindings,
            by_cluster_subject,
            by_subject: by_namespace,
        }
    }

    /// The rules of a role; upstream's not-found text otherwise.
    pub(super) fn rules(&self, role: &RoleRef, namespace: &str) -> Result<Rules, String> {
        let (map, kind, namespace) = match role.kind.as_str() {
            "ClusterRole" => (&self.cluster_roles, "clusterrole", ""),
            "Role" => (&self.roles, "role", namespace),
            other => return Err(format!("unsupported role reference kind: {other:?}")),
        };
        map.get(&(Arc::from(namespace), Arc::from(role.name.as_str())))
            .and_then(|(_, rules)| rules.clone())
            .ok_or_else(|| format!("{kind}.{GROUP} {:?} not found", role.name))
    }

    /// Bindings of a user: cluster-wide ones first, then those of a namespace (unless empty).
    pub(super) fn bindings_of<'a>(
        &'a self,
        user: &UserInfo,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Arc<Binding>> {
        let keys: Vec<SubjectKey> = std::iter::once(SubjectKey::User(user.name.clone()))
            .chain(user.groups.iter().cloned().map(SubjectKey::Group))
            .collect();
        let local = if namespace.is_empty() { None } else { self.by_subject.get(namespace) };
        std::iter::once(&self.by_cluster_subject)
            .chain(local)
            .flat_map(move |map| keys.clone().into_iter().filter_map(|key| map.get(&key)).flatten())
    }
}
