//! Times and durations as Go reads and prints them.
//!
//! `metav1.Time` is RFC 3339 in UTC with whole seconds, `metav1.MicroTime` the same with six digits, and
//! `metav1.Duration` is Go's duration text (`1h30m0s`). The zero time prints as `null`.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::DateTime;

/// Go's layout of `metav1.Time`.
const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
/// Go's layout of `metav1.MicroTime`.
const MICRO_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";
/// Seconds of Go's zero time, year 1.
pub const ZERO_SECONDS: i64 = -62_135_596_800;

/// Why a text is no time or duration, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TimeError(String);

/// A point in time as Go's `time.Time` holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instant {
    /// Seconds since 1970 in UTC.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: i32,
}

impl Instant {
    /// Go's zero time, which JSON shows as `null`.
    pub fn is_zero(self) -> bool {
        self.seconds == ZERO_SECONDS && self.nanos == 0
    }

    fn print(self, micro: bool) -> String {
        let Ok(timestamp) = Timestamp::new(self.seconds, 0) else {
            // only protobuf can carry such times; Go refuses to print them as JSON as well
            return String::new();
        };
        let civil = jiff::tz::Offset::UTC.to_datetime(timestamp);
        let (date, time) = (civil.date(), civil.time());
        let mut out = format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            date.year(),
            date.month(),
            date.day(),
            time.hour(),
            time.minute(),
            time.second()
        );
        if micro {
            out.push_str(&format!(".{:06}", self.nanos / 1000));
        }
        out.push('Z');
        out
    }

    /// As `metav1.Time` prints it, `None` for `null`.
    pub fn to_time(self) -> Option<String> {
        (!self.is_zero()).then(|| self.print(false)).filter(|t| !t.is_empty())
    }

    /// As `metav1.MicroTime` prints it, `None` for `null`.
    pub fn to_micro_time(self) -> Option<String> {
        (!self.is_zero()).then(|| self.print(true)).filter(|t| !t.is_empty())
    }
}

/// Whether a text is already as `metav1.Time` prints it (a cheap test; days past the end of a month count as not).
fn is_canonical(text: &str) -> bool {
    let b = text.as_bytes();
    let two = |i: usize| (b[i] - b'0') * 10 + (b[i + 1] - b'0');
    b.len() == 20
        && b.iter()
            .zip(b"dddd-dd-ddTdd:dd:ddZ")
            .all(|(c, p)| if *p == b'd' { c.is_ascii_digit() } else { c == p })
        && (1..=12).contains(&two(5))
        && (1..=28).contains(&two(8))
        && two(11) < 24
        && two(14) < 60
        && two(17) < 60
        && !text.starts_with("000")
}

struct Scan<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl Scan<'_> {
    fn fail<T>(&self, element: &str) -> Result<T, TimeError> {
        Err(TimeError(format!(
            "parsing time {:?} as {:?}: cannot parse {:?} as {element:?}",
            self.text, self.layout, self.rest
        )))
    }

    fn range<T>(&self, what: &str) -> Result<T, TimeError> {
        Err(TimeError(format!("parsing time {:?}: {what} out of range", self.text)))
    }

    fn digits(&mut self, count: usize, element: &str) -> Result<i32, TimeError> {
        match self.rest.get(..count) {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                self.rest = &self.rest[count..];
                Ok(digits.bytes().fold(0, |n, b| n * 10 + i32::from(b - b'0')))
            }
            _ => self.fail(element),
        }
    }

    fn literal(&mut self, text: &str) -> Result<(), TimeError> {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => self.fail(text),
        }
    }

    /// Digits after the point, as nanoseconds.
    fn fraction(&mut self) -> Result<i32, TimeError> {
        let micro = self.layout == MICRO_LAYOUT;
        let count = match self.rest.strip_prefix('.') {
            Some(rest) => rest.bytes().take_while(u8::is_ascii_digit).count(),
            None => 0,
        };
        if micro && count != 6 {
            return self.fail(".000000");
        }
        if count == 0 {
            return Ok(0);
        }
        let digits = &self.rest[1..=count];
        self.rest = &self.rest[count + 1..];
        Ok(digits.bytes().chain(std::iter::repeat(b'0')).take(9).fold(0, |n, b| n * 10 + i32::from(b - b'0')))
    }

    /// Offset from UTC in seconds.
    fn offset(&mut self) -> Result<i64, TimeError> {
        let before = self.rest;
        let sign = match self.rest.as_bytes().first() {
            Some(b'Z') => {
                self.rest = &self.rest[1..];
                return Ok(0);
            }
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return self.fail("Z07:00"),
        };
        self.rest = &self.rest[1..];
        let hours = self.digits(2, "Z07:00");
        let parsed =
            hours.and_then(|h| self.literal(":").and_then(|()| self.digits(2, "Z07:00")).map(|m| (h, m)));
        match parsed {
            Ok((hours, minutes)) if hours <= 24 && minutes < 60 => {
                Ok(i64::from(sign * (hours * 60 + minutes)) * 60)
            }
            Ok(_) => self.range("time zone offset"),
            Err(_) => {
                self.rest = before;
                self.fail("Z07:00")
            }
        }
    }
}

