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

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// Regular expression of a DNS label, as messages show it.
const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

/// The end of a message: examples and the regular expression, as upstream writes them.
fn explain(problem: &str, examples: &[&str], regex: &str) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    if examples.is_empty() {
        return format!("{problem} (regex used for validation is '{regex}')");
    }
    format!("{problem} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn is_subdomain(name: &str) -> bool {
    name.split('.').all(|label| is_label(label.as_bytes()))
}

/// Problems of a DNS subdomain (most object names); with `prefix`, of a `generateName`.
pub fn dns1123_subdomain(name: &str, prefix: bool) -> Vec<String> {
    let name = without_trailing_dash(name, prefix);
    let mut problems = Vec::new();
    if name.len() > DNS1123_SUBDOMAIN_MAX {
        problems.push(too_long(DNS1123_SUBDOMAIN_MAX));
    }
    if !is_subdomain(&name) {
        problems.push(subdomain_problem());
    }
    problems
}

fn subdomain_problem() -> String {
    explain(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
         and end with an alphanumeric character",
        &["example.com"],
        &format!("{LABEL_FORMAT}(\\.{LABEL_FORMAT})*"),
    )
}

/// Problems of a DNS label (namespaces, containers); with `prefix`, of a `generateName`.
pub fn dns1123_label(name: &str, prefix: bool) -> Vec<String> {
    let name = without_trailing_dash(name, prefix);
    let mut problems = Vec::new();
    if name.len() > DNS1123_LABEL_MAX {
        problems.push(too_long(DNS1123_LABEL_MAX));
    }
    if is_label(name.as_bytes()) {
        return problems;
    }
    if is_subdomain(&name) {
        problems.push("must not contain dots".into());
    } else {
        problems.push(explain(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character",
            &["my-name", "123-abc"],
            LABEL_FORMAT,
        ));
    }
    problems
}

/// Problems of a DNS label that starts with a letter (services); with `prefix`, of a `generateName`.
pub fn dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    let name = without_trailing_dash(name, prefix);
    let mut problems = Vec::new();
    if name.len() > DNS1123_LABEL_MAX {
        problems.push(too_long(DNS1123_LABEL_MAX));
    }
    if !is_label(name.as_bytes()) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        problems.push(explain(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            &["my-name", "abc-123"],
            "[a-z]([-a-z0-9]*[a-z0-9])?",
        ));
    }
    problems
}

/// Problems of a DNS subdomain whose first label is a star (ingress hosts).
pub fn wildcard_dns1123_subdomain(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > DNS1123_SUBDOMAIN_MAX {
        problems.push(too_long(DNS1123_SUBDOMAIN_MAX));
    }
    if !name.strip_prefix("*.").is_some_and(is_subdomain) {
        problems.push(explain(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &["*.example.com"],
            &format!("\\*\\.{LABEL_FORMAT}(\\.{LABEL_FORMAT})*"),
        ));
    }
    problems
}

/// Problems of a name that becomes part of a path and is otherwise free (RBAC); with `prefix`, of a `generateName`.
pub fn path_segment_name(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && matches!(name, "." | "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|c| name.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// Letters, digits and `-_.`, with a letter or digit at both ends.
fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Longest name part of a label key and longest label value.
pub const LABEL_MAX: usize = 63;
/// Regular expression of the name part of a label key, as messages show it.
const LABEL_KEY_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// Problems of a label key, which is what upstream calls a qualified name: an optional DNS subdomain and a slash, then a
/// name. Also the form of annotation keys (in lower case), finalizers and resource names.
pub fn label_key(key: &str) -> Vec<String> {
    let name_problem = || {
        explain(
            "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
             character",
            &["MyName", "my.name", "123-abc"],
            LABEL_KEY_FORMAT,
        )
    };
    let mut problems = Vec::new();
    let name = match key.split_once('/') {
        None => key,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                name_problem()
            )];
        }
        Some(("", name)) => {
            problems.push("prefix part must be non-empty".into());
            name
        }
        Some((prefix, name)) => {
            if prefix.len() > DNS1123_SUBDOMAIN_MAX {
                problems.push(format!("prefix part must be no more than {DNS1123_SUBDOMAIN_MAX} bytes"));
            }
            if !is_subdomain(prefix) {
                problems.push(format!("prefix part {}", subdomain_problem()));
            }
            name
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".into());
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part must be no more than {LABEL_MAX} bytes"));
    }
    if !is_label_text(name) {
        problems.push(format!("name part {}", name_problem()));
    }
    problems
}

