//! Volumes, claims, and the kinds of storage.k8s.io.
//!
//! Source: `pkg/apis/core/validation`, `pkg/apis/storage`.

use apimachinery::{Map, Value};
use jiff::Timestamp;

use super::print::{age, list, map, name, or, str_at, texts};
use super::resources::{check_quantity, quantity};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, Errors, immutable, same, shape};
use crate::edit::{default_text, default_to, map_or_new, spec, status};
use crate::names;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// Where the class was said before there was a field for it.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Defaults of a claim, in its own right or as a template.
pub(super) fn default_claim(claim: &mut Map) {
    if let Some(spec) = map_or_new(claim, "spec") {
        default_claim_spec(spec);
    }
    if let Some(status) = map_or_new(claim, "status") {
        default_text(status, "phase", "Pending");
    }
}

/// Defaults of a claim's spec.
pub(super) fn default_claim_spec(spec: &mut Map) {
    default_to(spec, "volumeMode", "Filesystem");
    // the old way to name a source and the new one say the same
    let source = spec.get("dataSource").filter(|s| !s.is_null()).cloned();
    let reference = spec.get("dataSourceRef").filter(|s| !s.is_null()).cloned();
    match (source, reference) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".into(), source);
        }
        (None, Some(reference))
            if reference.get("namespace").and_then(Value::as_str).unwrap_or("").is_empty() =>
        {
            spec.insert("dataSource".into(), reference);
        }
        _ => {}
    }
}

pub(super) const CLAIMS: Rules = Rules {
    default: |_, o| {
        if let Some(claim) = o.as_object_mut() {
            default_claim(claim);
        }
    },
    prepare_create: |_, o| {
        if let Some(status) = status(o) {
            status.insert("phase".into(), "Pending".into());
        }
    },
    validate: |o| claim(&At::root(o)),
    validate_update: |context, new, old| match context.subresource {
        "status" => Vec::new(),
        _ => claim_update(&At::root(new), &At::root(old)),
    },
    columns: &[
        ("Name", "string"),
        ("Status", "string"),
        ("Volume", "string"),
        ("Capacity", "string"),
        ("Access Modes", "string"),
        ("StorageClass", "string"),
        ("VolumeAttributesClass", "string"),
        ("Age", "string"),
        ("+VolumeMode", "string"),
    ],
    row: claim_row,
    ..DEFAULT
};

fn claim(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    claim_spec(&mut errors, &object.get("spec"));
    errors
}

/// Validates a claim's spec, which pods and stateful sets carry as well.
pub(super) fn claim_spec(errors: &mut Errors, spec: &At<'_>) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        errors.push(modes.required("at least 1 access mode is required"));
    }
    access_modes(errors, &modes);
    let selector = spec.get("selector");
    if selector.present() {
        errors.extend(apimachinery::objectmeta::label_selector(selector.value(), &selector.path()));
    }
    let storage = spec.at(&["resources", "requests"]).key("storage");
    if storage.present() {
        check_quantity(errors, &storage, "storage");
        if quantity(&storage).is_some_and(apimachinery::quantity::Quantity::is_zero) {
            errors.push(storage.invalid("must be greater than zero"));
        }
    } else {
        errors.push(spec.get("resources").key("storage").required(""));
    }
    let class = spec.get("storageClassName");
    if !class.is_empty() {
        shape(errors, &class, names::dns1123_subdomain(class.text(), false));
    }
    volume_mode(errors, &spec.get("volumeMode"));
}

