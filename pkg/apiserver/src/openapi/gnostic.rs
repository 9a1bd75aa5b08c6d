//! Documents as protobuf (`openapi.v2.Document` and `openapi.v3.Document` of gnostic): client-go asks for v2 in no other
//! form.
//!
//! Field numbers are those of `OpenAPIv2.proto` and `OpenAPIv3.proto`. Only what our documents hold is encoded.

mod message;
mod v2;
mod v3;

use apimachinery::Map;
use apimachinery::Value;

use super::definitions::Dialect;
use message::Message;

/// A document being written: paths and definitions apart, as each is a message of its own in the document.
#[derive(Default)]
pub(super) struct Document {
    paths: Message,
    definitions: Message,
}

impl Document {
    /// Adds a path.
    pub(super) fn path(&mut self, dialect: Dialect, path: &str, item: &Value) {
        match dialect {
            Dialect::V2 => self.paths.named(v2::PATH, path, |m| v2::path_item(m, item)),
            Dialect::V3 => self.paths.named(v3::PATH, path, |m| v3::path_item(m, item)),
        }
    }

    /// Adds a definition.
    pub(super) fn definition(&mut self, dialect: Dialect, name: &str, definition: &Value) {
        match dialect {
            Dialect::V2 => self.definitions.named(1, name, |m| v2::schema(m, definition)),
            Dialect::V3 => self.definitions.named(1, name, |m| v3::schema_or_reference(m, definition)),
        }
    }

    /// The whole document; `head` is what it says besides.
    pub(super) fn finish(self, dialect: Dialect, head: &Map) -> Vec<u8> {
        let mut out = Message::default();
        match dialect {
            Dialect::V2 => v2::document(&mut out, head, &self.paths, &self.definitions),
            Dialect::V3 => v3::document(&mut out, head, &self.paths, &self.definitions),
        }
        out.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    fn head(value: Value) -> Map {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn v2_is_protobuf() {
        let bytes = Document::default()
            .finish(Dialect::V2, &head(json!({"swagger": "2.0", "info": {"title": "K", "version": "1"}})));
        let expected: &[u8] = &[
            0x0a, 3, b'2', b'.', b'0', // swagger
            0x12, 6, 0x0a, 1, b'K', 0x12, 1, b'1', // info
            0x42, 0, 0x4a, 0, 0x6a, 0, // paths, definitions, securityDefinitions
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn v3_is_protobuf() {
        let mut document = Document::default();
        document.path(Dialect::V3, "/v", &json!({"get": {"operationId": "g"}}));
        document.definition(Dialect::V3, "D", &json!({"type": "string", "default": ""}));
        let bytes = document
            .finish(Dialect::V3, &head(json!({"openapi": "3", "info": {"title": "K", "version": "1"}})));
        let expected: &[u8] = &[
            0x0a, 1, b'3', // openapi
            0x12, 6, 0x0a, 1, b'K', 0x32, 1, b'1', // info
            0x22, 15, 0x0a, 13, 0x0a, 2, b'/', b'v', // paths, one path, its name
            0x12, 7, 0x22, 5, 0x2a, 1, b'g', 0x42, 0, // the item, get, its id and responses
            0x2a, 27, 0x0a, 23, 0x0a, 21, 0x0a, 1, b'D', // components, schemas, one, its name
            0x12, 16, 0x0a, 14, // the schema
            0xca, 1, 6, b's', b't', b'r', b'i', b'n', b'g', // type
            0x8a, 2, 2, 0x1a, 0, // default
            0x3a, 0, // securitySchemes
        ];
        assert_eq!(bytes, expected);
    }
}
