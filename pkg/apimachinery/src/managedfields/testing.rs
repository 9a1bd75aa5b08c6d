//! A schema made by hand and a server of one object, for the tests of this module.

use crate::json;
use jiff::Timestamp;

use super::{NoOtherVersions, ResetFields, Versions, Write, on_apply, on_update};
use crate::Value;
use crate::default::{apply_defaults, normalise};
use crate::schema::{
    Field, ListTopology, ListType, MapType, Node, NodeId, NodeKind, ObjectType, Scalar, Schema,
};
use crate::status::Status;

/// Builds types with few words.
pub(super) struct Types {
    pub(super) schema: Schema,
    pub(super) string: NodeId,
    pub(super) int: NodeId,
}

impl Types {
    pub(super) fn new() -> Self {
        let mut schema = Schema::new();
        let string = schema.push(Node::new("", NodeKind::Scalar(Scalar::String)));
        let int = schema.push(Node::new("", NodeKind::Scalar(Scalar::Int32)));
        Self { schema, string, int }
    }

    pub(super) fn scalar(&mut self, scalar: Scalar) -> NodeId {
        self.schema.push(Node::new("", NodeKind::Scalar(scalar)))
    }

    pub(super) fn raw(&mut self, name: &str) -> NodeId {
        self.schema.push(Node::new(name, NodeKind::Raw))
    }

    pub(super) fn list(&mut self, item: NodeId, topology: ListTopology) -> NodeId {
        self.schema.push(Node::new("", NodeKind::List(ListType { item, topology })))
    }

    pub(super) fn keyed(&mut self, item: NodeId, keys: &[&str]) -> NodeId {
        self.list(item, ListTopology::Map(keys.iter().map(|key| (*key).into()).collect()))
    }

    pub(super) fn map(&mut self, value: NodeId, map_type: MapType) -> NodeId {
        self.schema.push(Node::new("", NodeKind::Map { value, map_type }))
    }

    pub(super) fn object(&mut self, fields: Vec<(&str, Field)>) -> NodeId {
        let fields = fields.into_iter().map(|(name, field)| (name.into(), field)).collect();
        self.schema.push(Node::new("", NodeKind::Object(ObjectType { fields, ..ObjectType::default() })))
    }

    pub(super) fn atomic(&mut self, fields: Vec<(&str, Field)>) -> NodeId {
        let node = self.object(fields);
        if let NodeKind::Object(object) = &mut self.schema.node_mut(node).kind {
            object.map_type = MapType::Atomic;
        }
        node
    }
}

/// A Deployment in small: every list and map type, value structs that are always printed, free-form parts.
pub(super) fn deployment() -> (Schema, NodeId) {
    let mut t = Types::new();
    let (string, int) = (t.string, t.int);
    let always = |node| Field { always: true, ..Field::new(node) };
    let pointer = |node| Field { pointer: true, ..Field::new(node) };

    let quantity = t.scalar(Scalar::Quantity);
    let labels = t.map(string, MapType::Granular);
    let finalizers = t.list(string, ListTopology::Set);
    let owner = t.atomic(vec![("uid", always(string)), ("name", Field::new(string))]);
    let owners = t.keyed(owner, &["uid"]);
    let anything = t.raw("");
    let managed = t.list(anything, ListTopology::Atomic);
    let metadata = t.object(vec![
        ("name", Field::new(string)),
        ("namespace", Field::new(string)),
        ("uid", Field::new(string)),
        ("generation", Field::new(int)),
        ("managedFields", Field::new(managed)),
        ("labels", Field::new(labels)),
        ("annotations", Field::new(labels)),
        ("finalizers", Field::new(finalizers)),
        ("ownerReferences", Field::new(owners)),
    ]);

    let strings = t.list(string, ListTopology::Atomic);
    let env = t.object(vec![("name", Field::new(string)), ("value", Field::new(string))]);
    let envs = t.keyed(env, &["name"]);
    let tcp = Field { default: Some(Box::new(json!("TCP"))), ..Field::new(string) };
    let port =
        t.object(vec![("containerPort", always(int)), ("protocol", tcp), ("name", Field::new(string))]);
    let ports = t.keyed(port, &["containerPort", "protocol"]);
    let quantities = t.map(quantity, MapType::Granular);
    let resources = t.object(vec![("limits", Field::new(quantities))]);
    let container = t.object(vec![
        ("name", always(string)),
        ("image", Field::new(string)),
        ("args", Field::new(strings)),
        ("env", Field::new(envs)),
        ("ports", Field::new(ports)),
        ("resources", always(resources)),
        ("imagePullPolicy", Field::new(string)),
    ]);
    let containers = t.keyed(container, &["name"]);
    let selector = t.map(string, MapType::Atomic);
    let rolling = t.object(vec![("maxSurge", pointer(int))]);
    let strategy = t.object(vec![("type", Field::new(string)), ("rollingUpdate", pointer(rolling))]);
    let free = t.raw("");
    let extension = t.raw("io.k8s.apimachinery.pkg.runtime.RawExtension");
    let spec = t.object(vec![
        ("replicas", pointer(int)),
        ("selector", Field { always: true, pointer: true, ..Field::new(selector) }),
        ("strategy", always(strategy)),
        ("containers", always(containers)),
        ("tolerations", Field::new(strings)),
        ("free", Field::new(free)),
        ("extension", Field::new(extension)),
    ]);
    let condition = t.object(vec![("type", always(string)), ("status", always(string))]);
    let conditions = t.keyed(condition, &["type"]);
    let status = t.object(vec![("replicas", Field::new(int)), ("conditions", Field::new(conditions))]);
    let root = t.object(vec![
        ("apiVersion", Field::new(string)),
        ("kind", Field::new(string)),
        ("metadata", always(metadata)),
        ("spec", always(spec)),
        ("status", always(status)),
    ]);
    (t.schema, root)
}

