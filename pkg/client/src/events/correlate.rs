//! Folding repeated events: counts and combined messages (core/v1) or series (events.k8s.io/v1), and a bound on how
//! much one source may say about one object.
//!
//! Numbers are client-go's (`tools/record/events_cache.go`, `tools/events/event_broadcaster.go`). No I/O, no clock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::{Value, json};

use super::{EventApi, EventSource, EventType, Record};

/// Entries kept of each cache.
const CACHE: usize = 4096;
/// Distinct messages of otherwise equal events before they are combined.
const MAX_SIMILAR: usize = 10;
/// Similar events further apart than this are counted anew.
const SIMILAR_WITHIN: SignedDuration = SignedDuration::from_mins(10);
/// Events one source may record about one object at once...
const SPAM_BURST: f64 = 25.0;
/// ... and per second after that.
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;
/// A series without a new event for this long is finished.
const SERIES_END: SignedDuration = SignedDuration::from_mins(6);
/// How often a running series is written.
const SERIES_REFRESH: SignedDuration = SignedDuration::from_mins(30);

/// What to send: the patch if there is one, else (or when its target is gone) the object.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) patch: Option<Value>,
    pub(super) object: Value,
}

/// A map that forgets what was used least recently.
struct Recent<K, V> {
    entries: HashMap<K, (V, u64)>,
    order: BTreeMap<u64, K>,
    tick: u64,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn new() -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), tick: 0 }
    }

    fn entry(&mut self, key: K, fresh: impl FnOnce() -> V) -> &mut V {
        self.tick += 1;
        if let Some((_, used)) = self.entries.get(&key) {
            self.order.remove(used);
        } else if self.entries.len() >= CACHE
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.order.insert(self.tick, key.clone());
        let tick = self.tick;
        let slot = self.entries.entry(key).or_insert_with(|| (fresh(), tick));
        slot.1 = tick;
        &mut slot.0
    }

    fn remove(&mut self, key: &K) {
        if let Some((_, used)) = self.entries.remove(key) {
            self.order.remove(&used);
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Regarding {
    source: EventSource,
    /// API version, kind, namespace, name, uid, field path.
    object: [String; 6],
}

impl Regarding {
    fn of(record: &Record) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let ObjectReference { api_version, kind, namespace, name, uid, field_path, .. } = &record.regarding;
        Self {
            source: record.source.clone(),
            object: [api_version, kind, namespace, name, uid, field_path].map(text),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Similar {
    regarding: Regarding,
    kind: EventType,
    reason: String,
    action: String,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Aggregate {
    notes: HashSet<String>,
    last: Timestamp,
}

/// An event already written.
struct Written {
    name: String,
    object: Value,
    count: i64,
    last: Timestamp,
    sent: Timestamp,
}

/// Decides what each record becomes.
pub(super) struct Correlator {
    api: EventApi,
    buckets: Recent<Regarding, Bucket>,
    aggregates: Recent<Similar, Aggregate>,
    /// Counted events by likeness and note; the note is empty for combined ones.
    counted: Recent<(Similar, String), Option<Written>>,
    series: Recent<Similar, Option<Written>>,
}

impl Correlator {
    pub(super) fn new(api: EventApi) -> Self {
        Self {
            api,
            buckets: Recent::new(),
            aggregates: Recent::new(),
            counted: Recent::new(),
            series: Recent::new(),
        }
    }

    /// What to write for this record, if anything.
    pub(super) fn observe(&mut self, record: &Record) -> Option<Write> {
        let similar = Similar {
            regarding: Regarding::of(record),
            kind: record.kind,
            reason: record.reason.clone(),
            action: record.action.clone(),
        };
        match self.api {
            EventApi::Core => self.count(similar, record),
            EventApi::Events => self.continue_series(similar, record),
        }
    }

    fn count(&mut self, similar: Similar, record: &Record) -> Option<Write> {
        let bucket =
            self.buckets.entry(similar.regarding.clone(), || Bucket { tokens: SPAM_BURST, at: record.at });
        let passed = record.at.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed * SPAM_PER_SECOND).min(SPAM_BURST);
        bucket.at = record.at;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;

        let fresh = || Aggregate { notes: HashSet::new(), last: record.at };
        let aggregate = self.aggregates.entry(similar.clone(), fresh);
        if record.at.duration_since(aggregate.last) > SIMILAR_WITHIN {
            aggregate.notes.clear();
        }
        aggregate.last = record.at;
        let combined = aggregate.notes.len() >= MAX_SIMILAR && !aggregate.notes.contains(&record.note);
        let (key, note) = if combined {
            (String::new(), format!("(combined from similar events): {}", record.note))
        } else {
            aggregate.notes.insert(record.note.clone());
            (record.note.clone(), record.note.clone())
        };

        let slot = self.counted.entry((similar, key), || None);
        if let Some(held) = slot {
            held.count += 1;
            held.last = record.at;
            held.object["count"] = json!(held.count);
            held.object["lastTimestamp"] = json!(seconds(record.at));
            held.object["message"] = json!(note);
            return Some(Write {
                namespace: namespace_of(record).to_owned(),
                name: held.name.clone(),
                patch: Some(
                    json!({"count": held.count, "lastTimestamp": seconds(record.at), "message": note}),
                ),
                object: held.object.clone(),
            });
        }
        let written = first_of(record, core_event(record, &note));
        let write = create(record, &written);
        *slot = Some(written);
        Some(write)
    }

    fn continue_series(&mut self, similar: Similar, record: &Record) -> Option<Write> {
        let slot = self.series.entry(similar, || None);
        if let Some(held) = slot
            && record.at.duration_since(held.last) <= SERIES_END
        {
            held.count += 1;
            held.last = record.at;
            // the second occurrence makes the series; later ones wait for the refresh
            return (held.count == 2).then(|| series_write(held, record.at));
        }
        let written = first_of(record, new_event(record));
        let write = create(record, &written);
        *slot = Some(written);
        Some(write)
    }

    /// Series to write again: those that go on, now and then; those that ended, once.
    pub(super) fn refresh(&mut self, now: Timestamp) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut finished = Vec::new();
        for (key, (slot, _)) in &mut self.series.entries {
            let Some(held) = slot else { continue };
            let ended = now.duration_since(held.last) > SERIES_END;
            let unwritten = held.count > 1 && held.last > held.sent;
            if unwritten && (ended || now.duration_since(held.sent) >= SERIES_REFRESH) {
                writes.push(series_write(held, now));
            }
            if ended {
                finished.push(key.clone());
            }
        }
        for key in finished {
            self.series.remove(&key);
        }
        writes
    }
}

fn first_of(record: &Record, object: Value) -> Written {
    Written {
        name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        object,
        count: 1,
        last: record.at,
        sent: record.at,
    }
}

fn create(record: &Record, written: &Written) -> Write {
    Write {
        namespace: namespace_of(record).to_owned(),
        name: written.name.clone(),
        patch: None,
        object: written.object.clone(),
    }
}

fn series_write(held: &mut Written, now: Timestamp) -> Write {
    held.sent = now;
    let series = json!({"count": held.count, "lastObservedTime": micros(held.last)});
    held.object["series"] = series.clone();
    Write {
        namespace: held.object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
        name: held.name.clone(),
        patch: Some(json!({ "series": series })),
        object: held.object.clone(),
    }
}

/// Events about cluster-scoped objects live in `default`.
fn namespace_of(record: &Record) -> &str {
    match record.regarding.namespace.as_deref() {
        None | Some("") => "default",
        Some(namespace) => namespace,
    }
}

/// `NAME.HEX`: unique enough, and sorts by object.
fn event_name(record: &Record) -> String {
    let object = record.regarding.name.as_deref().unwrap_or_default();
    format!("{object}.{:x}", record.at.as_nanosecond())
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn micros(at: Timestamp) -> String {
    format!("{at:.6}")
}

fn core_event(record: &Record, note: &str) -> Value {
    let mut source = json!({"component": record.source.component});
    if !record.source.instance.is_empty() {
        source["host"] = json!(record.source.instance);
    }
    let mut event = json!({
        "metadata": {"name": event_name(record), "namespace": namespace_of(record)},
        "involvedObject": record.regarding,
        "reason": record.reason,
        "message": note,
        "type": record.kind.as_str(),
        "source": source,
        "reportingComponent": record.source.component,
        "reportingInstance": record.source.instance,
        "firstTimestamp": seconds(record.at),
        "lastTimestamp": seconds(record.at),
        "count": 1,
    });
    if !record.action.is_empty() {
        event["action"] = json!(record.action);
    }
    if let Some(related) = &record.related {
        event["related"] = json!(related);
    }
    event
}

fn new_event(record: &Record) -> Value {
    let mut event = json!({
        "metadata": {"name": event_name(record), "namespace": namespace_of(record)},
        "regarding": record.regarding,
        "reason": record.reason,
        "action": record.action,
        "note": record.note,
        "type": record.kind.as_str(),
        "reportingController": record.source.component,
        "reportingInstance": record.source.instance,
        "eventTime": micros(record.at),
    });
    if let Some(related) = &record.related {
        event["related"] = json!(related);
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(note: &str, second: i64) -> Record {
        Record {
            source: EventSource { component: "test".into(), instance: "host".into() },
            regarding: ObjectReference {
                kind: Some("Pod".into()),
                name: Some("p".into()),
                namespace: Some("ns".into()),
                ..ObjectReference::default()
            },
            related: None,
            kind: EventType::Normal,
            reason: "Started".into(),
            action: "Start".into(),
            note: note.into(),
            at: Timestamp::from_second(1_700_000_000 + second).expect("in range"),
        }
    }

    #[test]
    fn equal_events_are_counted() {
        let mut correlator = Correlator::new(EventApi::Core);
        let first = correlator.observe(&record("hello", 0)).expect("written");
        assert!(first.patch.is_none());
        assert_eq!(first.object["firstTimestamp"], "2023-11-14T22:13:20Z");
        let second = correlator.observe(&record("hello", 5)).expect("written");
        let patch = second.patch.expect("a patch");
        assert_eq!((second.name, &patch["count"]), (first.name, &json!(2)));
        assert_eq!(patch["lastTimestamp"], "2023-11-14T22:13:25Z");
    }

    #[test]
    fn many_different_notes_are_combined() {
        let mut correlator = Correlator::new(EventApi::Core);
        for i in 0..10 {
            assert!(correlator.observe(&record(&format!("note {i}"), i)).expect("written").patch.is_none());
        }
        let combined = correlator.observe(&record("note 10", 10)).expect("written");
        assert_eq!(combined.object["message"], "(combined from similar events): note 10");
        let counted = correlator.observe(&record("note 11", 11)).expect("written");
        assert_eq!(counted.patch.expect("a patch")["count"], 2);
        // far later they are new again
        let later = correlator.observe(&record("note 12", 4000)).expect("written");
        assert_eq!(later.object["message"], "note 12");
    }

    #[test]
    fn one_object_gets_a_burst_and_then_one_event_each_five_minutes() {
        let mut correlator = Correlator::new(EventApi::Core);
        let written = (0..40).filter(|_| correlator.observe(&record("again", 0)).is_some()).count();
        assert_eq!(written, 25);
        assert!(correlator.observe(&record("again", 299)).is_none());
        assert!(correlator.observe(&record("again", 301)).is_some());
    }

    #[test]
    fn a_series_starts_with_the_second_event_and_is_finished_after_six_minutes() {
        let mut correlator = Correlator::new(EventApi::Events);
        let at = |second| record("", second).at;
        assert!(correlator.observe(&record("a", 0)).expect("written").patch.is_none());
        let series = correlator.observe(&record("b", 10)).expect("written").patch.expect("a patch");
        assert_eq!(series["series"]["count"], 2);
        assert_eq!(series["series"]["lastObservedTime"], "2023-11-14T22:13:30.000000Z");
        assert!(correlator.observe(&record("c", 20)).is_none());
        assert!(correlator.refresh(at(30)).is_empty());
        let last = correlator.refresh(at(20 + 361));
        assert_eq!(last[0].patch.as_ref().expect("a patch")["series"]["count"], 3);
        assert!(correlator.observe(&record("a", 400)).expect("written").patch.is_none(), "a new series");
    }
}
