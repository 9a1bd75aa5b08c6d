//! The chain: which plugins run, and in what order.

use std::sync::Arc;

use apimachinery::status::Status;
use prometheus_client::registry::Registry;

use crate::durations::{Durations, Walk};
use crate::{AdmissionRequest, Notes, Operation, Phase, Plugin};

/// Every plugin of v1.36 in the order they run, with whether it is on by default.
pub const ORDER: [(&str, bool); 37] = [
    ("AlwaysAdmit", false),
    ("NamespaceAutoProvision", false),
    ("NamespaceLifecycle", true),
    ("NamespaceExists", false),
    ("LimitPodHardAntiAffinityTopology", false),
    ("LimitRanger", true),
    ("ServiceAccount", true),
    ("NodeRestriction", false),
    ("TaintNodesByCondition", true),
    ("AlwaysPullImages", false),
    ("ImagePolicyWebhook", false),
    ("PodSecurity", true),
    ("PodNodeSelector", false),
    ("Priority", true),
    ("DefaultTolerationSeconds", true),
    ("PodTolerationRestriction", false),
    ("EventRateLimit", false),
    ("ExtendedResourceToleration", false),
    ("DefaultStorageClass", true),
    ("StorageObjectInUseProtection", true),
    ("OwnerReferencesPermissionEnforcement", false),
    ("PersistentVolumeClaimResize", true),
    ("RuntimeClass", true),
    ("CertificateApproval", true),
    ("CertificateSigning", true),
    ("ClusterTrustBundleAttest", true),
    ("CertificateSubjectRestriction", true),
    ("DefaultIngressClass", true),
    ("PodTopologyLabels", true),
    ("NodeDeclaredFeatureValidator", false),
    ("DenyServiceExternalIPs", false),
    ("MutatingAdmissionPolicy", true),
    ("MutatingAdmissionWebhook", true),
    ("ValidatingAdmissionPolicy", true),
    ("ValidatingAdmissionWebhook", true),
    ("ResourceQuota", true),
    ("AlwaysDeny", false),
];

/// Why a chain cannot be made from the flags.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such plugin.
    #[error("admission-control plugin {0:?} is unknown")]
    Unknown(String),
    /// A plugin of upstream that does not exist here.
    #[error("admission-control plugin {0:?} is not implemented by this server")]
    NotImplemented(String),
    /// The configuration file cannot be used.
    #[error("admission configuration: {0}")]
    File(String),
    /// The configuration of a plugin cannot be used.
    #[error("couldn't init admission plugin {plugin:?}: {why}")]
    Plugin {
        /// Which plugin.
        plugin: String,
        /// What is wrong.
        why: String,
    },
    /// Both enabled and disabled.
    #[error("{0:?} in enable-admission-plugins and disable-admission-plugins overlapped")]
    Overlap(String),
}

/// The plugins that run, in order.
#[derive(Default, Clone)]
pub struct Chain {
    plugins: Vec<Arc<dyn Plugin>>,
    /// Places of the plugins of each phase.
    mutating: Vec<usize>,
    validating: Vec<usize>,
    durations: Option<Arc<Durations>>,
}

impl Chain {
    /// A chain of these plugins in this order.
    pub fn new(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        let of = |phase| {
            let plugins = plugins.iter().enumerate();
            plugins.filter(|(_, plugin)| plugin.phases().contains(&phase)).map(|(at, _)| at).collect()
        };
        let (mutating, validating) = (of(Phase::Mutate), of(Phase::Validate));
        Self { plugins, mutating, validating, durations: None }
    }

    /// Has what plugins do, and the time they take, counted from now on in metrics of this registry.
    pub fn count_in(&mut self, registry: &mut Registry) {
        self.plugins.iter().for_each(|plugin| plugin.register(registry));
        self.durations = Some(Arc::new(Durations::new(registry, self.plugins.iter().map(|p| p.name()))));
    }

    /// Names of the plugins, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.plugins.iter().map(|p| p.name()).collect()
    }

    /// The mutating phase: changes `request.object` or refuses.
    pub async fn admit(&self, request: &mut AdmissionRequest<'_>, notes: &mut Notes) -> Result<(), Status> {
        let mut walk = Walk::new(self.durations.as_deref(), Phase::Mutate, request.operation);
        for (at, plugin) in self.of(&self.mutating, request.operation) {
            let outcome = plugin.admit(request, notes).await;
            walk.passed(at, outcome.is_err());
            if outcome.is_err() {
                walk.end(true);
                return outcome;
            }
        }
        walk.end(false);
        Ok(())
    }

    /// The validating phase: refuses or not.
    pub async fn validate(&self, request: &AdmissionRequest<'_>, notes: &mut Notes) -> Result<(), Status> {
        let mut walk = Walk::new(self.durations.as_deref(), Phase::Validate, request.operation);
        for (at, plugin) in self.of(&self.validating, request.operation) {
            let outcome = plugin.validate(request, notes).await;
            walk.passed(at, outcome.is_err());
            if outcome.is_err() {
                walk.end(true);
                return outcome;
            }
        }
        walk.end(false);
        Ok(())
    }

    /// Of the plugins at these places those that look at an operation.
    fn of<'c>(
        &'c self,
        places: &'c [usize],
        operation: Operation,
    ) -> impl Iterator<Item = (usize, &'c Arc<dyn Plugin>)> {
        let plugins = places.iter().map(|at| (*at, &self.plugins[*at]));
        plugins.filter(move |(_, plugin)| plugin.handles(operation))
    }
}
