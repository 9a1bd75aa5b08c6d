//! DELETE of one object.

use apimachinery::Value;
use apimachinery::decode;
use apimachinery::descriptor::ResourceDescriptor;
use apimachinery::meta::str_at;
use apimachinery::status::{self, FieldError, Status};
use component::http::Response;
use http::StatusCode;

use super::Exchange;
use crate::core::create::WriteParams;
use crate::core::delete::{check_policy, details};
use crate::core::encode::meta_type;
use crate::core::update::Subject;
use crate::extension::DeleteRequest;
use crate::negotiate::{self, Format};
use crate::options;
use crate::respond;
use crate::store::Precondition;

/// Kinds whose deletion answers the object instead of a Status, as upstream's do (`ReturnDeletedObject`).
const ANSWERS_OBJECT: [(&str, &str); 18] = [
    ("", "pods"),
    ("", "persistentvolumes"),
    ("", "persistentvolumeclaims"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "devicetaintrules"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourcepoolstatusrequests"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

/// Whether a delete of this resource answers the object.
pub(crate) fn answers_object(descriptor: &ResourceDescriptor) -> bool {
    ANSWERS_OBJECT.contains(&(descriptor.group.as_str(), descriptor.plural.as_str()))
}

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = exchange.media()?;
    let (request, options) = read_request(&exchange)?;
    let params = WriteParams {
        dry_run: request.dry_run,
        admission: true,
        rules: true,
        options,
        ..WriteParams::default()
    };
    let place = exchange.place();
    let subject = Subject { place: place.clone(), name: exchange.name(), subresource: "" };
    let deleted = exchange.core().delete(&subject, &request, &params).await?;
    // a client that asked to wait for dependents is told that the wait has begun
    let accepted = !deleted.gone && request.propagation_policy.as_deref() == Some("Foreground");
    let code = if accepted { StatusCode::ACCEPTED } else { StatusCode::OK };
    if deleted.gone && !answers_object(&exchange.target.descriptor) {
        let value = status::success(Some(&details(&place, &deleted.object)));
        let media = negotiate::single(&exchange.parts.headers, &exchange.context.query).unwrap_or(media);
        return Ok(respond::object(code, &value, None, &media));
    }
    exchange.respond(code, deleted.object, &media)
}

/// DeleteOptions from the body, or from the query when there is no body; with the tree admission sees.
pub(crate) fn read_request(exchange: &Exchange) -> Result<(DeleteRequest, Option<Value>), Status> {
    let query = &exchange.context.query;
    let mut request = DeleteRequest::default();
    let mut tree = None;
    let orphan;
    let mut dry: Vec<String> = query.all("dryRun").map(str::to_owned).collect();
    if exchange.body.is_empty() {
        request.grace_period_seconds = options::number(query, "gracePeriodSeconds")?;
        request.propagation_policy = query.get("propagationPolicy").map(str::to_owned);
        orphan = query.flag_opt("orphanDependents");
    } else {
        let options = decode_options(exchange)?;
        request.grace_period_seconds = options.get("gracePeriodSeconds").and_then(Value::as_i64);
        let text = |path: &[&str]| Some(str_at(&options, path).to_owned()).filter(|t| !t.is_empty());
        request.propagation_policy = text(&["propagationPolicy"]);
        orphan = options.get("orphanDependents").and_then(Value::as_bool);
        request.precondition = Precondition {
            uid: text(&["preconditions", "uid"]),
            resource_version: text(&["preconditions", "resourceVersion"]),
        };
        // a query that asks for a dry run is heard beside a body too: nobody means to delete by it
        let given = options.get("dryRun").and_then(Value::as_array).into_iter().flatten();
        dry.extend(given.filter_map(Value::as_str).map(str::to_owned));
        tree = Some(options);
    }
    let unsafe_delete = "ignoreStoreReadErrorWithClusterBreakingPotential";
    let wanted = tree.as_ref().and_then(|t| t.get(unsafe_delete)).and_then(Value::as_bool);
    let mut errors = Vec::new();
    if let (Some(policy), Some(_)) = (&request.propagation_policy, orphan) {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(FieldError::invalid("propagationPolicy", policy.as_str(), why));
    }
    errors.extend(check_policy(request.propagation_policy.as_deref()));
    errors.extend(options::check_dry_run(&dry.iter().map(String::as_str).collect::<Vec<_>>()));
    if wanted.unwrap_or_else(|| query.flag(unsafe_delete)) {
        let why = "Unsupported unless feature gate is enabled";
        errors.push(FieldError::invalid(unsafe_delete, true, why));
    }
    if !errors.is_empty() {
        return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors));
    }
    request.dry_run = !dry.is_empty();
    if let (None, Some(orphan)) = (&request.propagation_policy, orphan) {
        request.propagation_policy = Some(policy_of(orphan));
    }
    Ok((request, tree))
}

fn policy_of(orphan: bool) -> String {
    if orphan { "Orphan" } else { "Background" }.to_owned()
}

fn decode_options(exchange: &Exchange) -> Result<Value, Status> {
    let format = negotiate::body_format(&exchange.parts.headers)?;
    let mut value = match format {
        Format::Json => decode::untyped(&exchange.body, decode::Format::Json)?.0,
        Format::Yaml => decode::untyped(&exchange.body, decode::Format::Yaml)?.0,
        Format::Protobuf => crate::body::meta_kind(&exchange.body, "DeleteOptions")?,
    };
    let kind = str_at(&value, &["kind"]);
    if !value.is_object() || !matches!(kind, "" | "DeleteOptions") {
        return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions"));
    }
    let (schema, root) = meta_type("DeleteOptions")?;
    apimachinery::coerce::fit(schema, root, &mut value, false).map_err(|error| {
        Status::bad_request(format!(
            "DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: {error}"
        ))
    })?;
    Ok(value)
}
