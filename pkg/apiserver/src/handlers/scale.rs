//! The `scale` subresource: an `autoscaling/v1` Scale made from, and written to, the replicas of any resource.

use apimachinery::Value;
use apimachinery::descriptor::ServedVersion;
use apimachinery::json;
use apimachinery::managedfields::scale::{self, ReplicasPath};
use apimachinery::managedfields::{self, NoOtherVersions, ResetFields};
use apimachinery::meta::{GroupVersionKind, at, str_at};
use apimachinery::patch::PatchType;
use apimachinery::schema::NodeId;
use apimachinery::selectors::LabelSelector;
use apimachinery::status::{FieldError, Status};
use component::http::Response;
use http::StatusCode;

use super::{Exchange, patch};
use crate::codec::Reader;
use crate::core::metadata;
use crate::core::update::{Change, Subject};
use crate::negotiate::{self, Format};
use crate::options::{self, WriteOptions};
use crate::respond;

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = negotiate::single(&exchange.parts.headers, &exchange.context.query)?;
    let object = match exchange.context.info.verb {
        "get" => {
            let gvr = exchange.target.gvr();
            exchange.core().get_value(&gvr, exchange.namespace(), exchange.name()).await?
        }
        "update" => write(&exchange, options::Kind::Update).await?,
        _ => write(&exchange, patch::options_kind(patch::media_type(&exchange))).await?,
    };
    let scale = scale_of(&exchange, &object)?;
    let schema = exchange.target.served();
    let root = schema.subresource("scale").and_then(|s| s.root);
    Ok(respond::object(StatusCode::OK, &scale, root.map(|r| (&*schema.schema, r)), &media))
}

/// The Scale of an object.
fn scale_of(exchange: &Exchange, object: &Value) -> Result<Value, Status> {
    let metadata = object.get("metadata").cloned().unwrap_or_default();
    let kept: apimachinery::Map = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
        .iter()
        .filter_map(|key| metadata.get(*key).map(|v| ((*key).to_owned(), v.clone())))
        .collect();
    let gvk = scale_kind(exchange);
    let mut status =
        json!({"replicas": at(object, &["status", "replicas"]).and_then(Value::as_i64).unwrap_or(0)});
    if let Some(selector) = at(object, &["spec", "selector"]) {
        status["selector"] = json!(selector_text(selector)?);
    }
    let mut spec = json!({});
    if let Some(replicas) = at(object, &["spec", "replicas"]).and_then(Value::as_i64).filter(|r| *r != 0) {
        spec["replicas"] = json!(replicas);
    }
    Ok(
        json!({"kind": gvk.kind, "apiVersion": gvk.group_version().to_string(), "metadata": kept, "spec": spec,
              "status": status}),
    )
}

/// The text of a selector: a label selector, or the plain map of a ReplicationController.
fn selector_text(selector: &Value) -> Result<String, Status> {
    let is_map = selector.as_object().is_some_and(|m| m.values().all(Value::is_string));
    if is_map {
        let pairs =
            selector.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or("")));
        return Ok(LabelSelector::from_map(pairs).to_string());
    }
    LabelSelector::from_value(Some(selector))
        .map(|s| s.to_string())
        .map_err(|e| Status::bad_request(e.to_string()))
}

fn scale_kind(exchange: &Exchange) -> GroupVersionKind {
    exchange
        .target
        .served()
        .subresource("scale")
        .map_or_else(|| GroupVersionKind::new("autoscaling", "v1", "Scale"), |s| s.gvk.clone())
}

/// What the body asks of the Scale.
enum Wanted<'a> {
    Object(Value),
    Patch(patch::Plain<'a>),
    Apply(Value),
}

/// Replicas set through the Scale, and who owns them.
struct Scaled<'a> {
    exchange: &'a Exchange,
    options: &'a WriteOptions,
    wanted: Wanted<'a>,
    gvk: GroupVersionKind,
    root: NodeId,
}

