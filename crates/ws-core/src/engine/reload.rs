//! Files that change, and what is made of them.
//!
//! A change comes as one batch, after it has been quiet for a while, and names units with what is to be done. Of each
//! unit one [`Change`] at most is on its way: one that comes in the middle of another is added to it. It ends with
//! one [`EventKind::Reloaded`]: on the service that was started again, or on the build when no service was.
//!
//! - A build that is in the middle of anything starts over; it is never queued behind what is old already.
//! - What a build made is compared by digests: a service is started again when what it uses of it is another than what
//!   its present run was started with, and only then.
//! - A build that failed leaves alone whoever runs.
//! - Nothing is started that nobody wants.

use std::time::Duration;

use ws_model::{Cause, EventKind, Reason, ReloadAction, ReloadResult, ServiceName, Trigger, WatchAction};

use super::service::{Change, Health, Prospect, State, Then};
use super::{Effect, Engine, FileChange, Generation, Outcome, Outputs, Tick};
use crate::files::Moment;
use crate::plan::BindSource;

/// How many builds run at a time when the plan does not say: each has several processors to itself on most machines
/// of developers, and most compilers are parallel by themselves.
const DEFAULT_PARALLEL_BUILDS: u32 = 4;

/// So many changes within [`LOOP_WITHIN`] that may come from inside are no person's.
const LOOP_CHANGES: usize = 10;

/// See [`LOOP_CHANGES`].
const LOOP_WITHIN: Duration = Duration::from_secs(10);

/// How often in a row a change may break off the run that the change before it had begun.
const LOOP_AMID: u32 = 5;

/// How long a unit rests that goes on and on.
const REST: Duration = Duration::from_secs(10);

