//! Measures a cluster the way its users meet it: how long it takes to start and to run something, and what it costs
//! while nothing happens. Prints a table and writes JSON.
//!
//! `bench [--rounds N] [--output FILE]`, with the environment that the end-to-end tests take (`KUBEWRIGHT`, `KUBECTL`,
//! `IMAGES`). Every round is a new cluster of one node; what is measured while idle is measured on the last one.
#![allow(clippy::print_stdout, reason = "a report for people")]

mod measure;
mod report;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use e2e::settings::Settings;

use crate::report::{Metric, Report};

/// Rounds unless `--rounds` says otherwise.
const ROUNDS: usize = 10;

struct Options {
    rounds: usize,
    output: Option<PathBuf>,
}

fn options(arguments: impl IntoIterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options { rounds: ROUNDS, output: None };
    let mut arguments = arguments.into_iter();
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--rounds" => options.rounds = value.parse().context("--rounds needs a number")?,
            "--output" => options.output = Some(value.into()),
            _ => bail!("unknown flag {flag}; usage: bench [--rounds N] [--output FILE]"),
        }
    }
    if options.rounds == 0 {
        bail!("--rounds must be at least 1");
    }
    Ok(options)
}

fn main() -> anyhow::Result<()> {
    component::install_crypto();
    let options = options(std::env::args().skip(1))?;
    let settings = Settings::from_environment()?;
    let mut samples = Vec::new();
    for round in 1..=options.rounds {
        println!("round {round} of {}", options.rounds);
        let last = round == options.rounds;
        measure::round(&settings, last, &mut samples)?;
    }
    let size = std::fs::metadata(&settings.kubewright)?.len();
    samples.push((Metric::BinarySize, size as f64 / report::MIB));
    let report = Report::new(options.rounds, &samples)?;
    print!("{}", report.table());
    // Beside the images: that is the build's directory.
    let output = options.output.unwrap_or_else(|| settings.images.with_file_name("bench.json"));
    std::fs::write(&output, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("cannot write {}", output.display()))?;
    println!("written to {}", output.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_checked() {
        let parse = |flags: &[&str]| options(flags.iter().map(|f| (*f).to_owned()));
        assert_eq!(parse(&["--rounds", "3"]).expect("good").rounds, 3);
        assert!(
            parse(&["--rounds", "0"]).is_err()
                && parse(&["--rounds"]).is_err()
                && parse(&["--fast", "1"]).is_err()
        );
    }
}
