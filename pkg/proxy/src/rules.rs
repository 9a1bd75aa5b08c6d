//! The rules: one pure pass from a [`Snapshot`] to the complete input of `iptables-restore --noflush`.
//!
//! Layout, chain names, order and comments follow upstream's proxier, so that tools and people who read its rules can
//! read these. A packet to a Service goes KUBE-SERVICES -> KUBE-SVC-* (or KUBE-EXT-* from outside) -> KUBE-SEP-* -> DNAT;
//! what must be masqueraded is marked on the way and taken care of in KUBE-POSTROUTING.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::endpoints::{Choice, choose};
use crate::model::{Endpoint, PortName, ServicePort, Snapshot};
use crate::names::{cluster_chain, endpoint_chain, external_chain, firewall_chain, local_chain};
use crate::{Config, Family, LocalTraffic, NodePorts};

/// Chains of the filter table that are always there.
pub const FILTER_CHAINS: [&str; 5] =
    ["KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"];
/// Chains of the nat table that are always there.
pub const NAT_CHAINS: [&str; 4] = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"];

/// A jump from a built-in chain into one of ours: (table, built-in chain, our chain, matches, comment).
pub type Jump = (&'static str, &'static str, &'static str, &'static [&'static str], &'static str);

const NEW: &[&str] = &["-m", "conntrack", "--ctstate", "NEW"];

/// The jumps, in the order in which they must stand at the head of their chains.
pub const JUMPS: [Jump; 12] = [
    ("filter", "INPUT", "KUBE-PROXY-FIREWALL", NEW, "kubernetes load balancer firewall"),
    ("filter", "INPUT", "KUBE-NODEPORTS", &[], "kubernetes health check service ports"),
    ("filter", "INPUT", "KUBE-EXTERNAL-SERVICES", NEW, "kubernetes externally-visible service portals"),
    ("filter", "FORWARD", "KUBE-PROXY-FIREWALL", NEW, "kubernetes load balancer firewall"),
    ("filter", "FORWARD", "KUBE-FORWARD", &[], "kubernetes forwarding rules"),
    ("filter", "FORWARD", "KUBE-SERVICES", NEW, "kubernetes service portals"),
    ("filter", "FORWARD", "KUBE-EXTERNAL-SERVICES", NEW, "kubernetes externally-visible service portals"),
    ("filter", "OUTPUT", "KUBE-PROXY-FIREWALL", NEW, "kubernetes load balancer firewall"),
    ("filter", "OUTPUT", "KUBE-SERVICES", NEW, "kubernetes service portals"),
    ("nat", "PREROUTING", "KUBE-SERVICES", &[], "kubernetes service portals"),
    ("nat", "OUTPUT", "KUBE-SERVICES", &[], "kubernetes service portals"),
    ("nat", "POSTROUTING", "KUBE-POSTROUTING", &[], "kubernetes postrouting rules"),
];

/// The text, and the chains for service ports and endpoints that it fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Input of `iptables-restore --noflush`.
    pub text: String,
    /// Chains made for ports and endpoints; those of an earlier text that are not here go.
    pub chains: BTreeSet<String>,
    /// Number of rules, for the metric.
    pub count: usize,
}

/// Makes the rules. `stale` are chains of an earlier text, which are removed in the same transaction if unused now.
pub fn rules(config: &Config, family: Family, snapshot: &Snapshot, stale: &BTreeSet<String>) -> Rules {
    let mut writer = Writer::new(config, family, snapshot);
    writer.fixed();
    for (name, port) in &snapshot.ports {
        let endpoints = snapshot.endpoints.get(name).map_or(&[][..], Vec::as_slice);
        writer.port(name, port, &choose(port, endpoints, snapshot));
    }
    writer.finish(stale)
}

