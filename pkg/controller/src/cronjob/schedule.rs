//! Cron expressions as robfig/cron's `ParseStandard` reads them: five fields, names of months and days, `@hourly` and its
//! kin, `@every DURATION`. Pure.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _, Zoned};

/// Years searched for the next time; expressions such as February 30th have none.
const HORIZON_YEARS: i16 = 5;

/// Values of one field, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    bits: u64,
    /// Written with `*` (or `?`): for the rule on days.
    is_star: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        self.bits & (1 << value) != 0
    }
}

/// When a job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Schedule {
    Fields { minute: Field, hour: Field, day: Field, month: Field, weekday: Field },
    Every(SignedDuration),
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn number(text: &str, names: &[&str], first: u8) -> Result<u8, String> {
    if let Some(position) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(position as u8 + first);
    }
    text.parse().map_err(|_| format!("failed to parse int from {text}"))
}

fn field(text: &str, (min, max): (u8, u8), names: &[&str]) -> Result<Field, String> {
    let mut field = Field { bits: 0, is_star: false };
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            None => (part, None),
            Some((range, step)) => (range, Some(number(step, &[], 0)?)),
        };
        let is_star = matches!(range, "*" | "?");
        let (low, high) = if is_star {
            (min, max)
        } else if let Some((low, high)) = range.split_once('-') {
            (number(low, names, min)?, number(high, names, min)?)
        } else {
            let value = number(range, names, min)?;
            // «N/step» means from N on
            (value, if step.is_some() { max } else { value })
        };
        // a step other than one takes the star away
        field.is_star |= is_star && step.is_none_or(|step| step == 1);
        let step = step.unwrap_or(1);
        if step == 0 {
            return Err(format!("step of range should be a positive number: {part}"));
        }
        if low < min {
            return Err(format!("beginning of range ({low}) below minimum ({min}): {part}"));
        }
        if high > max {
            return Err(format!("end of range ({high}) above maximum ({max}): {part}"));
        }
        if low > high {
            return Err(format!("beginning of range ({low}) beyond end of range ({high}): {part}"));
        }
        for value in (low..=high).step_by(step.into()) {
            field.bits |= 1 << value;
        }
    }
    Ok(field)
}

impl Schedule {
    /// Reads an expression.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(duration) = text.strip_prefix("@every ") {
            let duration: SignedDuration = duration
                .trim()
                .parse()
                .map_err(|error| format!("failed to parse duration {text}: {error}"))?;
            return Ok(Self::Every(SignedDuration::from_secs(duration.as_secs().max(1))));
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => return Err(format!("unrecognized descriptor: {other}")),
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
        };
        Ok(Self::Fields {
            minute: field(minute, (0, 59), &[])?,
            hour: field(hour, (0, 23), &[])?,
            day: field(day, (1, 31), &[])?,
            month: field(month, (1, 12), &MONTHS)?,
            weekday: field(weekday, (0, 6), &DAYS)?,
        })
    }

    /// The first time after `after`, in a zone. `None` when there is none within some years.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let (minute, hour, day, month, weekday) = match self {
            Self::Every(step) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                return whole.checked_add(*step).ok();
            }
            Self::Fields { minute, hour, day, month, weekday } => (*minute, *hour, *day, *month, *weekday),
        };
        let start = Timestamp::from_second(after.as_second().div_euclid(60) * 60 + 60).ok()?;
        let mut at: Zoned = start.to_zoned(zone.clone());
        let last = at.year() + HORIZON_YEARS;
        while at.year() <= last {
            if !month.has(at.month()) {
                at = at.first_of_month().ok()?.checked_add(1.month()).ok()?.start_of_day().ok()?;
                continue;
            }
            let (by_day, by_weekday) = (day.has(at.day()), weekday.has(at.weekday().to_sunday_zero_offset()));
            // days of the month and of the week both count, unless one of them is a star
            let fits =
                if day.is_star || weekday.is_star { by_day && by_weekday } else { by_day || by_weekday };
            if !fits {
                at = at.tomorrow().ok()?.start_of_day().ok()?;
                continue;
            }
            if !hour.has(at.hour()) {
                // in real time: hours that a clock change skips never come, those it repeats come twice
                at = at.checked_add(SignedDuration::from_mins(60 - i64::from(at.minute()))).ok()?;
                continue;
            }
            if !minute.has(at.minute()) {
                at = at.checked_add(SignedDuration::from_mins(1)).ok()?;
                continue;
            }
            return Some(at.timestamp());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(expression: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).expect("a zone");
        let after: Zoned = after.parse().expect("a time");
        let schedule = Schedule::parse(expression).expect("an expression");
        schedule
            .next(after.timestamp(), &zone)
            .map_or("never".into(), |at| at.to_zoned(zone).datetime().to_string())
    }

    #[test]
    fn times_follow_the_fields() {
        let cases = [
            ("*/15 * * * *", "2026-11-22T10:07:30[UTC]", "2026-11-22T10:15:00"),
            ("0 0 * * *", "2026-11-22T00:00:00[UTC]", "2026-11-23T00:00:00"),
            ("30 4 1,15 * 5", "2026-11-22T10:00:00[UTC]", "2026-11-27T04:30:00"),
            ("30 4 */2 * 5", "2026-11-22T10:00:00[UTC]", "2026-11-23T04:30:00"),
            ("0 0 29 feb ?", "2026-11-22T10:00:00[UTC]", "2028-02-29T00:00:00"),
            ("0 0 30 2 *", "2026-11-22T10:00:00[UTC]", "never"),
            ("0 12 * * mon-wed", "2026-11-22T10:00:00[UTC]", "2026-11-23T12:00:00"),
            ("5/20 * * * *", "2026-11-22T10:26:00[UTC]", "2026-11-22T10:45:00"),
            ("@weekly", "2026-11-22T10:00:00[UTC]", "2026-11-29T00:00:00"),
            ("@every 90m", "2026-11-22T10:00:10[UTC]", "2026-11-22T11:30:10"),
            // a skipped hour is skipped, a repeated one comes twice
            ("30 2 * * *", "2026-03-28T12:00:00[Europe/Berlin]", "2026-03-30T02:30:00"),
            ("30 2 * * *", "2026-10-25T02:30:00+02:00[Europe/Berlin]", "2026-10-25T02:30:00"),
        ];
        for (expression, after, expected) in cases {
            let zone = after.rsplit_once('[').map_or("UTC", |(_, zone)| zone.trim_end_matches(']'));
            assert_eq!(next(expression, after, zone), expected, "{expression} after {after}");
        }
    }

    #[test]
    fn malformed_expressions_are_refused() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "* * * * 7",
            "5-1 * * * *",
            "*/0 * * * *",
            "@never",
            "x * * * *",
            "0 0 L * *",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
