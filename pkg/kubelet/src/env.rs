//! The environment of a container: from its spec, ConfigMaps, Secrets, the downward API and services.
//!
//! Pure: what has to be fetched is named by [`needs`] and handed in. Sources: `makeEnvironmentVariables` in
//! `pkg/kubelet/kubelet_pods.go`, `pkg/kubelet/envvars`, `third_party/forked/golang/expansion`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::podutil::{PodExt, find_container};
use crate::resources::{self, ResourceList};

/// Why a container's environment cannot be made. The texts reach users as `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A ConfigMap is missing.
    #[error("configmap {0:?} not found")]
    ConfigMap(String),
    /// A Secret is missing.
    #[error("secret {0:?} not found")]
    Secret(String),
    /// A ConfigMap lacks a key.
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    ConfigMapKey {
        /// Missing key.
        key: String,
        /// Where.
        namespace: String,
        /// In which.
        name: String,
    },
    /// A Secret lacks a key.
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    SecretKey {
        /// Missing key.
        key: String,
        /// Where.
        namespace: String,
        /// In which.
        name: String,
    },
    /// The downward API has no such field.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// The downward API has no such resource.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// A source this kubelet does not have.
    #[error("environment variable {0}: unsupported source")]
    Source(String),
}

/// Data of ConfigMaps or Secrets by name; `None` for one that does not exist.
pub type DataByName = HashMap<String, Option<BTreeMap<String, Vec<u8>>>>;

/// What an environment is made from, beside the spec.
#[derive(Debug, Default)]
pub struct Sources {
    /// The ConfigMaps [`needs`] named.
    pub config_maps: DataByName,
    /// The Secrets [`needs`] named.
    pub secrets: DataByName,
    /// Services of the pod's namespace (when service links are on) and the `kubernetes` service.
    pub services: Vec<std::sync::Arc<Service>>,
    /// Facts of the downward API.
    pub facts: Facts,
}

/// What the downward API tells that is not in the pod's metadata or spec.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The pod's addresses, the primary first.
    pub pod_ips: Vec<String>,
    /// The node's addresses, the primary first.
    pub host_ips: Vec<String>,
    /// The node's allocatable resources, which limits default to.
    pub allocatable: ResourceList,
}

/// Names of ConfigMaps and Secrets a container's environment needs.
pub fn needs(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(from.config_map_key_ref.iter().map(|r| r.name.clone()));
        secrets.extend(from.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// A container's environment, in the order its variables are set.
pub fn build(pod: &Pod, container: &Container, sources: &Sources) -> Result<Vec<(String, String)>, Error> {
    let service_env = service_environment(&sources.services);
    let mut env = Ordered::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let data = if let Some(map) = &from.config_map_ref {
            data(&sources.config_maps, &map.name, map.optional, Error::ConfigMap)?
        } else if let Some(secret) = &from.secret_ref {
            data(&sources.secrets, &secret.name, secret.optional, Error::Secret)?
        } else {
            None
        };
        for (key, value) in data.into_iter().flatten() {
            let name = format!("{prefix}{key}");
            if is_variable_name(&name) {
                env.set(name, String::from_utf8_lossy(value).into_owned());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(from)) => match from_source(pod, container, sources, from, &variable.name)? {
                Some(value) => value,
                None => continue,
            },
            (text, None) => {
                let text = text.as_deref().unwrap_or_default();
                expand(text, |name| env.get(name).or_else(|| service_env.get(name).map(String::as_str)))
            }
        };
        env.set(variable.name.clone(), value);
    }
    let mut out = env.list;
    for (name, value) in service_env {
        if !env.index.contains_key(&name) {
            out.push((name, value));
        }
    }
    Ok(out)
}

/// A map that keeps the order of first insertion.
#[derive(Default)]
struct Ordered {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Ordered {
    fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|i| self.list[*i].1.as_str())
    }

    fn set(&mut self, name: String, value: String) {
        if let Some(i) = self.index.get(&name) {
            self.list[*i].1 = value;
        } else {
            self.index.insert(name.clone(), self.list.len());
            self.list.push((name, value));
        }
    }
}

/// What may be set as a variable: printable ASCII without `=`.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

fn data<'a>(
    by_name: &'a DataByName,
    name: &str,
    optional: Option<bool>,
    missing: fn(String) -> Error,
) -> Result<Option<&'a BTreeMap<String, Vec<u8>>>, Error> {
    match by_name.get(name).and_then(Option::as_ref) {
        Some(data) => Ok(Some(data)),
        None if optional == Some(true) => Ok(None),
        None => Err(missing(name.to_owned())),
    }
}

