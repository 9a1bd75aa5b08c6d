//! Pod templates in other kinds, and numbers that may be percentages.

use apimachinery::Value;
use apimachinery::meta::at;
use apimachinery::selectors::LabelSelector;

use super::pod::validation;
use crate::cursor::{At, Errors, same, shape};
use crate::names;

/// Validates a pod template.
pub(super) fn validate(errors: &mut Errors, template: &At<'_>) {
    let metadata = template.get("metadata");
    let labels = metadata.get("labels");
    apimachinery::objectmeta::labels(labels.value().and_then(|v| v.as_object()), &labels.path(), errors);
    let annotations = metadata.get("annotations");
    apimachinery::objectmeta::annotations(
        annotations.value().and_then(|v| v.as_object()),
        &annotations.path(),
        errors,
    );
    validation::template_spec(errors, &template.get("spec"));
}

/// Warnings of the pod template at a path of an object, on create and when the template changes.
pub(super) fn warnings(object: &Value, old: Option<&Value>, path: &[&str]) -> Vec<String> {
    let template = At::root(object).at(path);
    if old.is_some_and(|old| same(template.value(), at(old, path))) {
        return Vec::new();
    }
    super::pod::warnings::of_spec(&template.get("spec"))
}

/// Whether a selector selects the template's pods; a broken selector is said elsewhere.
pub(super) fn selects(selector: &At<'_>, template: &At<'_>) -> bool {
    let empty = apimachinery::Map::new();
    let labels = template.at(&["metadata", "labels"]);
    let labels = labels.value().and_then(|v| v.as_object()).unwrap_or(&empty);
    LabelSelector::from_value(selector.value()).map_or(true, |selector| selector.matches(labels))
}

/// Adds an error for what is neither a number from 0 nor a percentage.
pub(super) fn int_or_percent(errors: &mut Errors, at: &At<'_>) {
    if let Some(number) = at.int() {
        if number < 0 {
            errors.push(at.invalid("must be greater than or equal to 0"));
        }
    } else if at.present() {
        shape(errors, at, names::percent(at.text()));
    }
}

/// The number, or the number before the percent sign.
pub(super) fn percent_or_int(at: &At<'_>) -> i64 {
    at.int().or_else(|| at.text().strip_suffix('%')?.parse().ok()).unwrap_or(0)
}

/// Adds an error for more than `100%`.
pub(super) fn at_most_100_percent(errors: &mut Errors, at: &At<'_>) {
    if at.text().strip_suffix('%').and_then(|n| n.parse::<i64>().ok()).is_some_and(|n| n > 100) {
        errors.push(at.invalid("must not be greater than 100%"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn templates_warn_when_they_change() {
        let object = |value: &str| {
            json!({"spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "c",
                "env": [{"name": "A", "value": value}, {"name": "A", "value": "2"}]}]}}}})
        };
        let path = ["spec", "template"];
        assert_eq!(warnings(&object("1"), None, &path).len(), 1);
        assert_eq!(warnings(&object("1"), Some(&object("0")), &path).len(), 1);
        let mut scaled = object("1");
        scaled["spec"]["replicas"] = json!(5);
        assert_eq!(warnings(&scaled, Some(&object("1")), &path), [""; 0]);
    }
}
