//! Options of requests (`ListOptions`, `CreateOptions`, ...), read from the query and checked as upstream does.

use std::time::Duration;

use apimachinery::coerce::FieldValidation;
use apimachinery::json::go_quote;
use apimachinery::managedfields::manager_name;
use apimachinery::objectmeta;
use apimachinery::status::{FieldError, Status};
use apimachinery::{Map, Value};
use storage::Revision;

use crate::context::RequestContext;
use crate::core::create::WriteParams;
use crate::query::Query;

/// Whether `dryRun=All` was asked for; 422 for any other value.
pub fn dry_run(query: &Query) -> Result<bool, Status> {
    dry_run_of(query, "CreateOptions")
}

fn dry_run_of(query: &Query, kind: &str) -> Result<bool, Status> {
    let given: Vec<&str> = query.all("dryRun").filter(|v| !v.is_empty()).collect();
    if given.iter().any(|value| *value != "All") {
        let error = FieldError::not_supported("dryRun", Value::from(given), &["All"]);
        return Err(Status::invalid("meta.k8s.io", kind, "", &[error]));
    }
    Ok(!given.is_empty())
}

/// Options of a create, update or patch.
pub(crate) struct WriteOptions {
    pub(crate) params: WriteParams,
    pub(crate) validation: FieldValidation,
    pub(crate) field_manager: String,
    pub(crate) force: Option<bool>,
}

/// Reads the options of a write; `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
pub(crate) fn write(context: &RequestContext, kind: &str) -> Result<WriteOptions, Status> {
    let query = &context.query;
    let dry_run = dry_run_of(query, kind)?;
    let field_manager = query.get("fieldManager").unwrap_or("").to_owned();
    let mut errors = objectmeta::field_manager(&field_manager, "fieldManager");
    let validation = query.get("fieldValidation").unwrap_or("");
    let parsed = FieldValidation::parse(validation);
    if parsed.is_none() {
        errors.push(FieldError::not_supported(
            "fieldValidation",
            validation,
            &["Ignore", "Strict", "Warn", ""],
        ));
    }
    if !errors.is_empty() {
        return Err(Status::invalid("meta.k8s.io", kind, "", &errors));
    }
    let mut options = Map::new();
    options.insert("kind".into(), kind.into());
    options.insert("apiVersion".into(), "meta.k8s.io/v1".into());
    if dry_run {
        options.insert("dryRun".into(), vec![Value::from("All")].into());
    }
    for key in ["fieldManager", "fieldValidation"] {
        if let Some(value) = query.get(key).filter(|v| !v.is_empty()) {
            options.insert(key.into(), value.into());
        }
    }
    let force = query.flag_opt("force");
    if let Some(force) = force {
        options.insert("force".into(), force.into());
    }
    Ok(WriteOptions {
        params: WriteParams {
            dry_run,
            admission: true,
            rules: true,
            manager: Some(manager_name(&field_manager, &context.user_agent)),
            applies: false,
            options: Some(Value::Object(options)),
            url_name: None,
        },
        validation: parsed.unwrap_or_default(),
        field_manager,
        force,
    })
}

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    /// Not given.
    Unset,
    /// `NotOlderThan`.
    NotOlderThan,
    /// `Exact`.
    Exact,
}

/// Options of a get, list or watch.
#[derive(Debug, Clone)]
pub(crate) struct ReadOptions {
    /// `resourceVersion`, `None` when not given; 0 is any.
    pub(crate) version: Option<Revision>,
    pub(crate) version_match: VersionMatch,
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) timeout: Option<Duration>,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: Option<bool>,
}

/// A whole number of a query, 400 in Go's words when it is none.
pub(crate) fn number(query: &Query, key: &str) -> Result<Option<i64>, Status> {
    query.integer(key).map_err(|text| {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(&text);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let why = if is_number { "value out of range" } else { "invalid syntax" };
        Status::bad_request(format!("strconv.ParseInt: parsing {}: {why}", go_quote(&text)))
    })
}

