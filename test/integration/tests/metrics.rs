//! `/metrics`: what upstream guarantees of the API server's metrics, by name, labels and what they count.

use std::collections::BTreeMap;
use std::sync::Arc;

use auth::UserInfo;
use component::http::empty;
use controlplane::StorageConfig;
use integration::Cluster;
use serde_json::{Value, json};

/// The values of a metric by their labels, which are sorted.
struct Metrics(String);

impl Metrics {
    async fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        Self::at(cluster, "/metrics").await
    }

    async fn at(cluster: &Cluster, path: &str) -> anyhow::Result<Self> {
        let answer = cluster.call("GET", path, "").await?;
        anyhow::ensure!(answer.code == 200, "{}", answer.text());
        Ok(Self(answer.text()))
    }

    /// The samples of a name.
    fn samples(&self, name: &str) -> impl Iterator<Item = (BTreeMap<&str, &str>, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            let labels = labels.split(',').filter_map(|label| label.split_once('='));
            Some((labels.map(|(k, v)| (k, v.trim_matches('"'))).collect(), value.parse().ok()?))
        })
    }

    /// The sum of the samples whose labels have these values.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |found: &BTreeMap<&str, &str>| labels.iter().all(|(k, v)| found.get(k) == Some(v));
        self.samples(name).filter(|(found, _)| fits(found)).map(|(_, value)| value).sum()
    }

    /// Names of the labels of a metric, of all of its samples.
    fn labels(&self, name: &str) -> Vec<&str> {
        let mut all: Vec<Vec<&str>> =
            self.samples(name).map(|(found, _)| found.into_keys().collect()).collect();
        all.dedup();
        assert!(all.len() <= 1, "{name}: {all:?}");
        all.pop().unwrap_or_default()
    }
}

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A server whose namespace `default` has what pods need.
async fn cluster() -> anyhow::Result<Cluster> {
    let cluster = Cluster::start().await?;
    let account = json!({"metadata": {"name": "default"}});
    cluster.ok("POST", "/api/v1/namespaces/default/serviceaccounts", &account).await?;
    Ok(cluster)
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn stable_metrics_have_their_labels() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    cluster.ok("POST", PODS, &pod("a")).await?;
    cluster.ok("GET", PODS, &Value::Null).await?;
    cluster.ok("GET", "/api/v1/namespaces/default/endpoints", &Value::Null).await?;
    cluster.call("GET", "/readyz", "").await?;
    let metrics = Metrics::of(&cluster).await?;
    for (name, labels) in [
        ("apiserver_admission_controller_admission_duration_seconds_count", "name operation rejected type"),
        ("apiserver_admission_step_admission_duration_seconds_count", "operation rejected type"),
        ("apiserver_current_inflight_requests", "request_kind"),
        (
            "apiserver_request_duration_seconds_count",
            "component dry_run group resource scope subresource verb version",
        ),
        ("apiserver_request_total", "code component dry_run group resource scope subresource verb version"),
        ("apiserver_requested_deprecated_apis", "group removed_release resource subresource version"),
        ("apiserver_response_sizes_count", "component group resource scope subresource verb version"),
        ("apiserver_resource_objects", "group resource"),
        ("apiserver_storage_objects", "resource"),
        ("apiserver_storage_size_bytes", "storage_cluster_id"),
    ] {
        assert_eq!(metrics.labels(name).join(" "), labels, "{name}");
    }
    let indicators = Metrics::at(&cluster, "/metrics/slis").await?;
    for (name, labels) in
        [("kubernetes_healthcheck", "name type"), ("kubernetes_healthchecks_total", "name status type")]
    {
        assert_eq!(indicators.labels(name).join(" "), labels, "{name}");
        assert_eq!(metrics.samples(name).count(), 0, "{name} is an indicator");
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_their_admission_are_counted() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let before = Metrics::of(&cluster).await?;
    cluster.ok("POST", PODS, &pod("a")).await?;
    assert_eq!(cluster.call("POST", PODS, &pod("a").to_string()).await?.code, 409);
    let listed = cluster.call("GET", PODS, "").await?;
    let denied = json!({"metadata": {"name": "b"}, "spec": {"priorityClassName": "none", "containers": [
                        {"name": "c", "image": "i"}]}});
    assert_eq!(cluster.call("POST", PODS, &denied.to_string()).await?.code, 403);
    cluster.call("GET", "/api/v1/namespaces/default/endpoints", "").await?;
    let after = Metrics::of(&cluster).await?;
    // counts and bytes are whole numbers
    let more =
        |name: &str, labels: &[(&str, &str)]| (after.sum(name, labels) - before.sum(name, labels)) as i64;
    let pods = |verb, code| [("resource", "pods"), ("verb", verb), ("code", code)];
    assert_eq!(more("apiserver_request_total", &pods("POST", "201")), 1);
    assert_eq!(more("apiserver_request_total", &pods("POST", "409")), 1);
    assert_eq!(more("apiserver_request_total", &pods("POST", "403")), 1);
    assert_eq!(more("apiserver_request_total", &pods("LIST", "200")), 1);
    let lists = [("resource", "pods"), ("verb", "LIST"), ("scope", "namespace")];
    assert_eq!(more("apiserver_request_sli_duration_seconds_count", &lists), 1);
    assert_eq!(more("apiserver_request_duration_seconds_count", &lists), 1);
    assert_eq!(more("apiserver_response_sizes_sum", &lists), listed.bytes.len() as i64);
    let bodies = [("group", ""), ("resource", "pods"), ("verb", "create")];
    assert_eq!(more("apiserver_request_body_size_bytes_count", &bodies), 3);
    assert_eq!(more("apiserver_response_sizes_count", &[("verb", "POST")]), 0, "of reads only");
    let step = |phase, rejected| [("operation", "CREATE"), ("type", phase), ("rejected", rejected)];
    let steps = "apiserver_admission_step_admission_duration_seconds_count";
    assert_eq!(more(steps, &step("admit", "true")), 1);
    assert_eq!(more(steps, &step("admit", "false")), 2);
    assert_eq!(more(steps, &step("validate", "false")), 2);
    let plugins = "apiserver_admission_controller_admission_duration_seconds_count";
    let plugin = |name, phase, rejected| [("name", name), ("type", phase), ("rejected", rejected)];
    assert_eq!(more(plugins, &plugin("Priority", "admit", "true")), 1);
    assert_eq!(more(plugins, &plugin("ResourceQuota", "validate", "false")), 2);
    assert_eq!(more(plugins, &plugin("ResourceQuota", "admit", "false")), 0, "it has no say there");
    let endpoints = [("resource", "endpoints"), ("version", "v1"), ("removed_release", "")];
    assert_eq!(after.sum("apiserver_requested_deprecated_apis", &endpoints) as i64, 1);
    let of_pods = [("group", ""), ("resource", "pods")];
    assert_eq!(after.sum("apiserver_resource_objects", &of_pods) as i64, 1);
    assert_eq!(more("apiserver_watch_cache_events_received_total", &of_pods), 1);
    assert_eq!(more("apiserver_cache_list_total", &of_pods), 1);
    assert_eq!(more("apiserver_cache_list_returned_objects_total", &of_pods), 1);
    let creations = [("operation", "create"), ("group", ""), ("resource", "pods")];
    assert_eq!(more("etcd_requests_total", &creations), 2, "the one whose name was taken is one");
    assert_eq!(more("etcd_request_duration_seconds_count", &creations), 2);
    assert_eq!(more("etcd_request_errors_total", &creations), 0);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_counted_where_it_ended() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let before = Metrics::of(&cluster).await?;
    let stranger = http::Request::get(PODS).header("authorization", "Bearer nobody").body(empty())?;
    assert_eq!(Arc::clone(cluster.plane().server()).respond(stranger).await.status(), 401);
    let ann = UserInfo::new("ann", &[]);
    assert_eq!(cluster.call_as(ann, "GET", PODS, empty(), &[]).await?.code, 403);
    cluster.call("GET", "/version", "").await?;
    cluster.call("GET", "/apis", "").await?;
    let after = Metrics::of(&cluster).await?;
    let more =
        |name: &str, labels: &[(&str, &str)]| (after.sum(name, labels) - before.sum(name, labels)) as i64;
    assert_eq!(more("authentication_attempts", &[("result", "error")]), 1);
    assert_eq!(more("authorization_attempts_total", &[("result", "no-opinion")]), 1);
    assert_eq!(more("authentication_duration_seconds_count", &[("result", "error")]), 1);
    assert_eq!(more("apiserver_request_total", &[("resource", "pods")]), 0, "no handler has seen them");
    assert_eq!(more("apiserver_request_total", &[("subresource", "/apis"), ("component", "apiserver")]), 1);
    assert_eq!(more("apiserver_request_total", &[]), 1, "neither versions nor metrics count");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_and_watches_have_names_of_their_own() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}).to_string();
    let apply = [("content-type", "application/apply-patch+yaml")];
    let maps = "/api/v1/namespaces/default/configmaps";
    let path = format!("{maps}/c?fieldManager=m");
    assert_eq!(cluster.call_with("PATCH", &path, &config, &apply).await?.code, 201);
    let path = format!(
        "{maps}?watch=1&timeoutSeconds=1&sendInitialEvents=true&allowWatchBookmarks=true\
        &resourceVersionMatch=NotOlderThan"
    );
    let watched = cluster.call("GET", &path, "").await?;
    assert_eq!(watched.code, 200, "{}", watched.text());
    assert_eq!(cluster.call("DELETE", maps, "").await?.code, 200);
    let metrics = Metrics::of(&cluster).await?;
    let requests = |verb, scope| {
        let labels = [("resource", "configmaps"), ("verb", verb), ("scope", scope)];
        metrics.sum("apiserver_request_total", &labels) as i64
    };
    assert_eq!((requests("APPLY", "resource"), requests("WATCH", "namespace")), (1, 1));
    assert_eq!((requests("DELETE", "namespace"), requests("PATCH", "resource")), (1, 0));
    let admin = UserInfo::new("admin", &["system:masters"]);
    let path = format!("{maps}?watch=1");
    let watch = cluster.open(admin, "GET", &path, empty(), &[]).await?;
    let open = async || -> anyhow::Result<[i64; 2]> {
        let metrics = Metrics::of(&cluster).await?;
        let labels = [("resource", "configmaps"), ("verb", "WATCH")];
        Ok(["apiserver_longrunning_requests", "apiserver_request_total"]
            .map(|n| metrics.sum(n, &labels) as i64))
    };
    assert_eq!(open().await?, [1, 1], "a watch counts when it is over");
    drop(watch);
    assert_eq!(open().await?, [0, 2]);
    let maps = [("group", ""), ("resource", "configmaps")];
    let events = metrics.sum("apiserver_watch_events_total", &maps) as i64;
    assert_eq!(metrics.sum("apiserver_watch_events_sizes_count", &maps) as i64, events);
    assert_eq!(metrics.sum("apiserver_watch_events_sizes_sum", &maps) as usize, watched.bytes.len());
    assert_eq!(metrics.sum("apiserver_watch_list_duration_seconds_count", &maps) as i64, 1);
    assert!(metrics.sum("apiserver_init_events_total", &maps) >= 1.0);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_ports_and_judgements_are_counted() -> anyhow::Result<()> {
    const SERVICES: &str = "/api/v1/namespaces/default/services";
    let cluster = cluster().await?;
    let before = Metrics::of(&cluster).await?;
    let service = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["ports"] = json!([{"port": 80}]);
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let made = cluster.ok("POST", SERVICES, &service("a", json!({"type": "NodePort"}))).await?;
    let taken = service("b", json!({"clusterIP": made["spec"]["clusterIP"]}));
    assert_eq!(cluster.call("POST", SERVICES, &taken.to_string()).await?.code, 422);
    let dry = service("c", json!({"type": "NodePort"})).to_string();
    assert_eq!(cluster.call("POST", &format!("{SERVICES}?dryRun=All"), &dry).await?.code, 201);
    cluster.ok("POST", PODS, &pod("a")).await?;
    let after = Metrics::of(&cluster).await?;
    let more = |name: &str, scope: &str| {
        let name = format!("kube_apiserver_{name}");
        let labels: &[(&str, &str)] = if scope.is_empty() { &[] } else { &[("scope", scope)] };
        (after.sum(&name, labels) - before.sum(&name, labels)) as i64
    };
    assert_eq!(more("clusterip_allocator_allocation_total", "dynamic"), 1, "{}", after.0);
    assert_eq!(more("clusterip_allocator_allocation_errors_total", "static"), 1);
    assert_eq!(more("clusterip_allocator_allocated_ips", ""), 1);
    assert_eq!(more("clusterip_allocator_available_ips", ""), -1);
    assert_eq!(more("nodeport_allocator_allocation_total", "dynamic"), 1);
    assert_eq!(more("nodeport_allocator_allocated_ports", ""), 1);
    let judged =
        [("decision", "allow"), ("mode", "enforce"), ("policy_level", "privileged"), ("resource", "pod")];
    assert_eq!(after.sum("pod_security_evaluations_total", &judged) as i64, 1);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_made_piece_by_piece_are_measured_whole() -> anyhow::Result<()> {
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    let cluster = Cluster::start().await?;
    for i in 0..100 {
        let map = json!({"metadata": {"name": format!("m{i}")}, "data": {"k": "v".repeat(10_000)}});
        cluster.ok("POST", MAPS, &map).await?;
    }
    let listed = cluster.call("GET", MAPS, "").await?;
    let metrics = Metrics::of(&cluster).await?;
    let lists = [("resource", "configmaps"), ("verb", "LIST"), ("scope", "namespace")];
    assert_eq!(metrics.sum("apiserver_response_sizes_count", &lists) as i64, 1);
    assert_eq!(metrics.sum("apiserver_response_sizes_sum", &lists) as i64, listed.bytes.len() as i64);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_has_no_labels_of_its_own() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let lines = |metrics: &Metrics| metrics.0.lines().filter(|l| l.starts_with("apiserver_request_")).count();
    let ask = async |name: &str| -> anyhow::Result<()> {
        for path in [
            format!("/apis/{name}/v1/namespaces/default/{name}"),
            format!("/api/v1/namespaces/default/{name}"),
            format!("/api/{name}/namespaces/default/pods"),
            format!("{PODS}/a/{name}"),
            // of a deprecated version
            format!("/api/v1/namespaces/default/endpoints/a/{name}"),
            format!("/{name}"),
        ] {
            assert_eq!(cluster.call("GET", &path, "").await?.code, 404, "{path}");
        }
        Ok(())
    };
    ask("first").await?;
    // the question itself is counted, the first time in new lines
    Metrics::of(&cluster).await?;
    let before = Metrics::of(&cluster).await?;
    for name in ["second", "third", "fourth"] {
        ask(name).await?;
    }
    let after = Metrics::of(&cluster).await?;
    assert!(!after.0.contains("third"), "{}", after.0);
    assert_eq!(lines(&after), lines(&before));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_says_how_large_it_is() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let cluster = Cluster::with(StorageConfig::Embedded(dir.path().to_owned())).await?;
    let metrics = Metrics::of(&cluster).await?;
    assert!(metrics.sum("apiserver_storage_size_bytes", &[]) > 0.0, "{}", metrics.0);
    cluster.stop().await;
    Ok(())
}
