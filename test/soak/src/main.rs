//! Watch correctness under load: writers at full speed while servers and stores are killed, stopped and compacted.
//!
//! What is checked: no acknowledged write is lost; every watcher, quick or slow, sees every change once and in order, over
//! restarts and from server to server; a list plus its watch equals the store, at the end and at exact revisions between.

mod model;
mod processes;
mod run;
mod watchers;
mod writers;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use component::flags::GoDuration;
use processes::Engine;

/// Arguments of a soak.
#[derive(Debug, clap::Parser)]
struct Args {
    /// The kube-apiserver binary.
    #[arg(long)]
    apiserver: PathBuf,
    /// Time for each engine, such as 45s or 1h.
    #[arg(long, default_value = "1m")]
    time: GoDuration,
    /// Only this engine.
    #[arg(long)]
    engine: Option<Engine>,
    /// Keep logs and data in this directory; by default they are gone afterwards unless something was violated.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    component::install_crypto();
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let engines = args.engine.map_or(vec![Engine::Embedded, Engine::Etcd], |engine| vec![engine]);
    let mut out = std::io::stdout().lock();
    let mut violated = false;
    for engine in engines {
        let temporary = tempfile::tempdir()?;
        let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
        let dir = dir.join(format!("{engine:?}").to_lowercase());
        std::fs::create_dir_all(&dir)?;
        let time: Duration = args.time.0;
        let outcome = runtime.block_on(run::run(engine, &args.apiserver, &dir, time));
        let failed = !matches!(&outcome, Ok((violations, _)) if violations.is_empty());
        if failed {
            violated = true;
            writeln!(out, "logs and data are kept in {}", temporary.keep().display())?;
        }
        let (violations, report) = outcome.with_context(|| format!("{engine:?}"))?;
        writeln!(out, "{report}")?;
        for violation in &violations {
            writeln!(out, "  VIOLATED: {violation}")?;
        }
    }
    writeln!(out, "{}", if violated { "FAILED" } else { "passed" })?;
    Ok(if violated { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
