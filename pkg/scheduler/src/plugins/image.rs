//! Nodes that have a pod's images already.

use crate::cache::Snapshot;
use crate::framework::{Change, MAX_NODE_SCORE, Normalise, Plugin, Score};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// Images smaller than this in sum do not matter.
const MIN_BYTES: i64 = 23 << 20;
/// Larger than this, a container's image is as good as can be.
const MAX_CONTAINER_BYTES: i64 = 1000 << 20;

/// Prefers nodes with more bytes of the pod's images, weighed by how many nodes have them.
#[derive(Debug)]
pub(super) struct ImageLocality;

/// The name under which a node lists an image: with a tag.
fn normalised(image: &str) -> String {
    let after_slash = image.rfind('/').map_or(0, |i| i + 1);
    if image[after_slash..].contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a [&'a NodeInfo], snapshot: &'a Snapshot) -> Score<'a> {
        if pod.images.is_empty() || snapshot.nodes.is_empty() {
            return Score::Skip;
        }
        let total = snapshot.nodes.len() as i64;
        let images: Vec<(String, i64)> = pod
            .images
            .iter()
            .map(|image| {
                let name = normalised(image);
                let having = snapshot.nodes.iter().filter(|n| n.images.contains_key(&name)).count() as i64;
                (name, having)
            })
            .collect();
        let most = MAX_CONTAINER_BYTES * images.len() as i64;
        Score::Each(
            Box::new(move |node| {
                let sum: i64 = images
                    .iter()
                    .filter_map(|(name, having)| Some(node.images.get(name)? * having / total))
                    .sum();
                MAX_NODE_SCORE * (sum.clamp(MIN_BYTES, most) - MIN_BYTES) / (most - MIN_BYTES)
            }),
            Normalise::None,
        )
    }

    fn wakes(&self, _: &Change<'_>, _: &PodInfo, _: &Snapshot) -> bool {
        false
    }
}
