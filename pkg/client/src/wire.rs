//! List pages and watch frames: bytes to decoded objects, without going through a tree.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::store::Decoded;
use crate::strip;

/// Longest watch frame accepted. Larger than any object a server stores (etcd's limit is 1.5 MiB).
pub(crate) const MAX_FRAME_BYTES: usize = 16 << 20;

/// Decodes what a server sends, as deep as it is. Servers bound how deep objects are, and one object deeper than a parser
/// likes must not keep an informer from all others.
pub(crate) fn decoded<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    deserializer.disable_recursion_limit();
    let value = T::deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Turns an object's JSON into a typed object; one function pointer per kind.
pub(crate) type Decode = fn(&[u8]) -> Result<Decoded, serde_json::Error>;

/// A page of a list.
pub(crate) struct Page {
    pub(crate) items: Vec<Decoded>,
    pub(crate) resource_version: String,
    pub(crate) continue_token: String,
}

#[derive(Deserialize)]
struct RawList<'a> {
    #[serde(default)]
    metadata: RawListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct RawListMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    continue_token: String,
}

pub(crate) fn page(body: &[u8], decode: Decode) -> Result<Page, serde_json::Error> {
    let list: RawList<'_> = serde_json::from_slice(body)?;
    let raw = list.items.unwrap_or_default();
    let mut items = Vec::with_capacity(raw.len());
    for item in raw {
        items.push(decode(&strip::managed_fields(item.get().as_bytes()))?);
    }
    Ok(Page {
        items,
        resource_version: list.metadata.resource_version,
        continue_token: list.metadata.continue_token,
    })
}

/// One event of a watch.
pub(crate) enum Frame {
    Put(Decoded),
    Delete(Decoded),
    /// Everything up to this resource version was sent.
    Bookmark {
        resource_version: String,
    },
    Failed(Box<kube::core::Status>),
}

#[derive(Deserialize)]
struct RawFrame<'a> {
    #[serde(rename = "type")]
    event: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct RawBookmark {
    metadata: RawBookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBookmarkMeta {
    resource_version: String,
}

pub(crate) fn frame(line: &[u8], decode: Decode) -> Result<Frame, serde_json::Error> {
    let raw: RawFrame<'_> = serde_json::from_slice(line)?;
    let object = raw.object.get().as_bytes();
    match raw.event {
        "ADDED" | "MODIFIED" => decode(&strip::managed_fields(object)).map(Frame::Put),
        "DELETED" => decode(&strip::managed_fields(object)).map(Frame::Delete),
        "BOOKMARK" => {
            let bookmark: RawBookmark = serde_json::from_slice(object)?;
            Ok(Frame::Bookmark { resource_version: bookmark.metadata.resource_version })
        }
        "ERROR" => serde_json::from_slice(object).map(Frame::Failed),
        other => Err(serde::de::Error::custom(format!("unknown watch event type {other:?}"))),
    }
}

/// Splits a stream of chunks into lines.
#[derive(Default)]
pub(crate) struct Lines {
    buffer: BytesMut,
    searched: usize,
}

/// A line grew past [`MAX_FRAME_BYTES`].
#[derive(Debug, thiserror::Error)]
#[error("watch event larger than {MAX_FRAME_BYTES} bytes")]
pub(crate) struct LineTooLong;

impl Lines {
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<(), LineTooLong> {
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() > MAX_FRAME_BYTES && !self.buffer.contains(&b'\n') {
            return Err(LineTooLong);
        }
        Ok(())
    }

    /// The next complete line that is not blank, without its end.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        loop {
            let Some(length) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return None;
            };
            let line = self.buffer.split_to(self.searched + length + 1).freeze();
            self.searched = 0;
            let line = line.slice(..line.len() - 1);
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lines, decoded};

    #[test]
    fn deep_objects_are_decoded() {
        let deep = |levels: usize| {
            format!(r#"{{"revision":1,"data":{{"a":{}1{}}}}}"#, "[".repeat(levels), "]".repeat(levels))
        };
        // in memory as the threads of our daemons have it
        let thread = std::thread::Builder::new().stack_size(component::STACK_BYTES);
        let decodes = thread.spawn(move || {
            decoded::<k8s_openapi::api::apps::v1::ControllerRevision>(deep(497).as_bytes()).is_ok()
                && decoded::<serde_json::Value>(b"{} {}").is_err()
        });
        assert!(decodes.expect("a thread").join().expect("no overflow"));
    }

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\r\n{\"c\"";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for chunk in text.chunks(size) {
                lines.push(chunk).expect("short");
                while let Some(line) = lines.next() {
                    seen.push(String::from_utf8_lossy(&line).trim().to_owned());
                }
            }
            assert_eq!(seen, ["{\"a\":1}", "{\"b\":2}"], "chunks of {size}");
        }
    }
}
