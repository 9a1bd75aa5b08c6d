//! Comparing values with what they hold.

use crate::Value;

macro_rules! compares {
    ($($kind:ty: |$value:ident, $other:ident| $equal:expr;)*) => {$(
        impl PartialEq<$kind> for Value {
            fn eq(&self, $other: &$kind) -> bool {
                let $value = self;
                $equal
            }
        }
        impl PartialEq<Value> for $kind {
            fn eq(&self, other: &Value) -> bool {
                other == self
            }
        }
    )*};
}

compares! {
    str: |value, other| value.as_str() == Some(other);
    &str: |value, other| value.as_str() == Some(*other);
    String: |value, other| value.as_str() == Some(other.as_str());
    bool: |value, other| value.as_bool() == Some(*other);
    u16: |value, other| value.as_u64() == Some(u64::from(*other));
    i32: |value, other| value.as_i64() == Some(i64::from(*other));
    u32: |value, other| value.as_u64() == Some(u64::from(*other));
    i64: |value, other| value.as_i64() == Some(*other);
    u64: |value, other| value.as_u64() == Some(*other);
    usize: |value, other| value.as_u64() == Some(*other as u64);
    f64: |value, other| value.as_f64() == Some(*other);
}
