//! Kinds that ordinary workloads seldom meet: trust bundles, flow control, devices, storage versions.
//!
//! Source: `pkg/apis/certificates`, `pkg/apis/flowcontrol`, `pkg/apis/resource`, `pkg/apis/storagemigration`.

use apimachinery::meta::at;
use apimachinery::strategy::Resets;
use apimachinery::{Map, Value};

use super::print::{age, condition, int_or_string, list, name, number, or, str_at};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, immutable, one_of, same};
use crate::edit::{default_number, default_text, default_to, map_at, map_or_new, maps_in, spec, text};

pub(super) const TRUST_BUNDLES: Rules = Rules {
    validate: |o| {
        let (bundle, mut errors) = (At::root(o).at(&["spec", "trustBundle"]), Vec::new());
        if bundle.is_empty() {
            errors.push(bundle.invalid_text("at least one trust anchor must be provided"));
        }
        errors
    },
    validate_update: |_, new, old| {
        let mut errors = Vec::new();
        let path = ["spec", "signerName"];
        immutable(&mut errors, &At::root(new).at(&path), &At::root(old).at(&path));
        errors
    },
    name: crate::names::path_segment_name,
    columns: &[("Name", "string"), ("SignerName", "string")],
    row: |o, _| vec![name(o).into(), or(str_at(o, &["spec", "signerName"]), "<none>")],
    ..DEFAULT
};

pub(super) const FLOW_SCHEMAS: Rules = Rules {
    resets: &[("status", Resets::Except(&["metadata", "spec"]))],
    generation: true,
    default: |_, o| {
        if let Some(spec) = spec(o) {
            default_number(spec, "matchingPrecedence", 1000);
        }
    },
    validate: |o| {
        let (spec, mut errors) = (At::root(o).get("spec"), Vec::new());
        if !(1..=10_000).contains(&spec.get("matchingPrecedence").int_or_zero()) {
            errors
                .push(spec.get("matchingPrecedence").invalid("must be no greater than 10000 and at least 1"));
        }
        let level = spec.at(&["priorityLevelConfiguration", "name"]);
        if level.is_empty() {
            errors.push(level.required("must reference a priority level"));
        }
        let method = spec.at(&["distinguisherMethod", "type"]);
        if spec.get("distinguisherMethod").present() {
            one_of(&mut errors, &method, &["ByNamespace", "ByUser"]);
        }
        errors
    },
    columns: &[
        ("Name", "string"),
        ("PriorityLevel", "string"),
        ("MatchingPrecedence", "integer"),
        ("DistinguisherMethod", "string"),
        ("Age", "string"),
        ("MissingPL", "string"),
    ],
    row: |o, now| {
        let missing = condition(o, "Dangling").map_or("?", |c| str_at(c, &["status"]));
        vec![
            name(o).into(),
            str_at(o, &["spec", "priorityLevelConfiguration", "name"]).into(),
            number(o, &["spec", "matchingPrecedence"]).into(),
            or(str_at(o, &["spec", "distinguisherMethod", "type"]), "<none>"),
            age(o, now),
            missing.into(),
        ]
    },
    ..DEFAULT
};

pub(super) const PRIORITY_LEVELS: Rules = Rules {
    resets: &[("status", Resets::Except(&["metadata", "spec"]))],
    generation: true,
    default: |_, o| {
        let Some(spec) = spec(o) else { return };
        match text(spec, "type") {
            "Limited" => {
                if let Some(limited) = map_or_new(spec, "limited") {
                    default_limited(limited);
                }
            }
            "Exempt" => {
                if let Some(exempt) = map_or_new(spec, "exempt") {
                    default_to(exempt, "nominalConcurrencyShares", 0);
                    default_to(exempt, "lendablePercent", 0);
                }
            }
            _ => {}
        }
    },
    validate: |o| {
        let (spec, mut errors) = (At::root(o).get("spec"), Vec::new());
        one_of(&mut errors, &spec.get("type"), &["Exempt", "Limited"]);
        if spec.get("type").text() == "Limited" {
            one_of(&mut errors, &spec.at(&["limited", "limitResponse", "type"]), &["Queue", "Reject"]);
            let lendable = spec.at(&["limited", "lendablePercent"]);
            if lendable.int().is_some_and(|p| !(0..=100).contains(&p)) {
                errors.push(lendable.invalid("must be between 0 and 100, inclusive"));
            }
        }
        errors
    },
    columns: &[
        ("Name", "string"),
        ("Type", "string"),
        ("NominalConcurrencyShares", "string"),
        ("Queues", "string"),
        ("HandSize", "string"),
        ("QueueLengthLimit", "string"),
        ("Age", "string"),
    ],
    row: |o, now| {
        let queuing = |field: &str| {
            Value::from(int_or_string(o, &["spec", "limited", "limitResponse", "queuing", field], "<none>"))
        };
        let part = if o["spec"]["type"] == "Exempt" { "exempt" } else { "limited" };
        vec![
            name(o).into(),
            str_at(o, &["spec", "type"]).into(),
            int_or_string(o, &["spec", part, "nominalConcurrencyShares"], "<none>").into(),
            queuing("queues"),
            queuing("handSize"),
            queuing("queueLengthLimit"),
            age(o, now),
        ]
    },
    ..DEFAULT
};

