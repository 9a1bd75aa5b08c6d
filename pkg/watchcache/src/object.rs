//! One object as the cache keeps and serves it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::table::Part;
use bytes::Bytes;
use serde::Deserialize;
use storage::objects::KeyLayout;
use storage::{KeyValue, Revision};

use crate::kept::{self, Budget, Slots};
use crate::scan::{self, Splice, write_decimal};
use crate::texts::{Labels, Texts};
use crate::{extract, pruned};

/// Turns stored bytes into what the cache keeps.
pub trait Codec: Send + Sync + 'static {
    /// Decodes the value of a key.
    fn decode(&self, key: &str, value: &Bytes) -> Result<Decoded, DecodeError>;

    /// What [`Codec::decode`] answers for a value of which the tree is at hand, if it can tell from that.
    fn decoded(&self, _value: &Bytes, _tree: &Value) -> Option<Decoded> {
        None
    }
}

/// A decoded value.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The object as JSON in its stored version. Share the stored bytes when they are JSON already.
    pub json: Bytes,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Values of the selectable fields, in the order the codec was told.
    pub fields: Texts,
    /// Where the resourceVersion goes, when that is known already.
    pub(crate) splice: Option<Splice>,
}

impl Decoded {
    /// An object's JSON, labels and selectable fields.
    pub fn new(json: Bytes, labels: Labels, fields: Texts) -> Self {
        Self { json, labels, fields, splice: None }
    }
}

/// A stored value that is no object.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// How a selectable field is read from the decoded object, which comes without annotations and managed fields, and with
/// no more of a list than the scalars of its first item.
pub type FieldSource = Arc<dyn Fn(&Value) -> String + Send + Sync>;

/// The codec of values that are JSON. Without selectable fields nothing but the labels is decoded.
#[derive(Clone, Default)]
pub struct JsonCodec {
    fields: Vec<FieldSource>,
}

impl JsonCodec {
    /// A codec that computes these selectable fields.
    pub fn new(fields: Vec<FieldSource>) -> Self {
        Self { fields }
    }

    /// Decodes an object that is at hand as JSON text; for codecs of other forms once they have JSON.
    pub fn decode_json(&self, json: &Bytes) -> Result<Decoded, DecodeError> {
        if self.fields.is_empty() {
            let head: Head<'_> = serde_json::from_slice(json).map_err(|e| DecodeError(e.to_string()))?;
            let labels = Labels::new(head.metadata.labels.unwrap_or_default());
            return Ok(Decoded::new(json.clone(), labels, Texts::default()));
        }
        // the quick decoder stops at 128 levels
        let tree = pruned::selectable(json).or_else(|_| parse(json))?;
        Ok(self.decoded(json.clone(), &tree))
    }

    /// What decoding an object's JSON answers, from its tree.
    pub fn decoded(&self, json: Bytes, tree: &Value) -> Decoded {
        let labels = apimachinery::meta::at(tree, &["metadata", "labels"]).and_then(Value::as_object);
        let labels = labels.into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)));
        let fields = self.fields.iter().map(|field| field(tree)).collect();
        Decoded::new(json, Labels::new(labels), fields)
    }
}

/// The tree of a stored object, as deep as bodies may be (serde_json stops at 128 levels).
fn parse(json: &[u8]) -> Result<Value, DecodeError> {
    apimachinery::json::parse(json).map(|parsed| parsed.value).map_err(|e| DecodeError(e.to_string()))
}

impl Codec for JsonCodec {
    fn decode(&self, _key: &str, value: &Bytes) -> Result<Decoded, DecodeError> {
        self.decode_json(value)
    }

    fn decoded(&self, value: &Bytes, tree: &Value) -> Option<Decoded> {
        Some(JsonCodec::decoded(self, value.clone(), tree))
    }
}

/// The part of an object that every resource needs decoded.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    metadata: HeadMeta<'a>,
}

#[derive(Deserialize, Default)]
struct HeadMeta<'a> {
    #[serde(borrow, default)]
    labels: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

/// Names an encoding of an object other than its stored JSON, such as "protobuf of v1"; the numbers are the user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepresentationId(pub u32);

/// An object at a revision. Immutable and shared: by the snapshot, by events, by everything that serves it.
#[derive(Debug)]
pub struct StoredObject {
    key: Arc<str>,
    namespace_at: u32,
    name_at: u32,
    revision: Revision,
    create_revision: Revision,
    body: Arc<Body>,
    encoded: Slots,
    budget: Arc<Budget>,
}

/// What does not change when an object is shown at another revision.
#[derive(Debug)]
struct Body {
    json: Bytes,
    splice: Splice,
    labels: Labels,
    fields: Texts,
}

