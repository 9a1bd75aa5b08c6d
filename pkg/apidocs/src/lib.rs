//! Descriptions of the built-in types and fields, as `kubectl explain` and the OpenAPI documents show them.
//!
//! The texts are k8s-openapi's, taken from its schemas when this crate is built and kept compressed until somebody asks.
//! A leaf crate, so that nothing else waits for that.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::LazyLock;

use flate2::read::DeflateDecoder;

static COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.deflate"));

/// Texts by definition and field; the field is empty for the type's own.
static TEXTS: LazyLock<HashMap<(&'static str, &'static str), &'static str>> = LazyLock::new(|| {
    let mut text = String::new();
    DeflateDecoder::new(COMPRESSED).read_to_string(&mut text).expect("the build script wrote it");
    // kept for ever, like the table that borrows it
    let text: &'static str = Box::leak(text.into_boxed_str());
    text.lines().filter_map(entry).collect()
});

fn entry(line: &'static str) -> Option<((&'static str, &'static str), &'static str)> {
    let (definition, rest) = line.split_once('\t')?;
    let (field, text) = rest.split_once('\t')?;
    // few texts have several lines
    let text =
        if text.contains("\\n") { Box::leak(text.replace("\\n", "\n").into_boxed_str()) } else { text };
    Some(((definition, field), text))
}

/// The description of a definition such as `io.k8s.api.core.v1.Pod`, or of one of its fields.
pub fn description(definition: &str, field: Option<&str>) -> Option<&'static str> {
    TEXTS.get(&(definition, field.unwrap_or(""))).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::schema::NodeKind;

    #[test]
    fn types_and_fields_are_described() {
        let pod = "io.k8s.api.core.v1.Pod";
        assert!(description(pod, None).is_some_and(|t| t.starts_with("Pod is a collection of containers")));
        assert!(description(pod, Some("spec")).is_some_and(|t| t.contains("desired behavior")));
        assert_eq!(description(pod, Some("nothing")), None);
        assert_eq!(description("nothing", None), None);
    }

    /// Fields of the release that upstream has no text for, lists aside.
    const UNDESCRIBED: usize = 48;

    #[test]
    fn what_upstream_describes_is_described() {
        let catalog = apis::catalog();
        let mut missing = Vec::new();
        for definition in catalog.definitions().iter().filter(|d| d.published) {
            // lists are generic in the source of the texts, and watch events an enumeration
            if definition.name.ends_with("List") || definition.name.ends_with(".WatchEvent") {
                continue;
            }
            if let NodeKind::Object(object) = &catalog.schema().node(definition.node).kind {
                let fields =
                    object.fields.keys().filter(|f| description(&definition.name, Some(f)).is_none());
                missing.extend(fields.map(|f| format!("{}.{f}", definition.name)));
            }
        }
        assert_eq!(missing.len(), UNDESCRIBED, "{missing:?}");
    }
}
