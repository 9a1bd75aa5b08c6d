//! Defaults of pods and of the pod templates in other kinds.
//!
//! Source: `pkg/apis/core/v1/defaults.go` and the generated defaults that walk into lists. Fields with a constant
//! default (`protocol: TCP`) are defaulted by the schema.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use apimachinery::{Map, Value};

use crate::edit::{
    default_number, default_text, default_to, flag, map_at, map_or_new, maps_in, spec, text, unset,
};
use crate::kinds::storage::default_claim_spec;

/// Mode of files in volumes made from API objects: 0644.
const FILE_MODE: i64 = 0o644;
/// Lifetime of a projected token, in seconds.
const TOKEN_SECONDS: i64 = 3600;
/// The fields that hold containers.
pub(crate) const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Defaults of a Pod: those of its spec and some that templates do not get.
pub(crate) fn default_pod(_version: &str, pod: &mut Value) {
    let Some(spec) = spec(pod) else { return };
    default_pod_spec(spec);
    for list in ["containers", "initContainers"] {
        for container in maps_in(spec, list) {
            requests_from_limits(container);
        }
    }
    default_pod_level_requests(spec);
    default_to(spec, "enableServiceLinks", true);
    if flag(spec, "hostNetwork") {
        for list in ["containers", "initContainers"] {
            for container in maps_in(spec, list) {
                for port in maps_in(container, "ports") {
                    if let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
                        default_number(port, "hostPort", number);
                    }
                }
            }
        }
    }
}

/// Defaults of the pod template in a spec.
pub(crate) fn default_template(spec: &mut Map) {
    if let Some(template) = map_or_new(spec, "template")
        && let Some(pod_spec) = map_or_new(template, "spec")
    {
        default_pod_spec(pod_spec);
    }
}

/// Defaults of a pod spec.
pub(crate) fn default_pod_spec(spec: &mut Map) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_to(spec, "securityContext", Map::new());
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "schedulerName", "default-scheduler");
    // serviceAccount is the old name of serviceAccountName; both are printed
    if text(spec, "serviceAccountName").is_empty() && !text(spec, "serviceAccount").is_empty() {
        let name = spec["serviceAccount"].clone();
        spec.insert("serviceAccountName".into(), name);
    }
    match spec.get("serviceAccountName").cloned() {
        Some(name) => spec.insert("serviceAccount".into(), name),
        None => spec.remove("serviceAccount"),
    };
    for list in CONTAINERS {
        for container in maps_in(spec, list) {
            default_container(container);
        }
    }
    for volume in maps_in(spec, "volumes") {
        default_volume(volume);
    }
}

/// Amounts finer than a thousandth are rounded up to one.
fn round_amounts(resources: &mut Map) {
    for kind in ["limits", "requests"] {
        let amounts = map_at(resources, kind).into_iter().flat_map(apimachinery::Map::values_mut);
        for amount in amounts {
            let Some(quantity) = amount.as_str().and_then(|text| text.parse::<Quantity>().ok()) else {
                continue;
            };
            let rounded = Quantity::from_milli(quantity.milli_value());
            if quantity.sign() > 0 && rounded != quantity && quantity < rounded {
                *amount = rounded.to_string().into();
            }
        }
    }
}

fn default_container(container: &mut Map) {
    if let Some(resources) = map_at(container, "resources") {
        round_amounts(resources);
    }
    let policy = pull_policy(text(container, "image"));
    default_text(container, "imagePullPolicy", policy);
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = map_at(container, probe) {
            default_number(probe, "timeoutSeconds", 1);
            default_number(probe, "periodSeconds", 10);
            default_number(probe, "successThreshold", 1);
            default_number(probe, "failureThreshold", 3);
            default_http_get(probe);
        }
    }
    if let Some(lifecycle) = map_at(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = map_at(lifecycle, hook) {
                default_http_get(hook);
            }
        }
    }
    for variable in maps_in(container, "env") {
        if let Some(from) = map_at(variable, "valueFrom") {
            default_field_ref(from);
        }
    }
}

fn default_http_get(handler: &mut Map) {
    if let Some(http) = map_at(handler, "httpGet") {
        default_text(http, "path", "/");
        default_text(http, "scheme", "HTTP");
    }
}

fn default_field_ref(source: &mut Map) {
    if let Some(reference) = map_at(source, "fieldRef") {
        default_text(reference, "apiVersion", "v1");
    }
}

