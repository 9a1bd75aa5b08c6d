//! What may change of a pod. Source: `ValidatePodUpdate` and its kin in `pkg/apis/core/validation`.

use std::collections::HashSet;

use apimachinery::Value;
use apimachinery::strategy::WriteContext;

use super::validation;
use crate::cursor::{At, Errors, same};

const FORBIDDEN: &str = "pod updates may not change fields other than \
     `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
     additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
     previously negative)";

/// Validates a change of a pod or of the part that a subresource writes.
pub(super) fn validate(context: &WriteContext<'_>, new: &Value, old: &Value) -> Errors {
    let (new, old) = (At::root(new), At::root(old));
    match context.subresource {
        "status" => status(&new, &old),
        "ephemeralcontainers" => ephemeral(&new, &old),
        "resize" => resize(&new, &old),
        "" => spec(&new, &old),
        // bindings and the like make their own checks
        _ => Vec::new(),
    }
}

fn spec<'a>(new: &At<'a>, old: &At<'a>) -> Errors {
    let (new, old) = (new.get("spec"), old.get("spec"));
    let mut errors = Vec::new();
    if new.shares(&old) {
        // it was valid when it was stored
        return errors;
    }
    for list in ["containers", "initContainers"] {
        if new.get(list).len() != old.get(list).len() {
            errors.push(new.get(list).forbidden("pod updates may not add or remove containers"));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    for list in ["containers", "initContainers"] {
        for container in new.get(list).items() {
            let image = container.get("image");
            if image.is_empty() {
                errors.push(image.required(""));
            } else if image.text().trim() != image.text() {
                errors.push(image.invalid("must not have leading or trailing whitespace"));
            }
        }
    }
    deadline(&mut errors, &new, &old);
    added_tolerations(&mut errors, &new.get("tolerations"), &old.get("tolerations"));
    removed_gates(&mut errors, &new.get("schedulingGates"), &old.get("schedulingGates"));
    let gated = !old.get("schedulingGates").is_empty();
    let (mut changed, base) = (new.to_value(), old.to_value());
    let Some(map) = changed.as_object_mut() else { return errors };
    for list in ["containers", "initContainers"] {
        take_images(map.get_mut(list), base.get(list));
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        take(map, &base, field);
    }
    let was_negative = old.get("terminationGracePeriodSeconds").int().is_some_and(|s| s < 0);
    if was_negative && new.get("terminationGracePeriodSeconds").int() == Some(1) {
        take(map, &base, "terminationGracePeriodSeconds");
    }
    if gated && narrower_selector(&new.get("nodeSelector"), &old.get("nodeSelector")) {
        take(map, &base, "nodeSelector");
    }
    if gated && narrower_affinity(&new, &old) {
        take(map, &base, "affinity");
    }
    if !same(Some(&changed), Some(&base)) {
        errors.push(new.forbidden(&format!("{FORBIDDEN}\n{}", difference(&changed, &base))));
    }
    errors
}

fn take(map: &mut apimachinery::Map, from: &Value, field: &str) {
    match from.get(field) {
        Some(value) => map.insert(field.into(), value.clone()),
        None => map.remove(field),
    };
}

fn take_images(new: Option<&mut Value>, old: Option<&Value>) {
    let new = new.and_then(Value::as_array_mut).into_iter().flatten();
    for (new, old) in new.zip(old.and_then(Value::as_array).into_iter().flatten()) {
        if let Some(map) = new.as_object_mut() {
            take(map, old, "image");
        }
    }
}

fn deadline(errors: &mut Errors, new: &At<'_>, old: &At<'_>) {
    let at = new.get("activeDeadlineSeconds");
    let (value, before) = (at.int(), old.get("activeDeadlineSeconds").int());
    match (value, before) {
        (Some(value), _) if !(0..=i64::from(i32::MAX)).contains(&value) => {
            errors.push(at.invalid(format!("must be between 0 and {}, inclusive", i32::MAX)));
        }
        (Some(value), Some(before)) if value > before => {
            errors.push(at.invalid("must be less than or equal to previous value"));
        }
        (None, Some(_)) => errors.push(at.invalid("must not update from a positive integer to nil value")),
        _ => {}
    }
}

/// Tolerations may be added, and the time of one may change.
fn added_tolerations(errors: &mut Errors, new: &At<'_>, old: &At<'_>) {
    let without_time = |t: &At<'_>| {
        let mut value = t.to_value();
        if let Some(map) = value.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        value
    };
    let all: HashSet<Value> = new.items().map(|t| without_time(&t)).collect();
    if !old.items().all(|t| all.contains(&without_time(&t))) {
        errors.push(new.forbidden("existing toleration can not be modified except its tolerationSeconds"));
    }
    super::scheduling::tolerations(errors, new);
}