fn from_source(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    from: &k8s_openapi::api::core::v1::EnvVarSource,
    variable: &str,
) -> Result<Option<String>, Error> {
    if let Some(field) = &from.field_ref {
        return field_value(pod, &field.field_path, &sources.facts).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return resource_value(pod, container, resource, &sources.facts.allocatable).map(Some);
    }
    let text = |value: &Vec<u8>| String::from_utf8_lossy(value).into_owned();
    if let Some(r) = &from.config_map_key_ref {
        let Some(data) = data(&sources.config_maps, &r.name, r.optional, Error::ConfigMap)? else {
            return Ok(None);
        };
        return match data.get(&r.key) {
            Some(value) => Ok(Some(text(value))),
            None if r.optional == Some(true) => Ok(None),
            None => Err(Error::ConfigMapKey {
                key: r.key.clone(),
                namespace: pod.ns().into(),
                name: r.name.clone(),
            }),
        };
    }
    if let Some(r) = &from.secret_key_ref {
        let Some(data) = data(&sources.secrets, &r.name, r.optional, Error::Secret)? else { return Ok(None) };
        return match data.get(&r.key) {
            Some(value) => Ok(Some(text(value))),
            None if r.optional == Some(true) => Ok(None),
            None => {
                Err(Error::SecretKey { key: r.key.clone(), namespace: pod.ns().into(), name: r.name.clone() })
            }
        };
    }
    Err(Error::Source(variable.to_owned()))
}

/// A field of the downward API, for variables and for volumes.
pub fn field_value(pod: &Pod, path: &str, facts: &Facts) -> Result<String, Error> {
    let spec = pod.spec();
    let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    let entry = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default()
    };
    if let Some(key) = subscript("metadata.labels") {
        return Ok(entry(&pod.metadata.labels, key));
    }
    if let Some(key) = subscript("metadata.annotations") {
        return Ok(entry(&pod.metadata.annotations, key));
    }
    Ok(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.ns().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        other => return Err(Error::Field(other.to_owned())),
    })
}

