//! The shapes of names and keys. Source: RFC 1035, RFC 1123 and `k8s.io/apimachinery/pkg/util/validation`, whose
//! messages clients print as they are.

/// Longest DNS label.
pub const DNS1123_LABEL_MAX: usize = 63;
/// Longest DNS subdomain.
pub const DNS1123_SUBDOMAIN_MAX: usize = 253;

fn is_lower_alnum(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_label(text: &[u8]) -> bool {
    text.first().copied().is_some_and(is_lower_alnum)
        && text.last().copied().is_some_and(is_lower_alnum)
        && text.iter().all(|c| is_lower_alnum(*c) || *c == b'-')
}

/// A name that generateName will add a suffix to may end in a dash.
fn without_trailing_dash(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(stem) if prefix => format!("{stem}a"),
        _ => name.to_owned(),
    }
}

/// Problems of a DNS subdomain (most object names); with `prefix`, of a `generateName`.
pub fn dns1123_subdomain(name: &str, prefix: bool) -> Vec<String> {
    let name = without_trailing_dash(name, prefix);
    let mut problems = Vec::new();
    if name.len() > DNS1123_SUBDOMAIN_MAX {
        problems.push(format!("must be no more than {DNS1123_SUBDOMAIN_MAX} bytes"));
    }
    if !name.split('.').all(|label| is_label(label.as_bytes())) {
        problems.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .into(),
        );
    }
    problems
}

/// Problems of a DNS label (namespaces, containers); with `prefix`, of a `generateName`.
pub fn dns1123_label(name: &str, prefix: bool) -> Vec<String> {
    let name = without_trailing_dash(name, prefix);
    let mut problems = Vec::new();
    if name.len() > DNS1123_LABEL_MAX {
        problems.push(format!("must be no more than {DNS1123_LABEL_MAX} bytes"));
    }
    if !is_label(name.as_bytes()) {
        problems.push(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
                .into(),
        );
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, ok) in
            [("a", true), ("a.b-c", true), ("", false), ("A", false), ("-a", false), ("a..b", false)]
        {
            assert_eq!(dns1123_subdomain(name, false).is_empty(), ok, "{name}");
        }
        assert!(dns1123_subdomain("web-", true).is_empty());
        assert!(!dns1123_subdomain("web-", false).is_empty());
        assert!(!dns1123_label("a.b", false).is_empty());
        assert!(!dns1123_label(&"a".repeat(64), false).is_empty());
    }
}
