//! Stores that are slow, gone or full: clear errors meanwhile, and afterwards everything that was acknowledged is there.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use controlplane::StorageConfig;
use http_body_util::BodyExt as _;
use integration::etcd::Etcd;
use integration::{Answer, Cluster};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

const CM: &str = "/api/v1/namespaces/default/configmaps";
/// Longest wait for a server to be well again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tells the test binary that it is the one on the small file system.
const DIR: &str = "INTEGRATION_FULL_DISK";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// Writes objects one by one and remembers which were acknowledged.
struct Writer<'a> {
    cluster: &'a Cluster,
    bytes: usize,
    tried: usize,
    acknowledged: BTreeSet<String>,
}

impl<'a> Writer<'a> {
    fn new(cluster: &'a Cluster, bytes: usize) -> Self {
        Self { cluster, bytes, tried: 0, acknowledged: BTreeSet::new() }
    }

    async fn write(&mut self, query: &str) -> anyhow::Result<Answer> {
        let name = format!("w{:04}", self.tried);
        self.tried += 1;
        let object = json!({"metadata": {"name": name}, "data": {"x": "y".repeat(self.bytes)}});
        let answer = self.cluster.call("POST", &format!("{CM}{query}"), &object.to_string()).await?;
        if answer.code == 201 {
            self.acknowledged.insert(name);
        }
        Ok(answer)
    }

    /// Writes until it is refused.
    async fn write_until_refused(&mut self, at_most: usize) -> anyhow::Result<Answer> {
        for _ in 0..at_most {
            let answer = self.write("").await?;
            if answer.code != 201 {
                return Ok(answer);
            }
        }
        anyhow::bail!("{at_most} writes were taken")
    }

