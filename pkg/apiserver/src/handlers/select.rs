//! Selectors of a request, checked and compiled to what the cache filters by.

use apimachinery::selectors::labels::Operator;
use apimachinery::selectors::{FieldSelector, LabelSelector, LabelSet};
use apimachinery::status::Status;
use watchcache::{Filter, Interest, Labels, Marks, StoredObject};

use super::Exchange;
use crate::core::caches::Cached;
use crate::options::ReadOptions;

/// Labels of a cached object as selectors see them.
struct Of<'a>(&'a Labels);

impl LabelSet for Of<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        self.0.get(key)
    }
}

/// What a list or watch is about.
pub(crate) struct Selection {
    /// The one name, when a field selector or the path names it.
    pub(crate) name: Option<String>,
    /// Everything else that must hold.
    pub(crate) filter: Option<Filter>,
    /// Which objects can concern a watch.
    pub(crate) interest: Interest,
}

/// One comparison, resolved to where its value is.
enum Source {
    Name,
    Namespace,
    Field(usize),
}

/// Compiles the selectors of a request; 400 for what cannot be parsed or is not selectable.
pub(crate) fn compile(
    exchange: &Exchange,
    cached: &Cached,
    options: &ReadOptions,
) -> Result<Selection, Status> {
    let labels: LabelSelector = parse_labels(&options.label_selector)?;
    let mut fields: FieldSelector = options.field_selector.parse().map_err(
        |e: apimachinery::selectors::fields::FieldSelectorError| Status::bad_request(e.to_string()),
    )?;
    let path_name = exchange.name();
    if !path_name.is_empty() && fields.terms.is_empty() {
        fields.terms.extend(FieldSelector::equals("metadata.name", path_name).terms);
    }
    if !path_name.is_empty() && fields.required_value("metadata.name") != Some(path_name) {
        // who may see the one need not be allowed to see the other
        return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
    }
    let mut terms = Vec::new();
    for term in &fields.terms {
        let source = source(exchange, cached, &term.field)?;
        terms.push((source, term.value.clone().into_boxed_str(), term.negated));
    }
    let name = fields.required_value("metadata.name").filter(|n| !n.is_empty()).map(str::to_owned);
    let interest = interest(exchange, &terms, name.as_deref());
    // an equality on the name is what `name` says already
    let rest: Vec<_> = terms
        .into_iter()
        .filter(|(source, value, negated)| {
            !(matches!(source, Source::Name) && !negated && Some(&**value) == name.as_deref())
        })
        .collect();
    let filter: Option<Filter> = if rest.is_empty() && labels.is_everything() {
        None
    } else {
        let marks = required_marks(&labels, &rest);
        let matches = move |object: &StoredObject| {
            labels.matches(&Of(object.labels())) && rest.iter().all(|term| holds(object, term))
        };
        Some(Filter::new(matches).of_those_with(marks))
    };
    Ok(Selection { name, filter, interest })
}

/// What every object has that the selectors match.
fn required_marks(labels: &LabelSelector, fields: &[(Source, Box<str>, bool)]) -> Marks {
    let labels = labels.requirements().iter().filter_map(|requirement| {
        let one_value =
            matches!(requirement.operator(), Operator::Equals | Operator::DoubleEquals | Operator::In);
        let mut values = requirement.values();
        let value = values.next().filter(|_| one_value)?;
        values.next().is_none().then(|| Marks::of_label(requirement.key(), value))
    });
    let fields = fields.iter().filter_map(|term| match term {
        (Source::Field(index), value, false) => Some(Marks::of_field(*index, value)),
        _ => None,
    });
    labels.chain(fields).fold(Marks::default(), Marks::and)
}

fn parse_labels(text: &str) -> Result<LabelSelector, Status> {
    text.parse().map_err(|e: apimachinery::selectors::labels::SelectorError| {
        Status::bad_request(format!("unable to parse requirement: {e}").replace(
            "unable to parse requirement: unable to parse requirement: ",
            "unable to parse requirement: ",
        ))
    })
}

fn source(exchange: &Exchange, cached: &Cached, field: &str) -> Result<Source, Status> {
    match field {
        "metadata.name" => return Ok(Source::Name),
        "metadata.namespace" => return Ok(Source::Namespace),
        _ => {}
    }
    let selectable = &exchange.target.descriptor.selectable_fields;
    if selectable.iter().any(|f| f.name == field)
        && let Some(index) = cached.field(field)
    {
        return Ok(Source::Field(index));
    }
    Err(Status::bad_request(if selectable.is_empty() {
        format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {field}")
    }))
}

fn holds(object: &StoredObject, (source, value, negated): &(Source, Box<str>, bool)) -> bool {
    let actual = match source {
        Source::Name => object.name(),
        Source::Namespace => object.namespace(),
        Source::Field(index) => object.field(*index),
    };
    (actual == &**value) != *negated
}

fn interest(exchange: &Exchange, terms: &[(Source, Box<str>, bool)], name: Option<&str>) -> Interest {
    let namespace = exchange.namespace();
    let one_namespace = !namespace.is_empty() || !exchange.target.descriptor.namespaced;
    if let (Some(name), true) = (name, one_namespace) {
        return Interest::Object(namespace.to_owned(), name.to_owned());
    }
    if !namespace.is_empty() {
        return Interest::Namespace(namespace.to_owned());
    }
    let field = terms.iter().find_map(|(source, value, negated)| match source {
        Source::Field(index) if !negated => Some(Interest::Field(*index, value.to_string())),
        _ => None,
    });
    field.unwrap_or_default()
}
