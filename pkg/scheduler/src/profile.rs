//! Profiles: which plug-ins take part at which extension point, with which weights and arguments.
//!
//! Source: the reference page "Scheduler Configuration": `multiPoint` names plug-ins for every point they implement, a
//! point's own lists add to that or take away from it. [`Framework`] is a profile ready for use.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::args::{Args, ArgsError};
use crate::framework::{Plugin, Point};
use crate::plugins;

/// A plug-in named by the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Weight of its scores; its own when not given.
    #[serde(default)]
    pub weight: Option<i64>,
}

/// `enabled` and `disabled` of one extension point.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginSet {
    /// To be added, in this order.
    pub enabled: Vec<Named>,
    /// To be taken away; `*` for all.
    pub disabled: Vec<Named>,
}

impl PluginSet {
    fn takes_away(&self, name: &str) -> bool {
        self.disabled.iter().any(|plugin| plugin.name == "*" || plugin.name == name)
    }
}

/// `plugins` of a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "each is named after its extension point")]
pub struct PluginSets {
    pub multi_point: PluginSet,
    pub pre_enqueue: PluginSet,
    pub queue_sort: PluginSet,
    pub pre_filter: PluginSet,
    pub filter: PluginSet,
    pub post_filter: PluginSet,
    pub pre_score: PluginSet,
    pub score: PluginSet,
    pub reserve: PluginSet,
    pub permit: PluginSet,
    pub pre_bind: PluginSet,
    pub bind: PluginSet,
    pub post_bind: PluginSet,
}

/// Arguments of one plug-in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginConfig {
    /// Its name.
    pub name: String,
    /// What [`Args::set`] takes.
    pub args: Value,
}

/// One of `profiles`.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Pods ask for it under this name.
    pub scheduler_name: String,
    /// Percentage of nodes that are looked for before scoring; 0 adapts to the size of the cluster.
    pub percentage_of_nodes_to_score: u8,
    /// Changes to the default plug-ins.
    pub plugins: PluginSets,
    /// Arguments.
    pub plugin_config: Vec<PluginConfig>,
}

