//! The kube-apiserver binary, drop-in for upstream's.
//!
//! A server to try things against, on loopback with fresh certificates (add `--storage-dir DIR` to keep its objects):
//!
//! ```text
//! kube-apiserver dev --dir /tmp/dev --port 16443 &
//! kubectl --kubeconfig /tmp/dev/kubeconfig get namespaces
//! ```
//!
//! The directory gets `kubeconfig` (cluster administrator), `ca.crt` and `ca.key` (to issue further certificates) and
//! `sa.key` (signs service account tokens).

mod args;
mod dev;

use clap::Parser as _;
use component::{flags, logs, shutdown};

#[global_allocator]
static ALLOCATOR: component::memory::Allocator = component::memory::Allocator;

fn main() -> anyhow::Result<()> {
    component::use_small_pages();
    component::install_crypto();
    let arguments = flags::arguments();
    let runtime = component::runtime(threads())?;
    if arguments.get(1).is_some_and(|a| a == "dev") {
        let args = dev::Args::parse_from(
            std::iter::once("kube-apiserver dev".to_owned()).chain(arguments.into_iter().skip(2)),
        );
        return runtime.block_on(dev::run(args));
    }
    let args = args::Args::parse_from(arguments);
    logs::init(&args.logs);
    let config = args.into_config()?;
    runtime.block_on(async {
        let shutdown = shutdown::on_signals()?;
        Ok(controlplane::run(config, shutdown).await?)
    })
}

/// Threads of the runtime: as many as `GOMAXPROCS` says, which operators may have set for upstream's server.
fn threads() -> usize {
    let set = std::env::var("GOMAXPROCS").ok().and_then(|text| text.parse().ok());
    set.filter(|threads| *threads > 0).unwrap_or_else(component::threads_for_requests)
}
