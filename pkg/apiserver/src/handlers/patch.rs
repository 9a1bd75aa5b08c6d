//! PATCH: JSON, merge and strategic merge patches, and server-side apply.

use apimachinery::Value;
use apimachinery::coerce::{self, FieldValidation};
use apimachinery::json::go_quote;
use apimachinery::patch::{Patch, PatchType};
use apimachinery::schema::{NodeId, Schema};
use apimachinery::status::Status;
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
    let media_type = media_type(&exchange);
    let mut options = options::write(&exchange.context, options_kind(media_type))?;
    options.params.applies = media_type == APPLY;
    let change: Box<dyn Change + '_> = if media_type == APPLY {
        Box::new(apply(&exchange, &options)?)
    } else {
        let kind =
            PatchType::from_media_type(media_type).ok_or_else(|| Status::unsupported_media_type(&TYPES))?;
        let plain = Plain::read(kind, &exchange, options.validation)?;
        Box::new(Patched { plain, target: &exchange.target })
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

/// Which options go with a body of this media type.
pub(crate) fn options_kind(media_type: &str) -> options::Kind {
    if media_type == APPLY { options::Kind::Apply } else { options::Kind::Patch }
}

/// A patch in one of the three formats without ownership.
pub(crate) struct Plain<'a> {
    patch: Patch,
    /// What strict decoding finds in the patch itself.
    problems: Vec<String>,
    context: &'a RequestContext,
    validation: FieldValidation,
}

impl<'a> Plain<'a> {
    pub(crate) fn read(
        kind: PatchType,
        exchange: &'a Exchange,
        validation: FieldValidation,
    ) -> Result<Self, Status> {
        let (patch, problems) = parse(kind, &exchange.body)?;
        Ok(Self { patch, problems, context: &exchange.context, validation })
    }

    /// The patched object; what it has that its type does not know is dropped, told or refused.
    pub(crate) fn apply(&self, old: &Value, schema: &Schema, root: NodeId) -> Result<Value, Status> {
        let mut new = self.patch.apply(old, schema, root)?;
        let checked = self.validation != FieldValidation::Ignore;
        let unknown = coerce::fit_changed(schema, root, &mut new, checked, Some(old))
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
        Ok(new)
    }
}

/// Such a patch of an object of the resource.
struct Patched<'a> {
    plain: Plain<'a>,
    target: &'a Target,
}

impl Change for Patched<'_> {
    fn apply(&self, old: Option<&Value>) -> Result<Value, Status> {
        let served = self.target.served();
        let mut new = self.plain.apply(old.unwrap_or(&Value::Null), &served.schema, served.root)?;
        same_kind(self.target, &new)?;
        codec::complete(&self.target.descriptor, served, &mut new, old);
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
    // as the client sent it: what was pruned or defaulted here would be neither refused nor told from what it wants
    let (mut object, duplicates) =
        apimachinery::decode::untyped(&exchange.body, apimachinery::decode::Format::Yaml).map_err(|e| {
            Status::bad_request(format!("error decoding patch: error converting YAML to JSON: {e}"))
        })?;
    match options.validation {
        FieldValidation::Strict if !duplicates.is_empty() => {
            let why = apimachinery::yaml::unmarshal_errors(&duplicates);
            let text = format!("error strict decoding patch: error converting YAML to JSON: {why}");
            return Err(Status::bad_request(text));
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
