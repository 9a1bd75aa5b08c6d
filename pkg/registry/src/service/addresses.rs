//! Cluster addresses: one `IPAddress` object each, so that whoever creates the object has the address.
//! Source: KEP-1880 (multiple service CIDRs), KEP-3070 (static and dynamic bands).

use std::net::IpAddr;

use apimachinery::Value;
use apimachinery::meta::{GroupResource, GroupVersionResource, at, name, str_at};
use apimachinery::status::Status;
use apimachinery::{Value as Json, json};
use apiserver::{DeleteRequest, ResourceStore, WriteOptions};
use ipnet::IpNet;
use rand::Rng;

use super::families::Family;
use super::metrics::{AllocatorMetrics, Scope};
use crate::names::{internal, is_conflict, is_not_found, v1};

pub(super) const GROUP: &str = "networking.k8s.io";
/// Who made an `IPAddress`.
pub(super) const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// The value of that label for ours.
pub(super) const ALLOCATOR: &str = "ipallocator.k8s.io";
/// Addresses looked at in one range before giving up.
const MAX_TRIES: u128 = 1 << 16;

/// Why an address cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum AddressError {
    #[error("provided IP is already allocated")]
    Taken,
    #[error("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {ranges}")]
    NotInRange { ip: IpAddr, ranges: String },
    #[error("range is full")]
    Full,
    #[error("{0}")]
    Store(Status),
}

pub(super) fn resource() -> GroupVersionResource {
    v1(GROUP, "ipaddresses")
}

fn to_number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn from_number(number: u128, family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        Family::V6 => IpAddr::V6(number.into()),
    }
}

/// The usable addresses of a range as numbers, first and last: without network and, for IPv4, broadcast address.
fn usable(range: &IpNet) -> Option<(u128, u128)> {
    let first = to_number(range.network()) + 1;
    let last = to_number(range.broadcast()).checked_sub(u128::from(range.network().is_ipv4()))?;
    (first <= last).then_some((first, last))
}

/// Whether an address may be given out from a range.
pub(super) fn contains(range: &IpNet, ip: IpAddr) -> bool {
    let number = to_number(ip);
    range.network().is_ipv4() == ip.is_ipv4()
        && usable(range).is_some_and(|(first, last)| (first..=last).contains(&number))
}

/// How many addresses a range has to give.
pub(super) fn size(range: &IpNet) -> u128 {
    usable(range).map_or(0, |(first, last)| last - first + 1)
}

/// The addresses of a range in the order they are tried: from a random one on through the upper band, then through the
/// lower one, which is kept for addresses that are asked for by name.
fn candidates(range: &IpNet, rng: &mut impl Rng) -> Vec<(u128, u128)> {
    let Some((first, last)) = usable(range) else { return Vec::new() };
    let size = last - first + 1;
    let band = (size / 16).clamp(16, 256);
    let pieces = |from: u128, to: u128, rng: &mut dyn FnMut(u128) -> u128| {
        let start = from + rng(to - from + 1);
        vec![(start, to), (from, start.saturating_sub(1))]
    };
    let mut pick = |count: u128| rng.random_range(0..count);
    if size <= band {
        return pieces(first, last, &mut pick);
    }
    let mut all = pieces(first + band, last, &mut pick);
    all.extend(pieces(first, first + band - 1, &mut pick));
    all
}

/// The service an address is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

fn object(ip: IpAddr, owner: Owner<'_>) -> Json {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "IPAddress",
        "metadata": {"name": ip.to_string(), "labels": {
            "ipaddress.kubernetes.io/ip-family": Family::of(ip).as_str(), MANAGED_BY: ALLOCATOR}},
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": owner.namespace, "name": owner.name}},
    })
}

