//! HorizontalPodAutoscalers: v2 is stored, v1 knows the CPU target alone and keeps the rest in annotations.
//!
//! Source: `pkg/apis/autoscaling/v1/conversion.go` for the annotations' names and forms.

use apimachinery::descriptor::Conversion;
use apimachinery::json;
use apimachinery::meta::metadata_mut;
use apimachinery::{Map, Value};

use super::{rename, set_api_version};

/// autoscaling/v1 to and from autoscaling/v2.
pub(super) const CONVERSION: Conversion = Conversion { to_storage, from_storage };

/// Share of the requested CPU that an autoscaler without metrics aims at.
pub(crate) const CPU_PERCENT: i64 = 80;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// What v1 calls the parts of a metric, and v2: a target of a type, in a metric of an identifier.
const SOURCES: [&str; 5] = ["object", "pods", "resource", "containerResource", "external"];

fn take_annotation(object: &mut Value, name: &str) -> Option<Value> {
    let metadata = metadata_mut(object)?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(name)?;
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn put_annotation(object: &mut Value, name: &str, value: &Value) {
    if let Some(metadata) = metadata_mut(object)
        && let Some(annotations) =
            metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new())).as_object_mut()
    {
        annotations.insert(name.into(), value.to_string().into());
    }
}

fn part<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Map> {
    object.as_object_mut()?.entry(name).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

fn to_storage(object: &mut Value) {
    set_api_version(object, "autoscaling/v2");
    let mut metrics = take_list(object, METRICS, metric_to_v2);
    let mut current = take_list(object, CURRENT_METRICS, status_to_v2);
    let conditions = take_annotation(object, CONDITIONS);
    let behavior = take_annotation(object, BEHAVIOR);
    if let Some(spec) = part(object, "spec") {
        if let Some(target) = spec.remove("targetCPUUtilizationPercentage").filter(|v| !v.is_null()) {
            let cpu = json!({"type": "Resource", "resource":
                {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}});
            metrics.insert(0, cpu);
        }
        if metrics.is_empty() {
            metrics.push(json!({"type": "Resource", "resource":
                {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_PERCENT}}}));
        }
        spec.insert("metrics".into(), metrics.into());
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), behavior);
        }
    }
    if object.get("status").is_none() {
        return;
    }
    if let Some(status) = part(object, "status") {
        if let Some(percentage) = status.remove("currentCPUUtilizationPercentage").filter(|v| !v.is_null()) {
            let value = current
                .iter()
                .position(is_cpu)
                .map(|i| current.remove(i)["resource"]["current"]["averageValue"].take())
                .filter(|v| !v.is_null());
            let mut cpu = json!({"averageUtilization": percentage});
            if let Some(value) = value {
                cpu["averageValue"] = value;
            }
            let metric = json!({"type": "Resource", "resource": {"name": "cpu", "current": cpu}});
            current.insert(0, metric);
        }
        status.insert("currentMetrics".into(), if current.is_empty() { Value::Null } else { current.into() });
        if let Some(conditions) = conditions {
            status.insert("conditions".into(), conditions);
        }
    }
}

fn take_list(object: &mut Value, annotation: &str, change: fn(&mut Value)) -> Vec<Value> {
    let mut list = match take_annotation(object, annotation) {
        Some(Value::Array(list)) => list,
        _ => Vec::new().into(),
    };
    list.iter_mut().for_each(change);
    list.into_vec()
}

fn from_storage(object: &mut Value) {
    set_api_version(object, "autoscaling/v1");
    let mut target = None;
    let mut others = Vec::new();
    let mut behavior = None;
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        if let Some(Value::Array(metrics)) = spec.remove("metrics") {
            for mut metric in metrics {
                let utilization = metric.pointer("/resource/target/averageUtilization").cloned();
                if is_cpu(&metric) && target.is_none() && utilization.as_ref().is_some_and(|u| !u.is_null()) {
                    target = utilization;
                } else {
                    metric_to_v1(&mut metric);
                    others.push(metric);
                }
            }
        }
        behavior = spec.remove("behavior").filter(|b| !b.is_null());
        if let Some(target) = target {
            spec.insert("targetCPUUtilizationPercentage".into(), target);
        }
    }
    let mut current = Vec::new();
    let mut conditions = None;
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        if let Some(Value::Array(metrics)) = status.remove("currentMetrics") {
            for mut metric in metrics {
                if is_cpu(&metric)
                    && let Some(percentage) = metric.pointer("/resource/current/averageUtilization").cloned()
                {
                    status.insert("currentCPUUtilizationPercentage".into(), percentage);
                }
                status_to_v1(&mut metric);
                current.push(metric);
            }
        }
        // v1 prints both, v2 the desired ones alone
        for field in ["currentReplicas", "desiredReplicas"] {
            status.entry(field).or_insert_with(|| 0.into());
        }
        conditions = status.remove("conditions").filter(|c| c.as_array().is_some_and(|c| !c.is_empty()));
    }
    for (name, value) in [
        (METRICS, (!others.is_empty()).then(|| others.into())),
        (CURRENT_METRICS, (!current.is_empty()).then(|| current.into())),
        (CONDITIONS, conditions),
        (BEHAVIOR, behavior),
    ] {
        if let Some(value) = value {
            put_annotation(object, name, &value);
        }
    }
}

