//! Kubernetes' protobuf form, transcoded from and to the tree by the numbers in the [`Schema`].
//!
//! Source: `k8s.io/apimachinery/pkg/runtime/serializer/protobuf` for the envelope, the `generated.proto` files of
//! 1.36 for the numbers.

use crate::schema::Schema;

/// Fields of every object type of an arena by protobuf number.
#[derive(Debug, Default)]
pub(crate) struct WireTables {}

impl WireTables {
    pub(crate) fn new(_schema: &Schema) -> Self {
        Self {}
    }
}
