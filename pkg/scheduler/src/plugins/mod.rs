//! The plug-ins, under upstream's names, in upstream's order.

mod affinity;
mod image;
mod node_fit;
mod nodes;
mod spread;

use crate::framework::Plugin;

pub use affinity::InterPodAffinity;
pub use image::ImageLocality;
pub use node_fit::{BalancedAllocation, NodeResourcesFit};
pub use nodes::{NodeAffinity, NodeName, NodePorts, NodeUnschedulable, TaintToleration};
pub use spread::PodTopologySpread;

/// All plug-ins, in the order in which filters run and reasons are reported.
pub fn all() -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(NodeUnschedulable),
        Box::new(NodeName),
        Box::new(TaintToleration),
        Box::new(NodeAffinity),
        Box::new(NodePorts),
        Box::new(NodeResourcesFit),
        Box::new(PodTopologySpread),
        Box::new(InterPodAffinity),
        Box::new(BalancedAllocation),
        Box::new(ImageLocality),
    ]
}
