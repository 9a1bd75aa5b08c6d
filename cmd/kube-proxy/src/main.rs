//! The kube-proxy binary: flags and file to configuration to run.

mod file;
mod flags;
mod sysctl;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use client::config::{ClientOptions, client_from};
use component::{fields, logs};

use crate::file::File;
use crate::flags::FLAGS;

#[global_allocator]
static ALLOCATOR: component::memory::Allocator = component::memory::Allocator;

/// Threads of the runtime: the proxy waits more than it works.
const THREADS: usize = 2;
/// Upstream's `--oom-score-adj`.
const OOM_SCORE_ADJUSTMENT: i32 = -999;

/// Flags that are no fields of the configuration file. With [`flags::FLAGS`] these are all; others are refused.
#[derive(Debug, clap::Args)]
struct Arguments {
    /// The path to the configuration file; flags are laid over it
    #[arg(long)]
    config: Option<PathBuf>,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig)
    #[arg(long)]
    master: Option<String>,
    #[command(flatten)]
    logs: logs::Options,
}

fn command() -> Command {
    let command = Command::new("kube-proxy")
        .version(component::KUBERNETES_VERSION)
        .about("The proxy for Services on a node.");
    fields::add(Arguments::augment_args(command), FLAGS)
}

impl Arguments {
    fn file(&self, matches: &ArgMatches) -> anyhow::Result<File> {
        let mut tree = match &self.config {
            None => File::empty_tree(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(anyhow::Error::from)
                .and_then(|text| File::tree(&text))
                .with_context(|| path.display().to_string())?,
        };
        fields::overlay(matches, FLAGS, &mut tree)?;
        File::from_tree(tree)
    }

    /// Log options: flags that were given, else the file's.
    fn logs(&self, matches: &ArgMatches, file: &File) -> logs::Options {
        let flag = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        let mut options = self.logs.clone();
        if !flag("verbosity") {
            options.verbosity = file.logging.verbosity;
        }
        if !flag("format") && file.logging.format == "json" {
            options.format = logs::Format::Json;
        }
        options
    }

    fn client(&self, file: &File) -> ClientOptions {
        let connection = &file.client_connection;
        ClientOptions {
            kubeconfig: connection.kubeconfig.clone().filter(|path| !path.as_os_str().is_empty()),
            master: self.master.clone(),
            component: "kube-proxy".into(),
            // Zero is "not set" in upstream's files.
            qps: connection.qps.filter(|qps| *qps != 0.0).unwrap_or(5.0),
            burst: connection.burst.filter(|burst| *burst != 0).unwrap_or(10),
        }
    }
}

fn main() -> anyhow::Result<()> {
    component::install_crypto();
    let matches = command().get_matches_from(component::flags::arguments());
    let arguments = Arguments::from_arg_matches(&matches)?;
    let file = arguments.file(&matches)?;
    logs::init(&arguments.logs(&matches, &file));
    component::runtime(THREADS)
        .context("cannot start the asynchronous runtime")?
        .block_on(run(&arguments, &file))
}

async fn run(arguments: &Arguments, file: &File) -> anyhow::Result<()> {
    let shutdown = component::shutdown::on_signals().context("cannot listen for signals")?;
    let config = file.proxy(client::config::host_name())?;
    let client = client_from(&arguments.client(file)).await.context("cannot configure the client")?;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    sysctl::apply(&sysctl::settings(&file.conntrack, cores), Path::new("/proc/sys/net/netfilter"))?;
    let adjustment = file.oom_score_adj.unwrap_or(OOM_SCORE_ADJUSTMENT);
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", adjustment.to_string()) {
        tracing::warn!(%error, adjustment, "cannot set the OOM score adjustment");
    }
    proxy::run(config, client, shutdown).await.context("the service proxy ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> anyhow::Result<File> {
        let matches =
            command().try_get_matches_from(std::iter::once("kube-proxy").chain(flags.iter().copied()))?;
        Arguments::from_arg_matches(&matches)?.file(&matches)
    }

    #[test]
    fn flags_fill_in_the_file() {
        let file = parse(&[
            "--kubeconfig=/k",
            "--cluster-cidr=10.244.0.0/16",
            "--proxy-mode=iptables",
            "--masquerade-all",
            "--hostname-override=Node-1",
            "--healthz-bind-address=0.0.0.0:0",
            "--conntrack-min=5",
            "--oom-score-adj=-998",
        ])
        .expect("flags");
        let config = file.proxy("host").expect("config");
        assert_eq!((config.node_name.as_str(), config.masquerade_all), ("node-1", true));
        assert_eq!((config.healthz_address, file.conntrack.min), (None, Some(5)));
        assert_eq!(file.oom_score_adj, Some(-998));
    }

    #[test]
    fn flags_win_over_the_file_and_unknown_ones_are_refused() {
        let path = std::env::temp_dir().join(format!("kube-proxy-flags-{}.yaml", std::process::id()));
        let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                    hostnameOverride: a\noomScoreAdj: 7\nlogging: {verbosity: 4}\n";
        std::fs::write(&path, text).expect("written");
        let flag = format!("--config={}", path.display());
        let given = ["kube-proxy", &flag, "--hostname-override=b"];
        let matches = command().try_get_matches_from(given).expect("flags");
        let arguments = Arguments::from_arg_matches(&matches).expect("flags");
        let file = arguments.file(&matches).expect("a file");
        assert_eq!((file.hostname_override.as_str(), file.oom_score_adj), ("b", Some(7)));
        assert_eq!(arguments.logs(&matches, &file).verbosity, 4);
        std::fs::remove_file(&path).expect("clean up");
        assert!(parse(&["--ipvs-scheduler=rr"]).is_err());
        assert!(parse(&["--proxy-mode=ipvs"]).expect("flags").proxy("host").is_err());
    }
}