/// Problems of a label value.
pub fn label_value(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > LABEL_MAX {
        problems.push(format!("must be no more than {LABEL_MAX} bytes"));
    }
    if !value.is_empty() && !is_label_text(value) {
        problems.push(explain(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            &["MyValue", "my_value", "12345"],
            &format!("({LABEL_KEY_FORMAT})?"),
        ));
    }
    problems
}

fn directory_problems(name: &str) -> Option<String> {
    match name {
        "." | ".." => Some(format!("must not be '{name}'")),
        _ => name.starts_with("..").then(|| "must not start with '..'".into()),
    }
}

/// Problems of a key of a ConfigMap or Secret.
pub fn config_map_key(key: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if key.len() > DNS1123_SUBDOMAIN_MAX {
        problems.push(too_long(DNS1123_SUBDOMAIN_MAX));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if key.is_empty() || !key.bytes().all(allowed) {
        problems.push(explain(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            &["key.name", "KEY_NAME", "key-name"],
            "[-._a-zA-Z0-9]+",
        ));
    }
    problems.extend(directory_problems(key));
    problems
}

/// Problems of the name of an environment variable.
pub fn env_var_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    if name.chars().all(|c| c.is_ascii() && !c.is_ascii_control() && c != '=') {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .into(),
    ]
}

/// Problems of the name of a port (an IANA service name).
pub fn port_name(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > 15 {
        problems.push(too_long(15));
    }
    if name.is_empty() || !name.bytes().all(|b| is_lower_alnum(b) || b == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".into());
    }
    if name.contains("--") {
        problems.push("must not contain consecutive hyphens".into());
    }
    if name.starts_with('-') || name.ends_with('-') {
        problems.push("must not begin or end with a hyphen".into());
    }
    problems
}

/// Problems of a number that must be in a range.
pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&value) {
        return Vec::new();
    }
    vec![format!("must be between {low} and {high}, inclusive")]
}

/// Problems of a port number.
pub fn port_number(port: i64) -> Vec<String> {
    in_range(port, 1, 65535)
}

/// Problems of a percentage such as `25%`.
pub fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![explain(
        "a valid percent string must be a numeric string followed by an ending '%'",
        &["1%", "93%"],
        "[0-9]+%",
    )]
}

/// Problems of the name of an HTTP header.
pub fn http_header_name(name: &str) -> Vec<String> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![explain(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        &["X-Header-Name"],
        "[-A-Za-z0-9]+",
    )]
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
        assert_eq!(dns1123_label(&"a".repeat(64), false), ["must be no more than 63 characters"]);
        assert_eq!(dns1123_label("a.b", false), ["must not contain dots"]);
        assert_eq!(
            dns1123_label("A", false),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
              end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert!(dns1035_label("a-1", false).is_empty() && !dns1035_label("1a", false).is_empty());
        assert_eq!(path_segment_name("a/b%", false), ["may not contain '/'", "may not contain '%'"]);
        assert_eq!(path_segment_name("..", false), ["may not be '..'"]);
    }
    #[test]
    fn labels() {
        let name = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                    character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
        for key in ["a", "A_b.c-9", "example.com/a", "1"] {
            assert_eq!(label_key(key), [""; 0], "{key}");
        }
        assert_eq!(label_key("-a"), [format!("name part {name}")]);
        assert_eq!(label_key(""), ["name part must be non-empty".to_owned(), format!("name part {name}")]);
        assert_eq!(label_key("/a"), ["prefix part must be non-empty"]);
        assert!(label_key("A/a")[0].starts_with("prefix part a lowercase RFC 1123 subdomain"));
        assert!(label_key("a/b/c")[0].starts_with("a valid label key must consist of"));
        assert!(label_value("").is_empty() && label_value("a.b_C").is_empty());
        assert!(label_value("a b")[0].starts_with("a valid label must be an empty string"));
        assert_eq!(label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    #[test]
    fn other_names() {
        assert!(config_map_key("a.B_c-1").is_empty());
        assert_eq!(config_map_key(".."), ["must not be '..'"]);
        assert_eq!(config_map_key("..a"), ["must not start with '..'"]);
        assert!(port_name("http-8080").is_empty());
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert!(percent("25%").is_empty() && !percent("25").is_empty());
        assert!(env_var_name("a b").is_empty() && !env_var_name("a=b").is_empty());
        assert!(http_header_name("X-A").is_empty() && !http_header_name("X A").is_empty());
    }
}
