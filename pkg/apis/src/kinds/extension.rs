//! Custom resource definitions and API services. Source: `k8s.io/apiextensions-apiserver`, `k8s.io/kube-aggregator`.

use std::collections::BTreeSet;

use apimachinery::Value;
use apimachinery::strategy::Resets;

use super::print::{age, list, name, str_at};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, Errors, one_of, shape};
use crate::edit::{default_text, default_to, map_at, map_or_new, spec};
use crate::names;

/// Custom resource definitions.
pub(super) const DEFINITIONS: Rules = Rules {
    resets: &[("status", Resets::Except(&["metadata", "spec"]))],
    generation: true,
    default: |_, o| {
        let Some(spec) = spec(o) else { return };
        if let Some(names) = map_at(spec, "names") {
            let kind = crate::edit::text(names, "kind").to_owned();
            if !kind.is_empty() {
                default_text(names, "singular", &kind.to_lowercase());
                default_text(names, "listKind", &format!("{kind}List"));
            }
        }
        if let Some(conversion) = map_or_new(spec, "conversion") {
            default_text(conversion, "strategy", "None");
            if let Some(client) = map_at(conversion, "webhook").and_then(|w| map_at(w, "clientConfig"))
                && let Some(service) = map_at(client, "service")
            {
                default_to(service, "port", 443);
            }
        }
    },
    prepare_create: |_, o| {
        // what will be stored is known at once; the rest of the status is the controllers'
        let stored: Vec<Value> = list(o, &["spec", "versions"])
            .iter()
            .filter(|v| v["storage"] == true)
            .filter_map(|v| v.get("name").cloned())
            .collect();
        if let Some(map) = o.as_object_mut() {
            map.insert(
                "status".into(),
                apimachinery::json!({"storedVersions": stored, "conditions": [], "acceptedNames": {"plural": "", "kind": ""}}),
            );
        }
    },
    prepare_update: |context, new, old| {
        if context.subresource == "status" {
            return;
        }
        // a version that becomes the stored one is stored from now on
        let mut stored: Vec<Value> = list(old, &["status", "storedVersions"]).to_vec();
        for version in list(new, &["spec", "versions"]) {
            if version["storage"] == true && !stored.contains(&version["name"]) {
                stored.push(version["name"].clone());
            }
        }
        if let Some(status) = crate::edit::status(new) {
            status.insert("storedVersions".into(), stored.into());
        }
    },
    validate: |o| definition(&At::root(o)),
    validate_update: |context, new, old| {
        let (new, old) = (At::root(new), At::root(old));
        if context.subresource == "status" {
            return Vec::new();
        }
        let mut errors = definition(&new);
        let established = old
            .at(&["status", "conditions"])
            .items()
            .any(|c| c.get("type").text() == "Established" && c.get("status").text() == "True");
        if established {
            for path in [["spec", "scope"].as_slice(), &["spec", "names", "kind"]] {
                crate::cursor::immutable(&mut errors, &new.at(path), &old.at(path));
            }
        }
        for path in [["spec", "group"].as_slice(), &["spec", "names", "plural"]] {
            crate::cursor::immutable(&mut errors, &new.at(path), &old.at(path));
        }
        errors
    },
    columns: &[("Name", "string"), ("Created At", "date")],
    row: |o, _| vec![name(o).into(), str_at(o, &["metadata", "creationTimestamp"]).into()],
    ..DEFAULT
};

fn definition(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    let (group, names_at) = (spec.get("group"), spec.get("names"));
    let wanted = format!("{}.{}", names_at.get("plural").text(), group.text());
    if object.at(&["metadata", "name"]).text() != wanted {
        errors.push(
            object.at(&["metadata", "name"]).invalid_text("must be spec.names.plural+\".\"+spec.group"),
        );
    }
    if group.is_empty() {
        errors.push(group.required(""));
    } else {
        shape(&mut errors, &group, names::dns1123_subdomain(group.text(), false));
        if group.text().split('.').count() < 2 {
            errors.push(group.invalid("should be a domain with at least one dot"));
        }
    }
    one_of(&mut errors, &spec.get("scope"), &["Cluster", "Namespaced"]);
    for field in ["plural", "singular"] {
        let at = names_at.get(field);
        if at.is_empty() && field == "plural" {
            errors.push(at.required(""));
        } else if !at.is_empty() {
            shape(&mut errors, &at, names::dns1035_label(at.text(), false));
        }
    }
    for field in ["kind", "listKind"] {
        let at = names_at.get(field);
        if at.is_empty() {
            errors.push(at.required(""));
        } else {
            let problems = names::dns1035_label(&at.text().to_lowercase(), false);
            let problem = "may have mixed case, but should otherwise match: ";
            errors.extend(problems.into_iter().map(|p| at.invalid(format!("{problem}{p}"))));
        }
    }
    if names_at.get("kind").text() == names_at.get("listKind").text() && !names_at.get("kind").is_empty() {
        errors.push(names_at.get("listKind").invalid("kind and listKind may not be the same"));
    }
    definition_versions(&mut errors, &spec);
    one_of(&mut errors, &spec.at(&["conversion", "strategy"]), &["None", "Webhook"]);
    if spec.get("preserveUnknownFields").flag() {
        errors.push(
            spec.get("preserveUnknownFields")
                .invalid("cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"),
        );
    }
    errors
}

