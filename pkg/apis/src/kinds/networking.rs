//! Ingresses, network policies, service ranges and addresses. Source: `pkg/apis/networking`.

use apimachinery::Value;
use apimachinery::objectmeta;
use jiff::Timestamp;

use super::print::{age, list, name, or, selector, str_at, texts};
use super::rules::{DEFAULT, Rules};
use super::service::balancer_addresses;
use crate::cursor::{At, Errors, immutable, one_of, shape};
use crate::edit::{default_to, map_at, maps_in, spec};
use crate::names;

pub(super) const INGRESSES: Rules = Rules {
    generation: true,
    validate: |o| ingress(&At::root(o)),
    validate_update: |context, new, _| match context.subresource {
        "status" => Vec::new(),
        _ => ingress(&At::root(new)),
    },
    columns: &[
        ("Name", "string"),
        ("Class", "string"),
        ("Hosts", "string"),
        ("Address", "string"),
        ("Ports", "string"),
        ("Age", "string"),
    ],
    row: |o, now| {
        let tls = !list(o, &["spec", "tls"]).is_empty();
        vec![
            name(o).into(),
            or(str_at(o, &["spec", "ingressClassName"]), "<none>"),
            hosts(o).into(),
            balancer_addresses(o).into(),
            if tls { "80, 443" } else { "80" }.into(),
            age(o, now),
        ]
    },
    ..DEFAULT
};

/// The first three hosts, and how many rules more.
fn hosts(object: &Value) -> String {
    const SHOWN: usize = 3;
    let rules = list(object, &["spec", "rules"]);
    let named: Vec<&str> =
        rules.iter().map(|r| str_at(r, &["host"])).filter(|h| !h.is_empty()).take(SHOWN).collect();
    if named.is_empty() {
        return "*".into();
    }
    let joined = named.join(",");
    if rules.len() > SHOWN && named.len() == SHOWN {
        format!("{joined} + {} more...", rules.len() - SHOWN)
    } else {
        joined
    }
}

fn ingress(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    let (rules, default) = (spec.get("rules"), spec.get("defaultBackend"));
    if rules.is_empty() && !default.present() {
        errors.push(spec.invalid("either `defaultBackend` or `rules` must be specified"));
    }
    if default.present() {
        backend(&mut errors, &default);
    }
    for rule in rules.items() {
        let host = rule.get("host");
        if !host.is_empty() {
            ingress_host(&mut errors, &host);
        }
        let http = rule.get("http");
        if !http.present() {
            continue;
        }
        if http.get("paths").is_empty() {
            errors.push(http.get("paths").required(""));
        }
        for path in http.get("paths").items() {
            ingress_path(&mut errors, &path);
            backend(&mut errors, &path.get("backend"));
        }
    }
    for tls in spec.get("tls").items() {
        for host in tls.get("hosts").items() {
            ingress_host(&mut errors, &host);
        }
        let secret = tls.get("secretName");
        if !secret.is_empty() {
            shape(&mut errors, &secret, names::dns1123_subdomain(secret.text(), false));
        }
    }
    let class = spec.get("ingressClassName");
    if class.present() {
        shape(&mut errors, &class, names::dns1123_subdomain(class.text(), false));
    }
    errors
}

fn ingress_host(errors: &mut Errors, host: &At<'_>) {
    if names::ip(host.text()).is_empty() {
        errors.push(host.invalid("must be a DNS name, not an IP address"));
    } else if host.text().contains('*') {
        shape(errors, host, names::wildcard_dns1123_subdomain(host.text()));
    } else {
        shape(errors, host, names::dns1123_subdomain(host.text(), false));
    }
}

