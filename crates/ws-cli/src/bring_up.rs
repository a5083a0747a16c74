//! `ws up`: start a supervisor or find the one that runs, ask it for services, and follow until what was
//! wanted is there, cannot be, or somebody has had enough.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use ws_client::{Client, EventQuery, EventStream, Hold, LogLines, LogQuery};
use ws_core::plan::{self, Plan};
use ws_model::wire::{DownRequest, LogLine, PlanFilesRequest, ServiceStatus};
use ws_model::{
    Event, EventKind, ExitReason, Phase, PolicyAction, ProbeKind, Reason, ReloadResult, ServiceKind,
    ServiceName, Timestamp, exit,
};

use crate::args::PlanOptions;
use crate::error::Failure;
use crate::follow::sleep_until;
use crate::instances::Place;
use crate::launch::{self, Launched, Order, Supervisor};
use crate::live::{Block, Ending, FRAME, Signals};
use crate::load::{self, Planned};
use crate::render::log::Painter;
use crate::render::progress::{self, Goal};
use crate::render::report;
use crate::render::summary::{self, About};
use crate::render::{difference, event, violation};
use crate::units::{human_duration, now};
use crate::view::View;
use crate::{Context, causes, inside, instances, machine, names, rights, runtime, take_down};

/// Until when the command follows the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until it is interrupted or nothing runs any more; the stack goes down with it.
    Interrupted,
    /// Until everything was started.
    Started,
    /// Until everything is ready.
    Ready {
        /// For at most this long.
        within: Option<Duration>,
    },
}

impl Until {
    fn attached(self) -> bool {
        self == Self::Interrupted
    }
}

/// When an attached `ws up` takes the stack down by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Abort<'a> {
    /// As soon as a service ends, even if it would be started again. A task that finishes with success does
    /// not count.
    pub on_exit: bool,
    /// As soon as a service has failed for good.
    pub on_failure: bool,
    /// Whose exit code is passed on.
    pub code_from: Option<&'a str>,
}

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Which services; all without any.
    pub services: &'a [String],
    /// What decides the plan.
    pub options: &'a PlanOptions,
    /// Until when the command follows the stack.
    pub until: Until,
    /// When it takes it down by itself.
    pub abort: Abort<'a>,
}

/// Brings the stack, or some services of it, up.
///
/// # Errors
/// When it cannot be started, or does not become what was asked for.
pub fn up(context: &Context, asked: &Asked<'_>) -> Result<u8, Failure> {
    let Asked { services: typed, options, until, abort } = *asked;
    let options = &PlanOptions { named: typed.to_vec(), ..options.clone() };
    let planned = load::plan(context, options)?;
    let wanted = names::services(typed, planned.plan.services.values())?;
    let code_from = abort
        .code_from
        .map(|typed| names::services(&[typed.to_owned()], planned.plan.services.values()))
        .transpose()?
        .unwrap_or_default();
    let place = Place::of(&context.settings, &planned.loaded.workspace);
    runtime()?.block_on(async {
        let began = Instant::now();
        let since = now();
        let (client, owner) = reach(context, &planned, &place, options, until.attached()).await?;
        if matches!(owner, Owner::Somebody) {
            tell_about_running(context, &planned, &client, until).await?;
        }
        let shown = match wanted.as_slice() {
            [] => Vec::new(),
            some => plan::closure(&planned.plan, some).into_iter().collect(),
        };
        let up =
            Up { context, client, place, planned: &planned, wanted, shown, began, since, abort, code_from };
        match up.follow(owner, until).await {
            // It can be over before anything could be followed.
            Err(failure) if failure.code == exit::FAILED => match up.verdict() {
                Some(cause) => up.broken(Some(&cause)).await,
                None => Err(failure),
            },
            ended => ended,
        }
    })
}

/// Whose the supervisor is.
#[derive(Debug)]
pub(crate) enum Owner {
    /// Ours: started by this command.
    Us(Box<Supervisor>),
    /// It ran before.
    Somebody,
}

