//! Jobs and cron jobs.
//!
//! Source: `pkg/apis/batch/v1/defaults.go`, `pkg/apis/batch/validation`, `pkg/registry/batch`.

use apimachinery::meta::at;
use apimachinery::{Map, Value};
use jiff::Timestamp;

use super::pod::defaults::default_template;
use super::print::{
    age, condition, containers, human_duration, list, name, number, or, selector, since, str_at,
};
use super::rules::{DEFAULT, Rules};
use super::template;
use super::{cron, print};
use crate::cursor::{At, Errors, immutable, non_negative, same};
use crate::edit::{default_text, default_to, map_at, map_or_new, maps_in, spec, unset};

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The labels' names before they had a domain; pods still get both.
const OLD_CONTROLLER_UID: &str = "controller-uid";
const OLD_JOB_NAME: &str = "job-name";
/// Most completions or parallelism of an indexed job.
const MAX_INDEXED: i64 = 100_000;
/// Longest name of a cron job: its jobs add a time of 11 characters.
const CRON_JOB_NAME_MAX: usize = 52;

pub(super) const JOBS: Rules = Rules {
    generation: true,
    default: default_job,
    prepare_create: |_, o| generate_selector(o),
    validate: |o| job(&At::root(o)),
    validate_update: |context, new, old| {
        let (new, old) = (At::root(new), At::root(old));
        if context.subresource == "status" {
            return job_status(&new);
        }
        let mut errors = job(&new);
        errors.extend(job_immutable(&new.get("spec"), &old.get("spec")));
        errors
    },
    warnings: |o, old| template::warnings(o, old, &["spec", "template"]),
    // what clients of the first API relied on
    orphan: true,
    columns: &[
        ("Name", "string"),
        ("Status", "string"),
        ("Completions", "string"),
        ("Duration", "string"),
        ("Age", "string"),
        ("+Containers", "string"),
        ("+Images", "string"),
        ("+Selector", "string"),
    ],
    row: job_row,
    ..DEFAULT
};

