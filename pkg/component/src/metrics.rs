//! Metrics of a process and their text form.
//!
//! prometheus-client writes OpenMetrics. Upstream's components answer everybody in the classic text format, also those who
//! would rather have OpenMetrics, and queries name buckets as that has them (`le="1"`, not `le="1.0"`); so do ours.

use std::sync::Arc;

use http::{StatusCode, header};
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::gates;
use crate::health::HealthMetrics;
use crate::http::{Response, full};
use crate::version::BuildInfo;

const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of one process; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// What `/metrics/slis` shows.
    indicators: Arc<Mutex<Registry>>,
    /// Counters whose names have no `_total` in the classic format.
    bare: Arc<Mutex<Vec<&'static str>>>,
    health: HealthMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with the process's own metrics (CPU, memory, start time, open files) and what this build is and has on;
    /// apart from it those of its health checks.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        registry.register_collector(Box::new(Build));
        let mut indicators = Registry::default();
        let health = HealthMetrics::register(&mut indicators);
        Self {
            registry: Arc::new(Mutex::new(registry)),
            indicators: Arc::new(Mutex::new(indicators)),
            bare: Arc::default(),
            health,
        }
    }

    /// What health checks are counted in.
    pub(crate) fn health(&self) -> &HealthMetrics {
        &self.health
    }

    /// Registers a component's metrics; keep the handles, they are cheap to update.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock());
    }

    /// A counter that upstream named without `_total`; OpenMetrics demands it all the same.
    pub fn register_bare(&self, name: &'static str) {
        self.bare.lock().push(name);
    }

    /// Answers `/metrics`.
    pub fn respond(&self) -> Response {
        self.respond_with(&self.registry)
    }

    /// Answers `/metrics/slis`, the service level indicators (KEP-3466): outcomes of health checks.
    pub fn respond_indicators(&self) -> Response {
        self.respond_with(&self.indicators)
    }

    fn respond_with(&self, registry: &Mutex<Registry>) -> Response {
        let mut encoded = String::new();
        let outcome = text::encode(&mut encoded, &registry.lock());
        if outcome.is_err() {
            return crate::http::text(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be encoded\n");
        }
        let mut response = http::Response::new(full(classic(&encoded, &self.bare.lock())));
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CLASSIC));
        response
    }
}

/// OpenMetrics text in the classic format. The samples of `bare` counters lose their `_total`.
fn classic(openmetrics: &str, bare: &[&str]) -> String {
    let counters: Vec<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .filter(|name| !bare.contains(name))
        .collect();
    let mut out = String::with_capacity(openmetrics.len() + 64);
    for line in openmetrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let rest = line.strip_prefix("# TYPE ").or_else(|| line.strip_prefix("# HELP "));
        match rest.and_then(|rest| rest.split_once(' ')) {
            Some((name, tail)) if counters.contains(&name) => {
                out.push_str(&line[..7]);
                out.push_str(name);
                out.push_str("_total ");
                out.push_str(tail);
            }
            Some(_) => out.push_str(line),
            None => sample(line, bare, &mut out),
        }
        out.push('\n');
    }
    out
}

/// A sample in the classic format.
fn sample(line: &str, bare: &[&str], out: &mut String) {
    const BUCKET: &str = "le=\"";
    if let Some((name, rest)) = line.split_once("_total")
        && bare.contains(&name)
    {
        out.push_str(name);
        out.push_str(rest);
    } else if let Some(at) = line.find(BUCKET).map(|at| at + BUCKET.len())
        && let Some((bound, rest)) = line[at..].split_once('"')
        && let Ok(number) = bound.parse::<f64>()
    {
        out.push_str(&line[..at]);
        out.push_str(&go_number(number));
        out.push('"');
        out.push_str(rest);
    } else {
        out.push_str(line);
    }
}

/// A number as Go writes it (`strconv.FormatFloat` with `'g'` and as many digits as it takes).
fn go_number(number: f64) -> String {
    const LARGEST_EXPONENT: i32 = 6;
    if number.is_infinite() {
        return if number > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..LARGEST_EXPONENT).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{number}"),
    }
}

/// `kubernetes_build_info` and `kubernetes_feature_enabled`.
#[derive(Debug)]
struct Build;

