//! Who owns whom, by uid. No I/O.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use client::informer::Metadata;
use client::rest::ResourceId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::judge::{Dependents, FOREGROUND, ORPHAN};

/// Owners known to be gone that are remembered (upstream's absent owner cache).
const ABSENT: usize = 500;

/// An object to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl Subject {
    /// What an owner reference names; owners live in their dependents' namespace or in none.
    pub(super) fn owner(owner: &OwnerReference, namespace: &str) -> Self {
        Self {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            namespace: namespace.to_owned(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        }
    }

    fn object(resource: &ResourceId, meta: &Metadata) -> Self {
        Self {
            api_version: resource.api_version(),
            kind: resource.kind.to_string(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
        }
    }
}

/// What a change of the graph asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// See whether the object must go.
    Delete(Subject),
    /// Cut the object's dependents loose.
    Orphan(Subject),
}

enum Held {
    /// Seen by an informer.
    Object(Arc<ResourceId>, Arc<Metadata>),
    /// Known from a reference only.
    Reference(Subject),
}

struct Node {
    held: Held,
    dependents: HashSet<String>,
}

impl Node {
    fn subject(&self) -> Subject {
        match &self.held {
            Held::Object(resource, meta) => Subject::object(resource, meta),
            Held::Reference(subject) => subject.clone(),
        }
    }

    fn meta(&self) -> Option<&Arc<Metadata>> {
        match &self.held {
            Held::Object(_, meta) => Some(meta),
            Held::Reference(_) => None,
        }
    }
}

fn has(meta: &Metadata, finalizer: &str) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.iter().any(|held| held == finalizer)
}

/// The graph.
#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Node>,
    absent: HashSet<String>,
    absent_order: VecDeque<String>,
}

impl Graph {
    /// An object was added or changed.
    pub(super) fn observe(&mut self, resource: &Arc<ResourceId>, meta: Arc<Metadata>) -> Vec<Work> {
        let mut works = Vec::new();
        let subject = Subject::object(resource, &meta);
        let before = self.nodes.get(&meta.uid).and_then(Node::meta).cloned();
        let dependents = self.nodes.remove(&meta.uid).map(|node| node.dependents).unwrap_or_default();
        let node = Node { held: Held::Object(resource.clone(), meta.clone()), dependents };
        self.nodes.insert(meta.uid.clone(), node);

        let old_owners = before.as_ref().map(|meta| meta.owner_references.as_slice()).unwrap_or_default();
        for owner in old_owners {
            let kept = meta.owner_references.iter().find(|held| held.uid == owner.uid);
            if kept.is_none() {
                self.detach(&owner.uid, &meta.uid);
            }
            let blocked = |reference: &OwnerReference| reference.block_owner_deletion == Some(true);
            if blocked(owner) && !kept.is_some_and(blocked) {
                works.extend(self.waiting(&owner.uid).map(Work::Delete));
            }
        }
        for owner in &meta.owner_references {
            match self.nodes.get_mut(&owner.uid) {
                Some(node) => {
                    node.dependents.insert(meta.uid.clone());
                }
                None => {
                    // unknown owners are checked once; if there are none, this removes them and wakes the dependents
                    let reference = Subject::owner(owner, &meta.namespace);
                    works.push(Work::Delete(reference.clone()));
                    let node = Node {
                        held: Held::Reference(reference),
                        dependents: HashSet::from([meta.uid.clone()]),
                    };
                    self.nodes.insert(owner.uid.clone(), node);
                }
            }
        }
        let was = |finalizer: &str| before.as_ref().is_some_and(|before| has(before, finalizer));
        if has(&meta, ORPHAN) && !was(ORPHAN) {
            works.push(Work::Orphan(subject.clone()));
        }
        if has(&meta, FOREGROUND) && !was(FOREGROUND) {
            works.extend(self.dependents(&meta.uid).into_iter().map(Work::Delete));
            works.push(Work::Delete(subject.clone()));
        }
        // a new dependent of an owner in foreground deletion goes with it
        let owner_waits = meta.owner_references.iter().any(|owner| {
            self.nodes.get(&owner.uid).and_then(Node::meta).is_some_and(|meta| has(meta, FOREGROUND))
        });
        let gone_owner = meta.owner_references.iter().any(|owner| self.absent.contains(&owner.uid));
        if before.is_none() && (owner_waits || gone_owner) {
            works.push(Work::Delete(subject));
        }
        works
    }