impl StoredObject {
    /// What the store holds under a key, decoded already or yet to be.
    pub(crate) fn decode(
        codec: &dyn Codec,
        layout: &KeyLayout,
        kv: &KeyValue,
        decoded: Option<Decoded>,
        budget: &Arc<Budget>,
    ) -> Result<Self, DecodeError> {
        let (namespace, _) =
            layout.split(&kv.key).ok_or_else(|| DecodeError("the key is not one of this resource".into()))?;
        let mut decoded = match decoded {
            Some(decoded) => decoded,
            None => codec.decode(&kv.key, &kv.value)?,
        };
        let mut splice = match decoded.splice {
            Some(splice) => splice,
            None => scan::splice(&decoded.json).map_err(|e| DecodeError(e.into()))?,
        };
        if splice.cut > 0 {
            let (head, tail) = (&decoded.json[..splice.at], &decoded.json[splice.at + splice.cut..]);
            decoded.json = [head, tail].concat().into();
            splice.metadata = splice.metadata.map(|(start, end)| (start, end - splice.cut));
            splice.cut = 0;
        }
        let namespace_at = layout.prefix().len();
        let name_at = if layout.namespaced() { namespace_at + namespace.len() + 1 } else { namespace_at };
        let body = Body { json: decoded.json, splice, labels: decoded.labels, fields: decoded.fields };
        Ok(Self {
            key: Arc::clone(&kv.key),
            namespace_at: namespace_at as u32,
            name_at: name_at as u32,
            revision: kv.mod_revision,
            create_revision: kv.create_revision,
            body: Arc::new(body),
            encoded: Slots::default(),
            budget: Arc::clone(budget),
        })
    }

    /// The same object as seen at another revision, as a delete shows it. Shares the bytes.
    pub(crate) fn at_revision(&self, revision: Revision) -> Self {
        Self {
            key: Arc::clone(&self.key),
            namespace_at: self.namespace_at,
            name_at: self.name_at,
            revision,
            create_revision: self.create_revision,
            body: Arc::clone(&self.body),
            encoded: Slots::default(),
            budget: Arc::clone(&self.budget),
        }
    }

    /// Its key in the store.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Its namespace, empty for resources without.
    pub fn namespace(&self) -> &str {
        let end = (self.name_at as usize).saturating_sub(1).max(self.namespace_at as usize);
        &self.key[self.namespace_at as usize..end]
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.key[self.name_at as usize..]
    }

    /// Its revision: `metadata.resourceVersion`.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision of its creation.
    pub fn create_revision(&self) -> Revision {
        self.create_revision
    }

    /// Its labels.
    pub fn labels(&self) -> &Labels {
        &self.body.labels
    }

    /// The value of the selectable field at this place in the codec's order, `""` beyond them.
    pub fn field(&self, index: usize) -> &str {
        self.body.fields.get(index).unwrap_or_default()
    }

    /// The values of the selectable fields, in the codec's order.
    pub(crate) fn fields(&self) -> &Texts {
        &self.body.fields
    }

    /// What the store holds for it; begins an update from the cache (`ObjectStore::attempt_cached`). Right only when
    /// the codec shares the stored bytes.
    pub fn stored(&self) -> KeyValue {
        KeyValue {
            key: Arc::clone(&self.key),
            value: self.body.json.clone(),
            create_revision: self.create_revision,
            mod_revision: self.revision,
        }
    }

    /// The JSON without `metadata.resourceVersion`.
    pub fn json_without_version(&self) -> &Bytes {
        &self.body.json
    }

    /// The object's JSON in the stored version with its resourceVersion: three pieces to be written in order.
    pub fn json_pieces(&self) -> (Bytes, String, Bytes) {
        let Body { json, splice, .. } = &*self.body;
        let version = format!("{}{}{}", splice.before, self.revision, splice.after);
        (json.slice(..splice.at), version, json.slice(splice.at..))
    }

