//! Field ownership and patches of real kinds, as real clusters record and answer them.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::default::{apply_defaults, normalise};
use apimachinery::descriptor::{ResourceDescriptor, ServedVersion};
use apimachinery::json;
use apimachinery::managedfields::{NoOtherVersions, ResetFields, Write, on_apply, on_update};
use apimachinery::meta::GroupVersionKind;
use apimachinery::patch::{Patch, PatchType};
use apimachinery::status::Status;
use apis::{ServedVersions, resources};
use jiff::Timestamp;

/// One kind at one version, with a clock.
struct Kind {
    descriptor: Arc<ResourceDescriptor>,
    version: String,
}

impl Kind {
    fn new(plural: &str, version: &str) -> Self {
        let descriptor = resources(&ServedVersions::default())
            .into_iter()
            .find(|d| d.plural == plural && d.version(version).is_some())
            .unwrap();
        Self { descriptor, version: version.to_owned() }
    }

    fn served(&self) -> &ServedVersion {
        self.descriptor.version(&self.version).unwrap()
    }

    fn complete(&self, object: &mut Value) {
        let served = self.served();
        apply_defaults(&served.schema, served.root, object);
        self.descriptor.strategy.default_object(&self.version, object);
        normalise(&served.schema, served.root, object);
    }

    fn with<T>(&self, manager: &str, subresource: &str, run: impl FnOnce(&Write<'_>) -> T) -> T {
        let served = self.served();
        let reset_fields = if subresource == "status" {
            ResetFields::except(&["spec"])
        } else {
            ResetFields::except(&["status"])
        };
        run(&Write {
            schema: &served.schema,
            root: served.root,
            api_version: &self.descriptor.gvk(&self.version).group_version().to_string(),
            kind: &self.descriptor.kind,
            subresource,
            manager,
            now: Timestamp::UNIX_EPOCH,
            reset_fields: &reset_fields,
            versions: &NoOtherVersions,
        })
    }

    fn create(&self, manager: &str, mut object: Value) -> Value {
        self.complete(&mut object);
        self.with(manager, "", |write| on_update(None, &mut object, write));
        object["metadata"]["uid"] = json!("u");
        object
    }

    fn update(&self, manager: &str, subresource: &str, live: &Value, mut object: Value) -> Value {
        self.complete(&mut object);
        self.with(manager, subresource, |write| on_update(Some(live), &mut object, write));
        object
    }

    fn apply(
        &self,
        manager: &str,
        live: Option<&Value>,
        config: &Value,
        force: bool,
    ) -> Result<Value, Status> {
        self.with(manager, "", |write| on_apply(live, config, force, &|object| self.complete(object), write))
    }

    fn patch(&self, current: &Value, patch: Value) -> Result<Value, Status> {
        let served = self.served();
        Patch::from_value(PatchType::StrategicMerge, patch)?.apply(current, &served.schema, served.root)
    }
}

/// The fields of the only entry of a manager.
fn fields(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    let mut of = entries.iter().filter(|entry| entry["manager"] == manager);
    let entry = of.next().unwrap_or_else(|| panic!("no entry of {manager}: {entries:?}"));
    assert!(of.next().is_none());
    entry["fieldsV1"].clone()
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "nginx", "namespace": "default", "labels": {"app": "nginx"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "nginx"}},
            "template": {
                "metadata": {"labels": {"app": "nginx"}},
                "spec": {"containers": [{"name": "nginx", "image": "nginx"}]},
            },
        },
    })
}

#[test]
fn a_created_deployment_is_owned_as_clusters_record_it() {
    let created = Kind::new("deployments", "v1").create("kubectl-create", deployment());
    assert_eq!(
        fields(&created, "kubectl-create"),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:progressDeadlineSeconds": {},
                "f:replicas": {},
                "f:revisionHistoryLimit": {},
                "f:selector": {},
                "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {}},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {
                        "f:containers": {"k:{\"name\":\"nginx\"}": {
                            ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {},
                            "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {},
                        }},
                        "f:dnsPolicy": {},
                        "f:restartPolicy": {},
                        "f:schedulerName": {},
                        "f:securityContext": {},
                        "f:terminationGracePeriodSeconds": {},
                    },
                },
            },
        })
    );
}

