//! Detectors: what sees that a service breaks its policy.
//!
//! Each waits for the kernel to say so and tells the engine ([`Input::Observed`]); none decides anything. What is
//! looked for stands in the plan ([`PolicyPlan`](ws_core::plan::PolicyPlan)).
//!
//! | class | seen by | in |
//! |---|---|---|
//! | `network` | rules that log, in the service's own network namespace; the router's rules behind them | `network` |
//! | `memory`, `pids` | counters of the control group | `limits` |
//! | `cpu` | processor time, looked at twice a second, for a service that has a window | `limits` |
//! | `syscalls`, `processes` | the filter asks init ([`crate::sandbox`]) | `calls` |
//! | `decoys` | inotify on files of the run's private tmpfs | `decoys` |
//! | `logs` | its output, on the way to the log | `output` |
//!
//! **Who did it** follows from where it was seen: a namespace, a control group, a channel to init, a port of the
//! bridge. Nothing that a service writes (a packet's source, a name) is ever asked.
//!
//! **Which run** did it is known because everything that was seen of a run is told before its end is. Where two runs
//! of a service are there at the same time (an overlapping restart), what belongs to both is told of none.
//!
//! **Too many** are told as a few: each detector gathers what repeats, and says what it lost. No detector shares a
//! queue that one service can fill with another service's news.
//!
//! What cannot be seen is [`undetected`].

pub(crate) mod calls;
pub(crate) mod decoys;
pub(crate) mod limits;
pub(crate) mod network;
pub(crate) mod output;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ws_core::engine::{Generation, Input};
use ws_core::host::{Inbox, LogSink};
use ws_core::plan::{PolicyPlan, ServicePlan};
use ws_core::policy::Observation;
use ws_model::{Evidence, Mechanism, Offender, ServiceName, ViolationClass};
use ws_sys::cgroup::Controller;
use ws_sys::inotify;

use crate::cgroups::{Cgroups, ServiceGroup};
use crate::sandbox::protocol::{Armed, Trip};
use decoys::{Again, Bait};
use limits::Limits;
use network::{Counters, Network};
use output::{Measured, Meter};

/// Tells what was seen of one service.
#[derive(Clone)]
pub(crate) struct Reporter {
    service: ServiceName,
    inbox: Inbox,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reporter").field(&self.service).finish()
    }
}

/// Something that was seen once, for certain, and of which nothing was lost; else with what differs.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) generation: Option<Generation>,
    pub(crate) evidence: Evidence,
    pub(crate) mechanism: Mechanism,
    pub(crate) process: Option<Offender>,
    pub(crate) count: u64,
    pub(crate) lost: u64,
    pub(crate) certain: bool,
}

impl Seen {
    pub(crate) fn new(generation: Option<Generation>, evidence: Evidence, mechanism: Mechanism) -> Self {
        Self { generation, evidence, mechanism, process: None, count: 1, lost: 0, certain: true }
    }
}

impl Reporter {
    #[cfg(test)]
    pub(crate) fn new(service: ServiceName, inbox: Inbox) -> Self {
        Self { service, inbox }
    }

    pub(crate) fn tell(&self, seen: Seen) {
        let Seen { generation, evidence, mechanism, process, count, lost, certain } = seen;
        let service = self.service.clone();
        (self.inbox)(Input::Observed(Box::new(Observation {
            service,
            generation,
            evidence,
            mechanism,
            process,
            count,
            lost,
            certain,
        })));
    }
}

/// The runs of a service that are there.
#[derive(Debug, Default)]
pub(crate) struct Runs(Mutex<BTreeSet<Generation>>);

impl Runs {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<Generation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The only one; `None` when there are several, or none.
    pub(crate) fn only(&self) -> Option<Generation> {
        let runs = self.lock();
        let mut runs = runs.iter();
        runs.next().copied().filter(|_| runs.next().is_none())
    }

    pub(crate) fn begin(&self, generation: Generation) {
        self.lock().insert(generation);
    }

    pub(crate) fn end(&self, generation: Generation) {
        self.lock().remove(&generation);
    }
}

