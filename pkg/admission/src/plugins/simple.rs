//! Plugins of a few lines, all off by default.
//! Source: `k8s.io/kubernetes/plugin/pkg/admission/{admit,deny,alwayspullimages,antiaffinity,network}`.

use apimachinery::Value;
use apimachinery::json;
use apimachinery::meta::str_at;
use apimachinery::status::Status;
use async_trait::async_trait;

use super::items;
use crate::{AdmissionRequest, Notes, Operation, Phase, Plugin};

/// Lets everything pass.
pub(super) struct AlwaysAdmit;

#[async_trait]
impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate, Phase::Validate]
    }

    fn handles(&self, _operation: Operation) -> bool {
        true
    }
}

/// Lets nothing pass.
pub(super) struct AlwaysDeny;

#[async_trait]
impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate]
    }

    fn handles(&self, _operation: Operation) -> bool {
        true
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        Err(request.forbidden("admission control is denying all modifications"))
    }
}

/// Images are pulled anew for every container, so that nobody uses an image only others may pull.
pub(super) struct AlwaysPullImages;

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Mutate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !request.is("", "pods") && !request.is_sub("", "pods", "ephemeralcontainers") {
            return Ok(());
        }
        for list in CONTAINERS {
            let containers = request.object.as_mut().and_then(|o| o.pointer_mut(&format!("/spec/{list}")));
            for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
                container["imagePullPolicy"] = json!("Always");
            }
        }
        Ok(())
    }
}

/// Required anti-affinity only by host name, as anything wider lets one pod keep others out of a zone.
pub(super) struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let path = ["spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
        let wide = |term: &&Value| str_at(term, &["topologyKey"]) != "kubernetes.io/hostname";
        match items(request.object(), &path).iter().find(wide) {
            Some(term) if request.is("", "pods") => Err(request.forbidden(&format!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {} but only key kubernetes.io/hostname is allowed",
                str_at(term, &["topologyKey"])
            ))),
            _ => Ok(()),
        }
    }
}

/// Services may not take external addresses they did not have.
pub(super) struct DenyServiceExternalIps;

#[async_trait]
impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let path = ["spec", "externalIPs"];
        let old = items(request.old(), &path);
        if request.is("", "services") && !items(request.object(), &path).iter().all(|ip| old.contains(ip)) {
            return Err(request.forbidden("Use of external IPs is denied by admission control."));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{request, run};
    use auth::UserInfo;

    #[tokio::test]
    async fn each_does_its_one_thing() {
        let user = UserInfo::default();
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"imagePullPolicy": "Never"}]}});
        let got =
            run(&AlwaysPullImages, request(Operation::Create, "/pods", &user, Some(pod.clone()), None)).await;
        assert_eq!(got.expect("ok")["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert!(
            run(&AlwaysDeny, request(Operation::Create, "/pods", &user, Some(pod.clone()), None))
                .await
                .is_err()
        );
        assert!(run(&AlwaysAdmit, request(Operation::Create, "/pods", &user, Some(pod), None)).await.is_ok());
        let service = |ips: Value| json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ips}});
        let old = service(json!(["1.1.1.1"]));
        for (ips, ok) in [(json!(["1.1.1.1"]), true), (json!(["2.2.2.2"]), false)] {
            let update = request(Operation::Update, "/services", &user, Some(service(ips)), Some(&old));
            assert_eq!(run(&DenyServiceExternalIps, update).await.is_ok(), ok);
        }
        for (key, ok) in [("kubernetes.io/hostname", true), ("zone", false)] {
            let pod = json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key}]}}}});
            let create = request(Operation::Create, "/pods", &user, Some(pod), None);
            assert_eq!(run(&LimitPodHardAntiAffinityTopology, create).await.is_ok(), ok);
        }
    }
}
