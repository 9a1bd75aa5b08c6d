//! One RBAC rule: what it allows, and whether rules cover each other.
//! Source: `k8s.io/kubernetes/pkg/apis/rbac/v1/evaluation_helpers.go`, `k8s.io/component-helpers/auth/rbac/validation`.

use serde::Deserialize;

use crate::authz::Attributes;

/// `rbac.authorization.k8s.io` `PolicyRule`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    /// API groups, `*` for all.
    #[serde(deserialize_with = "nullable")]
    pub api_groups: Vec<String>,
    /// Resources: `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(deserialize_with = "nullable")]
    pub resources: Vec<String>,
    /// Paths; a trailing `*` matches every longer path.
    #[serde(deserialize_with = "nullable", rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
    /// Names it is limited to, empty for all.
    #[serde(deserialize_with = "nullable")]
    pub resource_names: Vec<String>,
    /// Verbs, `*` for all.
    #[serde(deserialize_with = "nullable")]
    pub verbs: Vec<String>,
}

fn nullable<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == text)
}

fn has_or_all(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == "*" || item == text)
}

fn covers_list(owner: &[String], wanted: &[String]) -> bool {
    has(owner, "*") || wanted.iter().all(|item| has(owner, item))
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    match rule.split_once('/') {
        Some((left, right)) => right == subresource && (left == "*" || left == resource),
        None => false,
    }
}

fn url_matches(rule: &str, url: &str) -> bool {
    rule == "*" || rule == url || (rule.ends_with('*') && url.starts_with(rule.trim_end_matches('*')))
}

