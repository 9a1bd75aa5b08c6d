//! What the levels forbid, check by check. Source: the Pod Security Standards and `k8s.io/pod-security-admission/policy`,
//! whose reasons and details users read.

use std::collections::BTreeSet;

use apimachinery::Value;
use apimachinery::meta::{at, str_at};

use super::super::items;
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

const fn baseline(id: &'static str, since: u32, judge: Judge) -> Check {
    Check { id, level: Level::Baseline, since, overrides: "", judge }
}

const fn restricted(id: &'static str, since: u32, overrides: &'static str, judge: Judge) -> Check {
    Check { id, level: Level::Restricted, since, overrides, judge }
}

/// Every check, in the order violations are told.
const CHECKS: [Check; 19] = [
    baseline("appArmorProfile", 0, app_armor),
    baseline("capabilities_baseline", 0, added_capabilities),
    baseline("hostNamespaces", 0, host_namespaces),
    baseline("hostPathVolumes", 0, host_path_volumes),
    baseline("hostPorts", 0, host_ports),
    baseline("hostProbesAndHostLifecycle", 34, host_probes),
    baseline("privileged", 0, privileged),
    baseline("procMount", 0, proc_mount_baseline),
    baseline("seLinuxOptions", 0, selinux),
    baseline("seccompProfile_baseline", 0, seccomp_baseline),
    baseline("sysctls", 0, sysctls),
    baseline("windowsHostProcess", 0, windows_host_process),
    restricted("allowPrivilegeEscalation", 8, "", privilege_escalation),
    restricted("capabilities_restricted", 22, "capabilities_baseline", dropped_capabilities),
    restricted("procMount_restricted", 35, "procMount", proc_mount),
    restricted("restrictedVolumes", 0, "hostPathVolumes", restricted_volumes),
    restricted("runAsNonRoot", 0, "", run_as_non_root),
    restricted("runAsUser", 23, "", run_as_user),
    restricted("seccompProfile_restricted", 19, "seccompProfile_baseline", seccomp_restricted),
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

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |profile: Option<&Value>| {
        let kind = profile.map(|p| str_at(p, &["type"]))?;
        (!matches!(kind, "RuntimeDefault" | "Localhost")).then(|| kind.to_owned())
    };
    let mut values = BTreeSet::new();
    let by_pod = bad(pod.security(&["appArmorProfile"]));
    values.extend(by_pod.clone());
    let by_containers = pod.which(|c| {
        let value = bad(security(c, &["appArmorProfile"]));
        values.extend(value.clone());
        value.is_some()
    });
    let mut who = setters(by_pod.is_some(), &by_containers);
    let mut values: Vec<String> = values.into_iter().collect();
    let annotations: Vec<String> = at(pod.metadata, &["annotations"])
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(_, v)| !(v.is_empty() || *v == "runtime/default" || v.starts_with("localhost/")))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !annotations.is_empty() {
        if !who.is_empty() {
            who.push_str(" and ");
        }
        who.push_str(plural("annotation", "annotations", annotations.len()));
        values.extend(annotations);
    }
    if who.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    violation(reason, format!("{who} must not set AppArmor profile type to {}", quote(values)))
}

/// Capabilities that containers have by default.
const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

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

fn added_capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let (who, found) = adding_other_than(pod, &DEFAULT_CAPABILITIES);
    if who.is_empty() {
        return None;
    }
    violation(
        "non-default capabilities",
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers_named(&who),
            quote(found)
        ),
    )
}

fn dropped_capabilities(pod: &Pod<'_>) -> Option<Violation> {
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

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| at(pod.spec, &[field]).and_then(Value::as_bool) == Some(true))
        .map(|field| format!("{field}=true"))
        .collect();
    if used.is_empty() { None } else { violation("host namespaces", used.join(", ")) }
}

fn is_set(object: &Value, field: &str) -> bool {
    at(object, &[field]).is_some_and(|v| !v.is_null())
}

fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let volumes: Vec<&str> = items(pod.spec, &["volumes"])
        .iter()
        .filter(|v| is_set(v, "hostPath"))
        .map(|v| str_at(v, &["name"]))
        .collect();
    if volumes.is_empty() {
        return None;
    }
    violation(
        "hostPath volumes",
        format!("{} {}", plural("volume", "volumes", volumes.len()), quote(volumes)),
    )
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let who = pod.which(|c| {
        let used: Vec<String> = items(c, &["ports"])
            .iter()
            .filter_map(|p| at(p, &["hostPort"])?.as_i64())
            .filter(|p| *p != 0)
            .map(|p| p.to_string())
            .collect();
        ports.extend(used.clone());
        !used.is_empty()
    });
    if who.is_empty() {
        return None;
    }
    let (uses, noun) = (plural("uses", "use", who.len()), plural("hostPort", "hostPorts", ports.len()));
    let list: Vec<String> = ports.into_iter().collect();
    violation("hostPort", format!("{} {uses} {noun} {}", containers_named(&who), list.join(", ")))
}

