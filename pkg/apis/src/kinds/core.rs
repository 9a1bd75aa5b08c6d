//! The small kinds of the core group: config maps, secrets, service accounts, namespaces, events, endpoints, limit ranges,
//! resource quotas, component statuses.
//!
//! Source: `pkg/apis/core/validation`, `pkg/registry/core`.

use apimachinery::meta::{at, metadata_mut};
use apimachinery::status::FieldError;
use apimachinery::{Map, Value};
use base64::Engine as _;
use jiff::Timestamp;

use super::print::{age, list, map, name, number, or, since, str_at};
use super::resources::{check_quantity, quota_resource_name, resource_name};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, Errors, immutable, non_negative, shape};
use crate::edit::{default_text, keep_in, map_at, map_or_new, maps_in, spec, status, text};
use crate::names;

/// Most bytes in the values of one ConfigMap or Secret.
const MAX_DATA: usize = 1024 * 1024;

pub(super) const CONFIG_MAPS: Rules = Rules {
    validate: |o| config_map(&At::root(o)),
    validate_update: |_, new, old| {
        let (new, old) = (At::root(new), At::root(old));
        let mut errors = frozen(&new, &old, &["data", "binaryData"]);
        errors.extend(config_map(&new));
        errors
    },
    columns: &[("Name", "string"), ("Data", "integer"), ("Age", "string")],
    row: |o, now| {
        let size = |field: &str| o.get(field).and_then(Value::as_object).map_or(0, Map::len);
        vec![name(o).into(), (size("data") + size("binaryData")).into(), age(o, now)]
    },
    ..DEFAULT
};

