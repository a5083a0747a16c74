//! The engine: what happened in, what to do and what to tell out.

use std::time::Duration;

use ws_model::{EventKind, ExitReason, ServiceName};

/// Time since the supervisor started. Comes in as a value, so that a simulator can invent it.
pub type Tick = Duration;

/// The number of a service's run; goes up by one with each start, so that late news of an old run are
/// told apart.
pub type Generation = u64;

/// Which program of a service a run executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Its build.
    Build,
    /// Its command.
    Main,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Somebody wants these services up (all, when empty), and what they need.
    Up {
        /// Which.
        services: Vec<ServiceName>,
    },
    /// Somebody wants these services stopped (all, when empty), and what depends on them left alone.
    Stop {
        /// Which.
        services: Vec<ServiceName>,
    },
    /// Somebody wants these services (all, when empty) stopped and started again.
    Restart {
        /// Which.
        services: Vec<ServiceName>,
    },
    /// Somebody wants these services (all, when empty) killed at once; their restart policy does not apply.
    Kill {
        /// Which.
        services: Vec<ServiceName>,
    },
    /// Everything is to stop, in reverse order; nothing starts any more.
    Down {
        /// Whether to kill at once instead of waiting for grace periods.
        now: bool,
    },
    /// The program of a run was executed.
    Executed {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// The host's process id of its main process, where the host knows it.
        pid: Option<u32>,
    },
    /// A run could not be started; no process of it is left.
    StartFailed {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// Stage and error, as one sentence.
        error: String,
    },
    /// A run ended: its main process exited and no process of it is left.
    Exited {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// How.
        exit: ExitReason,
        /// Whether the kernel killed a process of it for its memory limit.
        oom: bool,
    },
    /// An attempt of a run's readiness probe ended.
    Probed {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// What it found: a phrase either way ("http 200 from :8080/healthz", "connection refused").
        result: Result<String, String>,
    },
    /// A port of a service is published from now on (where a free one was asked for, this is it).
    Published {
        /// Whose.
        service: ServiceName,
        /// The host's address.
        host: std::net::IpAddr,
        /// The host's port.
        host_port: u16,
        /// The service's port.
        port: u16,
    },
    /// Time went on: a deadline that [`next_deadline`](Self) named may have passed.
    Tick,
}

/// Something to do to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start a run. Answered by `Executed` (then, some time, `Exited`) or `StartFailed`.
    Start {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// Which program.
        step: Step,
    },
    /// Send a signal to a run's main process. Not answered.
    Signal {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
        /// The signal's number.
        signal: i32,
    },
    /// Kill every process of a run. Answered by `Exited` (or `StartFailed` if it was not executed yet).
    Kill {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
    },
    /// Begin to probe a run, again and again, until `StopProbe` or its end. Answered by `Probed`s.
    StartProbe {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
    },
    /// Stop probing a run.
    StopProbe {
        /// Whose.
        service: ServiceName,
        /// Which run.
        generation: Generation,
    },
}

/// What one step decided.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Outcome {
    /// What to do, in order.
    pub effects: Vec<Effect>,
    /// What to tell, in order, and about whom.
    pub events: Vec<(Option<ServiceName>, EventKind)>,
}