#[test]
fn a_created_pod_and_its_status_are_owned_as_clusters_record_them() {
    let kind = Kind::new("pods", "v1");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "nginx", "namespace": "default", "labels": {"run": "nginx"}},
        "spec": {
            "containers": [{
                "name": "nginx", "image": "nginx", "ports": [{"containerPort": 80}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "resources": {"limits": {"cpu": "1"}},
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "tolerations": [{"key": "a", "operator": "Exists"}],
        },
    });
    let created = kind.create("kubectl-run", pod);
    assert_eq!(
        fields(&created, "kubectl-run"),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:run": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"nginx\"}": {
                    ".": {},
                    "f:env": {
                        ".": {},
                        "k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}},
                        "k:{\"name\":\"B\"}": {".": {}, "f:name": {}, "f:valueFrom": {".": {}, "f:fieldRef": {}}},
                    },
                    "f:image": {}, "f:imagePullPolicy": {}, "f:name": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    "f:resources": {".": {}, "f:limits": {".": {}, "f:cpu": {}}, "f:requests": {".": {}, "f:cpu": {}}},
                    "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {},
                    "f:volumeMounts": {".": {}, "k:{\"mountPath\":\"/v\"}": {".": {}, "f:mountPath": {}, "f:name": {}}},
                }},
                "f:dnsPolicy": {},
                "f:enableServiceLinks": {},
                "f:restartPolicy": {},
                "f:schedulerName": {},
                "f:securityContext": {},
                "f:terminationGracePeriodSeconds": {},
                "f:tolerations": {},
                "f:volumes": {".": {}, "k:{\"name\":\"v\"}": {".": {}, "f:emptyDir": {}, "f:name": {}}},
            },
        })
    );
    let mut running = created.clone();
    running["status"] = json!({
        "phase": "Running", "podIP": "10.244.0.5", "podIPs": [{"ip": "10.244.0.5"}], "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [{"name": "nginx", "ready": true, "restartCount": 0, "image": "nginx", "imageID": "i", "state": {}, "lastState": {}}],
    });
    let running = kind.update("kubelet", "status", &created, running);
    assert_eq!(
        fields(&running, "kubelet"),
        json!({"f:status": {
            "f:conditions": {
                ".": {},
                "k:{\"type\":\"Ready\"}": {".": {}, "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}},
            },
            "f:containerStatuses": {},
            "f:phase": {},
            "f:podIP": {},
            "f:podIPs": {".": {}, "k:{\"ip\":\"10.244.0.5\"}": {".": {}, "f:ip": {}}},
            "f:startTime": {},
        }})
    );
    assert_eq!(fields(&running, "kubectl-run"), fields(&created, "kubectl-run"));
}

#[test]
fn a_created_service_is_owned_as_clusters_record_it() {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}, {"port": 53, "protocol": "UDP", "name": "dns"}]},
    });
    let created = Kind::new("services", "v1").create("kubectl-expose", service);
    assert_eq!(
        fields(&created, "kubectl-expose"),
        json!({"f:spec": {
            "f:internalTrafficPolicy": {},
            "f:ports": {
                ".": {},
                "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}},
                "k:{\"port\":53,\"protocol\":\"UDP\"}": {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}},
            },
            "f:selector": {},
            "f:sessionAffinity": {},
            "f:type": {},
        }})
    );
}

#[test]
fn a_deployment_is_shared_by_appliers() {
    let kind = Kind::new("deployments", "v1");
    let live = kind.apply("kubectl", None, &deployment(), false).unwrap();
    // only what was applied is owned, not what was defaulted
    assert_eq!(
        fields(&live, "kubectl"),
        json!({
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:template": {
                    "f:metadata": {"f:labels": {"f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"nginx\"}": {".": {}, "f:image": {}, "f:name": {}}}},
                },
            },
        })
    );
    assert_eq!(live["spec"]["strategy"]["type"], "RollingUpdate");
    // an autoscaler takes the replicas over, and the owner gives them up
    let mut scaled = live.clone();
    scaled["metadata"]["uid"] = json!("u");
    scaled["spec"]["replicas"] = json!(5);
    let scaled = kind.update("hpa", "scale", &live, scaled);
    assert_eq!(fields(&scaled, "hpa"), json!({"f:spec": {"f:replicas": {}}}));
    let error = kind.apply("kubectl", Some(&scaled), &deployment(), false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    let mut without = deployment();
    without["spec"].as_object_mut().unwrap().remove("replicas");
    let live = kind.apply("kubectl", Some(&scaled), &without, false).unwrap();
    assert_eq!(live["spec"]["replicas"], 5);
    // a sidecar of somebody else survives, and goes with its applier
    let sidecar = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "nginx", "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s", "ports": [{"containerPort": 9}]}]}}},
    });
    let live = kind.apply("mesh", Some(&live), &sidecar, false).unwrap();
    let live = kind.apply("kubectl", Some(&live), &without, false).unwrap();
    let names = |object: &Value| -> Vec<Value> {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        containers.iter().map(|container| container["name"].clone()).collect()
    };
    assert_eq!(names(&live), ["nginx", "side"]);
    let nothing = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "nginx", "namespace": "default"},
    });
    let live = kind.apply("mesh", Some(&live), &nothing, false).unwrap();
    assert_eq!(names(&live), ["nginx"]);
    // applying the same again changes nothing at all
    assert_eq!(kind.apply("kubectl", Some(&live), &without, false).unwrap(), live);
}