    /// Appends the object's JSON in the stored version with its resourceVersion.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        self.write_from(0, out);
    }

    /// Appends the object's JSON without the members that it begins with when it begins like `head` (`{` and some
    /// members with a comma at the end), as items of lists come without kind and version.
    pub fn write_json_after(&self, head: &[u8], out: &mut Vec<u8>) {
        let Body { json, splice, .. } = &*self.body;
        if json[..splice.at].starts_with(head) && !head.is_empty() {
            out.push(b'{');
            self.write_from(head.len(), out);
        } else {
            self.write_from(0, out);
        }
    }

    fn write_from(&self, start: usize, out: &mut Vec<u8>) {
        let Body { json, splice, .. } = &*self.body;
        out.reserve(self.json_len());
        out.extend_from_slice(&json[start..splice.at]);
        out.extend_from_slice(splice.before.as_bytes());
        write_decimal(self.revision.0, out);
        out.extend_from_slice(splice.after.as_bytes());
        out.extend_from_slice(&json[splice.at..]);
    }

    /// Appends the object's `metadata` with its resourceVersion.
    pub fn write_metadata(&self, out: &mut Vec<u8>) {
        let Body { json, splice, .. } = &*self.body;
        let Some((start, end)) = splice.metadata else {
            out.extend_from_slice(br#"{"resourceVersion":""#);
            write_decimal(self.revision.0, out);
            out.extend_from_slice(br#""}"#);
            return;
        };
        out.extend_from_slice(&json[start..splice.at]);
        out.extend_from_slice(splice.before.as_bytes());
        write_decimal(self.revision.0, out);
        out.extend_from_slice(splice.after.as_bytes());
        out.extend_from_slice(&json[splice.at..end]);
    }

    /// The object's JSON in one piece; a copy.
    pub fn to_json(&self) -> Bytes {
        let mut out = Vec::new();
        self.write_json(&mut out);
        out.into()
    }

    /// About how many bytes [`StoredObject::write_json`] appends (not fewer).
    pub fn json_len(&self) -> usize {
        const DIGITS: usize = 20;
        self.body.json.len() + self.body.splice.before.len() + self.body.splice.after.len() + DIGITS
    }

    /// The decoded tree with its resourceVersion.
    pub fn to_value(&self) -> Result<Value, DecodeError> {
        parse(&self.body.json).map(|tree| self.versioned(tree))
    }

    /// [`StoredObject::to_value`] for who encodes it as protobuf: what managers own comes as text, see
    /// [`apimachinery::json::parse_with_owners_as_text`].
    pub fn to_encode(&self) -> Result<Value, DecodeError> {
        let tree = apimachinery::json::parse_with_owners_as_text(&self.body.json);
        Ok(self.versioned(tree.map_err(|e| DecodeError(e.to_string()))?))
    }

    fn versioned(&self, mut tree: Value) -> Value {
        if let Some(metadata) = apimachinery::meta::metadata_mut(&mut tree) {
            metadata.insert("resourceVersion".into(), Value::from(self.revision.to_string()));
        }
        tree
    }

    /// [`StoredObject::to_value`], kept while it is used and the cache's budget allows: for objects that many writes look
    /// at, such as namespaces.
    pub fn tree(&self) -> Result<Value, DecodeError> {
        /// The number of the whole tree; representations do not go so far.
        const WHOLE: u32 = u32::MAX;
        self.kept(WHOLE, Self::to_value)
    }

    fn kept(
        &self,
        id: u32,
        make: impl FnOnce(&Self) -> Result<Value, DecodeError>,
    ) -> Result<Value, DecodeError> {
        if let Some(tree) = self.encoded.tree(id) {
            return Ok(tree);
        }
        let tree = make(self)?;
        let bytes = kept::size_of(&tree);
        if self.budget.take_for(&self.encoded, bytes) && !self.encoded.put_tree(id, &tree, bytes) {
            self.budget.give(bytes);
        }
        Ok(tree)
    }

    /// A part of the decoded tree, without its resourceVersion, kept as [`StoredObject::representation`]s are.
    pub fn kept_part(&self, id: RepresentationId, wanted: &Part) -> Result<Value, DecodeError> {
        self.kept(id.0, |object| object.part(wanted))
    }

    /// A part of the decoded tree, without its resourceVersion.
    pub fn part(&self, wanted: &Part) -> Result<Value, DecodeError> {
        // the quick decoder stops at 128 levels
        extract::part(&self.body.json, wanted).or_else(|_| parse(&self.body.json))
    }

    /// Another encoding of the object, made on first use and kept while it is used and the cache's budget allows.
    pub fn representation<E>(
        &self,
        id: RepresentationId,
        encode: impl FnOnce(&Self) -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        if let Some(bytes) = self.encoded.get(id.0) {
            return Ok(bytes);
        }
        let bytes = encode(self)?;
        if self.budget.take_for(&self.encoded, bytes.len()) && !self.encoded.put(id.0, &bytes) {
            self.budget.give(bytes.len());
        }
        Ok(bytes)
    }

    /// An encoding of a run of objects, of which this is the first: as [`StoredObject::representation`], and made anew when
    /// the run consists of other objects than before.
    pub fn representation_of_run<E>(
        &self,
        run: &[Arc<Self>],
        id: RepresentationId,
        encode: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        if let Some(bytes) = self.encoded.run(id.0, run) {
            return Ok(bytes);
        }
        let bytes = encode()?;
        let kept = bytes.len() + size_of_val(run);
        self.budget.give(self.encoded.remove(id.0));
        if self.budget.take_for(&self.encoded, kept) && !self.encoded.put_run(id.0, run, &bytes, kept) {
            self.budget.give(kept);
        }
        Ok(bytes)
    }

    /// Forgets encodings not used since the last call.
    pub(crate) fn sweep(&self) {
        self.budget.give(self.encoded.sweep());
    }
}

impl Drop for StoredObject {
    fn drop(&mut self) {
        self.budget.give(self.encoded.clear());
    }
}

/// What is stored of an object: its JSON without resourceVersion, which goes to a known place.
#[derive(Debug, Clone)]
pub struct StoredText {
    json: Bytes,
    pub(crate) splice: Splice,
}

impl StoredText {
    /// Finds the place in any object's JSON.
    ///
    /// # Errors
    /// It is no object.
    pub fn new(json: Bytes) -> Result<Self, DecodeError> {
        let splice = scan::splice(&json).map_err(|e| DecodeError(e.into()))?;
        Ok(Self { json, splice })
    }

    /// Of who has just written the JSON: its metadata, which has members but no resourceVersion, begins and ends at
    /// `metadata`, and the first of its members that come after a resourceVersion begins at `follower`.
    pub fn written(json: Bytes, metadata: (usize, usize), follower: Option<usize>) -> Self {
        let splice = Splice::among(metadata, follower);
        debug_assert_eq!(Ok(splice), scan::splice(&json), "{}", String::from_utf8_lossy(&json));
        Self { json, splice }
    }

    /// The JSON without resourceVersion.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The JSON with a resourceVersion.
    pub fn with_version(&self, revision: Revision) -> Vec<u8> {
        let mut out = Vec::new();
        self.splice.with_version(&self.json, revision.0, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> JsonCodec {
        JsonCodec::new(vec![Arc::new(|o: &Value| o["spec"]["node"].as_str().unwrap_or("").to_owned())])
    }

    #[test]
    fn labels_and_fields_are_found_with_either_decoder() {
        let json = Bytes::from_static(
            br#"{"kind":"T","metadata":{"annotations":{"a":"b"},"labels":{"b":"2","a":"1\u0041"},
            "managedFields":[{"x":{}}],"name":"n"},"spec":{"node":"n1"}}"#,
        );
        for (codec, fields) in [(JsonCodec::default(), vec![]), (node(), vec!["n1"])] {
            let decoded = codec.decode_json(&json).unwrap();
            assert_eq!(decoded.labels.iter().collect::<Vec<_>>(), [("a", "1A"), ("b", "2")]);
            assert_eq!(decoded.labels.get("b"), Some("2"));
            assert_eq!(decoded.labels.get("c"), None);
            assert_eq!(decoded.fields.iter().collect::<Vec<_>>(), fields);
        }
    }

    #[test]
    fn what_is_decoded_is_what_is_needed() {
        let json = br#"{"kind":"T","metadata":{"annotations":{"a":"b"},"labels":{"a":"1"},"managedFields":[{"x":{}}]},
            "spec":{"nodeName":"n","on":true,"list":[{"ip":"1","n":1.5,"deep":{"x":1},"more":[1]},{"ip":"2"}],"none":null,
            "texts":["a","b"]}}"#;
        let expected = apimachinery::json!({"kind": "T", "metadata": {"labels": {"a": "1"}},
            "spec": {"nodeName": "n", "on": true, "none": null, "texts": ["a"],
                     "list": [{"ip": "1", "n": 1.5, "deep": null, "more": null}]}});
        assert_eq!(pruned::selectable(json).unwrap(), expected);
    }

    #[test]
    fn deep_objects_are_decoded_and_broken_ones_refused() {
        let deep = format!(
            r#"{{"metadata":{{}},"spec":{{"node":"n1","x":{}1{}}}}}"#,
            "[".repeat(400),
            "]".repeat(400)
        );
        assert_eq!(node().decode_json(&deep.into()).unwrap().fields.get(0), Some("n1"));
        for broken in ["", "null", "[]", r#"{"metadata":{"labels":[]}}x"#, r#"{"a":1"#] {
            let json = Bytes::from(broken);
            assert!(node().decode_json(&json).is_err() || scan::splice(&json).is_err(), "{broken}");
            assert!(
                JsonCodec::default().decode_json(&json).is_err() || scan::splice(&json).is_err(),
                "{broken}"
            );
        }
    }
}
