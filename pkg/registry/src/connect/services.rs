//! `services/proxy`: at a ready endpoint of the service.
//! Source: `k8s.io/kubernetes/pkg/registry/core/service/storage` (ResourceLocation).

use std::sync::Arc;

use admission::Operation;
use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{at, str_at};
use apimachinery::status::Status;
use apiserver::{Call, SubresourceHandler};
use async_trait::async_trait;
use component::http::Body;
use http::Response;

use super::endpoints::random_endpoint;
use super::nodes::proxied;
use super::{Location, Stream, Trust, split_scheme_name_port};
use crate::names::{core, v1};

/// `services/proxy`.
pub(crate) struct ServiceProxy(pub(crate) Stream);

/// The name of the port that is meant by number or name.
fn port_name(service: &Value, name: &str, asked: &str) -> Result<String, Status> {
    let Ok(number) = asked.parse::<i64>() else { return Ok(asked.to_owned()) };
    at(service, &["spec", "ports"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|port| at(port, &["port"]).and_then(Value::as_i64) == Some(number))
        .map(|port| str_at(port, &["name"]).to_owned())
        .ok_or_else(|| {
            Status::service_unavailable(format!("no service port {number} found for service {name:?}"))
        })
}

#[async_trait]
impl SubresourceHandler for ServiceProxy {
    async fn handle(&self, call: Call) -> Result<Response<Body>, Status> {
        let info = Arc::clone(&call.context.info);
        let invalid = || Status::bad_request(format!("invalid service request {:?}", info.name));
        let (scheme, name, port) = split_scheme_name_port(&info.name).ok_or_else(invalid)?;
        let mut options = json!({"kind": "ServiceProxyOptions", "apiVersion": "v1"});
        call.admit(Operation::Connect, &mut options, false).await?;
        let service = call.store.get(&core("services"), &info.namespace, name).await?;
        let port = port_name(&service, name, port)?;
        let family = at(&service, &["spec", "ipFamilies"])
            .and_then(Value::as_array)
            .and_then(|f| f.first()?.as_str())
            .unwrap_or("IPv4")
            .to_owned();
        let slices =
            call.store.list(&v1("discovery.k8s.io", "endpointslices"), Some(&info.namespace)).await?;
        let own = |s: &Value| str_at(s, &["metadata", "labels", "kubernetes.io/service-name"]) == name;
        let slices: Vec<Value> = slices.into_iter().filter(own).collect();
        let (host, port) = random_endpoint(slices, &port, &family, &info.namespace, &mut rand::rng())
            .ok_or_else(|| {
                Status::service_unavailable(format!("no endpoints available for service {:?}", info.name))
            })?;
        let location = Location {
            secure: scheme == "https",
            host,
            port,
            path: String::new(),
            query: String::new(),
            trust: Trust::Anything,
        };
        proxied(&self.0.connector, call.request, location, true).await
    }

    fn long_running(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_by_number_or_name() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"port": 81}]}});
        for (asked, expected) in [
            ("80", Ok("web")),
            ("81", Ok("")),
            ("web", Ok("web")),
            ("", Ok("")),
            ("82", Err("no service port 82 found for service \"s\"")),
        ] {
            let got = port_name(&service, "s", asked).map_err(|s| s.message);
            assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned), "{asked}");
        }
    }
}
