//! One connection to a runtime and the calls the kubelet makes over it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{Error, Result, api};

/// Largest message accepted from the runtime, as upstream's client has it.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// How long connecting to the socket may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Added to the grace period of a stop: the runtime needs time of its own after the kill.
const STOP_SLACK: Duration = Duration::from_secs(120);
/// Added to the time limit of a command run in a container.
const EXEC_SLACK: Duration = Duration::from_secs(5);

/// Time limits of calls.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Limit of every call without one of its own (`runtimeRequestTimeout`).
    pub request: Duration,
    /// Limit of starting a sandbox, which sets up its network.
    pub sandbox: Duration,
    /// Limit of an image pull.
    pub pull: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(120),
            sandbox: Duration::from_secs(240),
            pull: Duration::from_secs(1800),
        }
    }
}

/// Name and version of a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// Such as `containerd`.
    pub name: String,
    /// Such as `1.6.20~ds1`.
    pub version: String,
    /// Version of the interface it speaks.
    pub api_version: String,
}

/// A runtime condition: `RuntimeReady` or `NetworkReady`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeCondition {
    /// Name of the condition.
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// One word why.
    pub reason: String,
    /// A sentence why.
    pub message: String,
}

/// A client of one container runtime. Cheap to clone; all clones share the connection.
#[derive(Debug, Clone)]
pub struct Runtime {
    services: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    timeouts: Timeouts,
    socket: PathBuf,
}

impl Runtime {
    /// A client for `unix:///path` or `/path`. Connects at the first call, and again whenever the connection broke.
    ///
    /// # Errors
    /// [`Error::Endpoint`] when the endpoint is not a unix socket's.
    pub fn connect(endpoint: &str, timeouts: Timeouts) -> Result<Self> {
        let socket = socket_path(endpoint)?;
        let path = socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is never used: every connection goes to the socket.
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT_TIMEOUT)
            .connect_with_connector_lazy(connector);
        Ok(Self {
            services: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
            timeouts,
            socket,
        })
    }

    /// The socket this client speaks to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

fn socket_path(endpoint: &str) -> Result<PathBuf> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    let why =
        if endpoint.contains("://") { "only unix:// endpoints are" } else { "the path must be absolute" };
    Err(Error::Endpoint { endpoint: endpoint.to_owned(), why })
}

/// Runs a call under its limit and types its error.
async fn limited<T>(
    method: &'static str,
    limit: Duration,
    call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    let started = std::time::Instant::now();
    let outcome = match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::from_status(method, &status)),
        Err(_) => Err(Error::Timeout { method, message: "context deadline exceeded".to_owned() }),
    };
    crate::metrics::observe(method, started.elapsed(), outcome.is_err());
    outcome
}