/// Finds the supervisor of the instance, or starts it; with `attached` it goes down with this command.
///
/// # Errors
/// When it cannot be started.
pub(crate) async fn reach(
    context: &Context,
    planned: &Planned,
    place: &Place,
    options: &PlanOptions,
    attached: bool,
) -> Result<(Client, Owner), Failure> {
    for _ in 0..2 {
        if let Some(client) = instances::connect_to(context, place).await? {
            return Ok((client, Owner::Somebody));
        }
        let approval = rights::approve(context, planned, &place.state, options.yes)?;
        meets_requirements(planned)?;
        let Planned { plan, loaded, .. } = planned;
        let secrets = load::secrets(plan, &loaded.workspace, &context.settings.around.env)?;
        ws_supervisor::state_dir::prepare_state_dir(&place.state, &place.instance, &planned.plan.root)?;
        let order = Order {
            sources: loaded.sources.clone(),
            accept: options.accept,
            no_build: options.no_build,
            no_watch: options.no_watch,
            yes: options.yes,
            instance: place.instance.clone(),
            runtime: place.runtime.clone(),
            state: place.state.clone(),
            secrets,
            attached,
            // A lower level is never accepted in silence.
            notices: planned.asked.map(|_| planned.plan.required_because.clone()).into_iter().collect(),
            colour: context.ui.err_colours,
            width: load::width(&context.ui),
        };
        match launch::start(&order, &context.settings.around.env).await? {
            Launched::Ours(supervisor) => {
                approval.keep(&place.state)?;
                for notice in &supervisor.notices {
                    context.ui.note(notice);
                }
                let client = Client::connect(&place.socket()).await?;
                return Ok((client, Owner::Us(supervisor)));
            }
            // Another `ws up` of this instance was faster: attach to its supervisor.
            Launched::Taken => {}
        }
    }
    Err(Failure::failed("another `ws up` of this instance starts and ends again and again"))
}

/// Before anything is started: what `requires` asks for must be on this machine.
fn meets_requirements(planned: &Planned) -> Result<(), Failure> {
    let unmet = machine::unmet_requirements(&planned.plan);
    if unmet.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::new(exit::MACHINE, "this machine does not have what the workspace `requires`");
    failure.causes = unmet;
    Err(failure)
}

/// What runs was planned from the file as it was: a change since then is said aloud, and not applied.
async fn tell_about_running(
    context: &Context,
    planned: &Planned,
    client: &Client,
    until: Until,
) -> Result<(), Failure> {
    let info = client.info().await?;
    let attaching = if until.attached() { ": attaching" } else { "" };
    context.ui.note(&format!("it runs already (supervisor {}){attaching}", info.pid));
    let name = planned.loaded.found.file.file_name().map(|name| name.to_string_lossy().into_owned());
    // Where nobody can tell, it is no reason to fail.
    let request = PlanFilesRequest { environment: Some(context.settings.around.env.clone()) };
    if let Ok(difference) = client.plan(&request).await
        && !difference.lines.is_empty()
    {
        context.ui.warn(&format!(
            "`{}` is not what runs ({}): `ws plan` shows how they differ, `ws apply` carries it out",
            name.unwrap_or_default(),
            difference::count(difference.lines.len())
        ));
    }
    Ok(())
}

/// A stack that comes up.
struct Up<'a> {
    context: &'a Context,
    client: Client,
    place: Place,
    planned: &'a Planned,
    /// What was asked for; empty: everything.
    wanted: Vec<ServiceName>,
    /// What was asked for and what it needs; empty: everything.
    shown: Vec<ServiceName>,
    /// When the command began.
    began: Instant,
    /// The same on the wall clock.
    since: Timestamp,
    /// When it takes the stack down by itself.
    abort: Abort<'a>,
    /// The units whose exit code is passed on.
    code_from: Vec<ServiceName>,
}

/// What the loop knows.
struct State<'a> {
    view: View,
    block: Block<'a>,
    painter: Painter,
    /// Services whose failure was told.
    told: BTreeSet<ServiceName>,
    /// Whether the summary was printed, and no progress is shown any more.
    settled: bool,
    /// Why the supervisor ends, when it said so.
    stopped: Option<String>,
    /// Why the workspace failed, when it said so last.
    failed: Option<String>,
    /// The last event that `view` began with; those from the request to it are only told.
    known: u64,
    /// The last event that was told.
    seen: u64,
    /// The first run that ended by itself, where that takes the stack down.
    ended: Option<RunEnd>,
    /// How often each service has ended in a row.
    ends: BTreeMap<ServiceName, Ends>,
    /// A service that has just ended so often that it is told.
    crashing: Option<Crash>,
    /// Units that are made or started again because files changed: one line tells what came of it.
    reloading: BTreeSet<ServiceName>,
    /// Services came or went.
    stale: bool,
    /// Whether what a service did takes the workspace down.
    broken: bool,
}

