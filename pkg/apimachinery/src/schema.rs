//! The schema of objects: a compact arena that every walker reads.
//!
//! One schema serves strict decoding, pruning, defaulting, normalising, managed fields, strategic merge,
//! protobuf and OpenAPI. Built-in kinds share one arena (crate `apis` builds it from the facts in `api/`); a custom
//! resource has its own. Recursive types (JSONSchemaProps) are why nodes refer to each other by index.

mod fields;

use std::sync::OnceLock;

pub use fields::Fields;

use crate::Value;
use crate::default::Additions;
use crate::known::KnownTexts;
use crate::protobuf::{Message, WireTables};

/// Index of a node in its [`Schema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// An arena of [`Node`]s.
#[derive(Debug, Default)]
pub struct Schema {
    nodes: Vec<Node>,
    /// Fields by protobuf number, made on first use.
    wire: OnceLock<WireTables>,
    /// What defaulting and normalising add, made on first use.
    additions: OnceLock<Additions>,
    /// FieldsV1 that own no part of what is atomic.
    pub(crate) reconciled: KnownTexts,
}

/// One type.
#[derive(Debug, Clone)]
pub struct Node {
    /// Full name such as `io.k8s.api.core.v1.PodSpec`; empty for anonymous types.
    pub name: Box<str>,
    /// What it is.
    pub kind: NodeKind,
    /// Its protobuf form where that is special.
    pub proto: ProtoForm,
}

impl Node {
    /// A type with the usual protobuf form; an empty name for an anonymous one.
    pub fn new(name: impl Into<Box<str>>, kind: NodeKind) -> Self {
        Self { name: name.into(), kind, proto: ProtoForm::Plain }
    }
}

impl Field {
    /// An optional field of a type, without default, patch rules and protobuf number.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            required: false,
            default: None,
            pointer: false,
            always: false,
            nullable: false,
            patch_strategy: PatchStrategy::Default,
            patch_merge_key: "".into(),
            proto: 0,
            proto_inline: [0; 2],
        }
    }
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
    pub fields: Fields,
    /// `x-kubernetes-map-type`: an atomic object has one owner.
    pub map_type: MapType,
    /// Keeps fields that are not listed (custom resources with `x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
}

/// One field of an object type. Make one with [`Field::new`] and struct update syntax.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its type.
    pub node: NodeId,
    /// Listed in OpenAPI `required`.
    pub required: bool,
    /// Schema default, applied where the field is absent (or holds its zero value and is no pointer).
    pub default: Option<Box<Value>>,
    /// The Go field is a pointer: an explicit zero (`0`, `false`, `""`, `{}`) is a value and survives normalising, and
    /// its absence is `null`. Fields of custom resources are all pointers in this sense.
    pub pointer: bool,
    /// Go prints the field even when nobody set it: it has no `omitempty`, or it is a struct (not a pointer) without
    /// `omitzero`, as most `spec`, `status`, `metadata`, `resources`, `strategy` (then `{}`) and as non-pointer times
    /// (then `null`). What is printed follows from the type: `""`, `0`, `false`, `null` for lists, maps, bytes, times
    /// and pointers, the empty struct with its own always printed fields for structs.
    pub always: bool,
    /// `null` is a value of its own and is kept (custom resources); else `null` is absence.
    pub nullable: bool,
    /// `x-kubernetes-patch-strategy`, for strategic merge.
    pub patch_strategy: PatchStrategy,
    /// `x-kubernetes-patch-merge-key`, for strategic merge of lists of objects; empty for lists of scalars.
    pub patch_merge_key: Box<str>,
    /// Protobuf field number, 0 where the field has no protobuf form (`apiVersion` and `kind` of top-level kinds live
    /// in the envelope).
    pub proto: u32,
    /// Numbers of the embedded messages that JSON flattens, outermost first, 0 where there is none: `hostPath` of a
    /// Volume is field 3 of the VolumeSource that is field 2 of the Volume, so `proto` is 3 and this is `[2, 0]`.
    pub proto_inline: [u32; 2],
}

/// Where the protobuf form of a type differs from what its kind says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProtoForm {
    /// The usual one: objects are messages, lists repeat their field, maps repeat entries, [`NodeKind::Raw`] is a
    /// message with the JSON text in field 1 (RawExtension, JSON, FieldsV1), scalars as [`Scalar`] says.
    #[default]
    Plain,
    /// A list in a message of its own, items in field 1 (ExtraValue, Verbs).
    Wrapped,
    /// One of two by the JSON's shape (`JSONSchemaPropsOrArray` and its kin). The node's kind is [`NodeKind::Raw`].
    Union {
        /// Field number and type taken by a JSON object.
        object: (u32, NodeId),
        /// Field number and type taken by anything else.
        other: (u32, NodeId),
    },
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
    /// `replace`: objects are replaced as well (the selector of a PodDisruptionBudget).
    Replace,
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
        self.forget_derived();
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
        self.forget_derived();
        &mut self.nodes[id.0 as usize]
    }

    fn forget_derived(&mut self) {
        self.wire.take();
        self.additions.take();
        self.reconciled = KnownTexts::default();
    }

    /// What defaulting and normalising add.
    pub(crate) fn additions(&self) -> &Additions {
        self.additions.get_or_init(|| Additions::new(self))
    }

    /// The protobuf message of a type.
    pub(crate) fn message(&self, id: NodeId) -> Message<'_> {
        self.wire.get_or_init(|| WireTables::new(self)).of(self, id)
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
