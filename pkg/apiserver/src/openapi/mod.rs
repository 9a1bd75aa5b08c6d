//! OpenAPI: `/openapi/v3` and `/openapi/v2`, made from the descriptors.

use std::sync::Arc;

use apimachinery::descriptor::Registry;
use component::http::Response;
use http::HeaderMap;

use crate::query::Query;

/// Answers OpenAPI requests.
pub(crate) struct OpenApi {
    _resources: Arc<Registry>,
}

impl OpenApi {
    /// Of a registry.
    pub(crate) fn new(resources: Arc<Registry>) -> Self {
        Self { _resources: resources }
    }

    /// Answers a path, `None` when it is none of OpenAPI's.
    pub(crate) fn respond(&self, _path: &str, _headers: &HeaderMap, _query: &Query) -> Option<Response> {
        None
    }
}
