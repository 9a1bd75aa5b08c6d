//! Requests that end elsewhere: kubelets, pods, services.
//!
//! Every one is a [`Location`] found from the API's objects and a [`Connector`] that sends the request there; an HTTP
//! upgrade (exec, attach, port-forward, WebSocket through a proxy) is handed through byte for byte, but for the two
//! WebSocket protocols of newer clients that [`translate`] and [`tunnel`] carry over to SPDY.
//! Source: `k8s.io/apimachinery/pkg/util/proxy`, `k8s.io/kubernetes/pkg/registry/core/{pod,service,node}/rest`.

mod endpoints;
mod forward;
mod kubelet;
mod metrics;
mod nodes;
mod pods;
mod rewrite;
mod services;
mod spdy;
mod translate;
mod transport;
mod tunnel;

use std::net::IpAddr;

pub use kubelet::KubeletConfig;
pub(crate) use metrics::StreamMetrics;
pub(crate) use nodes::NodeProxy;
pub(crate) use pods::{PodLog, PodProxy, PodStream, Stream};
pub(crate) use services::ServiceProxy;
pub use transport::{Connector, TransportError};

/// Which TLS configuration a location is reached with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// A kubelet: our client certificate, its certificate checked when a CA is configured.
    Kubelet,
    /// A kubelet whose certificate is not to be checked (`insecureSkipTLSVerifyBackend`).
    KubeletUnchecked,
    /// Anything else: no certificate of ours, theirs unchecked, as clients choose what they proxy to.
    Anything,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    /// TLS or not.
    pub(crate) secure: bool,
    /// Host name or address.
    pub(crate) host: String,
    /// Port.
    pub(crate) port: u16,
    /// Path, may be empty for proxies.
    pub(crate) path: String,
    /// Query without `?`.
    pub(crate) query: String,
    /// How it is trusted.
    pub(crate) trust: Trust,
}

impl Location {
    /// `host:port`, IPv6 in brackets.
    pub(crate) fn authority(&self) -> String {
        join_host_port(&self.host, self.port)
    }

    /// The full URL, for messages.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        let query = if self.query.is_empty() { String::new() } else { format!("?{}", self.query) };
        format!("{scheme}://{}{}{query}", self.authority(), self.path)
    }
}

fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The parts of `[scheme:]name[:port]`, `None` when it is not of that form.
pub(crate) fn split_scheme_name_port(id: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some((scheme, name, port))
}

/// Whether an address is one a pod or node may have: nothing local to this machine.
pub(crate) fn is_global_unicast(address: &str) -> bool {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_link_local()
                || ip.is_broadcast())
        }
        Ok(IpAddr::V6(ip)) => {
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local())
        }
        Err(_) => false,
    }
}

/// What follows the first `count` segments of a path as sent: empty, or a path with its slash.
pub(crate) fn after_segments(path: &str, count: usize) -> &str {
    let mut rest = path;
    for _ in 0..count {
        rest = rest.trim_start_matches('/');
        rest = rest.find('/').map_or("", |end| &rest[end..]);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_paths() {
        for (id, expected) in [
            ("a", Some(("", "a", ""))),
            ("a:80", Some(("", "a", "80"))),
            ("https:a:web", Some(("https", "a", "web"))),
            ("https:a:", Some(("https", "a", ""))),
            ("ftp:a:1", None),
            (":80", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(split_scheme_name_port(id), expected, "{id}");
        }
        let base = "/api/v1/namespaces/n/pods/p/proxy";
        for (rest, expected) in [("", ""), ("/", "/"), ("/a%20b/c", "/a%20b/c"), ("/a/", "/a/")] {
            assert_eq!(after_segments(&format!("{base}{rest}"), 7), expected);
        }
        for (address, ok) in [
            ("10.0.0.1", true),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("::1", false),
            ("fd00::1", true),
            ("x", false),
        ] {
            assert_eq!(is_global_unicast(address), ok, "{address}");
        }
    }
}
