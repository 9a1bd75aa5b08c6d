//! The suite under use: a test binary of some version of Kubernetes, its dialect of flags, its list of tests.
//!
//! Suites up to v1.24 are built with version 1 of the Ginkgo framework, later ones with version 2, whose flags have
//! other names and which writes JUnit files by itself. Which one it is shows in the binary's own help text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use regex::Regex;

use crate::junit::{self, Case, Verdict};
use crate::target::Target;

/// Generation of the framework a suite is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ginkgo {
    V1,
    V2,
}

/// A test binary and what is known about it.
#[derive(Debug, Clone)]
pub(crate) struct Suite {
    pub(crate) binary: PathBuf,
    pub(crate) version: String,
    pub(crate) ginkgo: Ginkgo,
    flags: BTreeSet<String>,
    /// kubectl for the tests of sig-cli.
    kubectl: PathBuf,
    /// Flags that the user adds.
    extra: Vec<String>,
}

/// Names of the flags that a help text mentions.
fn flags_of(help: &str) -> BTreeSet<String> {
    let (Ok(colour), Ok(flag)) =
        (Regex::new(r"\x1b\[[0-9;]*m"), Regex::new(r"(?m)^\s*--?([a-zA-Z][a-zA-Z0-9._-]*)"))
    else {
        return BTreeSet::new();
    };
    let plain = colour.replace_all(help, "");
    flag.captures_iter(&plain).map(|found| found[1].to_owned()).collect()
}

fn generation(flags: &BTreeSet<String>) -> anyhow::Result<Ginkgo> {
    // Version 2 knows the old names too, as deprecated ones.
    if flags.contains("ginkgo.dry-run") {
        return Ok(Ginkgo::V2);
    }
    ensure!(flags.contains("ginkgo.dryRun"), "its help has no flags of Ginkgo: this is not an e2e.test");
    Ok(Ginkgo::V1)
}

/// A regular expression that matches just these tests. What the framework matches against is the test's full name
/// after that of the suite.
pub(crate) fn exactly(names: &[String]) -> String {
    let escaped: Vec<String> = names.iter().map(|name| regex::escape(name)).collect();
    format!("(?:^| )(?:{})$", escaped.join("|"))
}

impl Suite {
    /// Asks a binary for its version and flags. It runs in the target's network, like everything of it.
    pub(crate) fn open(
        binary: &Path,
        kubectl: &Path,
        extra: Vec<String>,
        target: &Target,
    ) -> anyhow::Result<Self> {
        let ask = |flag: &str| -> anyhow::Result<String> {
            let out = target
                .command(binary)
                .arg(flag)
                .output()
                .with_context(|| format!("cannot run {}", binary.display()))?;
            Ok(format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
        };
        let flags = flags_of(&ask("--help")?);
        let ginkgo = generation(&flags).with_context(|| binary.display().to_string())?;
        let version = ask("--version")?;
        let version = version.lines().last().unwrap_or_default().trim().to_owned();
        Ok(Self { binary: binary.to_owned(), version, ginkgo, flags, kubectl: kubectl.to_owned(), extra })
    }

    /// Adds a flag if the binary has it; old and new suites differ.
    fn optional(&self, command: &mut Command, name: &str, value: &str) {
        if self.flags.contains(name) {
            command.arg(format!("--{name}={value}"));
        }
    }

    /// Arguments that every run of the binary has.
    fn command(&self, target: &Target, report: &Path, focus: &str, skip: &str) -> Command {
        let mut command = target.command(&self.binary);
        command
            .arg(format!("--kubeconfig={}", target.kubeconfig.display()))
            .arg(format!("--kubectl-path={}", self.kubectl.display()))
            .arg("--provider=skeleton")
            .arg(format!("--num-nodes={}", target.spec.nodes))
            .arg(format!("--ginkgo.focus={focus}"));
        if !skip.is_empty() {
            command.arg(format!("--ginkgo.skip={skip}"));
        }
        match self.ginkgo {
            Ginkgo::V1 => {
                command.arg("--ginkgo.noColor").arg(format!("--report-dir={}", report.display()));
            }
            Ginkgo::V2 => {
                let file = report.join("junit_01.xml");
                command
                    .arg("--ginkgo.no-color")
                    .arg(format!("--ginkgo.junit-report={}", file.display()))
                    // The limits are this program's.
                    .arg("--ginkgo.timeout=24h");
            }
        }
        // Component logs are on this machine, and nothing is reached over ssh.
        self.optional(&mut command, "dump-logs-on-failure", "false");
        self.optional(&mut command, "disable-log-dump", "true");
        // kubectl keeps what servers answered in its user's home; another cluster's answers are of no use here.
        command.args(&self.extra).env("HOME", report);
        command
    }

    /// The command that runs exactly these tests and leaves JUnit files in `report`.
    pub(crate) fn run(&self, target: &Target, report: &Path, names: &[String]) -> Command {
        self.command(target, report, &exactly(names), "")
    }

    /// Names of the tests that match `focus` and not `skip`, in the suite's order.
    pub(crate) fn list(
        &self,
        target: &Target,
        work: &Path,
        focus: &str,
        skip: &str,
    ) -> anyhow::Result<Vec<String>> {
        let report = work.join("list");
        std::fs::create_dir_all(&report)?;
        let mut command = self.command(target, &report, focus, skip);
        command.arg(match self.ginkgo {
            Ginkgo::V1 => "--ginkgo.dryRun",
            Ginkgo::V2 => "--ginkgo.dry-run",
        });
        let out = command.output().with_context(|| format!("cannot run {}", self.binary.display()))?;
        let cases = junit::read_directory(&report)?;
        ensure!(
            !cases.is_empty(),
            "the suite listed no tests: {}",
            String::from_utf8_lossy(if out.stderr.is_empty() { &out.stdout } else { &out.stderr })
        );
        // In a dry run what would run counts as passed.
        let would_run = |case: &Case| case.verdict == Verdict::Pass && !junit::is_set_up(&case.name);
        Ok(cases.into_iter().filter(would_run).map(|case| case.name).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_texts_tell_the_generation() {
        let old = "Usage of e2e.test:\n  -ginkgo.dryRun\n    \tIf set, walks only\n  -kubectl-path string\n    \tsee --other";
        let flags = flags_of(old);
        assert!(flags.contains("kubectl-path") && !flags.contains("other"));
        assert_eq!(generation(&flags).expect("a suite"), Ginkgo::V1);
        let new =
            "\x1b[1mControlling order\x1b[0m\n  \x1b[38;5;9m--ginkgo.dry-run\x1b[0m\n  --ginkgo.dryRun\n";
        assert_eq!(generation(&flags_of(new)).expect("a suite"), Ginkgo::V2);
        assert!(generation(&flags_of("  -v\n")).is_err());
    }

    #[test]
    fn a_focus_matches_only_its_tests() {
        let names = ["[sig-a] Pods should (really) work [Conformance]".to_owned(), "[sig-b] x.y".to_owned()];
        let focus = Regex::new(&exactly(&names)).expect("an expression");
        let full = |name: &str| format!("Kubernetes e2e suite [Top Level] {name}");
        assert!(names.iter().all(|name| focus.is_match(&full(name))));
        for other in ["[sig-b] xzy", "[sig-b] x.y z", "[sig-a] Pods should really work [Conformance]"] {
            assert!(!focus.is_match(&full(other)), "{other}");
        }
    }
}
