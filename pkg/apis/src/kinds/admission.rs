//! Webhook configurations and admission policies. Source: `pkg/apis/admissionregistration`.

use std::collections::BTreeSet;

use apimachinery::objectmeta;
use apimachinery::{Map, Value};
use jiff::Timestamp;

use super::print::{age, list, name, or, str_at};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, Errors, one_of, shape};
use crate::edit::{default_to, map_at, maps_in, spec};
use crate::names;

/// Longest wait for a webhook, in seconds.
const MAX_TIMEOUT: i64 = 30;
/// Most rules, conditions, variables or validations of one policy.
const MAX_EXPRESSIONS: usize = 64;

const WEBHOOK_BASE: Rules = Rules {
    generation: true,
    default: |_, o| {
        if let Some(map) = o.as_object_mut() {
            maps_in(map, "webhooks").for_each(default_webhook);
        }
    },
    columns: &[("Name", "string"), ("Webhooks", "integer"), ("Age", "string")],
    row: |o, now| vec![name(o).into(), list(o, &["webhooks"]).len().into(), age(o, now)],
    ..DEFAULT
};

pub(super) const VALIDATING_WEBHOOKS: Rules = Rules {
    validate: |o| webhooks(&At::root(o), false),
    validate_update: |_, new, _| webhooks(&At::root(new), false),
    ..WEBHOOK_BASE
};

pub(super) const MUTATING_WEBHOOKS: Rules = Rules {
    default: |version, o| {
        (WEBHOOK_BASE.default)(version, o);
        if let Some(map) = o.as_object_mut() {
            for webhook in maps_in(map, "webhooks") {
                default_to(webhook, "reinvocationPolicy", "Never");
            }
        }
    },
    validate: |o| webhooks(&At::root(o), true),
    validate_update: |_, new, _| webhooks(&At::root(new), true),
    ..WEBHOOK_BASE
};

fn default_webhook(webhook: &mut Map) {
    default_to(webhook, "failurePolicy", "Fail");
    default_to(webhook, "timeoutSeconds", 10);
    default_match(webhook, "rules");
    if let Some(client) = map_at(webhook, "clientConfig")
        && let Some(service) = map_at(client, "service")
    {
        default_to(service, "port", 443);
    }
}

/// What webhooks and policies match with.
fn default_match(map: &mut Map, rules: &str) {
    default_to(map, "matchPolicy", "Equivalent");
    default_to(map, "namespaceSelector", Map::new());
    default_to(map, "objectSelector", Map::new());
    for rule in maps_in(map, rules) {
        default_to(rule, "scope", "*");
    }
}

fn webhooks(object: &At<'_>, mutating: bool) -> Errors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for hook in object.get("webhooks").items() {
        let name = hook.get("name");
        qualified_name(&mut errors, &name);
        if seen.contains(&name.text()) {
            errors.push(name.duplicate());
        }
        seen.insert(name.text());
        rules(&mut errors, &hook.get("rules"));
        one_of(&mut errors, &hook.get("failurePolicy"), &["Fail", "Ignore"]);
        one_of(&mut errors, &hook.get("matchPolicy"), &["Equivalent", "Exact"]);
        one_of(&mut errors, &hook.get("sideEffects"), &["None", "NoneOnDryRun"]);
        if mutating {
            one_of(&mut errors, &hook.get("reinvocationPolicy"), &["IfNeeded", "Never"]);
        }
        let timeout = hook.get("timeoutSeconds");
        if timeout.int().is_some_and(|t| !(1..=MAX_TIMEOUT).contains(&t)) {
            errors.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
        }
        for selector in ["namespaceSelector", "objectSelector"] {
            let selector = hook.get(selector);
            errors.extend(objectmeta::label_selector(selector.value(), &selector.path()));
        }
        client_config(&mut errors, &hook.get("clientConfig"));
        let versions = hook.get("admissionReviewVersions");
        if versions.is_empty() {
            errors.push(versions.required("must specify one of v1, v1beta1"));
        } else if !versions.items().any(|v| matches!(v.text(), "v1" | "v1beta1")) {
            errors.push(versions.invalid("must include at least one of v1, v1beta1"));
        }
    }
    errors
}

/// A name of at least three DNS labels.
fn qualified_name(errors: &mut Errors, name: &At<'_>) {
    if name.is_empty() {
        errors.push(name.required(""));
        return;
    }
    shape(errors, name, names::dns1123_subdomain(name.text(), false));
    if name.text().split('.').count() < 3 {
        errors.push(name.invalid("should be a domain with at least three segments separated by dots"));
    }
}

