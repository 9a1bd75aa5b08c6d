//! Stopping containers and pods: hooks, grace, order.
//!
//! Source: `killContainer` in `pkg/kubelet/kuberuntime/kuberuntime_container.go`, KEP-753 for the order of sidecars.

use std::time::{Duration, Instant};

use client::events::EventType;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::{Orders, Worker};
use crate::check::{self, HttpTarget, Outcome};
use crate::decide::KillReason;
use crate::podutil::{Kind, MINIMUM_GRACE_SECONDS, PodExt, find_container, init_containers, is_sidecar};
use crate::runtime::ContainerRecord;

impl Worker {
    /// Stops everything of the pod. A shorter grace period that arrives meanwhile takes over.
    pub(super) async fn kill_pod(&mut self, grace: i64) -> cri::Result<()> {
        let mut grace = grace;
        let ended = self.ended.is_some();
        let result = loop {
            let mut orders = self.orders.clone();
            let shorter = async move {
                let less = |o: &Orders| !ended && o.pod.is_deleting() && o.pod.grace_seconds() < grace;
                match orders.wait_for(less).await.map(|o| o.pod.grace_seconds()) {
                    Ok(grace) => grace,
                    // Nobody is left to give orders.
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                result = self.kill_all(grace) => break result,
                less = shorter => grace = less,
            }
        };
        result?;
        for sandbox in self.runtime.sandboxes.iter().filter(|s| s.ready) {
            if let Err(error) = self.kubelet.runtime.stop_sandbox(&sandbox.id).await {
                let note = format!(
                    "error killing pod: failed to \"KillPodSandbox\" for {:?} with KillPodSandboxError: {:?}",
                    self.pod.uid(),
                    error.to_string()
                );
                self.kubelet.pod_event(&self.pod, EventType::Warning, "FailedKillPod", &note);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Regular containers together, then sidecars from the last to the first, all within the grace period.
    async fn kill_all(&self, grace: i64) -> cri::Result<()> {
        let started = Instant::now();
        let sidecars: Vec<&str> =
            init_containers(&self.pod).iter().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect();
        let (last, first): (Vec<&ContainerRecord>, Vec<&ContainerRecord>) =
            self.runtime.running().partition(|r| sidecars.contains(&r.name.as_str()));
        let left = || {
            (grace - started.elapsed().as_secs() as i64).max(if grace == 0 {
                0
            } else {
                MINIMUM_GRACE_SECONDS
            })
        };
        let results = join_all(first.into_iter().map(|r| self.kill(r, grace, None))).await;
        results.into_iter().collect::<cri::Result<()>>()?;
        for name in sidecars.iter().rev() {
            for record in last.iter().filter(|r| r.name == *name) {
                self.kill(record, left(), None).await?;
            }
        }
        Ok(())
    }

    /// Stops one container for a reason of its own.
    pub(super) async fn kill_one(&self, id: &str, name: &str, kind: Kind, reason: KillReason, message: &str) {
        let spec = find_container(&self.pod, name).map(|(_, c)| c);
        let own = spec.as_ref().and_then(|c| match reason {
            KillReason::Liveness => c.liveness_probe.as_ref(),
            KillReason::Startup => c.startup_probe.as_ref(),
            _ => None,
        });
        let grace =
            own.and_then(|p| p.termination_grace_period_seconds).unwrap_or_else(|| self.pod.grace_seconds());
        let result = match self.runtime.containers.iter().find(|r| r.id == id) {
            Some(record) => self.kill(record, grace, Some(message)).await,
            // Started a moment ago, so the last look at the runtime has no record of it.
            None => {
                self.kubelet.container_event(&self.pod, kind, name, EventType::Normal, "Killing", message);
                self.kubelet.runtime.stop_container(id, seconds(grace)).await
            }
        };
        if let Err(error) = result {
            tracing::warn!(pod = %self.pod.full_id(), container = name, %error, "failed to kill container");
        }
    }

    async fn kill(&self, record: &ContainerRecord, grace: i64, message: Option<&str>) -> cri::Result<()> {
        let name = record.name.as_str();
        let found = find_container(&self.pod, name);
        let kind = found.as_ref().map_or(Kind::Regular, |(kind, _)| *kind);
        let default = format!("Stopping container {name}");
        let note = message.unwrap_or(&default);
        self.kubelet.container_event(&self.pod, kind, name, EventType::Normal, "Killing", note);
        let mut left = grace;
        if let Some((_, spec)) = &found
            && let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
            && record.is_running()
            && grace > 0
        {
            let started = Instant::now();
            let limit = seconds(grace);
            let outcome = tokio::time::timeout(limit, self.hook(hook, spec, &record.id, limit)).await;
            if !matches!(outcome, Ok(Ok(()))) {
                let why = match outcome {
                    Ok(Err(why)) => why,
                    _ => format!("PreStop hook not completed in grace period of {grace}s"),
                };
                tracing::warn!(pod = %self.pod.full_id(), container = name, why, "PreStopHook failed");
                self.kubelet.container_event(
                    &self.pod,
                    kind,
                    name,
                    EventType::Warning,
                    "FailedPreStopHook",
                    "PreStopHook failed",
                );
            }
            left -= started.elapsed().as_secs() as i64;
        }
        if left < MINIMUM_GRACE_SECONDS && grace > 0 {
            left = MINIMUM_GRACE_SECONDS;
        }
        self.kubelet.runtime.stop_container(&record.id, seconds(left)).await
    }

    /// Runs a lifecycle hook.
    pub(super) async fn hook(
        &self,
        hook: &LifecycleHandler,
        spec: &Container,
        id: &str,
        limit: Duration,
    ) -> Result<(), String> {
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            return done(check::exec(&self.kubelet.runtime, id, &command, limit).await);
        }
        if let Some(sleep) = &hook.sleep {
            // Woken early when the container ends by itself is not worth a watch: the sleep is bounded by the grace.
            tokio::time::sleep(seconds(sleep.seconds)).await;
            return Ok(());
        }
        let ip = self.ips().into_iter().next().unwrap_or_default();
        if let Some(get) = &hook.http_get {
            let target = HttpTarget::new(get, spec, &ip, "kube-lifecycle/1.36")?;
            return done(check::http_get(&target, limit).await);
        }
        if hook.tcp_socket.is_some() {
            // Part of the API for old objects' sake; upstream runs none either.
            return Err("tcpSocket hooks are not supported".to_owned());
        }
        Err("invalid handler: no action".to_owned())
    }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.max(0) as u64)
}

fn done(outcome: Outcome) -> Result<(), String> {
    match outcome {
        Outcome::Success | Outcome::Warning(_) => Ok(()),
        Outcome::Failure(why) | Outcome::Unknown(why) => Err(why),
    }
}
