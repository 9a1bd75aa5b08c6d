//! Requests for certificates: who asks, who decides, who signs.
//!
//! Source: `pkg/apis/certificates/validation`, `pkg/registry/certificates/certificates`.

use std::collections::BTreeSet;

use apimachinery::Value;
use apimachinery::meta::at;
use apimachinery::status::FieldError;
use apimachinery::strategy::Resets;
use apimachinery::validation::{dns1123_label, dns1123_subdomain};
use jiff::Timestamp;

use super::print::{age, condition, list, name, or, str_at};
use super::rules::{DEFAULT, Rules};
use crate::cursor::{At, Errors, one_of};
use crate::edit::{default_to, keep, maps_in, spec, text, unset};

/// Conditions that only `approval` may set.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];
/// Conditions that stay once they are there, and are true.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];
/// Shortest lifetime of a certificate that may be asked for, in seconds.
const MIN_CERTIFICATE_SECONDS: i64 = 600;
/// Longest domain of a signer's name, and longest path: a namespace and a name.
const MAX_DOMAIN: usize = 253;
const MAX_PATH: usize = 253 + 63 + 1;
/// What a certificate may be for.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) const SIGNING_REQUESTS: Rules = Rules {
    resets: &[
        ("status", Resets::Except(&["spec", "status.conditions"])),
        ("approval", Resets::Except(&["spec", "status.certificate"])),
    ],
    prepare_create: |context, o| {
        // who asks is who made the request, whatever the body says
        if let Some(spec) = spec(o) {
            for field in ["username", "uid", "groups", "extra"] {
                spec.remove(field);
            }
            spec.insert("username".into(), context.user.into());
            if !context.groups.is_empty() {
                spec.insert("groups".into(), context.groups.into());
            }
        }
    },
    prepare_update: |context, new, old| {
        keep(new, old, "spec");
        match context.subresource {
            "approval" => {
                let conditions = at(new, &["status", "conditions"]).cloned();
                keep(new, old, "status");
                if let Some(status) = crate::edit::status(new) {
                    match conditions {
                        Some(conditions) => status.insert("conditions".into(), conditions),
                        None => status.remove("conditions"),
                    };
                }
                stamp_conditions(new, old, context.now);
            }
            "status" => {
                keep_decisions(new, old);
                stamp_conditions(new, old, context.now);
            }
            _ => {}
        }
    },
    validate: |o| signing_request(&At::root(o)),
    validate_update: |context, new, old| update(context.subresource, &At::root(new), &At::root(old)),
    name: crate::names::path_segment_name,
    columns: &[
        ("Name", "string"),
        ("Age", "string"),
        ("SignerName", "string"),
        ("Requestor", "string"),
        ("RequestedDuration", "string"),
        ("Condition", "string"),
    ],
    row: |o, now| {
        let duration = at(o, &["spec", "expirationSeconds"])
            .and_then(Value::as_i64)
            .map_or_else(|| "<none>".into(), apimachinery::table::human_duration);
        vec![
            name(o).into(),
            age(o, now),
            or(str_at(o, &["spec", "signerName"]), "<none>"),
            str_at(o, &["spec", "username"]).into(),
            duration.into(),
            request_state(o).into(),
        ]
    },
    ..DEFAULT
};

/// Status writers who know of every decision write it as it was.
fn keep_decisions(new: &mut Value, old: &Value) {
    let of = |o: &Value, kind: &str| -> Vec<Value> {
        list(o, &["status", "conditions"]).iter().filter(|c| str_at(c, &["type"]) == kind).cloned().collect()
    };
    for kind in DECISIONS {
        let before = of(old, kind);
        if before.len() != of(new, kind).len() {
            continue;
        }
        let Some(status) = crate::edit::status(new) else { return };
        let places = maps_in(status, "conditions").filter(|c| text(c, "type") == kind);
        for (place, before) in places.zip(before) {
            if let Value::Object(before) = before {
                *place = before;
            }
        }
    }
}

/// Times of conditions that are new or changed.
fn stamp_conditions(new: &mut Value, old: &Value, now: Timestamp) {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let before = list(old, &["status", "conditions"]).to_vec();
    let Some(status) = crate::edit::status(new) else { return };
    for condition in maps_in(status, "conditions") {
        let kind = text(condition, "type").to_owned();
        let known = before.iter().find(|c| str_at(c, &["type"]) == kind);
        default_to(condition, "lastUpdateTime", now.clone());
        if unset(condition, "lastTransitionTime") {
            let same_state = known.filter(|c| str_at(c, &["status"]) == text(condition, "status"));
            let time = same_state.map_or(now.as_str(), |c| str_at(c, &["lastTransitionTime"])).to_owned();
            condition.insert("lastTransitionTime".into(), time.into());
        }
    }
}

