//! `resource.Quantity`: a decimal number with a suffix, exact and with one canonical text.
//!
//! Source: `k8s.io/apimachinery/pkg/api/resource`. A value is `mantissa * 10^scale`, never finer than 10^-9: finer values
//! are rounded away from zero, so that who asks for something gets something. Where upstream goes to arbitrary
//! precision, 38 digits (`i128`) are the bound here and more is an error.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Finest scale of a quantity.
const NANO: i32 = -9;
/// Up to so many digits upstream keeps the text it was given, if that is canonical enough.
const FAST_DIGITS: usize = 18;
/// Binary quantities are capped here.
const BINARY_MAX: i128 = i64::MAX as i128;
/// Exponents beyond this are refused: no sum or comparison could be represented.
const MAX_EXPONENT: i64 = 1 << 20;

/// How a quantity is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// `12M`: powers of ten as n, u, m, k, M, G, T, P, E.
    #[default]
    DecimalSi,
    /// `12Mi`: powers of 1024.
    BinarySi,
    /// `12e6`.
    DecimalExponent,
}

/// Why a text is no quantity, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form number plus suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// More digits than can be represented.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// No such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An exact decimal number and how it wants to be written. Comparison and equality are by value.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    mantissa: i128,
    scale: i32,
    format: Format,
}

/// The parts of a quantity's text.
struct Parts<'a> {
    negative: bool,
    integer: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Format);
    }
    let (negative, rest) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let rest = rest.trim_start_matches('0');
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let (integer, rest) = rest.split_at(digits(rest));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let letters = rest.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let exponent = rest[letters..].strip_prefix(['-', '+']).unwrap_or(&rest[letters..]);
    if exponent.bytes().all(|b| b.is_ascii_digit()) {
        Ok(Parts { negative, integer, fraction, suffix: rest })
    } else {
        Err(QuantityError::Format)
    }
}

/// Base-10 or base-2 exponent and format of a suffix.
fn interpret(suffix: &str) -> Result<(i32, Format), QuantityError> {
    let decimal = |exponent| Ok((exponent, Format::DecimalSi));
    let binary = |exponent| Ok((exponent, Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let digits = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
            let exponent: i64 = digits.parse().map_err(|_| QuantityError::Suffix)?;
            if exponent.abs() > MAX_EXPONENT {
                return Err(QuantityError::Numeric);
            }
            Ok((exponent as i32, Format::DecimalExponent))
        }
    }
}

/// Divides, rounding away from zero; the flag says whether nothing was lost.
fn div_away(value: i128, divisor: i128) -> (i128, bool) {
    let (quotient, rest) = (value / divisor, value % divisor);
    if rest == 0 { (quotient, true) } else { (quotient + value.signum(), false) }
}

/// `value / 10^digits`, rounded away from zero.
fn drop_digits(value: i128, digits: u32) -> (i128, bool) {
    match 10_i128.checked_pow(digits) {
        Some(divisor) => div_away(value, divisor),
        None => (value.signum(), value == 0),
    }
}

/// `value * 10^digits` if it fits.
fn add_digits(value: i128, digits: u32) -> Option<i128> {
    if value == 0 {
        return Some(0);
    }
    10_i128.checked_pow(digits).and_then(|factor| value.checked_mul(factor))
}

