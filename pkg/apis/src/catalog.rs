//! The types of the built-in API: one arena for all of them, and where in it a definition or kind is.
//!
//! Source: the facts in `api/schema` (the format is described in `api/README.md`), which are compiled in.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use apimachinery::Value;
use apimachinery::meta::GroupVersionKind;
use apimachinery::schema::{
    Field, ListTopology, ListType, MapType, Node, NodeId, NodeKind, ObjectType, PatchStrategy, ProtoForm,
    Scalar, Schema,
};

use crate::data;

/// Every definition of the built-in API.
#[derive(Debug)]
pub struct Catalog {
    schema: Arc<Schema>,
    definitions: Vec<Definition>,
    by_name: HashMap<&'static str, usize>,
    by_kind: HashMap<GroupVersionKind, usize>,
}

/// One definition, as OpenAPI calls named types.
#[derive(Debug)]
pub struct Definition {
    /// Full name such as `io.k8s.api.core.v1.Pod`.
    pub name: String,
    /// Where it is in [`Catalog::schema`].
    pub node: NodeId,
    /// The kinds it is; most have none or one, `DeleteOptions` and `WatchEvent` are kinds of every group version.
    pub kinds: Vec<GroupVersionKind>,
    /// Part of the OpenAPI v2 document.
    pub published: bool,
    /// `x-kubernetes-unions`.
    pub unions: Vec<Union>,
    /// Fields that are lists without `x-kubernetes-list-type`; the arena calls them atomic, which is what they are.
    pub untyped_lists: Vec<&'static str>,
    /// Fields of bytes that say a list type, which means nothing for a text.
    pub bytes_as_lists: Vec<&'static str>,
    /// `x-kubernetes-map-type: granular` was said, for the definition or (by name) for fields.
    pub granular: Vec<&'static str>,
}

/// One entry of `x-kubernetes-unions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Union {
    /// Field that says which member is set, may be empty.
    pub discriminator: &'static str,
    /// Members by field name with the discriminator's value.
    pub members: Vec<(&'static str, &'static str)>,
}

/// Why the compiled-in facts could not be read; only a broken file of `api/` can cause it.
#[derive(Debug, thiserror::Error)]
#[error("api/{file}: line {line}: {problem}")]
pub struct DataError {
    /// File below `api/`.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

static CATALOG: LazyLock<Catalog> =
    LazyLock::new(|| Catalog::parse(data::SCHEMAS).expect("a test reads the compiled-in facts"));

/// The definitions of the built-in API, read on first use.
pub fn catalog() -> &'static Catalog {
    &CATALOG
}

/// The arena of the built-in types, shared.
pub fn schema() -> Arc<Schema> {
    Arc::clone(&CATALOG.schema)
}

impl Catalog {
    /// The arena.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// A definition by its full name.
    pub fn definition(&self, name: &str) -> Option<&Definition> {
        self.by_name.get(name).map(|i| &self.definitions[*i])
    }

    /// The definition of a kind.
    pub fn kind(&self, kind: &GroupVersionKind) -> Option<&Definition> {
        self.by_kind.get(kind).map(|i| &self.definitions[*i])
    }

    /// Every definition, by package and name.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    fn parse(files: &[(&'static str, &'static str)]) -> Result<Self, DataError> {
        let mut reader = Reader::default();
        reader.declare(files)?;
        for (file, text) in files {
            reader.fill(file, text)?;
        }
        let Reader { schema, definitions, by_name, .. } = reader;
        let mut by_kind = HashMap::with_capacity(512);
        for (i, definition) in definitions.iter().enumerate() {
            for kind in &definition.kinds {
                by_kind.insert(kind.clone(), i);
            }
        }
        Ok(Self { schema: Arc::new(schema), definitions, by_name, by_kind })
    }
}

/// Reads the files in two passes: names first, as definitions refer to each other in any order.
#[derive(Default)]
struct Reader {
    schema: Schema,
    definitions: Vec<Definition>,
    by_name: HashMap<&'static str, usize>,
    builtin: HashMap<&'static str, NodeId>,
    package: &'static str,
}

