//! Who owns what, as tables of writes against a server of one object.

use crate::json;

use super::testing::Server;
use super::*;
use crate::Value;

fn config(spec: Value) -> Value {
    json!({"metadata": {"name": "d", "namespace": "default"}, "spec": spec})
}

fn owners(server: &Server<'_>) -> Vec<(String, String)> {
    server.owners()
}

fn one(id: &str, fields: Value) -> (String, String) {
    (id.to_owned(), fields.to_string())
}

#[test]
fn create_owns_what_differs_from_a_blank_object() {
    let mut server = Server::new();
    server.update(
        "kubectl-create",
        json!({
            "metadata": {"labels": {"app": "a"}, "finalizers": ["x/y"], "ownerReferences": [{"uid": "1", "name": "o"}]},
            "spec": {
                "replicas": 1, "selector": {"app": "a"}, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
                "containers": [{"name": "c", "image": "i", "args": ["a", "b"], "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
                "free": {"a": {"b": [1]}, "c": {}}, "extension": {"a": {"b": 1}},
            },
            "status": {"replicas": 3},
        }),
    );
    assert_eq!(
        owners(&server),
        [one(
            "kubectl-create/Update@1",
            json!({
                "f:metadata": {
                    "f:finalizers": {".": {}, "v:\"x/y\"": {}},
                    "f:labels": {".": {}, "f:app": {}},
                    "f:ownerReferences": {".": {}, "k:{\"uid\":\"1\"}": {}},
                },
                "f:spec": {
                    "f:replicas": {},
                    "f:selector": {},
                    // printed even when nobody sets them, so only what is in them is new
                    "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
                    "f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:name": {}, "f:image": {}, "f:args": {}, "f:imagePullPolicy": {}, "f:resources": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    }},
                    "f:free": {".": {}, "f:a": {".": {}, "f:b": {}}, "f:c": {}},
                    "f:extension": {".": {}, "f:a": {}},
                },
            })
        )]
    );
    let entry = &server.at("/metadata/managedFields")[0];
    assert_eq!(
        (&entry["apiVersion"], &entry["fieldsType"], &entry["time"]),
        (&json!("apps/v1"), &json!("FieldsV1"), &json!("1970-01-01T00:00:01Z"))
    );
}

#[test]
fn updates_take_over_what_they_change() {
    let mut server = Server::new();
    server.update(
        "a",
        json!({"spec": {"replicas": 1, "tolerations": ["x"]}, "metadata": {"labels": {"l": "1"}}}),
    );
    server.update(
        "b",
        json!({"spec": {"replicas": 2, "tolerations": ["x"]}, "metadata": {"labels": {"l": "1", "m": "2"}}}),
    );
    let first = json!({"f:metadata": {"f:labels": {".": {}, "f:l": {}}}, "f:spec": {"f:tolerations": {}}});
    let second = json!({"f:metadata": {"f:labels": {"f:m": {}}}, "f:spec": {"f:replicas": {}}});
    assert_eq!(owners(&server), [one("a/Update@1", first.clone()), one("b/Update@2", second.clone())]);
    // nothing changes: no entry, no time
    server.update(
        "c",
        json!({"spec": {"replicas": 2, "tolerations": ["x"]}, "metadata": {"labels": {"l": "1", "m": "2"}}}),
    );
    assert_eq!(owners(&server), [one("a/Update@1", first), one("b/Update@2", second)]);
    // what is removed has no owner; a writer's entry grows and gets the time
    server.update("b", json!({"spec": {"replicas": 2, "tolerations": ["y"]}}));
    assert_eq!(
        owners(&server),
        [one("b/Update@4", json!({"f:spec": {"f:replicas": {}, "f:tolerations": {}}}))]
    );
}

