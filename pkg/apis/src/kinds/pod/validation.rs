//! Validation of pod specs, in pods and in templates.
//!
//! Source: `ValidatePodSpec` in `pkg/apis/core/validation`; errors come in its order.

use std::collections::BTreeSet;

use apimachinery::Value;
use apimachinery::objectmeta;

use super::container::{self, Scope};
use super::{scheduling, security, volumes};
use crate::cursor::{At, Errors, one_of, shape};
use crate::names;

/// Most name servers of a pod.
const MAX_NAME_SERVERS: usize = 3;
/// Most search domains of a pod.
const MAX_SEARCHES: usize = 32;
/// Most bytes of all search domains.
const MAX_SEARCH_BYTES: usize = 2048;

/// Validates the spec of a pod template.
pub(crate) fn template_spec(errors: &mut Errors, spec: &At<'_>) {
    pod_spec(errors, spec);
    if !spec.get("ephemeralContainers").is_empty() {
        errors.push(
            spec.get("ephemeralContainers").forbidden("ephemeral containers not allowed in pod template"),
        );
    }
}

/// Validates a new pod.
pub(super) fn pod(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    pod_spec(&mut errors, &spec);
    if !spec.get("ephemeralContainers").is_empty() {
        errors.push(spec.get("ephemeralContainers").forbidden("cannot be set on create"));
    }
    errors
}

/// Validates a pod spec.
pub(super) fn pod_spec(errors: &mut Errors, spec: &At<'_>) {
    let grace = spec.get("terminationGracePeriodSeconds");
    let volumes = volumes::validate(errors, &spec.get("volumes"));
    let scope = Scope {
        volumes: &volumes,
        grace: grace.int_or_zero(),
        claims: resource_claims(errors, &spec.get("resourceClaims")),
        host_users: spec.get("hostUsers").value() != Some(&Value::Bool(false)),
    };
    container::containers(errors, &spec.get("containers"), &scope);
    container::init_containers(errors, &spec.get("initContainers"), &spec.get("containers"), &scope);
    container::ephemeral_containers(errors, spec, &scope);
    if spec.get("resources").present() {
        crate::kinds::resources::requirements(errors, &spec.get("resources"));
    }
    host_network_ports(errors, spec);
    restart_policy(errors, &spec.get("restartPolicy"));
    dns_policy(errors, &spec.get("dnsPolicy"));
    let selector = spec.get("nodeSelector");
    objectmeta::labels(selector.value().and_then(Value::as_object), &selector.path(), errors);
    security::pod(errors, spec);
    scheduling::affinity(errors, &spec.get("affinity"));
    dns_config(errors, &spec.get("dnsConfig"), spec.get("dnsPolicy").text());
    for gate in spec.get("readinessGates").items() {
        let kind = gate.get("conditionType");
        shape(errors, &kind, names::label_key(kind.text()));
    }
    scheduling_gates(errors, &spec.get("schedulingGates"));
    scheduling::spread(errors, &spec.get("topologySpreadConstraints"));
    for (field, check) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str, bool) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
    ] {
        let at = spec.get(field);
        if !at.is_empty() {
            shape(errors, &at, check(at.text(), false));
        }
    }
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.int().is_some_and(|d| !(1..=i64::from(i32::MAX)).contains(&d)) {
        errors.push(deadline.invalid(format!("must be between 1 and {}, inclusive", i32::MAX)));
    }
    for field in ["hostname", "subdomain"] {
        let at = spec.get(field);
        if !at.is_empty() {
            shape(errors, &at, names::dns1123_label(at.text(), false));
        }
    }
    scheduling::tolerations(errors, &spec.get("tolerations"));
    for alias in spec.get("hostAliases").items() {
        let ip = alias.get("ip");
        shape(errors, &ip, names::ip(ip.text()));
        for name in alias.get("hostnames").items() {
            shape(errors, &name, names::dns1123_subdomain(name.text(), false));
        }
    }
    for field in ["priorityClassName", "runtimeClassName"] {
        let at = spec.get(field);
        if !at.is_empty() {
            shape(errors, &at, names::dns1123_subdomain(at.text(), false));
        }
    }
    let preemption = spec.get("preemptionPolicy");
    if preemption.present() {
        one_of(errors, &preemption, &["Never", "PreemptLowerPriority"]);
    }
    for (resource, amount) in spec.get("overhead").entries() {
        crate::kinds::resources::container_resource_name(errors, &amount, resource);
        crate::kinds::resources::check_quantity(errors, &amount, resource);
    }
    let system = spec.at(&["os", "name"]);
    if spec.get("os").present() {
        if system.is_empty() {
            errors.push(system.required("cannot be empty"));
        } else if !matches!(system.text(), "linux" | "windows") {
            errors.push(system.not_supported(&["linux", "windows"]));
        }
    }
}

fn resource_claims<'a>(errors: &mut Errors, claims: &At<'a>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for claim in claims.items() {
        let name = claim.get("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else if seen.contains(&name.text()) {
            errors.push(name.duplicate());
        } else {
            shape(errors, &name, names::dns1123_label(name.text(), false));
            seen.insert(name.text());
        }
        let (own, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (own.present(), template.present()) {
            (true, true) => {
                errors.push(claim.invalid(
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
                ));
            }
            (false, false) => errors
                .push(claim.invalid("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")),
            _ => {}
        }
    }
    seen
}

