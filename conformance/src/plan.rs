//! What runs when: tests that bear company in batches, those that must be alone after them, those that break things
//! last.

use std::collections::HashMap;

/// Part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Several tests at the same time.
    Parallel,
    /// One after the other.
    Serial,
    /// One after the other, each of which may leave nodes or components broken.
    Disruptive,
}

impl Phase {
    /// All, in the order in which they run.
    pub(crate) const ALL: [Self; 3] = [Self::Parallel, Self::Serial, Self::Disruptive];

    /// Its name in results and directories.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Parallel => "parallel",
            Self::Serial => "serial",
            Self::Disruptive => "disruptive",
        }
    }

    /// Where a test belongs, by upstream's tags.
    pub(crate) fn of(test: &str) -> Self {
        if test.contains("[Disruptive]") {
            Self::Disruptive
        } else if test.contains("[Serial]") {
            Self::Serial
        } else {
            Self::Parallel
        }
    }
}

/// Most tests of one batch: a start of the suite costs about a second, a batch that is cut off loses all its results.
const MAX_BATCH: usize = 8;
/// A batch is full when its tests are expected to take this long, in seconds.
const BATCH_SECONDS: f64 = 60.0;
/// Expected seconds of a test of which nothing is known.
const UNKNOWN_SECONDS: f64 = 20.0;

/// Batches that every worker should get at least, as long as there are tests.
const ROUNDS: usize = 3;

/// Distributes tests on batches: those that take longest first, so that no long one is left at the end, and batches
/// smaller the longer their tests take. `seconds` holds what earlier runs took.
pub(crate) fn batches(tests: &[String], seconds: &HashMap<String, f64>, workers: usize) -> Vec<Vec<String>> {
    let most = (tests.len() / (workers * ROUNDS).max(1)).clamp(1, MAX_BATCH);
    let cost = |name: &String| seconds.get(name).copied().unwrap_or(UNKNOWN_SECONDS);
    let mut sorted = tests.to_vec();
    // Stable: tests of the same cost stay in the suite's order.
    sorted.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
    let mut batches: Vec<Vec<String>> = Vec::new();
    let mut filled = f64::INFINITY;
    for test in sorted {
        let cost = cost(&test);
        match batches.last_mut() {
            Some(batch) if batch.len() < most && filled + cost <= BATCH_SECONDS => {
                filled += cost;
                batch.push(test);
            }
            _ => {
                filled = cost;
                batches.push(vec![test]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_tags() {
        for (name, phase) in [
            ("[sig-x] a [Conformance]", Phase::Parallel),
            ("[sig-x] a [Serial] [Conformance]", Phase::Serial),
            ("[sig-x] a [Serial] [Disruptive]", Phase::Disruptive),
            ("[sig-x] a [Disruptive]", Phase::Disruptive),
        ] {
            assert_eq!(Phase::of(name), phase, "{name}");
        }
    }

    #[test]
    fn every_test_is_in_one_batch_and_the_longest_come_first() {
        let tests: Vec<String> = (0..50).map(|i| format!("t{i}")).collect();
        let seconds: HashMap<String, f64> =
            (0..40).map(|i| (format!("t{i}"), if i == 30 { 300.0 } else { f64::from(i % 7) })).collect();
        let batches = batches(&tests, &seconds, 2);
        assert_eq!(batches[0], ["t30"]);
        let mut all: Vec<String> = batches.iter().flatten().cloned().collect();
        assert_eq!(all.len(), tests.len());
        all.sort();
        all.dedup();
        assert_eq!(all.len(), tests.len());
        let cost = |name: &String| seconds.get(name).copied().unwrap_or(UNKNOWN_SECONDS);
        for batch in &batches {
            assert!(batch.len() <= MAX_BATCH);
            assert!(batch.len() == 1 || batch.iter().map(cost).sum::<f64>() <= BATCH_SECONDS);
        }
        assert_eq!(super::batches(&tests[..5], &seconds, 4).len(), 5, "few tests run side by side");
        assert!(super::batches(&[], &seconds, 2).is_empty());
    }
}
