//! Assembles storage, authentication, admission, resources and server into one API server.
//!
//! [`Config`] says what to serve, [`ControlPlane::start`] serves it and gives the handle from which in-process clients
//! are made, [`run`] does both until shutdown. [`dev`] makes certificates and keys for a server on this machine.

mod assemble;
mod bootstrap;
mod config;
pub mod dev;
mod inprocess;
mod issuer;
mod maintenance;
mod server;

pub use apiserver::StorageMediaType;
pub use assemble::Error;
pub use config::{Config, FrontProxy, KubeletClient, Pem, ServingCertificate, StorageConfig};
pub use inprocess::client as in_process_client;
pub use server::ControlPlane;

use tokio_util::sync::CancellationToken;

/// Serves until shutdown, then drains.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let running = ControlPlane::start(config, shutdown).await?;
    running.wait().await;
    Ok(())
}
