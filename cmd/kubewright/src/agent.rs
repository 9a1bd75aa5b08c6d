//! `kubewright agent`: kubelet, service proxy, pod network and cluster DNS of one node in one process.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use client::config::{ClientOptions, client_from};
use cluster::addons::{DNS_PORT, register_dns};
use cluster::spec::{CLUSTER_CIDR, CLUSTER_DOMAIN, DNS_SERVICE_IP, Paths, SERVICE_CIDR, Spec};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Worker threads: the agent waits more than it works.
const THREADS: usize = 2;
/// Largest packet between pods: what the virtual links carry.
const MTU: u32 = 1500;

/// Runs a node's agent until it is told to stop or a part of it fails; the node's first process starts it again.
pub(crate) fn main(paths: &Paths, spec: &Spec, node: &str) -> anyhow::Result<()> {
    component::logs::init(&component::logs::Options { verbosity: spec.verbosity, ..Default::default() });
    component::runtime(THREADS)?.block_on(run(paths, node))
}

async fn connect(kubeconfig: &Path, component: &str) -> anyhow::Result<kube::Client> {
    let options = ClientOptions {
        kubeconfig: Some(kubeconfig.to_owned()),
        component: component.to_owned(),
        ..ClientOptions::default()
    };
    client_from(&options).await.with_context(|| format!("cannot use {}", kubeconfig.display()))
}

async fn run(paths: &Paths, node: &str) -> anyhow::Result<()> {
    let shutdown = component::shutdown::on_signals().context("cannot listen for signals")?;
    let address = Spec::node_index(node).map(Spec::node_ip).context("not a node of a cluster")?;
    let pki = paths.pki();
    let kubelet_client = connect(&pki.join(format!("{node}.conf")), "kubelet").await?;
    let proxy_client = connect(&pki.join("kube-proxy.conf"), "kube-proxy").await?;
    let dns_client = connect(&pki.join("cluster-dns.conf"), "cluster-dns").await?;

    let mut parts: JoinSet<(&'static str, anyhow::Result<()>)> = JoinSet::new();
    let (config, stop) = (kubelet_configuration(paths, node, address)?, shutdown.clone());
    parts.spawn(
        async move { ("kubelet", kubelet::run(config, kubelet_client, stop).await.map_err(Into::into)) },
    );
    let network = podnetwork::Config {
        node_name: node.to_owned(),
        cluster_cidr: CLUSTER_CIDR.to_owned(),
        service_cidr: SERVICE_CIDR.to_owned(),
        cni_directory: "/etc/cni/net.d".into(),
        mtu: MTU,
    };
    let (client, stop) = (proxy_client.clone(), shutdown.clone());
    parts.spawn(
        async move { ("pod network", podnetwork::run(network, client, stop).await.map_err(Into::into)) },
    );
    let config = proxy::Config {
        node_name: node.to_owned(),
        local: proxy::LocalTraffic::ClusterCidrs(CLUSTER_CIDR.parse().into_iter().collect()),
        ..proxy::Config::default()
    };
    let stop = shutdown.clone();
    parts.spawn(async move {
        ("service proxy", proxy::run(config, proxy_client, stop).await.map_err(Into::into))
    });
    let config = dns::Config {
        domain: CLUSTER_DOMAIN.to_owned(),
        listen: vec![SocketAddr::from((address, DNS_PORT))],
        health_address: None,
        upstreams: Vec::new(),
        ttl_seconds: 5,
        service_address: DNS_SERVICE_IP.parse().ok(),
    };
    let (client, stop) = (dns_client.clone(), shutdown.clone());
    parts.spawn(async move { ("cluster DNS", dns::run(config, client, stop).await.map_err(Into::into)) });
    let (name, stop) = (node.to_owned(), shutdown.clone());
    parts.spawn(async move {
        ("DNS endpoint", register_dns(dns_client, &name, address, stop).await.map_err(Into::into))
    });
    join(parts, shutdown).await
}

/// Waits for all parts; the first that fails stops the others.
async fn join(
    mut parts: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut failure = None;
    while let Some(ended) = parts.join_next().await {
        let (part, outcome) = ended.context("a part of the agent panicked")?;
        if let Err(error) = outcome {
            tracing::error!(part, error = format!("{error:#}"), "failed, stopping the agent");
            failure.get_or_insert(error.context(part));
            shutdown.cancel();
        }
    }
    failure.map_or(Ok(()), Err)
}

/// The kubelet's configuration, in the form in which any kubelet takes it.
fn kubelet_configuration(
    paths: &Paths,
    node: &str,
    address: std::net::Ipv4Addr,
) -> anyhow::Result<kubelet::Config> {
    let pki = paths.pki();
    let file = |name: &str| pki.join(name).display().to_string();
    let document = serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": file("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "clusterDNS": [DNS_SERVICE_IP],
        "clusterDomain": CLUSTER_DOMAIN,
        "failSwapOn": false,
        "resolvConf": "/etc/resolv.conf",
        "tlsCertFile": file(&format!("{node}-serving.crt")),
        "tlsPrivateKeyFile": file(&format!("{node}-serving.key")),
        "serializeImagePulls": false,
        // All nodes share one disk, which is the machine's and not theirs to keep free.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
    });
    let text = document.to_string();
    let (parsed, warnings) =
        kubelet::KubeletConfiguration::parse(&text, Path::new("built-in configuration"))?;
    for warning in warnings {
        tracing::warn!(warning, "kubelet configuration");
    }
    let flags = kubelet::Flags {
        hostname_override: Some(node.to_owned()),
        node_ips: vec![address.into()],
        runtime_endpoint: Some("unix:///run/containerd/containerd.sock".into()),
        pause_image: Some(cluster::PAUSE_IMAGE.into()),
        ..kubelet::Flags::default()
    };
    Ok(kubelet::Config::new(&parsed, &flags, node)?)
}
