//! The engine against Debian's etcd: the contract, restarts, TLS, several servers, the cache on top.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::Server;
use futures::StreamExt as _;
use storage::objects::KeyLayout;
use storage::{Error, Op, RangeRequest, Revision, Storage, WatchMessage, WatchStream, contract, prefix_end};
use storage_etcd::{Config, Etcd};
use watchcache::{JsonCodec, ListOptions, WatchCache, WatchCacheConfig, WatchItem, WatchOptions, WatchStart};

async fn put(etcd: &Etcd, key: &str, value: &str) -> Result<Revision, Error> {
    let op = Op::Put { key: key.into(), value: value.to_owned().into(), lease: None };
    Ok(etcd.txn(Vec::new(), vec![op]).await?.revision)
}

/// Reads a watch until it has seen a revision; `key=value` of every change.
async fn read_to(watch: &mut WatchStream, end: Revision) -> Vec<(String, Revision)> {
    let mut seen: Vec<(String, Revision)> = Vec::new();
    let read = async {
        loop {
            match watch.next().await.expect("the watch goes on").expect("the watch does not fail") {
                WatchMessage::Progress(revision) if revision >= end => break,
                WatchMessage::Progress(_) => {}
                WatchMessage::Events(events) => {
                    for event in events {
                        let revision = event.kv.mod_revision;
                        assert!(seen.last().is_none_or(|(_, last)| *last < revision), "out of order");
                        seen.push((
                            format!("{}={}", event.kv.key, String::from_utf8_lossy(&event.kv.value)),
                            revision,
                        ));
                    }
                    if seen.last().is_some_and(|(_, last)| *last >= end) {
                        break;
                    }
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), read).await.expect("the watch delivers");
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds() {
    let server = Server::start();
    let engine: Arc<dyn Storage> = server.connect().await;
    for case in contract::CASES {
        case.run(&engine).await;
    }
    engine.health().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_loses_nothing_when_etcd_is_killed() {
    let mut server = Server::start();
    let etcd = server.connect().await;
    let mut watch = etcd.watch("/registry/things/", Revision(1)).await.unwrap();
    let mut written = BTreeMap::new();
    let mut last = Revision(0);
    for round in 0..3 {
        for i in 0..30 {
            let key = format!("/registry/things/{}", i % 7);
            let value = format!("{round}-{i}");
            last = put(&etcd, &key, &value).await.unwrap();
            written.insert(last, format!("{key}={value}"));
        }
        server.kill();
        let down = put(&etcd, "/registry/things/x", "lost").await;
        assert!(matches!(down, Err(Error::Unavailable(_))), "{down:?}");
        assert!(etcd.health().await.is_err());
        server.run();
        // what is written before the watch is back is not lost either
        let other = server.connect().await;
        last = put(&other, "/registry/things/back", &format!("{round}")).await.unwrap();
        written.insert(last, format!("/registry/things/back={round}"));
        let ready = async { while etcd.health().await.is_err() {} };
        tokio::time::timeout(Duration::from_secs(20), ready).await.expect("the engine finds etcd again");
    }
    let seen = read_to(&mut watch, last).await;
    let seen: BTreeMap<_, _> = seen.into_iter().map(|(text, revision)| (revision, text)).collect();
    for (revision, text) in &written {
        assert_eq!(seen.get(revision), Some(text), "revision {revision}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_etcd_is_told_from_one_that_is_gone_and_found_again() {
    let server = Server::start();
    let short = Config { request_timeout: Duration::from_millis(500), ..server.config() };
    let etcd = server.connect_with(short).await;
    let mut watch = etcd.watch("/registry/things/", Revision(1)).await.unwrap();
    let first = put(&etcd, "/registry/things/a", "1").await.unwrap();
    assert_eq!(read_to(&mut watch, first).await.len(), 1);
    server.pause();
    let late = |error: Error| assert!(matches!(error, Error::Timeout(_)), "{error:?}");
    late(put(&etcd, "/registry/things/b", "2").await.unwrap_err());
    late(etcd.get("/registry/things/a").await.unwrap_err());
    late(etcd.freshness("/registry/things/").await.unwrap_err());
    late(etcd.grant_lease(60).await.unwrap_err());
    late(etcd.health().await.unwrap_err());
    server.resume();
    let ready = async { while etcd.health().await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), ready).await.expect("the engine finds etcd again");
    let last = put(&etcd, "/registry/things/c", "3").await.unwrap();
    // what was not acknowledged may have happened; what was, has
    let seen = read_to(&mut watch, last).await;
    assert!(seen.iter().any(|(text, revision)| text == "/registry/things/c=3" && *revision == last));
    assert!(seen.iter().all(|(text, _)| text != "/registry/things/a=1"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_says_so_and_takes_deletions() {
    let server = Server::start_with(&["--quota-backend-bytes", "16777216"]);
    let etcd = server.connect().await;
    let value = "x".repeat(1_000_000);
    let mut last = 0;
    let full = loop {
        match put(&etcd, &format!("/registry/things/{last}"), &value).await {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
        assert!(last < 40, "the quota is small");
    };
    assert!(matches!(&full, Error::NoSpace(text) if text == storage::NO_SPACE), "{full:?}");
    let leased = etcd.grant_lease(60).await;
    assert!(matches!(leased, Ok(_) | Err(Error::NoSpace(_))), "{leased:?}");
    assert!(etcd.get("/registry/things/0").await.unwrap().is_some());
    let delete = Op::Delete { key: "/registry/things/0".into() };
    etcd.txn(Vec::new(), vec![delete]).await.expect("a deletion needs no room");
    assert!(etcd.get("/registry/things/0").await.unwrap().is_none());
    etcd.health().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_from_before_the_hub_are_read_from_etcd() {
    let server = Server::start();
    let writer = server.connect().await;
    let first = put(&writer, "/registry/things/a", "0").await.unwrap();
    for i in 1..3000 {
        put(
            &writer,
            &format!("/registry/{}/a", if i % 3 == 0 { "things" } else { "others" }),
            &format!("{i}"),
        )
        .await
        .unwrap();
    }
    // a foreign key, which is not ours to see but has a revision
    put(&writer, "/calico/pool", "x").await.unwrap();
    let late = server.connect().await;
    let mut watch = late.watch("/registry/things/", first).await.unwrap();
    let now = put(&writer, "/registry/things/a", "last").await.unwrap();
    let seen = read_to(&mut watch, now).await;
    assert_eq!(seen.len(), 1001);
    assert_eq!((seen[0].1, seen[1000].1), (first, now));
    // and goes on from the hub
    let now = put(&writer, "/registry/things/a", "more").await.unwrap();
    assert_eq!(read_to(&mut watch, now).await.len(), 1);

    let now = late.current_revision().await.unwrap();
    writer.compact(now).await.unwrap();
    let mut watch = late.watch("/registry/things/", first).await.unwrap();
    let end = loop {
        match watch.next().await.unwrap() {
            Ok(WatchMessage::Progress(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(end, Err(Error::Compacted { .. })), "{end:?}");
    let refused = late.watch("/calico/", now).await.map(|_| ());
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_that_others_make_elsewhere_are_seen() {
    let server = Server::start();
    let etcd = server.connect().await;
    let elsewhere = server.connect_with(Config { prefix: "/elsewhere".into(), ..server.config() }).await;
    let ours = put(&etcd, "/registry/things/a", "1").await.unwrap();
    let mut watch = etcd.watch_with_prev("/registry/things/", Revision(ours.0 + 1)).await.unwrap();
    for i in 0..20 {
        let theirs = put(&elsewhere, "/elsewhere/things/a", &i.to_string()).await.unwrap();
        let fresh = etcd.freshness("/registry/things/").await.expect("the hub comes to it");
        assert!(fresh.revision == theirs && (ours..=theirs).contains(&fresh.changed), "{fresh:?}");
    }
    let last = elsewhere.current_revision().await.unwrap();
    assert!(read_to(&mut watch, last).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_gone_is_passed_by() {
    let mut server = Server::start();
    let gone = "http://127.0.0.1:1".to_owned();
    let both = Config { servers: vec![gone, server.url()], ..server.config() };
    let etcd = server.connect_with(both).await;
    for i in 0..10 {
        put(&etcd, "/registry/things/a", &i.to_string()).await.expect("the other member takes it");
    }
    server.kill();
    assert!(matches!(put(&etcd, "/registry/things/a", "x").await, Err(Error::Unavailable(_))));
    server.run();
    let ready = async { while etcd.health().await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), ready).await.expect("the engine finds etcd again");
    put(&etcd, "/registry/things/a", "y").await.expect("the other member takes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_range_are_of_one_moment() {
    let server = Server::start();
    let etcd = server.connect().await;
    for chunk in 0..40 {
        let ops = (0..100).map(|i| Op::Put {
            key: format!("/registry/things/{:05}", chunk * 100 + i).into(),
            value: "old".into(),
            lease: None,
        });
        etcd.txn(Vec::new(), ops.collect()).await.unwrap();
    }
    let writer = {
        let etcd = Arc::clone(&etcd);
        tokio::spawn(async move {
            for i in (0..4000).rev() {
                put(&etcd, &format!("/registry/things/{i:05}"), "new").await.unwrap();
            }
        })
    };
    while !writer.is_finished() {
        let start = "/registry/things/".to_owned();
        let request = RangeRequest { end: prefix_end(&start), start, limit: 0, revision: None };
        let found = etcd.range(request).await.unwrap();
        assert_eq!((found.kvs.len(), found.count), (4000, 4000));
        assert!(found.kvs.iter().all(|kv| kv.mod_revision <= found.revision));
        // the writer goes backwards: in one moment all new ones are at the end
        let first_new = found.kvs.iter().position(|kv| kv.value == "new").unwrap_or(4000);
        assert!(found.kvs[first_new..].iter().all(|kv| kv.value == "new"));
    }
    writer.await.unwrap();
}

fn certificates(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    let issuer = Issuer::from_params(&params, &key);
    for (name, names) in [("server", vec!["127.0.0.1".to_owned()]), ("client", vec!["client".to_owned()])] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        // etcd's gateway is a client of its own server
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_client_certificates() {
    let server = Server::start_with_tls(certificates);
    let read = |name| std::fs::read(server.file(name)).unwrap();
    let config = Config {
        ca: Some(read("ca.pem")),
        client: Some((read("client.pem"), read("client.key"))),
        ..server.config()
    };
    let etcd = server.connect_with(config.clone()).await;
    let mut watch = etcd.watch("/registry/", Revision(1)).await.unwrap();
    let now = put(&etcd, "/registry/a", "1").await.unwrap();
    assert_eq!(read_to(&mut watch, now).await.len(), 1);
    let anonymous = Config { client: None, request_timeout: Duration::from_secs(2), ..config };
    assert!(matches!(Etcd::connect(anonymous).await, Err(Error::Unavailable(_))));
}

async fn cache(etcd: &Arc<Etcd>) -> Arc<WatchCache> {
    let layout = KeyLayout::new("/registry", "things", true);
    let config = WatchCacheConfig::new("things", layout, Arc::new(JsonCodec::default()));
    let cache = WatchCache::start(Arc::<Etcd>::clone(etcd), config);
    cache.wait_ready(Duration::from_secs(10)).await.unwrap();
    cache
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_of_several_servers_are_never_stale() {
    let mut server = Server::start();
    let (one, two) = (server.connect().await, server.connect().await);
    let (here, there) = (cache(&one).await, cache(&two).await);
    let mut watcher = here.watch(WatchOptions::new(WatchStart::Now)).await.unwrap();
    let mut writes = 0;
    for i in 0..200 {
        let (writer, reader) = if i % 2 == 0 { (&one, &there) } else { (&two, &here) };
        let json = format!(r#"{{"kind":"Thing","metadata":{{"name":"{}","namespace":"a"}}}}"#, i % 10);
        let revision = put(writer, &format!("/registry/things/a/{}", i % 10), &json).await.unwrap();
        writes += 1;
        let foreign = if i % 5 == 0 { put(writer, "/calico/pool", "x").await.unwrap() } else { revision };
        let list = reader.list(&ListOptions::all("")).await.unwrap();
        assert!(list.revision >= foreign);
        assert!(list.items.iter().any(|o| o.revision() == revision), "{i}: a stale list");
        if i == 100 {
            server.kill();
            server.run();
            let ready = async { while one.health().await.is_err() || two.health().await.is_err() {} };
            tokio::time::timeout(Duration::from_secs(20), ready).await.unwrap();
        }
    }
    let mut seen = 0;
    while seen < writes {
        let next = tokio::time::timeout(Duration::from_secs(20), watcher.next_batch(100));
        let batch = next.await.unwrap().unwrap().unwrap();
        seen += batch.iter().filter(|item| matches!(item, WatchItem::Event { .. })).count();
    }
    assert_eq!(seen, writes);
    assert_eq!((here.stats().starts, there.stats().starts), (1, 1));
    here.stop().await;
    one.close().await;
    assert!(one.watch("/registry/", Revision(1 << 40)).await.is_err());
}
