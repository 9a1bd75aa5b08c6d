//! Which versions are served: what `--runtime-config` says.
//!
//! Source: `k8s.io/apiserver/pkg/server/resourceconfig`: stable versions are on, beta and alpha ones off; keys are
//! `api/all`, `api/ga`, `api/beta`, `api/alpha`, a group version, or a group version and resource, the more special
//! ones win.

use std::collections::BTreeMap;

use crate::resources::{group_versions, has_resource};

/// Which versions and resources are served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServedVersions {
    stability: BTreeMap<Stability, bool>,
    versions: BTreeMap<String, bool>,
    resources: BTreeMap<String, bool>,
}

/// Why a `--runtime-config` was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeConfigError {
    /// The value is neither `true` nor `false`.
    #[error("invalid value of {key}={value}, must be true or false")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Nothing of that name exists in this release.
    #[error("unknown api groups or versions: {0}")]
    Unknown(String),
}

/// How stable a version says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stability {
    Stable,
    Beta,
    Alpha,
}

fn stability(version: &str) -> Stability {
    if version.contains("alpha") {
        Stability::Alpha
    } else if version.contains("beta") {
        Stability::Beta
    } else {
        Stability::Stable
    }
}

impl ServedVersions {
    /// What `--runtime-config KEY=VALUE,...` asks for; an empty value means `true`.
    pub fn from_runtime_config<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, RuntimeConfigError> {
        let mut served = Self::default();
        for (key, value) in entries {
            let on = match value {
                "" | "true" | "1" | "t" | "T" | "TRUE" | "True" => true,
                "false" | "0" | "f" | "F" | "FALSE" | "False" => false,
                _ => return Err(RuntimeConfigError::Value { key: key.into(), value: value.into() }),
            };
            served.set(key, on)?;
        }
        Ok(served)
    }

    fn set(&mut self, key: &str, on: bool) -> Result<(), RuntimeConfigError> {
        let levels: &[Stability] = match key {
            "api/all" => &[Stability::Stable, Stability::Beta, Stability::Alpha],
            "api/ga" => &[Stability::Stable],
            "api/beta" => &[Stability::Beta],
            "api/alpha" => &[Stability::Alpha],
            _ => &[],
        };
        if !levels.is_empty() {
            for level in levels {
                // the special keys win over `api/all` in any order
                if key == "api/all" {
                    self.stability.entry(*level).or_insert(on);
                } else {
                    self.stability.insert(*level, on);
                }
            }
            return Ok(());
        }
        let key = key.strip_prefix("api/").unwrap_or(key);
        if group_versions().any(|known| known == key) {
            self.versions.insert(key.into(), on);
            return Ok(());
        }
        match key.rsplit_once('/') {
            Some((version, resource)) if has_resource(version, resource) => {
                self.resources.insert(key.into(), on);
                Ok(())
            }
            _ => Err(RuntimeConfigError::Unknown(key.into())),
        }
    }

    /// Whether a resource is served in a group version (`v1`, `apps/v1`).
    pub fn serves(&self, group_version: &str, resource: &str) -> bool {
        let version = group_version.rsplit('/').next().unwrap_or_default();
        let level = stability(version);
        self.resources
            .get(&format!("{group_version}/{resource}"))
            .or_else(|| self.versions.get(group_version))
            .or_else(|| self.stability.get(&level))
            .copied()
            .unwrap_or(level == Stability::Stable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_keys_win() {
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str, bool);
        let cases: [Case<'_>; 9] = [
            (&[], "v1", "pods", true),
            (&[], "resource.k8s.io/v1beta1", "deviceclasses", false),
            (&[("api/beta", "true")], "resource.k8s.io/v1beta1", "deviceclasses", true),
            (&[("api/beta", "")], "resource.k8s.io/v1alpha3", "devicetaintrules", false),
            (&[("api/all", "true")], "resource.k8s.io/v1alpha3", "devicetaintrules", true),
            (&[("api/all", "false"), ("api/v1", "true")], "v1", "pods", true),
            (&[("api/all", "false"), ("api/v1", "true")], "apps/v1", "deployments", false),
            (&[("apps/v1", "false")], "apps/v1", "deployments", false),
            (&[("apps/v1", "false"), ("apps/v1/deployments", "true")], "apps/v1", "deployments", true),
        ];
        for (config, version, resource, expected) in cases {
            let served = ServedVersions::from_runtime_config(config.iter().copied()).expect("a valid config");
            assert_eq!(served.serves(version, resource), expected, "{config:?} {version} {resource}");
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(ServedVersions::from_runtime_config([("nothing/v1", "true")]).is_err());
        assert!(ServedVersions::from_runtime_config([("apps/v1/nothing", "true")]).is_err());
        assert!(ServedVersions::from_runtime_config([("apps/v1", "maybe")]).is_err());
    }
}
