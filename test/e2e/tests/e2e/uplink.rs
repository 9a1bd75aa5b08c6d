//! No packet for a pod or a service leaves through an uplink.
//!
//! A node's uplink is `eth0`, which ends at the bridge in the cluster's fabric namespace; what a node cannot deliver
//! itself goes to the bridge's own address, the default gateway. Counters there see every packet that would have left.
//! They live in the cluster's namespace; nothing of the machine's own packet filter is touched.

use anyhow::{Context as _, ensure};
use e2e::{Cluster, Context, SHORT, eventually};

use crate::manifests::{idle_pod, server_deployment, wait_for};

/// Ranges of pods and services.
const RANGES: [&str; 2] = ["10.244.0.0/16", "10.96.0.0/16"];
/// A range that is neither (RFC 5737, for documentation): what is sent there does go to the gateway.
const CONTROL: &str = "192.0.2.0/24";
/// An address of it, which the gateway itself is given.
const CONTROL_ADDRESS: &str = "192.0.2.1";

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let (kubectl, cluster) = (&context.kubectl, context.cluster);
    links_stay_inside(cluster)?;
    // Frames that pass the bridge from node to node are on their way, not lost; older kernels show them to iptables too.
    drop(cluster.run_on("fabric", "sysctl -q -w net.bridge.bridge-nf-call-iptables=0"));
    for range in RANGES.into_iter().chain([CONTROL]) {
        cluster.run_on("fabric", &format!("iptables -t raw -A PREROUTING -i br0 -d {range}"))?;
    }

    kubectl.apply(&[server_deployment("web", 3), idle_pod("client")])?;
    kubectl.run("rollout status deployment/web --timeout=90s")?;
    wait_for(kubectl, "Ready", "pod/client")?;
    kubectl.run("expose deployment/web --port=80 --target-port=http --type=NodePort")?;
    let address = kubectl.value("service/web", ".spec.clusterIP")?;
    eventually("the Service answers", SHORT, || cluster.fetch_from("node1", &format!("http://{address}/")))?;
    let port = kubectl.value("service/web", ".spec.ports[0].nodePort")?;
    let pods = kubectl.run("get pods -l app=web -o jsonpath={.items[*].status.podIP}")?;
    for node in ["node1", "node2", "node3"] {
        let urls = pods.split(' ').map(|pod| format!("http://{pod}:8080/")).chain([
            format!("http://{address}/"),
            format!("http://172.30.0.11:{port}/"),
            format!("http://172.30.0.13:{port}/"),
        ]);
        for url in urls {
            eventually(&url, SHORT, || cluster.fetch_from(node, &url))?;
        }
    }
    kubectl.run([
        "exec",
        "client",
        "--",
        "sh",
        "-c",
        "for i in $(seq 20); do wget -q -O /dev/null http://web/ || exit 1; done",
    ])?;
    // Pods that go away while clients ask are when packets would go astray.
    kubectl.run("delete pods -l app=web --grace-period=0 --force")?;
    kubectl.run("rollout status deployment/web --timeout=90s")?;
    eventually("the Service answers again", SHORT, || {
        cluster.fetch_from("node2", &format!("http://{address}/"))
    })?;
    // No Service has this address, so no rule takes its packets.
    drop(cluster.fetch_from("node1", "http://10.96.255.254/"));
    let lost = counted(cluster, &RANGES)?;
    ensure!(lost == 0, "{lost} packets for pods or services left their node for the gateway");

    // That the counters count.
    cluster.run_on("fabric", &format!("ip address add {CONTROL_ADDRESS}/32 dev br0"))?;
    drop(cluster.fetch_from("node1", &format!("http://{CONTROL_ADDRESS}/")));
    ensure!(counted(cluster, &[CONTROL])? > 0, "the counters do not count");
    Ok(())
}

/// Packets for these ranges, counted by the rules made above.
fn counted(cluster: &Cluster, ranges: &[&str]) -> anyhow::Result<u64> {
    let rules = cluster.run_on("fabric", "iptables -t raw -L PREROUTING -n -v -x")?;
    let mut sum = 0;
    for range in ranges {
        let line = rules
            .lines()
            .find(|line| line.contains(*range))
            .with_context(|| format!("no {range} in {rules}"))?;
        sum += line.split_whitespace().next().context("no counter")?.parse::<u64>()?;
    }
    Ok(sum)
}

/// Every link of the fabric is the bridge, loopback, or one end of a pair whose other end is a machine of the cluster:
/// there is no way to the machine's own network.
fn links_stay_inside(cluster: &Cluster) -> anyhow::Result<()> {
    let text = cluster.run_on("fabric", "ip -j -d link show")?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    let mut ends = 0;
    for link in links.as_array().context("no links")? {
        let (name, kind) =
            (link["ifname"].as_str().unwrap_or_default(), link["linkinfo"]["info_kind"].as_str());
        match (name, kind) {
            ("lo", _) | ("br0", Some("bridge")) => {}
            (_, Some("veth")) if name.starts_with("v-") => {
                let peer =
                    link["link_netnsid"].as_i64().with_context(|| format!("{name} ends in the fabric"))?;
                let namespaces = cluster.run_on("fabric", "ip netns list-id")?;
                let line = namespaces.lines().find(|line| line.starts_with(&format!("nsid {peer} ")));
                let owner =
                    line.with_context(|| format!("{name} ends in no named namespace: {namespaces}"))?;
                ensure!(owner.contains(&format!("kw-{}-", cluster.name())), "{name} ends outside: {owner}");
                ends += 1;
            }
            // Tunnels that the kernel makes in every namespace; down and without a peer.
            (
                _,
                Some("sit" | "ip6tnl" | "ipip" | "gre" | "gretap" | "erspan" | "ip6gre" | "vti" | "vti6"),
            ) => {
                let flags = link["flags"].to_string();
                ensure!(!flags.contains("\"UP\""), "{name} is up");
            }
            other => anyhow::bail!("unexpected link {other:?}"),
        }
    }
    ensure!(ends == 4, "{ends} machines are joined to the fabric");
    Ok(())
}