fn removed_gates(errors: &mut Errors, new: &At<'_>, old: &At<'_>) {
    let before: HashSet<&str> = old.items().map(|g| g.get("name").text()).collect();
    for gate in new.items() {
        let name = gate.get("name").text();
        if !before.contains(&name) {
            errors.push(
                gate.forbidden(&format!("only deletion is allowed, but found new scheduling gate '{name}'")),
            );
        }
    }
}

/// A pod that is held back may be bound to fewer nodes.
fn narrower_selector<'a>(new: &At<'a>, old: &At<'a>) -> bool {
    old.entries().all(|(key, value)| new.key(key).value() == value.value())
}

fn narrower_affinity(new: &At<'_>, old: &At<'_>) -> bool {
    const REQUIRED: [&str; 3] =
        ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
    let (new_terms, old_terms) =
        (new.at(&REQUIRED).get("nodeSelectorTerms"), old.at(&REQUIRED).get("nodeSelectorTerms"));
    if old_terms.is_empty() {
        return true;
    }
    // each term may only gain requirements
    new_terms.len() == old_terms.len()
        && new_terms.items().zip(old_terms.items()).all(|(new, old)| {
            ["matchExpressions", "matchFields"].into_iter().all(|list| {
                let (new, old) = (new.get(list), old.get(list));
                old.items().all(|o| new.items().any(|n| n.value() == o.value()))
            })
        })
}

/// The fields that differ, one a line.
fn difference(new: &Value, old: &Value) -> String {
    let empty = apimachinery::Map::new();
    let (new, old) = (new.as_object().unwrap_or(&empty), old.as_object().unwrap_or(&empty));
    let mut lines = Vec::new();
    let mut names: Vec<&apimachinery::Key> = new.keys().chain(old.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (a, b) = (old.get(name), new.get(name));
        if !same(a, b) {
            for (sign, value) in [('-', a), ('+', b)] {
                if let Some(value) = value {
                    lines.push(format!("{sign} {name}: {value}"));
                }
            }
        }
    }
    lines.join("\n")
}

fn status(new: &At<'_>, old: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let (name, before) = (new.at(&["spec", "nodeName"]), old.at(&["spec", "nodeName"]));
    if name.text() != before.text() {
        errors.push(new.at(&["status", "nodeName"]).forbidden("may not be changed directly"));
    }
    let nominated = new.at(&["status", "nominatedNodeName"]);
    if !nominated.is_empty() {
        let problems = crate::names::dns1123_subdomain(nominated.text(), false);
        crate::cursor::shape(&mut errors, &nominated, problems);
    }
    let restart = new.at(&["spec", "restartPolicy"]).text();
    for container in old.at(&["status", "containerStatuses"]).items() {
        // what ended for good stays ended
        let ended = container.at(&["state", "terminated"]);
        let for_good =
            restart == "Never" || restart == "OnFailure" && ended.get("exitCode").int_or_zero() == 0;
        let own = old
            .at(&["spec", "containers"])
            .items()
            .find(|c| c.get("name").text() == container.get("name").text())
            .is_some_and(|c| c.get("restartPolicy").present());
        if restart == "Always" || own || !ended.present() || !for_good {
            continue;
        }
        for after in new.at(&["status", "containerStatuses"]).items() {
            if after.get("name").text() == container.get("name").text()
                && !after.at(&["state", "terminated"]).present()
            {
                errors.push(after.get("state").forbidden("may not be transitioned to non-terminated state"));
            }
        }
    }
    errors
}

