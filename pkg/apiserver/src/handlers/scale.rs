//! The `scale` subresource: an `autoscaling/v1` Scale made from, and written to, the replicas of any resource.

use apimachinery::Value;
use apimachinery::coerce;
use apimachinery::meta::{GroupVersionKind, at, str_at};
use apimachinery::patch::{Patch, PatchType};
use apimachinery::selectors::LabelSelector;
use apimachinery::status::{FieldError, Status};
use component::http::Response;
use http::{StatusCode, header};
use serde_json::json;

use super::Exchange;
use crate::codec::Reader;
use crate::core::update::{Change, Subject};
use crate::negotiate;
use crate::options;
use crate::respond;

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = negotiate::single(&exchange.parts.headers, &exchange.context.query)?;
    let object = match exchange.context.info.verb {
        "get" => {
            let gvr = exchange.target.gvr();
            exchange.core().get_value(&gvr, exchange.namespace(), exchange.name()).await?
        }
        "update" => write(&exchange, "UpdateOptions").await?,
        _ => write(&exchange, "PatchOptions").await?,
    };
    let scale = scale_of(&exchange, &object)?;
    let schema = exchange.target.served();
    let root = schema.subresource("scale").and_then(|s| s.root);
    respond::object(StatusCode::OK, &scale, root.map(|r| (&*schema.schema, r)), &media)
}

/// The Scale of an object.
fn scale_of(exchange: &Exchange, object: &Value) -> Result<Value, Status> {
    let metadata = object.get("metadata").cloned().unwrap_or_default();
    let kept: serde_json::Map<String, Value> =
        ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
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
    Patch(Patch, &'a Exchange),
}

/// Replicas set through the Scale.
struct Scaled<'a> {
    exchange: &'a Exchange,
    wanted: Wanted<'a>,
}

async fn write(exchange: &Exchange, kind: &str) -> Result<Value, Status> {
    let options = options::write(&exchange.context, kind)?;
    let wanted = if exchange.context.info.verb == "update" {
        let served = exchange.target.served();
        let resources = exchange.core().resources.snapshot();
        let gvk = scale_kind(exchange);
        let root = served
            .subresource("scale")
            .and_then(|s| s.root)
            .ok_or_else(|| Status::internal("the scale of this resource has no schema"))?;
        let reader = Reader { resources: &resources, gvk: &gvk, schema: &served.schema, root };
        let format = negotiate::body_format(&exchange.parts.headers)?;
        let decoded = reader.decode(&exchange.body, format, options.validation)?;
        exchange.context.warnings.extend(decoded.warnings);
        crate::core::metadata::match_name(&decoded.value, exchange.name(), exchange.namespace())?;
        Wanted::Object(decoded.value)
    } else {
        let content_type =
            exchange.parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let media_type = content_type.split(';').next().unwrap_or("").trim();
        match PatchType::from_media_type(media_type) {
            Some(kind) => Wanted::Patch(Patch::parse(kind, &exchange.body)?, exchange),
            // applying a Scale is merging it: all it says is one number
            None if media_type == "application/apply-patch+yaml" => {
                let value = apimachinery::yaml::parse(&exchange.body)
                    .map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
                Wanted::Patch(Patch::parse(PatchType::Merge, value.to_string().as_bytes())?, exchange)
            }
            None => {
                return Err(Status::unsupported_media_type(&[
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                    "application/apply-patch+yaml",
                ]));
            }
        }
    };
    let subject = Subject { place: exchange.place(), name: exchange.name(), subresource: "scale" };
    let change = Scaled { exchange, wanted };
    exchange.core().update(&subject, &change, &options.params).await.map(|w| w.object)
}

impl Change for Scaled<'_> {
    fn apply(&self, old: Option<&Value>) -> Result<Value, Status> {
        let old = old.ok_or_else(|| self.exchange.target.not_found(self.exchange.name()))?;
        let scale = match &self.wanted {
            Wanted::Object(scale) => scale.clone(),
            Wanted::Patch(patch, exchange) => {
                let served = exchange.target.served();
                let root = served
                    .subresource("scale")
                    .and_then(|s| s.root)
                    .ok_or_else(|| Status::internal("the scale of this resource has no schema"))?;
                let mut scale = patch.apply(&scale_of(exchange, old)?, &served.schema, root)?;
                coerce::coerce(&served.schema, root, &mut scale, coerce::FieldValidation::Ignore)?;
                scale
            }
        };
        let replicas = at(&scale, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
        if replicas < 0 {
            let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
            return Err(Status::invalid("autoscaling", "Scale", self.exchange.name(), &[error]));
        }
        let mut new = old.clone();
        if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("replicas".into(), replicas.into());
        }
        let version = str_at(&scale, &["metadata", "resourceVersion"]);
        if !version.is_empty()
            && let Some(metadata) = apimachinery::meta::metadata_mut(&mut new)
        {
            metadata.insert("resourceVersion".into(), version.into());
        }
        Ok(new)
    }
}