async fn write(exchange: &Exchange, kind: options::Kind) -> Result<Value, Status> {
    let options = options::write(&exchange.context, kind)?;
    let served = exchange.target.served();
    let gvk = scale_kind(exchange);
    let root = served
        .subresource("scale")
        .and_then(|s| s.root)
        .ok_or_else(|| Status::internal("the scale of this resource has no schema"))?;
    let decode = |format: Format| {
        let resources = exchange.core().resources.snapshot();
        let reader = Reader { resources: &resources, gvk: &gvk, schema: &served.schema, root };
        let decoded = reader.decode(&exchange.body, format, options.validation)?;
        exchange.context.warnings.extend(decoded.warnings);
        Ok::<_, Status>(decoded.value)
    };
    let wanted = if exchange.context.info.verb == "update" {
        let scale = decode(negotiate::body_format(&exchange.parts.headers)?)?;
        metadata::match_name(&scale, exchange.name(), exchange.namespace())?;
        Wanted::Object(scale)
    } else {
        let media_type = patch::media_type(exchange);
        match PatchType::from_media_type(media_type) {
            Some(kind) => Wanted::Patch(patch::Plain::read(kind, exchange, options.validation)?),
            None if media_type == patch::APPLY => Wanted::Apply(decode(Format::Yaml)?),
            None => return Err(Status::unsupported_media_type(&patch::TYPES)),
        }
    };
    let subject = Subject { place: exchange.place(), name: exchange.name(), subresource: "scale" };
    let change = Scaled { exchange, options: &options, wanted, gvk: gvk.clone(), root };
    exchange.core().update(&subject, &change, &options.params).await.map(|w| w.object)
}

impl Scaled<'_> {
    /// Where each version of the resource keeps its replicas.
    fn paths(&self) -> Vec<ReplicasPath> {
        let descriptor = &self.exchange.target.descriptor;
        let path = vec!["spec".to_owned(), "replicas".to_owned()];
        let of = |version: &ServedVersion| ReplicasPath {
            api_version: descriptor.gvk(&version.version).group_version().to_string(),
            path: if version.subresource("scale").is_some() { path.clone() } else { Vec::new() },
        };
        descriptor.versions.iter().map(of).collect()
    }

    /// The new Scale with its managed fields.
    fn scale(&self, live: &Value) -> Result<Value, Status> {
        let exchange = self.exchange;
        let schema = &*exchange.target.served().schema;
        let api_version = self.gvk.group_version().to_string();
        let manager = self.options.params.manager.as_deref().unwrap_or("");
        let managed = managedfields::Write {
            schema,
            root: self.root,
            api_version: &api_version,
            kind: &self.gvk.kind,
            subresource: "scale",
            manager,
            now: exchange.context.now,
            reset_fields: &ResetFields::None,
            versions: &NoOtherVersions,
        };
        let mut scale = match &self.wanted {
            Wanted::Object(scale) => scale.clone(),
            Wanted::Patch(patch) => patch.apply(live, schema, self.root)?,
            Wanted::Apply(applied) => {
                let managed = managedfields::Write { manager: &self.options.field_manager, ..managed };
                let force = self.options.force.unwrap_or(false);
                return managedfields::on_apply(Some(live), applied, force, &|_: &mut Value| {}, &managed);
            }
        };
        managedfields::on_update(Some(live), &mut scale, &managed);
        Ok(scale)
    }
}

impl Change for Scaled<'_> {
    fn apply(&self, old: Option<&Value>) -> Result<Value, Status> {
        let exchange = self.exchange;
        let old = old.ok_or_else(|| exchange.target.not_found(exchange.name()))?;
        let paths = self.paths();
        let owners = at(old, &["metadata", "managedFields"]);
        let mut live = scale_of(exchange, old)?;
        set_metadata(&mut live, "managedFields", scale::to_scale(owners, &paths));
        let scale = self.scale(&live)?;
        let replicas = at(&scale, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
        if replicas < 0 {
            let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
            return Err(Status::invalid("autoscaling", "Scale", exchange.name(), &[error]));
        }
        let mut new = old.clone();
        if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("replicas".into(), replicas.into());
        }
        let version = str_at(&scale, &["metadata", "resourceVersion"]);
        if !version.is_empty() {
            set_metadata(&mut new, "resourceVersion", Some(version.into()));
        }
        let owned = at(&scale, &["metadata", "managedFields"]);
        let api_version = exchange.target.api_version();
        set_metadata(&mut new, "managedFields", scale::to_resource(owners, owned, &api_version, &paths));
        Ok(new)
    }

    fn manages_fields(&self) -> bool {
        true
    }
}

fn set_metadata(object: &mut Value, key: &str, value: Option<Value>) {
    let Some(metadata) = apimachinery::meta::metadata_mut(object) else { return };
    match value {
        Some(value) => metadata.insert(key.into(), value),
        None => metadata.remove(key),
    };
}
