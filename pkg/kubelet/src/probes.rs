//! Probes: one task each, counting outcomes against thresholds; a change wakes the pod's worker at once.
//!
//! The count is pure ([`Counter`]). Source: `pkg/kubelet/prober/worker.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::check::{self, HttpTarget, Outcome};
use crate::decide::{Health, HealthView};
use crate::kubelet::Kubelet;
use crate::metrics::{Labels, METRICS};
use crate::podutil::{Kind, PodExt, init_containers, is_sidecar, resolve_port};
use crate::runtime::{ContainerRecord, PodRuntime, time};

/// Times a probe that could not be carried out is tried again at once.
const RETRIES: usize = 3;
/// Results as metrics name them.
const SUCCESSFUL: &str = "successful";
const FAILED: &str = "failed";
const UNKNOWN: &str = "unknown";

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Which {
    Startup,
    Liveness,
    Readiness,
}

impl Which {
    const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    const fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// Counts outcomes of the same kind in a row.
#[derive(Debug, Clone, Copy, Default)]
struct Counter {
    last: bool,
    run: i32,
}

impl Counter {
    /// Counts one; `Some` when a threshold is reached and the verdict stands.
    fn count(&mut self, success: bool, probe: &Probe) -> Option<bool> {
        if self.last != success {
            self.run = 0;
        }
        self.last = success;
        self.run = self.run.saturating_add(1);
        let threshold =
            if success { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        (self.run >= threshold.max(1)).then_some(success)
    }
}

/// The probes of one pod.
#[derive(Debug, Default)]
pub struct Probes {
    health: Arc<Mutex<HealthView>>,
    tasks: HashMap<(String, Which), JoinHandle<()>>,
    seeded: bool,
}

impl Drop for Probes {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

impl Probes {
    /// What the probes say now.
    pub fn view(&self) -> HealthView {
        self.health.lock().clone()
    }

    /// Starts probes of what runs, and ends those of what does not. `wake` is notified when a verdict changes.
    pub fn update(
        &mut self,
        kubelet: &Arc<Kubelet>,
        pod: &Arc<Pod>,
        runtime: &PodRuntime,
        wake: &Arc<Notify>,
    ) {
        let sidecars = init_containers(pod).iter().filter(|c| is_sidecar(c)).map(|c| (Kind::Init, c));
        let regular = pod.spec().containers.iter().map(|c| (Kind::Regular, c));
        let mut running = Vec::new();
        for (kind, container) in regular.chain(sidecars) {
            let Some(record) = runtime.latest(&container.name).filter(|r| r.is_running()) else { continue };
            running.push(record.id.clone());
            if !self.seeded {
                self.seed(pod, container, record);
            }
            for which in Which::ALL {
                let Some(probe) = which.of(container) else { continue };
                if self.tasks.contains_key(&(record.id.clone(), which)) {
                    continue;
                }
                let task = Task {
                    kubelet: kubelet.clone(),
                    pod: pod.clone(),
                    kind,
                    container: container.clone(),
                    record: record.clone(),
                    probe: probe.clone(),
                    which,
                    ip: pod_ip(kubelet, pod, runtime),
                    health: self.health.clone(),
                    wake: wake.clone(),
                };
                self.tasks.insert((record.id.clone(), which), tokio::spawn(task.run()));
            }
        }
        self.seeded = true;
        self.tasks.retain(|(id, _), task| {
            let keep = running.contains(id);
            if !keep {
                task.abort();
            }
            keep
        });
        self.health.lock().retain(|id, _| running.contains(id));
    }

    /// A container that runs when the kubelet starts keeps the verdicts the API has of it: restarting the kubelet must
    /// not take a pod out of its services.
    fn seed(&self, pod: &Pod, container: &Container, record: &ContainerRecord) {
        let Some(status) = &pod.status else { return };
        let known = status
            .container_statuses
            .iter()
            .chain(status.init_container_statuses.iter())
            .flatten()
            .find(|s| s.name == container.name);
        let same = |id: &str| id.rsplit("//").next() == Some(record.id.as_str());
        let Some(known) = known.filter(|s| s.container_id.as_deref().is_some_and(same)) else { return };
        let health = Health {
            startup: known.started.filter(|s| *s),
            liveness: None,
            readiness: known.ready.then_some(true),
        };
        self.health.lock().insert(record.id.clone(), health);
    }
}

fn pod_ip(kubelet: &Kubelet, pod: &Pod, runtime: &PodRuntime) -> String {
    let sandbox = runtime.sandbox().and_then(|s| s.ips.first().cloned());
    if pod.host_network() {
        kubelet.host_ips().into_iter().next().unwrap_or_default()
    } else {
        sandbox.unwrap_or_default()
    }
}

struct Task {
    kubelet: Arc<Kubelet>,
    pod: Arc<Pod>,
    kind: Kind,
    container: Container,
    record: ContainerRecord,
    probe: Probe,
    which: Which,
    ip: String,
    health: Arc<Mutex<HealthView>>,
    wake: Arc<Notify>,
}

impl Task {
    async fn run(self) {
        let period = Duration::from_secs(self.probe.period_seconds.unwrap_or(10).max(1) as u64);
        let delay = Duration::from_secs(self.probe.initial_delay_seconds.unwrap_or(0).max(0) as u64);
        let ran = time(self.record.started_at)
            .and_then(|t| Duration::try_from(Timestamp::now().duration_since(t)).ok())
            .unwrap_or_default();
        tokio::time::sleep(delay.saturating_sub(ran)).await;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counter = Counter::default();
        loop {
            ticks.tick().await;
            if self.which != Which::Startup && !self.started() {
                continue;
            }
            let outcome = self.look().await;
            let success = match outcome {
                Outcome::Success => true,
                Outcome::Warning(text) => {
                    self.tell("ProbeWarning", &format!("{} probe warning: {text}", self.which.name()));
                    true
                }
                Outcome::Failure(text) => {
                    self.tell("Unhealthy", &format!("{} probe failed: {text}", self.which.name()));
                    false
                }
                Outcome::Unknown(text) => {
                    self.tell("Unhealthy", &format!("{} probe errored: {text}", self.which.name()));
                    continue;
                }
            };
            let Some(verdict) = counter.count(success, &self.probe) else { continue };
            let ended = self.set(verdict);
            if ended {
                return;
            }
        }
    }

