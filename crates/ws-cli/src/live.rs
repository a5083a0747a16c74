//! What is live on the terminal: signals that arrive, the progress block that is redrawn in place.

use std::time::Duration;

use anstream::adapter::strip_str;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Failure;
use crate::render::progress::erase;
use crate::ui::Ui;

/// How often a progress block is redrawn at most.
pub const FRAME: Duration = Duration::from_millis(100);

/// The signals by which somebody ends a command.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

/// A signal that ends a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// The terminal is gone.
    HangUp,
}

impl Signals {
    /// From now on the signals do not kill this process.
    ///
    /// # Errors
    /// When they cannot be listened to.
    pub fn listen() -> Result<Self, Failure> {
        let on = |kind| {
            signal(kind).map_err(|error| Failure::failed("could not listen to signals").because(&error))
        };
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hang_up: on(SignalKind::hangup())?,
        })
    }

    /// The next one. May be cancelled and called again.
    pub async fn next(&mut self) -> Ending {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Ending::Interrupt,
            Some(()) = self.terminate.recv() => Ending::Terminate,
            Some(()) = self.hang_up.recv() => Ending::HangUp,
        }
    }
}

/// A block of lines that stays at the bottom of the terminal. Does nothing where there is none.
#[derive(Debug)]
pub struct Block<'a> {
    ui: &'a Ui,
    drawn: usize,
}

impl<'a> Block<'a> {
    /// An empty one.
    #[must_use]
    pub fn new(ui: &'a Ui) -> Self {
        Self { ui, drawn: 0 }
    }

    /// Takes the block away, so that something can be printed where it stood.
    pub fn clear(&mut self) {
        if self.drawn > 0 {
            self.ui.draw(&erase(self.drawn));
            self.drawn = 0;
        }
    }

    /// Draws it anew.
    pub fn draw(&mut self, lines: &[String]) {
        if !self.ui.err_terminal {
            return;
        }
        let mut text = erase(self.drawn);
        for line in lines {
            if self.ui.err_colours {
                text.push_str(line);
            } else {
                text.push_str(&strip_str(line).to_string());
            }
            text.push('\n');
        }
        self.ui.draw(&text);
        self.drawn = lines.len();
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}
