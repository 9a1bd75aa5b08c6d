//! OpenAPI documents: whole, in both encodings, cached by their hashes.

use integration::{Answer, Cluster};
use serde_json::Value;

const V2: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const V3: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";

async fn get(cluster: &Cluster, path: &str, headers: &[(&str, &str)]) -> Answer {
    cluster.call_with("GET", path, "", headers).await.expect("answered")
}

/// The fields of a protobuf message that hold bytes, by number.
fn fields(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = bytes.split_first().expect("a whole number");
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
        }
        panic!("a number of more than ten bytes");
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        match tag & 7 {
            0 => drop(varint(&mut message)),
            1 => message = &message[8..],
            2 => {
                let length = usize::try_from(varint(&mut message)).expect("a length");
                let (field, rest) = message.split_at(length);
                found.push((tag >> 3, field));
                message = rest;
            }
            wire => panic!("wire type {wire}"),
        }
    }
    found
}

/// The names in a message of named entries.
fn names(message: &[u8], field: u64) -> Vec<String> {
    let entries = fields(message).into_iter().filter(|(number, _)| *number == field);
    let mut names: Vec<String> =
        entries.map(|(_, entry)| String::from_utf8(fields(entry)[0].1.to_vec()).expect("a name")).collect();
    names.sort();
    names
}

fn part(message: &[u8], field: u64) -> &[u8] {
    fields(message).into_iter().find(|(number, _)| *number == field).expect("the field").1
}

fn keys(value: &Value) -> Vec<String> {
    value.as_object().expect("an object").keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_document_of_version_3_is_whole_and_cached_by_its_hash() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let index = cluster.ok("GET", "/openapi/v3", &Value::Null).await?;
    let paths = index["paths"].as_object().cloned().unwrap_or_default();
    for name in ["apis/apps/v1", "api/v1", "version", ".well-known/openid-configuration", "openid/v1/jwks"] {
        assert!(paths.contains_key(name), "{name}");
    }
    for (name, entry) in &paths {
        let url = entry["serverRelativeURL"].as_str().unwrap_or("");
        let answer = get(&cluster, url, &[]).await;
        assert_eq!(answer.code, 200, "{name}");
        assert_eq!(answer.header("cache-control"), "public, immutable", "{name}");
        let document = answer.json();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
            let target = reference.split('"').next().unwrap_or("");
            assert!(document["components"]["schemas"][target].is_object(), "{name}: {target}");
        }
        let moved = get(&cluster, &format!("/openapi/v3/{name}?hash=00"), &[]).await;
        assert_eq!((moved.code, moved.header("location")), (301, url));
        let known = get(&cluster, url, &[("if-none-match", answer.header("etag"))]).await;
        assert_eq!((known.code, known.bytes.len()), (304, 0));
        let unhashed = get(&cluster, &format!("/openapi/v3/{name}"), &[]).await;
        assert_eq!(unhashed.header("etag"), answer.header("etag"));
        assert!(!unhashed.header("cache-control").contains("immutable"));

        let protobuf = get(&cluster, url, &[("accept", V3), ("accept-encoding", "gzip")]).await;
        assert_eq!(
            protobuf.header("content-type"),
            "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
        );
        assert_ne!(protobuf.header("etag"), answer.header("etag"));
        let message = protobuf.unpacked();
        assert_eq!(names(part(&message, 4), 1), keys(&document["paths"]), "{name}");
        let schemas = part(part(&message, 5), 1);
        assert_eq!(names(schemas, 1), keys(&document["components"]["schemas"]), "{name}");
    }
    let etag = get(&cluster, "/openapi/v3", &[]).await.header("etag").to_owned();
    assert_eq!(get(&cluster, "/openapi/v3", &[("if-none-match", &etag)]).await.code, 304);
    assert_eq!(get(&cluster, "/openapi/v3/apis/apps/v9", &[]).await.code, 404);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn version_2_says_the_same_in_both_encodings() -> anyhow::Result<()> {
    let cluster = Cluster::start().await?;
    let json = get(&cluster, "/openapi/v2", &[]).await;
    let document = json.json();
    assert_eq!(document["swagger"], "2.0");
    let pod = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["get"];
    assert_eq!(pod["operationId"], "readCoreV1NamespacedPod");
    let compressed = get(&cluster, "/openapi/v2", &[("accept-encoding", "gzip")]).await;
    assert_eq!(compressed.unpacked(), json.bytes);
    assert_eq!(compressed.header("etag"), json.header("etag"));

    let protobuf = get(&cluster, "/openapi/v2", &[("accept", V2), ("accept-encoding", "gzip")]).await;
    assert_eq!(protobuf.header("content-type"), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    let message = protobuf.unpacked();
    assert_eq!(names(part(&message, 8), 2), keys(&document["paths"]));
    assert_eq!(names(part(&message, 9), 1), keys(&document["definitions"]));
    let tag = protobuf.header("etag");
    let again = get(&cluster, "/openapi/v2", &[("accept", V2), ("if-none-match", tag)]).await;
    assert_eq!((again.code, again.bytes.len()), (304, 0));
    assert_eq!(get(&cluster, "/openapi/v2", &[("accept", "text/html")]).await.code, 406);
    cluster.stop().await;
    Ok(())
}
