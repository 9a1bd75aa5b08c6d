//! Failures that are known. A suite older than the server tests what the server's version has no more, and a suite
//! tests what is not built yet. The two are kept apart.

use std::path::Path;

use anyhow::{Context as _, bail};
use regex::Regex;

use crate::results::{Results, Status};

/// Kind of a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Upstream's own server of this version would fail too.
    Gone,
    /// Part of what is still to be built.
    Unbuilt,
}

/// Why a test is known to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// Known reasons, in the file's order.
#[derive(Debug, Default)]
pub(crate) struct Reasons(Vec<(Regex, Reason)>);

impl Reasons {
    /// Parses lines `REGEX => gone: REASON` and `REGEX => unbuilt: REASON`; empty lines and those that start with `#` are
    /// left out.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let reason = |line: &str| {
            let (pattern, reason) =
                line.rsplit_once(" => ").with_context(|| format!("no ` => ` in line: {line}"))?;
            let (kind, text) = match reason.split_once(": ") {
                Some(("gone", text)) => (Kind::Gone, text),
                Some(("unbuilt", text)) => (Kind::Unbuilt, text),
                _ => bail!("neither `gone: ` nor `unbuilt: ` after ` => ` in line: {line}"),
            };
            Ok((Regex::new(pattern.trim())?, Reason { kind, text: text.trim().to_owned() }))
        };
        lines.map(reason).collect::<anyhow::Result<_>>().map(Self)
    }

    /// Reads a file of them.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// The reason for which a test fails.
    pub(crate) fn of(&self, test: &str) -> Option<&Reason> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(test)).map(|(_, reason)| reason)
    }

    /// Patterns of which a test passes, so that their line must go.
    pub(crate) fn stale(&self, results: &Results) -> Vec<&str> {
        let passes = |pattern: &Regex| {
            results.tests.iter().any(|test| test.status == Status::Pass && pattern.is_match(&test.name))
        };
        self.0.iter().filter(|(pattern, _)| passes(pattern)).map(|(pattern, _)| pattern.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[test]
    fn the_first_pattern_that_matches_counts() {
        let text = "# why\n\n^a \\[x\\] => gone: since v1.22\na => unbuilt: not: yet\n";
        let reasons = Reasons::parse(text).expect("reasons");
        let of = |name| reasons.of(name).map(|reason| (reason.kind, reason.text.as_str()));
        assert_eq!(of("a [x]"), Some((Kind::Gone, "since v1.22")));
        assert_eq!((of("b a"), of("c")), (Some((Kind::Unbuilt, "not: yet")), None));
        assert_eq!(reasons.stale(&results(&[("b a", Status::Pass)])), ["a"]);
        for bad in ["no arrow", "( => gone: x", "a => because"] {
            assert!(Reasons::parse(bad).is_err(), "{bad}");
        }
    }
}
