//! resourceVersion and resourceVersionMatch: what every combination reads, and which ones are refused with which words.

use integration::Cluster;
use integration::events::Events;
use serde_json::{Value, json};

const CM: &str = "/api/v1/namespaces/default/configmaps";

/// Five configmaps `c0` to `c4`, then a change of `c0`: answers the revisions of a list before and after the change.
async fn filled() -> anyhow::Result<(Cluster, String, String)> {
    let cluster = Cluster::start().await?;
    for i in 0..5 {
        let parity = if i % 2 == 0 { "even" } else { "odd" };
        let object = json!({"metadata": {"name": format!("c{i}"), "labels": {"parity": parity}}});
        cluster.ok("POST", CM, &object).await?;
    }
    let before = cluster.ok("GET", CM, &Value::Null).await?;
    let mut changed = before["items"][0].clone();
    changed["data"] = json!({"changed": "yes"});
    let after = cluster.ok("PUT", &format!("{CM}/c0"), &changed).await?;
    // an answer from the store: from now on "any state", which is what the cache has, is no older than this one
    cluster.ok("GET", CM, &Value::Null).await?;
    let text = |v: &Value| v["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
    Ok((cluster, text(&before), text(&after)))
}

fn names(list: &Value) -> String {
    let of = |item: &Value| {
        let name = item["metadata"]["name"].as_str().unwrap_or("");
        format!("{name}{}", if item["data"]["changed"] == "yes" { "*" } else { "" })
    };
    list["items"].as_array().into_iter().flatten().map(of).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn lists() -> anyhow::Result<()> {
    let (cluster, old, new) = filled().await?;
    // OLD and NEW stand for the two revisions; `c0*` is c0 after the change
    let all = "c0* c1 c2 c3 c4";
    let cases = [
        ("", all, "NEW", None),
        ("resourceVersion=", all, "NEW", None),
        ("resourceVersion=0", all, "NEW", None),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan", all, "NEW", None),
        ("resourceVersion=OLD", all, "NEW", None),
        ("resourceVersion=NEW", all, "NEW", None),
        ("resourceVersion=OLD&resourceVersionMatch=NotOlderThan", all, "NEW", None),
        ("resourceVersion=OLD&resourceVersionMatch=Exact", "c0 c1 c2 c3 c4", "OLD", None),
        ("resourceVersion=NEW&resourceVersionMatch=Exact", all, "NEW", None),
        // limits: what is left is counted where nothing is filtered, and any state is never cut
        ("limit=2", "c0* c1", "NEW", Some(3)),
        ("limit=5", all, "NEW", None),
        ("limit=0", all, "NEW", None),
        ("limit=-1", all, "NEW", None),
        ("resourceVersion=0&limit=2", all, "NEW", None),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan&limit=2", all, "NEW", None),
        ("resourceVersion=OLD&limit=2", "c0 c1", "OLD", Some(3)),
        ("resourceVersion=OLD&resourceVersionMatch=Exact&limit=2", "c0 c1", "OLD", Some(3)),
        ("resourceVersion=OLD&resourceVersionMatch=NotOlderThan&limit=2", "c0* c1", "NEW", Some(3)),
        ("limit=2&labelSelector=parity%3Deven", "c0* c2", "NEW", None),
        ("limit=2&fieldSelector=metadata.name!%3Dc1", "c0* c2", "NEW", None),
        ("limit=1&fieldSelector=metadata.name%3Dc1", "c1", "NEW", None),
        ("resourceVersion=OLD&resourceVersionMatch=Exact&labelSelector=parity%3Dodd", "c1 c3", "OLD", None),
    ];
    for (query, expected, version, remaining) in cases {
        let path = format!("{CM}?{}", query.replace("OLD", &old).replace("NEW", &new));
        let list = cluster.ok("GET", &path, &Value::Null).await?;
        let metadata = &list["metadata"];
        assert_eq!(names(&list), expected, "{query}");
        let revision = if version == "OLD" { &old } else { &new };
        assert_eq!(metadata["resourceVersion"].as_str(), Some(revision.as_str()), "{query}");
        assert_eq!(metadata["remainingItemCount"].as_i64(), remaining, "{query}");
        assert_eq!(
            metadata["continue"].is_string(),
            remaining.is_some() || query.starts_with("limit=2&"),
            "{query}"
        );
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages() -> anyhow::Result<()> {
    let (cluster, old, new) = filled().await?;
    // all pages of a list are of the revision of the first, whatever it was and however it is filtered
    let cases = [
        ("limit=2", "c0* c1|c2 c3|c4", &new, vec![Some(3), Some(1), None]),
        ("limit=4&resourceVersion=OLD", "c0 c1 c2 c3|c4", &old, vec![Some(1), None]),
        ("limit=1&labelSelector=parity%3Deven", "c0*|c2|c4", &new, vec![None; 3]),
        ("limit=2&labelSelector=parity%3Deven", "c0* c2|c4", &new, vec![None; 2]),
        ("limit=3&labelSelector=parity%3Deven", "c0* c2 c4", &new, vec![None]),
        ("limit=1&labelSelector=parity%3Dodd&resourceVersion=OLD", "c1|c3", &old, vec![None; 2]),
    ];
    for (query, expected, revision, remaining) in cases {
        let query = query.replace("OLD", &old);
        let filter: Vec<&str> = query.split('&').filter(|p| !p.starts_with("resourceVersion")).collect();
        let (mut pages, mut left) = (Vec::new(), Vec::new());
        let mut path = format!("{CM}?{query}");
        loop {
            let page = cluster.ok("GET", &path, &Value::Null).await?;
            assert_eq!(page["metadata"]["resourceVersion"].as_str(), Some(revision.as_str()), "{query}");
            pages.push(names(&page));
            left.push(page["metadata"]["remainingItemCount"].as_i64());
            let Some(token) = page["metadata"]["continue"].as_str() else { break };
            path = format!("{CM}?{}&continue={token}", filter.join("&"));
        }
        assert_eq!((pages.join("|").as_str(), left), (expected, remaining), "{query}");
    }
    // a token and the version "0" go together; the rest comes at once then
    let first = cluster.ok("GET", &format!("{CM}?limit=1"), &Value::Null).await?;
    let token = first["metadata"]["continue"].as_str().unwrap_or("");
    let rest = format!("{CM}?limit=1&resourceVersion=0&continue={token}");
    assert_eq!(names(&cluster.ok("GET", &rest, &Value::Null).await?), "c1 c2 c3 c4");
    cluster.stop().await;
    Ok(())
}

const FORBIDDEN: &str = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: ";

#[tokio::test(flavor = "multi_thread")]
async fn contradictions_are_refused() -> anyhow::Result<()> {
    let (cluster, _, new) = filled().await?;
    let page = cluster.ok("GET", &format!("{CM}?limit=1"), &Value::Null).await?;
    let token = page["metadata"]["continue"].as_str().unwrap_or("");
    let match_alone =
        format!("{FORBIDDEN}resourceVersionMatch is forbidden unless resourceVersion is provided");
    let for_watch = format!(
        "{FORBIDDEN}resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
    );
    let number = |text: &str| format!("strconv.ParseInt: parsing {text:?}: invalid syntax");
    let version =
        "resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax";
    let cases = [
        ("resourceVersionMatch=Exact", 422, match_alone.clone()),
        ("resourceVersionMatch=NotOlderThan", 422, match_alone.clone()),
        ("resourceVersionMatch=NotOlderThan&limit=1", 422, match_alone),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            422,
            format!("{FORBIDDEN}resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""),
        ),
        (
            "resourceVersion=NEW&resourceVersionMatch=Exact&continue=TOKEN",
            422,
            format!("{FORBIDDEN}resourceVersionMatch is forbidden when continue is provided"),
        ),
        (
            "resourceVersion=NEW&resourceVersionMatch=Newest",
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Unsupported value: \"Newest\": supported values: \
             \"Exact\", \"NotOlderThan\", \"\""
                .into(),
        ),
        (
            "resourceVersionMatch=Newest&sendInitialEvents=true",
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden \
             unless resourceVersion is provided, resourceVersionMatch: Unsupported value: \"Newest\": supported values: \
             \"Exact\", \"NotOlderThan\", \"\", sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list]"
                .into(),
        ),
        (
            "resourceVersion=NEW&continue=TOKEN",
            400,
            "specifying resource version is not allowed when using continue".into(),
        ),
        ("resourceVersion=abc", 400, format!("invalid resource version: {version}")),
        ("limit=x", 400, number("x")),
        ("limit=", 400, number("")),
        ("timeoutSeconds=soon", 400, number("soon")),
        (
            "continue=bm8",
            400,
            "invalid continue token: continue key is not valid: ".into(),
        ),
        ("watch=1&resourceVersionMatch=NotOlderThan", 422, for_watch.clone()),
        (
            "watch=1&resourceVersion=NEW&resourceVersionMatch=Exact",
            422,
            "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden \
             for watch unless sendInitialEvents is provided, resourceVersionMatch: Unsupported value: \"Exact\": supported \
             values: \"NotOlderThan\"]"
                .into(),
        ),
        (
            "watch=1&sendInitialEvents=true",
            422,
            format!("{FORBIDDEN}sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
        ),
        (
            "watch=1&sendInitialEvents=false",
            422,
            format!("{FORBIDDEN}sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
        ),
        ("watch=1&resourceVersion=abc", 500, version.into()),
    ];
    for (query, code, message) in cases {
        let query = query.replace("NEW", &new).replace("TOKEN", token);
        let answer = cluster.call("GET", &format!("{CM}?{query}"), "").await?;
        assert_eq!(answer.code, code, "{query}: {}", answer.text());
        assert!(answer.message().starts_with(&message), "{query}: {}", answer.message());
        if query.starts_with("watch") {
            continue;
        }
        // a collection is deleted by the same options, and nothing is deleted by wrong ones
        let answer = cluster.call("DELETE", &format!("{CM}?{query}"), "").await?;
        assert_eq!(answer.code, code, "DELETE {query}: {}", answer.text());
        assert!(answer.message().starts_with(&message), "DELETE {query}: {}", answer.message());
    }
    assert_eq!(names(&cluster.ok("GET", CM, &Value::Null).await?), "c0* c1 c2 c3 c4");
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gets() -> anyhow::Result<()> {
    let (cluster, old, new) = filled().await?;
    for query in ["", "resourceVersion=", "resourceVersion=0", "resourceVersion=OLD", "resourceVersion=NEW"] {
        let query = query.replace("OLD", &old).replace("NEW", &new);
        let object = cluster.ok("GET", &format!("{CM}/c0?{query}"), &Value::Null).await?;
        assert_eq!(object["metadata"]["resourceVersion"].as_str(), Some(new.as_str()), "{query}");
    }
    let invalid = cluster.call("GET", &format!("{CM}/c0?resourceVersion=abc"), "").await?;
    let text = "resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax";
    assert_eq!((invalid.code, invalid.message().as_str()), (500, text));
    let missing = cluster.call("GET", &format!("{CM}/none?resourceVersion={old}"), "").await?;
    assert_eq!(missing.code, 404);
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_future_is_waited_for_and_then_refused() -> anyhow::Result<()> {
    let (cluster, _, new) = filled().await?;
    let future = new.parse::<u64>()? + 1000;
    let largest = u64::MAX.to_string();
    let cases = [
        format!("{CM}/c0?resourceVersion={future}"),
        format!("{CM}?resourceVersion={future}"),
        format!("{CM}?resourceVersion={future}&limit=1"),
        format!("{CM}?resourceVersion={future}&resourceVersionMatch=Exact"),
        format!("{CM}?resourceVersion={future}&resourceVersionMatch=NotOlderThan"),
        format!("{CM}?resourceVersion={largest}&resourceVersionMatch=NotOlderThan"),
    ];
    let asked = cases.iter().map(|path| cluster.call("GET", path, ""));
    for (path, answer) in cases.iter().zip(futures::future::join_all(asked).await) {
        refused_as_future(path, &answer?.json());
    }
    let wait = format!(
        "{CM}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion={future}"
    );
    let mut events = Events::open(&cluster, &wait).await?;
    let event = events.next().await?.unwrap_or_default();
    assert_eq!(event["type"], "ERROR", "{event}");
    refused_as_future(&wait, &event["object"]);
    assert_eq!(events.next().await?, None);
    let deleted = cluster.call("DELETE", &format!("{CM}?resourceVersion={future}"), "").await?;
    refused_as_future("DELETE", &deleted.json());
    // a plain watch simply begins there
    let mut events =
        Events::open(&cluster, &format!("{CM}?watch=1&resourceVersion={future}&timeoutSeconds=1")).await?;
    assert_eq!(events.next().await?, None);
    cluster.stop().await;
    Ok(())
}

fn refused_as_future(path: &str, status: &Value) {
    assert_eq!((&status["code"], &status["reason"]), (&json!(504), &json!("Timeout")), "{path}: {status}");
    let message = status["message"].as_str().unwrap_or("");
    assert!(message.starts_with("Timeout: Too large resource version: "), "{path}: {message}");
    assert!(message.contains(", current: "), "{path}: {message}");
    let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
    assert_eq!(status["details"], json!({"causes": [cause], "retryAfterSeconds": 1}), "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches() -> anyhow::Result<()> {
    let (cluster, old, new) = filled().await?;
    let initial = "ADDED c0,ADDED c1,ADDED c2,ADDED c3,ADDED c4";
    let cases = [
        // what is there, then changes; with bookmarks, one says where the first part ends
        ("", initial.to_owned()),
        ("resourceVersion=0", initial.to_owned()),
        ("allowWatchBookmarks=true", format!("{initial},BOOKMARK!")),
        ("resourceVersion=0&allowWatchBookmarks=true", format!("{initial},BOOKMARK!")),
        ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", initial.to_owned()),
        (
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
            format!("{initial},BOOKMARK!"),
        ),
        (
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=OLD&allowWatchBookmarks=true",
            format!("{initial},BOOKMARK!"),
        ),
        (
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0&labelSelector=parity%3Dodd",
            "ADDED c1,ADDED c3".to_owned(),
        ),
        // changes only
        ("resourceVersion=OLD", "MODIFIED c0".to_owned()),
        ("resourceVersion=NEW", String::new()),
        ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan", String::new()),
        ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=0", String::new()),
        (
            "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=OLD",
            "MODIFIED c0".to_owned(),
        ),
    ];
    let opened = cases.iter().map(async |(query, _)| {
        let query = query.replace("OLD", &old).replace("NEW", &new);
        let mut events = Events::open(&cluster, &format!("{CM}?watch=true&timeoutSeconds=1&{query}")).await?;
        let mut seen = Vec::new();
        while let Some(event) = events.next().await? {
            let metadata = &event["object"]["metadata"];
            let end = metadata["annotations"]["k8s.io/initial-events-end"] == "true";
            if end {
                assert_eq!(metadata["resourceVersion"].as_str(), Some(new.as_str()), "{query}");
            }
            let name = metadata["name"].as_str().map(|n| format!(" {n}")).unwrap_or_default();
            seen.push(format!(
                "{}{name}{}",
                event["type"].as_str().unwrap_or(""),
                if end { "!" } else { "" }
            ));
        }
        // the bookmark before the end of a watch comes or not, as it had time
        seen.retain(|event| event != "BOOKMARK");
        anyhow::Ok(seen.join(","))
    });
    for ((query, expected), seen) in cases.iter().zip(futures::future::join_all(opened).await) {
        assert_eq!(&seen?, expected, "{query}");
    }
    cluster.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_are_deleted_as_they_are_listed() -> anyhow::Result<()> {
    let (cluster, old, new) = filled().await?;
    // a page of it: the answer is the page that was listed, with the token of the next
    let page = cluster.ok("DELETE", &format!("{CM}?limit=2"), &Value::Null).await?;
    assert_eq!((page["kind"].as_str(), names(&page).as_str()), (Some("ConfigMapList"), "c0* c1"));
    assert_eq!(page["metadata"]["remainingItemCount"], 3);
    assert_eq!(page["metadata"]["resourceVersion"].as_str(), Some(new.as_str()));
    let token = page["metadata"]["continue"].as_str().unwrap_or("").to_owned();
    assert_eq!(names(&cluster.ok("GET", CM, &Value::Null).await?), "c2 c3 c4");
    let rest = cluster.ok("DELETE", &format!("{CM}?limit=1&continue={token}"), &Value::Null).await?;
    assert_eq!(names(&rest), "c2");
    // selected, and as it was: what is gone already is no matter
    let selected = cluster.ok("DELETE", &format!("{CM}?labelSelector=parity%3Deven"), &Value::Null).await?;
    assert_eq!(names(&selected), "c4");
    let exact = format!("{CM}?resourceVersion={old}&resourceVersionMatch=Exact&labelSelector=parity%3Dodd");
    assert_eq!(names(&cluster.ok("DELETE", &exact, &Value::Null).await?), "c1 c3");
    assert_eq!(names(&cluster.ok("GET", CM, &Value::Null).await?), "");
    cluster.stop().await;
    Ok(())
}
