//! Events and endpoints. Source: `pkg/apis/core/validation`, `pkg/printers/internalversion`.

use apimachinery::Value;
use apimachinery::meta::at;
use apimachinery::status::FieldError;
use apimachinery::strategy::WriteContext;
use jiff::Timestamp;

use super::print::{age, list, name, number, since, str_at};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, Errors, immutable, shape};
use crate::edit::{default_to, maps_in};
use crate::names;

pub(super) const EVENTS: Rules = Rules {
    validate: |o| event(&At::root(o)),
    validate_new: |context, o| if is_strict(context) { new_event(&At::root(o)) } else { Vec::new() },
    validate_update: |context, new, old| {
        let (new, old) = (At::root(new), At::root(old));
        let mut errors = event(&new);
        if !is_strict(context) {
            return errors;
        }
        if new.get("series").value() != old.get("series").value() {
            errors.extend(series(&new));
        }
        for field in IMMUTABLE {
            immutable(&mut errors, &new.get(field), &old.get(field));
        }
        errors
    },
    create_on_update: true,
    columns: &[
        ("Last Seen", "string"),
        ("Type", "string"),
        ("Reason", "string"),
        ("Object", "string"),
        ("+Subobject", "string"),
        ("+Source", "string"),
        ("Message", "string"),
        ("+First Seen", "string"),
        ("+Count", "integer"),
        ("+Name", "string"),
    ],
    row: event_row,
    ..DEFAULT
};

/// Longest `reason`, `action` and `reportingInstance` of an event that has an `eventTime`.
const EVENT_TEXT_MAX: usize = 128;
/// Longest `message` of such an event.
const EVENT_NOTE_MAX: usize = 1024;

/// What an event cannot change through events.k8s.io, by its names in the core group.
const IMMUTABLE: [&str; 13] = [
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "eventTime",
    "action",
    "related",
    "reportingComponent",
    "reportingInstance",
];

/// Requests to the core group are as lax as they always were.
fn is_strict(context: &WriteContext<'_>) -> bool {
    context.group == "events.k8s.io"
}

/// What events.k8s.io demands of new events.
fn new_event(object: &At<'_>) -> Errors {
    let mut errors = series(object);
    if object.get("eventTime").is_empty() {
        errors.push(object.get("eventTime").required(""));
    }
    if !matches!(object.get("type").text(), "Normal" | "Warning") {
        let detail = format!("has invalid value: {}", object.get("type").text());
        errors.push(object.get("type").invalid_value("", detail));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        let value = object.get(field);
        let is_set = match field {
            "count" => value.int_or_zero() != 0,
            "source" => !value.get("component").is_empty() || !value.get("host").is_empty(),
            _ => !value.is_empty(),
        };
        if is_set {
            errors.push(value.invalid_value("", "needs to be unset"));
        }
    }
    errors
}

fn series(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let series = object.get("series");
    if !series.is_empty() {
        if series.get("count").int_or_zero() < 2 {
            errors.push(series.get("count").invalid_value("", "should be at least 2"));
        }
        if series.get("lastObservedTime").is_empty() {
            errors.push(series.get("lastObservedTime").required(""));
        }
    }
    errors
}

/// What every event must be. The namespaces agree; one with an `eventTime` says who reports what.
fn event(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let involved = object.at(&["involvedObject", "namespace"]);
    let namespace = object.at(&["metadata", "namespace"]).text();
    let timed = !object.get("eventTime").is_empty();
    // events about what is in no namespace live in the default one, or the system's
    let fits = match (timed, involved.is_empty()) {
        (true, true) => matches!(namespace, "default" | "kube-system"),
        (false, true) => matches!(namespace, "" | "default"),
        (true, false) => true,
        (false, false) => involved.text() == namespace,
    };
    if !fits {
        errors.push(involved.invalid_value(involved.text(), "does not match event.namespace"));
    }
    if !timed {
        return errors;
    }
    for (field, max) in
        [("reportingInstance", EVENT_TEXT_MAX), ("action", EVENT_TEXT_MAX), ("reason", EVENT_TEXT_MAX)]
    {
        let value = object.get(field);
        if value.is_empty() {
            errors.push(value.required(""));
        } else if value.text().len() > max {
            errors.push(value.invalid(format!("can have at most {max} characters")));
        }
    }
    let controller = object.get("reportingComponent");
    // the path is the name events.k8s.io has for it
    if controller.is_empty() {
        errors.push(FieldError::required("reportingController", ""));
    }
    for problem in names::label_key(controller.text()) {
        errors.push(FieldError::invalid("reportingController", controller.text(), problem));
    }
    if object.get("message").text().len() > EVENT_NOTE_MAX {
        errors.push(object.get("message").invalid(format!("can have at most {EVENT_NOTE_MAX} characters")));
    }
    errors
}

