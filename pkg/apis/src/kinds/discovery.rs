//! Endpoint slices and leases. Source: `pkg/apis/discovery`, `pkg/apis/coordination`.

use std::collections::BTreeSet;

use apimachinery::Value;

use super::events::special_address;
use super::print::{age, list, name, or, str_at};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, Errors, immutable, shape};
use crate::edit::{default_to, maps_in};
use crate::names;

/// Most endpoints of one slice.
const MAX_ENDPOINTS: usize = 1000;
/// Most addresses of one endpoint.
const MAX_ADDRESSES: usize = 100;
/// Most ports of one slice.
const MAX_PORTS: usize = 20_000;

pub(super) const ENDPOINT_SLICES: Rules = Rules {
    generation: true,
    default: |_, o| {
        if let Some(map) = o.as_object_mut() {
            for port in maps_in(map, "ports") {
                default_to(port, "name", "");
                default_to(port, "protocol", "TCP");
            }
        }
    },
    validate: |o| slice(&At::root(o)),
    validate_update: |_, new, old| {
        let (new, old) = (At::root(new), At::root(old));
        let mut errors = slice(&new);
        immutable(&mut errors, &new.get("addressType"), &old.get("addressType"));
        errors
    },
    columns: &[
        ("Name", "string"),
        ("AddressType", "string"),
        ("Ports", "string"),
        ("Endpoints", "string"),
        ("Age", "string"),
    ],
    row: |o, now| {
        let ports = list(o, &["ports"]).iter().map(port_text);
        let endpoints = list(o, &["endpoints"])
            .iter()
            .flat_map(|e| list(e, &["addresses"]))
            .map(|a| a.as_str().unwrap_or_default().to_owned());
        vec![
            name(o).into(),
            str_at(o, &["addressType"]).into(),
            first_three(ports, "<unset>"),
            first_three(endpoints, "<unset>"),
            age(o, now),
        ]
    },
    ..DEFAULT
};

fn port_text(port: &Value) -> String {
    match port.get("port").and_then(Value::as_i64) {
        Some(number) => number.to_string(),
        None => "*".into(),
    }
}

/// `a,b,c + 2 more...`.
fn first_three(all: impl Iterator<Item = String>, none: &str) -> Value {
    const SHOWN: usize = 3;
    let all: Vec<String> = all.collect();
    if all.is_empty() {
        return none.into();
    }
    let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(",");
    if all.len() > SHOWN { format!("{shown} + {} more...", all.len() - SHOWN).into() } else { shown.into() }
}

fn slice(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let kind = object.get("addressType");
    if kind.is_empty() {
        errors.push(kind.required(""));
    } else if !matches!(kind.text(), "IPv4" | "IPv6" | "FQDN") {
        errors.push(kind.not_supported(&["FQDN", "IPv4", "IPv6"]));
    }
    let endpoints = object.get("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(endpoints.too_many(MAX_ENDPOINTS));
        return errors;
    }
    for endpoint in endpoints.items() {
        addresses(&mut errors, &endpoint.get("addresses"), kind.text());
        let hostname = endpoint.get("hostname");
        if hostname.present() {
            shape(&mut errors, &hostname, names::dns1123_label(hostname.text(), false));
        }
        let node = endpoint.get("nodeName");
        if node.present() {
            shape(&mut errors, &node, names::dns1123_subdomain(node.text(), false));
        }
    }
    let ports = object.get("ports");
    if ports.len() > MAX_PORTS {
        errors.push(ports.too_many(MAX_PORTS));
        return errors;
    }
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_empty() {
            shape(&mut errors, &name, names::dns1123_label(name.text(), false));
        }
        if seen.contains(&name.text()) {
            errors.push(name.duplicate());
        }
        seen.insert(name.text());
        let protocol = port.get("protocol");
        if protocol.is_empty() {
            errors.push(protocol.required(""));
        } else if !matches!(protocol.text(), "TCP" | "UDP" | "SCTP") {
            errors.push(protocol.not_supported(&["SCTP", "TCP", "UDP"]));
        }
    }
    errors
}

