//! From the endpoints wanted and the slices held to the slices to write. No I/O, no clock.
//!
//! Slices are filled up to 100 endpoints and changed as little as possible: endpoints stay where they are, changed
//! slices take new ones first, and slices left alone cost no write.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

/// Endpoints of one slice at most (`--max-endpoints-per-slice`).
pub(super) const MAX_ENDPOINTS: usize = 100;

/// The ports of some endpoints; endpoints with other ports go to other slices.
pub(super) type Ports = Vec<EndpointPort>;

/// What every slice of a Service and address type carries.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frame {
    pub(super) address_type: &'static str,
    pub(super) labels: BTreeMap<String, String>,
}

/// Slices to write. Created ones have endpoints, ports and the frame; their metadata is the caller's to complete.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

/// Who an endpoint is: the pod it targets, or its address.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default();
    format!("{uid}/{}", endpoint.addresses.join(","))
}

fn endpoints_of(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or(&[])
}

fn ports_key(ports: &[EndpointPort]) -> String {
    let mut parts: Vec<String> = ports
        .iter()
        .map(|port| {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            format!(
                "{}/{}/{}/{}",
                text(&port.name),
                text(&port.protocol),
                port.port.unwrap_or(-1),
                text(&port.app_protocol)
            )
        })
        .collect();
    parts.sort_unstable();
    parts.join(";")
}

/// Compares `held`, the slices of one Service and address type, with the endpoints wanted, grouped by their ports.
pub(super) fn reconcile(
    frame: &Frame,
    held: &[Arc<EndpointSlice>],
    wanted: Vec<(Ports, Endpoint)>,
) -> Changes {
    let mut groups: BTreeMap<String, (Ports, Vec<Endpoint>)> = BTreeMap::new();
    for (ports, endpoint) in wanted {
        groups.entry(ports_key(&ports)).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
    }
    let mut changes = Changes::default();
    if groups.is_empty() {
        keep_placeholder(frame, held, &mut changes);
        return changes;
    }
    let mut by_ports: HashMap<String, Vec<&Arc<EndpointSlice>>> = HashMap::new();
    for slice in held {
        by_ports.entry(ports_key(slice.ports.as_deref().unwrap_or(&[]))).or_default().push(slice);
    }
    for (key, (ports, endpoints)) in groups {
        fill(frame, &ports, by_ports.remove(&key).unwrap_or_default(), endpoints, &mut changes);
    }
    changes.delete.extend(by_ports.into_values().flatten().cloned());
    // a slice that would be deleted can as well become one that would be created
    reuse(&mut changes);
    changes
}

/// A Service without endpoints has one empty slice, so that consumers can tell «none» from «not yet looked at».
fn keep_placeholder(frame: &Frame, held: &[Arc<EndpointSlice>], changes: &mut Changes) {
    let is_empty = |slice: &EndpointSlice| {
        endpoints_of(slice).is_empty() && slice.ports.as_ref().is_none_or(Vec::is_empty)
    };
    let keeper =
        held.iter().find(|slice| is_empty(slice) && has_labels(slice, frame)).or_else(|| held.first());
    match keeper {
        None => changes.create.push(make(frame, Vec::new(), Vec::new())),
        Some(keeper) => {
            if !(is_empty(keeper) && has_labels(keeper, frame)) {
                changes.update.push(rewritten(keeper, frame, Vec::new(), Vec::new()));
            }
            changes.delete.extend(held.iter().filter(|slice| !Arc::ptr_eq(slice, keeper)).cloned());
        }
    }
}

struct Candidate<'a> {
    slice: &'a Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// Distributes the endpoints of one set of ports over its slices.
fn fill(
    frame: &Frame,
    ports: &Ports,
    held: Vec<&Arc<EndpointSlice>>,
    endpoints: Vec<Endpoint>,
    changes: &mut Changes,
) {
    let mut left: HashMap<String, Endpoint> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut candidates: Vec<Candidate<'_>> = held
        .into_iter()
        .map(|slice| {
            let mut kept = Vec::with_capacity(endpoints_of(slice).len());
            let mut changed = !has_labels(slice, frame);
            for endpoint in endpoints_of(slice) {
                match left.remove(&identity(endpoint)) {
                    Some(wanted) => {
                        changed |= wanted != *endpoint;
                        kept.push(wanted);
                    }
                    None => changed = true,
                }
            }
            Candidate { slice, endpoints: kept, changed }
        })
        .collect();
    let mut new: Vec<Endpoint> = left.into_values().collect();
    new.sort_by_key(identity);
    // slices that are written anyway take new endpoints first, the fullest first
    candidates.sort_by_key(|candidate| (!candidate.changed, std::cmp::Reverse(candidate.endpoints.len())));
    for candidate in candidates.iter_mut().filter(|candidate| candidate.changed) {
        let room = MAX_ENDPOINTS.saturating_sub(candidate.endpoints.len()).min(new.len());
        candidate.endpoints.extend(new.drain(..room));
    }
    // what is left goes whole into one untouched slice with the least room that suffices, else into new slices
    let fits = |candidate: &&mut Candidate<'_>| {
        !candidate.changed && candidate.endpoints.len() + new.len() % MAX_ENDPOINTS <= MAX_ENDPOINTS
    };
    let rest = new.len() % MAX_ENDPOINTS;
    if rest > 0
        && let Some(best) = candidates.iter_mut().find(fits)
    {
        best.endpoints.extend(new.drain(..rest));
        best.changed = true;
    }
    while !new.is_empty() {
        let size = new.len().min(MAX_ENDPOINTS);
        changes.create.push(make(frame, ports.clone(), new.drain(..size).collect()));
    }
    for candidate in candidates {
        if candidate.endpoints.is_empty() {
            changes.delete.push(candidate.slice.clone());
        } else if candidate.changed {
            changes.update.push(rewritten(candidate.slice, frame, ports.clone(), candidate.endpoints));
        }
    }
}