fn signing_request(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let spec = object.get("spec");
    if spec.get("request").is_empty() {
        errors.push(spec.get("request").invalid_text("PEM block type must be CERTIFICATE REQUEST"));
    }
    let usages = spec.get("usages");
    if usages.is_empty() {
        errors.push(usages.required("usages must be provided"));
    }
    let mut seen = BTreeSet::new();
    for usage in usages.items() {
        one_of(&mut errors, &usage, &USAGES);
        if seen.contains(&usage.text()) {
            errors.push(usage.duplicate());
        }
        seen.insert(usage.text());
    }
    signer(&mut errors, &spec.get("signerName"));
    let seconds = spec.get("expirationSeconds");
    if seconds.int().is_some_and(|s| s < MIN_CERTIFICATE_SECONDS) {
        errors.push(seconds.invalid("may not specify a duration less than 600 seconds (10 minutes)"));
    }
    errors
}

/// `domain/path`.
fn signer(errors: &mut Errors, signer: &At<'_>) {
    if signer.is_empty() {
        errors.push(signer.required("signerName must be provided"));
        return;
    }
    if signer.text() == "kubernetes.io/legacy-unknown" {
        errors.push(signer.invalid("the legacy signerName is not allowed via this API version"));
        return;
    }
    let parts = signer.text().split_once('/').filter(|(_, path)| !path.contains('/'));
    let Some((domain, path)) = parts else {
        let form = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(signer.invalid(form));
        return;
    };
    if domain.len() > MAX_DOMAIN {
        errors.push(signer.too_long(MAX_DOMAIN));
    }
    let mut labels = |part: &str, problems: fn(&str, bool) -> Vec<String>| {
        // one label's problems are enough
        let bad = part.split('.').map(|label| (label, problems(label, false))).find(|(_, p)| !p.is_empty());
        for problem in bad.iter().flat_map(|(_, problems)| problems) {
            let label = bad.as_ref().map_or("", |(label, _)| label);
            errors.push(signer.invalid_value(part, format!("validating label {label:?}: {problem}")));
        }
    };
    labels(domain, dns1123_label);
    labels(path, dns1123_subdomain);
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(signer.invalid_value(domain, why));
    }
    if signer.text().len() > MAX_DOMAIN + 1 + MAX_PATH {
        errors.push(signer.too_long(MAX_DOMAIN + 1 + MAX_PATH));
    }
}

/// What conditions must be, beside those that were as wrong before.
fn conditions(object: &At<'_>) -> Errors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for condition in object.at(&["status", "conditions"]).items() {
        let (kind, status) = (condition.get("type"), condition.get("status"));
        if kind.is_empty() {
            errors.push(kind.required(""));
        }
        let allowed: &[&str] =
            if FINAL.contains(&kind.text()) { &["True"] } else { &["False", "True", "Unknown"] };
        one_of(&mut errors, &status, allowed);
        let other = DECISIONS.iter().find(|d| **d != kind.text());
        if DECISIONS.contains(&kind.text()) && other.is_some_and(|other| seen.contains(other)) {
            errors.push(kind.invalid("Approved and Denied conditions are mutually exclusive"));
        }
        if seen.contains(&kind.text()) {
            errors.push(kind.duplicate());
        }
        seen.insert(kind.text());
    }
    errors
}

/// What was decided stays; decisions are made through `approval`, certificates are set through `status`, once.
fn update(subresource: &str, new: &At<'_>, old: &At<'_>) -> Errors {
    let known = conditions(old);
    let mut errors: Errors = conditions(new).into_iter().filter(|error| !known.contains(error)).collect();
    let of = |object: &At<'_>, kind: &str| -> Vec<Value> {
        let all = object.at(&["status", "conditions"]);
        all.items().filter(|c| c.get("type").text() == kind).map(|c| c.to_value()).collect()
    };
    let forbidden = |what: &str, kind: &str| {
        FieldError::forbidden(
            "status.conditions",
            format!("updates may not {what} a condition of type {kind:?}"),
        )
    };
    for kind in FINAL {
        let (before, after) = (of(old, kind), of(new, kind));
        let decided_here = subresource == "approval" || !DECISIONS.contains(&kind);
        if after.len() < before.len() {
            errors.push(forbidden("remove", kind));
        } else if decided_here {
        } else if after.len() > before.len() {
            errors.push(forbidden("add", kind));
        } else if after != before {
            errors.push(forbidden("modify", kind));
        }
    }
    let path = ["status", "certificate"];
    let (after, before) = (new.at(&path), old.at(&path));
    if after.text() != before.text() {
        if subresource != "status" {
            errors.push(after.forbidden("updates may not set certificate content"));
        } else if !before.is_empty() {
            errors.push(after.forbidden("updates may not modify existing certificate content"));
        }
    }
    errors
}

