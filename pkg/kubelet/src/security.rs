//! Security contexts as the runtime wants them. Pure.
//!
//! Sources: `pkg/kubelet/kuberuntime/security_context.go`, `pkg/securitycontext`, `helpers.go`.

use std::path::Path;

use cri::api;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext,
};

use crate::podutil::PodExt;

/// Paths containers do not see, unless they are privileged or `procMount` is `Unmasked`.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths containers only read.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Sysctls any pod may set: they are the pod's own and harmless to others (`pkg/kubelet/sysctl/safe_sysctls.go`).
pub const SAFE_SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_mtu_probing",
    "net.ipv4.tcp_slow_start_after_idle",
];

/// The user an image says its containers run as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageUser {
    /// By number.
    pub uid: Option<i64>,
    /// By name.
    pub name: String,
}

fn int(value: i64) -> api::Int64Value {
    api::Int64Value { value }
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    pod.spec().security_context.clone().unwrap_or_default()
}

fn own(container: &Container) -> SecurityContext {
    container.security_context.clone().unwrap_or_default()
}

/// Namespaces of a pod's sandbox or of one of its containers. `target`: the container whose processes an ephemeral one
/// shall see.
pub fn namespaces(pod: &Pod, target: Option<&str>) -> api::NamespaceOption {
    use api::NamespaceMode::{Container, Node, Pod as InPod, Target};
    let spec = pod.spec();
    let pid = if spec.host_pid == Some(true) {
        Node
    } else if spec.share_process_namespace == Some(true) {
        InPod
    } else {
        Container
    };
    let mut options = api::NamespaceOption {
        network: if pod.host_network() { Node } else { InPod }.into(),
        pid: pid.into(),
        ipc: if spec.host_ipc == Some(true) { Node } else { InPod }.into(),
        ..Default::default()
    };
    if let Some(id) = target {
        options.pid = Target.into();
        id.clone_into(&mut options.target_id);
    }
    options
}

fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let context = pod_context(pod);
    let mut groups: Vec<i64> = context.supplemental_groups.unwrap_or_default();
    groups.extend(context.fs_group);
    groups
}

fn groups_policy(pod: &Pod) -> i32 {
    let strict = pod_context(pod).supplemental_groups_policy.as_deref() == Some("Strict");
    i32::from(if strict {
        api::SupplementalGroupsPolicy::Strict
    } else {
        api::SupplementalGroupsPolicy::Merge
    })
}

fn seccomp(profile: Option<&SeccompProfile>, root: &Path, default_on: bool) -> api::SecurityProfile {
    use api::security_profile::ProfileType;
    let (kind, reference) = match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => (ProfileType::RuntimeDefault, String::new()),
        Some(("Localhost", Some(file))) => {
            (ProfileType::Localhost, root.join("seccomp").join(file).to_string_lossy().into_owned())
        }
        None if default_on => (ProfileType::RuntimeDefault, String::new()),
        _ => (ProfileType::Unconfined, String::new()),
    };
    api::SecurityProfile { profile_type: kind.into(), localhost_ref: reference }
}

fn apparmor(profile: Option<&AppArmorProfile>) -> Option<api::SecurityProfile> {
    use api::security_profile::ProfileType;
    let profile = profile?;
    let (kind, reference) = match (profile.type_.as_str(), &profile.localhost_profile) {
        ("RuntimeDefault", _) => (ProfileType::RuntimeDefault, String::new()),
        ("Localhost", Some(name)) => (ProfileType::Localhost, name.clone()),
        _ => (ProfileType::Unconfined, String::new()),
    };
    Some(api::SecurityProfile { profile_type: kind.into(), localhost_ref: reference })
}

fn selinux(options: Option<&k8s_openapi::api::core::v1::SELinuxOptions>) -> Option<api::SeLinuxOption> {
    let o = options?;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    Some(api::SeLinuxOption {
        user: text(&o.user),
        role: text(&o.role),
        r#type: text(&o.type_),
        level: text(&o.level),
    })
}

