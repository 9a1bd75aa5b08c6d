//! Services.
//!
//! Source: `pkg/apis/core/v1/defaults.go`, `ValidateService` in `pkg/apis/core/validation`, `pkg/registry/core/service`.
//! Addresses and node ports are allocated elsewhere, as that needs I/O.

use std::collections::BTreeSet;

use apimachinery::Value;
use apimachinery::meta::at;
use jiff::Timestamp;

use super::events::special_address;
use super::print::{age, labels, list, map, name, number, or, str_at, texts};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, Errors, one_of, same, shape};
use crate::edit::{default_text, default_to, map_at, map_or_new, maps_in, spec, text};
use crate::names;

/// Default time that a client stays with its endpoint, in seconds.
const AFFINITY_SECONDS: i64 = 10_800;
/// Longest such time.
const AFFINITY_MAX_SECONDS: i64 = 86_400;
/// Widest load balancer cell without `-o wide`.
const ADDRESS_WIDTH: usize = 16;

pub(super) const SERVICES: Rules = Rules {
    default,
    prepare_update: |_, new, old| drop_type_dependent(new, old),
    validate: |o| service(&At::root(o), None),
    validate_update: |context, new, old| {
        let (new, old) = (At::root(new), At::root(old));
        if context.subresource == "status" {
            return load_balancer_status(&new);
        }
        let mut errors = immutable_address(&new, &old);
        errors.extend(service(&new, Some(&old)));
        errors
    },
    name: names::dns1035_label,
    create_on_update: true,
    columns: &[
        ("Name", "string"),
        ("Type", "string"),
        ("Cluster-IP", "string"),
        ("External-IP", "string"),
        ("Port(s)", "string"),
        ("Age", "string"),
        ("+Selector", "string"),
    ],
    row,
    ..DEFAULT
};

fn default(_version: &str, object: &mut Value) {
    let Some(spec) = spec(object) else { return };
    default_text(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            if let Some(config) = map_or_new(spec, "sessionAffinityConfig")
                && let Some(client) = map_or_new(config, "clientIP")
            {
                default_to(client, "timeoutSeconds", AFFINITY_SECONDS);
            }
        }
        _ => {}
    }
    default_text(spec, "type", "ClusterIP");
    for port in maps_in(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let unset = match port.get("targetPort") {
            None | Some(Value::Null) => true,
            Some(Value::Number(n)) => n.as_i64() == Some(0),
            Some(Value::String(s)) => s.is_empty(),
            Some(_) => false,
        };
        if unset && let Some(number) = port.get("port").cloned() {
            port.insert("targetPort".into(), number);
        }
    }
    let kind = text(spec, "type").to_owned();
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || kind == "ClusterIP"
            && spec.get("externalIPs").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    if external {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        default_to(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_to(spec, "allocateLoadBalancerNodePorts", true);
        if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut)
            && let Some(balancer) = map_at(status, "loadBalancer")
        {
            for ingress in maps_in(balancer, "ingress") {
                if !text(ingress, "ip").is_empty() {
                    default_to(ingress, "ipMode", "VIP");
                }
            }
        }
    }
}

/// Fields that belong to the old type and were not changed with it are dropped, so that changing the type alone works.
fn drop_type_dependent(new: &mut Value, old: &Value) {
    let kind = |o: &Value| str_at(o, &["spec", "type"]).to_owned();
    let (old_type, new_type) = (kind(old), kind(new));
    let had = |field: &str| at(old, &["spec", field]).cloned();
    let Some(spec) = spec(new) else { return };
    let unchanged = |spec: &apimachinery::Map, field: &str| spec.get(field) == had(field).as_ref();
    if old_type != "ExternalName" && new_type == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if unchanged(spec, field) {
                spec.remove(field);
            }
        }
    }
    let node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if node_ports(&old_type) && !node_ports(&new_type) {
        let old_ports = had("ports").unwrap_or_default();
        for (i, port) in maps_in(spec, "ports").enumerate() {
            if port.get("nodePort") == old_ports.get(i).and_then(|p| p.get("nodePort")) {
                port.remove("nodePort");
            }
        }
        for field in ["externalTrafficPolicy", "healthCheckNodePort"] {
            if unchanged(spec, field) && !has_external_ips(spec) {
                spec.remove(field);
            }
        }
    }
    if old_type == "LoadBalancer" && new_type != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"] {
            if unchanged(spec, field) {
                spec.remove(field);
            }
        }
    }
    if old_type == "ExternalName" && new_type != "ExternalName" && unchanged(spec, "externalName") {
        spec.remove("externalName");
    }
}

