//! Commands for people: what they print and what they ask of crate `cluster`.
#![allow(clippy::print_stdout, reason = "these commands exist to print")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use cluster::spec::{Paths, Spec, Storage};

use crate::Which;

/// Flags of `up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    which: Which,
    /// Number of nodes
    #[arg(long, default_value_t = 1)]
    nodes: u8,
    /// Port of the API server on this machine's loopback address
    #[arg(long, default_value_t = 6443)]
    port: u16,
    /// Where objects are kept: in the server's own store, or in an etcd started beside it
    #[arg(long, value_enum, default_value_t = StorageFlag::Embedded)]
    storage: StorageFlag,
    /// Use an etcd that runs already; its addresses must be reachable from the cluster's network
    #[arg(long, value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// Verbosity of the components' logs
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    verbosity: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StorageFlag {
    Embedded,
    Etcd,
}

/// Flags of `down`.
#[derive(Debug, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    which: Which,
    /// Remove the cluster's data too
    #[arg(long)]
    purge: bool,
}

/// Flags of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    which: Which,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Flags of `images`.
#[derive(Debug, Args)]
pub(crate) struct Images {
    #[command(flatten)]
    which: Which,
    #[command(subcommand)]
    action: ImagesAction,
}

#[derive(Debug, Subcommand)]
enum ImagesAction {
    /// Import archives (OCI layout or `docker save`) into every node
    Import {
        /// Archive files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// List the names of the images on a node
    List {
        /// Which node
        #[arg(long, default_value = "node1")]
        node: String,
    },
}

pub(crate) async fn up(arguments: Up) -> anyhow::Result<ExitCode> {
    let storage = match (arguments.storage, arguments.etcd_servers.is_empty()) {
        (_, false) => Storage::External(arguments.etcd_servers),
        (StorageFlag::Embedded, true) => Storage::Embedded,
        (StorageFlag::Etcd, true) => Storage::Etcd,
    };
    let spec = Spec {
        name: arguments.which.name.clone(),
        nodes: arguments.nodes,
        port: arguments.port,
        storage,
        verbosity: arguments.verbosity,
    };
    let paths = arguments.which.paths();
    let started = Instant::now();
    let mut progress = |what: &str, took: Option<Duration>| {
        let took = took.map_or_else(String::new, |t| format!("{:>7.2} s", t.as_secs_f64()));
        println!("  {what:<28}{took}");
    };
    cluster::up::up(&paths, &spec, &mut progress).await?;
    println!("{} node(s) ready after {:.2} s", spec.nodes, started.elapsed().as_secs_f64());
    println!("export KUBECONFIG={}", paths.admin_kubeconfig().display());
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn down(arguments: &Down) -> anyhow::Result<ExitCode> {
    let paths = arguments.which.paths();
    let data = paths.root.parent().context("the data directory has no parent")?;
    cluster::down::down(data, &arguments.which.name, arguments.purge)?;
    println!("cluster {:?} is down", arguments.which.name);
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn status(arguments: Status) -> anyhow::Result<ExitCode> {
    let (paths, spec) = arguments.which.load()?;
    let status = cluster::status::status(&paths, spec).await;
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Table => print_status(&status),
    }
    Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_status(status: &cluster::status::Status) {
    println!("{:<16}{:<18}{:>8}{:>12}  HEALTH", "MACHINE", "COMPONENT", "PID", "RESIDENT");
    for component in &status.components {
        let pid = component.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let memory = format!("{:.1} MiB", component.resident_bytes as f64 / f64::from(1 << 20));
        println!("{:<16}{:<18}{pid:>8}{memory:>12}  {}", component.machine, component.name, component.health);
    }
}

pub(crate) fn images(arguments: Images) -> anyhow::Result<ExitCode> {
    let (paths, spec): (Paths, Spec) = arguments.which.load()?;
    match arguments.action {
        ImagesAction::Import { files } => {
            for file in files {
                cluster::images::import(&paths, &spec, &file)?;
                println!("{} imported", file.display());
            }
        }
        ImagesAction::List { node } => {
            for name in cluster::images::list(&paths, &node)? {
                println!("{name}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
