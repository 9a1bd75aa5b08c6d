//! Metrics read off the present state when they are asked for: `/metrics` beside what is counted, and
//! `/metrics/cadvisor`.

use std::fmt::Write as _;
use std::sync::{Arc, Weak};

use component::http::{Response, text};
use http::{StatusCode, header};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::stats::{ContainerFigures, containers};
use crate::cgroups::pod_parent;
use crate::kubelet::Kubelet;
use crate::pods::Overview;
use crate::podutil::PodExt;
use crate::resources::qos;
use crate::runtime::State;

/// What the kubelet runs.
#[derive(Debug)]
pub(super) struct Present {
    kubelet: Weak<Kubelet>,
    overview: Weak<Overview>,
}

impl Present {
    pub(super) fn new(kubelet: &Arc<Kubelet>, overview: &Arc<Overview>) -> Self {
        Self { kubelet: Arc::downgrade(kubelet), overview: Arc::downgrade(overview) }
    }
}

/// One gauge with values by label.
struct Gauges<'a> {
    name: &'static str,
    help: &'static str,
    values: Vec<(Vec<(&'static str, &'a str)>, f64)>,
}

impl Gauges<'_> {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if self.values.is_empty() {
            return Ok(());
        }
        let mut family: MetricEncoder<'_> =
            encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        if let [(labels, value)] = self.values.as_slice()
            && labels.is_empty()
        {
            return ConstGauge::new(*value).encode(family);
        }
        for (labels, value) in &self.values {
            ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Present {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (Some(kubelet), Some(overview)) = (self.kubelet.upgrade(), self.overview.upgrade()) else {
            return Ok(());
        };
        let sketch = overview.sketch.load();
        let states = |wanted: State| -> f64 {
            sketch.values().flat_map(|s| &s.containers).filter(|(_, state)| *state == wanted).count() as f64
        };
        let running = sketch.values().filter(|s| s.parts.iter().any(|(_, state)| *state == State::Running));
        let pods = overview.pods.load();
        let by_source = |keep: &dyn Fn(&k8s_openapi::api::core::v1::Pod) -> bool| -> Vec<_> {
            ["", "true"]
                .into_iter()
                .map(|source| {
                    let of = pods.values().filter(|p| p.is_static() == (source == "true") && keep(p));
                    (vec![("static", source)], of.count() as f64)
                })
                .collect()
        };
        let active = |pod: &k8s_openapi::api::core::v1::Pod| {
            let phase = kubelet.statuses.get(pod.uid()).and_then(|s| s.phase);
            !matches!(phase.as_deref().unwrap_or(pod.phase()), "Succeeded" | "Failed")
        };
        let last_seen = overview.relist_age().map(|age| {
            let at = jiff::Timestamp::now().as_millisecond() as f64 / 1e3 - age.as_secs_f64();
            (vec![], at)
        });
        let all = [
            Gauges {
                name: "kubelet_node_name",
                help: "The name of the node",
                values: vec![(vec![("node", kubelet.config.node_name.as_str())], 1.0)],
            },
            Gauges {
                name: "kubelet_running_pods",
                help: "Pods with a sandbox that runs",
                values: vec![(vec![], running.count() as f64)],
            },
            Gauges {
                name: "kubelet_running_containers",
                help: "Containers by their state",
                values: [
                    ("created", State::Created),
                    ("running", State::Running),
                    ("exited", State::Exited),
                    ("unknown", State::Unknown),
                ]
                .map(|(name, state)| (vec![("container_state", name)], states(state)))
                .into(),
            },
            Gauges {
                name: "kubelet_desired_pods",
                help: "Pods that are to run here",
                values: by_source(&|_| true),
            },
            Gauges {
                name: "kubelet_active_pods",
                help: "Pods that are not over",
                values: by_source(&active),
            },
            Gauges {
                name: "kubelet_pleg_last_seen_seconds",
                help: "When the runtime's pods were last listed",
                values: last_seen.into_iter().collect(),
            },
        ];
        for gauges in &all {
            gauges.encode(&mut encoder)?;
        }
        volumes(&kubelet, &overview, &mut encoder)
    }
}