fn rules(errors: &mut Errors, rules: &At<'_>) {
    const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for rule in rules.items() {
        for field in ["operations", "apiGroups", "apiVersions", "resources"] {
            let list = rule.get(field);
            if list.is_empty() {
                errors.push(list.required(""));
            }
            if list.len() > 1 && list.items().any(|i| i.text() == "*") && field != "resources" {
                errors.push(list.invalid("if '*' is present, must not specify other values"));
            }
        }
        for operation in rule.get("operations").items() {
            if !OPERATIONS.contains(&operation.text()) {
                errors.push(operation.not_supported(&OPERATIONS));
            }
        }
        let scope = rule.get("scope");
        if scope.present() && !matches!(scope.text(), "*" | "Cluster" | "Namespaced") {
            errors.push(scope.not_supported(&["*", "Cluster", "Namespaced"]));
        }
    }
}

fn client_config(errors: &mut Errors, client: &At<'_>) {
    let (url, service) = (client.get("url"), client.get("service"));
    if url.present() == service.present() {
        errors.push(client.required("exactly one of url or service is required"));
    } else if url.present() {
        let rest = url.text().strip_prefix("https://");
        if rest.is_none() {
            errors.push(
                url.invalid("'https' is the only allowed URL scheme; desired format: https://host[/path]"),
            );
        } else if rest.is_some_and(|r| r.is_empty() || r.starts_with('/')) {
            errors.push(url.invalid("host must be specified; desired format: https://host[/path]"));
        }
    } else {
        for field in ["namespace", "name"] {
            if service.get(field).is_empty() {
                errors.push(service.get(field).required(&format!("service {field} is required")));
            }
        }
        let path = service.get("path");
        if !path.is_empty() && !path.text().starts_with('/') {
            errors.push(path.invalid("must start with a '/'"));
        }
        let port = service.get("port");
        if port.int().is_some_and(|p| !names::port_number(p).is_empty()) {
            errors.push(port.invalid("port is not valid: must be between 1 and 65535, inclusive"));
        }
    }
}

fn default_policy(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default_to(spec, "failurePolicy", "Fail");
    if let Some(constraints) = map_at(spec, "matchConstraints") {
        default_match(constraints, "resourceRules");
        for rule in maps_in(constraints, "excludeResourceRules") {
            default_to(rule, "scope", "*");
        }
    }
}

fn default_binding(object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    if let Some(resources) = map_at(spec, "matchResources") {
        default_match(resources, "resourceRules");
        for rule in maps_in(resources, "excludeResourceRules") {
            default_to(rule, "scope", "*");
        }
    }
    if let Some(reference) = map_at(spec, "paramRef") {
        default_to(reference, "parameterNotFoundAction", "Deny");
    }
}

pub(super) const VALIDATING_POLICIES: Rules = Rules {
    generation: true,
    default: |_, o| default_policy(o),
    validate: |o| policy(&At::root(o), &["validations", "auditAnnotations"]),
    validate_update: |context, new, _| match context.subresource {
        "status" => Vec::new(),
        _ => policy(&At::root(new), &["validations", "auditAnnotations"]),
    },
    columns: &[("Name", "string"), ("Validations", "integer"), ("ParamKind", "string"), ("Age", "string")],
    row: |o, now| policy_row(o, now, "validations"),
    ..DEFAULT
};

pub(super) const MUTATING_POLICIES: Rules = Rules {
    generation: true,
    default: |_, o| default_policy(o),
    validate: |o| policy(&At::root(o), &["mutations"]),
    validate_update: |_, new, _| policy(&At::root(new), &["mutations"]),
    columns: &[("Name", "string"), ("Mutations", "integer"), ("ParamKind", "string"), ("Age", "string")],
    row: |o, now| policy_row(o, now, "mutations"),
    ..DEFAULT
};

fn policy_row(object: &Value, now: Timestamp, list_name: &str) -> Vec<Value> {
    let kind = |field: &str| str_at(object, &["spec", "paramKind", field]);
    let parameters = if kind("kind").is_empty() {
        "<unset>".into()
    } else {
        format!("{}/{}", kind("apiVersion"), kind("kind"))
    };
    vec![
        name(object).into(),
        list(object, &["spec", list_name]).len().into(),
        parameters.into(),
        age(object, now),
    ]
}

