//! The loop: informers tell that something changed, a sync makes the rules and puts them into the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{InformerFactory, Selection, Store};
use component::serving::{Limits, serve};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::health::{Admin, Health, ServicePorts, listen};
use crate::metrics::Metrics;
use crate::model::{Snapshot, snapshot};
use crate::rules::rules;
use crate::{Config, Error, Family, conntrack, kernel};

/// How long the first lists may take before it is reported and waited for again.
const SYNC_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before a failed sync is tried again.
const RETRY: Duration = Duration::from_secs(3);

/// Runs the proxy until shutdown. Rules stay in the kernel: traffic goes on without the proxy.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let registry = component::metrics::Metrics::new();
    let mut made = None;
    registry.register(|r| made = Some(Metrics::new(r)));
    let Some(metrics) = made else { return Ok(()) };
    // Upstream counts two missed sync periods as unhealthy.
    let health = Arc::new(Health::new(config.sync_period * 2));
    let tasks = TaskTracker::new();
    let endpoints = [(config.healthz_address, None), (config.metrics_address, Some(registry))];
    for (address, metrics) in endpoints {
        let Some(address) = address else { continue };
        let handler = Arc::new(Admin { health: health.clone(), metrics });
        tasks.spawn(serve(listen(address).await?, None, handler, Limits::default(), shutdown.clone()));
    }
    tasks.close();
    if config.localhost_node_ports && config.families.contains(&Family::V4) {
        kernel::allow_localhost_node_ports();
    }

    let factory = InformerFactory::new(client);
    // Services of other proxies and headless ones never make rules here; not to hold them saves memory.
    let services = factory.informer_for::<Service>(Selection {
        label_selector: Some(
            "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name".into(),
        ),
        ..Selection::default()
    });
    let slices = factory.informer_for::<EndpointSlice>(Selection {
        label_selector: Some(
            "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name".into(),
        ),
        ..Selection::default()
    });
    let node = factory.informer_for::<Node>(Selection::fields(format!("metadata.name={}", config.node_name)));
    let changed = Arc::new(Notify::new());
    {
        let note = || {
            let (changed, health, metrics) = (changed.clone(), health.clone(), metrics.clone());
            move || {
                health.queued();
                metrics.last_queued.set(unix_seconds());
                changed.notify_one();
            }
        };
        let (a, b, c) = (note(), note(), note());
        services.on_event(move |_| a());
        slices.on_event(move |_| b());
        node.on_event(move |_| c());
    }
    factory.start(shutdown.clone());
    while !shutdown.is_cancelled() {
        match factory.wait_for_sync(SYNC_TIMEOUT).await {
            Ok(()) => break,
            Err(error) => tracing::warn!(%error, "waiting for services and endpoints"),
        }
    }
    let mut proxier = Proxier {
        config,
        metrics,
        health: health.clone(),
        ports: ServicePorts::new(health),
        services: services.store(),
        slices: slices.store(),
        node: node.store(),
        tables: BTreeMap::new(),
    };
    proxier.follow(&changed, &shutdown).await;
    proxier.ports.close().await;
    factory.stopped().await;
    tasks.wait().await;
    Ok(())
}

fn unix_seconds() -> f64 {
    jiff::Timestamp::now().as_millisecond() as f64 / 1e3
}

/// What is in the kernel for one family.
#[derive(Default)]
struct Table {
    snapshot: Snapshot,
    chains: BTreeSet<String>,
    text: String,
    /// Jumps and chains were made and the existing chains read.
    prepared: bool,
}

struct Proxier {
    config: Config,
    metrics: Metrics,
    health: Arc<Health>,
    ports: ServicePorts,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    node: Store<Node>,
    tables: BTreeMap<Family, Table>,
}

impl Proxier {
    async fn follow(&mut self, changed: &Notify, shutdown: &CancellationToken) {
        let mut last: Option<Instant> = None;
        while !shutdown.is_cancelled() {
            // The first change after a quiet time is synced at once, a burst is gathered.
            if let Some(last) = last {
                let wait = self.config.min_sync_period.saturating_sub(last.elapsed());
                tokio::select! { () = shutdown.cancelled() => break, () = tokio::time::sleep(wait) => {} }
            }
            last = Some(Instant::now());
            let pause = match self.sync().await {
                Ok(()) => self.config.sync_period,
                Err(error) => {
                    self.metrics.restore_failures.inc();
                    tracing::error!(%error, "service rules not written, trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = changed.notified() => {}
                () = tokio::time::sleep(pause) => self.look_for_interference().await,
            }
        }
    }

    async fn look_for_interference(&mut self) {
        for (family, table) in &mut self.tables {
            if table.prepared && !kernel::canary_alive(*family).await {
                tracing::warn!(?family, "the packet filter was flushed, writing all rules again");
                table.prepared = false;
            }
        }
    }

    async fn sync(&mut self) -> Result<(), Error> {
        let started = Instant::now();
        let node = self.node.get("", &self.config.node_name);
        self.health.node_deleted(node.as_ref().is_some_and(|n| n.metadata.deletion_timestamp.is_some()));
        let (services, slices) = (self.services.list(), self.slices.list());
        for family in self.config.families.clone() {
            let new = snapshot(
                services.iter().map(AsRef::as_ref),
                slices.iter().map(AsRef::as_ref),
                family,
                &self.config.node_name,
                node.as_deref(),
            );
            if family == Family::V4 {
                self.ports.update(&new).await;
            }
            self.write(family, new).await?;
        }
        self.metrics.sync_seconds.observe(started.elapsed().as_secs_f64());
        self.metrics.last_sync.set(unix_seconds());
        self.health.synced();
        Ok(())
    }

    async fn write(&mut self, family: Family, new: Snapshot) -> Result<(), Error> {
        let table = self.tables.entry(family).or_default();
        if !table.prepared {
            kernel::ensure_jumps(family).await?;
            table.chains = kernel::existing_chains(family).await?;
            table.text.clear();
            table.prepared = true;
        }
        let made = rules(&self.config, family, &new, &table.chains);
        if made.text != table.text {
            if let Err(error) = kernel::restore(family, &made.text).await {
                // Whatever is there now, the next attempt starts from what the kernel says.
                table.prepared = false;
                return Err(error);
            }
            let stale = conntrack::stale(&table.snapshot, &new);
            kernel::forget(&stale).await;
            self.metrics.rules.set(made.count as i64);
            tracing::debug!(?family, rules = made.count, "service rules written");
            // What would be removed is gone now: the same state makes this text the next time.
            table.text = rules(&self.config, family, &new, &made.chains).text;
        }
        table.chains = made.chains;
        table.snapshot = new;
        Ok(())
    }
}
