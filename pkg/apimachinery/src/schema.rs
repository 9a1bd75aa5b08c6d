//! The schema of objects: a compact arena that every walker reads.
//!
//! One schema serves strict decoding, pruning, defaulting, normalising, managed fields, strategic merge,
//! protobuf and OpenAPI. Built-in kinds share one arena (crate `apis` builds it from the facts in `api/`); a custom
//! resource has its own. Recursive types (JSONSchemaProps) are why nodes refer to each other by index.

use std::collections::BTreeMap;

use crate::Value;

/// Index of a node in its [`Schema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// An arena of [`Node`]s.
#[derive(Debug, Default)]
pub struct Schema {
    nodes: Vec<Node>,
}

/// One type.
#[derive(Debug, Clone)]
pub struct Node {
    /// Full name such as `io.k8s.api.core.v1.PodSpec`; empty for anonymous types.
    pub name: Box<str>,
    /// What it is.
    pub kind: NodeKind,
}

/// What a type is.
#[derive(Debug, Clone)]
pub enum NodeKind {
    /// Fixed fields by JSON name, sorted.
    Object(ObjectType),
    /// Free string keys, one value type.
    Map {
        /// Type of the values.
        value: NodeId,
        /// `x-kubernetes-map-type`.
        map_type: MapType,
    },
    /// An array.
    List(ListType),
    /// A leaf.
    Scalar(Scalar),
    /// Anything at all, kept as it is (RawExtension, JSON, preserve-unknown-fields).
    Raw,
}

/// Fields of an object type.
#[derive(Debug, Clone, Default)]
pub struct ObjectType {
    /// Fields by JSON name.
    pub fields: BTreeMap<Box<str>, Field>,
    /// `x-kubernetes-map-type`: an atomic object has one owner.
    pub map_type: MapType,
    /// Keeps fields that are not listed (custom resources with `x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
}

/// One field of an object type.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its type.
    pub node: NodeId,
    /// Listed in OpenAPI `required`. Go prints such a field even when it is empty (no `omitempty`).
    pub required: bool,
    /// Schema default, applied where the field is absent.
    pub default: Option<Box<Value>>,
    /// The Go field is a pointer: an explicit zero (`0`, `false`, `""`) survives normalising.
    pub pointer: bool,
    /// `x-kubernetes-patch-strategy`, for strategic merge.
    pub patch_strategy: PatchStrategy,
    /// `x-kubernetes-patch-merge-key`, for strategic merge of lists of objects; empty for lists of scalars.
    pub patch_merge_key: Box<str>,
    /// Protobuf field number, 0 where the type has no protobuf form.
    pub proto: u32,
}

/// `x-kubernetes-patch-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PatchStrategy {
    /// Lists are replaced, objects merged.
    #[default]
    Default,
    /// Lists are merged by `patch_merge_key` (objects) or as sets (scalars).
    Merge,
    /// `retainKeys`: keys missing from the patch's `$retainKeys` are dropped.
    RetainKeys,
    /// `merge,retainKeys`.
    MergeRetainKeys,
}

/// An array type.
#[derive(Debug, Clone)]
pub struct ListType {
    /// Type of the items.
    pub item: NodeId,
    /// `x-kubernetes-list-type`, with the keys of a map list.
    pub topology: ListTopology,
}

/// `x-kubernetes-list-type` (KEP-555).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListTopology {
    /// One owner for the whole list.
    #[default]
    Atomic,
    /// Scalars, each its own key.
    Set,
    /// Objects identified by these fields.
    Map(Vec<Box<str>>),
}

/// `x-kubernetes-map-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MapType {
    /// Each entry has its owner.
    #[default]
    Granular,
    /// One owner for the whole.
    Atomic,
}

/// A leaf type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// `boolean`.
    Bool,
    /// `integer`, `format: int32`.
    Int32,
    /// `integer`, `format: int64` or none.
    Int64,
    /// `number`.
    Float,
    /// `string`.
    String,
    /// `string`, `format: byte`: base64.
    Bytes,
    /// `resource.Quantity`: string or number, printed canonical.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `metav1.Time`: RFC 3339, whole seconds, null allowed.
    Time,
    /// `metav1.MicroTime`: RFC 3339 with six digits, null allowed.
    MicroTime,
    /// `metav1.Duration`: Go's duration text.
    Duration,
}

impl Schema {
    /// An empty arena.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node.
    ///
    /// # Panics
    /// Past `u32::MAX` nodes, which no input can reach: every node is made from at least one byte of a bounded body.
    pub fn push(&mut self, node: Node) -> NodeId {
        let id = u32::try_from(self.nodes.len()).expect("fewer than 2^32 schema nodes");
        self.nodes.push(node);
        NodeId(id)
    }

    /// The node of an id of this arena.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The node of an id of this arena, to fill in a type that was declared before it was known.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True without nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Every node with its id, in order of creation.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i as u32), n))
    }

    /// The field of an object type.
    pub fn field(&self, id: NodeId, name: &str) -> Option<&Field> {
        match &self.node(id).kind {
            NodeKind::Object(object) => object.fields.get(name),
            _ => None,
        }
    }
}
