//! Amounts of several resources, and what the containers of a pod ask for together.
//!
//! Source of the sums: `k8s.io/component-helpers/resource` (PodRequests) and KEP-753 for sidecars.

use std::collections::BTreeMap;

use crate::quantity::Quantity;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Adds amounts to others.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, quantity) in more {
        let sum = match to.get(name) {
            // beyond 38 digits the larger of both is as good an answer as any
            Some(have) => have.checked_add(*quantity).unwrap_or(*have.max(quantity)),
            None => *quantity,
        };
        to.insert(name.clone(), sum);
    }
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, quantity) in other {
        if to.get(name).is_none_or(|have| have < quantity) {
            to.insert(name.clone(), *quantity);
        }
    }
}

/// What containers ask for together, or more while they start: init containers run one by one, beside the sidecars (the
/// init containers that are told so) that started before them.
pub fn of_containers(
    containers: impl IntoIterator<Item = Amounts>,
    init: impl IntoIterator<Item = (Amounts, bool)>,
) -> Amounts {
    let mut running = Amounts::new();
    for own in containers {
        add(&mut running, &own);
    }
    let (mut starting, mut sidecars) = (Amounts::new(), Amounts::new());
    for (own, is_sidecar) in init {
        if is_sidecar {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut starting, &sidecars);
        } else {
            let mut together = own;
            add(&mut together, &sidecars);
            raise(&mut starting, &together);
        }
    }
    raise(&mut running, &starting);
    running
}
