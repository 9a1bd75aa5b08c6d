//! What is special about each kind: strategy, table columns, selectable fields; one module a group.

mod admission;
mod batch;
mod core;
mod cron;
mod csi;
mod discovery;
mod events;
mod extension;
mod limits;
mod more;
mod networking;
mod node;
mod pod;
mod policy;
mod print;
mod rbac;
mod resources;
mod rules;
mod selectable;
mod service;
mod sets;
mod signing;
mod storage;
mod template;
mod workload;

use std::sync::Arc;

use apimachinery::descriptor::{Column, SelectableField};
use apimachinery::strategy::Strategy;

use rules::{DEFAULT, KindStrategy, Rules};

/// What a kind adds to the facts in `api/`.
pub(crate) struct Special {
    /// Its rules.
    pub(crate) strategy: Arc<dyn Strategy>,
    /// Its columns.
    pub(crate) columns: Vec<Column>,
    /// What a field selector may name.
    pub(crate) selectable_fields: Vec<SelectableField>,
}

/// What is special about a resource; `has_status` says whether it has the subresource.
pub(crate) fn special(group: &str, plural: &str, has_status: bool) -> Special {
    let rules = rules(group, plural);
    Special {
        strategy: Arc::new(KindStrategy { rules, has_status }),
        columns: columns(rules.columns),
        selectable_fields: selectable::fields(group, plural),
    }
}

fn rules(group: &str, plural: &str) -> &'static Rules {
    match (group, plural) {
        ("", "pods") => &pod::PODS,
        ("", "podtemplates") => &workload::POD_TEMPLATES,
        ("", "replicationcontrollers") => &workload::REPLICATION_CONTROLLERS,
        ("", "services") => &service::SERVICES,
        ("", "nodes") => &node::NODES,
        ("", "namespaces") => &core::NAMESPACES,
        ("", "configmaps") => &core::CONFIG_MAPS,
        ("", "secrets") => &core::SECRETS,
        ("", "serviceaccounts") => &core::SERVICE_ACCOUNTS,
        ("" | "events.k8s.io", "events") => &events::EVENTS,
        ("", "endpoints") => &events::ENDPOINTS,
        ("", "limitranges") => &limits::LIMIT_RANGES,
        ("", "resourcequotas") => &limits::RESOURCE_QUOTAS,
        ("", "componentstatuses") => &core::COMPONENT_STATUSES,
        ("", "persistentvolumeclaims") => &storage::CLAIMS,
        ("", "persistentvolumes") => &storage::VOLUMES,
        ("apps", "deployments") => &workload::DEPLOYMENTS,
        ("apps", "replicasets") => &workload::REPLICA_SETS,
        ("apps", "statefulsets") => &sets::STATEFUL_SETS,
        ("apps", "daemonsets") => &sets::DAEMON_SETS,
        ("apps", "controllerrevisions") => &workload::CONTROLLER_REVISIONS,
        ("discovery.k8s.io", "endpointslices") => &discovery::ENDPOINT_SLICES,
        ("coordination.k8s.io", "leases") => &discovery::LEASES,
        ("coordination.k8s.io", "leasecandidates") => &discovery::LEASE_CANDIDATES,
        ("rbac.authorization.k8s.io", "roles") => &rbac::ROLES,
        ("rbac.authorization.k8s.io", "clusterroles") => &rbac::CLUSTER_ROLES,
        ("rbac.authorization.k8s.io", "rolebindings") => &rbac::ROLE_BINDINGS,
        ("rbac.authorization.k8s.io", "clusterrolebindings") => &rbac::CLUSTER_ROLE_BINDINGS,
        ("storage.k8s.io", "storageclasses") => &csi::CLASSES,
        ("storage.k8s.io", "volumeattributesclasses") => &csi::ATTRIBUTES_CLASSES,
        ("storage.k8s.io", "volumeattachments") => &csi::ATTACHMENTS,
        ("storage.k8s.io", "csinodes") => &csi::CSI_NODES,
        ("storage.k8s.io", "csidrivers") => &csi::CSI_DRIVERS,
        ("storage.k8s.io", "csistoragecapacities") => &csi::CAPACITIES,
        ("batch", "jobs") => &batch::JOBS,
        ("batch", "cronjobs") => &batch::CRON_JOBS,
        ("networking.k8s.io", "ingresses") => &networking::INGRESSES,
        ("networking.k8s.io", "ingressclasses") => &networking::INGRESS_CLASSES,
        ("networking.k8s.io", "networkpolicies") => &networking::NETWORK_POLICIES,
        ("networking.k8s.io", "servicecidrs") => &networking::SERVICE_CIDRS,
        ("networking.k8s.io", "ipaddresses") => &networking::IP_ADDRESSES,
        ("policy", "poddisruptionbudgets") => &policy::BUDGETS,
        ("autoscaling", "horizontalpodautoscalers") => &policy::AUTOSCALERS,
        ("scheduling.k8s.io", "priorityclasses") => &policy::PRIORITY_CLASSES,
        ("scheduling.k8s.io", "podgroups" | "workloads") => &policy::POD_GROUPS,
        ("node.k8s.io", "runtimeclasses") => &policy::RUNTIME_CLASSES,
        ("apiextensions.k8s.io", "customresourcedefinitions") => &extension::DEFINITIONS,
        ("apiregistration.k8s.io", "apiservices") => &extension::API_SERVICES,
        _ => more_rules(group, plural),
    }
}

