//! Requests as large as requests may be, of the shapes that are dear: time and memory of each, for whoever changes what
//! reads them. `large [NAME...]` runs those whose name contains one of the words.

use std::io::Write as _;
use std::time::Instant;

/// A body's size, a little below the limit.
const BYTES: usize = 3_000_000;

/// `item` as often as it fits, between two texts; `#` in it is the number.
fn filled(head: &str, item: &str, separator: &str, tail: &str) -> String {
    let mut text = head.to_owned();
    for i in 0.. {
        let next = item.replace('#', &i.to_string());
        if text.len() + next.len() + separator.len() + tail.len() > BYTES {
            break;
        }
        if i > 0 {
            text.push_str(separator);
        }
        text.push_str(&next);
    }
    text + tail
}

fn request(head: &str, media: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!("{head}\ncontent-type: {media}\n\n").into_bytes();
    request.extend_from_slice(body);
    request
}

/// A protobuf field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

fn requests() -> Vec<(&'static str, Vec<u8>)> {
    const JSON: &str = "application/json";
    const YAML: &str = "application/yaml";
    const SMP: &str = "application/strategic-merge-patch+json";
    const PODS: &str = "/api/v1/namespaces/default/pods";
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    let head = r#"{"metadata":{"name":"large"},"spec":{"containers":["#;
    let post = |path: &str, body: String| request(&format!("POST {path}"), JSON, body.as_bytes());
    let mut envelope = b"k8s\0".to_vec();
    let kind = [field(1, b"v1"), field(2, b"Pod")].concat();
    let pod = field(2, &[0x12, 0].repeat(BYTES / 2 - 100));
    envelope.extend([field(1, &kind), field(2, &pod)].concat());
    vec![
        ("json-empty-containers", post(PODS, filled(head, "{}", ",", "]}}"))),
        ("json-containers", post(PODS, filled(head, r#"{"name":"c#","image":"i"}"#, ",", "]}}"))),
        (
            "json-env",
            post(
                PODS,
                filled(
                    &format!("{head}{{\"name\":\"c\",\"image\":\"i\",\"env\":["),
                    r#"{"name":"E#","value":"$(E1)"}"#,
                    ",",
                    "]}]}}",
                ),
            ),
        ),
        (
            "protobuf-empty-containers",
            request(&format!("POST {PODS}"), "application/vnd.kubernetes.protobuf", &envelope),
        ),
        ("json-unknown-warn", post(MAPS, filled(r#"{"metadata":{"name":"large"},"#, r#""u#":1"#, ",", "}"))),
        (
            "json-unknown-strict",
            post(
                &format!("{MAPS}?fieldValidation=Strict"),
                filled(r#"{"metadata":{"name":"large"},"#, r#""u#":1"#, ",", "}"),
            ),
        ),
        ("json-repeated", post(MAPS, filled(r#"{"metadata":{"name":"large"},"#, r#""data":{}"#, ",", "}"))),
        (
            "json-keys",
            post(MAPS, filled(r#"{"metadata":{"name":"large"},"data":{"#, r#""k#":"""#, ",", "}}")),
        ),
        (
            "json-labels",
            post(MAPS, filled(r#"{"metadata":{"name":"large","labels":{"#, r#""k#":"""#, ",", "}}}")),
        ),
        (
            "json-bad-labels",
            post(MAPS, filled(r#"{"metadata":{"name":"large","labels":{"#, r#""_#":"_""#, ",", "}}}")),
        ),
        (
            "json-owners",
            post(
                MAPS,
                filled(
                    r#"{"metadata":{"name":"large","ownerReferences":["#,
                    r##"{"apiVersion":"v1","kind":"Pod","name":"p","uid":"#"}"##,
                    ",",
                    "]}}",
                ),
            ),
        ),
        (
            "json-finalizers",
            post(MAPS, filled(r#"{"metadata":{"name":"large","finalizers":["#, r#""a.b/#""#, ",", "]}}")),
        ),
        (
            "json-managed",
            post(
                MAPS,
                filled(
                    r#"{"metadata":{"name":"large","managedFields":["#,
                    r#"{"manager":"m#","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{}}}"#,
                    ",",
                    "]}}",
                ),
            ),
        ),
        (
            "json-ports",
            post(
                "/api/v1/namespaces/default/services",
                filled(
                    r#"{"metadata":{"name":"large"},"spec":{"ports":["#,
                    r#"{"name":"p#","port":80}"#,
                    ",",
                    "]}}",
                ),
            ),
        ),
        (
            "json-peers",
            post(
                "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
                filled(
                    r#"{"metadata":{"name":"large"},"spec":{"podSelector":{},"ingress":[{"from":["#,
                    r#"{"ipBlock":{"cidr":"10.0.0.0/8"}}"#,
                    ",",
                    "]}]}}",
                ),
            ),
        ),
        (
            "yaml-containers",
            request(
                &format!("POST {PODS}"),
                YAML,
                filled("metadata: {name: large}\nspec:\n  containers:\n", "  - {name: c#}\n", "", "")
                    .as_bytes(),
            ),
        ),
        (
            "yaml-aliases",
            request(
                &format!("POST {MAPS}"),
                YAML,
                filled("metadata: {name: large}\na: &a {x: 1}\nu:\n", "- *a\n", "", "").as_bytes(),
            ),
        ),
        (
            "yaml-merges",
            request(
                &format!("POST {MAPS}"),
                YAML,
                filled("metadata: {name: large}\na: &a {x: 1, y: 2}\nu:\n", "- {<<: *a}\n", "", "")
                    .as_bytes(),
            ),
        ),
        (
            "yaml-anchors",
            request(
                &format!("POST {MAPS}"),
                YAML,
                filled("metadata: {name: large}\nu:\n", "- &a# 1\n", "", "").as_bytes(),
            ),
        ),
        (
            "yaml-repeated",
            request(
                &format!("POST {MAPS}"),
                YAML,
                filled("metadata: {name: large}\n", "data: {}\n", "", "").as_bytes(),
            ),
        ),
        (
            "merge-data",
            request(
                &format!("PATCH {MAPS}/walk-1"),
                "application/merge-patch+json",
                filled(r#"{"data":{"#, r#""k#":"""#, ",", "}}").as_bytes(),
            ),
        ),
        (
            "strategic-containers",
            request(
                &format!("PATCH {PODS}/walk-1"),
                SMP,
                filled(r#"{"spec":{"containers":["#, r#"{"name":"c#","image":"i"}"#, ",", "]}}").as_bytes(),
            ),
        ),
        (
            "strategic-deletes",
            request(
                &format!("PATCH {PODS}/walk-1"),
                SMP,
                filled(r#"{"spec":{"containers":["#, r#"{"name":"c#","$patch":"delete"}"#, ",", "]}}")
                    .as_bytes(),
            ),
        ),
        (
            "strategic-order",
            request(
                &format!("PATCH {PODS}/walk-1"),
                SMP,
                (filled(r#"{"spec":{"containers":["#, r#"{"name":"c#"}"#, ",", "")[..BYTES / 2]
                    .rsplit_once("},")
                    .map_or(String::new(), |(a, _)| a.to_owned())
                    + "}],\"$setElementOrder/containers\":["
                    + filled("", r#"{"name":"c#"}"#, ",", "")[..BYTES / 2 - 200]
                        .rsplit_once("},")
                        .map_or("", |(a, _)| a)
                    + "}]}}")
                    .as_bytes(),
            ),
        ),
        (
            "strategic-finalizers",
            request(
                &format!("PATCH {MAPS}/walk-1"),
                SMP,
                filled(r#"{"metadata":{"finalizers":["#, r#""a.b/#""#, ",", "]}}").as_bytes(),
            ),
        ),
        (
            "operations-front",
            request(
                &format!("PATCH {MAPS}/walk-1"),
                "application/json-patch+json",
                (r#"[{"op":"add","path":"/x","value":["#.to_owned()
                    + &vec!["1"; 1_000_000].join(",")
                    + "]}"
                    + &r#",{"op":"add","path":"/x/0","value":1}"#.repeat(9_999)
                    + "]")
                    .as_bytes(),
            ),
        ),
        (
            "operations-replace",
            request(
                &format!("PATCH {MAPS}/walk-1"),
                "application/json-patch+json",
                filled("[", r#"{"op":"replace","path":"/data/a#","value":"x"}"#, ",", "]").as_bytes(),
            ),
        ),
        (
            "apply-containers",
            request(
                &format!("PATCH {PODS}/applied?fieldManager=a"),
                "application/apply-patch+yaml",
                filled(
                    &format!(r#"{{"apiVersion":"v1","kind":"Pod",{}"#, &head[1..]),
                    r#"{"name":"c#","image":"i"}"#,
                    ",",
                    "]}}",
                )
                .as_bytes(),
            ),
        ),
        (
            "apply-data",
            request(
                &format!("PATCH {MAPS}/walk-1?fieldManager=a&force=true"),
                "application/apply-patch+yaml",
                filled(r#"{"apiVersion":"v1","kind":"ConfigMap","data":{"#, r#""k#":"""#, ",", "}}")
                    .as_bytes(),
            ),
        ),
    ]
}

/// Most memory this process has had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() -> std::io::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut out = std::io::stdout();
    fuzz::request(b"GET /version\n\n");
    for (name, request) in requests() {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        // what was the most before does not count
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let started = Instant::now();
        let answer = fuzz::answer(&request);
        writeln!(out, "{name:26} {:8} ms {:6} MiB  {answer}", started.elapsed().as_millis(), peak())?;
    }
    Ok(())
}
