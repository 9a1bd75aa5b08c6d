//! What is known of a request while it is handled.

use std::sync::Arc;

use apimachinery::meta::{GroupResource, GroupVersionResource};
use apimachinery::strategy::WriteContext;
use auth::UserInfo;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::query::Query;
use crate::requestinfo::RequestInfo;

/// Total length of `Warning` texts in one response; further ones are cut (upstream's 4 KiB).
const MAX_WARNING_BYTES: usize = 4096;
/// Longest single text once the total is reached (upstream's 256).
const MAX_WARNING_TEXT: usize = 256;

/// A request in the hands of a handler. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// `Audit-Id` of the request.
    pub audit_id: Arc<str>,
    /// Who asks, after impersonation.
    pub user: Arc<UserInfo>,
    /// What the path says.
    pub info: Arc<RequestInfo>,
    /// Query parameters.
    pub query: Arc<Query>,
    /// When the request came in.
    pub now: Timestamp,
    /// The `User-Agent` header.
    pub user_agent: Arc<str>,
    /// Warnings to send along.
    pub warnings: Warnings,
}

impl RequestContext {
    /// A context for work the server does on its own behalf, not for a request from outside.
    pub fn internal(user: Arc<UserInfo>, now: Timestamp) -> Self {
        Self {
            audit_id: Arc::from(""),
            user,
            info: Arc::default(),
            query: Arc::default(),
            now,
            user_agent: Arc::from("kube-apiserver"),
            warnings: Warnings::default(),
        }
    }

    /// What strategies may know of the request.
    pub fn write_context<'a>(&'a self, subresource: &'a str) -> WriteContext<'a> {
        WriteContext {
            now: self.now,
            user: &self.user.name,
            groups: &self.user.groups,
            subresource,
            group: &self.info.group,
        }
    }

    /// Group, version and resource of the path.
    pub fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource::new(&*self.info.group, &*self.info.version, &*self.info.resource)
    }

    /// Group and resource of the path.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&*self.info.group, &*self.info.resource)
    }
}

/// Texts for `Warning` headers, collected while a request is handled; each distinct text once.
#[derive(Debug, Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds a warning, without the words `Warning:`.
    pub fn add(&self, text: impl Into<String>) {
        let text = text.into();
        let mut texts = self.0.lock();
        if text.is_empty() || texts.contains(&text) {
            return;
        }
        let used: usize = texts.iter().map(String::len).sum();
        if used + text.len() <= MAX_WARNING_BYTES {
            texts.push(text);
        } else if used < MAX_WARNING_BYTES {
            let cut: String = text.chars().take(MAX_WARNING_TEXT.min(MAX_WARNING_BYTES - used)).collect();
            texts.push(cut);
        }
    }

    /// Adds several.
    pub fn extend(&self, texts: impl IntoIterator<Item = String>) {
        texts.into_iter().for_each(|t| self.add(t));
    }

    /// The header values (RFC 7234, 5.5): `299 - "TEXT"`.
    pub fn headers(&self) -> Vec<http::HeaderValue> {
        self.0
            .lock()
            .iter()
            .filter_map(|text| {
                let mut quoted = String::with_capacity(text.len() + 10);
                quoted.push_str("299 - \"");
                for c in text.chars() {
                    match c {
                        '"' | '\\' => {
                            quoted.push('\\');
                            quoted.push(c);
                        }
                        c if c.is_control() => quoted.push(' '),
                        c => quoted.push(c),
                    }
                }
                quoted.push('"');
                http::HeaderValue::from_bytes(quoted.as_bytes()).ok()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Warnings;

    #[test]
    fn warnings_are_quoted_and_distinct() {
        let warnings = Warnings::default();
        warnings.add("unknown field \"a\"");
        warnings.add("unknown field \"a\"");
        warnings.add("");
        assert_eq!(warnings.headers(), [r#"299 - "unknown field \"a\"""#]);
    }

    #[test]
    fn warnings_are_bounded() {
        let warnings = Warnings::default();
        for i in 0..1000 {
            warnings.add(format!("{i:>100}"));
        }
        let total: usize = warnings.headers().iter().map(http::HeaderValue::len).sum();
        assert!(total < 2 * super::MAX_WARNING_BYTES);
    }
}
