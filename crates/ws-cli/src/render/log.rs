//! Lines of services' output.

use std::collections::BTreeMap;

use anstream::adapter::strip_str;
use anstyle::{AnsiColor, Style};
use ws_model::ServiceName;
use ws_model::wire::{LogLine, LogStream};

use crate::ui::{DIM, paint};

const COLOURS: [AnsiColor; 10] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightCyan,
    AnsiColor::BrightYellow,
    AnsiColor::BrightGreen,
    AnsiColor::BrightMagenta,
    AnsiColor::BrightBlue,
];

/// How lines look: prefixes of one width, each service in a colour of its own.
#[derive(Debug, Clone)]
pub struct Painter {
    width: usize,
    colours: BTreeMap<ServiceName, Style>,
    look: Look,
}

/// Where lines go and what they show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// Whether the time stands before each line.
    pub timestamps: bool,
    /// Whether the name of its service stands before each line.
    pub prefix: bool,
    /// Whether they go to a terminal: what could take it over is made safe then. Elsewhere the services'
    /// bytes are data and stay what they are.
    pub terminal: bool,
    /// Whether colours are wanted.
    pub colours: bool,
    /// Whether colours are not wanted even where the services' bytes are data.
    pub plain: bool,
}

impl Painter {
    /// For these services.
    #[must_use]
    pub fn new<'a>(services: impl IntoIterator<Item = &'a ServiceName>, look: Look) -> Self {
        let colours: BTreeMap<ServiceName, Style> = services
            .into_iter()
            .zip(COLOURS.iter().cycle())
            .map(|(name, colour)| (name.clone(), colour.on_default()))
            .collect();
        let width = colours.keys().map(|name| name.as_str().len()).max().unwrap_or(0);
        Self { width, colours, look }
    }

    /// `api  | text`
    #[must_use]
    pub fn line(&self, line: &LogLine) -> String {
        let style = self.colours.get(&line.service).copied().unwrap_or_default();
        let width = self.width;
        let mut heads = Vec::new();
        if self.look.prefix {
            heads.push(paint(style, format_args!("{:width$} |", line.service)));
        }
        if self.look.timestamps {
            heads.push(paint(DIM, line.at));
        }
        match line.stream {
            LogStream::Stdout | LogStream::Stderr => {}
            // The name of a build says it already.
            LogStream::Build if self.look.prefix && is_build(&line.service) => {}
            LogStream::Build => heads.push(paint(DIM, "build:")),
            LogStream::Ws => heads.push(paint(DIM, "ws:")),
        }
        let mut out = heads.join(" ");
        if !line.line.is_empty() && !out.is_empty() {
            out.push(' ');
        }
        if !self.look.colours {
            out = strip_str(&out).to_string();
        }
        match (self.look.terminal, self.look.colours) {
            (false, _) if self.look.plain => out += &strip_str(&line.line).to_string(),
            (false, _) => out += &line.line,
            (true, false) => out += &strip_str(&safe(&line.line)).to_string(),
            (true, true) => {
                out += &safe(&line.line);
                // A colour that the service left on would run into the next line.
                if line.line.contains('\x1b') {
                    out += "\x1b[0m";
                }
            }
        }
        out
    }
}

/// Whether the name is that of a build, or of what fetches for one.
fn is_build(service: &ServiceName) -> bool {
    service.as_str().ends_with("-build") || service.as_str().ends_with("-fetch")
}