fn has_external_ips(spec: &apimachinery::Map) -> bool {
    spec.get("externalIPs").and_then(Value::as_array).is_some_and(|l| !l.is_empty())
}

fn service(object: &At<'_>, old: Option<&At<'_>>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    let kind = spec.get("type");
    let headless = spec.get("clusterIP").text() == "None";
    let ports = spec.get("ports");
    if ports.is_empty() && !headless && kind.text() != "ExternalName" {
        errors.push(ports.required(""));
    }
    match kind.text() {
        "LoadBalancer" => {
            for port in ports.items() {
                if !matches!(port.get("protocol").text(), "TCP" | "UDP" | "SCTP") {
                    errors.push(
                        port.get("protocol")
                            .invalid_text("cannot create an external load balancer with this protocol"),
                    );
                }
            }
            if headless {
                errors.push(
                    spec.get("clusterIPs")
                        .index(0)
                        .invalid_value("None", "may not be set to 'None' for LoadBalancer services"),
                );
            }
        }
        "NodePort" if headless => {
            errors.push(
                spec.get("clusterIPs")
                    .index(0)
                    .invalid_value("None", "may not be set to 'None' for NodePort services"),
            );
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !spec.get(field).is_empty() {
                    errors.push(spec.get(field).forbidden("may not be set for ExternalName services"));
                }
            }
            let external = spec.get("externalName");
            let trimmed = external.text().strip_suffix('.').unwrap_or(external.text());
            if trimmed.is_empty() {
                errors.push(external.required(""));
            } else {
                shape(&mut errors, &external, names::dns1123_subdomain(trimmed, false));
            }
        }
        _ => {}
    }
    check_ports(&mut errors, &ports, kind.text());
    let selector = spec.get("selector");
    if selector.present() {
        apimachinery::objectmeta::labels(
            selector.value().and_then(Value::as_object),
            &selector.path(),
            &mut errors,
        );
    }
    check_affinity(&mut errors, &spec);
    check_addresses(&mut errors, &spec);
    if kind.is_empty() {
        errors.push(kind.required(""));
    } else if !matches!(kind.text(), "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        errors.push(kind.not_supported(&["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]));
    }
    check_load_balancer(&mut errors, &spec, old);
    check_traffic_policy(&mut errors, &spec);
    errors
}

fn check_ports(errors: &mut Errors, ports: &At<'_>, kind: &str) {
    let several = ports.len() > 1;
    let mut named = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if several && name.is_empty() {
            errors.push(name.required(""));
        } else if !name.is_empty() {
            shape(errors, &name, names::dns1123_label(name.text(), false));
            if named.contains(&name.text()) {
                errors.push(name.duplicate());
            }
            named.insert(name.text());
        }
        let number = port.get("port");
        errors.extend(
            names::port_number(number.int_or_zero())
                .into_iter()
                .map(|p| number.invalid_value(number.int_or_zero(), p)),
        );
        one_of(errors, &port.get("protocol"), &["SCTP", "TCP", "UDP"]);
        let target = port.get("targetPort");
        match target.int() {
            Some(n) => errors.extend(names::port_number(n).into_iter().map(|p| target.invalid(p))),
            None => shape(errors, &target, names::port_name(target.text())),
        }
        let app = port.get("appProtocol");
        if app.present() {
            shape(errors, &app, names::label_key(app.text()));
        }
        let node_port = port.get("nodePort");
        if let Some(n) = node_port.int().filter(|n| *n != 0) {
            if !matches!(kind, "NodePort" | "LoadBalancer") {
                errors.push(node_port.forbidden("may not be used when `type` is 'ClusterIP'"));
            }
            let key = (port.get("protocol").text(), n);
            if node_ports.contains(&key) {
                errors.push(node_port.duplicate());
            }
            node_ports.insert(key);
        }
        let key = (port.get("protocol").text(), number.int_or_zero());
        if seen.contains(&key) {
            errors.push(port.duplicate());
        }
        seen.insert(key);
    }
}