/// Rules of the kinds that ordinary workloads seldom meet.
fn more_rules(group: &str, plural: &str) -> &'static Rules {
    match (group, plural) {
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => {
            &admission::VALIDATING_WEBHOOKS
        }
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => &admission::MUTATING_WEBHOOKS,
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => &admission::VALIDATING_POLICIES,
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => &admission::MUTATING_POLICIES,
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            &admission::VALIDATING_BINDINGS
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => &admission::MUTATING_BINDINGS,
        ("certificates.k8s.io", "certificatesigningrequests") => &signing::SIGNING_REQUESTS,
        ("certificates.k8s.io", "clustertrustbundles") => &more::TRUST_BUNDLES,
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => &more::FLOW_SCHEMAS,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => &more::PRIORITY_LEVELS,
        ("resource.k8s.io", "resourceclaims") => &more::RESOURCE_CLAIMS,
        ("resource.k8s.io", "resourceclaimtemplates") => &more::CLAIM_TEMPLATES,
        ("resource.k8s.io", "deviceclasses") => &more::DEVICE_CLASSES,
        ("resource.k8s.io", "resourceslices") => &more::RESOURCE_SLICES,
        ("internal.apiserver.k8s.io", "storageversions") => &more::STORAGE_VERSIONS,
        ("storagemigration.k8s.io", "storageversionmigrations") => &more::MIGRATIONS,
        _ => &DEFAULT,
    }
}

/// Columns by heading and type; a heading that starts with `+` is shown with `-o wide` only.
fn columns(spec: &[(&str, &str)]) -> Vec<Column> {
    spec.iter()
        .map(|(name, kind)| {
            let (name, priority) = name.strip_prefix('+').map_or((*name, 0), |name| (name, 1));
            Column {
                name: name.into(),
                kind: (*kind).into(),
                format: if name == "Name" { "name".into() } else { String::new() },
                description: String::new(),
                priority,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::{ServedVersions, resources};
    use apimachinery::json;
    use jiff::Timestamp;

    #[test]
    fn every_row_has_a_cell_for_every_column() {
        let served = ServedVersions::from_runtime_config([("api/all", "true")]).expect("valid");
        for descriptor in resources(&served) {
            let cells =
                descriptor.strategy.table_row(&json!({"metadata": {"name": "a"}}), Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), descriptor.columns.len(), "{descriptor:?}");
        }
    }

    #[test]
    fn defaulting_twice_changes_nothing_and_odd_types_are_left_alone() {
        let served = ServedVersions::from_runtime_config([("api/all", "true")]).expect("valid");
        for descriptor in resources(&served) {
            for object in
                [json!({}), json!({"metadata": {"name": "a"}, "spec": {}}), json!({"spec": 1, "status": []})]
            {
                let mut once = object.clone();
                descriptor.strategy.default_object("v1", &mut once);
                let mut twice = once.clone();
                descriptor.strategy.default_object("v1", &mut twice);
                assert_eq!(once, twice, "{descriptor:?}");
            }
        }
    }
}
