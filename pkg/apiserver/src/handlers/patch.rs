//! PATCH: JSON, merge and strategic merge patches, and server-side apply.

use apimachinery::Value;
use apimachinery::coerce::{self, FieldValidation};
use apimachinery::json::go_quote;
use apimachinery::patch::{Patch, PatchType};
use apimachinery::status::{FieldError, Status};
use apimachinery::strict::strict_errors;
use component::http::Response;
use http::header;

use super::Exchange;
use crate::codec;
use crate::context::RequestContext;
use crate::core::Target;
use crate::core::manage::Manage;
use crate::core::update::{Change, Subject};
use crate::options::{self, WriteOptions};

/// Media type of server-side apply.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";
/// What PATCH takes, in the order upstream's 415 names it.
pub(crate) const TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    APPLY,
];

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = exchange.media()?;
    let mut options = options::write(&exchange.context, "PatchOptions")?;
    let media_type = media_type(&exchange);
    options.params.applies = media_type == APPLY;
    let change: Box<dyn Change + '_> = if media_type == APPLY {
        Box::new(apply(&exchange, &options)?)
    } else {
        let kind =
            PatchType::from_media_type(media_type).ok_or_else(|| Status::unsupported_media_type(&TYPES))?;
        if options.force.is_some() {
            let error = FieldError::forbidden("force", "may not be specified for non-apply patch");
            return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[error]));
        }
        let (patch, problems) = parse(kind, &exchange.body)?;
        Box::new(Patched {
            patch,
            problems,
            target: &exchange.target,
            context: &exchange.context,
            validation: options.validation,
        })
    };
    let subject = Subject {
        place: exchange.place(),
        name: exchange.name(),
        subresource: &exchange.context.info.subresource,
    };
    let written = exchange.core().update(&subject, &*change, &options.params).await?;
    exchange.respond_written(written, &media)
}

/// A patch and the texts of what strict decoding finds in it: repeated fields, unknown members of operations.
fn parse(kind: PatchType, body: &[u8]) -> Result<(Patch, Vec<String>), Status> {
    let parsed = apimachinery::json::parse(body)
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    let mut problems = Vec::new();
    if parsed.has_duplicates {
        problems = strict_errors(&String::from_utf8_lossy(body), None);
        if kind == PatchType::Json {
            problems = problems.iter().map(|problem| format!("json patch {problem}")).collect();
        }
    }
    let patch = Patch::from_value(kind, parsed.value)?;
    problems.extend(patch.unknown_fields());
    Ok((patch, problems))
}

/// The media type of the body without parameters.
pub(crate) fn media_type(exchange: &Exchange) -> &str {
    let content_type = exchange.parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    content_type.unwrap_or("").split(';').next().unwrap_or("").trim()
}

/// 422 unless an applier says who it is.
pub(crate) fn check_applier(options: &WriteOptions) -> Result<(), Status> {
    if !options.field_manager.is_empty() {
        return Ok(());
    }
    let error = FieldError::required("fieldManager", "is required for apply patch");
    Err(Status::invalid("meta.k8s.io", "PatchOptions", "", &[error]))
}

/// A patch in one of the three formats without ownership.
struct Patched<'a> {
    patch: Patch,
    problems: Vec<String>,
    target: &'a Target,
    context: &'a RequestContext,
    validation: FieldValidation,
}

impl Change for Patched<'_> {
    fn apply(&self, old: Option<&Value>) -> Result<Value, Status> {
        let served = self.target.served();
        let old = old.unwrap_or(&Value::Null);
        let mut new = self.patch.apply(old, &served.schema, served.root)?;
        let checked = self.validation != FieldValidation::Ignore;
        let unknown = coerce::fit_changed(&served.schema, served.root, &mut new, checked, Some(old))
            .map_err(|error| self.patch.undecodable(&new, &error.to_string()))?;
        if checked {
            let unknown = unknown.iter().map(|path| format!("unknown field {}", go_quote(path)));
            let problems: Vec<String> = self.problems.iter().cloned().chain(unknown).collect();
            if self.validation == FieldValidation::Strict && !problems.is_empty() {
                let why = format!("strict decoding error: {}", problems.join(", "));
                return Err(self.patch.undecodable(&new, &why));
            }
            self.context.warnings.extend(problems);
        }
        same_kind(self.target, &new)?;
        codec::complete(&self.target.descriptor, served, &mut new, Some(old));
        Ok(new)
    }
}

/// A patch cannot make an object another kind.
fn same_kind(target: &Target, object: &Value) -> Result<(), Status> {
    let (kind, version) =
        (apimachinery::meta::str_at(object, &["kind"]), apimachinery::meta::str_at(object, &["apiVersion"]));
    if kind == target.descriptor.kind && version == target.api_version() {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "the API version in the data ({version}, Kind={kind}) does not match the expected API version ({}, Kind={})",
        target.api_version(),
        target.descriptor.kind
    )))
}

/// Server-side apply.
struct Applied<'a> {
    exchange: &'a Exchange,
    object: Value,
    manager: &'a str,
    force: bool,
}

fn apply<'a>(exchange: &'a Exchange, options: &'a WriteOptions) -> Result<Applied<'a>, Status> {
    check_applier(options)?;
    // as the client sent it: what was pruned or defaulted here would be neither refused nor told from what it wants
    let (mut object, duplicates) =
        apimachinery::decode::untyped(&exchange.body, apimachinery::decode::Format::Yaml).map_err(|e| {
            Status::bad_request(format!("error decoding patch: error converting YAML to JSON: {e}"))
        })?;
    match options.validation {
        FieldValidation::Strict if !duplicates.is_empty() => {
            let texts = duplicates.join(", ");
            return Err(Status::bad_request(format!("error strict decoding patch: {texts}")));
        }
        FieldValidation::Ignore => {}
        _ => exchange.context.warnings.extend(duplicates),
    }
    if let Some(metadata) = apimachinery::meta::metadata_mut(&mut object)
        && !metadata.contains_key("name")
    {
        metadata.insert("name".into(), exchange.name().into());
    }
    Ok(Applied { exchange, object, manager: &options.field_manager, force: options.force.unwrap_or(false) })
}

impl Change for Applied<'_> {
    fn apply(&self, old: Option<&Value>) -> Result<Value, Status> {
        let exchange = self.exchange;
        let served = exchange.target.served();
        let manage = Manage {
            context: &exchange.context,
            target: &exchange.target,
            subresource: &exchange.context.info.subresource,
            manager: self.manager,
        };
        let complete = |object: &mut Value| codec::complete(&exchange.target.descriptor, served, object, old);
        let mut new = manage.on_apply(old, &self.object, self.force, &complete)?;
        complete(&mut new);
        Ok(new)
    }

    fn creates(&self) -> bool {
        self.exchange.context.info.subresource.is_empty()
    }

    fn manages_fields(&self) -> bool {
        true
    }
}
