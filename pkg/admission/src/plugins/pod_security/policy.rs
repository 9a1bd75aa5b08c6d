//! Levels and versions, and the policy a namespace's labels ask for. Source: `k8s.io/pod-security-admission/api`.

use std::fmt;

use apimachinery::Value;
use apimachinery::meta::at;
use apimachinery::status::FieldError;

/// Newest minor version with checks of its own known here; `latest` means this one.
pub(super) const LATEST_MINOR: u32 = 36;

/// How much a pod may do, the laxest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "baseline" => Ok(Self::Baseline),
            "restricted" => Ok(Self::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

/// Version of the standard, `None` for the latest.
type Version = Option<u32>;

fn parse_version(text: &str) -> Result<Version, &'static str> {
    const PROBLEM: &str = "must be \"latest\" or \"v1.x\"";
    if text == "latest" {
        return Ok(None);
    }
    let minor = text.strip_prefix("v1.").ok_or(PROBLEM)?;
    let plain = minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
    if !plain {
        return Err(PROBLEM);
    }
    minor.parse().map(Some).map_err(|_| PROBLEM)
}

/// A level of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub(super) level: Level,
    pub(super) version: Version,
}

impl LevelVersion {
    /// The minor version whose checks hold.
    pub(super) fn minor(self) -> u32 {
        self.version.map_or(LATEST_MINOR, |minor| minor.min(LATEST_MINOR))
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            None => write!(f, "{}:latest", self.level.as_str()),
            Some(minor) => write!(f, "{}:v1.{minor}", self.level.as_str()),
        }
    }
}

/// What a namespace asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: LevelVersion,
    pub(super) audit: LevelVersion,
    pub(super) warn: LevelVersion,
}

impl Policy {
    /// The policy of a namespace, and what is wrong with its labels. What cannot be read is the strictest for enforcing
    /// and the laxest for the rest.
    pub(super) fn of(namespace: &Value) -> (Self, Vec<FieldError>) {
        let default = LevelVersion { level: Level::Privileged, version: None };
        let mut policy = Self { enforce: default, audit: default, warn: default };
        let mut errors = Vec::new();
        let label = |name: &str| {
            at(namespace, &["metadata", "labels", &format!("pod-security.kubernetes.io/{name}")])
                .and_then(Value::as_str)
        };
        let mut problem = |name: &str, value: &str, why: &str| {
            let field = format!("metadata.labels[pod-security.kubernetes.io/{name}]");
            errors.push(FieldError::invalid(field, value, why));
        };
        let mut enforced = false;
        for (mode, of_bad, target) in [
            ("enforce", Level::Restricted, &mut policy.enforce),
            ("audit", Level::Privileged, &mut policy.audit),
            ("warn", Level::Privileged, &mut policy.warn),
        ] {
            if let Some(text) = label(mode) {
                let parsed = Level::parse(text);
                enforced |= mode == "enforce" && parsed.is_ok();
                target.level = parsed.unwrap_or_else(|why| {
                    problem(mode, text, why);
                    of_bad
                });
            }
            let version = format!("{mode}-version");
            if let Some(text) = label(&version) {
                target.version = parse_version(text).unwrap_or_else(|why| {
                    problem(&version, text, why);
                    None
                });
            }
        }
        // who enforces a level is warned of it too, unless told otherwise
        if label("warn").is_none() && enforced && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    /// Whether nothing is asked for.
    pub(super) fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|lv| lv.level == Level::Privileged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::{Map, json};

    #[test]
    fn labels_make_policies() {
        let cases = [
            (vec![], "privileged:latest privileged:latest privileged:latest", 0),
            (vec![("enforce", "baseline")], "baseline:latest privileged:latest baseline:latest", 0),
            (
                vec![("enforce", "restricted"), ("enforce-version", "v1.25")],
                "restricted:v1.25 privileged:latest restricted:v1.25",
                0,
            ),
            (
                vec![("enforce", "restricted"), ("warn", "baseline")],
                "restricted:latest privileged:latest baseline:latest",
                0,
            ),
            (
                vec![("enforce", "strict"), ("warn", "x")],
                "restricted:latest privileged:latest privileged:latest",
                2,
            ),
            (
                vec![("audit", "baseline"), ("audit-version", "v1.05")],
                "privileged:latest baseline:latest privileged:latest",
                1,
            ),
        ];
        for (labels, expected, problems) in cases {
            let map: Map =
                labels.iter().map(|(k, v)| (format!("pod-security.kubernetes.io/{k}"), json!(v))).collect();
            let (policy, errors) = Policy::of(&json!({"metadata": {"labels": map}}));
            assert_eq!(
                format!("{} {} {}", policy.enforce, policy.audit, policy.warn),
                expected,
                "{labels:?}"
            );
            assert_eq!(errors.len(), problems, "{labels:?}");
        }
        assert_eq!(LevelVersion { level: Level::Baseline, version: Some(99) }.minor(), LATEST_MINOR);
    }
}