/// `immutable: true` freezes the data, and itself.
fn frozen(new: &At<'_>, old: &At<'_>, fields: &[&'static str]) -> Errors {
    let mut errors = Vec::new();
    if !old.get("immutable").flag() {
        return errors;
    }
    if !new.get("immutable").flag() {
        errors.push(new.get("immutable").forbidden("field is immutable when `immutable` is set"));
    }
    for field in fields {
        if !crate::cursor::same(new.get(field).value(), old.get(field).value()) {
            errors.push(new.get(field).forbidden("field is immutable when `immutable` is set"));
        }
    }
    errors
}

fn config_map(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let mut size = 0;
    let binary = object.get("binaryData");
    for (key, value) in object.get("data").entries() {
        shape_of_key(&mut errors, &value, key);
        if binary.key(key).present() {
            errors.push(value.invalid_value(key, "duplicate of key present in binaryData"));
        }
        size += value.text().len();
    }
    for (key, value) in binary.entries() {
        shape_of_key(&mut errors, &value, key);
        size += decoded_len(value.text());
    }
    if size > MAX_DATA {
        errors.push(FieldError::new(
            apimachinery::status::FieldErrorKind::TooLong,
            "",
            Value::Null,
            format!("may not be more than {MAX_DATA} bytes"),
        ));
    }
    errors
}

fn shape_of_key(errors: &mut Errors, at: &At<'_>, key: &str) {
    errors.extend(names::config_map_key(key).into_iter().map(|problem| at.invalid_value(key, problem)));
}

/// Bytes of a base64 text.
fn decoded_len(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

pub(super) const SECRETS: Rules = Rules {
    default: |_, o| {
        if let Some(map) = o.as_object_mut() {
            default_text(map, "type", "Opaque");
            string_data(map);
        }
    },
    prepare_update: |_, new, old| {
        // clients that do not know the type leave it out
        if let Some(map) = new.as_object_mut() {
            default_text(map, "type", str_at(old, &["type"]));
        }
    },
    validate: |o| secret(&At::root(o)),
    validate_update: |_, new, old| {
        let (new, old) = (At::root(new), At::root(old));
        let mut errors = Vec::new();
        immutable(&mut errors, &new.get("type"), &old.get("type"));
        errors.extend(frozen(&new, &old, &["data"]));
        errors.extend(secret(&new));
        errors
    },
    columns: &[("Name", "string"), ("Type", "string"), ("Data", "integer"), ("Age", "string")],
    row: |o, now| {
        let size = o.get("data").and_then(Value::as_object).map_or(0, Map::len);
        vec![name(o).into(), str_at(o, &["type"]).into(), size.into(), age(o, now)]
    },
    ..DEFAULT
};

/// `stringData` is written, never kept: its texts go to `data` encoded.
fn string_data(secret: &mut Map) {
    let Some(Value::Object(texts)) = secret.remove("stringData") else { return };
    if texts.is_empty() {
        return;
    }
    if let Some(data) = map_or_new(secret, "data") {
        for (key, value) in texts {
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            data.insert(key, encoded.into());
        }
    }
}

fn secret(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let data = object.get("data");
    let mut size = 0;
    for (key, value) in data.entries() {
        shape_of_key(&mut errors, &value, key);
        size += decoded_len(value.text());
    }
    if size > MAX_DATA {
        errors.push(data.too_long(MAX_DATA));
    }
    let required = |errors: &mut Errors, key: &'static str| {
        if !data.key(key).present() {
            errors.push(data.key(key).required(""));
        }
    };
    match object.get("type").text() {
        "kubernetes.io/service-account-token" => {
            let annotation =
                object.at(&["metadata", "annotations"]).key("kubernetes.io/service-account.name");
            if annotation.is_empty() {
                errors.push(annotation.required(""));
            }
        }
        "kubernetes.io/dockercfg" => docker_config(&mut errors, &data, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => docker_config(&mut errors, &data, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" => {
            if !data.key("username").present() && !data.key("password").present() {
                errors.push(data.key("username").required(""));
                errors.push(data.key("password").required(""));
            }
        }
        "kubernetes.io/ssh-auth" if data.key("ssh-privatekey").is_empty() => {
            errors.push(data.key("ssh-privatekey").required(""));
        }
        "kubernetes.io/tls" => {
            required(&mut errors, "tls.crt");
            required(&mut errors, "tls.key");
        }
        _ => {}
    }
    errors
}

fn docker_config<'a>(errors: &mut Errors, data: &At<'a>, key: &'a str) {
    let config = data.key(key);
    if !config.present() {
        errors.push(config.required(""));
        return;
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(config.text()).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<Map>(&bytes) {
        errors.push(config.invalid_value("<secret contents redacted>", error.to_string()));
    }
}

pub(super) const SERVICE_ACCOUNTS: Rules = Rules {
    columns: &[("Name", "string"), ("Secrets", "integer"), ("Age", "string")],
    row: |o, now| vec![name(o).into(), list(o, &["secrets"]).len().into(), age(o, now)],
    ..DEFAULT
};

/// Finalizer of every namespace; the namespace controller removes it when nothing is left.
const NAMESPACE_FINALIZER: &str = "kubernetes";

pub(super) const NAMESPACES: Rules = Rules {
    default: |_, o| {
        let own = name(o).to_owned();
        if !own.is_empty()
            && let Some(metadata) = metadata_mut(o)
            && let Some(labels) = map_or_new(metadata, "labels")
        {
            labels.insert("kubernetes.io/metadata.name".into(), own.into());
        }
        if let Some(status) = status(o) {
            default_text(status, "phase", "Active");
        }
    },
    prepare_create: |_, o| {
        if let Some(status) = status(o) {
            status.clear();
            status.insert("phase".into(), "Active".into());
        }
        if let Some(spec) = spec(o) {
            let finalizers = spec.entry("finalizers").or_insert_with(|| Value::Array(Vec::new()));
            if let Some(finalizers) = finalizers.as_array_mut()
                && !finalizers.iter().any(|f| f == NAMESPACE_FINALIZER)
            {
                finalizers.push(NAMESPACE_FINALIZER.into());
            }
        }
    },
    prepare_update: |context, new, old| {
        // finalizers change through `finalize` alone
        match context.subresource {
            "finalize" => crate::edit::keep(new, old, "status"),
            _ => keep_in(new, old, "spec", "finalizers"),
        }
    },
    validate: |o| namespace(&At::root(o)),
    validate_update: |context, new, _| match context.subresource {
        "status" => namespace_status(&At::root(new)),
        _ => namespace(&At::root(new)),
    },
    name: names::dns1123_label,
    holds_deletion: |o| !list(o, &["spec", "finalizers"]).is_empty(),
    begin_deletion: |o| {
        if let Some(status) = status(o) {
            status.insert("phase".into(), "Terminating".into());
        }
    },
    columns: &[("Name", "string"), ("Status", "string"), ("Age", "string")],
    row: |o, now| vec![name(o).into(), str_at(o, &["status", "phase"]).into(), age(o, now)],
    ..DEFAULT
};

fn namespace(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    for finalizer in object.at(&["spec", "finalizers"]).items() {
        let problems = names::label_key(finalizer.text());
        shape(&mut errors, &finalizer, problems);
        if !finalizer.text().contains('/') && finalizer.text() != NAMESPACE_FINALIZER {
            errors.push(
                finalizer.invalid("name is neither a standard finalizer name nor is it fully qualified"),
            );
        }
    }
    errors
}

fn namespace_status(object: &At<'_>) -> Errors {
    let phase = object.at(&["status", "phase"]);
    let deleting = object.at(&["metadata", "deletionTimestamp"]).present();
    match (deleting, phase.text()) {
        (false, "Active") | (true, "Terminating") => Vec::new(),
        (false, _) => vec![phase.invalid("may only be 'Active' if `deletionTimestamp` is empty")],
        (true, _) => vec![phase.invalid("may only be 'Terminating' if `deletionTimestamp` is not empty")],
    }
}

pub(super) const EVENTS: Rules = Rules {
    validate: |o| event(&At::root(o)),
    validate_update: |_, new, old| {
        let (new, old) = (At::root(new), At::root(old));
        let mut errors = event(&new);
        if new.get("eventTime").present() || old.get("eventTime").present() {
            for field in [
                "involvedObject",
                "reason",
                "message",
                "source",
                "firstTimestamp",
                "lastTimestamp",
                "count",
                "reportingComponent",
                "reportingInstance",
                "action",
                "eventTime",
                "type",
                "related",
            ] {
                immutable(&mut errors, &new.get(field), &old.get(field));
            }
        }
        errors
    },
    create_on_update: true,
    columns: &[
        ("Last Seen", "string"),
        ("Type", "string"),
        ("Reason", "string"),
        ("Object", "string"),
        ("+Subobject", "string"),
        ("+Source", "string"),
        ("Message", "string"),
        ("+First Seen", "string"),
        ("+Count", "integer"),
        ("+Name", "string"),
    ],
    row: event_row,
    ..DEFAULT
};

/// Longest `reason`, `action` and `reportingInstance` of an event that has an `eventTime`.
const EVENT_TEXT_MAX: usize = 128;
/// Longest `message` of such an event.
const EVENT_NOTE_MAX: usize = 1024;

fn event(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let involved = object.at(&["involvedObject", "namespace"]);
    let namespace = object.at(&["metadata", "namespace"]).text();
    if involved.is_empty() {
        // events about what is in no namespace live in the default one, or the system's
        if namespace != "default" && namespace != "kube-system" {
            errors.push(involved.invalid_text("does not match event.namespace"));
        }
    } else if involved.text() != namespace {
        errors.push(involved.invalid("does not match event.namespace"));
    }
    if !object.get("eventTime").present() {
        return errors;
    }
    for (field, max) in
        [("reportingInstance", EVENT_TEXT_MAX), ("action", EVENT_TEXT_MAX), ("reason", EVENT_TEXT_MAX)]
    {
        let value = object.get(field);
        if value.is_empty() {
            errors.push(value.required(""));
        } else if value.text().len() > max {
            errors.push(value.invalid(format!("can have at most {max} characters")));
        }
    }
    let controller = object.get("reportingComponent");
    if controller.is_empty() {
        errors.push(controller.required(""));
    } else {
        shape(&mut errors, &controller, names::label_key(controller.text()));
    }
    if object.get("message").text().len() > EVENT_NOTE_MAX {
        errors.push(object.get("message").invalid(format!("can have at most {EVENT_NOTE_MAX} characters")));
    }
    if !matches!(object.get("type").text(), "Normal" | "Warning") {
        errors.push(object.get("type").invalid_text("has invalid value: "));
    }
    errors
}

fn event_row(event: &Value, now: Timestamp) -> Vec<Value> {
    let event_time = str_at(event, &["eventTime"]);
    let time = |text: &str| -> String {
        match text {
            "" if event_time.is_empty() => "<unknown>".into(),
            "" => since(event_time, now),
            text => since(text, now),
        }
    };
    let mut last = time(str_at(event, &["lastTimestamp"]));
    let mut first = time(str_at(event, &["firstTimestamp"]));
    let mut count = number(event, &["count"]);
    if at(event, &["series"]).is_some_and(Value::is_object) {
        last = time(str_at(event, &["series", "lastObservedTime"]));
        count = number(event, &["series", "count"]);
        if str_at(event, &["firstTimestamp"]).is_empty() {
            first = time("");
        }
    } else if count == 0 {
        count = 1;
    }
    let involved = |field: &str| str_at(event, &["involvedObject", field]);
    let object = if involved("name").is_empty() {
        involved("kind").to_lowercase()
    } else {
        format!("{}/{}", involved("kind").to_lowercase(), involved("name"))
    };
    vec![
        last.into(),
        str_at(event, &["type"]).into(),
        str_at(event, &["reason"]).into(),
        object.into(),
        involved("fieldPath").into(),
        event_source(event).into(),
        str_at(event, &["message"]).trim().into(),
        first.into(),
        count.into(),
        name(event).into(),
    ]
}

fn event_source(event: &Value) -> String {
    let component = match str_at(event, &["source", "component"]) {
        "" => str_at(event, &["reportingComponent"]),
        component => component,
    };
    let host = match str_at(event, &["source", "host"]) {
        "" => str_at(event, &["reportingInstance"]),
        host => host,
    };
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}

pub(super) const ENDPOINTS: Rules = Rules {
    validate: |o| endpoints(&At::root(o)),
    validate_update: |_, new, _| endpoints(&At::root(new)),
    create_on_update: true,
    columns: &[("Name", "string"), ("Endpoints", "string"), ("Age", "string")],
    row: |o, now| vec![name(o).into(), endpoints_text(o).into(), age(o, now)],
    ..DEFAULT
};

fn endpoints(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    for subset in object.get("subsets").items() {
        if subset.get("addresses").is_empty() && subset.get("notReadyAddresses").is_empty() {
            errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        for list in ["addresses", "notReadyAddresses"] {
            for address in subset.get(list).items() {
                let ip = address.get("ip");
                shape(&mut errors, &ip, names::ip(ip.text()));
                if address.get("hostname").present() {
                    let hostname = address.get("hostname");
                    shape(&mut errors, &hostname, names::dns1123_label(hostname.text(), false));
                }
                if let Some(problem) = special_address(ip.text()) {
                    errors.push(ip.invalid(problem));
                }
            }
        }
        let several = subset.get("ports").len() > 1;
        for port in subset.get("ports").items() {
            let name = port.get("name");
            if several && name.is_empty() {
                errors.push(name.required(""));
            } else if !name.is_empty() {
                shape(&mut errors, &name, names::dns1123_label(name.text(), false));
            }
            let number = port.get("port");
            errors.extend(
                names::port_number(number.int_or_zero())
                    .into_iter()
                    .map(|p| number.invalid_value(number.int_or_zero(), p)),
            );
            crate::cursor::one_of(&mut errors, &port.get("protocol"), &["TCP", "UDP", "SCTP"]);
        }
    }
    errors
}

/// Addresses that no endpoint may have.
pub(super) fn special_address(ip: &str) -> Option<&'static str> {
    let ip: std::net::IpAddr = ip.parse().ok()?;
    let link_local = match ip {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_local_multicast = match ip {
        std::net::IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        std::net::IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    if ip.is_unspecified() {
        Some("may not be unspecified (0.0.0.0 or ::)")
    } else if ip.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    } else if link_local_multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
    } else {
        None
    }
}

/// The first three addresses with ports, and how many more.
fn endpoints_text(object: &Value) -> String {
    const SHOWN: usize = 3;
    let subsets = list(object, &["subsets"]);
    if subsets.is_empty() {
        return "<none>".into();
    }
    let mut texts = Vec::new();
    for subset in subsets {
        let addresses = list(subset, &["addresses"]);
        let ports = list(subset, &["ports"]);
        if ports.is_empty() {
            texts.extend(addresses.iter().map(|a| str_at(a, &["ip"]).to_owned()));
        }
        for port in ports {
            for address in addresses {
                let ip = str_at(address, &["ip"]);
                let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
                texts.push(format!("{ip}:{}", number(port, &["port"])));
            }
        }
    }
    let shown = texts.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(",");
    if texts.len() > SHOWN { format!("{shown} + {} more...", texts.len() - SHOWN) } else { shown }
}

pub(super) const LIMIT_RANGES: Rules = Rules {
    default: |_, o| {
        if let Some(spec) = o.get_mut("spec").and_then(Value::as_object_mut) {
            maps_in(spec, "limits").for_each(default_limit);
        }
    },
    validate: |o| limit_range(&At::root(o)),
    validate_update: |_, new, _| limit_range(&At::root(new)),
    columns: &[("Name", "string"), ("Created At", "date")],
    row: |o, _| vec![name(o).into(), str_at(o, &["metadata", "creationTimestamp"]).into()],
    ..DEFAULT
};

/// A container's limit is its maximum, and its request the limit or the minimum, where nothing is said.
fn default_limit(item: &mut Map) {
    if text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let Some(values) = map_at(item, from).cloned() else { continue };
        if let Some(target) = map_or_new(item, to) {
            for (resource, value) in values {
                target.entry(resource).or_insert(value);
            }
        }
    }
}

fn limit_range(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let mut seen = Vec::new();
    for limit in object.at(&["spec", "limits"]).items() {
        let kind = limit.get("type");
        shape(&mut errors, &kind, names::label_key(kind.text()));
        if !kind.text().contains('/') && !matches!(kind.text(), "Pod" | "Container" | "PersistentVolumeClaim")
        {
            errors.push(kind.invalid("must be a standard limit type or fully qualified"));
        }
        if seen.contains(&kind.text()) {
            errors.push(kind.duplicate());
        }
        seen.push(kind.text());
        for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            for (resource, quantity) in limit.get(field).entries() {
                resource_name(&mut errors, &quantity, resource);
                check_quantity(&mut errors, &quantity, resource);
            }
        }
        if kind.text() == "Pod" {
            for field in ["default", "defaultRequest"] {
                if limit.get(field).len() > 0 {
                    let detail = "may not be specified when `type` is 'Pod'";
                    errors.push(limit.get(field).forbidden(detail));
                }
            }
        }
        super::resources::ordered_limits(&mut errors, &limit);
    }
    errors
}