impl PolicyRule {
    /// Whether the rule allows this.
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !has_or_all(&self.verbs, attributes.verb) {
            return false;
        }
        if !attributes.resource_request {
            return self.non_resource_urls.iter().any(|rule| url_matches(rule, attributes.path));
        }
        has_or_all(&self.api_groups, attributes.api_group)
            && self.resources.iter().any(|r| resource_matches(r, attributes.resource, attributes.subresource))
            && (self.resource_names.is_empty() || has(&self.resource_names, attributes.name))
    }

    /// Whether everything `wanted` allows is allowed by this rule alone.
    fn covers(&self, wanted: &Self) -> bool {
        let resources = has(&self.resources, "*")
            || wanted.resources.iter().all(|r| {
                has(&self.resources, r)
                    || r.split_once('/').is_some_and(|(_, sub)| has(&self.resources, &format!("*/{sub}")))
            });
        let names = self.resource_names.is_empty()
            || (!wanted.resource_names.is_empty()
                && wanted.resource_names.iter().all(|n| has(&self.resource_names, n)));
        covers_list(&self.verbs, &wanted.verbs)
            && covers_list(&self.api_groups, &wanted.api_groups)
            && resources
            && names
            && wanted
                .non_resource_urls
                .iter()
                .all(|u| self.non_resource_urls.iter().any(|rule| url_matches(rule, u)))
    }

    /// The rule as rules of one verb, group, resource and name (or one verb and path) each.
    fn atoms(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let mut atoms = Vec::new();
        let names: Vec<Vec<String>> = if self.resource_names.is_empty() {
            vec![Vec::new()]
        } else {
            self.resource_names.iter().map(one).collect()
        };
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    atoms.extend(names.iter().map(|resource_names| Self {
                        api_groups: one(group),
                        resources: one(resource),
                        verbs: one(verb),
                        resource_names: resource_names.clone(),
                        ..Self::default()
                    }));
                }
            }
        }
        for url in &self.non_resource_urls {
            let rule = |verb| Self { non_resource_urls: one(url), verbs: one(verb), ..Self::default() };
            atoms.extend(self.verbs.iter().map(rule));
        }
        atoms
    }

    /// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`, as upstream prints rules in messages.
    pub fn compact(&self) -> String {
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", go_list(list)))
        .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// A list as Go's `%q` prints it: `["a" "b"]`.
pub(super) fn go_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// What of `wanted` the `owned` rules do not allow, one rule a resource, in a stable order.
pub fn missing(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut missing: Vec<PolicyRule> = Vec::new();
    let uncovered =
        wanted.iter().flat_map(PolicyRule::atoms).filter(|atom| !owned.iter().any(|o| o.covers(atom)));
    for atom in uncovered {
        // verbs on the same thing are told together
        let same = |rule: &&mut PolicyRule| {
            !rule.resources.is_empty()
                && rule.resources == atom.resources
                && rule.api_groups == atom.api_groups
                && rule.resource_names == atom.resource_names
        };
        match missing.iter_mut().find(same) {
            Some(rule) if has(&rule.verbs, &atom.verbs[0]) => {}
            Some(rule) => rule.verbs.extend(atom.verbs),
            None => missing.push(atom),
        }
    }
    missing.sort_by_cached_key(PolicyRule::compact);
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;
    use proptest::prelude::*;

    pub(crate) fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let list = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect();
        PolicyRule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            resource_names: list(names),
            ..PolicyRule::default()
        }
    }

    #[test]
    fn rules_allow() {
        let user = UserInfo::default();
        let pods = rule(&["get", "list"], &[""], &["pods", "pods/log", "*/scale"], &[]);
        let named = rule(&["update"], &["apps"], &["deployments"], &["web"]);
        let all = rule(&["*"], &["*"], &["*"], &[]);
        // rule, verb, group, resource, name, allowed
        let cases = [
            (&pods, "get", "", "pods", "a", true),
            (&pods, "list", "", "pods", "", true),
            (&pods, "create", "", "pods", "", false),
            (&pods, "get", "apps", "pods", "", false),
            (&pods, "get", "", "pods/log", "a", true),
            (&pods, "get", "", "pods/exec", "a", false),
            (&pods, "get", "", "replicationcontrollers/scale", "a", true),
            (&pods, "get", "", "scale", "a", false),
            (&named, "update", "apps", "deployments", "web", true),
            (&named, "update", "apps", "deployments", "api", false),
            (&named, "update", "apps", "deployments", "", false),
            (&all, "escalate", "x", "y/z", "n", true),
        ];
        for (rule, verb, group, resource, name, allowed) in cases {
            let attributes = Attributes::resource(&user, verb, group, resource, "ns", name);
            assert_eq!(rule.allows(&attributes), allowed, "{verb} {group} {resource} {name}");
        }
        // a rule's pods/* is no pattern: only */SUBRESOURCE is
        let odd = rule(&["get"], &[""], &["pods/*"], &[]);
        assert!(!odd.allows(&Attributes::resource(&user, "get", "", "pods/log", "ns", "a")));
    }

    #[test]
    fn urls_match() {
        let user = UserInfo::default();
        for (pattern, path, allowed) in [
            ("/api", "/api", true),
            ("/api", "/api/v1", false),
            ("/api/*", "/api/v1", true),
            ("/api/*", "/api", false),
            ("*", "/anything", true),
            ("/healthz*", "/healthz/etcd", true),
        ] {
            let rule = PolicyRule {
                verbs: vec!["get".into()],
                non_resource_urls: vec![pattern.into()],
                ..PolicyRule::default()
            };
            assert_eq!(
                rule.allows(&Attributes::non_resource(&user, "get", path)),
                allowed,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn covering() {
        let owned = [
            rule(&["get", "list"], &[""], &["pods", "*/scale"], &[]),
            rule(&["update"], &[""], &["pods"], &["a"]),
        ];
        let cases = [
            (rule(&["get"], &[""], &["pods"], &[]), ""),
            (rule(&["get"], &[""], &["pods"], &["x"]), ""),
            (rule(&["get"], &[""], &["rc/scale"], &[]), ""),
            (rule(&["update"], &[""], &["pods"], &["a"]), ""),
            (
                rule(&["update"], &[""], &["pods"], &[]),
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["update"]}"#,
            ),
            (
                rule(&["get", "delete", "patch"], &["", "apps"], &["pods"], &[]),
                concat!(
                    r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "patch"]}"#,
                    "\n",
                    r#"{APIGroups:["apps"], Resources:["pods"], Verbs:["get" "delete" "patch"]}"#
                ),
            ),
            (rule(&["*"], &[""], &["pods"], &[]), r#"{APIGroups:[""], Resources:["pods"], Verbs:["*"]}"#),
        ];
        for (wanted, expected) in cases {
            let texts: Vec<String> =
                missing(&owned, std::slice::from_ref(&wanted)).iter().map(PolicyRule::compact).collect();
            assert_eq!(texts.join("\n"), expected, "{}", wanted.compact());
        }
    }

    fn any_list(words: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec(proptest::sample::select(words).prop_map(str::to_owned), 0..3)
    }

    /// Rules are about resources or about paths: validation refuses both in one.
    fn any_rule() -> impl Strategy<Value = PolicyRule> {
        let verbs = any_list(&["*", "get", "list"]);
        let groups = any_list(&["*", "", "apps"]);
        let resources = any_list(&["*", "pods", "pods/log", "*/scale", "rs/scale"]);
        let names = any_list(&["a", "b"]);
        let urls = any_list(&["*", "/api", "/api/*", "/x"]);
        (verbs, groups, resources, names, urls, any::<bool>()).prop_map(
            |(verbs, api_groups, resources, resource_names, non_resource_urls, paths)| {
                if paths {
                    PolicyRule { non_resource_urls, verbs, ..PolicyRule::default() }
                } else {
                    PolicyRule { api_groups, resources, resource_names, verbs, ..PolicyRule::default() }
                }
            },
        )
    }

    proptest! {
        /// Covering is what stands between a user and rights they do not have: what is covered must be allowed.
        #[test]
        fn what_is_covered_is_allowed(owned in proptest::collection::vec(any_rule(), 0..3), wanted in any_rule()) {
            prop_assert!(missing(std::slice::from_ref(&wanted), std::slice::from_ref(&wanted)).is_empty());
            if !missing(&owned, std::slice::from_ref(&wanted)).is_empty() {
                return Ok(());
            }
            let user = UserInfo::default();
            for verb in ["get", "list", "delete"] {
                for group in ["", "apps", "other"] {
                    for resource in ["pods", "pods/log", "rs/scale", "pods/scale", "other"] {
                        for name in ["", "a", "b", "c"] {
                            let attributes = Attributes::resource(&user, verb, group, resource, "ns", name);
                            let held = owned.iter().any(|rule| rule.allows(&attributes));
                            prop_assert!(held || !wanted.allows(&attributes), "{verb} {group} {resource} {name}");
                        }
                    }
                }
                for path in ["/api", "/api/v1", "/x", "/y"] {
                    let attributes = Attributes::non_resource(&user, verb, path);
                    prop_assert!(owned.iter().any(|rule| rule.allows(&attributes)) || !wanted.allows(&attributes));
                }
            }
        }
    }
}
