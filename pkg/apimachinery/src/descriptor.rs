//! What the server knows of a resource: everything generic code asks is answered here.
//!
//! Built-in descriptors come from crate `apis`, those of custom resources from the cluster; discovery, OpenAPI, the
//! handlers, patching and protobuf read nothing else. [`Registry`] is the one list of kinds, replaceable at run time.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::Value;
use crate::meta::{GroupResource, GroupVersionKind, GroupVersionResource};
use crate::schema::{NodeId, Schema};
use crate::status::Status;
use crate::strategy::Strategy;

/// A resource: one plural in one group, in all its versions.
#[derive(Clone)]
pub struct ResourceDescriptor {
    /// API group, empty for core.
    pub group: String,
    /// Plural name as in URLs.
    pub plural: String,
    /// Singular name as in discovery.
    pub singular: String,
    /// Kind.
    pub kind: String,
    /// Kind of a list, usually `KindList`.
    pub list_kind: String,
    /// `kubectl` short names.
    pub short_names: Vec<String>,
    /// Categories such as `all`.
    pub categories: Vec<String>,
    /// In namespaces, or cluster-wide.
    pub namespaced: bool,
    /// Served versions, most preferred first.
    pub versions: Vec<ServedVersion>,
    /// Where and as what it is stored.
    pub storage: StorageLocation,
    /// Fields a field selector may name beyond `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<SelectableField>,
    /// Columns of `kubectl get`.
    pub columns: Vec<Column>,
    /// What is special about the kind.
    pub strategy: Arc<dyn Strategy>,
}

/// One served version of a resource.
#[derive(Clone)]
pub struct ServedVersion {
    /// Version name such as `v1`.
    pub version: String,
    /// Verbs of the resource itself.
    pub verbs: VerbSet,
    /// Subresources.
    pub subresources: Vec<Subresource>,
    /// The arena that [`ServedVersion::root`] lives in.
    pub schema: Arc<Schema>,
    /// Type of the object.
    pub root: NodeId,
    /// Conversion to and from the stored version, `None` where it is the stored version.
    pub conversion: Option<Conversion>,
    /// What is said of a deprecated version when it is used.
    pub deprecation: Option<Deprecation>,
}

/// That a version of a kind should no longer be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deprecation {
    /// Text of the `Warning` header.
    pub warning: String,
    /// The release (`1.37`) that serves it no more, empty when none is set.
    pub removed_release: String,
}

/// Conversion between a served version and the stored one. Sets `apiVersion` too; infallible, as kinds convert totally.
#[derive(Clone, Copy)]
pub struct Conversion {
    /// Served to stored, in place.
    pub to_storage: fn(&mut Value),
    /// Stored to served, in place.
    pub from_storage: fn(&mut Value),
}

/// Where objects are kept: `/registry/PREFIX/[NAMESPACE/]NAME`, upstream's key layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageLocation {
    /// Path below `/registry/`, such as `pods` or `services/specs` or `apiregistration.k8s.io/apiservices`.
    pub prefix: String,
    /// What the stored bytes say they are. Two resources (core and events.k8s.io events) may share a location.
    pub gvk: GroupVersionKind,
    /// Lifetime of an object in seconds (events: 3600), `None` for ever.
    pub ttl_seconds: Option<i64>,
}

/// A subresource of one version.
#[derive(Debug, Clone)]
pub struct Subresource {
    /// Name after the slash: `status`, `scale`, `exec`.
    pub name: String,
    /// Verbs it has.
    pub verbs: VerbSet,
    /// What its bodies are; differs from the resource for scale, eviction, binding, token.
    pub gvk: GroupVersionKind,
    /// Type of its bodies in the version's arena, where it has one.
    pub root: Option<NodeId>,
}

/// A field that a field selector may name.
#[derive(Clone)]
pub struct SelectableField {
    /// Label in the selector, such as `spec.nodeName`.
    pub name: String,
    /// Its value in the stored object, as text; `""` when unset.
    pub value: fn(&Value) -> String,
    /// Objects are asked for by its value often; one field of a resource at most.
    pub indexed: bool,
}

/// A column of a Table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: String,
    /// OpenAPI format, such as `name`.
    pub format: String,
    /// Text for users.
    pub description: String,
    /// 0 is shown always, higher ones with `-o wide`.
    pub priority: i32,
}

/// API verbs as a set of bits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct VerbSet(u16);

