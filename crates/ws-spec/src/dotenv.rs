//! Env files: `NAME=value` a line.
//!
//! ```text
//! # a comment
//! export NAME=value        # `export` is allowed, and so is a comment after a blank
//! EMPTY=
//! LITERAL='$not ${replaced}, may
//! have several lines'
//! QUOTED="a\n\"b\" ${NAME}"
//! ```
//!
//! `${…}` is replaced in values that are not in single quotes, by what wins over this file and by what
//! stands above in it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::vars::{self, Lookup, Source};

/// A variable that a file sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) value: String,
    /// From 1.
    pub(crate) line: usize,
    /// The variables that its value is made of.
    pub(crate) uses: Vec<String>,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A line that is not `NAME=value`.
    Line { at: Range<usize>, message: String },
    /// The variables of the value that is there.
    Variable(vars::Fault, Range<usize>),
}

/// Reads a file. What is wrong is left out of the entries.
pub(crate) fn read(text: &str, lookup: Lookup<'_>, budget: &mut usize) -> (Vec<Entry>, Vec<Fault>) {
    let mut entries: Vec<Entry> = Vec::new();
    let mut above: BTreeMap<String, String> = BTreeMap::new();
    let mut faults = Vec::new();
    let mut reader = Reader { text, at: if text.starts_with('\u{feff}') { 3 } else { 0 }, line: 1 };
    while reader.at < text.len() {
        let line = reader.line;
        let raw = match reader.entry() {
            Ok(Some(raw)) => raw,
            Ok(None) => continue,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        let (value, uses) = if raw.literal {
            (raw.value, Vec::new())
        } else {
            let either = |name: &str| {
                lookup(name)
                    .or_else(|| above.get(name).map(|value| (Cow::Owned(value.clone()), Source::Inline)))
            };
            let expanded = vars::expand(&raw.value, &either, budget);
            faults.extend(expanded.faults.into_iter().map(|fault| Fault::Variable(fault, raw.at.clone())));
            (expanded.text, expanded.uses.into_iter().map(|one| one.name).collect())
        };
        above.insert(raw.name.clone(), value.clone());
        entries.push(Entry { name: raw.name, value, line, uses });
    }
    (entries, faults)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

struct Raw {
    name: String,
    value: String,
    /// Where the value is.
    at: Range<usize>,
    /// Whether it stood in single quotes.
    literal: bool,
}

impl Reader<'_> {
    /// The entry at the start of a line, or nothing for a blank one and a comment. Goes on to the next
    /// line whatever happens.
    fn entry(&mut self) -> Result<Option<Raw>, Fault> {
        let start = self.at;
        let line = self.text[start..].split('\n').next().unwrap_or_default();
        let end = start + line.len();
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            self.go_on_behind(end);
            return Ok(None);
        }
        let content = content.strip_prefix("export ").map_or(content, str::trim_start);
        let name = &content[..vars::name_len(content)];
        let behind = content[name.len()..].trim_start();
        let Some(value) = behind.strip_prefix('=').filter(|_| !name.is_empty()) else {
            self.go_on_behind(end);
            let message = "a line of an env file is `NAME=value`".to_owned();
            return Err(Fault::Line { at: start..start + line.trim_end().len(), message });
        };
        // `value` is a suffix of the line without the blanks at its end.
        let value_start = start + line.trim_end().len() - value.len();
        let value_start = value_start + (value.len() - value.trim_start().len());
        let value = value.trim_start();
        let name = name.to_owned();
        match value.chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(name, value_start, quote, end),
            _ => {
                self.go_on_behind(end);
                let value = match value.find(" #").or(value.find("\t#")) {
                    Some(comment) => value[..comment].trim_end(),
                    None if value.starts_with('#') => "",
                    None => value,
                };
                let at = value_start..value_start + value.len();
                Ok(Some(Raw { name, value: value.to_owned(), at, literal: false }))
            }
        }
    }

    /// A value in quotes; it may have several lines.
    fn quoted(
        &mut self,
        name: String,
        start: usize,
        quote: char,
        line_end: usize,
    ) -> Result<Option<Raw>, Fault> {
        let mut value = String::new();
        let mut chars = self.text[start + 1..].char_indices();
        while let Some((at, c)) = chars.next() {
            let at = start + 1 + at;
            if c == quote {
                let rest = self.text[at + 1..].split('\n').next().unwrap_or_default();
                self.go_on_behind(at + 1 + rest.len());
                let trailing = rest.trim();
                if !(trailing.is_empty() || trailing.starts_with('#')) {
                    let message = "nothing can follow the closing quote".to_owned();
                    return Err(Fault::Line { at: at + 1..at + 1 + rest.trim_end().len(), message });
                }
                let literal = quote == '\'';
                return Ok(Some(Raw { name, value, at: start..at + 1, literal }));
            }
            if c != '\\' || quote == '\'' {
                value.push(c);
                continue;
            }
            match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, 't')) => value.push('\t'),
                Some((_, '$')) => value.push_str("$$"),
                Some((_, escaped @ ('"' | '\\' | '\''))) => value.push(escaped),
                Some((_, other)) => {
                    value.push('\\');
                    value.push(other);
                }
                None => {}
            }
        }
        self.go_on_behind(line_end);
        Err(Fault::Line { at: start..line_end, message: "the quote is not closed".to_owned() })
    }

    fn go_on_behind(&mut self, end: usize) {
        let next = (end + 1).min(self.text.len());
        self.line += self.text[self.at..next].matches('\n').count();
        self.at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> (Vec<(String, String, usize)>, Vec<Fault>) {
        let lookup =
            |name: &str| (name == "SHELL_VAR").then_some((Cow::Borrowed("shell"), Source::Environment));
        let (entries, faults) = read(text, &lookup, &mut 1000);
        (entries.into_iter().map(|entry| (entry.name, entry.value, entry.line)).collect(), faults)
    }

    #[test]
    fn lines_are_read_as_compose_reads_them() {
        let text = "\u{feff}A=1\n# c\n\n export B = two words # c\nC='it ${A} #'\nD=\"x\\n${A} \\$y\" # c\nE=\nF=a#b\nG='l1\nl2'\nH=${SHELL_VAR}${A}\r\nI=#c\n";
        let (entries, faults) = run(text);
        let expected = [
            ("A", "1", 1),
            ("B", "two words", 4),
            ("C", "it ${A} #", 5),
            ("D", "x\n1 $y", 6),
            ("E", "", 7),
            ("F", "a#b", 8),
            ("G", "l1\nl2", 9),
            ("H", "shell1", 11),
            ("I", "", 12),
        ];
        assert_eq!(entries, expected.map(|(name, value, line)| (name.into(), value.into(), line)));
        assert_eq!(faults, []);
    }

    #[test]
    fn bad_lines_are_told_and_the_rest_is_read() {
        let (entries, faults) = run("A=1\nnonsense\n=x\nB=\"open\nC=3\nD='x' y\nE=${NO}\n");
        let names: Vec<_> = entries.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["A", "C", "E"]);
        assert_eq!(faults.len(), 5, "{faults:?}");
    }
}
