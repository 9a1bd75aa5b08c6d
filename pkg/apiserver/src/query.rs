//! Query parameters: decoded once, asked for by name.
//!
//! Booleans follow `k8s.io/apimachinery/pkg/conversion/queryparams`: present without a value is true, `false` and `0`
//! are false, everything else is true.

use percent_encoding::percent_decode_str;

/// Most parameters that are read; later ones are dropped.
const MAX_PARAMETERS: usize = 256;

/// Decoded query parameters in order.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Parses the part of a URL after `?`.
    pub fn parse(query: &str) -> Self {
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .take(MAX_PARAMETERS)
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(key), decode(value))
            })
            .collect();
        Self { pairs }
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Every parameter in order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// A boolean parameter; absent is false.
    pub fn flag(&self, key: &str) -> bool {
        self.flag_opt(key).unwrap_or(false)
    }

    /// A boolean parameter, `None` when absent.
    pub fn flag_opt(&self, key: &str) -> Option<bool> {
        self.get(key).map(|v| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// A whole number, `None` when absent, the offending text when it is none.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| text.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("a=1&b=x%2Cy&c&dryRun=All&a=2&e=f+g&off=false&zero=0");
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.get("b"), Some("x,y"));
        assert_eq!(query.get("e"), Some("f g"));
        assert!(query.flag("c") && !query.flag("off") && !query.flag("zero") && !query.flag("none"));
        assert_eq!(query.integer("a"), Ok(Some(1)));
        assert_eq!(query.integer("b"), Err("x,y".to_owned()));
    }
}
