//! The policy as the authorizers see it.

use std::sync::Arc;

use crate::authz::rbac::RbacAuthorizer;
use crate::authz::{Attributes, Authorizer};
use crate::object::testing::{Objects, reader};
use crate::user::{ALL_AUTHENTICATED, SYSTEM_MASTERS, UserInfo};

#[tokio::test]
async fn the_policy_gives_what_components_need() {
    let objects = Objects::default();
    for object in super::objects() {
        objects.put(&object.gvr.group, &object.gvr.resource, &object.object);
    }
    let rbac = RbacAuthorizer::new(reader(&Arc::new(objects)));
    let account = |name: &str| UserInfo::service_account("kube-system", name, "");
    let scheduler = UserInfo::new("system:kube-scheduler", &[ALL_AUTHENTICATED]);
    let manager = UserInfo::new("system:kube-controller-manager", &[ALL_AUTHENTICATED]);
    let cases = [
        (&UserInfo::new("root", &[SYSTEM_MASTERS]), "delete", "apps", "deployments", "any", true),
        (
            &UserInfo::new("ann", &[ALL_AUTHENTICATED]),
            "create",
            "authorization.k8s.io",
            "selfsubjectaccessreviews",
            "",
            true,
        ),
        (&UserInfo::new("ann", &[ALL_AUTHENTICATED]), "list", "", "pods", "any", false),
        (&scheduler, "create", "", "pods/binding", "any", true),
        (&scheduler, "update", "", "pods", "any", false),
        (&scheduler, "update", "", "persistentvolumes", "", true),
        (&manager, "list", "anything", "at-all", "", true),
        (&manager, "create", "", "pods", "any", false),
        (&account("deployment-controller"), "create", "apps", "replicasets", "any", true),
        (&account("deployment-controller"), "create", "", "pods", "any", false),
        (&account("horizontal-pod-autoscaler"), "update", "apps", "deployments/scale", "any", true),
        (&account("generic-garbage-collector"), "delete", "example.com", "things", "any", true),
        (&account("token-cleaner"), "delete", "", "secrets", "kube-system", true),
        (&account("token-cleaner"), "delete", "", "secrets", "default", false),
        (
            &UserInfo::service_account("default", "deployment-controller", ""),
            "create",
            "apps",
            "replicasets",
            "any",
            false,
        ),
    ];
    for (user, verb, group, resource, namespace, allowed) in cases {
        let attributes = Attributes::resource(user, verb, group, resource, namespace, "");
        let answer = rbac.authorize(&attributes).await;
        assert_eq!(answer.allowed(), allowed, "{} {verb} {resource}: {}", user.name, answer.reason);
    }
    let anonymous = UserInfo::anonymous();
    for (path, allowed) in [("/healthz", true), ("/version", true), ("/apis", false), ("/metrics", false)] {
        assert_eq!(
            rbac.authorize(&Attributes::non_resource(&anonymous, "get", path)).await.allowed(),
            allowed
        );
    }
}
