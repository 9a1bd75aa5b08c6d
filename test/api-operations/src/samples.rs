//! Sample objects: one a resource, with what the checks change. They are data, in `samples/`.

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::facts::Resource;

/// A resource's sample.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Sample {
    /// `GROUP/VERSION/PLURAL`.
    pub(crate) resource: String,
    /// Names; `$N` is a number. Resources with names of their own form do not get generated ones.
    #[serde(default)]
    name: Option<String>,
    /// A valid object without kind and metadata; `$N` is the number in its name, `$NAMESPACE` its namespace.
    object: Value,
    /// A merge patch that changes something which then can be read back.
    pub(crate) change: Value,
    /// Whether the change is one of the desired state, and counted by `metadata.generation`. A resource without this
    /// key has no generation.
    #[serde(default)]
    pub(crate) generation: Option<bool>,
    /// A merge patch of the status subresource.
    #[serde(default)]
    pub(crate) status: Option<Value>,
    /// A merge patch that takes that status back; by default all of it is removed.
    #[serde(default)]
    pub(crate) back: Option<Value>,
    /// The finalizer that every object gets and that the walk has to take away.
    #[serde(default)]
    pub(crate) finalizer: Option<String>,
    /// Whether controllers inside the server write to the objects: then only what was sent is compared.
    #[serde(default)]
    pub(crate) settles: bool,
    /// Whether PUT creates.
    #[serde(default)]
    pub(crate) upsert: bool,
    /// Whether DELETE answers with the object instead of a Status.
    #[serde(default)]
    pub(crate) returned: bool,
}

impl Sample {
    /// Name of an object by its number.
    pub(crate) fn name(&self, number: u32) -> String {
        self.name.as_deref().unwrap_or("walk-$N").replace("$N", &number.to_string())
    }

    /// Whether any name is a good one.
    pub(crate) fn free_names(&self) -> bool {
        self.name.is_none()
    }

    /// An object, labelled with its number.
    pub(crate) fn object(&self, resource: &Resource, number: u32, namespace: Option<&str>) -> Value {
        let mut object = self.object.clone();
        fill(&mut object, &number.to_string(), namespace.unwrap_or(""));
        object["apiVersion"] = json!(resource.group_version);
        object["kind"] = json!(resource.kind);
        object["metadata"]["name"] = json!(self.name(number));
        object["metadata"]["labels"]["walk"] = json!(format!("n{number}"));
        if let Some(namespace) = namespace {
            object["metadata"]["namespace"] = json!(namespace);
        }
        object
    }
}

fn fill(value: &mut Value, number: &str, namespace: &str) {
    match value {
        Value::String(text) => *text = text.replace("$NAMESPACE", namespace).replace("$N", number),
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, number, namespace)),
        Value::Object(fields) => fields.values_mut().for_each(|field| fill(field, number, namespace)),
        _ => {}
    }
}

/// Every sample.
pub(crate) fn samples() -> anyhow::Result<Vec<Sample>> {
    let mut all = Vec::new();
    for (file, text) in [
        ("core", include_str!("../samples/core.yaml")),
        ("workloads", include_str!("../samples/workloads.yaml")),
        ("cluster", include_str!("../samples/cluster.yaml")),
        ("services", include_str!("../samples/services.yaml")),
    ] {
        let read: Vec<Sample> =
            serde_saphyr::from_str(text).with_context(|| format!("samples/{file}.yaml"))?;
        all.extend(read);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{operations, resources};

    /// Every resource whose objects are created in the conformance list has a sample, and every sample has a resource.
    #[test]
    fn samples_match_the_facts() {
        let samples = samples().expect("samples");
        let resources = resources().expect("resources");
        for sample in &samples {
            assert!(resources.iter().any(|r| r.id() == sample.resource), "{}", sample.resource);
        }
        let operations = operations().expect("operations");
        for resource in resources.iter().filter(|r| r.verbs.iter().any(|v| v == "patch")) {
            let tail = format!("/{}", resource.plural);
            let listed = operations.iter().any(|o| {
                o.method == "POST"
                    && o.path.starts_with(&format!("{}/", resource.root()))
                    && o.path.ends_with(&tail)
            });
            let sample = samples.iter().find(|s| s.resource == resource.id());
            assert!(!listed || sample.is_some(), "{} has no sample", resource.id());
        }
    }

    #[test]
    fn numbers_are_filled_in() {
        let resources = resources().expect("resources");
        let pods = resources.iter().find(|r| r.id() == "v1/pods").expect("pods");
        let sample: Sample = serde_json::from_value(json!({
            "resource": "v1/pods", "object": {"spec": {"a": ["x$N", "$NAMESPACE"]}}, "change": {},
        }))
        .expect("sample");
        let object = sample.object(pods, 3, Some("here"));
        assert_eq!(object["spec"]["a"], json!(["x3", "here"]));
        assert_eq!(object["metadata"]["name"], "walk-3");
        assert_eq!(object["metadata"]["labels"]["walk"], "n3");
    }
}
