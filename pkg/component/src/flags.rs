//! Go-flavoured flag values: durations, maps, booleans, underscores for dashes.
//!
//! Upstream's components parse flags with spf13/pflag; scripts rely on its forms. Booleans in clap structs take
//! `#[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = ..)]`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A non-negative duration in Go's text form: `1h5m`, `300ms`, `10s`, `0`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Deserialize, serde::Serialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct GoDuration(pub Duration);

impl FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("time: invalid duration {text:?}");
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total = 0f64;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(|| format!("time: missing unit in duration {text:?}"))?;
            let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
            rest = &rest[digits..];
            let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let seconds = match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
            };
            total += number * seconds;
            rest = &rest[end..];
        }
        Duration::try_from_secs_f64(total).map(Self).map_err(|_| invalid())
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let nanos = self.0.subsec_nanos();
        if seconds == 0 && nanos > 0 {
            return match nanos {
                1..1_000 => write!(f, "{nanos}ns"),
                1_000..1_000_000 => write!(f, "{}µs", f64::from(nanos) / 1e3),
                _ => write!(f, "{}ms", f64::from(nanos) / 1e6),
            };
        }
        let (h, m) = (seconds / 3600, seconds / 60 % 60);
        let s = (seconds % 60) as f64 + f64::from(nanos) / 1e9;
        match (h, m) {
            (0, 0) => write!(f, "{s}s"),
            (0, _) => write!(f, "{m}m{s}s"),
            _ => write!(f, "{h}h{m}m{s}s"),
        }
    }
}

impl TryFrom<String> for GoDuration {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<GoDuration> for String {
    fn from(duration: GoDuration) -> Self {
        duration.to_string()
    }
}

/// `a=b,c=d`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StringMap(pub BTreeMap<String, String>);

impl FromStr for StringMap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .filter(|part| !part.trim().is_empty())
            .map(|part| match part.split_once('=') {
                Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
                None => Err(format!("malformed pair, expect string=string: {part:?}")),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for StringMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.0.iter().map(|(k, v)| format!("{k}={v}")).collect();
        f.write_str(&pairs.join(","))
    }
}

/// The process's arguments as clap should see them: `--some_flag` becomes `--some-flag`, as pflag's normaliser does.
pub fn arguments() -> Vec<String> {
    normalise(std::env::args())
}

fn normalise(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    arguments
        .into_iter()
        .map(|argument| match argument.strip_prefix("--") {
            Some(flag) => match flag.split_once('=') {
                Some((name, value)) => format!("--{}={value}", name.replace('_', "-")),
                None => format!("--{}", flag.replace('_', "-")),
            },
            None => argument,
        })
        .collect()
}

/// Feature gates: `--feature-gates A=true,B=false`. Gates that this build does not know are refused.
///
/// `known` pairs each gate with its default.
pub fn feature_gates(given: &StringMap, known: &[(&str, bool)]) -> Result<BTreeMap<String, bool>, String> {
    let mut gates: BTreeMap<String, bool> =
        known.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect();
    for (name, value) in &given.0 {
        let on = go_bool(value)
            .ok_or_else(|| format!("invalid value of {name}: {value:?}, err: not a boolean"))?;
        match gates.get_mut(name) {
            Some(gate) => *gate = on,
            None => return Err(format!("unrecognized feature gate: {name}")),
        }
    }
    Ok(gates)
}

/// A boolean as Go's `strconv.ParseBool` reads it.
pub fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis, back) in [
            ("1h5m", 3_900_000, "1h5m0s"),
            ("10s", 10_000, "10s"),
            ("300ms", 300, "300ms"),
            ("1.5s", 1500, "1.5s"),
            ("0", 0, "0s"),
        ] {
            let parsed: GoDuration = text.parse().expect(text);
            assert_eq!((parsed.0, parsed.to_string().as_str()), (Duration::from_millis(millis), back));
        }
        for text in ["", "5", "5x", "-1s", "s"] {
            assert!(text.parse::<GoDuration>().is_err(), "{text}");
        }
    }

    #[test]
    fn arguments_take_underscores_in_names_only() {
        let given = ["a", "--service_account=x_y", "--b_c", "d_e"].map(String::from);
        assert_eq!(normalise(given), ["a", "--service-account=x_y", "--b-c", "d_e"]);
    }

    #[test]
    fn unknown_gates_are_refused() {
        let known = [("A", false)];
        assert!(feature_gates(&"A=true".parse().expect("map"), &known).expect("known")["A"]);
        assert!(feature_gates(&"B=true".parse().expect("map"), &known).is_err());
        assert!(feature_gates(&"A=maybe".parse().expect("map"), &known).is_err());
    }
}
