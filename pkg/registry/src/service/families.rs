//! Which address families a service has, and which of its addresses are given: pure decisions before any allocation.
//! Source: KEP-563 (dual-stack), `k8s.io/kubernetes/pkg/registry/core/service/storage/alloc.go`.

use std::net::IpAddr;

use apimachinery::json;
use apimachinery::meta::{at, str_at};
use apimachinery::status::FieldError;
use apimachinery::{Map, Value};

/// An address family, by the name the API has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// As in `spec.ipFamilies`.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }

    /// The family of an address.
    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

pub(super) fn kind(service: &Value) -> &str {
    str_at(service, &["spec", "type"])
}

/// Whether services of this type have addresses at all.
pub(super) fn has_addresses(service: &Value) -> bool {
    kind(service) != "ExternalName"
}

/// `spec.clusterIPs`.
pub(super) fn cluster_ips(service: &Value) -> Vec<String> {
    texts(service, "clusterIPs")
}

fn texts(service: &Value, field: &str) -> Vec<String> {
    at(service, &["spec", field])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// `spec.ipFamilies`, as far as they are families.
pub(super) fn families(service: &Value) -> Vec<Family> {
    texts(service, "ipFamilies").iter().filter_map(|f| Family::parse(f)).collect()
}

/// Whether the service is headless.
pub(super) fn is_headless(service: &Value) -> bool {
    cluster_ips(service).first().is_some_and(|ip| ip == "None")
}

fn spec(service: &mut Value) -> Option<&mut Map> {
    service.get_mut("spec")?.as_object_mut()
}

pub(super) fn set(service: &mut Value, field: &str, value: Value) {
    if let Some(spec) = spec(service) {
        spec.insert(field.to_owned().into(), value);
    }
}

fn remove(service: &mut Value, field: &str) {
    if let Some(spec) = spec(service) {
        spec.remove(field);
    }
}

/// `clusterIP` and the first of `clusterIPs` are one field under two names: whichever the client wrote counts.
pub(super) fn normalize(service: &mut Value, old: Option<&Value>) {
    let single = str_at(service, &["spec", "clusterIP"]).to_owned();
    let mut list = cluster_ips(service);
    if let Some(old) = old {
        let (old_single, old_list) = (str_at(old, &["spec", "clusterIP"]), cluster_ips(old));
        if list == old_list && single != old_single && !list.is_empty() {
            if single.is_empty() {
                list.clear();
            } else {
                list[0].clone_from(&single);
            }
        }
    }
    if list.is_empty() && !single.is_empty() {
        list.push(single);
    }
    match list.first() {
        Some(first) => {
            let first = first.clone();
            set(service, "clusterIP", json!(first));
            set(service, "clusterIPs", json!(list));
        }
        None => {
            remove(service, "clusterIP");
            remove(service, "clusterIPs");
        }
    }
}

/// Takes over from the old service what was allocated and the client did not send.
pub(super) fn keep_allocated(service: &mut Value, old: &Value) {
    if has_addresses(service) && has_addresses(old) {
        if str_at(service, &["spec", "clusterIP"]).is_empty() {
            set(service, "clusterIP", json!(str_at(old, &["spec", "clusterIP"])));
        }
        let same = str_at(service, &["spec", "clusterIP"]) == str_at(old, &["spec", "clusterIP"]);
        if cluster_ips(service).is_empty() && same {
            set(service, "clusterIPs", json!(cluster_ips(old)));
        }
        for field in ["ipFamilyPolicy", "ipFamilies"] {
            if at(service, &["spec", field]).is_none_or(Value::is_null)
                && let Some(value) = at(old, &["spec", field])
            {
                set(service, field, value.clone());
            }
        }
    }
}

/// A service that goes back to one family loses its second address, unless the client said which one it means.
fn downgrade(service: &mut Value, old: &Value) {
    let dual =
        |s: &Value| matches!(str_at(s, &["spec", "ipFamilyPolicy"]), "PreferDualStack" | "RequireDualStack");
    if !dual(old) || dual(service) {
        return;
    }
    if cluster_ips(service) == cluster_ips(old) && cluster_ips(service).len() == 2 {
        let first = cluster_ips(service).swap_remove(0);
        set(service, "clusterIPs", json!([first]));
    }
    if families(service) == families(old) && families(service).len() == 2 {
        let first = families(service)[0].as_str();
        set(service, "ipFamilies", json!([first]));
    }
}

/// Fills in policy and families; `configured` are the cluster's families, its default first.
pub(super) fn complete(service: &mut Value, old: Option<&Value>, configured: &[Family]) -> Vec<FieldError> {
    if !has_addresses(service) {
        return Vec::new();
    }
    if let Some(old) = old {
        downgrade(service, old);
    }
    let default = configured.first().copied().unwrap_or(Family::V4);
    let policy = |s: &Value| str_at(s, &["spec", "ipFamilyPolicy"]).to_owned();
    let no_selector = at(service, &["spec", "selector"]).and_then(Value::as_object).is_none_or(Map::is_empty);
    if is_headless(service) && no_selector {
        // its endpoints are somebody's own business: any families will do
        if policy(service).is_empty() {
            set(service, "ipFamilyPolicy", json!("RequireDualStack"));
        }
        let mut list = families(service);
        if list.is_empty() {
            list.push(default);
        }
        if list.len() < 2 && policy(service) != "SingleStack" {
            list.push(list[0].other());
        }
        set_families(service, &list);
        return Vec::new();
    }
    let mut errors = Vec::new();
    if policy(service) == "RequireDualStack" && configured.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy(service), why));
    }
    for (i, family) in families(service).iter().enumerate() {
        if !configured.contains(family) {
            let field = format!("spec.ipFamilies[{i}]");
            errors.push(FieldError::invalid(field, family.as_str(), "not configured on this cluster"));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    if policy(service).is_empty() {
        set(service, "ipFamilyPolicy", json!("SingleStack"));
    }
    let mut list = families(service);
    for (i, ip) in cluster_ips(service).iter().enumerate() {
        match ip.parse::<IpAddr>() {
            Ok(ip) if i >= list.len() => list.push(Family::of(ip)),
            _ => {}
        }
    }
    if list.is_empty() {
        list.push(default);
    }
    if list.len() < 2 && policy(service) != "SingleStack" && configured.contains(&list[0].other()) {
        list.push(list[0].other());
    }
    set_families(service, &list);
    Vec::new()
}

fn set_families(service: &mut Value, list: &[Family]) {
    let names: Vec<&str> = list.iter().map(|f| f.as_str()).collect();
    set(service, "ipFamilies", json!(names));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(spec: Value, configured: &[Family]) -> Result<(String, Vec<String>), Vec<String>> {
        let mut service = json!({"spec": spec});
        normalize(&mut service, None);
        let errors = complete(&mut service, None, configured);
        if !errors.is_empty() {
            return Err(errors.into_iter().map(|e| e.field).collect());
        }
        let list = families(&service).iter().map(|f| f.as_str().to_owned()).collect();
        Ok((str_at(&service, &["spec", "ipFamilyPolicy"]).to_owned(), list))
    }

    #[test]
    fn families_are_filled_in() {
        use Family::{V4, V6};
        let selector = json!({"app": "x"});
        let ok = |policy: &str, list: &[&str]| {
            Ok((policy.to_owned(), list.iter().map(|f| (*f).to_owned()).collect()))
        };
        let err = |fields: &[&str]| Err(fields.iter().map(|f| (*f).to_owned()).collect());
        let cases = [
            (json!({"type": "ClusterIP"}), &[V4][..], ok("SingleStack", &["IPv4"])),
            (json!({"type": "ClusterIP"}), &[V6, V4], ok("SingleStack", &["IPv6"])),
            (
                json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}),
                &[V4],
                ok("PreferDualStack", &["IPv4"]),
            ),
            (
                json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}),
                &[V4, V6],
                ok("PreferDualStack", &["IPv4", "IPv6"]),
            ),
            (
                json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"}),
                &[V4],
                err(&["spec.ipFamilyPolicy"]),
            ),
            (json!({"type": "ClusterIP", "ipFamilies": ["IPv6"]}), &[V4], err(&["spec.ipFamilies[0]"])),
            (json!({"type": "ClusterIP", "clusterIP": "fd00::1"}), &[V4, V6], ok("SingleStack", &["IPv6"])),
            (
                json!({"type": "ClusterIP", "clusterIP": "None", "selector": selector}),
                &[V4],
                ok("SingleStack", &["IPv4"]),
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "None"}),
                &[V4],
                ok("RequireDualStack", &["IPv4", "IPv6"]),
            ),
            (json!({"type": "ExternalName"}), &[V4], ok("", &[])),
        ];
        for (spec, configured, expected) in cases {
            assert_eq!(completed(spec.clone(), configured), expected, "{spec} {configured:?}");
        }
    }

    #[test]
    fn one_field_under_two_names() {
        let old = json!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}});
        let cases = [
            (json!({"clusterIP": "10.0.0.1"}), None, json!(["10.0.0.1"])),
            (json!({"clusterIPs": ["10.0.0.1", "fd00::1"]}), None, json!(["10.0.0.1", "fd00::1"])),
            (
                json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.1", "fd00::1"]}),
                Some(&old),
                json!(["10.0.0.2", "fd00::1"]),
            ),
            (json!({"clusterIPs": ["10.0.0.1", "fd00::1"]}), Some(&old), Value::Null),
        ];
        for (spec, old, expected) in cases {
            let mut service = json!({"spec": spec});
            normalize(&mut service, old);
            assert_eq!(service["spec"]["clusterIPs"], expected);
            assert_eq!(service["spec"]["clusterIP"], expected[0]);
        }
    }

    #[test]
    fn updates_keep_what_was_allocated() {
        let old = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
            "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]}});
        let mut new = json!({"spec": {"type": "ClusterIP"}});
        keep_allocated(&mut new, &old);
        assert_eq!(new["spec"], old["spec"]);
        new["spec"]["ipFamilyPolicy"] = json!("SingleStack");
        assert!(complete(&mut new, Some(&old), &[Family::V4, Family::V6]).is_empty());
        assert_eq!(
            (&new["spec"]["clusterIPs"], &new["spec"]["ipFamilies"]),
            (&json!(["10.0.0.1"]), &json!(["IPv4"]))
        );
    }
}