fn parse(text: &str, layout: &'static str) -> Result<Instant, TimeError> {
    let mut scan = Scan { text, rest: text, layout };
    let year = scan.digits(4, "2006")?;
    scan.literal("-")?;
    let month = scan.digits(2, "01")?;
    if !(1..=12).contains(&month) {
        return scan.range("month");
    }
    scan.literal("-")?;
    let day = scan.digits(2, "02")?;
    scan.literal("T")?;
    let hour = scan.digits(2, "15")?;
    if hour > 23 {
        return scan.range("hour");
    }
    scan.literal(":")?;
    let minute = scan.digits(2, "04")?;
    if minute > 59 {
        return scan.range("minute");
    }
    scan.literal(":")?;
    let second = scan.digits(2, "05")?;
    if second > 59 {
        return scan.range("second");
    }
    let nanos = scan.fraction()?;
    let offset = scan.offset()?;
    if !scan.rest.is_empty() {
        return Err(TimeError(format!("parsing time {text:?}: extra text: {:?}", scan.rest)));
    }
    let civil = DateTime::new(year as i16, month as i8, day as i8, hour as i8, minute as i8, second as i8, 0);
    let Some(timestamp) = civil.ok().and_then(|c| jiff::tz::Offset::UTC.to_timestamp(c).ok()) else {
        return scan.range("day");
    };
    Ok(Instant { seconds: timestamp.as_second() - offset, nanos })
}

/// Reads a `metav1.Time`.
pub fn parse_time(text: &str) -> Result<Instant, TimeError> {
    parse(text, LAYOUT)
}

/// Reads a `metav1.MicroTime`.
pub fn parse_micro_time(text: &str) -> Result<Instant, TimeError> {
    parse(text, MICRO_LAYOUT)
}

/// A `metav1.Time` as it is printed; `None` is `null`.
pub fn canonical_time(text: &str) -> Result<Option<Cow<'_, str>>, TimeError> {
    if is_canonical(text) {
        return Ok(Some(Cow::Borrowed(text)));
    }
    Ok(parse_time(text)?.to_time().map(Cow::Owned))
}

/// A `metav1.MicroTime` as it is printed; `None` is `null`.
pub fn canonical_micro_time(text: &str) -> Result<Option<Cow<'_, str>>, TimeError> {
    Ok(parse_micro_time(text)?.to_micro_time().map(Cow::Owned))
}

/// Reads Go's duration text (`1h30m`, `1.5s`, `-2us`) to nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, TimeError> {
    let invalid = || TimeError(format!("time: invalid duration {text:?}"));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let whole = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, after) = rest.split_at(whole);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(after.bytes().take_while(u8::is_ascii_digit).count()),
            None => ("", after),
        };
        if digits.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_len = after.bytes().take_while(|b| *b != b'.' && !b.is_ascii_digit()).count();
        let (unit, after) = after.split_at(unit_len);
        let factor: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(TimeError(format!("time: missing unit in duration {text:?}"))),
            _ => return Err(TimeError(format!("time: unknown unit {unit:?} in duration {text:?}"))),
        };
        let whole: u64 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| invalid())? };
        // digits beyond the nanosecond are dropped, as Go's float arithmetic does
        let (mut part, mut weight) = (0_u128, 1_u128);
        for digit in fraction.bytes().take(18) {
            part = part * 10 + u128::from(digit - b'0');
            weight *= 10;
        }
        let part = u64::try_from(part * u128::from(factor) / weight).map_err(|_| invalid())?;
        total = whole
            .checked_mul(factor)
            .and_then(|n| n.checked_add(part))
            .and_then(|n| n.checked_add(total))
            .ok_or_else(invalid)?;
        rest = after;
    }
    if negative {
        0_i64.checked_sub_unsigned(total).ok_or_else(invalid)
    } else {
        i64::try_from(total).map_err(|_| invalid())
    }
}

