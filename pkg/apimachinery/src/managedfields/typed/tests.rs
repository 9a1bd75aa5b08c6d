//! The walkers one by one.

use crate::json;

use super::*;
use crate::managedfields::fieldpath::{Recorded, Set};
use crate::managedfields::testing::deployment;

fn spec(content: Value) -> Value {
    json!({ "spec": content })
}

fn set(fields: &Value) -> Set {
    Set::from_fields_v1(fields).unwrap()
}

#[test]
fn compares() {
    let (schema, root) = deployment();
    let (typed, root) = (Typed::new(&schema), Type::Node(root));
    // old, new, removed, modified, added
    let cases = [
        (json!({"replicas": 1}), json!({"replicas": 1}), json!({}), json!({}), json!({})),
        (json!({"replicas": 1}), json!({"replicas": 2}), json!({}), json!({"f:replicas": {}}), json!({})),
        (json!({"replicas": 1}), json!({}), json!({"f:replicas": {}}), json!({}), json!({})),
        (json!({"replicas": 1.0}), json!({"replicas": 1}), json!({}), json!({}), json!({})),
        // empty and null are values
        (
            json!({"containers": null}),
            json!({"containers": []}),
            json!({}),
            json!({"f:containers": {}}),
            json!({}),
        ),
        (json!({"containers": []}), json!({}), json!({"f:containers": {}}), json!({}), json!({})),
        // an atomic map is one field
        (
            json!({"selector": {"a": "1"}}),
            json!({"selector": {"a": "2"}}),
            json!({}),
            json!({"f:selector": {}}),
            json!({}),
        ),
        // items by key, wherever they stand
        (
            json!({"containers": [{"name": "a"}, {"name": "b", "image": "1"}]}),
            json!({"containers": [{"name": "b", "image": "2"}, {"name": "c"}]}),
            json!({"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}),
            json!({"f:containers": {"k:{\"name\":\"b\"}": {"f:image": {}}}}),
            json!({"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}}}}),
        ),
        // a default completes a key
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "protocol": "TCP"}]}]}),
            json!({}),
            json!({}),
            json!({"f:containers": {"k:{\"name\":\"a\"}": {"f:ports": {"k:{\"containerPort\":1,\"protocol\":\"TCP\"}": {"f:protocol": {}}}}}}),
        ),
        // items that occur twice are one field
        (
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "a", "image": "2"}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "a", "image": "3"}]}),
            json!({}),
            json!({"f:containers": {"k:{\"name\":\"a\"}": {}}}),
            json!({}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "a"}]}),
            json!({"containers": [{"name": "a"}]}),
            json!({"f:containers": {"k:{\"name\":\"a\"}": {}}}),
            json!({}),
            json!({"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}),
        ),
        (
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": [{"name": "a"}, {"name": "a"}]}),
            json!({"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}),
            json!({}),
            json!({"f:containers": {"k:{\"name\":\"a\"}": {}}}),
        ),
        // free-form values may change their shape
        (
            json!({"free": "x"}),
            json!({"free": {"a": {"b": 1}}}),
            json!({}),
            json!({"f:free": {}}),
            json!({"f:free": {"f:a": {".": {}, "f:b": {}}}}),
        ),
        (
            json!({"extension": {"a": {"b": 1}}}),
            json!({"extension": {"a": {"b": 2}}}),
            json!({}),
            json!({"f:extension": {"f:a": {}}}),
            json!({}),
        ),
    ];
    for (old, new, removed, modified, added) in cases {
        let diff = typed.compare(root, &spec(old.clone()), &spec(new.clone()));
        let below_spec =
            |set: &Set| set.get_field("spec").map_or(json!({}), |entry| entry.children.to_fields_v1());
        let got = [below_spec(&diff.removed), below_spec(&diff.modified), below_spec(&diff.added)];
        assert_eq!(got, [removed, modified, added], "{old} to {new}");
    }
}

#[test]
fn removes() {
    let (schema, root) = deployment();
    let (typed, root) = (Typed::new(&schema), Type::Node(root));
    let cases = [
        (
            json!({"replicas": 1, "tolerations": ["a"]}),
            json!({"f:replicas": {}}),
            json!({"tolerations": ["a"]}),
        ),
        // who loses everything is null, and so is who is atomic
        (
            json!({"strategy": {"type": "R"}}),
            json!({"f:strategy": {"f:type": {}}}),
            json!({"strategy": null}),
        ),
        (
            json!({"selector": {"a": "1", "b": "2"}}),
            json!({"f:selector": {"f:a": {}}}),
            json!({"selector": null}),
        ),
        (
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}),
            json!({"f:containers": {"k:{\"name\":\"a\"}": {"f:image": {}}, "k:{\"name\":\"b\"}": {}}}),
            json!({"containers": [{"name": "a"}]}),
        ),
        (
            json!({"containers": [{"name": "b"}]}),
            json!({"f:containers": {"k:{\"name\":\"b\"}": {}}}),
            json!({"containers": null}),
        ),
    ];
    for (object, fields, left) in cases {
        let mut got = spec(object);
        typed.remove(root, &mut got, &set(&json!({ "f:spec": fields })));
        assert_eq!(got, spec(left), "{fields}");
    }
}

