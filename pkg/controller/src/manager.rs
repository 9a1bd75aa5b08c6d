//! Starts the controllers and runs them until shutdown, behind leader election where that is configured.

use std::sync::Arc;
use std::time::Duration;

use client::events::{EventApi, EventRecorder, EventSource};
use client::leaderelection::{self, Ended};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, enabled};
use crate::context::Context;
use crate::{
    autoscaling, bootstrap, certificates, clusterrole, cronjob, daemon, deployment, disruption, endpoints,
    gc, job, namespace, namespaced_default, nodes, podgc, quota, replicas, service_cidr, stateful, tokens,
    ttl_after_finished, volumes,
};

/// Longest wait for running syncs at shutdown.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the controller manager ended or did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--controllers` names a controller that does not exist.
    #[error("{0:?} is not in the list of known controllers")]
    UnknownController(String),
    /// The lease could not be renewed: another process may lead now, and this one must end.
    #[error("leaderelection lost")]
    LostLease,
}

/// One controller: its names, and how it starts.
pub(crate) struct Descriptor {
    pub(crate) name: &'static str,
    /// Older names still accepted.
    pub(crate) aliases: &'static [&'static str],
    pub(crate) by_default: bool,
    pub(crate) start: fn(&Context),
}

const fn on(name: &'static str, aliases: &'static [&'static str], start: fn(&Context)) -> Descriptor {
    Descriptor { name, aliases, by_default: true, start }
}

const fn off(name: &'static str, aliases: &'static [&'static str], start: fn(&Context)) -> Descriptor {
    Descriptor { name, aliases, by_default: false, start }
}

/// All controllers there are, by upstream's names.
pub(crate) const CONTROLLERS: &[Descriptor] = &[
    on("serviceaccount-controller", &["serviceaccount"], namespaced_default::start_service_accounts),
    on(
        "root-ca-certificate-publisher-controller",
        &["root-ca-cert-publisher"],
        namespaced_default::start_root_ca,
    ),
    on("replicaset-controller", &["replicaset"], replicas::start_replica_sets),
    on(
        "replicationcontroller-controller",
        &["replicationcontroller"],
        replicas::start_replication_controllers,
    ),
    on("deployment-controller", &["deployment"], deployment::start),
    on("endpointslice-controller", &["endpointslice"], endpoints::start_slices),
    on("endpoints-controller", &["endpoint"], endpoints::start_endpoints),
    on("namespace-controller", &["namespace"], namespace::start),
    on("garbage-collector-controller", &["garbagecollector"], gc::start),
    on("node-ipam-controller", &["nodeipam"], nodes::start_ipam),
    on("node-lifecycle-controller", &["nodelifecycle"], nodes::start_lifecycle),
    on("taint-eviction-controller", &[], nodes::start_taint_eviction),
    on("pod-garbage-collector-controller", &["podgc"], podgc::start),
    on("ttl-after-finished-controller", &["ttl-after-finished"], ttl_after_finished::start),
    on("clusterrole-aggregation-controller", &["clusterrole-aggregation"], clusterrole::start),
    on("job-controller", &["job"], job::start),
    on("daemonset-controller", &["daemonset"], daemon::start),
    on("statefulset-controller", &["statefulset"], stateful::start),
    on("cronjob-controller", &["cronjob"], cronjob::start),
    on("resourcequota-controller", &["resourcequota"], quota::start),
    on("endpointslice-mirroring-controller", &["endpointslicemirroring"], endpoints::start_mirroring),
    on("certificatesigningrequest-signing-controller", &["csrsigning"], certificates::start_signing),
    on("certificatesigningrequest-approving-controller", &["csrapproving"], certificates::start_approving),
    on("certificatesigningrequest-cleaner-controller", &["csrcleaner"], certificates::start_cleaning),
    on("serviceaccount-token-controller", &["serviceaccount-token"], tokens::start),
    on("persistentvolume-binder-controller", &["persistentvolume-binder"], volumes::start_binder),
    on("ephemeral-volume-controller", &["ephemeral-volume"], volumes::start_ephemeral),
    on("persistentvolumeclaim-protection-controller", &["pvc-protection"], volumes::start_claim_protection),
    on("persistentvolume-protection-controller", &["pv-protection"], volumes::start_volume_protection),
    on("volumeattributesclass-protection-controller", &[], volumes::start_class_protection),
    on("disruption-controller", &["disruption"], disruption::start),
    on("horizontal-pod-autoscaler-controller", &["horizontalpodautoscaling"], autoscaling::start),
    on("ttl-controller", &["ttl"], nodes::start_ttl),
    on("service-cidr-controller", &[], service_cidr::start),
    off("bootstrap-signer-controller", &["bootstrapsigner"], bootstrap::start_signer),
    off("token-cleaner-controller", &["tokencleaner"], bootstrap::start_cleaner),
];

/// Names of all controllers, for help texts and for checking `--controllers`.
pub fn known_controllers() -> impl Iterator<Item = &'static str> {
    CONTROLLERS.iter().map(|controller| controller.name)
}

/// `--controllers` with older names replaced by those of today.
fn resolve(list: &[String]) -> Result<Vec<String>, Error> {
    let known = |name: &str| {
        CONTROLLERS.iter().find(|controller| controller.name == name || controller.aliases.contains(&name))
    };
    list.iter()
        .map(|entry| {
            let (sign, name) = entry.strip_prefix('-').map_or(("", entry.as_str()), |name| ("-", name));
            if name == "*" {
                return Ok(entry.clone());
            }
            known(name)
                .map(|controller| format!("{sign}{}", controller.name))
                .ok_or_else(|| Error::UnknownController(name.to_owned()))
        })
        .collect()
}

/// Runs the enabled controllers until shutdown. Returns at once on a configuration that cannot work.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let list = resolve(&config.controllers)?;
    let config = Arc::new(Config { controllers: list, ..config });
    let Some(election) = config.leader_election.clone() else {
        run_controllers(config, client, shutdown).await;
        return Ok(());
    };
    let lead = {
        let client = client.clone();
        move |leading| run_controllers(config, client, leading)
    };
    match leaderelection::run(election, client, shutdown, lead).await {
        Ended::Stopped => Ok(()),
        Ended::Lost => Err(Error::LostLease),
    }
}

