//! The built-in plugins, one file a concern, and how they are made.

mod amounts;
mod certificates;
mod defaults;
mod event_rate;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod node_selector;
mod owner_references;
mod pod_security;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod simple;
mod toleration_restriction;
mod tolerations;
mod volume_resize;

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::GroupResource;
use apimachinery::status::Status;
use auth::Authorizer;

use crate::chain::{Chain, ConfigError, ORDER};
use crate::{ObjectSource, Plugin, PluginConfigs};

/// What plugins are made with.
#[derive(Clone)]
pub struct Dependencies {
    /// Reads and writes of objects.
    pub source: Arc<dyn ObjectSource>,
    /// Decides what the requester may, for plugins about rights.
    pub authorizer: Arc<dyn Authorizer>,
    /// What plugins are configured with (`--admission-control-config-file`).
    pub configs: PluginConfigs,
}

/// Plugins that take a configuration here.
const CONFIGURABLE: [&str; 3] = ["EventRateLimit", "PodNodeSelector", "PodTolerationRestriction"];

/// Makes a plugin by name, `None` for one that does not exist here.
fn make(name: &str, with: &Dependencies) -> Result<Option<Arc<dyn Plugin>>, ConfigError> {
    let source = || Arc::clone(&with.source);
    let authorizer = || Arc::clone(&with.authorizer);
    let config = with.configs.of(name);
    Ok(Some(match name {
        "AlwaysAdmit" => Arc::new(simple::AlwaysAdmit),
        "AlwaysDeny" => Arc::new(simple::AlwaysDeny),
        "AlwaysPullImages" => Arc::new(simple::AlwaysPullImages),
        "CertificateApproval" => Arc::new(certificates::Approval::new(authorizer())),
        "CertificateSigning" => Arc::new(certificates::Signing::new(authorizer())),
        "CertificateSubjectRestriction" => Arc::new(certificates::SubjectRestriction),
        "ClusterTrustBundleAttest" => Arc::new(certificates::TrustBundleAttest::new(authorizer())),
        "EventRateLimit" => Arc::new(event_rate::EventRateLimit::new(config)?),
        "NamespaceAutoProvision" => Arc::new(namespace_lifecycle::NamespaceAutoProvision::new(source())),
        "PodNodeSelector" => Arc::new(node_selector::PodNodeSelector::new(source(), config)?),
        "PodTolerationRestriction" => {
            Arc::new(toleration_restriction::PodTolerationRestriction::new(source(), config))
        }
        "DefaultIngressClass" => Arc::new(defaults::DefaultIngressClass::new(source())),
        "DefaultStorageClass" => Arc::new(defaults::DefaultStorageClass::new(source())),
        "DefaultTolerationSeconds" => Arc::new(tolerations::DefaultTolerationSeconds),
        "DenyServiceExternalIPs" => Arc::new(simple::DenyServiceExternalIps),
        "ExtendedResourceToleration" => Arc::new(tolerations::ExtendedResourceToleration),
        "LimitRanger" => Arc::new(limit_ranger::LimitRanger::new(source())),
        "PodSecurity" => Arc::new(pod_security::PodSecurity::new(source())),
        "ResourceQuota" => Arc::new(resource_quota::ResourceQuota::new(source())),
        "LimitPodHardAntiAffinityTopology" => Arc::new(simple::LimitPodHardAntiAffinityTopology),
        "NamespaceExists" => Arc::new(namespace_lifecycle::NamespaceExists::new(source())),
        "NamespaceLifecycle" => Arc::new(namespace_lifecycle::NamespaceLifecycle::new(source())),
        "NodeRestriction" => Arc::new(node_restriction::NodeRestriction::new(source())),
        "OwnerReferencesPermissionEnforcement" => {
            Arc::new(owner_references::OwnerReferencesPermissionEnforcement::new(authorizer()))
        }
        "PersistentVolumeClaimResize" => Arc::new(volume_resize::PersistentVolumeClaimResize::new(source())),
        "PodTopologyLabels" => Arc::new(defaults::PodTopologyLabels::new(source())),
        "Priority" => Arc::new(priority::Priority::new(source())),
        "RuntimeClass" => Arc::new(runtime_class::RuntimeClass::new(source())),
        "ServiceAccount" => Arc::new(service_account::ServiceAccount::new(source())),
        "StorageObjectInUseProtection" => Arc::new(defaults::StorageObjectInUseProtection),
        "TaintNodesByCondition" => Arc::new(tolerations::TaintNodesByCondition),
        _ => return Ok(None),
    }))
}

