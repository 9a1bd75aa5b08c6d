//! Medians, targets and upstream's figures, as a table and as JSON.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use serde::Serialize;

/// Bytes of a MiB.
pub(crate) const MIB: f64 = 1_048_576.0;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    ServerReady,
    NodeReady,
    Available,
    ServerMemory,
    AgentMemory,
    IdleProcessor,
    BinarySize,
}

/// A metric's words, target, and what upstream v1.20.2 needs on a machine of the same size.
struct Facts {
    metric: Metric,
    name: &'static str,
    unit: &'static str,
    target: f64,
    upstream: Option<f64>,
}

const FACTS: [Facts; 7] = [
    Facts {
        metric: Metric::ServerReady,
        name: "server start to /readyz",
        unit: "s",
        target: 0.5,
        upstream: Some(5.65),
    },
    Facts {
        metric: Metric::NodeReady,
        name: "kubewright up to Node Ready",
        unit: "s",
        target: 5.0,
        upstream: None,
    },
    Facts {
        metric: Metric::Available,
        name: "kubectl apply of a Deployment to Available",
        unit: "s",
        target: 0.9,
        upstream: Some(1.74),
    },
    Facts {
        metric: Metric::ServerMemory,
        name: "idle memory: API server, controllers, scheduler",
        unit: "MiB",
        target: 60.0,
        upstream: Some(493.0),
    },
    Facts {
        metric: Metric::AgentMemory,
        name: "idle memory: kubelet, service proxy, DNS",
        unit: "MiB",
        target: 45.0,
        upstream: Some(124.0),
    },
    Facts {
        metric: Metric::IdleProcessor,
        name: "idle CPU of all of them",
        unit: "% of a core",
        target: 0.5,
        upstream: None,
    },
    Facts {
        metric: Metric::BinarySize,
        name: "size of the binary",
        unit: "MiB",
        target: 50.0,
        upstream: None,
    },
];

/// One line of the report.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    name: &'static str,
    unit: &'static str,
    median: f64,
    min: f64,
    max: f64,
    samples: usize,
    target: f64,
    met: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<f64>,
}

/// Everything that was measured, and on what.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    rounds: usize,
    processor: String,
    cores: usize,
    memory_gib: f64,
    kernel: String,
    results: Vec<Line>,
}

/// The middle value, or the mean of the two in the middle. `sorted` is not empty.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// The value after `key` and a colon in a file such as `/proc/cpuinfo`.
fn field(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

impl Report {
    /// Sums up samples; every metric must have some.
    pub(crate) fn new(rounds: usize, samples: &[(Metric, f64)]) -> anyhow::Result<Self> {
        let line = |facts: &Facts| {
            let mut values: Vec<f64> =
                samples.iter().filter(|(m, _)| *m == facts.metric).map(|(_, v)| *v).collect();
            values.sort_by(f64::total_cmp);
            ensure!(!values.is_empty(), "nothing was measured of: {}", facts.name);
            let round = |value: f64| (value * 1000.0).round() / 1000.0;
            Ok(Line {
                name: facts.name,
                unit: facts.unit,
                median: round(median(&values)),
                min: round(values[0]),
                max: round(values[values.len() - 1]),
                samples: values.len(),
                target: facts.target,
                met: median(&values) < facts.target,
                upstream: facts.upstream,
            })
        };
        let kibibytes = field("/proc/meminfo", "MemTotal").context("no MemTotal")?;
        let kibibytes: f64 = kibibytes.trim_end_matches(" kB").parse()?;
        Ok(Self {
            rounds,
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: (kibibytes / 1024.0 / 102.4).round() / 10.0,
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            results: FACTS.iter().map(line).collect::<anyhow::Result<_>>()?,
        })
    }

    /// The report for people, in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{}, {} cores, {} GiB, Linux {}; {} rounds\n\n| | median | range | target | upstream |\n| --- | --- | --- | --- | --- |\n",
            self.processor, self.cores, self.memory_gib, self.kernel, self.rounds
        );
        for line in &self.results {
            let upstream =
                line.upstream.map_or_else(|| "-".to_owned(), |value| format!("{value} {}", line.unit));
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "| {} | {:.2} {} | {:.2} to {:.2} | under {} | {upstream} |",
                line.name, line.median, line.unit, line.min, line.max, line.target
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median(&[1.0, 2.0, 9.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[1.0, 2.0, 4.0, 9.0]) - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn every_metric_is_reported_and_missing_ones_are_an_error() {
        let mut samples: Vec<(Metric, f64)> = FACTS.iter().map(|facts| (facts.metric, 0.25)).collect();
        let report = Report::new(1, &samples).expect("complete");
        assert!(FACTS.iter().all(|facts| report.table().contains(facts.name)));
        assert!(report.results.iter().all(|line| line.met));
        samples.pop();
        assert!(Report::new(1, &samples).is_err());
    }
}
