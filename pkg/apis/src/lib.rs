//! The built-in kinds: descriptors, schemas, defaulting, validation, conversion, table columns.
//!
//! [`resources`] gives the descriptors, [`schema`] the arena of all built-in types, [`catalog`] finds definitions and
//! kinds in it. All are made from the facts in `api/`; what facts cannot say is in the modules of `kinds`.

mod catalog;
mod conversion;
mod cursor;
mod data;
mod edit;
mod kinds;
mod names;
mod resources;
mod served;

pub use catalog::{Catalog, DataError, Definition, Union, catalog, schema};
pub use conversion::upgrade;
pub use resources::{EVENT_TTL_SECONDS, Priority, priority, resources};
pub use served::{RuntimeConfigError, ServedVersions};