fn ingress_path(errors: &mut Errors, path: &At<'_>) {
    let (text, kind) = (path.get("path"), path.get("pathType"));
    match kind.text() {
        "" => errors.push(kind.required("pathType must be specified")),
        "Exact" | "Prefix" => {
            if !text.text().starts_with('/') {
                errors.push(text.invalid_text("must be an absolute path"));
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.text().contains(bad) {
                    errors.push(text.invalid(format!("must not contain '{bad}'")));
                }
            }
            for bad in ["/..", "/."] {
                if text.text().ends_with(bad) {
                    errors.push(text.invalid(format!("cannot end with '{bad}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.text().starts_with('/') {
                errors.push(text.invalid("must be an absolute path"));
            }
        }
        _ => errors.push(kind.not_supported(&["Exact", "ImplementationSpecific", "Prefix"])),
    }
}

fn backend(errors: &mut Errors, backend: &At<'_>) {
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    match (service.present(), resource.present()) {
        (true, true) => {
            errors.push(backend.invalid_value("", "cannot set both resource and service backends"));
        }
        (false, false) => errors.push(backend.required("")),
        (false, true) => {
            for field in ["kind", "name"] {
                if resource.get(field).is_empty() {
                    errors.push(resource.get(field).required(""));
                }
            }
        }
        (true, false) => {
            let name = service.get("name");
            if name.is_empty() {
                errors.push(name.required(""));
            } else {
                shape(errors, &name, names::dns1035_label(name.text(), false));
            }
            let (port_name, number) = (service.at(&["port", "name"]), service.at(&["port", "number"]));
            match (port_name.is_empty(), number.int_or_zero() == 0) {
                (false, false) => {
                    errors.push(service.invalid_value("", "cannot set both port name & port number"));
                }
                (true, true) => errors.push(service.required("port name or number is required")),
                (false, true) => shape(errors, &port_name, names::port_name(port_name.text())),
                (true, false) => {
                    let n = number.int_or_zero();
                    errors.extend(names::port_number(n).into_iter().map(|p| number.invalid(p)));
                }
            }
        }
    }
}

pub(super) const INGRESS_CLASSES: Rules = Rules {
    generation: true,
    default: |_, o| {
        if let Some(parameters) = spec(o).and_then(|s| map_at(s, "parameters")) {
            default_to(parameters, "scope", "Cluster");
        }
    },
    validate: |o| {
        let (spec, mut errors) = (At::root(o).get("spec"), Vec::new());
        let controller = spec.get("controller");
        if controller.text().len() > 250 {
            errors.push(controller.too_long(250));
        }
        if !controller.is_empty() && !controller.text().contains('/') {
            errors.push(controller.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"));
        }
        let parameters = spec.get("parameters");
        if parameters.present() {
            for field in ["kind", "name"] {
                if parameters.get(field).is_empty() {
                    errors.push(parameters.get(field).required(""));
                }
            }
            one_of(&mut errors, &parameters.get("scope"), &["Cluster", "Namespace"]);
            let namespaced = parameters.get("scope").text() == "Namespace";
            let namespace = parameters.get("namespace");
            if namespaced && namespace.is_empty() {
                errors.push(namespace.required("`parameters.scope` is set to 'Namespace'"));
            } else if !namespaced && namespace.present() {
                errors.push(namespace.forbidden("`parameters.scope` is set to 'Cluster'"));
            }
        }
        errors
    },
    validate_update: |_, new, old| {
        let mut errors = Vec::new();
        let path = ["spec", "controller"];
        immutable(&mut errors, &At::root(new).at(&path), &At::root(old).at(&path));
        errors
    },
    columns: &[("Name", "string"), ("Controller", "string"), ("Parameters", "string"), ("Age", "string")],
    row: |o, now| {
        let parameters = |field: &str| str_at(o, &["spec", "parameters", field]);
        let text = if parameters("kind").is_empty() {
            "<none>".to_owned()
        } else {
            let group = parameters("apiGroup");
            let kind = if group.is_empty() {
                parameters("kind").to_owned()
            } else {
                format!("{}.{group}", parameters("kind"))
            };
            format!("{kind}/{}", parameters("name"))
        };
        vec![name(o).into(), str_at(o, &["spec", "controller"]).into(), text.into(), age(o, now)]
    },
    ..DEFAULT
};

pub(super) const NETWORK_POLICIES: Rules = Rules {
    generation: true,
    default: |_, o| {
        let Some(spec) = spec(o) else { return };
        for rules in ["ingress", "egress"] {
            for rule in maps_in(spec, rules) {
                for port in maps_in(rule, "ports") {
                    default_to(port, "protocol", "TCP");
                }
            }
        }
        let some = |v: Option<&Value>| v.and_then(Value::as_array).is_some_and(|l| !l.is_empty());
        if !some(spec.get("policyTypes")) {
            let mut types = vec![Value::from("Ingress")];
            if some(spec.get("egress")) {
                types.push("Egress".into());
            }
            spec.insert("policyTypes".into(), types.into());
        }
    },
    validate: |o| network_policy(&At::root(o)),
    validate_update: |_, new, _| network_policy(&At::root(new)),
    columns: &[("Name", "string"), ("Pod-Selector", "string"), ("Age", "string")],
    row: |o, now| {
        let all = apimachinery::json!({});
        let pods = o["spec"].get("podSelector").unwrap_or(&all);
        vec![name(o).into(), selector(Some(pods)), age(o, now)]
    },
    ..DEFAULT
};

fn network_policy(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    let pods = spec.get("podSelector");
    errors.extend(objectmeta::label_selector(pods.value(), &pods.path()));
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(rules).items() {
            for port in rule.get("ports").items() {
                policy_port(&mut errors, &port);
            }
            for peer in rule.get(peers).items() {
                policy_peer(&mut errors, &peer);
            }
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        errors.push(types.invalid("may not specify more than two policyTypes"));
        return errors;
    }
    for kind in types.items() {
        if !matches!(kind.text(), "Ingress" | "Egress") {
            errors.push(kind.not_supported(&["Egress", "Ingress"]));
        }
    }
    errors
}

fn policy_port(errors: &mut Errors, port: &At<'_>) {
    let protocol = port.get("protocol");
    if protocol.present() && !matches!(protocol.text(), "TCP" | "UDP" | "SCTP") {
        errors.push(protocol.not_supported(&["SCTP", "TCP", "UDP"]));
    }
    let (number, end) = (port.get("port"), port.get("endPort"));
    if let Some(n) = number.int() {
        errors.extend(names::port_number(n).into_iter().map(|p| number.invalid(p)));
        if let Some(last) = end.int() {
            if last < n {
                errors.push(end.invalid("must be greater than or equal to `port`"));
            }
            errors.extend(names::port_number(last).into_iter().map(|p| end.invalid(p)));
        }
    } else if number.present() {
        if end.present() {
            errors.push(end.invalid("may not be specified when `port` is non-numeric"));
        }
        shape(errors, &number, names::port_name(number.text()));
    } else if end.present() {
        errors.push(end.invalid("may not be specified when `port` is not specified"));
    }
}

fn policy_peer(errors: &mut Errors, peer: &At<'_>) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        let selector = peer.get(field);
        if selector.present() {
            count += 1;
            errors.extend(objectmeta::label_selector(selector.value(), &selector.path()));
        }
    }
    let block = peer.get("ipBlock");
    if block.present() {
        count += 1;
        ip_block(errors, &block);
    }
    if count == 0 {
        errors.push(peer.required("must specify a peer"));
    } else if count > 1 && block.present() {
        errors.push(peer.forbidden("may not specify both ipBlock and another peer"));
    }
}

fn ip_block(errors: &mut Errors, block: &At<'_>) {
    let range = block.get("cidr");
    if range.is_empty() {
        errors.push(range.required(""));
        return;
    }
    let Ok(outer) = range.text().parse::<ipnet::IpNet>() else {
        errors.push(range.invalid(names::NO_CIDR));
        return;
    };
    for except in block.get("except").items() {
        match except.text().parse::<ipnet::IpNet>() {
            Err(_) => errors.push(except.invalid(names::NO_CIDR)),
            Ok(inner) if !outer.contains(&inner) || outer.prefix_len() >= inner.prefix_len() => {
                errors.push(except.invalid("must be a strict subset of `cidr`"));
            }
            Ok(_) => {}
        }
    }
}

pub(super) const SERVICE_CIDRS: Rules = Rules {
    validate: |o| {
        let (ranges, mut errors) = (At::root(o).at(&["spec", "cidrs"]), Vec::new());
        if ranges.is_empty() {
            errors.push(ranges.required("at least one CIDR required"));
        }
        if ranges.len() > 2 {
            errors.push(ranges.invalid("may only hold up to 2 values"));
        }
        for range in ranges.items() {
            shape(&mut errors, &range, names::cidr(range.text()));
        }
        errors
    },
    validate_update: |context, new, old| {
        let mut errors = Vec::new();
        if context.subresource != "status" {
            let path = ["spec", "cidrs"];
            immutable(&mut errors, &At::root(new).at(&path), &At::root(old).at(&path));
        }
        errors
    },
    columns: &[("Name", "string"), ("CIDRs", "string"), ("Age", "string")],
    row: |o, now| {
        let ranges: Vec<&str> = texts(list(o, &["spec", "cidrs"])).collect();
        vec![name(o).into(), ranges.join(",").into(), age(o, now)]
    },
    ..DEFAULT
};

pub(super) const IP_ADDRESSES: Rules = Rules {
    name: |name, _| {
        // the name is the address, in the one way to write it
        match name.parse::<std::net::IpAddr>() {
            Ok(ip) if ip.to_string() == name => Vec::new(),
            Ok(ip) => vec![format!("must be in canonical form ({:?})", ip.to_string())],
            Err(_) => vec![names::NO_IP.into()],
        }
    },
    validate: |o| {
        let (parent, mut errors) = (At::root(o).at(&["spec", "parentRef"]), Vec::new());
        if !parent.present() {
            errors.push(parent.required(""));
            return errors;
        }
        for field in ["resource", "name"] {
            if parent.get(field).is_empty() {
                errors.push(parent.get(field).required(""));
            }
        }
        errors
    },
    validate_update: |_, new, old| {
        let mut errors = Vec::new();
        let path = ["spec", "parentRef"];
        immutable(&mut errors, &At::root(new).at(&path), &At::root(old).at(&path));
        errors
    },
    columns: &[("Name", "string"), ("ParentRef", "string"), ("Age", "string")],
    row: address_row,
    ..DEFAULT
};

fn address_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let parent = |field: &str| str_at(object, &["spec", "parentRef", field]);
    let parts = [parent("resource"), parent("namespace"), parent("name")];
    let text = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/");
    vec![name(object).into(), or(&text, "<none>"), age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn policies_say_which_way_they_work() {
        for (spec, types) in [
            (json!({}), json!(["Ingress"])),
            (json!({"egress": [{}]}), json!(["Ingress", "Egress"])),
            (json!({"policyTypes": ["Egress"]}), json!(["Egress"])),
        ] {
            let mut policy = json!({"spec": spec});
            (NETWORK_POLICIES.default)("v1", &mut policy);
            assert_eq!(policy["spec"]["policyTypes"], types);
        }
    }

    #[test]
    fn ingresses_need_a_backend_and_good_paths() {
        for (spec, expected) in [
            (json!({}), "spec: Invalid value: {}: either `defaultBackend` or `rules` must be specified"),
            (
                json!({"rules": [{"http": {"paths": [{"path": "a", "pathType": "Prefix", "backend":
                    {"service": {"name": "s", "port": {"number": 80}}}}]}}]}),
                "spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path",
            ),
            (
                json!({"rules": [{"host": "10.0.0.1"}]}),
                "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
            ),
        ] {
            let object = json!({"spec": spec});
            let texts: Vec<String> = ingress(&At::root(&object)).iter().map(ToString::to_string).collect();
            assert_eq!(texts, [expected]);
        }
        let mut class = json!({"spec": {"parameters": {"kind": "K", "name": "n"}}});
        (INGRESS_CLASSES.default)("v1", &mut class);
        assert_eq!(class["spec"]["parameters"]["scope"], "Cluster");
        assert_eq!((INGRESS_CLASSES.validate)(&class), []);
    }
}
