//! Operations of paths that are no resource: discovery, the version, the issuer's documents.

use super::operations::{Content, META, OBJECT_TYPES, OK, Operation, PathItem, id_stem, tag};

/// A path with one GET that answers a definition of `meta/v1`.
pub(super) fn information(path: String, tag: String, id: &str, description: &str, kind: &str) -> PathItem {
    let operation = Operation {
        method: "get",
        action: None,
        id: id.to_owned(),
        description: description.to_owned(),
        parameters: Vec::new(),
        body: None,
        answer: Content::Definition(format!("{META}{kind}")),
        codes: OK,
        consumes: OBJECT_TYPES.to_vec(),
        produces: OBJECT_TYPES.to_vec(),
        gvk: None,
    };
    PathItem { path, tag, parameters: Vec::new(), operations: vec![operation] }
}

/// A group's own path; the core group's lists versions.
pub(super) fn group(group: &str) -> PathItem {
    let tag = tag(group, "");
    if group.is_empty() {
        let about = "get available API versions";
        return information("/api/".into(), tag, "getCoreAPIVersions", about, "APIVersions");
    }
    let id = format!("get{}APIGroup", id_stem(group, ""));
    information(format!("/apis/{group}/"), tag, &id, "get information of a group", "APIGroup")
}

/// The path of all groups.
pub(super) fn groups() -> PathItem {
    let about = "get available API versions";
    information("/apis/".into(), "apis".into(), "getAPIVersions", about, "APIGroupList")
}

/// The server's version.
pub(super) fn version() -> PathItem {
    let about = "get the version information for this server";
    let mut item = information("/version/".into(), "version".into(), "getCodeVersion", about, "");
    for operation in &mut item.operations {
        operation.answer = Content::Definition("io.k8s.apimachinery.pkg.version.Info".into());
        operation.produces = vec!["application/json"];
        operation.consumes = vec!["application/json"];
    }
    item
}

/// A document of the service account issuer, `None` for any other path.
pub(super) fn issuer(path: &str) -> Option<PathItem> {
    let (tag, id, about, media) = match path {
        "/.well-known/openid-configuration" => (
            "WellKnown",
            "getServiceAccountIssuerOpenIDConfiguration",
            "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            "application/json",
        ),
        "/openid/v1/jwks" => (
            "openid",
            "getServiceAccountIssuerOpenIDKeyset",
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            "application/jwk-set+json",
        ),
        _ => return None,
    };
    let mut item = information(format!("{path}/"), tag.into(), id, about, "");
    for operation in &mut item.operations {
        operation.answer = Content::Text;
        operation.produces = vec![media];
        operation.consumes = Vec::new();
    }
    Some(item)
}
