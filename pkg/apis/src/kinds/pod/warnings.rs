//! Warnings of pod specs. Source: `pkg/api/pod/warnings.go`.

use std::collections::BTreeSet;

use apimachinery::Value;

use crate::cursor::At;
use crate::kinds::resources::quantity;

/// Node labels with a newer name.
const OLD_LABELS: [(&str, &str); 4] = [
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
];

/// Warnings of a pod spec, in a pod or in a template.
pub(crate) fn of_spec(spec: &At<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (old, new) in OLD_LABELS {
        let at = spec.get("nodeSelector").key(old);
        if at.present() {
            warnings.push(format!("{}: deprecated since v1.14; use {new:?} instead", at.path()));
        }
    }
    if spec.get("terminationGracePeriodSeconds").int().is_some_and(|s| s < 0) {
        let path = spec.get("terminationGracePeriodSeconds").path();
        warnings.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    duplicates(&mut warnings, &spec.get("hostAliases"), "ip");
    duplicates(&mut warnings, &spec.get("imagePullSecrets"), "name");
    for secret in spec.get("imagePullSecrets").items() {
        if secret.get("name").is_empty() {
            warnings.push(format!("{}: invalid empty name {:?}", secret.get("name").path(), ""));
        }
    }
    for list in ["initContainers", "containers"] {
        for container in spec.get(list).items() {
            of_container(&mut warnings, &container);
        }
    }
    warnings
}

fn duplicates<'a>(warnings: &mut Vec<String>, list: &At<'a>, key: &'a str) {
    let mut seen = BTreeSet::new();
    for item in list.items() {
        let value = item.get(key).text();
        if seen.contains(&value) {
            warnings.push(format!("{}: duplicate {key} {value:?}", item.path()));
        }
        seen.insert(value);
    }
}

fn of_container(warnings: &mut Vec<String>, container: &At<'_>) {
    hidden_variables(warnings, container);
    for kind in ["limits", "requests"] {
        for resource in ["memory", "ephemeral-storage"] {
            let at = container.get("resources").get(kind).key(resource);
            if let Some(amount) = quantity(&at).filter(|q| q.milli_value() % 1000 != 0) {
                let path = at.path();
                warnings.push(format!(
                    "{path}: fractional byte value {:?} is invalid, must be an integer",
                    amount.to_string()
                ));
            }
        }
    }
    let mut ports = BTreeSet::new();
    for port in container.get("ports").items() {
        let identity = (port.get("containerPort").int_or_zero(), port.get("protocol").text());
        if ports.contains(&identity) {
            warnings.push(format!("{}: duplicate port definition", port.path()));
        }
        ports.insert(identity);
    }
}

fn hidden_variables(warnings: &mut Vec<String>, container: &At<'_>) {
    let variables = container.get("env");
    let list = variables.value().and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut names: Vec<_> = list
        .iter()
        .map(|variable| variable.get("name").and_then(Value::as_str).unwrap_or_default())
        .collect();
    names.sort_unstable();
    if names.is_sorted_by(|a, b| a < b) {
        return;
    }
    let mut defined: BTreeSet<&str> = BTreeSet::new();
    for variable in variables.items() {
        let name = variable.get("name").text();
        // a variable that refers to its former value is meant
        let refers = || variable.get("value").text().contains(&format!("$({name})"));
        if !defined.insert(name) && !refers() {
            let path = variable.path();
            warnings.push(format!(
                "{path}: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn hidden_variables_and_fractions_warn() {
        let pod = json!({"spec": {"containers": [{"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"},
            {"name": "A", "value": "x$(A)"}], "resources": {"limits": {"memory": "100m"}}}]}});
        assert_eq!(
            of_spec(&At::root(&pod).get("spec")),
            [
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an \
                 integer",
            ]
        );
    }
}
