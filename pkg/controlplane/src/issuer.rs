//! The documents by which others check this server's tokens: `/.well-known/openid-configuration` and `/openid/v1/jwks`.

use apimachinery::Value;
use apimachinery::status::Status;
use apiserver::{PathHandler, RequestContext};
use async_trait::async_trait;
use component::http::{Request, Response, full};
use http::{HeaderValue, header};

/// Path of the configuration.
pub(crate) const CONFIGURATION: &str = "/.well-known/openid-configuration";
/// Path of the key set.
pub(crate) const JWKS: &str = "/openid/v1/jwks";

/// Answers one of the documents.
pub(crate) struct Document {
    json: String,
    media_type: &'static str,
}

impl Document {
    /// The configuration.
    pub(crate) fn configuration(value: &Value) -> Self {
        Self { json: value.to_string(), media_type: "application/json" }
    }

    /// The key set.
    pub(crate) fn jwks(value: &Value) -> Self {
        Self { json: value.to_string(), media_type: "application/jwk-set+json" }
    }
}

#[async_trait]
impl PathHandler for Document {
    async fn handle(&self, _context: RequestContext, _request: Request) -> Result<Response, Status> {
        let mut response = Response::new(full(self.json.clone()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        Ok(response)
    }
}
