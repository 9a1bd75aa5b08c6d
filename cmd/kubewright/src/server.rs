//! `kubewright server`: API server, controllers and scheduler in one process. The latter two reach the first through the
//! very code that serves the network, without sockets.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use auth::UserInfo;
use cluster::spec::{CLUSTER_CIDR, CLUSTER_DOMAIN, Paths, SERVICE_CIDR, Spec, Storage};
use controlplane::{Config, ControlPlane, FrontProxy, KubeletClient, Pem, ServingCertificate, StorageConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Worker threads: API requests, controllers and scheduler share them.
const MAX_THREADS: usize = 4;
/// Longest life of certificates the cluster signs; upstream's default.
const SIGNING_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Pause before a part that failed is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Runs the server of a cluster until it is told to stop. Must be called before any thread is started: the process moves
/// into the cluster's network.
pub(crate) fn main(paths: &Paths, spec: &Spec) -> anyhow::Result<()> {
    component::logs::init(&component::logs::Options { verbosity: spec.verbosity, ..Default::default() });
    let local = TcpListener::bind(("127.0.0.1", spec.port))
        .with_context(|| format!("cannot listen on port {} of the loopback address", spec.port))?;
    cluster::launch::enter_network(&spec.netns("ctl"))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    component::runtime(threads)?.block_on(run(configuration(paths, spec, local), paths))
}

fn configuration(paths: &Paths, spec: &Spec, local: TcpListener) -> Config {
    let pki = paths.pki();
    let file = |name: &str| Pem::File(pki.join(name));
    let (ip, port) = cluster::up::server_address();
    Config {
        storage: match &spec.storage {
            Storage::Embedded => StorageConfig::Embedded(paths.store()),
            Storage::Etcd => {
                StorageConfig::Etcd { servers: vec![format!("http://{ip}:2379")], ca: None, client: None }
            }
            Storage::External(servers) => {
                StorageConfig::Etcd { servers: servers.clone(), ca: None, client: None }
            }
        },
        bind: SocketAddr::from((ip, port)),
        listeners: vec![Arc::new(local)],
        certificate: ServingCertificate::Given(file("apiserver.crt"), file("apiserver.key")),
        client_ca: Some(file("ca.crt")),
        service_account_keys: vec![file("sa.pub")],
        service_account_signing_key: Some(file("sa.key")),
        service_account_issuers: vec![format!("https://kubernetes.default.svc.{CLUSTER_DOMAIN}")],
        front_proxy: Some(FrontProxy {
            client_ca: file("front-proxy-ca.crt"),
            allowed_names: vec!["front-proxy-client".into()],
            username_headers: vec!["X-Remote-User".into()],
            uid_headers: vec!["X-Remote-Uid".into()],
            group_headers: vec!["X-Remote-Group".into()],
            extra_header_prefixes: vec!["X-Remote-Extra-".into()],
        }),
        service_ranges: SERVICE_CIDR.parse().into_iter().collect(),
        allow_privileged: true,
        bootstrap_tokens: true,
        enable_admission: vec!["NodeRestriction".into()],
        kubelet: KubeletClient {
            client: Some((file("apiserver-kubelet-client.crt"), file("apiserver-kubelet-client.key"))),
            ca: Some(file("ca.crt")),
            address_types: vec!["InternalIP".into(), "Hostname".into()],
        },
        ..Config::default()
    }
}

async fn run(config: Config, paths: &Paths) -> anyhow::Result<()> {
    let shutdown = component::shutdown::on_signals().context("cannot listen for signals")?;
    let pki = paths.pki();
    let controllers = controllers(&pki)?;
    let server = ControlPlane::start(config, shutdown.clone()).await?;
    let authenticated = &["system:authenticated"];
    let tasks = TaskTracker::new();
    let client = server.in_process_client(UserInfo::new("system:kube-controller-manager", authenticated));
    // Controllers and scheduler read the same objects: they are held once.
    let informers = client::InformerFactory::new(client.clone());
    informers.start(shutdown.clone());
    {
        let handler = server.server().clone();
        let client_for = move |account: &str| {
            controlplane::in_process_client(
                &handler,
                UserInfo::new(
                    format!("system:serviceaccount:kube-system:{account}"),
                    &["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
                ),
            )
        };
        let config = controller::Config {
            client_for: Some(Arc::new(client_for)),
            informers: Some(informers.clone()),
            ..controllers
        };
        let stop = shutdown.clone();
        tasks.spawn(keep_running("controllers", shutdown.clone(), move || {
            controller::run(config.clone(), client.clone(), stop.clone())
        }));
    }
    {
        let client = server.in_process_client(UserInfo::new("system:kube-scheduler", authenticated));
        let stop = shutdown.clone();
        tasks.spawn(keep_running("scheduler", shutdown.clone(), move || {
            let config =
                scheduler::Config { informers: Some(informers.clone()), ..scheduler::Config::default() };
            scheduler::run(config, client.clone(), stop.clone())
        }));
    }
    let admin = server
        .in_process_client(UserInfo::new("system:kubewright", &["system:masters", "system:authenticated"]));
    tasks.spawn(keep_running("add-ons", shutdown.clone(), move || cluster::addons::ensure(admin.clone())));
    tasks.close();
    server.wait().await;
    tasks.wait().await;
    Ok(())
}

fn controllers(pki: &std::path::Path) -> anyhow::Result<controller::Config> {
    let text = |name: &str| crate::read(&pki.join(name));
    let token_key = auth::service_account::SigningKey::from_pem(text("sa.key")?.as_bytes())?;
    Ok(controller::Config {
        allocate_node_cidrs: true,
        cluster_cidrs: CLUSTER_CIDR.parse().into_iter().collect(),
        service_cidrs: SERVICE_CIDR.parse().into_iter().collect(),
        root_ca_pem: Some(text("ca.crt")?),
        sign_token: Some(Arc::new(move |claims: &serde_json::Value| {
            let claims: auth::service_account::Claims =
                serde_json::from_value(claims.clone()).map_err(|error| error.to_string())?;
            auth::service_account::token::sign(&claims, &token_key).map_err(|error| error.to_string())
        })),
        signing: Some(controller::config::SigningCa {
            certificate_pem: text("ca.crt")?,
            key_pem: text("ca.key")?,
            duration: SIGNING_DURATION,
        }),
        ..controller::Config::default()
    })
}

/// Runs a part until shutdown; a failure is logged and the part started again. A part that ends well is done.
async fn keep_running<F, E>(part: &'static str, shutdown: CancellationToken, start: impl Fn() -> F)
where
    F: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    while let Err(error) = start().await {
        if shutdown.is_cancelled() {
            return;
        }
        tracing::error!(part, %error, "failed, starting it again");
        if shutdown.run_until_cancelled(tokio::time::sleep(RESTART_PAUSE)).await.is_none() {
            return;
        }
    }
}