fn definition_versions(errors: &mut Errors, spec: &At<'_>) {
    let versions = spec.get("versions");
    let mut seen = BTreeSet::new();
    for version in versions.items() {
        let name = version.get("name");
        let problems = names::dns1035_label(name.text(), false);
        shape(errors, &name, problems);
        if seen.contains(&name.text()) {
            errors.push(versions.invalid("must contain unique version names"));
        }
        seen.insert(name.text());
        if !version.at(&["schema", "openAPIV3Schema"]).present() {
            errors.push(version.at(&["schema", "openAPIV3Schema"]).required("schemas are required"));
        }
    }
    if versions.items().filter(|v| v.get("storage").flag()).count() != 1 {
        errors.push(versions.invalid("must have exactly one version marked as storage version"));
    }
}

/// API services.
pub(super) const API_SERVICES: Rules = Rules {
    resets: &[("status", Resets::Except(&["metadata", "spec"]))],
    default: |_, o| {
        if let Some(service) = spec(o).and_then(|s| map_at(s, "service")) {
            default_to(service, "port", 443);
        }
    },
    prepare_create: |context, o| {
        if crate::edit::spec(o).is_some_and(|s| crate::edit::unset(s, "service")) {
            let now = context.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            if let Some(map) = o.as_object_mut() {
                map.insert(
                    "status".into(),
                    apimachinery::json!({"conditions": [{"type": "Available", "status": "True", "reason": "Local",
                        "lastTransitionTime": now, "message": "Local APIServices are always available"}]}),
                );
            }
        }
    },
    validate: |o| api_service(&At::root(o)),
    validate_update: |context, new, _| match context.subresource {
        "status" => Vec::new(),
        _ => api_service(&At::root(new)),
    },
    name: names::path_segment_name,
    columns: &[("Name", "string"), ("Service", "string"), ("Available", "string"), ("Age", "string")],
    row: |o, now| {
        let service = |field: &str| str_at(o, &["spec", "service", field]);
        let text = if service("name").is_empty() {
            "Local".to_owned()
        } else {
            format!("{}/{}", service("namespace"), service("name"))
        };
        let available = match super::print::condition(o, "Available") {
            None => "Unknown".to_owned(),
            Some(c) if c["status"] == "True" => "True".to_owned(),
            Some(c) => format!("{} ({})", str_at(c, &["status"]), str_at(c, &["reason"])),
        };
        vec![name(o).into(), text.into(), available.into(), age(o, now)]
    },
    ..DEFAULT
};

fn api_service(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    let (group, version) = (spec.get("group"), spec.get("version"));
    let wanted = format!("{}.{}", version.text(), group.text());
    let own = object.at(&["metadata", "name"]);
    if own.text() != wanted {
        errors.push(own.invalid_text(format!("must be `spec.version+\".\"+spec.group`: {wanted:?}")));
    }
    if version.is_empty() {
        errors.push(version.required(""));
    } else {
        shape(&mut errors, &version, names::dns1035_label(version.text(), false));
    }
    let (group_priority, version_priority) = (spec.get("groupPriorityMinimum"), spec.get("versionPriority"));
    if !(1..=20_000).contains(&group_priority.int_or_zero()) {
        errors.push(
            group_priority
                .invalid_value(group_priority.int_or_zero(), "must be positive and less than 20000"),
        );
    }
    if !(1..=1000).contains(&version_priority.int_or_zero()) {
        errors.push(
            version_priority
                .invalid_value(version_priority.int_or_zero(), "must be positive and less than 1000"),
        );
    }
    let service = spec.get("service");
    if service.present() {
        for field in ["namespace", "name"] {
            if service.get(field).is_empty() {
                errors.push(service.get(field).required(""));
            }
        }
        if spec.get("insecureSkipTLSVerify").flag() && !spec.get("caBundle").is_empty() {
            errors.push(spec.get("insecureSkipTLSVerify").invalid("may not be true if caBundle is present"));
        }
    } else {
        if spec.get("insecureSkipTLSVerify").flag() {
            errors.push(
                spec.get("insecureSkipTLSVerify")
                    .invalid("local APIServices may not have insecureSkipTLSVerify"),
            );
        }
        if !spec.get("caBundle").is_empty() {
            errors.push(spec.get("caBundle").invalid("local APIServices may not have a caBundle"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;
    use jiff::Timestamp;

    #[test]
    fn definitions_default_and_validate() {
        let mut object = json!({"metadata": {"name": "foos.example.com"}, "spec": {"group": "example.com",
            "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
        (DEFINITIONS.default)("v1", &mut object);
        assert_eq!(object["spec"]["names"]["listKind"], "FooList");
        assert_eq!(object["spec"]["conversion"], json!({"strategy": "None"}));
        assert_eq!((DEFINITIONS.validate)(&object), []);
        object["metadata"]["name"] = json!("other");
        assert_eq!((DEFINITIONS.validate)(&object).len(), 1);
    }

    #[test]
    fn local_api_services_are_available() {
        let context = apimachinery::strategy::WriteContext {
            now: Timestamp::UNIX_EPOCH,
            user: "u",
            groups: &[],
            subresource: "",
            group: "",
        };
        let mut object = json!({"metadata": {"name": "v1.apps"}, "spec": {"group": "apps", "version": "v1",
            "groupPriorityMinimum": 17800, "versionPriority": 15}});
        (API_SERVICES.prepare_create)(&context, &mut object);
        assert_eq!((API_SERVICES.validate)(&object), []);
        let row = (API_SERVICES.row)(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..3], [json!("Local"), json!("True")]);
    }
}
