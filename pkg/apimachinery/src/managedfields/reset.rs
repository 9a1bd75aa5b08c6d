//! Fields that an endpoint resets, so that nobody owns them through it.

use super::fieldpath::{PathElement, Set};
use super::typed::Diff;

/// Fields an endpoint resets on write, and which its writers therefore never own
/// (`rest.ResetFieldsStrategy`, `rest.ResetFieldsFilterStrategy`).
#[derive(Debug, Clone, Default)]
pub enum ResetFields {
    /// Nothing is reset.
    #[default]
    None,
    /// These fields and all below them: `status` for a resource, `spec` and parts of metadata for its `/status`.
    Except(Set),
    /// Everything but these fields and what is below them, where `*` stands for any one element: pods' `/resize` and
    /// `/ephemeralcontainers`.
    Only(Vec<Vec<String>>),
}

impl ResetFields {
    /// [`ResetFields::Except`] from dotted paths of field names: `["status"]`, `["spec", "metadata.finalizers"]`.
    pub fn except(paths: &[&str]) -> Self {
        let mut set = Set::new();
        for path in paths {
            let path: Vec<PathElement> = path.split('.').map(PathElement::field).collect();
            set.insert(&path);
        }
        Self::Except(set)
    }

    /// [`ResetFields::Only`] from dotted paths: `["spec.containers.*.resources"]`.
    pub fn only(paths: &[&str]) -> Self {
        Self::Only(paths.iter().map(|path| path.split('.').map(str::to_owned).collect()).collect())
    }

    /// What of a set can be owned.
    pub(super) fn keep(&self, set: Set) -> Set {
        match self {
            Self::None => set,
            Self::Except(reset) => set.recursive_difference(reset),
            Self::Only(patterns) => {
                let patterns: Vec<&[String]> = patterns.iter().map(Vec::as_slice).collect();
                matching(set, &patterns)
            }
        }
    }

    /// What of a difference is one of fields that can be owned.
    pub(super) fn keep_of(&self, diff: Diff) -> Diff {
        Diff {
            removed: self.keep(diff.removed),
            modified: self.keep(diff.modified),
            added: self.keep(diff.added),
        }
    }
}

/// Members on the way to, at and below what the patterns match.
fn matching(mut set: Set, patterns: &[&[String]]) -> Set {
    set.modify(|element, member, children| {
        let rest: Vec<&[String]> = patterns
            .iter()
            .filter_map(|pattern| pattern.split_first())
            .filter(|(first, _)| match element {
                PathElement::Field(name) => **first == **name || *first == "*",
                _ => *first == "*",
            })
            .map(|(_, rest)| rest)
            .collect();
        if rest.is_empty() {
            *member = false;
            *children = Set::new();
        } else if !rest.iter().any(|rest| rest.is_empty()) {
            *children = matching(std::mem::take(children), &rest);
        }
    });
    set
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn keeps_what_is_not_reset() {
        let all = json!({
            "f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {}},
            "f:spec": {".": {}, "f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:resources": {"f:limits": {}}}}},
            "f:status": {"f:phase": {}}
        });
        let cases = [
            (ResetFields::None, all.clone()),
            (
                ResetFields::except(&["status", "metadata.finalizers", "spec.containers"]),
                json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {}}),
            ),
            (
                ResetFields::only(&["spec.containers.*.resources", "metadata.finalizers"]),
                json!({
                    "f:metadata": {"f:finalizers": {}},
                    "f:spec": {".": {}, "f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:resources": {"f:limits": {}}}}}
                }),
            ),
        ];
        for (reset, kept) in cases {
            let set = Set::from_fields_v1(&all).unwrap();
            assert_eq!(reset.keep(set).to_fields_v1(), kept, "{reset:?}");
        }
    }
}