/// What the detectors of all services of an instance have in common.
#[derive(Debug)]
pub(crate) struct Common {
    decoys: Arc<decoys::Watcher>,
    files: Arc<limits::Files>,
    pub(crate) router: Arc<network::Router>,
}

impl Common {
    /// Begins to listen for all services; to the router, when there is one.
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self { decoys: decoys::Watcher::start()?, files: Arc::default(), router: Arc::default() })
    }
}

/// An instance of inotify, or why there is none and what to do.
fn new_instance() -> io::Result<OwnedFd> {
    inotify::new().map_err(|error| match error.raw_os_error() {
        Some(nix::libc::EMFILE) => io::Error::other(
            "this user watches files in too many places; close an editor, or allow more with \
             `sysctl fs.inotify.max_user_instances=1024`",
        ),
        _ => error,
    })
}

/// The detectors of a service.
#[derive(Debug)]
pub(crate) struct Detectors {
    common: Arc<Common>,
    reporter: Reporter,
    runs: Arc<Runs>,
    network: Option<Network>,
    /// While it has runs.
    limits: Weak<Limits>,
    /// The bytes of output in a second that are too much.
    log_rate: Arc<AtomicU64>,
}

/// What looks at a run, until [`Detectors::end`] of it.
#[derive(Debug)]
pub(crate) struct OfRun {
    generation: Generation,
    limits: Option<Arc<Limits>>,
    meter: Meter,
}

impl OfRun {
    /// Where its output goes, by way of what measures it.
    pub(crate) fn measured(&self, sink: &Arc<dyn LogSink>) -> Arc<dyn LogSink> {
        Arc::new(Measured { sink: Arc::clone(sink), meter: self.meter.clone() })
    }
}

/// What makes the network's detector: a socket in the service's namespace that was not used yet, and what reads the
/// counters there.
pub(crate) type Ears = (OwnedFd, Counters);

impl Detectors {
    /// Those of a service in its place.
    pub(crate) fn new(
        common: Arc<Common>,
        plan: &ServicePlan,
        inbox: &Inbox,
        ears: impl FnOnce() -> io::Result<Ears>,
    ) -> io::Result<Self> {
        let reporter = Reporter { service: plan.name.clone(), inbox: Arc::clone(inbox) };
        let (runs, log_rate) = (Arc::default(), Arc::default());
        let mut made = Self { common, reporter, runs, network: None, limits: Weak::new(), log_rate };
        made.look(plan, true, ears)?;
        Ok(made)
    }

    /// The plan is another one: what is looked for from now on. Decoys and programs are a matter of the next run.
    pub(crate) fn update(
        &mut self,
        plan: &ServicePlan,
        ears: impl FnOnce() -> io::Result<Ears>,
    ) -> io::Result<()> {
        self.look(plan, false, ears)
    }

