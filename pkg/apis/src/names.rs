//! Shapes of names, keys, ports and addresses: those of `apimachinery::validation`, and addresses.

use std::net::IpAddr;

pub(crate) use apimachinery::validation::{
    config_map_key, dns1035_label, dns1123_label, dns1123_subdomain, env_var_name, http_header_name,
    label_key, label_value, path_segment_name, percent, port_name, port_number, wildcard_dns1123_subdomain,
};

/// The problem of a text that is no IP address.
pub(crate) const NO_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
/// The problem of a text that is no address range.
pub(crate) const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Problems of an IP address.
pub(crate) fn ip(text: &str) -> Vec<String> {
    if text.parse::<IpAddr>().is_ok() { Vec::new() } else { vec![NO_IP.into()] }
}

/// Problems of an address range.
pub(crate) fn cidr(text: &str) -> Vec<String> {
    if text.parse::<ipnet::IpNet>().is_ok() { Vec::new() } else { vec![NO_CIDR.into()] }
}

/// A step back (`..`) in a path.
pub(crate) fn has_back_step(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert!(ip("10.0.0.1").is_empty() && ip("::1").is_empty());
        assert!(!ip("10.0.0").is_empty() && !ip("").is_empty());
        assert!(cidr("10.0.0.0/8").is_empty() && cidr("::/0").is_empty());
        assert!(!cidr("10.0.0.1").is_empty() && !cidr("10.0.0.0/33").is_empty());
        assert!(has_back_step("/a/../b") && !has_back_step("/a..b"));
    }
}