/// A selector for objects that carry all of these labels.
fn selector(labels: &[(&str, &str)]) -> HashMap<String, String> {
    labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// The runtime service.
impl Runtime {
    /// Name and versions.
    pub async fn version(&self) -> Result<RuntimeInfo> {
        let mut client = self.services.clone();
        let request = api::VersionRequest { version: "v1".to_owned() };
        let v = limited("Version", self.timeouts.request, client.version(request)).await?;
        Ok(RuntimeInfo {
            name: v.runtime_name,
            version: v.runtime_version,
            api_version: v.runtime_api_version,
        })
    }

    /// The runtime's conditions, handlers and features.
    pub async fn status(&self) -> Result<api::StatusResponse> {
        let mut client = self.services.clone();
        limited("Status", self.timeouts.request, client.status(api::StatusRequest { verbose: false })).await
    }

    /// The conditions out of [`Runtime::status`].
    pub fn conditions(status: &api::StatusResponse) -> Vec<RuntimeCondition> {
        let conditions = status.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
        conditions
            .iter()
            .map(|c| RuntimeCondition {
                kind: c.r#type.clone(),
                status: c.status,
                reason: c.reason.clone(),
                message: c.message.clone(),
            })
            .collect()
    }

    /// The cgroup driver the runtime uses, where it can tell (containerd 2 and later).
    pub async fn cgroup_driver(&self) -> Result<Option<api::CgroupDriver>> {
        let mut client = self.services.clone();
        let call = client.runtime_config(api::RuntimeConfigRequest {});
        match limited("RuntimeConfig", self.timeouts.request, call).await {
            Ok(config) => Ok(config.linux.map(|l| l.cgroup_driver())),
            Err(Error::Unimplemented { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells the runtime the node's pod range.
    pub async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<()> {
        let mut client = self.services.clone();
        let request = api::UpdateRuntimeConfigRequest {
            runtime_config: Some(api::RuntimeConfig {
                network_config: Some(api::NetworkConfig { pod_cidr: pod_cidr.to_owned() }),
            }),
        };
        let call = client.update_runtime_config(request);
        limited("UpdateRuntimeConfig", self.timeouts.request, call).await.map(|_| ())
    }

    /// Every sandbox, or those with all the labels.
    pub async fn list_sandboxes(&self, labels: &[(&str, &str)]) -> Result<Vec<api::PodSandbox>> {
        let mut client = self.services.clone();
        let filter = api::PodSandboxFilter { label_selector: selector(labels), ..Default::default() };
        let call = client.list_pod_sandbox(api::ListPodSandboxRequest { filter: Some(filter) });
        Ok(limited("ListPodSandbox", self.timeouts.request, call).await?.items)
    }

    /// Every container, or those with all the labels.
    pub async fn list_containers(&self, labels: &[(&str, &str)]) -> Result<Vec<api::Container>> {
        let mut client = self.services.clone();
        let filter = api::ContainerFilter { label_selector: selector(labels), ..Default::default() };
        let call = client.list_containers(api::ListContainersRequest { filter: Some(filter) });
        Ok(limited("ListContainers", self.timeouts.request, call).await?.containers)
    }

    /// Creates and starts a sandbox; answers its id.
    pub async fn run_sandbox(&self, config: api::PodSandboxConfig, handler: &str) -> Result<String> {
        let mut client = self.services.clone();
        let request = api::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let call = client.run_pod_sandbox(request);
        Ok(limited("RunPodSandbox", self.timeouts.sandbox, call).await?.pod_sandbox_id)
    }

    /// Stops a sandbox and everything in it. One that is gone counts as stopped.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let mut client = self.services.clone();
        let call = client.stop_pod_sandbox(api::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() });
        gone_is_done(limited("StopPodSandbox", self.timeouts.sandbox, call).await.map(|_| ()))
    }

    /// Removes a sandbox and its containers. One that is gone counts as removed.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let mut client = self.services.clone();
        let call = client.remove_pod_sandbox(api::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() });
        gone_is_done(limited("RemovePodSandbox", self.timeouts.request, call).await.map(|_| ()))
    }

    /// State and addresses of a sandbox.
    pub async fn sandbox_status(&self, id: &str) -> Result<api::PodSandboxStatus> {
        let mut client = self.services.clone();
        let request = api::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let call = client.pod_sandbox_status(request);
        let response = limited("PodSandboxStatus", self.timeouts.request, call).await?;
        response.status.ok_or(Error::Incomplete { method: "PodSandboxStatus", field: "status" })
    }

    /// State of a container.
    pub async fn container_status(&self, id: &str) -> Result<api::ContainerStatus> {
        let mut client = self.services.clone();
        let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let call = client.container_status(request);
        let response = limited("ContainerStatus", self.timeouts.request, call).await?;
        response.status.ok_or(Error::Incomplete { method: "ContainerStatus", field: "status" })
    }

    /// Creates a container in a sandbox; answers its id.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: api::ContainerConfig,
        sandbox_config: api::PodSandboxConfig,
    ) -> Result<String> {
        let mut client = self.services.clone();
        let request = api::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let call = client.create_container(request);
        Ok(limited("CreateContainer", self.timeouts.request, call).await?.container_id)
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let mut client = self.services.clone();
        let call = client.start_container(api::StartContainerRequest { container_id: id.to_owned() });
        limited("StartContainer", self.timeouts.request, call).await.map(|_| ())
    }

    /// Stops a container, killing it after the grace period. One that is gone counts as stopped.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let mut client = self.services.clone();
        let request =
            api::StopContainerRequest { container_id: id.to_owned(), timeout: grace.as_secs() as i64 };
        let call = client.stop_container(request);
        gone_is_done(limited("StopContainer", grace + STOP_SLACK, call).await.map(|_| ()))
    }

    /// Removes a container. One that is gone counts as removed.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let mut client = self.services.clone();
        let call = client.remove_container(api::RemoveContainerRequest { container_id: id.to_owned() });
        gone_is_done(limited("RemoveContainer", self.timeouts.request, call).await.map(|_| ()))
    }

    /// Changes a running container's resources.
    pub async fn update_resources(&self, id: &str, linux: api::LinuxContainerResources) -> Result<()> {
        let mut client = self.services.clone();
        let request = api::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        let call = client.update_container_resources(request);
        limited("UpdateContainerResources", self.timeouts.request, call).await.map(|_| ())
    }

    /// Runs a command in a container to its end. A zero `limit` means none of its own.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<api::ExecSyncResponse> {
        let mut client = self.services.clone();
        let request = api::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: limit.as_secs() as i64,
        };
        let overall = if limit.is_zero() { self.timeouts.request } else { limit + EXEC_SLACK };
        limited("ExecSync", overall, client.exec_sync(request)).await
    }

    /// Prepares an interactive command; answers the URL to stream from.
    pub async fn exec(&self, request: api::ExecRequest) -> Result<String> {
        let mut client = self.services.clone();
        Ok(limited("Exec", self.timeouts.request, client.exec(request)).await?.url)
    }

    /// Prepares attaching to a container; answers the URL to stream from.
    pub async fn attach(&self, request: api::AttachRequest) -> Result<String> {
        let mut client = self.services.clone();
        Ok(limited("Attach", self.timeouts.request, client.attach(request)).await?.url)
    }

    /// Prepares port forwarding into a sandbox; answers the URL to stream from.
    pub async fn port_forward(&self, sandbox: &str, ports: Vec<i32>) -> Result<String> {
        let mut client = self.services.clone();
        let request = api::PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port: ports };
        Ok(limited("PortForward", self.timeouts.request, client.port_forward(request)).await?.url)
    }

    /// Tells the runtime that a container's log file was moved away.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let mut client = self.services.clone();
        let call =
            client.reopen_container_log(api::ReopenContainerLogRequest { container_id: id.to_owned() });
        limited("ReopenContainerLog", self.timeouts.request, call).await.map(|_| ())
    }

    /// Usage figures of all containers.
    pub async fn container_stats(&self) -> Result<Vec<api::ContainerStats>> {
        let mut client = self.services.clone();
        let call = client.list_container_stats(api::ListContainerStatsRequest { filter: None });
        Ok(limited("ListContainerStats", self.timeouts.request, call).await?.stats)
    }
}

