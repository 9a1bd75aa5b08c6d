//! Strategies that make a score of how much of a node is used.
//!
//! Source: "Resource Bin Packing", upstream's `noderesources` plug-ins.

use crate::args::{MAX_SHAPE_SCORE, ShapePoint, Strategy, StrategyType, Weighted};
use crate::framework::MAX_NODE_SCORE;
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// How a node would be used: amount and all of it, by resource.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) used: i64,
    pub(super) all: i64,
}

/// A resource of a node with the pod on it. `counted` adds a little for containers that ask for nothing. `None` for
/// resources the node does not have, and for extended ones the pod does not ask for.
pub(super) fn usage(resource: &str, pod: &PodInfo, node: &NodeInfo, counted: bool) -> Option<Usage> {
    let (asked, held, all) = (&pod.requests, &node.requested, &node.allocatable);
    let (used, all) = match resource {
        "cpu" if counted => (node.non_zero.0 + pod.non_zero.0, all.milli_cpu),
        "cpu" => (held.milli_cpu + asked.milli_cpu, all.milli_cpu),
        "memory" if counted => (node.non_zero.1 + pod.non_zero.1, all.memory),
        "memory" => (held.memory + asked.memory, all.memory),
        "ephemeral-storage" => (held.ephemeral_storage + asked.ephemeral_storage, all.ephemeral_storage),
        name => {
            let of = |list: &crate::resources::Resources| list.scalar.get(name).copied().unwrap_or(0);
            if of(asked) == 0 {
                return None;
            }
            (of(held) + of(asked), of(all))
        }
    };
    (all > 0).then_some(Usage { used, all })
}

/// A score function through points, level before the first and after the last.
#[derive(Debug, Clone, Default)]
struct Shape(Vec<ShapePoint>);

impl Shape {
    /// The score (0 to 100) of a utilization in percent.
    fn at(&self, utilization: i64) -> i64 {
        let scaled = |point: &ShapePoint| point.score * (MAX_NODE_SCORE / MAX_SHAPE_SCORE);
        let Some(after) = self.0.iter().position(|point| utilization <= point.utilization) else {
            return self.0.last().map_or(0, scaled);
        };
        let next = &self.0[after];
        let Some(before) = after.checked_sub(1).map(|index| &self.0[index]) else { return scaled(next) };
        let (rise, run) = (scaled(next) - scaled(before), next.utilization - before.utilization);
        scaled(before) + rise * (utilization - before.utilization) / run
    }
}

/// `scoringStrategy`, ready for use.
#[derive(Debug, Clone)]
pub(super) struct Scorer {
    kind: StrategyType,
    resources: Vec<Weighted>,
    shape: Shape,
}

impl Scorer {
    pub(super) fn new(strategy: &Strategy) -> Self {
        let shape = strategy.requested_to_capacity_ratio.as_ref().map(|ratio| ratio.shape.clone());
        Self {
            kind: strategy.kind,
            resources: strategy.resources.clone(),
            shape: Shape(shape.unwrap_or_default()),
        }
    }

    fn of(&self, Usage { used, all }: Usage) -> i64 {
        match self.kind {
            StrategyType::LeastAllocated if used > all => 0,
            StrategyType::LeastAllocated => (all - used) * MAX_NODE_SCORE / all,
            StrategyType::MostAllocated => used.min(all) * MAX_NODE_SCORE / all,
            StrategyType::RequestedToCapacityRatio => self.shape.at(100.min(used * 100 / all)),
        }
    }

    /// The weighted mean over the resources.
    pub(super) fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for resource in &self.resources {
            let Some(usage) = usage(&resource.name, pod, node, true) else { continue };
            let score = self.of(usage);
            // As upstream: a ratio that scores nothing does not count at all.
            if self.kind == StrategyType::RequestedToCapacityRatio && score == 0 {
                continue;
            }
            sum += score * resource.weight;
            weights += resource.weight;
        }
        match (weights, self.kind) {
            (0, _) => 0,
            (_, StrategyType::RequestedToCapacityRatio) => (sum as f64 / weights as f64).round() as i64,
            _ => sum / weights,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Ratio;
    use crate::testing::{node, pod, snapshot};

    #[test]
    fn strategies_prefer_what_they_say() {
        let nodes = snapshot(
            vec![node("n").allocatable("4", "8Gi", "110")],
            vec![pod("a").requests("1", "1Gi").on("n")],
        )
        .nodes;
        let waiting = pod("b").requests("1", "1Gi").build();
        let cpu = |kind| Strategy {
            kind,
            resources: vec![Weighted { name: "cpu".into(), weight: 1 }],
            requested_to_capacity_ratio: Some(Ratio {
                shape: vec![
                    ShapePoint { utilization: 0, score: 0 },
                    ShapePoint { utilization: 100, score: 10 },
                ],
            }),
        };
        for (kind, score) in [
            (StrategyType::LeastAllocated, 50),
            (StrategyType::MostAllocated, 50),
            (StrategyType::RequestedToCapacityRatio, 50),
        ] {
            assert_eq!(Scorer::new(&cpu(kind)).score(&waiting, &nodes[0]), score, "{kind:?}");
        }
        let mut both = cpu(StrategyType::MostAllocated);
        both.resources = vec![
            Weighted { name: "cpu".into(), weight: 3 },
            Weighted { name: "memory".into(), weight: 1 },
            Weighted { name: "example.com/none".into(), weight: 50 },
        ];
        assert_eq!(Scorer::new(&both).score(&waiting, &nodes[0]), (50 * 3 + 25) / 4);
    }

    #[test]
    fn shapes_are_level_outside_and_straight_between_their_points() {
        let point = |utilization, score| ShapePoint { utilization, score };
        let shape = Shape(vec![point(20, 10), point(60, 0), point(80, 5)]);
        for (utilization, score) in [(0, 100), (20, 100), (40, 50), (60, 0), (70, 25), (100, 50)] {
            assert_eq!(shape.at(utilization), score, "{utilization}");
        }
    }
}
