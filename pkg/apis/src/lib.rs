//! The built-in kinds: descriptors, schemas, defaulting, validation, conversion, table columns.
