//! The identity of a requester and the names that mean something to the server.
//! Source: `k8s.io/apiserver/pkg/authentication/user`.

use std::collections::BTreeMap;

use apimachinery::{Map, Value, json};

/// Group of users that may do anything.
pub const SYSTEM_MASTERS: &str = "system:masters";
/// Group every authenticated user gets.
pub const ALL_AUTHENTICATED: &str = "system:authenticated";
/// Group of anonymous requests.
pub const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";
/// User of requests without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// Group of kubelets; their users are `system:node:NAME`.
pub const NODES_GROUP: &str = "system:nodes";
/// Prefix of kubelets' user names.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// The server itself, on its loopback client.
pub const APISERVER_USER: &str = "system:apiserver";
/// Prefix of service accounts' user names: `system:serviceaccount:NAMESPACE:NAME`.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// Group of all service accounts; with `:NAMESPACE` appended, of those of a namespace.
pub const SERVICE_ACCOUNTS_GROUP: &str = "system:serviceaccounts";
/// Extra key: identifier of the credential used, `JTI=...` or `X509SHA256=...`.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// Extra key: pod a service account token is bound to.
pub const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// Extra key: uid of the pod a service account token is bound to.
pub const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Extra key: node of the pod (or the node itself) a service account token is bound to.
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// Extra key: uid of that node.
pub const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// An identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name.
    pub name: String,
    /// Unique id, empty where the authenticator has none.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further facts by key, as authenticators, impersonation and bound tokens give.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user with groups and nothing else.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// The identity of requests without credentials.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &[ALL_UNAUTHENTICATED])
    }

    /// The server itself: all rights, as upstream's loopback client has.
    pub fn apiserver() -> Self {
        Self::new(APISERVER_USER, &[SYSTEM_MASTERS, ALL_AUTHENTICATED])
    }

    /// The identity of a service account, without the facts of the token it used.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec![SERVICE_ACCOUNTS_GROUP.into(), format!("{SERVICE_ACCOUNTS_GROUP}:{namespace}")],
            extra: BTreeMap::new(),
        }
    }

    /// Namespace and name when this is a service account.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        let (namespace, name) = self.name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
        (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
    }

    /// The node's name when this is a kubelet: user `system:node:NAME` in group `system:nodes`. The name may be empty
    /// for a kubelet whose user name lacks it, which has no rights of a node.
    pub fn as_node(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_USER_PREFIX)?;
        self.in_group(NODES_GROUP).then_some(name)
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The wire form of `authentication.k8s.io` `UserInfo`; `username` and the rest left out when empty.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, text) in [("username", &self.name), ("uid", &self.uid)] {
            if !text.is_empty() {
                out.insert(key.into(), json!(text));
            }
        }
        if !self.groups.is_empty() {
            out.insert("groups".into(), json!(self.groups));
        }
        if !self.extra.is_empty() {
            out.insert("extra".into(), json!(self.extra));
        }
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised() {
        let cases = [
            ("system:serviceaccount:ns:a", Some(("ns", "a"))),
            ("system:serviceaccount:ns", None),
            ("system:serviceaccount::a", None),
            ("system:serviceaccount:ns:a:b", None),
            ("ns:a", None),
        ];
        for (name, expected) in cases {
            assert_eq!(UserInfo::new(name, &[]).as_service_account(), expected, "{name}");
        }
        assert_eq!(UserInfo::new("system:node:n1", &[NODES_GROUP]).as_node(), Some("n1"));
        assert_eq!(UserInfo::new("system:node:n1", &[]).as_node(), None);
        assert_eq!(UserInfo::new("n1", &[NODES_GROUP]).as_node(), None);
    }
}
