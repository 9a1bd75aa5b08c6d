//! Fields that field selectors may name, by kind.
//!
//! Source: the field label conversions of `pkg/apis/*/v1/conversion.go` and the `ToSelectableFields` of the registries.

use apimachinery::Value;
use apimachinery::descriptor::SelectableField;
use apimachinery::meta::{at, str_at};

/// Fields that are read as text at their own path.
macro_rules! text_fields {
    ($($name:literal => [$($path:literal),+]),* $(,)?) => {
        vec![$(field($name, |o| str_at(o, &[$($path),+]).to_owned())),*]
    };
}

fn number(object: &Value, path: &[&str]) -> String {
    at(object, path).and_then(Value::as_i64).unwrap_or_default().to_string()
}

fn boolean(object: &Value, path: &[&str]) -> String {
    at(object, path).and_then(Value::as_bool).unwrap_or_default().to_string()
}

fn field(name: &str, value: fn(&Value) -> String) -> SelectableField {
    SelectableField { name: name.into(), value, indexed: false }
}

/// What a field selector of a resource may name beyond name and namespace.
pub(super) fn fields(group: &str, plural: &str) -> Vec<SelectableField> {
    match (group, plural) {
        ("", "pods") => pods(),
        ("", "events") => {
            let mut fields = text_fields! {
                "involvedObject.kind" => ["involvedObject", "kind"],
                "involvedObject.namespace" => ["involvedObject", "namespace"],
                "involvedObject.name" => ["involvedObject", "name"],
                "involvedObject.uid" => ["involvedObject", "uid"],
                "involvedObject.apiVersion" => ["involvedObject", "apiVersion"],
                "involvedObject.resourceVersion" => ["involvedObject", "resourceVersion"],
                "involvedObject.fieldPath" => ["involvedObject", "fieldPath"],
                "reason" => ["reason"],
                "reportingComponent" => ["reportingComponent"],
                "type" => ["type"],
            };
            fields.push(field("source", event_source));
            fields
        }
        ("events.k8s.io", "events") => text_fields! {
            "regarding.kind" => ["involvedObject", "kind"],
            "regarding.namespace" => ["involvedObject", "namespace"],
            "regarding.name" => ["involvedObject", "name"],
            "regarding.uid" => ["involvedObject", "uid"],
            "regarding.apiVersion" => ["involvedObject", "apiVersion"],
            "regarding.resourceVersion" => ["involvedObject", "resourceVersion"],
            "regarding.fieldPath" => ["involvedObject", "fieldPath"],
            "reason" => ["reason"],
            "reportingController" => ["reportingComponent"],
            "type" => ["type"],
        },
        ("", "secrets") => text_fields! { "type" => ["type"] },
        ("", "namespaces") => text_fields! { "status.phase" => ["status", "phase"] },
        ("", "nodes") => vec![field("spec.unschedulable", |o| boolean(o, &["spec", "unschedulable"]))],
        ("", "services") => text_fields! {
            "spec.clusterIP" => ["spec", "clusterIP"],
            "spec.type" => ["spec", "type"],
        },
        ("", "replicationcontrollers") | ("apps", "replicasets") => {
            vec![field("status.replicas", |o| number(o, &["status", "replicas"]))]
        }
        ("batch", "jobs") => vec![field("status.successful", |o| number(o, &["status", "succeeded"]))],
        ("certificates.k8s.io", "certificatesigningrequests" | "clustertrustbundles") => {
            text_fields! { "spec.signerName" => ["spec", "signerName"] }
        }
        ("certificates.k8s.io", "podcertificaterequests") => text_fields! {
            "spec.signerName" => ["spec", "signerName"],
            "spec.podName" => ["spec", "podName"],
            "spec.nodeName" => ["spec", "nodeName"],
        },
        ("resource.k8s.io", "resourceslices") => text_fields! {
            "spec.nodeName" => ["spec", "nodeName"],
            "spec.driver" => ["spec", "driver"],
        },
        _ => Vec::new(),
    }
}

fn pods() -> Vec<SelectableField> {
    let node = field("spec.nodeName", |o| str_at(o, &["spec", "nodeName"]).to_owned());
    // each kubelet asks for its own
    let mut fields = vec![SelectableField { indexed: true, ..node }];
    fields.extend(text_fields! {
        "spec.restartPolicy" => ["spec", "restartPolicy"],
        "spec.schedulerName" => ["spec", "schedulerName"],
        "spec.serviceAccountName" => ["spec", "serviceAccountName"],
        "status.phase" => ["status", "phase"],
        "status.nominatedNodeName" => ["status", "nominatedNodeName"],
    });
    fields.push(field("spec.hostNetwork", |o| boolean(o, &["spec", "hostNetwork"])));
    fields.push(field("status.podIP", |o| {
        let first = o.pointer("/status/podIPs/0/ip").and_then(Value::as_str);
        first.unwrap_or_else(|| str_at(o, &["status", "podIP"])).to_owned()
    }));
    fields
}

/// Events written through events.k8s.io name no source component; their controller stands in.
fn event_source(event: &Value) -> String {
    match str_at(event, &["source", "component"]) {
        "" => str_at(event, &["reportingComponent"]).to_owned(),
        component => component.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn values_are_text() {
        let pod = json!({"spec": {"nodeName": "n", "hostNetwork": true}, "status": {"podIPs": [{"ip": "10.0.0.1"}]}});
        let value = |name: &str| {
            let fields = fields("", "pods");
            let field = fields.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("{name}"));
            (field.value)(&pod)
        };
        for (name, expected) in [
            ("spec.nodeName", "n"),
            ("spec.hostNetwork", "true"),
            ("status.podIP", "10.0.0.1"),
            ("status.phase", ""),
        ] {
            assert_eq!(value(name), expected, "{name}");
        }
    }
}