fn event_row(event: &Value, now: Timestamp) -> Vec<Value> {
    let event_time = str_at(event, &["eventTime"]);
    let time = |text: &str| -> String {
        match text {
            "" if event_time.is_empty() => "<unknown>".into(),
            "" => since(event_time, now),
            text => since(text, now),
        }
    };
    let mut last = time(str_at(event, &["lastTimestamp"]));
    let mut first = time(str_at(event, &["firstTimestamp"]));
    let mut count = number(event, &["count"]);
    if at(event, &["series"]).is_some_and(Value::is_object) {
        last = time(str_at(event, &["series", "lastObservedTime"]));
        count = number(event, &["series", "count"]);
        if str_at(event, &["firstTimestamp"]).is_empty() {
            first = time("");
        }
    } else if count == 0 {
        count = 1;
    }
    let involved = |field: &str| str_at(event, &["involvedObject", field]);
    let object = if involved("name").is_empty() {
        involved("kind").to_lowercase()
    } else {
        format!("{}/{}", involved("kind").to_lowercase(), involved("name"))
    };
    vec![
        last.into(),
        str_at(event, &["type"]).into(),
        str_at(event, &["reason"]).into(),
        object.into(),
        involved("fieldPath").into(),
        event_source(event).into(),
        str_at(event, &["message"]).trim().into(),
        first.into(),
        count.into(),
        name(event).into(),
    ]
}

fn event_source(event: &Value) -> String {
    let component = match str_at(event, &["source", "component"]) {
        "" => str_at(event, &["reportingComponent"]),
        component => component,
    };
    let host = match str_at(event, &["source", "host"]) {
        "" => str_at(event, &["reportingInstance"]),
        host => host,
    };
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}

pub(super) const ENDPOINTS: Rules = Rules {
    default: |_, o| {
        for subset in o.as_object_mut().into_iter().flat_map(|map| maps_in(map, "subsets")) {
            for port in maps_in(subset, "ports") {
                default_to(port, "protocol", "TCP");
            }
        }
    },
    validate: |o| endpoints(&At::root(o)),
    validate_update: |_, new, _| endpoints(&At::root(new)),
    create_on_update: true,
    columns: &[("Name", "string"), ("Endpoints", "string"), ("Age", "string")],
    row: |o, now| vec![name(o).into(), endpoints_text(o).into(), age(o, now)],
    ..DEFAULT
};

fn endpoints(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    for subset in object.get("subsets").items() {
        if subset.get("addresses").is_empty() && subset.get("notReadyAddresses").is_empty() {
            errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        for list in ["addresses", "notReadyAddresses"] {
            for address in subset.get(list).items() {
                let ip = address.get("ip");
                shape(&mut errors, &ip, names::ip(ip.text()));
                if address.get("hostname").present() {
                    let hostname = address.get("hostname");
                    shape(&mut errors, &hostname, names::dns1123_label(hostname.text(), false));
                }
                if let Some(problem) = special_address(ip.text()) {
                    errors.push(ip.invalid(problem));
                }
            }
        }
        let several = subset.get("ports").len() > 1;
        for port in subset.get("ports").items() {
            let name = port.get("name");
            if several && name.is_empty() {
                errors.push(name.required(""));
            } else if !name.is_empty() {
                shape(&mut errors, &name, names::dns1123_label(name.text(), false));
            }
            let number = port.get("port");
            errors.extend(
                names::port_number(number.int_or_zero())
                    .into_iter()
                    .map(|p| number.invalid_value(number.int_or_zero(), p)),
            );
            crate::cursor::one_of(&mut errors, &port.get("protocol"), &["TCP", "UDP", "SCTP"]);
        }
    }
    errors
}

/// Addresses that no endpoint may have.
pub(super) fn special_address(ip: &str) -> Option<&'static str> {
    let ip: std::net::IpAddr = ip.parse().ok()?;
    let link_local = match ip {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_local_multicast = match ip {
        std::net::IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        std::net::IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    if ip.is_unspecified() {
        Some("may not be unspecified (0.0.0.0 or ::)")
    } else if ip.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    } else if link_local_multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
    } else {
        None
    }
}