/// The image service.
impl Runtime {
    /// All images.
    pub async fn list_images(&self) -> Result<Vec<api::Image>> {
        let mut client = self.images.clone();
        let call = client.list_images(api::ListImagesRequest { filter: None });
        Ok(limited("ListImages", self.timeouts.request, call).await?.images)
    }

    /// An image by any of its names; `None` when it is not on the node.
    pub async fn image_status(&self, image: &str) -> Result<Option<api::Image>> {
        let mut client = self.images.clone();
        let call =
            client.image_status(api::ImageStatusRequest { image: Some(image_spec(image)), verbose: false });
        match limited("ImageStatus", self.timeouts.request, call).await {
            Ok(response) => Ok(response.image),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Pulls an image; answers the reference it can be found by from now on.
    pub async fn pull_image(
        &self,
        image: &str,
        auth: Option<api::AuthConfig>,
        sandbox_config: Option<api::PodSandboxConfig>,
    ) -> Result<String> {
        let mut client = self.images.clone();
        let request = api::PullImageRequest { image: Some(image_spec(image)), auth, sandbox_config };
        Ok(limited("PullImage", self.timeouts.pull, client.pull_image(request)).await?.image_ref)
    }

    /// Removes an image. One that is gone counts as removed.
    pub async fn remove_image(&self, image: &str) -> Result<()> {
        let mut client = self.images.clone();
        let call = client.remove_image(api::RemoveImageRequest { image: Some(image_spec(image)) });
        gone_is_done(limited("RemoveImage", self.timeouts.request, call).await.map(|_| ()))
    }

    /// Where images are kept and what they use.
    pub async fn image_fs_info(&self) -> Result<Vec<api::FilesystemUsage>> {
        let mut client = self.images.clone();
        let call = client.image_fs_info(api::ImageFsInfoRequest {});
        Ok(limited("ImageFsInfo", self.timeouts.request, call).await?.image_filesystems)
    }
}

fn image_spec(image: &str) -> api::ImageSpec {
    api::ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() }
}

fn gone_is_done(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let cases = [
            ("unix:///run/containerd/containerd.sock", Some("/run/containerd/containerd.sock")),
            ("/run/crio.sock", Some("/run/crio.sock")),
            ("tcp://127.0.0.1:1", None),
            ("run/x.sock", None),
        ];
        for (endpoint, path) in cases {
            assert_eq!(socket_path(endpoint).ok().as_deref(), path.map(Path::new), "{endpoint}");
        }
    }

    #[tokio::test]
    async fn an_absent_runtime_is_unavailable() {
        let runtime = Runtime::connect("unix:///nonexistent/runtime.sock", Timeouts::default())
            .expect("the endpoint is well formed");
        let error = runtime.version().await.expect_err("nothing listens there");
        assert!(error.is_unavailable(), "{error}");
    }
}