/// The sandbox's security context.
pub fn sandbox(pod: &Pod) -> api::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    api::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        selinux_options: selinux(context.se_linux_options.as_ref()),
        run_as_user: context.run_as_user.map(int),
        run_as_group: context.run_as_group.filter(|_| context.run_as_user.is_some()).map(int),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        privileged: has_privileged(pod),
        // The sandbox itself does next to nothing: it always gets the runtime's profile.
        seccomp: Some(api::SecurityProfile {
            profile_type: api::security_profile::ProfileType::RuntimeDefault.into(),
            localhost_ref: String::new(),
        }),
        apparmor: apparmor(context.app_armor_profile.as_ref()),
        ..Default::default()
    }
}

/// Whether any container of the pod is privileged.
pub fn has_privileged(pod: &Pod) -> bool {
    let spec = pod.spec();
    let privileged = |c: &SecurityContext| c.privileged == Some(true);
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .filter_map(|c| c.security_context.as_ref())
        .any(privileged)
        || spec
            .ephemeral_containers
            .iter()
            .flatten()
            .filter_map(|c| c.security_context.as_ref())
            .any(privileged)
}

/// A container's security context.
pub fn container(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    root: &Path,
    seccomp_default: bool,
    target: Option<&str>,
) -> api::LinuxContainerSecurityContext {
    let (context, own) = (pod_context(pod), own(container));
    let privileged = own.privileged == Some(true);
    let user = own.run_as_user.or(context.run_as_user).or(image.uid);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { vec![] } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let capabilities = own.capabilities.as_ref().map(|c| api::Capability {
        add_capabilities: c.add.clone().unwrap_or_default(),
        drop_capabilities: c.drop.clone().unwrap_or_default(),
        add_ambient_capabilities: vec![],
    });
    let apparmor = apparmor(own.app_armor_profile.as_ref().or(context.app_armor_profile.as_ref()));
    #[allow(deprecated, reason = "older runtimes read the old field only")]
    let mut out = api::LinuxContainerSecurityContext {
        capabilities: Some(capabilities.unwrap_or_default()),
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        selinux_options: selinux(own.se_linux_options.as_ref().or(context.se_linux_options.as_ref())),
        run_as_user: user.map(int),
        run_as_group: own.run_as_group.or(context.run_as_group).map(int),
        run_as_username: if user.is_none() { image.name.clone() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(
            own.seccomp_profile.as_ref().or(context.seccomp_profile.as_ref()),
            root,
            seccomp_default,
        )),
        apparmor_profile: apparmor.as_ref().map(apparmor_text).unwrap_or_default(),
        ..Default::default()
    };
    out.apparmor = apparmor;
    out
}

fn apparmor_text(profile: &api::SecurityProfile) -> String {
    use api::security_profile::ProfileType;
    match profile.profile_type() {
        ProfileType::RuntimeDefault => "runtime/default".to_owned(),
        ProfileType::Unconfined => "unconfined".to_owned(),
        ProfileType::Localhost => format!("localhost/{}", profile.localhost_ref),
    }
}

/// Checks `runAsNonRoot` against the user the container will have.
pub fn check_non_root(pod: &Pod, container: &Container, image: &ImageUser) -> Result<(), String> {
    let (context, own) = (pod_context(pod), own(container));
    if own.run_as_non_root.or(context.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let suffix = format!("(pod: {:?}, container: {})", pod.full_id(), container.name);
    match own.run_as_user.or(context.run_as_user) {
        Some(0) => Err(format!("container's runAsUser breaks non-root policy {suffix}")),
        Some(_) => Ok(()),
        None => match (image.uid, image.name.as_str()) {
            (Some(0), _) => Err(format!("container has runAsNonRoot and image will run as root {suffix}")),
            (None, name) if !name.is_empty() => Err(format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {suffix}"
            )),
            _ => Ok(()),
        },
    }
}

