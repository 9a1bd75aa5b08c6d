//! Choosing an endpoint of a service. Source: `k8s.io/apiserver/pkg/util/proxy` (RandomEndpoint).

use apimachinery::Value;
use apimachinery::meta::{at, str_at};
use rand::Rng;
use rand::seq::SliceRandom;

use super::is_global_unicast;

/// A ready endpoint of a port by name: address and port. Slices of the preferred address family come first, then any
/// order.
pub(super) fn random_endpoint(
    mut slices: Vec<Value>,
    port_name: &str,
    family: &str,
    namespace: &str,
    rng: &mut impl Rng,
) -> Option<(String, u16)> {
    slices.shuffle(rng);
    slices.sort_by_key(|slice| str_at(slice, &["addressType"]) != family);
    slices.iter().find_map(|slice| {
        let ports = at(slice, &["ports"]).and_then(Value::as_array)?;
        let port = ports
            .iter()
            .filter(|port| str_at(port, &["name"]) == port_name)
            .find_map(|port| u16::try_from(at(port, &["port"])?.as_u64()?).ok())?;
        let endpoints = at(slice, &["endpoints"]).and_then(Value::as_array).filter(|e| !e.is_empty())?;
        let offset = rng.random_range(0..endpoints.len());
        let ready = |endpoint: &&Value| {
            at(endpoint, &["conditions", "ready"]).and_then(Value::as_bool) != Some(false)
                && belongs(endpoint, namespace)
        };
        let chosen = endpoints.iter().cycle().skip(offset).take(endpoints.len()).find(ready)?;
        let address = at(chosen, &["addresses"])?.as_array()?.first()?.as_str()?;
        Some((address.to_owned(), port))
    })
}

/// Nobody gets at another namespace's pods by writing endpoints.
fn belongs(endpoint: &Value, namespace: &str) -> bool {
    let target = |key: &str| str_at(endpoint, &["targetRef", key]);
    let address = at(endpoint, &["addresses"]).and_then(Value::as_array).and_then(|a| a.first()?.as_str());
    address.is_some_and(is_global_unicast)
        && (target("kind") != "Pod" || target("namespace").is_empty() || target("namespace") == namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;
    use rand::SeedableRng;

    #[test]
    fn ready_endpoints_of_the_port() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let slices = vec![
            json!({"addressType": "IPv6", "ports": [{"name": "web", "port": 80}], "endpoints": [{"addresses": ["fd00::1"]}]}),
            json!({"addressType": "IPv4", "ports": [{"name": "web", "port": 8080}, {"name": "", "port": 1}], "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.3"], "targetRef": {"kind": "Pod", "namespace": "other"}},
                {"addresses": ["127.0.0.1"]}]}),
        ];
        for _ in 0..20 {
            let got = random_endpoint(slices.clone(), "web", "IPv4", "ns", &mut rng);
            assert_eq!(got, Some(("10.0.0.2".to_owned(), 8080)));
        }
        assert_eq!(
            random_endpoint(slices.clone(), "web", "IPv6", "ns", &mut rng),
            Some(("fd00::1".to_owned(), 80))
        );
        assert_eq!(random_endpoint(slices, "none", "IPv4", "ns", &mut rng), None);
    }
}
