//! Options of requests (`ListOptions`, `CreateOptions`, ...), read from the query and checked as upstream does.

use apimachinery::status::{FieldError, Status};

use crate::query::Query;

/// Whether `dryRun=All` was asked for; 422 for any other value.
pub fn dry_run(query: &Query) -> Result<bool, Status> {
    let mut dry = false;
    for value in query.all("dryRun").filter(|v| !v.is_empty()) {
        if value != "All" {
            let error = FieldError::not_supported("dryRun", value, &["All"]);
            return Err(Status::invalid("meta.k8s.io", "CreateOptions", "", &[error]));
        }
        dry = true;
    }
    Ok(dry)
}