/// Matches of traffic from local pods and of all other; `None` while that cannot be told.
fn local_match(
    how: &LocalTraffic,
    snapshot: &Snapshot,
    of_family: impl Fn(&&IpNet) -> bool,
) -> Option<(String, String)> {
    let both = |option: &str, value: &dyn Display| {
        Some((format!("{option} {value}"), format!("! {option} {value}")))
    };
    match how {
        LocalTraffic::Unknown => None,
        LocalTraffic::ClusterCidrs(ranges) => both("-s", ranges.iter().find(of_family)?),
        LocalTraffic::NodeCidr => both("-s", snapshot.node_pod_cidrs.iter().find(of_family)?),
        LocalTraffic::Bridge(name) => both("-i", name),
        LocalTraffic::InterfacePrefix(prefix) => both("-i", &format!("{prefix}+")),
    }
}

struct Writer {
    family: Family,
    masquerade_all: bool,
    mark: String,
    xor: String,
    /// What matches traffic of local pods, and what matches all other.
    local: Option<(String, String)>,
    node_port_addresses: Vec<IpNet>,
    localhost_node_ports: bool,
    filter: String,
    nat: String,
    /// Rules of KUBE-EXT-*, -SVC-*, -SEP-* chains come after those of KUBE-SERVICES in the text.
    services: String,
    chains: BTreeSet<String>,
}

impl Writer {
    fn new(config: &Config, family: Family, snapshot: &Snapshot) -> Self {
        let mark = 1u32 << config.masquerade_bit.min(31);
        let of_family =
            |net: &&IpNet| matches!((net, family), (IpNet::V4(_), Family::V4) | (IpNet::V6(_), Family::V6));
        let node_port_addresses = match &config.node_ports {
            NodePorts::Ranges(ranges) => ranges.clone(),
            NodePorts::Primary => snapshot.node_addresses.iter().copied().map(IpNet::from).collect(),
        };
        Self {
            family,
            masquerade_all: config.masquerade_all,
            mark: format!("{mark:#x}/{mark:#x}"),
            xor: format!("{mark:#x}"),
            local: local_match(&config.local, snapshot, of_family),
            node_port_addresses: node_port_addresses.iter().filter(of_family).copied().collect(),
            localhost_node_ports: config.localhost_node_ports,
            filter: String::new(),
            nat: String::new(),
            services: String::new(),
            chains: BTreeSet::new(),
        }
    }

    /// Rules that do not depend on services.
    fn fixed(&mut self) {
        let (mark, xor) = (&self.mark, &self.xor);
        // A packet that connection tracking cannot place would reach a pod without being translated back.
        line(&mut self.filter, format_args!("-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"));
        let text = "kubernetes forwarding rules";
        line(
            &mut self.filter,
            format_args!("-A KUBE-FORWARD -m comment --comment \"{text}\" -m mark --mark {mark} -j ACCEPT"),
        );
        let text = "kubernetes forwarding conntrack rule";
        line(
            &mut self.filter,
            format_args!(
                "-A KUBE-FORWARD -m comment --comment \"{text}\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
            ),
        );
        line(&mut self.nat, format_args!("-A KUBE-POSTROUTING -m mark ! --mark {mark} -j RETURN"));
        // The mark goes before the packet is masqueraded, so that it is not masqueraded twice on a bridge.
        line(&mut self.nat, format_args!("-A KUBE-POSTROUTING -j MARK --xor-mark {xor}"));
        let text = "kubernetes service traffic requiring SNAT";
        line(
            &mut self.nat,
            format_args!("-A KUBE-POSTROUTING -m comment --comment \"{text}\" -j MASQUERADE --random-fully"),
        );
        line(&mut self.nat, format_args!("-A KUBE-MARK-MASQ -j MARK --or-mark {xor}"));
    }