    /// Writes until it is acknowledged.
    async fn write_until_taken(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let answer = self.write("").await?;
            if answer.code == 201 {
                return Ok(());
            }
            anyhow::ensure!(started.elapsed() < PATIENCE, "not well again: {}", answer.text());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Names of what is there.
async fn names(cluster: &Cluster) -> anyhow::Result<BTreeSet<String>> {
    let list = cluster.ok("GET", CM, &Value::Null).await?;
    let items = list["items"].as_array().into_iter().flatten();
    Ok(items.filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

/// Code, reason and message of a failure, which must be a Status.
fn failure(answer: &Answer) -> (u16, String, String) {
    let status = answer.json();
    assert_eq!(status["kind"], "Status", "{}", answer.text());
    (answer.code, status["reason"].as_str().unwrap_or("").to_owned(), answer.message())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_etcd_is_waited_for_as_long_as_a_request_may_take() -> anyhow::Result<()> {
    let etcd = Etcd::start(&[]).await?;
    let cluster = Cluster::with(etcd.storage()).await?;
    let mut writer = Writer::new(&cluster, 10);
    writer.write_until_taken().await?;
    names(&cluster).await?;
    etcd.pause()?;
    let late = "Timeout: request did not complete within the allotted timeout";
    let timeout = (504, "Timeout".to_owned(), late.to_owned());
    assert_eq!(failure(&writer.write("?timeout=1s").await?), timeout);
    for path in [format!("{CM}?timeout=1s"), format!("{CM}/w0000?timeout=1s")] {
        assert_eq!(failure(&cluster.call("GET", &path, "").await?), timeout, "{path}");
    }
    // a reader who takes what the cache has gets it
    let cached = cluster.ok("GET", &format!("{CM}?resourceVersion=0&timeout=1s"), &Value::Null).await?;
    assert!(cached["items"].as_array().is_some_and(|items| !items.is_empty()));
    assert_eq!(cluster.call("GET", "/readyz/etcd", "").await?.code, 500);
    etcd.resume()?;
    writer.write_until_taken().await?;
    assert!(names(&cluster).await?.is_superset(&writer.acknowledged));
    assert_eq!(cluster.call("GET", "/readyz", "").await?.code, 200);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_etcd_is_found_again_and_watches_go_on() -> anyhow::Result<()> {
    let mut etcd = Etcd::start(&[]).await?;
    let cluster = Cluster::with(etcd.storage()).await?;
    let mut writer = Writer::new(&cluster, 10);
    writer.write_until_taken().await?;
    let version = cluster.ok("GET", CM, &Value::Null).await?["metadata"]["resourceVersion"].clone();
    let path = format!("{CM}?watch=true&resourceVersion={}", version.as_str().unwrap_or_default());
    let admin = auth::UserInfo::new("admin", &["system:masters"]);
    let watch = cluster.open(admin, "GET", &path, component::http::empty(), &[]).await?;
    let before = writer.acknowledged.clone();
    etcd.kill()?;
    let refused = failure(&writer.write("").await?);
    assert_eq!((refused.0, refused.1.as_str()), (503, "ServiceUnavailable"), "{}", refused.2);
    let cached = cluster.ok("GET", &format!("{CM}?resourceVersion=0"), &Value::Null).await?;
    assert!(cached["items"].as_array().is_some_and(|items| !items.is_empty()));
    etcd.run().await?;
    writer.write_until_taken().await?;
    assert!(names(&cluster).await?.is_superset(&writer.acknowledged));
    // the watch that was open all the while has what came after
    let mut wanted: BTreeSet<_> = writer.acknowledged.difference(&before).cloned().collect();
    let mut body = watch.into_body();
    let mut text = String::new();
    while !wanted.is_empty() {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await?;
        let frame = frame.ok_or_else(|| anyhow::anyhow!("the watch ended: {text}"))?;
        let data = frame.map_err(|e| anyhow::anyhow!(e))?.into_data().unwrap_or_default();
        text.push_str(&String::from_utf8_lossy(&data));
        wanted.retain(|name| !text.contains(&format!("\"name\":\"{name}\"")));
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_refuses_writes_and_nothing_else() -> anyhow::Result<()> {
    let etcd = Etcd::start(&["--quota-backend-bytes", "16777216"]).await?;
    let cluster = Cluster::with(etcd.storage()).await?;
    let mut writer = Writer::new(&cluster, 900_000);
    let refused = writer.write_until_refused(40).await?;
    assert_eq!(failure(&refused), (500, String::new(), NO_SPACE.to_owned()));
    // an event needs a lease before it needs room
    let event =
        json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}, "reason": "Full"});
    let refused = cluster.call("POST", "/api/v1/namespaces/default/events", &event.to_string()).await?;
    assert_eq!(failure(&refused), (500, String::new(), NO_SPACE.to_owned()));
    assert!(names(&cluster).await?.is_superset(&writer.acknowledged));
    cluster.ok("GET", &format!("{CM}/w0000"), &Value::Null).await?;
    for name in ["w0000", "w0001", "w0002", "w0003", "w0004", "w0005"] {
        cluster.ok("DELETE", &format!("{CM}/{name}"), &Value::Null).await?;
        writer.acknowledged.remove(name);
    }
    // still: the alarm stays until somebody has looked
    assert_eq!(failure(&writer.write("").await?), (500, String::new(), NO_SPACE.to_owned()));
    // what an administrator does: compact, defragment, disarm
    let mut client = etcd.client().await?;
    let revision = client.status().await?.header().map_or(0, etcd_client::ResponseHeader::revision);
    client.compact(revision, Some(etcd_client::CompactionOptions::new().with_physical())).await?;
    client.defragment().await?;
    let nospace = etcd_client::AlarmType::Nospace;
    let raised = client.alarm(etcd_client::AlarmAction::Get, nospace, None).await?;
    for alarm in raised.alarms() {
        let mut member = etcd_client::AlarmOptions::new();
        member.with_member(alarm.member_id());
        client.alarm(etcd_client::AlarmAction::Deactivate, nospace, Some(member)).await?;
    }
    writer.write_until_taken().await?;
    let found = names(&cluster).await?;
    assert!(found.is_superset(&writer.acknowledged));
    assert!(!found.contains("w0000"));
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_compacted_by_others_ends_no_watch_that_is_up_to_date() -> anyhow::Result<()> {
    let etcd = Etcd::start(&[]).await?;
    let cluster = Cluster::with(etcd.storage()).await?;
    let mut writer = Writer::new(&cluster, 10);
    writer.write_until_taken().await?;
    let admin = || auth::UserInfo::new("admin", &["system:masters"]);
    let watch = cluster
        .open(
            admin(),
            "GET",
            &format!("{CM}?watch=true&fieldSelector=metadata.name%3Dw0002"),
            component::http::empty(),
            &[],
        )
        .await?;
    writer.write_until_taken().await?;
    let mut client = etcd.client().await?;
    let revision = client.status().await?.header().map_or(0, etcd_client::ResponseHeader::revision);
    client.compact(revision, Some(etcd_client::CompactionOptions::new().with_physical())).await?;
    writer.write_until_taken().await?;
    let frame = tokio::time::timeout(PATIENCE, watch.into_body().frame()).await?;
    let data = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok()).unwrap_or_default();
    let text = String::from_utf8_lossy(&data).into_owned();
    assert!(text.starts_with("{\"type\":\"ADDED\"") && text.contains("w0002"), "{text}");
    // a server that has seen nothing of it cannot begin there: the client must list anew
    let other = Cluster::with(etcd.storage()).await?;
    let old = other.call("GET", &format!("{CM}?resourceVersion=1&resourceVersionMatch=Exact"), "").await?;
    assert_eq!(failure(&old).0, 410, "{}", old.text());
    let late = other
        .open(admin(), "GET", &format!("{CM}?watch=true&resourceVersion=1"), component::http::empty(), &[])
        .await?;
    let code = late.status().as_u16();
    let frame = tokio::time::timeout(PATIENCE, late.into_body().frame()).await?;
    let data = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok()).unwrap_or_default();
    let event: Value = serde_json::from_slice(&data)?;
    let status = if code == 200 { &event["object"] } else { &event };
    assert_eq!((status["code"].as_u64(), status["reason"].as_str()), (Some(410), Some("Expired")), "{event}");
    other.stop().await;
    cluster.stop().await;
    Ok(())
}

/// What happens on the small file system.
#[tokio::test(flavor = "multi_thread")]
async fn inside() -> anyhow::Result<()> {
    let Ok(dir) = std::env::var(DIR) else { return Ok(()) };
    let ballast = format!("{dir}/ballast");
    std::fs::write(&ballast, vec![0; 60 << 20])?;
    let storage = || StorageConfig::Embedded(format!("{dir}/store").into());
    let cluster = Cluster::with(storage()).await?;
    let mut writer = Writer::new(&cluster, 900_000);
    let refused = failure(&writer.write_until_refused(100).await?);
    assert_eq!((refused.0, refused.1.as_str()), (500, ""), "{}", refused.2);
    assert!(refused.2.starts_with(NO_SPACE), "{}", refused.2);
    assert!(!writer.acknowledged.is_empty());
    // reads go on, and deletions, which make room
    assert!(names(&cluster).await?.is_superset(&writer.acknowledged));
    cluster.ok("DELETE", &format!("{CM}/w0000"), &Value::Null).await?;
    writer.acknowledged.remove("w0000");
    assert!(failure(&writer.write("").await?).2.starts_with(NO_SPACE));
    std::fs::remove_file(&ballast)?;
    writer.write_until_taken().await?;
    let acknowledged = std::mem::take(&mut writer.acknowledged);
    cluster.stop().await;

    let cluster = Cluster::with(storage()).await?;
    let found = names(&cluster).await?;
    assert!(found.is_superset(&acknowledged));
    assert!(!found.contains("w0000"));
    cluster.stop().await;
    Ok(())
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    if !integration::binary::able(&[]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_path_buf();
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "inside", "--nocapture"]).env(DIR, &path);
    let enter = move || {
        let io = |e: nix::Error| std::io::Error::from_raw_os_error(e as i32);
        unshare(CloneFlags::CLONE_NEWNS).map_err(io)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .map_err(io)?;
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=192m")).map_err(io)
    };
    // the mount lives in the child's namespace and ends with it
    #[allow(unsafe_code, reason = "only system calls between fork and exec")]
    unsafe {
        command.pre_exec(enter);
    }
    assert!(command.status().expect("the test binary runs again").success());
}
