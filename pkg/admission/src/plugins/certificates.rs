//! Who may approve and sign certificate requests, and what clients may not ask for.
//! Source: `k8s.io/kubernetes/plugin/pkg/admission/certificates`.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::meta::str_at;
use apimachinery::status::Status;
use async_trait::async_trait;
use auth::authz::Attributes;
use auth::{Authorizer, UserInfo};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::items;
use crate::{AdmissionRequest, Notes, Operation, Phase, Plugin};

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Whether a user has a verb on a signer, or on all signers of its domain.
async fn may(authorizer: &dyn Authorizer, user: &UserInfo, verb: &str, signer: &str) -> bool {
    let domain = format!("{}/*", signer.split('/').next().unwrap_or(""));
    for name in [signer, &domain] {
        let attributes = Attributes::resource(user, verb, GROUP, "signers", "", name);
        if authorizer.authorize(&attributes).await.allowed() {
            return true;
        }
    }
    false
}

/// Approvers need the verb `approve` on the signer.
pub(super) struct Approval {
    authorizer: Arc<dyn Authorizer>,
}

impl Approval {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Plugin for Approval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        if !request.is_sub(GROUP, "certificatesigningrequests", "approval") {
            return Ok(());
        }
        let signer = str_at(request.old(), &["spec", "signerName"]);
        if may(&*self.authorizer, request.user, "approve", signer).await {
            return Ok(());
        }
        Err(request.forbidden(&format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

/// Signers need the verb `sign` on the signer.
pub(super) struct Signing {
    authorizer: Arc<dyn Authorizer>,
}

impl Signing {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

fn failed(request: &Value) -> bool {
    items(request, &["status", "conditions"]).iter().any(|c| str_at(c, &["type"]) == "Failed")
}

#[async_trait]
impl Plugin for Signing {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let (new, old) = (request.object(), request.old());
        let certificate = |object| str_at(object, &["status", "certificate"]);
        if !request.is_sub(GROUP, "certificatesigningrequests", "status")
            || (certificate(new) == certificate(old) && failed(new) == failed(old))
        {
            return Ok(());
        }
        let signer = str_at(old, &["spec", "signerName"]);
        if may(&*self.authorizer, request.user, "sign", signer).await {
            return Ok(());
        }
        Err(request.forbidden(&format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

/// Who publishes trust anchors for a signer needs the verb `attest` on it.
pub(super) struct TrustBundleAttest {
    authorizer: Arc<dyn Authorizer>,
}

impl TrustBundleAttest {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Plugin for TrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let signer = str_at(request.object(), &["spec", "signerName"]);
        // bundles of no signer are anybody's who may write them
        if !request.is(GROUP, "clustertrustbundles") || signer.is_empty() {
            return Ok(());
        }
        if may(&*self.authorizer, request.user, "attest", signer).await {
            return Ok(());
        }
        Err(request.forbidden(&format!("user not permitted to attest for signerName {signer:?}")))
    }
}

/// Nobody gets a client certificate of `system:masters` this way.
pub(super) struct SubjectRestriction;

/// The organizations in the request's subject; the error's text when it is no request.
fn organizations(request: &Value) -> Result<Vec<String>, String> {
    let pem = STANDARD.decode(str_at(request, &["spec", "request"])).map_err(|e| e.to_string())?;
    let Ok((SectionKind::Csr, der)) = <(SectionKind, Vec<u8>)>::from_pem_slice(&pem) else {
        return Err("PEM block type must be CERTIFICATE REQUEST".into());
    };
    let (_, csr) = X509CertificationRequest::from_der(&der).map_err(|e| e.to_string())?;
    let subject = &csr.certification_request_info.subject;
    Ok(subject.iter_organization().filter_map(|a| a.as_str().ok()).map(str::to_owned).collect())
}

#[async_trait]
impl Plugin for SubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::Validate]
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, _notes: &mut Notes) -> Result<(), Status> {
        let object = request.object();
        if !request.is(GROUP, "certificatesigningrequests")
            || str_at(object, &["spec", "signerName"]) != CLIENT_SIGNER
        {
            return Ok(());
        }
        let organizations =
            organizations(object).map_err(|e| request.forbidden(&format!("unable to parse CSR: {e}")))?;
        if organizations.iter().any(|o| o == auth::user::SYSTEM_MASTERS) {
            return Err(request.forbidden(&format!(
                "use of {CLIENT_SIGNER} signer with {} group is not allowed",
                auth::user::SYSTEM_MASTERS
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{request, run};
    use apimachinery::json;
    use auth::{Authorization, Decision};

    /// Allows one verb on one signer.
    struct Only(&'static str, &'static str);

    #[async_trait]
    impl Authorizer for Only {
        async fn authorize(&self, a: &Attributes<'_>) -> Authorization {
            let allowed = (a.verb, a.name, a.resource) == (self.0, self.1, "signers");
            Authorization::new(if allowed { Decision::Allow } else { Decision::NoOpinion }, "")
        }
    }

    #[tokio::test]
    async fn rights_on_signers() {
        let user = UserInfo::default();
        let csr = |status: Value| json!({"metadata": {"name": "c"}, "spec": {"signerName": "example.com/a"}, "status": status});
        let old = csr(json!({}));
        let signed = csr(json!({"certificate": "x"}));
        for (name, allowed) in [("example.com/a", true), ("example.com/*", true), ("example.com/b", false)] {
            let approval = Approval::new(Arc::new(Only("approve", name)));
            let resource = "certificates.k8s.io/certificatesigningrequests";
            let approve = request(
                Operation::Update,
                &format!("{resource}/approval"),
                &user,
                Some(old.clone()),
                Some(&old),
            );
            assert_eq!(run(&approval, approve).await.is_ok(), allowed, "{name}");
            let signing = Signing::new(Arc::new(Only("sign", name)));
            let sign = request(
                Operation::Update,
                &format!("{resource}/status"),
                &user,
                Some(signed.clone()),
                Some(&old),
            );
            assert_eq!(run(&signing, sign).await.is_ok(), allowed, "{name}");
            let same = request(
                Operation::Update,
                &format!("{resource}/status"),
                &user,
                Some(old.clone()),
                Some(&old),
            );
            assert!(run(&signing, same).await.is_ok());
        }
    }

    #[tokio::test]
    async fn masters_are_not_made() {
        let user = UserInfo::default();
        let csr = |organization: &str, signer: &str| {
            let mut params = rcgen::CertificateParams::new(vec![]).expect("params");
            params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
            let key = rcgen::KeyPair::generate().expect("key");
            let pem = params.serialize_request(&key).expect("request").pem().expect("pem");
            json!({"metadata": {"name": "c"}, "spec": {"signerName": signer, "request": STANDARD.encode(pem)}})
        };
        for (object, refusal) in [
            (csr("dev", CLIENT_SIGNER), ""),
            (csr("system:masters", "example.com/a"), ""),
            (
                csr("system:masters", CLIENT_SIGNER),
                "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
            ),
            (
                json!({"spec": {"signerName": CLIENT_SIGNER, "request": "AAAA"}}),
                "unable to parse CSR: PEM block type must be CERTIFICATE REQUEST",
            ),
        ] {
            let create = request(
                Operation::Create,
                "certificates.k8s.io/certificatesigningrequests",
                &user,
                Some(object),
                None,
            );
            let message = run(&SubjectRestriction, create).await.err().unwrap_or_default();
            assert!(message.ends_with(refusal) && message.is_empty() == refusal.is_empty(), "{message}");
        }
    }
}
