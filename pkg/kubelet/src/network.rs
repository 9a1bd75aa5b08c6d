//! A pod's names: host name, `/etc/hosts`, `resolv.conf`. Pure.
//!
//! Sources: `pkg/kubelet/network/dns/dns.go`, `pkg/kubelet/kubelet_pods.go`.

use cri::api::DnsConfig;
use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::podutil::PodExt;

/// Longest host name the kernel takes.
const MAX_HOSTNAME: usize = 63;
/// Most search domains, as upstream and current resolvers accept.
const MAX_SEARCH: usize = 32;
/// Most characters of all search domains together.
const MAX_SEARCH_CHARS: usize = 2048;
/// Most name servers; resolvers read no more.
const MAX_SERVERS: usize = 3;

/// What the node tells about names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeNames {
    /// `clusterDNS`.
    pub cluster_dns: Vec<String>,
    /// `clusterDomain`.
    pub cluster_domain: String,
    /// The node's own resolver settings.
    pub resolv: ResolvConf,
}

/// A resolver configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The last `search` line.
    pub searches: Vec<String>,
    /// The last `options` line.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads the file format of resolv.conf(5).
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    // A lone dot stays: it turns off the search list of the resolver.
                    let short =
                        |d: &str| if d == "." { d.to_owned() } else { d.trim_end_matches('.').to_owned() };
                    out.searches = words.map(short).collect();
                }
                Some("options") => out.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        out
    }
}

/// The host name inside a pod and the domain it is in (empty without a subdomain).
pub fn host_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.spec();
    if let Some(name) = spec.hostname_override.as_deref().filter(|n| !n.is_empty()) {
        return (name.to_owned(), String::new());
    }
    let mut name = spec.hostname.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| pod.name().to_owned());
    if name.len() > MAX_HOSTNAME {
        name.truncate(MAX_HOSTNAME);
        name.truncate(name.trim_end_matches(['-', '.']).len());
    }
    let domain = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", pod.ns()),
        None => String::new(),
    };
    (name, domain)
}

/// What the pod's kernel host name is: the short one, or with its domain when asked for.
///
/// # Errors
/// The text of upstream when the full name is longer than the kernel takes.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (name, domain) = host_and_domain(pod, cluster_domain);
    if pod.spec().set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(name);
    }
    let full = format!("{name}.{domain}");
    if full.len() > MAX_HOSTNAME + 1 {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({} characters is the max, {} characters requested)",
            MAX_HOSTNAME + 1,
            full.len()
        ));
    }
    Ok(full)
}

/// The text of `/etc/hosts` in a pod.
pub fn hosts_file(pod: &Pod, pod_ips: &[String], cluster_domain: &str, node_hosts: &str) -> String {
    let aliases = pod.spec().host_aliases.as_deref().unwrap_or_default();
    let mut out = String::new();
    if pod.host_network() {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(node_hosts);
    } else {
        out.push_str(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let (host, domain) = host_and_domain(pod, cluster_domain);
        for ip in pod_ips {
            if domain.is_empty() {
                out.push_str(&format!("{ip}\t{host}\n"));
            } else {
                out.push_str(&format!("{ip}\t{host}.{domain}\t{host}\n"));
            }
        }
    }
    out.push_str(&alias_lines(aliases));
    out
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut out = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        out.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    out
}

/// The resolver configuration of a pod, and a warning when something had to be left out.
pub fn resolver(pod: &Pod, node: &NodeNames) -> (DnsConfig, Option<String>) {
    let host = &node.resolv;
    let policy = pod.spec().dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster_first = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pod.host_network(),
        _ => false,
    };
    let mut config = if policy == "None" {
        DnsConfig::default()
    } else if cluster_first && !node.cluster_dns.is_empty() {
        let mut searches = Vec::new();
        if !node.cluster_domain.is_empty() {
            let domain = &node.cluster_domain;
            searches = vec![format!("{}.svc.{domain}", pod.ns()), format!("svc.{domain}"), domain.clone()];
        }
        for domain in &host.searches {
            if !searches.contains(domain) {
                searches.push(domain.clone());
            }
        }
        DnsConfig { servers: node.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
    } else {
        DnsConfig {
            servers: host.servers.clone(),
            searches: host.searches.clone(),
            options: host.options.clone(),
        }
    };
    if let Some(extra) = &pod.spec().dns_config {
        let add = |list: &mut Vec<String>, more: Option<&Vec<String>>| {
            for item in more.into_iter().flatten() {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        };
        add(&mut config.servers, extra.nameservers.as_ref());
        add(&mut config.searches, extra.searches.as_ref());
        merge_options(&mut config.options, extra.options.as_deref().unwrap_or_default());
    }
    let warning = fit(&mut config);
    (config, warning)
}

fn merge_options(options: &mut Vec<String>, more: &[k8s_openapi::api::core::v1::PodDNSConfigOption]) {
    for option in more {
        let Some(name) = option.name.as_deref() else { continue };
        options.retain(|o| o.split(':').next() != Some(name));
        options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        });
    }
    options.sort();
}

