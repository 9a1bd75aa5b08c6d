//! How fast the engine and the cache are: `cargo bench -p watchcache`. One line a case; `STORE_DIR` says where the
//! durable cases write (default: the system's temporary directory).
#![allow(clippy::print_stdout, reason = "what it measured is what it is for")]

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apimachinery::{Value, json};
use bytes::Bytes;
use storage::embedded::{Embedded, Options};
use storage::objects::KeyLayout;
use storage::{Op, Revision, Storage};
use tokio::runtime::Runtime;
use watchcache::{
    Codec, FieldSource, Filter, Interest, JsonCodec, ListOptions, Marks, ReadVersion, WatchCache,
    WatchCacheConfig, WatchItem, WatchOptions, WatchStart,
};

const PODS: usize = 10_000;
const WATCHERS: usize = 1000;

fn main() {
    let runtime = Runtime::new().expect("a runtime can be started");
    durable_puts(&runtime);
    decoding();
    runtime.block_on(cache());
}

fn report(case: &str, per_op: Duration, note: &str) {
    println!("{case:<44} {:>12.2} us  {note}", per_op.as_secs_f64() * 1e6);
}

/// A pod of about the size servers return: 8.4 KB.
fn pod(i: usize) -> Bytes {
    let env: Vec<Value> =
        (0..40).map(|e| json!({"name": format!("VARIABLE_{e}"), "value": "v".repeat(60)})).collect();
    let managed: Value =
        (0..60).map(|f| (format!("f:field{f}"), json!({}))).collect::<apimachinery::Map>().into();
    json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": format!("pod-{i:05}"), "namespace": format!("ns-{}", i % 50), "uid": format!("{i:032x}"),
            "labels": {"app": format!("app-{}", i % 100), "tier": "web", "pod-template-hash": "5d4f8c7b9"},
            "annotations": {"note": "n".repeat(200)},
            "managedFields": [{"manager": "bench", "operation": "Update", "fieldsV1": managed}],
        },
        "spec": {"nodeName": format!("node-{}", i % 1000), "containers": [{"name": "c", "image": "i", "env": env}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    })
    .to_string()
    .into()
}

fn key(i: usize) -> Arc<str> {
    format!("/registry/pods/ns-{}/pod-{i:05}", i % 50).into()
}

fn codec() -> JsonCodec {
    let node: FieldSource = Arc::new(|o: &Value| o["spec"]["nodeName"].as_str().unwrap_or("").to_owned());
    let phase: FieldSource = Arc::new(|o: &Value| o["status"]["phase"].as_str().unwrap_or("").to_owned());
    JsonCodec::new(vec![node, phase])
}

