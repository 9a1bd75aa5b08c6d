//! Runs upstream's end-to-end suite (`e2e.test`, any version) against a kubewright cluster on this machine, and keeps
//! what it found: `results.json`, `table.md` and the output of every failed test. docs/conformance.md tells how.
//!
//! Where to start: `suite` (the binary and its dialect), `plan` (what runs when), `run` (who runs it), `report` (tables).

mod junit;
mod plan;
mod reasons;
mod report;
mod results;
mod run;
mod suite;
mod target;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;

use crate::plan::Phase;
use crate::reasons::Reasons;
use crate::results::{PhaseTime, Results, Status};
use crate::run::{Limits, Runner, say};
use crate::suite::Suite;
use crate::target::{Target, Wanted};

/// What `--focus conformance` stands for.
const CONFORMANCE: &str = r"\[Conformance\]";

/// Run upstream's end-to-end suite against a cluster on this machine.
#[derive(Debug, Parser)]
#[command(name = "conformance")]
struct Options {
    /// Upstream's test binary
    #[arg(long)]
    e2e_test: PathBuf,
    /// kubectl for the tests of sig-cli, best of the suite's version
    #[arg(long)]
    kubectl: PathBuf,
    /// The all-in-one binary that starts the cluster
    #[arg(long)]
    kubewright: PathBuf,
    /// Archive of the images that the suite's pods use, to be imported into every node
    #[arg(long)]
    images_tar: Option<PathBuf>,
    /// Regular expression of the tests to run, or `conformance`
    #[arg(long, default_value = "conformance")]
    focus: String,
    /// Regular expression of tests to leave out
    #[arg(long, default_value = "")]
    skip: String,
    /// Processes at a time, of the tests that bear company
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    procs: u16,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// Port on this machine's loopback of a cluster that is started
    #[arg(long, default_value_t = 6443)]
    port: u16,
    /// Where a cluster keeps its objects (embedded or etcd); a running one is taken as it is unless this is given
    #[arg(long, value_parser = ["embedded", "etcd"])]
    storage: Option<String>,
    /// Directory for results and logs
    #[arg(long)]
    out: PathBuf,
    /// Results to compare with, such as those of upstream
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// File of known reasons for failures, as `REGEX => REASON` lines
    #[arg(long)]
    reasons: Option<PathBuf>,
    /// Document to put the results into, between its lines `<!-- results -->` and `<!-- end of results -->`
    #[arg(long)]
    document: Option<PathBuf>,
    /// Run only what has not passed yet, by the results in the output directory, and merge
    #[arg(long)]
    again: bool,
    /// Only write the tables anew from the results in the output directory
    #[arg(long)]
    table_only: bool,
    /// More flags for the suite
    #[arg(long, value_delimiter = ' ', allow_hyphen_values = true)]
    e2e_flags: Vec<String>,
    /// Minutes after which a batch of tests is stopped
    #[arg(long, default_value_t = 20)]
    batch_minutes: u64,
    /// Minutes after which the run is stopped
    #[arg(long, default_value_t = 180)]
    total_minutes: u64,
    /// Directory that holds clusters
    #[arg(long, default_value = "/var/lib/kubewright")]
    data_dir: PathBuf,
    /// Name of the cluster
    #[arg(long, default_value = "default")]
    name: String,
}

/// A path that still holds in another directory; the file must be there.
fn present(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot find {}", path.display()))
}

/// The results so far of the output directory; none when this is the first run.
fn held(out: &Path) -> anyhow::Result<Results> {
    let path = out.join("results.json");
    if path.exists() { Results::read(&path) } else { Ok(Results::default()) }
}