pub(super) const RESOURCE_QUOTAS: Rules = Rules {
    validate: |o| resource_quota(&At::root(o)),
    validate_update: |context, new, old| {
        let (new, old) = (At::root(new), At::root(old));
        if context.subresource == "status" {
            return quota_status(&new);
        }
        let mut errors = resource_quota(&new);
        immutable(&mut errors, &new.at(&["spec", "scopes"]), &old.at(&["spec", "scopes"]));
        errors
    },
    columns: &[("Name", "string"), ("Request", "string"), ("Limit", "string"), ("Age", "string")],
    row: quota_row,
    ..DEFAULT
};

fn resource_quota(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    for (resource, quantity) in object.at(&["spec", "hard"]).entries() {
        quota_resource_name(&mut errors, &quantity, resource);
        check_quantity(&mut errors, &quantity, resource);
    }
    const SCOPES: [&str; 7] = [
        "Terminating",
        "NotTerminating",
        "BestEffort",
        "NotBestEffort",
        "PriorityClass",
        "CrossNamespacePodAffinity",
        "VolumeAttributesClass",
    ];
    let scopes = object.at(&["spec", "scopes"]);
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.text()) {
            errors.push(scopes.invalid("unsupported scope"));
        }
    }
    let all: Vec<&str> = scopes.items().map(|s| s.text()).collect();
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if all.contains(&a) && all.contains(&b) {
            errors.push(scopes.invalid("conflicting scopes"));
        }
    }
    errors
}