/// A run that ended by itself.
#[derive(Debug, Clone)]
struct RunEnd {
    service: ServiceName,
    /// How, in words.
    cause: String,
    /// How; not known of one that could not be started.
    exit: Option<ExitReason>,
    /// Whether that was a success.
    success: bool,
    /// Whether it broke its policy.
    violated: bool,
}

/// How often a service has ended in a row.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    times: u32,
    /// Since when it runs.
    since: Option<Timestamp>,
    /// When its run was begun.
    began: Option<Timestamp>,
    /// When the first run of the row was begun.
    first: Option<Timestamp>,
}

/// A service that ends again and again.
#[derive(Debug, Clone)]
struct Crash {
    service: ServiceName,
    cause: String,
    retry_in: Option<Duration>,
    /// When the first of these runs was begun.
    since: Timestamp,
}

/// After so many ends in a row a service is said to end again and again.
const CRASHES: u32 = 3;

/// Whoever ran for so long has not ended in a row, in milliseconds.
const STABLE_MS: i64 = 10_000;

/// What happened next.
enum Next {
    Event(Option<Event>),
    Log(Option<LogLine>),
    Signal(Ending),
    Frame,
    TimeUp,
}

impl Up<'_> {
    async fn follow(&self, owner: Owner, until: Until) -> Result<u8, Failure> {
        let mut signals = Signals::listen()?;
        let (owner, hold) = self.take_over(owner, until).await?;
        let logs = if until.attached() { Some(self.logs(&owner).await?) } else { None };
        let asked = self.client.up(&self.wanted).await?.seq;
        let (rows, known) = self.client.services_at().await?;
        let events = self.client.events(EventQuery { since: asked, follow: true }).await?;
        let owner = match (owner, until.attached()) {
            (Owner::Us(mut supervisor), false) => {
                // From here on the stack is on its own: interrupting this command only ends the waiting.
                supervisor.release().await?;
                Owner::Us(supervisor)
            }
            (owner, _) => owner,
        };
        let state = State {
            painter: Painter::new(rows.iter().map(|row| &row.name), self.context.ui.look(false)),
            view: View::of(&rows),
            block: Block::new(&self.context.ui),
            told: BTreeSet::new(),
            settled: false,
            stopped: None,
            failed: None,
            known,
            seen: asked,
            ended: None,
            ends: BTreeMap::new(),
            crashing: None,
            reloading: BTreeSet::new(),
            stale: false,
            broken: false,
        };
        let ended = self.attend(state, events, logs, &mut signals, &owner, until).await;
        drop(hold);
        ended
    }

    /// An attached `ws up` owns what it started, so that the stack goes down with its terminal.
    async fn take_over(&self, owner: Owner, until: Until) -> Result<(Owner, Option<Hold>), Failure> {
        match (&owner, until.attached()) {
            (Owner::Us(_), true) => {
                let hold = self.client.hold().await?;
                Ok((owner, Some(hold)))
            }
            (Owner::Us(_) | Owner::Somebody, _) => Ok((owner, None)),
        }
    }

    async fn logs(&self, owner: &Owner) -> Result<LogLines, Failure> {
        let query = LogQuery {
            services: self.shown.clone(),
            tail: match owner {
                Owner::Us(_) => None,
                // What was printed before is in `ws logs`.
                Owner::Somebody => Some(0),
            },
            since: matches!(owner, Owner::Us(_)).then_some(self.since),
            until: None,
            follow: true,
            ..LogQuery::default()
        };
        Ok(self.client.logs(&query).await?)
    }

    async fn attend(
        &self,
        mut state: State<'_>,
        mut events: EventStream,
        mut logs: Option<LogLines>,
        signals: &mut Signals,
        owner: &Owner,
        until: Until,
    ) -> Result<u8, Failure> {
        let mut frames = interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = match until {
            Until::Ready { within: Some(within) } => Some(self.began + within),
            _ => None,
        };
        loop {
            // Where nobody answers the events end as well.
            if std::mem::take(&mut state.stale)
                && let Ok((rows, known)) = self.client.services_at().await
            {
                state.painter = Painter::new(rows.iter().map(|row| &row.name), self.context.ui.look(false));
                state.view = View::of(&rows);
                state.known = known;
            }
            if let Some(crash) = state.crashing.take() {
                state.block.clear();
                self.tell_crash(&crash).await;
            }
            if let Some(end) = state.ended.take() {
                state.block.clear();
                drop(state);
                return self.abort(&end, signals, logs).await;
            }
            if let Some(code) = self.judge(&mut state, owner, until).await? {
                return Ok(code);
            }
            let animated = !state.settled && self.context.ui.err_terminal;
            let next = tokio::select! {
                biased;
                ending = signals.next() => Next::Signal(ending),
                () = sleep_until(deadline), if deadline.is_some() => Next::TimeUp,
                _ = frames.tick(), if animated => Next::Frame,
                event = events.next() => match event {
                    Some(Ok(event)) => Next::Event(Some(event)),
                    // An event that only a later version knows.
                    Some(Err(ws_client::ClientError::Protocol { .. })) => continue,
                    Some(Err(_)) | None => Next::Event(None),
                },
                line = next_line(&mut logs), if logs.is_some() => Next::Log(line),
            };
            match next {
                Next::Event(Some(event)) => self.on_event(&mut state, &event),
                Next::Event(None) => {
                    state.block.clear();
                    if state.broken {
                        return self.broken(state.stopped.as_deref()).await;
                    }
                    // What failed and why it ends are the same when the machine gave way under it.
                    let failed = state.stopped.is_some() && state.stopped == state.failed;
                    return self.ended_elsewhere(state.stopped.as_deref(), failed, until).await;
                }
                Next::Log(Some(line)) => {
                    state.block.clear();
                    self.print_log(&state.painter, &line)?;
                }
                Next::Log(None) => logs = None,
                Next::Frame => self.draw(&mut state),
                Next::TimeUp => {
                    state.block.clear();
                    return self.timed_out(&state, until).await;
                }
                Next::Signal(ending) => {
                    state.block.clear();
                    drop(state);
                    return self.interrupted(ending, owner, until, signals, logs).await;
                }
            }
        }
    }

    /// Whether the command is at its end, and what was reached on the way.
    async fn judge(&self, state: &mut State<'_>, owner: &Owner, until: Until) -> Result<Option<u8>, Failure> {
        // When somebody asked for it to go down, the end of the events is the end of this command.
        if state.seen < state.known || state.view.is_going_down() {
            return Ok(None);
        }
        let lost = state.view.lost(&self.wanted);
        let ready = state.view.wanted(&self.wanted).all(|(_, row)| row.is_ready());
        match until {
            Until::Interrupted => {
                if ready && !state.settled {
                    state.block.clear();
                    state.settled = true;
                    self.summary("ready").await?;
                    if matches!(owner, Owner::Somebody) {
                        self.context.ui.say("attached; Ctrl-C detaches and leaves it running");
                    }
                }
                let is_fresh = |name: &&ServiceName| {
                    let row = state.view.services.get(*name);
                    let stopped = row.is_some_and(|row| row.phase == Phase::Stopped);
                    // What a build that runs again has to say was shown as it came, and what ran goes on.
                    let built_again = state.settled && row.is_some_and(|row| row.kind == ServiceKind::Build);
                    // Whoever stopped it knows.
                    !stopped && !built_again && !state.told.contains(*name)
                };
                let fresh: Vec<ServiceName> = lost.iter().filter(is_fresh).cloned().collect();
                if !fresh.is_empty() {
                    state.block.clear();
                    self.report(&fresh, state).await;
                    state.told.extend(fresh);
                }
                // A service that is well again may fail again.
                state.told.retain(|name| lost.contains(name));
                if matches!(owner, Owner::Us(_)) && state.view.is_over() {
                    state.block.clear();
                    return self.all_over(&lost, state).await.map(Some);
                }
                Ok(None)
            }
            Until::Started => {
                let started = state.view.wanted(&self.wanted).all(|(_, row)| row.is_started());
                if !started {
                    return Ok(None);
                }
                state.block.clear();
                if !lost.is_empty() {
                    return self.failed(&lost, state).await.map(Some);
                }
                self.summary(if ready { "ready" } else { "started" }).await?;
                Ok(Some(exit::OK))
            }
            Until::Ready { .. } => {
                if !lost.is_empty() {
                    state.block.clear();
                    return self.failed(&lost, state).await.map(Some);
                }
                if !ready {
                    return Ok(None);
                }
                state.block.clear();
                self.summary("ready").await?;
                Ok(Some(exit::OK))
            }
        }
    }

    fn on_event(&self, state: &mut State<'_>, event: &Event) {
        state.seen = event.seq;
        if event.seq > state.known {
            state.view.apply(event);
        }
        if let (Some(service), EventKind::Phase { phase, cause, exit, retry_in_ms }) =
            (&event.service, &event.kind)
        {
            let kind = state.view.services.get(service).map(|row| row.kind);
            let end = RunEnd {
                service: service.clone(),
                // Of one that ended without success the cause also says what its restart policy makes of it.
                cause: match exit {
                    Some(exit) if *phase != Phase::Exited => exit.to_string(),
                    Some(_) | None => cause.text.clone(),
                },
                exit: *exit,
                success: *phase == Phase::Exited,
                violated: *phase == Phase::Violated,
            };
            if state.ended.is_none() && kind.is_some_and(|kind| self.takes_down(&end, kind, *phase)) {
                state.ended = Some(end);
            }
            match phase {
                Phase::Backoff => {
                    let ends = state.ends.entry(service.clone()).or_default();
                    let since = ends.since.take();
                    let ran = since.map_or(0, |since| event.at.unix_ms - since.unix_ms);
                    ends.times = if ran < STABLE_MS { ends.times + 1 } else { 1 };
                    if ends.times == 1 {
                        ends.first = ends.began.take();
                    }
                    ends.began = None;
                    if ends.times == CRASHES {
                        let retry_in = retry_in_ms.map(Duration::from_millis);
                        let (service, cause) = (service.clone(), cause.text.clone());
                        let since = ends.first.unwrap_or(self.since);
                        state.crashing = Some(Crash { service, cause, retry_in, since });
                    }
                }
                // Without a probe it is ready at once.
                Phase::Running | Phase::Ready => {
                    state.ends.entry(service.clone()).or_default().since.get_or_insert(event.at);
                }
                Phase::Starting => {
                    state.ends.entry(service.clone()).or_default().began = Some(event.at);
                }
                Phase::Exited | Phase::Stopped => drop(state.ends.remove(service)),
                Phase::Pending
                | Phase::Waiting
                | Phase::Building
                | Phase::Unhealthy
                | Phase::Stopping
                | Phase::Failed
                | Phase::Violated => {}
            }
        }
        if let EventKind::Violation(violation) = &event.kind {
            state.broken |= violation.action == PolicyAction::Stop;
        }
        if let EventKind::SupervisorStopped { cause } = &event.kind {
            state.stopped = Some(cause.clone());
        }
        if let EventKind::WorkspaceFailed { cause } = &event.kind {
            state.failed = Some(cause.clone());
        }
        // Its crash loop is told at length.
        let quiet = state.is_told_by_its_reload(event) || state.crashing.is_some();
        let ui = &self.context.ui;
        let worth_a_line = match (&event.kind, ui.err_terminal && !state.settled) {
            (
                EventKind::Notice { .. }
                | EventKind::LogDropped { .. }
                | EventKind::PlanChanged { .. }
                | EventKind::PlanRefused { .. }
                | EventKind::Violation(_),
                _,
            ) => true,
            // Whatever came over it is told itself.
            (EventKind::Reloaded { result, .. }, _) => *result != ReloadResult::Superseded,
            // What came of it is told.
            (EventKind::FilesChanged { .. } | EventKind::PlanApplied { .. }, _) => false,
            (EventKind::Phase { .. }, _) if quiet => false,
            // The progress block shows it.
            (EventKind::Phase { .. } | EventKind::Published { .. }, true) => false,
            (EventKind::Phase { phase, cause, .. }, false) => {
                // What is fresh was looked at because somebody else asked for it.
                let news = !state.settled || (is_news(*phase) && cause.reason != Reason::Fresh);
                news && !event::is_a_step(*phase, cause)
            }
            (EventKind::Published { .. }, false) => !state.settled,
            (EventKind::Status { .. }, _) => false,
            (
                EventKind::SupervisorStarted { .. }
                | EventKind::SupervisorStopped { .. }
                | EventKind::WorkspaceReady { .. }
                | EventKind::WorkspaceFailed { .. },
                _,
            ) => false,
        };
        if worth_a_line {
            state.block.clear();
            ui.say(&event::short(event, state.view.kind_of(event)));
        }
    }

    /// Whether the end of a run takes the stack down.
    fn takes_down(&self, end: &RunEnd, kind: ServiceKind, phase: Phase) -> bool {
        match phase {
            Phase::Failed | Phase::Violated => self.abort.on_exit || self.abort.on_failure,
            Phase::Backoff => self.abort.on_exit,
            Phase::Exited => match kind {
                ServiceKind::Service => self.abort.on_exit,
                ServiceKind::Task | ServiceKind::Build => self.code_from.contains(&end.service),
            },
            Phase::Pending
            | Phase::Waiting
            | Phase::Building
            | Phase::Starting
            | Phase::Running
            | Phase::Ready
            | Phase::Unhealthy
            | Phase::Stopping
            | Phase::Stopped => false,
        }
    }

    /// A service ended: as was asked for, so does everything else.
    async fn abort(
        &self,
        end: &RunEnd,
        signals: &mut Signals,
        logs: Option<LogLines>,
    ) -> Result<u8, Failure> {
        let ui = &self.context.ui;
        let RunEnd { service, cause, exit, success, violated } = end;
        if !success {
            let row = self.client.services().await.unwrap_or_default();
            causes::report(
                self.context,
                &self.client,
                std::slice::from_ref(service),
                &View::of(&row),
                Some(self.since),
            )
            .await;
        }
        ui.say(&format!("`{service}` {cause}: stopping everything"));
        let began = Instant::now();
        self.go_down(signals, logs).await?;
        ui.say(&take_down::summary(began.elapsed()));
        if self.code_from.contains(service)
            && let Some(exit) = exit
        {
            return Ok(inside::passed(*exit));
        }
        let code = match (success, violated) {
            // The one that was to decide has not ended.
            (true, _) if !self.code_from.is_empty() => exit::FAILED,
            (true, _) => exit::OK,
            (false, true) => exit::VIOLATION,
            (false, false) => exit::FAILED,
        };
        // Everything was told.
        if code == exit::OK { Ok(code) } else { Err(Failure::told(code)) }
    }

    /// In the middle of its crash loop, its log is worth a look.
    async fn tell_crash(&self, crash: &Crash) {
        let log =
            causes::last_lines(&self.client, &crash.service, report::CRASH_LINES, Some(crash.since)).await;
        let text = report::crash_loop(&crash.service, &crash.cause, crash.retry_in, &log);
        self.context.ui.say(text.trim_end_matches('\n'));
    }

    fn draw(&self, state: &mut State<'_>) {
        if let Some(size) = self.context.ui.err_size()
            && !state.settled
        {
            state.block.draw(&progress::block(
                &state.view,
                &self.shown,
                Goal::Up,
                self.began.elapsed(),
                size,
            ));
        }
    }

    fn print_log(&self, painter: &Painter, line: &LogLine) -> Result<(), Failure> {
        match self.context.ui.format {
            crate::args::Format::Json => self.context.ui.json_line(line),
            crate::args::Format::Text => self.context.ui.raw(&format!("{}\n", painter.line(line))),
        }
    }

    async fn summary(&self, word: &'static str) -> Result<(), Failure> {
        let rows = self.wanted_rows().await?;
        let about = About {
            word,
            took: Some(self.began.elapsed()),
            http: speaks_http(&self.planned.plan),
            accepted_below: self.planned.asked,
            violations: Some(self.client.violations(&[]).await?),
        };
        self.context.ui.say(&summary::line(&rows, &about));
        Ok(())
    }

    async fn wanted_rows(&self) -> Result<Vec<ServiceStatus>, Failure> {
        let mut rows = self.client.services().await?;
        rows.retain(|row| row.phase != Phase::Pending);
        Ok(rows)
    }

    /// Says why services are not what was wanted.
    async fn report(&self, services: &[ServiceName], state: &State<'_>) {
        causes::report(self.context, &self.client, services, &state.view, Some(self.since)).await;
    }

    /// Something that was waited for failed: what runs is left for a look.
    async fn failed(&self, lost: &[ServiceName], state: &State<'_>) -> Result<u8, Failure> {
        self.report(lost, state).await;
        let names: Vec<String> = lost.iter().map(|name| format!("`{name}`")).collect();
        self.context.ui.fail(&self.left_running(format!("{} failed", crate::render::list(&names))));
        Ok(failure_of(lost, state))
    }

    async fn timed_out(&self, state: &State<'_>, until: Until) -> Result<u8, Failure> {
        let late: Vec<ServiceName> = state
            .view
            .wanted(&self.wanted)
            .filter(|(_, row)| !row.is_ready())
            .map(|(name, _)| name.clone())
            .collect();
        self.report(&late, state).await;
        let within = match until {
            Until::Ready { within: Some(within) } => human_duration(within),
            _ => human_duration(self.began.elapsed()),
        };
        let names: Vec<String> = late.iter().map(|name| format!("`{name}`")).collect();
        self.context
            .ui
            .fail(&self.left_running(format!("not ready within {within}: {}", crate::render::list(&names))));
        Ok(exit::FAILED)
    }

    fn left_running(&self, message: String) -> Failure {
        Failure::failed(message)
            .hint("what was started is left for a look: `ws ps`, `ws logs`; `ws down` removes it")
    }

    /// Everything has ended by itself: nobody needs the supervisor any more.
    async fn all_over(&self, lost: &[ServiceName], state: &State<'_>) -> Result<u8, Failure> {
        self.context.ui.say("everything has ended");
        take_down::ask(self.context, &self.client, &self.place, DownRequest::default()).await?;
        Ok(if lost.is_empty() { exit::OK } else { failure_of(lost, state) })
    }

    /// Whether the last life of the stack, where it is over, ended because a service broke its policy; then why.
    fn verdict(&self) -> Option<String> {
        let events = ws_supervisor::last_life(&self.place.state).ok()?;
        let stops = |event: &&Event| {
            event.at >= self.since
                && matches!(&event.kind, EventKind::Violation(it) if it.action == PolicyAction::Stop)
        };
        events.iter().find(stops)?;
        match events.last().map(|event| &event.kind) {
            Some(EventKind::SupervisorStopped { cause }) => Some(cause.clone()),
            Some(_) | None => None,
        }
    }

    /// A service broke its policy, which takes the workspace down.
    async fn broken(&self, cause: Option<&str>) -> Result<u8, Failure> {
        instances::gone(self.context, &self.place).await?;
        let cause = cause.unwrap_or("a service broke its policy");
        Err(Failure::new(exit::VIOLATION, format!("the stack was taken down: {cause}"))
            .hint("`ws violations` has more"))
    }

    /// The supervisor ended and we did not ask it to.
    async fn ended_elsewhere(&self, cause: Option<&str>, failed: bool, until: Until) -> Result<u8, Failure> {
        instances::gone(self.context, &self.place).await?;
        match (cause, until.attached() && !failed) {
            (Some(cause), true) => {
                self.context.ui.say(&format!("the stack was taken down: {cause}"));
                Ok(exit::OK)
            }
            (Some(cause), false) => {
                Err(Failure::failed(format!("the stack was taken down meanwhile: {cause}")))
            }
            (None, _) => Err(Failure::failed("the supervisor was killed, and everything with it")
                .hint(format!("its log is `{}`", self.place.state.join(launch::LOG).display()))),
        }
    }

    async fn interrupted(
        &self,
        ending: Ending,
        owner: &Owner,
        until: Until,
        signals: &mut Signals,
        logs: Option<LogLines>,
    ) -> Result<u8, Failure> {
        let ui = &self.context.ui;
        if !until.attached() {
            ui.say("interrupted; it goes on in the background: `ws ps` shows it, `ws down` stops it");
            return Ok(exit::INTERRUPTED);
        }
        if matches!(owner, Owner::Somebody) {
            ui.say("detached; it goes on running: `ws down` stops it");
            return Ok(exit::INTERRUPTED);
        }
        if ending == Ending::Interrupt {
            ui.say("stopping; Ctrl-C again kills everything now");
        }
        let began = Instant::now();
        let violations = self.client.violations(&[]).await.unwrap_or_default();
        self.go_down(signals, logs).await?;
        ui.say(&format!("{} · {}", take_down::summary(began.elapsed()), violation::count(&violations)));
        Ok(exit::INTERRUPTED)
    }

    /// Takes the stack down and shows how it goes, with the logs.
    async fn go_down(&self, signals: &mut Signals, logs: Option<LogLines>) -> Result<u8, Failure> {
        let painter = Painter::new(self.planned.plan.services.keys(), self.context.ui.look(false));
        let going = take_down::Going {
            context: self.context,
            client: &self.client,
            place: &self.place,
            logs,
            painter: Some(painter),
        };
        going.down(DownRequest::default(), signals).await
    }
}

