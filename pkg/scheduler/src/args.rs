//! Arguments of plug-ins (`profiles[].pluginConfig`), as kubescheduler.config.k8s.io/v1 writes them.
//!
//! Source: the reference page "kube-scheduler Configuration (v1)" and upstream's `pkg/scheduler/apis/config/validation`.

use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Version of the kinds of arguments.
const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
/// Largest weight of a resource, and of pods' required affinity.
const MAX_WEIGHT: i64 = 100;
/// Scores of a shape's points are given up to this.
pub(crate) const MAX_SHAPE_SCORE: i64 = 10;

/// Arguments that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("pluginConfig[{plugin}].args: {why}")]
pub struct ArgsError {
    /// The plug-in.
    pub plugin: String,
    /// What is wrong.
    pub why: String,
}

/// A resource and how much it counts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Weighted {
    /// Name of the resource.
    pub name: String,
    /// 1 to 100.
    #[serde(default = "one")]
    pub weight: i64,
}

const fn one() -> i64 {
    1
}

fn cpu_and_memory() -> Vec<Weighted> {
    ["cpu", "memory"].map(|name| Weighted { name: name.into(), weight: 1 }).to_vec()
}

/// How used nodes are preferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum StrategyType {
    /// Those with most left.
    #[default]
    LeastAllocated,
    /// Those with least left.
    MostAllocated,
    /// As a function of the fraction that would be used.
    RequestedToCapacityRatio,
}

/// A point of a score function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShapePoint {
    /// 0 to 100 percent.
    pub utilization: i64,
    /// 0 to 10.
    pub score: i64,
}

/// Parameters of [`StrategyType::RequestedToCapacityRatio`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ratio {
    /// Points in order of utilization.
    pub shape: Vec<ShapePoint>,
}

/// `scoringStrategy`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Strategy {
    /// Which one.
    #[serde(rename = "type")]
    pub kind: StrategyType,
    /// What is looked at.
    pub resources: Vec<Weighted>,
    /// Shape of the function.
    pub requested_to_capacity_ratio: Option<Ratio>,
}

impl Default for Strategy {
    fn default() -> Self {
        Self { kind: StrategyType::default(), resources: cpu_and_memory(), requested_to_capacity_ratio: None }
    }
}

/// NodeResourcesFitArgs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FitArgs {
    /// Extended resources that need not fit.
    pub ignored_resources: Vec<String>,
    /// Groups (`example.com` of `example.com/gpu`) whose resources need not fit.
    pub ignored_resource_groups: Vec<String>,
    /// How nodes are scored.
    pub scoring_strategy: Strategy,
}

/// NodeResourcesBalancedAllocationArgs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BalancedArgs {
    /// What is balanced; weights are 1.
    pub resources: Vec<Weighted>,
}

impl Default for BalancedArgs {
    fn default() -> Self {
        Self { resources: cpu_and_memory() }
    }
}

/// Where constraints come from for pods that have none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Defaulting {
    /// Hosts and zones, preferred.
    #[default]
    System,
    /// The list in the arguments.
    List,
}

/// PodTopologySpreadArgs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SpreadArgs {
    /// Constraints of pods that have none; without selectors, which come from the pod's services and controllers.
    pub default_constraints: Vec<TopologySpreadConstraint>,
    /// Whether the list counts.
    pub defaulting_type: Defaulting,
}

/// InterPodAffinityArgs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InterPodArgs {
    /// Weight of running pods' *required* affinity to the pod.
    pub hard_pod_affinity_weight: i64,
    /// Whether running pods' wishes count only for pods that have some themselves.
    pub ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for InterPodArgs {
    fn default() -> Self {
        Self { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

/// NodeAffinityArgs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeAffinityArgs {
    /// Holds for all pods, beside their own.
    pub added_affinity: Option<NodeAffinity>,
}

/// VolumeBindingArgs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VolumeBindingArgs {
    /// How long a pod waits for its volumes before it is tried again, in seconds.
    pub bind_timeout_seconds: i64,
}

impl Default for VolumeBindingArgs {
    fn default() -> Self {
        Self { bind_timeout_seconds: 600 }
    }
}

/// DefaultPreemptionArgs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PreemptionArgs {
    /// At least this percentage of the nodes is looked at for victims.
    pub min_candidate_nodes_percentage: i64,
    /// At least this many nodes are.
    pub min_candidate_nodes_absolute: i64,
}