impl Parts<'_> {
    /// The quantity, and whether upstream would print the given text back instead of the canonical one.
    fn value(&self) -> Result<(Quantity, bool), QuantityError> {
        let (exponent, mut format) = interpret(self.suffix)?;
        let integer_len = self.integer.len().max(1);
        let digits = integer_len + self.fraction.len();
        let mut number: i128 = 0;
        for byte in self.integer.bytes().chain(self.fraction.bytes()) {
            number = number
                .checked_mul(10)
                .and_then(|n| n.checked_add(i128::from(byte - b'0')))
                .ok_or(QuantityError::Numeric)?;
        }
        let mut scale = -i32::try_from(self.fraction.len()).map_err(|_| QuantityError::Numeric)?;
        let keeps_text;
        if format == Format::BinarySi {
            let fast = self.fraction.is_empty()
                && 14_i64 - self.integer.len().max(1) as i64 - i64::from(exponent) * 3 / 10 >= 0;
            keeps_text = fast && number & 7 != 0;
            while scale < 0 && number.checked_mul(1 << exponent).is_none() {
                number = drop_digits(number, 1).0;
                scale += 1;
            }
            number = number.checked_mul(1 << exponent).unwrap_or(i128::MAX);
        } else {
            scale += exponent;
            let ends_round = self.fraction.ends_with("000")
                || (self.fraction.len() < 3 && {
                    let zeros = |s: &str| s.bytes().rev().take_while(|b| *b == b'0').count();
                    let tail = zeros(self.fraction);
                    tail == self.fraction.len() && tail + zeros(self.integer) >= 3
                });
            keeps_text = digits <= FAST_DIGITS
                && scale >= NANO
                && scale % 3 == 0
                && !ends_round
                && !self.integer.is_empty();
        }
        if scale < NANO {
            number = drop_digits(number, (NANO - scale) as u32).0;
            scale = NANO;
        }
        if format == Format::BinarySi {
            if add_digits(BINARY_MAX, scale.unsigned_abs()).is_none_or(|max| number > max) {
                (number, scale) = (BINARY_MAX, 0);
            }
            let one = 10_i128.pow(scale.unsigned_abs());
            if number > 0 && number < one {
                format = Format::DecimalSi;
            }
        }
        let mantissa = if self.negative { -number } else { number };
        Ok((Quantity { mantissa, scale, format }, keeps_text))
    }
}

/// The text upstream would store for this one: canonical, or as it is where upstream keeps it.
pub fn canonicalize(text: &str) -> Result<Cow<'_, str>, QuantityError> {
    let text = text.trim();
    if text == "0" {
        return Ok(Cow::Borrowed(text));
    }
    match split(text)?.value()? {
        (_, true) => Ok(Cow::Borrowed(text)),
        (quantity, false) => Ok(Cow::Owned(quantity.to_string())),
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        split(text.trim())?.value().map(|(quantity, _)| quantity)
    }
}

impl Quantity {
    /// A whole number.
    pub const fn new(value: i64, format: Format) -> Self {
        Self { mantissa: value as i128, scale: 0, format }
    }

    /// Thousandths, written in decimal.
    pub const fn from_milli(value: i64) -> Self {
        Self { mantissa: value as i128, scale: -3, format: Format::DecimalSi }
    }

    /// How it is written.
    pub const fn format(self) -> Format {
        self.format
    }

    /// True for zero.
    pub const fn is_zero(self) -> bool {
        self.mantissa == 0
    }

    /// -1, 0 or 1.
    pub const fn sign(self) -> i32 {
        self.mantissa.signum() as i32
    }

    /// The value in units of `10^scale`, rounded away from zero, at the bounds of `i64` where it does not fit.
    pub fn scaled_value(self, scale: i32) -> i64 {
        let exact = if self.scale < scale {
            Some(drop_digits(self.mantissa, scale.abs_diff(self.scale)).0)
        } else {
            add_digits(self.mantissa, self.scale.abs_diff(scale))
        };
        let bound = if self.mantissa < 0 { i64::MIN } else { i64::MAX };
        exact.and_then(|v| i64::try_from(v).ok()).unwrap_or(bound)
    }

    /// The value rounded up (away from zero) to a whole number.
    pub fn value(self) -> i64 {
        self.scaled_value(0)
    }

    /// The value in thousandths, rounded away from zero.
    pub fn milli_value(self) -> i64 {
        self.scaled_value(-3)
    }

    /// The value as a float, for ratios.
    pub fn to_f64(self) -> f64 {
        self.mantissa as f64 * 10_f64.powi(self.scale)
    }