fn ephemeral(new: &At<'_>, old: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    validation::pod_spec(&mut errors, &new.get("spec"));
    let (new, old) = (new.at(&["spec", "ephemeralContainers"]), old.at(&["spec", "ephemeralContainers"]));
    for before in old.items() {
        let name = before.get("name").text();
        match new.items().find(|c| c.get("name").text() == name) {
            None => errors
                .push(new.forbidden(&format!("existing ephemeral containers {name:?} may not be removed"))),
            Some(after) if after.value() != before.value() => {
                errors.push(
                    new.forbidden(&format!("existing ephemeral containers {name:?} may not be changed")),
                );
            }
            Some(_) => {}
        }
    }
    errors
}

/// CPU and memory of running containers may change, within the pod's quality of service.
fn resize(new: &At<'_>, old: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    validation::pod_spec(&mut errors, &new.get("spec"));
    let (new_class, old_class) = (super::qos::class(&new.to_value()), old.at(&["status", "qosClass"]).text());
    if !old_class.is_empty() && new_class != old_class {
        let at = new.at(&["status", "qosClass"]);
        errors.push(at.invalid_value(new_class, "Pod QOS Class may not change as a result of resizing"));
    }
    let (mut changed, mut base) = (new.get("spec").to_value(), old.get("spec").to_value());
    for spec in [&mut changed, &mut base] {
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                for kind in ["limits", "requests"] {
                    if let Some(amounts) =
                        container.pointer_mut(&format!("/resources/{kind}")).and_then(Value::as_object_mut)
                    {
                        amounts.remove("cpu");
                        amounts.remove("memory");
                    }
                }
            }
        }
    }
    if !same(Some(&changed), Some(&base)) {
        errors.push(new.get("spec").forbidden("only cpu and memory resources are mutable"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;
    use apimachinery::strategy::WriteContext;

    fn problems(subresource: &'static str, new: &Value, old: &Value) -> Vec<String> {
        let context =
            WriteContext { now: jiff::Timestamp::UNIX_EPOCH, user: "u", groups: &[], subresource, group: "" };
        validate(&context, new, old).iter().map(ToString::to_string).collect()
    }

    fn pod(spec: Value) -> Value {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "image": "i"}], "tolerations": [{"key": "a", "operator": "Exists"}]}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        pod
    }

    #[test]
    fn a_pod_may_change_little() {
        let old = pod(json!({}));
        for (change, fine) in [
            (json!({"containers": [{"name": "c", "image": "j"}]}), true),
            (json!({"activeDeadlineSeconds": 5}), true),
            (
                json!({"tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 5, "effect": "NoExecute"}]}),
                false,
            ),
            (
                json!({"tolerations": [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}]}),
                true,
            ),
            (json!({"tolerations": []}), false),
            (json!({"nodeName": "n"}), false),
            (json!({"containers": []}), false),
            (json!({"schedulingGates": [{"name": "g"}]}), false),
        ] {
            assert_eq!(problems("", &pod(change.clone()), &old).is_empty(), fine, "{change}");
        }
        let texts = problems("", &pod(json!({"hostname": "h"})), &old);
        assert_eq!(texts, [format!("spec: Forbidden: {FORBIDDEN}\n+ hostname: \"h\"")]);
    }

    #[test]
    fn a_gated_pod_may_be_narrowed() {
        let old = pod(json!({"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b"}}));
        let new = pod(json!({"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b", "c": "d"}}));
        assert_eq!(problems("", &new, &old), [""; 0]);
        let wider = pod(json!({"schedulingGates": [{"name": "g"}]}));
        assert_eq!(problems("", &wider, &old).len(), 1);
    }

    #[test]
    fn what_ended_stays_ended() {
        let state = |state: Value| {
            json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]},
                "status": {"containerStatuses": [{"name": "c", "state": state}]}})
        };
        let old = state(json!({"terminated": {"exitCode": 0}}));
        let texts = problems("status", &state(json!({"running": {}})), &old);
        assert_eq!(
            texts,
            ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
        );
    }
}
