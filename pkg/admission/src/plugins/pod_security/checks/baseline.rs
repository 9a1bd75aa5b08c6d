//! What the baseline level forbids: known ways out of a container.

use std::collections::BTreeSet;

use apimachinery::Value;
use apimachinery::meta::{at, str_at};

use super::{
    Pod, Violation, adding_other_than, containers_named, is_set, is_true, plural, proc_mount, quote,
    seccomp_profiles, security, setters, violation,
};
use crate::plugins::items;

pub(super) fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn added_capabilities(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| at(pod.spec, &[field]).and_then(Value::as_bool) == Some(true))
        .map(|field| format!("{field}=true"))
        .collect();
    if used.is_empty() { None } else { violation("host namespaces", used.join(", ")) }
}

pub(super) fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn host_probes(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let who = pod.which(|c| is_true(security(c, &["privileged"])));
    if who.is_empty() {
        return None;
    }
    violation(
        "privileged",
        format!("{} must not set securityContext.privileged=true", containers_named(&who)),
    )
}

pub(super) fn proc_mount_baseline(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor >= 35 && pod.has_user_namespace() { None } else { proc_mount(pod) }
}

pub(super) fn selinux(pod: &Pod<'_>) -> Option<Violation> {
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

pub(super) fn seccomp_baseline(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor < 19 {
        return seccomp_annotations(pod);
    }
    seccomp_profiles(pod).err().and_then(|detail| violation("seccompProfile", detail))
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

pub(super) fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    let safe = |name: &str| SAFE_SYSCTLS.iter().any(|(known, since)| *known == name && *since <= pod.minor);
    let forbidden: Vec<&str> = items(pod.spec, &["securityContext", "sysctls"])
        .iter()
        .map(|s| str_at(s, &["name"]))
        .filter(|name| !safe(name))
        .collect();
    if forbidden.is_empty() { None } else { violation("forbidden sysctls", forbidden.join(", ")) }
}

pub(super) fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let path = ["windowsOptions", "hostProcess"];
    let by_containers = pod.which(|c| is_true(security(c, &path)));
    let who = setters(is_true(pod.security(&path)), &by_containers);
    if who.is_empty() {
        return None;
    }
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