/// Runs the tests; gives the results, which are written too.
fn run(options: &Options, out: &Path, baseline: Option<&Results>) -> anyhow::Result<Results> {
    let deadline = Instant::now() + Duration::from_secs(options.total_minutes * 60);
    let mut results = if options.again { held(out)? } else { Results::default() };
    let wanted = Wanted {
        kubewright: present(&options.kubewright)?,
        data: std::path::absolute(&options.data_dir)?,
        name: options.name.clone(),
        nodes: options.nodes,
        port: options.port,
        storage: options.storage.clone(),
    };
    let (e2e_test, kubectl) = (present(&options.e2e_test)?, present(&options.kubectl)?);
    let archive = options.images_tar.as_deref().map(present).transpose()?;
    let target = Target::find_or_start(&wanted, out)?;
    let outcome = (|| {
        target.ensure_isolated()?;
        if let Some(archive) = &archive {
            target.import(archive)?;
        }
        let flags = options.e2e_flags.iter().filter(|flag| !flag.is_empty()).cloned().collect();
        let suite = Suite::open(&e2e_test, &kubectl, flags, &target)?;
        results.suite.clone_from(&suite.version);
        results.server = target.server_version(&kubectl)?;
        (results.storage, results.nodes) = (target.storage().into(), target.spec.nodes);
        let focus = if options.focus == "conformance" { CONFORMANCE } else { &options.focus };
        let mut tests = suite.list(&target, out, focus, &options.skip)?;
        if options.again {
            tests.retain(|name| results.status(name) != Some(Status::Pass));
        }
        say(&format!("{} tests of suite {} against {}", tests.len(), suite.version, results.server));
        let limits = Limits { batch: Duration::from_secs(options.batch_minutes * 60), deadline };
        all_phases(options, &Runner::new(&suite, &target, out, limits, results, tests.len()), tests, baseline)
    })();
    let finished = target.finish();
    let results = outcome?;
    finished?;
    results.write(&out.join("results.json"))?;
    Ok(results)
}

/// Runs all phases, one after the other.
fn all_phases(
    options: &Options,
    runner: &Runner<'_>,
    tests: Vec<String>,
    baseline: Option<&Results>,
) -> anyhow::Result<Results> {
    let seconds: HashMap<String, f64> = baseline.map(Results::seconds).unwrap_or_default();
    for phase in Phase::ALL {
        let of_phase: Vec<String> = tests.iter().filter(|test| Phase::of(test) == phase).cloned().collect();
        if of_phase.is_empty() {
            continue;
        }
        let procs = if phase == Phase::Parallel { usize::from(options.procs) } else { 1 };
        say(&format!("phase {}: {} tests, {procs} at a time", phase.name(), of_phase.len()));
        let took = runner.phase(phase, plan::batches(&of_phase, &seconds, procs), procs)?;
        runner.timed(PhaseTime {
            phase: phase.name().into(),
            procs,
            wall_s: took.as_secs_f64().round(),
            run: runner.run,
        });
    }
    Ok(runner.results())
}

fn conformance(options: &Options) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot make {}", options.out.display()))?;
    let out = options.out.canonicalize()?;
    let baseline = options.baseline.as_deref().map(Results::read).transpose()?;
    let reasons = options.reasons.as_deref().map(Reasons::read).transpose()?.unwrap_or_default();
    let results = if options.table_only { held(&out)? } else { run(options, &out, baseline.as_ref())? };
    ensure!(!results.tests.is_empty(), "there are no results in {}", out.display());
    let table = out.join("table.md");
    let chapter = report::chapter(&results, &reasons, baseline.as_ref());
    std::fs::write(&table, &chapter).with_context(|| format!("cannot write {}", table.display()))?;
    if let Some(path) = &options.document {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let text = report::splice(&text, &chapter)
            .with_context(|| format!("{} has no place for results", path.display()))?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    say("");
    if let Some(baseline) = &baseline {
        say(&report::comparison(&results, &reasons, baseline));
    }
    for pattern in reasons.stale(&results) {
        say(&format!("a test passes for which there is a reason why it cannot: {pattern}"));
    }
    say(&report::counts(&results, &reasons, baseline.as_ref()));
    say(&format!("{}; failures in {}", table.display(), out.join("failures").display()));
    say(&format!("{} passed, {} failed", results.passed, results.failed));
    Ok(if results.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn main() -> anyhow::Result<ExitCode> {
    conformance(&Options::parse())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_are_well_formed_and_pass_flags_on() {
        Options::command().debug_assert();
        let line = "conformance --e2e-test e --kubectl k --kubewright w --out o --e2e-flags";
        let words = line.split(' ').chain(["--a=b --c=d"]);
        assert_eq!(Options::try_parse_from(words).expect("options").e2e_flags, ["--a=b", "--c=d"]);
        assert!(Options::try_parse_from(line.split(' ').take(7)).is_err());
    }
}
