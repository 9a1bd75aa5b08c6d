//! Exact texts, and packets walked through them: the second kind survives a reordering of rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use expect_test::expect;

use super::{Rules, rules};
use crate::endpoints::tests::{endpoint, service_port};
use crate::model::{Endpoint, PortName, ServicePort, Snapshot};
use crate::{Config, Family, LocalTraffic, NodePorts};

fn config() -> Config {
    let ranges = vec!["10.244.0.0/16".parse().expect("range")];
    Config { local: LocalTraffic::ClusterCidrs(ranges), ..Config::default() }
}

fn name() -> PortName {
    PortName { namespace: "ns".into(), name: "web".into(), port: "http".into() }
}

fn make(port: ServicePort, endpoints: Vec<Endpoint>) -> Rules {
    let mut snapshot = Snapshot { node: "n".into(), ..Snapshot::default() };
    snapshot.ports.insert(name(), port);
    snapshot.endpoints.insert(name(), endpoints);
    rules(&config(), Family::V4, &snapshot, &BTreeSet::new())
}

fn two() -> Vec<Endpoint> {
    vec![endpoint("10.244.1.5:8080", "rl", &[]), endpoint("10.244.2.5:8080", "r", &[])]
}

#[test]
fn the_text_of_a_node_port_service() {
    let made = make(ServicePort { node_port: 30080, ..service_port() }, two());
    expect![[r#"
        *filter
        :KUBE-NODEPORTS - [0:0]
        :KUBE-SERVICES - [0:0]
        :KUBE-EXTERNAL-SERVICES - [0:0]
        :KUBE-FORWARD - [0:0]
        :KUBE-PROXY-FIREWALL - [0:0]
        -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
        -A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
        -A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        COMMIT
    "#]].assert_eq(made.text.split_inclusive("COMMIT\n").next().unwrap_or_default());
    expect![[r#"
        *nat
        :KUBE-SERVICES - [0:0]
        :KUBE-NODEPORTS - [0:0]
        :KUBE-POSTROUTING - [0:0]
        :KUBE-MARK-MASQ - [0:0]
        :KUBE-EXT-HMALVVKA6APKJPPY - [0:0]
        :KUBE-SEP-7MXP7RVKDH2EANKS - [0:0]
        :KUBE-SEP-QR6MYR7CYITOXECY - [0:0]
        :KUBE-SVC-HMALVVKA6APKJPPY - [0:0]
        -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
        -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
        -A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
        -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
        -A KUBE-SERVICES -m comment --comment "ns/web:http cluster IP" -m tcp -p tcp -d 10.96.0.20 --dport 80 -j KUBE-SVC-HMALVVKA6APKJPPY
        -A KUBE-NODEPORTS -m comment --comment "ns/web:http" -m tcp -p tcp --dport 30080 -j KUBE-EXT-HMALVVKA6APKJPPY
        -A KUBE-SVC-HMALVVKA6APKJPPY -m comment --comment "ns/web:http cluster IP" -m tcp -p tcp -d 10.96.0.20 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
        -A KUBE-EXT-HMALVVKA6APKJPPY -m comment --comment "masquerade traffic for ns/web:http external destinations" -j KUBE-MARK-MASQ
        -A KUBE-EXT-HMALVVKA6APKJPPY -j KUBE-SVC-HMALVVKA6APKJPPY
        -A KUBE-SVC-HMALVVKA6APKJPPY -m comment --comment "ns/web:http -> 10.244.1.5:8080" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-QR6MYR7CYITOXECY
        -A KUBE-SVC-HMALVVKA6APKJPPY -m comment --comment "ns/web:http -> 10.244.2.5:8080" -j KUBE-SEP-7MXP7RVKDH2EANKS
        -A KUBE-SEP-QR6MYR7CYITOXECY -m comment --comment "ns/web:http" -s 10.244.1.5 -j KUBE-MARK-MASQ
        -A KUBE-SEP-QR6MYR7CYITOXECY -m comment --comment "ns/web:http" -m tcp -p tcp -j DNAT --to-destination 10.244.1.5:8080
        -A KUBE-SEP-7MXP7RVKDH2EANKS -m comment --comment "ns/web:http" -s 10.244.2.5 -j KUBE-MARK-MASQ
        -A KUBE-SEP-7MXP7RVKDH2EANKS -m comment --comment "ns/web:http" -m tcp -p tcp -j DNAT --to-destination 10.244.2.5:8080
        -A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
        COMMIT
    "#]].assert_eq(made.text.split_inclusive("COMMIT\n").nth(1).unwrap_or_default());
}

/// A verdict of the walk.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    outcome: String,
    masqueraded: bool,
}

#[derive(Clone)]
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    /// The destination is an address of this node.
    to_node: bool,
    /// The source is an address of this node.
    from_node: bool,
}

/// Walks a packet through the text: filter's service chains first (they see cluster addresses only where nat left them),
/// then nat. `recent` never matches and `statistic` always does, so the first endpoint is taken.
fn walk(text: &str, packet: &Packet) -> Verdict {
    let mut tables: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    let mut table = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(rest) = line.strip_prefix("-A ") {
            let (chain, rule) = rest.split_once(' ').expect("a rule");
            tables.entry(table).or_default().entry(chain).or_default().push(rule);
        }
    }
    let mut marked = false;
    let nat = run(&tables["nat"], "KUBE-SERVICES", packet, &mut marked);
    let outcome = nat.or_else(|| {
        ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"]
            .into_iter()
            .find_map(|chain| run(&tables["filter"], chain, packet, &mut false))
    });
    Verdict { outcome: outcome.unwrap_or_else(|| "ACCEPT".into()), masqueraded: marked }
}

fn run(
    chains: &BTreeMap<&str, Vec<&str>>,
    chain: &str,
    packet: &Packet,
    marked: &mut bool,
) -> Option<String> {
    for rule in chains.get(chain).map_or(&[][..], Vec::as_slice) {
        // Comments hold spaces and are not matches.
        let rule = match (rule.find("--comment \""), rule.find("\" ")) {
            (Some(start), Some(end)) => format!("{}{}", &rule[..start], &rule[end + 2..]),
            _ => (*rule).to_owned(),
        };
        let words: Vec<&str> = rule.split(' ').collect();
        let value = |flag: &str| {
            words.iter().position(|w| *w == flag).map(|i| (words[i + 1], i > 0 && words[i - 1] == "!"))
        };
        let net = |text: &str, ip: IpAddr| match text.parse::<ipnet::IpNet>() {
            Ok(range) => range.contains(&ip),
            Err(_) => text.parse::<IpAddr>() == Ok(ip),
        };
        let holds = [
            value("-d").is_none_or(|(v, not)| net(v, packet.destination) != not),
            value("-s").is_none_or(|(v, not)| net(v, packet.source) != not),
            value("--dport").is_none_or(|(v, _)| v == packet.port.to_string()),
            value("--dst-type").is_none_or(|_| packet.to_node),
            value("--src-type").is_none_or(|_| packet.from_node),
            value("--rcheck").is_none(),
        ];
        if holds.contains(&false) {
            continue;
        }
        match value("-j").expect("a target").0 {
            "KUBE-MARK-MASQ" => *marked = true,
            "DNAT" => return value("--to-destination").map(|(to, _)| to.to_owned()),
            verdict @ ("DROP" | "REJECT") => return Some(verdict.to_owned()),
            "RETURN" => return None,
            next => {
                if let Some(outcome) = run(chains, next, packet, marked) {
                    return Some(outcome);
                }
            }
        }
    }
    None
}

#[test]
fn packets_reach_their_endpoints() {
    let pod: IpAddr = "10.244.1.9".parse().expect("address");
    let outside: IpAddr = "192.0.2.1".parse().expect("address");
    let own: IpAddr = "172.30.0.11".parse().expect("address");
    let service: IpAddr = "10.96.0.20".parse().expect("address");
    let to_service =
        |source| Packet { source, destination: service, port: 80, to_node: false, from_node: false };
    let to_node = |source| Packet { source, destination: own, port: 30080, to_node: true, from_node: false };
    let node_port = ServicePort { node_port: 30080, ..service_port() };
    let local = ServicePort { external_local: true, ..node_port.clone() };
    let inner_local = ServicePort { internal_local: true, ..service_port() };
    let remote = || vec![endpoint("10.244.2.5:8080", "r", &[])];
    let balancer =
        ServicePort { load_balancer_ips: vec!["203.0.113.7".parse().expect("address")], ..node_port.clone() };
    let to_balancer = Packet { destination: "203.0.113.7".parse().expect("address"), ..to_service(outside) };
    let cases: Vec<(&str, Rules, Packet, &str, bool)> = vec![
        ("pod to service", make(node_port.clone(), two()), to_service(pod), "10.244.1.5:8080", false),
        ("outside to service", make(node_port.clone(), two()), to_service(outside), "10.244.1.5:8080", true),
        (
            "pod to itself",
            make(service_port(), two()),
            to_service("10.244.1.5".parse().expect("a")),
            "10.244.1.5:8080",
            true,
        ),
        ("outside to node port", make(node_port.clone(), two()), to_node(outside), "10.244.1.5:8080", true),
        ("node port, local policy", make(local.clone(), two()), to_node(outside), "10.244.1.5:8080", false),
        (
            "node port, local policy, none here",
            make(local.clone(), remote()),
            to_node(outside),
            "DROP",
            false,
        ),
        (
            "pod to node port, local policy, none here",
            make(local, remote()),
            to_node(pod),
            "10.244.2.5:8080",
            false,
        ),
        (
            "cluster address, local policy, none here",
            make(inner_local.clone(), remote()),
            to_service(pod),
            "DROP",
            false,
        ),
        (
            "cluster address, local policy",
            make(inner_local, two()),
            to_service(pod),
            "10.244.1.5:8080",
            false,
        ),
        ("no endpoints", make(node_port.clone(), vec![]), to_service(pod), "REJECT", false),
        ("no endpoints, node port", make(node_port.clone(), vec![]), to_node(outside), "REJECT", false),
        ("load balancer address", make(balancer, two()), to_balancer, "10.244.1.5:8080", true),
        ("another port", make(node_port, two()), Packet { port: 81, ..to_service(pod) }, "ACCEPT", false),
    ];
    for (what, made, packet, outcome, masqueraded) in cases {
        assert_eq!(
            walk(&made.text, &packet),
            Verdict { outcome: outcome.into(), masqueraded },
            "{what}\n{}",
            made.text
        );
    }
}

#[test]
fn probabilities_are_even() {
    let endpoints = (1..=3).map(|i| endpoint(&format!("10.244.1.{i}:80"), "r", &[])).collect();
    let text = make(service_port(), endpoints).text;
    let chances: Vec<&str> =
        text.split("--probability ").skip(1).filter_map(|rest| rest.split(' ').next()).collect();
    assert_eq!(chances, ["0.3333333333", "0.5000000000"]);
}

#[test]
fn affinity_remembers_clients() {
    let text = make(ServicePort { affinity_seconds: Some(600), ..service_port() }, two()).text;
    assert_eq!(text.matches("--rcheck --seconds 600 --reap").count(), 2);
    assert_eq!(text.matches("--set").count(), 2);
}

#[test]
fn chains_of_gone_endpoints_are_removed() {
    let before = make(service_port(), two());
    let mut snapshot = Snapshot::default();
    snapshot.ports.insert(name(), service_port());
    let after = rules(&config(), Family::V4, &snapshot, &before.chains);
    for chain in &before.chains {
        assert!(
            after.text.contains(&format!(":{chain} - [0:0]\n"))
                && after.text.contains(&format!("-X {chain}\n")),
            "{chain}"
        );
    }
    assert!(after.chains.is_empty());
}

#[test]
fn every_target_is_declared() {
    let port = ServicePort {
        node_port: 30080,
        external_local: true,
        load_balancer_ips: vec!["203.0.113.7".parse().expect("address")],
        source_ranges: vec!["198.51.100.0/24".parse().expect("range")],
        ..service_port()
    };
    for endpoints in [two(), vec![], vec![endpoint("10.244.2.5:8080", "r", &[])]] {
        let text = make(port.clone(), endpoints).text;
        for table in text.split_inclusive("COMMIT\n") {
            let declared: BTreeSet<&str> =
                table.lines().filter_map(|l| l.strip_prefix(':')?.split(' ').next()).collect();
            for target in table.lines().filter_map(|l| l.rsplit_once("-j ")?.1.split(' ').next()) {
                assert!(!target.starts_with("KUBE-") || declared.contains(target), "{target} in\n{table}");
            }
        }
    }
}

#[test]
fn local_traffic_is_told_in_four_ways() {
    let snapshot = |cidrs: &[&str]| Snapshot {
        node_pod_cidrs: cidrs.iter().map(|c| c.parse().expect("range")).collect(),
        ports: BTreeMap::from([(name(), service_port())]),
        endpoints: BTreeMap::from([(name(), two())]),
        ..Snapshot::default()
    };
    let own = ["fd00::/64", "10.244.7.0/24"];
    for (local, cidrs, expected) in [
        (LocalTraffic::Unknown, &own[..], None),
        (LocalTraffic::NodeCidr, &own, Some("! -s 10.244.7.0/24")),
        (LocalTraffic::NodeCidr, &[], None),
        (LocalTraffic::Bridge("cni0".into()), &[], Some("! -i cni0")),
        (LocalTraffic::InterfacePrefix("veth".into()), &[], Some("! -i veth+")),
    ] {
        let config = Config { local, ..Config::default() };
        let made = rules(&config, Family::V4, &snapshot(cidrs), &BTreeSet::new());
        let marked = made.text.lines().find_map(|line| {
            let rest = line.split_once("--dport 80 ").filter(|_| line.starts_with("-A KUBE-SVC-"))?.1;
            rest.strip_suffix(" -j KUBE-MARK-MASQ")
        });
        assert_eq!(marked, expected, "{:?}", config.local);
    }
}

#[test]
fn node_ports_answer_on_the_addresses_asked_for() {
    let snapshot = Snapshot {
        node_addresses: ["192.0.2.7", "2001:db8::7"].map(|ip| ip.parse().expect("address")).to_vec(),
        ..Snapshot::default()
    };
    let ranges = vec!["192.0.2.0/24".parse().expect("range"), "2001:db8::/64".parse().expect("range")];
    for (node_ports, expected) in [
        (NodePorts::Ranges(Vec::new()), ""),
        (NodePorts::Ranges(ranges), "-d 192.0.2.0/24 "),
        (NodePorts::Primary, "-d 192.0.2.7/32 "),
    ] {
        let config = Config { node_ports, ..Config::default() };
        let made = rules(&config, Family::V4, &snapshot, &BTreeSet::new());
        let jumps: Vec<&str> = made.text.lines().filter(|l| l.ends_with("-j KUBE-NODEPORTS")).collect();
        let matched = format!("in this chain\" {expected}-m addrtype --dst-type LOCAL");
        assert!(matches!(jumps.as_slice(), [one] if one.contains(&matched)), "{jumps:?}");
    }
}
