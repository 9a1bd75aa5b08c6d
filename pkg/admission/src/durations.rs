//! How long admission takes, under upstream's names (`k8s.io/apiserver/pkg/admission/metrics`).

use std::sync::OnceLock;
use std::time::Instant;

use prometheus_client::encoding::{EncodeLabelSet, LabelValueEncoder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::{Operation, Phase};

/// Upper bounds in seconds: upstream's.
const BUCKETS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
/// Combinations of phase, operation and outcome.
const KINDS: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    operation: Operation,
    rejected: &'static str,
    r#type: Phase,
}

impl StepLabels {
    fn new(phase: Phase, operation: Operation, rejected: bool) -> Self {
        Self { operation, rejected: if rejected { "true" } else { "false" }, r#type: phase }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    name: &'static str,
    #[prometheus(flatten)]
    step: StepLabels,
}

impl prometheus_client::encoding::EncodeLabelValue for Operation {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.as_str().encode(encoder)
    }
}

impl prometheus_client::encoding::EncodeLabelValue for Phase {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.as_str().encode(encoder)
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// Histograms of a chain: one for each plugin and one for all of them, each with its parts found once.
#[derive(Debug)]
pub(crate) struct Durations {
    plugins: Histograms<PluginLabels>,
    steps: Histograms<StepLabels>,
    of_plugins: Vec<(&'static str, [OnceLock<Histogram>; KINDS])>,
    of_steps: [OnceLock<Histogram>; KINDS],
}

impl Durations {
    pub(crate) fn new(registry: &mut Registry, plugins: impl Iterator<Item = &'static str>) -> Self {
        let made = Self {
            plugins: Family::new_with_constructor(histogram),
            steps: Family::new_with_constructor(histogram),
            of_plugins: plugins.map(|name| (name, Default::default())).collect(),
            of_steps: Default::default(),
        };
        registry.register(
            "apiserver_admission_controller_admission_duration_seconds",
            "Seconds an admission plugin took for a request",
            made.plugins.clone(),
        );
        registry.register(
            "apiserver_admission_step_admission_duration_seconds",
            "Seconds all admission plugins of a phase took for a request",
            made.steps.clone(),
        );
        made
    }

    fn plugin(&self, at: usize, phase: Phase, operation: Operation, rejected: bool) -> &Histogram {
        let (name, kinds) = &self.of_plugins[at];
        kinds[kind(phase, operation, rejected)].get_or_init(|| {
            let labels = PluginLabels { name, step: StepLabels::new(phase, operation, rejected) };
            self.plugins.get_or_create(&labels).clone()
        })
    }

    fn step(&self, phase: Phase, operation: Operation, rejected: bool) -> &Histogram {
        self.of_steps[kind(phase, operation, rejected)]
            .get_or_init(|| self.steps.get_or_create(&StepLabels::new(phase, operation, rejected)).clone())
    }
}

fn kind(phase: Phase, operation: Operation, rejected: bool) -> usize {
    (phase as usize * 4 + operation as usize) * 2 + usize::from(rejected)
}

/// One walk through the chain, timed where anybody counts.
pub(crate) struct Walk<'d> {
    durations: Option<&'d Durations>,
    phase: Phase,
    operation: Operation,
    began: Instant,
    plugin_began: Instant,
}

impl<'d> Walk<'d> {
    pub(crate) fn new(durations: Option<&'d Durations>, phase: Phase, operation: Operation) -> Self {
        let now = Instant::now();
        Self { durations, phase, operation, began: now, plugin_began: now }
    }

    /// A plugin, by its place in the chain, has had its say.
    pub(crate) fn passed(&mut self, at: usize, rejected: bool) {
        let Some(durations) = self.durations else { return };
        let now = Instant::now();
        let took = now.duration_since(self.plugin_began).as_secs_f64();
        durations.plugin(at, self.phase, self.operation, rejected).observe(took);
        self.plugin_began = now;
    }

    /// The walk is over.
    pub(crate) fn end(self, rejected: bool) {
        let Some(durations) = self.durations else { return };
        let took = self.began.elapsed().as_secs_f64();
        durations.step(self.phase, self.operation, rejected).observe(took);
    }
}
