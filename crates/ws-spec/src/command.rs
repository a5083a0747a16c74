//! Commands that are written as one text: split as a shell would, refused where they need one.

use std::ops::Range;

/// Why a text is not a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandFault {
    pub(crate) at: Range<usize>,
    pub(crate) kind: Kind,
}

/// See [`CommandFault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A quote without its other one.
    Unclosed,
    /// `&&`, `|`, `>`, `$(`, …
    Operator,
    /// `NAME=value` in front of the program.
    Assignment,
    /// A line break between words.
    SeveralLines,
}

/// Splits a text into words.
pub(crate) fn split(text: &str) -> Result<Vec<String>, CommandFault> {
    // A block scalar (`|` or `>`) ends with a line break.
    let text = text.trim_end();
    if let Some(fault) = shell_syntax(text) {
        return Err(fault);
    }
    let unclosed = CommandFault { at: 0..text.len(), kind: Kind::Unclosed };
    let words = shell_words::split(text).map_err(|_| unclosed)?;
    let start = text.len() - text.trim_start().len();
    let name = crate::vars::name_len(&text[start..]);
    if name > 0 && text[start + name..].starts_with('=') {
        let end = text[start..].find(char::is_whitespace).map_or(text.len(), |at| start + at);
        return Err(CommandFault { at: start..end, kind: Kind::Assignment });
    }
    Ok(words)
}

/// The first thing outside of quotes that only a shell understands.
fn shell_syntax(text: &str) -> Option<CommandFault> {
    #[derive(Clone, Copy, PartialEq)]
    enum Quote {
        None,
        Single,
        Double,
    }
    let mut quote = Quote::None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let rest = &text[at..];
        let fault = |len, kind| Some(CommandFault { at: at..at + len, kind });
        match (quote, c) {
            (Quote::Single, '\'') | (Quote::Double, '"') => quote = Quote::None,
            (Quote::Single, _) => {}
            (_, '\\') => {
                chars.next();
            }
            (_, '`') => return fault(1, Kind::Operator),
            (_, '$') if rest[1..].starts_with(['(', '{']) => return fault(2, Kind::Operator),
            (_, '$') if crate::vars::name_len(&rest[1..]) > 0 => {
                return fault(1 + crate::vars::name_len(&rest[1..]), Kind::Operator);
            }
            (Quote::Double, _) => {}
            (Quote::None, '\'') => quote = Quote::Single,
            (Quote::None, '"') => quote = Quote::Double,
            (Quote::None, '&' | '|' | '>' | '<' | ';') => {
                let double = rest[1..].starts_with(c) && c != ';';
                return fault(if double { 2 } else { 1 }, Kind::Operator);
            }
            (Quote::None, '\n') => return fault(1, Kind::SeveralLines),
            (Quote::None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_would() {
        for (text, expected) in [
            ("a b  c", vec!["a", "b", "c"]),
            ("a 'b c' \"d e\" f\\ g", vec!["a", "b c", "d e", "f g"]),
            (
                "a '&&' \"|\" \\> 'x;y' '$(z)' '`' '$HOME'",
                vec!["a", "&&", "|", ">", "x;y", "$(z)", "`", "$HOME"],
            ),
            ("a --b=c D=e\n", vec!["a", "--b=c", "D=e"]),
            ("a $ $1 *.c {x,y} !", vec!["a", "$", "$1", "*.c", "{x,y}", "!"]),
            ("", vec![]),
        ] {
            assert_eq!(split(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_found() {
        for (text, found, kind) in [
            ("a && b", "&&", Kind::Operator),
            ("a || b", "||", Kind::Operator),
            ("a | b", "|", Kind::Operator),
            ("a > f", ">", Kind::Operator),
            ("a >> f", ">>", Kind::Operator),
            ("a 2>&1", ">", Kind::Operator),
            ("a < f", "<", Kind::Operator),
            ("a; b", ";", Kind::Operator),
            ("a &", "&", Kind::Operator),
            ("a $(b)", "$(", Kind::Operator),
            ("a \"$(b)\"", "$(", Kind::Operator),
            ("a `b`", "`", Kind::Operator),
            ("a $HOME", "$HOME", Kind::Operator),
            ("A=1 b", "A=1", Kind::Assignment),
            ("a\nb", "\n", Kind::SeveralLines),
            ("a 'b", "a 'b", Kind::Unclosed),
        ] {
            let fault = split(text).unwrap_err();
            assert_eq!((&text[fault.at], fault.kind), (found, kind), "{text}");
        }
    }
}
