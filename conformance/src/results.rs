//! What a run found, as it is kept: `results.json` in the output directory, in the form that baselines have too.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Pass,
    Fail,
    /// The suite itself found the test not applicable.
    Skip,
    /// The run ended before its turn.
    Missing,
}

/// One test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Test {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) sig: String,
    #[serde(default)]
    pub(crate) phase: String,
    pub(crate) status: Status,
    pub(crate) duration_s: f64,
    /// Which run of several this is from, counted from 1.
    #[serde(default = "first")]
    pub(crate) run: u32,
    /// First words of the failure's message.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) failure: String,
}

fn first() -> u32 {
    1
}

/// A part of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PhaseTime {
    pub(crate) phase: String,
    pub(crate) procs: usize,
    pub(crate) wall_s: f64,
    #[serde(default = "first")]
    pub(crate) run: u32,
}

/// Everything of one or several runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Results {
    /// Version of the suite.
    pub(crate) suite: String,
    /// Version that the server tells.
    pub(crate) server: String,
    pub(crate) storage: String,
    pub(crate) nodes: u8,
    pub(crate) phases: Vec<PhaseTime>,
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    pub(crate) tests: Vec<Test>,
}

/// The group that owns a test: its first `[sig-...]`, or what old suites have in that place.
pub(crate) fn sig(name: &str) -> String {
    let tags = || name.split('[').skip(1).filter_map(|rest| rest.split_once(']').map(|(tag, _)| tag));
    let first = tags().next().filter(|_| name.starts_with('['));
    tags().find(|tag| tag.starts_with("sig-")).or(first).unwrap_or("none").to_owned()
}

impl Results {
    /// Reads results or a baseline.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut results: Self = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        for test in results.tests.iter_mut().filter(|test| test.sig.is_empty()) {
            test.sig = sig(&test.name);
        }
        Ok(results)
    }

    /// Writes them at once or not at all.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let part = path.with_extension("json.part");
        std::fs::write(&part, serde_json::to_string_pretty(self)? + "\n")?;
        std::fs::rename(&part, path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Adds a test; a verdict of an earlier run gives way.
    pub(crate) fn put(&mut self, test: Test) {
        match self.tests.binary_search_by(|known| known.name.cmp(&test.name)) {
            Ok(index) => self.tests[index] = test,
            Err(index) => self.tests.insert(index, test),
        }
        let count = |status| self.tests.iter().filter(|test| test.status == status).count();
        (self.passed, self.skipped) = (count(Status::Pass), count(Status::Skip));
        self.failed = self.tests.len() - self.passed - self.skipped;
    }

    /// Number of the run that follows those in here.
    pub(crate) fn next_run(&self) -> u32 {
        self.tests.iter().map(|test| test.run).max().unwrap_or(0) + 1
    }

    /// How long each test took.
    pub(crate) fn seconds(&self) -> HashMap<String, f64> {
        let passed = self.tests.iter().filter(|test| test.status == Status::Pass);
        passed.map(|test| (test.name.clone(), test.duration_s)).collect()
    }

    /// How a test ended, if it is in here.
    pub(crate) fn status(&self, name: &str) -> Option<Status> {
        self.tests.iter().find(|test| test.name == name).map(|test| test.status)
    }

    /// Tests by group.
    pub(crate) fn by_sig(&self) -> BTreeMap<&str, Vec<&Test>> {
        let mut groups: BTreeMap<&str, Vec<&Test>> = BTreeMap::new();
        for test in &self.tests {
            groups.entry(&test.sig).or_default().push(test);
        }
        groups
    }

    /// Tests that pass in `baseline` and do not pass here, with how they ended here.
    pub(crate) fn worse_than<'a>(&self, baseline: &'a Self) -> Vec<(&'a str, Option<Status>)> {
        let passing = baseline.tests.iter().filter(|test| test.status == Status::Pass);
        passing
            .map(|test| (test.name.as_str(), self.status(&test.name)))
            .filter(|(_, status)| *status != Some(Status::Pass))
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn test(name: &str, status: Status) -> Test {
        let failure = if status == Status::Fail { "it | broke".to_owned() } else { String::new() };
        Test {
            name: name.into(),
            sig: sig(name),
            phase: "parallel".into(),
            status,
            duration_s: 1.5,
            run: 1,
            failure,
        }
    }

    pub(crate) fn results(tests: &[(&str, Status)]) -> Results {
        let mut results = Results { suite: "v1.20.2".into(), ..Results::default() };
        for (name, status) in tests {
            results.put(test(name, *status));
        }
        results
    }

    #[test]
    fn groups() {
        for (name, group) in [
            ("[sig-apps] Deployment [Conformance]", "sig-apps"),
            ("[k8s.io] [sig-node] Events", "sig-node"),
            ("[k8s.io] Pods should [Conformance]", "k8s.io"),
            ("Pods [odd]", "none"),
            ("", "none"),
        ] {
            assert_eq!(sig(name), group, "{name}");
        }
    }

    #[test]
    fn later_verdicts_replace_earlier_ones_and_counts_follow() {
        let mut results = results(&[("b", Status::Fail), ("a", Status::Pass), ("c", Status::Skip)]);
        assert_eq!((results.passed, results.failed, results.skipped), (1, 1, 1));
        assert_eq!(results.next_run(), 2);
        results.put(Test { run: 2, ..test("b", Status::Pass) });
        assert_eq!((results.passed, results.failed, results.tests.len()), (2, 0, 3));
        assert_eq!(results.next_run(), 3);
        assert_eq!(Results::default().next_run(), 1);
    }

    #[test]
    fn only_what_passes_in_the_baseline_counts_as_worse() {
        let baseline =
            results(&[("a", Status::Pass), ("b", Status::Fail), ("c", Status::Pass), ("d", Status::Pass)]);
        let ours =
            results(&[("a", Status::Pass), ("b", Status::Fail), ("c", Status::Fail), ("e", Status::Fail)]);
        assert_eq!(ours.worse_than(&baseline), [("c", Some(Status::Fail)), ("d", None)]);
    }

    #[test]
    fn baselines_of_other_tools_are_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("results.json");
        let text = r#"{"phases": [{"phase": "parallel", "procs": 6, "rc": 0, "wall_s": 935}], "passed": 1, "failed": 0,
            "tests": [{"name": "[sig-x] y", "phase": "parallel", "status": "pass", "duration_s": 2.5}]}"#;
        std::fs::write(&path, text).expect("written");
        let read = Results::read(&path).expect("results");
        assert_eq!((read.tests[0].sig.as_str(), read.tests[0].run), ("sig-x", 1));
        read.write(&path).expect("written");
        assert_eq!(Results::read(&path).expect("results"), read);
    }
}