/// The chain of `--enable-admission-plugins` and `--disable-admission-plugins`: the default set, plus and minus those.
/// Naming a plugin that does not exist here is an error, disabling one is not; plugins of the default set that do not
/// exist here (webhooks and policies) are left out.
pub fn chain(enable: &[String], disable: &[String], with: &Dependencies) -> Result<Chain, ConfigError> {
    for name in enable.iter().chain(disable) {
        if !ORDER.iter().any(|(known, _)| known == name) {
            return Err(ConfigError::Unknown(name.clone()));
        }
    }
    if let Some(name) = with.configs.names().find(|name| !CONFIGURABLE.contains(name)) {
        return Err(ConfigError::Plugin {
            plugin: name.into(),
            why: "it takes no configuration here".into(),
        });
    }
    if let Some(both) = enable.iter().find(|name| disable.contains(name)) {
        return Err(ConfigError::Overlap(both.clone()));
    }
    let mut plugins = Vec::new();
    for (name, by_default) in ORDER {
        let asked = enable.iter().any(|n| n == name);
        if !(asked || by_default) || disable.iter().any(|n| n == name) {
            continue;
        }
        match make(name, with)? {
            Some(plugin) => plugins.push(plugin),
            None if asked => return Err(ConfigError::NotImplemented(name.to_owned())),
            None => {}
        }
    }
    Ok(Chain::new(plugins))
}

/// An object from the cache, or from the store when the cache has not seen it.
async fn find(
    source: &dyn ObjectSource,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<Value>, Status> {
    let resource = GroupResource::new(group, resource);
    if let Some(cached) = source.get(&resource, namespace, name) {
        return Ok(cached.value());
    }
    Ok(source.get_live(&resource, namespace, name).await?.and_then(|o| o.value()))
}

/// The list at a path of keys, made when absent. `None` when the path leads through something else.
fn list_mut<'a>(object: &'a mut Value, path: &[&str]) -> Option<&'a mut Vec<Value>> {
    let (last, parents) = path.split_last()?;
    let mut place = object;
    for key in parents {
        place = place.as_object_mut()?.entry(*key).or_insert_with(|| Value::Object(apimachinery::Map::new()));
    }
    let entry = place.as_object_mut()?.entry(*last).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Array(Vec::new().into());
    }
    entry.as_array_mut()
}

/// The items of a list at a path, none when there is none.
fn items<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    apimachinery::meta::at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Source;
    use auth::authz::union::AlwaysAllow;

    fn names(enable: &[&str], disable: &[&str]) -> Result<Vec<&'static str>, ConfigError> {
        let with = Dependencies {
            source: Source::new([]),
            authorizer: Arc::new(AlwaysAllow),
            configs: PluginConfigs::default(),
        };
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        Ok(chain(&list(enable), &list(disable), &with)?.names())
    }

    #[test]
    fn flags_choose_plugins() {
        let default = names(&[], &[]).expect("default");
        assert_eq!(default[0], "NamespaceLifecycle");
        assert!(!default.contains(&"NodeRestriction"));
        let more = names(&["NodeRestriction"], &["Priority"]).expect("flags");
        let place = |name| more.iter().position(|n| *n == name);
        assert!(place("ServiceAccount") < place("NodeRestriction") && place("Priority").is_none());
        assert!(
            names(&["NamespaceAutoProvision", "PodNodeSelector", "PodTolerationRestriction"], &[]).is_ok()
        );
        assert!(names(&["EventRateLimit"], &[]).is_err(), "it needs limits");
        assert_eq!(names(&["Nothing"], &[]), Err(ConfigError::Unknown("Nothing".into())));
        assert_eq!(names(&[], &["Nothing"]), Err(ConfigError::Unknown("Nothing".into())));
        assert_eq!(names(&["Priority"], &["Priority"]), Err(ConfigError::Overlap("Priority".into())));
        let webhook = "MutatingAdmissionWebhook";
        assert_eq!(names(&[webhook], &[]), Err(ConfigError::NotImplemented(webhook.into())));
        assert!(names(&[], &[webhook]).is_ok());
    }

    #[test]
    fn names_are_unique() {
        let mut all: Vec<&str> = ORDER.iter().map(|(name, _)| *name).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), ORDER.len());
    }
}
