//! Eviction thresholds out of the configuration. Source: `pkg/kubelet/eviction/helpers.go`, the node-pressure eviction
//! page.

use std::collections::BTreeMap;
use std::time::Duration;

use component::flags::GoDuration;

use super::{Error, KubeletConfiguration};

/// Signals that may have a threshold.
const SIGNALS: [&str; 8] = [
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "pid.available",
    "containerfs.available",
    "containerfs.inodesFree",
];

/// Hard thresholds on Linux when none are given.
const DEFAULTS: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

/// Longest grace that pods get under a soft threshold unless configured, in seconds: none.
const MAX_POD_GRACE: i64 = 0;

/// An eviction threshold: an amount, or a share of the capacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Bytes, or inodes.
    Amount(i64),
    /// Between 0 and 1.
    Share(f64),
}

impl Threshold {
    /// The threshold in units of the capacity.
    pub fn of(self, capacity: i64) -> i64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Share(share) => (capacity as f64 * share) as i64,
        }
    }

    /// `100Mi` or `10%`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(percent) => {
                let share: f64 = percent.trim().parse().ok()?;
                (0.0..=100.0).contains(&share).then_some(Self::Share(share / 100.0))
            }
            None => {
                let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned());
                crate::resources::value(&quantity).filter(|v| *v >= 0).map(Self::Amount)
            }
        }
    }
}

impl std::fmt::Display for Threshold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Amount(amount) => write!(f, "{amount}"),
            Self::Share(share) => write!(f, "{}%", share * 100.0),
        }
    }
}

/// A threshold that must have been crossed for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Soft {
    /// The threshold.
    pub threshold: Threshold,
    /// How long it must have been crossed.
    pub grace: Duration,
}

/// When pods are taken away.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Thresholds {
    /// Crossing one of these evicts at once.
    pub hard: BTreeMap<String, Threshold>,
    /// Crossing one of these evicts after its grace.
    pub soft: BTreeMap<String, Soft>,
    /// How much more than the threshold must be free before a signal counts as relieved.
    pub reclaim: BTreeMap<String, Threshold>,
    /// Most seconds that pods get to end under a soft threshold.
    pub max_pod_grace: i64,
}

/// Thresholds of one field by signal. 0 % and 100 % turn a signal off, as upstream reads them.
fn parse(field: &str, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, Threshold>, Error> {
    let mut out = BTreeMap::new();
    for (signal, text) in given {
        if !SIGNALS.contains(&signal.as_str()) {
            return Err(Error::Invalid(format!("{field}: unsupported eviction signal {signal}")));
        }
        match Threshold::parse(text) {
            Some(Threshold::Share(share)) if share <= 0.0 || share >= 1.0 => {}
            Some(threshold) => {
                out.insert(signal.clone(), threshold);
            }
            None => return Err(Error::Invalid(format!("{field}: {signal}: {text:?} is not a quantity"))),
        }
    }
    Ok(out)
}

impl Thresholds {
    /// Reads and checks the fields.
    pub fn new(file: &KubeletConfiguration) -> Result<Self, Error> {
        let none = BTreeMap::new();
        let given = file.eviction_hard.as_ref().unwrap_or(&none);
        let merge = file.merge_default_eviction_settings.unwrap_or(false);
        let mut hard: BTreeMap<String, String> = BTreeMap::new();
        if given.is_empty() || merge {
            hard.extend(DEFAULTS.map(|(signal, text)| (signal.to_owned(), text.to_owned())));
        }
        hard.extend(given.clone());
        let graces = file.eviction_soft_grace_period.as_ref().unwrap_or(&none);
        let mut soft = BTreeMap::new();
        for (signal, threshold) in parse("evictionSoft", file.eviction_soft.as_ref().unwrap_or(&none))? {
            let text = graces.get(&signal).ok_or_else(|| {
                Error::Invalid(format!(
                    "grace period must be specified for the soft eviction threshold {signal}"
                ))
            })?;
            let grace: GoDuration = text
                .parse()
                .map_err(|error| Error::Invalid(format!("evictionSoftGracePeriod: {signal}: {error}")))?;
            if grace.0.is_zero() {
                return Err(Error::Invalid(format!(
                    "invalid eviction grace period specified: {text} for {signal}, must be a positive value"
                )));
            }
            soft.insert(signal, Soft { threshold, grace: grace.0 });
        }
        if let Some(signal) = graces.keys().find(|signal| !soft.contains_key(*signal)) {
            return Err(Error::Invalid(format!("evictionSoftGracePeriod: {signal} has no evictionSoft")));
        }
        let max_pod_grace = file.eviction_max_pod_grace_period.unwrap_or(MAX_POD_GRACE);
        if max_pod_grace < 0 {
            return Err(Error::Invalid("evictionMaxPodGracePeriod must not be negative".to_owned()));
        }
        Ok(Self {
            hard: parse("evictionHard", &hard)?,
            soft,
            reclaim: parse(
                "evictionMinimumReclaim",
                file.eviction_minimum_reclaim.as_ref().unwrap_or(&none),
            )?,
            max_pod_grace,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn given_thresholds_replace_the_defaults_unless_merged() {
        let hard = |given, merge| {
            let file = KubeletConfiguration {
                eviction_hard: Some(map(given)),
                merge_default_eviction_settings: Some(merge),
                ..KubeletConfiguration::default()
            };
            Thresholds::new(&file).expect("valid").hard
        };
        assert_eq!(hard(&[], false).len(), 5);
        let own = [("memory.available", "5%"), ("nodefs.available", "0%")];
        assert_eq!(hard(&own, false).keys().collect::<Vec<_>>(), ["memory.available"]);
        let merged = hard(&own, true);
        assert_eq!(merged["memory.available"], Threshold::Share(0.05));
        assert!(merged.contains_key("imagefs.available") && !merged.contains_key("nodefs.available"));
    }

    #[test]
    fn soft_thresholds_have_graces() {
        let file = |soft, grace| KubeletConfiguration {
            eviction_soft: Some(map(soft)),
            eviction_soft_grace_period: Some(map(grace)),
            ..KubeletConfiguration::default()
        };
        let memory = [("memory.available", "1Gi")];
        let good = Thresholds::new(&file(&memory, &[("memory.available", "1m30s")])).expect("valid");
        let expected = Soft { threshold: Threshold::Amount(1 << 30), grace: Duration::from_secs(90) };
        assert_eq!(good.soft["memory.available"], expected);
        for (soft, grace) in [
            (&memory[..], &[][..]),
            (&[], &[("memory.available", "1m")]),
            (&memory, &[("memory.available", "0s")]),
            (&memory, &[("memory.available", "soon")]),
            (&[("cpu", "1")], &[("cpu", "1m")]),
        ] {
            assert!(Thresholds::new(&file(soft, grace)).is_err(), "{soft:?} {grace:?}");
        }
    }
}