/// With the host's network a container's port is the host's.
fn host_network_ports(errors: &mut Errors, spec: &At<'_>) {
    if !spec.get("hostNetwork").flag() {
        return;
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get(list).items() {
            for port in container.get("ports").items() {
                let (own, host) = (port.get("containerPort"), port.get("hostPort").int_or_zero());
                if host != 0 && own.int_or_zero() != host {
                    errors.push(own.invalid("must match `hostPort` when `hostNetwork` is true"));
                }
            }
        }
    }
}

fn restart_policy(errors: &mut Errors, policy: &At<'_>) {
    one_of(errors, policy, &["Always", "OnFailure", "Never"]);
}

fn dns_policy(errors: &mut Errors, policy: &At<'_>) {
    one_of(errors, policy, &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]);
}

fn dns_config(errors: &mut Errors, config: &At<'_>, policy: &str) {
    let servers = config.get("nameservers");
    if policy == "None" && servers.is_empty() {
        let at = if config.present() { servers.clone() } else { config.clone() };
        errors.push(at.required("must provide at least one DNS nameserver when `dnsPolicy` is None"));
    }
    if servers.len() > MAX_NAME_SERVERS {
        errors.push(servers.invalid(format!("must not have more than {MAX_NAME_SERVERS} nameservers")));
    }
    for server in servers.items() {
        shape(errors, &server, names::ip(server.text()));
    }
    let searches = config.get("searches");
    if searches.len() > MAX_SEARCHES {
        errors.push(searches.invalid(format!("must not have more than {MAX_SEARCHES} search paths")));
    }
    let bytes: usize = searches.items().map(|s| s.text().len() + 1).sum();
    if bytes > MAX_SEARCH_BYTES + 1 {
        errors.push(searches.invalid(format!(
            "must not have more than {MAX_SEARCH_BYTES} characters (including spaces) in the search list"
        )));
    }
    for search in searches.items() {
        let text = search.text();
        if text != "." {
            // a final dot and underscores in labels are allowed here
            let plain = text.strip_suffix('.').unwrap_or(text).replace('_', "a");
            shape(errors, &search, names::dns1123_subdomain(&plain, false));
        }
    }
    for option in config.get("options").items() {
        if option.get("name").is_empty() {
            errors.push(option.required("must not be empty"));
        }
    }
}

fn scheduling_gates(errors: &mut Errors, gates: &At<'_>) {
    let mut seen = BTreeSet::new();
    for gate in gates.items() {
        let name = gate.get("name");
        let problems = names::label_key(name.text());
        errors.extend(problems.into_iter().map(|p| gate.invalid_value(name.text(), p)));
        if !seen.insert(name.text()) {
            errors.push(gate.invalid_value(name.text(), "duplicate scheduling gate"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    /// Problems of a pod that is right but for what is merged into its spec.
    fn problems(patch: Value) -> Vec<String> {
        let mut pod =
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        for (key, value) in patch.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        super::super::defaults::default_pod("v1", &mut pod);
        let errors = super::pod(&At::root(&pod));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_plain_pod_is_fine() {
        assert_eq!(problems(json!({})), [""; 0]);
    }

    #[test]
    fn problems_have_upstreams_words() {
        for (patch, expected) in [
            (json!({"containers": []}), vec!["spec.containers: Required value"]),
            (
                json!({"containers": [{"name": "A", "image": ""}]}),
                vec![
                    "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower \
                     case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. \
                     'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    "spec.containers[0].image: Required value",
                ],
            ),
            (
                json!({"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]}),
                vec!["spec.containers[1].name: Duplicate value: \"a\""],
            ),
            (
                json!({"restartPolicy": "Odd"}),
                vec![
                    "spec.restartPolicy: Unsupported value: \"Odd\": supported values: \"Always\", \"Never\", \
                     \"OnFailure\"",
                ],
            ),
            (
                json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
                vec!["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
            ),
            (
                json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}),
                vec!["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 70000, "protocol": "TCP"}]}]}),
                vec![
                    "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, \
                      inclusive",
                ],
            ),
            (
                json!({"containers": [{"name": "c", "image": "i", "resources":
                    {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}]}),
                vec![
                    "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu \
                      limit of 1",
                ],
            ),
            (
                json!({"containers": [{"name": "c", "image": "i", "livenessProbe": {}}]}),
                vec!["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
            ),
            (
                json!({"dnsPolicy": "None"}),
                vec![
                    "spec.dnsConfig: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
                ],
            ),
            (
                json!({"tolerations": [{"operator": "Equal"}]}),
                vec![
                    "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is \
                      empty, which means \"match all values and all keys\"",
                ],
            ),
            (
                json!({"activeDeadlineSeconds": 0}),
                vec![
                    "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
                ],
            ),
            (
                json!({"securityContext": {"runAsUser": -1}}),
                vec![
                    "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                ],
            ),
            (
                json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "zone",
                    "whenUnsatisfiable": "DoNotSchedule"}]}),
                vec![
                    "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                ],
            ),
            (
                json!({"containers": [{"name": "c", "image": "i", "env": [{"name": "", "value": "x"},
                    {"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}),
                vec![
                    "spec.containers[0].env[0].name: Required value",
                    "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is \
                     not empty",
                ],
            ),
        ] {
            assert_eq!(problems(patch.clone()), expected, "{patch}");
        }
    }
}