impl Reader {
    fn declare(&mut self, files: &[(&'static str, &'static str)]) -> Result<(), DataError> {
        for (name, scalar) in [
            ("bool", Scalar::Bool),
            ("int32", Scalar::Int32),
            ("int64", Scalar::Int64),
            ("double", Scalar::Float),
            ("string", Scalar::String),
            ("bytes", Scalar::Bytes),
        ] {
            let id = self.schema.push(Node::new("", NodeKind::Scalar(scalar)));
            self.builtin.insert(name, id);
        }
        for (file, text) in files {
            let mut package = "";
            for (number, line) in text.lines().enumerate() {
                if line.starts_with(' ') {
                    continue;
                }
                let problem = |problem: &str| DataError {
                    file: (*file).to_owned(),
                    line: number + 1,
                    problem: problem.to_owned(),
                };
                let mut words = line.split(' ');
                let word = words.next().unwrap_or_default();
                let name = words.next().ok_or_else(|| problem("a name is missing"))?;
                if word == "package" {
                    package = name;
                    continue;
                }
                let full = format!("{package}.{name}");
                let node = self.schema.push(Node::new(full.as_str(), NodeKind::Raw));
                // the key borrows for ever: names are made once and the catalog is never dropped
                let key: &'static str = Box::leak(full.clone().into_boxed_str());
                self.by_name.insert(key, self.definitions.len());
                self.definitions.push(Definition {
                    name: full,
                    node,
                    kinds: Vec::new(),
                    published: word != "unpublished",
                    unions: Vec::new(),
                    untyped_lists: Vec::new(),
                    bytes_as_lists: Vec::new(),
                    granular: Vec::new(),
                });
            }
        }
        Ok(())
    }

    fn fill(&mut self, file: &str, text: &'static str) -> Result<(), DataError> {
        let mut lines = text.lines().enumerate().peekable();
        while let Some((number, line)) = lines.next() {
            let at = |problem: String, number: usize| DataError {
                file: file.to_owned(),
                line: number + 1,
                problem,
            };
            let mut words = line.split(' ');
            let (word, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if word == "package" {
                self.package = name;
                continue;
            }
            let index = *self
                .by_name
                .get(format!("{}.{name}", self.package).as_str())
                .ok_or_else(|| at(format!("{name} was not declared"), number))?;
            if word == "scalar" {
                let (kind, proto) = self.scalar(&mut words).map_err(|e| at(e, number))?;
                let node = self.schema.node_mut(self.definitions[index].node);
                node.kind = kind;
                node.proto = proto;
                continue;
            }
            let mut object = ObjectType::default();
            for word in words {
                match word.split_once('=') {
                    Some(("kind", versions)) => self.definitions[index].kinds = kinds(name, versions),
                    Some(("map", "atomic")) => object.map_type = MapType::Atomic,
                    Some(("map", "granular")) => self.definitions[index].granular.push(""),
                    _ => return Err(at(format!("unknown word {word}"), number)),
                }
            }
            let mut fields = Vec::new();
            while let Some((number, line)) = lines.next_if(|(_, line)| line.starts_with("  ")) {
                let line = line.trim_start();
                if let Some(union) = line.strip_prefix("union ") {
                    let union = parse_union(union).ok_or_else(|| at("a broken union".into(), number))?;
                    self.definitions[index].unions.push(union);
                    continue;
                }
                let (name, field) = self.field(index, line).map_err(|e| at(e, number))?;
                fields.push((name.into(), field));
            }
            object.fields = fields.into_iter().collect();
            self.schema.node_mut(self.definitions[index].node).kind = NodeKind::Object(object);
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        words: &mut std::str::Split<'static, char>,
    ) -> Result<(NodeKind, ProtoForm), String> {
        let scalar = match words.next().unwrap_or_default() {
            "quantity" => Scalar::Quantity,
            "time" => Scalar::Time,
            "microtime" => Scalar::MicroTime,
            "intorstring" => Scalar::IntOrString,
            "raw" => return Ok((NodeKind::Raw, ProtoForm::Plain)),
            "union" => {
                let mut object = None;
                let mut other = None;
                for word in words {
                    let (slot, text) = match word.split_once('=') {
                        Some(("object", text)) => (&mut object, text),
                        Some(("other", text)) => (&mut other, text),
                        _ => return Err(format!("unknown word {word}")),
                    };
                    let (number, kind) = text.split_once(':').ok_or("a union member is number:type")?;
                    let number = number.parse().map_err(|_| format!("{number} is no number"))?;
                    *slot = Some((number, self.type_of(kind, ListTopology::Atomic, MapType::Granular)?));
                }
                let (Some(object), Some(other)) = (object, other) else {
                    return Err("a union has object= and other=".into());
                };
                return Ok((NodeKind::Raw, ProtoForm::Union { object, other }));
            }
            other => return Err(format!("unknown scalar {other}")),
        };
        Ok((NodeKind::Scalar(scalar), ProtoForm::Plain))
    }

    /// A line `NAME TYPE NUMBER [word...]`.
    fn field(&mut self, definition: usize, line: &'static str) -> Result<(&'static str, Field), String> {
        // a default may hold spaces only inside JSON strings, which none of ours does
        let mut words = line.split(' ');
        let (Some(name), Some(kind), Some(numbers)) = (words.next(), words.next(), words.next()) else {
            return Err("a field has a name, a type and a number".into());
        };
        let mut field = Field::new(NodeId(0));
        let mut topology = None;
        let mut map_type = None;
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("required", _) => field.required = true,
                ("pointer", _) => field.pointer = true,
                ("always", _) => field.always = true,
                ("default", json) => {
                    let value: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
                    field.default = Some(Box::new(value));
                }
                ("list", text) => topology = Some(parse_topology(text)?),
                ("map", "atomic") => map_type = Some(MapType::Atomic),
                ("map", "granular") => {
                    self.definitions[definition].granular.push(name);
                    map_type = Some(MapType::Granular);
                }
                ("patch", text) => field.patch_strategy = parse_patch_strategy(text)?,
                ("key", text) => field.patch_merge_key = text.into(),
                _ => return Err(format!("unknown word {word}")),
            }
        }
        if kind.starts_with('[') && topology.is_none() {
            self.definitions[definition].untyped_lists.push(name);
        }
        if kind == "bytes" && topology.is_some() {
            self.definitions[definition].bytes_as_lists.push(name);
        }
        (field.proto, field.proto_inline) = parse_numbers(numbers)?;
        field.node = self.type_of(kind, topology.unwrap_or_default(), map_type.unwrap_or_default())?;
        if let (Some(map_type), false) = (map_type, kind.starts_with('{')) {
            field.node = self.with_map_type(field.node, map_type);
        }
        Ok((name, field))
    }