fn request_state(object: &Value) -> String {
    let has = |kind: &str| condition(object, kind).is_some();
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !str_at(object, &["status", "certificate"]).is_empty() {
        state.push_str(",Issued");
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::json;
    use apimachinery::strategy::WriteContext;

    fn context(subresource: &str) -> WriteContext<'_> {
        WriteContext { now: Timestamp::UNIX_EPOCH, user: "jane", groups: &[], subresource, group: "" }
    }

    #[test]
    fn who_asks_for_a_certificate_is_who_made_the_request() {
        let mut request =
            json!({"spec": {"username": "root", "signerName": "a.b/c", "request": "x", "usages": ["any"]}});
        (SIGNING_REQUESTS.prepare_create)(&context(""), &mut request);
        assert_eq!(request["spec"]["username"], "jane");
        assert_eq!((SIGNING_REQUESTS.validate)(&request), []);
        for (signer, usages, expected) in [
            ("a.b", json!(["any"]), vec!["spec.signerName"]),
            ("a/b", json!(["any"]), vec!["spec.signerName"]),
            ("A.b/c", json!(["any"]), vec!["spec.signerName"]),
            ("kubernetes.io/legacy-unknown", json!(["any"]), vec!["spec.signerName"]),
            ("a.b/c", json!(["any", "any", "all"]), vec!["spec.usages[1]", "spec.usages[2]"]),
            ("a.b/c", json!([]), vec!["spec.usages"]),
        ] {
            request["spec"]["signerName"] = json!(signer);
            request["spec"]["usages"] = usages;
            let fields: Vec<String> =
                (SIGNING_REQUESTS.validate)(&request).into_iter().map(|e| e.field).collect();
            assert_eq!(fields, expected, "{signer}");
        }
    }

    #[test]
    fn decisions_are_made_in_approval_alone_and_stay() {
        let request = |conditions: &[(&str, &str)], certificate: &str| {
            let conditions: Vec<Value> = conditions
                .iter()
                .map(|(kind, reason)| {
                    json!({"type": kind, "status": "True", "reason": reason, "lastUpdateTime": "t", "lastTransitionTime": "t"})
                })
                .collect();
            json!({"spec": {"a": 1}, "status": {"conditions": conditions, "certificate": certificate}})
        };
        let approved = [("Approved", "yes")];
        let both = [("Approved", "yes"), ("Denied", "no")];
        type Conditions<'a> = &'a [(&'a str, &'a str)];
        type Case<'a> = (&'a str, Conditions<'a>, &'a str, Conditions<'a>, &'a str, &'a [&'a str]);
        let cases: [Case<'_>; 11] = [
            ("approval", &[], "", &approved, "", &[]),
            ("approval", &approved, "", &[], "", &["remove a condition of type \"Approved\""]),
            ("approval", &approved, "", &both, "", &["mutually exclusive"]),
            ("approval", &[], "", &approved, "x", &[]),
            ("status", &[], "", &[("Denied", "no")], "", &["add a condition of type \"Denied\""]),
            ("status", &approved, "", &[], "", &["remove a condition of type \"Approved\""]),
            ("status", &approved, "", &[("Approved", "other")], "x", &[]),
            ("status", &approved, "", &[("Approved", "yes"), ("Failed", "f")], "", &[]),
            ("status", &approved, "x", &approved, "y", &["modify existing certificate content"]),
            (
                "status",
                &approved,
                "",
                &[("Approved", "yes"), ("Other", "o"), ("Other", "o")],
                "",
                &["Duplicate"],
            ),
            ("", &approved, "x", &[], "", &[]),
        ];
        for (subresource, before, certificate, after, new_certificate, expected) in cases {
            let old = request(before, certificate);
            let mut new = request(after, new_certificate);
            new["spec"] = json!({"a": 2});
            if subresource.is_empty() {
                // what the generic rules do
                new["status"] = old["status"].clone();
            }
            (SIGNING_REQUESTS.prepare_update)(&context(subresource), &mut new, &old);
            assert_eq!(new["spec"], old["spec"]);
            let errors = (SIGNING_REQUESTS.validate_update)(&context(subresource), &new, &old);
            let texts: Vec<String> = errors.iter().map(FieldError::body).collect();
            assert_eq!(texts.len(), expected.len(), "{subresource} {before:?} {after:?}: {texts:?}");
            for (text, expected) in texts.iter().zip(expected) {
                assert!(text.contains(expected), "{subresource} {before:?} {after:?}: {texts:?}");
            }
        }
        let mut kept = request(&[("Approved", "other")], "x");
        (SIGNING_REQUESTS.prepare_update)(&context("status"), &mut kept, &request(&approved, ""));
        assert_eq!(kept["status"]["conditions"][0]["reason"], "yes");
    }
}
