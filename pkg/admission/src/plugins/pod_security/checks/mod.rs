//! What the levels forbid, check by check. Source: the Pod Security Standards and `k8s.io/pod-security-admission/policy`,
//! whose reasons and details users read.

mod baseline;
mod restricted;

use std::collections::BTreeSet;

use apimachinery::Value;

use apimachinery::meta::{at, str_at};

use crate::plugins::items;

use super::policy::Level;

/// Something a pod does that a level forbids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: String,
    pub(super) detail: String,
}

/// A pod under judgement.
struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
    /// Minor version of the standard.
    minor: u32,
}

type Judge = fn(&Pod<'_>) -> Option<Violation>;

/// One check: the level it belongs to, the minor version it began with, the baseline check it replaces.
struct Check {
    id: &'static str,
    level: Level,
    since: u32,
    overrides: &'static str,
    judge: Judge,
}

const fn in_baseline(id: &'static str, since: u32, judge: Judge) -> Check {
    Check { id, level: Level::Baseline, since, overrides: "", judge }
}

const fn in_restricted(id: &'static str, since: u32, overrides: &'static str, judge: Judge) -> Check {
    Check { id, level: Level::Restricted, since, overrides, judge }
}

/// Every check, in the order violations are told.
const CHECKS: [Check; 19] = [
    in_baseline("appArmorProfile", 0, baseline::app_armor),
    in_baseline("capabilities_baseline", 0, baseline::added_capabilities),
    in_baseline("hostNamespaces", 0, baseline::host_namespaces),
    in_baseline("hostPathVolumes", 0, baseline::host_path_volumes),
    in_baseline("hostPorts", 0, baseline::host_ports),
    in_baseline("hostProbesAndHostLifecycle", 34, baseline::host_probes),
    in_baseline("privileged", 0, baseline::privileged),
    in_baseline("procMount", 0, baseline::proc_mount_baseline),
    in_baseline("seLinuxOptions", 0, baseline::selinux),
    in_baseline("seccompProfile_baseline", 0, baseline::seccomp_baseline),
    in_baseline("sysctls", 0, baseline::sysctls),
    in_baseline("windowsHostProcess", 0, baseline::windows_host_process),
    in_restricted("allowPrivilegeEscalation", 8, "", restricted::privilege_escalation),
    in_restricted("capabilities_restricted", 22, "capabilities_baseline", restricted::dropped_capabilities),
    in_restricted("procMount_restricted", 35, "procMount", proc_mount),
    in_restricted("restrictedVolumes", 0, "hostPathVolumes", restricted::restricted_volumes),
    in_restricted("runAsNonRoot", 0, "", restricted::run_as_non_root),
    in_restricted("runAsUser", 23, "", restricted::run_as_user),
    in_restricted("seccompProfile_restricted", 19, "seccompProfile_baseline", restricted::seccomp_restricted),
];

/// Everything a pod does that a level of a version forbids.
pub(super) fn violations(level: Level, minor: u32, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let pod = Pod { metadata, spec, minor };
    let applies = |check: &&Check| check.level <= level && check.since <= minor;
    let overridden: Vec<&str> = CHECKS.iter().filter(applies).map(|check| check.overrides).collect();
    CHECKS
        .iter()
        .filter(applies)
        .filter(|check| !overridden.contains(&check.id))
        .filter_map(|check| (check.judge)(&pod))
        .collect()
}

#[allow(clippy::unnecessary_wraps, reason = "every check ends with it")]
fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail: detail.into() })
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quote<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    let quoted: Vec<String> = texts.into_iter().map(|t| format!("\"{}\"", t.as_ref())).collect();
    quoted.join(", ")
}

fn containers_named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quote(names))
}

/// `pod` and the containers that set something, joined by `and`.
fn setters(pod: bool, containers: &[&str]) -> String {
    let mut list = Vec::new();
    if pod {
        list.push("pod".to_owned());
    }
    if !containers.is_empty() {
        list.push(containers_named(containers));
    }
    list.join(" and ")
}

impl<'a> Pod<'a> {
    /// Init, main and ephemeral containers.
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |list| items(spec, &[list]))
    }

    /// Names of the containers for which something holds.
    fn which(&self, mut holds: impl FnMut(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| holds(c)).map(|c| str_at(c, &["name"])).collect()
    }

    fn security(&self, path: &[&str]) -> Option<&'a Value> {
        at(at(self.spec, &["securityContext"])?, path).filter(|v| !v.is_null())
    }

    fn is_windows(&self) -> bool {
        str_at(self.spec, &["os", "name"]) == "windows"
    }

    /// In a user namespace of its own, where root is nobody.
    fn has_user_namespace(&self) -> bool {
        at(self.spec, &["hostUsers"]).and_then(Value::as_bool) == Some(false)
    }
}

fn security<'a>(container: &'a Value, path: &[&str]) -> Option<&'a Value> {
    at(at(container, &["securityContext"])?, path).filter(|v| !v.is_null())
}

fn strings(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Containers that add capabilities other than these, and which ones.
fn adding_other_than<'a>(pod: &Pod<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<String>) {
    let mut found = BTreeSet::new();
    let who = pod.which(|c| {
        let added = strings(security(c, &["capabilities", "add"]));
        let bad: Vec<&str> = added.filter(|cap| !allowed.contains(cap)).collect();
        found.extend(bad.iter().map(|cap| (*cap).to_owned()));
        !bad.is_empty()
    });
    (who, found)
}

fn is_set(object: &Value, field: &str) -> bool {
    at(object, &[field]).is_some_and(|v| !v.is_null())
}