#[test]
fn status_is_owned_through_its_subresource_only() {
    let mut server = Server::new();
    server.update("a", json!({"spec": {"replicas": 1}, "status": {"replicas": 9}}));
    server.update_of(
        "kubelet",
        "status",
        json!({"spec": {"replicas": 5}, "status": {"replicas": 1, "conditions": [{"type": "Ready", "status": "True"}]}}),
    );
    assert_eq!(
        owners(&server),
        [
            one("a/Update@1", json!({"f:spec": {"f:replicas": {}}})),
            one(
                "kubelet/Update/status@2",
                json!({"f:status": {
                    "f:replicas": {},
                    "f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:type": {}, "f:status": {}}},
                }})
            ),
        ]
    );
}

#[test]
fn apply_creates_merges_and_removes() {
    let mut server = Server::new();
    let two = json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "E", "value": "1"}]}, {"name": "b", "image": "1"}], "replicas": 1});
    server.apply("x", config(two), false).unwrap();
    assert_eq!(
        owners(&server),
        [one(
            "x/Apply@1",
            json!({"f:spec": {
                "f:replicas": {},
                "f:containers": {
                    "k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:image": {}, "f:env": {"k:{\"name\":\"E\"}": {".": {}, "f:name": {}, "f:value": {}}}},
                    "k:{\"name\":\"b\"}": {".": {}, "f:name": {}, "f:image": {}},
                },
            }})
        )]
    );
    // another applier adds a field to an item, an updater another item
    server.apply("y", config(json!({"containers": [{"name": "b", "args": ["q"]}]})), false).unwrap();
    let mut object = server.object.clone().unwrap();
    object["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "z", "image": "u"}));
    server.update("u", object);
    // x drops replicas, env and b: b stays, as y has a part of it, but x's image in it goes
    server.apply("x", config(json!({"containers": [{"name": "a", "image": "2"}]})), false).unwrap();
    assert_eq!(
        server.at("/spec/containers"),
        json!([
            {"name": "a", "image": "2", "imagePullPolicy": "Always", "resources": {}},
            {"name": "b", "args": ["q"], "imagePullPolicy": "Always", "resources": {}},
            {"name": "z", "image": "u", "imagePullPolicy": "Always", "resources": {}},
        ])
    );
    assert_eq!(server.at("/spec/replicas"), Value::Null);
    let ids: Vec<String> = owners(&server).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["y/Apply@2", "x/Apply@4", "u/Update@3"]);
    // and y's b goes with its owner, though defaults hang on it
    server.apply("y", config(json!({})), false).unwrap();
    assert_eq!(server.at("/spec/containers/1/name"), json!("z"));
}

#[test]
fn conflicts_are_named_and_forced() {
    let mut server = Server::new();
    server.update(
        "kubectl-client-side-apply",
        json!({"spec": {"replicas": 1, "containers": [{"name": "a", "image": "1"}]}}),
    );
    let error = server.apply("me", config(json!({"replicas": 2})), false).unwrap_err();
    assert_eq!(
        error.to_value(),
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 409, "reason": "Conflict",
            "message": "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas",
            "details": {"causes": [{
                "reason": "FieldManagerConflict", "field": ".spec.replicas",
                "message": "conflict with \"kubectl-client-side-apply\" using apps/v1",
            }]},
        })
    );
    server.apply("other", config(json!({"tolerations": ["t"]})), false).unwrap();
    let error = server
        .apply(
            "me",
            config(json!({"replicas": 2, "tolerations": ["u"], "containers": [{"name": "a", "image": "2"}]})),
            false,
        )
        .unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 3 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.replicas\n\
         - .spec.containers[name=\"a\"].image\nconflicts with \"other\":\n- .spec.tolerations"
    );
    // the same value is no conflict, and is shared
    server.apply("me", config(json!({"replicas": 1})), false).unwrap();
    server.apply("me", config(json!({"replicas": 2, "tolerations": ["u"]})), true).unwrap();
    assert_eq!(server.at("/spec/replicas"), json!(2));
    let all = owners(&server);
    assert_eq!(all[0], one("me/Apply@6", json!({"f:spec": {"f:replicas": {}, "f:tolerations": {}}})));
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(!all[1].1.contains("f:replicas"));
}