/// A server that holds one object.
pub(super) struct Server<'v> {
    schema: Schema,
    root: NodeId,
    pub(super) object: Option<Value>,
    /// Seconds since the epoch; every write is one later.
    clock: i64,
    versions: &'v dyn Versions,
    pub(super) api_version: &'static str,
    reset: ResetFields,
}

impl Server<'static> {
    pub(super) fn new() -> Self {
        Self::with_versions(&NoOtherVersions)
    }
}

impl<'v> Server<'v> {
    pub(super) fn with_versions(versions: &'v dyn Versions) -> Self {
        let (schema, root) = deployment();
        Self {
            schema,
            root,
            object: None,
            clock: 0,
            versions,
            api_version: "apps/v1",
            reset: ResetFields::except(&["status"]),
        }
    }

    fn write<'a>(
        &'a self,
        manager: &'a str,
        subresource: &'a str,
        reset_fields: &'a ResetFields,
    ) -> Write<'a> {
        Write {
            schema: &self.schema,
            root: self.root,
            api_version: self.api_version,
            kind: "Deployment",
            subresource,
            manager,
            now: Timestamp::from_second(self.clock).unwrap(),
            reset_fields,
            versions: self.versions,
        }
    }

    fn complete(&self, mut object: Value) -> Value {
        object["apiVersion"] = json!(self.api_version);
        object["kind"] = json!("Deployment");
        for (path, key, value) in
            [("", "metadata", json!({})), ("", "spec", json!({})), ("", "status", json!({}))]
        {
            if let Some(Value::Object(map)) = object.pointer_mut(path) {
                map.entry(key).or_insert(value);
            }
        }
        object["metadata"]["name"] = json!("d");
        object["metadata"]["namespace"] = json!("default");
        object
    }

    /// What defaulting does, by the schema and by the kind.
    fn default(&self, object: &mut Value) {
        apply_defaults(&self.schema, self.root, object);
        if let Some(Value::Array(containers)) = object.pointer_mut("/spec/containers") {
            for container in containers {
                container["imagePullPolicy"] = json!("Always");
            }
        }
    }

    /// What the real server does to objects after a write: identity, printed value structs.
    fn settle(&mut self, mut object: Value) {
        object["metadata"]["uid"] = json!("u");
        normalise(&self.schema, self.root, &mut object);
        if let Some(live) = &self.object {
            super::ignore_timestamps(live, &mut object);
        }
        self.object = Some(object);
    }

    /// Replaces the object, managed fields kept as a client that read it first would.
    pub(super) fn update(&mut self, manager: &str, object: Value) {
        self.update_of(manager, "", object);
    }

    pub(super) fn update_of(&mut self, manager: &str, subresource: &str, object: Value) {
        self.clock += 1;
        let mut new = self.complete(object);
        self.default(&mut new);
        let reset = if subresource == "status" {
            ResetFields::except(&["spec", "metadata"])
        } else {
            self.reset.clone()
        };
        on_update(self.object.as_ref(), &mut new, &self.write(manager, subresource, &reset));
        // the strategy resets what the endpoint does not write
        let live = self.object.clone().unwrap_or(json!({"status": {}}));
        if subresource == "status" {
            let (status, managed) = (new["status"].take(), new["metadata"]["managedFields"].take());
            new = live;
            new["status"] = status;
            new["metadata"]["managedFields"] = managed;
        } else {
            new["status"] = live["status"].clone();
        }
        self.settle(new);
    }

    pub(super) fn apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), Status> {
        self.clock += 1;
        let mut config = config;
        for (key, value) in [("apiVersion", json!(self.api_version)), ("kind", json!("Deployment"))] {
            if config.get(key).is_none() {
                config[key] = value;
            }
        }
        let applied = on_apply(
            self.object.as_ref(),
            &config,
            force,
            &|object| self.default(object),
            &self.write(manager, "", &self.reset),
        )?;
        let mut applied = if self.object.is_none() { self.complete(applied) } else { applied };
        applied["status"] = self.object.as_ref().map_or(json!({}), |live| live["status"].clone());
        self.settle(applied);
        Ok(())
    }

    /// A part of the object, null when absent.
    pub(super) fn at(&self, pointer: &str) -> Value {
        self.object.as_ref().and_then(|object| object.pointer(pointer)).cloned().unwrap_or_default()
    }

    /// The entries as `manager/operation[/subresource]@time` with their fields as text.
    pub(super) fn owners(&self) -> Vec<(String, String)> {
        let managed = self.at("/metadata/managedFields");
        let entries = managed.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|entry| {
                let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
                let seconds = text("time")
                    .parse::<Timestamp>()
                    .map_or("none".to_owned(), |t| t.as_second().to_string());
                let sub = if entry["subresource"].is_null() {
                    String::new()
                } else {
                    format!("/{}", text("subresource"))
                };
                (
                    format!("{}/{}{sub}@{seconds}", text("manager"), text("operation")),
                    entry["fieldsV1"].to_string(),
                )
            })
            .collect()
    }
}