/// The text without what could take a terminal over: of the control characters only tabs and colours
/// (`ESC [ … m`) stay. After a carriage return the line begins anew, as on a terminal.
#[must_use]
pub fn safe(text: &str) -> String {
    let visible = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    let mut out = String::with_capacity(visible.len());
    let mut rest = visible;
    while let Some(c) = rest.chars().next() {
        match c {
            '\x1b' => {
                let length = escape_length(rest);
                let sequence = &rest[..length];
                let colour = sequence.starts_with("\x1b[")
                    && sequence.ends_with('m')
                    && sequence[2..length - 1].bytes().all(|b| b.is_ascii_digit() || b == b';' || b == b':');
                if colour {
                    out.push_str(sequence);
                }
                rest = &rest[length..];
            }
            '\t' => {
                out.push(c);
                rest = &rest[1..];
            }
            _ if c.is_control() => rest = &rest[c.len_utf8()..],
            _ => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out
}

/// The length of the escape sequence that `text` starts with (ECMA-48): control sequences end at a
/// byte of 0x40..=0x7e, control strings (OSC, DCS, APC, PM, SOS) at BEL or ST, others take one more
/// character. An unfinished one takes the rest.
fn escape_length(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        None => text.len(),
        Some((_, '[')) => match chars.find(|(_, c)| *c == '\x1b' || ('\x40'..='\x7e').contains(c)) {
            // The next sequence begins before this one has ended.
            Some((at, '\x1b')) => at,
            Some((at, c)) => at + c.len_utf8(),
            None => text.len(),
        },
        Some((_, ']' | 'P' | '_' | '^' | 'X')) => {
            let bel = text.find('\x07').map(|at| at + 1);
            let st = text[1..].find("\x1b\\").map(|at| at + 3);
            bel.into_iter().chain(st).min().unwrap_or(text.len())
        }
        Some((at, c)) => at + c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use ws_model::Timestamp;

    use super::*;

    #[test]
    fn only_colours_reach_the_terminal() {
        let cases = [
            ("plain ü", "plain ü"),
            ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
            ("\x1b[2J\x1b[Hcleared", "cleared"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b]52;c;AAAA\x1b\\text", "text"),
            ("\x1bPq#0\x1b\\text", "text"),
            ("\x1b[31", ""),
            ("\x1b", ""),
            ("\x1bcreset", "reset"),
            ("a\u{9b}31mb", "a31mb"),
            ("10%\r50%\r100%", "100%"),
            ("dos\r", "dos"),
            ("a\tb\x08\x07", "a\tb"),
            ("\x1b[?25l", ""),
            ("\x1b[3\x1b[31mred", "\x1b[31mred"),
        ];
        for (raw, expected) in cases {
            assert_eq!(safe(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn what_services_print_is_data_but_on_a_terminal() {
        let name = ServiceName::new("a").unwrap();
        let line = LogLine {
            seq: 1,
            at: Timestamp { unix_ms: 0 },
            service: name.clone(),
            stream: LogStream::Stdout,
            line: "\x1b[31mred\x1b[2J".to_owned(),
        };
        let show = |terminal, colours, plain| {
            let look = Look { timestamps: false, prefix: true, terminal, colours, plain };
            Painter::new([&name], look).line(&line)
        };
        assert_eq!(show(false, false, false), "a | \x1b[31mred\x1b[2J");
        assert_eq!(show(false, false, true), "a | red");
        assert_eq!(show(true, false, false), "a | red");
        assert!(show(true, true, false).ends_with(" \x1b[31mred\x1b[0m"));
    }

    #[test]
    fn prefixes_have_one_width() {
        let names = ["a", "gateway", "a-build"].map(|name| ServiceName::new(name).unwrap());
        let line = |service: usize, stream, text: &str| LogLine {
            seq: 1,
            at: Timestamp { unix_ms: 0 },
            service: names[service].clone(),
            stream,
            line: text.to_owned(),
        };
        let mut text = String::new();
        for (timestamps, prefix) in [(false, true), (true, true), (true, false), (false, false)] {
            let look = Look { timestamps, prefix, terminal: true, colours: false, plain: false };
            let painter = Painter::new(&names, look);
            for line in [
                line(0, LogStream::Stdout, "hello"),
                line(1, LogStream::Build, "compiling"),
                line(2, LogStream::Build, "linking"),
                line(1, LogStream::Ws, "killed"),
                line(0, LogStream::Stderr, ""),
            ] {
                text += &format!("{}\n", painter.line(&line));
            }
        }
        insta::assert_snapshot!(text, @r#"
        a       | hello
        gateway | build: compiling
        a-build | linking
        gateway | ws: killed
        a       |
        a       | 1970-01-01T00:00:00.000Z hello
        gateway | 1970-01-01T00:00:00.000Z build: compiling
        a-build | 1970-01-01T00:00:00.000Z linking
        gateway | 1970-01-01T00:00:00.000Z ws: killed
        a       | 1970-01-01T00:00:00.000Z
        1970-01-01T00:00:00.000Z hello
        1970-01-01T00:00:00.000Z build: compiling
        1970-01-01T00:00:00.000Z build: linking
        1970-01-01T00:00:00.000Z ws: killed
        1970-01-01T00:00:00.000Z
        hello
        build: compiling
        build: linking
        ws: killed

        "#);
    }
}
