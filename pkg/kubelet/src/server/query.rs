//! Query strings and the options in them.

use jiff::{SignedDuration, Timestamp};

use crate::logs::Options;

/// A decoded query.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |range: std::ops::Range<usize>| u8::from_str_radix(text.get(range)?, 16).ok();
        match bytes[at] {
            b'+' => out.push(b' '),
            b'%' => {
                if let Some(byte) = hex(at + 1..at + 3) {
                    out.push(byte);
                    at += 2;
                } else {
                    out.push(b'%');
                }
            }
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|p| p.split_once('=').unwrap_or((p, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.clone()).collect()
    }

    /// A boolean as clients send it: `1` and `true`; present without a value counts.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| matches!(v, "" | "1" | "true" | "True" | "t"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        match self.get(name) {
            None | Some("" | "all") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| format!("{name}: invalid number {text:?}")),
        }
    }

    /// The options of a log request.
    pub(super) fn log_options(&self, now: Timestamp) -> Result<Options, String> {
        let since =
            match (self.get("sinceTime").filter(|t| !t.is_empty()), self.number::<i64>("sinceSeconds")?) {
                (Some(_), Some(_)) => {
                    return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned());
                }
                (Some(time), None) => {
                    Some(time.parse().map_err(|_| format!("sinceTime: invalid time {time:?}"))?)
                }
                (None, Some(seconds)) if seconds < 1 => {
                    return Err("sinceSeconds: must be greater than 0".to_owned());
                }
                (None, Some(seconds)) => {
                    Some(now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::UNIX_EPOCH))
                }
                (None, None) => None,
            };
        Ok(Options {
            follow: self.flag("follow"),
            tail: self.number("tailLines")?,
            since,
            timestamps: self.flag("timestamps"),
            limit: self.number("limitBytes")?,
            stream: self.get("stream").filter(|s| !s.is_empty() && *s != "All").map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let now = Timestamp::from_second(1000).expect("in range");
        let parse = |q: &str| Query::parse(q).log_options(now);
        let got = parse("follow=true&tailLines=5&sinceSeconds=10&timestamps=1&limitBytes=7").expect("valid");
        assert_eq!(
            got,
            Options {
                follow: true,
                tail: Some(5),
                since: Some(Timestamp::from_second(990).expect("in range")),
                timestamps: true,
                limit: Some(7),
                stream: None
            }
        );
        for bad in [
            "tailLines=x",
            "sinceSeconds=0",
            "sinceTime=x",
            "sinceSeconds=1&sinceTime=2024-01-01T00:00:00Z",
            "tailLines=-1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let query = Query::parse("command=sh&command=-c&command=echo%20a%2Bb+c&x=%zz");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a+b c"]);
        assert_eq!(query.get("x"), Some("%zz"));
    }
}
