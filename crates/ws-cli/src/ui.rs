//! The one door to the terminal: data goes to stdout, talk to stderr.
//!
//! Colours are written always and removed here where they do not belong (no terminal, `NO_COLOR`).
//! Owns no wording.

use std::io::{self, IsTerminal, Write};

use anstream::adapter::strip_str;
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::args::Format;
use crate::error::Failure;
use crate::render::log::Look;

/// Good news.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Bad news.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// News to look at.
pub const CARE: Style = AnsiColor::Yellow.on_default();
/// What is in the background.
pub const DIM: Style = Style::new().dimmed();
/// Headings.
pub const BOLD: Style = Style::new().bold();
/// What helps.
pub const HELP: Style = AnsiColor::Cyan.on_default().bold();

/// `text` in a style.
#[must_use]
pub fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// What is known of the outside of this process.
#[derive(Debug, Clone)]
pub struct Ui {
    /// How data is printed.
    pub format: Format,
    /// Whether stdout is a terminal.
    pub out_terminal: bool,
    /// Whether stderr is a terminal.
    pub err_terminal: bool,
    /// Whether colours are wanted on stdout.
    pub out_colours: bool,
    /// Whether colours are wanted on stderr.
    pub err_colours: bool,
}

impl Ui {
    /// What this process was started with.
    #[must_use]
    pub fn of_process(format: Format) -> Self {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        Self {
            format,
            out_terminal: stdout.is_terminal(),
            err_terminal: stderr.is_terminal(),
            out_colours: anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never,
            err_colours: anstream::AutoStream::choice(&stderr) != anstream::ColorChoice::Never,
        }
    }

    /// Prints data.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn data(&self, text: &str) -> Result<(), Failure> {
        if self.out_colours { self.raw(text) } else { self.raw(&strip_str(text).to_string()) }
    }

    /// Prints data as it is, control sequences included: what services have printed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn raw(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| out_failure(&error))
    }

    /// Prints a line of data.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.data(&format!("{text}\n"))
    }

    /// Prints one JSON document.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|error| json_failure(&error))?;
        self.line(&text)
    }

    /// Prints one line of a stream of JSON documents.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn json_line<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| json_failure(&error))?;
        self.line(&text)
    }

    /// Says a line to the person. That nobody listens is no failure.
    pub fn say(&self, text: &str) {
        // One write a line: others may write to the same terminal.
        let line = if self.err_colours { format!("{text}\n") } else { format!("{}\n", strip_str(text)) };
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }

    /// Says that something is worth knowing.
    pub fn note(&self, text: &str) {
        self.say(&format!("{} {text}", paint(HELP, "note:")));
    }

    /// Says that something is not as it should be, and goes on.
    pub fn warn(&self, text: &str) {
        self.say(&format!("{} {text}", paint(CARE.bold(), "warning:")));
    }

    /// Says why the command fails.
    pub fn fail(&self, failure: &Failure) {
        if failure.broken_pipe {
            return;
        }
        if !failure.diagnostics.is_empty() {
            self.say(failure.diagnostics.trim_end_matches('\n'));
        }
        if !failure.message.is_empty() {
            self.say(&format!("{} {}", paint(BAD, "error:"), failure.message));
            for cause in &failure.causes {
                self.say(&format!("  {} {cause}", paint(DIM, "because:")));
            }
        }
        for hint in &failure.hints {
            self.say(&format!("{} {hint}", paint(HELP, "help:")));
        }
    }

    /// How services' lines look on stdout.
    #[must_use]
    pub fn look(&self, timestamps: bool) -> Look {
        Look {
            timestamps,
            prefix: true,
            terminal: self.out_terminal,
            colours: self.out_colours,
            plain: false,
        }
    }

    /// The size of the terminal that stderr is.
    #[must_use]
    pub fn err_size(&self) -> Option<Size> {
        self.err_terminal.then(|| terminal_size(&io::stderr())).flatten()
    }

    /// The width of the terminal that stdout is.
    #[must_use]
    pub fn out_width(&self) -> Option<usize> {
        self.out_size().map(|size| size.columns)
    }

    /// The size of the terminal that stdout is.
    #[must_use]
    pub fn out_size(&self) -> Option<Size> {
        self.out_terminal.then(|| terminal_size(&io::stdout())).flatten()
    }

    /// Writes to the terminal that stderr is, control sequences included; colours are removed when
    /// they are not wanted.
    pub fn draw(&self, text: &str) {
        let mut err = io::stderr().lock();
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}

/// Lines of data that are redrawn in place on the terminal that stdout is. They stay there at the end.
#[derive(Debug)]
pub struct Screen<'a> {
    ui: &'a Ui,
    drawn: usize,
}

impl<'a> Screen<'a> {
    /// An empty one.
    #[must_use]
    pub fn new(ui: &'a Ui) -> Self {
        Self { ui, drawn: 0 }
    }

    /// Draws it anew.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn draw(&mut self, lines: &[String]) -> Result<(), Failure> {
        let mut text = crate::render::progress::erase(self.drawn);
        for line in lines {
            if self.ui.out_colours {
                text.push_str(line);
            } else {
                text.push_str(&strip_str(line).to_string());
            }
            text.push('\n');
        }
        self.drawn = lines.len();
        self.ui.raw(&text)
    }
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Characters in a row.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

/// The size of the terminal behind a descriptor; `None` when it has none.
pub fn terminal_size(fd: &impl std::os::fd::AsFd) -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(fd).ok()?;
    let size = Size { columns: usize::from(size.ws_col), rows: usize::from(size.ws_row) };
    (size.columns > 0 && size.rows > 0).then_some(size)
}

fn out_failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::broken_pipe();
    }
    Failure::failed("could not write to the standard output").because(error)
}

fn json_failure(error: &serde_json::Error) -> Failure {
    Failure::failed("could not write JSON").because(error)
}
