//! The row of a pod. Source: `printPod` in `pkg/printers/internalversion`.

use apimachinery::Value;
use apimachinery::meta::{at, name, str_at};
use apimachinery::table::{Part, age, since};
use jiff::Timestamp;

pub(super) const COLUMNS: &[(&str, &str)] = &[
    ("Name", "string"),
    ("Ready", "string"),
    ("Status", "string"),
    ("Restarts", "string"),
    ("Age", "string"),
    ("+IP", "string"),
    ("+Node", "string"),
    ("+Nominated Node", "string"),
    ("+Readiness Gates", "string"),
];

/// What [`row`] looks at.
pub(super) const PART: Part = {
    const WHOLE: Part = Part::Whole;
    const CONTAINER: Part = Part::Members(&[("name", WHOLE), ("restartPolicy", WHOLE)]);
    Part::Members(&[
        (
            "metadata",
            Part::Members(&[("name", WHOLE), ("creationTimestamp", WHOLE), ("deletionTimestamp", WHOLE)]),
        ),
        (
            "spec",
            Part::Members(&[
                ("containers", CONTAINER),
                ("initContainers", CONTAINER),
                ("nodeName", WHOLE),
                ("readinessGates", WHOLE),
            ]),
        ),
        (
            "status",
            Part::Members(&[
                ("conditions", WHOLE),
                ("containerStatuses", WHOLE),
                ("initContainerStatuses", WHOLE),
                ("nominatedNodeName", WHOLE),
                ("phase", WHOLE),
                ("podIP", WHOLE),
                ("podIPs", WHOLE),
                ("reason", WHOLE),
            ]),
        ),
    ])
};

/// Reason of a pod whose node is gone.
const NODE_LOST: &str = "NodeLost";

fn list<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// What is counted while looking through the containers.
#[derive(Default)]
struct Counts<'a> {
    restarts: i64,
    restartable_init_restarts: i64,
    last_restart: &'a str,
    last_init_restart: &'a str,
    ready: usize,
    total: usize,
}

impl<'a> Counts<'a> {
    fn saw_restart(&mut self, status: &'a Value, init: bool) {
        let finished = str_at(status, &["lastState", "terminated", "finishedAt"]);
        // RFC 3339 in UTC with whole seconds sorts as text
        if init && finished > self.last_init_restart {
            self.last_init_restart = finished;
        } else if !init && finished > self.last_restart {
            self.last_restart = finished;
        }
    }
}

/// The reason of a container that terminated.
fn termination(terminated: &Value) -> String {
    let reason = str_at(terminated, &["reason"]);
    if !reason.is_empty() {
        return reason.into();
    }
    match terminated["signal"].as_i64().unwrap_or(0) {
        0 => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        signal => format!("Signal:{signal}"),
    }
}

fn ready_condition(pod: &Value) -> bool {
    list(pod, &["status", "conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The init container that is not done says so: `Init:0/2`, `Init:CrashLoopBackOff`. `None` when all are done.
fn init_status<'a>(pod: &'a Value, counts: &mut Counts<'a>) -> Option<String> {
    let specs = list(pod, &["spec", "initContainers"]);
    let restartable =
        |status: &Value| specs.iter().any(|c| c["name"] == status["name"] && c["restartPolicy"] == "Always");
    for (i, status) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        counts.restarts += status["restartCount"].as_i64().unwrap_or(0);
        counts.saw_restart(status, true);
        let sidecar = restartable(status);
        if sidecar {
            counts.restartable_init_restarts += status["restartCount"].as_i64().unwrap_or(0);
            counts.saw_restart(status, false);
        }
        let state = &status["state"];
        let terminated = state.get("terminated").filter(|t| t.is_object());
        if let Some(terminated) = terminated {
            if terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
                continue;
            }
            return Some(format!("Init:{}", termination(terminated)));
        }
        if sidecar && status["started"] == true {
            if status["ready"] == true {
                counts.ready += 1;
            }
            continue;
        }
        let waiting = str_at(state, &["waiting", "reason"]);
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{i}/{}", specs.len()));
    }
    None
}

/// What the running containers say, the first one winning; `reason` is what the pod says.
fn container_status<'a>(pod: &'a Value, counts: &mut Counts<'a>, mut reason: String) -> String {
    let mut running = false;
    for status in list(pod, &["status", "containerStatuses"]).iter().rev() {
        counts.restarts += status["restartCount"].as_i64().unwrap_or(0);
        counts.saw_restart(status, false);
        let state = &status["state"];
        let waiting = str_at(state, &["waiting", "reason"]);
        let terminated = state.get("terminated").filter(|t| t.is_object());
        if !waiting.is_empty() {
            reason = waiting.into();
        } else if let Some(terminated) = terminated {
            reason = termination(terminated);
        } else if status["ready"] == true && state.get("running").is_some_and(Value::is_object) {
            running = true;
            counts.ready += 1;
        }
    }
    // a pod that has a running container is not done
    if reason == "Completed" && running {
        reason = if ready_condition(pod) { "Running".into() } else { "NotReady".into() };
    }
    reason
}

