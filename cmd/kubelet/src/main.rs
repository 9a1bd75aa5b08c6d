//! The kubelet binary: flags to configuration to run.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{ArgAction, Parser};
use component::flags::{GoDuration, StringMap};
use kubelet::{Config, Flags, KubeletConfiguration};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads of the runtime: the kubelet waits more than it works.
const THREADS: usize = 2;

/// Flags, named as upstream's. Those not listed are refused.
#[derive(Debug, Parser)]
#[command(name = "kubelet", version = component::KUBERNETES_VERSION, about = "The kubelet is the primary node agent that runs on each node.")]
struct Arguments {
    /// Path to a kubeconfig file, specifying how to connect to the API server
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The kubelet will load its initial configuration from this file
    #[arg(long)]
    config: Option<PathBuf>,
    /// If non-empty, will use this string as identification instead of the actual hostname
    #[arg(long)]
    hostname_override: Option<String>,
    /// IP address (or comma-separated dual-stack IP addresses) of the node
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// The endpoint of the container runtime service; unix domain sockets are supported
    #[arg(long)]
    container_runtime_endpoint: Option<String>,
    /// Specified image will not be pruned by the image garbage collector
    #[arg(long)]
    pod_infra_container_image: Option<String>,
    /// Directory path for managing kubelet files
    #[arg(long)]
    root_dir: Option<PathBuf>,
    /// Register the node with the API server
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    register_node: Option<bool>,
    /// Labels to add when registering the node in the cluster
    #[arg(long)]
    node_labels: Option<StringMap>,
    /// Driver that the kubelet uses to manipulate cgroups on the host
    #[arg(long)]
    cgroup_driver: Option<String>,
    /// Path to the directory containing static pod files to run
    #[arg(long)]
    pod_manifest_path: Option<PathBuf>,
    /// IP address for the kubelet to serve on
    #[arg(long)]
    address: Option<String>,
    /// The port for the kubelet to serve on
    #[arg(long)]
    port: Option<u16>,
    /// List of DNS server IP addresses
    #[arg(long, value_delimiter = ',')]
    cluster_dns: Option<Vec<String>>,
    /// Domain for this cluster
    #[arg(long)]
    cluster_domain: Option<String>,
    /// Resolver configuration file used as the basis for the container DNS resolution configuration
    #[arg(long)]
    resolv_conf: Option<PathBuf>,
    /// File containing x509 certificate used for serving HTTPS
    #[arg(long)]
    tls_cert_file: Option<PathBuf>,
    /// File containing x509 private key matching --tls-cert-file
    #[arg(long)]
    tls_private_key_file: Option<PathBuf>,
    /// Authorities whose client certificates are trusted
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// Fail to start if swap is enabled on the node
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    fail_swap_on: Option<bool>,
    /// Number of pods that can run on this kubelet
    #[arg(long)]
    max_pods: Option<i64>,
    /// The duration between checking config files for new data
    #[arg(long)]
    sync_frequency: Option<GoDuration>,
    #[command(flatten)]
    logs: component::logs::Options,
}

impl Arguments {
    /// Flags win over the file.
    fn overlay(&self, file: &mut KubeletConfiguration) {
        macro_rules! take {
            ($($flag:ident => $field:ident),* $(,)?) => {
                $(if self.$flag.is_some() { file.$field.clone_from(&self.$flag); })*
            };
        }
        take!(
            register_node => register_node,
            pod_manifest_path => static_pod_path,
            address => address,
            port => port,
            cluster_dns => cluster_dns,
            cluster_domain => cluster_domain,
            resolv_conf => resolv_conf,
            tls_cert_file => tls_cert_file,
            tls_private_key_file => tls_private_key_file,
            fail_swap_on => fail_swap_on,
            max_pods => max_pods,
            sync_frequency => sync_frequency,
        );
        if let Some(driver) = &self.cgroup_driver {
            file.others.insert("cgroupDriver".to_owned(), driver.clone().into());
        }
        if self.client_ca_file.is_some() {
            let authentication = file.authentication.get_or_insert_default();
            authentication.x509.get_or_insert_default().client_ca_file.clone_from(&self.client_ca_file);
        }
    }

    fn flags(&self) -> Flags {
        Flags {
            hostname_override: self.hostname_override.clone(),
            node_ips: self.node_ip.clone(),
            runtime_endpoint: self.container_runtime_endpoint.clone(),
            pause_image: self.pod_infra_container_image.clone(),
            root_dir: self.root_dir.clone(),
            node_labels: self.node_labels.clone().map_or_else(BTreeMap::new, |labels| labels.0),
        }
    }
}

fn main() -> anyhow::Result<()> {
    component::use_small_pages();
    component::install_crypto();
    let arguments = Arguments::parse_from(component::flags::arguments());
    component::logs::init(&arguments.logs);
    let mut file = KubeletConfiguration::default();
    if let Some(path) = &arguments.config {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("failed to load kubelet config file {}", path.display()))?;
        let (parsed, warnings) = KubeletConfiguration::parse(&text, path)?;
        for warning in warnings {
            tracing::warn!(file = %path.display(), "using lenient decoding as strict decoding failed: {warning}");
        }
        file = parsed;
    }
    arguments.overlay(&mut file);
    let config = Config::new(&file, &arguments.flags(), client::config::host_name())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(async {
        let options = client::config::ClientOptions {
            kubeconfig: arguments.kubeconfig.clone(),
            component: "kubelet".to_owned(),
            ..Default::default()
        };
        let client = client::config::client_from(&options).await.context("cannot reach the API server")?;
        let shutdown = component::shutdown::on_signals().context("cannot listen for signals")?;
        kubelet::run(config, client, shutdown).await.context("the kubelet failed")
    })
}