/// Acknowledged puts beside what the disk takes: one append and fdatasync after another.
fn durable_puts(runtime: &Runtime) {
    const PUTS: usize = 2000;
    let parent = std::env::var_os("STORE_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = parent.join(format!("store-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("the directory can be made");
    let value = pod(0);

    let mut file = File::create(dir.join("plain")).expect("a file can be made");
    let start = Instant::now();
    for _ in 0..PUTS {
        file.write_all(&value).and_then(|()| file.sync_data()).expect("the disk takes it");
    }
    report("plain append + fdatasync", start.elapsed() / PUTS as u32, "");

    for writers in [1, 8, 64] {
        let storage =
            Embedded::open(dir.join(format!("store-{writers}")), Options::default()).expect("it opens");
        let start = Instant::now();
        runtime.block_on(async {
            let tasks = (0..writers).map(|w| {
                let (storage, value) = (Arc::clone(&storage), value.clone());
                tokio::spawn(async move {
                    for i in 0..PUTS / writers {
                        let op = Op::Put { key: key(w * PUTS + i), value: value.clone(), lease: None };
                        storage.txn(Vec::new(), vec![op]).await.expect("the disk takes it");
                    }
                })
            });
            futures::future::join_all(tasks).await;
        });
        report("durable put", start.elapsed() / PUTS as u32, &format!("{writers} writers"));
    }
    std::fs::remove_dir_all(&dir).expect("what was made can be removed");
}

fn decoding() {
    let value = pod(1);
    for (name, codec) in [("decode, labels only", JsonCodec::default()), ("decode, with fields", codec())] {
        let start = Instant::now();
        for _ in 0..PODS {
            std::hint::black_box(codec.decode("k", std::hint::black_box(&value)).expect("it is an object"));
        }
        report(name, start.elapsed() / PODS as u32, &format!("{} bytes", value.len()));
    }
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

async fn put(storage: &Embedded, i: usize) -> Revision {
    let op = Op::Put { key: key(i), value: pod(i), lease: None };
    storage.txn(Vec::new(), vec![op]).await.expect("memory takes it").revision
}

async fn cache() {
    let before = resident();
    let storage = Embedded::in_memory(Options::default());
    let mut json_bytes = 0;
    for i in 0..PODS {
        put(&storage, i).await;
        json_bytes += pod(i).len();
    }
    let layout = KeyLayout::new("/registry", "pods", true);
    let start = Instant::now();
    let config = WatchCacheConfig::new("pods", layout, Arc::new(codec()));
    let cache = WatchCache::start(Arc::<Embedded>::clone(&storage), config);
    cache.wait_ready(Duration::from_mins(1)).await.expect("it lists");
    report("start over 10,000 pods, each", start.elapsed() / PODS as u32, "");
    let held = resident().saturating_sub(before);
    println!(
        "{:<44} {:>12.2} x   of {} MiB JSON",
        "memory",
        held as f64 / json_bytes as f64,
        json_bytes >> 20
    );

    reads(&cache).await;
    fan_out(&storage, &cache).await;
}

async fn reads(cache: &WatchCache) {
    const GETS: u32 = 100_000;
    let start = Instant::now();
    for i in 0..GETS as usize {
        let (namespace, name) = (format!("ns-{}", i % 50), format!("pod-{:05}", i % PODS));
        let found = cache.get(&namespace, &name, ReadVersion::Latest).await.expect("the store is there");
        std::hint::black_box(found.expect("the pod is there"));
    }
    report("consistent get", start.elapsed() / GETS, "");

    let mut out = Vec::with_capacity(1 << 20);
    let mut write = |items: &[Arc<watchcache::StoredObject>]| {
        for object in items {
            // as a streamed body: a chunk at a time
            if out.len() > 64 * 1024 {
                out.clear();
            }
            object.write_json(&mut out);
        }
        std::hint::black_box(&out);
    };
    let filter = Filter::new(|o| o.labels().get("app") == Some("app-7"))
        .of_those_with(Marks::of_label("app", "app-7"));
    let all = ListOptions::all("");
    let cases = [
        ("list of all, written", all.clone(), 20),
        ("list of a namespace, written", ListOptions::all("ns-7"), 1000),
        ("page of 500, written", ListOptions { limit: 500, ..all.clone() }, 500),
        ("list by label", ListOptions { filter: Some(filter), ..all }, 500),
    ];
    for (name, options, times) in cases {
        let start = Instant::now();
        let mut items = 0;
        for _ in 0..times {
            let page = cache.list(&options).await.expect("the store is there");
            items = page.items.len();
            write(&page.items);
        }
        report(name, start.elapsed() / times, &format!("{items} objects"));
    }
}

async fn fan_out(storage: &Arc<Embedded>, cache: &Arc<WatchCache>) {
    const EVENTS: usize = 200;
    type Case = (&'static str, fn(usize) -> Interest, usize);
    let cases: [Case; 2] = [
        ("event to 1,000 watchers of all, each", |_| Interest::Everything, WATCHERS),
        ("event to 1,000 watchers of a node each, each", |i| Interest::Field(0, format!("node-{i}")), 1),
    ];
    for (name, interest, receivers) in cases {
        let start_at = Instant::now();
        let mut tasks = Vec::new();
        for i in 0..WATCHERS {
            let interest = interest(i);
            let expected = match &interest {
                Interest::Everything => EVENTS,
                _ => usize::from(i < EVENTS),
            };
            let options = WatchOptions { interest, ..WatchOptions::new(WatchStart::Now) };
            let mut watcher = cache.watch(options).await.expect("the store is there");
            tasks.push(tokio::spawn(async move {
                let mut seen = 0;
                while seen < expected {
                    let batch = watcher.next_batch(128).await.expect("it goes on").expect("it does not fail");
                    for item in &batch {
                        let WatchItem::Event { kind, object, event } = item else { continue };
                        let frame = event.frame(*kind, 0, || Ok::<_, ()>(object.to_json()));
                        std::hint::black_box(frame.expect("it can be encoded"));
                        seen += 1;
                    }
                }
            }));
        }
        let begun = start_at.elapsed();
        let start = Instant::now();
        for i in 0..EVENTS {
            put(storage, i).await;
        }
        for task in tasks {
            task.await.expect("a watcher does not panic");
        }
        let delivered = (EVENTS * receivers) as u32;
        report(name, start.elapsed() / delivered, &format!("begun in {:.1} ms", begun.as_secs_f64() * 1e3));
    }
}