/// `Always` for an image named by the tag `latest`, said or not; a digest is not a tag.
fn pull_policy(image: &str) -> &'static str {
    if image.is_empty() || image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn default_volume(volume: &mut Map) {
    if volume.iter().all(|(name, value)| name == "name" || value.is_null()) {
        volume.insert("emptyDir".into(), Value::Object(Map::new()));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = map_at(volume, source) {
            default_to(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(downward) = map_at(volume, "downwardAPI") {
        maps_in(downward, "items").for_each(default_field_ref);
    }
    if let Some(projected) = map_at(volume, "projected") {
        for source in maps_in(projected, "sources") {
            if let Some(token) = map_at(source, "serviceAccountToken") {
                default_to(token, "expirationSeconds", TOKEN_SECONDS);
            }
            if let Some(downward) = map_at(source, "downwardAPI") {
                maps_in(downward, "items").for_each(default_field_ref);
            }
        }
    }
    if let Some(host) = map_at(volume, "hostPath") {
        default_to(host, "type", "");
    }
    if let Some(image) = map_at(volume, "image") {
        let policy = pull_policy(text(image, "reference"));
        default_text(image, "pullPolicy", policy);
    }
    if let Some(ephemeral) = map_at(volume, "ephemeral")
        && let Some(template) = map_at(ephemeral, "volumeClaimTemplate")
        && let Some(spec) = map_or_new(template, "spec")
    {
        default_claim_spec(spec);
    }
}

/// A limit without a request is a request as well.
fn requests_from_limits(container: &mut Map) {
    let Some(resources) = map_at(container, "resources") else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    if let Some(requests) = map_or_new(resources, "requests") {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// A pod's own requests: what its containers ask for in sum, else its limit (KEP-2837).
fn default_pod_level_requests(spec: &mut Map) {
    let limited = spec
        .get("resources")
        .and_then(|r| r.get("limits"))
        .and_then(Value::as_object)
        .is_some_and(|l| !l.is_empty());
    if !limited {
        return;
    }
    let mut sums: BTreeMap<String, Quantity> = BTreeMap::new();
    for container in maps_in(spec, "containers") {
        let requests = container.get("resources").and_then(|r| r.get("requests")).and_then(Value::as_object);
        for (name, value) in requests.into_iter().flatten() {
            let parsed = value.as_str().and_then(|v| v.parse::<Quantity>().ok()).unwrap_or_default();
            let sum = sums.entry(name.clone().to_string()).or_default();
            *sum = if *sum == Quantity::default() { parsed } else { sum.checked_add(parsed).unwrap_or(*sum) };
        }
    }
    let Some(resources) = map_at(spec, "resources") else { return };
    let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
    let Some(requests) = map_or_new(resources, "requests") else { return };
    for (name, sum) in sums {
        if matches!(name.as_str(), "cpu" | "memory") {
            requests.entry(name).or_insert_with(|| sum.to_string().into());
        }
    }
    for (name, limit) in limits {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            requests.entry(name).or_insert(limit);
        }
    }
    if requests.is_empty() && unset(resources, "claims") {
        resources.remove("requests");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.2", "IfNotPresent"),
            ("registry:5000/a/nginx", "Always"),
            ("registry:5000/a/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_pod_gets_upstreams_defaults() {
        let mut pod = json!({"spec": {"hostNetwork": true, "serviceAccount": "sa", "volumes": [
            {"name": "a"}, {"name": "h", "hostPath": {"path": "/"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
            "containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": 1}},
                "env": [{"name": "n", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}});
        default_pod("v1", &mut pod);
        let expected = json!({"spec": {
            "hostNetwork": true, "serviceAccount": "sa", "serviceAccountName": "sa", "dnsPolicy": "ClusterFirst",
            "restartPolicy": "Always", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler", "enableServiceLinks": true,
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/", "type": ""}},
                {"name": "p", "projected": {"defaultMode": 420,
                    "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}],
            "containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80, "hostPort": 80}],
                "imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "livenessProbe": {"httpGet": {"port": 1, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "env": [{"name": "n", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v1"}}}]}]
        }});
        assert_eq!(pod, expected);
        default_pod("v1", &mut pod);
        assert_eq!(pod, expected, "defaulting twice changes nothing");
    }

    #[test]
    fn pod_level_requests_come_from_containers_then_limits() {
        let mut pod = json!({"spec": {"resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
            "containers": [{"resources": {"requests": {"cpu": "100m"}}}, {"resources": {"requests": {"cpu": "200m"}}}]}});
        default_pod("v1", &mut pod);
        assert_eq!(pod["spec"]["resources"]["requests"], json!({"cpu": "300m", "memory": "1Gi"}));
    }
}
