//! Definitions of types, as JSON schemas: what both versions of OpenAPI share.

use std::borrow::Cow;
use std::collections::BTreeMap;

use apidocs::Descriptions;
use apimachinery::Value;
use apimachinery::schema::{
    Field, ListTopology, MapType, NodeId, NodeKind, ObjectType, PatchStrategy, ProtoForm, Scalar, Schema,
};
use apimachinery::{Map, json};

/// A definition with the fields of every kind.
const ANY_KIND: &str = "io.k8s.api.core.v1.Pod";

/// Which OpenAPI is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

impl Dialect {
    fn prefix(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }
}

/// A reference to a definition.
pub(super) fn reference(dialect: Dialect, name: &str) -> Value {
    json!({"$ref": format!("{}{name}", dialect.prefix())})
}

/// These definitions and all they refer to, by name; `None` for a name the arena does not have.
pub(super) fn reachable(
    schema: &Schema,
    roots: impl IntoIterator<Item = String>,
) -> BTreeMap<String, Option<NodeId>> {
    let mut named: BTreeMap<&str, NodeId> = BTreeMap::new();
    for (id, node) in schema.iter().filter(|(_, node)| !node.name.is_empty()) {
        // a type that a field owns otherwise than the definition says has a second node, after the definition's
        named.entry(&node.name).or_insert(id);
    }
    let mut found = BTreeMap::new();
    let mut wanted: Vec<String> = roots.into_iter().collect();
    while let Some(name) = wanted.pop() {
        if found.contains_key(&name) {
            continue;
        }
        let id = named.get(name.as_str()).copied();
        // types without a name are part of the definition that uses them
        let mut parts: Vec<NodeId> = id.into_iter().flat_map(|id| children(schema, id)).collect();
        while let Some(part) = parts.pop() {
            match &schema.node(part).name {
                name if !name.is_empty() => wanted.push(name.to_string()),
                _ => parts.extend(children(schema, part)),
            }
        }
        found.insert(name, id);
    }
    found
}

/// The types a type is made of.
fn children(schema: &Schema, id: NodeId) -> Vec<NodeId> {
    match &schema.node(id).kind {
        NodeKind::Object(object) => object.fields.values().map(|field| field.node).collect(),
        NodeKind::Map { value, .. } => vec![*value],
        NodeKind::List(list) => vec![list.item],
        NodeKind::Scalar(_) | NodeKind::Raw => Vec::new(),
    }
}

/// Writes definitions.
pub(super) struct Writer<'a> {
    pub(super) dialect: Dialect,
    pub(super) schema: &'a Schema,
    pub(super) texts: &'a Descriptions,
}