#[test]
fn sets_follow_the_schema() {
    let (schema, root) = deployment();
    let (typed, root) = (Typed::new(&schema), Type::Node(root));
    let cases = [
        // parts of what is atomic by now, parts of what is granular
        (json!({"f:spec": {"f:selector": {"f:a": {}}}}), json!({"f:spec": {"f:selector": {}}})),
        (
            json!({"f:spec": {"f:tolerations": {".": {}, "v:\"a\"": {}}}}),
            json!({"f:spec": {"f:tolerations": {}}}),
        ),
        (
            json!({"f:metadata": {"f:ownerReferences": {"k:{\"uid\":\"1\"}": {"f:name": {}}}}}),
            json!({"f:metadata": {"f:ownerReferences": {"k:{\"uid\":\"1\"}": {}}}}),
        ),
        (json!({"f:spec": {"f:containers": {}}}), json!({"f:spec": {"f:containers": {}}})),
        (
            json!({"f:spec": {"f:free": {"f:a": {"f:b": {}}}, "f:gone": {"f:x": {}}}}),
            json!({"f:spec": {"f:free": {"f:a": {"f:b": {}}}, "f:gone": {"f:x": {}}}}),
        ),
        (json!({"f:spec": {"f:extension": {"f:a": {}}}}), json!({"f:spec": {"f:extension": {"f:a": {}}}})),
    ];
    for (recorded, reconciled) in cases {
        let mut got = set(&recorded);
        assert_eq!(
            typed.is_reconciled(root, Recorded::new(&recorded).expect("readable")),
            recorded == reconciled,
            "{recorded}"
        );
        typed.reconcile(root, &mut got);
        assert_eq!(got.to_fields_v1(), reconciled);
    }
    let named = typed.with_named_fields(root, set(&json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {"f:image": {}}}}, "f:metadata": {"f:labels": {"f:a": {}}}})));
    assert_eq!(
        named.to_fields_v1(),
        json!({"f:spec": {".": {}, "f:containers": {".": {}, "k:{\"name\":\"a\"}": {"f:image": {}}}}, "f:metadata": {".": {}, "f:labels": {".": {}, "f:a": {}}}})
    );
}

#[test]
fn field_sets() {
    let (schema, root) = deployment();
    let (typed, root) = (Typed::new(&schema), Type::Node(root));
    let cases = [
        (json!({"spec": {}}), json!({"f:spec": {}})),
        (json!({"spec": null}), json!({"f:spec": {}})),
        (json!({"spec": {"containers": [], "tolerations": []}}), json!({"f:spec": {"f:tolerations": {}}})),
        (json!({"metadata": {"labels": {"a": "1"}}}), json!({"f:metadata": {"f:labels": {"f:a": {}}}})),
        (
            json!({"metadata": {"finalizers": ["a", "a", "b"]}}),
            json!({"f:metadata": {"f:finalizers": {"v:\"a\"": {}, "v:\"b\"": {}}}}),
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "a"}]}}),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {}}}}),
        ),
        (
            json!({"spec": {"free": {"a": {"b": [1], "c": {}}}, "extension": {"a": {"b": 1}}}}),
            json!({"f:spec": {"f:free": {"f:a": {".": {}, "f:b": {}, "f:c": {}}}, "f:extension": {"f:a": {}}}}),
        ),
    ];
    for (object, fields) in cases {
        assert_eq!(typed.field_set(root, &object).to_fields_v1(), fields, "{object}");
    }
}