#[test]
fn an_apply_that_changes_nothing_keeps_the_object() {
    let mut server = Server::new();
    let same = json!({"replicas": 1, "containers": [{"name": "a", "image": "1"}]});
    server.apply("x", config(same.clone()), false).unwrap();
    let before = server.object.clone();
    server.apply("x", config(same.clone()), false).unwrap();
    assert_eq!(server.object, before);
    // a second owner is recorded, without a time of its own
    server.apply("y", config(json!({"replicas": 1})), false).unwrap();
    let ids: Vec<String> = owners(&server).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["y/Apply@none", "x/Apply@1"]);
}

#[test]
fn lists_are_ordered_by_the_applier() {
    let names = |server: &Server<'_>| -> Vec<String> {
        let list = server.at("/spec/containers");
        list.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    let containers = |names: &str| {
        let list: Vec<Value> = names.chars().map(|c| json!({"name": c.to_string()})).collect();
        config(json!({"containers": list}))
    };
    // live, applied, merged
    let cases = [
        ("abc", "abc", "abc"),
        ("abc", "d", "abcd"),
        ("abc", "ca", "bca"),
        ("abc", "cba", "cba"),
        ("abcd", "xbd", "axbcd"),
        ("abcd", "dx", "abcdx"),
        ("abcde", "edxcb", "aedxcb"),
        ("ab", "xaybz", "xaybz"),
    ];
    for (live, applied, merged) in cases {
        let mut server = Server::new();
        server.apply("x", containers(live), false).unwrap();
        server.apply("y", containers(applied), false).unwrap();
        assert_eq!(names(&server).concat(), merged, "{live} + {applied}");
    }
}

#[test]
fn sets_merge_and_shrink() {
    let mut server = Server::new();
    let with = |list: &[&str]| json!({"metadata": {"name": "d", "namespace": "default", "finalizers": list}});
    server.apply("x", with(&["a", "b"]), false).unwrap();
    server.apply("y", with(&["b", "c"]), false).unwrap();
    assert_eq!(server.at("/metadata/finalizers"), json!(["a", "b", "c"]));
    server.apply("x", with(&["a"]), false).unwrap();
    assert_eq!(server.at("/metadata/finalizers"), json!(["a", "b", "c"]));
    server.apply("y", with(&[]), false).unwrap();
    assert_eq!(server.at("/metadata/finalizers"), json!(["a"]));
}

#[test]
fn configurations_are_validated() {
    let cases = [
        (json!({"apiVersion": "apps/v2"}), 400, "invalid object type: apps/v2, Kind=Deployment"),
        (json!({"kind": "Pod", "apiVersion": "v1"}), 400, "invalid object type: /v1, Kind=Pod"),
        (json!({"metadata": {"managedFields": []}}), 400, "metadata.managedFields must be nil"),
        (
            config(json!({"nope": 1})),
            500,
            "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): .spec.nope: field not declared in schema",
        ),
        (
            config(json!({"replicas": "1"})),
            500,
            "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): .spec.replicas: expected numeric (int or float), got string",
        ),
        (
            config(json!({"containers": {"a": 1}, "strategy": []})),
            500,
            "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): errors:\n  .spec.containers: expected list, got &{map[a:1]}\n  .spec.strategy: expected map, got &{[]}",
        ),
        (
            config(json!({"containers": [{"name": "a"}, {"name": "a"}]})),
            500,
            "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): .spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (
            config(json!({"containers": [{"image": "a"}]})),
            500,
            "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): .spec.containers: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)",
        ),
        (
            config(json!({"containers": [{"name": "a", "image": 1}]})),
            500,
            "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): .spec.containers[name=\"a\"].image: expected string, got &value.valueUnstructured{Value:1}",
        ),
        (
            config(json!({"tolerations": [true]})),
            500,
            "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): .spec.tolerations[0]: expected string, got &value.valueUnstructured{Value:true}",
        ),
    ];
    for (config, code, message) in cases {
        let error = Server::new().apply("x", config, false).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (code, message));
    }
}

