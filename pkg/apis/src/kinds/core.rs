//! The small kinds of the core group: config maps, secrets, service accounts, namespaces, events, endpoints, limit ranges,
//! resource quotas, component statuses.
//!
//! Source: `pkg/apis/core/validation`, `pkg/registry/core`.

use apimachinery::meta::metadata_mut;
use apimachinery::status::FieldError;
use apimachinery::strategy::Resets;
use apimachinery::{Map, Value};
use base64::Engine as _;

use super::print::{age, list, name, or, str_at};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, Errors, immutable, shape};
use crate::edit::{default_text, keep_in, map_or_new, spec, status};
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
        "kubernetes.io/basic-auth" if !data.key("username").present() && !data.key("password").present() => {
            errors.push(data.key("username").required(""));
            errors.push(data.key("password").required(""));
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
    resets: &[("finalize", Resets::Except(&["status"]))],
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
            let finalizers = spec.entry("finalizers").or_insert_with(|| Value::Array(Vec::new().into()));
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
    use apimachinery::json;
    use apimachinery::strategy::WriteContext;
    use jiff::Timestamp;

    fn context(subresource: &'static str) -> WriteContext<'static> {
        WriteContext { now: Timestamp::UNIX_EPOCH, user: "u", groups: &[], subresource, group: "" }
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
}