/// Gives out addresses.
pub(super) struct Addresses<'a> {
    pub(super) store: &'a ResourceStore,
    /// The ranges of the cluster.
    pub(super) ranges: Vec<IpNet>,
    /// Look, but take nothing.
    pub(super) dry_run: bool,
    pub(super) metrics: &'a AllocatorMetrics,
}

impl Addresses<'_> {
    fn of(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        self.ranges.iter().filter(move |r| r.network().is_ipv4() == (family == Family::V4))
    }

    fn is_known(&self, ip: IpAddr) -> bool {
        self.store
            .object_reader()
            .get(&GroupResource::new(GROUP, "ipaddresses"), "", &ip.to_string())
            .is_some()
    }

    fn count(&self, range: &IpNet, scope: Scope, given: bool) {
        if !self.dry_run {
            self.metrics.address(range, scope, given);
        }
    }

    async fn take(&self, ip: IpAddr, owner: Owner<'_>) -> Result<(), AddressError> {
        if self.dry_run {
            return if self.is_known(ip) { Err(AddressError::Taken) } else { Ok(()) };
        }
        let (context, gvr, options) = (internal(), resource(), WriteOptions::default());
        match self.store.create(&context, &gvr, "", object(ip, owner), &options).await {
            Ok(_) => Ok(()),
            Err(status) if is_conflict(&status) => Err(AddressError::Taken),
            Err(status) => Err(AddressError::Store(status)),
        }
    }

    /// Takes this address.
    pub(super) async fn allocate(&self, ip: IpAddr, owner: Owner<'_>) -> Result<(), AddressError> {
        let family = Family::of(ip);
        let Some(range) = self.of(family).find(|range| contains(range, ip)) else {
            let ranges: Vec<String> = self.of(family).map(ToString::to_string).collect();
            return Err(AddressError::NotInRange { ip, ranges: ranges.join(",") });
        };
        let taken = self.take(ip, owner).await;
        self.count(range, Scope::Static, taken.is_ok());
        taken
    }

    /// Takes any free address of a family.
    pub(super) async fn allocate_next(
        &self,
        family: Family,
        owner: Owner<'_>,
    ) -> Result<IpAddr, AddressError> {
        for range in self.of(family) {
            let mut tries = 0;
            // drawn before the first wait, as the generator is bound to this thread
            let pieces = candidates(range, &mut rand::rng());
            for (from, to) in pieces {
                for number in from..=to {
                    tries += 1;
                    if tries > MAX_TRIES {
                        self.count(range, Scope::Dynamic, false);
                        return Err(AddressError::Full);
                    }
                    let ip = from_number(number, family);
                    if self.is_known(ip) {
                        continue;
                    }
                    let taken = self.take(ip, owner).await;
                    self.count(range, Scope::Dynamic, taken.is_ok());
                    match taken {
                        Ok(()) => return Ok(ip),
                        Err(AddressError::Taken) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            self.count(range, Scope::Dynamic, false);
        }
        Err(AddressError::Full)
    }
}

/// Gives an address back, if it is this service's.
pub(super) async fn release(store: &ResourceStore, ip: &str, owner: Owner<'_>) {
    let found = match store.get(&resource(), "", ip).await {
        Ok(found) => found,
        Err(status) if is_not_found(&status) => return,
        Err(error) => {
            tracing::warn!(ip, %error, "cannot give an address back, the repair loop will");
            return;
        }
    };
    if !is_parent(&found, owner) {
        return;
    }
    let result = store.delete(&internal(), &resource(), "", ip, &DeleteRequest::default()).await;
    match result {
        Err(error) if !is_not_found(&error) => {
            tracing::warn!(ip, %error, "cannot give an address back, the repair loop will");
        }
        _ => {}
    }
}

/// Whether an `IPAddress` is for this service.
pub(super) fn is_parent(address: &Value, owner: Owner<'_>) -> bool {
    let parent = |key: &str| str_at(address, &["spec", "parentRef", key]);
    parent("resource") == "services"
        && parent("group").is_empty()
        && parent("namespace") == owner.namespace
        && parent("name") == owner.name
}

/// The ranges of the `ServiceCIDR` objects that are ready, the default one first.
pub(super) fn ready_ranges(objects: &[Value], default_name: &str) -> Vec<IpNet> {
    let ready = |cidr: &&Value| {
        let conditions = at(cidr, &["status", "conditions"]).and_then(Value::as_array);
        let is_ready = conditions
            .into_iter()
            .flatten()
            .any(|c| str_at(c, &["type"]) == "Ready" && str_at(c, &["status"]) == "True");
        let untold = conditions.is_none_or(Vec::is_empty) && name(cidr) == default_name;
        (is_ready || untold) && at(cidr, &["metadata", "deletionTimestamp"]).is_none()
    };
    let mut found: Vec<&Value> = objects.iter().filter(ready).collect();
    found.sort_by_key(|cidr| name(cidr) != default_name);
    found
        .into_iter()
        .flat_map(|cidr| at(cidr, &["spec", "cidrs"]).and_then(Value::as_array).into_iter().flatten())
        .filter_map(|text| text.as_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn net(text: &str) -> IpNet {
        text.parse().expect("range")
    }

    #[test]
    fn ends_of_ranges_are_not_given_out() {
        for (range, ip, ok) in [
            ("10.96.0.0/24", "10.96.0.0", false),
            ("10.96.0.0/24", "10.96.0.1", true),
            ("10.96.0.0/24", "10.96.0.254", true),
            ("10.96.0.0/24", "10.96.0.255", false),
            ("10.96.0.0/24", "10.97.0.1", false),
            ("10.96.0.0/24", "fd00::1", false),
            ("fd00::/112", "fd00::", false),
            ("fd00::/112", "fd00::ffff", true),
        ] {
            assert_eq!(contains(&net(range), ip.parse().expect("ip")), ok, "{range} {ip}");
        }
        assert_eq!(usable(&net("10.0.0.0/32")), None);
        assert_eq!(usable(&net("0.0.0.0/31")), None);
    }

    #[test]
    fn every_address_is_tried_once_upper_band_first() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        for range in ["10.96.0.0/16", "10.96.0.0/28", "10.96.0.0/24"] {
            let range = net(range);
            let all: Vec<u128> =
                candidates(&range, &mut rng).into_iter().flat_map(|(from, to)| from..=to).collect();
            let (first, last) = usable(&range).expect("usable");
            let mut sorted = all.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (first..=last).collect::<Vec<_>>(), "{range}");
            let size = last - first + 1;
            let band = (size / 16).clamp(16, 256);
            if size > band {
                assert!(all[..(size - band) as usize].iter().all(|n| *n >= first + band), "{range}");
            }
        }
    }

    #[test]
    fn ranges_must_be_ready() {
        let cidr = |name: &str, cidrs: &[&str], ready: Option<&str>| {
            let mut object = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
            if let Some(status) = ready {
                object["status"] = json!({"conditions": [{"type": "Ready", "status": status}]});
            }
            object
        };
        let objects = [
            cidr("extra", &["10.1.0.0/16"], Some("True")),
            cidr("new", &["10.2.0.0/16"], None),
            cidr("leaving", &["10.3.0.0/16"], Some("False")),
            cidr("kubernetes", &["10.96.0.0/16", "fd00::/112"], None),
        ];
        let ranges: Vec<String> =
            ready_ranges(&objects, "kubernetes").iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["10.96.0.0/16", "fd00::/112", "10.1.0.0/16"]);
    }

    #[test]
    fn objects_name_their_service() {
        let owner = Owner { namespace: "ns", name: "web" };
        let made = object("10.96.0.10".parse().expect("ip"), owner);
        assert!(is_parent(&made, owner) && !is_parent(&made, Owner { namespace: "ns", name: "api" }));
        assert_eq!(made["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv4");
    }
}