#[test]
fn managed_fields_can_be_reset_and_set() {
    let sent = |managed: Value| json!({"metadata": {"managedFields": managed}, "spec": {"replicas": 1}});
    let mine = json!([{"manager": "me", "operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
    let fresh = || {
        let mut server = Server::new();
        server.update("a", json!({"spec": {"replicas": 1}}));
        server
    };
    let recorded = fresh().at("/metadata/managedFields");
    for (managed, left) in [
        (json!([]), Value::Null),
        (json!([{}]), Value::Null),
        (mine.clone(), mine.clone()),
        (json!(null), recorded.clone()),
        (json!([{"operation": "Nonsense"}]), recorded.clone()),
        (json!([{}, {}]), recorded.clone()),
    ] {
        let mut server = fresh();
        server.update("b", sent(managed.clone()));
        assert_eq!(server.at("/metadata/managedFields"), left, "{managed}");
    }
    // a subresource cannot
    let mut server = fresh();
    server.update_of("b", "status", sent(json!([])));
    assert_eq!(server.at("/metadata/managedFields"), recorded);
    // after a reset nothing is tracked until the first apply, which finds everything owned
    let mut server = fresh();
    server.update("b", sent(json!([])));
    server.update("c", json!({"spec": {"replicas": 2}}));
    assert_eq!(owners(&server), []);
    let error = server.apply("x", config(json!({"replicas": 3})), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn old_updaters_are_merged() {
    let mut server = Server::new();
    for i in 0..15 {
        let mut object = server.object.clone().unwrap_or(json!({"metadata": {}}));
        object["metadata"]["labels"][format!("l{i}")] = json!("x");
        server.update(&format!("m{i}"), object);
    }
    let all = owners(&server);
    assert_eq!(all.len(), 10);
    assert_eq!(
        all[0],
        one(
            "ancient-changes/Update@6",
            json!({"f:metadata": {"f:labels": {".": {}, "f:l0": {}, "f:l1": {}, "f:l2": {}, "f:l3": {}, "f:l4": {}, "f:l5": {}}}})
        )
    );
    assert_eq!(all[9].0, "m14/Update@15");
}

#[test]
fn client_side_apply_is_upgraded() {
    const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let last = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 1}}).to_string();
    let live =
        json!({"metadata": {"annotations": {LAST: last}}, "spec": {"replicas": 1, "tolerations": ["t"]}});
    let mut server = Server::new();
    server.update("kubectl-client-side-apply", live.clone());
    // what the annotation says is kubectl's to change, anything else is not
    let error =
        server.apply("kubectl", config(json!({"replicas": 2, "tolerations": ["u"]})), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.tolerations"
    );
    server.apply("kubectl", config(json!({"replicas": 2})), false).unwrap();
    assert_eq!(server.at("/spec/replicas"), json!(2));
    assert_eq!(
        server.at("/metadata/annotations")[LAST],
        json!(
            "{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":{\"name\":\"d\",\"namespace\":\"default\"},\"spec\":{\"replicas\":2}}\n"
        )
    );
    // other managers opt out
    let mut server = Server::new();
    server.update("kubectl-client-side-apply", live);
    assert!(server.apply("argo", config(json!({"replicas": 2})), false).is_err());
}

/// `apps/v1` and `apps/v1beta1`, which calls `replicas` `count`.
struct TwoVersions {
    schema: crate::schema::Schema,
    root: crate::schema::NodeId,
}

impl TwoVersions {
    fn new() -> Self {
        let mut t = testing::Types::new();
        let int = crate::schema::Field::new(t.int);
        let (spec, string) = (t.object(vec![("count", int)]), t.string);
        let field = crate::schema::Field::new;
        let metadata =
            t.object(vec![("name", field(string)), ("namespace", field(string)), ("uid", field(string))]);
        let root = t.object(vec![
            ("apiVersion", field(string)),
            ("kind", field(string)),
            ("metadata", field(metadata)),
            ("spec", field(spec)),
        ]);
        Self { schema: t.schema, root }
    }
}

impl Versions for TwoVersions {
    fn schema(&self, api_version: &str) -> Option<(&crate::schema::Schema, crate::schema::NodeId)> {
        (api_version == "apps/v1beta1").then_some((&self.schema, self.root))
    }

    fn convert(&self, object: &Value, api_version: &str) -> Result<Value, crate::status::Status> {
        let (from, to) = if api_version == "apps/v1" { ("count", "replicas") } else { ("replicas", "count") };
        let mut object = object.clone();
        object["apiVersion"] = json!(api_version);
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
            && let Some(value) = spec.remove(from)
        {
            spec.insert(to.into(), value);
        }
        Ok(object)
    }
}

#[test]
fn entries_of_other_versions_are_compared_there() {
    let versions = TwoVersions::new();
    let managed = json!([
        {"manager": "gone", "operation": "Update", "apiVersion": "apps/v0", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        {"manager": "old", "operation": "Apply", "apiVersion": "apps/v1beta1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:count": {}}}},
    ]);
    let start = || {
        let mut server = Server::with_versions(&versions);
        server.update("a", json!({"metadata": {"managedFields": managed}, "spec": {"replicas": 1}}));
        server.update("a", json!({"metadata": {"managedFields": managed}, "spec": {"replicas": 1}}));
        server
    };
    // the version nobody serves is dropped, the other kept
    let server = start();
    let ids: Vec<String> = owners(&server).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["old/Apply@none"]);
    // changing the field under its new name takes it from who has it under the old
    let mut server = start();
    server.update("b", json!({"spec": {"replicas": 2}}));
    assert_eq!(owners(&server), [one("b/Update@3", json!({"f:spec": {"f:replicas": {}}}))]);
    let mut server = start();
    let error = server.apply("x", config(json!({"replicas": 2})), false).unwrap_err();
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"old\": .spec.count");
    // the old applier comes back at the new version without the field: it is removed
    server.apply("old", config(json!({"tolerations": ["t"]})), false).unwrap();
    assert_eq!(server.at("/spec/replicas"), Value::Null);
    assert_eq!(owners(&server), [one("old/Apply@4", json!({"f:spec": {"f:tolerations": {}}}))]);
}