/// `target: {type, value, averageValue, averageUtilization}` and `metric: {name, selector}` become v1's flat names.
fn metric_to_v1(metric: &mut Value) {
    for source in SOURCES {
        let Some(source_map) = metric.get_mut(source).and_then(Value::as_object_mut) else { continue };
        let mut target = source_map.remove("target").unwrap_or(Value::Null);
        let names: &[(&str, &str)] = match source {
            "resource" | "containerResource" => {
                &[("averageUtilization", "targetAverageUtilization"), ("averageValue", "targetAverageValue")]
            }
            "object" => &[("value", "targetValue"), ("averageValue", "averageValue")],
            "external" => &[("value", "targetValue"), ("averageValue", "targetAverageValue")],
            _ => &[("averageValue", "targetAverageValue")],
        };
        move_fields(&mut target, source_map, names);
        identifier_to_v1(source, source_map);
    }
}

fn identifier_to_v1(source: &str, map: &mut Map) {
    if source == "object"
        && let Some(described) = map.remove("describedObject")
    {
        map.insert("target".into(), described);
    }
    if let Some(mut metric) = map.remove("metric") {
        let selector = if source == "external" { "metricSelector" } else { "selector" };
        move_fields(&mut metric, map, &[("name", "metricName"), ("selector", selector)]);
    }
}

fn move_fields(from: &mut Value, to: &mut Map, names: &[(&str, &str)]) {
    for (old, new) in names {
        if let Some(value) = from.as_object_mut().and_then(|m| m.remove(old)).filter(|v| !v.is_null()) {
            to.insert((*new).into(), value);
        }
    }
}

fn metric_to_v2(metric: &mut Value) {
    for source in SOURCES {
        let Some(map) = metric.get_mut(source).and_then(Value::as_object_mut) else { continue };
        let described = (source == "object").then(|| map.remove("target")).flatten();
        let mut target = Map::new();
        for (old, new, kind) in [
            ("targetAverageUtilization", "averageUtilization", "Utilization"),
            ("targetAverageValue", "averageValue", "AverageValue"),
            ("averageValue", "averageValue", "AverageValue"),
            ("targetValue", "value", "Value"),
        ] {
            if let Some(value) = map.remove(old).filter(|v| !v.is_null()) {
                target.insert(new.into(), value);
                target.entry("type").or_insert_with(|| kind.into());
            }
        }
        map.insert("target".into(), Value::Object(target));
        identifier_to_v2(source, map, described);
    }
}

fn identifier_to_v2(source: &str, map: &mut Map, described: Option<Value>) {
    if let Some(described) = described {
        map.insert("describedObject".into(), described);
    }
    if matches!(source, "object" | "pods" | "external") {
        let mut metric = Map::new();
        let selector = if source == "external" { "metricSelector" } else { "selector" };
        for (old, new) in [("metricName", "name"), (selector, "selector")] {
            if let Some(value) = map.remove(old).filter(|v| !v.is_null()) {
                metric.insert(new.into(), value);
            }
        }
        map.insert("metric".into(), Value::Object(metric));
    }
}

const CURRENT_NAMES: [(&str, &str, &str); 3] = [
    ("averageUtilization", "currentAverageUtilization", ""),
    ("averageValue", "currentAverageValue", "averageValue"),
    ("value", "currentValue", ""),
];

fn status_to_v1(metric: &mut Value) {
    for source in SOURCES {
        let Some(map) = metric.get_mut(source).and_then(Value::as_object_mut) else { continue };
        let mut current = map.remove("current").unwrap_or(Value::Null);
        for (v2, v1, for_object) in CURRENT_NAMES {
            let name = if source == "object" && !for_object.is_empty() { for_object } else { v1 };
            move_fields(&mut current, map, &[(v2, name)]);
        }
        identifier_to_v1(source, map);
    }
}

fn status_to_v2(metric: &mut Value) {
    for source in SOURCES {
        let Some(map) = metric.get_mut(source).and_then(Value::as_object_mut) else { continue };
        let described = (source == "object").then(|| map.remove("target")).flatten();
        let mut flat = Value::Object(std::mem::take(map));
        let mut current = Map::new();
        for (v2, v1, for_object) in CURRENT_NAMES {
            let name = if source == "object" && !for_object.is_empty() { for_object } else { v1 };
            move_fields(&mut flat, &mut current, &[(name, v2)]);
        }
        rename(&mut flat, &[]);
        if let Value::Object(rest) = flat {
            *map = rest;
        }
        map.insert("current".into(), Value::Object(current));
        identifier_to_v2(source, map, described);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_target_has_its_own_field_in_v1() {
        let mut hpa = json!({
            "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}
        });
        let before = hpa.clone();
        to_storage(&mut hpa);
        assert_eq!(hpa["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
        from_storage(&mut hpa);
        assert_eq!(hpa, before);
    }

    #[test]
    fn everything_else_survives_in_annotations() {
        let v2 = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}, "metrics": [
                {"type": "Resource", "resource":
                    {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}},
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "10"}}},
                {"type": "Object", "object": {"metric": {"name": "hits"}, "describedObject": {"kind": "Ingress", "name": "i"},
                    "target": {"type": "Value", "value": "100"}}},
                {"type": "External", "external": {"metric": {"name": "q", "selector": {"matchLabels": {"a": "b"}}},
                    "target": {"type": "AverageValue", "averageValue": "30"}}}
            ]},
            "status": {"currentReplicas": 1, "desiredReplicas": 1, "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 10, "averageValue": "5m"}}},
                {"type": "Object", "object": {"metric": {"name": "hits"}, "describedObject": {"kind": "Ingress", "name": "i"},
                    "current": {"value": "1"}}}
            ], "conditions": [{"type": "AbleToScale", "status": "True"}]}
        });
        let mut object = v2.clone();
        from_storage(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 60);
        assert_eq!(object["status"]["currentCPUUtilizationPercentage"], 10);
        assert!(object["spec"].get("metrics").is_none());
        let annotations = object["metadata"]["annotations"].as_object().expect("annotations");
        assert_eq!(annotations.len(), 4);
        to_storage(&mut object);
        assert_eq!(object, v2);
    }
}
