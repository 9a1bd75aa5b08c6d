//! Leader election over a `Lease`: of several processes one works, the others stand by.
//!
//! The protocol and its timings are client-go's (`tools/leaderelection`): whoever holds the lease renews it; a stand-by
//! takes it over only after it has itself seen no renewal for the lease's duration, by its own monotonic clock, so no
//! two clocks need agree. [`Elector`] decides, [`run`] acts.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::{is_conflict, is_not_found};
use crate::metrics::METRICS;
use crate::rest::{ResourceId, Rest, typed};

const LEASES: ResourceId = ResourceId::namespaced("coordination.k8s.io", "v1", "leases", "Lease");
/// Attempts of a stand-by are spread by up to this factor more.
const JITTER: f64 = 1.2;

/// `--leader-elect*`.
#[derive(Debug, Clone)]
pub struct LeaderElection {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the lease, such as `kube-scheduler`.
    pub lease: String,
    /// Name of the component, which is that of its lease unless told otherwise.
    pub name: &'static str,
    /// This process; `HOST_UUID` upstream.
    pub identity: String,
    /// How long stand-bys wait after the last renewal they saw.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// Time between attempts.
    pub retry_period: Duration,
}

impl LeaderElection {
    /// Upstream's defaults: `kube-system`, 15 s, 10 s, 2 s.
    pub fn new(name: &'static str, identity: impl Into<String>) -> Self {
        Self {
            namespace: "kube-system".into(),
            lease: name.into(),
            name,
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// How leading ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The lease could not be renewed in time; the process should exit, as somebody else may lead.
    Lost,
    /// Shutdown was asked for, or the work ended by itself.
    Stopped,
}

/// What to do about the lease.
#[derive(Debug, PartialEq)]
enum Plan {
    Create(Lease),
    Update(Lease),
    /// Somebody else holds it.
    StandBy,
}

/// The election's rules, without I/O.
struct Elector {
    config: LeaderElection,
    /// The last record seen, and when it was first seen so.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Elector {
    fn new(config: LeaderElection) -> Self {
        Self { config, seen: None }
    }

    fn plan(&mut self, held: Option<Lease>, now: Instant, wall: Timestamp) -> Plan {
        let Some(mut lease) = held else {
            let metadata = ObjectMeta {
                name: Some(self.config.lease.clone()),
                namespace: Some(self.config.namespace.clone()),
                ..ObjectMeta::default()
            };
            return Plan::Create(Lease { metadata, spec: Some(self.record(wall, wall, 0)) });
        };
        let spec = lease.spec.take().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(last, _)| *last != spec) {
            self.seen = Some((spec.clone(), now));
        }
        let seen_at = self.seen.as_ref().map_or(now, |(_, at)| *at);
        let holder = spec.holder_identity.as_deref().unwrap_or("");
        let mine = holder == self.config.identity;
        if !mine && !holder.is_empty() {
            let term = spec
                .lease_duration_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(self.config.lease_duration, Duration::from_secs);
            if now < seen_at + term {
                return Plan::StandBy;
            }
        }
        let transitions = spec.lease_transitions.unwrap_or(0);
        let next = if mine {
            let acquired = spec.acquire_time.map_or(wall, |time| time.0);
            self.record(acquired, wall, transitions)
        } else {
            self.record(wall, wall, transitions + 1)
        };
        lease.spec = Some(next);
        Plan::Update(lease)
    }

    fn record(&self, acquired: Timestamp, renewed: Timestamp, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: i32::try_from(self.config.lease_duration.as_secs()).ok(),
            acquire_time: Some(MicroTime(acquired)),
            renew_time: Some(MicroTime(renewed)),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// One try to take or keep the lease.
    async fn attempt(&mut self, rest: &Rest) -> Result<bool, kube::Error> {
        let held = match rest.get(&LEASES, &self.config.namespace, &self.config.lease).await {
            Ok(tree) => Some(typed(tree)?),
            Err(error) if is_not_found(&error) => None,
            Err(error) => return Err(error),
        };
        let written = match self.plan(held, Instant::now(), Timestamp::now()) {
            Plan::StandBy => return Ok(false),
            Plan::Create(lease) => rest.create(&LEASES, &self.config.namespace, &lease).await,
            Plan::Update(lease) => rest.update(&LEASES, "", &lease).await,
        };
        match written {
            Ok(_) => Ok(true),
            // somebody else was faster
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn attempt_logged(&mut self, rest: &Rest) -> bool {
        match self.attempt(rest).await {
            Ok(held) => held,
            Err(error) => {
                warn!(
                    lease = self.config.lease,
                    error = &error as &dyn std::error::Error,
                    "cannot reach the lease"
                );
                false
            }
        }
    }

    /// Gives the lease up, so that a stand-by need not wait for its end.
    async fn release(&mut self, rest: &Rest) {
        let Ok(tree) = rest.get(&LEASES, &self.config.namespace, &self.config.lease).await else { return };
        let Ok(mut lease) = typed::<Lease>(tree) else { return };
        let Some(spec) = &mut lease.spec else { return };
        if spec.holder_identity.as_deref() != Some(self.config.identity.as_str()) {
            return;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        if let Err(error) = rest.update(&LEASES, "", &lease).await {
            warn!(
                lease = self.config.lease,
                error = &error as &dyn std::error::Error,
                "cannot release the lease"
            );
        }
    }
}

/// Waits to become leader, then runs `lead` until shutdown or until the lease is lost; its token is cancelled in both
/// cases and `lead` is awaited.
pub async fn run<F>(
    config: LeaderElection,
    client: kube::Client,
    shutdown: CancellationToken,
    lead: impl FnOnce(CancellationToken) -> F,
) -> Ended
where
    F: Future<Output = ()> + Send + 'static,
{
    let rest = Rest::new(client, config.name);
    let label = [("name", config.name)];
    let mut elector = Elector::new(config.clone());
    METRICS.leader.get_or_create(&label).set(0);
    let acquire = async {
        while !elector.attempt_logged(&rest).await {
            sleep(config.retry_period.mul_f64(1.0 + JITTER * rand::random::<f64>())).await;
        }
    };
    if shutdown.run_until_cancelled(acquire).await.is_none() {
        return Ended::Stopped;
    }
    info!(lease = config.lease, identity = config.identity, "became leader");
    METRICS.leader.get_or_create(&label).set(1);
    let leading = shutdown.child_token();
    let mut work = tokio::spawn(lead(leading.clone()));
    let mut renewed = Instant::now();
    let (ended, running) = loop {
        tokio::select! {
            () = shutdown.cancelled() => break (Ended::Stopped, true),
            _ = &mut work => break (Ended::Stopped, false),
            () = sleep(config.retry_period) => {}
        }
        let deadline = renewed + config.renew_deadline;
        if let Ok(true) = timeout_at(deadline, elector.attempt_logged(&rest)).await {
            renewed = Instant::now();
        } else if Instant::now() >= deadline {
            warn!(lease = config.lease, "lost the lease");
            break (Ended::Lost, true);
        }
    };
    METRICS.leader.get_or_create(&label).set(0);
    leading.cancel();
    if running {
        let _ = work.await;
    }
    if ended == Ended::Stopped {
        let _ = tokio::time::timeout(config.retry_period, elector.release(&rest)).await;
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(plan: Plan) -> Lease {
        match plan {
            Plan::Create(lease) | Plan::Update(lease) => lease,
            Plan::StandBy => panic!("expected a write"),
        }
    }

    fn spec(lease: &Lease) -> (&str, i32) {
        let spec = lease.spec.as_ref().expect("has a spec");
        (spec.holder_identity.as_deref().unwrap_or(""), spec.lease_transitions.unwrap_or(-1))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stand_by_takes_over_only_after_a_whole_term_without_renewal() {
        let wall = Timestamp::UNIX_EPOCH;
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut one = Elector::new(LeaderElection::new("x", "one"));
        let mut two = Elector::new(LeaderElection::new("x", "two"));
        let first = held_by(one.plan(None, at(0), wall));
        assert_eq!(spec(&first), ("one", 0));
        assert_eq!(two.plan(Some(first.clone()), at(1), wall), Plan::StandBy);
        let later = Timestamp::from_second(5).expect("in range");
        let renewed = held_by(one.plan(Some(first), at(5), later));
        assert_eq!(spec(&renewed), ("one", 0));
        assert_eq!(renewed.spec.as_ref().and_then(|s| s.acquire_time.clone()), Some(MicroTime(wall)));
        assert_eq!(
            two.plan(Some(renewed.clone()), at(14), wall),
            Plan::StandBy,
            "the renewal was seen at 14"
        );
        assert_eq!(two.plan(Some(renewed.clone()), at(28), wall), Plan::StandBy);
        assert_eq!(spec(&held_by(two.plan(Some(renewed.clone()), at(29), wall))), ("two", 1));
        let mut released = renewed;
        if let Some(spec) = &mut released.spec {
            spec.holder_identity = Some(String::new());
        }
        assert_eq!(
            spec(&held_by(two.plan(Some(released), at(30), wall))),
            ("two", 1),
            "a released lease is free"
        );
    }
}