    /// A field may own its object otherwise than the definition says (`claimRef`): such a field has its own node.
    /// References that are not filled in yet come out right, as granular objects are what fields ask for and
    /// definitions before them in the file are complete.
    fn with_map_type(&mut self, id: NodeId, map_type: MapType) -> NodeId {
        let mut node = self.schema.node(id).clone();
        if let NodeKind::Object(object) = &mut node.kind {
            object.map_type = map_type;
        }
        self.schema.push(node)
    }

    fn type_of(&mut self, text: &str, topology: ListTopology, map_type: MapType) -> Result<NodeId, String> {
        if let Some(id) = self.builtin.get(text) {
            return Ok(*id);
        }
        if let Some(inner) = text.strip_prefix('~') {
            let id = self.type_of(inner, topology, map_type)?;
            self.schema.node_mut(id).proto = ProtoForm::Wrapped;
            return Ok(id);
        }
        if let Some(item) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let item = self.type_of(item, ListTopology::Atomic, MapType::Granular)?;
            return Ok(self.schema.push(Node::new("", NodeKind::List(ListType { item, topology }))));
        }
        if let Some(value) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            let value = self.type_of(value, ListTopology::Atomic, MapType::Granular)?;
            return Ok(self.schema.push(Node::new("", NodeKind::Map { value, map_type })));
        }
        let found = match text.strip_prefix('.') {
            Some(short) => self.by_name.get(format!("{}.{short}", self.package).as_str()),
            None => self.by_name.get(text),
        };
        found.map(|i| self.definitions[*i].node).ok_or_else(|| format!("unknown type {text}"))
    }
}

fn kinds(name: &str, versions: &str) -> Vec<GroupVersionKind> {
    let split = |text: &str| {
        let (group, version) = text.split_once('/').unwrap_or(("", text));
        GroupVersionKind::new(group, version, name)
    };
    if versions == "*" { data::EVERY_VERSION.lines().map(split).collect() } else { vec![split(versions)] }
}

fn parse_union(text: &'static str) -> Option<Union> {
    let (head, members) = text.split_once(' ')?;
    let discriminator = head.strip_prefix("discriminator=")?;
    let members = members.split(',').map(|m| m.split_once(':')).collect::<Option<_>>()?;
    Some(Union { discriminator, members })
}

fn parse_topology(text: &str) -> Result<ListTopology, String> {
    match text {
        "atomic" => Ok(ListTopology::Atomic),
        "set" => Ok(ListTopology::Set),
        _ => text
            .strip_prefix("map(")
            .and_then(|t| t.strip_suffix(')'))
            .map(|keys| ListTopology::Map(keys.split(',').map(Into::into).collect()))
            .ok_or_else(|| format!("unknown list type {text}")),
    }
}

