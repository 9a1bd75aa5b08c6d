//! The text form of label selectors: `KEY`, `!KEY`, `KEY=VALUE`, `KEY in (VALUE,...)` and so on, joined by commas.
//!
//! Source: the grammar at `labels.Parse` in `k8s.io/apimachinery/pkg/labels`, and its error texts.

use super::labels::{Operator, Requirement, SelectorError};
use crate::status::FieldError;
use crate::validation;

/// The requirements of a text, in its order.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    Parser { tokens: lex(text), position: 0 }.parse()
}

/// Tokens; `In` and `NotIn` are words that may also be values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Word,
    In,
    NotIn,
    Comma,
    Open,
    Close,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    Bad,
    End,
}

fn is_symbol(byte: u8) -> bool {
    matches!(byte, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn lex(text: &str) -> Vec<(Token, String)> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() && bytes[at] != 0 {
        if is_space(bytes[at]) {
            at += 1;
            continue;
        }
        let start = at;
        let token = if is_symbol(bytes[at]) {
            let next = bytes.get(at + 1) == Some(&b'=');
            let (token, length) = match bytes[at] {
                b'=' if next => (Token::DoubleEquals, 2),
                b'=' => (Token::Equals, 1),
                b'!' if next => (Token::NotEquals, 2),
                b'!' => (Token::Not, 1),
                b'(' => (Token::Open, 1),
                b')' => (Token::Close, 1),
                b',' => (Token::Comma, 1),
                b'>' => (Token::Greater, 1),
                b'<' => (Token::Less, 1),
                _ => (Token::Bad, 1),
            };
            at += length;
            token
        } else {
            while at < bytes.len() && bytes[at] != 0 && !is_symbol(bytes[at]) && !is_space(bytes[at]) {
                at += 1;
            }
            match &text[start..at] {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Word,
            }
        };
        tokens.push((token, text[start..at].to_owned()));
    }
    tokens.push((Token::End, String::new()));
    tokens
}

struct Parser {
    tokens: Vec<(Token, String)>,
    position: usize,
}

fn expected<T>(found: &str, what: &str) -> Result<T, SelectorError> {
    Err(SelectorError(format!("found '{found}', expected: {what}")))
}

impl Parser {
    /// The token ahead, `in` and `notin` taken as words.
    fn peek(&self) -> (Token, &str) {
        // the list ends with End, which is never passed
        let (token, text) = &self.tokens[self.position.min(self.tokens.len() - 1)];
        match token {
            Token::In | Token::NotIn => (Token::Word, text),
            other => (*other, text),
        }
    }

    fn next(&mut self) -> (Token, String) {
        let (token, text) = self.peek();
        let taken = (token, text.to_owned());
        self.position += 1;
        taken
    }

    fn parse(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                (Token::Word | Token::Not, _) => {
                    let requirement = self
                        .requirement()
                        .map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?;
                    requirements.push(requirement);
                    match self.next() {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => match self.peek() {
                            (Token::Word | Token::Not, _) => {}
                            (_, found) => return expected(found, "identifier after ','"),
                        },
                        (_, found) => return expected(&found, "',' or 'end of string'"),
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, found) => return expected(found, "!, identifier, or 'end of string'"),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut token = self.next();
        let negated = token.0 == Token::Not;
        if negated {
            token = self.next();
        }
        if token.0 != Token::Word {
            return expected(&token.1, "identifier");
        }
        let key = token.1;
        let problems = validation::label_key(&key);
        if !problems.is_empty() {
            // upstream has no path here and prints that
            return Err(SelectorError(
                FieldError::invalid("<nil>", key.as_str(), problems.join("; ")).to_string(),
            ));
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, &[]);
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, &[]);
        }
        let (token, found) = self.tokens[self.position.min(self.tokens.len() - 1)].clone();
        self.position += 1;
        let operator = match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => return expected(&found, "in, notin, =, ==, !=, gt, lt"),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        Requirement::new(&key, operator, &values)
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next() {
            (Token::Word, value) => Ok(value),
            (_, found) => expected(&found, "identifier"),
        }
    }

    /// `(a,,b)`: values may be empty, and `()` is the empty value.
    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            (Token::Open, _) => {}
            (_, found) => return Err(SelectorError(format!("found '{found}' expected: '('"))),
        }
        if !matches!(self.peek().0, Token::Word | Token::Comma | Token::Close) {
            return expected(self.peek().1, "',', ')' or identifier");
        }
        let mut values: Vec<String> = Vec::new();
        loop {
            // one value, possibly empty, then a comma or the end
            match self.peek() {
                (Token::Word, _) => {
                    let word = self.next().1;
                    values.push(word);
                    if !matches!(self.peek().0, Token::Comma | Token::Close) {
                        return expected(self.peek().1, "',' or ')'");
                    }
                }
                (Token::Comma | Token::Close, _) => values.push(String::new()),
                (_, found) => return expected(found, "',', or identifier"),
            }
            if self.next().0 == Token::Close {
                values.sort_unstable();
                values.dedup();
                return Ok(values);
            }
        }
    }
}
