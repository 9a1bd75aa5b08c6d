//! The kube-controller-manager binary: flags to configuration to run.

mod args;
mod signing;

use anyhow::Context as _;
use clap::Parser as _;
use client::config::{ClientOptions, client_from};
use component::metrics::Metrics;
use daemon::serving::Server;

#[global_allocator]
static ALLOCATOR: component::memory::Allocator = component::memory::Allocator;

/// Threads of the runtime: controllers wait more than they work.
const THREADS: usize = 2;

fn main() -> anyhow::Result<()> {
    component::use_small_pages();
    component::install_crypto();
    let args = args::Args::parse_from(component::flags::arguments());
    component::logs::init(&args.logs);
    let runtime = component::runtime(THREADS).context("cannot start the asynchronous runtime")?;
    runtime.block_on(run(args))
}

async fn run(args: args::Args) -> anyhow::Result<()> {
    let shutdown = component::shutdown::on_signals().context("cannot listen for signals")?;
    let options = ClientOptions {
        kubeconfig: args.kubeconfig.clone(),
        master: args.master.clone(),
        component: "kube-controller-manager".into(),
        qps: args.kube_api_qps,
        burst: args.kube_api_burst,
    };
    let client = client_from(&options).await.context("cannot configure the client")?;
    let config = args.config().await?;
    let metrics = Metrics::new();
    metrics.register(client::metrics::register);
    let server = Server::bind("kube-controller-manager", &args.serving, args.secure_port, metrics).await?;
    let serving = tokio::spawn(server.run(shutdown.clone()));
    let result = controller::run(config, client, shutdown.clone()).await;
    shutdown.cancel();
    let _ = serving.await;
    result.context("the controller manager ended")
}
