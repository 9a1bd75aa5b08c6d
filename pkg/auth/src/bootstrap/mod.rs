//! The roles and bindings every cluster starts with, and how existing ones are brought up to them.
//!
//! `policy.txt` holds the facts; [`objects`] makes API objects of them; [`reconcile`] says what to do about one of them.
//! Source: the RBAC reference page, "Default roles and role bindings" and "Auto-reconciliation".

use apimachinery::Value;
use apimachinery::meta::{GroupVersionResource, at, metadata_mut, str_at};
use apimachinery::{Map, json};

use crate::authz::rbac::{PolicyRule, missing};

const POLICY: &str = include_str!("policy.txt");
const GROUP: &str = "rbac.authorization.k8s.io";
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// An object of the bootstrap policy.
#[derive(Debug, Clone, PartialEq)]
pub struct BootstrapObject {
    /// Its resource.
    pub gvr: GroupVersionResource,
    /// Namespace, empty for the cluster-wide kinds.
    pub namespace: String,
    /// The object.
    pub object: Value,
}

/// What to do about an object of the policy.
#[derive(Debug, Clone, PartialEq)]
pub enum Reconciliation {
    /// It is as it should be, or its owner wants it left alone.
    Nothing,
    /// It does not exist.
    Create,
    /// Replace it by this.
    Update(Value),
    /// Its role reference cannot be changed: delete it, then create it.
    Recreate(Value),
}

fn verbs(text: &str) -> Vec<&str> {
    let mut verbs: Vec<&str> = match text {
        "R" => vec!["get", "list", "watch"],
        "W" => vec!["create", "delete", "deletecollection", "patch", "update"],
        "RW" => vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        other => other.split(',').collect(),
    };
    verbs.sort_unstable();
    verbs
}

/// One rule line.
fn rule(line: &str) -> Value {
    let mut words = line.split_whitespace();
    let (first, groups) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    if first == "events" {
        return json!({"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]});
    }
    let resources: Vec<&str> = words.next().unwrap_or("").split(',').collect();
    if groups == "url" {
        return json!({"nonResourceURLs": resources, "verbs": verbs(first)});
    }
    let groups: Vec<&str> = groups.split(',').map(|g| if g == "core" { "" } else { g }).collect();
    let mut rule = json!({"apiGroups": groups, "resources": resources, "verbs": verbs(first)});
    if let Some(names) = words.next() {
        rule["resourceNames"] = json!(names.split(',').collect::<Vec<_>>());
    }
    rule
}

fn object(kind: &str, namespace: &str, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "annotations": {AUTO_UPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata})
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("sa", rest)) => {
            let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        Some(("group", name)) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        _ => json!({"apiGroup": GROUP, "kind": "User", "name": text.trim_start_matches("user:")}),
    }
}

fn binding(namespace: &str, name: &str, role: &str, subjects: &[&str]) -> BootstrapObject {
    let (kind, role_kind) =
        if namespace.is_empty() { ("ClusterRoleBinding", "ClusterRole") } else { ("RoleBinding", "Role") };
    let mut object = object(kind, namespace, name);
    object["roleRef"] = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
    if !subjects.is_empty() {
        object["subjects"] = subjects.iter().map(|s| subject(s)).collect();
    }
    bootstrap(namespace, object)
}

fn bootstrap(namespace: &str, object: Value) -> BootstrapObject {
    let plural = format!("{}s", str_at(&object, &["kind"]).to_ascii_lowercase());
    BootstrapObject {
        gvr: GroupVersionResource::new(GROUP, "v1", plural),
        namespace: namespace.to_owned(),
        object,
    }
}

fn cluster_role(name: &str, options: &[&str]) -> BootstrapObject {
    let mut role = object("ClusterRole", "", name);
    role["rules"] = Value::Null;
    for option in options {
        match option.split_once('=') {
            Some(("into", target)) => {
                role["metadata"]["labels"][format!("{GROUP}/aggregate-to-{target}")] = json!("true");
            }
            Some(("from", label)) => {
                let label = format!("{GROUP}/aggregate-to-{label}");
                role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
            }
            _ => {}
        }
    }
    bootstrap("", role)
}

