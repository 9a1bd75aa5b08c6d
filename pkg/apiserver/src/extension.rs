//! Where what is special about single resources plugs in: subresources with effects, virtual resources, and hooks
//! around writes. Crate `registry` implements these; the control plane hands them to [`crate::ServerBuilder`].
//!
//! The contracts follow upstream's `k8s.io/apiserver/pkg/registry/rest` (Connecter, NamedCreater) and
//! `genericregistry.Store` (BeginCreate, BeginUpdate, AfterDelete).

use std::sync::Arc;

use admission::Operation;
use apimachinery::Value;
use apimachinery::descriptor::{ResourceDescriptor, Subresource};
use apimachinery::status::Status;
use async_trait::async_trait;
use component::http::Body;
use http::{Request, Response, StatusCode};

use crate::body;
use crate::context::RequestContext;
use crate::respond;
use crate::store::{Precondition, ResourceStore};

/// A handler of one subresource, or of a whole resource that is not stored (registered under an empty subresource:
/// `bindings`, `tokenreviews`, `componentstatuses`). Gets every verb the descriptor declares for it, already
/// authenticated and authorized; connect-like subresources get the HTTP upgrade through the request's extensions.
#[async_trait]
pub trait SubresourceHandler: Send + Sync + 'static {
    /// Answers a request.
    async fn handle(&self, call: Call) -> Result<Response<Body>, Status>;

    /// True when the answer may take for ever (exec, attach, portforward, proxy, log): no deadline, and not counted
    /// by the in-flight limits.
    fn long_running(&self) -> bool {
        false
    }
}

/// One request for a [`SubresourceHandler`].
pub struct Call {
    /// Who asks what.
    pub context: RequestContext,
    /// The resource.
    pub descriptor: Arc<ResourceDescriptor>,
    /// The subresource's facts; `None` for a whole resource.
    pub subresource: Option<Subresource>,
    /// The request: method, headers, extensions (upgrade, connection) and unread body.
    pub request: Request<Body>,
    /// Reads and writes of objects.
    pub store: ResourceStore,
}

impl Call {
    /// Reads the body (at most 3 MiB; JSON, YAML or protobuf) as the type the subresource declares: decoded, checked
    /// against fieldValidation, defaulted, and of the declared kind.
    pub async fn decode_body(&mut self) -> Result<Value, Status> {
        let body = std::mem::replace(self.request.body_mut(), component::http::empty());
        body::decode_declared(
            &self.context,
            &self.store,
            &self.descriptor,
            self.subresource.as_ref(),
            self.request.headers(),
            body,
        )
        .await
    }

    /// Runs the admission chain on the body of this request (its options, for connect-like subresources): the mutating
    /// phase changes `object`, both phases may refuse.
    pub fn admit<'a>(
        &'a self,
        operation: Operation,
        object: &'a mut Value,
        dry_run: bool,
    ) -> impl Future<Output = Result<(), Status>> + Send + 'a {
        // the future borrows parts, as a request body cannot be shared between threads
        let (core, context, descriptor) = (&self.store.core, &self.context, &self.descriptor);
        let subresource = self.subresource.as_ref();
        async move { core.admit_body(context, descriptor, subresource, operation, object, dry_run).await }
    }

    /// Whether `dryRun=All` was asked for; 400 for any other value.
    pub fn dry_run(&self) -> Result<bool, Status> {
        crate::options::dry_run(&self.context.query)
    }

    /// Answers with an object of the declared kind in the format the client accepts.
    pub fn respond(&self, code: StatusCode, object: &Value) -> Result<Response<Body>, Status> {
        let media = crate::negotiate::single(self.request.headers(), &self.context.query)?;
        let root = match &self.subresource {
            Some(subresource) => subresource.root,
            None => self.descriptor.version(&self.context.info.version).map(|v| v.root),
        };
        let schema = self.descriptor.version(&self.context.info.version).map(|v| Arc::clone(&v.schema));
        Ok(respond::object(code, object, schema.as_deref().zip(root), &media))
    }
}

/// Something that must happen around a stored resource's writes, such as allocating the addresses of a Service.
#[async_trait]
pub trait WriteHook: Send + Sync + 'static {
    /// Before validation of a create. May fill in fields of `object` (stored version). What is allocated here is kept
    /// when [`WriteFinish::finish`] is called with `true`, else given back.
    async fn begin_create(
        &self,
        _write: &Write<'_>,
        _object: &mut Value,
    ) -> Result<Box<dyn WriteFinish>, Status> {
        Ok(Box::new(Nothing))
    }

    /// Before validation of an update, as [`WriteHook::begin_create`]. Runs once an attempt of the optimistic retry.
    async fn begin_update(
        &self,
        _write: &Write<'_>,
        _new: &mut Value,
        _old: &Value,
    ) -> Result<Box<dyn WriteFinish>, Status> {
        Ok(Box::new(Nothing))
    }

    /// After an object is gone from the store (never in a dry run).
    async fn after_delete(&self, _write: &Write<'_>, _object: &Value) {}
}

/// What a hook may know of a write.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// Who writes.
    pub context: &'a RequestContext,
    /// The resource.
    pub descriptor: &'a ResourceDescriptor,
    /// Subresource being written, empty for the resource itself.
    pub subresource: &'a str,
    /// Nothing may be kept.
    pub dry_run: bool,
    /// Reads and writes of other objects.
    pub store: &'a ResourceStore,
}

/// The end of a write a hook has begun. Dropping it without a call is a failed write.
#[async_trait]
pub trait WriteFinish: Send {
    /// `true`: the object is stored. Not called with `true` in a dry run.
    async fn finish(self: Box<Self>, success: bool);
}

/// Nothing to keep, nothing to give back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

#[async_trait]
impl WriteFinish for Nothing {
    async fn finish(self: Box<Self>, _success: bool) {}
}

/// A change of a stored object, run again on the newest version after a conflict. Gets the object in the version asked
/// for and gives the new one back.
pub type Mutation<'a> = &'a (dyn Fn(Value) -> Result<Value, Status> + Send + Sync);

/// What [`ResourceStore::delete`] may be asked for besides the name.
#[derive(Debug, Clone, Default)]
pub struct DeleteRequest {
    /// Only if the object is still this one.
    pub precondition: Precondition,
    /// `gracePeriodSeconds`.
    pub grace_period_seconds: Option<i64>,
    /// `propagationPolicy`: `Orphan`, `Background` or `Foreground`.
    pub propagation_policy: Option<String>,
    /// Change nothing.
    pub dry_run: bool,
}