fn is_true(value: Option<&Value>) -> bool {
    value.and_then(Value::as_bool) == Some(true)
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let who = pod.which(|c| {
        let value = security(c, &["procMount"]).and_then(Value::as_str).filter(|v| *v != "Default");
        values.extend(value.map(str::to_owned));
        value.is_some()
    });
    if who.is_empty() {
        return None;
    }
    violation(
        "procMount",
        format!("{} must not set securityContext.procMount to {}", containers_named(&who), quote(values)),
    )
}

fn valid_seccomp(kind: &str) -> bool {
    matches!(kind, "Localhost" | "RuntimeDefault")
}

/// The detail when somebody sets a bad profile; else the containers that have none of their own.
fn seccomp_profiles<'a>(pod: &Pod<'a>) -> Result<Vec<&'a str>, String> {
    let kind = |profile: Option<&Value>| profile.map(|p| str_at(p, &["type"]).to_owned());
    let mut values = BTreeSet::new();
    let of_pod = kind(pod.security(&["seccompProfile"]));
    let bad_pod = of_pod.as_deref().is_some_and(|k| !valid_seccomp(k));
    if bad_pod {
        values.extend(of_pod.clone());
    }
    let bad = pod.which(|c| {
        let value = kind(security(c, &["seccompProfile"])).filter(|k| !valid_seccomp(k));
        values.extend(value.clone());
        value.is_some()
    });
    let who = setters(bad_pod, &bad);
    if !who.is_empty() {
        return Err(format!("{who} must not set securityContext.seccompProfile.type to {}", quote(values)));
    }
    let without = pod.which(|c| security(c, &["seccompProfile"]).is_none());
    Ok(if of_pod.is_some() { Vec::new() } else { without })
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    fn told(level: Level, minor: u32, spec: Value) -> Vec<String> {
        violations(level, minor, &json!({}), &spec)
            .into_iter()
            .map(|v| format!("{} ({})", v.reason, v.detail))
            .collect()
    }

    fn hardened() -> Value {
        json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]})
    }

    #[test]
    fn a_plain_pod_is_baseline_and_not_restricted() {
        let plain = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        assert_eq!(told(Level::Baseline, 36, plain.clone()), Vec::<String>::new());
        assert_eq!(
            told(Level::Restricted, 36, plain),
            [
                r#"allowPrivilegeEscalation != false (containers "a", "b" must set securityContext.allowPrivilegeEscalation=false)"#,
                r#"unrestricted capabilities (containers "a", "b" must set securityContext.capabilities.drop=["ALL"])"#,
                r#"runAsNonRoot != true (pod or containers "a", "b" must set securityContext.runAsNonRoot=true)"#,
                r#"seccompProfile (pod or containers "a", "b" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
            ]
        );
        assert_eq!(told(Level::Restricted, 36, hardened()), Vec::<String>::new());
    }

    #[test]
    fn baseline_violations() {
        let container = |rest: Value| {
            let mut c = json!({"name": "c"});
            c.as_object_mut().expect("map").extend(rest.as_object().expect("map").clone());
            json!({"containers": [c]})
        };
        let context = |security: Value| container(json!({"securityContext": security}));
        let cases = [
            (
                context(json!({"privileged": true})),
                r#"privileged (container "c" must not set securityContext.privileged=true)"#,
            ),
            (
                context(json!({"capabilities": {"add": ["NET_ADMIN", "CHOWN"]}})),
                r#"non-default capabilities (container "c" must not include "NET_ADMIN" in securityContext.capabilities.add)"#,
            ),
            (
                json!({"hostNetwork": true, "hostPID": true}),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
                r#"hostPath volumes (volume "v")"#,
            ),
            (
                container(json!({"ports": [{"hostPort": 80}, {"hostPort": 443}]})),
                r#"hostPort (container "c" uses hostPorts 443, 80)"#,
            ),
            (
                container(json!({"livenessProbe": {"httpGet": {"host": "x"}}})),
                r#"probe or lifecycle host (container "c" uses probe or lifecycle host "x")"#,
            ),
            (
                context(json!({"procMount": "Unmasked"})),
                r#"procMount (container "c" must not set securityContext.procMount to "Unmasked")"#,
            ),
            (
                context(json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}})),
                r#"seLinuxOptions (container "c" set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set)"#,
            ),
            (
                context(json!({"seccompProfile": {"type": "Unconfined"}})),
                r#"seccompProfile (container "c" must not set securityContext.seccompProfile.type to "Unconfined")"#,
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
            (
                json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
                r#"forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")"#,
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(told(Level::Baseline, 36, spec.clone()), [expected], "{spec}");
        }
    }

    #[test]
    fn versions_differ() {
        let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
        assert_eq!(told(Level::Baseline, 31, sysctl.clone()).len(), 1);
        assert_eq!(told(Level::Baseline, 32, sysctl).len(), 0);
        let mut namespaced = hardened();
        namespaced["hostUsers"] = json!(false);
        namespaced["securityContext"]["runAsNonRoot"] = json!(false);
        namespaced["securityContext"]["runAsUser"] = json!(0);
        assert_eq!(told(Level::Restricted, 34, namespaced.clone()).len(), 2);
        assert_eq!(told(Level::Restricted, 36, namespaced).len(), 0);
    }

    #[test]
    fn restricted_replaces_baseline() {
        let mut spec = hardened();
        spec["volumes"] =
            json!([{"name": "v", "hostPath": {}}, {"name": "n", "nfs": {}}, {"name": "c", "configMap": {}}]);
        assert_eq!(
            told(Level::Restricted, 36, spec),
            [r#"restricted volume types (volumes "v", "n" use restricted volume types "hostPath", "nfs")"#]
        );
    }
}