fn quota_status(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let status = object.get("status");
    if !status.get("hard").present() {
        errors.push(status.get("hard").required(""));
    }
    for field in ["hard", "used"] {
        for (resource, quantity) in status.get(field).entries() {
            quota_resource_name(&mut errors, &quantity, resource);
            check_quantity(&mut errors, &quantity, resource);
        }
    }
    errors
}

fn quota_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in map(object, &["status", "hard"]).into_iter().flatten() {
        let used = str_at(object, &["status", "used", resource]);
        let used = if used.is_empty() { "0" } else { used };
        let text = format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default());
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![name(object).into(), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
}

pub(super) const COMPONENT_STATUSES: Rules = Rules {
    columns: &[("Name", "string"), ("Status", "string"), ("Message", "string"), ("Error", "string")],
    row: |o, _| {
        let healthy = list(o, &["conditions"]).iter().find(|c| c["type"] == "Healthy");
        let status = match healthy.map(|c| str_at(c, &["status"])) {
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
            None => "Unknown",
        };
        let text = |field: &str| healthy.map_or("", |c| str_at(c, &[field]));
        vec![name(o).into(), status.into(), text("message").into(), or(text("error"), "")]
    },
    ..DEFAULT
};

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::strategy::WriteContext;
    use serde_json::json;

    fn context(subresource: &'static str) -> WriteContext<'static> {
        WriteContext { now: Timestamp::UNIX_EPOCH, user: "u", groups: &[], subresource }
    }

    #[test]
    fn string_data_is_encoded_and_dropped() {
        let mut secret = json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}});
        (SECRETS.default)("v1", &mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "Yg==", "c": "ZA=="}}));
    }

    #[test]
    fn secrets_have_what_their_type_needs() {
        for (kind, data, problems) in [
            ("Opaque", json!({"a": "Yg=="}), vec![]),
            (
                "kubernetes.io/tls",
                json!({}),
                vec!["data[tls.crt]: Required value", "data[tls.key]: Required value"],
            ),
            ("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "e30="}), vec![]),
            ("kubernetes.io/ssh-auth", json!({}), vec!["data[ssh-privatekey]: Required value"]),
        ] {
            let errors = (SECRETS.validate)(&json!({"type": kind, "data": data}));
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, problems, "{kind}");
        }
    }

    #[test]
    fn immutable_data_stays() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let new = json!({"immutable": true, "data": {"a": "2"}});
        let errors = (CONFIG_MAPS.validate_update)(&context(""), &new, &old);
        assert_eq!(errors[0].to_string(), "data: Forbidden: field is immutable when `immutable` is set");
        assert!((CONFIG_MAPS.validate_update)(&context(""), &old, &old).is_empty());
    }

    #[test]
    fn a_namespace_is_active_and_finalized() {
        let mut namespace = json!({"metadata": {"name": "a"}});
        (NAMESPACES.default)("v1", &mut namespace);
        (NAMESPACES.prepare_create)(&context(""), &mut namespace);
        assert_eq!(
            namespace,
            json!({"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
                   "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
        let mut new = namespace.clone();
        new["spec"]["finalizers"] = json!([]);
        (NAMESPACES.prepare_update)(&context(""), &mut new, &namespace);
        assert_eq!(new["spec"]["finalizers"], json!(["kubernetes"]));
        assert!((NAMESPACES.holds_deletion)(&namespace));
    }

    #[test]
    fn rows() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().expect("a time");
        let event = json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": "ok\n",
            "involvedObject": {"kind": "Pod", "name": "p"}, "eventTime": "2026-01-01T00:59:00.000000Z",
            "reportingComponent": "kubelet"});
        let row = event_row(&event, now);
        let texts: Vec<String> =
            row.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), Into::into)).collect();
        assert_eq!(texts, ["60s", "Normal", "Started", "pod/p", "", "kubelet", "ok", "60s", "1", "e"]);
        let endpoints = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}],
            "ports": [{"port": 80}, {"port": 443}]}]});
        assert_eq!(endpoints_text(&endpoints), "10.0.0.1:80,10.0.0.2:80,10.0.0.1:443 + 1 more...");
    }

    #[test]
    fn limits_default_from_each_other() {
        let mut range = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        (LIMIT_RANGES.default)("v1", &mut range);
        let item = &range["spec"]["limits"][0];
        assert_eq!(item["default"], json!({"cpu": "2"}));
        assert_eq!(item["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        let non = At::root(item);
        let mut errors = Vec::new();
        non_negative(&mut errors, &non.get("max"));
        assert!(errors.is_empty());
    }
}
