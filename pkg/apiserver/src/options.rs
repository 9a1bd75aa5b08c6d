//! Options of requests (`ListOptions`, `CreateOptions`, ...), read from the query and checked as upstream does.

use std::time::Duration;

use apimachinery::coerce::FieldValidation;
use apimachinery::json::go_quote;
use apimachinery::managedfields::manager_name;
use apimachinery::objectmeta;
use apimachinery::status::{FieldError, Reason, Status};
use apimachinery::{Map, Value};
use storage::Revision;

use crate::context::RequestContext;
use crate::core::create::WriteParams;
use crate::query::Query;

/// Group of the options' kinds.
const META: &str = "meta.k8s.io";

/// Which options a write takes, and with them what it is told is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `CreateOptions`.
    Create,
    /// `UpdateOptions`.
    Update,
    /// `PatchOptions` of server-side apply.
    Apply,
    /// `PatchOptions` of the other patches.
    Patch,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Apply | Self::Patch => "PatchOptions",
        }
    }
}

/// Whether `dryRun=All` was asked for; 422 for any other value.
pub fn dry_run(query: &Query) -> Result<bool, Status> {
    let given: Vec<&str> = query.all("dryRun").collect();
    match check_dry_run(&given) {
        None => Ok(!given.is_empty()),
        Some(error) => Err(Status::invalid(META, Kind::Create.name(), "", &[error])),
    }
}

/// What is wrong with the values of `dryRun`.
pub(crate) fn check_dry_run(given: &[&str]) -> Option<FieldError> {
    let known = given.iter().all(|value| *value == "All");
    let values = || Value::from(given.iter().map(|v| Value::from(*v)).collect::<Vec<_>>());
    (!known).then(|| FieldError::not_supported("dryRun", values(), &["All"]))
}

/// Options of a create, update or patch.
pub(crate) struct WriteOptions {
    pub(crate) params: WriteParams,
    pub(crate) validation: FieldValidation,
    pub(crate) field_manager: String,
    pub(crate) force: Option<bool>,
}

/// Reads the options of a write.
pub(crate) fn write(context: &RequestContext, kind: Kind) -> Result<WriteOptions, Status> {
    let query = &context.query;
    let field_manager = query.get("fieldManager").unwrap_or("").to_owned();
    let force = query.flag_opt("force");
    let mut errors = Vec::new();
    if kind == Kind::Apply && field_manager.is_empty() {
        errors.push(FieldError::required("fieldManager", "is required for apply patch"));
    }
    if kind == Kind::Patch && force.is_some() {
        errors.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
    }
    errors.extend(objectmeta::field_manager(&field_manager, "fieldManager"));
    let dry_run: Vec<&str> = query.all("dryRun").collect();
    errors.extend(check_dry_run(&dry_run));
    let dry_run = !dry_run.is_empty();
    let validation = query.get("fieldValidation").unwrap_or("");
    let parsed = FieldValidation::parse(validation);
    if parsed.is_none() {
        let known = ["", "Ignore", "Strict", "Warn"];
        errors.push(FieldError::not_supported("fieldValidation", validation, &known));
    }
    if !errors.is_empty() {
        return Err(Status::invalid(META, kind.name(), "", &errors));
    }
    let mut options = Map::new();
    options.insert("kind".into(), kind.name().into());
    options.insert("apiVersion".into(), "meta.k8s.io/v1".into());
    if dry_run {
        options.insert("dryRun".into(), vec![Value::from("All")].into());
    }
    for key in ["fieldManager", "fieldValidation"] {
        if let Some(value) = query.get(key).filter(|v| !v.is_empty()) {
            options.insert(key.into(), value.into());
        }
    }
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
    let limit = number(query, "limit")?.unwrap_or(0);
    let timeout = number(query, "timeoutSeconds")?.filter(|s| *s > 0);
    let version = query.get("resourceVersion").unwrap_or("");
    let continue_token = text("continue");
    let version_match = query.get("resourceVersionMatch").unwrap_or("");
    let mut initial_events = query.flag_opt("sendInitialEvents");
    let any_or_latest = matches!(version, "" | "0");
    let mut errors = if watch {
        watch_errors(version_match, initial_events, &continue_token)
    } else {
        list_errors(version, version_match, initial_events, &continue_token)
    };
    if watch && initial_events.is_none() && version_match.is_empty() && any_or_latest {
        // such a watch has always begun with what is there; since there are streaming lists it is one of them
        initial_events = Some(true);
    }
    if query.get("shardSelector").is_some_and(|s| !s.is_empty()) {
        errors.push(FieldError::forbidden(
            "shardSelector",
            "sharded lists and watches are not enabled on this server",
        ));
    }
    if !errors.is_empty() {
        return Err(Status::invalid(META, "ListOptions", "", &errors));
    }
    let version = match version {
        "" => None,
        "0" => Some(Revision(0)),
        _ if !watch && !continue_token.is_empty() => {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        given if watch => Some(parse_version(given).map_err(unreadable)?),
        given => Some(
            parse_version(given)
                .map_err(|e| Status::bad_request(format!("invalid resource version: {e}")))?,
        ),
    };
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

const MATCH: &str = "resourceVersionMatch";
const WITH_CONTINUE: &str = "resourceVersionMatch is forbidden when continue is provided";

/// What contradicts itself in the options of a list, in upstream's order.
fn list_errors(
    version: &str,
    version_match: &str,
    initial_events: Option<bool>,
    continue_token: &str,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !version_match.is_empty() {
        if version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(MATCH, why));
        }
        if !continue_token.is_empty() {
            errors.push(FieldError::forbidden(MATCH, WITH_CONTINUE));
        }
        if !matches!(version_match, "Exact" | "NotOlderThan") {
            let known = ["Exact", "NotOlderThan", ""];
            errors.push(FieldError::not_supported(MATCH, version_match, &known));
        }
        if version_match == "Exact" && version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(MATCH, why));
        }
    }
    if initial_events.is_some() {
        errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    errors
}

