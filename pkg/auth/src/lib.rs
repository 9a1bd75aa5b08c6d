//! Who asks, and may they: authenticators, service account tokens, authorizers and the bootstrap policy.
//!
//! [`authn`] turns a request's certificates and headers into a [`UserInfo`]; [`authz`] decides on [`Attributes`].
//! Both read objects through [`ObjectReader`] only, the server's caches, so nothing here does I/O of its own.
//! Sources: `k8s.io/apiserver/pkg/authentication`, `.../authorization`, KEP-1205 (bound tokens), KEP-1393 (issuer
//! discovery), the RBAC and Node authorization reference pages.

pub mod assemble;
pub mod authn;
pub mod authz;
pub mod bootstrap;
mod cache;
pub mod object;
pub mod service_account;
pub mod user;

pub use authn::{AuthError, Authenticated, Authenticator, TokenAuthenticator};
pub use authz::{Attributes, Authorization, Authorizer, Decision, RuleResolver};
pub use object::{CachedObject, Content, ObjectReader};
pub use user::UserInfo;