fn check_affinity(errors: &mut Errors, spec: &At<'_>) {
    let affinity = spec.get("sessionAffinity");
    one_of(errors, &affinity, &["ClientIP", "None"]);
    let config = spec.get("sessionAffinityConfig");
    if affinity.text() == "ClientIP" {
        let timeout = config.at(&["clientIP", "timeoutSeconds"]);
        if !config.present() {
            errors.push(config.required("when session affinity type is ClientIP"));
        } else if !timeout.int().is_some_and(|t| (1..=AFFINITY_MAX_SECONDS).contains(&t)) {
            errors.push(
                timeout.invalid(format!("must be greater than 0 and less than {AFFINITY_MAX_SECONDS}")),
            );
        }
    } else if affinity.text() == "None" && config.present() {
        errors.push(config.forbidden("must not be set when session affinity is None"));
    }
}

fn check_addresses(errors: &mut Errors, spec: &At<'_>) {
    let (first, all) = (spec.get("clusterIP"), spec.get("clusterIPs"));
    if first.present() && all.present() && !all.is_empty() && all.index(0).text() != first.text() {
        errors.push(all.index(0).invalid("first value must match `clusterIP`"));
    }
    for address in all.items() {
        if !matches!(address.text(), "None" | "") {
            shape(errors, &address, names::ip(address.text()));
        }
    }
    if all.len() > 2 {
        errors.push(all.invalid("may only hold up to 2 values"));
    }
    for family in spec.get("ipFamilies").items() {
        if !matches!(family.text(), "IPv4" | "IPv6") {
            errors.push(family.not_supported(&["IPv4", "IPv6"]));
        }
    }
    let policy = spec.get("ipFamilyPolicy");
    if policy.present() && !matches!(policy.text(), "SingleStack" | "PreferDualStack" | "RequireDualStack") {
        errors.push(policy.not_supported(&["SingleStack", "PreferDualStack", "RequireDualStack"]));
    }
    for ip in spec.get("externalIPs").items() {
        let problems = names::ip(ip.text());
        if problems.is_empty() {
            errors.extend(special_address(ip.text()).map(|p| ip.invalid(p)));
        } else {
            shape(errors, &ip, problems);
        }
    }
}

fn check_load_balancer(errors: &mut Errors, spec: &At<'_>, old: Option<&At<'_>>) {
    let balancer = spec.get("type").text() == "LoadBalancer";
    for range in spec.get("loadBalancerSourceRanges").items() {
        if !balancer {
            errors.push(
                spec.get("loadBalancerSourceRanges")
                    .forbidden("may only be used when `type` is 'LoadBalancer'"),
            );
            break;
        }
        shape(errors, &range, names::cidr(range.text().trim()));
    }
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    if allocate.present() && !balancer {
        errors.push(allocate.forbidden("may only be used when `type` is 'LoadBalancer'"));
    } else if balancer && !allocate.present() {
        errors.push(allocate.required(""));
    }
    let class = spec.get("loadBalancerClass");
    if class.present() {
        shape(errors, &class, names::label_key(class.text()));
        if !balancer {
            errors.push(class.forbidden("may only be used when `type` is 'LoadBalancer'"));
        }
    }
    if let Some(old) = old
        && balancer
        && old.at(&["spec", "type"]).text() == "LoadBalancer"
        && !same(old.at(&["spec", "loadBalancerClass"]).value(), class.value())
    {
        errors.push(class.invalid("may not change once set"));
    }
}