/// What contradicts itself in the options of a watch, in upstream's order.
fn watch_errors(version_match: &str, initial_events: Option<bool>, continue_token: &str) -> Vec<FieldError> {
    const ONLY: &str = "NotOlderThan";
    let mut errors = Vec::new();
    if initial_events.is_some() && version_match != ONLY {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(MATCH, why));
    }
    if !version_match.is_empty() {
        if initial_events.is_none() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(MATCH, why));
        }
        if version_match != ONLY {
            errors.push(FieldError::not_supported(MATCH, version_match, &[ONLY]));
        }
        if !continue_token.is_empty() {
            errors.push(FieldError::forbidden(MATCH, WITH_CONTINUE));
        }
    }
    errors
}

/// A resourceVersion as a revision, or what is wrong with it. One larger than any revision is in the future for ever.
fn parse_version(text: &str) -> Result<Revision, FieldError> {
    match text.parse::<u64>() {
        Ok(number) => Ok(Revision(i64::try_from(number).unwrap_or(i64::MAX))),
        Err(error) => {
            let out_of_range = *error.kind() == std::num::IntErrorKind::PosOverflow;
            let why = if out_of_range { "value out of range" } else { "invalid syntax" };
            let why = format!("strconv.ParseUint: parsing {}: {why}", go_quote(text));
            Err(FieldError::invalid("resourceVersion", text, why))
        }
    }
}

/// How upstream answers a get and a watch of a resourceVersion that is none.
fn unreadable(error: FieldError) -> Status {
    Status::new(500, Reason::Unknown, error.to_string())
}

/// The revision that the `resourceVersion` of a get names.
pub(crate) fn version_of_get(text: &str) -> Result<Revision, Status> {
    parse_version(text).map_err(unreadable)
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
            ("resourceVersion=5&resourceVersionMatch=NotOlderThan&limit=3", false, 200),
            ("resourceVersion=0&continue=x", false, 200),
            ("resourceVersion=5&continue=x", false, 400),
            ("limit=x", false, 400),
            ("limit=", false, 400),
            ("timeoutSeconds=99999999999999999999", true, 400),
            ("resourceVersion=abc", false, 400),
            ("resourceVersion=abc", true, 500),
            ("resourceVersion=18446744073709551615", false, 200),
            ("resourceVersion=18446744073709551616", false, 400),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true, 200),
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
    fn watches_of_no_particular_version_begin_with_what_is_there() {
        for (query, expected) in [
            ("", Some(true)),
            ("resourceVersion=0", Some(true)),
            ("resourceVersion=5", None),
            ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan", Some(false)),
        ] {
            let options = read(&Query::parse(query), true).expect("valid");
            assert_eq!(options.initial_events, expected, "{query}");
        }
    }

    #[test]
    fn dry_run_is_all_or_nothing() {
        assert_eq!(dry_run(&Query::parse("dryRun=All")), Ok(true));
        assert_eq!(dry_run(&Query::parse("")), Ok(false));
        assert_eq!(dry_run(&Query::parse("dryRun=Some")).expect_err("no such value").code, 422);
    }
}