/// The first sysctl of a pod that this node does not allow, in upstream's words.
pub fn forbidden_sysctl(pod: &Pod, allowed_unsafe: &[String]) -> Option<String> {
    let context = pod_context(pod);
    let spec = pod.spec();
    for sysctl in context.sysctls.iter().flatten() {
        // The kernel takes slashes for dots.
        let name = if sysctl.name.contains('/') {
            sysctl.name.replace('.', "\u{0}").replace('/', ".").replace('\u{0}', "/")
        } else {
            sysctl.name.clone()
        };
        let listed = |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        let in_node = (name.starts_with("net.") && pod.host_network())
            || ((name.starts_with("kernel.shm")
                || name.starts_with("kernel.msg")
                || name == "kernel.sem"
                || name.starts_with("fs.mqueue."))
                && spec.host_ipc == Some(true));
        if in_node || !(SAFE_SYSCTLS.contains(&name.as_str()) || allowed_unsafe.iter().any(|p| listed(p))) {
            return Some(format!("forbidden sysctl: {name:?} not allowlisted"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
            .expect("a pod")
    }

    fn context(spec: serde_json::Value) -> api::LinuxContainerSecurityContext {
        let pod = pod(spec);
        container(&pod, &pod.spec().containers[0], &ImageUser::default(), Path::new("/k"), false, None)
    }

    #[test]
    fn containers_override_pods() {
        let got = context(
            json!({"securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4]},
            "containers": [{"name": "c", "securityContext": {"runAsUser": 9, "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
                "seccompProfile": {"type": "Localhost", "localhostProfile": "x.json"}}}]}),
        );
        assert_eq!(got.run_as_user.map(|v| v.value), Some(9));
        assert_eq!(got.run_as_group.map(|v| v.value), Some(2));
        assert_eq!(got.supplemental_groups, [4, 3]);
        assert!(got.no_new_privs && got.readonly_rootfs);
        assert_eq!(got.seccomp.map(|s| s.localhost_ref).as_deref(), Some("/k/seccomp/x.json"));
        assert_eq!(got.masked_paths.len(), MASKED.len());
        assert!(
            context(json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]}))
                .masked_paths
                .is_empty()
        );
    }

    #[test]
    fn namespaces_follow_the_spec() {
        use api::NamespaceMode::{Container, Node, Pod as InPod, Target};
        let of = |spec, target: Option<&str>| {
            let n = namespaces(&pod(spec), target);
            [n.network(), n.pid(), n.ipc()]
        };
        assert_eq!(of(json!({"containers": []}), None), [InPod, Container, InPod]);
        assert_eq!(
            of(json!({"containers": [], "hostNetwork": true, "hostPID": true, "hostIPC": true}), None),
            [Node; 3]
        );
        assert_eq!(of(json!({"containers": [], "shareProcessNamespace": true}), None), [InPod, InPod, InPod]);
        assert_eq!(of(json!({"containers": []}), Some("id")), [InPod, Target, InPod]);
    }

    #[test]
    fn root_is_refused() {
        let check = |user: Option<i64>, image: ImageUser| {
            let pod = pod(
                json!({"securityContext": {"runAsNonRoot": true, "runAsUser": user}, "containers": [{"name": "c"}]}),
            );
            check_non_root(&pod, &pod.spec().containers[0], &image).err().unwrap_or_default()
        };
        let named = ImageUser { uid: None, name: "bob".into() };
        for (user, image, message) in [
            (Some(0), ImageUser::default(), "container's runAsUser breaks non-root policy"),
            (
                None,
                ImageUser { uid: Some(0), name: String::new() },
                "container has runAsNonRoot and image will run as root",
            ),
            (None, named.clone(), "container has runAsNonRoot and image has non-numeric user (bob)"),
        ] {
            assert!(check(user, image).starts_with(message));
        }
        assert_eq!(check(Some(5), named), "");
    }

    #[test]
    fn sysctls() {
        let forbidden = |name: &str, host: bool| {
            let pod = pod(
                json!({"hostNetwork": host, "securityContext": {"sysctls": [{"name": name, "value": "1"}]}, "containers": []}),
            );
            forbidden_sysctl(&pod, &["kernel.msg*".into()]).is_some()
        };
        for (name, host, refused) in [
            ("net.ipv4.tcp_syncookies", false, false),
            ("net.ipv4.tcp_syncookies", true, true),
            ("kernel.msgmax", false, false),
            ("kernel.panic", false, true),
            ("net/ipv4/ping_group_range", false, false),
        ] {
            assert_eq!(forbidden(name, host), refused, "{name}");
        }
    }
}
