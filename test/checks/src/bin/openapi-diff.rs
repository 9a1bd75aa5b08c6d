//! Prints every difference between the OpenAPI v2 document this server publishes and a given one.
#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use checks::openapi::{Facts, Rules, declared, read};
use clap::Parser;
use controlplane::StorageConfig;
use integration::Cluster;

/// Compares the published OpenAPI v2 document with a reference, once as served by default and once with every version
/// on. Differences that are meant are declared, with reasons, in openapi-differences.txt.
#[derive(Parser)]
struct Args {
    /// The reference: an OpenAPI v2 document as JSON, plain or compressed by gzip.
    reference: PathBuf,
    /// Write our own documents to this directory.
    #[arg(long)]
    write: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let reference = Facts::of(&read(&args.reference)?);
    ensure!(reference.len() > 1, "{}: nothing of an OpenAPI v2 document", args.reference.display());
    let rules = declared()?;
    let (mut passed, mut failed) = (0, 0);
    for (served, heading) in [("default", "As served by default"), ("every", "With every version on")] {
        let text = published(served == "every").await?;
        if let Some(directory) = &args.write {
            std::fs::write(directory.join(format!("openapi-v2-{served}.json")), &text)?;
        }
        let ours = Facts::of(&serde_json::from_slice(&text)?);
        println!("{heading}: {} facts, the reference has {}", ours.len(), reference.len());
        let (fine, wrong) = report(served, &rules, &ours, &reference);
        passed += fine;
        failed += wrong;
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The document of a server in this process.
async fn published(every_version: bool) -> anyhow::Result<Vec<u8>> {
    let cluster = Cluster::configured(StorageConfig::Memory, |config| {
        if every_version {
            config.runtime_config.insert("api/all".into(), "true".into());
        }
    })
    .await?;
    let answer = cluster.call("GET", "/openapi/v2", "").await?;
    cluster.stop().await;
    ensure!(answer.code == 200, "/openapi/v2 was answered {}: {}", answer.code, answer.text());
    Ok(answer.bytes.to_vec())
}

/// Prints the differences, those with a reason below it; answers how many facts are fine and how many are not.
fn report(served: &str, rules: &Rules, ours: &Facts, theirs: &Facts) -> (usize, usize) {
    let (differences, agreed) = ours.compare(theirs);
    let declared: Vec<_> = rules.of(served).collect();
    let mut used = vec![false; declared.len()];
    let mut explained: Vec<Vec<String>> = vec![Vec::new(); rules.reasons().len()];
    let mut unexplained = Vec::new();
    for difference in &differences {
        match declared.iter().position(|rule| rule.explains(difference)) {
            Some(at) => {
                used[at] = true;
                explained[declared[at].reason()].push(difference.to_string());
            }
            None => unexplained.push(difference.to_string()),
        }
    }
    let mut meant = 0;
    for (reason, lines) in rules.reasons().iter().zip(&explained).filter(|(_, lines)| !lines.is_empty()) {
        println!("  {} explained: {reason}", lines.len());
        for line in lines {
            println!("    {line}");
        }
        meant += lines.len();
    }
    for line in &unexplained {
        println!("  UNEXPLAINED {line}");
    }
    let mut needless = 0;
    for (rule, _) in declared.iter().zip(&used).filter(|(_, used)| !**used) {
        println!("  NEEDLESS declaration: {}", rule.text());
        needless += 1;
    }
    println!("  {agreed} agree, {meant} differ for a reason, {} without", unexplained.len());
    (agreed + meant, unexplained.len() + needless)
}
