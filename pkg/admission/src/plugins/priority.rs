//! Pods get their priority from a PriorityClass. Source: `k8s.io/kubernetes/plugin/pkg/admission/priority`.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::{GroupResource, at, name, str_at};
use apimachinery::status::Status;
use async_trait::async_trait;
use parking_lot::Mutex;

use super::find;
use crate::{AdmissionRequest, Notes, ObjectSource, Operation, Phase, Plugin};

const GROUP: &str = "scheduling.k8s.io";
const DEFAULT_PREEMPTION: &str = "PreemptLowerPriority";

/// Resolves priorities of pods and keeps one default class.
pub(super) struct Priority {
    source: Arc<dyn ObjectSource>,
    /// The default class as of a generation of the classes: every pod asks for it.
    default: Mutex<Option<(i64, Option<Value>)>>,
}

fn value_of(class: &Value) -> i64 {
    at(class, &["value"]).and_then(Value::as_i64).unwrap_or(0)
}

impl Priority {
    pub(super) fn new(source: Arc<dyn ObjectSource>) -> Self {
        Self { source, default: Mutex::default() }
    }

    /// The class that is the default; of several the one of lowest value.
    fn default_class(&self) -> Option<Value> {
        let resource = GroupResource::new(GROUP, "priorityclasses");
        // of before the list, so that a change in between is looked at again
        let generation = self.source.generation(&resource);
        if let Some((known, class)) = &*self.default.lock()
            && *known == generation
        {
            return class.clone();
        }
        let class = self
            .source
            .list(&resource, None)
            .iter()
            .filter_map(auth::CachedObject::value)
            .filter(|class| at(class, &["globalDefault"]).and_then(Value::as_bool) == Some(true))
            .min_by_key(value_of);
        *self.default.lock() = Some((generation, class.clone()));
        class
    }

    async fn complete(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
        let asked = str_at(request.object(), &["spec", "priorityClassName"]).to_owned();
        let class = if asked.is_empty() {
            self.default_class()
        } else {
            let found = find(&*self.source, GROUP, "priorityclasses", "", &asked).await?;
            let missing = || request.forbidden(&format!("no PriorityClass with name {asked} was found"));
            Some(found.ok_or_else(missing)?)
        };
        let (class_name, priority, preemption) = match &class {
            Some(class) => (name(class), value_of(class), str_at(class, &["preemptionPolicy"])),
            None => ("", 0, ""),
        };
        let preemption = if preemption.is_empty() { DEFAULT_PREEMPTION } else { preemption };
        let spec = at(request.object(), &["spec"]).unwrap_or(&Value::Null);
        if let Some(given) = at(spec, &["priority"]).and_then(Value::as_i64)
            && given != priority
        {
            return Err(request.forbidden(&format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            )));
        }
        let given = str_at(spec, &["preemptionPolicy"]);
        if !given.is_empty() && given != preemption {
            return Err(request.forbidden(&format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {preemption} from the given PriorityClass name"
            )));
        }
        let pod = request.object.as_mut().and_then(|o| o.get_mut("spec")).and_then(Value::as_object_mut);
        if let Some(spec) = pod {
            spec.insert("priority".into(), json!(priority));
            spec.insert("preemptionPolicy".into(), json!(preemption));
            if !class_name.is_empty() {
                spec.insert("priorityClassName".into(), json!(class_name));
            }
        }
        Ok(())
    }
}

/// Old clients send pods back without fields they do not know.
fn keep(request: &mut AdmissionRequest<'_>) {
    let old = request.old_object;
    let Some(spec) = request.object.as_mut().and_then(|o| o.get_mut("spec")).and_then(Value::as_object_mut)
    else {
        return;
    };
    for field in ["priority", "preemptionPolicy"] {
        let before = old.and_then(|o| at(o, &["spec", field]));
        if let Some(value) = before
            && spec.get(field).is_none_or(Value::is_null)
        {
            spec.insert(field.into(), value.clone());
        }
    }
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate, Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !request.is("", "pods") {
            return Ok(());
        }
        if request.operation == Operation::Create {
            return self.complete(request).await;
        }
        keep(request);
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let class = request.object();
        let wants_default = at(class, &["globalDefault"]).and_then(Value::as_bool) == Some(true);
        if !request.is(GROUP, "priorityclasses") || !wants_default {
            return Ok(());
        }
        match self.default_class() {
            Some(default) if request.operation == Operation::Create || name(&default) != name(class) => {
                Err(request.forbidden(&format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    name(&default)
                )))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Source, request, run};
    use auth::UserInfo;

    fn class(name: &str, value: i64, default: bool) -> Value {
        json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"})
    }

    #[tokio::test]
    async fn pods_get_the_value_of_their_class() {
        let with = Priority::new(Source::new([
            (GROUP, "priorityclasses", class("high", 9, false)),
            (GROUP, "priorityclasses", class("usual", 5, true)),
        ]));
        let without = Priority::new(Source::new([]));
        let user = UserInfo::default();
        let cases = [
            (&with, json!({"priorityClassName": "high"}), Ok((9, "high", "Never"))),
            (&with, json!({}), Ok((5, "usual", "Never"))),
            (&without, json!({}), Ok((0, "", "PreemptLowerPriority"))),
            (&with, json!({"priority": 9, "priorityClassName": "high"}), Ok((9, "high", "Never"))),
            (&with, json!({"priorityClassName": "none"}), Err("no PriorityClass with name none was found")),
            (
                &with,
                json!({"priority": 7}),
                Err(
                    "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 5 from the given PriorityClass name",
                ),
            ),
        ];
        for (plugin, spec, expected) in cases {
            let pod = json!({"metadata": {"name": "p"}, "spec": spec});
            let got = run(plugin, request(Operation::Create, "/pods", &user, Some(pod), None)).await;
            let got = got.map(|pod| {
                let spec = &pod["spec"];
                let text = |key: &str| spec[key].as_str().unwrap_or("").to_owned();
                (
                    spec["priority"].as_i64().expect("priority"),
                    text("priorityClassName"),
                    text("preemptionPolicy"),
                )
            });
            let expected = expected
                .map(|(v, c, p)| (v, c.to_owned(), p.to_owned()))
                .map_err(|why| format!("pods \"p\" is forbidden: {why}"));
            assert_eq!(got, expected);
        }
    }

    #[tokio::test]
    async fn one_default() {
        let plugin = Priority::new(Source::new([(GROUP, "priorityclasses", class("usual", 5, true))]));
        let user = UserInfo::default();
        let resource = "scheduling.k8s.io/priorityclasses";
        let second = request(Operation::Create, resource, &user, Some(class("b", 1, true)), None);
        assert!(
            run(&plugin, second).await.expect_err("second").contains("usual is already marked as default")
        );
        let old = class("usual", 5, true);
        let same = request(Operation::Update, resource, &user, Some(class("usual", 5, true)), Some(&old));
        assert!(run(&plugin, same).await.is_ok());
    }
}