    fn port(&mut self, name: &PortName, port: &ServicePort, choice: &Choice<'_>) {
        let protocol = port.protocol.lower();
        let (svc, svl) = (cluster_chain(name, port.protocol), local_chain(name, port.protocol));
        let (ext, fw) = (external_chain(name, port.protocol), firewall_chain(name, port.protocol));
        let internal = if port.internal_local { &svl } else { &svc };
        let external_target = if port.external_local { &svl } else { &svc };
        let internal_any = !if port.internal_local { &choice.local } else { &choice.cluster }.is_empty();
        let external_any = !if port.external_local { &choice.local } else { &choice.cluster }.is_empty();

        self.internal(name, port, internal_any.then_some(internal.as_str()), choice);
        let uses_ext = port.is_external() && (external_any || (port.external_local && choice.any));
        for (ips, what) in [(&port.external_ips, "external IP"), (&port.load_balancer_ips, "loadbalancer IP")]
        {
            for ip in ips {
                let to = format!("-m {protocol} -p {protocol} -d {ip} --dport {}", port.port);
                if uses_ext {
                    line(
                        &mut self.nat,
                        format_args!("-A KUBE-SERVICES -m comment --comment \"{name} {what}\" {to} -j {ext}"),
                    );
                }
                if !external_any {
                    // With the local policy, another node may have endpoints: let it be tried there.
                    let (verdict, why) = unreachable(port, choice);
                    line(
                        &mut self.filter,
                        format_args!(
                            "-A KUBE-EXTERNAL-SERVICES -m comment --comment \"{name} {why}\" {to} -j {verdict}"
                        ),
                    );
                }
            }
        }
        self.firewall(name, port, &fw);
        self.node_port(name, port, choice, uses_ext.then_some(ext.as_str()), external_any);
        if uses_ext {
            self.external(name, port, &ext, external_any.then_some(external_target.as_str()), &svc, choice);
        }
        if choice.uses_cluster && !choice.cluster.is_empty() {
            self.balance(name, port, &svc, &choice.cluster);
        }
        if choice.uses_local && !choice.local.is_empty() {
            self.balance(name, port, &svl, &choice.local);
        }
        let both: BTreeSet<_> = choice.cluster.iter().chain(&choice.local).map(|e| e.address).collect();
        for address in both {
            self.endpoint(name, port, &address.to_string(), address.ip());
        }
    }