#[test]
fn creators_own_what_is_not_blank() {
    let (schema, root) = deployment();
    let (typed, root) = (Typed::new(&schema), Type::Node(root));
    let unowned = set(&json!({"f:spec": {"f:strategy": {}}, "f:status": {}}));
    let nothing = json!({"spec": {"containers": null, "selector": null, "strategy": {}}});
    let created =
        |content: Value| typed.created(root, &nothing, &spec(content), Unowned([Some(&unowned), None]));
    // what blank has itself is no member, what it lacks is; what is unowned is not told of
    let cases = [
        (json!({"containers": null, "selector": null}), json!({})),
        (
            json!({"replicas": 1, "strategy": {"type": "R"}, "selector": {"a": "1"}}),
            json!({"f:replicas": {}, "f:selector": {}}),
        ),
        (
            json!({"containers": [{"name": "b", "args": ["x"], "env": [{"name": "E"}]}, {"name": "a"}]}),
            json!({"f:containers": {
                "k:{\"name\":\"a\"}": {".": {}, "f:name": {}},
                "k:{\"name\":\"b\"}": {
                    ".": {}, "f:name": {}, "f:args": {},
                    "f:env": {".": {}, "k:{\"name\":\"E\"}": {".": {}, "f:name": {}}},
                },
            }}),
        ),
        (json!({"containers": []}), json!({"f:containers": {}})),
        // items that occur twice, and the default of a key
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1}]}, {"name": "b"}, {"name": "b"}]}),
            json!({"f:containers": {
                "k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:ports": {
                    ".": {},
                    "k:{\"containerPort\":1,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}},
                }},
                "k:{\"name\":\"b\"}": {},
            }}),
        ),
        // items alike, and such that only seem so
        (
            json!({"containers": [
                {"name": "a", "image": "1", "ports": [{"containerPort": 1}]},
                {"name": "b", "image": "2", "ports": [{"containerPort": 1}]},
                {"name": "c", "image": "3", "ports": [{"containerPort": 2}]},
                {"name": "d", "args": "4", "ports": [{"containerPort": 2}]},
            ]}),
            {
                let port = |n: u16| {
                    let key = format!("k:{{\"containerPort\":{n},\"protocol\":\"TCP\"}}");
                    json!({".": {}, key: {".": {}, "f:containerPort": {}}})
                };
                json!({"f:containers": {
                    "k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:image": {}, "f:ports": port(1)},
                    "k:{\"name\":\"b\"}": {".": {}, "f:name": {}, "f:image": {}, "f:ports": port(1)},
                    "k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:ports": port(2)},
                    "k:{\"name\":\"d\"}": {".": {}, "f:name": {}, "f:args": {}, "f:ports": port(2)},
                }})
            },
        ),
        (
            json!({"tolerations": ["a", "b"], "extension": {"a": {"b": 1}}, "free": {"a": {"b": [1]}}}),
            json!({
                "f:tolerations": {}, "f:extension": {".": {}, "f:a": {}},
                "f:free": {".": {}, "f:a": {".": {}, "f:b": {}}},
            }),
        ),
    ];
    for (content, fields) in cases {
        let expected = if fields == json!({}) { json!({}) } else { json!({ "f:spec": fields }) };
        assert_eq!(created(content.clone()), Ok(expected), "{content}");
    }
    // what the sets have to tell: items without identity, keys that JSON can write in several ways
    for unusual in [
        json!({"containers": [{"image": "x"}]}),
        json!({"containers": ["x"]}),
        json!({"containers": [{"name": "a<b"}]}),
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 1.5}]}]}),
    ] {
        assert_eq!(created(unusual.clone()), Err(Unusual), "{unusual}");
    }
    let mut deep = json!(1);
    for _ in 0..120 {
        deep = json!({ "d": deep });
    }
    assert_eq!(created(json!({ "free": deep })), Err(Unusual));
}