fn default_job(_version: &str, object: &mut Value) {
    let labels = object.pointer("/spec/template/metadata/labels").cloned();
    if let Some(labels) = labels.filter(|l| l.as_object().is_some_and(|l| !l.is_empty()))
        && let Some(metadata) = object.as_object_mut().and_then(|o| map_or_new(o, "metadata"))
        && metadata.get("labels").and_then(Value::as_object).is_none_or(Map::is_empty)
    {
        metadata.insert("labels".into(), labels);
    }
    let Some(spec) = spec(object) else { return };
    if unset(spec, "completions") && unset(spec, "parallelism") {
        default_to(spec, "completions", 1);
    }
    default_to(spec, "parallelism", 1);
    let per_index = !unset(spec, "backoffLimitPerIndex");
    default_to(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
    default_to(spec, "completionMode", "NonIndexed");
    default_to(spec, "suspend", false);
    let replaced = if unset(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    default_to(spec, "podReplacementPolicy", replaced);
    if let Some(policy) = map_at(spec, "podFailurePolicy") {
        for rule in maps_in(policy, "rules") {
            for pattern in maps_in(rule, "onPodConditions") {
                default_text(pattern, "status", "True");
            }
        }
    }
    default_template(spec);
}

/// A job's pods are told by its uid, unless the client chose a selector.
fn generate_selector(job: &mut Value) {
    let (own, uid) = (name(job).to_owned(), str_at(job, &["metadata", "uid"]).to_owned());
    let Some(spec) = spec(job) else { return };
    if spec.get("manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    if let Some(template) = map_or_new(spec, "template")
        && let Some(metadata) = map_or_new(template, "metadata")
        && let Some(labels) = map_or_new(metadata, "labels")
    {
        for (key, value) in
            [(OLD_JOB_NAME, &own), (JOB_NAME, &own), (OLD_CONTROLLER_UID, &uid), (CONTROLLER_UID, &uid)]
        {
            labels.insert(key.into(), value.clone().into());
        }
    }
    if let Some(selector) = map_or_new(spec, "selector")
        && let Some(labels) = map_or_new(selector, "matchLabels")
    {
        default_text(labels, CONTROLLER_UID, &uid);
    }
}

fn job(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    generated_selector(&mut errors, object);
    let selector = spec.get("selector");
    if selector.present() {
        errors.extend(apimachinery::objectmeta::label_selector(selector.value(), &selector.path()));
        if !template::selects(&selector, &spec.get("template")) {
            let labels = spec.at(&["template", "metadata", "labels"]);
            errors.push(labels.invalid("`selector` does not match template `labels`"));
        }
    } else {
        errors.push(selector.required(""));
    }
    job_spec(&mut errors, &spec);
    errors
}

/// What a generated selector needs is there, as clients may have removed it.
fn generated_selector(errors: &mut Errors, job: &At<'_>) {
    let spec = job.get("spec");
    if spec.get("manualSelector").flag() || !spec.get("selector").present() {
        return;
    }
    let uid = job.at(&["metadata", "uid"]).text();
    if uid.is_empty() {
        return;
    }
    let labels = spec.at(&["template", "metadata", "labels"]);
    for key in [CONTROLLER_UID, OLD_CONTROLLER_UID] {
        if !labels.key(key).present() {
            errors.push(labels.key(key).required(&format!("must be '{uid}'")));
        } else if labels.key(key).text() != uid {
            errors.push(labels.invalid(format!("must be '{uid}'")));
        }
    }
}

fn job_spec(errors: &mut Errors, spec: &At<'_>) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        non_negative(errors, &spec.get(field));
    }
    let mode = spec.get("completionMode");
    let indexed = mode.text() == "Indexed";
    if mode.present() && !matches!(mode.text(), "NonIndexed" | "Indexed") {
        errors.push(mode.not_supported(&["NonIndexed", "Indexed"]));
    }
    if indexed {
        if !spec.get("completions").present() {
            errors.push(spec.get("completions").required("when completion mode is Indexed"));
        }
        let parallelism = spec.get("parallelism");
        if parallelism.int_or_zero() > MAX_INDEXED {
            errors.push(parallelism.invalid(format!(
                "must be less than or equal to {MAX_INDEXED} when completion mode is Indexed"
            )));
        }
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if spec.get(field).present() {
                errors.push(spec.get(field).invalid("requires indexed completion mode"));
            }
        }
    }
    let replaced = spec.get("podReplacementPolicy");
    if replaced.present() && !matches!(replaced.text(), "TerminatingOrFailed" | "Failed") {
        errors.push(replaced.not_supported(&["Failed", "TerminatingOrFailed"]));
    }
    let manager = spec.get("managedBy");
    if manager.present() && !manager.text().contains('/') {
        errors.push(manager.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"));
    }
    template::validate(errors, &spec.get("template"));
    let restart = spec.at(&["template", "spec", "restartPolicy"]);
    match restart.text() {
        // defaulting makes an absent one `Always`
        "Always" => errors.push(restart.required("valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" | "Never" => {}
        _ => errors.push(restart.not_supported(&["OnFailure", "Never"])),
    }
    failure_policy(errors, spec, restart.text());
}

fn failure_policy(errors: &mut Errors, spec: &At<'_>, restart: &str) {
    let policy = spec.get("podFailurePolicy");
    if !policy.present() {
        return;
    }
    if restart != "Never" {
        errors.push(
            spec.at(&["template", "spec", "restartPolicy"])
                .invalid("only \"Never\" is supported when podFailurePolicy is specified"),
        );
    }
    for rule in policy.get("rules").items() {
        let action = rule.get("action");
        const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
        if action.is_empty() {
            errors.push(action.required("valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"));
        } else if !ACTIONS.contains(&action.text()) {
            errors.push(action.not_supported(&ACTIONS));
        }
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        match (codes.present(), !conditions.is_empty()) {
            (true, true) => {
                errors.push(rule.invalid("specifying both OnExitCodes and OnPodConditions is not supported"));
            }
            (false, false) => {
                errors.push(rule.invalid("specifying one of OnExitCodes and OnPodConditions is required"));
            }
            (true, false) => exit_codes(errors, &codes, spec),
            (false, true) => {}
        }
    }
}

fn exit_codes(errors: &mut Errors, codes: &At<'_>, spec: &At<'_>) {
    if !matches!(codes.get("operator").text(), "In" | "NotIn") {
        errors.push(codes.get("operator").not_supported(&["In", "NotIn"]));
    }
    let container = codes.get("containerName");
    let known = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|l| spec.at(&["template", "spec", l]).items())
        .any(|c| c.get("name").text() == container.text());
    if container.present() && !known {
        errors.push(
            container.invalid("must be one of the container or initContainer names in the pod template"),
        );
    }
    let values = codes.get("values");
    if values.is_empty() {
        errors.push(values.invalid("at least one value is required"));
    }
    for value in values.items() {
        if codes.get("operator").text() == "In" && value.int() == Some(0) {
            errors.push(value.invalid("must not be 0 for the In operator"));
        }
    }
}

/// Fields of the pods' spec that may change while a job is suspended and has not started.
const SUSPENDED_MUTABLE: [&str; 4] = ["affinity", "nodeSelector", "tolerations", "schedulingGates"];

fn job_immutable(new: &At<'_>, old: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let elastic = new.get("completionMode").text() == "Indexed"
        && new.get("completions").int() == new.get("parallelism").int()
        && old.get("completions").int() == old.get("parallelism").int();
    if !elastic {
        immutable(&mut errors, &new.get("completions"), &old.get("completions"));
    }
    immutable(&mut errors, &new.get("selector"), &old.get("selector"));
    let suspended = old.get("suspend").flag();
    let comparable = |template: Value| {
        let mut template = template;
        if suspended {
            if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("labels");
                metadata.remove("annotations");
            }
            if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
                spec.retain(|field, _| !SUSPENDED_MUTABLE.contains(&field.as_str()));
            }
        }
        template
    };
    let (changed, base) =
        (comparable(new.get("template").to_value()), comparable(old.get("template").to_value()));
    if !same(Some(&changed), Some(&base)) {
        errors.push(new.get("template").invalid("field is immutable"));
    }
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        immutable(&mut errors, &new.get(field), &old.get(field));
    }
    errors
}