    /// An object is gone, or was found never to have been.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<Work> {
        self.note_absent(uid);
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut works: Vec<Work> = node
            .dependents
            .iter()
            .filter_map(|dependent| self.nodes.get(dependent))
            .map(|dependent| Work::Delete(dependent.subject()))
            .collect();
        for owner in node.meta().iter().flat_map(|meta| &meta.owner_references) {
            self.detach(&owner.uid, uid);
            works.extend(self.waiting(&owner.uid).map(Work::Delete));
        }
        works
    }

    /// Removes a dependent from an owner; an owner known from references only is forgotten with the last.
    fn detach(&mut self, owner: &str, dependent: &str) {
        if let Some(node) = self.nodes.get_mut(owner) {
            node.dependents.remove(dependent);
            if node.dependents.is_empty() && node.meta().is_none() {
                self.nodes.remove(owner);
            }
        }
    }

    /// The owner, if it waits for its dependents to be gone.
    fn waiting(&self, owner: &str) -> Option<Subject> {
        let node = self.nodes.get(owner)?;
        node.meta().is_some_and(|meta| has(meta, FOREGROUND)).then(|| node.subject())
    }

    /// Objects that name this one as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Subject> {
        let dependents = self.nodes.get(uid).into_iter().flat_map(|node| &node.dependents);
        dependents.filter_map(|uid| self.nodes.get(uid)).map(Node::subject).collect()
    }

    /// What the verdict about an object needs to know of its dependents.
    pub(super) fn state_of_dependents(&self, uid: &str) -> Dependents {
        match self.nodes.get(uid) {
            Some(node) if node.dependents.iter().any(|dependent| self.is_leaving(dependent)) => {
                Dependents::Leaving
            }
            Some(node) if !node.dependents.is_empty() => Dependents::Some,
            _ => Dependents::None,
        }
    }

    /// Whether an object is in foreground deletion.
    pub(super) fn is_leaving(&self, uid: &str) -> bool {
        self.nodes.get(uid).and_then(Node::meta).is_some_and(|meta| has(meta, FOREGROUND))
    }

    /// Dependents that keep this one from being deleted in the foreground.
    pub(super) fn blocking_dependents(&self, uid: &str) -> Vec<Subject> {
        let dependents = self.nodes.get(uid).into_iter().flat_map(|node| &node.dependents);
        dependents
            .filter_map(|dependent| self.nodes.get(dependent))
            .filter(|node| {
                node.meta().is_some_and(|meta| {
                    meta.owner_references
                        .iter()
                        .any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
                })
            })
            .map(Node::subject)
            .collect()
    }

    /// Whether an owner is known not to exist. Uids are never used twice, so this stays true.
    pub(super) fn is_absent(&self, uid: &str) -> bool {
        self.absent.contains(uid)
    }

    pub(super) fn note_absent(&mut self, uid: &str) {
        if self.absent.insert(uid.to_owned()) {
            self.absent_order.push_back(uid.to_owned());
            if self.absent_order.len() > ABSENT
                && let Some(oldest) = self.absent_order.pop_front()
            {
                self.absent.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::time;

    fn resource() -> Arc<ResourceId> {
        Arc::new(ResourceId::namespaced("", "v1", "configmaps", "ConfigMap"))
    }

    fn object(uid: &str, owners: &[(&str, bool)], finalizers: &[&str]) -> Arc<Metadata> {
        Arc::new(Metadata {
            namespace: "ns".into(),
            name: uid.into(),
            uid: uid.into(),
            deletion_timestamp: (!finalizers.is_empty()).then(|| time(0)),
            finalizers: finalizers.iter().map(|text| (*text).to_owned()).collect(),
            owner_references: owners
                .iter()
                .map(|(uid, block)| OwnerReference {
                    api_version: "v1".into(),
                    kind: "ConfigMap".into(),
                    name: (*uid).into(),
                    uid: (*uid).into(),
                    block_owner_deletion: Some(*block),
                    ..OwnerReference::default()
                })
                .collect(),
            ..Metadata::default()
        })
    }

    fn names(mut works: Vec<Work>) -> Vec<String> {
        works.sort();
        works.dedup();
        works
            .into_iter()
            .map(|work| match work {
                Work::Delete(subject) => format!("delete {}", subject.uid),
                Work::Orphan(subject) => format!("orphan {}", subject.uid),
            })
            .collect()
    }

    #[test]
    fn losing_an_owner_wakes_its_dependents() {
        let mut graph = Graph::default();
        graph.observe(&resource(), object("owner", &[], &[]));
        assert!(graph.observe(&resource(), object("child", &[("owner", true)], &[])).is_empty());
        assert_eq!(names(graph.remove("owner")), ["delete child"]);
        assert!(graph.is_absent("owner"));
        assert_eq!(
            names(graph.observe(&resource(), object("late", &[("owner", true)], &[]))),
            ["delete late", "delete owner"]
        );
    }

    #[test]
    fn an_owner_known_by_reference_only_is_checked() {
        let mut graph = Graph::default();
        assert_eq!(
            names(graph.observe(&resource(), object("child", &[("owner", false)], &[]))),
            ["delete owner"]
        );
        // the owner turns out to exist
        assert!(graph.observe(&resource(), object("owner", &[], &[])).is_empty());
        assert_eq!(graph.dependents("owner").len(), 1);
        // or not
        assert_eq!(names(graph.remove("owner")), ["delete child"]);
    }

    #[test]
    fn foreground_deletion_waits_for_blocking_dependents() {
        let mut graph = Graph::default();
        graph.observe(&resource(), object("owner", &[], &[]));
        graph.observe(&resource(), object("blocks", &[("owner", true)], &[]));
        graph.observe(&resource(), object("free", &[("owner", false)], &[]));
        let works = graph.observe(&resource(), object("owner", &[], &[FOREGROUND]));
        assert_eq!(names(works), ["delete blocks", "delete free", "delete owner"]);
        assert_eq!(graph.blocking_dependents("owner").len(), 1);
        assert!(graph.observe(&resource(), object("owner", &[], &[FOREGROUND])).is_empty(), "seen before");
        assert_eq!(names(graph.remove("blocks")), ["delete owner"]);
        assert!(graph.blocking_dependents("owner").is_empty());
        assert_eq!(names(graph.observe(&resource(), object("new", &[("owner", true)], &[]))), ["delete new"]);
        assert_eq!(
            names(graph.observe(&resource(), object("new", &[("owner", false)], &[]))),
            ["delete owner"]
        );
    }

    #[test]
    fn dependents_that_leave_are_told_apart() {
        let mut graph = Graph::default();
        graph.observe(&resource(), object("owner", &[], &[]));
        assert_eq!(graph.state_of_dependents("owner"), Dependents::None);
        graph.observe(&resource(), object("child", &[("owner", true)], &[]));
        assert_eq!(graph.state_of_dependents("owner"), Dependents::Some);
        graph.observe(&resource(), object("child", &[("owner", true)], &[FOREGROUND]));
        assert_eq!(graph.state_of_dependents("owner"), Dependents::Leaving);
        assert!(graph.is_leaving("child") && !graph.is_leaving("owner"));
    }

    #[test]
    fn orphaning_is_asked_for_once() {
        let mut graph = Graph::default();
        graph.observe(&resource(), object("owner", &[], &[]));
        assert_eq!(names(graph.observe(&resource(), object("owner", &[], &[ORPHAN]))), ["orphan owner"]);
        assert!(graph.observe(&resource(), object("owner", &[], &[ORPHAN])).is_empty());
    }
}
