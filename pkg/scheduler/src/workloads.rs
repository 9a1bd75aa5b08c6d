//! What pods belong to: services and controllers, whose selectors default spreading uses.

use std::collections::HashMap;

use apimachinery::selectors::{LabelSelector, Operator, Requirement};

use crate::pod::{Labels, PodInfo};

/// Services and controllers by namespace and name.
#[derive(Debug, Clone, Default)]
pub struct Workloads {
    services: HashMap<String, HashMap<String, Labels>>,
    /// By kind, namespace and name.
    controllers: HashMap<(&'static str, String, String), LabelSelector>,
}

impl Workloads {
    /// Takes over a service's selector, or that it is gone or has none.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Option<Labels>) {
        match selector.filter(|selector| !selector.is_empty()) {
            Some(selector) => {
                drop(
                    self.services.entry(namespace.to_owned()).or_default().insert(name.to_owned(), selector),
                );
            }
            None => {
                if let Some(services) = self.services.get_mut(namespace) {
                    services.remove(name);
                }
            }
        }
    }

    /// Takes over a controller's selector, or that it is gone.
    pub fn set_controller(
        &mut self,
        kind: &'static str,
        namespace: &str,
        name: &str,
        selector: Option<LabelSelector>,
    ) {
        let key = (kind, namespace.to_owned(), name.to_owned());
        match selector {
            Some(selector) => drop(self.controllers.insert(key, selector)),
            None => drop(self.controllers.remove(&key)),
        }
    }

    /// Selects the pods that belong to the same services and the same controller as a pod; `None` when it belongs to
    /// nothing.
    pub fn selector_of(&self, pod: &PodInfo) -> Option<LabelSelector> {
        let labels = pod.labels()?;
        let mut requirements: Vec<Requirement> = Vec::new();
        for selector in self.services.get(&pod.namespace).into_iter().flat_map(HashMap::values) {
            if selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
                let all = selector.iter();
                requirements
                    .extend(all.filter_map(|(k, v)| Requirement::new(k, Operator::In, &[v.as_str()]).ok()));
            }
        }
        let owners = pod.pod.metadata.owner_references.iter().flatten();
        if let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) {
            let kind =
                ["ReplicationController", "ReplicaSet", "StatefulSet"].into_iter().find(|k| *k == owner.kind);
            let found = kind
                .and_then(|kind| self.controllers.get(&(kind, pod.namespace.clone(), owner.name.clone())));
            requirements
                .extend(found.into_iter().flat_map(|selector| selector.requirements().iter().cloned()));
        }
        (!requirements.is_empty()).then(|| LabelSelector::new(requirements))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn a_pod_belongs_to_what_selects_it() {
        let labels = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
        let mut workloads = Workloads::default();
        workloads.set_service("default", "web", Some(labels("app", "web")));
        workloads.set_service("default", "other", Some(labels("app", "other")));
        workloads.set_service("elsewhere", "web", Some(labels("app", "web")));
        let selector = workloads.selector_of(&pod("a").label("app", "web").build()).expect("one service");
        assert!(selector.matches(&Some(&labels("app", "web"))));
        assert!(!selector.matches(&Some(&labels("app", "other"))));
        assert!(workloads.selector_of(&pod("b").label("app", "none").build()).is_none());
        workloads.set_service("default", "web", None);
        assert!(workloads.selector_of(&pod("a").label("app", "web").build()).is_none());
    }
}