fn policy(object: &At<'_>, lists: &[&'static str]) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    one_of(&mut errors, &spec.get("failurePolicy"), &["Fail", "Ignore"]);
    let kind = spec.get("paramKind");
    if kind.present() {
        for field in ["apiVersion", "kind"] {
            if kind.get(field).is_empty() {
                errors.push(kind.get(field).required(""));
            }
        }
    }
    let constraints = spec.get("matchConstraints");
    if constraints.present() {
        if constraints.get("resourceRules").is_empty() {
            errors.push(constraints.get("resourceRules").required(""));
        }
        rules(&mut errors, &constraints.get("resourceRules"));
        rules(&mut errors, &constraints.get("excludeResourceRules"));
    } else {
        errors.push(constraints.required(""));
    }
    if lists.iter().all(|list| spec.get(list).is_empty()) {
        let detail = match lists {
            [one] => format!("{one} must contain at least one item"),
            _ => "validations or auditAnnotations must contain at least one item".to_owned(),
        };
        errors.push(spec.get(lists[0]).required(&detail));
    }
    for list in ["variables", "matchConditions"].iter().chain(lists) {
        let list = spec.get(list);
        if list.len() > MAX_EXPRESSIONS {
            errors.push(list.too_many(MAX_EXPRESSIONS));
        }
    }
    for validation in spec.get("validations").items() {
        let expression = validation.get("expression");
        if expression.text().trim().is_empty() {
            errors.push(expression.required("expression is not specified"));
        }
    }
    for condition in spec.get("matchConditions").items() {
        for field in ["name", "expression"] {
            if condition.get(field).is_empty() {
                errors.push(condition.get(field).required(""));
            }
        }
    }
    errors
}

pub(super) const VALIDATING_BINDINGS: Rules = Rules {
    generation: true,
    default: |_, o| default_binding(o),
    validate: |o| {
        let mut errors = binding(&At::root(o));
        let actions = At::root(o).at(&["spec", "validationActions"]);
        if actions.is_empty() {
            errors.push(actions.required("at least one validation action is required"));
        }
        for action in actions.items() {
            if !matches!(action.text(), "Audit" | "Deny" | "Warn") {
                errors.push(action.not_supported(&["Audit", "Deny", "Warn"]));
            }
        }
        errors
    },
    validate_update: |_, new, _| binding(&At::root(new)),
    columns: BINDING_COLUMNS,
    row: binding_row,
    ..DEFAULT
};

pub(super) const MUTATING_BINDINGS: Rules = Rules {
    generation: true,
    default: |_, o| default_binding(o),
    validate: |o| binding(&At::root(o)),
    validate_update: |_, new, _| binding(&At::root(new)),
    columns: BINDING_COLUMNS,
    row: binding_row,
    ..DEFAULT
};

const BINDING_COLUMNS: &[(&str, &str)] =
    &[("Name", "string"), ("PolicyName", "string"), ("ParamRef", "string"), ("Age", "string")];

fn binding(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    let policy = spec.get("policyName");
    if policy.is_empty() {
        errors.push(policy.required(""));
    } else {
        shape(&mut errors, &policy, names::dns1123_subdomain(policy.text(), false));
    }
    let reference = spec.get("paramRef");
    if reference.present() {
        let (name, selector) = (reference.get("name"), reference.get("selector"));
        if name.is_empty() != selector.present() {
            errors.push(reference.required("one of name or selector must be specified"));
        }
        one_of(&mut errors, &reference.get("parameterNotFoundAction"), &["Allow", "Deny"]);
    }
    let resources = spec.get("matchResources");
    rules(&mut errors, &resources.get("resourceRules"));
    rules(&mut errors, &resources.get("excludeResourceRules"));
    errors
}

fn binding_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let reference = |field: &str| str_at(object, &["spec", "paramRef", field]);
    let text = match (reference("namespace"), reference("name")) {
        (_, "") => "",
        ("", name) => name,
        (namespace, name) => &format!("{namespace}/{name}"),
    };
    vec![
        name(object).into(),
        str_at(object, &["spec", "policyName"]).into(),
        or(text, "<unset>"),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn webhooks_default_and_validate() {
        let mut object = json!({"webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
        (MUTATING_WEBHOOKS.default)("v1", &mut object);
        let hook = &object["webhooks"][0];
        assert_eq!(hook["failurePolicy"], "Fail");
        assert_eq!(hook["clientConfig"]["service"]["port"], 443);
        assert_eq!(hook["rules"][0]["scope"], "*");
        assert_eq!(hook["reinvocationPolicy"], "Never");
        assert_eq!((MUTATING_WEBHOOKS.validate)(&object), []);
        object["webhooks"][0]["name"] = json!("short");
        let errors = (MUTATING_WEBHOOKS.validate)(&object);
        assert_eq!(
            errors[0].to_string(),
            "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments separated by dots"
        );
    }
}
