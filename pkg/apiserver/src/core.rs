//! What all handlers share: the resources, the store, the caches, and the rules of writing.

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::descriptor::Registry;
use apimachinery::meta::GroupVersionResource;
use apimachinery::status::Status;

use crate::context::RequestContext;
use crate::extension::{DeleteRequest, Mutation, SubresourceHandler, WriteHook};
use crate::store::{Deleted, WriteOptions};

/// Key of a handler: group, resource, subresource.
pub(crate) type HandlerKey = (String, String, String);

/// Shared state of the server.
pub(crate) struct Core {
    pub(crate) resources: Arc<Registry>,
    pub(crate) storage: Arc<dyn storage::Storage>,
    pub(crate) admission: admission::Chain,
    pub(crate) handlers: HashMap<HandlerKey, Arc<dyn SubresourceHandler>>,
    pub(crate) hooks: HashMap<(String, String), Arc<dyn WriteHook>>,
}

fn later<T>() -> Result<T, Status> {
    Err(Status::service_unavailable("the server is not assembled yet"))
}

impl Core {
    pub(crate) async fn admit_body(
        &self,
        _: &crate::Call,
        _: admission::Operation,
        _: &mut Value,
        _: bool,
    ) -> Result<(), Status> {
        later()
    }
    pub(crate) async fn get_value(
        &self,
        _: &GroupVersionResource,
        _: &str,
        _: &str,
    ) -> Result<Value, Status> {
        later()
    }
    pub(crate) async fn list_values(
        &self,
        _: &GroupVersionResource,
        _: Option<&str>,
    ) -> Result<Vec<Value>, Status> {
        later()
    }
    pub(crate) async fn create_value(
        &self,
        _: &RequestContext,
        _: &GroupVersionResource,
        _: &str,
        _: Value,
        _: &WriteOptions,
    ) -> Result<Value, Status> {
        later()
    }
    #[allow(clippy::too_many_arguments)]
    pub(crate) async fn update_value(
        &self,
        _: &RequestContext,
        _: &GroupVersionResource,
        _: &str,
        _: &str,
        _: &str,
        _: Mutation<'_>,
        _: &WriteOptions,
    ) -> Result<Value, Status> {
        later()
    }
    pub(crate) async fn delete_value(
        &self,
        _: &RequestContext,
        _: &GroupVersionResource,
        _: &str,
        _: &str,
        _: &DeleteRequest,
    ) -> Result<Deleted, Status> {
        later()
    }
}
