//! Pods that want to be near other pods, or far from them.

use std::collections::HashMap;

use crate::args::InterPodArgs;
use crate::cache::Snapshot;
use crate::framework::{Change, Filter, Normalise, Plugin, Score, Unfit};
use crate::node::NodeInfo;
use crate::pod::{AffinityTerm, PodInfo};

/// Pod affinity and anti-affinity, required and preferred, of the pod and of those that run.
#[derive(Debug)]
pub(super) struct InterPodAffinity {
    args: InterPodArgs,
}

impl InterPodAffinity {
    /// With its arguments.
    pub(super) fn new(args: &InterPodArgs) -> Self {
        Self { args: args.clone() }
    }
}

/// Numbers of matching pods by topology: (label key, value).
type Counts<'a> = HashMap<(&'a str, &'a str), i64>;

fn topology<'a>(term: &'a AffinityTerm, node: &'a NodeInfo) -> Option<(&'a str, &'a str)> {
    node.labels.get(&term.topology_key).map(|value| (term.topology_key.as_str(), value.as_str()))
}

fn matches(term: &AffinityTerm, pod: &PodInfo, snapshot: &Snapshot) -> bool {
    term.matches(pod, snapshot.namespaces.get(&pod.namespace))
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Filter<'a> {
        let (mut wanted, mut unwanted, mut forbidden) = (Counts::new(), Counts::new(), Counts::new());
        let own = !pod.affinity.is_empty() || !pod.anti_affinity.is_empty();
        for node in snapshot.nodes.iter().filter(|node| own || node.anti_affine > 0) {
            for other in &node.pods {
                for term in other.anti_affinity.iter().filter(|term| matches(term, pod, snapshot)) {
                    forbidden.extend(topology(term, node).map(|t| (t, 1)));
                }
                for term in pod.anti_affinity.iter().filter(|term| matches(term, other, snapshot)) {
                    unwanted.extend(topology(term, node).map(|t| (t, 1)));
                }
                // A pod must match all terms to count for any.
                if !pod.affinity.is_empty() && pod.affinity.iter().all(|term| matches(term, other, snapshot))
                {
                    wanted
                        .extend(pod.affinity.iter().filter_map(|term| topology(term, node)).map(|t| (t, 1)));
                }
            }
        }
        if pod.affinity.is_empty()
            && unwanted.is_empty()
            && forbidden.is_empty()
            && pod.anti_affinity.is_empty()
        {
            return Filter::Skip;
        }
        // The first of a group that wants to be together may start it, or none ever could.
        let first = wanted.is_empty() && pod.affinity.iter().all(|term| matches(term, pod, snapshot));
        Filter::Each(Box::new(move |node| {
            let near = pod
                .affinity
                .iter()
                .all(|term| topology(term, node).is_some_and(|t| first || wanted.contains_key(&(t.0, t.1))));
            if !near {
                return Err(Unfit::never("node(s) didn't match pod affinity rules"));
            }
            let apart = pod
                .anti_affinity
                .iter()
                .all(|term| topology(term, node).is_none_or(|t| !unwanted.contains_key(&t)));
            if !apart {
                return Err(Unfit::now("node(s) didn't match pod anti-affinity rules"));
            }
            let allowed =
                forbidden.keys().all(|(key, value)| node.labels.get(*key).is_none_or(|v| v != value));
            if allowed {
                Ok(())
            } else {
                Err(Unfit::now("node(s) didn't satisfy existing pods anti-affinity rules"))
            }
        }))
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a [&'a NodeInfo], snapshot: &'a Snapshot) -> Score<'a> {
        let own = !pod.preferred_pods.is_empty();
        if !own && self.args.ignore_preferred_terms_of_existing_pods {
            return Score::Skip;
        }
        let mut counts = Counts::new();
        let mut add = |term: &'a AffinityTerm, node: &'a NodeInfo, weight: i64| {
            if let Some(topology) = topology(term, node) {
                *counts.entry(topology).or_default() += weight;
            }
        };
        for node in snapshot.nodes.iter().filter(|node| own || node.affine > 0) {
            for other in &node.pods {
                for (weight, term) in pod.preferred_pods.iter().filter(|(_, t)| matches(t, other, snapshot)) {
                    add(term, node, *weight);
                }
                for (weight, term) in other.preferred_pods.iter().filter(|(_, t)| matches(t, pod, snapshot)) {
                    add(term, node, *weight);
                }
                for term in other.affinity.iter().filter(|t| matches(t, pod, snapshot)) {
                    add(term, node, self.args.hard_pod_affinity_weight);
                }
            }
        }
        if counts.is_empty() {
            return Score::Skip;
        }
        Score::Each(
            Box::new(move |node| {
                let here = |key: &str, value: &str| node.labels.get(key).is_some_and(|v| v == value);
                counts.iter().filter(|((key, value), _)| here(key, value)).map(|(_, weight)| weight).sum()
            }),
            Normalise::Range,
        )
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo, snapshot: &Snapshot) -> bool {
        match change {
            Change::Node(_, what) => what.added || what.labels,
            Change::PodAdd(new) => pod.affinity.iter().any(|term| matches(term, new, snapshot)),
            Change::PodDelete(gone) => {
                pod.anti_affinity.iter().any(|term| matches(term, gone, snapshot))
                    || gone.anti_affinity.iter().any(|term| matches(term, pod, snapshot))
            }
            Change::Storage => false,
        }
    }
}
