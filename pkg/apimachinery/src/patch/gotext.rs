//! Values as Go's `fmt` prints them, because upstream's messages contain them.

use std::fmt::{self, Write};

use crate::Value;

/// `%v` of a decoded JSON value: `map[a:1 b:[x y]]`, `<nil>`.
pub(crate) struct Plain<'a>(pub(crate) &'a Value);

/// `%#v` of a decoded JSON value: `map[string]interface {}{"a":1}`.
pub(crate) struct Syntax<'a>(pub(crate) &'a Value);

/// `%T` of a decoded JSON value: `map[string]interface {}`, `string`, `<nil>`.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn number(f: &mut fmt::Formatter<'_>, n: &crate::Number) -> fmt::Result {
    match n.as_f64() {
        Some(float) if n.is_f64() => {
            let exponent = if float == 0.0 { 0.0 } else { float.abs().log10().floor() };
            if (-4.0..21.0).contains(&exponent) {
                return write!(f, "{float}");
            }
            // Go writes at least two digits of exponent and its sign
            let text = format!("{float:e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            write!(f, "{mantissa}e{sign}{digits:0>2}")
        }
        _ => write!(f, "{n}"),
    }
}

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("<nil>"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Number(n) => number(f, n),
            Value::String(s) => f.write_str(s),
            Value::Array(items) => {
                f.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_char(' ')?;
                    }
                    write!(f, "{}", Plain(item))?;
                }
                f.write_char(']')
            }
            Value::Object(map) => {
                f.write_str("map[")?;
                for (i, (key, value)) in map.iter().enumerate() {
                    if i > 0 {
                        f.write_char(' ')?;
                    }
                    write!(f, "{key}:{}", Plain(value))?;
                }
                f.write_char(']')
            }
        }
    }
}

impl fmt::Display for Syntax<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("interface {}(nil)"),
            Value::String(s) => write!(f, "{s:?}"),
            Value::Array(items) => {
                f.write_str("[]interface {}{")?;
                for (i, item) in items.iter().enumerate() {
                    let comma = if i > 0 { ", " } else { "" };
                    write!(f, "{comma}{}", Syntax(item))?;
                }
                f.write_char('}')
            }
            Value::Object(map) => {
                f.write_str("map[string]interface {}{")?;
                for (i, (key, value)) in map.iter().enumerate() {
                    let comma = if i > 0 { ", " } else { "" };
                    write!(f, "{comma}{key:?}:{}", Syntax(value))?;
                }
                f.write_char('}')
            }
            other => write!(f, "{}", Plain(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::json;

    use super::*;

    #[test]
    fn prints_as_go_does() {
        let cases = [
            (json!(null), "<nil>", "interface {}(nil)"),
            (
                json!({"b": [1, "x", true], "a": null}),
                "map[a:<nil> b:[1 x true]]",
                r#"map[string]interface {}{"a":interface {}(nil), "b":[]interface {}{1, "x", true}}"#,
            ),
            (json!(1.5), "1.5", "1.5"),
            (json!(1.0), "1", "1"),
            (json!(1e30), "1e+30", "1e+30"),
            (json!(0.000_01), "1e-05", "1e-05"),
        ];
        for (value, plain, syntax) in cases {
            assert_eq!(Plain(&value).to_string(), plain);
            assert_eq!(Syntax(&value).to_string(), syntax);
        }
    }
}
