//! A change as it is on disk.

use std::sync::Arc;

use bytes::Bytes;

use super::index::Place;
use crate::{LeaseId, Revision};

/// A change as it is recorded.
pub(super) struct Record {
    pub(super) place: Place,
    pub(super) key: Arc<str>,
    /// `None` is a deletion.
    pub(super) value: Option<Bytes>,
    pub(super) created: Revision,
    pub(super) lease: Option<LeaseId>,
}

/// The key of a record: revision and place within it, big-endian, so that keys are in the order of changes.
pub(super) fn place_key(place: Place) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&place.revision.0.to_be_bytes());
    key[8..].copy_from_slice(&place.sub.to_be_bytes());
    key
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
/// What comes before the key: kind, revision of creation, lease.
const HEAD_BYTES: usize = 17;

/// A record: kind, revision of creation, lease (0 is none), length of the key, key, value; numbers big-endian.
pub(super) fn encode(record: &Record) -> Vec<u8> {
    let value = record.value.as_deref().unwrap_or_default();
    let mut out = Vec::with_capacity(21 + record.key.len() + value.len());
    out.push(if record.value.is_some() { PUT } else { DELETE });
    out.extend(record.created.0.to_be_bytes());
    out.extend(record.lease.map_or(0, |l| l.0).to_be_bytes());
    out.extend((record.key.len() as u32).to_be_bytes());
    out.extend(record.key.as_bytes());
    out.extend(value);
    out
}

/// Place and key of a record.
pub(super) fn peek<'r>(key: &[u8], value: &'r [u8]) -> Option<(Place, &'r [u8])> {
    let (revision, sub) = key.split_at_checked(8)?;
    let place = Place {
        revision: Revision(i64::from_be_bytes(revision.try_into().ok()?)),
        sub: u32::from_be_bytes(sub.try_into().ok()?),
    };
    let (len, rest) = value.split_at_checked(HEAD_BYTES)?.1.split_at_checked(4)?;
    let len = u32::from_be_bytes(len.try_into().ok()?) as usize;
    Some((place, rest.get(..len)?))
}

pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<Record> {
    let (place, key) = peek(key, value)?;
    let (head, rest) = value.split_at_checked(HEAD_BYTES)?;
    let (kind, head) = head.split_first()?;
    let (created, lease) = head.split_at_checked(8)?;
    let lease = i64::from_be_bytes(lease.try_into().ok()?);
    let value = rest.get(4 + key.len()..)?;
    Some(Record {
        place,
        key: std::str::from_utf8(key).ok()?.into(),
        value: match *kind {
            // a copy of its own: a slice of the engine's block would keep all of the block
            PUT => Some(Bytes::copy_from_slice(value)),
            DELETE if value.is_empty() => None,
            _ => return None,
        },
        created: Revision(i64::from_be_bytes(created.try_into().ok()?)),
        lease: (lease != 0).then_some(LeaseId(lease)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_damage_is_noticed() {
        let place = Place { revision: Revision(7), sub: 3 };
        let records = [
            Record {
                place,
                key: "/registry/a".into(),
                value: Some("v".into()),
                created: Revision(5),
                lease: Some(LeaseId(9)),
            },
            Record { place, key: "k".into(), value: None, created: Revision(0), lease: None },
        ];
        for record in records {
            let bytes = encode(&record);
            let back = decode(&place_key(place), &bytes).unwrap();
            assert_eq!(
                (back.place, &back.key, &back.value, back.created, back.lease),
                (record.place, &record.key, &record.value, record.created, record.lease)
            );
            for cut in 0..21 {
                assert!(decode(&place_key(place), &bytes[..cut]).is_none(), "{cut}");
            }
            assert!(decode(&[0; 11], &bytes).is_none());
        }
    }
}