/// Nanoseconds as Go prints a duration: `1h30m0s`, `1.5s`, `100ms`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    let total = nanos.unsigned_abs();
    let decimal = |value: u64, unit: u64, name: &str| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            return format!("{whole}{name}");
        }
        let width = unit.ilog10() as usize;
        let fraction = format!("{rest:0width$}");
        format!("{whole}.{}{name}", fraction.trim_end_matches('0'))
    };
    let text = match total {
        0 => return "0s".into(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => decimal(total, 1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => decimal(total, 1_000_000, "ms"),
        _ => {
            let minutes = total / 60_000_000_000;
            let seconds = decimal(total % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    };
    if nanos < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_become_canonical() {
        for (text, canonical) in [
            ("2026-01-02T03:04:05Z", Some("2026-01-02T03:04:05Z")),
            ("2026-01-31T03:04:05Z", Some("2026-01-31T03:04:05Z")),
            ("2026-01-02T03:04:05.999Z", Some("2026-01-02T03:04:05Z")),
            ("2026-01-02T03:04:05+02:00", Some("2026-01-02T01:04:05Z")),
            ("0001-01-01T00:00:00Z", None),
        ] {
            assert_eq!(canonical_time(text).unwrap().as_deref(), canonical, "{text}");
        }
        assert_eq!(
            canonical_micro_time("2026-01-02T03:04:05.000001+01:00").unwrap().as_deref(),
            Some("2026-01-02T02:04:05.000001Z")
        );
    }

    #[test]
    fn errors_are_gos() {
        for (text, message) in [
            ("x", "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\""),
            ("", "parsing time \"\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"2006\""),
            ("2026-13-01T00:00:00Z", "parsing time \"2026-13-01T00:00:00Z\": month out of range"),
            ("2026-02-30T00:00:00Z", "parsing time \"2026-02-30T00:00:00Z\": day out of range"),
            (
                "2026-01-02",
                "parsing time \"2026-01-02\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"T\"",
            ),
            ("2026-01-02T00:00:00Zz", "parsing time \"2026-01-02T00:00:00Zz\": extra text: \"z\""),
        ] {
            assert_eq!(parse_time(text).unwrap_err().to_string(), message);
        }
        assert!(parse_micro_time("2026-01-02T00:00:00Z").is_err());
    }

    #[test]
    fn durations() {
        for (text, nanos, printed) in [
            ("0", 0, "0s"),
            ("90m", 5_400_000_000_000, "1h30m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("-1h", -3_600_000_000_000, "-1h0m0s"),
            ("100ms", 100_000_000, "100ms"),
            ("1m1ns", 60_000_000_001, "1m0.000000001s"),
            (".5us", 500, "500ns"),
        ] {
            assert_eq!(parse_duration(text).unwrap(), nanos, "{text}");
            assert_eq!(format_duration(nanos), printed);
        }
        for text in ["", "1", "x", "1d", "9999999h", "-", "1.s.", "s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn durations_print_and_read_back(nanos in any::<i64>()) {
            prop_assert_eq!(parse_duration(&format_duration(nanos)).unwrap(), nanos);
        }

        #[test]
        fn any_text_gives_an_answer(text in ".{0,40}") {
            let _ = (parse_time(&text), parse_micro_time(&text), parse_duration(&text));
        }

        #[test]
        fn times_print_and_read_back(seconds in -62_135_596_799_i64..253_402_207_200) {
            let text = Instant { seconds, nanos: 0 }.to_time().unwrap();
            prop_assert_eq!(parse_time(&text).unwrap().seconds, seconds);
            let again = canonical_time(&text).unwrap();
            prop_assert_eq!(again.as_deref(), Some(text.as_str()));
        }
    }
}
