//! Roles and bindings. Source: `pkg/apis/rbac/validation`, `pkg/apis/rbac/v1/defaults.go`.

use apimachinery::{Map, Value};
use jiff::Timestamp;

use super::print::{age, list, name, str_at};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, Errors, shape};
use crate::edit::{default_text, map_at, maps_in, text};
use crate::names;

const GROUP: &str = "rbac.authorization.k8s.io";

const ROLE_BASE: Rules = Rules {
    name: names::path_segment_name,
    create_on_update: true,
    columns: &[("Name", "string"), ("Created At", "date")],
    row: |o, _| vec![name(o).into(), str_at(o, &["metadata", "creationTimestamp"]).into()],
    ..DEFAULT
};

pub(super) const ROLES: Rules = Rules {
    validate: |o| role(&At::root(o), true),
    validate_update: |_, new, _| role(&At::root(new), true),
    ..ROLE_BASE
};

pub(super) const CLUSTER_ROLES: Rules = Rules {
    validate: |o| cluster_role(&At::root(o)),
    validate_update: |_, new, _| cluster_role(&At::root(new)),
    ..ROLE_BASE
};

fn role(object: &At<'_>, namespaced: bool) -> Errors {
    let mut errors = Vec::new();
    for rule in object.get("rules").items() {
        if rule.get("verbs").is_empty() {
            errors.push(rule.get("verbs").required("verbs must contain at least one value"));
        }
        let (urls, groups, resources) =
            (rule.get("nonResourceURLs"), rule.get("apiGroups"), rule.get("resources"));
        if !urls.is_empty() {
            if namespaced {
                errors.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
            }
            if !groups.is_empty() || !resources.is_empty() || !rule.get("resourceNames").is_empty() {
                errors
                    .push(urls.invalid("rules cannot apply to both regular resources and non-resource URLs"));
            }
            continue;
        }
        if groups.is_empty() {
            errors.push(groups.required("resource rules must supply at least one api group"));
        }
        if resources.is_empty() {
            errors.push(resources.required("resource rules must supply at least one resource"));
        }
    }
    errors
}

fn cluster_role(object: &At<'_>) -> Errors {
    let mut errors = role(object, false);
    let selectors = object.at(&["aggregationRule", "clusterRoleSelectors"]);
    if object.get("aggregationRule").present() && selectors.is_empty() {
        errors.push(
            selectors.required("at least one clusterRoleSelector required if aggregationRule is non-nil"),
        );
    }
    for selector in selectors.items() {
        errors.extend(apimachinery::objectmeta::label_selector(selector.value(), &selector.path()));
    }
    errors
}

const BINDING_BASE: Rules = Rules {
    default: |_, o| {
        if let Some(binding) = o.as_object_mut() {
            if let Some(role) = map_at(binding, "roleRef") {
                default_text(role, "apiGroup", GROUP);
            }
            maps_in(binding, "subjects").for_each(default_subject);
        }
    },
    name: names::path_segment_name,
    create_on_update: true,
    columns: &[
        ("Name", "string"),
        ("Role", "string"),
        ("Age", "string"),
        ("+Users", "string"),
        ("+Groups", "string"),
        ("+ServiceAccounts", "string"),
    ],
    row: binding_row,
    ..DEFAULT
};

fn default_subject(subject: &mut Map) {
    if matches!(text(subject, "kind"), "User" | "Group") {
        default_text(subject, "apiGroup", GROUP);
    }
}

pub(super) const ROLE_BINDINGS: Rules = Rules {
    validate: |o| binding(&At::root(o), &["ClusterRole", "Role"], true),
    validate_update: |_, new, old| binding_update(new, old, &["ClusterRole", "Role"], true),
    ..BINDING_BASE
};

pub(super) const CLUSTER_ROLE_BINDINGS: Rules = Rules {
    validate: |o| binding(&At::root(o), &["ClusterRole"], false),
    validate_update: |_, new, old| binding_update(new, old, &["ClusterRole"], false),
    ..BINDING_BASE
};

fn binding(object: &At<'_>, kinds: &[&str], namespaced: bool) -> Errors {
    let mut errors = Vec::new();
    let role = object.get("roleRef");
    if role.get("apiGroup").text() != GROUP {
        errors.push(role.get("apiGroup").not_supported(&[GROUP]));
    }
    if !kinds.contains(&role.get("kind").text()) {
        errors.push(role.get("kind").not_supported(kinds));
    }
    if role.get("name").is_empty() {
        errors.push(role.get("name").required(""));
    } else {
        shape(&mut errors, &role.get("name"), names::path_segment_name(role.get("name").text(), false));
    }
    for subject in object.get("subjects").items() {
        check_subject(&mut errors, &subject, namespaced);
    }
    errors
}

fn check_subject(errors: &mut Errors, subject: &At<'_>, _namespaced: bool) {
    let (name, group) = (subject.get("name"), subject.get("apiGroup"));
    if name.is_empty() {
        errors.push(name.required(""));
    }
    match subject.get("kind").text() {
        "ServiceAccount" => {
            if !name.is_empty() {
                shape(errors, &name, names::dns1123_subdomain(name.text(), false));
            }
            if !group.is_empty() {
                errors.push(group.not_supported(&[""]));
            }
            if subject.get("namespace").is_empty() {
                errors.push(subject.get("namespace").required(""));
            }
        }
        "User" | "Group" => {
            if group.text() != GROUP {
                errors.push(group.not_supported(&[GROUP]));
            }
        }
        _ => errors.push(subject.get("kind").not_supported(&["ServiceAccount", "User", "Group"])),
    }
}

fn binding_update(new: &Value, old: &Value, kinds: &[&str], namespaced: bool) -> Errors {
    let (new, old) = (At::root(new), At::root(old));
    let mut errors = binding(&new, kinds, namespaced);
    if !crate::cursor::same(new.get("roleRef").value(), old.get("roleRef").value()) {
        errors.push(new.get("roleRef").invalid("cannot change roleRef"));
    }
    errors
}

fn binding_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let subjects = |kind: &str| {
        let texts: Vec<String> = list(object, &["subjects"])
            .iter()
            .filter(|s| s["kind"] == kind)
            .map(|s| match str_at(s, &["namespace"]) {
                namespace if kind == "ServiceAccount" && !namespace.is_empty() => {
                    format!("{namespace}/{}", str_at(s, &["name"]))
                }
                _ => str_at(s, &["name"]).to_owned(),
            })
            .collect();
        Value::from(texts.join(", "))
    };
    let role = format!("{}/{}", str_at(object, &["roleRef", "kind"]), str_at(object, &["roleRef", "name"]));
    vec![
        name(object).into(),
        role.into(),
        age(object, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn bindings_default_validate_and_print() {
        let mut object = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
        (ROLE_BINDINGS.default)("v1", &mut object);
        assert_eq!(object["roleRef"]["apiGroup"], GROUP);
        assert_eq!(object["subjects"][0]["apiGroup"], GROUP);
        assert!((ROLE_BINDINGS.validate)(&object).is_empty());
        let cells = binding_row(&object, Timestamp::UNIX_EPOCH);
        assert_eq!((&cells[1], &cells[5]), (&json!("Role/r"), &json!("n/s")));
        let errors = (CLUSTER_ROLE_BINDINGS.validate)(&object);
        let text = r#"roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole""#;
        assert_eq!(errors[0].to_string(), text);
    }
}
