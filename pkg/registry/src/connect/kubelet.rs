//! How kubelets are reached. Source: `k8s.io/kubernetes/pkg/kubelet/client` and the `--kubelet-*` flags.

use apimachinery::Value;
use apimachinery::meta::{at, str_at};
use apimachinery::status::{Reason, Status};
use apiserver::ResourceStore;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{Location, Trust};
use crate::names::core;

/// Port of kubelets that do not report one.
const DEFAULT_PORT: u16 = 10250;

/// The server as a client of kubelets.
#[derive(Debug)]
pub struct KubeletConfig {
    /// Certificate and key (`--kubelet-client-certificate`, `--kubelet-client-key`).
    pub client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// CAs of kubelets' certificates (`--kubelet-certificate-authority`); without, they are not checked.
    pub ca: Option<RootCertStore>,
    /// Kinds of addresses, the preferred first (`--kubelet-preferred-address-types`).
    pub address_types: Vec<String>,
}

impl Default for KubeletConfig {
    fn default() -> Self {
        let types = ["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"];
        Self { client: None, ca: None, address_types: types.iter().map(|t| (*t).to_owned()).collect() }
    }
}

/// The address of a node by preference of kinds.
pub(super) fn address<'a>(node: &'a Value, preferred: &[String]) -> Option<&'a str> {
    let addresses = at(node, &["status", "addresses"]).and_then(Value::as_array)?;
    preferred.iter().find_map(|kind| {
        addresses.iter().find(|a| str_at(a, &["type"]) == kind).map(|a| str_at(a, &["address"]))
    })
}

/// The kubelet of a node, without a path.
pub(super) async fn locate(
    store: &ResourceStore,
    preferred: &[String],
    node: &str,
) -> Result<Location, Status> {
    let node = store.get(&core("nodes"), "", node).await?;
    let host = address(&node, preferred).ok_or_else(|| {
        let known =
            at(&node, &["status", "addresses"]).cloned().unwrap_or_else(|| Value::Array(Vec::new().into()));
        Status::new(
            500,
            Reason::InternalError,
            format!("no preferred addresses found; known addresses: {known}"),
        )
    })?;
    let port = at(&node, &["status", "daemonEndpoints", "kubeletEndpoint", "Port"])
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0);
    Ok(Location {
        secure: true,
        host: host.to_owned(),
        port: port.unwrap_or(DEFAULT_PORT),
        path: String::new(),
        query: String::new(),
        trust: Trust::Kubelet,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn addresses_by_preference() {
        let node = json!({"status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "fd00::1"}]}});
        let pick = |types: &[&str]| {
            let types: Vec<String> = types.iter().map(|t| (*t).to_owned()).collect();
            address(&node, &types).map(str::to_owned)
        };
        assert_eq!(pick(&["Hostname", "InternalIP"]).as_deref(), Some("n1"));
        assert_eq!(pick(&["ExternalIP", "InternalIP"]).as_deref(), Some("10.0.0.1"));
        assert_eq!(pick(&["ExternalIP"]), None);
    }
}
