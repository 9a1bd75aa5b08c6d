//! Names of chains: upstream's prefixes, and hashes short enough for the kernel's limit of 28 characters.

use aws_lc_rs::digest::{SHA256, digest};

use crate::model::{PortName, Protocol};

/// RFC 4648 base32.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Characters of the hash that go into a name.
const HASH_CHARS: usize = 16;

/// Hash of a text as it stands in chain names: SHA-256, base32, 16 characters.
fn hash(text: &str) -> String {
    let sum = digest(&SHA256, text.as_bytes());
    // 16 characters of 5 bits are exactly the first 10 bytes: two groups of five bytes, eight characters each.
    sum.as_ref()
        .chunks_exact(5)
        .flat_map(|group| {
            let bits = group.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
            (0..8).map(move |i| char::from(ALPHABET[(bits >> (35 - 5 * i) & 31) as usize]))
        })
        .take(HASH_CHARS)
        .collect()
}

fn port_chain(prefix: &str, name: &PortName, protocol: Protocol) -> String {
    format!("{prefix}{}", hash(&format!("{name}{}", protocol.lower())))
}

/// Chain of a service port with endpoints of the whole cluster.
pub fn cluster_chain(name: &PortName, protocol: Protocol) -> String {
    port_chain("KUBE-SVC-", name, protocol)
}

/// Chain of a service port with this node's endpoints only.
pub fn local_chain(name: &PortName, protocol: Protocol) -> String {
    port_chain("KUBE-SVL-", name, protocol)
}

/// Chain for traffic that reaches a service port from outside the cluster.
pub fn external_chain(name: &PortName, protocol: Protocol) -> String {
    port_chain("KUBE-EXT-", name, protocol)
}

/// Chain with the source ranges of a load balancer.
pub fn firewall_chain(name: &PortName, protocol: Protocol) -> String {
    port_chain("KUBE-FW-", name, protocol)
}

/// Chain of one endpoint of a service port.
pub fn endpoint_chain(name: &PortName, protocol: Protocol, endpoint: &str) -> String {
    format!("KUBE-SEP-{}", hash(&format!("{name}{}{endpoint}", protocol.lower())))
}

/// Whether a chain is one of those made for a service port or endpoint.
pub fn is_ours(chain: &str) -> bool {
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"]
        .iter()
        .any(|prefix| chain.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubernetes_service_has_its_well_known_chain() {
        // Seen on every cluster: the API server's Service.
        let name = PortName { namespace: "default".into(), name: "kubernetes".into(), port: "https".into() };
        assert_eq!(cluster_chain(&name, Protocol::Tcp), "KUBE-SVC-NPX46M4PTMTKRN6Y");
        let dns = PortName { namespace: "kube-system".into(), name: "kube-dns".into(), port: "dns".into() };
        assert_eq!(cluster_chain(&dns, Protocol::Udp), "KUBE-SVC-TCOU7JCQXEZGVUNU");
    }
}
