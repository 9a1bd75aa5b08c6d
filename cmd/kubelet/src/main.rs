//! The kubelet binary: flags to configuration to run.

mod flags;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::parser::ValueSource;
use clap::{Args as _, Command, FromArgMatches as _};
use client::config::{ClientOptions, client_from};
use component::flags::StringMap;
use component::{fields, logs};
use kubelet::{Clients, Config, Flags, KubeletConfiguration, config};

use crate::flags::FLAGS;

#[global_allocator]
static ALLOCATOR: component::memory::Allocator = component::memory::Allocator;

/// Threads of the runtime: the kubelet waits more than it works.
const THREADS: usize = 2;
/// Most files read of `--config-dir`.
const MAX_DROP_INS: usize = 256;

/// Flags that are no fields of the configuration file. With [`flags::FLAGS`] these are all; others are refused.
#[derive(Debug, clap::Args)]
struct Arguments {
    /// Path to a kubeconfig file, specifying how to connect to the API server
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The kubelet will load its initial configuration from this file
    #[arg(long)]
    config: Option<PathBuf>,
    /// Files *.conf of this directory are laid over --config, in the order of their names
    #[arg(long)]
    config_dir: Option<PathBuf>,
    /// If non-empty, will use this string as identification instead of the actual hostname
    #[arg(long)]
    hostname_override: Option<String>,
    /// IP address (or comma-separated dual-stack IP addresses) of the node
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// Specified image will not be pruned by the image garbage collector
    #[arg(long)]
    pod_infra_container_image: Option<String>,
    /// Directory path for managing kubelet files
    #[arg(long)]
    root_dir: Option<PathBuf>,
    /// Where the serving certificate is kept that is made when none is configured
    #[arg(long)]
    cert_dir: Option<PathBuf>,
    /// Labels to add when registering the node in the cluster
    #[arg(long)]
    node_labels: Option<StringMap>,
    /// Empty, or external: a cloud controller manager completes the node
    #[arg(long, value_parser = ["", "external"])]
    cloud_provider: Option<String>,
    #[command(flatten)]
    logs: logs::Options,
}

impl Arguments {
    fn flags(&self) -> Flags {
        Flags {
            hostname_override: self.hostname_override.clone(),
            node_ips: self.node_ip.clone(),
            runtime_endpoint: None,
            pause_image: self.pod_infra_container_image.clone(),
            root_dir: self.root_dir.clone(),
            cert_dir: self.cert_dir.clone(),
            node_labels: self.node_labels.clone().map(|labels| labels.0).unwrap_or_default(),
            external_cloud: self.cloud_provider.as_deref() == Some("external"),
        }
    }

    /// The file with its drop-ins, before flags.
    fn tree(&self) -> anyhow::Result<serde_json::Value> {
        let read = |path: &Path| -> anyhow::Result<serde_json::Value> {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("failed to load kubelet config file {}", path.display()))?;
            Ok(KubeletConfiguration::tree(&text, path)?)
        };
        let mut tree = self.config.as_deref().map_or_else(|| Ok(KubeletConfiguration::empty_tree()), read)?;
        if let Some(dir) = &self.config_dir {
            let entries = std::fs::read_dir(dir)
                .with_context(|| format!("failed to read --config-dir {}", dir.display()))?;
            let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            files.retain(|path| path.extension().is_some_and(|e| e == "conf"));
            files.sort();
            if files.len() > MAX_DROP_INS {
                bail!("--config-dir {} has more than {MAX_DROP_INS} files", dir.display());
            }
            for file in files {
                fields::merge(&mut tree, read(&file)?);
            }
        }
        Ok(tree)
    }
}

fn command() -> Command {
    let command = Command::new("kubelet")
        .version(component::KUBERNETES_VERSION)
        .about("The kubelet is the primary node agent that runs on each node.");
    fields::add(Arguments::augment_args(command), FLAGS)
}

