//! The seam between deciding and doing: a [`Host`] carries out effects and reports what happened.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ws_model::wire::{ExecResult, LogStream};
use ws_model::{Level, SecretName, ServiceName, ViolationClass};

use crate::engine::{Effect, Input};
use crate::plan::{ExternalPlan, ServicePlan};

/// Where a host reports what happened. May be called from any thread; never blocks.
pub type Inbox = Arc<dyn Fn(Input) + Send + Sync>;

/// Where a host hands the output of services, as it arrives.
pub trait LogSink: Send + Sync {
    /// A piece of output: any number of bytes, not necessarily whole lines. Called from a task of the
    /// host; must not block for longer than it takes to copy the bytes.
    fn write(&self, service: &ServiceName, stream: LogStream, bytes: &[u8]);

    /// The stream ended (a run is over): an unfinished line is a line.
    fn end(&self, service: &ServiceName, stream: LogStream);
}

/// A command to run inside the sandbox of a service that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSpec {
    /// In whose sandbox.
    pub service: ServiceName,
    /// Program and arguments, looked up as the service's own command.
    pub argv: Vec<String>,
    /// Added to the service's environment.
    pub env: Vec<(String, String)>,
    /// Current directory; absent: the service's.
    pub cwd: Option<String>,
    /// Whether the standard input is a terminal that becomes the controlling one.
    pub tty: bool,
}

/// The process's ends of its standard streams.
#[derive(Debug)]
pub struct ExecIo {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// Gets both sides of a terminal, or why there is none.
pub type TerminalDone = Box<dyn FnOnce(Result<(OwnedFd, OwnedFd), String>) + Send>;

/// What a service uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory, where it is accounted.
    pub memory_bytes: Option<u64>,
    /// Processor time since the sandbox was made, where it is accounted.
    pub cpu_usec: Option<u64>,
    /// Processes and threads of the service, where they are accounted.
    pub pids: Option<u32>,
}

/// Names a command that was begun by [`Host::exec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecId(pub u64);

/// What is really enforced for a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The level that was reached, computed from what was enforced and never from what was asked.
    pub level: Level,
    /// What is missing for the next level, a phrase each ("memory limits: no memory controller").
    pub missing: Vec<String>,
    /// What cannot be seen of it here, and why, a phrase each ("no processes controller").
    pub undetected: Vec<(ViolationClass, String)>,
}

/// Carries out effects. Two implementations: Linux (`ws-linux`) and the tests' simulated one.
pub trait Host: Send {
    /// Begins an effect and returns at once; its completion comes as an [`Input`] through the inbox.
    fn submit(&mut self, effect: Effect);

    /// Runs a command inside a service's sandbox; `done` is called once, from any thread.
    fn exec(&mut self, spec: ExecSpec, io: ExecIo, done: Box<dyn FnOnce(ExecResult) + Send>) -> ExecId;

    /// Kills a command of [`exec`](Self::exec) and its process group; its `done` is called as for any end. One that
    /// has ended is no error.
    fn cancel_exec(&mut self, id: ExecId);

    /// Makes a terminal inside the sandbox of a service that runs: programs find its name there (tty(1)). `done` is
    /// called once, from any thread, with both sides, the one to keep and the one for [`ExecIo`]; or with why there is
    /// none. One of the supervisor's own does the same then, but has no name inside.
    fn terminal(&mut self, service: &ServiceName, done: TerminalDone) {
        done(Err(format!("there are no terminals in {service}")));
    }

    /// Makes a place for a further service: launcher, cgroup, interface, links. With `io`, the main program of its
    /// runs gets these standard streams instead of pipes of the host (its output is then no log). `done` is called
    /// once, from any thread: effects for it may be submitted after it was called without an error.
    fn add(
        &mut self,
        service: ServicePlan,
        io: Option<ExecIo>,
        done: Box<dyn FnOnce(Result<(), String>) + Send>,
    );

    /// Takes the place of a service away again; one that still runs is killed. `done` gets the errors as sentences.
    fn remove(&mut self, service: &ServiceName, done: Box<dyn FnOnce(Vec<String>) + Send>);

    /// Carries out that the plan of a service is another, in what needs no other place: links, limits, published ports,
    /// `/etc/hosts`, and whatever of it is read at each run. Its run goes on. `done` is called once, from any thread; after
    /// an error it is as it was before. (A change of view or address needs `remove` and `add`.)
    fn update(&mut self, service: ServicePlan, done: Box<dyn FnOnce(Result<(), String>) + Send>);

    /// What runs elsewhere is this from now on: comes before the services whose links lead there. `done` as in
    /// [`update`](Self::update).
    fn set_external(&mut self, external: Vec<ExternalPlan>, done: Box<dyn FnOnce(Result<(), String>) + Send>);

    /// The values of the secrets from now on: for places that are made and runs that are started later.
    fn set_secrets(&mut self, secrets: BTreeMap<SecretName, Vec<u8>>);

    /// What every service uses now.
    fn usage(&mut self) -> BTreeMap<ServiceName, Usage>;

    /// What is enforced for every service.
    fn standing(&self) -> BTreeMap<ServiceName, Standing>;

    /// Ends everything that is left and removes what was made on the host; keeps going after an error.
    /// `done` gets the errors as sentences. Nothing may be submitted afterwards.
    fn tear_down(&mut self, done: Box<dyn FnOnce(Vec<String>) + Send>);
}