async fn run_controllers(config: Arc<Config>, client: kube::Client, shutdown: CancellationToken) {
    let source = EventSource { component: "kube-controller-manager".into(), instance: String::new() };
    let (recorder, writer) = EventRecorder::start(client.clone(), EventApi::Core, source, shutdown.clone());
    let context = Context::new(client, config.clone(), recorder, shutdown.clone());
    // Handlers first, then informers: workers find their stores filled once the first keys arrive.
    let chosen: Vec<&Descriptor> = CONTROLLERS
        .iter()
        .filter(|controller| enabled(&config.controllers, controller.name, controller.by_default))
        .collect();
    for controller in &chosen {
        let scope = context.for_controller();
        (controller.start)(&scope);
        scope.begin(controller.name);
    }
    context.informers.start(shutdown.clone());
    info!(controllers = chosen.len(), "controllers started");
    shutdown.cancelled().await;
    context.tasks.close();
    if tokio::time::timeout(DRAIN, context.tasks.wait()).await.is_err() {
        warn!("controllers still busy at the end of the drain time");
    }
    context.informers.stopped().await;
    let _ = writer.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_known_by_old_and_new_names_only() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            resolve(&list(&["*", "-deployment", "replicaset-controller"])).expect("known"),
            ["*", "-deployment-controller", "replicaset-controller"]
        );
        assert!(
            matches!(resolve(&list(&["nonsense"])), Err(Error::UnknownController(name)) if name == "nonsense")
        );
    }
}
