//! Takes the descriptions of types and fields from k8s-openapi's schemas and compresses them.
//!
//! A line is `DEFINITION<tab>FIELD<tab>TEXT`, the field empty for the type's own text; the texts hold no tabs, and their
//! line ends are written as `\\n`.

#![allow(clippy::print_stdout, reason = "this is how a build script talks to cargo")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;

/// Registers the kinds; the types they are made of follow from them.
macro_rules! register {
    ($generator:expr, $($($module:ident)::+: $($kind:ident)+;)+) => {
        $({
            use k8s_openapi::$($module)::+ as module;
            $(let _ = $generator.subschema_for::<module::$kind>();)+
        })+
    };
}

/// Every kind of the release, and what no kind is made of.
#[rustfmt::skip]
fn register_kinds(generator: &mut SchemaGenerator) {
    register! { generator,
        api::admissionregistration::v1: MutatingAdmissionPolicy MutatingAdmissionPolicyBinding
            MutatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding
            ValidatingWebhookConfiguration;
        api::admissionregistration::v1alpha1: MutatingAdmissionPolicy MutatingAdmissionPolicyBinding;
        api::admissionregistration::v1beta1: MutatingAdmissionPolicy MutatingAdmissionPolicyBinding;
        api::apiserverinternal::v1alpha1: StorageVersion;
        api::apps::v1: ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet;
        api::authentication::v1: SelfSubjectReview TokenRequest TokenReview;
        api::authorization::v1: LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview
            SubjectAccessReview;
        api::autoscaling::v1: HorizontalPodAutoscaler Scale;
        api::autoscaling::v2: HorizontalPodAutoscaler;
        api::batch::v1: CronJob Job;
        api::certificates::v1: CertificateSigningRequest;
        api::certificates::v1alpha1: ClusterTrustBundle;
        api::certificates::v1beta1: ClusterTrustBundle PodCertificateRequest;
        api::coordination::v1: Lease;
        api::coordination::v1alpha2: LeaseCandidate;
        api::coordination::v1beta1: LeaseCandidate;
        api::core::v1: Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node
            PersistentVolume PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret
            Service ServiceAccount;
        api::discovery::v1: EndpointSlice;
        api::events::v1: Event;
        api::flowcontrol::v1: FlowSchema PriorityLevelConfiguration;
        api::networking::v1: IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR;
        api::networking::v1beta1: IPAddress ServiceCIDR;
        api::node::v1: RuntimeClass;
        api::policy::v1: Eviction PodDisruptionBudget;
        api::rbac::v1: ClusterRole ClusterRoleBinding Role RoleBinding;
        api::resource::v1: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
        api::resource::v1alpha3: DeviceTaintRule ResourcePoolStatusRequest;
        api::resource::v1beta1: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
        api::resource::v1beta2: DeviceClass DeviceTaintRule ResourceClaim ResourceClaimTemplate ResourceSlice;
        api::scheduling::v1: PriorityClass;
        api::scheduling::v1alpha2: PodGroup Workload;
        api::storage::v1: CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment
            VolumeAttributesClass;
        api::storage::v1beta1: VolumeAttributesClass;
        api::storagemigration::v1beta1: StorageVersionMigration;
        apiextensions_apiserver::pkg::apis::apiextensions::v1: CustomResourceDefinition;
        apimachinery::pkg::apis::meta::v1: APIGroup APIGroupList APIResourceList APIVersions DeleteOptions Status;
        apimachinery::pkg::version: Info;
        kube_aggregator::pkg::apis::apiregistration::v1: APIService;
    }
}

/// The text of a schema, or of the reference in a field.
fn description(schema: &serde_json::Value) -> Option<&str> {
    schema.get("description").and_then(serde_json::Value::as_str).filter(|text| !text.is_empty())
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    register_kinds(&mut generator);
    let mut texts: BTreeMap<(String, String), String> = BTreeMap::new();
    for (definition, schema) in generator.take_definitions(true) {
        if let Some(text) = description(&schema) {
            texts.insert((definition.clone(), String::new()), text.to_owned());
        }
        let fields = schema.get("properties").and_then(serde_json::Value::as_object);
        for (field, schema) in fields.into_iter().flatten() {
            if let Some(text) = description(schema) {
                texts.insert((definition.clone(), field.clone()), text.to_owned());
            }
        }
    }
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    for ((definition, field), text) in texts {
        let text = text.replace('\t', " ").replace('\n', "\\n");
        writeln!(encoder, "{definition}\t{field}\t{text}").expect("a vector takes all bytes");
    }
    let compressed = encoder.finish().expect("a vector takes all bytes");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::fs::write(out.join("descriptions.deflate"), compressed).expect("OUT_DIR can be written");
}
