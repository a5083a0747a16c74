//! Which lines somebody wants.

use regex::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use ws_model::Timestamp;
use ws_model::wire::{LogQuery, LogStream};

/// The longest expression, in bytes.
const MAX_PATTERN: usize = 4 << 10;

/// The most memory that an expression may take once it is compiled, and again while it searches: matching is
/// linear in the line whatever the expression is.
const MAX_COMPILED: usize = 1 << 20;

/// How deep groups may stand in each other.
const MAX_DEPTH: u32 = 50;

/// Why an expression cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct BadPattern {
    /// What is wrong, and where.
    pub text: String,
    /// What to do.
    pub help: String,
}

impl BadPattern {
    fn new(text: impl Into<String>, help: impl Into<String>) -> Self {
        Self { text: text.into(), help: help.into() }
    }
}

/// Chooses lines.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    after: Option<u64>,
    pattern: Option<Regex>,
    invert: bool,
}

impl Filter {
    /// Every line.
    pub(super) const ALL: Self = Self { since: None, until: None, after: None, pattern: None, invert: false };

    pub(super) fn of(query: &LogQuery) -> Result<Self, BadPattern> {
        Ok(Self {
            since: query.since,
            until: query.until,
            after: query.after,
            pattern: query.grep.as_deref().map(compile).transpose()?,
            invert: query.invert,
        })
    }

    /// For lines that are all newer than what was there: `after` says nothing about them.
    pub(super) fn for_new(&self) -> Self {
        Self { after: None, ..self.clone() }
    }

    /// Whether lines that arrived then can be wanted.
    pub(super) fn has_time(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at <= until)
    }

    /// Whether a line with this number can be wanted.
    pub(super) fn has_number(&self, seq: u64) -> bool {
        self.after.is_none_or(|after| seq > after)
    }

    /// Whether a line is wanted whose time is right. What `ws` itself says is wanted whatever the expression is: it
    /// tells what is missing.
    pub(super) fn has_line(&self, seq: u64, stream: LogStream, line: &str) -> bool {
        let matches = |pattern: &Regex| stream == LogStream::Ws || pattern.is_match(line) != self.invert;
        self.has_number(seq) && self.pattern.as_ref().is_none_or(matches)
    }

    /// Whether the words of a line matter.
    pub(super) fn reads_lines(&self) -> bool {
        self.pattern.is_some()
    }
}

fn compile(pattern: &str) -> Result<Regex, BadPattern> {
    if pattern.len() > MAX_PATTERN {
        let text = format!("the expression has {} bytes, more than {MAX_PATTERN}", pattern.len());
        return Err(BadPattern::new(text, "search for a part of it"));
    }
    // Once more beforehand, for the place of the mistake: the compiler's own words are a drawing.
    if let Err(error) = ParserBuilder::new().nest_limit(MAX_DEPTH).build().parse(pattern) {
        let (what, span) = match &error {
            regex_syntax::Error::Parse(error) => (error.kind().to_string(), Some(error.span())),
            regex_syntax::Error::Translate(error) => (error.kind().to_string(), Some(error.span())),
            _ => (error.to_string(), None),
        };
        let place = span.map_or(String::new(), |span| {
            let before = pattern.get(..span.start.offset).unwrap_or(pattern);
            format!(" at character {}", before.chars().count() + 1)
        });
        let help = "it is a regular expression of Rust's `regex`; `\\` before a character takes it as it is";
        return Err(BadPattern::new(format!("`{pattern}` is not an expression: {what}{place}"), help));
    }
    let compiled = RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .nest_limit(MAX_DEPTH)
        .build();
    compiled.map_err(|_| {
        let text = format!("`{pattern}` takes more than {MAX_COMPILED} bytes when it is compiled");
        BadPattern::new(text, "repeat less in it: `x{1000}` is a thousand x")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(grep: &str) -> Result<Filter, BadPattern> {
        Filter::of(&LogQuery { grep: Some(grep.to_owned()), ..LogQuery::default() })
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        let error = |pattern: &str| of(pattern).unwrap_err().text;
        assert_eq!(error("ä(b"), "`ä(b` is not an expression: unclosed group at character 2");
        assert!(error("a{2,1}").contains("at character 2"), "{}", error("a{2,1}"));
        assert!(error(r"\p{Nope}").contains("at character 1"), "{}", error(r"\p{Nope}"));
        assert!(error(&"x".repeat(5000)).contains("5000 bytes"));
        assert!(error("((a{100}){100}){100}").contains("when it is compiled"));
        let deep = format!("{}a{}", "(".repeat(100), ")".repeat(100));
        assert!(error(&deep).contains("nest"), "{}", error(&deep));
    }

    #[test]
    fn what_ws_says_comes_in_any_case() {
        let mut filter = of("^err").unwrap();
        assert!(filter.has_line(1, LogStream::Stdout, "error"));
        assert!(!filter.has_line(1, LogStream::Stderr, "an error"));
        assert!(filter.has_line(1, LogStream::Ws, "3 lines are missing here"));
        filter.invert = true;
        assert!(!filter.has_line(1, LogStream::Stdout, "error"));
        assert!(filter.has_line(1, LogStream::Stdout, "an error"));
        assert!(filter.has_line(1, LogStream::Ws, "error"));
    }
}