fn check_traffic_policy(errors: &mut Errors, spec: &At<'_>) {
    let external = spec.get("externalTrafficPolicy");
    let kind = spec.get("type").text();
    let exposed = matches!(kind, "NodePort" | "LoadBalancer") || !spec.get("externalIPs").is_empty();
    if !external.is_empty() && !exposed {
        errors.push(external.invalid("may only be set for externally-accessible services"));
    } else if exposed && !matches!(external.text(), "Cluster" | "Local") {
        if external.is_empty() {
            errors.push(external.required(""));
        } else {
            errors.push(external.not_supported(&["Cluster", "Local"]));
        }
    }
    let health = spec.get("healthCheckNodePort");
    if health.int().is_some_and(|n| n < 0) {
        errors.push(health.invalid("must be greater than or equal to 0"));
    } else if health.int().is_some_and(|n| n > 0) && !(kind == "LoadBalancer" && external.text() == "Local") {
        errors.push(
            health.invalid(
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ),
        );
    }
    let internal = spec.get("internalTrafficPolicy");
    if internal.present() && !matches!(internal.text(), "Cluster" | "Local") {
        errors.push(internal.not_supported(&["Cluster", "Local"]));
    }
    let distribution = spec.get("trafficDistribution");
    if distribution.present()
        && !matches!(distribution.text(), "PreferClose" | "PreferSameZone" | "PreferSameNode")
    {
        errors.push(distribution.not_supported(&["PreferClose", "PreferSameZone", "PreferSameNode"]));
    }
}

/// The address stays while the Service has one; it may go with a change of the type to ExternalName.
fn immutable_address(new: &At<'_>, old: &At<'_>) -> Errors {
    let kind = |o: &At<'_>| o.at(&["spec", "type"]).text().to_owned();
    if kind(new) == "ExternalName" || kind(old) == "ExternalName" {
        return Vec::new();
    }
    let (new, old) = (new.at(&["spec", "clusterIPs"]), old.at(&["spec", "clusterIPs"]));
    let before = old.index(0).text();
    if !before.is_empty() && new.index(0).text() != before {
        return vec![new.invalid("may not change once set")];
    }
    Vec::new()
}