/// All objects of the policy: roles before the bindings to them.
pub fn objects() -> Vec<BootstrapObject> {
    let mut roles: Vec<BootstrapObject> = Vec::new();
    let mut bindings = Vec::new();
    for line in POLICY.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if line.starts_with(' ') {
            if let Some(role) = roles.last_mut() {
                match &mut role.object["rules"] {
                    Value::Array(rules) => rules.push(rule(line)),
                    other => *other = json!([rule(line)]),
                }
            }
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["clusterrole", name, options @ ..] => roles.push(cluster_role(name, options)),
            ["controller", name] => {
                let role = format!("system:controller:{name}");
                roles.push(cluster_role(&role, &[]));
                bindings.push(binding("", &role, &role, &[&format!("sa:kube-system/{name}")]));
            }
            ["role", namespace, name] => {
                let mut role = object("Role", namespace, name);
                role["rules"] = Value::Null;
                roles.push(bootstrap(namespace, role));
            }
            ["clusterbinding", role, subjects @ ..] => bindings.push(binding("", role, role, subjects)),
            ["binding", namespace, name, role, subjects @ ..] => {
                bindings.push(binding(namespace, name, role, subjects));
            }
            _ => {}
        }
    }
    // an aggregated role starts without rules, and without the field
    for role in &mut roles {
        if role.object["rules"].is_null()
            && let Some(map) = role.object.as_object_mut()
        {
            map.insert("rules".into(), json!([]));
        }
    }
    roles.extend(bindings);
    roles
}

/// The rules of ClusterRole `system:node`, which the Node authorizer applies itself.
pub fn node_rules() -> Vec<PolicyRule> {
    objects()
        .iter()
        .find(|o| {
            str_at(&o.object, &["metadata", "name"]) == "system:node" && o.gvr.resource == "clusterroles"
        })
        .map(|o| rules_of(&o.object))
        .unwrap_or_default()
}

fn rules_of(object: &Value) -> Vec<PolicyRule> {
    at(object, &["rules"]).and_then(|r| apimachinery::from_value(r.clone()).ok()).unwrap_or_default()
}

/// Adds entries of a map in the metadata that are missing. True when something was.
fn add_missing(object: &mut Value, field: &str, wanted: &Value) -> bool {
    let Some(wanted) = at(wanted, &["metadata", field]).and_then(Value::as_object) else { return false };
    let Some(metadata) = metadata_mut(object) else { return false };
    let entry = metadata.entry(field).or_insert_with(|| Value::Object(Map::new()));
    let Some(present) = entry.as_object_mut() else { return false };
    let before = present.len();
    for (key, value) in wanted {
        present.entry(key.clone()).or_insert_with(|| value.clone());
    }
    present.len() != before
}

fn same_subject(a: &Value, b: &Value) -> bool {
    ["kind", "name", "namespace"].iter().all(|key| str_at(a, &[key]) == str_at(b, &[key]))
}