/// `key="value"` lines, values quoted as Go quotes them.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// A resource of the downward API: limits default to what the node can give.
pub fn resource_value(
    pod: &Pod,
    container: &Container,
    selector: &ResourceFieldSelector,
    allocatable: &ResourceList,
) -> Result<String, Error> {
    let named =
        selector.container_name.as_deref().filter(|n| !n.is_empty()).and_then(|n| find_container(pod, n));
    let container = named.as_ref().map_or(container, |(_, c)| c);
    let unsupported = || Error::Resource(selector.resource.clone());
    let (kind, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.starts_with("hugepages-") {
        return Err(unsupported());
    }
    let resources = container.resources.as_ref();
    let limit = resources::limit(resources, name).cloned();
    let amount = match kind {
        "limits" => {
            limit.filter(|q| resources::milli_value(q) != Some(0)).or_else(|| allocatable.get(name).cloned())
        }
        "requests" => {
            resources.and_then(|r| r.requests.as_ref()).and_then(|r| r.get(name)).cloned().or(limit)
        }
        _ => return Err(unsupported()),
    };
    let amount = amount.unwrap_or_else(|| Quantity("0".into()));
    let zero = |q: &&Quantity| resources::milli_value(q).is_some_and(|v| v > 0);
    let divisor = selector.divisor.as_ref().filter(zero).cloned().unwrap_or_else(|| Quantity("1".into()));
    // CPU is divided in thousandths, everything else in whole units; both round up.
    let of = if name == "cpu" { resources::milli_value } else { resources::value };
    let (amount, divisor) = (of(&amount).unwrap_or(0), of(&divisor).unwrap_or(1).max(1));
    Ok(amount.div_euclid(divisor).saturating_add(i64::from(amount.rem_euclid(divisor) != 0)).to_string())
}

/// Replaces `$(NAME)` by what `lookup` finds; what it does not find stays, and `$$` is a `$`.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(end) = rest.strip_prefix('(').and_then(|r| r.find(')')) {
            let name = &rest[1..=end];
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = &rest[end + 2..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The variables of the Docker links form and of the simple form, for each service with an address.
fn service_environment(services: &[std::sync::Arc<Service>]) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        let ports = spec.ports.as_deref().unwrap_or_default();
        let (Some(first), false) = (ports.first(), ip.is_empty() || ip == "None") else { continue };
        let name = variable_name(service.metadata.name.as_deref().unwrap_or_default());
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        env.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        env.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        for port in ports {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                env.insert(
                    format!("{name}_SERVICE_PORT_{}", variable_name(port_name)),
                    port.port.to_string(),
                );
            }
        }
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                env.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
            env.insert(prefix.clone(), url);
            env.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            env.insert(format!("{prefix}_PORT"), port.port.to_string());
            env.insert(format!("{prefix}_ADDR"), ip.to_owned());
        }
    }
    env
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expansion() {
        let lookup = |name: &str| match name {
            "A" => Some("1"),
            "E" => Some(""),
            _ => None,
        };
        for (text, expected) in [
            ("$(A)-$(B)-$$(A)", "1-$(B)-$(A)"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("x$(E)y", "xy"),
            ("$$$(A)", "$1"),
            ("$()", "$()"),
            ("ü$(A)ü", "ü1ü"),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    fn pod(container: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "x\"y"}},
            "spec": {"nodeName": "node1", "containers": [container]}
        }))
        .expect("a pod")
    }

    fn env(container: serde_json::Value, sources: &Sources) -> Result<Vec<(String, String)>, Error> {
        let pod = pod(container);
        build(&pod, &pod.spec().containers[0], sources)
    }

    #[test]
    fn order_sources_and_overrides() {
        let sources = Sources {
            config_maps: HashMap::from([(
                "m".to_owned(),
                Some(BTreeMap::from([("k".to_owned(), b"v".to_vec())])),
            )]),
            secrets: HashMap::from([("gone".to_owned(), None)]),
            services: vec![],
            facts: Facts { pod_ips: vec!["10.0.0.1".into(), "fd00::1".into()], ..Facts::default() },
        };
        let got = env(
            json!({"name": "c",
                "envFrom": [{"configMapRef": {"name": "m"}, "prefix": "P_"}, {"secretRef": {"name": "gone", "optional": true}}],
                "env": [
                    {"name": "A", "value": "a"}, {"name": "B", "value": "$(A)$(P_k)$(C)"}, {"name": "C", "value": "c"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                    {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                    {"name": "NOT", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "x", "optional": true}}},
                    {"name": "A", "value": "again"}]}),
            &sources,
        )
        .expect("an environment");
        let text: Vec<String> = got.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(text, ["P_k=v", "A=again", "B=av$(C)", "C=c", "IP=10.0.0.1,fd00::1", "L=x\"y"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let sources = Sources {
            config_maps: HashMap::from([("m".into(), Some(BTreeMap::new()))]),
            ..Sources::default()
        };
        let cases = [
            (json!({"configMapKeyRef": {"name": "x", "key": "k"}}), "configmap \"x\" not found"),
            (json!({"configMapKeyRef": {"name": "m", "key": "k"}}), "couldn't find key k in ConfigMap n/m"),
            (json!({"secretKeyRef": {"name": "x", "key": "k"}}), "secret \"x\" not found"),
            (json!({"fieldRef": {"fieldPath": "spec.x"}}), "unsupported fieldPath: spec.x"),
        ];
        for (from, message) in cases {
            let error = env(json!({"name": "c", "env": [{"name": "A", "valueFrom": from}]}), &sources);
            assert_eq!(error.expect_err("must fail").to_string(), message);
        }
    }

    #[test]
    fn resources_divide_and_default_to_the_node() {
        let pod = pod(
            json!({"name": "c", "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "100M"}}}),
        );
        let allocatable = ResourceList::from([("cpu".to_owned(), Quantity("2".into()))]);
        let cases = [
            ("requests.cpu", "1m", "250"),
            ("requests.cpu", "1", "1"),
            ("limits.cpu", "1", "2"),
            ("requests.memory", "1Mi", "64"),
            ("limits.memory", "1Mi", "96"),
            ("limits.memory", "0", "100000000"),
        ];
        for (resource, divisor, expected) in cases {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": resource, "divisor": divisor}))
                    .expect("a selector");
            let got = resource_value(&pod, &pod.spec().containers[0], &selector, &allocatable);
            assert_eq!(got.as_deref(), Ok(expected), "{resource} / {divisor}");
        }
    }

    #[test]
    fn services_become_variables() {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "my-db"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "sql-x", "port": 5432, "protocol": "TCP"}]}}))
        .expect("a service");
        let headless: Service = serde_json::from_value(json!({"metadata": {"name": "h"},
            "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}))
        .expect("a service");
        let env = service_environment(&[service.into(), headless.into()]);
        let text: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            text,
            [
                "MY_DB_PORT=tcp://10.96.0.7:5432",
                "MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432",
                "MY_DB_PORT_5432_TCP_ADDR=10.96.0.7",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_SERVICE_HOST=10.96.0.7",
                "MY_DB_SERVICE_PORT=5432",
                "MY_DB_SERVICE_PORT_SQL_X=5432",
            ]
        );
    }
}