    /// Whether a startup probe, if any, has succeeded.
    fn started(&self) -> bool {
        self.container.startup_probe.is_none()
            || self.health.lock().get(&self.record.id).is_some_and(|h| h.startup == Some(true))
    }

    /// Notes a verdict; `true` when this probe has nothing more to find out.
    fn set(&self, verdict: bool) -> bool {
        let changed = {
            let mut health = self.health.lock();
            let entry = health.entry(self.record.id.clone()).or_default();
            let slot = match self.which {
                Which::Startup => &mut entry.startup,
                Which::Liveness => &mut entry.liveness,
                Which::Readiness => &mut entry.readiness,
            };
            let changed = *slot != Some(verdict);
            *slot = Some(verdict);
            changed
        };
        if changed {
            self.wake.notify_one();
        }
        // A started container stays started; one that failed its liveness or startup probe will be killed.
        self.which == Which::Startup || (self.which == Which::Liveness && !verdict)
    }

    fn tell(&self, reason: &str, text: &str) {
        self.kubelet.container_event(
            &self.pod,
            self.kind,
            &self.container.name,
            EventType::Warning,
            reason,
            text,
        );
    }

    /// The probe as its metrics name it.
    fn labels(&self, result: Option<&str>) -> Labels {
        let own = |text: &str| text.to_owned();
        let mut labels = vec![
            ("probe_type", own(self.which.name())),
            ("container", self.container.name.clone()),
            ("pod", own(self.pod.name())),
            ("namespace", own(self.pod.ns())),
        ];
        if let Some(result) = result {
            labels.extend([("pod_uid", own(self.pod.uid())), ("result", own(result))]);
        }
        labels
    }

    async fn look(&self) -> Outcome {
        let started = std::time::Instant::now();
        let outcome = self.try_often().await;
        let seconds = started.elapsed().as_secs_f64();
        METRICS.probe_seconds.get_or_create(&self.labels(None)).observe(seconds);
        METRICS.probes.get_or_create(&self.labels(Some(result(&outcome)))).inc();
        outcome
    }

    async fn try_often(&self) -> Outcome {
        let mut outcome = Outcome::Unknown(String::new());
        for _ in 0..RETRIES {
            outcome = self.once().await;
            if !matches!(outcome, Outcome::Unknown(_)) {
                break;
            }
        }
        outcome
    }

    async fn once(&self) -> Outcome {
        let limit = Duration::from_secs(self.probe.timeout_seconds.unwrap_or(1).max(1) as u64);
        if let Some(exec) = &self.probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            return check::exec(&self.kubelet.runtime, &self.record.id, &command, limit).await;
        }
        if let Some(get) = &self.probe.http_get {
            return match HttpTarget::new(get, &self.container, &self.ip, "kube-probe/1.36") {
                Ok(target) => check::http_get(&target, limit).await,
                Err(why) => Outcome::Unknown(why),
            };
        }
        if let Some(socket) = &self.probe.tcp_socket {
            let host = socket.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&self.ip);
            return match resolve_port(&socket.port, &self.container) {
                Ok(port) => check::tcp(host, port, limit).await,
                Err(why) => Outcome::Unknown(why),
            };
        }
        if let Some(grpc) = &self.probe.grpc {
            let service = grpc.service.as_deref().unwrap_or_default();
            return match u16::try_from(grpc.port) {
                Ok(port) => check::grpc(&self.ip, port, service, limit).await,
                Err(_) => Outcome::Unknown(format!("invalid port number: {}", grpc.port)),
            };
        }
        Outcome::Unknown(format!("missing probe handler for {}:{}", self.pod.full_id(), self.container.name))
    }
}

/// An outcome as metrics name it.
const fn result(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Success | Outcome::Warning(_) => SUCCESSFUL,
        Outcome::Failure(_) => FAILED,
        Outcome::Unknown(_) => UNKNOWN,
    }
}

/// What is counted of a container goes with its probe.
impl Drop for Task {
    fn drop(&mut self) {
        METRICS.probe_seconds.remove(&self.labels(None));
        for result in [SUCCESSFUL, FAILED, UNKNOWN] {
            METRICS.probes.remove(&self.labels(Some(result)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_in_a_row() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut counter = Counter::default();
        let got: Vec<Option<bool>> = [true, true, false, false, true, false, false, false, true]
            .iter()
            .map(|s| counter.count(*s, &probe))
            .collect();
        assert_eq!(got, [None, Some(true), None, None, None, None, None, Some(false), None]);
    }
}
