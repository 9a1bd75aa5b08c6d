//! Validation of security contexts. Source: `pkg/apis/core/validation`.

use std::collections::BTreeSet;

use apimachinery::Value;

use super::container;
use crate::cursor::{At, Errors, one_of, shape};

/// Largest user or group.
const MAX_ID: i64 = i32::MAX as i64;

fn id(errors: &mut Errors, at: &At<'_>) {
    if at.int().is_some_and(|n| !(0..=MAX_ID).contains(&n)) {
        errors.push(at.invalid(format!("must be between 0 and {MAX_ID}, inclusive")));
    }
}

/// Validates what a pod spec says about security.
pub(super) fn pod(errors: &mut Errors, spec: &At<'_>) {
    let context = spec.get("securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(errors, &context.get(field));
    }
    context.get("supplementalGroups").items().for_each(|group| id(errors, &group));
    if spec.get("shareProcessNamespace").flag() && spec.get("hostPID").flag() {
        errors.push(
            spec.get("shareProcessNamespace")
                .invalid("ShareProcessNamespace and HostPID cannot both be enabled"),
        );
    }
    let mut seen = BTreeSet::new();
    for sysctl in context.get("sysctls").items() {
        let name = sysctl.get("name");
        if name.is_empty() {
            errors.push(name.required(""));
        } else if !is_sysctl(name.text()) {
            errors.push(name.invalid(
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            ));
        } else if seen.contains(&name.text()) {
            errors.push(name.duplicate());
        }
        seen.insert(name.text());
        let (ipc, net) = (spec.get("hostIPC").flag(), spec.get("hostNetwork").flag());
        let ipc_name = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."]
            .iter()
            .any(|p| name.text().starts_with(p));
        if ipc && ipc_name {
            errors.push(name.invalid("may not be specified when 'hostIPC' is set to true"));
        } else if net && name.text().starts_with("net.") {
            errors.push(name.invalid("may not be specified when 'hostNetwork' is set to true"));
        }
    }
    for (field, allowed) in [
        ("fsGroupChangePolicy", ["OnRootMismatch", "Always"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        let at = context.get(field);
        if at.present() && !allowed.contains(&at.text()) {
            errors.push(at.not_supported(&allowed));
        }
    }
    profile(errors, &context.get("seccompProfile"));
    profile(errors, &context.get("appArmorProfile"));
    if spec.get("hostUsers").value() == Some(&Value::Bool(false)) {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec.get(field).flag() {
                errors.push(spec.get(field).forbidden("when `pod.Spec.HostUsers` is false"));
            }
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            let bytes = part.as_bytes();
            let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            edge(bytes.first())
                && edge(bytes.last())
                && bytes
                    .iter()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_'))
        })
}

/// A seccomp or AppArmor profile.
fn profile(errors: &mut Errors, profile: &At<'_>) {
    if !profile.present() {
        return;
    }
    let (kind, local) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.text() {
        "Localhost" => {
            if local.is_empty() {
                errors.push(local.required("must be set when type is Localhost"));
            } else {
                container::descending(errors, &local);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if local.present() {
                errors.push(local.invalid("can only be set when type is Localhost"));
            }
        }
        _ => one_of(errors, &kind, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

/// Validates the security context of a container.
pub(super) fn container(errors: &mut Errors, context: &At<'_>, host_users: bool) {
    if !context.present() {
        return;
    }
    id(errors, &context.get("runAsUser"));
    id(errors, &context.get("runAsGroup"));
    let mount = context.get("procMount");
    if mount.present() {
        if !matches!(mount.text(), "Default" | "Unmasked") {
            errors.push(mount.not_supported(&["Default", "Unmasked"]));
        }
        if host_users && mount.text() == "Unmasked" {
            errors.push(mount.invalid("`hostUsers` must be false to use `Unmasked`"));
        }
    }
    profile(errors, &context.get("seccompProfile"));
    profile(errors, &context.get("appArmorProfile"));
    if context.get("allowPrivilegeEscalation").value() == Some(&Value::Bool(false)) {
        if context.get("privileged").flag() {
            errors.push(
                context.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"),
            );
        }
        if context.at(&["capabilities", "add"]).items().any(|c| c.text() == "CAP_SYS_ADMIN") {
            errors.push(context.invalid(
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ));
        }
    }
    let user = context.at(&["windowsOptions", "runAsUserName"]);
    if user.present() && user.is_empty() {
        shape(errors, &user, vec!["runAsUserName cannot be an empty string".into()]);
    }
}