fn access_modes(errors: &mut Errors, modes: &At<'_>) {
    for mode in modes.items() {
        if !ACCESS_MODES.contains(&mode.text()) {
            let mut sorted = ACCESS_MODES;
            sorted.sort_unstable();
            errors.push(apimachinery::status::FieldError::not_supported(modes.path(), mode.text(), &sorted));
        }
    }
    let single = modes.items().any(|m| m.text() == "ReadWriteOncePod");
    if single && modes.len() > 1 {
        errors.push(modes.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
}

fn volume_mode(errors: &mut Errors, mode: &At<'_>) {
    if mode.present() && !matches!(mode.text(), "Block" | "Filesystem") {
        errors.push(mode.not_supported(&["Block", "Filesystem"]));
    }
}

/// A bound claim may grow and change its attributes; a new one may be bound.
fn claim_update(new: &At<'_>, old: &At<'_>) -> Errors {
    let mut errors = claim(new);
    let comparable = |object: &At<'_>| {
        let mut spec = object.get("spec").to_value();
        if let Some(map) = spec.as_object_mut() {
            if let Some(requests) = map.get_mut("resources").and_then(|r| r.get_mut("requests"))
                && let Some(requests) = requests.as_object_mut()
            {
                requests.remove("storage");
            }
            map.remove("volumeAttributesClassName");
            if old.at(&["spec", "volumeName"]).is_empty() {
                map.remove("volumeName");
            }
            if old.at(&["spec", "storageClassName"]).is_empty() && old.at(&["spec", "volumeName"]).is_empty()
            {
                map.remove("storageClassName");
            }
        }
        spec
    };
    if !same(Some(&comparable(new)), Some(&comparable(old))) {
        errors.push(new.get("spec").forbidden(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
    let path = ["spec", "resources", "requests", "storage"];
    let (size, before) = (quantity(&new.at(&path)), quantity(&old.at(&path)));
    let bound = old.at(&["status", "phase"]).text() == "Bound";
    let shown = new.at(&["spec", "resources", "requests", "storage"]);
    if size < before {
        errors.push(shown.forbidden("field can not be less than status.capacity"));
    } else if size != before && !bound {
        errors.push(new.get("spec").forbidden(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
    volume_mode_fixed(&mut errors, new, old);
    errors
}

fn volume_mode_fixed(errors: &mut Errors, new: &At<'_>, old: &At<'_>) {
    let path = ["spec", "volumeMode"];
    immutable(errors, &new.at(&path), &old.at(&path));
}

/// `RWO,ROX`, in the order kubectl prints.
fn modes_text(modes: &[Value]) -> String {
    let all: Vec<&str> = texts(modes).collect();
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .into_iter()
    .filter(|(mode, _)| all.contains(mode))
    .map(|(_, short)| short)
    .collect::<Vec<_>>()
    .join(",")
}

fn class_of(object: &Value) -> &str {
    match str_at(object, &["metadata", "annotations", CLASS_ANNOTATION]) {
        "" => str_at(object, &["spec", "storageClassName"]),
        class => class,
    }
}

fn claim_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let volume = str_at(object, &["spec", "volumeName"]);
    let (capacity, modes) = if volume.is_empty() {
        ("", String::new())
    } else {
        (
            str_at(object, &["status", "capacity", "storage"]),
            modes_text(list(object, &["status", "accessModes"])),
        )
    };
    let deleting = !str_at(object, &["metadata", "deletionTimestamp"]).is_empty();
    let phase = if deleting { "Terminating" } else { str_at(object, &["status", "phase"]) };
    vec![
        name(object).into(),
        phase.into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        class_of(object).into(),
        or(str_at(object, &["spec", "volumeAttributesClassName"]), "<unset>"),
        age(object, now),
        or(str_at(object, &["spec", "volumeMode"]), "<unset>"),
    ]
}

pub(super) const VOLUMES: Rules = Rules {
    default: |_, o| {
        if let Some(spec) = spec(o) {
            default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
            default_to(spec, "volumeMode", "Filesystem");
        }
        if let Some(status) = status(o) {
            default_text(status, "phase", "Pending");
        }
    },
    prepare_create: |context, o| {
        let now = context.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        if let Some(status) = status(o) {
            status.insert("phase".into(), "Pending".into());
            status.insert("lastPhaseTransitionTime".into(), now.into());
        }
    },
    prepare_update: |context, new, old| {
        let phase = |o: &Value| str_at(o, &["status", "phase"]).to_owned();
        if context.subresource == "status" && phase(new) != phase(old) {
            let now = context.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            if let Some(status) = status(new) {
                status.insert("lastPhaseTransitionTime".into(), now.into());
            }
        }
    },
    validate: |o| volume(&At::root(o)),
    validate_update: |context, new, old| match context.subresource {
        "status" => Vec::new(),
        _ => {
            let (new, old) = (At::root(new), At::root(old));
            let mut errors = volume(&new);
            if !same(Some(&source(&new)), Some(&source(&old))) {
                errors.push(
                    new.get("spec")
                        .at(&["persistentvolumesource"])
                        .forbidden("spec.persistentvolumesource is immutable after creation"),
                );
            }
            volume_mode_fixed(&mut errors, &new, &old);
            let affinity = ["spec", "nodeAffinity"];
            if old.at(&affinity).present() {
                immutable(&mut errors, &new.at(&affinity), &old.at(&affinity));
            }
            errors
        }
    },
    columns: &[
        ("Name", "string"),
        ("Capacity", "string"),
        ("Access Modes", "string"),
        ("Reclaim Policy", "string"),
        ("Status", "string"),
        ("Claim", "string"),
        ("StorageClass", "string"),
        ("VolumeAttributesClass", "string"),
        ("Reason", "string"),
        ("Age", "string"),
        ("+VolumeMode", "string"),
    ],
    row: volume_row,
    ..DEFAULT
};

/// Fields of a volume's spec that are not its source.
const NOT_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn source(object: &At<'_>) -> Value {
    let mut spec = object.get("spec").to_value();
    if let Some(map) = spec.as_object_mut() {
        map.retain(|field, _| !NOT_SOURCE.contains(&field.as_str()));
    }
    spec
}

fn volume(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        errors.push(modes.required(""));
    }
    access_modes(&mut errors, &modes);
    let capacity = spec.get("capacity");
    if capacity.is_empty() {
        errors.push(capacity.required(""));
    }
    if !capacity.key("storage").present() || capacity.len() > 1 {
        errors.push(capacity.not_supported(&["storage"]));
    }
    for (resource, amount) in capacity.entries() {
        check_quantity(&mut errors, &amount, resource);
        if quantity(&amount).is_some_and(|q| q.sign() <= 0) {
            errors.push(amount.invalid("must be greater than zero"));
        }
    }
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if !policy.is_empty() && !matches!(policy.text(), "Delete" | "Recycle" | "Retain") {
        errors.push(policy.not_supported(&["Delete", "Recycle", "Retain"]));
    }
    let sources = source(object);
    match sources.as_object().map_or(0, Map::len) {
        0 => errors.push(spec.required("must specify a volume type")),
        1 => {}
        _ => {
            for (kind, _) in sources.as_object().into_iter().flatten().skip(1) {
                errors.push(apimachinery::status::FieldError::forbidden(
                    format!("spec.{kind}"),
                    "may not specify more than 1 volume type",
                ));
            }
        }
    }
    let path = spec.at(&["hostPath", "path"]);
    if spec.get("hostPath").present() {
        if path.is_empty() {
            errors.push(path.required(""));
        } else if names::has_back_step(path.text()) {
            errors.push(path.invalid("must not contain '..'"));
        }
    }
    if spec.get("local").present() {
        if spec.at(&["local", "path"]).is_empty() {
            errors.push(spec.at(&["local", "path"]).required(""));
        }
        if !spec.get("nodeAffinity").present() {
            errors.push(spec.get("nodeAffinity").required("Local volume requires node affinity"));
        }
    }
    let class = spec.get("storageClassName");
    if !class.is_empty() {
        shape(&mut errors, &class, names::dns1123_subdomain(class.text(), false));
    }
    volume_mode(&mut errors, &spec.get("volumeMode"));
    errors
}

fn volume_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match map(object, &["spec", "claimRef"]) {
        Some(_) => format!(
            "{}/{}",
            str_at(object, &["spec", "claimRef", "namespace"]),
            str_at(object, &["spec", "claimRef", "name"])
        ),
        None => String::new(),
    };
    let deleting = !str_at(object, &["metadata", "deletionTimestamp"]).is_empty();
    let phase = if deleting { "Terminating" } else { str_at(object, &["status", "phase"]) };
    vec![
        name(object).into(),
        str_at(object, &["spec", "capacity", "storage"]).into(),
        modes_text(list(object, &["spec", "accessModes"])).into(),
        str_at(object, &["spec", "persistentVolumeReclaimPolicy"]).into(),
        phase.into(),
        claim.into(),
        class_of(object).into(),
        or(str_at(object, &["spec", "volumeAttributesClassName"]), "<unset>"),
        str_at(object, &["status", "reason"]).into(),
        age(object, now),
        or(str_at(object, &["spec", "volumeMode"]), "<unset>"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn claims_default_validate_and_print() {
        let mut object = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
        (CLAIMS.default)("v1", &mut object);
        assert_eq!(object["status"]["phase"], "Pending");
        assert!(claim(&At::root(&object)).is_empty());
        let texts: Vec<Value> = claim_row(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(texts[1], "Pending");
        assert_eq!(texts[8], "Filesystem");
        let empty = json!({"spec": {}});
        let problems: Vec<String> = claim(&At::root(&empty)).iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value",
            ]
        );
    }

    #[test]
    fn a_claim_may_only_grow_when_bound() {
        let claim = |size: &str, phase: &str| {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "v",
                "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}})
        };
        let check = |new: &Value, old: &Value| claim_update(&At::root(new), &At::root(old)).len();
        assert_eq!(check(&claim("2Gi", "Bound"), &claim("1Gi", "Bound")), 0);
        assert_eq!(check(&claim("1Gi", "Bound"), &claim("2Gi", "Bound")), 1);
        assert_eq!(check(&claim("2Gi", "Pending"), &claim("1Gi", "Pending")), 1);
    }
}
