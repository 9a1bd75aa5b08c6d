//! Calls on the dynamic tree: compiled once, for every kind.
//!
//! `kube::Api<K>` is compiled anew for each `K`; controllers that write twenty kinds use this instead and keep typed
//! objects for what they read.

use std::borrow::Cow;
use std::fmt::Write as _;

use kube::client::Body;
use kube::core::{Status, params::ListParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(crate) const JSON: &str = "application/json";
/// Objects asked for in one page of [`Rest::list`].
const PAGE_SIZE: u32 = 500;
/// Largest error body read.
const MAX_ERROR_TEXT: usize = 4096;

/// A resource: where its objects are and what their kind is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId {
    /// API group, `""` for the core group.
    pub group: Cow<'static, str>,
    /// API version.
    pub version: Cow<'static, str>,
    /// Plural name, as in paths.
    pub plural: Cow<'static, str>,
    /// Kind of its objects.
    pub kind: Cow<'static, str>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl ResourceId {
    /// A namespaced resource known at compile time.
    pub const fn namespaced(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
            kind: Cow::Borrowed(kind),
            namespaced: true,
        }
    }

    /// A cluster-scoped resource known at compile time.
    pub const fn cluster(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
    ) -> Self {
        let mut resource = Self::namespaced(group, version, plural, kind);
        resource.namespaced = false;
        resource
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Path of the collection; of all namespaces when `namespace` is empty.
    pub fn collection_path(&self, namespace: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            push_segment(&mut path, namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        path
    }

    /// Path of one object, with `subresource` when that is not empty.
    pub fn object_path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut path = self.collection_path(namespace);
        path.push('/');
        push_segment(&mut path, name);
        if !subresource.is_empty() {
            path.push('/');
            path.push_str(subresource);
        }
        path
    }
}

/// Appends a path segment, percent-encoding what a path may not hold.
fn push_segment(path: &mut String, segment: &str) {
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:@!$&'()*+,;=".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // writing to a String cannot fail
            let _ = write!(path, "%{byte:02X}");
        }
    }
}

/// How a patch's body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Kubernetes' strategic merge patch.
    Strategic,
}

impl Patch {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// Calls to the API server with one identity. Cloning is cheap.
#[derive(Clone)]
pub struct Rest {
    client: kube::Client,
    field_manager: &'static str,
}

impl std::fmt::Debug for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rest").field("field_manager", &self.field_manager).finish_non_exhaustive()
    }
}

impl Rest {
    /// Calls with this client; `field_manager` is recorded as the manager of what is written.
    pub fn new(client: kube::Client, field_manager: &'static str) -> Self {
        Self { client, field_manager }
    }

    /// The client underneath.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// One object.
    pub async fn get(
        &self,
        resource: &ResourceId,
        namespace: &str,
        name: &str,
    ) -> Result<Value, kube::Error> {
        self.call(http::Method::GET, &resource.object_path(namespace, name, ""), JSON, None).await
    }

