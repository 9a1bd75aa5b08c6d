//! Facts about this machine, as a Node tells them.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::{
    NodeAddress, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::config::{Config, Threshold};
use crate::resources::{ResourceList, bytes_quantity, milli_quantity, milli_value, value};

/// A machine's fixed facts.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Logical CPUs.
    pub cpus: i64,
    /// Bytes of memory.
    pub memory: i64,
    hugepages: BTreeMap<String, i64>,
    id: String,
    system_uuid: String,
    boot_id: String,
    kernel: String,
    os_image: String,
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default()
}

impl Machine {
    /// Looks at the machine.
    pub fn detect() -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = meminfo
            .lines()
            .find_map(|l| l.strip_prefix("MemTotal:"))
            .and_then(|l| l.split_whitespace().next()?.parse().ok());
        let release = fs::read_to_string("/etc/os-release")
            .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        let os_image = release
            .lines()
            .find_map(|l| l.strip_prefix("PRETTY_NAME="))
            .map_or_else(|| "Linux".to_owned(), |n| n.trim_matches('"').to_owned());
        Self {
            cpus: count_cpus(&line("/sys/devices/system/cpu/online")).unwrap_or(1),
            memory: kib.unwrap_or(0i64).saturating_mul(1024),
            hugepages: hugepages(Path::new("/sys/kernel/mm/hugepages")),
            id: line("/etc/machine-id"),
            system_uuid: line("/sys/class/dmi/id/product_uuid"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image,
        }
    }

    /// What the node has.
    pub fn capacity(&self, config: &Config) -> ResourceList {
        let pods = if config.pods_per_core > 0 {
            (config.pods_per_core * self.cpus).min(config.max_pods)
        } else {
            config.max_pods
        };
        let mut out = ResourceList::from([
            ("cpu".to_owned(), milli_quantity(self.cpus * 1000)),
            ("memory".to_owned(), bytes_quantity(self.memory)),
            ("pods".to_owned(), Quantity(pods.to_string())),
        ]);
        if let Some(disk) = Disk::of(&config.root_dir) {
            out.insert("ephemeral-storage".to_owned(), bytes_quantity(disk.size));
        }
        out.extend(self.hugepages.iter().map(|(name, bytes)| (name.clone(), bytes_quantity(*bytes))));
        out
    }

    /// What pods may use: capacity without reservations and what hard eviction keeps free.
    pub fn allocatable(&self, config: &Config, capacity: &ResourceList) -> ResourceList {
        let reserved = |name: &str, read: fn(&Quantity) -> Option<i64>| -> i64 {
            [&config.kube_reserved, &config.system_reserved]
                .iter()
                .filter_map(|list| list.get(name).and_then(|q| read(&Quantity(q.clone()))))
                .sum()
        };
        let kept =
            |signal: &str, of: i64| config.eviction.hard.get(signal).map_or(0, |t: &Threshold| t.of(of));
        capacity
            .iter()
            .map(|(name, amount)| {
                let left = match name.as_str() {
                    "cpu" => milli_quantity(
                        (milli_value(amount).unwrap_or(0) - reserved(name, milli_value)).max(0),
                    ),
                    "memory" => {
                        let have = value(amount).unwrap_or(0);
                        bytes_quantity((have - reserved(name, value) - kept("memory.available", have)).max(0))
                    }
                    "ephemeral-storage" => {
                        let have = value(amount).unwrap_or(0);
                        Quantity(
                            (have - reserved(name, value) - kept("nodefs.available", have))
                                .max(0)
                                .to_string(),
                        )
                    }
                    _ => amount.clone(),
                };
                (name.clone(), left)
            })
            .collect()
    }

    /// Labels every node has, and those it was given.
    pub fn labels(&self, config: &Config) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([
            ("kubernetes.io/hostname".to_owned(), config.hostname.clone()),
            ("kubernetes.io/os".to_owned(), "linux".to_owned()),
            ("kubernetes.io/arch".to_owned(), architecture().to_owned()),
            ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
            ("beta.kubernetes.io/arch".to_owned(), architecture().to_owned()),
        ]);
        labels.extend(config.node_labels.clone());
        labels
    }

    /// `status.nodeInfo`.
    pub fn info(&self, runtime: &str) -> NodeSystemInfo {
        NodeSystemInfo {
            architecture: architecture().to_owned(),
            boot_id: self.boot_id.clone(),
            container_runtime_version: runtime.to_owned(),
            kernel_version: self.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: component::KUBERNETES_VERSION.to_owned(),
            machine_id: self.id.clone(),
            operating_system: "linux".to_owned(),
            os_image: self.os_image.clone(),
            swap: None,
            system_uuid: self.system_uuid.clone(),
        }
    }
}

/// The architecture as Go names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Counts a list such as `0-3,5`.
fn count_cpus(list: &str) -> Option<i64> {
    let mut count = 0;
    for part in list.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (i64, i64) = (first.parse().ok()?, last.parse().ok()?);
        count += last - first + 1;
    }
    (count > 0).then_some(count)
}

/// Bytes of huge pages by resource name.
fn hugepages(dir: &Path) -> BTreeMap<String, i64> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kib: Option<i64> =
            name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB")).and_then(|n| n.parse().ok());
        let Some(kib) = kib else { continue };
        let pages: i64 = line(&entry.path().join("nr_hugepages").to_string_lossy()).parse().unwrap_or(0);
        let size = match kib {
            k if k % (1 << 20) == 0 => format!("{}Gi", k >> 20),
            k if k % (1 << 10) == 0 => format!("{}Mi", k >> 10),
            k => format!("{k}Ki"),
        };
        out.insert(format!("hugepages-{size}"), pages * kib * 1024);
    }
    out
}