/// The first three addresses with ports, and how many more.
fn endpoints_text(object: &Value) -> String {
    const SHOWN: usize = 3;
    let subsets = list(object, &["subsets"]);
    if subsets.is_empty() {
        return "<none>".into();
    }
    let mut texts = Vec::new();
    for subset in subsets {
        let addresses = list(subset, &["addresses"]);
        let ports = list(subset, &["ports"]);
        if ports.is_empty() {
            texts.extend(addresses.iter().map(|a| str_at(a, &["ip"]).to_owned()));
        }
        for port in ports {
            for address in addresses {
                let ip = str_at(address, &["ip"]);
                let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
                texts.push(format!("{ip}:{}", number(port, &["port"])));
            }
        }
    }
    let shown = texts.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(",");
    if texts.len() > SHOWN { format!("{shown} + {} more...", texts.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn rows() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().expect("a time");
        let event = json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": "ok\n",
            "involvedObject": {"kind": "Pod", "name": "p"}, "eventTime": "2026-01-01T00:59:00.000000Z",
            "reportingComponent": "kubelet"});
        let row = event_row(&event, now);
        let texts: Vec<String> =
            row.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), Into::into)).collect();
        assert_eq!(texts, ["60s", "Normal", "Started", "pod/p", "", "kubelet", "ok", "60s", "1", "e"]);
        let endpoints = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}],
            "ports": [{"port": 80}, {"port": 443}]}]});
        assert_eq!(endpoints_text(&endpoints), "10.0.0.1:80,10.0.0.2:80,10.0.0.1:443 + 1 more...");
    }

    #[test]
    fn endpoint_ports_speak_tcp_unless_they_say_otherwise() {
        let mut object = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}],
            "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 53, "protocol": "UDP"}]}]});
        (ENDPOINTS.default)("v1", &mut object);
        assert_eq!(object["subsets"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(object["subsets"][0]["ports"][1]["protocol"], "UDP");
        assert!((ENDPOINTS.validate)(&object).is_empty());
    }

    #[test]
    fn events_k8s_io_is_strict_and_the_core_group_is_not() {
        let context = |group| WriteContext {
            now: Timestamp::UNIX_EPOCH,
            user: "u",
            groups: &[],
            subresource: "",
            group,
        };
        let old = json!({"metadata": {"name": "e", "namespace": "ns"}, "type": "Normal", "reason": "r", "action": "a",
            "message": "m", "involvedObject": {"kind": "Pod", "namespace": "ns"}, "reportingComponent": "k8s.io/c",
            "eventTime": "2026-01-01T00:59:00.000000Z", "reportingInstance": "i", "firstTimestamp": null});
        let mut new = old.clone();
        new["message"] = json!("other");
        new["series"] = json!({"count": 1});
        let fields = |errors: Vec<FieldError>| errors.into_iter().map(|e| e.field).collect::<Vec<_>>();
        let update = |group| fields((EVENTS.validate_update)(&context(group), &new, &old));
        assert!(update("").is_empty());
        assert_eq!(update("events.k8s.io"), ["series.count", "series.lastObservedTime", "message"]);
        let create = |group, event: &Value| fields((EVENTS.validate_new)(&context(group), event));
        assert!(create("events.k8s.io", &old).is_empty());
        let bare = json!({"metadata": {"namespace": "ns"}, "involvedObject": {"namespace": "ns"}, "count": 2,
            "source": {"component": "x"}});
        assert!(create("", &bare).is_empty() && (EVENTS.validate)(&bare).is_empty());
        assert_eq!(create("events.k8s.io", &bare), ["eventTime", "type", "count", "source"]);
    }
}