    /// Sum in the format of `self`, or of `other` where `self` is zero; `None` where it cannot be represented.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        if other.mantissa == 0 {
            let format = if self.mantissa == 0 { other.format } else { self.format };
            return Some(Self { format, ..self });
        }
        if self.mantissa == 0 {
            return Some(other);
        }
        let scale = self.scale.min(other.scale);
        let a = add_digits(self.mantissa, self.scale.abs_diff(scale))?;
        let b = add_digits(other.mantissa, other.scale.abs_diff(scale))?;
        Some(Self { mantissa: a.checked_add(b)?, scale, format: self.format })
    }

    /// Difference, as [`Quantity::checked_add`].
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(-other)
    }

    /// Product with a whole number.
    pub fn checked_mul(self, factor: i64) -> Option<Self> {
        Some(Self { mantissa: self.mantissa.checked_mul(i128::from(factor))?, ..self })
    }

    /// Decimal digits with the largest exponent that is a multiple of three.
    fn decimal(self) -> (i128, i32) {
        let (mut mantissa, mut scale) = (self.mantissa, self.scale);
        while mantissa % 10 == 0 {
            mantissa /= 10;
            scale += 1;
        }
        while scale % 3 != 0 {
            // the factor was just divided out, or there is room: 38 digits always print
            match mantissa.checked_mul(10) {
                Some(wider) => (mantissa, scale) = (wider, scale - 1),
                None => break,
            }
        }
        (mantissa, scale)
    }

    /// The whole number in units of the largest power of 1024 that divides it, if it is whole and at least 1024.
    fn binary(self) -> Option<(i128, i32)> {
        let (mut whole, exact) = if self.scale < 0 {
            drop_digits(self.mantissa, self.scale.unsigned_abs())
        } else {
            (add_digits(self.mantissa, self.scale.unsigned_abs())?, true)
        };
        if !exact || whole.abs() < 1024 {
            return None;
        }
        let mut power = 0;
        while whole % 1024 == 0 && power < 6 {
            whole /= 1024;
            power += 1;
        }
        Some((whole, power))
    }
}

