//! The cluster's network: a bridge in a namespace without uplink, and one namespace a machine.

use std::path::PathBuf;

use crate::command::{run, try_run};
use crate::spec::Spec;
use crate::{Error, make_directory, write_file};

/// Where `ip netns` keeps its handles.
pub fn handle(netns: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(netns)
}

fn set_sysctl(netns: &str, settings: &[&str]) -> Result<(), Error> {
    let mut arguments = vec!["netns", "exec", netns, "sysctl", "-q", "-w"];
    arguments.extend(settings);
    run("ip", &arguments).map(drop)
}

fn exists(netns: &str) -> bool {
    handle(netns).exists()
}

/// Makes the bridge, once.
pub fn make_fabric(spec: &Spec) -> Result<(), Error> {
    let fabric = spec.netns("fabric");
    if exists(&fabric) {
        return Ok(());
    }
    run("ip", &["netns", "add", &fabric])?;
    let batch = format!(
        "link set lo up\nlink add br0 type bridge\naddr add {}/24 dev br0\nlink set br0 up\n",
        Spec::bridge_ip()
    );
    ip_batch(&fabric, &batch)?;
    // The bridge is the nodes' default gateway and forwards nothing: stray packets end there. Frames between nodes are
    // not for its packet filter.
    set_sysctl(&fabric, &["net.ipv4.ip_forward=0"])
}

/// Makes the network namespace of a machine (`ctl` or a node) and joins it to the bridge, once.
pub fn make_machine(spec: &Spec, part: &str) -> Result<(), Error> {
    let (fabric, netns) = (spec.netns("fabric"), spec.netns(part));
    if exists(&netns) {
        return Ok(());
    }
    let address = match Spec::node_index(part) {
        Some(index) => Spec::node_ip(index),
        None => Spec::control_plane_ip(),
    };
    run("ip", &["netns", "add", &netns])?;
    let port = format!("v-{part}");
    // The kernel takes its time to take apart the namespace of a node that was killed. Its end of the old pair may still
    // be there, under the name that is needed now.
    try_run("ip", &["-n", &fabric, "link", "del", &port]);
    let batch =
        format!("link add {port} type veth peer name eth0 netns {netns}\nlink set {port} master br0 up\n");
    ip_batch(&fabric, &batch)?;
    let batch = format!(
        "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {}\n",
        Spec::bridge_ip()
    );
    ip_batch(&netns, &batch)?;
    set_sysctl(
        &netns,
        &[
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv4.conf.eth0.rp_filter=0",
            "net.ipv4.ip_unprivileged_port_start=1024",
        ],
    )
}

/// Routes from the control plane to every node's pods, for webhooks, aggregated APIs and proxying.
pub fn route_pods_from_control_plane(spec: &Spec, routes: &[(String, String)]) -> Result<(), Error> {
    let mut batch = String::new();
    for (cidr, via) in routes {
        batch.push_str(&format!("route replace {cidr} via {via}\n"));
    }
    if batch.is_empty() { Ok(()) } else { ip_batch(&spec.netns("ctl"), &batch) }
}

fn ip_batch(netns: &str, batch: &str) -> Result<(), Error> {
    let directory = std::env::temp_dir();
    make_directory(&directory)?;
    let path = directory.join(format!("kubewright-{}-{netns}.batch", std::process::id()));
    write_file(&path, batch, 0o600)?;
    let outcome = run("ip", &["-n", netns, "-batch", &path.display().to_string()]);
    drop(std::fs::remove_file(&path));
    outcome.map(drop)
}

/// Names of this cluster's network namespaces that exist.
pub fn namespaces(cluster: &str) -> Vec<String> {
    let prefix = format!("kw-{cluster}-");
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    names.sort();
    names
}

/// Removes a network namespace; its links and rules go with it once no process is left in it.
pub fn remove(netns: &str) {
    try_run("ip", &["netns", "del", netns]);
}