impl State<'_> {
    /// Takes in which units are made or started again because files changed; whether the line about what came of that
    /// says all that this event does.
    fn is_told_by_its_reload(&mut self, event: &Event) -> bool {
        let Some(unit) = &event.service else {
            self.stale |= matches!(event.kind, EventKind::PlanApplied { .. });
            return false;
        };
        match &event.kind {
            EventKind::FilesChanged { .. } => drop(self.reloading.insert(unit.clone())),
            EventKind::Reloaded { .. } => drop(self.reloading.remove(unit)),
            EventKind::Phase { phase, cause, .. } => {
                if cause.reason == Reason::Rebuilt {
                    self.reloading.insert(unit.clone());
                }
                // That it goes, the line about the plan says.
                if *phase == Phase::Stopped && cause.reason == Reason::PlanChanged {
                    return true;
                }
                let again = self.reloading.contains(unit);
                let is_build = self.view.services.get(unit).is_some_and(|row| row.kind == ServiceKind::Build);
                if is_build && *phase == Phase::Exited {
                    // Of a build that is done those that use it tell.
                    self.reloading.remove(unit);
                }
                return again
                    && match phase {
                        Phase::Pending
                        | Phase::Waiting
                        | Phase::Building
                        | Phase::Starting
                        | Phase::Running
                        | Phase::Ready
                        | Phase::Stopping
                        | Phase::Stopped
                        | Phase::Exited => true,
                        // The line says why.
                        Phase::Backoff => true,
                        Phase::Failed => is_build,
                        Phase::Unhealthy | Phase::Violated => false,
                    };
            }
            EventKind::SupervisorStarted { .. }
            | EventKind::SupervisorStopped { .. }
            | EventKind::Published { .. }
            | EventKind::WorkspaceReady { .. }
            | EventKind::WorkspaceFailed { .. }
            | EventKind::LogDropped { .. }
            | EventKind::Status { .. }
            | EventKind::PlanChanged { .. }
            | EventKind::PlanApplied { .. }
            | EventKind::PlanRefused { .. }
            | EventKind::Violation(_)
            | EventKind::Notice { .. } => {}
        }
        false
    }
}

