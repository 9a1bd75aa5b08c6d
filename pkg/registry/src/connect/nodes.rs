//! `nodes/proxy`, and what all three proxies share.
//! Source: `k8s.io/kubernetes/pkg/registry/core/node` (ResourceLocation), `.../rest` (ProxyREST).

use std::sync::Arc;

use admission::Operation;
use apimachinery::json;
use apimachinery::status::Status;
use apiserver::{Call, SubresourceHandler};
use async_trait::async_trait;
use component::http::{Body, empty};
use http::header::{HOST, LOCATION};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use super::forward::{forward, is_upgrade};
use super::rewrite::Rewriter;
use super::{
    Connector, Location, Stream, Trust, after_segments, is_global_unicast, kubelet, split_scheme_name_port,
};

/// Segments of `/api/v1/nodes/NAME/proxy`.
const CLUSTER_SEGMENTS: usize = 5;
/// Segments of `/api/v1/namespaces/NAMESPACE/RESOURCE/NAME/proxy`.
const NAMESPACED_SEGMENTS: usize = 7;

/// Sends a proxied request to a server's address: path and query as the client sent them, links rewritten.
pub(super) async fn proxied(
    connector: &Connector,
    request: Request<Body>,
    mut location: Location,
    namespaced: bool,
) -> Result<Response<Body>, Status> {
    let path = request.uri().path();
    let rest = after_segments(path, if namespaced { NAMESPACED_SEGMENTS } else { CLUSTER_SEGMENTS });
    let query = request.uri().query().unwrap_or("").to_owned();
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    if rest.is_empty() && read && !is_upgrade(request.headers()) {
        // relative links of the page only work below a slash
        let tail = if query.is_empty() { String::new() } else { format!("?{query}") };
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let target = HeaderValue::from_str(&format!("{path}/{tail}")).map_err(Status::internal)?;
        response.headers_mut().insert(LOCATION, target);
        return Ok(response);
    }
    let rewriter = Rewriter {
        prefix: path[..path.len() - rest.len()].trim_end_matches('/').to_owned(),
        host: request.headers().get(HOST).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned(),
    };
    rest.clone_into(&mut location.path);
    location.query = query;
    forward(connector, request, &location, Some(&rewriter)).await
}

/// `nodes/proxy`: the kubelet, or another port of the node.
pub(crate) struct NodeProxy(pub(crate) Stream);

/// Refuses a host that leads back to this machine or its link: whoever may write a Node could else reach the server's
/// own loopback.
async fn check_host(location: &Location) -> Result<(), Status> {
    let addresses = tokio::net::lookup_host((location.host.as_str(), location.port)).await;
    let mut addresses =
        addresses.map_err(|e| Status::bad_request(format!("lookup {}: {e}", location.host)))?;
    if addresses.all(|address| is_global_unicast(&address.ip().to_string())) {
        return Ok(());
    }
    Err(Status::bad_request("address not allowed"))
}

/// Where `[scheme:]node[:port]` leads, from where the node's kubelet is.
fn node_location(kubelet: Location, scheme: &str, port: &str) -> Result<Location, Status> {
    if port.is_empty() || port == kubelet.port.to_string() {
        return Ok(kubelet);
    }
    let port = port.parse().map_err(|_| Status::bad_request(format!("invalid port {port:?}")))?;
    Ok(Location { secure: scheme == "https", port, trust: Trust::Anything, ..kubelet })
}

#[async_trait]
impl SubresourceHandler for NodeProxy {
    async fn handle(&self, call: Call) -> Result<Response<Body>, Status> {
        let info = Arc::clone(&call.context.info);
        let invalid = || Status::bad_request(format!("invalid node request {:?}", info.name));
        let (scheme, name, port) = split_scheme_name_port(&info.name).ok_or_else(invalid)?;
        let mut options = json!({"kind": "NodeProxyOptions", "apiVersion": "v1"});
        call.admit(Operation::Connect, &mut options, false).await?;
        let kubelet = kubelet::locate(&call.store, &self.0.address_types, name).await?;
        let location = node_location(kubelet, scheme, port)?;
        if location.trust == Trust::Anything {
            check_host(&location).await?;
        }
        proxied(&self.0.connector, call.request, location, false).await
    }

    fn long_running(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_located() {
        let kubelet = Location {
            secure: true,
            host: "10.0.0.1".into(),
            port: 10250,
            path: String::new(),
            query: String::new(),
            trust: Trust::Kubelet,
        };
        for (scheme, port, expected) in [
            ("", "", (true, 10250, Trust::Kubelet)),
            ("http", "10250", (true, 10250, Trust::Kubelet)),
            ("", "9100", (false, 9100, Trust::Anything)),
            ("https", "9100", (true, 9100, Trust::Anything)),
        ] {
            let got = node_location(kubelet.clone(), scheme, port).expect("located");
            assert_eq!((got.secure, got.port, got.trust), expected);
        }
    }

    #[tokio::test]
    async fn hosts_are_elsewhere() {
        let location = |host: &str| Location {
            secure: false,
            host: host.into(),
            port: 22,
            path: String::new(),
            query: String::new(),
            trust: Trust::Anything,
        };
        for (host, ok) in
            [("127.0.0.1", false), ("localhost", false), ("169.254.169.254", false), ("10.0.0.1", true)]
        {
            assert_eq!(check_host(&location(host)).await.is_ok(), ok, "{host}");
        }
    }
}