    /// Traffic to the cluster address.
    fn internal(&mut self, name: &PortName, port: &ServicePort, target: Option<&str>, choice: &Choice<'_>) {
        let protocol = port.protocol.lower();
        let to = format!("-m {protocol} -p {protocol} -d {} --dport {}", port.cluster_ip, port.port);
        let Some(chain) = target else {
            let (verdict, why) =
                if choice.any { ("DROP", "has no local endpoints") } else { ("REJECT", "has no endpoints") };
            return line(
                &mut self.filter,
                format_args!("-A KUBE-SERVICES -m comment --comment \"{name} {why}\" {to} -j {verdict}"),
            );
        };
        line(
            &mut self.nat,
            format_args!("-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" {to} -j {chain}"),
        );
        let marked = format!("-A {chain} -m comment --comment \"{name} cluster IP\" {to}");
        if self.masquerade_all {
            line(&mut self.services, format_args!("{marked} -j KUBE-MARK-MASQ"));
        } else if let Some((_, foreign)) = &self.local {
            // From outside the cluster, replies would not come back through this node.
            line(&mut self.services, format_args!("{marked} {foreign} -j KUBE-MARK-MASQ"));
        }
    }

    /// Source ranges of a load balancer: what is not in them is dropped, before and after translation.
    fn firewall(&mut self, name: &PortName, port: &ServicePort, chain: &str) {
        if port.source_ranges.is_empty() || port.load_balancer_ips.is_empty() {
            return;
        }
        let protocol = port.protocol.lower();
        self.chains.insert(format!("filter {chain}"));
        for ip in &port.load_balancer_ips {
            line(
                &mut self.filter,
                format_args!(
                    "-A KUBE-PROXY-FIREWALL -m comment --comment \"{name} traffic not accepted by {chain}\" \
                     -m {protocol} -p {protocol} -d {ip} --dport {} -j {chain}",
                    port.port
                ),
            );
        }
        for range in &port.source_ranges {
            line(
                &mut self.filter,
                format_args!(
                    "-A {chain} -m comment --comment \"{name} loadbalancer IP\" -s {range} -j RETURN"
                ),
            );
        }
        line(
            &mut self.filter,
            format_args!(
                "-A {chain} -m comment --comment \"other traffic to {name} will be dropped\" -j DROP"
            ),
        );
    }

    fn node_port(
        &mut self,
        name: &PortName,
        port: &ServicePort,
        choice: &Choice<'_>,
        ext: Option<&str>,
        any: bool,
    ) {
        let protocol = port.protocol.lower();
        if port.node_port != 0 {
            let to = format!("-m {protocol} -p {protocol} --dport {}", port.node_port);
            if let Some(ext) = ext {
                let outside_loopback = match self.family {
                    Family::V4 if !self.localhost_node_ports => "! -d 127.0.0.0/8 ",
                    // IPv6 has no way to answer on loopback, with or without the flag.
                    Family::V6 => "! -d ::1/128 ",
                    Family::V4 => "",
                };
                line(
                    &mut self.nat,
                    format_args!(
                        "-A KUBE-NODEPORTS -m comment --comment \"{name}\" {outside_loopback}{to} -j {ext}"
                    ),
                );
            }
            if !any {
                let (verdict, why) = unreachable(port, choice);
                line(
                    &mut self.filter,
                    format_args!(
                        "-A KUBE-EXTERNAL-SERVICES -m comment --comment \"{name} {why}\" \
                         -m addrtype --dst-type LOCAL {to} -j {verdict}"
                    ),
                );
            }
        }
        if port.health_check_node_port != 0 {
            line(
                &mut self.filter,
                format_args!(
                    "-A KUBE-NODEPORTS -m comment --comment \"{name} health check node port\" \
                     -m tcp -p tcp --dport {} -j ACCEPT",
                    port.health_check_node_port
                ),
            );
        }
    }

    /// Traffic from outside the cluster's addresses.
    fn external(
        &mut self,
        name: &PortName,
        port: &ServicePort,
        ext: &str,
        target: Option<&str>,
        svc: &str,
        choice: &Choice<'_>,
    ) {
        self.chains.insert(ext.to_owned());
        if port.external_local {
            if !choice.cluster.is_empty() {
                if let Some((local, _)) = &self.local {
                    // Pods that use an external address are inside: they may go anywhere.
                    let text = format!("pod traffic for {name} external destinations");
                    line(
                        &mut self.services,
                        format_args!("-A {ext} -m comment --comment \"{text}\" {local} -j {svc}"),
                    );
                }
                let local = "-m addrtype --src-type LOCAL";
                let text = format!("masquerade LOCAL traffic for {name} external destinations");
                line(
                    &mut self.services,
                    format_args!("-A {ext} -m comment --comment \"{text}\" {local} -j KUBE-MARK-MASQ"),
                );
                let text = format!("route LOCAL traffic for {name} external destinations");
                line(
                    &mut self.services,
                    format_args!("-A {ext} -m comment --comment \"{text}\" {local} -j {svc}"),
                );
            }
        } else {
            let text = format!("masquerade traffic for {name} external destinations");
            line(
                &mut self.services,
                format_args!("-A {ext} -m comment --comment \"{text}\" -j KUBE-MARK-MASQ"),
            );
        }
        if let Some(target) = target {
            line(&mut self.services, format_args!("-A {ext} -j {target}"));
        }
    }

    /// Spreads a port's traffic over endpoints, evenly by chance or by client.
    fn balance(&mut self, name: &PortName, port: &ServicePort, chain: &str, endpoints: &[&Endpoint]) {
        self.chains.insert(chain.to_owned());
        let target = |e: &Endpoint| endpoint_chain(name, port.protocol, &e.address.to_string());
        if let Some(seconds) = port.affinity_seconds {
            for endpoint in endpoints {
                let sep = target(endpoint);
                line(
                    &mut self.services,
                    format_args!(
                        "-A {chain} -m comment --comment \"{name} -> {}\" -m recent --name {sep} --rcheck \
                         --seconds {seconds} --reap -j {sep}",
                        endpoint.address
                    ),
                );
            }
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let left = endpoints.len() - index;
            let sep = target(endpoint);
            let chance = if left > 1 {
                format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64)
            } else {
                String::new()
            };
            line(
                &mut self.services,
                format_args!(
                    "-A {chain} -m comment --comment \"{name} -> {}\" {chance}-j {sep}",
                    endpoint.address
                ),
            );
        }
    }