#[test]
fn deployments_are_patched_by_merge_keys() {
    let kind = Kind::new("deployments", "v1");
    let mut current = deployment();
    kind.complete(&mut current);
    let pod = |patch: Value| json!({"spec": {"template": {"spec": patch}}});
    let patched = kind
        .patch(
            &current,
            pod(json!({
                "$setElementOrder/containers": [{"name": "nginx"}, {"name": "side"}],
                "containers": [{"name": "nginx", "image": "nginx:2", "env": [{"name": "A", "value": "1"}]}, {"name": "side", "image": "s"}],
            })),
        )
        .unwrap();
    let containers = &patched["spec"]["template"]["spec"]["containers"];
    assert_eq!((&containers[0]["image"], &containers[1]["name"]), (&json!("nginx:2"), &json!("side")));
    assert_eq!(
        containers[0]["imagePullPolicy"],
        current["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"]
    );
    // `kubectl rollout restart`, and a strategy whose other half goes
    let patched = kind
        .patch(&current, json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}))
        .unwrap();
    assert_eq!(patched["spec"]["strategy"], json!({"type": "Recreate"}));
    let patched =
        kind.patch(&current, pod(json!({"containers": [{"name": "nginx", "$patch": "delete"}]}))).unwrap();
    assert_eq!(patched["spec"]["template"]["spec"]["containers"], json!([]));
    let error = kind.patch(&current, pod(json!({"containers": [{"image": "x"}]}))).unwrap_err();
    assert_eq!(error.message, "map: map[image:x] does not contain declared merge key: name");
}

#[test]
fn every_kind_owns_itself_and_applies_to_itself() {
    // whatever is printed of an object of any kind can be applied, and applying it again changes nothing
    for descriptor in resources(&ServedVersions::default()) {
        for served in &descriptor.versions {
            let kind = Kind { descriptor: descriptor.clone(), version: served.version.clone() };
            let gvk = descriptor.gvk(&served.version);
            let mut object = json!({
                "apiVersion": gvk.group_version().to_string(), "kind": gvk.kind,
                "metadata": {"name": "x", "labels": {"a": "b"}},
            });
            if served.schema.field(served.root, "metadata").is_none() {
                continue;
            }
            kind.complete(&mut object);
            let created = kind.create("c", object.clone());
            let labels = &fields(&created, "c")["f:metadata"]["f:labels"];
            assert_eq!((&labels["."], &labels["f:a"]), (&json!({}), &json!({})), "{gvk}");
            let applied = kind.apply("a", None, &object, false).unwrap_or_else(|e| panic!("{gvk}: {e}"));
            let again =
                kind.apply("a", Some(&applied), &object, false).unwrap_or_else(|e| panic!("{gvk}: {e}"));
            assert_eq!(again, applied, "{gvk}");
        }
    }
}

/// What managers own may come to the encoder as text.
#[test]
fn owned_fields_are_encoded_from_their_text() {
    let catalog = apis::catalog();
    let pod = catalog.kind(&GroupVersionKind::new("", "v1", "Pod")).expect("a kind").node;
    let object = json!({"metadata": {"name": "p", "managedFields": [
        {"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:a": {}, ".": {}}}},
    ]}, "spec": {"nodeName": "n"}});
    let text = object.to_string();
    let as_text = apimachinery::json::parse_with_owners_as_text(text.as_bytes()).expect("an object");
    assert_ne!(as_text, object);
    let encode =
        |object: &Value| apimachinery::protobuf::encode(catalog.schema(), pod, object).expect("a message");
    assert_eq!(encode(&as_text), encode(&object));
}
