//! CustomResourceDefinitions that upstream's server stored: it keeps them as `apiextensions.k8s.io/v1beta1`, a version
//! that is no longer served. Source: `k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1/conversion.go`.

use apimachinery::json;
use apimachinery::{Map, Value};

use super::set_api_version;

/// What v1beta1 says once for all versions and v1 says for each.
const SHARED: [(&str, &str); 4] = [
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

/// Makes a stored v1beta1 definition one of v1.
pub(crate) fn upgrade(object: &mut Value) {
    set_api_version(object, "apiextensions.k8s.io/v1");
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    versions(spec);
    conversion(spec);
    // v1beta1 kept unknown fields unless told otherwise
    if spec.get("preserveUnknownFields").is_none() {
        spec.insert("preserveUnknownFields".into(), true.into());
    } else if spec["preserveUnknownFields"] == json!(false) {
        spec.remove("preserveUnknownFields");
    }
}

fn versions(spec: &mut Map) {
    let only = spec.remove("version");
    let shared: Vec<(&str, Value)> =
        SHARED.iter().filter_map(|(from, to)| Some((*to, spec.remove(from)?))).collect();
    let listed = spec.get("versions").and_then(Value::as_array).is_some_and(|v| !v.is_empty());
    if let Some(name) = only.filter(|_| !listed) {
        spec.insert("versions".into(), json!([{"name": name, "served": true, "storage": true}]));
    }
    let versions = spec.get_mut("versions").and_then(Value::as_array_mut);
    for version in versions.into_iter().flatten().filter_map(Value::as_object_mut) {
        for (field, value) in &shared {
            version.entry(*field).or_insert_with(|| value.clone());
        }
        let columns = version.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut);
        for column in columns.into_iter().flatten() {
            super::rename(column, &[("JSONPath", "jsonPath")]);
        }
    }
}

fn conversion(spec: &mut Map) {
    let conversion = spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    let Some(conversion) = conversion.as_object_mut() else { return };
    let (client, reviews) =
        (conversion.remove("webhookClientConfig"), conversion.remove("conversionReviewVersions"));
    if client.is_none() && reviews.is_none() {
        return;
    }
    let mut webhook = Map::new();
    if let Some(client) = client {
        webhook.insert("clientConfig".into(), client);
    }
    webhook.insert("conversionReviewVersions".into(), reviews.unwrap_or_else(|| json!(["v1beta1"])));
    conversion.insert("webhook".into(), webhook.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_once_is_said_for_each_version() {
        let mut object = json!({
            "kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1beta1",
            "metadata": {"name": "cactuses.example.com"},
            "spec": {
                "group": "example.com", "version": "v1", "scope": "Namespaced", "preserveUnknownFields": false,
                "names": {"plural": "cactuses", "kind": "Cactus"},
                "validation": {"openAPIV3Schema": {"type": "object"}},
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Age", "type": "date", "JSONPath": ".x"}],
                "versions": [{"name": "v1", "served": true, "storage": true},
                             {"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {}}}],
                "conversion": {"strategy": "Webhook", "webhookClientConfig": {"url": "https://x"},
                               "conversionReviewVersions": ["v1"]},
            },
        });
        upgrade(&mut object);
        let shared = json!([{"name": "Age", "type": "date", "jsonPath": ".x"}]);
        assert_eq!(
            object,
            json!({
                "kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1",
                "metadata": {"name": "cactuses.example.com"},
                "spec": {
                    "group": "example.com", "scope": "Namespaced",
                    "names": {"plural": "cactuses", "kind": "Cactus"},
                    "versions": [
                        {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
                         "subresources": {"status": {}}, "additionalPrinterColumns": shared},
                        {"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {}},
                         "subresources": {"status": {}}, "additionalPrinterColumns": shared},
                    ],
                    "conversion": {"strategy": "Webhook", "webhook": {
                        "clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]}},
                },
            })
        );
    }

    #[test]
    fn a_single_version_becomes_a_list() {
        let mut object = json!({"spec": {"version": "v1"}});
        upgrade(&mut object);
        assert_eq!(
            object["spec"],
            json!({"versions": [{"name": "v1", "served": true, "storage": true}],
                   "conversion": {"strategy": "None"}, "preserveUnknownFields": true})
        );
    }
}
