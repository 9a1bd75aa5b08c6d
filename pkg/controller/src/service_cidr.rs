//! The ServiceCIDR controller: says which ranges of service addresses are ready, and keeps a deleted range until no
//! address would be left without one.
//!
//! Behaviour after upstream's `pkg/controller/servicecidrs` (KEP-1880).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::rest::Rest;
use client::workqueue::WorkQueue;
use client::{Store, is_not_found};
use futures::future::BoxFuture;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

use crate::context::{Context, Key, Next, Reconcile, SyncResult};
use crate::resources::SERVICE_CIDRS;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
/// Allocators may not have seen the deletion before this.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

/// What has to be done about a range.
#[derive(Debug, PartialEq)]
enum Step {
    /// Nothing, or nothing before this time has passed.
    Rest(Option<Duration>),
    /// Hold it with the finalizer.
    Hold,
    /// Let it go.
    Release,
    /// Say whether it is ready.
    Say(bool),
}

fn ranges(cidr: &ServiceCIDR) -> Vec<IpNet> {
    cidr.spec
        .iter()
        .flat_map(|spec| spec.cidrs.iter().flatten())
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// Whether no address is left without a range once this one is gone.
fn is_free(cidr: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[Arc<IPAddress>]) -> bool {
    let others: Vec<IpNet> = all
        .iter()
        .filter(|other| other.metadata.name != cidr.metadata.name)
        .flat_map(|other| ranges(other))
        .collect();
    let own = ranges(cidr);
    if own.iter().all(|range| others.iter().any(|other| other.contains(range))) {
        return true;
    }
    let counted =
        addresses.iter().filter(|a| a.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1));
    !counted.filter_map(|a| a.name_any().parse::<IpAddr>().ok()).any(|address| {
        own.iter().any(|range| range.contains(&address))
            && !others.iter().any(|range| range.contains(&address))
    })
}

fn ready(cidr: &ServiceCIDR) -> Option<&str> {
    let conditions = cidr.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.status.as_str())
}

fn decide(
    cidr: &ServiceCIDR,
    all: &[Arc<ServiceCIDR>],
    addresses: &[Arc<IPAddress>],
    now: Timestamp,
) -> Step {
    let held = cidr.finalizers().iter().any(|name| name == FINALIZER);
    let Some(deleted) = &cidr.metadata.deletion_timestamp else {
        return match (held, ready(cidr)) {
            (false, _) => Step::Hold,
            (true, Some("True")) => Step::Rest(None),
            (true, _) => Step::Say(true),
        };
    };
    if !held {
        return Step::Rest(None);
    }
    if !is_free(cidr, all, addresses) {
        return if ready(cidr) == Some("False") { Step::Rest(None) } else { Step::Say(false) };
    }
    match Duration::try_from(GRACE - now.duration_since(deleted.0)) {
        Ok(left) if !left.is_zero() => Step::Rest(Some(left)),
        _ => Step::Release,
    }
}

fn condition(is_ready: bool, now: Timestamp) -> Condition {
    let (status, reason, message) = if is_ready {
        ("True", "", "Kubernetes Service CIDR is ready")
    } else {
        (
            "False",
            "Terminating",
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
        )
    };
    Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: Time(now),
        observed_generation: None,
    }
}

struct Controller {
    cidrs: Store<ServiceCIDR>,
    addresses: Store<IPAddress>,
    rest: Rest,
}

/// Starts the controller.
pub(crate) fn start(context: &Context) {
    let queue = WorkQueue::new("servicecidrs");
    let cidrs = context.informer::<ServiceCIDR>();
    let addresses = context.informer::<IPAddress>();
    // one range's fate depends on the others
    let (adds, held) = (queue.clone(), cidrs.store());
    cidrs.on_event(move |event| {
        adds.add(Key::of(&**event.object()));
        held.list()
            .iter()
            .filter(|c| c.metadata.deletion_timestamp.is_some())
            .for_each(|c| adds.add(Key::of(&**c)));
    });
    let (adds, held) = (queue.clone(), cidrs.store());
    addresses.on_event(move |_| {
        held.list()
            .iter()
            .filter(|c| c.metadata.deletion_timestamp.is_some())
            .for_each(|c| adds.add(Key::of(&**c)));
    });
    let controller = Controller {
        cidrs: cidrs.store(),
        addresses: addresses.store(),
        rest: context.rest("service-cidrs-controller"),
    };
    context.work("service-cidr-controller", &queue, 5, Arc::new(controller));
}

impl Controller {
    async fn sync(&self, key: &Key) -> SyncResult {
        let Some(cidr) = self.cidrs.get("", &key.name) else { return Ok(Next::OnChange) };
        let now = Timestamp::now();
        let mut changed = (*cidr).clone();
        let subresource = match decide(&cidr, &self.cidrs.list(), &self.addresses.list(), now) {
            Step::Rest(None) => return Ok(Next::OnChange),
            Step::Rest(Some(left)) => return Ok(Next::After(left)),
            Step::Hold => {
                changed.finalizers_mut().push(FINALIZER.into());
                ""
            }
            Step::Release => {
                changed.finalizers_mut().retain(|name| name != FINALIZER);
                ""
            }
            Step::Say(is_ready) => {
                let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
                conditions.retain(|c| c.type_ != "Ready");
                conditions.push(condition(is_ready, now));
                "status"
            }
        };
        match self.rest.update(&SERVICE_CIDRS, subresource, &changed).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(Next::OnChange),
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
    use serde_json::json;

    use super::*;
    use crate::testing::{at, time};

    fn cidr(name: &str, range: &str) -> ServiceCIDR {
        serde_json::from_value(json!({
            "metadata": {"name": name, "finalizers": [FINALIZER]}, "spec": {"cidrs": [range]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "", "message": "",
                "lastTransitionTime": time(0)}]},
        }))
        .expect("a range")
    }

    fn address(ip: &str) -> Arc<IPAddress> {
        let labels = json!({MANAGED_BY.0: MANAGED_BY.1});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": ip, "labels": labels}})).expect("an address"),
        )
    }

    #[test]
    fn a_range_is_held_made_ready_and_let_go_when_nobody_needs_it() {
        let whole = Arc::new(cidr("whole", "10.96.0.0/16"));
        let mut fresh = cidr("new", "10.97.0.0/24");
        fresh.metadata.finalizers = None;
        fresh.status = None;
        assert_eq!(decide(&fresh, &[], &[], at(0)), Step::Hold);
        fresh.finalizers_mut().push(FINALIZER.into());
        assert_eq!(decide(&fresh, &[], &[], at(0)), Step::Say(true));
        assert_eq!(decide(&cidr("new", "10.97.0.0/24"), &[], &[], at(0)), Step::Rest(None));

        let mut going = cidr("new", "10.97.0.0/24");
        going.metadata.deletion_timestamp = Some(time(0));
        let all = [whole.clone(), Arc::new(going.clone())];
        let used = [address("10.97.0.5")];
        assert_eq!(decide(&going, &all, &used, at(20)), Step::Say(false));
        assert_eq!(decide(&going, &all, &[address("10.96.0.5")], at(20)), Step::Release);
        assert_eq!(decide(&going, &all, &[], at(4)), Step::Rest(Some(Duration::from_secs(6))));
        let mut inner = cidr("inner", "10.96.1.0/24");
        inner.metadata.deletion_timestamp = Some(time(0));
        let all = [whole, Arc::new(inner.clone())];
        assert_eq!(decide(&inner, &all, &[address("10.96.1.5")], at(20)), Step::Release, "another covers it");
    }
}
