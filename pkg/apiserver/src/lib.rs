//! The generic API server: filters, endpoints, discovery, OpenAPI, watch.
//!
//! Every resource goes through the same code: [`requestinfo`] says what a request is about, `filters` decide whether it
//! may, `handlers` do it by the descriptor. What is special about a resource plugs in through [`extension`].

pub mod context;
pub mod extension;
pub mod options;
pub mod query;
pub mod requestinfo;
pub mod server;
pub mod store;

mod body;
mod codec;
mod core;
mod digest;
mod discovery;
mod filters;
mod gzip;
mod handlers;
mod metrics;
mod negotiate;
mod openapi;
mod paths;
mod respond;
mod router;

pub use codec::StorageMediaType;
pub use context::{RequestContext, Warnings};
pub use extension::{Call, DeleteRequest, Mutation, SubresourceHandler, Write, WriteFinish, WriteHook};
pub use filters::NewRequests;
pub use handlers::websocket;
pub use metrics::Open;
pub use server::{Health, InProcess, Limits, PathHandler, Server, ServerBuilder};
pub use store::{Deleted, Precondition, ResourceStore, WriteOptions, store_failure};
