//! Etcd's messages, as far as they are used. Numbers and names are those of etcd's `rpc.proto` and `kv.proto`
//! (<https://etcd.io/docs/latest/learning/api/>); fields that nobody here reads or sets are left out, as protobuf allows.
//!
//! Keys and values are [`Bytes`]: those of an answer are parts of the message they came in.

use bytes::Bytes;
use prost::{Enumeration, Message, Oneof};

/// What every answer begins with.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ResponseHeader {
    /// The store's revision when the request was answered.
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

/// A key with its value.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct KeyValue {
    /// Never empty.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Revision of the write that made the key.
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// Revision of the last write.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// The value; empty in the event of a deletion.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
}

/// Asks for a key, or for those from `key` up to `range_end`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RangeRequest {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// End, not included; empty: only `key`; a zero byte: no end.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// Most keys to return; 0: all.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// Revision to read at; 0: the latest.
    #[prost(int64, tag = "4")]
    pub revision: i64,
    /// Only the count is wanted.
    #[prost(bool, tag = "9")]
    pub count_only: bool,
}

/// What is in a range.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RangeResponse {
    /// When it was read.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// In the order of their keys.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// The limit has left some out.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// Keys in the range, whatever the limit.
    #[prost(int64, tag = "4")]
    pub count: i64,
}

/// Writes a key.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PutRequest {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Its value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// Lease that the key ends with; 0: none.
    #[prost(int64, tag = "3")]
    pub lease: i64,
}

/// Deletes a key.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteRangeRequest {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RequestOp {
    /// Which.
    #[prost(oneof = "Request", tags = "1, 2, 3")]
    pub request: Option<Request>,
}

/// What an operation does.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum Request {
    /// Reads.
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    /// Writes.
    #[prost(message, tag = "2")]
    Put(PutRequest),
    /// Deletes.
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeRequest),
}

impl From<Request> for RequestOp {
    fn from(request: Request) -> Self {
        Self { request: Some(request) }
    }
}

/// The outcome of one operation; only what was read is told apart.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ResponseOp {
    /// What was read; none for writes.
    #[prost(message, optional, tag = "1")]
    pub range: Option<RangeResponse>,
}

/// What a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum CompareTarget {
    /// Number of writes since the key was made.
    Version = 0,
    /// Revision of the write that made the key.
    Create = 1,
    /// Revision of the last write.
    Mod = 2,
}

/// A condition: that a key's revision is equal to a number (`result` of `rpc.proto` is 0, equal).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Compare {
    /// What is compared.
    #[prost(enumeration = "CompareTarget", tag = "2")]
    pub target: i32,
    /// The key.
    #[prost(bytes = "bytes", tag = "3")]
    pub key: Bytes,
    /// For [`CompareTarget::Mod`]: the revision, 0 for a key that does not exist.
    #[prost(oneof = "Compared", tags = "6")]
    pub with: Option<Compared>,
}

/// What a condition compares with.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum Compared {
    /// A revision. Sent even when it is 0, as members of a oneof are.
    #[prost(int64, tag = "6")]
    ModRevision(i64),
}

impl Compare {
    /// That the last write of a key was at a revision; 0: that there is no such key.
    pub fn mod_revision(key: Bytes, revision: i64) -> Self {
        Self { target: CompareTarget::Mod.into(), key, with: Some(Compared::ModRevision(revision)) }
    }
}

/// If all conditions hold the first operations, or else the second, as one revision.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TxnRequest {
    /// The conditions.
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    /// When all hold.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
    /// When one does not.
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<RequestOp>,
}

/// What a transaction has done.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TxnResponse {
    /// The revision it made, or at which it was refused.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Whether the conditions held.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    /// One for each operation that was done.
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<ResponseOp>,
}

/// Forgets what was before a revision.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct CompactionRequest {
    /// Oldest revision that can be read afterwards.
    #[prost(int64, tag = "1")]
    pub revision: i64,
}

/// Asks for a lease.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LeaseGrantRequest {
    /// How long it lasts, in seconds.
    #[prost(int64, tag = "1")]
    pub ttl: i64,
}

/// A lease.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct LeaseGrantResponse {
    /// Its name.
    #[prost(int64, tag = "2")]
    pub id: i64,
}

/// A message without fields.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Empty {}

/// What a member says of itself.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct StatusResponse {
    /// Of etcd, such as `3.5.16`.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Bytes that its database takes on disk.
    #[prost(int64, tag = "3")]
    pub db_size: i64,
}

/// What is said on a watch's stream.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WatchRequest {
    /// Which.
    #[prost(oneof = "Wish", tags = "1, 3")]
    pub wish: Option<Wish>,
}

/// What is asked of a watch.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum Wish {
    /// To begin.
    #[prost(message, tag = "1")]
    Create(WatchCreateRequest),
    /// To tell how far it is.
    #[prost(message, tag = "3")]
    Progress(Empty),
}

/// Begins a watch.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WatchCreateRequest {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// As [`RangeRequest::range_end`].
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// First revision of interest.
    #[prost(int64, tag = "3")]
    pub start_revision: i64,
    /// Whether to be told of progress when nothing has happened for ten minutes.
    #[prost(bool, tag = "4")]
    pub progress_notify: bool,
    /// Whether events say what was there before.
    #[prost(bool, tag = "6")]
    pub prev_kv: bool,
}

/// A message of a watch.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WatchResponse {
    /// How far it is.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Which watch of the stream; -1 in the answer to a request for progress.
    #[prost(int64, tag = "2")]
    pub watch_id: i64,
    /// The watch has begun.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watch has ended.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Where the past begins, when the watch ended for asking for what was before.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Why it ended.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// What has happened, all of a revision in one message.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

/// What has happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum EventType {
    /// Written.
    Put = 0,
    /// Deleted.
    Delete = 1,
}

/// A change of a key.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Event {
    /// What has happened.
    #[prost(enumeration = "EventType", tag = "1")]
    pub r#type: i32,
    /// What is there now; of a deletion the key and the revision.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
    /// What was there before, for watches that want it.
    #[prost(message, optional, tag = "3")]
    pub prev_kv: Option<KeyValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_on_a_key_that_does_not_exist_is_said() {
        // target (field 2) 2, key (field 3) "k", mod_revision (field 6) 0: left out it would be no condition
        let compare = Compare::mod_revision(Bytes::from_static(b"k"), 0);
        assert_eq!(compare.encode_to_vec(), [0x10, 2, 0x1a, 1, b'k', 0x30, 0]);
    }

    #[test]
    fn values_of_an_answer_are_parts_of_it() {
        let kv = KeyValue {
            key: Bytes::from_static(b"k"),
            value: Bytes::from(vec![7; 100]),
            ..Default::default()
        };
        let message = Bytes::from(kv.encode_to_vec());
        let value = KeyValue::decode(message.clone()).expect("what was encoded").value;
        let within = message.as_ptr_range();
        assert!(within.contains(&value.as_ptr()) && value.len() == 100);
    }
}