/// Log options: flags that were given, else the file's.
fn log_options(given: &logs::Options, matches: &clap::ArgMatches, file: &config::Logging) -> logs::Options {
    let flag = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
    let mut options = given.clone();
    if let (false, Some(verbosity)) = (flag("verbosity"), file.verbosity) {
        options.verbosity = verbosity;
    }
    if !flag("format") && file.format.as_deref() == Some("json") {
        options.format = logs::Format::Json;
    }
    options
}

fn main() -> anyhow::Result<()> {
    component::use_small_pages();
    component::install_crypto();
    let matches = command().get_matches_from(component::flags::arguments());
    let arguments = Arguments::from_arg_matches(&matches)?;
    let mut tree = arguments.tree()?;
    fields::overlay(&matches, FLAGS, &mut tree)?;
    let path = arguments.config.clone().unwrap_or_else(|| "flags".into());
    let (file, warnings) = KubeletConfiguration::from_tree(&tree, &path)?;
    logs::init(&log_options(&arguments.logs, &matches, &file.logging.clone().unwrap_or_default()));
    for warning in warnings {
        tracing::warn!(file = %path.display(), "using lenient decoding as strict decoding failed: {warning}");
    }
    let config = Config::new(&file, &arguments.flags(), client::config::host_name())?;
    kubelet::host::apply(&config.host)?;
    let runtime = component::runtime(THREADS).context("cannot start the asynchronous runtime")?;
    runtime.block_on(async {
        let clients = clients(&arguments, &config).await.context("cannot reach the API server")?;
        let shutdown = component::shutdown::on_signals().context("cannot listen for signals")?;
        kubelet::run(config, clients, shutdown).await.context("the kubelet failed")
    })
}

/// One client for each rate.
async fn clients(arguments: &Arguments, config: &Config) -> anyhow::Result<Clients> {
    let client = async |qps: f64, burst: u32| {
        let options = ClientOptions {
            kubeconfig: arguments.kubeconfig.clone(),
            component: "kubelet".to_owned(),
            qps,
            burst,
            ..ClientOptions::default()
        };
        client_from(&options).await
    };
    Ok(Clients {
        api: client(config.kube_api_qps, config.kube_api_burst).await?,
        events: client(config.event_record_qps, config.event_burst).await?,
        heartbeats: client(0.0, 0).await?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_ins_and_flags_are_laid_over_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        let write = |name: &str, body: &str| {
            std::fs::write(dir.path().join(name), format!("{head}{body}")).expect("written");
        };
        write("base.yaml", "maxPods: 1\nport: 1\nclusterDomain: a\nlogging: {verbosity: 3}\n");
        write("20.conf", "maxPods: 3\n");
        write("10.conf", "maxPods: 2\nclusterDomain: b\n");
        let flag = |name: &str, value: &str| format!("--{name}={value}");
        let base = dir.path().join("base.yaml").display().to_string();
        let given = [
            "kubelet".into(),
            flag("config", &base),
            flag("config-dir", &dir.path().display().to_string()),
            flag("port", "9"),
        ];
        let matches = command().try_get_matches_from(given).expect("flags");
        let arguments = Arguments::from_arg_matches(&matches).expect("flags");
        let mut tree = arguments.tree().expect("files");
        fields::overlay(&matches, FLAGS, &mut tree).expect("flags");
        let (file, _) = KubeletConfiguration::from_tree(&tree, "x".as_ref()).expect("a configuration");
        assert_eq!((file.max_pods, file.port, file.cluster_domain.as_deref()), (Some(3), Some(9), Some("b")));
        let logging = file.logging.unwrap_or_default();
        assert_eq!(log_options(&arguments.logs, &matches, &logging).verbosity, 3);
        let given = command().try_get_matches_from(["kubelet", "-v", "5"]).expect("flags");
        let options = Arguments::from_arg_matches(&given).expect("flags").logs;
        assert_eq!(log_options(&options, &given, &logging).verbosity, 5);
    }
}
