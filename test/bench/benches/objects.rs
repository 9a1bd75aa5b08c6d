//! What single steps of a request cost: one object of 4 KB through decoding, pruning, defaulting, applying, merging,
//! encoding. `cargo bench -p bench --bench objects`; an argument names the steps to run.
//!
//! Processor time a step, the smallest of several rounds. For instruction counts run one step under callgrind:
//! `valgrind --tool=callgrind target/release/deps/objects-* decode`.
#![allow(clippy::print_stdout, reason = "what it measured is what it is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use apimachinery::coerce::FieldValidation;
use apimachinery::decode::{self, Expected, Format};
use apimachinery::managedfields::{NoOtherVersions, ResetFields, Write, on_apply, on_update};
use apimachinery::meta::GroupVersionKind;
use apimachinery::patch::{Patch, PatchType};
use apimachinery::schema::{NodeId, Schema};
use apimachinery::{Value, json};
use apimachinery::{coerce, default, json as text, protobuf, yaml};
use nix::sys::resource::{UsageWho, getrusage};

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: component::memory::Allocator = component::memory::Allocator;

const ROUNDS: usize = 5;
/// Each round takes about so long.
const ROUND: Duration = Duration::from_millis(100);

/// The pod that others store, as it is once its namespace is known.
fn pod() -> Value {
    let mut pod = bench::pod(0);
    pod["metadata"]["namespace"] = "default".into();
    pod.into()
}

/// Processor time of the process so far, in seconds.
fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel counts");
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Measures a step and prints it, if it was asked for.
fn measure<T>(step: &str, mut run: impl FnMut() -> T) {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if !wanted.is_empty() && !wanted.iter().any(|word| step.contains(word.as_str())) {
        return;
    }
    let once = {
        let started = Instant::now();
        black_box(run());
        started.elapsed().max(Duration::from_micros(1))
    };
    let times = (ROUND.as_secs_f64() / once.as_secs_f64()).clamp(10.0, 1e6) as u32;
    let best = (0..ROUNDS)
        .map(|_| {
            let before = cpu();
            for _ in 0..times {
                black_box(run());
            }
            (cpu() - before) / f64::from(times)
        })
        .fold(f64::INFINITY, f64::min);
    println!("{step:<44} {:>9.1} µs", best * 1e6);
}

fn main() {
    let catalog = apis::catalog();
    let gvk = GroupVersionKind::new("", "v1", "Pod");
    let root = catalog.kind(&gvk).expect("pods are built in").node;
    let schema = catalog.schema();
    let sent = pod().to_string();
    forms(schema, root, &gvk, &sent);
    writes(schema, root, &sent);
    patches(schema, root);
}

fn forms(schema: &Schema, root: NodeId, gvk: &GroupVersionKind, sent: &str) {
    let is_registered = |_: &GroupVersionKind| true;
    let expected = Expected { gvk, schema, root, is_registered: &is_registered };
    measure("parse JSON", || text::parse_str(sent));
    measure("decode a body, fields checked", || {
        decode::object(sent.as_bytes(), Format::Json, &expected, FieldValidation::Warn)
    });
    let object = pod();
    measure("copy the tree", || object.clone());
    measure("prune and check fields (with a copy)", || {
        let mut object = object.clone();
        coerce::fit(schema, root, &mut object, true).map(|unknown| unknown.len())
    });
    measure("default by the schema (with a copy)", || {
        let mut object = object.clone();
        default::apply_defaults(schema, root, &mut object);
        object
    });
    measure("normalise (with a copy)", || {
        let mut object = object.clone();
        default::normalise(schema, root, &mut object);
        object
    });
    measure("encode JSON", || serde_json::to_vec(&object));
    measure("encode protobuf", || protobuf::encode_object(schema, root, &object));
    let message = protobuf::encode_object(schema, root, &object).expect("pods have a form");
    measure("decode protobuf", || protobuf::decode_object(schema, root, &message));
    measure("encode YAML", || yaml::to_string(&object));
    let document = yaml::to_string(&object);
    measure("decode YAML", || yaml::parse(document.as_bytes()));
}

fn writes(schema: &Schema, root: NodeId, sent: &str) {
    let reset_fields = ResetFields::except(&["status"]);
    let write = Write {
        schema,
        root,
        api_version: "v1",
        kind: "Pod",
        subresource: "",
        manager: "bench",
        now: jiff::Timestamp::UNIX_EPOCH,
        reset_fields: &reset_fields,
        versions: &NoOtherVersions,
    };
    let mut live: Value = serde_json::from_str(sent).expect("JSON");
    default::apply_defaults(schema, root, &mut live);
    default::normalise(schema, root, &mut live);
    measure("managed fields of a create (with a copy)", || {
        let mut new = live.clone();
        on_update(None, &mut new, &write);
        new
    });
    on_update(None, &mut live, &write);
    let mut changed = live.clone();
    changed["spec"]["containers"][0]["image"] = "registry.example/app:v2".into();
    measure("managed fields of an update (with a copy)", || {
        let mut new = changed.clone();
        on_update(Some(&live), &mut new, &write);
        new
    });
    let config: Value = serde_json::from_str(sent).expect("JSON");
    let apply = |live: &Value, config: &Value| {
        on_apply(Some(live), config, true, &|o| default::apply_defaults(schema, root, o), &write)
    };
    let applied = apply(&live, &config).expect("applied by force");
    measure("apply what is there already", || apply(&applied, &config));
    let mut other = config.clone();
    other["spec"]["containers"][0]["image"] = "registry.example/app:v2".into();
    measure("apply a new image", || apply(&applied, &other));
}

fn patches(schema: &Schema, root: NodeId) {
    let object = pod();
    let strategic = json!({"spec": {"containers": [{"name": "app", "image": "registry.example/app:v2"}]}});
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let operations = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "x"}]);
    for (name, kind, body) in [
        ("strategic merge of an image", PatchType::StrategicMerge, &strategic),
        ("strategic merge of a status", PatchType::StrategicMerge, &status),
        ("merge of a status", PatchType::Merge, &status),
        ("JSON patch of an image", PatchType::Json, &operations),
    ] {
        let text = body.to_string();
        measure(name, || {
            Patch::parse(kind, text.as_bytes()).and_then(|patch| patch.apply(&object, schema, root))
        });
    }
}
