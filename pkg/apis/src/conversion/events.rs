//! Events: core/v1 is stored, events.k8s.io/v1 names the same fields otherwise.
//!
//! Source: `pkg/apis/events/v1/conversion.go` for the pairs of names.

use apimachinery::Value;
use apimachinery::descriptor::Conversion;

use super::{rename, set_api_version};

/// events.k8s.io/v1 to and from core/v1.
pub(super) const CONVERSION: Conversion = Conversion { to_storage, from_storage };

const NAMES: [(&str, &str); 7] = [
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

fn to_storage(object: &mut Value) {
    set_api_version(object, "v1");
    rename(object, &NAMES);
    // core/v1 prints these even when they are empty
    if let Some(map) = object.as_object_mut() {
        for (name, empty) in [
            ("involvedObject", Value::Object(apimachinery::Map::new())),
            ("source", Value::Object(apimachinery::Map::new())),
            ("firstTimestamp", Value::Null),
            ("lastTimestamp", Value::Null),
            ("eventTime", Value::Null),
            ("reportingComponent", Value::from("")),
            ("reportingInstance", Value::from("")),
        ] {
            map.entry(name).or_insert(empty);
        }
    }
}

fn from_storage(object: &mut Value) {
    set_api_version(object, "events.k8s.io/v1");
    rename(object, &NAMES.map(|(events, core)| (core, events)));
    // optional there: an empty text is absence
    if let Some(map) = object.as_object_mut() {
        for name in ["reportingController", "reportingInstance"] {
            if map.get(name).and_then(Value::as_str) == Some("") {
                map.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    #[test]
    fn an_event_survives_both_ways() {
        let mut event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"},
            "note": "started", "regarding": {"kind": "Pod", "name": "p"}, "reason": "Started", "type": "Normal",
            "eventTime": "2026-01-02T03:04:05.000006Z", "action": "Start", "reportingController": "kubelet",
            "reportingInstance": "node", "deprecatedSource": {}, "deprecatedFirstTimestamp": null,
            "deprecatedLastTimestamp": null
        });
        let before = event.clone();
        to_storage(&mut event);
        assert_eq!(event["apiVersion"], "v1");
        assert_eq!(event["message"], "started");
        assert_eq!(event["involvedObject"]["name"], "p");
        assert_eq!(event["source"], json!({}));
        from_storage(&mut event);
        assert_eq!(event, before);
    }
}
