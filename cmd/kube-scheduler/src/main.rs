//! The kube-scheduler binary: flags and file to configuration to run.

mod file;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Parser;
use client::config::{ClientOptions, client_from};
use client::leaderelection::{self, Ended, LeaderElection};
use component::metrics::Metrics;
use daemon::{election, serving};
use tokio_util::sync::CancellationToken;

use crate::file::File;

#[global_allocator]
static ALLOCATOR: component::memory::Allocator = component::memory::Allocator;

/// Threads of the runtime: one decides, one reads and writes.
const THREADS: usize = 2;
/// Name in requests, of the lease and in messages.
const NAME: &str = "kube-scheduler";

/// Flags, named as upstream's. Those not listed are refused.
#[derive(Debug, Parser)]
#[command(name = NAME, version = component::KUBERNETES_VERSION, about = "The scheduler places pods on nodes.")]
struct Arguments {
    /// The path to the configuration file; what it says of the client is not overridden by flags
    #[arg(long)]
    config: Option<PathBuf>,
    /// Path to kubeconfig file with authorization and master location information
    #[arg(long, conflicts_with = "config")]
    kubeconfig: Option<PathBuf>,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig)
    #[arg(long)]
    master: Option<String>,
    /// QPS to use while talking with kubernetes apiserver [default: 50]
    #[arg(long, conflicts_with = "config")]
    kube_api_qps: Option<f64>,
    /// Burst to use while talking with kubernetes apiserver [default: 100]
    #[arg(long, conflicts_with = "config")]
    kube_api_burst: Option<u32>,
    /// The port on which to serve HTTPS; 0 serves none
    #[arg(long, default_value_t = 10259)]
    secure_port: u16,
    #[command(flatten)]
    serving: serving::Flags,
    #[command(flatten)]
    election: election::Flags,
    #[command(flatten)]
    logs: component::logs::Options,
}

impl Arguments {
    fn file(&self) -> anyhow::Result<File> {
        let Some(path) = &self.config else { return Ok(File::default()) };
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        File::parse(&text).with_context(|| path.display().to_string())
    }

    fn client(&self, file: &File) -> ClientOptions {
        let connection = &file.client_connection;
        ClientOptions {
            kubeconfig: self.kubeconfig.clone().or_else(|| connection.kubeconfig.clone()),
            master: self.master.clone(),
            component: NAME.into(),
            qps: self.kube_api_qps.or(connection.qps).unwrap_or(50.0),
            burst: self.kube_api_burst.or(connection.burst).unwrap_or(100),
        }
    }

    /// Leader election: flags that were given win over the file.
    fn election(&self, file: &File) -> anyhow::Result<Option<LeaderElection>> {
        let (mut flags, file) = (self.election.clone(), &file.leader_election);
        flags.leader_elect = flags.leader_elect.or(file.leader_elect);
        flags.leader_elect_lease_duration = flags.leader_elect_lease_duration.or(file.lease_duration);
        flags.leader_elect_renew_deadline = flags.leader_elect_renew_deadline.or(file.renew_deadline);
        flags.leader_elect_retry_period = flags.leader_elect_retry_period.or(file.retry_period);
        flags.leader_elect_resource_name =
            flags.leader_elect_resource_name.or_else(|| file.resource_name.clone());
        flags.leader_elect_resource_namespace =
            flags.leader_elect_resource_namespace.or_else(|| file.resource_namespace.clone());
        flags.election(NAME)
    }
}

fn main() -> anyhow::Result<()> {
    component::use_small_pages();
    component::install_crypto();
    let arguments = Arguments::parse_from(component::flags::arguments());
    component::logs::init(&arguments.logs);
    component::runtime(THREADS).context("cannot start the asynchronous runtime")?.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let shutdown = component::shutdown::on_signals().context("cannot listen for signals")?;
    let file = arguments.file()?;
    let metrics = Metrics::new();
    metrics.register(client::metrics::register);
    let config = scheduler::Config { metrics: Some(metrics.clone()), ..file.scheduler()? };
    let election = arguments.election(&file)?;
    let client = client_from(&arguments.client(&file)).await.context("cannot configure the client")?;
    let mut flags = arguments.serving.clone();
    flags.profiling &= file.enable_profiling.unwrap_or(true);
    let server = serving::Server::bind(NAME, &flags, arguments.secure_port, metrics).await?;
    let served = tokio::spawn(server.run(shutdown.clone()));
    let result = lead(config, client, election, shutdown.clone()).await;
    shutdown.cancel();
    drop(served.await);
    result
}

/// Schedules while this process is the leader.
async fn lead(
    config: scheduler::Config,
    client: kube::Client,
    election: Option<LeaderElection>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Some(election) = election else {
        return scheduler::run(config, client, shutdown).await.context("the scheduler ended");
    };
    let (worker, (tell, told)) = (client.clone(), tokio::sync::oneshot::channel());
    let ended = leaderelection::run(election, client, shutdown, |leading| async move {
        // Nobody listens only when this process ends anyway.
        drop(tell.send(scheduler::run(config, worker, leading).await));
    })
    .await;
    match ended {
        Ended::Lost => bail!("leaderelection lost"),
        // Without an outcome it never led.
        Ended::Stopped => told.await.unwrap_or(Ok(())).context("the scheduler ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once(NAME).chain(flags.iter().copied()))
    }

    #[test]
    fn flags_of_kubeadm_are_taken() {
        let arguments = parse(&[
            "--authentication-kubeconfig=/etc/kubernetes/scheduler.conf",
            "--authorization-kubeconfig=/etc/kubernetes/scheduler.conf",
            "--bind-address=127.0.0.1",
            "--kubeconfig=/etc/kubernetes/scheduler.conf",
            "--leader-elect=true",
        ])
        .expect("flags");
        assert_eq!(arguments.secure_port, 10259);
        assert!(arguments.election(&File::default()).expect("election").is_some());
    }

    #[test]
    fn flags_win_over_the_file_and_unknown_ones_are_refused() {
        let file = File::parse(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
             leaderElection: {leaderElect: false, resourceNamespace: other}\n",
        )
        .expect("file");
        assert!(parse(&[]).expect("flags").election(&file).expect("election").is_none());
        let on = parse(&["--leader-elect"]).expect("flags").election(&file).expect("election");
        assert_eq!(on.expect("on").namespace, "other");
        assert!(parse(&["--algorithm-provider=x"]).is_err());
        assert!(parse(&["--config=/a", "--kubeconfig=/b"]).is_err());
    }
}