impl Profile {
    /// The default plug-ins under a name.
    pub fn named(scheduler_name: impl Into<String>) -> Self {
        Self {
            scheduler_name: scheduler_name.into(),
            percentage_of_nodes_to_score: 0,
            plugins: PluginSets::default(),
            plugin_config: Vec::new(),
        }
    }
}

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Nobody knows this plug-in.
    #[error("plugin {0:?} does not exist")]
    Unknown(String),
    /// The plug-in does nothing at this point.
    #[error("plugin {0:?} does not extend {1} plugin")]
    NoSuchPoint(String, &'static str),
    /// Named twice.
    #[error("plugin {0:?} already registered as {1:?}")]
    Twice(String, &'static str),
    /// A point that must have exactly one plug-in has none.
    #[error("at least one {0} plugin is needed for profile with scheduler name {1:?}")]
    Missing(&'static str, String),
    /// Arguments of a plug-in.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// Arguments given twice.
    #[error("repeated config for plugin {0}")]
    RepeatedArgs(String),
    /// Weights too large or not positive.
    #[error("plugin {0:?}: weight {1} is not in the range [1, 100]")]
    Weight(String, i64),
    /// Two profiles of one name.
    #[error("duplicate profile with scheduler name {0:?}")]
    SameName(String),
}

/// A profile with its plug-ins made.
pub struct Framework {
    /// Pods ask for it under this name.
    pub scheduler_name: String,
    /// Percentage of nodes looked for.
    pub percentage: u8,
    /// Filters in their order.
    pub filters: Vec<Arc<dyn Plugin>>,
    /// Scorers with their weights.
    pub scores: Vec<(Arc<dyn Plugin>, i64)>,
    /// Pods of lower priority may be evicted.
    pub preempts: bool,
    /// Gated pods are held back.
    pub holds_gated: bool,
    /// Volumes are bound for pods.
    pub binds_volumes: bool,
    /// Arguments of all plug-ins.
    pub args: Args,
}

/// Plug-ins and weights of one extension point.
fn at_point(
    point: Point,
    own: &PluginSet,
    multi: &[Named],
) -> Result<Vec<(&'static plugins::Known, i64)>, ProfileError> {
    let known = |name: &str| plugins::known(name).ok_or_else(|| ProfileError::Unknown(name.to_owned()));
    let weigh = |named: &Named, known: &'static plugins::Known| -> Result<_, ProfileError> {
        let weight = named.weight.filter(|weight| *weight != 0).unwrap_or(1);
        if point == Point::Score && !(1..=100).contains(&weight) {
            return Err(ProfileError::Weight(named.name.clone(), weight));
        }
        Ok((known, weight))
    };
    let mut explicit: Vec<(&'static plugins::Known, i64)> = Vec::new();
    for named in &own.enabled {
        let plugin = known(&named.name)?;
        if !plugin.points.contains(&point) {
            return Err(ProfileError::NoSuchPoint(named.name.clone(), point.name()));
        }
        if explicit.iter().any(|(held, _)| held.name == plugin.name) {
            return Err(ProfileError::Twice(named.name.clone(), point.name()));
        }
        explicit.push(weigh(named, plugin)?);
    }
    // What multiPoint names as well comes first, then the rest of multiPoint, then what only this point names.
    let in_multi = |name: &str| multi.iter().any(|named| named.name == name);
    let (mut first, last): (Vec<_>, Vec<_>) =
        explicit.into_iter().partition(|(plugin, _)| in_multi(plugin.name));
    let overridden: Vec<&str> = first.iter().map(|(plugin, _)| plugin.name).collect();
    for named in multi {
        let plugin = known(&named.name)?;
        if plugin.points.contains(&point)
            && !own.takes_away(&named.name)
            && !overridden.contains(&plugin.name)
        {
            first.push(weigh(named, plugin)?);
        }
    }
    first.extend(last);
    Ok(first)
}

/// The default list with the profile's changes.
fn multi_point(own: &PluginSet) -> Result<Vec<Named>, ProfileError> {
    let mut list: Vec<Named> = Vec::new();
    for plugin in plugins::KNOWN.iter().filter(|plugin| !own.takes_away(plugin.name)) {
        let replaced = own.enabled.iter().find(|named| named.name == plugin.name);
        let default = || Named { name: plugin.name.to_owned(), weight: Some(plugin.weight) };
        list.push(replaced.cloned().unwrap_or_else(default));
    }
    for named in &own.enabled {
        if plugins::known(&named.name).is_none() {
            return Err(ProfileError::Unknown(named.name.clone()));
        }
        if own.enabled.iter().filter(|other| other.name == named.name).count() > 1 {
            return Err(ProfileError::Twice(named.name.clone(), "MultiPoint"));
        }
        if !list.iter().any(|held| held.name == named.name) {
            list.push(named.clone());
        }
    }
    Ok(list)
}

impl Framework {
    /// Makes a profile's plug-ins.
    pub fn new(profile: &Profile) -> Result<Self, ProfileError> {
        let mut args = Args::default();
        for (index, config) in profile.plugin_config.iter().enumerate() {
            if plugins::known(&config.name).is_none() {
                return Err(ProfileError::Unknown(config.name.clone()));
            }
            if profile.plugin_config[..index].iter().any(|before| before.name == config.name) {
                return Err(ProfileError::RepeatedArgs(config.name.clone()));
            }
            args.set(&config.name, &config.args)?;
        }
        let sets = &profile.plugins;
        let multi = multi_point(&sets.multi_point)?;
        let at = |point: Point, own: &PluginSet| at_point(point, own, &multi);
        let made: Vec<(&str, Arc<dyn Plugin>)> = plugins::make(&args);
        let get = |name: &str| made.iter().find(|(held, _)| *held == name).map(|(_, plugin)| plugin.clone());
        let needs = |point: Point, own: &PluginSet| -> Result<(), ProfileError> {
            if at(point, own)?.is_empty() {
                return Err(ProfileError::Missing(point.name(), profile.scheduler_name.clone()));
            }
            Ok(())
        };
        needs(Point::QueueSort, &sets.queue_sort)?;
        needs(Point::Bind, &sets.bind)?;
        // Preparing belongs to filter and score here; a plug-in that is kept from preparing is kept from both.
        let prepares = |before: &PluginSet, name: &str| !before.takes_away(name);
        let filters = at(Point::Filter, &sets.filter)?
            .into_iter()
            .filter(|(plugin, _)| prepares(&sets.pre_filter, plugin.name))
            .filter_map(|(plugin, _)| get(plugin.name))
            .collect();
        let scores = at(Point::Score, &sets.score)?
            .into_iter()
            .filter(|(plugin, _)| prepares(&sets.pre_score, plugin.name))
            .filter_map(|(plugin, weight)| get(plugin.name).map(|made| (made, weight)))
            .collect();
        let has = |point, own: &PluginSet, name: &str| -> Result<bool, ProfileError> {
            Ok(at(point, own)?.iter().any(|(plugin, _)| plugin.name == name))
        };
        for (point, own) in [
            (Point::PreFilter, &sets.pre_filter),
            (Point::PreScore, &sets.pre_score),
            (Point::Permit, &sets.permit),
            (Point::PostBind, &sets.post_bind),
        ] {
            at(point, own)?;
        }
        Ok(Self {
            scheduler_name: profile.scheduler_name.clone(),
            percentage: profile.percentage_of_nodes_to_score,
            filters,
            scores,
            preempts: has(Point::PostFilter, &sets.post_filter, "DefaultPreemption")?,
            holds_gated: has(Point::PreEnqueue, &sets.pre_enqueue, "SchedulingGates")?,
            binds_volumes: has(Point::Reserve, &sets.reserve, "VolumeBinding")?
                && has(Point::PreBind, &sets.pre_bind, "VolumeBinding")?,
            args,
        })
    }

    /// All profiles of a configuration.
    pub fn all(profiles: &[Profile]) -> Result<Vec<Self>, ProfileError> {
        for (index, profile) in profiles.iter().enumerate() {
            if profiles[..index].iter().any(|before| before.scheduler_name == profile.scheduler_name) {
                return Err(ProfileError::SameName(profile.scheduler_name.clone()));
            }
        }
        profiles.iter().map(Self::new).collect()
    }
}

impl std::fmt::Debug for Framework {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scores = self.scores.iter().map(|(plugin, weight)| (plugin.name(), weight));
        f.debug_struct("Framework")
            .field("scheduler_name", &self.scheduler_name)
            .field("filters", &self.filters.iter().map(|plugin| plugin.name()).collect::<Vec<_>>())
            .field("scores", &scores.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(plugins: Value) -> Result<Framework, ProfileError> {
        let plugins = serde_json::from_value(plugins).expect("plugins");
        Framework::new(&Profile { plugins, ..Profile::named("s") })
    }

    fn scores(framework: &Framework) -> Vec<(&'static str, i64)> {
        framework.scores.iter().map(|(plugin, weight)| (plugin.name(), *weight)).collect()
    }

    #[test]
    fn the_default_profile_is_upstreams() {
        let framework = made(json!({})).expect("valid");
        assert_eq!(
            scores(&framework),
            [
                ("TaintToleration", 3),
                ("NodeAffinity", 2),
                ("NodeResourcesFit", 1),
                ("PodTopologySpread", 2),
                ("InterPodAffinity", 2),
                ("NodeResourcesBalancedAllocation", 1),
                ("ImageLocality", 1)
            ]
        );
        assert!(framework.preempts && framework.holds_gated && framework.binds_volumes);
    }

    #[test]
    fn points_add_to_and_take_from_what_multi_point_says() {
        let only = made(json!({"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "ImageLocality", "weight": 7}]}}))
            .expect("valid");
        assert_eq!(scores(&only), [("ImageLocality", 7)]);
        let first =
            made(json!({"score": {"enabled": [{"name": "NodeAffinity", "weight": 9}]}})).expect("valid");
        assert_eq!(scores(&first)[0], ("NodeAffinity", 9));
        assert_eq!(scores(&first).len(), 7);
        let without = made(json!({
            "multiPoint": {"disabled": [{"name": "ImageLocality"}], "enabled": [{"name": "TaintToleration", "weight": 1}]},
            "filter": {"disabled": [{"name": "NodePorts"}]},
            "postFilter": {"disabled": [{"name": "DefaultPreemption"}]},
        }))
        .expect("valid");
        assert!(!scores(&without).iter().any(|(name, _)| *name == "ImageLocality"));
        assert_eq!(scores(&without)[0], ("TaintToleration", 1));
        assert!(!without.filters.iter().any(|plugin| plugin.name() == "NodePorts"));
        assert!(!without.preempts);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for plugins in [
            json!({"filter": {"enabled": [{"name": "Nonsense"}]}}),
            json!({"multiPoint": {"enabled": [{"name": "Nonsense"}]}}),
            json!({"filter": {"enabled": [{"name": "ImageLocality"}]}}),
            json!({"bind": {"disabled": [{"name": "*"}]}}),
            json!({"queueSort": {"disabled": [{"name": "PrioritySort"}]}}),
            json!({"score": {"enabled": [{"name": "ImageLocality", "weight": 101}]}}),
        ] {
            assert!(made(plugins.clone()).is_err(), "{plugins}");
        }
        let same = [Profile::named("a"), Profile::named("a")];
        assert!(matches!(Framework::all(&same), Err(ProfileError::SameName(_))));
        let config = PluginConfig { name: "NodeName".into(), args: json!({}) };
        assert!(Framework::new(&Profile { plugin_config: vec![config], ..Profile::named("a") }).is_err());
    }
}
