//! Making sandboxes and starting containers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::events::EventType;
use cri::api;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;

use super::{RETRY, Step, Worker, kind_label};
use crate::container::{self, Parts};
use crate::decide::backoff_key;
use crate::env;
use crate::images::Failure;
use crate::metrics::METRICS;
use crate::objects::api_error;
use crate::podutil::{Kind, PodExt, find_container};
use crate::runtime::State;
use crate::{names, sandbox, security};

impl Worker {
    fn sandbox_config(&self, attempt: u32) -> Result<api::PodSandboxConfig, String> {
        let parent = self.kubelet.cgroups.parent(&self.pod);
        let (config, warning) =
            sandbox::config(&self.pod, attempt, &self.kubelet.names(), &parent, &self.kubelet.facts)?;
        if let Some(warning) = warning {
            self.kubelet.pod_event(&self.pod, EventType::Warning, "DNSConfigForming", &warning);
        }
        Ok(config)
    }

    /// Everything a pod needs before its first container: directories, cgroup, volumes, sandbox.
    pub(super) async fn create_sandbox(&mut self, attempt: u32) -> cri::Result<Step> {
        let failed = |this: &Self, note: &str| {
            this.kubelet.pod_event(&this.pod, EventType::Warning, "FailedCreatePodSandBox", note);
        };
        if let Err(error) = self.make_dirs() {
            let note = format!("error making pod data directories: {error}");
            self.kubelet.pod_event(&self.pod, EventType::Warning, "FailedToMakePodDataDirectories", &note);
            return Ok(Step::Retry(RETRY));
        }
        if !self.ensure_cgroup() {
            return Ok(Step::Retry(RETRY));
        }
        if !self.ensure_volumes(false).await {
            let delay = self.next_volume_delay();
            return Ok(Step::Retry(delay));
        }
        let config = match self.sandbox_config(attempt) {
            Ok(config) => config,
            Err(why) => {
                failed(self, &format!("Failed to create pod sandbox: {why}"));
                return Ok(Step::Retry(RETRY));
            }
        };
        let _ = std::fs::create_dir_all(&config.log_directory);
        let handler = match self.runtime_handler().await {
            Ok(handler) => handler,
            Err(why) => {
                failed(self, &format!("Failed to create pod sandbox: {why}"));
                return Ok(Step::Retry(RETRY));
            }
        };
        match self.kubelet.runtime.run_sandbox(config, &handler).await {
            Ok(_) => {
                METRICS.started_pods.inc();
                Ok(Step::Again)
            }
            Err(error) if error.is_unavailable() => Err(error),
            Err(error) => {
                METRICS.started_pods_errors.inc();
                failed(self, &format!("Failed to create pod sandbox: {error}"));
                Ok(Step::Retry(RETRY))
            }
        }
    }

    /// The runtime's handler for the pod's runtime class.
    async fn runtime_handler(&self) -> Result<String, String> {
        use k8s_openapi::api::node::v1::RuntimeClass;
        let Some(name) = self.pod.spec().runtime_class_name.as_deref().filter(|n| !n.is_empty()) else {
            return Ok(String::new());
        };
        let api = kube::Api::<RuntimeClass>::all(self.kubelet.objects.client().clone());
        match api.get_opt(name).await {
            Ok(Some(class)) => Ok(class.handler),
            Ok(None) => Err(format!("runtimeclass.node.k8s.io {name:?} not found")),
            Err(error) => Err(api_error(&error)),
        }
    }

    fn ensure_cgroup(&mut self) -> bool {
        if self.cgroup_ready {
            return true;
        }
        match self.kubelet.cgroups.ensure_pod(&self.pod, self.kubelet.config.cpu_cfs_quota) {
            Ok(()) => {
                self.cgroup_ready = true;
                true
            }
            Err(error) => {
                let note = format!(
                    "unable to ensure pod container exists: failed to create container for {}: {error}",
                    self.kubelet.cgroups.parent(&self.pod)
                );
                self.kubelet.pod_event(&self.pod, EventType::Warning, "FailedCreatePodContainer", &note);
                false
            }
        }
    }

    /// Pulls, makes and starts one container.
    pub(super) async fn start(&mut self, kind: Kind, name: &str, attempt: u32) -> cri::Result<Step> {
        let Some((_, spec)) = find_container(&self.pod, name) else { return Ok(Step::Again) };
        let Some(sandbox) = self.runtime.sandbox().cloned() else { return Ok(Step::Again) };
        if !self.ensure_cgroup() || !self.ensure_volumes(false).await {
            let delay = self.next_volume_delay();
            return Ok(Step::Retry(delay));
        }
        // Counted when it starts again after a failure, so that the next failure waits longer.
        if self.runtime.containers.iter().any(|r| r.name == name && r.state == State::Exited) {
            self.backoff.next(&backoff_key(&self.pod, &spec), Timestamp::now());
        }
        let sandbox_config = match self.sandbox_config(sandbox.attempt) {
            Ok(config) => config,
            Err(why) => {
                self.fail(kind, name, "CreateContainerConfigError", &why);
                return Ok(Step::Retry(RETRY));
            }
        };
        let secrets = self.kubelet.objects.pull_secrets(&self.pod).await;
        let (kubelet, pod) = (self.kubelet.clone(), self.pod.clone());
        let tell = |note: crate::images::Note| {
            let level = if note.normal { EventType::Normal } else { EventType::Warning };
            kubelet.container_event(&pod, kind, name, level, note.reason, &note.message);
        };
        let present = kubelet.images.ensure(&pod, &spec, &secrets, sandbox_config.clone(), tell).await;
        let image = match present {
            Ok(image) => image,
            Err(Failure { reason, message }) => {
                self.fail(kind, name, reason, &message);
                let delay = self.kubelet.images.retry_in(&self.pod, &spec).unwrap_or(RETRY);
                return Ok(Step::Retry(delay));
            }
        };
        let config = match self.container_config(kind, &spec, attempt, &image).await {
            Ok(config) => config,
            Err(why) => {
                self.fail(kind, name, "CreateContainerConfigError", &why);
                return Ok(Step::Retry(RETRY));
            }
        };
        self.launch(kind, &spec, attempt, &sandbox.id, config, sandbox_config).await
    }