fn addresses(errors: &mut Errors, list: &At<'_>, kind: &str) {
    if list.is_empty() {
        errors.push(list.required("must contain at least 1 address"));
    } else if list.len() > MAX_ADDRESSES {
        errors.push(list.too_many(MAX_ADDRESSES));
    }
    for address in list.items() {
        match kind {
            "FQDN" => shape(errors, &address, names::dns1123_subdomain(address.text(), false)),
            "IPv4" | "IPv6" => {
                match address.text().parse::<std::net::IpAddr>() {
                    Err(_) => errors.push(address.invalid(names::NO_IP)),
                    Ok(ip) if ip.is_ipv4() != (kind == "IPv4") => {
                        errors.push(address.invalid(format!("must be an {kind} address")));
                    }
                    Ok(_) => {}
                }
                errors.extend(special_address(address.text()).map(|p| address.invalid(p)));
            }
            _ => {}
        }
    }
}

pub(super) const LEASES: Rules = Rules {
    validate: |o| lease(&At::root(o)),
    validate_update: |_, new, _| lease(&At::root(new)),
    create_on_update: true,
    unconditional_update: false,
    columns: &[("Name", "string"), ("Holder", "string"), ("Age", "string")],
    row: |o, now| vec![name(o).into(), str_at(o, &["spec", "holderIdentity"]).into(), age(o, now)],
    ..DEFAULT
};

fn lease(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    let duration = spec.get("leaseDurationSeconds");
    if duration.int().is_some_and(|d| d <= 0) {
        errors.push(duration.invalid("must be greater than 0"));
    }
    if spec.get("leaseTransitions").int().is_some_and(|t| t < 0) {
        errors.push(spec.get("leaseTransitions").invalid("must be greater than or equal to 0"));
    }
    errors
}

pub(super) const LEASE_CANDIDATES: Rules = Rules {
    create_on_update: true,
    unconditional_update: false,
    validate: |o| {
        let mut errors = Vec::new();
        let spec = At::root(o).get("spec");
        for field in ["leaseName", "strategy"] {
            if spec.get(field).is_empty() {
                errors.push(spec.get(field).required(""));
            }
        }
        errors
    },
    validate_update: |_, new, old| {
        let mut errors = Vec::new();
        let path = ["spec", "leaseName"];
        immutable(&mut errors, &At::root(new).at(&path), &At::root(old).at(&path));
        errors
    },
    columns: &[
        ("Name", "string"),
        ("LeaseName", "string"),
        ("BinaryVersion", "string"),
        ("EmulationVersion", "string"),
        ("Strategy", "string"),
        ("Age", "string"),
    ],
    row: |o, now| {
        let spec = |field: &str| or(str_at(o, &["spec", field]), "");
        vec![
            name(o).into(),
            spec("leaseName"),
            spec("binaryVersion"),
            spec("emulationVersion"),
            spec("strategy"),
            age(o, now),
        ]
    },
    ..DEFAULT
};

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn slices_default_validate_and_print() {
        let mut object = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["::1"]}, {"addresses": []}]});
        (ENDPOINT_SLICES.default)("v1", &mut object);
        assert_eq!(object["ports"][0], json!({"port": 80, "name": "", "protocol": "TCP"}));
        let texts: Vec<String> = slice(&At::root(&object)).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "endpoints[1].addresses[0]: Invalid value: \"::1\": must be an IPv4 address",
                "endpoints[1].addresses[0]: Invalid value: \"::1\": may not be in the loopback range (127.0.0.0/8, \
                 ::1/128)",
                "endpoints[2].addresses: Required value: must contain at least 1 address",
            ]
        );
        let row = (ENDPOINT_SLICES.row)(&object, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(row[2..4], [Value::from("80"), Value::from("10.0.0.1,::1")]);
    }
}
