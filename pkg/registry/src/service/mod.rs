//! Services: their cluster addresses, node ports, the default range, and the `kubernetes` service itself.

mod addresses;
mod families;
mod hook;
mod kubernetes;
mod metrics;
mod ports;
mod repair;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use apimachinery::meta::GroupResource;
use apimachinery::status::Status;
use apiserver::ResourceStore;
use component::metrics::Metrics;
use ipnet::IpNet;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use addresses::ready_ranges;
use families::Family;
use metrics::AllocatorMetrics;
use ports::Ports;

pub(crate) use hook::ServiceHook;

/// Name of the `ServiceCIDR` made from the flags.
const DEFAULT_CIDR: &str = "kubernetes";
/// How often addresses and ports are compared with the services that exist.
const REPAIR_INTERVAL: Duration = Duration::from_secs(3 * 60);
/// How often this server renews its place among the endpoints of the `kubernetes` service.
const ENDPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// How services get addresses and ports.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// `--service-cluster-ip-range`: one range, or two of different families, the default one first.
    pub ranges: Vec<IpNet>,
    /// `--service-node-port-range`.
    pub node_ports: RangeInclusive<u16>,
    /// Address under which this server is an endpoint of the `kubernetes` service (`--advertise-address`), and its port.
    pub advertise: Option<(IpAddr, u16)>,
    /// Servers keep themselves among those endpoints (`--endpoint-reconciler-type`): else the endpoints are somebody
    /// else's to write.
    pub reconciles_endpoints: bool,
}

/// Why the services of a cluster cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// The ranges of the flags make no sense.
    #[error("invalid service cluster IP range: {0}")]
    Range(String),
    /// The store refused something.
    #[error("cannot set up {what}: {status}")]
    Store {
        /// What was to be set up.
        what: &'static str,
        /// Why not.
        #[source]
        status: Status,
    },
    /// The bitmap of node ports cannot be repaired.
    #[error("cannot repair node ports: {0}")]
    Ports(String),
}

/// Addresses and ports of services, shared by the write path and the background work.
pub struct Services {
    config: ServiceConfig,
    metrics: Arc<AllocatorMetrics>,
}

impl Services {
    /// Checks the configuration.
    pub fn new(config: ServiceConfig) -> Result<Self, ServicesError> {
        let range = |why: &str| Err(ServicesError::Range(why.to_owned()));
        match config.ranges.as_slice() {
            [] => return range("at least one is needed"),
            [_] => {}
            [a, b] if a.network().is_ipv4() != b.network().is_ipv4() => {}
            [_, _] => return range("two ranges must be of different IP families"),
            _ => return range("at most two are allowed"),
        }
        if config.node_ports.is_empty() || *config.node_ports.start() == 0 {
            return range("the node port range is empty");
        }
        Ok(Self { config, metrics: Arc::default() })
    }

    /// The ranges addresses come from: of the `ServiceCIDR` objects that are ready, of the flags while there are none.
    fn ranges(&self, store: &ResourceStore) -> Vec<IpNet> {
        let objects: Vec<Value> = store
            .object_reader()
            .list(&GroupResource::new("networking.k8s.io", "servicecidrs"), None)
            .iter()
            .filter_map(auth::CachedObject::value)
            .collect();
        let ranges = ready_ranges(&objects, DEFAULT_CIDR);
        if ranges.is_empty() { self.config.ranges.clone() } else { ranges }
    }

    /// The cluster's address families, the default one first.
    fn families(&self, store: &ResourceStore) -> Vec<Family> {
        let mut families = Vec::new();
        for range in self.config.ranges.iter().chain(&self.ranges(store)) {
            let family = Family::of(range.network());
            if !families.contains(&family) {
                families.push(family);
            }
        }
        families
    }

    fn ports(&self, store: &ResourceStore) -> Ports {
        Ports {
            storage: Arc::clone(store.storage()),
            range: self.config.node_ports.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Has what is taken and asked for counted in the process's metrics.
    pub fn count_in(self: &Arc<Self>, metrics: &Metrics, store: &ResourceStore) {
        AllocatorMetrics::register(self, store, metrics);
    }

    /// Makes the default `ServiceCIDR` and the `kubernetes` service, and brings addresses and ports in line with the
    /// services that exist. To be called once, before requests are served.
    pub async fn start(&self, store: &ResourceStore) -> Result<(), ServicesError> {
        let failed = |what| move |status| ServicesError::Store { what, status };
        repair::default_cidr(store, &self.config.ranges).await.map_err(failed("the default ServiceCIDR"))?;
        let mut repair = repair::Repair::default();
        repair.run(self, store).await?;
        kubernetes::service(store, &self.config).await.map_err(failed("the kubernetes service"))?;
        self.renew_endpoint(store).await;
        Ok(())
    }

    /// Repairs, and keeps this server among the endpoints of the `kubernetes` service, until shutdown; then takes it out.
    pub async fn run(&self, store: ResourceStore, shutdown: CancellationToken) {
        let mut repair = repair::Repair::default();
        // the first round was made by `start`
        let (mut repairs, mut renewals) = (every(REPAIR_INTERVAL), every(ENDPOINT_INTERVAL));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = repairs.tick() => {
                    if let Err(error) = repair.run(self, &store).await {
                        tracing::warn!(%error, "service addresses and ports were not repaired");
                    }
                }
                _ = renewals.tick() => self.renew(&store).await,
            }
        }
        if let Some((address, port)) = self.endpoint()
            && let Err(error) = (kubernetes::Endpoints { store: &store, address, port }).leave().await
        {
            tracing::warn!(%error, "this server stays among the endpoints until its lease ends");
        }
    }

    async fn renew(&self, store: &ResourceStore) {
        if let Err(error) = kubernetes::service(store, &self.config).await {
            tracing::warn!(%error, "the kubernetes service was not looked after");
        }
        self.renew_endpoint(store).await;
    }

    /// Where pods reach this server; a loopback address, as servers for development have, is no such place.
    fn endpoint(&self) -> Option<(IpAddr, u16)> {
        let advertised = self.config.advertise.filter(|_| self.config.reconciles_endpoints);
        advertised.filter(|(address, _)| !address.is_loopback())
    }

    async fn renew_endpoint(&self, store: &ResourceStore) {
        let Some((address, port)) = self.endpoint() else { return };
        if let Err(error) = (kubernetes::Endpoints { store, address, port }).renew().await {
            tracing::warn!(%error, "this server's endpoint was not renewed");
        }
    }
}

/// Ticks after each period, the first one included; late ticks are not made up for.
fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_checked() {
        let make = |ranges: &[&str], ports: RangeInclusive<u16>| {
            let ranges = ranges.iter().map(|r| r.parse().expect("range")).collect();
            Services::new(ServiceConfig {
                ranges,
                node_ports: ports,
                advertise: None,
                reconciles_endpoints: true,
            })
            .is_ok()
        };
        let ports = || 30000..=32767;
        assert!(make(&["10.96.0.0/16"], ports()));
        assert!(make(&["10.96.0.0/16", "fd00::/112"], ports()));
        assert!(!make(&[], ports()));
        assert!(!make(&["10.96.0.0/16", "10.97.0.0/16"], ports()));
        assert!(!make(&["10.96.0.0/16"], 0..=10));
    }
}