/// Cuts what resolvers would not read.
fn fit(config: &mut DnsConfig) -> Option<String> {
    let mut warning = None;
    if config.servers.len() > MAX_SERVERS {
        config.servers.truncate(MAX_SERVERS);
        warning = Some(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            config.servers.join(" ")
        ));
    }
    let length = |s: &[String]| s.join(" ").len();
    if config.searches.len() > MAX_SEARCH || length(&config.searches) > MAX_SEARCH_CHARS {
        config.searches.truncate(MAX_SEARCH);
        while length(&config.searches) > MAX_SEARCH_CHARS {
            config.searches.pop();
        }
        warning = Some(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            config.searches.join(" ")
        ));
    }
    warning
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}))
            .expect("a pod")
    }

    fn node() -> NodeNames {
        NodeNames {
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            resolv: ResolvConf::parse("# c\nnameserver 1.1.1.1\nsearch a.b. c\noptions timeout:1\n"),
        }
    }

    #[test]
    fn resolver_by_policy() {
        let text = |spec| {
            let (c, _) = resolver(&pod(spec), &node());
            format!("{} | {} | {}", c.servers.join(" "), c.searches.join(" "), c.options.join(" "))
        };
        let cluster = "10.96.0.10 | n.svc.cluster.local svc.cluster.local cluster.local a.b c | ndots:5";
        let host = "1.1.1.1 | a.b c | timeout:1";
        for (spec, expected) in [
            (json!({"containers": []}), cluster),
            (json!({"containers": [], "hostNetwork": true}), host),
            (json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), cluster),
            (json!({"containers": [], "dnsPolicy": "Default"}), host),
            (
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["8.8.8.8"], "searches": ["x"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "8.8.8.8 | x | edns0 ndots:2",
            ),
            (
                json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
                "10.96.0.10 | n.svc.cluster.local svc.cluster.local cluster.local a.b c | ndots:1",
            ),
        ] {
            assert_eq!(text(spec.clone()), expected, "{spec}");
        }
        let many = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"]}});
        let (config, warning) = resolver(&pod(many), &node());
        assert_eq!(config.servers.len(), 3);
        assert!(warning.expect("one is left out").starts_with("Nameserver limits were exceeded"));
    }

    #[test]
    fn host_names() {
        let long = "a".repeat(62) + "-b";
        for (spec, expected) in [
            (json!({"containers": []}), "p"),
            (json!({"containers": [], "hostname": "h"}), "h"),
            (
                json!({"containers": [], "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}),
                "h.s.n.svc.cluster.local",
            ),
            (json!({"containers": [], "hostname": long}), &"a".repeat(62)),
        ] {
            assert_eq!(kernel_hostname(&pod(spec), "cluster.local").as_deref(), Ok(expected));
        }
    }

    #[test]
    fn hosts() {
        let p = pod(json!({"containers": [], "hostname": "h", "subdomain": "s",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["x", "y"]}]}));
        let text = hosts_file(&p, &["10.0.0.1".into()], "cluster.local", "");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{text}");
        assert!(
            text.ends_with(
                "10.0.0.1\th.s.n.svc.cluster.local\th\n\n# Entries added by HostAliases.\n1.2.3.4\tx\ty\n"
            ),
            "{text}"
        );
        let host = pod(json!({"containers": [], "hostNetwork": true}));
        assert_eq!(
            hosts_file(&host, &[], "", "127.0.0.1 localhost\n"),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n"
        );
    }
}