/// Reads the options of a list, watch or deletecollection.
pub(crate) fn read(query: &Query, watch: bool) -> Result<ReadOptions, Status> {
    let text = |key: &str| query.get(key).unwrap_or("").to_owned();
    let version = match query.get("resourceVersion") {
        None | Some("") => None,
        Some(given) => Some(parse_version(given)?),
    };
    let continue_token = text("continue");
    let version_match = query.get("resourceVersionMatch").unwrap_or("");
    let initial_events = query.flag_opt("sendInitialEvents");
    let mut errors = Vec::new();
    let forbid = |field: &str, why: &str| FieldError::forbidden(field, why);
    let is_match = "resourceVersionMatch";
    if watch && (!version_match.is_empty() || initial_events.is_some()) {
        if initial_events.is_none() && !version_match.is_empty() {
            errors.push(forbid(
                is_match,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        } else if initial_events.is_some() && version_match.is_empty() {
            errors.push(forbid(
                is_match,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        } else if version_match != "NotOlderThan" {
            errors.push(FieldError::not_supported(is_match, version_match, &["NotOlderThan"]));
        }
    } else if !watch {
        if initial_events.is_some() {
            errors.push(forbid("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        if !version_match.is_empty() {
            if version.is_none() {
                errors.push(forbid(
                    is_match,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if !continue_token.is_empty() {
                errors.push(forbid(is_match, "resourceVersionMatch is forbidden when continue is provided"));
            }
            if !matches!(version_match, "Exact" | "NotOlderThan") {
                errors.push(FieldError::not_supported(
                    is_match,
                    version_match,
                    &["Exact", "NotOlderThan", ""],
                ));
            }
            if version_match == "Exact" && version == Some(Revision(0)) {
                errors.push(forbid(
                    is_match,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
    }
    if query.get("shardSelector").is_some_and(|s| !s.is_empty()) {
        errors.push(forbid("shardSelector", "sharded lists and watches are not enabled on this server"));
    }
    if !errors.is_empty() {
        return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors));
    }
    let limit = number(query, "limit")?.unwrap_or(0);
    let timeout = number(query, "timeoutSeconds")?.filter(|s| *s > 0);
    Ok(ReadOptions {
        version,
        version_match: match version_match {
            "Exact" => VersionMatch::Exact,
            "NotOlderThan" => VersionMatch::NotOlderThan,
            _ => VersionMatch::Unset,
        },
        limit: usize::try_from(limit).unwrap_or(0),
        continue_token,
        label_selector: text("labelSelector"),
        field_selector: text("fieldSelector"),
        timeout: timeout.map(|s| Duration::from_secs(s.unsigned_abs())),
        bookmarks: query.flag("allowWatchBookmarks"),
        initial_events,
    })
}

/// A resourceVersion as a revision; 400 when it is none.
pub(crate) fn parse_version(text: &str) -> Result<Revision, Status> {
    text.parse::<u64>().ok().and_then(|n| i64::try_from(n).ok()).map(Revision).ok_or_else(|| {
        Status::invalid(
            "",
            "",
            "",
            &[FieldError::invalid(
                "resourceVersion",
                text,
                format!("strconv.ParseUint: parsing {text:?}: invalid syntax"),
            )],
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(query: &str, watch: bool) -> u16 {
        read(&Query::parse(query), watch).map_or_else(|e| e.code, |_| 200)
    }

    #[test]
    fn combinations_are_checked() {
        let cases = [
            ("", false, 200),
            ("resourceVersion=5&resourceVersionMatch=Exact", false, 200),
            ("resourceVersion=0&resourceVersionMatch=Exact", false, 422),
            ("resourceVersionMatch=Exact", false, 422),
            ("resourceVersion=1&resourceVersionMatch=Foo", false, 422),
            ("resourceVersion=1&resourceVersionMatch=Exact&continue=x", false, 422),
            ("sendInitialEvents=true", false, 422),
            ("sendInitialEvents=true", true, 422),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true, 200),
            ("resourceVersionMatch=NotOlderThan", true, 422),
            ("limit=x", false, 400),
            ("resourceVersion=abc", false, 422),
        ];
        for (query, watch, expected) in cases {
            assert_eq!(code(query, watch), expected, "{query} {watch}");
        }
    }

    #[test]
    fn numbers_that_are_none_are_named_as_go_names_them() {
        let cases = [
            ("limit=x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("limit=-", "strconv.ParseInt: parsing \"-\": invalid syntax"),
            (
                "timeoutSeconds=-99999999999999999999",
                "strconv.ParseInt: parsing \"-99999999999999999999\": value out of range",
            ),
        ];
        for (query, message) in cases {
            let refused = read(&Query::parse(query), false).expect_err(query);
            assert_eq!((refused.code, refused.message.as_str()), (400, message));
        }
    }

    #[test]
    fn dry_run_is_all_or_nothing() {
        assert_eq!(dry_run(&Query::parse("dryRun=All")), Ok(true));
        assert_eq!(dry_run(&Query::parse("")), Ok(false));
        assert_eq!(dry_run(&Query::parse("dryRun=Some")).expect_err("no such value").code, 422);
    }
}