/// Verb names in the order discovery prints them (alphabetical).
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl VerbSet {
    /// A set of verb names; unknown names are left out.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(
            names
                .into_iter()
                .filter_map(|n| VERBS.iter().position(|v| *v == n))
                .fold(0, |bits, i| bits | 1 << i),
        )
    }

    /// Whether the verb is in the set.
    pub fn contains(self, name: &str) -> bool {
        VERBS.iter().position(|v| *v == name).is_some_and(|i| self.0 & (1 << i) != 0)
    }

    /// The names, sorted.
    pub fn iter(self) -> impl Iterator<Item = &'static str> {
        VERBS.into_iter().enumerate().filter(move |(i, _)| self.0 & (1 << i) != 0).map(|(_, v)| v)
    }
}

impl fmt::Debug for VerbSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl fmt::Debug for ResourceDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResourceDescriptor({})", self.group_resource())
    }
}

impl ResourceDescriptor {
    /// Group and plural.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group.clone(), self.plural.clone())
    }

    /// A served version by name.
    pub fn version(&self, version: &str) -> Option<&ServedVersion> {
        self.versions.iter().find(|v| v.version == version)
    }

    /// The kind in one of its versions.
    pub fn gvk(&self, version: &str) -> GroupVersionKind {
        GroupVersionKind::new(self.group.clone(), version, self.kind.clone())
    }

    /// The resource in one of its versions.
    pub fn gvr(&self, version: &str) -> GroupVersionResource {
        GroupVersionResource::new(self.group.clone(), version, self.plural.clone())
    }
}

impl ServedVersion {
    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Converts a stored object to this version, in place.
    pub fn from_storage(&self, object: &mut Value) {
        if let Some(conversion) = self.conversion {
            (conversion.from_storage)(object);
        }
    }

    /// Converts an object of this version to the stored one, in place.
    pub fn to_storage(&self, object: &mut Value) {
        if let Some(conversion) = self.conversion {
            (conversion.to_storage)(object);
        }
    }
}

/// The resources being served. Readers take a snapshot; writers (custom resources, API services) replace it.
#[derive(Debug, Default)]
pub struct Registry {
    current: ArcSwap<Resources>,
}

/// A snapshot of the [`Registry`].
#[derive(Debug, Default)]
pub struct Resources {
    /// In discovery order: groups by priority, resources by name.
    pub all: Vec<Arc<ResourceDescriptor>>,
    by_resource: HashMap<(String, String), usize>,
    by_kind: HashMap<(String, String), usize>,
}

impl Resources {
    /// Indexes descriptors, keeping their order.
    pub fn new(all: Vec<Arc<ResourceDescriptor>>) -> Self {
        let by_resource =
            all.iter().enumerate().map(|(i, d)| ((d.group.clone(), d.plural.clone()), i)).collect();
        // the first of two resources with one kind wins, as `pods` before `pods`' virtual kin
        let mut by_kind = HashMap::new();
        for (i, d) in all.iter().enumerate() {
            by_kind.entry((d.group.clone(), d.kind.clone())).or_insert(i);
        }
        Self { all, by_resource, by_kind }
    }

    /// The resource of a group and plural.
    pub fn resource(&self, group: &str, plural: &str) -> Option<&Arc<ResourceDescriptor>> {
        self.by_resource.get(&(group.to_owned(), plural.to_owned())).map(|i| &self.all[*i])
    }

    /// The resource of a group and kind.
    pub fn kind(&self, group: &str, kind: &str) -> Option<&Arc<ResourceDescriptor>> {
        self.by_kind.get(&(group.to_owned(), kind.to_owned())).map(|i| &self.all[*i])
    }

    /// The resource of a group and plural with one served version, or the 404 of an unknown path.
    pub fn served(
        &self,
        gvr: &GroupVersionResource,
    ) -> Result<(&Arc<ResourceDescriptor>, &ServedVersion), Status> {
        let descriptor = self.resource(&gvr.group, &gvr.resource).ok_or_else(Status::path_not_found)?;
        let version = descriptor.version(&gvr.version).ok_or_else(Status::path_not_found)?;
        Ok((descriptor, version))
    }
}

impl Registry {
    /// A registry of these resources.
    pub fn new(all: Vec<Arc<ResourceDescriptor>>) -> Self {
        Self { current: ArcSwap::from_pointee(Resources::new(all)) }
    }

    /// What is served now.
    pub fn snapshot(&self) -> Arc<Resources> {
        self.current.load_full()
    }

    /// Replaces what is served.
    pub fn replace(&self, resources: Resources) {
        self.current.store(Arc::new(resources));
    }
}