fn parse_patch_strategy(text: &str) -> Result<PatchStrategy, String> {
    match text {
        "merge" => Ok(PatchStrategy::Merge),
        "retainKeys" => Ok(PatchStrategy::RetainKeys),
        "merge,retainKeys" => Ok(PatchStrategy::MergeRetainKeys),
        "replace" => Ok(PatchStrategy::Replace),
        _ => Err(format!("unknown patch strategy {text}")),
    }
}

/// `3`, `2.3` (field 3 of the flattened message in field 2) or `-`.
fn parse_numbers(text: &str) -> Result<(u32, [u32; 2]), String> {
    if text == "-" {
        return Ok((0, [0; 2]));
    }
    let numbers: Vec<u32> = text
        .split('.')
        .map(|n| n.parse().map_err(|_| format!("{text} are no field numbers")))
        .collect::<Result<_, _>>()?;
    match numbers[..] {
        [own] => Ok((own, [0; 2])),
        [outer, own] => Ok((own, [outer, 0])),
        [outer, inner, own] => Ok((own, [outer, inner])),
        _ => Err(format!("{text} is nested too deeply")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field<'a>(definition: &str, name: &str) -> &'a Field {
        let node = catalog().definition(definition).unwrap_or_else(|| panic!("{definition}")).node;
        catalog().schema().field(node, name).unwrap_or_else(|| panic!("{definition}.{name}"))
    }

    #[test]
    fn every_definition_and_kind_is_there() {
        let published = catalog().definitions().iter().filter(|d| d.published).count();
        assert_eq!(published, 771, "OpenAPI v2 of 1.36 has this many definitions");
        let pod = catalog().kind(&GroupVersionKind::new("", "v1", "Pod")).expect("Pod");
        assert_eq!(pod.name, "io.k8s.api.core.v1.Pod");
        let options = catalog().kind(&GroupVersionKind::new("apps", "v1", "DeleteOptions")).expect("options");
        assert_eq!(options.kinds.len(), 60);
    }

    #[test]
    fn no_reference_is_left_open() {
        let opaque = ["RawExtension", "JSON", "FieldsV1", "Patch"];
        for (_, node) in catalog().schema().iter() {
            let short = node.name.rsplit('.').next().unwrap_or_default();
            let raw = matches!(node.kind, NodeKind::Raw);
            assert_eq!(
                raw,
                opaque.contains(&short) || short.starts_with("JSONSchemaPropsOr"),
                "{}",
                node.name
            );
        }
    }

    #[test]
    fn fields_say_what_upstream_says() {
        let containers = field("io.k8s.api.core.v1.PodSpec", "containers");
        assert!(containers.required && containers.always && !containers.pointer);
        assert_eq!((containers.proto, containers.patch_strategy), (2, PatchStrategy::Merge));
        assert_eq!(&*containers.patch_merge_key, "name");
        let NodeKind::List(list) = &catalog().schema().node(containers.node).kind else { panic!("a list") };
        assert_eq!(list.topology, ListTopology::Map(vec!["name".into()]));
        assert!(field("io.k8s.api.apps.v1.DeploymentSpec", "replicas").pointer);
        let protocol = field("io.k8s.api.core.v1.ContainerPort", "protocol");
        assert_eq!(protocol.default.as_deref(), Some(&Value::from("TCP")));
        let host_path = field("io.k8s.api.core.v1.Volume", "hostPath");
        assert_eq!((host_path.proto, host_path.proto_inline), (1, [2, 0]));
        let groups = field("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations", "apiGroups");
        assert_eq!((groups.proto, groups.proto_inline), (1, [2, 2]));
    }

    #[test]
    fn a_field_may_own_its_object_otherwise_than_the_definition() {
        let map_type = |id| match &catalog().schema().node(id).kind {
            NodeKind::Object(object) => object.map_type,
            other => panic!("{other:?}"),
        };
        let reference = catalog().definition("io.k8s.api.core.v1.ObjectReference").expect("reference").node;
        assert_eq!(map_type(reference), MapType::Atomic);
        assert_eq!(
            map_type(field("io.k8s.api.core.v1.PersistentVolumeSpec", "claimRef").node),
            MapType::Granular
        );
    }

    #[test]
    fn broken_files_are_refused_with_their_line() {
        for (text, problem) in [
            ("package p\ntype A\n  a .B 1\n", "api/f: line 3: unknown type .B"),
            ("package p\ntype A\n  a string x\n", "api/f: line 3: x are no field numbers"),
            ("package p\ntype A\n  a string 1 odd\n", "api/f: line 3: unknown word odd"),
            ("package p\nscalar A odd\n", "api/f: line 2: unknown scalar odd"),
        ] {
            let error = Catalog::parse(&[("f", text)]).expect_err(text);
            assert_eq!(error.to_string(), problem);
        }
    }
}
