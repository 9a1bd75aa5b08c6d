//! The generic API server: filters, endpoints, discovery, OpenAPI, watch.
//!
//! Every resource goes through the same code: [`requestinfo`] says what a request is about, `filters` decide whether it
//! may, `handlers` do it by the descriptor. What is special about a resource plugs in through [`extension`].

pub mod context;
pub mod extension;
pub mod query;
pub mod requestinfo;
pub mod store;

mod body;
mod core;
mod negotiate;
mod options;
mod respond;

pub use context::{RequestContext, Warnings};
pub use extension::{Call, DeleteRequest, Mutation, SubresourceHandler, Write, WriteFinish, WriteHook};
pub use store::{Deleted, Precondition, ResourceStore, WriteOptions};
