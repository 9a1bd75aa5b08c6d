//! Cells of Tables: how `kubectl get` prints ages and the like.
//!
//! Source: `k8s.io/apimachinery/pkg/util/duration` for the form of durations.

use jiff::Timestamp;

use crate::Value;
use crate::meta::str_at;

/// The part of an object that is asked for, such as what its cells are made of.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// All of a value.
    Whole,
    /// These members of an object, of each this part; of a list, this of each item. Values of other types are whole.
    Members(&'static [(&'static str, Part)]),
}

/// What names and ages are made of.
pub const NAME_AND_AGE: Part = Part::Members(&[(
    "metadata",
    Part::Members(&[("name", Part::Whole), ("creationTimestamp", Part::Whole)]),
)]);

/// The age of an object as `kubectl get` prints it, `<unknown>` without a creation time.
pub fn age(object: &Value, now: Timestamp) -> Value {
    since(str_at(object, &["metadata", "creationTimestamp"]), now).into()
}

/// Time since an RFC 3339 timestamp as `kubectl` prints it, `<unknown>` when it is not one.
pub fn since(timestamp: &str, now: Timestamp) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(then) => human_duration(now.as_second() - then.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// Seconds in `kubectl`'s short form: about two significant units (`90s`, `5m10s`, `3h`, `2d4h`, `1y30d`).
pub fn human_duration(seconds: i64) -> String {
    // up to two seconds of clock skew are tolerated, as upstream does
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: char, rest: i64, small: char| {
        if rest == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{rest}{small}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn durations_print_as_kubectl_does() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}