#[test]
fn manager_names() {
    let long = "é".repeat(100);
    let cases = [
        ("me", "kubectl/v1.36", "me"),
        ("", "kubectl/v1.36 (linux/amd64)", "kubectl"),
        ("", "ku\tbe ctl", "kube ctl"),
        ("", "", ""),
        ("", &long, &"é".repeat(64)),
    ];
    for (parameter, agent, name) in cases {
        assert_eq!(manager_name(parameter, agent), name);
    }
}

#[test]
fn replicas_are_followed_through_scale() {
    let paths = [
        scale::ReplicasPath { api_version: "apps/v1".into(), path: vec!["spec".into(), "replicas".into()] },
        scale::ReplicasPath {
            api_version: "apps/v1beta1".into(),
            path: vec!["spec".into(), "replicas".into()],
        },
    ];
    let entry = |manager: &str, operation: &str, version: &str, sub: Option<&str>, fields: Value| {
        let mut entry = json!({"manager": manager, "operation": operation, "apiVersion": version, "fieldsType": "FieldsV1", "fieldsV1": fields, "time": "2026-01-01T00:00:00Z"});
        if let Some(sub) = sub {
            entry["subresource"] = json!(sub);
        }
        entry
    };
    let replicas = json!({"f:spec": {"f:replicas": {}}});
    let both = json!({"f:spec": {"f:replicas": {}, "f:selector": {}}});
    let resource = json!([
        entry("a", "Apply", "apps/v1", None, both.clone()),
        entry("b", "Update", "apps/v1", None, json!({"f:spec": {"f:selector": {}}})),
        entry("c", "Update", "apps/v1beta1", None, both.clone()),
    ]);
    let seen = scale::to_scale(Some(&resource), &paths).unwrap();
    assert_eq!(
        seen,
        json!([
            entry("a", "Apply", "autoscaling/v1", None, replicas.clone()),
            entry("c", "Update", "autoscaling/v1", None, replicas.clone()),
        ])
    );
    // nothing written: as before
    assert_eq!(scale::to_resource(Some(&resource), Some(&seen), "apps/v1", &paths), Some(resource.clone()));
    // written by d: the others lose it
    let after = json!([entry("d", "Update", "autoscaling/v1", Some("scale"), replicas.clone())]);
    assert_eq!(
        scale::to_resource(Some(&resource), Some(&after), "apps/v1", &paths),
        Some(json!([
            entry("a", "Apply", "apps/v1", None, json!({"f:spec": {"f:selector": {}}})),
            entry("b", "Update", "apps/v1", None, json!({"f:spec": {"f:selector": {}}})),
            entry("c", "Update", "apps/v1beta1", None, json!({"f:spec": {"f:selector": {}}})),
            entry("d", "Update", "apps/v1", Some("scale"), replicas.clone()),
        ]))
    );
}

