//! What the restricted level forbids and asks for beyond the baseline.

use std::collections::BTreeSet;

use apimachinery::Value;
use apimachinery::meta::str_at;

use super::{
    Pod, Violation, adding_other_than, containers_named, plural, quote, seccomp_profiles, security, setters,
    strings, violation,
};
use crate::plugins::items;

pub(super) fn dropped_capabilities(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor >= 25 && pod.is_windows() {
        return None;
    }
    let keeping = pod.which(|c| !strings(security(c, &["capabilities", "drop"])).any(|cap| cap == "ALL"));
    let (adding, found) = adding_other_than(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            r#"{} must set securityContext.capabilities.drop=["ALL"]"#,
            containers_named(&keeping)
        ));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers_named(&adding),
            quote(found)
        ));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

pub(super) fn seccomp_restricted(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor >= 25 && pod.is_windows() {
        return None;
    }
    match seccomp_profiles(pod) {
        Err(detail) => violation("seccompProfile", detail),
        Ok(without) if without.is_empty() => None,
        Ok(without) => violation(
            "seccompProfile",
            format!(
                r#"pod or {} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost""#,
                containers_named(&without)
            ),
        ),
    }
}

pub(super) fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor >= 25 && pod.is_windows() {
        return None;
    }
    let who =
        pod.which(|c| security(c, &["allowPrivilegeEscalation"]).and_then(Value::as_bool) != Some(false));
    if who.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", containers_named(&who)),
    )
}

/// Volumes that anybody may have.
const FREE_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

pub(super) fn restricted_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let mut volumes = Vec::new();
    for volume in items(pod.spec, &["volumes"]) {
        let sources =
            volume.as_object().into_iter().flatten().filter(|(key, v)| *key != "name" && !v.is_null());
        let source = sources.map(|(key, _)| key.as_str()).next();
        if source.is_some_and(|kind| FREE_VOLUMES.contains(&kind)) {
            continue;
        }
        volumes.push(str_at(volume, &["name"]));
        kinds.insert(source.unwrap_or("unknown"));
    }
    if volumes.is_empty() {
        return None;
    }
    violation(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", volumes.len()),
            quote(&volumes),
            plural("uses", "use", volumes.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quote(&kinds)
        ),
    )
}

pub(super) fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor >= 35 && pod.has_user_namespace() {
        return None;
    }
    let flag = |value: Option<&Value>| value.and_then(Value::as_bool);
    let of_pod = flag(pod.security(&["runAsNonRoot"]));
    let own = |c: &Value| flag(security(c, &["runAsNonRoot"]));
    let who = setters(of_pod == Some(false), &pod.which(|c| own(c) == Some(false)));
    if !who.is_empty() {
        return violation(
            "runAsNonRoot != true",
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        );
    }
    let without = pod.which(|c| own(c).is_none());
    if of_pod == Some(true) || without.is_empty() {
        return None;
    }
    violation(
        "runAsNonRoot != true",
        format!("pod or {} must set securityContext.runAsNonRoot=true", containers_named(&without)),
    )
}

pub(super) fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor >= 35 && pod.has_user_namespace() {
        return None;
    }
    let root = |value: Option<&Value>| value.and_then(Value::as_i64) == Some(0);
    let by_containers = pod.which(|c| root(security(c, &["runAsUser"])));
    let who = setters(root(pod.security(&["runAsUser"])), &by_containers);
    if who.is_empty() { None } else { violation("runAsUser=0", format!("{who} must not set runAsUser=0")) }
}