fn job_status(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let status = object.get("status");
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        non_negative(&mut errors, &status.get(field));
    }
    let done = |kind: &str| {
        status
            .get("conditions")
            .items()
            .any(|c| c.get("type").text() == kind && c.get("status").text() == "True")
    };
    if done("Complete") && done("Failed") {
        errors.push(status.get("conditions").invalid("cannot set Complete=True and Failed=True conditions"));
    }
    if status.get("completionTime").present() && !done("Complete") {
        errors.push(
            status
                .get("completionTime")
                .invalid("cannot set completionTime when there is no Complete=True condition"),
        );
    }
    errors
}

fn job_row(job: &Value, now: Timestamp) -> Vec<Value> {
    let is = |kind: &str| condition(job, kind).is_some_and(|c| c["status"] == "True");
    let status = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if !str_at(job, &["metadata", "deletionTimestamp"]).is_empty() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    let succeeded = number(job, &["status", "succeeded"]);
    let completions = match at(job, &["spec", "completions"]).and_then(Value::as_i64) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match number(job, &["spec", "parallelism"]) {
            parallel @ 2.. => format!("{succeeded}/1 of {parallel}"),
            _ => format!("{succeeded}/1"),
        },
    };
    let start = str_at(job, &["status", "startTime"]);
    let duration =
        match (start.parse::<Timestamp>(), str_at(job, &["status", "completionTime"]).parse::<Timestamp>()) {
            (Ok(start), Ok(end)) => human_duration(end.as_second() - start.as_second()),
            (Ok(_), Err(_)) => since(start, now),
            _ => String::new(),
        };
    let [names, images] = containers(&job["spec"]["template"]["spec"]);
    vec![
        name(job).into(),
        status.into(),
        completions.into(),
        duration.into(),
        age(job, now),
        names,
        images,
        selector(job["spec"].get("selector")),
    ]
}

pub(super) const CRON_JOBS: Rules = Rules {
    generation: true,
    default: |_, o| {
        let Some(spec) = spec(o) else { return };
        default_text(spec, "concurrencyPolicy", "Allow");
        default_to(spec, "suspend", false);
        default_to(spec, "successfulJobsHistoryLimit", 3);
        default_to(spec, "failedJobsHistoryLimit", 1);
        if let Some(template) = map_or_new(spec, "jobTemplate")
            && let Some(job_spec) = map_or_new(template, "spec")
        {
            default_template(job_spec);
        }
    },
    validate: |o| {
        let object = At::root(o);
        let mut errors = cron_job(&object);
        let own = object.at(&["metadata", "name"]);
        if own.text().len() > CRON_JOB_NAME_MAX {
            errors.push(own.invalid(format!("must be no more than {CRON_JOB_NAME_MAX} characters")));
        }
        errors
    },
    validate_update: |context, new, _| match context.subresource {
        "status" => Vec::new(),
        _ => cron_job(&At::root(new)),
    },
    warnings: |o, old| template::warnings(o, old, &["spec", "jobTemplate", "spec", "template"]),
    columns: &[
        ("Name", "string"),
        ("Schedule", "string"),
        ("Timezone", "string"),
        ("Suspend", "boolean"),
        ("Active", "integer"),
        ("Last Schedule", "string"),
        ("Age", "string"),
        ("+Containers", "string"),
        ("+Images", "string"),
        ("+Selector", "string"),
    ],
    row: |o, now| {
        let last = match str_at(o, &["status", "lastScheduleTime"]) {
            "" => "<none>".into(),
            time => since(time, now),
        };
        let suspend = match at(o, &["spec", "suspend"]).and_then(Value::as_bool) {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        };
        let job = &o["spec"]["jobTemplate"]["spec"];
        let [names, images] = containers(&job["template"]["spec"]);
        vec![
            name(o).into(),
            str_at(o, &["spec", "schedule"]).into(),
            or(str_at(o, &["spec", "timeZone"]), "<none>"),
            suspend.into(),
            list(o, &["status", "active"]).len().into(),
            last.into(),
            age(o, now),
            names,
            images,
            print::selector(job.get("selector")),
        ]
    },
    ..DEFAULT
};

