//! Validation of containers. Source: `pkg/apis/core/validation`.

use std::collections::{BTreeMap, BTreeSet};

use super::security;
use crate::cursor::{At, Errors, non_negative, one_of, shape};
use crate::kinds::resources;
use crate::names;

/// What containers refer to in their pod.
pub(super) struct Scope<'a> {
    /// Volumes by name, and whether one is a claim.
    pub(super) volumes: &'a BTreeMap<&'a str, bool>,
    /// The pod's `terminationGracePeriodSeconds`.
    pub(super) grace: i64,
    /// Names of the pod's resource claims.
    pub(super) claims: BTreeSet<&'a str>,
    /// The pod's users are the host's.
    pub(super) host_users: bool,
}

/// Fields of a pod that a variable may come from; labels and annotations by key besides.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of a pod that a file of a volume may come from.
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Resources of a container that a variable or file may come from.
const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Validates the regular containers.
pub(super) fn containers(errors: &mut Errors, list: &At<'_>, scope: &Scope<'_>) {
    if list.is_empty() {
        errors.push(list.required(""));
        return;
    }
    let mut seen = BTreeSet::new();
    for container in list.items() {
        common(errors, &container, scope);
        if !container.get("name").is_empty() && !seen.insert(container.get("name").text()) {
            errors.push(container.get("name").duplicate());
        }
        lifecycle(errors, &container.get("lifecycle"), scope.grace);
        probes(errors, &container, scope.grace);
        restart_rules(errors, &container);
    }
    host_port_conflicts(errors, list);
}

/// Validates the init containers: those that restart always are sidecars and may have probes.
pub(super) fn init_containers(errors: &mut Errors, list: &At<'_>, regular: &At<'_>, scope: &Scope<'_>) {
    let mut seen: BTreeSet<&str> = regular.items().map(|c| c.get("name").text()).collect();
    for container in list.items() {
        common(errors, &container, scope);
        if !container.get("name").is_empty() && !seen.insert(container.get("name").text()) {
            errors.push(container.get("name").duplicate());
        }
        if container.get("restartPolicy").text() == "Always" {
            lifecycle(errors, &container.get("lifecycle"), scope.grace);
            probes(errors, &container, scope.grace);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.get(field).present() {
                    errors.push(
                        container
                            .get(field)
                            .forbidden("may not be set for init containers without restartPolicy=Always"),
                    );
                }
            }
        }
        restart_rules(errors, &container);
    }
    host_port_conflicts(errors, list);
}

/// Fields that ephemeral containers do not have.
const NOT_EPHEMERAL: [&str; 7] =
    ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources", "resizePolicy"];

/// Validates the ephemeral containers.
pub(super) fn ephemeral_containers(errors: &mut Errors, spec: &At<'_>, scope: &Scope<'_>) {
    let mut seen: BTreeSet<&str> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| spec.get(list).items())
        .map(|c| c.get("name").text())
        .collect();
    let regular: BTreeSet<&str> = spec.get("containers").items().map(|c| c.get("name").text()).collect();
    for container in spec.get("ephemeralContainers").items() {
        common(errors, &container, scope);
        if !container.get("name").is_empty() && !seen.insert(container.get("name").text()) {
            errors.push(container.get("name").duplicate());
        }
        let target = container.get("targetContainerName");
        if !target.is_empty() && !regular.contains(target.text()) {
            errors.push(target.not_found());
        }
        for field in NOT_EPHEMERAL {
            if !container.get(field).is_empty() {
                errors.push(container.get(field).forbidden("field is not allowed for ephemeral containers"));
            }
        }
        for mount in container.get("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.get(field).is_empty() {
                    errors.push(mount.get(field).forbidden("cannot be set for an Ephemeral Container"));
                }
            }
        }
        if container.get("restartPolicy").present() {
            errors.push(container.get("restartPolicy").forbidden("not supported for ephemeral containers"));
        }
    }
}