/// What services that are lost mean for the exit code.
fn failure_of(lost: &[ServiceName], state: &State<'_>) -> u8 {
    let violated =
        |name: &ServiceName| state.view.services.get(name).is_some_and(|row| row.phase == Phase::Violated);
    if lost.iter().any(violated) { exit::VIOLATION } else { exit::FAILED }
}

/// Phases that are worth a line in the middle of logs, once everything was ready.
fn is_news(phase: Phase) -> bool {
    match phase {
        Phase::Ready
        | Phase::Unhealthy
        | Phase::Exited
        | Phase::Failed
        | Phase::Backoff
        | Phase::Violated
        | Phase::Stopped
        | Phase::Building => true,
        Phase::Pending | Phase::Waiting | Phase::Starting | Phase::Running | Phase::Stopping => false,
    }
}

/// The ports that speak HTTP as far as the file says: their probe does.
fn speaks_http(plan: &Plan) -> BTreeSet<(ServiceName, u16)> {
    let port = |ready: &ProbeKind| match ready {
        ProbeKind::Http { port, .. } => Some(*port),
        ProbeKind::Exec(_)
        | ProbeKind::Tcp { .. }
        | ProbeKind::Log { .. }
        | ProbeKind::Notify
        | ProbeKind::Grpc { .. } => None,
    };
    plan.services
        .iter()
        .filter_map(|(name, service)| Some((name.clone(), port(&service.ready.as_ref()?.kind)?)))
        .collect()
}

/// The next line; `None` at the end. Lines that only a later version knows are left out.
pub(crate) async fn next_line(logs: &mut Option<LogLines>) -> Option<LogLine> {
    let logs = logs.as_mut()?;
    loop {
        match logs.next().await {
            Some(Ok(line)) => return Some(line),
            Some(Err(ws_client::ClientError::Protocol { .. })) => {}
            Some(Err(_)) | None => return None,
        }
    }
}