impl Collector for Build {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let build = BuildInfo::this();
        let labels = [
            ("major", build.major),
            ("minor", build.minor),
            ("git_version", &build.git_version),
            ("git_commit", build.git_commit),
            ("git_tree_state", build.git_tree_state),
            ("build_date", build.build_date),
            ("go_version", build.go_version),
            ("compiler", build.compiler),
            ("platform", &build.platform),
        ];
        let mut metric = encoder.encode_descriptor(
            "kubernetes_build_info",
            "What this build is",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(1_i64).encode(metric.encode_family(&labels)?)?;
        let mut metric = encoder.encode_descriptor(
            "kubernetes_feature_enabled",
            "Whether a feature is on",
            None,
            MetricType::Gauge,
        )?;
        for gate in gates::gates() {
            let labels = [("name", gate.name), ("stage", gate.stage.label())];
            ConstGauge::new(i64::from(gate.on)).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// `process_*` metrics from `/proc/self`.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(usage) = ProcessUsage::read() else { return Ok(()) };
        let cpu = ConstCounter::new(usage.cpu_seconds);
        cpu.encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds",
            None,
            MetricType::Counter,
        )?)?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory size in bytes", usage.resident_bytes),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds",
                usage.start_seconds,
            ),
            ("process_open_fds", "Number of open file descriptors", usage.open_files),
            ("process_max_fds", "Largest number of open file descriptors", usage.max_files),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes", usage.virtual_bytes),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

/// What `/proc/self` says of this process.
struct ProcessUsage {
    cpu_seconds: f64,
    resident_bytes: f64,
    start_seconds: f64,
    open_files: f64,
    max_files: f64,
    virtual_bytes: f64,
}

impl ProcessUsage {
    fn read() -> Option<Self> {
        // Linux has reported times in 1/100 s to user space on every architecture we build for, and 4 KiB pages.
        const TICKS: f64 = 100.0;
        const PAGE: f64 = 4096.0;
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<f64> = stat
            .rsplit_once(')')?
            .1
            .split_ascii_whitespace()
            .skip(1)
            .filter_map(|f| f.parse().ok())
            .collect();
        let boot = std::fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = boot.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
        // Fields after the command name and state: ppid is index 0, utime 10, stime 11, starttime 18, vsize 19, rss 20.
        Some(Self {
            cpu_seconds: (fields.get(10)? + fields.get(11)?) / TICKS,
            resident_bytes: fields.get(20)? * PAGE,
            start_seconds: boot + fields.get(18)? / TICKS,
            open_files: std::fs::read_dir("/proc/self/fd").ok()?.count() as f64,
            max_files: getrlimit(Resource::RLIMIT_NOFILE).ok()?.0 as f64,
            virtual_bytes: *fields.get(19)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::histogram::Histogram;

    #[test]
    fn numbers_are_written_as_in_go() {
        for (number, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.005, "0.005"),
            (1.25, "1.25"),
            (150_000.0, "150000"),
            (1e6, "1e+06"),
            (3.05e6, "3.05e+06"),
            (5e-6, "5e-06"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(go_number(number), text);
        }
    }

    #[tokio::test]
    async fn counters_have_classic_names() {
        let metrics = Metrics::new();
        let counter = Counter::<u64>::default();
        metrics.register(|r| r.register("apiserver_request", "Requests", counter.clone()));
        metrics.register(|r| r.register("authentication_attempts", "Attempts", counter.clone()));
        metrics.register_bare("authentication_attempts");
        counter.inc();
        let seconds = Histogram::new([0.5, 1.0]);
        metrics.register(|r| r.register("seconds", "Seconds", seconds.clone()));
        seconds.observe(0.7);
        let body = metrics.respond().into_body().collect().await.expect("memory").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("text");
        assert!(
            text.contains("# TYPE apiserver_request_total counter\napiserver_request_total 1\n"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE authentication_attempts counter\nauthentication_attempts 1\n"),
            "{text}"
        );
        assert!(text.contains("kubernetes_feature_enabled{name=\"WatchList\",stage=\"BETA\"} 1\n"), "{text}");
        assert!(text.contains("kubernetes_build_info{major=\"1\",minor=\"36\","), "{text}");
        for bucket in ["{le=\"0.5\"} 0\n", "{le=\"1\"} 1\n", "{le=\"+Inf\"} 1\n"] {
            assert!(text.contains(&format!("seconds_bucket{bucket}")), "{text}");
        }
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
        assert!(!text.contains("# EOF"), "{text}");
    }
}