impl Default for PreemptionArgs {
    fn default() -> Self {
        Self { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

/// Arguments of all plug-ins that take some.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "each is named after its plug-in")]
pub struct Args {
    pub fit: FitArgs,
    pub balanced: BalancedArgs,
    pub spread: SpreadArgs,
    pub inter_pod: InterPodArgs,
    pub node_affinity: NodeAffinityArgs,
    pub volume_binding: VolumeBindingArgs,
    pub preemption: PreemptionArgs,
}

impl Args {
    /// Takes over the arguments of one plug-in.
    pub fn set(&mut self, plugin: &str, args: &Value) -> Result<(), ArgsError> {
        let wrong = |why: String| ArgsError { plugin: plugin.to_owned(), why };
        let checked = match plugin {
            "NodeResourcesFit" => {
                read(plugin, args).and_then(|args| check_fit(&args).map(|()| self.fit = args))
            }
            "NodeResourcesBalancedAllocation" => {
                read(plugin, args).and_then(|args| check_balanced(&args).map(|()| self.balanced = args))
            }
            "PodTopologySpread" => {
                read(plugin, args).and_then(|args| check_spread(&args).map(|()| self.spread = args))
            }
            "InterPodAffinity" => read(plugin, args).and_then(|args: InterPodArgs| {
                within("hardPodAffinityWeight", args.hard_pod_affinity_weight, 0, MAX_WEIGHT)?;
                self.inter_pod = args;
                Ok(())
            }),
            "NodeAffinity" => read(plugin, args).map(|args| self.node_affinity = args),
            "VolumeBinding" => read(plugin, args).and_then(|args: VolumeBindingArgs| {
                within("bindTimeoutSeconds", args.bind_timeout_seconds, 0, i64::MAX)?;
                self.volume_binding = args;
                Ok(())
            }),
            "DefaultPreemption" => read(plugin, args).and_then(|args: PreemptionArgs| {
                let (percentage, absolute) =
                    (args.min_candidate_nodes_percentage, args.min_candidate_nodes_absolute);
                within("minCandidateNodesPercentage", percentage, 0, 100)?;
                within("minCandidateNodesAbsolute", absolute, 0, i64::MAX)?;
                if percentage == 0 && absolute == 0 {
                    return Err(
                        "both minCandidateNodesPercentage and minCandidateNodesAbsolute cannot be zero"
                            .into(),
                    );
                }
                self.preemption = args;
                Ok(())
            }),
            _ => Err("the plugin takes no arguments".into()),
        };
        checked.map_err(wrong)
    }

    /// [`PreemptionArgs`] applied: nodes to look at in a cluster of this many.
    pub(crate) fn candidates(&self, nodes: usize) -> usize {
        let share =
            nodes * usize::try_from(self.preemption.min_candidate_nodes_percentage).unwrap_or(0) / 100;
        share.max(usize::try_from(self.preemption.min_candidate_nodes_absolute).unwrap_or(0)).min(nodes)
    }

    /// How long a pod waits for its volumes.
    pub(crate) fn bind_timeout(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.volume_binding.bind_timeout_seconds).unwrap_or(0))
    }
}

/// Decodes arguments; kind and version may be left out and must be right where they are not.
fn read<T: DeserializeOwned>(plugin: &str, args: &Value) -> Result<T, String> {
    let mut args = args.clone();
    if let Some(map) = args.as_object_mut() {
        let kind = format!("{plugin}Args");
        for (key, expected) in [("apiVersion", API_VERSION), ("kind", kind.as_str())] {
            if let Some(given) = map.remove(key)
                && given != expected
            {
                return Err(format!("{key}: Invalid value: {given}: must be {expected:?}"));
            }
        }
    }
    serde_json::from_value(args).map_err(|error| error.to_string())
}

fn within(field: &str, value: i64, from: i64, to: i64) -> Result<(), String> {
    if (from..=to).contains(&value) {
        return Ok(());
    }
    Err(format!("{field}: Invalid value: {value}: not in valid range [{from}, {to}]"))
}

fn check_resources(resources: &[Weighted]) -> Result<(), String> {
    resources
        .iter()
        .try_for_each(|r| within(&format!("resources[{}].weight", r.name), r.weight, 1, MAX_WEIGHT))
}

fn check_fit(args: &FitArgs) -> Result<(), String> {
    if let Some(group) = args.ignored_resource_groups.iter().find(|group| group.contains('/')) {
        return Err(format!(
            "ignoredResourceGroups: Invalid value: {group:?}: resource group name can't contain '/'"
        ));
    }
    let strategy = &args.scoring_strategy;
    check_resources(&strategy.resources)?;
    if strategy.kind != StrategyType::RequestedToCapacityRatio {
        return Ok(());
    }
    let shape = strategy.requested_to_capacity_ratio.as_ref().map_or(&[] as &[_], |ratio| &ratio.shape);
    if shape.is_empty() {
        return Err(
            "requestedToCapacityRatio.shape: Required value: at least one point must be specified".into()
        );
    }
    for (index, point) in shape.iter().enumerate() {
        within(&format!("shape[{index}].utilization"), point.utilization, 0, 100)?;
        within(&format!("shape[{index}].score"), point.score, 0, MAX_SHAPE_SCORE)?;
    }
    if shape.windows(2).any(|pair| pair[0].utilization >= pair[1].utilization) {
        return Err("shape: utilization values must be sorted in increasing order".into());
    }
    Ok(())
}

fn check_balanced(args: &BalancedArgs) -> Result<(), String> {
    match args.resources.iter().find(|resource| resource.weight != 1) {
        Some(other) => {
            Err(format!("resources[{}].weight: Invalid value: {}: must be 1", other.name, other.weight))
        }
        None => Ok(()),
    }
}

fn check_spread(args: &SpreadArgs) -> Result<(), String> {
    if args.defaulting_type == Defaulting::System && !args.default_constraints.is_empty() {
        return Err(
            "defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty".into()
        );
    }
    for constraint in &args.default_constraints {
        within("defaultConstraints.maxSkew", constraint.max_skew.into(), 1, i64::from(i32::MAX))?;
        if constraint.topology_key.is_empty() {
            return Err("defaultConstraints.topologyKey: Required value: can not be empty".into());
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&constraint.when_unsatisfiable.as_str()) {
            return Err(format!(
                "defaultConstraints.whenUnsatisfiable: Unsupported value: {:?}",
                constraint.when_unsatisfiable
            ));
        }
        if constraint.label_selector.is_some() {
            return Err(
                "defaultConstraints.labelSelector: Forbidden: constraint must not define a selector, as they deduced \
                 for each pod"
                    .into(),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(plugin: &str, args: &Value) -> Result<Args, ArgsError> {
        let mut all = Args::default();
        all.set(plugin, args).map(|()| all)
    }

    #[test]
    fn arguments_replace_the_defaults() {
        let args = json!({
            "apiVersion": API_VERSION, "kind": "NodeResourcesFitArgs", "ignoredResources": ["example.com/a"],
            "scoringStrategy": {"type": "MostAllocated", "resources": [{"name": "cpu", "weight": 3}]},
        });
        let all = set("NodeResourcesFit", &args).expect("valid");
        assert_eq!(all.fit.scoring_strategy.kind, StrategyType::MostAllocated);
        assert_eq!(all.fit.scoring_strategy.resources[0].weight, 3);
        assert_eq!(set("InterPodAffinity", &json!({})).expect("valid"), Args::default());
        let few = set("DefaultPreemption", &json!({"minCandidateNodesAbsolute": 3})).expect("valid");
        assert_eq!((few.candidates(20), few.candidates(100), few.candidates(2)), (3, 10, 2));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let point = |utilization: i64| json!({"utilization": utilization, "score": 5});
        let ratio = |shape: Value| json!({"scoringStrategy": {"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": {"shape": shape}}});
        for (plugin, args) in [
            ("NodeName", json!({})),
            ("NodeResourcesFit", json!({"kind": "OtherArgs"})),
            ("NodeResourcesFit", json!({"typo": 1})),
            ("NodeResourcesFit", json!({"ignoredResourceGroups": ["a/b"]})),
            ("NodeResourcesFit", json!({"scoringStrategy": {"resources": [{"name": "cpu", "weight": 0}]}})),
            ("NodeResourcesFit", ratio(json!([]))),
            ("NodeResourcesFit", ratio(json!([point(5), point(5)]))),
            ("NodeResourcesBalancedAllocation", json!({"resources": [{"name": "cpu", "weight": 2}]})),
            ("InterPodAffinity", json!({"hardPodAffinityWeight": 101})),
            (
                "PodTopologySpread",
                json!({"defaultConstraints": [
                {"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "ScheduleAnyway"}]}),
            ),
            ("VolumeBinding", json!({"bindTimeoutSeconds": -1})),
            ("DefaultPreemption", json!({"minCandidateNodesAbsolute": 0, "minCandidateNodesPercentage": 0})),
        ] {
            assert!(set(plugin, &args).is_err(), "{plugin}: {args}");
        }
    }
}