/// Turns pairs of a deletion and a creation into updates.
fn reuse(changes: &mut Changes) {
    while !changes.create.is_empty() && !changes.delete.is_empty() {
        if let (Some(new), Some(old)) = (changes.create.pop(), changes.delete.pop()) {
            let mut slice = (*old).clone();
            slice.metadata.labels = new.metadata.labels;
            slice.endpoints = new.endpoints;
            slice.ports = new.ports;
            changes.update.push(slice);
        }
    }
}

/// Labels that others put there stay; those of the frame must be as it says.
fn has_labels(slice: &EndpointSlice, frame: &Frame) -> bool {
    let held: BTreeSet<(&String, &String)> = slice.metadata.labels.iter().flatten().collect();
    frame.labels.iter().all(|label| held.contains(&label))
        && held.iter().all(|(key, _)| *key != super::HEADLESS || frame.labels.contains_key(*key))
}

fn make(frame: &Frame, ports: Ports, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut slice = EndpointSlice {
        address_type: frame.address_type.into(),
        endpoints: Some(endpoints),
        ports: Some(ports),
        ..EndpointSlice::default()
    };
    slice.metadata.labels = Some(frame.labels.clone());
    slice
}

fn rewritten(held: &EndpointSlice, frame: &Frame, ports: Ports, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut slice = held.clone();
    let labels = slice.metadata.labels.get_or_insert_default();
    labels.remove(super::HEADLESS);
    labels.extend(frame.labels.clone());
    slice.ports = Some(ports);
    slice.endpoints = Some(endpoints);
    slice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame { address_type: "IPv4", labels: [("service".to_owned(), "s".to_owned())].into() }
    }

    fn ports(number: i32) -> Ports {
        vec![EndpointPort { port: Some(number), protocol: Some("TCP".into()), ..EndpointPort::default() }]
    }

    fn endpoint(number: usize) -> Endpoint {
        Endpoint { addresses: vec![format!("10.0.{}.{}", number / 250, number % 250)], ..Endpoint::default() }
    }

    fn endpoints(numbers: impl IntoIterator<Item = usize>) -> Vec<(Ports, Endpoint)> {
        numbers.into_iter().map(|number| (ports(80), endpoint(number))).collect()
    }

    fn held(numbers: impl IntoIterator<Item = usize>) -> Arc<EndpointSlice> {
        Arc::new(make(&frame(), ports(80), numbers.into_iter().map(endpoint).collect()))
    }

    fn sizes(slices: &[EndpointSlice]) -> Vec<usize> {
        slices.iter().map(|slice| endpoints_of(slice).len()).collect()
    }

    #[test]
    fn slices_are_filled_kept_and_emptied() {
        // (held, wanted): sizes created, sizes updated, number deleted
        type Case = (Vec<Arc<EndpointSlice>>, Vec<(Ports, Endpoint)>, Vec<usize>, Vec<usize>, usize);
        let cases: Vec<Case> = vec![
            (vec![], endpoints(0..3), vec![3], vec![], 0),
            (vec![], endpoints(0..250), vec![100, 100, 50], vec![], 0),
            (vec![held(0..3)], endpoints(0..3), vec![], vec![], 0),
            (vec![held(0..3)], endpoints(0..4), vec![], vec![4], 0),
            (vec![held(0..3)], endpoints(1..4), vec![], vec![3], 0),
            (vec![held(0..100), held(100..150)], endpoints(0..160), vec![], vec![60], 0),
            (vec![held(0..100), held(100..150)], endpoints(1..160), vec![], vec![100, 59], 0),
            (vec![held(0..100)], endpoints(0..101), vec![1], vec![], 0),
            (vec![held(0..3), held(3..6)], endpoints(0..3), vec![], vec![], 1),
            (vec![held(0..3), held(3..6)], endpoints([]), vec![], vec![0], 1),
            (vec![], endpoints([]), vec![0], vec![], 0),
            (vec![Arc::new(make(&frame(), vec![], vec![]))], endpoints([]), vec![], vec![], 0),
            (vec![Arc::new(make(&frame(), vec![], vec![]))], endpoints(0..2), vec![], vec![2], 0),
        ];
        for (number, (held, wanted, created, updated, deleted)) in cases.into_iter().enumerate() {
            let changes = reconcile(&frame(), &held, wanted);
            let mut updates = sizes(&changes.update);
            updates.sort_by_key(|size| std::cmp::Reverse(*size));
            assert_eq!(
                (sizes(&changes.create), updates, changes.delete.len()),
                (created, updated, deleted),
                "case {number}"
            );
        }
    }

    #[test]
    fn endpoints_with_other_ports_get_other_slices() {
        let wanted = vec![(ports(80), endpoint(1)), (ports(81), endpoint(2)), (ports(80), endpoint(3))];
        let changes = reconcile(&frame(), &[], wanted);
        let mut sizes = sizes(&changes.create);
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 2]);
    }

    #[test]
    fn a_changed_endpoint_or_label_is_written_once() {
        let mut ready = endpoint(0);
        ready.node_name = Some("n".into());
        let changes =
            reconcile(&frame(), &[held(0..2)], vec![(ports(80), ready.clone()), (ports(80), endpoint(1))]);
        assert_eq!(changes.update.len(), 1);
        assert!(endpoints_of(&changes.update[0]).contains(&ready));
        let other = Frame { labels: [("service".to_owned(), "t".to_owned())].into(), ..frame() };
        assert_eq!(reconcile(&other, &[held(0..2)], endpoints(0..2)).update.len(), 1);
    }
}