impl Engine {
    pub(super) fn parallel_builds(&self) -> usize {
        let count = self.plan.parallel_builds.unwrap_or(DEFAULT_PARALLEL_BUILDS).max(1);
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    pub(super) fn builds_running(&self) -> usize {
        let runs = |state: &State| state.live().is_some() || matches!(state, State::Looking { .. });
        self.units.iter().filter(|unit| unit.is_build && runs(&unit.state)).count()
    }

    // ---- changes

    pub(super) fn files_changed(&mut self, changes: &[FileChange], now: Tick, out: &mut Outcome) {
        if self.going_down {
            return;
        }
        for change in changes {
            let Some(i) = self.number(&change.service) else { continue };
            if self.units[i].is_leaving() {
                continue;
            }
            match change.action {
                WatchAction::None => {}
                WatchAction::Signal(signal) => self.signal_for(i, signal, &change.trigger, out),
                WatchAction::Restart if self.units[i].makes => self.make_again(i, &change.trigger, now, out),
                WatchAction::Restart => self.restart_for(i, &change.trigger, now, out),
                WatchAction::Rebuild if self.units[i].makes => self.make_again(i, &change.trigger, now, out),
                WatchAction::Rebuild => {
                    for build in self.units[i].uses.clone() {
                        if let Some(build) = self.number(&build) {
                            self.make_again(build, &change.trigger, now, out);
                        }
                    }
                }
            }
        }
    }

    fn signal_for(&mut self, i: usize, signal: i32, trigger: &Trigger, out: &mut Outcome) {
        let unit = &self.units[i];
        let State::Up { generation, .. } = unit.state else { return };
        out.effects.push(Effect::Signal { service: unit.name.clone(), generation, signal });
        let action = ReloadAction::Signal;
        let told = EventKind::FilesChanged { trigger: trigger.clone(), action };
        out.events.push((Some(unit.name.clone()), told));
        let reloaded = EventKind::Reloaded {
            trigger: trigger.clone(),
            action,
            result: ReloadResult::Done,
            build_ms: None,
            ready_ms: None,
            error: None,
        };
        out.events.push((Some(self.units[i].name.clone()), reloaded));
    }

    fn restart_for(&mut self, i: usize, trigger: &Trigger, now: Tick, out: &mut Outcome) {
        let unit = &self.units[i];
        if !unit.wanted || matches!(unit.state, State::Pending | State::Stopped) {
            return;
        }
        let action = if self.can_overlap(i) { ReloadAction::Overlap } else { ReloadAction::Restart };
        if self.stays_down(i) {
            return;
        }
        let change = Change { trigger: trigger.clone(), action, since: now, build: None };
        if !self.take(i, change, now, out) {
            return;
        }
        let cause = Cause::new(Reason::FilesChanged, format!("{trigger} changed"));
        self.reload(i, cause, now, out);
    }

    /// Makes anew what a build (or a task with inputs) makes.
    fn make_again(&mut self, i: usize, trigger: &Trigger, now: Tick, out: &mut Outcome) {
        if !self.is_needed(i) || matches!(self.units[i].state, State::Pending | State::Stopped) {
            return;
        }
        let action = if self.units[i].is_build { ReloadAction::Rebuild } else { ReloadAction::Restart };
        let amid = matches!(self.units[i].state, State::Starting { .. } | State::Up { .. })
            && self.may_be_from_inside(trigger);
        let lately = &mut self.units[i].lately;
        lately.amid = if amid { lately.amid + 1 } else { 0 };
        if amid && lately.amid > LOOP_AMID {
            if lately.amid == LOOP_AMID + 1 {
                let name = &self.units[i].name;
                let text = format!(
                    "{name} was begun {LOOP_AMID} times in a row and {trigger} changed each time before its end, maybe \
                     by itself: it goes on now, without that change. What it writes belongs into its `outputs`, or \
                     into `ignore`"
                );
                out.events.push((Some(name.clone()), EventKind::Notice { text }));
            }
            return;
        }
        let change = Change { trigger: trigger.clone(), action, since: now, build: None };
        if !self.take(i, change, now, out) {
            return;
        }
        let cause = Cause::new(Reason::FilesChanged, format!("{trigger} changed"));
        match &mut self.units[i].state {
            State::Waiting => {}
            State::Looking { .. } | State::Exited | State::Failed { lost: None } | State::Blocked { .. } => {
                self.units[i].exit = None;
                self.wait_quietly(i);
                self.units[i].again = Some(cause);
            }
            State::Starting { .. } | State::Up { .. } => self.end(i, Then::Restart, cause, false, now, out),
            State::Ending { then, .. } => {
                if *then == Then::Fail {
                    *then = Then::Restart;
                    self.units[i].again = Some(cause);
                }
            }
            State::Backoff { .. } => {
                self.units[i].streak = 0;
                self.wait_quietly(i);
                self.units[i].again = Some(cause);
            }
            State::Failed { lost: Some(_) } | State::Pending | State::Stopped => {}
        }
    }

    /// Whether somebody who is wanted uses it, directly or by what that one makes.
    fn is_needed(&self, i: usize) -> bool {
        let unit = &self.units[i];
        if !unit.is_build {
            return unit.wanted;
        }
        let users: Vec<usize> = unit.dependents.clone();
        if users.is_empty() {
            return unit.wanted;
        }
        users.into_iter().any(|user| match self.units[user].is_build {
            true => self.is_needed(user),
            false => self.units[user].wanted,
        })
    }

    /// Whether something inside may have written one of these files. What nobody inside can write was changed by a person
    /// or a program of theirs, however often, and goes in no circle by itself.
    fn may_be_from_inside(&self, trigger: &Trigger) -> bool {
        let is_written = |file: &String| {
            let path = self.plan.root.join(file);
            let binds = self.plan.services.values().flat_map(|service| &service.view.binds);
            binds.filter(|bind| bind.writable).any(|bind| match &bind.source {
                BindSource::Host(directory) => path.starts_with(directory),
                BindSource::Volume(_) | BindSource::Hidden => false,
            })
        };
        trigger.more > 0 || trigger.files.iter().any(is_written)
    }

    /// Takes a change in; not, if the unit rests because it goes on and on: then it is kept for later.
    fn take(&mut self, i: usize, change: Change, now: Tick, out: &mut Outcome) -> bool {
        let counts = self.may_be_from_inside(&change.trigger);
        let unit = &mut self.units[i];
        let lately = &mut unit.lately;
        if lately.rests_until.is_some_and(|until| now < until) {
            match &mut lately.put_off {
                Some(earlier) => earlier.add(change),
                None => lately.put_off = Some(change),
            }
            return false;
        }
        lately.rests_until = None;
        while lately.at.front().is_some_and(|at| now.saturating_sub(*at) > LOOP_WITHIN) {
            lately.at.pop_front();
        }
        if counts {
            lately.at.push_back(now);
        }
        if counts && lately.at.len() >= LOOP_CHANGES {
            lately.at.clear();
            lately.rests_until = Some(now + REST);
            let text = format!(
                "{} was reloaded {LOOP_CHANGES} times within {}, the last time for {}: if it writes that itself, put it \
                 into `ignore`. The next change is acted upon in {}",
                unit.name,
                crate::text::duration(LOOP_WITHIN),
                change.trigger,
                crate::text::duration(REST),
            );
            out.events.push((Some(unit.name.clone()), EventKind::Notice { text }));
        }
        let told = EventKind::FilesChanged { trigger: change.trigger.clone(), action: change.action };
        if change.build.is_none() {
            out.events.push((Some(unit.name.clone()), told));
        }
        match &mut unit.change {
            Some(earlier) => earlier.add(change),
            None => unit.change = Some(change),
        }
        true
    }

    pub(super) fn act_on_what_was_put_off(&mut self, i: usize, now: Tick, out: &mut Outcome) {
        self.units[i].lately.rests_until = None;
        let Some(change) = self.units[i].lately.put_off.take() else { return };
        if self.units[i].makes {
            self.make_again(i, &change.trigger, now, out);
        } else {
            self.restart_for(i, &change.trigger, now, out);
        }
    }

    /// A service gets a new run, in whatever phase it is.
    fn reload(&mut self, i: usize, cause: Cause, now: Tick, out: &mut Outcome) {
        if self.can_overlap(i) {
            self.overlap(i, cause);
            return;
        }
        // One that comes is of something older.
        self.give_up_beside(i, false, now, out);
        match &mut self.units[i].state {
            State::Pending | State::Stopped | State::Failed { lost: Some(_) } => {}
            State::Waiting => self.units[i].again = Some(cause),
            State::Looking { .. } | State::Starting { .. } | State::Up { .. } => {
                self.end(i, Then::Restart, cause, false, now, out);
            }
            State::Ending { then: Then::Stop | Then::Restart | Then::Violate, .. } => {}
            State::Ending { then, .. } => {
                *then = Then::Restart;
                self.units[i].again = Some(cause);
            }
            State::Backoff { .. } => {
                self.units[i].streak = 0;
                self.start_again(i, cause);
            }
            State::Exited | State::Failed { lost: None } | State::Blocked { .. } => {
                self.begin(i);
                self.start_again(i, cause);
            }
        }
        self.end_bound(i, now, out);
    }

    // ---- what is made

    pub(super) fn look(
        &mut self,
        i: usize,
        generation: Generation,
        moment: Moment,
        cause: Cause,
        out: &mut Outcome,
    ) {
        out.effects.push(Effect::Fingerprint { service: self.units[i].name.clone(), generation, moment });
        self.enter(i, State::Looking { generation, moment }, cause, out);
    }

    pub(super) fn checked(
        &mut self,
        i: usize,
        generation: Generation,
        result: Result<Option<Outputs>, String>,
        now: Tick,
        out: &mut Outcome,
    ) {
        if self.units[i].state != (State::Looking { generation, moment: Moment::Before }) {
            return;
        }
        let unit = &self.units[i];
        match result {
            Ok(Some(outputs)) => {
                let text = if unit.is_build {
                    "what it makes is there and not older"
                } else {
                    "its inputs are the same"
                };
                self.made(i, outputs, Cause::new(Reason::Fresh, text), now, out);
            }
            Ok(None) => self.start_after_look(i, generation, now, out),
            Err(error) => {
                let name = unit.name.clone();
                let text = format!("{name} runs, as nobody can tell whether it must: {error}");
                out.events.push((Some(name), EventKind::Notice { text }));
                self.start_after_look(i, generation, now, out);
            }
        }
    }

    /// Starts what must run; unless something came up meanwhile for which it has to wait once more.
    fn start_after_look(&mut self, i: usize, generation: Generation, now: Tick, out: &mut Outcome) {
        let unit = &self.units[i];
        let cause = unit.cause.clone();
        let waits = self.waits_with(i, Prospect::NotYet).next().is_some()
            || self.waits_with(i, Prospect::Never).any(|wait| wait.required);
        if waits || unit.is_changing() {
            self.wait_quietly(i);
            self.units[i].again = Some(cause);
        } else {
            self.start_run(i, generation, cause, now, out);
        }
    }

    pub(super) fn recorded(
        &mut self,
        i: usize,
        generation: Generation,
        result: Result<Outputs, String>,
        now: Tick,
        out: &mut Outcome,
    ) {
        if self.units[i].state != (State::Looking { generation, moment: Moment::After }) {
            return;
        }
        match result {
            Ok(outputs) => self.made(i, outputs, Cause::new(Reason::Exit, "finished with 0"), now, out),
            Err(error) => {
                let text = format!("what it made cannot be read: {error}");
                self.enter(i, State::Failed { lost: None }, Cause::new(Reason::BuildFailed, text), out);
            }
        }
    }

    /// What a build makes is there: those that use it and run from something else are started again.
    fn made(&mut self, i: usize, outputs: Outputs, cause: Cause, now: Tick, out: &mut Outcome) {
        self.units[i].lately.amid = 0;
        self.enter(i, State::Exited, cause, out);
        if !self.units[i].is_build {
            return;
        }
        let build = self.units[i].name.clone();
        let change = self.units[i].change.take();
        let mut reloaded = false;
        for (user, digest) in outputs {
            let Some(user) = self.number(&user) else { continue };
            self.units[user].newest.insert(build.clone(), digest);
            reloaded |= self.follow(user, &build, change.as_ref(), now, out);
        }
        if let Some(change) = change.filter(|_| !reloaded) {
            let took = now.saturating_sub(change.since);
            self.tell_reloaded(
                i,
                &Change { build: Some(took), ..change },
                ReloadResult::Unchanged,
                None,
                None,
                out,
            );
        }
    }

    /// Starts a service again when it runs from something else than what a build has made for it.
    fn follow(
        &mut self,
        user: usize,
        build: &ServiceName,
        change: Option<&Change>,
        now: Tick,
        out: &mut Outcome,
    ) -> bool {
        let unit = &self.units[user];
        let made_of = match unit.beside.as_ref().filter(|beside| beside.is_coming()) {
            Some(beside) => &beside.made_of,
            None => &unit.made_of,
        };
        let same = made_of.get(build) == unit.newest.get(build);
        // What is completed stays so, and what is not started yet will be from the newest.
        let is_there = match &unit.state {
            State::Starting { .. } | State::Up { .. } | State::Backoff { .. } => true,
            State::Ending { then, .. } => *then == Then::Fail,
            State::Exited => !unit.completes,
            State::Failed { lost: None } => unit.generation > 0 && !self.stays_down(user),
            State::Looking { .. }
            | State::Failed { lost: Some(_) }
            | State::Pending
            | State::Waiting
            | State::Stopped
            | State::Blocked { .. } => false,
        };
        if same || !is_there || !unit.wanted {
            return false;
        }
        let trigger = change.map(|change| change.trigger.clone()).unwrap_or_default();
        let why = match change {
            Some(change) => format!(" ({} changed)", change.trigger),
            None => String::new(),
        };
        let action = if self.can_overlap(user) { ReloadAction::Overlap } else { ReloadAction::Rebuild };
        let took = change.map(|change| now.saturating_sub(change.since));
        let cause = Cause::new(Reason::Rebuilt, format!("{build} made anew what it runs from{why}"));
        let took = took.or(Some(Duration::ZERO));
        if self.take(user, Change { trigger, action, since: now, build: took }, now, out) {
            self.reload(user, cause, now, out);
        }
        true
    }

    // ---- what came of it

    /// Tells of changes that are over.
    pub(super) fn settle_changes(&mut self, now: Tick, out: &mut Outcome) {
        for i in 0..self.units.len() {
            let unit = &self.units[i];
            let Some(change) = &unit.change else { continue };
            if unit.is_overlapping() {
                continue;
            }
            let result = match &unit.state {
                State::Up { health: Health::Ready { .. }, .. } => ReloadResult::Done,
                State::Up { health: Health::Unready { .. } | Health::Unhealthy, .. } if unit.completes => {
                    continue;
                }
                State::Exited => ReloadResult::Done,
                State::Failed { .. } | State::Blocked { .. } | State::Backoff { .. } => ReloadResult::Failed,
                State::Pending | State::Stopped => ReloadResult::Superseded,
                State::Up { .. }
                | State::Waiting
                | State::Looking { .. }
                | State::Starting { .. }
                | State::Ending { .. } => continue,
            };
            let mut change = change.clone();
            let took = now.saturating_sub(change.since);
            if result == ReloadResult::Failed && change.action == ReloadAction::Rebuild && !unit.is_build {
                // The build is good. What failed is the start from what it made, and what ran before is gone.
                change.action = ReloadAction::Restart;
            }
            let error = (result == ReloadResult::Failed).then(|| unit.cause.text.clone());
            let change = match unit.is_build {
                true => Change { build: Some(took), ..change },
                false => change,
            };
            let ready = (result == ReloadResult::Done && !unit.is_build).then_some(took);
            self.units[i].change = None;
            self.tell_reloaded(i, &change, result, ready, error, out);
        }
    }

    pub(super) fn tell_reloaded(
        &self,
        i: usize,
        change: &Change,
        result: ReloadResult,
        ready: Option<Duration>,
        error: Option<String>,
        out: &mut Outcome,
    ) {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let event = EventKind::Reloaded {
            trigger: change.trigger.clone(),
            action: change.action,
            result,
            build_ms: change.build.map(ms),
            ready_ms: ready.map(ms),
            error,
        };
        out.events.push((Some(self.units[i].name.clone()), event));
    }
}