impl Writer<'_> {
    /// The definition of a name that [`reachable`] found.
    pub(super) fn definition(&self, id: Option<NodeId>, name: &str) -> Value {
        let Some(id) = id else { return json!({"type": "object"}) };
        let mut out = match &self.schema.node(id).kind {
            NodeKind::Object(object) => self.object(object, name),
            _ => self.body(id),
        };
        if let Some(text) = self.text(name, None) {
            out["description"] = json!(text);
        }
        if let Some(facts) = apis::catalog().definition(name) {
            amend(&mut out, facts);
        }
        out
    }

    /// The description of a definition or of one of its fields. Lists are generic where the texts come from.
    fn text(&self, definition: &str, field: Option<&str>) -> Option<Cow<'_, str>> {
        if let Some(text) = self.texts.get(definition, field) {
            return Some(text);
        }
        let short = definition.rsplit('.').next().unwrap_or_default();
        let kind = short.strip_suffix("List").filter(|kind| !kind.is_empty())?;
        match field {
            None => Some(format!("{short} is a list of {kind} objects.").into()),
            Some("items") => Some("The objects of the list.".into()),
            Some("metadata") => Some("Standard metadata of lists.".into()),
            // what every other kind says of them
            Some(field @ ("apiVersion" | "kind")) => self.texts.get(ANY_KIND, Some(field)),
            Some(_) => None,
        }
    }

    /// `owner` is the definition whose fields they are, for their descriptions.
    fn object(&self, object: &ObjectType, owner: &str) -> Value {
        let mut out = json!({"type": "object"});
        let mut properties = Map::new();
        let mut required = Vec::new();
        for (name, field) in object.fields.iter() {
            let mut property = self.field(field);
            if let Some(text) = self.text(owner, Some(name)) {
                property["description"] = json!(text);
            }
            properties.insert(name.to_string().into(), property);
            if field.required {
                required.push((field.proto, name));
            }
        }
        if !properties.is_empty() {
            out["properties"] = Value::Object(properties);
        }
        if !required.is_empty() {
            // upstream lists them as its types declare them, and numbers them in that order
            required.sort_unstable();
            out["required"] = required.into_iter().map(|(_, name)| name).collect();
        }
        if object.map_type == MapType::Atomic {
            out["x-kubernetes-map-type"] = json!("atomic");
        }
        if object.preserve_unknown {
            out["x-kubernetes-preserve-unknown-fields"] = json!(true);
        }
        out
    }

    fn field(&self, field: &Field) -> Value {
        let mut out = self.inline(field.node);
        let default = field.default.as_deref().cloned();
        if self.dialect == Dialect::V3
            && let Some(target) = out.as_object_mut().and_then(|o| o.remove("$ref"))
        {
            // beside a reference nothing else may stand
            out = json!({"allOf": [{"$ref": target}]});
        }
        // the v2 document has never said defaults
        if let (Some(default), Dialect::V3) = (default, self.dialect)
            && let Some(map) = out.as_object_mut()
        {
            map.insert("default".into(), default);
        }
        let strategy = match field.patch_strategy {
            PatchStrategy::Default => "",
            PatchStrategy::Merge => "merge",
            PatchStrategy::RetainKeys => "retainKeys",
            PatchStrategy::MergeRetainKeys => "merge,retainKeys",
            PatchStrategy::Replace => "replace",
        };
        if !strategy.is_empty() {
            out["x-kubernetes-patch-strategy"] = json!(strategy);
        }
        if !field.patch_merge_key.is_empty() {
            out["x-kubernetes-patch-merge-key"] = json!(field.patch_merge_key);
        }
        out
    }

    /// A use of a type: a reference to a named one, the type itself otherwise.
    fn inline(&self, id: NodeId) -> Value {
        let name = &self.schema.node(id).name;
        if name.is_empty() { self.body(id) } else { reference(self.dialect, name) }
    }

    fn body(&self, id: NodeId) -> Value {
        match &self.schema.node(id).kind {
            NodeKind::Object(object) => self.object(object, ""),
            NodeKind::Map { value, map_type } => {
                let value = self.item(*value);
                let mut out = json!({"type": "object", "additionalProperties": value});
                if *map_type == MapType::Atomic {
                    out["x-kubernetes-map-type"] = json!("atomic");
                }
                out
            }
            NodeKind::List(list) => {
                let item = self.item(list.item);
                let mut out = json!({"type": "array", "items": item});
                if self.schema.node(id).proto == ProtoForm::Wrapped {
                    // lists that are types of their own (ExtraValue) say no list type
                    return out;
                }
                match &list.topology {
                    ListTopology::Atomic => out["x-kubernetes-list-type"] = json!("atomic"),
                    ListTopology::Set => out["x-kubernetes-list-type"] = json!("set"),
                    ListTopology::Map(keys) => {
                        out["x-kubernetes-list-type"] = json!("map");
                        out["x-kubernetes-list-map-keys"] = keys.iter().map(|k| Value::from(&**k)).collect();
                    }
                }
                out
            }
            NodeKind::Scalar(scalar) => self.scalar(*scalar),
            NodeKind::Raw if is_anything(&self.schema.node(id).name) => json!({}),
            NodeKind::Raw => json!({"type": "object"}),
        }
    }

    fn item(&self, id: NodeId) -> Value {
        let out = self.inline(id);
        match (self.dialect, out.get("$ref")) {
            (Dialect::V3, Some(target)) => json!({"allOf": [{"$ref": target}]}),
            _ => out,
        }
    }

    fn scalar(&self, scalar: Scalar) -> Value {
        match scalar {
            Scalar::Bool => json!({"type": "boolean"}),
            Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
            Scalar::Float => json!({"type": "number", "format": "double"}),
            Scalar::Bytes => json!({"type": "string", "format": "byte"}),
            Scalar::Time | Scalar::MicroTime => json!({"type": "string", "format": "date-time"}),
            Scalar::IntOrString => match self.dialect {
                Dialect::V2 => json!({"type": "string", "format": "int-or-string"}),
                Dialect::V3 => {
                    json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
                }
            },
            Scalar::Quantity if self.dialect == Dialect::V3 => {
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
            }
            _ => json!({"type": "string"}),
        }
    }
}

/// The types of `apiextensions` that hold any JSON, not only objects.
fn is_anything(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|short| short.starts_with("JSON"))
}

/// Adds what the facts say of a definition beyond its shape.
fn amend(out: &mut Value, facts: &apis::Definition) {
    if !facts.kinds.is_empty() {
        out["x-kubernetes-group-version-kind"] = facts
            .kinds
            .iter()
            .map(|k| json!({"group": k.group, "kind": k.kind, "version": k.version}))
            .collect();
    }
    if !facts.unions.is_empty() {
        let unions = facts.unions.iter().map(|union| {
            let members: Map =
                union.members.iter().map(|(field, value)| ((*field).to_owned(), json!(value))).collect();
            let mut out = json!({"fields-to-discriminateBy": members});
            if !union.discriminator.is_empty() {
                out["discriminator"] = json!(union.discriminator);
            }
            out
        });
        out["x-kubernetes-unions"] = unions.collect();
    }
    for field in &facts.untyped_lists {
        if let Some(property) = out["properties"][*field].as_object_mut() {
            property.remove("x-kubernetes-list-type");
        }
    }
    for field in &facts.bytes_as_lists {
        if out["properties"][*field].is_object() {
            out["properties"][*field]["x-kubernetes-list-type"] = json!("atomic");
        }
    }
    for field in &facts.granular {
        if field.is_empty() {
            out["x-kubernetes-map-type"] = json!("granular");
        } else if out["properties"][*field].is_object() {
            out["properties"][*field]["x-kubernetes-map-type"] = json!("granular");
        }
    }
}