pub(super) fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let sidecars =
        list(pod, &["spec", "initContainers"]).iter().filter(|c| c["restartPolicy"] == "Always").count();
    let mut counts =
        Counts { total: list(pod, &["spec", "containers"]).len() + sidecars, ..Counts::default() };
    let mut reason = match str_at(pod, &["status", "reason"]) {
        "" => str_at(pod, &["status", "phase"]).to_owned(),
        reason => reason.to_owned(),
    };
    let gated = list(pod, &["status", "conditions"])
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated");
    if gated {
        reason = "SchedulingGated".into();
    }
    let initializing = init_status(pod, &mut counts);
    let initialized = list(pod, &["status", "conditions"])
        .iter()
        .any(|c| c["type"] == "Initialized" && c["status"] == "True");
    match initializing {
        Some(text) if !initialized => reason = text,
        _ => {
            counts.restarts = counts.restartable_init_restarts;
            reason = container_status(pod, &mut counts, reason);
            counts.last_init_restart = "";
        }
    }
    if at(pod, &["metadata", "deletionTimestamp"]).is_some_and(Value::is_string) {
        if str_at(pod, &["status", "reason"]) == NODE_LOST {
            reason = "Unknown".into();
        } else if !matches!(str_at(pod, &["status", "phase"]), "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }
    let last =
        if counts.last_init_restart.is_empty() { counts.last_restart } else { counts.last_init_restart };
    let restarts = if counts.restarts != 0 && !last.is_empty() {
        format!("{} ({} ago)", counts.restarts, since(last, now))
    } else {
        counts.restarts.to_string()
    };
    let ip = match str_at(pod, &["status", "podIP"]) {
        "" => pod.pointer("/status/podIPs/0/ip").and_then(Value::as_str).unwrap_or(""),
        ip => ip,
    };
    vec![
        name(pod).into(),
        format!("{}/{}", counts.ready, counts.total).into(),
        reason.into(),
        restarts.into(),
        age(pod, now),
        or_none(ip),
        or_none(str_at(pod, &["spec", "nodeName"])),
        or_none(str_at(pod, &["status", "nominatedNodeName"])),
        readiness_gates(pod).into(),
    ]
}

/// `true` gates of all, as `1/2`.
fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let conditions = list(pod, &["status", "conditions"]);
    let met = gates
        .iter()
        .filter(|g| conditions.iter().any(|c| c["type"] == g["conditionType"] && c["status"] == "True"))
        .count();
    format!("{met}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;

    fn part(value: &Value, wanted: &Part) -> Value {
        match (wanted, value) {
            (Part::Members(names), Value::Object(map)) => names
                .iter()
                .filter_map(|(name, wanted)| Some((*name, part(map.get(name)?, wanted))))
                .collect(),
            (Part::Members(_), Value::Array(items)) => items.iter().map(|item| part(item, wanted)).collect(),
            (_, other) => other.clone(),
        }
    }

    fn cells(pod: &Value) -> (String, String, String) {
        let now = "2026-01-01T00:01:00Z".parse().expect("a time");
        let whole = row(pod, now);
        // what is decoded to print a pod is all that printing looks at
        let row = row(&part(pod, &PART), now);
        assert_eq!(row, whole, "{pod}");
        let text = |i: usize| row[i].as_str().expect("text").to_owned();
        (text(1), text(2), text(3))
    }

    #[test]
    fn status_says_what_kubectl_says() {
        let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "c"}]});
        let crash = json!({"name": "c", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:30Z"}}});
        for (status, deleted, expected) in [
            (json!({"phase": "Pending"}), false, ("0/1", "Pending", "0")),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}, {"name": "j"}]}),
                false,
                ("0/1", "Init:0/2", "0"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 1,
                    "state": {"terminated": {"exitCode": 2}}}]}),
                false,
                ("0/1", "Init:ExitCode:2", "1"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i",
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                false,
                ("0/1", "Init:CrashLoopBackOff", "0"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [crash]}),
                false,
                ("0/1", "CrashLoopBackOff", "3 (30s ago)"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}]}),
                false,
                ("1/1", "Running", "0"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}]}),
                true,
                ("1/1", "Terminating", "0"),
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [{"name": "c",
                    "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
                false,
                ("0/1", "Completed", "0"),
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), false, ("0/1", "Evicted", "0")),
        ] {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
            if deleted {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let (ready, reason, restarts) = cells(&pod);
            assert_eq!((ready.as_str(), reason.as_str(), restarts.as_str()), expected, "{pod}");
        }
    }

    #[test]
    fn a_sidecar_counts_as_a_container() {
        let pod = json!({"spec": {"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]},
            "status": {"phase": "Running",
                "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "state": {"running": {}}}],
                "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}]}});
        assert_eq!(cells(&pod).0, "2/2");
    }
}
