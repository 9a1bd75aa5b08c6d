//! Takes an object of every built-in kind, every field set, through every form of the API.
#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::process::ExitCode;

use apis::ServedVersions;
use checks::roundtrip::{Report, forms, stored};
use controlplane::StorageMediaType;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    let catalog = apis::catalog();
    for definition in catalog.definitions() {
        // DeleteOptions and its kin are kinds of every group version, and the same in each; a watch's event is a kind in
        // name only
        let named = catalog.schema().field(definition.node, "apiVersion").is_some();
        if let Some(gvk) = definition.kinds.first().filter(|_| named) {
            forms::check_kind(catalog.schema(), definition.node, gvk, &mut report);
        }
    }
    let every = ServedVersions::from_runtime_config([("api/all", "true")])?;
    for descriptor in apis::resources(&every) {
        forms::check_versions(&descriptor, &mut report);
    }
    for form in [StorageMediaType::Json, StorageMediaType::Protobuf] {
        stored::check(form, &mut report).await?;
    }
    for failure in &report.failures {
        println!("FAILED {failure}");
    }
    println!("{} passed, {} failed", report.passed, report.failures.len());
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