fn load_balancer_status(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let kind = object.at(&["spec", "type"]).text();
    let ingress = object.at(&["status", "loadBalancer", "ingress"]);
    if kind != "LoadBalancer" && !ingress.is_empty() {
        errors.push(ingress.forbidden("may only be used when `spec.type` is 'LoadBalancer'"));
        return errors;
    }
    for entry in ingress.items() {
        let (ip, hostname, mode) = (entry.get("ip"), entry.get("hostname"), entry.get("ipMode"));
        if !ip.is_empty() {
            shape(&mut errors, &ip, names::ip(ip.text()));
            if !mode.present() {
                errors.push(mode.required("must be specified when `ip` is set"));
            }
        } else if mode.present() {
            errors.push(mode.forbidden("may not be specified when `ip` is not set"));
        }
        if !hostname.is_empty() {
            shape(&mut errors, &hostname, names::dns1123_subdomain(hostname.text(), false));
            if names::ip(hostname.text()).is_empty() {
                errors.push(hostname.invalid("must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}

/// Addresses of a load balancer, sorted; the width of the cell is limited unless `-o wide`, which a Table cannot tell.
pub(super) fn balancer_addresses(object: &Value) -> String {
    let mut all: Vec<&str> = list(object, &["status", "loadBalancer", "ingress"])
        .iter()
        .map(|i| match str_at(i, &["ip"]) {
            "" => str_at(i, &["hostname"]),
            ip => ip,
        })
        .filter(|a| !a.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    let joined = all.join(",");
    if joined.len() > ADDRESS_WIDTH { format!("{}...", &joined[..ADDRESS_WIDTH - 3]) } else { joined }
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let external: Vec<&str> = texts(list(object, &["spec", "externalIPs"])).collect();
    let external = match str_at(object, &["spec", "type"]) {
        "ExternalName" => str_at(object, &["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            let balancer = balancer_addresses(object);
            let mut all: Vec<&str> = balancer.split(',').filter(|a| !a.is_empty()).collect();
            all.extend(external);
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ if external.is_empty() => "<none>".into(),
        _ => external.join(","),
    };
    let ports: Vec<String> = list(object, &["spec", "ports"])
        .iter()
        .map(|port| {
            let (own, node, protocol) =
                (number(port, &["port"]), number(port, &["nodePort"]), str_at(port, &["protocol"]));
            if node > 0 { format!("{own}:{node}/{protocol}") } else { format!("{own}/{protocol}") }
        })
        .collect();
    vec![
        name(object).into(),
        str_at(object, &["spec", "type"]).into(),
        or(str_at(object, &["spec", "clusterIP"]), "<none>"),
        external.into(),
        or(&ports.join(","), "<none>"),
        age(object, now),
        labels(map(object, &["spec", "selector"])),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    fn defaulted(mut service: Value) -> Value {
        default("v1", &mut service);
        service
    }

    #[test]
    fn defaults() {
        let service =
            defaulted(json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "http"}]}}));
        assert_eq!(
            service,
            json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80},
                          {"port": 81, "protocol": "TCP", "targetPort": "http"}]}})
        );
        let balancer = defaulted(json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP"}}));
        assert_eq!(balancer["spec"]["externalTrafficPolicy"], "Cluster");
        assert_eq!(balancer["spec"]["allocateLoadBalancerNodePorts"], true);
        assert_eq!(balancer["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], AFFINITY_SECONDS);
    }

    #[test]
    fn problems_have_upstreams_words() {
        for (spec, expected) in [
            (json!({"ports": [{"port": 80}]}), vec![]),
            (json!({}), vec!["spec.ports: Required value"]),
            (json!({"clusterIP": "None"}), vec![]),
            (json!({"type": "ExternalName", "externalName": "a.example"}), vec![]),
            (json!({"type": "ExternalName"}), vec!["spec.externalName: Required value"]),
            (
                json!({"ports": [{"port": 0}]}),
                vec![
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]}),
                vec!["spec.ports[0].name: Required value"],
            ),
            (
                json!({"type": "Odd", "ports": [{"port": 80}]}),
                vec![
                    "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \
                     \"LoadBalancer\", \"NodePort\"",
                ],
            ),
        ] {
            let object = defaulted(json!({"spec": spec}));
            let texts: Vec<String> =
                service(&At::root(&object), None).iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{object}");
        }
    }

    #[test]
    fn the_address_may_not_change() {
        let with = |ip: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]}});
        let (new, old) = (with("10.0.0.2"), with("10.0.0.1"));
        let errors = immutable_address(&At::root(&new), &At::root(&old));
        assert_eq!(
            errors[0].to_string(),
            r#"spec.clusterIPs: Invalid value: ["10.0.0.2"]: may not change once set"#
        );
    }

    #[test]
    fn rows() {
        let now = Timestamp::UNIX_EPOCH;
        for (service, expected) in [
            (
                json!({"metadata": {"name": "a"}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1",
                    "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}], "selector": {"a": "b"}}}),
                ["a", "NodePort", "10.0.0.1", "<none>", "80:30080/TCP", "<unknown>", "a=b"],
            ),
            (
                json!({"metadata": {"name": "a"}, "spec": {"type": "LoadBalancer"}}),
                ["a", "LoadBalancer", "<none>", "<pending>", "<none>", "<unknown>", "<none>"],
            ),
        ] {
            assert_eq!(row(&service, now), expected.map(Value::from));
        }
    }
}