    fn look(
        &mut self,
        plan: &ServicePlan,
        new: bool,
        ears: impl FnOnce() -> io::Result<Ears>,
    ) -> io::Result<()> {
        match (plan.policy.detects(ViolationClass::Network), &self.network) {
            (true, None) => {
                let (log, counters) = ears()?;
                let (reporter, runs) = (self.reporter.clone(), Arc::clone(&self.runs));
                let network = Network::listen(log, counters, new, reporter.clone(), Arc::clone(&runs))?;
                self.network = Some(network);
                self.common.router.join(plan, reporter, runs);
            }
            (false, Some(_)) => {
                self.common.router.leave(&plan.name);
                self.network = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
        if let Some(limits) = self.limits.upgrade() {
            limits.update(plan);
        }
        let rate = plan.policy.log_rate.filter(|_| plan.policy.detects(ViolationClass::Logs));
        self.log_rate.store(rate.unwrap_or(output::NO_LIMIT), Ordering::Relaxed);
        Ok(())
    }

    /// Begins to look at a run that is about to start.
    pub(crate) fn begin(
        &mut self,
        generation: Generation,
        plan: &ServicePlan,
        group: Option<&Arc<ServiceGroup>>,
    ) -> OfRun {
        // What was left of earlier runs is of none.
        self.settle();
        self.runs.begin(generation);
        let limits = self.limits.upgrade().or_else(|| {
            let (reporter, runs) = (self.reporter.clone(), Arc::clone(&self.runs));
            group.map(|group| Arc::new(Limits::watch(reporter, runs, group, plan, &self.common.files)))
        });
        self.limits = limits.as_ref().map_or_else(Weak::new, Arc::downgrade);
        let meter = Meter::new(self.reporter.clone(), generation, Arc::clone(&self.log_rate));
        OfRun { generation, limits, meter }
    }

    /// Tells what has come until now.
    fn settle(&self) {
        if let Some(network) = &self.network {
            network.settle();
            self.common.router.settle();
        }
    }

    /// What an init watches its decoys with.
    pub(crate) fn decoy_watcher(&self) -> io::Result<OwnedFd> {
        self.common.decoys.instance()
    }

    /// Init said which decoys it watches.
    pub(crate) fn armed(&self, generation: Generation, plan: &ServicePlan, armed: Vec<Armed>, again: &Again) {
        for Armed { decoy, watch } in armed {
            let Some(path) = plan.policy.decoys.get(decoy).map(|decoy| decoy.path.display().to_string())
            else {
                continue;
            };
            match watch {
                Ok(watch) => {
                    let (reporter, again) = (self.reporter.clone(), Arc::clone(again));
                    self.common.decoys.armed(watch, &Bait { reporter, generation, decoy, path, again });
                }
                Err(error) => tracing::warn!(service = %plan.name, path, error, "a decoy is not watched"),
            }
        }
    }

    /// Init was asked about calls.
    pub(crate) fn tripped(
        &self,
        generation: Generation,
        policy: &PolicyPlan,
        trip: Trip,
        caller: Option<OwnedFd>,
    ) {
        calls::tell(&self.reporter, policy, generation, trip, caller);
    }

    /// A run has ended: what is not told of it yet is told now, before its end is.
    pub(crate) fn end(&self, run: OfRun) {
        let OfRun { generation, limits, meter: _ } = run;
        if let Some(limits) = limits {
            limits.settle();
        }
        self.settle();
        self.common.decoys.end(&self.reporter, generation);
        self.runs.end(generation);
    }
}

impl Drop for Detectors {
    fn drop(&mut self) {
        self.common.router.leave(&self.reporter.service);
    }
}

/// What cannot be seen here, whatever a plan wants, and why; as sentences without a subject.
#[must_use]
pub(crate) fn undetected(groups: &Cgroups) -> Vec<(ViolationClass, String)> {
    let mut all = Vec::new();
    for (class, controller) in
        [(ViolationClass::Memory, Controller::Memory), (ViolationClass::Pids, Controller::Pids)]
    {
        if !groups.has(controller) {
            all.push((class, format!("no {} controller counts here", controller.as_str())));
        }
    }
    if !groups.counts_time() {
        all.push((ViolationClass::Cpu, "no control group counts processor time here".to_owned()));
    }
    if groups.has(Controller::Pids) && !groups.tells_pids() {
        all.push((
            ViolationClass::Pids,
            "version 1 of the controller counts and does not tell: looked at four times a second where \
             `limits.pids` is declared, else at the end of a run"
                .to_owned(),
        ));
    }
    all.push((
        ViolationClass::Processes,
        "a program that changes the name while it is asked for, or that another program loads (`ld.so`, an \
         interpreter), is not seen"
            .to_owned(),
    ));
    all.push((
        ViolationClass::Filesystem,
        "the kernel refuses a write and tells nobody but the program".to_owned(),
    ));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_runs_share_is_of_none() {
        let runs = Runs::default();
        assert_eq!(runs.only(), None);
        runs.begin(1);
        assert_eq!(runs.only(), Some(1));
        runs.begin(2);
        assert_eq!(runs.only(), None);
        runs.end(1);
        assert_eq!(runs.only(), Some(2));
    }
}