fn cron_job(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    let schedule = spec.get("schedule");
    if schedule.is_empty() {
        errors.push(schedule.required(""));
    } else if schedule.text().contains("TZ") {
        errors.push(schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
    } else if let Err(problem) = cron::check(schedule.text()) {
        errors.push(schedule.invalid(problem));
    }
    let zone = spec.get("timeZone");
    if zone.present() {
        if zone.is_empty() {
            errors.push(zone.invalid("timeZone must be nil or non-empty string"));
        } else if zone.text().eq_ignore_ascii_case("local") {
            errors.push(zone.invalid(
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            ));
        } else if !cron::is_time_zone(zone.text()) {
            errors.push(zone.invalid(format!("unknown time zone {}", zone.text())));
        }
    }
    non_negative(&mut errors, &spec.get("startingDeadlineSeconds"));
    let policy = spec.get("concurrencyPolicy");
    if policy.is_empty() {
        errors.push(policy.required(""));
    } else if !matches!(policy.text(), "Allow" | "Forbid" | "Replace") {
        errors.push(policy.not_supported(&["Allow", "Forbid", "Replace"]));
    }
    non_negative(&mut errors, &spec.get("successfulJobsHistoryLimit"));
    non_negative(&mut errors, &spec.get("failedJobsHistoryLimit"));
    let job = spec.at(&["jobTemplate", "spec"]);
    if job.get("manualSelector").flag() {
        errors.push(job.get("manualSelector").not_supported(&["nil", "false"]));
    }
    if job.get("selector").present() {
        errors.push(job.get("selector").invalid("`selector` will be auto-generated"));
    }
    job_spec(&mut errors, &job);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;
    use apimachinery::strategy::WriteContext;

    const CONTEXT: WriteContext<'static> =
        WriteContext { now: Timestamp::UNIX_EPOCH, user: "u", groups: &[], subresource: "", group: "" };

    fn new_job(spec: Value) -> Value {
        let mut job = json!({"metadata": {"name": "j", "uid": "u1"}, "spec": {"template": {"spec":
            {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            job["spec"][key] = value.clone();
        }
        default_job("v1", &mut job);
        (JOBS.prepare_create)(&CONTEXT, &mut job);
        job
    }

    #[test]
    fn a_job_selects_its_pods_by_uid() {
        let job = new_job(json!({}));
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {CONTROLLER_UID: "u1"}}));
        assert_eq!(job["spec"]["template"]["metadata"]["labels"][JOB_NAME], "j");
        assert_eq!(job["spec"]["completions"], 1);
        assert_eq!(job["spec"]["backoffLimit"], 6);
        assert_eq!((JOBS.validate)(&job), []);
    }

    #[test]
    fn problems() {
        for (spec, expected) in [
            (
                json!({"completionMode": "Indexed", "parallelism": 1}),
                "spec.completions: Required value: when completion mode is Indexed",
            ),
            (
                json!({"backoffLimit": -1}),
                "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}),
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ),
        ] {
            let texts: Vec<String> =
                (JOBS.validate)(&new_job(spec)).iter().map(ToString::to_string).collect();
            assert_eq!(texts, [expected]);
        }
        let (old, mut new) = (new_job(json!({})), new_job(json!({})));
        new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("j");
        let errors = (JOBS.validate_update)(&CONTEXT, &new, &old);
        assert!(errors[0].to_string().ends_with("field is immutable"), "{errors:?}");
    }

    #[test]
    fn rows() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().expect("a time");
        let job = json!({"metadata": {"name": "j"}, "spec": {"completions": 1}, "status": {"succeeded": 1,
            "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:05Z",
            "conditions": [{"type": "Complete", "status": "True"}]}});
        assert_eq!(job_row(&job, now)[1..4], ["Complete", "1/1", "5s"].map(Value::from));
        let cron = json!({"metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "suspend": false}});
        assert_eq!(
            (CRON_JOBS.row)(&cron, now)[1..6],
            [json!("* * * * *"), json!("<none>"), json!("False"), json!(0), json!("<none>")]
        );
        let mut defaulted = cron.clone();
        (CRON_JOBS.default)("v1", &mut defaulted);
        assert_eq!(defaulted["spec"]["concurrencyPolicy"], "Allow");
    }
}
