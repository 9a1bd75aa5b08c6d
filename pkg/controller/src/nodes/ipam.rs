//! The node IPAM controller: a range of pod addresses for each node (upstream's RangeAllocator).
//!
//! What is taken is read off the nodes themselves at every assignment, so nothing has to be kept or rebuilt; one worker
//! assigns, so no range is given twice.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use client::events::{EventRecorder, EventType, reference};
use client::rest::{Patch, Rest};
use client::workqueue::WorkQueue;
use client::{Event, Store, is_not_found};
use futures::future::BoxFuture;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use parking_lot::Mutex;
use serde_json::json;

use crate::context::{Context, Key, Next, Reconcile, SyncError, SyncResult};
use crate::resources::NODES;

/// One range that is cut into node ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pool {
    range: IpNet,
    /// Prefix length of a node's range.
    prefix: u8,
    /// Ranges that must stay free (Service addresses).
    reserved: Vec<IpNet>,
}

impl Pool {
    /// The first range that nobody has.
    fn first_free(&self, taken: &HashSet<IpNet>) -> Option<IpNet> {
        let bits = u32::from(self.prefix.checked_sub(self.range.prefix_len())?).min(63);
        (0..1_u64 << bits).find_map(|index| {
            let candidate = self.at(index)?;
            let reserved = self.reserved.iter().any(|r| r.contains(&candidate) || candidate.contains(r));
            (!reserved && !taken.contains(&candidate)).then_some(candidate)
        })
    }

    /// The node range of an index.
    fn at(&self, index: u64) -> Option<IpNet> {
        let width = self.range.max_prefix_len() - self.prefix;
        let offset = u128::from(index).checked_shl(width.into())?;
        Some(match self.range {
            IpNet::V4(range) => {
                let base = u32::from(range.network());
                let address = base.checked_add(u32::try_from(offset).ok()?)?;
                IpNet::V4(Ipv4Net::new(Ipv4Addr::from(address), self.prefix).ok()?)
            }
            IpNet::V6(range) => {
                let address = u128::from(range.network()).checked_add(offset)?;
                IpNet::V6(Ipv6Net::new(Ipv6Addr::from(address), self.prefix).ok()?)
            }
        })
    }
}

fn held(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let many = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    let one = spec.and_then(|spec| spec.pod_cidr.clone());
    many.iter().chain(one.iter().filter(|_| many.is_empty())).filter_map(|text| text.parse().ok()).collect()
}

/// A range from each pool; `None` when one is used up.
fn assign(pools: &[Pool], taken: &HashSet<IpNet>) -> Option<Vec<IpNet>> {
    pools.iter().map(|pool| pool.first_free(taken)).collect()
}

struct Controller {
    nodes: Store<Node>,
    pools: Vec<Pool>,
    /// Ranges given that the informer may not show yet.
    given: Mutex<HashMap<String, Vec<IpNet>>>,
    rest: Rest,
    recorder: EventRecorder,
}

/// Starts the controller; without `--allocate-node-cidrs` there is nothing to do.
pub(crate) fn start(context: &Context) {
    let config = &context.config;
    if !config.allocate_node_cidrs {
        return;
    }
    let pools = config
        .cluster_cidrs
        .iter()
        .map(|range| Pool {
            range: *range,
            prefix: if matches!(range.network(), IpAddr::V4(_)) {
                config.node_cidr_mask_v4
            } else {
                config.node_cidr_mask_v6
            },
            reserved: config.service_cidrs.clone(),
        })
        .collect();
    let queue = WorkQueue::new("node_ipam");
    let nodes = context.informer::<Node>();
    let controller = Arc::new(Controller {
        nodes: nodes.store(),
        pools,
        given: Mutex::default(),
        rest: context.rest("node-controller"),
        recorder: context.recorder("cidrAllocator"),
    });
    let (adds, handler) = (queue.clone(), controller.clone());
    nodes.on_event(move |event| {
        let name = event.object().name_any();
        if matches!(event, Event::Deleted(_)) {
            handler.given.lock().remove(&name);
        } else if held(event.object()).is_empty() {
            adds.add(Key::new("", name));
        }
    });
    context.work("node-ipam-controller", &queue, 1, controller);
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(node) = self.nodes.get("", &key.name) else { return Ok(Next::OnChange) };
        if !held(&node).is_empty() || self.pools.is_empty() {
            return Ok(Next::OnChange);
        }
        let assigned = self.given.lock().get(&key.name).cloned();
        let assigned = assigned.or_else(|| {
            let mut taken: HashSet<IpNet> = self.nodes.list().iter().flat_map(|node| held(node)).collect();
            taken.extend(self.given.lock().values().flatten());
            assign(&self.pools, &taken)
        });
        let Some(ranges) = assigned else {
            let note = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.event(&reference(&*node), EventType::Normal, "CIDRNotAvailable", "", note);
            return Err(SyncError::other(
                "CIDR allocation failed; there are no remaining CIDRs left to allocate in the accepted range",
            ));
        };
        self.given.lock().insert(key.name.clone(), ranges.clone());
        let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let patch = json!({"spec": {"podCIDR": texts.first(), "podCIDRs": texts}});
        match self.rest.patch(&NODES, ("", &key.name), "", Patch::Strategic, &patch).await {
            Ok(_) => Ok(Next::OnChange),
            Err(error) => {
                self.given.lock().remove(&key.name);
                if is_not_found(&error) {
                    return Ok(Next::OnChange);
                }
                let note = format!("Node {} status is now: CIDRAssignmentFailed", key.name);
                self.recorder.event(&reference(&*node), EventType::Normal, "CIDRAssignmentFailed", "", note);
                Err(error.into())
            }
        }
    }
}

impl Reconcile for Controller {
    fn reconcile<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, SyncResult> {
        Box::pin(self.sync(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(range: &str, prefix: u8, reserved: &[&str]) -> Pool {
        let net = |text: &str| text.parse().expect("a network");
        Pool { range: net(range), prefix, reserved: reserved.iter().map(|text| net(text)).collect() }
    }

    #[test]
    fn ranges_are_cut_in_order_past_what_is_taken_and_reserved() {
        let cases = [
            (pool("10.244.0.0/16", 24, &[]), vec![], Some("10.244.0.0/24")),
            (pool("10.244.0.0/16", 24, &[]), vec!["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24")),
            (pool("10.0.0.0/8", 24, &["10.0.0.0/16"]), vec![], Some("10.1.0.0/24")),
            (pool("10.0.0.0/23", 24, &["10.0.0.0/26"]), vec![], Some("10.0.1.0/24")),
            (pool("10.0.0.0/24", 24, &[]), vec!["10.0.0.0/24"], None),
            (pool("10.0.0.0/24", 16, &[]), vec![], None),
            (pool("fd00::/48", 64, &[]), vec!["fd00::/64"], Some("fd00:0:0:1::/64")),
        ];
        for (pool, taken, expected) in cases {
            let taken = taken.iter().map(|text| text.parse().expect("a network")).collect();
            assert_eq!(
                pool.first_free(&taken),
                expected.map(|text| text.parse().expect("a network")),
                "{pool:?}"
            );
        }
    }
}