/// `{"a":{"a":...1}}` of a depth.
fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!({ "a": inner }))
}

#[test]
fn deep_objects_stay_readable_with_their_owners() {
    let free = |value: Value| config(json!({ "free": value }));
    let depth = crate::json::MAX_DEPTH - 2;
    let mut server = Server::new();
    server.update("u", free(nested(depth)));
    let text = server.object.clone().unwrap().to_string();
    assert!(crate::json::parse_str(&text).is_ok());
    // a change far below is a conflict where ownership ends
    let mut other = nested(depth);
    *other.pointer_mut(&"/a".repeat(depth)).unwrap() = json!(2);
    let error = server.apply("x", free(other.clone()), false).unwrap_err();
    assert!(error.message.ends_with(&format!(".spec.free{}", ".a".repeat(98))), "{}", error.message);
    server.apply("x", free(other.clone()), true).unwrap();
    assert_eq!(server.at("/spec/free"), other);
    server.apply("x", config(json!({"replicas": 1})), false).unwrap();
    assert_eq!(server.at(&format!("/spec/free{}", "/a".repeat(98))), Value::Null);
}

/// Knows `apps/v1beta1`, but cannot convert to it.
struct Unconvertible(TwoVersions);

impl Versions for Unconvertible {
    fn schema(&self, api_version: &str) -> Option<(&crate::schema::Schema, crate::schema::NodeId)> {
        self.0.schema(api_version)
    }

    fn convert(&self, _object: &Value, _api_version: &str) -> Result<Value, crate::status::Status> {
        Err(crate::status::Status::internal("conversion webhook failed"))
    }
}

#[test]
fn owners_survive_a_failing_conversion() {
    let versions = Unconvertible(TwoVersions::new());
    let managed = json!([{"manager": "old", "operation": "Update", "apiVersion": "apps/v1beta1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:count": {}}}}]);
    let mut server = Server::new();
    server.update("a", json!({"spec": {"replicas": 1}}));
    let mut object = server.object.clone().unwrap();
    object["metadata"]["managedFields"] = managed.clone();
    let mut server = Server::with_versions(&versions);
    server.object = Some(object);
    server.update("b", json!({"spec": {"replicas": 2}}));
    assert_eq!(server.at("/metadata/managedFields"), managed);
    let error = server.apply("x", config(json!({"replicas": 3})), false).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (500, "Internal error occurred: conversion webhook failed")
    );
}
