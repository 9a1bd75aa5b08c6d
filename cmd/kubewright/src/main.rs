//! Everything in one binary: clusters on this machine (`up`, `down`, `status`, `images`) and their parts (`server`,
//! `agent`, and the hidden commands that make a node).

mod agent;
mod commands;
mod server;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use cluster::spec::{Paths, Spec};

#[global_allocator]
static ALLOCATOR: component::memory::Allocator = component::memory::Allocator;

/// Kubernetes in one binary.
#[derive(Debug, Parser)]
#[command(name = "kubewright", version = component::KUBERNETES_VERSION)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Which cluster a command is about.
#[derive(Debug, Clone, Args)]
struct Which {
    /// Directory that holds clusters
    #[arg(long, default_value = "/var/lib/kubewright")]
    data_dir: PathBuf,
    /// Name of the cluster
    #[arg(long, default_value = "default")]
    name: String,
}

/// Which node of a cluster a command is about.
#[derive(Debug, Clone, Args)]
struct WhichNode {
    #[command(flatten)]
    which: Which,
    /// Name of the node
    #[arg(long)]
    node: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster on this machine, or what is missing of it
    Up(commands::Up),
    /// Stop a cluster; nothing of it is left but its data
    Down(commands::Down),
    /// Show every component's process, memory and health
    Status(commands::Status),
    /// Import or list the container images on the nodes
    Images(commands::Images),
    /// Run API server, controllers and scheduler of a cluster in this process
    Server(Which),
    /// Run kubelet, service proxy, pod network and DNS of a node in this process
    Agent(WhichNode),
    /// Make a node's namespaces and start its first process
    #[command(name = cluster::launch::LAUNCH_COMMAND, hide = true)]
    NodeLaunch(WhichNode),
    /// Be a node's first process
    #[command(name = cluster::launch::INIT_COMMAND, hide = true)]
    NodeInit(WhichNode),
}

impl Which {
    fn paths(&self) -> Paths {
        // Children are started from other directories.
        let data = std::path::absolute(&self.data_dir).unwrap_or_else(|_| self.data_dir.clone());
        Paths::new(&data, &self.name)
    }

    /// The cluster's files and specification; it must have been made by `up`.
    fn load(&self) -> anyhow::Result<(Paths, Spec)> {
        let paths = self.paths();
        let spec = paths.load()?.with_context(|| {
            format!(
                "there is no cluster {:?} in {}; make one with `kubewright up`",
                self.name,
                self.data_dir.display()
            )
        })?;
        Ok((paths, spec))
    }
}

/// A runtime for commands that wait more than they compute.
fn small_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    component::install_crypto();
    match cli.command {
        Command::Up(arguments) => small_runtime()?.block_on(commands::up(arguments)),
        Command::Down(arguments) => commands::down(&arguments),
        Command::Status(arguments) => small_runtime()?.block_on(commands::status(arguments)),
        Command::Images(arguments) => commands::images(arguments),
        Command::Server(which) => {
            component::use_small_pages();
            let (paths, spec) = which.load()?;
            server::main(&paths, &spec).map(|()| ExitCode::SUCCESS)
        }
        Command::Agent(node) => {
            component::use_small_pages();
            let (paths, spec) = node.which.load()?;
            agent::main(&paths, &spec, &node.node).map(|()| ExitCode::SUCCESS)
        }
        Command::NodeLaunch(node) => {
            let (paths, spec) = node.which.load()?;
            cluster::launch::node(&paths, &spec, &node.node)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::NodeInit(node) => {
            let (paths, spec) = node.which.load()?;
            component::logs::init(&component::logs::Options {
                verbosity: spec.verbosity,
                ..Default::default()
            });
            cluster::node::run(&paths, &spec, &node.node)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Reads a file as text, naming it in the error.
fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[allow(clippy::print_stderr, reason = "the one place where a command's failure is told")]
fn main() -> ExitCode {
    let cli = Cli::parse_from(component::flags::arguments());
    run(cli).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
