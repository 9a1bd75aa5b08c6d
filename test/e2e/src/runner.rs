//! Runs topics against clusters and tells how they went.
#![allow(clippy::print_stdout, reason = "the report of a test run")]

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;

use crate::cluster::{Cluster, NODES, Storage};
use crate::kubectl::Kubectl;
use crate::settings::Settings;

/// Topics that run at the same time, unless `--test-threads` says otherwise.
const THREADS: usize = 4;

/// What a topic works with.
#[derive(Debug)]
pub struct Context<'a> {
    /// The cluster, shared with other topics.
    pub cluster: &'a Cluster,
    /// kubectl in a namespace of the topic's own.
    pub kubectl: Kubectl,
}

/// A group of steps that belong together.
#[derive(Debug, Clone, Copy)]
pub struct Topic {
    /// Its name; also that of its namespace.
    pub name: &'static str,
    /// Whether it disturbs the cluster, so that nothing else may run meanwhile.
    pub alone: bool,
    /// The steps.
    pub run: fn(&Context<'_>) -> anyhow::Result<()>,
}

/// What the command line asks for, in the words of Rust's own test runner.
#[derive(Debug)]
struct Options {
    filters: Vec<String>,
    threads: usize,
    list: bool,
}

impl Options {
    fn parse(arguments: impl IntoIterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self { filters: Vec::new(), threads: THREADS, list: false };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument.clone(), None),
            };
            match name.as_str() {
                "--list" => options.list = true,
                // Output is never captured here.
                "--nocapture" | "--no-capture" | "--show-output" => {}
                "--test-threads" => {
                    let value =
                        value.or_else(|| arguments.next()).context("--test-threads needs a number")?;
                    options.threads = value.parse().context("--test-threads needs a number")?;
                }
                flag if flag.starts_with('-') => anyhow::bail!("unknown flag {flag}"),
                _ => options.filters.push(argument),
            }
        }
        options.threads = options.threads.max(1);
        Ok(options)
    }

    /// Whether a topic on a store was asked for: a filter is a part of `STORE::TOPIC`.
    fn wants(&self, storage: Storage, topic: &Topic) -> bool {
        let name = full_name(storage, topic);
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }
}

fn full_name(storage: Storage, topic: &Topic) -> String {
    format!("{}::{}", storage.flag(), topic.name)
}

/// Runs what the command line asks for on both stores. Gives whether all of it went well.
pub fn main(topics: &[Topic], arguments: impl IntoIterator<Item = String>) -> anyhow::Result<bool> {
    let options = Options::parse(arguments)?;
    if options.list {
        for storage in [Storage::Embedded, Storage::Etcd] {
            for topic in topics {
                println!("{}: test", full_name(storage, topic));
            }
        }
        return Ok(true);
    }
    let settings = Settings::from_environment()?;
    let mut failed = Vec::new();
    let (started, mut count) = (Instant::now(), 0);
    for storage in [Storage::Embedded, Storage::Etcd] {
        let wanted: Vec<Topic> = topics.iter().filter(|t| options.wants(storage, t)).copied().collect();
        if !wanted.is_empty() {
            count += wanted.len();
            failed.extend(on_store(&settings, storage, &wanted, options.threads)?);
        }
    }
    for (name, error) in &failed {
        println!("\n---- {name} ----\n{error:#}");
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("\n{} topics passed, {} failed, in {seconds:.1} s", count - failed.len(), failed.len());
    Ok(failed.is_empty())
}

type Failures = Vec<(String, anyhow::Error)>;

/// Runs topics on one cluster: those that bear company first, then the others one by one.
fn on_store(
    settings: &Settings,
    storage: Storage,
    topics: &[Topic],
    threads: usize,
) -> anyhow::Result<Failures> {
    let started = Instant::now();
    let cluster = Cluster::start(settings, storage, NODES)
        .with_context(|| format!("cannot start a cluster on the {} store", storage.flag()))?;
    println!("{} cluster of {NODES} nodes in {:.1} s", storage.flag(), started.elapsed().as_secs_f64());
    let (alone, together): (Vec<Topic>, Vec<Topic>) = topics.iter().copied().partition(|topic| topic.alone);
    let failures = Mutex::default();
    let queue: Mutex<VecDeque<Topic>> = Mutex::new(together.into());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(topic) = next() {
                    one(&cluster, topic, &failures);
                }
            });
        }
    });
    for topic in alone {
        one(&cluster, topic, &failures);
    }
    Ok(failures.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn one(cluster: &Cluster, topic: Topic, failures: &Mutex<Failures>) {
    let name = full_name(cluster.storage(), &topic);
    let started = Instant::now();
    let outcome = in_namespace(cluster, topic);
    let word = if outcome.is_ok() { "ok" } else { "FAILED" };
    println!("test {name} ... {word} ({:.1} s)", started.elapsed().as_secs_f64());
    if let Err(error) = outcome {
        // Told at once, for whoever watches, and once more at the end.
        println!("  {error:#}");
        failures.lock().unwrap_or_else(PoisonError::into_inner).push((name, error));
    }
}

fn in_namespace(cluster: &Cluster, topic: Topic) -> anyhow::Result<()> {
    let kubectl = cluster.kubectl(topic.name);
    kubectl.run(["create", "namespace", topic.name])?;
    let context = Context { cluster, kubectl };
    (topic.run)(&context)?;
    // A topic that failed leaves its objects for the error's sake; the cluster goes anyway.
    context.kubectl.run(["delete", "namespace", topic.name, "--wait=false"]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "the shape of a topic")]
    fn nothing(_: &Context<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    #[test]
    fn filters_name_store_and_topic() {
        let topic = Topic { name: "rollout", alone: false, run: nothing };
        let parse = |arguments: &[&str]| Options::parse(arguments.iter().map(|a| (*a).to_owned()));
        let options = parse(&["etcd::roll", "--test-threads=1", "--nocapture"]).expect("options");
        assert!(options.wants(Storage::Etcd, &topic) && !options.wants(Storage::Embedded, &topic));
        assert_eq!(options.threads, 1);
        assert!(parse(&[]).expect("options").wants(Storage::Embedded, &topic));
        assert!(parse(&["--test-threads"]).is_err() && parse(&["--skip", "x"]).is_err());
    }
}
