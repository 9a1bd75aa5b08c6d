//! Descriptions of the built-in types and fields, as `kubectl explain` and the OpenAPI documents show them.
//!
//! The texts are k8s-openapi's, taken from its schemas when this crate is built and kept compressed until somebody asks.
//! A leaf crate, so that nothing else waits for that.

use std::borrow::Cow;
use std::io::Read as _;

use flate2::read::DeflateDecoder;

static COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.deflate"));

/// All texts, decompressed. Takes about two megabytes: keep it no longer than a document is made.
#[derive(Debug)]
pub struct Descriptions {
    /// A text a line, `DEFINITION<tab>FIELD<tab>TEXT`, sorted.
    text: String,
    /// Where lines begin.
    lines: Vec<u32>,
}

impl Descriptions {
    /// Decompresses the texts.
    pub fn load() -> Self {
        let mut text = String::new();
        DeflateDecoder::new(COMPRESSED).read_to_string(&mut text).expect("the build script wrote it");
        let mut lines = Vec::new();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            lines.push(at);
            at += line.len() as u32;
        }
        Self { text, lines }
    }

    /// The description of a definition such as `io.k8s.api.core.v1.Pod`, or of one of its fields.
    pub fn get(&self, definition: &str, field: Option<&str>) -> Option<Cow<'_, str>> {
        let wanted = (definition, field.unwrap_or(""));
        let found = self.lines.binary_search_by(|at| {
            let (definition, field, _) = self.entry(*at);
            (definition, field).cmp(&wanted)
        });
        let (_, _, text) = self.entry(self.lines[found.ok()?]);
        // few texts have several lines
        Some(if text.contains("\\n") { text.replace("\\n", "\n").into() } else { text.into() })
    }

    /// The line at an offset, in its parts.
    fn entry(&self, at: u32) -> (&str, &str, &str) {
        let line = self.text[at as usize..].lines().next().unwrap_or_default();
        let mut parts = line.splitn(3, '\t');
        let mut part = || parts.next().unwrap_or_default();
        (part(), part(), part())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::schema::NodeKind;

    #[test]
    fn types_and_fields_are_described() {
        let texts = Descriptions::load();
        let pod = "io.k8s.api.core.v1.Pod";
        assert!(texts.get(pod, None).is_some_and(|t| t.starts_with("Pod is a collection of containers")));
        assert!(texts.get(pod, Some("spec")).is_some_and(|t| t.contains("desired behavior")));
        assert_eq!(texts.get(pod, Some("nothing")), None);
        assert_eq!(texts.get("nothing", None), None);
    }

    #[test]
    fn every_line_is_found() {
        let texts = Descriptions::load();
        assert!(texts.lines.len() > 3000);
        for at in &texts.lines {
            let (definition, field, _) = texts.entry(*at);
            assert!(texts.get(definition, Some(field)).is_some(), "{definition} {field}");
        }
    }

    /// Fields of the release that upstream has no text for, lists aside.
    const UNDESCRIBED: usize = 48;

    #[test]
    fn what_upstream_describes_is_described() {
        let texts = Descriptions::load();
        let catalog = apis::catalog();
        let mut missing = Vec::new();
        for definition in catalog.definitions().iter().filter(|d| d.published) {
            // lists are generic in the source of the texts, and watch events an enumeration
            if definition.name.ends_with("List") || definition.name.ends_with(".WatchEvent") {
                continue;
            }
            if let NodeKind::Object(object) = &catalog.schema().node(definition.node).kind {
                let fields = object.fields.keys().filter(|f| texts.get(&definition.name, Some(f)).is_none());
                missing.extend(fields.map(|f| format!("{}.{f}", definition.name)));
            }
        }
        assert_eq!(missing.len(), UNDESCRIBED, "{missing:?}");
    }
}
