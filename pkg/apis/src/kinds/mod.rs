//! What is special about each kind: strategy, table columns, selectable fields; one module a group.

mod selectable;

use std::sync::Arc;

use apimachinery::descriptor::{Column, SelectableField};
use apimachinery::strategy::{DefaultStrategy, Strategy};

/// What a kind adds to the facts in `api/`.
pub(crate) struct Special {
    /// Its rules.
    pub(crate) strategy: Arc<dyn Strategy>,
    /// Its columns.
    pub(crate) columns: Vec<Column>,
    /// What a field selector may name.
    pub(crate) selectable_fields: Vec<SelectableField>,
}

/// What is special about a resource.
pub(crate) fn special(group: &str, plural: &str) -> Special {
    Special {
        strategy: Arc::new(DefaultStrategy),
        columns: columns(&[("Name", "string"), ("Age", "string")]),
        selectable_fields: selectable::fields(group, plural),
    }
}

/// Columns by heading and type; a heading that starts with `+` is shown with `-o wide` only.
fn columns(spec: &[(&str, &str)]) -> Vec<Column> {
    spec.iter()
        .map(|(name, kind)| {
            let (name, priority) = name.strip_prefix('+').map_or((*name, 0), |name| (name, 1));
            Column {
                name: name.into(),
                kind: (*kind).into(),
                format: if name == "Name" { "name".into() } else { String::new() },
                description: String::new(),
                priority,
            }
        })
        .collect()
}