/// A file system's room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes in all.
    pub size: i64,
    /// Bytes left for anyone.
    pub available: i64,
    /// Inodes in all.
    pub inodes: i64,
    /// Inodes left.
    pub inodes_free: i64,
}

impl Disk {
    /// The file system a path is on.
    pub fn of(path: &Path) -> Option<Self> {
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        let block = stat.fragment_size() as i64;
        Some(Self {
            size: stat.blocks() as i64 * block,
            available: stat.blocks_available() as i64 * block,
            inodes: stat.files() as i64,
            inodes_free: stat.files_free() as i64,
        })
    }
}

/// Keeps the extended resources (`example.com/dongle`) that others gave the node: the kubelet does not know them, but
/// they are not its to take away.
pub(super) fn keep_extended(
    capacity: &mut ResourceList,
    allocatable: &mut ResourceList,
    old: Option<&NodeStatus>,
) {
    let extended = |name: &str| name.contains('/') && !name.starts_with("kubernetes.io/");
    let Some(old) = old else { return };
    for (name, amount) in old.capacity.iter().flatten().filter(|(name, _)| extended(name)) {
        capacity.entry(name.clone()).or_insert_with(|| amount.clone());
        let usable = old.allocatable.as_ref().and_then(|a| a.get(name)).unwrap_or(amount);
        allocatable.entry(name.clone()).or_insert_with(|| usable.clone());
    }
}

/// Addresses as a Node lists them.
pub(super) fn addresses(ips: &[String], hostname: &str) -> Vec<NodeAddress> {
    let mut out: Vec<NodeAddress> =
        ips.iter().map(|ip| NodeAddress { type_: "InternalIP".to_owned(), address: ip.clone() }).collect();
    out.push(NodeAddress { type_: "Hostname".to_owned(), address: hostname.to_owned() });
    out
}

/// Runtime handlers and features, where the runtime tells them.
pub(super) fn handlers(
    status: Option<&cri::api::StatusResponse>,
) -> (Option<Vec<NodeRuntimeHandler>>, Option<NodeFeatures>) {
    let Some(status) = status else { return (None, None) };
    let mut handlers: Vec<NodeRuntimeHandler> = status
        .runtime_handlers
        .iter()
        .map(|h| NodeRuntimeHandler {
            name: Some(h.name.clone()),
            features: h.features.as_ref().map(|f| NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(f.recursive_read_only_mounts),
                user_namespaces: Some(f.user_namespaces),
            }),
        })
        .collect();
    handlers.sort_by(|a, b| a.name.cmp(&b.name));
    let features = status
        .features
        .as_ref()
        .map(|f| NodeFeatures { supplemental_groups_policy: Some(f.supplemental_groups_policy) });
    ((!handlers.is_empty()).then_some(handlers), features)
}

/// The address of the interface the default route leads through, else any address that is not the machine's own
/// business. Nothing is sent to find it.
pub fn detect_ip() -> Option<IpAddr> {
    let route = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let preferred = route.lines().skip(1).find_map(|l| {
        let mut fields = l.split_whitespace();
        let (name, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| name.to_owned())
    });
    let mut fallback = None;
    for interface in nix::ifaddrs::getifaddrs().ok()? {
        let Some(address) = interface.address else { continue };
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::from(v4.ip()),
            (_, Some(v6)) => IpAddr::from(v6.ip()),
            _ => continue,
        };
        let usable = match ip {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        };
        if !usable {
            continue;
        }
        if preferred.as_deref() == Some(interface.interface_name.as_str()) && ip.is_ipv4() {
            return Some(ip);
        }
        fallback = fallback.or(Some(ip));
    }
    fallback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!([count_cpus("0-3,5"), count_cpus("0"), count_cpus("")], [Some(5), Some(1), None]);
    }

    #[test]
    fn extended_resources_stay() {
        let old: NodeStatus = serde_json::from_value(serde_json::json!({
            "capacity": {"example.com/dongle": "4", "cpu": "99"}, "allocatable": {"example.com/dongle": "3"}}))
        .expect("a status");
        let (mut capacity, mut allocatable) = (ResourceList::new(), ResourceList::new());
        keep_extended(&mut capacity, &mut allocatable, Some(&old));
        assert_eq!(capacity.keys().collect::<Vec<_>>(), ["example.com/dongle"]);
        assert_eq!(allocatable["example.com/dongle"].0, "3");
    }

    #[test]
    fn allocatable_is_what_is_left() {
        let file = crate::config::KubeletConfiguration {
            kube_reserved: Some(BTreeMap::from([
                ("cpu".to_owned(), "500m".to_owned()),
                ("memory".to_owned(), "1Gi".to_owned()),
            ])),
            ..Default::default()
        };
        let config = Config::new(&file, &crate::config::Flags::default(), "h").expect("valid");
        let machine = Machine { cpus: 2, memory: 4 << 30, ..Machine::detect() };
        let capacity = machine.capacity(&config);
        let left = machine.allocatable(&config, &capacity);
        assert_eq!(left["cpu"].0, "1500m");
        assert_eq!(left["memory"].0, format!("{}Ki", (3 << 20) - (100 << 10)));
        assert_eq!(capacity["pods"].0, "110");
    }
}