    fn endpoint(&mut self, name: &PortName, port: &ServicePort, address: &str, ip: IpAddr) {
        let protocol = port.protocol.lower();
        let sep = endpoint_chain(name, port.protocol, address);
        // A pod that reaches itself through the Service would see its own address as the client's.
        line(
            &mut self.services,
            format_args!("-A {sep} -m comment --comment \"{name}\" -s {ip} -j KUBE-MARK-MASQ"),
        );
        let remember = if port.affinity_seconds.is_some() {
            format!("-m recent --name {sep} --set ")
        } else {
            String::new()
        };
        line(
            &mut self.services,
            format_args!(
                "-A {sep} -m comment --comment \"{name}\" {remember}-m {protocol} -p {protocol} -j DNAT \
                 --to-destination {address}"
            ),
        );
        self.chains.insert(sep);
    }

    fn finish(mut self, stale: &BTreeSet<String>) -> Rules {
        let text = "kubernetes service nodeports; NOTE: this must be the last rule in this chain";
        if self.node_port_addresses.is_empty() {
            line(
                &mut self.services,
                format_args!(
                    "-A KUBE-SERVICES -m comment --comment \"{text}\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"
                ),
            );
        }
        for net in &self.node_port_addresses {
            line(
                &mut self.services,
                format_args!(
                    "-A KUBE-SERVICES -m comment --comment \"{text}\" -d {net} -m addrtype --dst-type LOCAL \
                     -j KUBE-NODEPORTS"
                ),
            );
        }
        let in_filter = |chain: &&String| chain.starts_with("filter ");
        let old: Vec<&String> = stale.iter().filter(|chain| !self.chains.contains(*chain)).collect();
        let mut out = String::with_capacity(self.filter.len() + self.nat.len() + self.services.len() + 1024);
        for (table, fixed, rules) in [
            ("filter", &FILTER_CHAINS[..], [&self.filter, ""]),
            ("nat", &NAT_CHAINS[..], [self.nat.as_str(), &self.services]),
        ] {
            let here = |chain: &&&String| in_filter(chain) == (table == "filter");
            let bare = |chain: &'_ String| chain.strip_prefix("filter ").unwrap_or(chain).to_owned();
            let _ = writeln!(out, "*{table}");
            // Declaring a chain empties it; a stale one must be empty before it can go.
            let declared = self.chains.iter().filter(|c| here(&c)).map(bare);
            let gone: Vec<String> = old.iter().copied().filter(|c| here(&c)).map(bare).collect();
            for chain in fixed.iter().map(ToString::to_string).chain(declared).chain(gone.iter().cloned()) {
                let _ = writeln!(out, ":{chain} - [0:0]");
            }
            for text in rules {
                out.push_str(text);
            }
            for chain in &gone {
                let _ = writeln!(out, "-X {chain}");
            }
            out.push_str("COMMIT\n");
        }
        let count = out.lines().filter(|l| l.starts_with("-A")).count();
        Rules { text: out, chains: self.chains, count }
    }
}

/// What happens to outside traffic that nothing on this node may take.
fn unreachable(port: &ServicePort, choice: &Choice<'_>) -> (&'static str, &'static str) {
    if port.external_local && choice.any {
        ("DROP", "has no local endpoints")
    } else {
        ("REJECT", "has no endpoints")
    }
}

fn line(out: &mut String, text: impl Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests;
