//! Differences that are meant, with their reasons: the format of `openapi-differences.txt`.
//!
//! A line without indentation is a reason; the indented lines after it say which differences it explains:
//! `SERVED HOW CLASS PLACE`, where `SERVED` is `default`, `every` (every version on) or `any`, `HOW` and `CLASS` are as
//! reports name them or `*`, and `*` in `PLACE` stands for any text. `#` begins a comment.

use super::facts::{Class, Difference, How};

/// Why a declaration could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("openapi-differences.txt: line {line}: {problem}")]
pub struct RuleError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

/// Which differences a reason explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `default`, `every` or `any`.
    served: String,
    how: Option<How>,
    class: Option<Class>,
    place: String,
    reason: usize,
    /// As it was written.
    text: String,
}

/// All declarations.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rules {
    reasons: Vec<String>,
    rules: Vec<Rule>,
}

impl Rules {
    /// Reads declarations.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let mut out = Self::default();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            if !line.starts_with(' ') {
                out.reasons.push(line.to_owned());
                continue;
            }
            let problem = |problem: &str| RuleError { line: number + 1, problem: problem.to_owned() };
            let reason = out.reasons.len().checked_sub(1).ok_or_else(|| problem("no reason before it"))?;
            let mut words = line.trim().splitn(4, ' ');
            let mut word = || words.next().ok_or_else(|| problem("SERVED HOW CLASS PLACE was expected"));
            let (served, how, class, place) = (word()?, word()?, word()?, word()?);
            if !["default", "every", "any"].contains(&served) {
                return Err(problem("default, every or any was expected"));
            }
            let how = match how {
                "*" => None,
                name => Some(
                    [How::Missing, How::Extra, How::Differs]
                        .into_iter()
                        .find(|how| how.name() == name)
                        .ok_or_else(|| problem("missing, extra, differs or * was expected"))?,
                ),
            };
            let class = match class {
                "*" => None,
                name => Some(
                    Class::ALL
                        .into_iter()
                        .find(|class| class.name() == name)
                        .ok_or_else(|| problem("no such class"))?,
                ),
            };
            out.rules.push(Rule {
                served: served.to_owned(),
                how,
                class,
                place: place.to_owned(),
                reason,
                text: line.trim().to_owned(),
            });
        }
        Ok(out)
    }

    /// The reasons, in order.
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// The declarations that concern a configuration (`default` or `every`).
    pub fn of<'a>(&'a self, served: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.served == "any" || rule.served == served)
    }
}

impl Rule {
    /// Whether it explains a difference.
    pub fn explains(&self, difference: &Difference) -> bool {
        self.how.is_none_or(|how| how == difference.how)
            && self.class.is_none_or(|class| class == difference.class)
            && matches(&self.place, &difference.place)
    }

    /// Which of [`Rules::reasons`] it is of.
    pub fn reason(&self) -> usize {
        self.reason
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Whether a text fits a pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_they_say() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "abd", false),
            ("*x*y*", "1x2y3", true),
            ("*x*y*", "1y2x3", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn declarations_are_read() {
        let rules = Rules::parse("# c\nOff.\n  default missing path /apis/*\n  any * * X > *\n").unwrap();
        assert_eq!(rules.reasons(), ["Off."]);
        assert_eq!((rules.of("default").count(), rules.of("every").count()), (2, 1));
        let difference = Difference {
            class: Class::Path,
            how: How::Missing,
            place: "/apis/x".into(),
            ours: String::new(),
            theirs: String::new(),
        };
        assert_eq!(rules.of("default").filter(|rule| rule.explains(&difference)).count(), 1);
        for broken in
            ["  any * * x", "R\n  any * *", "R\n  some * * x", "R\n  any odd * x", "R\n  any * odd x"]
        {
            assert!(Rules::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn the_declared_ones_are_readable() {
        assert!(super::super::declared().is_ok());
    }
}