/// What to do so that an object grants at least what the policy says. Rules, subjects, labels and annotations that
/// others have added stay; an object annotated `autoupdate: "false"` is left alone.
pub fn reconcile(existing: Option<&Value>, wanted: &Value) -> Reconciliation {
    let Some(existing) = existing else { return Reconciliation::Create };
    if str_at(existing, &["metadata", "annotations", AUTO_UPDATE]) == "false" {
        return Reconciliation::Nothing;
    }
    if at(wanted, &["roleRef"]).is_some() && at(wanted, &["roleRef"]) != at(existing, &["roleRef"]) {
        return Reconciliation::Recreate(wanted.clone());
    }
    let mut updated = existing.clone();
    let mut changed = add_missing(&mut updated, "labels", wanted);
    changed |= add_missing(&mut updated, "annotations", wanted);
    if let Some(aggregation) = at(wanted, &["aggregationRule"])
        && at(existing, &["aggregationRule"]) != Some(aggregation)
    {
        updated["aggregationRule"] = aggregation.clone();
        changed = true;
    }
    // the rules of an aggregated role belong to the controller
    if at(wanted, &["aggregationRule"]).is_none()
        && !missing(&rules_of(existing), &rules_of(wanted)).is_empty()
    {
        let mut rules = at(existing, &["rules"]).and_then(Value::as_array).cloned().unwrap_or_default();
        for rule in at(wanted, &["rules"]).and_then(Value::as_array).into_iter().flatten() {
            let parsed: PolicyRule = apimachinery::from_value(rule.clone()).unwrap_or_default();
            if !missing(&rules_of(existing), &[parsed]).is_empty() {
                rules.push(rule.clone());
            }
        }
        updated["rules"] = Value::Array(rules.into());
        changed = true;
    }
    let mut subjects = at(existing, &["subjects"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let before = subjects.len();
    for subject in at(wanted, &["subjects"]).and_then(Value::as_array).into_iter().flatten() {
        if !subjects.iter().any(|s| same_subject(s, subject)) {
            subjects.push(subject.clone());
        }
    }
    if subjects.len() != before {
        updated["subjects"] = Value::Array(subjects.into());
        changed = true;
    }
    if changed { Reconciliation::Update(updated) } else { Reconciliation::Nothing }
}

#[cfg(test)]
#[path = "tests.rs"]
mod policy_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn find(resource: &str, name: &str) -> Value {
        objects()
            .into_iter()
            .find(|o| o.gvr.resource == resource && str_at(&o.object, &["metadata", "name"]) == name)
            .expect("in the policy")
            .object
    }

    #[test]
    fn facts_become_objects() {
        let all = objects();
        let count = |resource: &str| all.iter().filter(|o| o.gvr.resource == resource).count();
        assert!(count("clusterroles") > 60 && count("clusterrolebindings") > 45);
        assert_eq!((count("roles"), count("rolebindings")), (7, 7));
        assert_eq!(
            find("clusterroles", "edit"),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "rules": [],
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}}]},
                "metadata": {"name": "edit", "annotations": {AUTO_UPDATE: "true"},
                    "labels": {"kubernetes.io/bootstrapping": "rbac-defaults", "rbac.authorization.k8s.io/aggregate-to-admin": "true"}}})
        );
        assert_eq!(
            find("clusterrolebindings", "system:kube-dns")["subjects"],
            json!([{"kind": "ServiceAccount", "name": "kube-dns", "namespace": "kube-system"}])
        );
        assert_eq!(
            find("roles", "extension-apiserver-authentication-reader")["rules"],
            json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"],
                    "resourceNames": ["extension-apiserver-authentication"]}])
        );
        assert_eq!(node_rules().len(), 25);
    }

    #[test]
    fn every_line_parses() {
        for line in POLICY.lines().filter(|l| l.starts_with("  ") && l.trim() != "events") {
            let words = line.split_whitespace().count();
            assert!((3..=4).contains(&words), "{line}");
        }
        for object in objects() {
            let role = str_at(&object.object, &["roleRef", "name"]);
            let kind = if object.namespace.is_empty() { "clusterroles" } else { "roles" };
            assert!(role.is_empty() || str_at(&find(kind, role), &["metadata", "name"]) == role);
        }
    }

    #[test]
    fn objects_are_brought_up_and_not_down() {
        let wanted = find("clusterroles", "system:kube-dns");
        assert_eq!(reconcile(None, &wanted), Reconciliation::Create);
        assert_eq!(reconcile(Some(&wanted), &wanted), Reconciliation::Nothing);

        let mut mine = wanted.clone();
        mine["rules"] = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        mine["metadata"]["labels"] = json!({"mine": "yes"});
        let Reconciliation::Update(updated) = reconcile(Some(&mine), &wanted) else { panic!("no update") };
        assert_eq!(updated["rules"].as_array().map(Vec::len), Some(2));
        assert_eq!(updated["metadata"]["labels"]["mine"], "yes");
        assert_eq!(updated["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
        assert_eq!(reconcile(Some(&updated), &wanted), Reconciliation::Nothing);

        mine["metadata"]["annotations"] = json!({AUTO_UPDATE: "false"});
        assert_eq!(reconcile(Some(&mine), &wanted), Reconciliation::Nothing);

        let wanted = find("clusterrolebindings", "system:kube-dns");
        let mut other = wanted.clone();
        other["roleRef"]["name"] = json!("view");
        assert_eq!(reconcile(Some(&other), &wanted), Reconciliation::Recreate(wanted.clone()));
        let mut empty = wanted.clone();
        empty["subjects"] = json!([]);
        assert_eq!(reconcile(Some(&empty), &wanted), Reconciliation::Update(wanted));
    }

    #[test]
    fn aggregated_rules_are_the_controllers() {
        let wanted = find("clusterroles", "admin");
        let mut filled = wanted.clone();
        filled["rules"] = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        assert_eq!(reconcile(Some(&filled), &wanted), Reconciliation::Nothing);
    }
}
