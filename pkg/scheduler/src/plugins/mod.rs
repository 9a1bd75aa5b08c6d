//! The plug-ins, under upstream's names, in upstream's order.

mod affinity;
mod image;
mod node_fit;
mod nodes;
mod scoring;
mod spread;
mod volumes;

use std::sync::Arc;

use crate::args::Args;
use crate::framework::{Plugin, Point};

/// What is known of a plug-in without its arguments.
#[derive(Debug)]
pub struct Known {
    /// Upstream's name.
    pub name: &'static str,
    /// Extension points it takes part in.
    pub points: &'static [Point],
    /// Default weight of its scores.
    pub weight: i64,
}

const fn plugin(name: &'static str, points: &'static [Point], weight: i64) -> Known {
    Known { name, points, weight }
}

/// All plug-ins, in the order in which filters run and reasons are reported.
pub const KNOWN: &[Known] = {
    use Point::{
        Bind, Filter, PostFilter, PreBind, PreEnqueue, PreFilter, PreScore, QueueSort, Reserve, Score,
    };
    &[
        plugin("SchedulingGates", &[PreEnqueue], 1),
        plugin("PrioritySort", &[QueueSort], 1),
        plugin("NodeUnschedulable", &[Filter], 1),
        plugin("NodeName", &[Filter], 1),
        plugin("TaintToleration", &[Filter, PreScore, Score], 3),
        plugin("NodeAffinity", &[PreFilter, Filter, PreScore, Score], 2),
        plugin("NodePorts", &[PreFilter, Filter], 1),
        plugin("NodeResourcesFit", &[PreFilter, Filter, PreScore, Score], 1),
        plugin("VolumeRestrictions", &[PreFilter, Filter], 1),
        plugin("NodeVolumeLimits", &[PreFilter, Filter], 1),
        plugin("VolumeBinding", &[PreFilter, Filter, Reserve, PreBind], 1),
        plugin("VolumeZone", &[PreFilter, Filter], 1),
        plugin("PodTopologySpread", &[PreFilter, Filter, PreScore, Score], 2),
        plugin("InterPodAffinity", &[PreFilter, Filter, PreScore, Score], 2),
        plugin("DefaultPreemption", &[PostFilter], 1),
        plugin("NodeResourcesBalancedAllocation", &[PreScore, Score], 1),
        plugin("ImageLocality", &[Score], 1),
        plugin("DefaultBinder", &[Bind], 1),
    ]
};

/// The plug-in of a name.
pub fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|plugin| plugin.name == name)
}

/// Makes the plug-ins that filter or score. The others (queue order, gates, preemption, binding) are built into queue
/// and loop, and switched by name.
pub fn make(args: &Args) -> Vec<(&'static str, Arc<dyn Plugin>)> {
    let all: [Arc<dyn Plugin>; 14] = [
        Arc::new(nodes::NodeUnschedulable),
        Arc::new(nodes::NodeName),
        Arc::new(nodes::TaintToleration),
        Arc::new(nodes::NodeAffinity::new(&args.node_affinity)),
        Arc::new(nodes::NodePorts),
        Arc::new(node_fit::NodeResourcesFit::new(&args.fit)),
        Arc::new(volumes::VolumeRestrictions),
        Arc::new(volumes::NodeVolumeLimits),
        Arc::new(volumes::VolumeBinding),
        Arc::new(volumes::VolumeZone),
        Arc::new(spread::PodTopologySpread::new(&args.spread)),
        Arc::new(affinity::InterPodAffinity::new(&args.inter_pod)),
        Arc::new(node_fit::BalancedAllocation::new(&args.balanced)),
        Arc::new(image::ImageLocality),
    ];
    all.into_iter().map(|plugin| (plugin.name(), plugin)).collect()
}