    async fn container_config(
        &mut self,
        kind: Kind,
        spec: &Container,
        attempt: u32,
        image: &crate::images::Present,
    ) -> Result<api::ContainerConfig, String> {
        security::check_non_root(&self.pod, spec, &image.user)?;
        let env = self.environment(spec).await?;
        let mounts = self.mounts(spec, &env)?;
        let target = match kind {
            Kind::Ephemeral => self.target_of(&spec.name)?,
            _ => None,
        };
        Ok(container::config(Parts {
            pod: &self.pod,
            kind,
            container: spec,
            attempt,
            image_ref: &image.reference,
            image_user: &image.user,
            env: &env,
            mounts,
            root: &self.kubelet.config.root_dir,
            seccomp_default: self.kubelet.config.seccomp_default,
            node: &self.kubelet.facts,
            target: target.as_deref(),
        }))
    }

    /// Id of the container an ephemeral one wants to see the processes of.
    fn target_of(&self, name: &str) -> Result<Option<String>, String> {
        let ephemeral = self.pod.spec().ephemeral_containers.iter().flatten().find(|e| e.name == name);
        let Some(target) =
            ephemeral.and_then(|e| e.target_container_name.as_deref()).filter(|t| !t.is_empty())
        else {
            return Ok(None);
        };
        match self.runtime.latest(target).filter(|r| r.is_running()) {
            Some(record) => Ok(Some(record.id.clone())),
            None => Err(format!("unable to find target container {target}")),
        }
    }

    async fn environment(&self, spec: &Container) -> Result<Vec<(String, String)>, String> {
        let (maps, secrets) = env::needs(spec);
        let objects = &self.kubelet.objects;
        let mut sources =
            env::Sources { facts: self.kubelet.downward_facts(&self.ips()), ..env::Sources::default() };
        for name in maps {
            let data = objects.config_map(self.pod.ns(), &name).await.map_err(|e| api_error(&e))?;
            sources.config_maps.insert(name, data.map(Arc::unwrap_or_clone));
        }
        for name in secrets {
            let data = objects.secret(self.pod.ns(), &name).await.map_err(|e| api_error(&e))?;
            sources.secrets.insert(name, data.map(Arc::unwrap_or_clone));
        }
        sources.services =
            objects.services(self.pod.ns(), self.pod.spec().enable_service_links.unwrap_or(true));
        env::build(&self.pod, spec, &sources).map_err(|e| e.to_string())
    }

    /// Makes, starts, links its log, runs its hook.
    async fn launch(
        &mut self,
        kind: Kind,
        spec: &Container,
        attempt: u32,
        sandbox: &str,
        config: api::ContainerConfig,
        sandbox_config: api::PodSandboxConfig,
    ) -> cri::Result<Step> {
        let name = spec.name.as_str();
        let log_dir = sandbox_config.log_directory.clone();
        let _ = std::fs::create_dir_all(Path::new(&log_dir).join(name));
        let id = match self.kubelet.runtime.create_container(sandbox, config, sandbox_config).await {
            Ok(id) => id,
            Err(error) if error.is_unavailable() => return Err(error),
            Err(error) => {
                self.fail(kind, name, "CreateContainerError", &error.message());
                return Ok(Step::Retry(RETRY));
            }
        };
        self.kubelet.container_event(
            &self.pod,
            kind,
            name,
            EventType::Normal,
            "Created",
            "Container created",
        );
        if let Err(error) = self.kubelet.runtime.start_container(&id).await {
            if error.is_unavailable() {
                return Err(error);
            }
            self.fail(kind, name, "RunContainerError", &error.message());
            return Ok(Step::Retry(RETRY));
        }
        METRICS.started_containers.get_or_create(&[("container_type", kind_label(kind))]).inc();
        self.kubelet.container_event(
            &self.pod,
            kind,
            name,
            EventType::Normal,
            "Started",
            "Container started",
        );
        self.reasons.remove(name);
        let log = Path::new(&log_dir).join(names::log_path(name, attempt));
        let link = names::log_link(self.pod.name(), self.pod.ns(), name, &id);
        let _ = std::fs::create_dir_all(names::CONTAINER_LOGS);
        if let Err(error) = std::os::unix::fs::symlink(log, &link) {
            tracing::debug!(%error, link, "no link to the container's log");
        }
        if let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
            // A container that never ends its hook holds its pod, as upstream; its deletion interrupts it.
            const NO_LIMIT: Duration = Duration::from_secs(365 * 86_400);
            if let Err(why) = self.hook(hook, spec, &id, NO_LIMIT).await {
                tracing::warn!(pod = %self.pod.full_id(), container = name, why, "PostStartHook failed");
                self.kubelet.container_event(
                    &self.pod,
                    kind,
                    name,
                    EventType::Warning,
                    "FailedPostStartHook",
                    "PostStartHook failed",
                );
                self.kill_one(&id, name, kind, crate::decide::KillReason::PodEnds, "FailedPostStartHook")
                    .await;
                self.reasons.insert(name.to_owned(), ("PostStartHookError".to_owned(), why));
                return Ok(Step::Again);
            }
        }
        Ok(Step::Again)
    }
}