/// A container's own restart policy, with its rules (KEP-5307).
fn restart_rules(errors: &mut Errors, container: &At<'_>) {
    let policy = container.get("restartPolicy");
    if policy.present() && !matches!(policy.text(), "Always" | "Never" | "OnFailure") {
        errors.push(policy.not_supported(&["Always", "Never", "OnFailure"]));
    }
    let rules = container.get("restartPolicyRules");
    if !rules.is_empty() && !policy.present() {
        errors.push(policy.required("must specify restartPolicy when restart rules are used"));
    }
    for rule in rules.items() {
        if !matches!(rule.get("action").text(), "Restart" | "RestartAllContainers") {
            errors.push(rule.get("action").not_supported(&["Restart", "RestartAllContainers"]));
        }
        let codes = rule.get("exitCodes");
        if !codes.present() {
            errors.push(codes.required("must be specified"));
        } else if !matches!(codes.get("operator").text(), "In" | "NotIn") {
            errors.push(codes.get("operator").not_supported(&["In", "NotIn"]));
        }
    }
}

fn common(errors: &mut Errors, container: &At<'_>, scope: &Scope<'_>) {
    let name = container.get("name");
    if name.is_empty() {
        errors.push(name.required(""));
    } else {
        shape(errors, &name, names::dns1123_label(name.text(), false));
    }
    let image = container.get("image");
    if image.is_empty() {
        errors.push(image.required(""));
    } else if image.text().trim() != image.text() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
    one_of(errors, &container.get("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"]);
    ports(errors, &container.get("ports"));
    environment(errors, container);
    mounts(errors, container, scope);
    one_of(errors, &container.get("imagePullPolicy"), &["Always", "IfNotPresent", "Never"]);
    resources::requirements(errors, &container.get("resources"));
    for claim in container.at(&["resources", "claims"]).items() {
        let name = claim.get("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !scope.claims.contains(&name.text()) {
            errors.push(name.not_found());
        }
    }
    for policy in container.get("resizePolicy").items() {
        if !matches!(policy.get("resourceName").text(), "cpu" | "memory") {
            errors.push(policy.get("resourceName").not_supported(&["cpu", "memory"]));
        }
        one_of(errors, &policy.get("restartPolicy"), &["NotRequired", "RestartContainer"]);
    }
    security::container(errors, &container.get("securityContext"), scope.host_users);
}

