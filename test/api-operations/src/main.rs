//! Walks every operation of the API against a kube-apiserver: status, body and effect of each.
//!
//! ```text
//! api-operations --kube-apiserver PATH [--storage embedded --storage etcd] [--only TEXT]
//! ```
//!
//! The server is the real binary, over TLS with a client certificate and RBAC, without controllers or nodes. One line
//! is printed for every operation that fails. What to walk is data: the operations and resources in `api/`, and a
//! sample object for each resource in `samples/`.

mod client;
mod compare;
mod facts;
mod flows;
mod report;
mod samples;
mod server;
mod special;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use futures::{StreamExt as _, stream};

use client::Client;
use facts::Resource;
use flows::Subject;
use report::{Report, Totals};
use samples::Sample;
use server::{Server, Storage};

/// Resources that are walked at once.
const AT_ONCE: usize = 8;

#[derive(Debug, clap::Parser)]
#[command(name = "api-operations")]
struct Args {
    /// The server to test.
    #[arg(long)]
    kube_apiserver: PathBuf,
    /// Storage engines; each gets a server of its own.
    #[arg(long, value_enum, default_values_t = [Storage::Embedded, Storage::Etcd])]
    storage: Vec<Storage>,
    /// Only resources that have this in `GROUP/VERSION/PLURAL`; the others are then reported as not reached.
    #[arg(long, default_value = "")]
    only: String,
}

/// Walks a resource, and says so of its create if not even that could be begun.
async fn walk(client: &Client, report: &Report, resource: &Resource, sample: &Sample) {
    match Subject::new(client, report, resource, sample).await {
        Ok(subject) => subject.walk().await,
        Err(error) => report.note("POST", &resource.root(), Err(error.context(resource.id()))),
    }
}

async fn walk_all(client: &Client, only: &str, out: &mut impl Write) -> anyhow::Result<Totals> {
    let resources = facts::resources()?;
    let samples = samples::samples()?;
    let report = Report::default();
    let walks = samples.iter().filter(|s| s.resource.contains(only)).map(|sample| {
        let resource = resources.iter().find(|r| r.id() == sample.resource);
        let (client, report) = (client, &report);
        async move {
            let resource = resource.with_context(|| format!("no resource {}", sample.resource))?;
            walk(client, report, resource, sample).await;
            anyhow::Ok(())
        }
    });
    let done: Vec<_> = stream::iter(walks).buffer_unordered(AT_ONCE).collect().await;
    done.into_iter().collect::<anyhow::Result<()>>()?;
    special::walk(client, &report, &resources).await?;
    Ok(report.print(&facts::operations()?, out)?)
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    let mut totals = Totals::default();
    for storage in &args.storage {
        writeln!(out, "{storage:?} store:")?;
        let started = std::time::Instant::now();
        let server = Server::start(&args.kube_apiserver, *storage).await?;
        let walked = walk_all(&server.client, &args.only, &mut out).await?;
        server.stop().await?;
        writeln!(out, "took {:.1} s", started.elapsed().as_secs_f64())?;
        totals = totals + walked;
    }
    let operations = facts::operations()?;
    let refusals: Vec<_> =
        operations.iter().filter(|o| special::need_a_node(&o.path)).map(|o| o.id.as_str()).collect();
    writeln!(
        out,
        "{} need a node; what they refuse without is checked: {}",
        refusals.len(),
        refusals.join(" ")
    )?;
    writeln!(out, "{} passed, {} failed", totals.passed, totals.failed)?;
    Ok(if totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(args))
}