fn host_probes(pod: &Pod<'_>) -> Option<Violation> {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let mut hosts = BTreeSet::new();
    let who: BTreeSet<&str> = pod
        .which(|c| {
            let found: Vec<String> = HANDLERS
                .iter()
                .filter_map(|path| at(c, path))
                .flat_map(|h| [str_at(h, &["httpGet", "host"]), str_at(h, &["tcpSocket", "host"])])
                .filter(|host| !host.is_empty())
                .map(str::to_owned)
                .collect();
            hosts.extend(found.clone());
            !found.is_empty()
        })
        .into_iter()
        .collect();
    if who.is_empty() {
        return None;
    }
    let who: Vec<&str> = who.into_iter().collect();
    let noun = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    let uses = plural("uses", "use", who.len());
    violation("probe or lifecycle host", format!("{} {uses} {noun} {}", containers_named(&who), quote(hosts)))
}

fn is_true(value: Option<&Value>) -> bool {
    value.and_then(Value::as_bool) == Some(true)
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let who = pod.which(|c| is_true(security(c, &["privileged"])));
    if who.is_empty() {
        return None;
    }
    violation(
        "privileged",
        format!("{} must not set securityContext.privileged=true", containers_named(&who)),
    )
}

fn proc_mount_baseline(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor >= 35 && pod.has_user_namespace() { None } else { proc_mount(pod) }
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

fn selinux(pod: &Pod<'_>) -> Option<Violation> {
    let mut allowed = vec!["", "container_t", "container_init_t", "container_kvm_t"];
    if pod.minor >= 31 {
        allowed.push("container_engine_t");
    }
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |options: Option<&Value>| {
        let Some(options) = options else { return false };
        let text = |key: &str| str_at(options, &[key]);
        let forbidden = !allowed.contains(&text("type"));
        if forbidden {
            types.insert(text("type").to_owned());
        }
        user |= !text("user").is_empty();
        role |= !text("role").is_empty();
        forbidden || !text("user").is_empty() || !text("role").is_empty()
    };
    let by_pod = bad(pod.security(&["seLinuxOptions"]));
    let by_containers = pod.which(|c| bad(security(c, &["seLinuxOptions"])));
    let who = setters(by_pod, &by_containers);
    if who.is_empty() {
        return None;
    }
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quote(&types)));
    }
    if user {
        data.push("user may not be set".to_owned());
    }
    if role {
        data.push("role may not be set".to_owned());
    }
    violation(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")),
    )
}

fn valid_seccomp(kind: &str) -> bool {
    matches!(kind, "Localhost" | "RuntimeDefault")
}

/// Before 1.19 the profile was an annotation.
fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let annotation = |key: &str| {
        let value = str_at(pod.metadata, &["annotations", key]);
        let ok = value.is_empty()
            || matches!(value, "runtime/default" | "docker/default")
            || value.starts_with("localhost/");
        (!ok).then(|| format!("{key}={value:?}"))
    };
    let mut forbidden = BTreeSet::new();
    forbidden.extend(annotation("seccomp.security.alpha.kubernetes.io/pod"));
    for container in pod.containers() {
        let name = str_at(container, &["name"]);
        forbidden.extend(annotation(&format!("container.seccomp.security.alpha.kubernetes.io/{name}")));
    }
    if forbidden.is_empty() {
        return None;
    }
    let noun = plural("annotation", "annotations", forbidden.len());
    let list: Vec<String> = forbidden.into_iter().collect();
    violation("seccompProfile", format!("forbidden {noun} {}", list.join(", ")))
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

fn seccomp_baseline(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor < 19 {
        return seccomp_annotations(pod);
    }
    seccomp_profiles(pod).err().and_then(|detail| violation("seccompProfile", detail))
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<Violation> {
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

/// Kernel parameters that are safe, and the minor version from which they are.
const SAFE_SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    let safe = |name: &str| SAFE_SYSCTLS.iter().any(|(known, since)| *known == name && *since <= pod.minor);
    let forbidden: Vec<&str> = items(pod.spec, &["securityContext", "sysctls"])
        .iter()
        .map(|s| str_at(s, &["name"]))
        .filter(|name| !safe(name))
        .collect();
    if forbidden.is_empty() { None } else { violation("forbidden sysctls", forbidden.join(", ")) }
}

fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let path = ["windowsOptions", "hostProcess"];
    let by_containers = pod.which(|c| is_true(security(c, &path)));
    let who = setters(is_true(pod.security(&path)), &by_containers);
    if who.is_empty() {
        return None;
    }
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
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

fn restricted_volumes(pod: &Pod<'_>) -> Option<Violation> {
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

fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
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

fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor >= 35 && pod.has_user_namespace() {
        return None;
    }
    let root = |value: Option<&Value>| value.and_then(Value::as_i64) == Some(0);
    let by_containers = pod.which(|c| root(security(c, &["runAsUser"])));
    let who = setters(root(pod.security(&["runAsUser"])), &by_containers);
    if who.is_empty() { None } else { violation("runAsUser=0", format!("{who} must not set runAsUser=0")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
