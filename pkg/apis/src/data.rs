//! The files of `api/`, compiled in.

macro_rules! file {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../api/", $name)))
    };
}

/// Definitions: file name and text.
pub(crate) const SCHEMAS: &[(&str, &str)] = &[
    file!("schema/admissionregistration.v1.txt"),
    file!("schema/admissionregistration.v1alpha1.txt"),
    file!("schema/admissionregistration.v1beta1.txt"),
    file!("schema/apidiscovery.v2.txt"),
    file!("schema/apidiscovery.v2beta1.txt"),
    file!("schema/apiextensions-apiserver.pkg.apis.apiextensions.v1.txt"),
    file!("schema/apimachinery.pkg.api.resource.txt"),
    file!("schema/apimachinery.pkg.apis.meta.v1.txt"),
    file!("schema/apimachinery.pkg.runtime.txt"),
    file!("schema/apimachinery.pkg.util.intstr.txt"),
    file!("schema/apimachinery.pkg.version.txt"),
    file!("schema/apiserverinternal.v1alpha1.txt"),
    file!("schema/apps.v1.txt"),
    file!("schema/authentication.v1.txt"),
    file!("schema/authorization.v1.txt"),
    file!("schema/autoscaling.v1.txt"),
    file!("schema/autoscaling.v2.txt"),
    file!("schema/batch.v1.txt"),
    file!("schema/certificates.v1.txt"),
    file!("schema/certificates.v1alpha1.txt"),
    file!("schema/certificates.v1beta1.txt"),
    file!("schema/coordination.v1.txt"),
    file!("schema/coordination.v1alpha2.txt"),
    file!("schema/coordination.v1beta1.txt"),
    file!("schema/core.v1.txt"),
    file!("schema/discovery.v1.txt"),
    file!("schema/events.v1.txt"),
    file!("schema/flowcontrol.v1.txt"),
    file!("schema/kube-aggregator.pkg.apis.apiregistration.v1.txt"),
    file!("schema/networking.v1.txt"),
    file!("schema/networking.v1beta1.txt"),
    file!("schema/node.v1.txt"),
    file!("schema/policy.v1.txt"),
    file!("schema/rbac.v1.txt"),
    file!("schema/resource.v1.txt"),
    file!("schema/resource.v1alpha3.txt"),
    file!("schema/resource.v1beta1.txt"),
    file!("schema/resource.v1beta2.txt"),
    file!("schema/scheduling.v1.txt"),
    file!("schema/scheduling.v1alpha2.txt"),
    file!("schema/storage.v1.txt"),
    file!("schema/storage.v1beta1.txt"),
    file!("schema/storagemigration.v1beta1.txt"),
];

/// Group versions that `DeleteOptions` and `WatchEvent` are kinds of.
pub(crate) const EVERY_VERSION: &str = include_str!("../../../api/every-version.txt");

/// Resources by group and version.
pub(crate) const RESOURCES: &str = include_str!("../../../api/resources.txt");

/// Storage locations that are not the usual ones.
pub(crate) const STORAGE: &str = include_str!("../../../api/storage.txt");

/// Order of groups and versions.
pub(crate) const PRIORITIES: &str = include_str!("../../../api/priorities.txt");

/// Versions that warn when used.
pub(crate) const DEPRECATIONS: &str = include_str!("../../../api/deprecations.txt");
