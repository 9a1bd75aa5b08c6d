//! Names, labels, volumes and claims of numbered pods. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::owner::controller_reference;
use crate::pods::from_template;
use crate::resources::STATEFUL_SETS;
use crate::revisions::HASH_LABEL;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The first number of a set's pods.
pub(super) fn start(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or(0)
}

pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name_any())
}

/// The number in a pod's name; `None` when the name is not one of the set's.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.name_any();
    let (parent, number) = name.rsplit_once('-')?;
    (parent == set.name_any() && !number.starts_with('+')).then(|| number.parse().ok()).flatten()
}

fn claim_templates(set: &StatefulSet) -> impl Iterator<Item = &PersistentVolumeClaim> {
    set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten())
}

/// Names of the claims of one pod: `TEMPLATE-SET-NUMBER`.
pub(super) fn claim_names(set: &StatefulSet, ordinal: i32) -> Vec<String> {
    claim_templates(set).map(|claim| format!("{}-{}-{ordinal}", claim.name_any(), set.name_any())).collect()
}

/// The claims of one pod, to be created where they are missing.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<Value> {
    let selector = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    claim_templates(set)
        .zip(claim_names(set, ordinal))
        .map(|(template, name)| {
            let mut labels = template.labels().clone();
            labels.extend(selector.clone());
            json!({
                "metadata": {"name": name, "namespace": set.namespace(), "labels": labels,
                    "annotations": template.annotations()},
                "spec": template.spec,
            })
        })
        .collect()
}

/// Pod number `ordinal` of a revision.
pub(super) fn make_pod(set: &StatefulSet, template: &PodTemplateSpec, ordinal: i32, revision: &str) -> Value {
    let name = pod_name(set, ordinal);
    let mut pod = from_template(template, &controller_reference(&STATEFUL_SETS, &set.metadata));
    if let Some(meta) = pod["metadata"].as_object_mut() {
        meta.remove("generateName");
        meta.insert("name".into(), json!(name));
        meta.insert("namespace".into(), json!(set.namespace()));
    }
    for (label, value) in
        [(POD_NAME, name.clone()), (POD_INDEX, ordinal.to_string()), (HASH_LABEL, revision.to_owned())]
    {
        pod["metadata"]["labels"][label] = json!(value);
    }
    let service = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).unwrap_or_default();
    pod["spec"]["hostname"] = json!(name);
    pod["spec"]["subdomain"] = json!(service);
    // volumes of claims replace those of the template that have their names
    let names: Vec<String> = claim_templates(set).map(ResourceExt::name_any).collect();
    if !names.is_empty() {
        let held = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
        let others =
            held.into_iter().filter(|volume| !names.iter().any(|name| volume["name"] == json!(name)));
        let own = names
            .iter()
            .zip(claim_names(set, ordinal))
            .map(|(name, claim)| json!({"name": name, "persistentVolumeClaim": {"claimName": claim}}));
        pod["spec"]["volumes"] = own.chain(others).collect();
    }
    pod
}

/// The owners a claim should have, `None` when it has them: the set where claims go with it, the pod where claims go
/// with pods that are scaled away.
pub(super) fn claim_owners(
    set: &StatefulSet,
    pod: &Pod,
    ordinal: i32,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let spec = set.spec.as_ref()?;
    let policy = spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    let when_deleted = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
    let when_scaled = deletes(policy.and_then(|policy| policy.when_scaled.as_ref()));
    let first = start(set);
    let condemned = ordinal < first || ordinal >= first + spec.replicas.unwrap_or(1);
    let set_uid = set.metadata.uid.clone().unwrap_or_default();
    let pod_uid = pod.metadata.uid.clone().unwrap_or_default();
    let mut owners: Vec<OwnerReference> = claim
        .owner_references()
        .iter()
        .filter(|owner| owner.uid != set_uid && owner.uid != pod_uid)
        .cloned()
        .collect();
    if when_scaled && condemned {
        owners.push(OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: pod.name_any(),
            uid: pod_uid,
            ..OwnerReference::default()
        });
    } else if when_deleted {
        owners.push(OwnerReference {
            controller: Some(true),
            block_owner_deletion: None,
            ..controller_reference(&STATEFUL_SETS, &set.metadata)
        });
    }
    let key = |owner: &OwnerReference| owner.uid.clone();
    let held: Vec<String> = claim.owner_references().iter().map(key).collect();
    (owners.iter().map(key).collect::<Vec<_>>() != held).then_some(owners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{meta, pod};

    fn set(spec: Value) -> StatefulSet {
        StatefulSet {
            metadata: meta("db"),
            spec: serde_json::from_value(spec).expect("a spec"),
            status: None,
        }
    }

    #[test]
    fn numbers_are_read_from_names() {
        let set = set(json!({"selector": {}, "template": {}}));
        for (name, expected) in
            [("db-0", Some(0)), ("db-12", Some(12)), ("db-x", None), ("web-1", None), ("db", None)]
        {
            assert_eq!(ordinal(&set, &pod(name).build()), expected, "{name}");
        }
    }

    #[test]
    fn pods_have_their_own_claims_and_names() {
        let set = set(json!({"serviceName": "svc", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [],
                "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}));
        let template = set.spec.as_ref().expect("a spec").template.clone();
        let pod = make_pod(&set, &template, 3, "rev");
        assert_eq!(pod["metadata"]["name"], "db-3");
        assert_eq!(pod["metadata"]["labels"][POD_INDEX], "3");
        assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("db-3"), &json!("svc")));
        assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-db-3");
        assert_eq!(pod["spec"]["volumes"].as_array().map(Vec::len), Some(2));
        assert_eq!(claims(&set, 3)[0]["metadata"]["labels"]["app"], "db");
    }

    #[test]
    fn claims_are_owned_as_the_policy_says() {
        let set = set(json!({"replicas": 1, "selector": {}, "template": {},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}}));
        let claim = PersistentVolumeClaim::default();
        let kinds = |ordinal: i32| {
            let name = format!("db-{ordinal}");
            let owners = claim_owners(&set, &pod(&name).build(), ordinal, &claim).expect("a change");
            owners.into_iter().map(|owner| owner.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(0), ["StatefulSet"]);
        assert_eq!(kinds(1), ["Pod"], "scaled away");
    }
}
