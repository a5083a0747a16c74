//! The text around a place, for whoever writes into it.

use super::SpanMap;
use crate::diag::Place;
use crate::yaml::{Node, Span};

impl SpanMap {
    /// What is written of a service, in whichever file.
    pub(crate) fn service(&self, name: &str) -> Option<&Node> {
        self.trees.iter().find_map(|tree| Some(&tree.get("services")?.value.get(name)?.value))
    }

    /// The place of a stretch.
    pub(crate) fn place(&self, span: Span) -> Place {
        self.files.place(span)
    }

    /// The text from an offset to the end of its file.
    fn from(&self, at: usize) -> &str {
        self.files.from(at)
    }

    /// The text of the file before an offset.
    fn until(&self, at: usize) -> &str {
        self.files.until(at)
    }

    pub(crate) fn char_at(&self, at: usize) -> Option<char> {
        self.from(at).chars().next()
    }

    /// The offset of the bracket that closes the one at this offset, with quotes and comments thought of.
    pub(crate) fn closing(&self, open: usize) -> Option<usize> {
        let mut depth = 0_usize;
        let mut quote = None;
        let mut comment = false;
        let mut before = ' ';
        let mut chars = self.from(open).char_indices();
        while let Some((at, c)) = chars.next() {
            match (quote, c) {
                _ if comment => comment = c != '\n',
                (Some('"'), '\\') => drop(chars.next()),
                (Some(open), c) if c == open => quote = None,
                (Some(_), _) => {}
                // In the middle of a plain text a quote is a character.
                (None, '"' | '\'') if matches!(before, ' ' | '\n' | '\t' | '[' | '{' | ',' | ':') => {
                    quote = Some(c);
                }
                (None, '#') if matches!(before, ' ' | '\n' | '\t') => comment = true,
                (None, '[' | '{') => depth += 1,
                (None, ']' | '}') => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(open + at);
                    }
                }
                (None, _) => {}
            }
            before = c;
        }
        None
    }

    /// The offset behind the last character before this one that is not blank.
    pub(crate) fn before_blanks(&self, at: usize) -> usize {
        let text = self.until(at);
        at - (text.len() - text.trim_end().len())
    }

    /// The line up to a place.
    pub(crate) fn line_before(&self, span: Span) -> &str {
        self.until(span.start as usize).rsplit('\n').next().unwrap_or_default()
    }

    pub(crate) fn start_of_line(&self, span: Span) -> usize {
        span.start as usize - self.line_before(span).len()
    }

    pub(crate) fn end_of_line(&self, at: usize) -> usize {
        let rest = self.from(at);
        at + rest.find('\n').unwrap_or(rest.len())
    }

    /// The line from a place on.
    pub(crate) fn rest_of_line(&self, span: Span) -> &str {
        self.from(span.start as usize).split('\n').next().unwrap_or_default()
    }
}