/// `kubelet_volume_stats_*` of claims.
fn volumes(
    kubelet: &Kubelet,
    overview: &Overview,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let Some(age) = kubelet.config.volume_stats_period else { return Ok(()) };
    let pods = overview.pods.load();
    let mut claims = std::collections::BTreeMap::new();
    for pod in pods.values() {
        for figures in kubelet.volume_stats.of(pod, age).iter() {
            if let Some(claim) = &figures.claim {
                claims.insert((pod.ns(), claim.clone()), (figures.used, figures.disk));
            }
        }
    }
    type Pick = fn(i64, &crate::node::Disk) -> i64;
    let families: [(&'static str, &'static str, Pick); 6] = [
        ("kubelet_volume_stats_capacity_bytes", "Bytes that fit into the volume", |_, d| d.size),
        ("kubelet_volume_stats_available_bytes", "Bytes left in the volume", |_, d| d.available),
        ("kubelet_volume_stats_used_bytes", "Bytes used in the volume", |used, _| used),
        ("kubelet_volume_stats_inodes", "Inodes of the volume", |_, d| d.inodes),
        ("kubelet_volume_stats_inodes_free", "Inodes left in the volume", |_, d| d.inodes_free),
        ("kubelet_volume_stats_inodes_used", "Inodes used in the volume", |_, d| d.inodes - d.inodes_free),
    ];
    for (name, help, pick) in families {
        let values = claims.iter().map(|((namespace, claim), (used, disk))| {
            let labels = vec![("namespace", *namespace), ("persistentvolumeclaim", claim.as_str())];
            (labels, pick(*used, disk) as f64)
        });
        Gauges { name, help, values: values.collect() }.encode(encoder)?;
    }
    Ok(())
}

/// A family of `/metrics/cadvisor`: name, type, help, and what it is for a container.
type ContainerFamily = (&'static str, &'static str, &'static str, fn(&ContainerFigures) -> f64);

fn number(value: Option<&cri::api::UInt64Value>) -> f64 {
    value.map_or(0.0, |v| v.value as f64)
}

const CONTAINER_FAMILIES: [ContainerFamily; 6] = [
    ("container_cpu_usage_seconds_total", "counter", "Seconds of CPU used", |c| {
        number(c.stats.cpu.as_ref().and_then(|c| c.usage_core_nano_seconds.as_ref())) / 1e9
    }),
    ("container_memory_usage_bytes", "gauge", "Bytes of memory used, caches included", |c| {
        number(c.stats.memory.as_ref().and_then(|m| m.usage_bytes.as_ref()))
    }),
    ("container_memory_working_set_bytes", "gauge", "Bytes of memory that cannot be taken back", |c| {
        number(c.stats.memory.as_ref().and_then(|m| m.working_set_bytes.as_ref()))
    }),
    ("container_memory_rss", "gauge", "Bytes of anonymous memory", |c| {
        number(c.stats.memory.as_ref().and_then(|m| m.rss_bytes.as_ref()))
    }),
    ("container_fs_usage_bytes", "gauge", "Bytes in the writable layer", |c| {
        number(c.stats.writable_layer.as_ref().and_then(|l| l.used_bytes.as_ref()))
    }),
    ("container_fs_inodes_total", "gauge", "Inodes in the writable layer", |c| {
        number(c.stats.writable_layer.as_ref().and_then(|l| l.inodes_used.as_ref()))
    }),
];

/// `/metrics/cadvisor`: figures of containers and of the machine, under cAdvisor's names.
pub(super) async fn cadvisor(kubelet: &Kubelet, overview: &Overview) -> Response {
    let all = match containers(kubelet).await {
        Ok(all) => all,
        Err(error) => return super::fail(StatusCode::INTERNAL_SERVER_ERROR, error),
    };
    let now = jiff::Timestamp::now().as_millisecond();
    let pods = overview.pods.load();
    let mut out = String::new();
    for (name, kind, help, value) in CONTAINER_FAMILIES {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for c in &all {
            let attributes = c.stats.attributes.clone().unwrap_or_default();
            let parent =
                pods.get(&c.uid).map(|pod| pod_parent(&kubelet.config.cgroup_root, qos(pod), &c.uid));
            let id = format!("{}/{}", parent.unwrap_or_default(), attributes.id);
            let cpu = if name.starts_with("container_cpu_usage") { "cpu=\"total\"," } else { "" };
            let _ = writeln!(
                out,
                "{name}{{container={:?},{cpu}id={id:?},image=\"\",name={:?},namespace={:?},pod={:?}}} {} {now}",
                c.name,
                attributes.id,
                c.namespace,
                c.pod,
                value(c)
            );
        }
        // A pod as a whole is a container without a name.
        for pod in pods.values() {
            let path = pod_parent(&kubelet.config.cgroup_root, qos(pod), pod.uid());
            let Some(usage) = kubelet.cgroups.usage(&path) else { continue };
            let (cpu, value) = match name {
                "container_cpu_usage_seconds_total" => ("cpu=\"total\",", usage.cpu_nanos as f64 / 1e9),
                "container_memory_usage_bytes" => ("", usage.memory as f64),
                "container_memory_working_set_bytes" => ("", usage.working_set as f64),
                "container_memory_rss" => ("", usage.rss as f64),
                _ => continue,
            };
            let _ = writeln!(
                out,
                "{name}{{container=\"\",{cpu}id={path:?},image=\"\",name=\"\",namespace={:?},pod={:?}}} {value} {now}",
                pod.ns(),
                pod.name()
            );
        }
    }
    for (name, help, value) in [
        ("machine_cpu_cores", "Logical processors", kubelet.facts.cpus),
        ("machine_memory_bytes", "Bytes of memory", kubelet.facts.memory),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    let mut response = text(StatusCode::OK, out);
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