impl std::ops::Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { mantissa: -self.mantissa, ..self }
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.sign() != other.sign() || self.scale == other.scale || self.mantissa == 0 {
            return match self.sign().cmp(&other.sign()) {
                Ordering::Equal if self.mantissa == 0 => Ordering::Equal,
                Ordering::Equal => self.mantissa.cmp(&other.mantissa),
                unequal => unequal,
            };
        }
        if self.scale < other.scale {
            return other.cmp(self).reverse();
        }
        match add_digits(self.mantissa, self.scale.abs_diff(other.scale)) {
            Some(wider) => wider.cmp(&other.mantissa),
            // beyond i128 is beyond anything the other can be
            None => self.mantissa.cmp(&0),
        }
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl fmt::Display for Quantity {
    /// The canonical text: no fraction, the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mantissa == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi
            && let Some((number, power)) = self.binary()
        {
            return write!(f, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power as usize]);
        }
        let (number, exponent) = self.decimal();
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => return write!(f, "{number}e{exponent}"),
        };
        if self.format == Format::DecimalExponent && exponent != 0 {
            write!(f, "{number}e{exponent}")
        } else {
            write!(f, "{number}{suffix}")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_become_canonical_as_upstreams() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("0.0", "0"),
            ("-0", "0"),
            ("1", "1"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.5", "1500m"),
            ("1.500", "1.500"),
            ("1.234", "1.234"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1000k", "1M"),
            ("1024Mi", "1Gi"),
            ("1000Ki", "1000Ki"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("0.001Ki", "1024m"),
            ("512Ki", "512Ki"),
            ("1Ki", "1Ki"),
            ("8Ki", "8Ki"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("1000e3", "1e6"),
            ("12e5", "1200e3"),
            ("1E", "1E"),
            ("5000000000", "5G"),
            ("0.1n", "1n"),
            ("1.0000000001", "1000000001n"),
            ("-0.1n", "-1n"),
            ("99999999999999999999Ei", "9223372036854775807"),
            ("16Ei", "9223372036854775807"),
            ("1000E", "1e21"),
            ("123456789012345678901", "123456789012345678901"),
            ("+1", "+1"),
        ] {
            assert_eq!(canonicalize(text).unwrap(), canonical, "{text}");
        }
    }

    #[test]
    fn errors_are_told_apart() {
        use QuantityError::{Format, Numeric, Suffix};
        for (text, error) in [
            ("", Format),
            ("abc", Format),
            ("1 Gi", Format),
            ("1x", Format),
            ("1.2.3", Format),
            ("1K", Suffix),
            ("1mi", Suffix),
            ("1ee3", Suffix),
            ("1e99999999999", Numeric),
            ("1234567890123456789012345678901234567890", Numeric),
        ] {
            assert_eq!(canonicalize(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn values_round_away_from_zero() {
        let q = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -2);
        assert_eq!(q("1.5").milli_value(), 1500);
        assert_eq!(q("1n").milli_value(), 1);
        assert_eq!(q("1e30").value(), i64::MAX);
        assert_eq!(q("-1e30").value(), i64::MIN);
        assert_eq!(q("1Gi").value(), 1 << 30);
    }

    #[test]
    fn sums_keep_the_format() {
        let q = |text: &str| text.parse::<Quantity>().unwrap();
        for (a, b, sum) in
            [("1Gi", "1M", "1074741824"), ("0", "1Gi", "1Gi"), ("100m", "0.9", "1"), ("1Gi", "-1Gi", "0")]
        {
            assert_eq!(q(a).checked_add(q(b)).unwrap().to_string(), sum, "{a} + {b}");
        }
        assert!(q("1e1000").checked_add(q("1")).is_none());
        assert!(q("1e1000") > q("1e999"));
    }

    fn any_quantity() -> impl Strategy<Value = Quantity> {
        let format =
            prop_oneof![Just(Format::DecimalSi), Just(Format::BinarySi), Just(Format::DecimalExponent)];
        (any::<i64>(), -9..7_i32, format).prop_map(|(value, scale, format)| Quantity {
            mantissa: value.into(),
            scale,
            format,
        })
    }

    proptest! {
        #[test]
        fn canonical_text_keeps_the_value_and_is_a_fixed_point(q in any_quantity()) {
            let text = q.to_string();
            let capped = q.format == Format::BinarySi && q.checked_mul(1).unwrap().to_f64().abs() > 9e18;
            prop_assume!(!capped);
            let again: Quantity = text.parse().unwrap();
            prop_assert_eq!(again, q);
            let canonical = canonicalize(&text).unwrap().to_string();
            // a binary number that no binary suffix fits is printed bare, which is read as a decimal one
            if q.format != Format::BinarySi || text.ends_with('i') {
                prop_assert_eq!(&canonical, &text);
            }
            prop_assert_eq!(canonicalize(&canonical).unwrap(), canonical.as_str());
        }

        #[test]
        fn sums_commute_and_cancel(a in any_quantity(), b in any_quantity()) {
            let sum = a.checked_add(b).unwrap();
            prop_assert_eq!(sum, b.checked_add(a).unwrap());
            prop_assert_eq!(sum.checked_sub(b).unwrap(), a);
        }

        #[test]
        fn sums_do_not_depend_on_their_order(a in any_quantity(), b in any_quantity(), c in any_quantity()) {
            let left = a.checked_add(b).and_then(|sum| sum.checked_add(c)).unwrap();
            let right = b.checked_add(c).and_then(|sum| a.checked_add(sum)).unwrap();
            prop_assert_eq!(left, right);
        }

        #[test]
        fn order_is_that_of_the_numbers(a in any_quantity(), b in any_quantity()) {
            let difference = a.checked_sub(b).unwrap();
            prop_assert_eq!(a.cmp(&b), difference.sign().cmp(&0));
        }

        #[test]
        fn any_text_gives_an_answer(text in r"[-+]?[0-9.]{0,45}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}|.{0,20}") {
            if let Ok(canonical) = canonicalize(&text) {
                prop_assert_eq!(canonical.parse::<Quantity>().unwrap(), text.parse().unwrap());
            }
        }
    }
}