fn ports(errors: &mut Errors, list: &At<'_>) {
    let mut seen = BTreeSet::new();
    for port in list.items() {
        let name = port.get("name");
        if !name.is_empty() {
            let problems = names::port_name(name.text());
            if problems.is_empty() && !seen.insert(name.text()) {
                errors.push(name.duplicate());
            }
            shape(errors, &name, problems);
        }
        let number = port.get("containerPort");
        match number.int_or_zero() {
            0 => errors.push(number.required("")),
            n => errors.extend(names::port_number(n).into_iter().map(|p| number.invalid(p))),
        }
        let host = port.get("hostPort");
        if let Some(n) = host.int().filter(|n| *n != 0) {
            errors.extend(names::port_number(n).into_iter().map(|p| host.invalid(p)));
        }
        one_of(errors, &port.get("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

/// Two containers of a pod cannot have the same port of the host.
fn host_port_conflicts(errors: &mut Errors, containers: &At<'_>) {
    let mut seen = BTreeSet::new();
    for container in containers.items() {
        for port in container.get("ports").items() {
            let host = port.get("hostPort");
            let Some(number) = host.int().filter(|n| *n != 0) else { continue };
            let text = format!("{}/{}/{number}", port.get("protocol").text(), port.get("hostIP").text());
            if !seen.insert(text.clone()) {
                errors.push(apimachinery::status::FieldError::duplicate(host.path(), text));
            }
        }
    }
}

fn environment(errors: &mut Errors, container: &At<'_>) {
    for variable in container.get("env").items() {
        let name = variable.get("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else {
            shape(errors, &name, names::env_var_name(name.text()));
        }
        let from = variable.get("valueFrom");
        if from.present() {
            value_from(errors, &from, !variable.get("value").is_empty());
        }
    }
    for source in container.get("envFrom").items() {
        let prefix = source.get("prefix");
        if !prefix.is_empty() {
            shape(errors, &prefix, names::env_var_name(prefix.text()));
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            let reference = source.get(kind);
            if reference.present() {
                count += 1;
                named(errors, &reference);
            }
        }
        if count == 0 {
            errors.push(source.invalid_value("", "must specify one of: `configMapRef` or `secretRef`"));
        } else if count > 1 {
            errors.push(source.invalid_value("", "may not have more than one field specified at a time"));
        }
    }
}

fn named(errors: &mut Errors, reference: &At<'_>) {
    let name = reference.get("name");
    if name.is_empty() {
        errors.push(name.required(""));
    } else {
        shape(errors, &name, names::dns1123_subdomain(name.text(), false));
    }
}

fn value_from(errors: &mut Errors, from: &At<'_>, has_value: bool) {
    let mut count = 0;
    if from.get("fieldRef").present() {
        count += 1;
        field_ref(errors, &from.get("fieldRef"), &ENV_FIELDS);
    }
    if from.get("resourceFieldRef").present() {
        count += 1;
        resource_field_ref(errors, &from.get("resourceFieldRef"), false);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let reference = from.get(kind);
        if reference.present() {
            count += 1;
            if reference.get("name").is_empty() {
                errors.push(reference.get("name").required(""));
            }
            let key = reference.get("key");
            if key.is_empty() {
                errors.push(key.required(""));
            } else {
                shape(errors, &key, names::config_map_key(key.text()));
            }
        }
    }
    let file = from.get("fileKeyRef");
    if file.present() {
        count += 1;
        for field in ["key", "volumeName", "path"] {
            if file.get(field).is_empty() {
                errors.push(file.get(field).required(""));
            }
        }
    }
    if count == 0 {
        errors.push(from.invalid_value(
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        ));
    } else if has_value {
        errors.push(from.invalid_value("", "may not be specified when `value` is not empty"));
    } else if count > 1 {
        errors.push(from.invalid_value("", "may not have more than one field specified at a time"));
    }
}

/// A field of the pod by path; `metadata.labels['key']` has a key.
pub(super) fn field_ref(errors: &mut Errors, reference: &At<'_>, fields: &[&str]) {
    let (version, path) = (reference.get("apiVersion"), reference.get("fieldPath"));
    if version.is_empty() {
        errors.push(version.required(""));
        return;
    }
    if path.is_empty() {
        errors.push(path.required(""));
        return;
    }
    if let Some((map, key)) = path.text().strip_suffix("']").and_then(|p| p.split_once("['")) {
        let problems = match map {
            "metadata.annotations" => names::label_key(&key.to_lowercase()),
            "metadata.labels" => names::label_key(key),
            _ => {
                errors.push(path.invalid(format!("{map:?} does not support subscript")));
                return;
            }
        };
        shape(errors, &path, problems);
    } else if !fields.contains(&path.text()) {
        let known = VOLUME_FIELDS.contains(&path.text()) || ENV_FIELDS.contains(&path.text());
        if known {
            errors.push(path.not_supported(fields));
        } else {
            errors.push(
                path.invalid(format!(
                    "error converting fieldPath: field label not supported: {}",
                    path.text()
                )),
            );
        }
    }
}

/// Fields of files of a downward API volume.
pub(super) fn volume_field_ref(errors: &mut Errors, reference: &At<'_>) {
    field_ref(errors, reference, &VOLUME_FIELDS);
}

/// A resource of a container; volumes say whose.
pub(super) fn resource_field_ref(errors: &mut Errors, reference: &At<'_>, volume: bool) {
    let (container, resource) = (reference.get("containerName"), reference.get("resource"));
    if volume && container.is_empty() {
        errors.push(container.required(""));
    } else if resource.is_empty() {
        errors.push(resource.required(""));
    } else if !RESOURCE_FIELDS.contains(&resource.text())
        && !resource.text().starts_with("limits.hugepages-")
        && !resource.text().starts_with("requests.hugepages-")
    {
        errors.push(resource.not_supported(&RESOURCE_FIELDS));
    }
}

/// A relative path that stays below where it starts.
pub(super) fn descending(errors: &mut Errors, path: &At<'_>) {
    if path.text().starts_with('/') {
        errors.push(path.invalid("must be a relative path"));
    }
    if names::has_back_step(path.text()) {
        errors.push(path.invalid("must not contain '..'"));
    }
}

fn mounts(errors: &mut Errors, container: &At<'_>, scope: &Scope<'_>) {
    let mut points = BTreeSet::new();
    let devices = container.get("volumeDevices");
    let device_names: BTreeSet<&str> = devices.items().map(|device| device.get("name").text()).collect();
    for mount in container.get("volumeMounts").items() {
        let (name, point) = (mount.get("name"), mount.get("mountPath"));
        if name.is_empty() {
            errors.push(name.required(""));
        }
        if !scope.volumes.contains_key(name.text()) {
            errors.push(name.not_found());
        }
        if point.is_empty() {
            errors.push(point.required(""));
        }
        if !points.insert(point.text()) {
            errors.push(point.invalid("must be unique"));
        }
        if device_names.contains(name.text()) {
            errors.push(name.invalid("must not already exist in volumeDevices"));
        }
        let (sub, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
        descending(errors, &sub);
        if !expression.is_empty() {
            if !sub.is_empty() {
                errors.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
            }
            descending(errors, &expression);
        }
        let propagation = mount.get("mountPropagation");
        if propagation.present() {
            const MODES: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
            if !MODES.contains(&propagation.text()) {
                errors.push(propagation.not_supported(&MODES));
            }
            let privileged = container.at(&["securityContext", "privileged"]).flag();
            if propagation.text() == "Bidirectional" && !privileged {
                errors.push(
                    propagation.forbidden(
                        "Bidirectional mount propagation is available only to privileged containers",
                    ),
                );
            }
        }
    }
    let mut paths = BTreeSet::new();
    for device in devices.items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        match scope.volumes.get(name.text()) {
            _ if name.is_empty() => errors.push(name.required("")),
            None => errors.push(name.not_found()),
            Some(false) => {
                errors.push(name.invalid("can only use volume source type of PersistentVolumeClaim, Ephemeral, or PersistentVolume for block mode"));
            }
            Some(_) => {}
        }
        if path.is_empty() {
            errors.push(path.required(""));
        } else if !paths.insert(path.text()) {
            errors.push(path.invalid("must be unique"));
        }
        if names::has_back_step(path.text()) {
            errors.push(path.invalid("can not contain backsteps ('..')"));
        }
    }
}

fn probes(errors: &mut Errors, container: &At<'_>, grace: i64) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.get(kind);
        if !probe.present() {
            continue;
        }
        handler(errors, &probe, grace);
        for field in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            non_negative(errors, &probe.get(field));
        }
        let own_grace = probe.get("terminationGracePeriodSeconds");
        if own_grace.int().is_some_and(|g| g <= 0) {
            errors.push(own_grace.invalid("must be greater than 0"));
        }
        if kind == "readinessProbe" {
            if own_grace.present() {
                errors.push(own_grace.invalid("must not be set for readinessProbes"));
            }
        } else if probe.get("successThreshold").int_or_zero() != 1 {
            errors.push(probe.get("successThreshold").invalid("must be 1"));
        }
    }
}

fn lifecycle(errors: &mut Errors, lifecycle: &At<'_>, grace: i64) {
    for hook in ["postStart", "preStop"] {
        if lifecycle.get(hook).present() {
            handler(errors, &lifecycle.get(hook), grace);
        }
    }
}

fn handler(errors: &mut Errors, handler: &At<'_>, grace: i64) {
    let mut count = 0;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let action = handler.get(kind);
        if !action.present() {
            continue;
        }
        if count > 0 {
            errors.push(action.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        count += 1;
        match kind {
            "exec" => {
                if action.get("command").is_empty() {
                    errors.push(action.get("command").required(""));
                }
            }
            "httpGet" => {
                if action.get("path").is_empty() {
                    errors.push(action.get("path").required(""));
                }
                port(errors, &action.get("port"));
                one_of(errors, &action.get("scheme"), &["HTTP", "HTTPS"]);
                for header in action.get("httpHeaders").items() {
                    let name = header.get("name");
                    shape(errors, &name, names::http_header_name(name.text()));
                }
            }
            "tcpSocket" => port(errors, &action.get("port")),
            "grpc" => {
                let number = action.get("port");
                let n = number.int_or_zero();
                errors.extend(names::port_number(n).into_iter().map(|p| number.invalid_value(n, p)));
            }
            _ => {
                let seconds = action.get("seconds").int_or_zero();
                if seconds < 0 || seconds > grace {
                    let detail =
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.push(action.invalid_value(seconds, detail));
                }
            }
        }
    }
    if count == 0 {
        errors.push(handler.required("must specify a handler type"));
    }
}

fn port(errors: &mut Errors, port: &At<'_>) {
    match port.int() {
        Some(n) => errors.extend(names::port_number(n).into_iter().map(|p| port.invalid(p))),
        None => shape(errors, port, names::port_name(port.text())),
    }
}
