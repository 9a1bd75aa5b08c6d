//! `kube-apiserver dev`: a server on loopback with certificates of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use component::{logs, shutdown};
use controlplane::dev::Dev;
use controlplane::{ControlPlane, StorageConfig};

/// A server to try things against.
#[derive(Debug, clap::Parser)]
#[command(name = "kube-apiserver dev")]
pub(crate) struct Args {
    /// Where kubeconfig, ca.crt, ca.key and sa.key go.
    #[arg(long)]
    dir: PathBuf,
    /// Port on 127.0.0.1.
    #[arg(long, default_value_t = 16443)]
    port: u16,
    /// Keep objects in this directory; without it they are gone with the process.
    #[arg(long)]
    storage_dir: Option<PathBuf>,
    #[command(flatten)]
    logs: logs::Options,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    logs::init(&args.logs);
    let shutdown = shutdown::on_signals()?;
    let storage = args.storage_dir.map_or(StorageConfig::Memory, StorageConfig::Embedded);
    let dev = Dev::new(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)), storage)?;
    let running = ControlPlane::start(dev.config.clone(), shutdown).await?;
    dev.write(&args.dir, running.address())?;
    tracing::info!(kubeconfig = %args.dir.join("kubeconfig").display(), "ready");
    running.wait().await;
    Ok(())
}