    /// All objects of a collection, page by page; all namespaces when `namespace` is empty.
    pub async fn list(
        &self,
        resource: &ResourceId,
        namespace: &str,
        label_selector: Option<&str>,
        field_selector: Option<&str>,
    ) -> Result<Vec<Value>, kube::Error> {
        let mut params = ListParams {
            label_selector: label_selector.map(str::to_owned),
            field_selector: field_selector.map(str::to_owned),
            limit: Some(PAGE_SIZE),
            ..ListParams::default()
        };
        let path = resource.collection_path(namespace);
        let mut items = Vec::new();
        loop {
            let request = kube::core::Request::new(&path).list(&params).map_err(kube::Error::BuildRequest)?;
            let mut page: Value = self.client.request(request).await?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(token) if !token.is_empty() => params.continue_token = Some(token.to_owned()),
                _ => return Ok(items),
            }
        }
    }

    /// Creates an object; answers it as stored. Kind and version are filled in.
    pub async fn create(
        &self,
        resource: &ResourceId,
        namespace: &str,
        object: &impl Serialize,
    ) -> Result<Value, kube::Error> {
        let body = body_of(resource, object)?;
        self.call(http::Method::POST, &self.managed(resource.collection_path(namespace)), JSON, Some(body))
            .await
    }

    /// Posts to a subresource, such as `eviction` or `binding`.
    pub async fn create_subresource(
        &self,
        resource: &ResourceId,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Value, kube::Error> {
        let path = self.managed(resource.object_path(namespace, name, subresource));
        self.call(http::Method::POST, &path, JSON, Some(to_bytes(body)?)).await
    }

    /// Replaces an object (or, through `subresource`, its status, scale or finalizers). Name and namespace are the
    /// object's own.
    pub async fn update(
        &self,
        resource: &ResourceId,
        subresource: &str,
        object: &impl Serialize,
    ) -> Result<Value, kube::Error> {
        let tree = tree_of(resource, object)?;
        let at = |key: &str| tree.pointer(key).and_then(Value::as_str).unwrap_or("");
        let path = resource.object_path(at("/metadata/namespace"), at("/metadata/name"), subresource);
        self.call(http::Method::PUT, &self.managed(path), JSON, Some(to_bytes(&tree)?)).await
    }

    /// Patches an object or a subresource of it.
    pub async fn patch(
        &self,
        resource: &ResourceId,
        (namespace, name): (&str, &str),
        subresource: &str,
        patch: Patch,
        body: &Value,
    ) -> Result<Value, kube::Error> {
        let path = self.managed(resource.object_path(namespace, name, subresource));
        self.call(http::Method::PATCH, &path, patch.media_type(), Some(to_bytes(body)?)).await
    }

    /// Deletes an object with `DeleteOptions` (`json!({})` for none).
    pub async fn delete(
        &self,
        resource: &ResourceId,
        namespace: &str,
        name: &str,
        options: &Value,
    ) -> Result<Value, kube::Error> {
        let path = resource.object_path(namespace, name, "");
        self.call(http::Method::DELETE, &path, JSON, Some(to_bytes(options)?)).await
    }

    /// Deletes all objects of a resource in a namespace.
    pub async fn delete_collection(
        &self,
        resource: &ResourceId,
        namespace: &str,
        options: &Value,
    ) -> Result<Value, kube::Error> {
        self.call(http::Method::DELETE, &resource.collection_path(namespace), JSON, Some(to_bytes(options)?))
            .await
    }

    /// Any path, decoded as JSON: discovery and the like.
    pub async fn get_path(&self, path: &str, accept: &'static str) -> Result<Value, kube::Error> {
        self.send(http::Method::GET, path, JSON, accept, None).await
    }

    fn managed(&self, mut path: String) -> String {
        path.push_str("?fieldManager=");
        path.push_str(self.field_manager);
        path
    }

    async fn call(
        &self,
        method: http::Method,
        path: &str,
        content_type: &'static str,
        body: Option<Vec<u8>>,
    ) -> Result<Value, kube::Error> {
        self.send(method, path, content_type, JSON, body).await
    }

    async fn send(
        &self,
        method: http::Method,
        path: &str,
        content_type: &'static str,
        accept: &'static str,
        body: Option<Vec<u8>>,
    ) -> Result<Value, kube::Error> {
        let mut request =
            http::Request::builder().method(method).uri(path).header(http::header::ACCEPT, accept);
        if body.is_some() {
            request = request.header(http::header::CONTENT_TYPE, content_type);
        }
        let request = request.body(Body::from(body.unwrap_or_default())).map_err(kube::Error::HttpError)?;
        let response = checked(self.client.send(request).await?).await?;
        let bytes = response.into_body().collect_bytes().await?;
        crate::wire::decoded(&bytes).map_err(kube::Error::SerdeError)
    }
}

/// An answer that is not a success, as an error with the server's Status.
pub(crate) async fn checked(response: http::Response<Body>) -> Result<http::Response<Body>, kube::Error> {
    let code = response.status();
    if code.is_success() {
        return Ok(response);
    }
    let bytes = response.into_body().collect_bytes().await?;
    let status = serde_json::from_slice::<Status>(&bytes).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_ERROR_TEXT)]).into_owned();
        Status::failure(&text, code.canonical_reason().unwrap_or("")).with_code(code.as_u16())
    });
    Err(kube::Error::Api(status.boxed()))
}

fn to_bytes(value: &Value) -> Result<Vec<u8>, kube::Error> {
    serde_json::to_vec(value).map_err(kube::Error::SerdeError)
}

fn tree_of(resource: &ResourceId, object: &impl Serialize) -> Result<Value, kube::Error> {
    let mut tree = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
    if let Some(map) = tree.as_object_mut() {
        map.entry("apiVersion").or_insert_with(|| json!(resource.api_version()));
        map.entry("kind").or_insert_with(|| json!(resource.kind));
    }
    Ok(tree)
}

fn body_of(resource: &ResourceId, object: &impl Serialize) -> Result<Vec<u8>, kube::Error> {
    to_bytes(&tree_of(resource, object)?)
}

/// A tree as a typed object.
pub fn typed<T: DeserializeOwned>(tree: Value) -> Result<T, kube::Error> {
    serde_json::from_value(tree).map_err(kube::Error::SerdeError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_group_scope_and_subresource() {
        let pods = ResourceId::namespaced("", "v1", "pods", "Pod");
        let roles = ResourceId::cluster("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole");
        let cases = [
            (pods.collection_path(""), "/api/v1/pods"),
            (pods.collection_path("a"), "/api/v1/namespaces/a/pods"),
            (pods.object_path("a", "b", "status"), "/api/v1/namespaces/a/pods/b/status"),
            (
                roles.object_path("ignored", "system:a/b", ""),
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:a%2Fb",
            ),
        ];
        for (path, expected) in cases {
            assert_eq!(path, expected);
        }
    }
}