fn default_limited(limited: &mut Map) {
    default_to(limited, "nominalConcurrencyShares", 30);
    default_to(limited, "lendablePercent", 0);
    if let Some(response) = map_or_new(limited, "limitResponse")
        && text(response, "type") == "Queue"
        && let Some(queuing) = map_or_new(response, "queuing")
    {
        default_number(queuing, "handSize", 8);
        default_number(queuing, "queues", 64);
        default_number(queuing, "queueLengthLimit", 50);
    }
}

/// A request is for one device unless it says otherwise.
fn default_request(request: &mut Map) {
    default_text(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        default_number(request, "count", 1);
    }
    for toleration in maps_in(request, "tolerations") {
        default_text(toleration, "operator", "Equal");
    }
}

fn default_claim(version: &str, spec: &mut Map) {
    let Some(devices) = map_at(spec, "devices") else { return };
    for request in maps_in(devices, "requests") {
        if version == "v1beta1" {
            if !text(request, "deviceClassName").is_empty() {
                default_request(request);
            }
        } else if let Some(exactly) = map_at(request, "exactly") {
            default_request(exactly);
        }
        maps_in(request, "firstAvailable").for_each(default_request);
    }
}

pub(super) const RESOURCE_CLAIMS: Rules = Rules {
    resets: &[("status", Resets::Except(&["metadata", "spec"]))],
    default: |version, o| {
        if let Some(spec) = spec(o) {
            default_claim(version, spec);
        }
    },
    validate_update: |context, new, old| {
        let (new, old) = (At::root(new).get("spec"), At::root(old).get("spec"));
        let mut errors = Vec::new();
        if context.subresource != "status" && !same(new.value(), old.value()) {
            errors.push(new.invalid("field is immutable"));
        }
        errors
    },
    columns: &[("Name", "string"), ("State", "string"), ("Age", "string")],
    row: |o, now| {
        let mut states = Vec::new();
        if !str_at(o, &["metadata", "deletionTimestamp"]).is_empty() {
            states.push("deleted");
        }
        let allocated = at(o, &["status", "allocation"]).is_some_and(Value::is_object);
        states.push(if allocated { "allocated" } else { "pending" });
        if !list(o, &["status", "reservedFor"]).is_empty() {
            states.push("reserved");
        }
        vec![name(o).into(), states.join(",").into(), age(o, now)]
    },
    ..DEFAULT
};

pub(super) const CLAIM_TEMPLATES: Rules = Rules {
    default: |version, o| {
        if let Some(spec) = spec(o)
            && let Some(inner) = map_at(spec, "spec")
        {
            default_claim(version, inner);
        }
    },
    validate_update: |_, new, old| {
        let mut errors = Vec::new();
        immutable(&mut errors, &At::root(new).get("spec"), &At::root(old).get("spec"));
        errors
    },
    ..DEFAULT
};

pub(super) const DEVICE_CLASSES: Rules = Rules { generation: true, ..DEFAULT };

pub(super) const RESOURCE_SLICES: Rules = Rules {
    generation: true,
    validate: |o| {
        let (spec, mut errors) = (At::root(o).get("spec"), Vec::new());
        for path in [["driver"].as_slice(), &["pool", "name"]] {
            if spec.at(path).is_empty() {
                errors.push(spec.at(path).required(""));
            }
        }
        errors
    },
    validate_update: |_, new, old| {
        let (new, old, mut errors) = (At::root(new).get("spec"), At::root(old).get("spec"), Vec::new());
        for path in [["driver"].as_slice(), &["nodeName"], &["pool", "name"]] {
            immutable(&mut errors, &new.at(path), &old.at(path));
        }
        errors
    },
    columns: &[
        ("Name", "string"),
        ("Node", "string"),
        ("Driver", "string"),
        ("Pool", "string"),
        ("Age", "string"),
    ],
    row: |o, now| {
        vec![
            name(o).into(),
            or(str_at(o, &["spec", "nodeName"]), "<unset>"),
            str_at(o, &["spec", "driver"]).into(),
            str_at(o, &["spec", "pool", "name"]).into(),
            age(o, now),
        ]
    },
    ..DEFAULT
};

pub(super) const STORAGE_VERSIONS: Rules = Rules {
    columns: &[("Name", "string"), ("CommonEncodingVersion", "string"), ("Age", "string")],
    row: |o, now| {
        vec![name(o).into(), or(str_at(o, &["status", "commonEncodingVersion"]), "<unset>"), age(o, now)]
    },
    ..DEFAULT
};

pub(super) const MIGRATIONS: Rules = Rules {
    validate_update: |context, new, old| {
        let mut errors = Vec::new();
        if context.subresource != "status" {
            immutable(&mut errors, &At::root(new).get("spec"), &At::root(old).get("spec"));
        }
        errors
    },
    columns: &[("Name", "string"), ("Resource", "string"), ("Age", "string")],
    row: |o, now| {
        let (group, resource) =
            (str_at(o, &["spec", "resource", "group"]), str_at(o, &["spec", "resource", "resource"]));
        let text = apimachinery::meta::GroupResource::new(group, resource).to_string();
        vec![name(o).into(), text.into(), age(o, now)]
    },
    ..DEFAULT
};

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn a_request_is_for_one_device() {
        let mut claim = json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
        (RESOURCE_CLAIMS.default)("v1", &mut claim);
        let exactly = &claim["spec"]["devices"]["requests"][0]["exactly"];
        assert_eq!(exactly, &json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}));
    }
}
